"""What the tests of the Chroma service share: a real Chroma, a running service, and users by their ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import grpc
import httpx
from google.api.httpbody_pb2 import HttpBody
from pydantic import SecretStr

from common.background import Health
from common.errors import Unauthenticated
from common.identity.principal import Kind, Principal
from common.metering.account import Meter
from common.serving.run import Process, server_of
from common.settings import ServiceSettings
from common.telemetry import Telemetry
from common.upstream.http import HttpClient, Timers
from services.chroma.__main__ import service_of
from services.chroma.core import Chroma
from services.chroma.store import HttpStore, Store
from tests.common.metering.fake_outbox import FakeOutbox
from tests.e2e.stack import bounded
from tests.tied import tied
from turnpike.chroma.v1 import chroma_http_pb2_grpc, chroma_pb2, chroma_pb2_grpc

SEPARATOR: Final = "__"
DATABASES: Final = "/api/v2/tenants/default_tenant/databases"
TIMERS: Final = Timers(connect_timeout_seconds=2, first_byte_timeout_seconds=20, chunk_timeout_seconds=20)
_SERVICE_KEY: Final = SecretStr("the services' own key, for tests")
_READY_SECONDS: Final = 30.0


@contextmanager
def real_chroma(directory: Path, *, port: int) -> Iterator[str]:
    """Run a real Chroma server with its data in ``directory``; yields its URL."""
    url = f"http://127.0.0.1:{port}"
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(directory / "data")]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            tied([*command, "--host", "127.0.0.1", "--port", str(port)]), env=environment, stdout=log, stderr=log
        )
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    with httpx.Client(trust_env=False) as client:
        for _ in bounded(_READY_SECONDS):
            assert process.poll() is None, "Chroma ended"
            try:
                if client.get(f"{url}/api/v2/heartbeat").status_code == 200:
                    return
            except httpx.TransportError:
                continue
    raise AssertionError("Chroma did not start")


class AuthenticatorOfUsers:
    """Takes a credential that ``credential_of`` made for the user whom it names."""

    async def authenticate(self, credential: str) -> Principal:
        """Return the user; raises Unauthenticated."""
        kind, _, user = credential.partition("-")
        try:
            user_id = bytes.fromhex(user).decode("utf-8", "surrogatepass")
            return Principal(Kind(kind), user_id=user_id, scopes=frozenset({"chroma"}))
        except ValueError:
            raise Unauthenticated("The credential is not known.") from None


def credential_of(user_id: str, *, kind: Kind = Kind.API_TOKEN) -> str:
    """Return a user's credential."""
    return f"{kind.value}-{user_id.encode('utf-8', 'surrogatepass').hex()}"


@dataclass(frozen=True)
class Answer:
    """An answer as an HTTP client would get it."""

    status: int
    body: bytes
    head: Mapping[str, str]

    @property
    def content(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


class Service:
    """A running service; ``ask`` goes through one of its faces."""

    def __init__(self, channel: grpc.aio.Channel, outbox: FakeOutbox, port: int) -> None:
        self.typed = chroma_pb2_grpc.ChromaServiceStub(channel)
        self.http = chroma_http_pb2_grpc.ChromaHttpServiceStub(channel)
        self.outbox = outbox
        self.port = port

    async def ask(self, user_id: str, method: str, path: str, content: Any = None, *, over: str = "http") -> Answer:
        """Ask as a user; ``content`` is bytes, or what becomes JSON."""
        body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        metadata = {"authorization": f"Bearer {credential_of(user_id)}"}
        if over == "http":
            return await self.over_http(method, path, body, metadata=metadata)
        request = chroma_pb2.ForwardRequest(method=method, path=path, body=body)
        call = self.typed.Forward(request, metadata=tuple(metadata.items()))
        answer = await call
        return Answer(answer.status, answer.body, _texts(await call.initial_metadata()))

    async def over_http(
        self, method: str, path: str, body: bytes = b"", *, metadata: Mapping[str, str] = MappingProxyType({})
    ) -> Answer:
        """Ask as Envoy does, and make of the RPC what Envoy's edge filter makes of it."""
        line = {"x-envoy-original-path": f"/v1/chroma{path}", "x-envoy-original-method": method}
        call = self.http.Forward(HttpBody(data=body), metadata=tuple({**line, **metadata}.items()))
        try:
            pieces = [piece.data async for piece in call]
        except grpc.aio.AioRpcError as error:
            trailers = _texts(error.trailing_metadata())
            return Answer(int(trailers["x-http-status"]), trailers["x-error-body"].encode(), trailers)
        head = _texts(await call.initial_metadata())
        return Answer(int(head.get("x-http-status", "200")), b"".join(pieces), head)


def _texts(metadata: Any) -> dict[str, str]:
    return {name: value for name, value in metadata or () if isinstance(value, str)}


@asynccontextmanager
async def running_service(
    store: Store, *, separator: str = SEPARATOR, tenant_per_user: bool = True
) -> AsyncIterator[Service]:
    """Run the service in front of a store, as __main__ wires it."""
    outbox = FakeOutbox()
    telemetry = Telemetry("chroma")
    chroma = Chroma(
        store,
        meter=Meter(outbox, service="chroma", telemetry=telemetry),
        separator=separator,
        tenant_per_user=tenant_per_user,
    )
    parts = service_of(chroma, authenticator=AuthenticatorOfUsers())
    settings = ServiceSettings(service_key=_SERVICE_KEY, log_level="warning")
    server = server_of(parts, settings=settings, process=Process(telemetry, Health()))
    port = await server.start("127.0.0.1:0")
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield Service(channel, outbox, port)
    await server.stop(grace_seconds=0)


@asynccontextmanager
async def service_before(url: str, *, timers: Timers = TIMERS, **options: Any) -> AsyncIterator[Service]:
    """Run the service in front of the Chroma at ``url``; ``options`` are HttpStore's."""
    async with HttpClient(timers=timers) as http:
        store = HttpStore(http, base_url=url, **{"headers": {}, **options})
        async with running_service(store) as service:
            yield service
