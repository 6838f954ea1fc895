"""Each child finds what it reads in its environment, and no secret of another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from configparser import ConfigParser
from pathlib import Path
from types import MappingProxyType

import pytest

from deploy.local.config import LocalSettings
from deploy.local.environment import CHILDREN, Stack, child_environment, variables_of
from deploy.local.processes import Program, supervisor_config
from services.chat.config import ChatSettings
from services.sandbox.config import SandboxSettings

SECRETS = {
    "TURNPIKE_SERVICE_KEY": {"auth", "chat", "chroma", "ocr", "usage"},
    "TURNPIKE_JWT_SECRET": {"auth"},
    "TURNPIKE_AUTH_DATABASE_URL": {"auth"},
    "PROXY_API_KEY": {"auth"},
    "WORKER_API_KEY": {"auth"},
    "OPENAI_API_KEY": {"chat"},
    "MISTRAL_API_KEY": {"ocr"},
    "CHROMA_API_KEY": {"chroma"},
    "USAGE_API_KEY": {"usage"},
    "CLICKHOUSE_URL": {"usage"},
    "TURNPIKE_JWT": {"welcome"},
    "AWS_SECRET_ACCESS_KEY": set(),
    "GITHUB_TOKEN": set(),
}
OTHERS = {
    "HTTPS_PROXY": {"auth", "chat", "chroma", "ocr"},
    "https_proxy": {"auth", "chat", "chroma", "ocr"},
    "NO_PROXY": {"auth", "chat", "chroma", "ocr"},
    "no_proxy": {"auth", "chat", "chroma", "ocr"},
    "HTTP_PROXY": {"chat", "chroma", "ocr"},
    "http_proxy": {"chat", "chroma", "ocr"},
    "grpc_proxy": set(),
    "all_proxy": set(),
    "LOG_LEVEL": set(),
    "LISTEN": set(),
    "CLUSTER": set(),
    "STATE_DIR": set(),
    "OTEL_EXPORTER_OTLP_ENDPOINT": {"auth", "chat", "chroma", "ocr", "usage"},
    "TURNPIKE_LOG_LEVEL": {"auth", "chat", "chroma", "ocr", "usage"},
    "TURNPIKE_SANDBOX_EVENT_DELAY_SECONDS": {"sandbox"},
    "PATH": set(CHILDREN),
}


def made(
    child: str, user: Mapping[str, str] = MappingProxyType({}), *, sandbox: bool = True, chroma_server: bool = True
) -> dict[str, str]:
    stack = Stack(
        ports=LocalSettings().ports,
        state=Path("/state"),
        service_key="the key of the services",
        jwt_secret="the secret of the tokens",
        demo_jwt="the demo user's token",
        sandbox=sandbox,
        chroma_server=chroma_server,
    )
    return child_environment(child, user, stack=stack)


@pytest.mark.parametrize(("name", "children"), [*SECRETS.items(), *OTHERS.items()])
def test_a_variable_reaches_those_who_read_it(name: str, children: set[str]) -> None:
    value = "a value of the user's"
    known = {"TURNPIKE_SERVICE_KEY": "the key of the services", "TURNPIKE_JWT_SECRET": "the secret of the tokens"}
    known["TURNPIKE_JWT"] = "the demo user's token"
    value = known.get(name, value)
    assert {child for child in CHILDREN if value in made(child, {name: value}).values()} == children


def test_envoy_and_a_chroma_server_find_next_to_nothing() -> None:
    user = dict.fromkeys([*SECRETS, *OTHERS], "secret")
    assert set(made("envoy", user)) == {"PATH", "TZ"}
    assert set(made("chroma-server", user)) == {"PATH", "TZ", "ANONYMIZED_TELEMETRY"}
    assert set(made("sandbox", user)) == {
        "PATH",
        "TZ",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "TURNPIKE_SANDBOX_LISTEN",
        "TURNPIKE_SANDBOX_LEDGER_PATH",
        "TURNPIKE_SANDBOX_EVENT_DELAY_SECONDS",
    }


def test_addresses_and_directories_are_the_starters_to_say() -> None:
    chat = made("chat", {"TURNPIKE_CHAT_LISTEN": "0.0.0.0:1", "TURNPIKE_AUTH_ADDRESS": "elsewhere:1"})
    assert chat["TURNPIKE_CHAT_LISTEN"] == "127.0.0.1:18082"
    assert chat["TURNPIKE_AUTH_ADDRESS"] == made("auth")["TURNPIKE_AUTH_LISTEN"] == "127.0.0.1:18081"
    assert chat["TURNPIKE_STATE_DIR"] == "/state"
    assert made("sandbox")["TURNPIKE_SANDBOX_LEDGER_PATH"] == "/state/sandbox/ledger.jsonl"


def test_only_what_runs_is_told_of() -> None:
    assert made("chat")["TURNPIKE_SANDBOX_URL"] == made("ocr")["TURNPIKE_SANDBOX_URL"] == "http://127.0.0.1:18084/v1"
    assert "TURNPIKE_SANDBOX_URL" not in made("chat", sandbox=False)
    assert made("chroma")["CHROMA_BASE_URL"] == "http://127.0.0.1:18087"
    elsewhere = made("chroma", {"CHROMA_BASE_URL": "https://chroma.test"}, chroma_server=False)
    assert elsewhere["CHROMA_BASE_URL"] == "https://chroma.test"


def test_the_welcome_knows_that_there_is_a_key_and_not_which() -> None:
    assert made("welcome", {"OPENAI_API_KEY": "sk-secret"})["OPENAI_API_KEY"] == "hidden"
    assert "MISTRAL_API_KEY" not in made("welcome")
    # It waits for the Chroma server because none is named.
    assert "CHROMA_BASE_URL" not in made("welcome")


def test_authentication_is_required_unless_the_user_says_otherwise() -> None:
    assert made("auth")["API_AUTH_REQUIRED"] == "1"
    assert made("auth", {"API_AUTH_REQUIRED": "0"})["API_AUTH_REQUIRED"] == "0"


def test_running_calls_end_before_the_stack_kills_their_service() -> None:
    grace = float(made("chat", {"TURNPIKE_SHUTDOWN_GRACE_SECONDS": "600"})["TURNPIKE_SHUTDOWN_GRACE_SECONDS"])
    chat = Program("chat", ("true",), stop_last=1)
    config = ConfigParser(interpolation=None)
    config.read_string(supervisor_config([chat], state=Path("/state"), directory=Path("/")))
    assert config.getfloat("program:chat", "stopwaitsecs") > grace


def test_variables_follow_from_the_settings() -> None:
    assert {"OPENAI_BASE_URL", "OPENAI_API_BASE", "TURNPIKE_CHUNK_TIMEOUT_SECONDS"} <= variables_of(ChatSettings)
    assert "TURNPIKE_SANDBOX_LISTEN" in variables_of(SandboxSettings)


def test_a_python_child_starts_in_its_environment() -> None:
    command = [sys.executable, "-c", "import services.chat.config, turnpike.chat.v1.chat_pb2"]
    assert subprocess.run(command, cwd="/", env=made("chat"), check=False).returncode == 0
