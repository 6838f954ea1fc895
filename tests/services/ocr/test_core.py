"""The OCR service's own work, with a provider that gives what each test wants."""

from __future__ import annotations

import asyncio
import json

import pytest

from common.errors import InvalidRequest, PayloadTooLarge, UpstreamFailed, UpstreamTimeout
from common.reply import Collected
from common.settings import MAX_BODY_BYTES
from common.upstream.http import UnreachableError
from tests.common.upstream.fake_client import FakeResponse
from tests.services.ocr.reading import ASK, DEFAULT_MODEL, OcrTrial, a_call, read

_CUT = UpstreamFailed("The provider broke off its answer.", code="upstream_cut")
_URL = b'{"url":"https://x.test/a.png","pages":[0, 2]}'


async def test_the_answers_bytes_and_the_pages_are_the_providers() -> None:
    trial = OcrTrial(read())
    answer = await trial.ask()
    assert trial.sent == ASK
    assert answer.body == b"".join(piece for piece in read().pieces if isinstance(piece, bytes))
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.headers == {"x-ratelimit-limit": "5"}
    assert trial.outcome == ("COMPLETED", 200, "")
    assert trial.pages == ("PROVIDER", 3)
    event = trial.record
    assert (event.type, event.service, event.provider, event.user_id) == ("ocr", "ocr", "fake", "olga")
    assert (event.model, event.upstream_model, event.path) == ("m", "m-1", "/v1/ocr")
    assert (event.bytes_in, event.bytes_out) == (len(ASK), len(answer.body))
    assert event.first_byte_ms >= 1


async def test_a_bare_url_reaches_the_provider_as_a_document_of_the_default_model() -> None:
    trial = OcrTrial(read())
    await trial.ask(_URL)
    assert json.loads(trial.sent) == {
        "document": {"type": "image_url", "image_url": "https://x.test/a.png"},
        "pages": [0, 2],
        "model": DEFAULT_MODEL,
    }
    assert trial.record.model == DEFAULT_MODEL


@pytest.mark.parametrize("usage", [None, {}, {"pages_processed": None}, {"pages_processed": "many"}, 7])
async def test_unknown_pages_count_as_none_and_say_so(usage: object) -> None:
    trial = OcrTrial(read(usage=usage))
    assert (await trial.ask()).status == 200
    assert trial.outcome == ("COMPLETED", 200, "")
    assert trial.pages == ("NONE", 0)


async def test_pages_may_come_as_text() -> None:
    trial = OcrTrial(read(usage={"pages_processed": "7"}))
    await trial.ask()
    assert trial.pages == ("PROVIDER", 7)


async def test_an_answer_of_megabytes_comes_in_pieces_and_is_settled_before_the_last() -> None:
    body = b'{"usage_info":{"pages_processed":2},"images":"' + b"x" * 3_000_000 + b'"}'
    trial = OcrTrial(FakeResponse([body]))

    class Watching(Collected):
        async def write(self, piece: bytes) -> None:
            assert trial.outbox.events == []
            await super().write(piece)

    reply = Watching()
    last = await trial.ocr.process(ASK, call=a_call(), reply=reply)
    assert len(trial.outbox.events) == 1
    assert reply.body(last) == body
    assert max(map(len, [*reply.pieces, last])) <= 256 * 1024
    assert trial.record.bytes_out == len(body)


async def test_a_caller_who_leaves_in_the_middle_is_still_billed_for_the_pages() -> None:
    trial = OcrTrial(FakeResponse([b'{"usage_info":{"pages_processed":2},"images":"' + b"x" * 3_000_000 + b'"}']))

    class Leaving(Collected):
        async def write(self, piece: bytes) -> None:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await trial.ocr.process(ASK, call=a_call(), reply=Leaving())
    assert trial.outcome == ("CLIENT_GONE", 499, "client_gone")
    assert trial.pages == ("PROVIDER", 2)
    assert trial.record.bytes_out == 256 * 1024


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500])
async def test_the_providers_error_keeps_its_status_and_body_without_secrets(status: int) -> None:
    body = b'{"object":"error","message":"the key hushed is wrong","type":"t","param":null,"code":"1001"}'
    trial = OcrTrial(FakeResponse([body], status=status, headers={"retry-after": "3"}))
    answer = await trial.ask()
    assert (answer.status, answer.body) == (status, body.replace(b"hushed", b"***"))
    assert answer.headers == {"retry-after": "3"}
    assert trial.outcome == ("COMPLETED", status, "upstream_refused")
    assert trial.pages == ("NONE", 0)


async def test_an_error_that_is_no_json_gets_an_envelope() -> None:
    trial = OcrTrial(FakeResponse([b"<h1>hushed</h1>"], status=502, content_type="text/html"))
    answer = await trial.ask()
    assert answer.content_type == "application/json"
    assert json.loads(answer.body)["error"]["message"] == "The provider answered 502: <h1>***</h1>"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (_CUT, ("UPSTREAM_CUT", 502, "upstream_cut")),
        (UpstreamTimeout("slow", code="upstream_timeout"), ("TIMED_OUT", 504, "upstream_timeout")),
        (asyncio.CancelledError(), ("CLIENT_GONE", 499, "client_gone")),
    ],
)
async def test_what_breaks_off_is_accounted_for(error: BaseException, outcome: tuple[str, int, str]) -> None:
    for trial in (OcrTrial(FakeResponse([b"{", error])), OcrTrial(error)):
        with pytest.raises(type(error)):
            await trial.ask()
        assert trial.outcome == outcome
        assert trial.pages == ("NONE", 0)


async def test_only_a_connection_that_never_was_is_repeated() -> None:
    trial = OcrTrial(UnreachableError("away", code="upstream_unreachable"), read())
    await trial.ask(_URL)
    first, second = trial.client.bodies
    assert first[0] == second[0]
    assert len(trial.record.attempts) == 2


async def test_a_refused_request_is_metered_and_never_sent() -> None:
    trial = OcrTrial()
    with pytest.raises(InvalidRequest):
        await trial.ask(b"{}")
    assert trial.outcome == ("FAILED", 400, "missing_required_parameter")
    assert len(trial.record.attempts) == 0


async def test_a_body_over_the_limit_is_refused_unread() -> None:
    trial = OcrTrial()
    with pytest.raises(PayloadTooLarge):
        await trial.ask(b"x" * (MAX_BODY_BYTES + 1))
    assert trial.outcome == ("FAILED", 413, "payload_too_large")
