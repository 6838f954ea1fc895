"""A collection is looked up under the caller's own database before anything is done with its UUID."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UpstreamFailed
from services.chroma.namespace import TENANT, namespace_of
from services.chroma.ownership import Ownership, canonical
from services.chroma.refusals import Refusal
from services.chroma.store import StoreAnswer
from tests.services.chroma.fake_chroma import FakeStore

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
    with pytest.raises(Refusal) as refused:
        canonical(spelling)
    assert refused.value.status == 400
    assert b"Collection ID is not a valid UUIDv4" in refused.value.body


def _answers(body: str, *, status: int = 200) -> FakeStore:
    return FakeStore(lambda method, path: StoreAnswer(status, body.encode()))


def _collection(stored: str, collection_id: str = ID, *, tenant: str = ALICE.tenant) -> str:
    return f'{{"id":"{collection_id}","name":"x","database":"{stored}","tenant":"{tenant}"}}'


async def test_a_yes_holds_for_seconds_and_for_one_user_and_database() -> None:
    now = [0.0]
    upstream = _answers(_collection(ALICE.stored_name("mine")))
    ownership = Ownership(upstream, clock=lambda: now[0])
    for _ in range(3):
        await ownership.check(ALICE, tenant=ALICE.tenant, database="mine", collection_id=ID)
    path = f"/api/v2/tenants/{ALICE.tenant}/databases/{ALICE.prefix}mine/collections/by-id/{ID}"
    assert upstream.requests == [f"GET {path}"]
    upstream.answer = _answers("{}", status=404).answer
    for namespace, database in ((BOB, "mine"), (ALICE, "other")):
        with pytest.raises(Refusal):
            await ownership.check(namespace, tenant=namespace.tenant, database=database, collection_id=ID)
    now[0] = 5.0
    with pytest.raises(Refusal):
        await ownership.check(ALICE, tenant=ALICE.tenant, database="mine", collection_id=ID)


async def test_a_yes_to_one_user_of_the_shared_tenant_is_none_to_another() -> None:
    store = _answers(_collection(ALICE.stored_name("mine"), tenant=TENANT))
    ownership = Ownership(store)
    await ownership.check(ALICE, tenant=TENANT, database="mine", collection_id=ID)
    store.answer = _answers("{}", status=404).answer
    with pytest.raises(Refusal):
        await ownership.check(BOB, tenant=TENANT, database="mine", collection_id=ID)


async def test_a_no_is_asked_for_again() -> None:
    upstream = _answers("{}", status=404)
    ownership = Ownership(upstream)
    with pytest.raises(Refusal) as refused:
        await ownership.check(ALICE, tenant=ALICE.tenant, database="mine", collection_id=ID)
    assert (refused.value.status, str(refused.value)) == (404, f"Collection [{ID}] does not exist.")
    upstream.answer = _answers(_collection(ALICE.stored_name("mine"))).answer
    await ownership.check(ALICE, tenant=ALICE.tenant, database="mine", collection_id=ID)


@pytest.mark.parametrize(
    "upstream",
    [
        _answers("{}", status=500),
        _answers("{}", status=401),
        _answers("{}"),
        _answers("nonsense"),
        _answers(_collection(BOB.stored_name("mine"))),
        _answers(_collection("mine")),
        _answers(_collection(ALICE.stored_name("mine"), tenant=BOB.tenant)),
        _answers(_collection(ALICE.stored_name("mine"), tenant="default_tenant")),
        _answers(_collection(ALICE.stored_name("mine"), str(uuid.uuid4()))),
    ],
)
async def test_any_other_answer_is_no_yes(upstream: FakeStore) -> None:
    with pytest.raises(UpstreamFailed):
        await Ownership(upstream).check(ALICE, tenant=ALICE.tenant, database="mine", collection_id=ID)
