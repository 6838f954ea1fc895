"""Bodies and answers change their names and nothing else."""

from __future__ import annotations

import json

import pytest

from common.errors import Internal, UpstreamFailed
from services.chroma import rewriting
from services.chroma.namespace import namespace_of
from services.chroma.refusals import Refused
from services.chroma.routes import Holds

ALICE = namespace_of("alice", separator="__")
BOB = namespace_of("bob", separator="__")
KEYS = frozenset({"ids", "where"})


def _forwarded(body: bytes) -> bytes:
    return rewriting.forwarded_body(body, keys=KEYS, namespace=ALICE)


def test_only_known_keys_go_on_and_values_keep_their_bytes() -> None:
    body = b'{"ids":["\\u00e9", 1.0, 1e400 ,{"a": 1,"a":2}], "tenant":"x","collection_id":"y" ,"where":null}'
    assert _forwarded(body) == b'{"ids":["\\u00e9", 1.0, 1e400 ,{"a": 1,"a":2}],"where":null}'
    assert _forwarded(b"{}") == b"{}"


def test_a_database_in_the_body_gets_its_stored_name() -> None:
    assert json.loads(_forwarded(b'{"database":"mine"}')) == {"database": ALICE.stored("mine")}
    assert _forwarded(b'{"database":null}') == b"{}"
    # Twice, and hidden behind an escape: one is left, and it is the user's.
    hidden = b'{"database":"first","d\\u0061tabase":"mine"}'
    assert json.loads(_forwarded(hidden)) == {"database": ALICE.stored("mine")}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"ids":nul}', 400),
        (b"\xff", 400),
        (b'{"ids":' + b"[" * 100_000, 400),
        (b"[]", 422),
        (b'"x"', 422),
        (b'{"database":5}', 422),
        (b'{"database":"no good"}', 400),
        (b'{"database":"' + BOB.prefix.encode() + b'x+"}', 400),
    ],
)
def test_a_bad_body_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        _forwarded(body)
    assert refused.value.status == status


def test_the_name_of_a_new_database() -> None:
    assert rewriting.name_in(b'{"name":"first","n\\u0061me":"mine"}') == "mine"
    for body in (b"{}", b'{"name":null}', b'{"name":5}', b"[]"):
        with pytest.raises(Refused) as refused:
            rewriting.name_in(body)
        assert refused.value.status == 422


def test_a_query_passes_with_stored_names_and_without_a_tenant() -> None:
    query = (("limit", "1"), ("tenant", "default_tenant"), ("database", "mine"), ("read_level", "x"))
    expected = (("limit", "1"), ("database", ALICE.stored("mine")), ("read_level", "x"))
    assert rewriting.forwarded_query(query, namespace=ALICE) == expected
    with pytest.raises(Refused, match=r"Tenant \[other\] not found"):
        rewriting.forwarded_query((("tenant", "other"),), namespace=ALICE)
    with pytest.raises(Refused):
        rewriting.forwarded_query((("database", "a+bc"),), namespace=ALICE)


def test_a_window_is_read_as_chroma_reads_it() -> None:
    items = list(range(10))
    for query, expected in (
        ((), items),
        ((("limit", "3"),), [0, 1, 2]),
        ((("limit", "0"),), []),
        ((("offset", "8"), ("other", "x")), [8, 9]),
        ((("limit", "2"), ("offset", "4294967295")), []),
    ):
        assert items[rewriting.window(query)] == expected
    for value in ("", "-1", "x", "1.0", "4294967296", "9" * 5000, "\N{ARABIC-INDIC DIGIT ONE}", " 1"):
        with pytest.raises(Refused, match="Failed to deserialize query string: limit"):
            rewriting.window((("limit", value),))
    with pytest.raises(Refused, match="duplicate field `offset`"):
        rewriting.window((("offset", "1"), ("offset", "2")))


def test_answers_show_the_users_names() -> None:
    stored = ALICE.stored("mine")
    one = f'{{"id":1,"database":"{stored}","x":1.50}}'.encode()
    shown = b'{"id":1,"database":"mine","x":1.50}'
    assert rewriting.shown_answer(one, holds=Holds.COLLECTION, namespace=ALICE) == shown
    several = b"[" + one + b"," + one + b"]"
    assert (
        rewriting.shown_answer(several, holds=Holds.COLLECTIONS, namespace=ALICE) == b"[" + shown + b"," + shown + b"]"
    )
    database = f'{{"name":"{stored}"}}'.encode()
    assert rewriting.shown_answer(database, holds=Holds.DATABASE, namespace=ALICE) == b'{"name":"mine"}'
    assert rewriting.shown_answer(b"anything", holds=Holds.NOTHING, namespace=ALICE) == b"anything"


@pytest.mark.parametrize("holds", [Holds.DATABASE, Holds.COLLECTION, Holds.COLLECTIONS])
def test_an_answer_about_somebody_else_is_never_shown(holds: Holds) -> None:
    stored = BOB.stored("mine")
    body = f'{{"name":"{stored}","database":"{stored}"}}'.encode()
    with pytest.raises(Internal) as error:
        rewriting.shown_answer(b"[" + body + b"]" if holds is Holds.COLLECTIONS else body, holds=holds, namespace=ALICE)
    assert BOB.prefix not in error.value.message


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"{}", b'{"database":5}', b"null"])
def test_an_answer_that_cannot_be_read_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        rewriting.shown_answer(body, holds=Holds.COLLECTION, namespace=ALICE)


def test_errors_show_the_users_names_and_nothing_that_is_not_chromas() -> None:
    def shown(body: bytes, status: int) -> object:
        return json.loads(rewriting.shown_error(body, status=status, namespace=ALICE, database="mine"))

    body = f'{{"error":"NotFoundError","message":"Database [{ALICE.stored("mine")}] not found","more":1}}'.encode()
    assert shown(body, 404) == {"error": "NotFoundError", "message": "Database [mine] not found"}
    assert shown(b"<html>nginx 10.0.0.1</html>", 503) == {
        "error": "InternalError",
        "message": "The Chroma server answered 503.",
    }
    assert shown(b"", 404) == {"error": "NotFoundError", "message": "The Chroma server answered 404."}
    assert shown(b'{"error":5,"message":"x"}', 418) == {
        "error": "ChromaError",
        "message": "The Chroma server answered 418.",
    }
