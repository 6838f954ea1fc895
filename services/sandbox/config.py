"""The settings of the sandbox."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from common.settings import Settings


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` or `[IPv6]:port`; raises `ValueError`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("an address is host:port, such as 127.0.0.1:18084")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _checked_address(address: str) -> str:
    split_address(address)
    return address


class SandboxSettings(Settings):
    """Where the sandbox listens, where it keeps its ledger, and how fast it streams."""

    # An empty variable is a value here: it turns the ledger off.
    model_config = SettingsConfigDict(env_ignore_empty=False)

    listen: Annotated[str, AfterValidator(_checked_address)] = Field(
        "127.0.0.1:18084", validation_alias="TURNPIKE_SANDBOX_LISTEN"
    )
    """Where HTTP is served: host:port."""
    ledger_path: str = Field(".turnpike/sandbox/ledger.jsonl", validation_alias="TURNPIKE_SANDBOX_LEDGER_PATH")
    """The file of the ledger; set to nothing: no ledger is kept."""
    event_delay_seconds: float = Field(0.0, ge=0, le=3600, validation_alias="TURNPIKE_SANDBOX_EVENT_DELAY_SECONDS")
    """Seconds between two events of a stream that does not ask for its own delay; 0.03 looks like typing."""
