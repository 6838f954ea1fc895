"""The usage service's settings."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from common.settings import Key, ServiceSettings

IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"


def _server_url(url: SecretStr) -> SecretStr:
    """Refuse what is neither empty nor http(s)://[user[:password]@]host[:port]; raises ValueError without the value."""
    value = url.get_secret_value()
    if not value:
        return url
    form = "must have the form http(s)://user:password@host:port"
    try:
        parts = urlsplit(value)
        port_is_good = parts.port != 0
    except ValueError:
        raise ValueError(form) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good:
        raise ValueError(form)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{form} and nothing after the port; TURNPIKE_USAGE_DATABASE names the database")
    return url


class Settings(ServiceSettings):
    """Where the usage service listens, where it keeps events, and who may read them."""

    listen: str = Field("127.0.0.1:18083", validation_alias="TURNPIKE_USAGE_LISTEN")
    """The host:port to listen on."""
    clickhouse_url: Annotated[SecretStr, AfterValidator(_server_url)] = Field(
        SecretStr(""), validation_alias="CLICKHOUSE_URL"
    )
    """A ClickHouse server, http(s)://user:password@host:port; empty: embedded chDB at <state_dir>/usage/clickhouse."""
    database: str = Field("turnpike", pattern=IDENTIFIER, validation_alias="TURNPIKE_USAGE_DATABASE")
    """The database in ClickHouse; made when it does not exist."""
    dataset: str = Field("ai_worker_requests", pattern=IDENTIFIER, validation_alias="ANALYTICS_DATASET")
    """The table of raw events; tables derived from it begin with its name."""
    cluster: str = Field("", pattern=r"^([A-Za-z_][A-Za-z0-9_-]{0,62})?$", validation_alias="TURNPIKE_USAGE_CLUSTER")
    """The ClickHouse cluster on which tables are made as replicated ones; empty: on the one server."""
    # Below 100 months, so that no batch touches more than the 100 partitions that ClickHouse takes in one insert.
    raw_days: int = Field(400, ge=31, le=3000, validation_alias="TURNPIKE_USAGE_RAW_DAYS")
    """Days for which raw events are kept."""
    rollup_interval_seconds: float = Field(15.0, ge=1, le=3600, validation_alias="TURNPIKE_USAGE_ROLLUP_SECONDS")
    """How often events are rolled up into hours; the longer, the slower are the answers, which stay the same."""
    usage_key: Key = Field(SecretStr(""), validation_alias="USAGE_API_KEY")
    """The key that reads everybody's usage; empty: everybody reads everything without one."""
