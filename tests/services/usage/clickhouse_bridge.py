"""A test double of a ClickHouse server: its HTTP protocol, as far as clickhouse-connect speaks it, over embedded chDB.

Not proof against a real server: answers are not streamed or compressed, and users, quotas and replication are absent.
"""

from __future__ import annotations

import base64
import gzip
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame  # type: ignore[import-untyped] # ships no types

USER, PASSWORD = "turnpike", "p@ss:word/1"
_TRANSPORT = re.compile(
    r"^(database|query|query_id|session_.*|client_protocol_version|wait_end_of_query|send_progress_.*|param_.*"
    r"|http_headers_progress_.*|enable_http_compression|compress|decompress|buffer_size|role"
    r"|cancel_http_readonly_queries_on_client_close)$"
)
_INSERT = re.compile(rb"^\s*(INSERT\s+INTO\s+.*?)\s+FORMAT\s+(\w+)\n", re.IGNORECASE | re.DOTALL)
_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*$", re.IGNORECASE)
_CODE = re.compile(r"Code: (\d+)")


class ClickHouseBridge(ThreadingHTTPServer):
    """Serves the chDB engine that ``connection`` names.

    ``queries`` records what was asked, ``inserts`` the settings of each insert. While ``away``, connections break off
    before the question is served; ``lost_answers`` counts down those that break off after it.
    """

    daemon_threads = True

    def __init__(self, connection: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.connection = connection
        self.queries: list[str] = []
        self.inserts: list[dict[str, str]] = []
        self.away = False
        self.lost_answers = 0

    @property
    def url(self) -> str:
        """The URL for CLICKHOUSE_URL."""
        return f"http://{USER}:p%40ss%3Aword%2F1@127.0.0.1:{self.server_address[1]}"


@contextmanager
def running(connection: str) -> Iterator[ClickHouseBridge]:
    """Serve while the block runs."""
    with ClickHouseBridge(connection) as bridge:
        # The interval in seconds is how long shutdown may wait.
        thread = threading.Thread(target=bridge.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield bridge
        finally:
            bridge.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Buffered and without Nagle: otherwise each answer waits 40 ms for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: ClickHouseBridge

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of BaseHTTPRequestHandler
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer a ping or a query."""
        self.do_POST()

    def do_POST(self) -> None:
        """Answer a query, a command or an insert."""
        body = self._body()
        if self.server.away:
            self.close_connection = True
            return
        expected = b"Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode())
        if self.headers.get("Authorization", "").encode() != expected:
            self._answer(403, b"Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)", code="516")
            return
        params = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        try:
            answer, format_name = self._serve(params, body)
        except RuntimeError as error:
            found = _CODE.search(str(error))
            self._answer(500, str(error).encode(), code=found.group(1) if found else "1002")
            return
        if self.server.lost_answers:
            self.server.lost_answers -= 1
            self.close_connection = True
            return
        self._answer(200, answer, format_name=format_name)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        encoding = self.headers.get("Content-Encoding", "")
        if encoding == "lz4":
            return bytes(lz4.frame.decompress(body))
        return gzip.decompress(body) if encoding == "gzip" else body

    def _serve(self, params: dict[str, str], body: bytes) -> tuple[bytes, str]:
        query = params.get("query", "").encode()
        content = query + b"\n" + body if query and body else query or body
        bound = {name[6:]: value for name, value in params.items() if name.startswith("param_")}
        settings = {name: value for name, value in params.items() if not _TRANSPORT.match(name)}
        # One handle for each request, as USE and SET belong to the handle.
        connection = chdb.connect(self.server.connection)  # type: ignore[no-untyped-call] # ships no types
        try:
            if params.get("database"):
                connection.query(f"USE `{params['database']}`")
            for name, value in settings.items():
                connection.query(f"SET {name} = '{value}'")
            insert = _INSERT.match(content)
            if insert:
                self.server.inserts.append(settings)
                return _insert(connection, insert, content[insert.end() :]), ""
            text = content.decode().rstrip().rstrip(";")
            self.server.queries.append(text)
            return _query(connection, text, bound)
        finally:
            connection.close()

    def _answer(self, status: int, body: bytes, *, format_name: str = "", code: str = "") -> None:
        self.send_response(status)
        if format_name:
            self.send_header("X-ClickHouse-Format", format_name)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.send_header("X-ClickHouse-Summary", "{}")
        self.send_header("X-ClickHouse-Timezone", "UTC")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _insert(connection: Any, insert: re.Match[bytes], rows: bytes) -> bytes:
    # Binary rows behind FORMAT are cut short by chDB's query(), so they go through a file.
    with tempfile.NamedTemporaryFile(suffix=".native") as file:
        file.write(rows)
        file.flush()
        connection.query(f"{insert.group(1).decode()} FROM INFILE '{file.name}' FORMAT {insert.group(2).decode()}")
    return b""


def _query(connection: Any, text: str, bound: dict[str, str]) -> tuple[bytes, str]:
    """Return the answer and its format: a statement without a result has neither."""
    named = _FORMAT.search(text)
    answer = bytes(connection.query(text, "TabSeparatedWithNames", params=bound).bytes() or b"")
    if named:
        return answer, named.group(1)
    # With names even an empty result has a line, and what has no result has none.
    return answer.partition(b"\n")[2], "TabSeparated" if answer else ""
