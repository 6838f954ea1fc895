"""Each thing that prevents a start is one line that says what to change."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from deploy.local import preflight
from deploy.local.config import REPOSITORY, LocalSettings
from deploy.local.refused import Refused
from deploy.local.state import kept_secret, lock, open_state, write_private


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_PORT_PATIENCE_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
class TestPorts:
    def test_free_ones_pass(self, free_port: int, free_base: int) -> None:
        preflight.check_ports(LocalSettings(port=free_port, port_base=free_base))

    @pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - a program that listens everywhere
    def test_a_taken_public_port_names_its_variable(self, free_base: int, host: str) -> None:
        with socket.create_server((host, 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(Refused, match=rf"port {port} \(Envoy\) is taken .* TURNPIKE_PORT to"):
                preflight.check_ports(LocalSettings(port=port, port_base=free_base))

    def test_a_taken_inner_port_names_its_variable(self, free_port: int, free_base: int) -> None:
        with (
            socket.create_server(("127.0.0.1", free_base + 3)),
            pytest.raises(Refused, match=rf"port {free_base + 3} \(usage, TURNPIKE_PORT_BASE\+3\) is taken"),
        ):
            preflight.check_ports(LocalSettings(port=free_port, port_base=free_base))

    def test_the_sandbox_port_may_be_taken_when_there_is_no_sandbox(self, free_port: int, free_base: int) -> None:
        with socket.create_server(("127.0.0.1", free_base + 4)):
            url = "http://upstream.test"
            preflight.check_ports(
                LocalSettings(port=free_port, port_base=free_base, openai_base_url=url, mistral_base_url=url)
            )

    def test_one_port_for_two_is_refused(self, free_base: int) -> None:
        with pytest.raises(Refused, match=f"TURNPIKE_PORT={free_base + 1} is also the port of auth"):
            preflight.check_ports(LocalSettings(port=free_base + 1, port_base=free_base))


class TestEnvoy:
    def test_the_installed_one_runs(self) -> None:
        assert preflight.envoy_binary(None).name == "envoy"

    @pytest.mark.parametrize(
        ("path", "what"),
        [("/nonexistent/envoy", "is missing"), ("/bin/true", "does not run"), ("/etc/passwd", "does not run")],
    )
    def test_a_wrong_one_names_the_variable(self, path: str, what: str) -> None:
        with pytest.raises(Refused, match=f"{path} {what}.*TURNPIKE_ENVOY"):
            preflight.envoy_binary(Path(path))

    def test_none_at_all_says_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(Refused, match="envoy binary is missing: run make setup, or set TURNPIKE_ENVOY"):
            preflight.envoy_binary(None)


class TestFiles:
    def test_a_checkout_with_generated_code_passes(self) -> None:
        preflight.check_files(REPOSITORY)

    def test_missing_generated_code_says_what_to_run(self, tmp_path: Path) -> None:
        with pytest.raises(Refused, match=r"gen/turnpike\.pb is missing: run make proto"):
            preflight.check_files(tmp_path)


class TestState:
    def test_it_is_the_owners_only(self, tmp_path: Path) -> None:
        state = open_state(tmp_path / "a" / "state")
        assert stat.S_IMODE(state.stat().st_mode) == 0o700

    def test_an_impossible_place_names_the_variable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(Refused, match="set TURNPIKE_STATE_DIR"):
            open_state(tmp_path / "file")

    def test_two_stacks_cannot_share_it(self, tmp_path: Path) -> None:
        first = lock(tmp_path)
        with pytest.raises(Refused, match=r"already running on .* TURNPIKE_STATE_DIR"):
            lock(tmp_path)
        os.close(first)
        os.close(lock(tmp_path))

    def test_a_secret_is_made_once_and_private(self, tmp_path: Path) -> None:
        secret = kept_secret(tmp_path / "key")
        assert len(secret) == 64
        assert kept_secret(tmp_path / "key") == secret
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600

    def test_writing_replaces_a_readable_file_by_a_private_one(self, tmp_path: Path) -> None:
        (tmp_path / "env").touch(mode=0o644)
        (tmp_path / "env.new").write_text("left by a crash")
        write_private(tmp_path / "env", "a")
        assert (tmp_path / "env").read_text() == "a"
        assert stat.S_IMODE((tmp_path / "env").stat().st_mode) == 0o600
