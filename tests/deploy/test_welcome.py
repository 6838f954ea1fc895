"""The token is kept, the variables can be sourced, and the welcome fits what runs."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
from collections.abc import Awaitable, Sequence
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from deploy.local.config import LocalSettings
from deploy.local.demo import demo_token, wait_for_gateway
from deploy.local.health import grpc_serving, http_ok, wait_for
from deploy.local.welcome import last_lines, say_what_is_missing, shell_variables, welcome


class FakeGateway:
    """Holds API tokens as auth would, behind the same JSON."""

    def __init__(self, *, failures: int = 0, accepts: bool = True) -> None:
        self.tokens: list[dict[str, str]] = []
        self.asked = 0
        self._failures = failures
        self._accepts = accepts

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self._failures:
            self._failures -= 1
            return httpx.Response(503)
        if not self._accepts or request.headers.get("authorization") != "Bearer the-jwt":
            return httpx.Response(401)
        if request.method == "GET":
            return httpx.Response(200, json={"data": self.tokens})
        assert json.loads(request.content) == {"name": "demo"}
        token = f"tp_secret{len(self.tokens)}"
        self.tokens.append({"id": str(len(self.tokens)), "prefix": token})
        return httpx.Response(200, json={**self.tokens[-1], "token": token})


async def token_from(gateway: FakeGateway, kept: Path) -> str | None:
    transport = httpx.MockTransport(gateway)
    async with httpx.AsyncClient(base_url="http://gateway.test", transport=transport) as client:
        return await demo_token(client, jwt="the-jwt", kept=kept)


class TestToken:
    async def test_it_is_made_once_and_kept_privately(self, tmp_path: Path) -> None:
        gateway, kept = FakeGateway(), tmp_path / "token"
        first = await token_from(gateway, kept)
        assert first == "tp_secret0"
        assert await token_from(gateway, kept) == first
        assert len(gateway.tokens) == 1
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    async def test_a_revoked_one_is_replaced(self, tmp_path: Path) -> None:
        gateway, kept = FakeGateway(), tmp_path / "token"
        kept.write_text("tp_revoked\n")
        assert await token_from(gateway, kept) == "tp_secret0"
        assert kept.read_text() == "tp_secret0\n"

    async def test_one_that_will_expire_is_replaced(self, tmp_path: Path) -> None:
        gateway, kept = FakeGateway(), tmp_path / "token"
        await token_from(gateway, kept)
        gateway.tokens[0]["expires_at"] = "2027-01-01T00:00:00Z"
        assert await token_from(gateway, kept) == "tp_secret1"

    async def test_a_gateway_that_is_not_quite_up_is_asked_again(self) -> None:
        gateway = FakeGateway(failures=2)
        async with httpx.AsyncClient(base_url="http://gateway.test", transport=httpx.MockTransport(gateway)) as client:
            await wait_for_gateway(client)
        assert gateway.asked == 3

    async def test_no_token_when_the_jwt_is_not_accepted(self, tmp_path: Path) -> None:
        assert await token_from(FakeGateway(accepts=False), tmp_path / "token") is None
        assert not (tmp_path / "token").exists()


class Ticks:
    """Stands for sleeping: each call takes a permit, and moves the clock on."""

    def __init__(self, *, permits: int) -> None:
        self.seconds = 0.0
        self.used_up = asyncio.Event()
        self._permits = permits

    def now(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        if not self._permits:
            self.used_up.set()
            await asyncio.Event().wait()
        self._permits -= 1
        self.seconds += seconds


async def healthy(waits: dict[str, Awaitable[None]]) -> None:
    async with asyncio.timeout(30):
        await wait_for(waits, report=lambda *_: None)


class TestHealth:
    async def test_it_waits_for_as_long_as_it_takes_and_says_for_what(self) -> None:
        late, never_first = asyncio.Event(), Ticks(permits=100)
        said: list[tuple[list[str], float]] = []

        def report(names: Sequence[str], seconds: float) -> None:
            said.append((list(names), seconds))

        waits: dict[str, Awaitable[None]] = {"usage": _come(late), "auth": asyncio.sleep(0), "chat": _come(late)}
        waiting = asyncio.create_task(wait_for(waits, report=report, sleep=never_first.sleep, now=never_first.now))
        await never_first.used_up.wait()
        assert not waiting.done()
        late.set()
        await waiting
        # 500 seconds, in which a stack on a busy machine came up.
        assert said[1:] == [(["chat", "usage"], 5.0 * number) for number in range(2, 101)]

    async def test_a_server_that_serves_is_healthy(self) -> None:
        server = grpc.aio.server()
        health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await server.start()
        waiting = asyncio.create_task(healthy({"one": grpc_serving(port)}))
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        await waiting
        await server.stop(None)

    async def test_http_waits_for_200(self) -> None:
        answers = iter([503, 200])
        transport = httpx.MockTransport(lambda _: httpx.Response(next(answers)))
        async with httpx.AsyncClient(transport=transport) as client:
            await healthy({"sandbox": http_ok(client, "http://sandbox.test/health")})


async def _come(event: asyncio.Event) -> None:
    await event.wait()


class TestText:
    def test_variables_survive_a_shell(self, tmp_path: Path) -> None:
        (tmp_path / "env").write_text(shell_variables("http://127.0.0.1:8080", token="tp_a'b $x", jwt="a.b.c"))
        command = '. ./env && printf \'%s|%s|%s\' "$TURNPIKE_URL" "$TURNPIKE_TOKEN" "$TURNPIKE_JWT"'
        printed = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert printed.stdout == "http://127.0.0.1:8080|tp_a'b $x|a.b.c"

    def test_variables_without_a_value_are_left_out(self) -> None:
        assert (
            shell_variables("http://127.0.0.1:8080", token=None, jwt=None)
            == "export TURNPIKE_URL=http://127.0.0.1:8080\n"
        )

    def test_the_commands_are_valid_shell_and_json(self, tmp_path: Path) -> None:
        text = welcome(LocalSettings(state_dir=tmp_path), token="tp_token")
        pasted = text.split("another terminal:")[1].split("Python, with")[0]
        # A curl that prints its arguments shows what would be sent.
        script = f"curl() {{ printf '%s\\n' \"$@\"; }}\n{pasted.replace('source', 'true')}"
        run = subprocess.run(
            ["sh", "-eu", "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"TURNPIKE_URL": "http://gateway.test", "TURNPIKE_TOKEN": "tp_token"},
        )
        bodies = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
        assert [body.get("stream") for body in bodies] == [None, True]
        assert {body["model"] for body in bodies} == {"sandbox"}
        assert run.stdout.splitlines().count("http://gateway.test/v1/chat/completions") == 2
        assert "http://gateway.test/v1/usage?hours=1" in run.stdout

    def test_the_python_lines_compile(self, tmp_path: Path) -> None:
        text = welcome(LocalSettings(state_dir=tmp_path), token="tp_token")
        lines = text.split("OpenAI SDK:")[1].strip().splitlines()
        compile("\n".join(line.strip() for line in lines), "welcome", "exec")

    def test_a_providers_password_is_not_shown(self, tmp_path: Path) -> None:
        settings = LocalSettings(state_dir=tmp_path, openai_base_url="https://user:hidden@upstream.test/v1")
        text = welcome(settings, token=None)
        assert "hidden" not in text
        assert "upstream.test" in text
        assert '"model":"gpt-4o-mini"' in text

    def test_what_is_waited_for_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        say_what_is_missing(["chroma-server", "usage"], 35.2, logs=Path("/state/logs"))
        line = "turnpike: after 35 s still waiting for chroma-server, usage; logs are in /state/logs\n"
        assert capsys.readouterr().out == line

    def test_the_last_lines_of_a_log_are_shown(self, tmp_path: Path) -> None:
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "usage.log").write_text("first\n" + "line\n" * 50 + "the reason\n")
        text = last_lines(["usage", "envoy"], state=tmp_path)
        assert "the reason" in text
        assert "first" not in text
