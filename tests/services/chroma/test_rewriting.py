"""Bodies and answers change their names and nothing else."""

from __future__ import annotations

import json

import pytest

from common.errors import Internal, UpstreamFailed
from common.settings import MAX_BODY_BYTES
from services.chroma import rewriting
from services.chroma.database_list import Page
from services.chroma.namespace import Namespace, namespace_of
from services.chroma.refusals import Refusal
from services.chroma.routes import AnswerKind

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
    assert json.loads(_forwarded(b'{"database":"mine"}')) == {"database": ALICE.stored_name("mine")}
    assert _forwarded(b'{"database":null}') == b"{}"
    # Twice, and hidden behind an escape: one is left, and it is the user's.
    hidden = b'{"database":"first","d\\u0061tabase":"mine"}'
    assert json.loads(_forwarded(hidden)) == {"database": ALICE.stored_name("mine")}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"ids":nul}', 400),
        (b"\xff", 400),
        (b'{"ids":' + b"[" * 100_000, 400),
        (b'{"database":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"a\xbb":1}', 400),
        (b'{"ids":["a\\ud800"]}', 400),
        (b'{"database":"fuzz\xb0db"}', 400),
        (b'{"database":18446e44073709551616}', 400),
        (b'{"database":{"a\xbb":1}}', 400),
        (b"[]", 422),
        (b'"x"', 422),
        (b'{"database":5}', 422),
        (b'{"database":"no good"}', 400),
        (b'{"database":"' + BOB.prefix.encode() + b'x+"}', 400),
    ],
)
def test_a_bad_body_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        _forwarded(body)
    assert refused.value.status == status


def test_the_name_of_a_new_database() -> None:
    assert rewriting.name_in(b'{"name":"first","n\\u0061me":"mine"}') == "mine"
    for body in (b"{}", b'{"name":null}', b'{"name":5}', b"[]"):
        with pytest.raises(Refusal) as refused:
            rewriting.name_in(body)
        assert refused.value.status == 422
    nested = b"[" * 100_000 + b"]" * 100_000
    for value in (b'"fuzz\xb0db"', b"18446e44073709551616", b'{"a\xbb":1}', b'"\\ud800abc"', b"9" * 5000, nested):
        with pytest.raises(Refusal) as refused:
            rewriting.name_in(b'{"name":' + value + b"}")
        assert refused.value.status == 400
        assert b"Failed to parse the request body as JSON" in refused.value.body


def test_a_query_passes_with_stored_names_and_without_a_tenant() -> None:
    query = (("limit", "1"), ("tenant", "default_tenant"), ("database", "mine"), ("read_level", "x"))
    expected = (("limit", "1"), ("database", ALICE.stored_name("mine")), ("read_level", "x"))
    assert rewriting.forwarded_query(query, namespace=ALICE, slots={}) == expected
    with pytest.raises(Refusal, match=r"Tenant \[other\] not found"):
        rewriting.forwarded_query((("tenant", "other"),), namespace=ALICE, slots={})
    with pytest.raises(Refusal):
        rewriting.forwarded_query((("database", "a+bc"),), namespace=ALICE, slots={})


def test_a_query_does_not_contradict_the_path() -> None:
    query = (("database", "other"), ("collection_id", "x"), ("limit", "1"), ("tenant", "default_tenant"))
    slots = {"tenant": "default_tenant", "database": "mine", "collection_id": "y"}
    assert rewriting.forwarded_query(query, namespace=ALICE, slots=slots) == (("limit", "1"),)
    same = (("database", "mine"), ("limit", "1"))
    expected = (("database", ALICE.stored_name("mine")), ("limit", "1"))
    assert rewriting.forwarded_query(same, namespace=ALICE, slots=slots) == expected


def test_a_page_is_read_as_chroma_reads_it() -> None:
    for query, expected in (
        ((), Page()),
        ((("limit", "3"),), Page(limit=3)),
        ((("limit", "0"),), Page(limit=0)),
        ((("offset", "8"), ("other", "x")), Page(offset=8)),
        ((("limit", "2"), ("offset", "4294967295")), Page(limit=2, offset=4294967295)),
    ):
        assert rewriting.page_of(query) == expected
    for value in ("", "-1", "x", "1.0", "4294967296", "9" * 5000, "\N{ARABIC-INDIC DIGIT ONE}", " 1"):
        with pytest.raises(Refusal, match="Failed to deserialize query string: limit"):
            rewriting.page_of((("limit", value),))


def _rewritten(body: bytes, kind: AnswerKind) -> bytes:
    return rewriting.rewritten_answer(body, kind=kind, namespace=ALICE, tenant=ALICE.tenant)


def test_answers_show_the_users_names() -> None:
    stored = ALICE.stored_name("mine")
    one = f'{{"id":1,"database":"{stored}","x":1.50,"tenant":"{ALICE.tenant}"}}'.encode()
    shown = b'{"id":1,"database":"mine","x":1.50,"tenant":"default_tenant"}'
    assert _rewritten(one, AnswerKind.COLLECTION) == shown
    assert _rewritten(b"[" + one + b"," + one + b"]", AnswerKind.COLLECTIONS) == b"[" + shown + b"," + shown + b"]"
    database = f'{{"name":"{stored}"}}'.encode()
    assert _rewritten(database, AnswerKind.DATABASE) == b'{"name":"mine"}'
    assert _rewritten(b"anything", AnswerKind.OTHER) == b"anything"


@pytest.mark.parametrize("kind", [AnswerKind.DATABASE, AnswerKind.COLLECTION, AnswerKind.COLLECTIONS])
@pytest.mark.parametrize("namespaces", [(BOB, ALICE), (ALICE, BOB), (BOB, BOB)])
def test_an_answer_about_somebody_else_is_never_shown(
    kind: AnswerKind, namespaces: tuple[Namespace, Namespace]
) -> None:
    stored = namespaces[0].stored_name("mine")
    body = f'{{"name":"{stored}","database":"{stored}","tenant":"{namespaces[1].tenant}"}}'.encode()
    with pytest.raises(Internal) as error:
        _rewritten(b"[" + body + b"]" if kind is AnswerKind.COLLECTIONS else body, kind)
    assert BOB.prefix not in error.value.message
    assert BOB.tenant not in error.value.message


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"{}", b'{"database":5}', b"null", b'{"database":"\xff"}'])
def test_an_answer_that_cannot_be_read_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        _rewritten(body, AnswerKind.COLLECTION)


def test_the_batch_size_fits_the_largest_body() -> None:
    numbers = ", ".join(["-2.2250738585072014e-308"] * 1536)
    row = len(f"[{numbers}], ") + 9000
    assert rewriting.MAX_BATCH_SIZE * row <= MAX_BODY_BYTES < (rewriting.MAX_BATCH_SIZE + 20) * row
    limits = b'{"max_batch_size":5461,"supports_base64_encoding":true}'
    assert json.loads(_rewritten(limits, AnswerKind.LIMITS)) == {
        "max_batch_size": rewriting.MAX_BATCH_SIZE,
        "supports_base64_encoding": True,
    }
    assert _rewritten(b'{"max_batch_size":166}', AnswerKind.LIMITS) == b'{"max_batch_size":166}'
    for broken in (b'{"max_batch_size":"many"}', b'{"max_batch_size":1e400}', b"[]", b'"x"'):
        with pytest.raises(UpstreamFailed):
            _rewritten(broken, AnswerKind.LIMITS)


def test_errors_show_the_users_names_and_nothing_that_is_not_chromas() -> None:
    def shown(body: bytes, status: int) -> object:
        return json.loads(rewriting.rewritten_error(body, status=status, namespace=ALICE, database="mine"))

    body = f'{{"error":"NotFoundError","message":"Database [{ALICE.stored_name("mine")}] not found","more":1}}'.encode()
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
