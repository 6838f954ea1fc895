"""Turns every exception into a status: canonical over gRPC, an error envelope over HTTP."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from common.errors import Internal, TurnpikeError, row
from common.request import Call
from common.serving.interceptor import Context, Proceed
from common.serving.routes import ErrorBody, Route

_log = structlog.get_logger(__name__)
_DOMAIN: Final = "turnpike"
# A message travels three times in the trailers, escaped up to sixfold, and clients take no more than 8 KiB of them.
_MESSAGE_BYTES: Final = 600
# A provider's errors bring codes and params of any length and with any characters.
_NAME_BYTES: Final = 100


class ErrorInterceptor:
    """Answers for whatever the rest of the chain raises; an unexpected exception shows as INTERNAL only."""

    async def __call__(self, route: Route, call: Call, context: Context, proceed: Proceed) -> Any:
        """Serve the call; end it with the raised error's status."""
        try:
            return await proceed(call, context)
        except TurnpikeError as error:
            await abort(call, context, error, body=route.error_body)
        except (grpc.aio.AbortError, grpc.aio.BaseError):
            raise
        except Exception:  # noqa: BLE001 - the last line of defence; logged with its trace
            _log.exception("unexpected error", rpc=call.rpc, request_id=call.request_id)
            internal = Internal("The gateway failed to serve this request.")
            await abort(call, context, internal, body=route.error_body)


async def abort(call: Call, context: Context, error: TurnpikeError, *, body: ErrorBody) -> NoReturn:
    """End the call with the error's status, and with its HTTP body in a trailer."""
    entry = row(error)
    error.message = _shortened(error.message, at_most=_MESSAGE_BYTES)
    error.code = _printable(error.code)
    error.param = _printable(error.param)
    code = grpc.StatusCode[entry.grpc]
    call.status = entry.http_status
    reason = error.code or entry.code
    info = ErrorInfo(reason=reason.upper(), domain=_DOMAIN, metadata={"type": entry.type})
    if error.param:
        info.metadata["param"] = error.param
    detail = AnyMessage()
    detail.Pack(info)
    status = Status(code=code.value[0], message=error.message, details=[detail])
    # Envoy's edge filter makes the HTTP answer from the two x- trailers; gRPC clients read the third.
    await context.abort(
        code,
        error.message,
        (
            ("x-http-status", str(entry.http_status)),
            ("x-error-body", body(error).decode("ascii")),
            ("grpc-status-details-bin", status.SerializeToString()),
            ("x-request-id", call.request_id),
            *error.headers.items(),
        ),
    )
    raise AssertionError("abort returned")  # pragma: no cover - abort always raises


def _printable(name: str | None) -> str | None:
    """Return a code or a param as it may stand in a trailer."""
    if name is None:
        return None
    # Cut before, too, so that a name of megabytes is not looked through.
    kept = name[: _NAME_BYTES + 1]
    return _shortened("".join(character if character.isprintable() else "?" for character in kept), at_most=_NAME_BYTES)


def _shortened(text: str, *, at_most: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= at_most else data[: at_most - 3].decode("utf-8", "ignore") + "..."
