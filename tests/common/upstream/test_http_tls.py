"""The HTTP client and providers that speak TLS."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from common.errors import UpstreamFailed
from common.upstream.http import HttpClient, UnreachableError
from common.upstream.tls import client_context
from tests.common.upstream.certificates import Certificates, issue
from tests.common.upstream.support import Peer, fetch, json_answer, listening, timers


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and its certificates."""
    return issue(tmp_path_factory.mktemp("tls"))


async def answer_all(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(json_answer(b"{}"))


async def test_a_provider_of_a_private_authority_is_asked_over_one_connection(certificates: Certificates) -> None:
    tls = client_context(authorities=certificates.authority, certificate=None, key=None)
    async with (
        listening(answer_all, tls=certificates.server_context()) as server,
        HttpClient(timers=timers(), tls=tls) as client,
    ):
        for body in (b"{}", b"x" * 3_000_000):
            assert await fetch(client, server.url, body) == (200, b"{}")
        assert [len(peer.requests) for peer in server.peers] == [2]


async def test_a_provider_that_nobody_vouches_for_gets_nothing_and_the_log_says_why(
    certificates: Certificates,
) -> None:
    async with (
        listening(answer_all, tls=certificates.server_context()) as server,
        HttpClient(timers=timers()) as client,
    ):
        with structlog.testing.capture_logs() as lines, pytest.raises(UnreachableError) as raised:
            await fetch(client, server.url)
        assert [peer.requests for peer in server.peers] in ([], [[]])
    (line,) = lines
    assert (line["log_level"], line["host"]) == ("warning", "127.0.0.1")
    assert "certificate is not trusted" in line["reason"]
    assert "certificate is not trusted" in raised.value.message


async def test_a_certificate_for_another_name_is_not_taken(certificates: Certificates) -> None:
    tls = client_context(authorities=certificates.authority, certificate=None, key=None)
    async with (
        listening(answer_all, tls=certificates.server_context()) as server,
        HttpClient(timers=timers(), tls=tls) as client,
    ):
        with pytest.raises(UnreachableError, match="certificate"):
            await fetch(client, server.url.replace("127.0.0.1", "localhost"))


async def test_a_provider_that_asks_for_a_certificate_is_shown_ours(certificates: Certificates) -> None:
    tls = client_context(
        authorities=certificates.authority, certificate=certificates.client, key=certificates.client_key
    )
    async with (
        listening(answer_all, tls=certificates.server_context(asks_for_certificate=True)) as server,
        HttpClient(timers=timers(), tls=tls) as client,
    ):
        assert await fetch(client, server.url) == (200, b"{}")


async def test_a_provider_that_asks_for_a_certificate_takes_nobody_without_one(certificates: Certificates) -> None:
    tls = client_context(authorities=certificates.authority, certificate=None, key=None)
    async with (
        listening(answer_all, tls=certificates.server_context(asks_for_certificate=True)) as server,
        HttpClient(timers=timers(), tls=tls) as client,
    ):
        with pytest.raises(UpstreamFailed):
            await fetch(client, server.url)


async def test_a_server_that_speaks_no_tls_is_not_reached() -> None:
    async def serve(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        with pytest.raises(UnreachableError, match="TLS failed"):
            await fetch(client, server.url.replace("http://", "https://"))


async def test_a_server_that_never_shakes_hands_is_left_by_the_connect_timer() -> None:
    async def serve(peer: Peer) -> None:
        await peer.until_closed()

    async with listening(serve) as server, HttpClient(timers=timers(connect=0.2)) as client:
        with pytest.raises(UnreachableError, match="no connection within"):
            await fetch(client, server.url.replace("http://", "https://"))
        await asyncio.wait_for(server.peers[0].closed.wait(), 10)


@pytest.mark.parametrize("text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"])
def test_a_file_without_certificates_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file.pem"
    file.write_text(text)
    for authorities, certificate in ((file, None), (None, file)):
        with pytest.raises(ValueError, match="read from that file"):
            client_context(authorities=authorities, certificate=certificate, key=None)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="password"):
        client_context(authorities=None, certificate=certificates.client, key=certificates.locked_key)
