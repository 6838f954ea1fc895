"""The settings of the sandbox."""

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
    """Read from the environment: each field is TURNPIKE_SANDBOX_ and its name."""

    # An empty variable is a value here: it turns the ledger off.
    model_config = SettingsConfigDict(env_prefix="TURNPIKE_SANDBOX_", env_ignore_empty=False)

    # Default 127.0.0.1:18084. Where HTTP is served, as host:port.
    listen: Annotated[str, AfterValidator(_checked_address)] = "127.0.0.1:18084"
    # Default .turnpike/sandbox/ledger.jsonl. The file of the ledger; empty: nothing is written down.
    ledger_path: str = ".turnpike/sandbox/ledger.jsonl"
    # Default 0. Seconds between two events of a stream that does not ask for its own delay; 0.03 looks like typing.
    event_delay_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
