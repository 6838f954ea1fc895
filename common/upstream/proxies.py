"""Which proxy a request to a provider goes through.

What the variables mean is a convention without a standard: https://www.gnu.org/software/wget/manual/html_node/Proxies.html
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: its URL without the credential, and the headers that it wants."""

    url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of the environment; None or empty for none. They may hold a credential.

    ``exceptions`` is a list of names, each standing for all below it, addresses, networks, or ``*``, separated by
    commas. This machine itself is never reached through a proxy.
    """

    http: SecretStr | None = None
    https: SecretStr | None = None
    exceptions: str = ""

    def proxy_for(self, url: str) -> Proxy | None:
        """Return the proxy for a URL."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        given = self.https if parts.scheme == "https" else self.http
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        if given is None or not given.get_secret_value() or _is_loopback(host) or self._excepts(host, port):
            return None
        proxy = urlsplit(given.get_secret_value())
        headers = {}
        if proxy.username is not None:
            credential = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
            headers["proxy-authorization"] = f"Basic {base64.b64encode(credential).decode()}"
        return Proxy(f"{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}", headers)

    def _excepts(self, host: str, port: int) -> bool:
        address = _address(host)
        for each in self.exceptions.lower().split(","):
            name, network = each.strip(), _network(each.strip())
            if network is not None:
                if address is not None and address in network:
                    return True
                continue
            name = name.removesuffix(f":{port}").strip("[]").removeprefix("*").removeprefix(".")
            if each.strip() == "*" or (name and (host == name or host.endswith(f".{name}"))):
                return True
        return False


def checked_proxy(given: str) -> str:
    """Return a proxy's URL, with a scheme; raises ValueError when it is not one of http or https."""
    url = given.strip()
    url = url if not url or "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if url and (parts.scheme not in _DEFAULT_PORTS or not parts.hostname):
        raise ValueError("is not the http or https URL of a proxy")
    _ = parts.port  # Raises ValueError when it is not a number.
    return url


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address is not None else host == "localhost" or host.endswith(".localhost")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None
