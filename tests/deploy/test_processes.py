"""What supervisor is told, read back by supervisor itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ServerOptions  # type: ignore[import-untyped]

from deploy.local.config import LocalSettings
from deploy.local.processes import Program, programs, supervisor_config

SERVICES = ("auth", "chat", "chroma", "ocr", "usage")


def read_back(children: list[Program], state: Path) -> dict[str, Any]:
    (state / "logs").mkdir(parents=True)
    config = state / "supervisord.conf"
    config.write_text(supervisor_config(children, state=state, directory=state))
    options = ServerOptions()
    options.realize(["-n", "-c", str(config)])
    return {
        program.name: (program, group.priority)
        for group in options.process_group_configs
        for program in group.process_configs
    }


def of(settings: LocalSettings) -> list[Program]:
    return programs(
        settings,
        envoy=Path("/opt/envoy"),
        envoy_config=Path("/state/envoy.json"),
        chroma=Path("/opt/chroma") if settings.uses_chroma_server else None,
        state=Path("/state"),
    )


def test_children_with_the_sandbox(tmp_path: Path) -> None:
    read = read_back(of(LocalSettings()), tmp_path / "state")
    assert set(read) == {*SERVICES, "sandbox", "chroma-server", "envoy", "welcome"}


def test_children_without_the_sandbox(tmp_path: Path) -> None:
    url = "https://upstream.test/v1"
    read = read_back(of(LocalSettings(openai_base_url=url, mistral_base_url=url)), tmp_path / "state")
    assert set(read) == {*SERVICES, "chroma-server", "envoy", "welcome"}


def test_a_chroma_server_is_run_unless_one_is_named(tmp_path: Path) -> None:
    here = read_back(of(LocalSettings()), tmp_path / "here")
    assert "--port 18087" in here["chroma-server"][0].command
    elsewhere = read_back(of(LocalSettings(chroma_base_url="https://chroma.test")), tmp_path / "elsewhere")
    assert "chroma-server" not in elsewhere


def test_a_child_starts_again_unless_its_settings_are_wrong(tmp_path: Path) -> None:
    chat = read_back(of(LocalSettings()), tmp_path / "state")["chat"][0]
    assert chat.startsecs == 0
    assert chat.exitcodes == [2]


def test_chat_stops_before_the_services_it_needs_and_envoy_last(tmp_path: Path) -> None:
    read = read_back(of(LocalSettings()), tmp_path / "state")
    priority = {name: priority for name, (_, priority) in read.items()}
    # Supervisor stops the highest priority first.
    assert priority["chat"] == priority["ocr"]
    assert priority["welcome"] > priority["chat"] > priority["usage"] == priority["auth"] > priority["envoy"]


def test_the_welcome_is_not_kept_in_a_log(tmp_path: Path) -> None:
    read = read_back(of(LocalSettings()), tmp_path / "state")
    assert read["welcome"][0].stdout_logfile is None
    assert read["chat"][0].stdout_logfile == str(tmp_path / "state" / "logs" / "chat.log")


@pytest.mark.parametrize("argument", ["with space", "100%", "it's", 'a "quote"', "%(here)s"])
def test_arguments_survive_supervisors_syntax(tmp_path: Path, argument: str) -> None:
    program, _ = read_back([Program("odd", ["/bin/echo", argument], stop_last=0)], tmp_path / "state")["odd"]
    process = program.make_process()
    assert process.get_execv_args() == ("/bin/echo", ["/bin/echo", argument])


def test_a_state_directory_with_odd_characters(tmp_path: Path) -> None:
    state = tmp_path / "my 100% state"
    assert read_back(of(LocalSettings()), state)["chat"][0].stdout_logfile == str(state / "logs" / "chat.log")
