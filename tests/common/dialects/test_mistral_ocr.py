"""What is read of a request and an answer, and what is written: every other byte survives."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dialects.dialect import Progress, Usage
from common.dialects.document_url import is_image
from common.dialects.mistral_ocr import MistralOcr, OcrRequest
from common.errors import InvalidRequest
from common.metering.record import UsageSource
from common.metering.units import Unit

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OURS = ("model", "url", "document", "documents")
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
_others = st.dictionaries(_text.filter(lambda name: name not in _OURS), _json, max_size=4)
_urls = st.one_of(
    _text.filter(str.strip),
    st.builds("{}{}".format, st.sampled_from(["data:image/png;base64,", "data:application/pdf,"]), _text),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["data:image/png,", "https://x.test/", "ü"]),
        st.just("ab\\é\U0001f600" * 900),
        st.sampled_from(["", ".png", ".pdf"]),
    ),
)
_missing = object()


@st.composite
def _bodies(draw: st.DrawFn, *, document: Any = _missing, model: Any = _missing, url: Any = _missing) -> bytes:
    """Spell a request as some client might: any order, white space and escapes."""
    fields = dict(draw(_others))
    for name, strategy in (("document", document), ("model", model), ("url", url)):
        if strategy is not _missing:
            fields[name] = draw(strategy)
    order = draw(st.permutations(list(fields)))
    text = json.dumps(
        {name: fields[name] for name in order},
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 0, 3])),
    )
    text = text.replace("/", "\\/") if draw(st.booleans()) else text
    return draw(st.sampled_from(["", " \n\t"])).encode() + text.encode()


def read(body: bytes | memoryview) -> OcrRequest:
    return MistralOcr(default_model="of the house").read(body)


def sent_of(request: OcrRequest, model: str = "") -> bytes:
    body = request.body(model=model or request.model, ask_usage=True)
    return b"".join(body) if isinstance(body, tuple) else bytes(body)


def parsed(body: bytes) -> tuple[str, bytes]:
    request = read(memoryview(body))
    return request.model, sent_of(request)


def usage_of(body: bytes) -> tuple[Progress, Usage]:
    reader = read(b'{"url":"x"}').reader()
    return reader.read_body(body), reader.usage()


def raw(body: bytes) -> dict[str, bytes]:
    return {name: bytes(value) for name, value in _FIELDS.decode(body).items()}


@given(_bodies(document=st.just({"type": "file", "file_id": "1"}), model=_text.filter(bool), url=_json))
def test_a_complete_body_passes_as_the_very_bytes_that_came(body: bytes) -> None:
    view = memoryview(body)
    request = read(view)
    assert request.body(model=request.model, ask_usage=True) is view
    assert raw(sent_of(request, "other")) == {**raw(body), "model": b'"other"'}
    assert request.model == json.loads(body)["model"]


@given(_bodies(document=st.dictionaries(_text, _json), url=_json) | _bodies(document=st.just({}), model=st.none()))
def test_a_missing_model_is_filled_in_and_every_other_field_keeps_its_bytes(body: bytes) -> None:
    model, sent = parsed(body)
    assert model == "of the house"
    assert raw(sent) == {**raw(body), "model": b'"of the house"'}


@given(_bodies(url=_urls, model=_text.filter(bool)) | _bodies(url=_urls) | _bodies(url=_urls, document=st.none()))
def test_a_bare_url_becomes_a_document_and_every_other_field_keeps_its_bytes(body: bytes) -> None:
    before = raw(body)
    url = before.pop("url")
    model, sent = parsed(body)
    after = raw(sent)
    kind = "image_url" if is_image(json.loads(url)) else "document_url"
    assert raw(after.pop("document")) == {"type": b'"%b"' % kind.encode(), kind: url}
    assert json.loads(after.pop("model")) == model == json.loads(before.pop("model", b'"of the house"'))
    before.pop("document", None)
    assert after == before


@given(_bodies(url=_urls, model=_text.filter(bool)), st.lists(_json, max_size=3))
def test_documents_pass_unchanged_even_beside_a_url(body: bytes, documents: list[Any]) -> None:
    body = body.rstrip()[:-1] + b',"documents":' + json.dumps(documents).encode() + b"}"
    assert parsed(body)[1] == body


@pytest.mark.parametrize("start", [b'{"url":', b'{"document":{"type":"document_url"},"x":'])
def test_a_large_document_is_never_copied(start: bytes) -> None:
    body = start + b'"data:image/png;base64,%b"}' % (b"QUJD" * 1_000_000)
    tracemalloc.start()
    try:
        request = read(memoryview(body))
        pieces = request.body(model=request.model, ask_usage=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(pieces, tuple)
    assert sum(map(len, pieces)) > len(body)
    assert peak < 100_000


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"  \n", None),
        (b"{", None),
        (b"null", None),
        (b"[]", None),
        (b'"text"', None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b'{"document":' + b"[" * 100_000, None),
        (b'{"document":{},"document":{]}', None),
        (b"{}", "document"),
        (b'{"model":"m"}', "document"),
        (b'{"document":null,"documents":null,"url":null}', "document"),
        (b'{"document":"https://x.test/a.pdf"}', "document"),
        (b'{"document":[]}', "document"),
        (b'{"documents":{}}', "documents"),
        (b'{"documents":true}', "documents"),
        (b'{"url":7}', "url"),
        (b'{"url":-7}', "url"),
        (b'{"url":["https://x.test"]}', "url"),
        (b'{"url":" "}', "url"),
        (b'{"url":"\xff"}', "url"),
        (b'{"model":"","url":"x"}', "model"),
        (b'{"model":7,"url":"x"}', "model"),
        (b'{"model":"\xff","url":"x"}', "model"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(body)
    assert refused.value.param == param
    assert refused.value.message


@pytest.mark.parametrize(
    ("count", "pages"),
    [
        *((0, 0), (3, 3), ("3", 3), (" 12 ", 12), (" " * 20 + "3", 3), (3.0, 3), (10**9, 10**9)),
        *((2**70, None), (10**9 + 1, None)),
        *((-1, None), (2.5, None), ("three", None), ("", None), ("-1", None), ("²", None)),
        *((True, None), (None, None), ([3], None), ({}, None)),
    ],
)
def test_pages_are_a_number_or_unknown(count: Any, pages: int | None) -> None:
    body = json.dumps({"model": "m", "usage_info": {"pages_processed": count}}).encode()
    known = Usage({} if pages is None else {Unit.PAGES: pages}, upstream_model="m")
    source = UsageSource.NONE if pages is None else UsageSource.PROVIDER
    assert usage_of(body) == (Progress.CONTENT, Usage(known.quantities, source, upstream_model="m"))


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"{}", b'{"usage_info":null}'])
def test_what_is_no_answer_is_none(body: bytes) -> None:
    assert usage_of(body) == (Progress.NONE, Usage())


@pytest.mark.parametrize("body", [b'{"error":{"message":"no"}}', b'{"message":"no"}', b'{"detail":[{"msg":"no"}]}'])
def test_an_error_is_one(body: bytes) -> None:
    assert usage_of(body)[0] is Progress.ERROR


@pytest.mark.parametrize("body", [b'{"usage_info":7}', b'{"usage_info":{}}', b'{"pages":[]}'])
def test_an_answer_that_says_nothing_reports_nothing(body: bytes) -> None:
    assert usage_of(body) == (Progress.CONTENT, Usage())


@pytest.mark.parametrize("odd", [b'"\\ud83d"', b'"\xff"', b"NaN", b"[-Infinity]"])
def test_odd_neighbours_lose_no_count(odd: bytes) -> None:
    body = b'{"pages":[{"markdown":%b}],"x":%b,"model":5,"usage_info":{"pages_processed":3}}' % (odd, odd)
    assert usage_of(body)[1].quantities == {Unit.PAGES: 3}


@given(_json)
def test_no_answer_is_beyond_reading(value: Any) -> None:
    usage_of(json.dumps(value).encode())
    usage_of(json.dumps({"usage_info": value, "model": value}).encode())
