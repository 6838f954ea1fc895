"""The relay: every way in which a request can go, and the one record that it leaves."""

from __future__ import annotations

import asyncio
import json
import types
from collections.abc import Coroutine, Generator, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dialects.dialect import Usage
from common.dialects.openai_chat import ChatRequest, OpenAIChat
from common.dialects.openai_chat_reader import ChatReader
from common.errors import (
    InvalidRequest,
    PayloadTooLarge,
    Unavailable,
    UpstreamFailed,
    UpstreamMalformed,
    UpstreamTimeout,
)
from common.metering.record import Outcome
from common.reply import Collected
from common.routing.early_keep_alive import every
from common.settings import MAX_BODY_BYTES
from common.upstream.http import UnreachableError
from common.upstream.sse import KEEP_ALIVE
from tests.common.builders import RefusingOutbox, a_call
from tests.common.dialects.conversation import (
    ASK,
    ASK_STREAM,
    CHAT,
    COUNTED,
    DONE,
    EVENTS,
    USAGE,
    ChatTrial,
    chunk,
    completion,
    event,
    stream_answer,
)
from tests.common.upstream.fake_client import FakeResponse

_CUT = UpstreamFailed("The provider broke off its answer.", code="upstream_cut")
_SLOW = UpstreamTimeout("The provider stopped sending.", code="upstream_timeout")
T = TypeVar("T")


def error_of(piece: bytes) -> dict[str, Any]:
    value = json.loads(piece.removeprefix(b"data: "))
    assert set(value) == {"error"}
    assert set(value["error"]) == {"message", "type", "param", "code"}
    return dict(value["error"])


async def test_a_whole_answer_is_passed_on_byte_by_byte_and_counted() -> None:
    body = completion()
    trial = ChatTrial(FakeResponse([body[:40], body[40:]], headers={"x-ratelimit-remaining-requests": "9"}))
    got = await trial.ask()
    assert (got.status, got.content_type, got.body) == (200, "application/json", body)
    assert got.headers == {"x-ratelimit-remaining-requests": "9"}
    assert trial.outcome == ("COMPLETED", 200, "")
    assert trial.counts == COUNTED
    only = trial.record
    assert (only.model, only.upstream_model, only.provider) == ("gpt", "gpt-1", "fake")
    assert (only.bytes_in, only.bytes_out, only.stream) == (len(ASK), len(body), False)
    assert only.first_byte_ms >= 1


async def test_a_request_is_passed_on_byte_by_byte() -> None:
    body = b'{ "messages":[ ],"model" : "gpt","temperature":1.50,"seed":123456789012345678901234567890 }'
    trial = ChatTrial(FakeResponse([completion()]))
    await trial.ask(body)
    assert trial.client.bodies[0] is body
    assert trial.record.temperature == 1.5


async def test_a_stream_is_passed_on_event_by_event_and_counted() -> None:
    trial = ChatTrial(stream_answer(b"".join(EVENTS)))
    got = await trial.ask(ASK_STREAM)
    assert got.content_type.startswith("text/event-stream")
    assert got.pieces == list(EVENTS)
    assert trial.outcome == ("COMPLETED", 200, "")
    assert trial.counts == COUNTED
    only = trial.record
    assert (only.stream, only.upstream_model, only.bytes_out) == (True, "gpt-1", len(b"".join(EVENTS)))
    assert trial.client.responses == []
    assert json.loads(trial.client.bodies[0])["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("answer", "body"),
    [(FakeResponse([completion()]), ASK), (stream_answer(*EVENTS), ASK_STREAM)],
    ids=["whole", "stream"],
)
async def test_the_event_is_on_record_before_the_last_piece_leaves(answer: FakeResponse, body: bytes) -> None:
    trial = ChatTrial(answer)
    on_record: list[int] = []

    class Watching(Collected):
        async def write(self, piece: bytes) -> None:
            on_record.append(len(trial.outbox.events))

    assert await trial.relay.answer(body, dialect=CHAT, call=a_call(), reply=Watching())
    assert on_record == [0] * len(on_record)
    assert len(trial.outbox.events) == 1


async def test_the_intent_is_on_record_before_the_provider_is_asked() -> None:
    trial = ChatTrial(RuntimeError("asked"))
    with pytest.raises(RuntimeError):
        await trial.ask()
    assert len(trial.outbox.intents) == 1
    assert trial.outcome == ("FAILED", 500, "internal_error")


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many"}, 5])
async def test_a_whole_answer_without_a_readable_usage_is_estimated(usage: Any) -> None:
    trial = ChatTrial(FakeResponse([completion(usage=usage)]))
    await trial.ask()
    # Eight characters of prompt are two tokens, and five of the answer are two.
    assert trial.counts == ("ESTIMATED", 2, 0, 0, 2, 0, 4)
    assert trial.outcome == ("COMPLETED", 200, "")


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many"}, 5])
async def test_a_stream_without_a_readable_usage_is_estimated(usage: Any) -> None:
    events = [*EVENTS[:4], *([] if usage is None else [chunk(usage=usage)]), DONE]
    trial = ChatTrial(stream_answer(*events))
    await trial.ask(ASK_STREAM)
    # Eight characters are two tokens, and two pieces of text are two.
    assert trial.counts == ("ESTIMATED", 2, 0, 0, 2, 0, 4)
    assert trial.outcome == ("COMPLETED", 200, "")


async def test_the_last_of_several_usages_counts() -> None:
    first = USAGE | {"completion_tokens": 1, "total_tokens": 11}
    trial = ChatTrial(stream_answer(chunk(content="a"), chunk(usage=first), chunk(usage=USAGE), DONE))
    await trial.ask(ASK_STREAM)
    assert trial.counts == COUNTED


async def test_counts_that_make_no_sense_do_not_break_the_request() -> None:
    usage = {"prompt_tokens": -5, "completion_tokens": 2**70, "total_tokens": -1}
    trial = ChatTrial(FakeResponse([completion(usage=usage)]))
    got = await trial.ask()
    assert got.status == 200
    assert trial.counts == ("ESTIMATED", 2, 0, 0, 2, 0, 4)


@pytest.mark.parametrize(
    ("status", "body", "shown"),
    [
        (400, b'{"error": {"message":"no","type":"t","param":null,"code":null}}', None),
        (422, b'{"detail":[{"msg":"field required"}]}', None),
        (429, b'{ "error" : "slow down" }', None),
        (401, b'{"error":{"message":"Incorrect key hushed"}}', b'{"error":{"message":"Incorrect key ***"}}'),
    ],
)
async def test_an_upstreams_error_keeps_its_status_and_its_json_but_no_secrets(
    status: int, body: bytes, shown: bytes | None
) -> None:
    trial = ChatTrial(FakeResponse([body], status=status, headers={"retry-after": "7", "openai-organization": "org-1"}))
    got = await trial.ask()
    assert (got.status, got.content_type, got.body) == (status, "application/json", shown or body)
    assert got.headers == {"retry-after": "7"}
    assert trial.outcome == ("COMPLETED", status, "upstream_refused")
    assert trial.counts[0] == "NONE"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>hushed Bad Gateway</html>", "The provider answered 502: <html>*** Bad Gateway</html>"),
        (b"", "The provider answered 502."),
        (b"[1]", "The provider answered 502: [1]"),
        (b"null", "The provider answered 502: null"),
        (b'{"error":"\xff"}', None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
    ],
    ids=["html", "empty", "list", "null", "not utf-8", "binary", "deep"],
)
@pytest.mark.parametrize("ask", [ASK, ASK_STREAM], ids=["whole", "stream"])
async def test_an_error_that_is_no_json_object_gets_an_envelope(ask: bytes, body: bytes, message: str | None) -> None:
    trial = ChatTrial(FakeResponse([body], status=502, content_type="text/html"))
    got = await trial.ask(ask)
    assert (got.status, got.content_type) == (502, "application/json")
    error = error_of(got.body)
    assert error["type"] == "upstream_error"
    if message is not None:
        assert error["message"] == message
    assert trial.outcome == ("COMPLETED", 502, "upstream_refused")
    assert trial.record.bytes_out == len(got.body)


@pytest.mark.parametrize("ask", [ASK, ASK_STREAM], ids=["whole", "stream"])
async def test_no_more_of_an_error_is_read_than_a_message_needs(ask: bytes) -> None:
    pieces = [b'{"error":"', *[b"x" * 64 * 1024] * 64, b'"}']
    response = FakeResponse(pieces, status=500)
    trial = ChatTrial(response)
    got = await trial.ask(ask)
    assert got.status == 500
    assert error_of(got.body)["type"] == "upstream_error"
    assert len(got.body) < 1024
    # A mebibyte has been read, and a piece more: that it is too long.
    assert response.taken == 17
    assert response.closed


async def test_a_long_error_is_passed_on_whole() -> None:
    error = b'{"error":"' + b"x" * (1024 * 1024 - 12) + b'"}'
    response = FakeResponse([error], status=500)
    got = await ChatTrial(response).ask(ASK)
    assert (got.body, response.complete) == (error, True)


async def test_an_error_on_a_stream_request_is_no_stream_even_if_it_says_so() -> None:
    trial = ChatTrial(FakeResponse([b'{"error":"no"}'], status=503, content_type="text/event-stream"))
    got = await trial.ask(ASK_STREAM)
    assert (got.status, got.content_type, got.pieces) == (503, "application/json", [b'{"error":"no"}'])


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (_CUT, ("UPSTREAM_CUT", 502, "upstream_cut")),
        (_SLOW, ("TIMED_OUT", 504, "upstream_timeout")),
    ],
    ids=["cut", "slow"],
)
class TestABrokenAnswer:
    async def test_before_its_head_is_an_error(self, error: Exception, outcome: tuple[str, int, str]) -> None:
        trial = ChatTrial(error)
        with pytest.raises(type(error)):
            await trial.ask(ASK_STREAM)
        assert trial.outcome == outcome

    async def test_within_a_whole_body_is_an_error(self, error: Exception, outcome: tuple[str, int, str]) -> None:
        trial = ChatTrial(FakeResponse([b"{", error]))
        with pytest.raises(type(error)):
            await trial.ask()
        assert trial.outcome == outcome

    async def test_before_the_first_event_is_an_error(self, error: Exception, outcome: tuple[str, int, str]) -> None:
        trial = ChatTrial(stream_answer(b"data: {", error))
        with pytest.raises(type(error)):
            await trial.ask(ASK_STREAM)
        assert trial.outcome == outcome
        assert trial.counts == ("ESTIMATED", 2, 0, 0, 0, 0, 2)

    async def test_after_the_first_event_is_an_event(self, error: Exception, outcome: tuple[str, int, str]) -> None:
        trial = ChatTrial(stream_answer(*EVENTS[:3], error))
        got = await trial.ask(ASK_STREAM)
        assert got.pieces[:-1] == list(EVENTS[:3])
        assert got.pieces[-1].endswith(b"\n\n")
        assert error_of(got.pieces[-1])["code"] == outcome[2]
        assert trial.outcome == (outcome[0], 200, outcome[2])
        assert trial.counts == ("ESTIMATED", 2, 0, 0, 2, 0, 4)
        assert trial.record.bytes_out == len(got.body)


async def test_a_stream_without_any_event_is_an_error() -> None:
    trial = ChatTrial(stream_answer())
    with pytest.raises(UpstreamFailed) as raised:
        await trial.ask(ASK_STREAM)
    assert raised.value.code == "upstream_cut"
    assert trial.outcome == ("UPSTREAM_CUT", 502, "upstream_cut")


async def test_a_stream_that_has_its_finish_reason_is_complete_without_a_terminator() -> None:
    trial = ChatTrial(stream_answer(*EVENTS[:-1]))
    got = await trial.ask(ASK_STREAM)
    assert got.pieces == list(EVENTS[:-1])
    assert trial.outcome == ("COMPLETED", 200, "")
    assert trial.counts == COUNTED


async def test_a_stream_without_a_finish_reason_ends_with_an_error_event() -> None:
    trial = ChatTrial(stream_answer(*EVENTS[:3]))
    got = await trial.ask(ASK_STREAM)
    assert got.pieces[:-1] == list(EVENTS[:3])
    assert error_of(got.pieces[-1])["code"] == "upstream_cut"
    assert trial.outcome == ("UPSTREAM_CUT", 200, "upstream_cut")


async def test_of_two_alternatives_both_must_finish() -> None:
    other = event({"choices": [{"index": 1, "delta": {"content": "x"}}]})
    trial = ChatTrial(stream_answer(EVENTS[1], other, EVENTS[3]))
    got = await trial.ask(ASK_STREAM)
    assert error_of(got.pieces[-1])["code"] == "upstream_cut"


@pytest.mark.parametrize(
    ("events", "finishes"),
    [((*EVENTS, b": and more"), 1), (EVENTS, 0), (EVENTS[:3], 0)],
    ids=["not complete", "complete", "cut"],
)
async def test_only_the_end_of_a_whole_stream_is_waited_for(events: list[bytes], finishes: int) -> None:
    finished: list[bool] = []

    class Finishing(FakeResponse):
        async def finish(self) -> None:
            finished.append(True)

    await ChatTrial(Finishing(events, content_type="text/event-stream")).ask(ASK_STREAM)
    assert len(finished) == finishes


@pytest.mark.parametrize("before", [(), (KEEP_ALIVE,)], ids=["at once", "after a silence"])
async def test_the_first_byte_is_that_of_the_first_event(before: tuple[bytes, ...]) -> None:
    trial = ChatTrial(stream_answer(*before, *EVENTS))
    await trial.ask(ASK_STREAM)
    assert trial.record.first_byte_ms >= 1


async def test_nothing_is_passed_on_after_the_terminator() -> None:
    trial = ChatTrial(stream_answer(*EVENTS, chunk(content="more"), DONE, _CUT))
    got = await trial.ask(ASK_STREAM)
    assert got.pieces == list(EVENTS)
    assert trial.outcome == ("COMPLETED", 200, "")


@pytest.mark.parametrize(
    "odd",
    [
        b"data: {oops\n\n",
        b"data: \xff\n\n",
        b'data: {"choices":[{"index":0,"delta":{"content":"\xf0\x9f"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"Hi \\ud83d"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":-Infinity}]}\n\n',
        b'data: {"model":"\xff"}\n\n',
        b"data: " + b"[" * 9999 + b"\n\n",
    ],
)
@pytest.mark.parametrize("place", [0, 2])
async def test_an_odd_event_is_passed_on_and_does_not_end_the_stream(odd: bytes, place: int) -> None:
    events = [*EVENTS[:place], odd, *EVENTS[place:]]
    trial = ChatTrial(stream_answer(*events))
    got = await trial.ask(ASK_STREAM)
    assert got.body == b"".join(events)
    assert trial.outcome == ("COMPLETED", 200, "")
    assert trial.counts[1:3] == COUNTED[1:3]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"error":{"message":"hushed is overloaded"}}', 502),
        (b'{"error":{"message":"hushed is out of quota","code":429},"choices":[]}', 429),
        (b'{"object":"error","message":"hushed","code":"404"}', 404),
        (b'{"detail":"hushed"}', 502),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_an_error_under_the_status_of_a_success_is_an_error(body: bytes, status: int, *, streamed: bool) -> None:
    is_event = streamed and b'"error":{' in body
    answer = stream_answer(b"data: " + body + b"\n\n") if is_event else FakeResponse([body])
    trial = ChatTrial(answer)
    got = await trial.ask(ASK_STREAM if streamed else ASK)
    assert (got.status, got.content_type, got.body) == (status, "application/json", body.replace(b"hushed", b"***"))
    assert trial.outcome == ("COMPLETED", status, "upstream_refused")
    assert trial.counts[0] == "NONE"


@pytest.mark.parametrize(
    "answer",
    [
        FakeResponse([b""]),
        FakeResponse([b"<html>Welcome</html>"], content_type="text/html"),
        FakeResponse([b"{}"]),
        FakeResponse([b"[]"]),
        FakeResponse([b""], status=204),
        FakeResponse([b""], status=302, headers={"location": "https://elsewhere.test"}),
        FakeResponse([completion()], status=700),
    ],
    ids=["empty", "html", "no choices", "list", "204", "302", "700"],
)
@pytest.mark.parametrize("ask", [ASK, ASK_STREAM], ids=["whole", "stream"])
async def test_what_is_no_answer_is_a_failure_of_the_provider(answer: FakeResponse, ask: bytes) -> None:
    trial = ChatTrial(FakeResponse(answer.pieces, status=answer.status, content_type=answer.content_type))
    with pytest.raises(UpstreamMalformed):
        await trial.ask(ask)
    assert trial.outcome == ("FAILED", 502, "upstream_malformed")
    assert trial.counts[0] == ("ESTIMATED" if answer.status < 300 else "NONE")


async def test_a_stream_under_a_json_content_type_is_a_stream() -> None:
    trial = ChatTrial(stream_answer(*EVENTS, content_type="application/json; charset=utf-8"))
    got = await trial.ask(ASK_STREAM)
    assert (got.content_type, got.pieces) == ("text/event-stream", list(EVENTS))


async def test_a_stream_of_nothing_but_its_terminator_is_a_failure() -> None:
    trial = ChatTrial(stream_answer(EVENTS[0], DONE))
    with pytest.raises(UpstreamFailed):
        await trial.ask(ASK_STREAM)
    assert trial.outcome == ("FAILED", 502, "upstream_empty")


@pytest.mark.parametrize("ask", [ASK, ASK_STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("error", [_SLOW, _CUT, asyncio.CancelledError()], ids=["slow", "cut", "gone"])
async def test_what_a_provider_may_bill_is_estimated_before_the_first_byte(ask: bytes, error: BaseException) -> None:
    for answer in (error, FakeResponse([b'{"choices":', error])):
        trial = ChatTrial(answer)
        with pytest.raises(type(error)):
            await trial.ask(ask)
        assert trial.counts == ("ESTIMATED", 2, 0, 0, 0, 0, 2)


_DEEP = b'{"function":' * 600 + b"{}" + b"}" * 600
_DEEP_ASK = b'{"model":"m","messages":[{"content":"12345678","tool_calls":[%b]}]' % _DEEP


@pytest.mark.parametrize("deep", [_DEEP, b"[" * 600 + b"]" * 600, b'"\\ud83d",' + b"[" * 600 + b"]" * 600])
async def test_nesting_loses_no_answer_and_no_count(deep: bytes) -> None:
    """A caller's request, and a provider's answer, may be nested as deep as JSON allows."""
    body = completion(usage=None).replace(b'"content"', b'"tool_calls": [%b], "content"' % deep)
    trial = ChatTrial(FakeResponse([body]))
    got = await trial.ask(_DEEP_ASK + b"}")
    assert (got.status, got.body) == (200, body)
    assert (trial.outcome, trial.counts[0]) == (("COMPLETED", 200, ""), "ESTIMATED")

    odd = b'data: {"choices":[{"index":0,"delta":{"content":"Hi","tool_calls":[%b]}}]}\n\n' % deep
    trial = ChatTrial(stream_answer(EVENTS[1], odd, *EVENTS[2:4], DONE))
    got = await trial.ask(_DEEP_ASK + b',"stream":true}')
    assert odd in got.body
    assert (trial.outcome, trial.counts[0]) == (("COMPLETED", 200, ""), "ESTIMATED")


class _Endless(FakeResponse):
    """Is silent after its pieces, and breaks off when it is closed, as a connection does."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__(pieces, content_type="text/event-stream")
        self._gone = asyncio.Event()

    @property
    def complete(self) -> bool:
        return False

    async def _next(self) -> bytes | None:
        if self.taken == len(self.pieces):
            await self._gone.wait()
            raise _CUT
        return await super()._next()

    def close(self) -> None:
        super().close()
        self._gone.set()


async def test_a_stream_that_the_process_ends_says_so() -> None:
    trial = ChatTrial(_Endless(*EVENTS[:3]))
    seen = asyncio.Event()

    class Watching(Collected):
        async def write(self, piece: bytes) -> None:
            await super().write(piece)
            if len(self.pieces) == 3:
                seen.set()

    reply = Watching()
    answering = asyncio.ensure_future(trial.relay.answer(ASK_STREAM, dialect=CHAT, call=a_call(), reply=reply))
    await seen.wait()
    trial.relay.end_streams()
    (last,) = await answering
    assert reply.pieces == list(EVENTS[:3])
    assert error_of(last)["code"] == "stopping"
    assert trial.outcome == ("FAILED", 200, "stopping")
    assert trial.counts[0] == "ESTIMATED"


async def test_a_stream_that_nobody_asked_for_is_no_answer() -> None:
    trial = ChatTrial(stream_answer(*EVENTS))
    with pytest.raises(UpstreamMalformed):
        await trial.ask(ASK)
    assert trial.outcome == ("FAILED", 502, "upstream_malformed")


async def test_a_reader_that_fails_does_not_decide_how_a_request_ends() -> None:
    class Broken(ChatReader):
        def usage(self) -> Usage:
            raise RuntimeError("a mistake of ours")

    class BrokenRequest(ChatRequest):
        def reader(self) -> ChatReader:
            return Broken(prompt_length=lambda: 0)

    class BrokenChat(OpenAIChat):
        def read(self, body: bytes | memoryview) -> ChatRequest:
            request = super().read(body)
            request.__class__ = BrokenRequest
            return request

    trial = ChatTrial(FakeResponse([completion()]))
    assert (await trial.send(ASK, dialect=BrokenChat())).body == completion()
    assert (trial.outcome, trial.counts[0]) == (("COMPLETED", 200, ""), "NONE")


async def test_a_provider_that_was_not_reached_bills_nothing() -> None:
    away = UnreachableError("away", code="upstream_unreachable")
    trial = ChatTrial(away, away)
    with pytest.raises(UnreachableError):
        await trial.ask()
    assert trial.counts[0] == "NONE"


async def test_events_that_come_together_leave_together() -> None:
    trial = ChatTrial(stream_answer(b"".join(EVENTS[:2]), b"".join(EVENTS[2:])))
    batches: list[list[bytes]] = []

    class Batches(Collected):
        async def write_events(self, events: Sequence[bytes]) -> None:
            batches.append(list(events))

    last = await trial.relay.answer(ASK_STREAM, dialect=CHAT, call=a_call(), reply=Batches())
    assert [*batches, list(last)] == [list(EVENTS[:2]), list(EVENTS[2:])]


class _Silent(FakeResponse):
    """Waits for ``gate`` before its body."""

    def __init__(self, pieces: Sequence[bytes | BaseException], *, gate: asyncio.Event, status: int = 200) -> None:
        super().__init__(pieces, status=status, content_type="text/event-stream")
        self._gate = gate

    async def _next(self) -> bytes | None:
        await self._gate.wait()
        return await super()._next()


class _Commented(Collected):
    """A reply that has comments; ``commented`` is set when one was written."""

    def __init__(self) -> None:
        super().__init__()
        self.commented = asyncio.Event()

    async def keep_alive(self) -> bool:
        await self.write(KEEP_ALIVE)
        self.commented.set()
        return True


@pytest.mark.parametrize(
    ("pieces", "status", "outcome"),
    [
        (EVENTS, 200, ("COMPLETED", 200, "")),
        ([_CUT], 200, ("UPSTREAM_CUT", 200, "upstream_cut")),
        ([b'{"error":{"message":"hushed"}}'], 429, ("COMPLETED", 429, "upstream_refused")),
        ([b'{\n  "error": {\r\n    "message": "hushed"\n  }\n}\n'], 429, ("COMPLETED", 429, "upstream_refused")),
    ],
    ids=["answer", "cut", "refused", "refused in lines"],
)
async def test_a_silent_stream_is_kept_alive_before_it_begins(
    pieces: Sequence[bytes | BaseException], status: int, outcome: tuple[str, int, str]
) -> None:
    gate = asyncio.Event()
    trial = ChatTrial(_Silent(pieces, gate=gate, status=status), keep_alive=every(0.001))
    reply = _Commented()
    answering = asyncio.ensure_future(trial.relay.answer(ASK_STREAM, dialect=CHAT, call=a_call(), reply=reply))
    await reply.commented.wait()
    gate.set()
    last = await answering
    body = reply.body(last).replace(KEEP_ALIVE, b"")
    assert trial.outcome == outcome
    if outcome[0] == "COMPLETED" and status == 200:
        assert body == b"".join(EVENTS)
    else:
        assert body.count(b"\n") == 2
        assert "error" in json.loads(body.removeprefix(b"data: "))
        assert b"hushed" not in body


async def test_an_error_event_is_passed_on_without_secrets_and_ends_the_stream() -> None:
    trial = ChatTrial(stream_answer(EVENTS[1], event({"error": {"message": "hushed is out"}}), *EVENTS))
    got = await trial.ask(ASK_STREAM)
    assert got.pieces == [EVENTS[1], event({"error": {"message": "*** is out"}})]
    assert trial.outcome == ("UPSTREAM_CUT", 200, "upstream_error")
    assert trial.counts == ("ESTIMATED", 2, 0, 0, 1, 0, 3)
    assert trial.record.bytes_out == len(got.body)


@pytest.mark.parametrize("nothing", [None, {}, "", False])
async def test_an_error_that_says_nothing_does_not_end_the_stream(nothing: Any) -> None:
    odd = event({"choices": [{"delta": {"content": "hushed"}}], "error": nothing})
    trial = ChatTrial(stream_answer(odd, *EVENTS))
    got = await trial.ask(ASK_STREAM)
    assert got.pieces == [odd, *EVENTS]
    assert trial.outcome == ("COMPLETED", 200, "")


async def test_events_of_unknown_shape_and_comments_are_passed_on() -> None:
    odd = [b": OPENROUTER PROCESSING\n\n", b"data: [1]\n\n", event({"choices": "none"}), KEEP_ALIVE]
    trial = ChatTrial(stream_answer(EVENTS[1], *odd, *EVENTS))
    assert (await trial.ask(ASK_STREAM)).pieces == [EVENTS[1], *odd, *EVENTS]
    assert trial.outcome == ("COMPLETED", 200, "")
    assert trial.counts == COUNTED


async def test_what_makes_sdks_fail_is_not_passed_on() -> None:
    trial = ChatTrial(
        stream_answer(b"retry: 5\n\n", b"id: 7\n" + EVENTS[0], b"data:\n\n", b"event: ping\n\n", *EVENTS[1:])
    )
    assert (await trial.ask(ASK_STREAM)).pieces == list(EVENTS)


async def test_a_comment_is_not_the_first_byte_of_an_answer() -> None:
    trial = ChatTrial(stream_answer(KEEP_ALIVE, _CUT))
    with pytest.raises(UpstreamFailed):
        await trial.ask(ASK_STREAM)
    assert trial.record.first_byte_ms == 0


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", "TEXT/EVENT-STREAM"])
async def test_a_stream_under_another_name_is_still_a_stream(content_type: str) -> None:
    trial = ChatTrial(stream_answer(*EVENTS, content_type=content_type))
    got = await trial.ask(ASK_STREAM)
    assert (got.content_type, got.pieces) == ("text/event-stream", list(EVENTS))


async def test_a_json_answer_to_a_stream_request_is_an_error_and_no_silent_nothing() -> None:
    trial = ChatTrial(FakeResponse([completion()]))
    with pytest.raises(UpstreamMalformed):
        await trial.ask(ASK_STREAM)
    assert trial.outcome == ("FAILED", 502, "upstream_malformed")
    assert trial.counts == COUNTED


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UnreachableError("away", code="upstream_unreachable"), ("FAILED", 502, "upstream_unreachable")),
        (Unavailable("none", code="no_provider"), ("FAILED", 503, "no_provider")),
    ],
)
async def test_a_provider_that_is_not_there_is_an_error_with_an_event(
    error: Exception, outcome: tuple[str, int, str]
) -> None:
    trial = ChatTrial(error, error)
    with pytest.raises(type(error)):
        await trial.ask()
    assert trial.outcome == outcome


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"model":"m","messages":"text"}'])
async def test_wrong_input_is_refused_without_a_provider_and_leaves_an_event(body: bytes) -> None:
    trial = ChatTrial()
    with pytest.raises(InvalidRequest):
        await trial.ask(body)
    assert trial.client.bodies == []
    assert trial.outbox.intents == []
    assert trial.outcome[:2] == ("FAILED", 400)
    assert (len(trial.record.attempts), trial.record.bytes_in) == (0, len(body))


async def test_a_body_over_the_limit_is_refused_without_a_provider() -> None:
    trial = ChatTrial()
    with pytest.raises(PayloadTooLarge):
        await trial.ask(ASK + b" " * (MAX_BODY_BYTES - len(ASK) + 1))
    assert trial.outcome == ("FAILED", 413, "payload_too_large")
    trial = ChatTrial(FakeResponse([completion()]))
    assert (await trial.ask(ASK + b" " * (MAX_BODY_BYTES - len(ASK)))).status == 200


async def test_what_cannot_be_put_on_record_does_not_reach_the_provider() -> None:
    trial = ChatTrial(FakeResponse([completion()]), outbox=RefusingOutbox(Unavailable("full"), intents=True))
    with pytest.raises(Unavailable):
        await trial.ask()
    assert trial.client.bodies == []


async def test_an_event_that_cannot_be_put_on_record_is_told_to_the_caller() -> None:
    refusing = RefusingOutbox(Unavailable("The disk is full.", code="outbox_failed"), events=True)
    with pytest.raises(Unavailable):
        await ChatTrial(FakeResponse([completion()]), outbox=refusing).ask()
    got = await ChatTrial(stream_answer(*EVENTS), outbox=refusing).ask(ASK_STREAM)
    assert got.pieces[:-1] == list(EVENTS[:-1])
    assert error_of(got.pieces[-1])["code"] == "outbox_failed"
    got = await ChatTrial(stream_answer(EVENTS[1], _CUT), outbox=refusing).ask(ASK_STREAM)
    assert error_of(got.pieces[-1])["code"] == "upstream_cut"


async def test_openais_own_headers_reach_the_provider_and_the_callers_credentials_do_not() -> None:
    trial = ChatTrial(FakeResponse([completion()]))
    metadata = {
        "openai-organization": "org",
        "openai-project": "proj",
        "openai-beta": "assistants=v2",
        "authorization": "Bearer tp_secret",
        "x-api-key": "tp_secret",
        "cookie": "a=b",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    await trial.ask(metadata=metadata)
    assert trial.client.headers[0] == {
        "content-type": "application/json",
        "authorization": "Bearer hushed",
        "openai-organization": "org",
        "openai-project": "proj",
        "openai-beta": "assistants=v2",
        "traceparent": metadata["traceparent"],
        "x-request-id": "req-1",
    }


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("it waits for something")


def _cut_at(stream: bytes, places: list[int]) -> list[bytes]:
    inner = sorted(place % (len(stream) + 1) for place in places)
    return [stream[start:end] for start, end in zip([0, *inner], [*inner, len(stream)], strict=True)]


_returns = [event_.replace(b"\n", b"\r\n") for event_ in EVENTS]


@given(
    st.lists(st.integers(0, 10_000), max_size=40),
    st.sampled_from([b"".join(EVENTS), b"".join(_returns), b": hi\n\n" + b"".join(EVENTS)]),
)
def test_any_chunking_of_an_answer_gives_the_same_text_counts_and_one_terminator(
    places: list[int], stream: bytes
) -> None:
    trial = ChatTrial(stream_answer(*_cut_at(stream, places)))
    got = finished(trial.ask(ASK_STREAM))
    assert got.body.replace(b": hi\n\n", b"") == b"".join(EVENTS)
    assert got.pieces.count(DONE) == 1
    assert got.pieces[-1] == DONE
    assert trial.outcome == ("COMPLETED", 200, "")
    assert trial.counts == COUNTED


@given(st.integers(0, len(b"".join(EVENTS)) - 1), st.lists(st.integers(0, 10_000), max_size=10))
def test_an_answer_that_is_cut_at_any_byte_ends_once_and_says_so(end: int, places: list[int]) -> None:
    stream = b"".join(EVENTS)[:end]
    trial = ChatTrial(stream_answer(*_cut_at(stream, places), _CUT))
    whole = [event_ for number, event_ in enumerate(EVENTS) if len(b"".join(EVENTS[: number + 1])) <= end]
    if len(whole) < 2:
        with pytest.raises(UpstreamFailed):
            finished(trial.ask(ASK_STREAM))
        assert trial.outcome == ("UPSTREAM_CUT", 502, "upstream_cut")
        return
    got = finished(trial.ask(ASK_STREAM))
    assert got.pieces[:-1] == whole
    assert error_of(got.pieces[-1])["code"] == "upstream_cut"
    assert trial.outcome == ("UPSTREAM_CUT", 200, "upstream_cut")


@types.coroutine
def pause() -> Generator[None, None, None]:
    """Suspend whoever awaits it, without an event loop."""
    yield


class SlowAnswer(FakeResponse):
    """Suspends before each piece, and before its end."""

    async def _next(self) -> bytes | None:
        await pause()
        return await super()._next()


class SlowReply(Collected):
    """Suspends before each piece."""

    async def write(self, piece: bytes) -> None:
        await pause()
        await super().write(piece)


async def read_slowly(trial: ChatTrial, body: bytes) -> None:
    await trial.relay.answer(body, dialect=CHAT, call=a_call(), reply=SlowReply())


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("steps", range(1, 14))
def test_a_caller_who_leaves_at_any_point_leaves_one_event(steps: int, stream: bool) -> None:  # noqa: FBT001
    parts = EVENTS if stream else [completion()[:50], completion()[50:]]
    answer = SlowAnswer(parts, content_type="text/event-stream" if stream else "application/json")
    trial = ChatTrial(answer)
    reading = read_slowly(trial, ASK_STREAM if stream else ASK)
    try:
        for _ in range(steps):
            reading.send(None)
    except StopIteration:
        assert trial.outcome == ("COMPLETED", 200, "")
        return
    with pytest.raises(asyncio.CancelledError):
        reading.throw(asyncio.CancelledError())
    assert answer.closed
    if trial.record.outcome is Outcome.COMPLETED:
        # The last piece was on its way: the event was on record before.
        assert trial.outcome == ("COMPLETED", 200, "")
        assert trial.counts == COUNTED
    else:
        assert trial.outcome == ("CLIENT_GONE", 499, "client_gone")
        assert trial.counts[0] in ("PROVIDER", "ESTIMATED")


@pytest.mark.parametrize("taken", range(len(EVENTS)))
@pytest.mark.parametrize("more", [b"", b": and more"], ids=["complete", "not complete"])
async def test_a_caller_who_takes_no_further_piece_leaves_one_event(taken: int, more: bytes) -> None:
    answer = stream_answer(*EVENTS, *([more] if more else []))
    trial = ChatTrial(answer)

    class Leaving(Collected):
        async def write(self, piece: bytes) -> None:
            if len(self.pieces) == taken:
                raise asyncio.CancelledError
            await super().write(piece)

    last = len(EVENTS) - 1
    if taken == last and not more:
        # The last piece is not written: it leaves with the status.
        assert await trial.relay.answer(ASK_STREAM, dialect=CHAT, call=a_call(), reply=Leaving()) == [DONE]
    else:
        with pytest.raises(asyncio.CancelledError):
            await trial.relay.answer(ASK_STREAM, dialect=CHAT, call=a_call(), reply=Leaving())
    assert answer.closed
    assert trial.outcome == (("COMPLETED", 200, "") if taken == last else ("CLIENT_GONE", 499, "client_gone"))
    # The first event, which has no content, leaves with the second.
    assert trial.record.bytes_out == len(b"".join(EVENTS[: max(taken, 1) + 1]))


def test_a_caller_who_leaves_a_stream_of_unreadable_messages_is_still_a_caller_who_left() -> None:
    body = b'{"model":"m","messages":[{"content":"\xff"}],"stream":true}'
    trial = ChatTrial(SlowAnswer(EVENTS, content_type="text/event-stream"))
    reading = read_slowly(trial, body)
    for _ in range(4):
        reading.send(None)
    with pytest.raises(asyncio.CancelledError):
        reading.throw(asyncio.CancelledError())
    assert trial.outcome == ("CLIENT_GONE", 499, "client_gone")
