"""make jwt: a platform JWT for a development user."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.local.jwt import development_secret, platform_jwt
from services.auth.jwt import JwtVerifier
from tests.services.auth.support import ENVIRONMENT, JWT_SECRET, Clock


def _make_jwt(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.local.jwt", *arguments]
    return subprocess.run(command, env=ENVIRONMENT | environment, capture_output=True, text=True, check=False)


def test_the_development_secret_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    directory = tmp_path / "a" / ".turnpike"
    secret = development_secret(directory)
    assert len(bytes.fromhex(secret)) == 32
    assert development_secret(directory) == secret
    assert (directory / "jwt_secret").read_text().strip() == secret
    assert stat.S_IMODE((directory / "jwt_secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in directory.iterdir()] == ["jwt_secret"]


def test_all_who_ask_at_once_get_the_same_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(development_secret, [tmp_path / "state"] * 32))) == 1


async def test_the_jwt_is_what_the_auth_service_takes(clock: Clock) -> None:
    token = platform_jwt(
        JWT_SECRET.get_secret_value(), user_id="alice", issuer="here", audience="gateway", now=clock.now()
    )
    claims = await JwtVerifier(secret=JWT_SECRET, issuer="here", audience="gateway", now=clock.now).verify(token)
    assert (claims.subject, claims.expires_at) == ("alice", clock.now() + timedelta(hours=12))


async def test_the_command_prints_one(tmp_path: Path, clock: Clock) -> None:
    said = _make_jwt("alice", TURNPIKE_STATE_DIR=str(tmp_path), TURNPIKE_JWT_ISSUER="here")
    assert (said.returncode, said.stderr) == (0, "")
    secret = SecretStr((tmp_path / "jwt_secret").read_text().strip())
    # Signed at the machine's time, which the clock of this test is not.
    verifier = JwtVerifier(secret=secret, issuer="here", leeway_seconds=1e9, now=clock.now)
    assert (await verifier.verify(said.stdout.strip())).subject == "alice"


async def test_the_command_uses_the_secret_that_is_set(tmp_path: Path, clock: Clock) -> None:
    said = _make_jwt("bob", TURNPIKE_STATE_DIR=str(tmp_path), TURNPIKE_JWT_SECRET=JWT_SECRET.get_secret_value())
    verifier = JwtVerifier(secret=JWT_SECRET, leeway_seconds=1e9, now=clock.now)
    assert (await verifier.verify(said.stdout.strip())).subject == "bob"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments", [[], [""], ["  "]])
def test_without_a_user_it_says_what_to_type(tmp_path: Path, arguments: list[str]) -> None:
    said = _make_jwt(*arguments, TURNPIKE_STATE_DIR=str(tmp_path))
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "set USER_ID, as in: make jwt USER_ID=alice\n"
