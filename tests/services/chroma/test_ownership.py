"""A collection is looked up under the caller's own database before anything is done with its UUID."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UpstreamFailed
from services.chroma.namespace import namespace_of
from services.chroma.ownership import Ownership, canonical
from services.chroma.refusals import Refused
from services.chroma.remembered import Remembered
from services.chroma.upstream import UpstreamAnswer
from tests.services.chroma.fake_chroma import FakeUpstream

ALICE = namespace_of("alice", separator="__")
BOB = namespace_of("bob", separator="__")
ID = "926ecac4-b0f7-4156-a556-4bb81396a01d"


@given(st.uuids())
def test_every_spelling_is_one(made: uuid.UUID) -> None:
    usual = str(made)
    for spelling in (usual, made.hex, f"{{{usual}}}", made.urn):
        assert canonical(spelling) == usual
    for spelling in (usual.upper(), made.hex.upper(), f"{{{usual.upper()}}}", f"urn:uuid:{usual.upper()}"):
        assert canonical(spelling) == usual


@pytest.mark.parametrize(
    "spelling",
    [
        *("", "nonsense", f" {ID}", f"{ID} ", f"{ID}\n", f"{{{ID}", f"{ID}}}", f"URN:UUID:{ID}", f"urn:uuid:{{{ID}}}"),
        *(f"urn:uuid:{ID.replace('-', '')}", f"{{{ID.replace('-', '')}}}", ID[:9] + ID[10:], ID.replace("9", "٩")),
    ],
)
def test_what_chroma_does_not_take_for_a_uuid_is_refused(spelling: str) -> None:
    with pytest.raises(Refused) as refused:
        canonical(spelling)
    assert refused.value.status == 400
    assert b"Collection ID is not a valid UUIDv4" in refused.value.body


def _answers(body: str, *, status: int = 200) -> FakeUpstream:
    return FakeUpstream(lambda method, path: UpstreamAnswer(status, body.encode()))


def _found(stored: str, collection_id: str = ID) -> str:
    return f'{{"id":"{collection_id}","name":"x","database":"{stored}","tenant":"default_tenant"}}'


async def test_a_yes_is_remembered_for_seconds_and_for_one_user_and_database() -> None:
    now = [0.0]
    upstream = _answers(_found(ALICE.stored("mine")))
    ownership = Ownership(upstream, clock=lambda: now[0])
    for _ in range(3):
        await ownership.check(ALICE, database="mine", collection_id=ID)
    path = f"/api/v2/tenants/default_tenant/databases/{ALICE.prefix}mine/collections/by-id/{ID}"
    assert upstream.asked == [f"GET {path}"]
    upstream.answer = _answers("{}", status=404).answer
    for namespace, database in ((BOB, "mine"), (ALICE, "other")):
        with pytest.raises(Refused):
            await ownership.check(namespace, database=database, collection_id=ID)
    now[0] = 5.0
    with pytest.raises(Refused):
        await ownership.check(ALICE, database="mine", collection_id=ID)


async def test_a_no_is_not_remembered() -> None:
    upstream = _answers("{}", status=404)
    ownership = Ownership(upstream)
    with pytest.raises(Refused) as refused:
        await ownership.check(ALICE, database="mine", collection_id=ID)
    assert (refused.value.status, str(refused.value)) == (404, f"Collection [{ID}] does not exist.")
    upstream.answer = _answers(_found(ALICE.stored("mine"))).answer
    await ownership.check(ALICE, database="mine", collection_id=ID)


@pytest.mark.parametrize(
    "upstream",
    [
        _answers("{}", status=500),
        _answers("{}", status=401),
        _answers("{}"),
        _answers("nonsense"),
        _answers(_found(BOB.stored("mine"))),
        _answers(_found("mine")),
        _answers(_found(ALICE.stored("mine"), str(uuid.uuid4()))),
    ],
)
async def test_any_other_answer_is_no_yes(upstream: FakeUpstream) -> None:
    with pytest.raises(UpstreamFailed):
        await Ownership(upstream).check(ALICE, database="mine", collection_id=ID)


def test_memory_is_bounded() -> None:
    remembered: Remembered[int] = Remembered(seconds=1, capacity=2, clock=lambda: 0.0)
    for number in (1, 2, 1, 3):
        remembered.add(number)
    assert len(remembered) == 2
    assert [number in remembered for number in (1, 2, 3)] == [True, False, True]
    remembered.forget(1)
    remembered.forget(1)
    assert 1 not in remembered
