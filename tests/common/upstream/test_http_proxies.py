"""The HTTP client and the proxies that a company has."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import structlog
from pydantic import SecretStr

from common.upstream.http import HttpClient, UnreachableError
from common.upstream.proxies import Proxies, checked_proxy
from common.upstream.tls import client_context
from tests.common.upstream.certificates import SERVER_NAME, Certificates, issue
from tests.common.upstream.support import Peer, fetch, json_answer, listening, timers

_CREDENTIAL = "Basic " + base64.b64encode(b"user:p@ss").decode()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and its certificates."""
    return issue(tmp_path_factory.mktemp("tls"))


def proxies(url: str, *, exceptions: str = "", credential: bool = False) -> Proxies:
    """Return proxies that are all at ``url``."""
    address = url.removeprefix("http://").removesuffix("/v1")
    proxy = SecretStr(f"http://{'user:p%40ss@' if credential else ''}{address}")
    return Proxies(http=proxy, https=proxy, exceptions=exceptions)


async def answer_all(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(json_answer(b"{}"))


@contextlib.asynccontextmanager
async def tunnelling(target: str) -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy whose every tunnel leads to ``target``; yields its URL and the heads that it got."""
    heads: list[str] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(peer: Peer) -> None:
        heads.append(await peer.head())
        parts = urlsplit(target)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(copy(peer.reader, writer), copy(reader, peer.writer))
        finally:
            writer.close()

    async with listening(serve) as proxy:
        yield proxy.url, heads


async def test_a_plain_request_asks_the_proxy_for_the_whole_url() -> None:
    async with (
        listening(answer_all) as proxy,
        HttpClient(timers=timers(), proxies=proxies(proxy.url, credential=True)) as client,
    ):
        for _ in range(3):
            assert await fetch(client, "http://provider.example:8000/v1/ocr?a=b") == (200, b"{}")
        (peer,) = proxy.peers
        for head, _ in peer.requests:
            lines = head.lower().split("\r\n")
            assert head.startswith("POST http://provider.example:8000/v1/ocr?a=b HTTP/1.1\r\n")
            assert lines.count("host: provider.example:8000") == 1
            assert lines.count(f"proxy-authorization: {_CREDENTIAL}".lower()) == 1


async def test_a_request_over_tls_goes_through_a_tunnel_that_serves_again(certificates: Certificates) -> None:
    tls = client_context(authorities=certificates.authority, certificate=None, key=None)
    async with (
        listening(answer_all, tls=certificates.server_context()) as provider,
        tunnelling(provider.url) as (url, heads),
        HttpClient(timers=timers(), tls=tls, proxies=proxies(url, credential=True)) as client,
    ):
        for body in (b"{}", b"x" * 3_000_000, b"{}"):
            assert await fetch(client, f"https://{SERVER_NAME}/v1/ocr", body) == (200, b"{}")
        (head,) = heads
        assert head.startswith(f"CONNECT {SERVER_NAME}:443 HTTP/1.1\r\n")
        assert f"proxy-authorization: {_CREDENTIAL}".lower() in head.lower()
        (peer,) = provider.peers
        assert all("proxy-authorization" not in request.lower() for request, _ in peer.requests)


async def test_a_proxy_that_refuses_has_let_nothing_through_and_the_log_says_so() -> None:
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")

    async with (
        listening(serve) as proxy,
        HttpClient(timers=timers(), proxies=proxies(proxy.url, credential=True)) as client,
    ):
        with structlog.testing.capture_logs() as lines, pytest.raises(UnreachableError) as raised:
            await fetch(client, "https://provider.example/v1/ocr")
    assert raised.value.message == "The provider cannot be reached: the proxy refused with 407."
    assert [line["host"] for line in lines] == ["provider.example"]
    assert "p@ss" not in str(lines) + str(raised.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_away_is_named_as_the_reason(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with HttpClient(timers=timers(), proxies=proxies(url)) as client:
            with pytest.raises(UnreachableError, match="the proxy: connection refused"):
                await fetch(client, f"{scheme}://provider.example/v1/ocr")


async def test_this_machine_is_never_asked_through_a_proxy() -> None:
    async with (
        listening(answer_all) as provider,
        HttpClient(timers=timers(), proxies=proxies("http://127.0.0.1:1")) as client,
    ):
        assert await fetch(client, provider.url) == (200, b"{}")
        assert provider.peers[0].requests[0][0].startswith("POST /v1 ")


@pytest.mark.parametrize(
    ("exceptions", "url", "proxied"),
    [
        ("", "http://provider.example/", True),
        ("provider.example", "http://provider.example/", False),
        (".example", "http://provider.example/", False),
        ("*.example", "https://provider.example/", False),
        ("EXAMPLE", "https://api.Provider.Example/", False),
        ("other.example, provider.example", "http://provider.example:8000/", False),
        ("vider.example", "http://provider.example/", True),
        ("provider.example:8000", "http://provider.example:8000/", False),
        ("provider.example:8000", "http://provider.example/", True),
        ("provider.example:443", "https://provider.example/", False),
        ("*", "http://provider.example/", False),
        ("10.0.0.0/8", "http://10.1.2.3:8000/", False),
        ("10.0.0.0/8", "http://11.1.2.3/", True),
        ("10.1.2.3", "http://10.1.2.3/", False),
        ("fd00::/8", "http://[fd00::1]:8000/", False),
        ("[fd00::1]", "http://[fd00::1]/", False),
        (", ,", "http://provider.example/", True),
        ("", "http://localhost:8000/", False),
        ("", "http://a.localhost/", False),
        ("", "https://127.8.9.1/", False),
        ("", "http://[::1]/", False),
    ],
)
def test_who_is_reached_without_a_proxy(exceptions: str, url: str, proxied: bool) -> None:  # noqa: FBT001
    found = proxies("http://proxy:3128", exceptions=exceptions).proxy_for(url)
    assert (found is not None) == proxied


def test_each_scheme_has_its_proxy() -> None:
    both = Proxies(http=SecretStr("http://plain:1"), https=SecretStr("http://secret:2"))
    found = [both.proxy_for(f"{scheme}://provider.example/") for scheme in ("http", "https")]
    assert [proxy.url if proxy else None for proxy in found] == ["http://plain:1", "http://secret:2"]
    assert Proxies(https=SecretStr("http://secret:2")).proxy_for("http://provider.example/") is None


def test_a_credential_is_not_shown() -> None:
    shown = proxies("http://proxy:3128", credential=True)
    assert "p@ss" not in repr(shown) + repr(shown.proxy_for("http://provider.example/"))
    assert "p%40ss" not in repr(shown)
    found = shown.proxy_for("http://provider.example/")
    assert found is not None
    assert found.headers == {"proxy-authorization": _CREDENTIAL}


@pytest.mark.parametrize(
    ("given", "url"), [("", ""), (" proxy:3128 ", "http://proxy:3128"), ("https://proxy", "https://proxy")]
)
def test_a_proxy_may_lack_its_scheme(given: str, url: str) -> None:
    assert checked_proxy(given) == url


@pytest.mark.parametrize("given", ["socks5://proxy:1080", "http://", "http://proxy:port", "http://proxy:99999"])
def test_what_is_no_proxy_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        checked_proxy(given)
