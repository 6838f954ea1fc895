"""When a connection to a provider may serve again, and what happens when it breaks: with raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp
import pytest

from common.errors import UpstreamFailed, UpstreamTimeout
from common.upstream.http import HttpClient, UnreachableError
from common.upstream.http_connection import HttpConnection
from tests.common.raw_upstream import HEAD_JSON, HEAD_STREAM, LAST_CHUNK, chunk
from tests.common.upstream.support import SOON, Peer, asked, fetch, json_answer, listening, timers

_LARGE = bytes(range(256)) * (32 * 1024 * 4)
"""A body that no socket takes at once: 32 MiB."""
_EVENT = b'data: {"a":1}\n\n'
_REFUSED = b'{"error":{}}'
_OK = json_answer(b"{}")


async def answer_all(peer: Peer, answer: bytes = _OK) -> None:
    while True:
        await peer.request()
        await peer.send(answer)


# Early answers: https://www.rfc-editor.org/rfc/rfc9112#section-9.6


async def test_a_connection_whose_request_was_sent_in_part_never_serves_again() -> None:
    async def serve(peer: Peer) -> None:
        if peer.number == 0:
            await peer.head()
            await peer.send(json_answer(_REFUSED, status="413 Content Too Large"))
            received.set_result(await peer.until_closed())
        await answer_all(peer)

    received: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        assert await fetch(client, server.url, _LARGE) == (413, _REFUSED)
        assert await fetch(client, server.url, b"[1]") == (200, b"{}")
        assert server.peers[1].requests[0][1] == b"[1]"
        assert await received < len(_LARGE)


async def test_an_early_answer_arrives_although_the_server_closes_on_the_rest_of_the_body() -> None:
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(json_answer(_REFUSED, status="413 Content Too Large", headers=b"connection: close\r\n"))
        # Closed with bytes that nobody has read: the kernel sends a reset.
        peer.writer.close()

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        for _ in range(5):
            assert await fetch(client, server.url, _LARGE) == (413, _REFUSED)


async def test_an_early_answer_may_be_a_stream() -> None:
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(HEAD_STREAM + chunk(_EVENT))
        await answered.wait()
        await peer.send(LAST_CHUNK)
        await peer.until_closed()

    answered = asyncio.Event()
    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        async with asked(client, server.url, _LARGE) as answer:
            assert await answer.events() == [_EVENT]
            answered.set()
            assert await answer.events() == []
        await server.peers[0].closed.wait()


async def test_an_answer_is_not_complete_while_some_of_it_is_not_taken() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD_STREAM + chunk(_EVENT))
        await taken.wait()
        await peer.send(chunk(_EVENT) + LAST_CHUNK)
        sent.set()

    taken, sent = asyncio.Event(), asyncio.Event()
    async with listening(serve) as server, HttpClient(timers=timers()) as client, asked(client, server.url) as answer:
        assert await answer.events() == [_EVENT]
        taken.set()
        await sent.wait()
        for _ in range(20):
            await asyncio.sleep(0)  # The rest arrives in this same loop.
        assert not answer.complete
        assert await answer.events() == [_EVENT]
        assert answer.complete


# Servers that do not read.


@pytest.mark.parametrize("which", ["first", "total"])
async def test_a_server_that_does_not_read_is_left_when_a_timer_runs_out(which: str) -> None:
    async def serve(peer: Peer) -> None:
        await peer.head()
        await left.wait()
        await peer.until_closed()

    left = asyncio.Event()
    async with listening(serve) as server, HttpClient(timers=timers(**{which: 0.2})) as client:
        with pytest.raises(UpstreamTimeout):
            await fetch(client, server.url, _LARGE)
        left.set()
        await server.peers[0].closed.wait()


async def test_a_caller_who_is_cancelled_while_sending_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def serve(peer: Peer) -> None:
        head = await peer.head()
        if f"content-length: {len(_LARGE)}" in head:
            begun.set()
            await left.wait()
            await peer.until_closed()
        else:
            await peer.reader.readexactly(2)
            await peer.send(_OK)

    begun, left = asyncio.Event(), asyncio.Event()
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        sending = asyncio.create_task(fetch(client, server.url, _LARGE))
        await begun.wait()
        beside = asyncio.create_task(fetch(client, server.url))
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert await beside == (200, b"{}")
        left.set()
        await server.peers[0].closed.wait()
    assert problems == []
    assert caplog.records == []


async def test_closing_the_client_does_not_wait_for_a_server_that_does_not_read() -> None:
    async def serve(peer: Peer) -> None:
        await peer.head()
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    async with listening(serve) as server:
        async with HttpClient(timers=timers()) as client:
            sending = asyncio.create_task(fetch(client, server.url, _LARGE))
            await begun.wait()
        with pytest.raises(UpstreamFailed):
            await sending


# Bytes after an answer.


@pytest.mark.parametrize(
    "surplus",
    [b"x", b"EXTRA", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", b"\r\n", b"\0" * 100_000],
    ids=["a byte", "no HTTP", "half a head", "another answer", "a line end", "many"],
)
@pytest.mark.parametrize("framed", ["length", "chunks", "nothing"])
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "later"])
async def test_bytes_after_an_answer_close_its_connection_and_do_not_spoil_it(
    surplus: bytes,
    framed: str,
    apart: bool,  # noqa: FBT001
) -> None:
    answers = {
        "length": (200, b"{}", _OK),
        "chunks": (200, b"{}", HEAD_JSON + b"transfer-encoding: chunked\r\n\r\n" + chunk(b"{}") + LAST_CHUNK),
        "nothing": (204, b"", b"HTTP/1.1 204 No Content\r\n\r\n"),
    }
    status, body, answer = answers[framed]

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer if apart else answer + surplus)
        if apart:
            await read.wait()
            await peer.send(surplus)
        await peer.until_closed()

    read = asyncio.Event()
    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        assert await fetch(client, server.url) == (status, body)
        read.set()
        await server.peers[0].closed.wait()
        assert await fetch(client, server.url) == (status, body)
        assert len(server.peers) == 2


async def test_an_answer_to_a_request_that_nobody_made_is_given_to_nobody() -> None:
    """The surplus lies in the kernel while the next request is made: nothing runs in between."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(_OK)
        if peer.number == 0:
            await read.wait()
            peer.writer.write(json_answer(b'"stolen"'))
            sent.set()
        await peer.until_closed()

    read, sent = asyncio.Event(), asyncio.Event()
    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        assert await fetch(client, server.url) == (200, b"{}")
        read.set()
        await sent.wait()
        assert await fetch(client, server.url) == (200, b"{}")
        assert len(server.peers) == 2


# Cuts.


@contextlib.asynccontextmanager
async def cutting(data: bytes, *, kindly: bool) -> AsyncIterator[str]:
    """Answer with ``data`` and end the connection at once: both lie in the client's kernel together."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while b"\r\n\r\n{}" not in connection.recv(65536, socket.MSG_PEEK):
                pass
            if kindly:
                connection.recv(65536)
            # Not having read the request makes the end a reset.
            connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        await serving


async def fetch_events(client: HttpClient, url: str, events: list[bytes]) -> None:
    """Put all events of an answer into ``events``."""
    async with asked(client, url) as answer:
        while some := await answer.events():
            events += some


@pytest.mark.parametrize("kindly", [True, False], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "begin",
    [
        HEAD_STREAM + chunk(_EVENT) + chunk(_EVENT),
        HEAD_STREAM + chunk(_EVENT) + chunk(_EVENT) + b"5\r\nda",
        HEAD_STREAM + chunk(_EVENT) + chunk(_EVENT) + b"0\r\n",
        HEAD_STREAM.replace(b"transfer-encoding: chunked", b"content-length: 100") + _EVENT + _EVENT,
        HEAD_STREAM + chunk(_EVENT) + chunk(_EVENT) + b"no chunk\r\n",
        HEAD_STREAM + chunk(_EVENT) + chunk(_EVENT + b"data: [DONE]\n"),
    ],
    ids=["between chunks", "within a chunk", "within the last one", "before the length", "no chunk", "without an end"],
)
async def test_what_came_before_a_cut_is_not_lost_and_the_cut_is_seen(begin: bytes, kindly: bool) -> None:  # noqa: FBT001
    events: list[bytes] = []
    async with cutting(begin, kindly=kindly) as url, HttpClient(timers=timers()) as client:
        with pytest.raises(UpstreamFailed) as raised:
            await fetch_events(client, url, events)
    assert events == [_EVENT, _EVENT]
    assert raised.value.code == "upstream_cut"


@pytest.mark.parametrize("kindly", [True, False], ids=["closed", "reset"])
async def test_a_body_without_a_length_ends_with_its_connection_unless_that_is_reset(kindly: bool) -> None:  # noqa: FBT001
    async with cutting(HEAD_JSON + b"\r\n{}", kindly=kindly) as url, HttpClient(timers=timers()) as client:
        if kindly:
            assert await fetch(client, url) == (200, b"{}")
        else:
            with pytest.raises(UpstreamFailed) as raised:
                await fetch(client, url)
            assert raised.value.code == "upstream_cut"


# Reuse.


async def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(_OK)
        peer.writer.close()

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        for number in range(20):
            assert await fetch(client, server.url) == (200, b"{}"), number
        assert len(server.peers) == 20


def serve_twice(listener: socket.socket, closed: threading.Event, *, reset: bool) -> None:
    """Answer a request on each of two connections, and end the connection."""
    for _ in range(2):
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(_OK)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        closed.set()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_an_end_that_only_the_kernel_knows_of_is_seen_before_a_request_is_written(reset: bool) -> None:  # noqa: FBT001
    closed = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        serving = asyncio.create_task(asyncio.to_thread(serve_twice, listener, closed, reset=reset))
        async with HttpClient(timers=timers()) as client:
            assert await fetch(client, url) == (200, b"{}")
            # The loop stands still until the server has closed, and goes on with the next request.
            assert closed.wait(10)
            assert await fetch(client, url) == (200, b"{}")
        await serving


async def test_a_request_that_the_server_has_read_is_never_sent_twice() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(_OK)
        await peer.request()
        peer.writer.close()

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        assert await fetch(client, server.url) == (200, b"{}")
        with pytest.raises(UpstreamFailed) as raised:
            await fetch(client, server.url)
        assert not isinstance(raised.value, UnreachableError)
        assert len(server.peers) == 1


async def test_an_unused_connection_is_closed_after_a_time() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(_OK)
        await peer.until_closed()

    async with listening(serve) as server, HttpClient(timers=timers(), idle_seconds=0.1) as client:
        assert await fetch(client, server.url) == (200, b"{}")
        await server.peers[0].closed.wait()


@pytest.mark.parametrize("header", [b"timeout=1", b"Timeout = 1, max=100", b"max=5, timeout=1"])
async def test_an_unused_connection_is_closed_before_the_server_does_it(header: bytes) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(json_answer(b"{}", headers=b"keep-alive: " + header + b"\r\n"))
        await peer.until_closed()

    loop = asyncio.get_running_loop()
    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        assert await fetch(client, server.url) == (200, b"{}")
        start = loop.time()
        await server.peers[0].closed.wait()
        assert loop.time() - start < 1


async def test_a_server_that_keeps_no_connection_gets_a_new_one_each_time() -> None:
    async def serve(peer: Peer) -> None:
        await answer_all(peer, json_answer(b"{}", headers=b"keep-alive: timeout=0\r\n"))

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        for _ in range(3):
            assert await fetch(client, server.url) == (200, b"{}")
        assert len(server.peers) == 3


async def test_a_connection_in_use_again_is_not_closed_by_the_timer_of_its_rest() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(json_answer(b"{}", headers=b"keep-alive: timeout=1\r\n"))
        await peer.request()
        await asyncio.sleep(0.7)  # Longer than the connection may rest.
        await peer.send(_OK)

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        assert await fetch(client, server.url) == (200, b"{}")
        assert await fetch(client, server.url) == (200, b"{}")
        assert len(server.peers) == 1


async def test_an_answer_to_head_has_no_body_and_leaves_its_connection() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD_JSON + b"content-length: 100\r\n\r\n")
        await answer_all(peer)

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        answer = await client.request("HEAD", server.url, headers={})
        assert await answer.read() == b""
        answer.close()
        assert await fetch(client, server.url) == (200, b"{}")
        assert len(server.peers) == 1


@pytest.mark.parametrize("head", [b"204 No Content", b"304 Not Modified"])
async def test_a_status_without_a_body_leaves_its_connection(head: bytes) -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 " + head + b"\r\ncontent-length: 100\r\n\r\n")
        await answer_all(peer)

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        assert await fetch(client, server.url) == (int(head[:3]), b"")
        assert await fetch(client, server.url) == (200, b"{}")
        assert len(server.peers) == 1


async def test_a_connection_on_which_needless_chunks_may_come_never_serves_again() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n")
        await answer_all(peer)

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        assert await fetch(client, server.url) == (204, b"")
        assert (await fetch(client, server.url))[0] == 204
        assert len(server.peers) == 2


# The pool and addresses.


async def test_the_pool_is_bounded_and_whoever_waits_too_long_has_not_reached_the_provider() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        arrived.release()
        await go_on.wait()
        await peer.send(_OK)
        await answer_all(peer)

    arrived, go_on = asyncio.Semaphore(0), asyncio.Event()
    async with listening(serve) as server, HttpClient(timers=timers(connect=0.3), max_connections=2) as client:
        first = [asyncio.create_task(fetch(client, server.url)) for _ in range(2)]
        for _ in first:
            await arrived.acquire()
        with pytest.raises(UnreachableError):
            await fetch(client, server.url)
        waiting = asyncio.create_task(fetch(client, server.url))
        go_on.set()
        assert await asyncio.gather(*first, waiting) == [(200, b"{}")] * 3
        assert len(server.peers) == 2


@pytest.fixture
def ipv6() -> str:
    """The loopback address of IPv6; a machine without it is served by its IPv4 form."""
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return "::1"
    return "127.0.0.1"


async def test_an_address_of_ipv6_is_reached(ipv6: str) -> None:
    async with listening(answer_all, host=ipv6) as server, HttpClient(timers=timers()) as client:
        assert await fetch(client, server.url) == (200, b"{}")
        authority = server.url.removeprefix("http://").removesuffix("/v1")
        assert f"\r\nhost: {authority}\r\n" in server.peers[0].requests[0][0].lower()


@pytest.fixture
def silent_address() -> Iterator[tuple[str, int]]:
    """An address whose queue of connections is full, so that another one is neither accepted nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.77", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()


class NamesLoop(asyncio.SelectorEventLoop):
    """A loop that knows one name with two addresses."""

    addresses: tuple[str, ...] = ()

    async def getaddrinfo(self, host: object, port: object, **options: object) -> list[tuple[object, ...]]:  # type: ignore[override]
        """Return the addresses, whatever the name."""
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


def test_the_second_address_of_a_name_is_tried_while_the_first_one_hangs(silent_address: tuple[str, int]) -> None:
    async def main() -> None:
        async with (
            listening(answer_all, port=silent_address[1]) as server,
            HttpClient(timers=timers(connect=5)) as client,
        ):
            assert await fetch(client, server.url.replace("127.0.0.1", "two.example")) == (200, b"{}")

    loop = NamesLoop()
    loop.addresses = (silent_address[0], "127.0.0.1")
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


class LateClient(HttpClient):
    """A client that is held up between taking a used connection and writing to it."""

    def __init__(self, hold: Callable[[], object]) -> None:
        super().__init__(timers=timers())
        self._hold = hold

    async def _connect(self, origin: aiohttp.ClientRequest, *, unused: bool = True) -> HttpConnection:
        connection = await super()._connect(origin, unused=unused)
        if connection.served:
            self._hold()
        return connection


def serve_and_close_when_told(
    listener: socket.socket, taken: threading.Event, closed: threading.Event, requests: list[bytes]
) -> None:
    """Answer a request on each of three connections; end the first two in the moment of their reuse."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(listener.accept()[0]) for _ in range(2)]
        for connection in connections:
            requests.append(connection.recv(65536))
            connection.sendall(_OK)
        taken.wait(10)
        stack.close()
        closed.set()
        with listener.accept()[0] as connection:
            requests.append(connection.recv(65536))
            connection.sendall(_OK)


@pytest.mark.parametrize("size", [2, 100_000])
async def test_a_request_that_cannot_have_arrived_is_sent_once_more_on_a_new_connection(size: int) -> None:
    taken, closed = threading.Event(), threading.Event()
    requests: list[bytes] = []

    def hold() -> None:
        taken.set()
        assert closed.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        serving = asyncio.create_task(asyncio.to_thread(serve_and_close_when_told, listener, taken, closed, requests))
        async with LateClient(hold) as client:
            first = [asyncio.create_task(fetch(client, url)) for _ in range(2)]
            assert [await each for each in first] == [(200, b"{}")] * 2
            assert await fetch(client, url, b"x" * size) == (200, b"{}")
        await serving
    assert len(requests) == 3


async def test_a_server_that_closes_at_once_has_not_been_reached_or_has_failed() -> None:
    async def serve(peer: Peer) -> None:
        peer.writer.close()

    async with listening(serve) as server, HttpClient(timers=timers()) as client:
        for _ in range(10):
            with pytest.raises(UpstreamFailed):
                await fetch(client, server.url)


async def test_the_timer_for_the_first_byte_holds_from_the_beginning_of_the_request() -> None:
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.until_closed()

    async with listening(serve) as server, HttpClient(timers=timers(first=SOON)) as client:
        with pytest.raises(UpstreamTimeout):
            await fetch(client, server.url)


class RacedClient(HttpClient):
    """A client of which the server closes the first used connection in the moment of its reuse."""

    def __init__(self, close: Callable[[int], None]) -> None:
        super().__init__(timers=timers())
        self._close: Callable[[int], None] | None = close

    async def _connect(self, origin: aiohttp.ClientRequest, *, unused: bool = True) -> HttpConnection:
        connection = await super()._connect(origin, unused=unused)
        if connection.served and self._close is not None:
            close, self._close = self._close, None
            # Without a turn of the event loop, so that the client does not hear of it.
            close(connection._transport.get_extra_info("sockname")[1])
        return connection


async def test_one_connection_that_was_closed_costs_no_other() -> None:
    accepted: dict[int, socket.socket] = {}
    requests: list[bytes] = []

    def close(port: int) -> None:
        accepted.pop(port).close()
        closed.set()

    def serve_two() -> None:
        for _ in range(2):
            connection, (_, port) = listener.accept()
            accepted[port] = connection
        for connection in [*accepted.values()]:
            requests.append(connection.recv(65536))
            connection.sendall(_OK)
        assert closed.wait(10)
        (connection,) = accepted.values()
        with connection:
            requests.append(connection.recv(65536))
            connection.sendall(_OK)

    closed = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        serving = asyncio.create_task(asyncio.to_thread(serve_two))
        async with RacedClient(close) as client:
            first = [asyncio.create_task(fetch(client, url)) for _ in range(2)]
            assert [await each for each in first] == [(200, b"{}")] * 2
            # A new connection would be accepted by nobody.
            assert await fetch(client, url) == (200, b"{}")
        await serving
    assert len(requests) == 3
