"""Opens ClickHouse: a server by URL, or chDB inside this process, behind the same client."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from pydantic import SecretStr

Connect = Callable[[], Client]
"""Opens a client; blocks, and raises StoreRefused."""

# chDB would take nine tenths of the machine's memory.
CHDB_OPTIONS: Final = {"max_server_memory_usage": "1000000000", "mark_cache_size": "67108864"}
_CONNECT_SECONDS: Final = 5
_ANSWER_SECONDS: Final = 60


class StoreRefused(Exception):
    """The store cannot be used; the message is one line for the operator and names the variable to change."""


def embedded(directory: Path) -> Connect:
    """Return what opens chDB in ``directory``; one process may have one directory open."""

    def connect() -> Client:
        directory.mkdir(parents=True, exist_ok=True)
        return clickhouse_connect.get_client(
            interface="chdb", path=str(directory), tz_mode="aware", chdb_options=dict(CHDB_OPTIONS)
        )

    def refusing() -> Client:
        try:
            return connect()
        except (ClickHouseError, OSError) as error:
            raise StoreRefused(f"cannot open {directory}, under TURNPIKE_STATE_DIR: {one_line(error)}") from error

    return refusing


def refuse_second_process(directory: Path) -> None:
    """Raise StoreRefused when another process has chDB open in ``directory``; chDB's own error does not say so."""
    try:
        with (directory / "status").open("rb") as status:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return
    except BlockingIOError:
        raise StoreRefused(
            f"another process uses {directory}: stop it, or set TURNPIKE_STATE_DIR to another directory"
        ) from None
    except OSError as error:
        raise StoreRefused(f"cannot open {directory}, under TURNPIKE_STATE_DIR: {one_line(error)}") from None


def server(url: SecretStr) -> Connect:
    """Return what connects to the ClickHouse server at ``url``: http(s)://user:password@host:port."""
    parts = urlsplit(url.get_secret_value())
    place = f"{parts.scheme}://{parts.hostname}:{parts.port or (8443 if parts.scheme == 'https' else 8123)}"

    def connect() -> Client:
        try:
            return clickhouse_connect.get_client(
                interface=parts.scheme,
                host=parts.hostname,
                port=parts.port,
                username=unquote(parts.username or "default"),
                password=unquote(parts.password or ""),
                tz_mode="aware",
                connect_timeout=_CONNECT_SECONDS,
                send_receive_timeout=_ANSWER_SECONDS,
                client_name="turnpike-usage",
                # With a session, two calls at once on one client fail.
                autogenerate_session_id=False,
                dedicated_pool=True,
            )
        except (ClickHouseError, OSError) as error:
            raise StoreRefused(f"CLICKHOUSE_URL: no ClickHouse server to use at {place}: {one_line(error)}") from error

    return connect


def one_line(error: BaseException) -> str:
    """Return the error's message in one line: that of the system call at its root, where there is one."""
    root = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    return " ".join(str(root if isinstance(root, OSError) else error).split())[:300]
