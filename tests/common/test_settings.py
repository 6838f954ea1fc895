"""Settings: what each variable does, and what is said about a bad one."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import AliasChoices

from common.settings import ServiceSettings, Settings, load
from services.auth.config import AuthSettings
from services.chat.config import ChatSettings
from services.sandbox.config import SandboxSettings
from tests.architecture.source import modules
from tests.common.environment import environment

_REPOSITORY = Path(__file__).resolve().parents[2]
_KEY = {"TURNPIKE_SERVICE_KEY": "0123456789abcdef"}


def chat(**variables: str) -> ChatSettings:
    with environment(_KEY | variables):
        return load(ChatSettings)


def refusal(variables: Mapping[str, str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with environment(variables), pytest.raises(SystemExit) as ended:
        load(ChatSettings)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TURNPIKE_SERVICE_KEY", "too short"),
        ("TURNPIKE_LOG_LEVEL", "loud"),
        ("TURNPIKE_MAX_CONCURRENT_CALLS", "0"),
        ("TURNPIKE_MAX_CONCURRENT_CALLS", "many"),
        ("OPENAI_BASE_URL", "ftp://example.com"),
        ("OPENAI_BASE_URL", "http://example.com:port"),
        ("OPENAI_API_BASE", "ftp://example.com"),
        ("TURNPIKE_SANDBOX_URL", "http://"),
        ("TURNPIKE_CONNECT_TIMEOUT_SECONDS", "0"),
        ("TURNPIKE_FIRST_BYTE_TIMEOUT_SECONDS", "-1"),
        ("TURNPIKE_CHUNK_TIMEOUT_SECONDS", "soon"),
        ("TURNPIKE_TOTAL_TIMEOUT_SECONDS", "0"),
        ("TURNPIKE_KEEP_ALIVE_SECONDS", "0"),
        ("TURNPIKE_OUTBOX_MAX_BYTES", "1"),
        ("TURNPIKE_OUTBOX_INTERVAL_SECONDS", "0"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_its_variable_and_not_its_value(
    name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = refusal(_KEY | {name: value}, capsys)
    assert line.startswith(f"turnpike: {name} is wrong: ")
    assert "Value error" not in line
    if name == "TURNPIKE_SERVICE_KEY":
        assert value not in line


def test_a_missing_setting_is_one_line_that_names_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal({}, capsys) == ["turnpike: TURNPIKE_SERVICE_KEY is not set"]


def test_every_bad_setting_has_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = refusal({"TURNPIKE_LOG_LEVEL": "loud", "OPENAI_BASE_URL": "ftp://x"}, capsys)
    assert [line.split()[1] for line in lines] == ["TURNPIKE_SERVICE_KEY", "TURNPIKE_LOG_LEVEL", "OPENAI_BASE_URL"]


def test_a_prefixed_setting_is_named_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    with environment({"TURNPIKE_SANDBOX_EVENT_DELAY_SECONDS": "-1"}), pytest.raises(SystemExit):
        load(SandboxSettings)
    assert capsys.readouterr().err.startswith("turnpike: TURNPIKE_SANDBOX_EVENT_DELAY_SECONDS is wrong: ")


def test_a_service_with_a_bad_setting_ends_with_that_line_and_code_2() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "services.chat"],
        env={"PYTHONPATH": f"{_REPOSITORY}:{_REPOSITORY / 'gen'}", **_KEY, "OPENAI_BASE_URL": "ftp://example.com"},
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.splitlines() == ["turnpike: OPENAI_BASE_URL is wrong: is not an http or https URL"]


def test_an_empty_variable_counts_as_not_set() -> None:
    names = [
        "TURNPIKE_CHAT_LISTEN",
        "TURNPIKE_AUTH_ADDRESS",
        "TURNPIKE_STATE_DIR",
        "TURNPIKE_LOG_LEVEL",
        "TURNPIKE_MAX_CONCURRENT_CALLS",
        "OPENAI_BASE_URL",
        "OPENAI_API_BASE",
        "OPENAI_API_KEY",
        "TURNPIKE_SANDBOX_URL",
        "TURNPIKE_CHUNK_TIMEOUT_SECONDS",
        "TURNPIKE_OUTBOX_MAX_BYTES",
    ]
    # Price tables have no equality.
    unset, empty = (settings.model_dump(exclude={"prices"}) for settings in (chat(), chat(**dict.fromkeys(names, ""))))
    assert empty == unset


def test_an_empty_service_key_is_not_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal({"TURNPIKE_SERVICE_KEY": ""}, capsys) == ["turnpike: TURNPIKE_SERVICE_KEY is not set"]


@pytest.mark.parametrize(
    ("variables", "upstream"),
    [
        ({}, None),
        ({"TURNPIKE_SANDBOX_URL": "http://127.0.0.1:1"}, ("sandbox", "http://127.0.0.1:1/v1")),
        ({"OPENAI_API_KEY": "sk-1"}, ("openai", "https://api.openai.com/v1")),
        ({"OPENAI_API_KEY": "sk-1", "TURNPIKE_SANDBOX_URL": "http://s"}, ("openai", "https://api.openai.com/v1")),
        ({"OPENAI_BASE_URL": "http://a", "OPENAI_API_BASE": "http://b"}, ("openai", "http://a/v1")),
        ({"OPENAI_BASE_URL": "", "OPENAI_API_BASE": "http://b/v1/"}, ("openai", "http://b/v1")),
        ({"OPENAI_BASE_URL": "  "}, None),
    ],
)
def test_the_upstream_follows_from_what_is_set(variables: dict[str, str], upstream: tuple[str, str] | None) -> None:
    assert chat(**variables).upstream == upstream


def test_the_timers_are_those_of_the_variables() -> None:
    names = ("CONNECT_TIMEOUT", "FIRST_BYTE_TIMEOUT", "CHUNK_TIMEOUT", "TOTAL_TIMEOUT", "KEEP_ALIVE")
    timers = chat(**{f"TURNPIKE_{name}_SECONDS": str(number) for number, name in enumerate(names, 1)}).timers
    assert (
        timers.connect_timeout_seconds,
        timers.first_byte_timeout_seconds,
        timers.chunk_timeout_seconds,
        timers.total_timeout_seconds,
        timers.keep_alive_seconds,
    ) == (1, 2, 3, 4, 5)


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    settings = chat(OPENAI_API_KEY="sk-secret")
    assert "sk-secret" not in repr(settings)
    assert _KEY["TURNPIKE_SERVICE_KEY"] not in repr(settings)


def _all_settings() -> list[type[Settings]]:
    for module in modules("common", "services", "deploy"):
        if re.search(r"^class \w+\(.*Settings\b", module.text, re.MULTILINE):
            importlib.import_module(module.name)
    found, waiting = list[type[Settings]](), [Settings]
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1].__subclasses__()
    return [each for each in found if not each.__module__.startswith("tests")]


def _aliases(settings: type[Settings]) -> set[str]:
    aliases = (field.validation_alias for field in settings.model_fields.values())
    return {str(name) for alias in aliases for name in (alias.choices if isinstance(alias, AliasChoices) else [alias])}


def _read(settings: type[Settings], variables: Mapping[str, str]) -> dict[str, object]:
    with environment({**_KEY, **variables}):
        # Price tables have no equality.
        return settings().model_dump(exclude={"prices"})


def test_a_fields_own_name_in_the_environment_means_nothing() -> None:
    found = _all_settings()
    names = {name for settings in found for name in settings.model_fields}
    assert {"listen", "cluster", "state_dir", "log_level", "jwt_secret", "port"} <= names
    for settings in found:
        # MISTRAL_API_KEY is both. The text is one that no field takes as it is: whoever reads it fails, or differs.
        foreign = {
            spelling: "9" * 40
            for name in names
            if name.upper() not in _aliases(settings)
            for spelling in (name, name.upper())
        }
        assert _read(settings, foreign) == _read(settings, {}), settings


def test_every_settings_class_follows_the_rules_of_all_settings() -> None:
    kept = {"frozen": True, "extra": "ignore", "populate_by_name": True}
    for settings in _all_settings():
        assert {name: settings.model_config.get(name) for name in kept} == kept, settings
        assert settings.model_config.get("hide_input_in_errors"), settings


_ENDS = ("\n", "\r\n", " ", "\t")
_KEYS: Mapping[str, type[Settings]] = {
    "PROXY_API_KEY": AuthSettings,
    "WORKER_API_KEY": AuthSettings,
    "TURNPIKE_JWT_SECRET": AuthSettings,
    "OPENAI_API_KEY": ChatSettings,
    "TURNPIKE_SERVICE_KEY": ServiceSettings,
}
_FIELDS = {"TURNPIKE_JWT_SECRET": "jwt_secret", "TURNPIKE_SERVICE_KEY": "service_key"}


@pytest.mark.parametrize("end", _ENDS)
@pytest.mark.parametrize("name", _KEYS)
def test_blanks_and_line_ends_around_a_key_are_not_part_of_it(name: str, end: str) -> None:
    key = "a key of thirty-two characters  ."
    with environment({**_KEY, name: f" {key}{end}"}):
        settings = load(_KEYS[name])
    assert getattr(settings, _FIELDS.get(name, name.lower())).get_secret_value() == key


@pytest.mark.parametrize(
    "wrong", ["sk-cas\u200be" * 5, "two\nlines" * 5, "nul\x7f" * 10, "\n" * 40, "surrogate\udce9" * 5]
)
@pytest.mark.parametrize("name", _KEYS)
def test_a_key_that_cannot_be_used_is_refused_by_its_name_and_not_shown(
    name: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with environment({**_KEY, name: wrong}), pytest.raises(SystemExit) as ended:
        load(_KEYS[name])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith(f"turnpike: {name} is wrong: ")
    assert not any(part in line for part in ("cas", "two", "nul", "surrogate"))


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "PROXY_API_KEY"])
def test_a_key_that_no_header_holds_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with environment({**_KEY, name: "\u201csk-1\u201d"}), pytest.raises(SystemExit):
        load(_KEYS[name])
    assert capsys.readouterr().err.startswith(f"turnpike: {name} is wrong: ")


def test_settings_cannot_be_changed() -> None:
    with environment(_KEY):
        settings = load(ServiceSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.log_level = "debug"  # type: ignore[misc] # that is the point
