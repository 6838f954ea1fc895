"""The HTTP routes of the sandbox.

They stand where other services have their servicer, because a provider speaks HTTP and not gRPC.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol
from uuid import uuid4

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from services.sandbox.checks import Refused, json_object
from services.sandbox.core import answer
from services.sandbox.delivery import Delivery, Sleep
from services.sandbox.dialects import mistral, mistral_answer, openai, openai_answer
from services.sandbox.documents import fetch, read_document
from services.sandbox.faults import Faults, read_faults
from services.sandbox.schema import UnsatisfiableError
from services.sandbox.script import Headers, Script
from services.sandbox.store import Entry, Ledger

MAX_BODY_BYTES: Final = 64 * 1024 * 1024

_CREDENTIALS: Final = ("authorization", "proxy-authorization", "x-api-key", "api-key", "x-chroma-token", "cookie")
_MAX_REQUEST_ID_LENGTH: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the routes work with.

    `now` is in seconds since 1970; `event_delay_seconds` is for streams that ask for no delay of their own.
    """

    ledger: Ledger
    sleep: Sleep = asyncio.sleep
    now: Callable[[], float] = time.time
    event_delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """A request as it came; `began` is in seconds since 1970."""

    body: Mapping[str, Any]
    raw: bytes
    headers: Mapping[str, str]
    began: float


class HeadersOf(Protocol):
    """Makes the headers of an answer; `remaining` is False where the caller has used up its rate limit."""

    def __call__(self, parts: Parts, *, began: float, remaining: bool) -> Headers:
        """Return the headers."""


class RefusalScript(Protocol):
    """Makes the script of the answer to a request that is not valid."""

    def __call__(self, refused: Refused, *, headers: Headers) -> Script:
        """Return the script."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a provider answers: to what it can serve, and to what it refuses."""

    answer: Callable[[ReceivedRequest, Parts], Awaitable[tuple[Script, Faults]]]
    refuse: RefusalScript
    headers: HeadersOf


def create_app(parts: Parts) -> FastAPI:
    """Make the application; it must be served by `server.make_server`."""
    app = FastAPI(title="Turnpike sandbox", docs_url=None, redoc_url=None, openapi_url=None)
    _add_error_handlers(app)
    _add_control_routes(app, ledger=parts.ledger)
    chat = Dialect(answer=_openai_answer, refuse=openai_answer.refusal_script, headers=_openai_headers)
    ocr = Dialect(answer=_mistral_answer, refuse=mistral_answer.refusal_script, headers=_mistral_headers)

    @app.post("/v1/chat/completions", response_model=None)
    async def complete_chat(request: Request) -> Response:
        return await _serve(request, parts=parts, dialect=chat)

    @app.post("/v1/ocr", response_model=None)
    async def read_pages(request: Request) -> Response:
        return await _serve(request, parts=parts, dialect=ocr)

    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        message = f"Invalid URL ({request.method} {request.url.path})"
        return JSONResponse(_envelope(message), status_code=error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_wrong_query(_: Request, error: RequestValidationError) -> Response:
        wrong = error.errors()[0]
        return JSONResponse(_envelope(str(wrong["msg"]), param=str(wrong["loc"][-1])), status_code=400)


def _add_control_routes(app: FastAPI, *, ledger: Ledger) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/sandbox/ledger", response_model=None)
    async def read_ledger(
        request_id: str | None = None,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    ) -> Response:
        found = await ledger.read(request_id, after=after, limit=limit + 1)
        page = {"data": found[:limit], "has_more": len(found) > limit}
        return Response(msgspec.json.encode(page), media_type="application/json")

    @app.delete("/sandbox/ledger")
    async def clear_ledger() -> dict[str, bool]:
        await ledger.clear()
        return {"deleted": True}


async def _serve(request: Request, *, parts: Parts, dialect: Dialect) -> Response:
    began = parts.now()
    try:
        raw = await _body(request)
        body = json_object(raw)
        refused = None
    except ClientDisconnect:
        return Response(status_code=400)
    except Refused as error:
        raw, body, refused = b"", {}, error
    entry = await _start(parts.ledger, request.headers, body=body)
    received = ReceivedRequest(body=body, raw=raw, headers=request.headers, began=began)
    faults = Faults()
    try:
        if refused is not None:
            raise refused
        script, faults = await dialect.answer(received, parts)
    except Refused as error:
        script = dialect.refuse(error, headers=dialect.headers(parts, began=began, remaining=True))
    if faults.event_delay_seconds is None:
        faults = msgspec.structs.replace(faults, event_delay_seconds=parts.event_delay_seconds)
    return Delivery(script, faults=faults, ledger=parts.ledger, entry=entry, sleep=parts.sleep)


async def _openai_answer(received: ReceivedRequest, parts: Parts) -> tuple[Script, Faults]:
    model = openai.read_model(received.body)
    faults = read_faults(received.body, model=model)
    identity = hashlib.sha256(received.raw).hexdigest()
    request = openai.read_chat(received.body, model=model, faults=faults, identity=identity)
    with _refused_schema():
        content = answer(request.question)
    frame = openai_answer.Frame(
        created=int(received.began),
        headers=_openai_headers(parts, began=received.began, remaining=faults.status != 429),
        sandbox=_echo(faults, received=received),
    )
    return openai_answer.answer_script(request, answer=content, frame=frame), faults


async def _mistral_answer(received: ReceivedRequest, parts: Parts) -> tuple[Script, Faults]:
    model = mistral.read_model(received.body)
    faults = read_faults(received.body, model=model)
    request = mistral.read_ocr(received.body, model=model)
    headers = _mistral_headers(parts, began=received.began, remaining=faults.status != 429)
    if faults.status is not None:
        return mistral_answer.fault_script(faults, status=faults.status, headers=headers), faults
    data = await fetch(request.url)
    # A PDF of a thousand pages takes seconds, in which others want to be served.
    document = await asyncio.to_thread(read_document, data, is_image=request.is_image, choose=request.choose)
    with _refused_schema():
        script = mistral_answer.ocr_script(
            request, document=document, faults=faults, headers=headers, echo=_echo(faults, received=received)
        )
    return script, faults


@contextmanager
def _refused_schema() -> Iterator[None]:
    try:
        yield
    except (UnsatisfiableError, RecursionError) as error:
        raise Refused(f"Invalid schema: {error}.", code="invalid_json_schema") from error


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Refused(f"The body is larger than {MAX_BODY_BYTES} bytes.", status=413, code="request_too_large")
        parts.append(part)
    return b"".join(parts)


async def _start(ledger: Ledger, headers: Mapping[str, str], *, body: Mapping[str, object]) -> Entry:
    request_id, model = headers.get("x-request-id"), body.get("model")
    return await ledger.start(
        request_id=None if request_id is None else request_id[:_MAX_REQUEST_ID_LENGTH],
        model=model if isinstance(model, str) else None,
        stream=body.get("stream") is True,
    )


def _openai_headers(parts: Parts, *, began: float, remaining: bool) -> Headers:
    return (
        ("x-request-id", f"req_{uuid4().hex}"),
        ("openai-processing-ms", str(max(0, round((parts.now() - began) * 1000)))),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-limit-tokens", "2000000"),
        ("x-ratelimit-remaining-requests", "9999" if remaining else "0"),
        ("x-ratelimit-remaining-tokens", "1999999" if remaining else "0"),
        ("x-ratelimit-reset-requests", "6ms"),
        ("x-ratelimit-reset-tokens", "0s"),
    )


def _mistral_headers(parts: Parts, *, began: float, remaining: bool) -> Headers:
    return (
        ("mistral-correlation-id", str(uuid4())),
        ("x-envoy-upstream-service-time", str(max(0, round((parts.now() - began) * 1000)))),
        ("x-ratelimit-limit-req-minute", "60"),
        ("x-ratelimit-remaining-req-minute", "59" if remaining else "0"),
    )


def _echo(faults: Faults, *, received: ReceivedRequest) -> dict[str, object] | None:
    echo: dict[str, object] = {}
    if faults.echo_headers:
        echo["headers"] = {name.lower(): _shown(name.lower(), value=value) for name, value in received.headers.items()}
    if faults.echo_body:
        echo["body"] = msgspec.Raw(received.raw)
    return echo or None


def _shown(name: str, *, value: str) -> str:
    if name not in _CREDENTIALS:
        return value
    scheme, space, credential = value.rpartition(" ")
    return f"{scheme}{space}{credential[:4]}"


def _envelope(message: str, *, param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}
