import http.server
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError

from tests.services.sandbox.conftest import WAIT_SECONDS, Sandbox
from tests.services.sandbox.files import data_url, encrypted, pdf, png

THREE = pdf("One", "Two", "Three")
INLINE = data_url("application/pdf", THREE)
IMAGE = data_url("image/png", png(64, 32))
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "s",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}


@pytest.fixture
def mistral(sandbox: Sandbox) -> Iterator[Mistral]:
    with Mistral(api_key="k", server_url=sandbox.url) as sdk:
        yield sdk


def document(url: str = INLINE) -> Any:
    return {"type": "document_url", "document_url": url}


def image(url: Any = IMAGE) -> Any:
    return {"type": "image_url", "image_url": url}


def ask(sandbox: Sandbox, /, **body: Any) -> httpx.Response:
    return httpx.post(f"{sandbox.url}/v1/ocr", json={"model": "m", "document": document(), **body}, timeout=30)


def message(answer: httpx.Response) -> str:
    body = answer.json()
    assert set(body) == {"object", "message", "type", "param", "code"}
    assert body["object"] == "error"
    return str(body["message"])


class Files(http.server.BaseHTTPRequestHandler):
    """Serves a PDF, and what leads astray."""

    def do_GET(self) -> None:
        answers = {"/a.pdf": (200, THREE), "/away": (302, b""), "/large": (200, b"x" * (65 << 20))}
        status, body = answers.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("location", "/a.pdf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def files() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(WAIT_SECONDS)


def test_a_pdf_has_its_pages_and_their_text(mistral: Mistral, sandbox: Sandbox) -> None:
    answer = mistral.ocr.process(model="mistral-ocr-latest", document=document())
    assert [(page.index, page.markdown) for page in answer.pages] == [(0, "One"), (1, "Two"), (2, "Three")]
    size = answer.pages[0].dimensions
    assert size
    assert (size.dpi, size.width, size.height) == (200, 1700, 2200)
    assert (answer.usage_info.pages_processed, answer.usage_info.doc_size_bytes) == (3, len(THREE))
    assert answer.model == "mistral-ocr-latest"
    entry = sandbox.last()
    assert (entry.outcome, entry.status, entry.pages, entry.total_tokens) == ("completed", 200, 3, 0)
    assert entry.model == "mistral-ocr-latest"


@pytest.mark.parametrize(("given", "url"), [("string", IMAGE), ("object", {"url": IMAGE, "detail": "low"})])
def test_an_image_is_one_page_of_its_own_size(mistral: Mistral, given: str, url: Any) -> None:
    answer = mistral.ocr.process(model="m", document=image(url), include_image_base64=True)
    (page,) = answer.pages
    assert page.dimensions
    assert (page.dimensions.width, page.dimensions.height) == (64, 32)
    assert page.markdown == "![img-0.png](img-0.png)"
    (found,) = page.images
    assert (found.id, found.bottom_right_x, found.bottom_right_y) == ("img-0.png", 64, 32)
    assert found.image_base64 == IMAGE
    assert answer.usage_info.pages_processed == 1


@pytest.mark.parametrize(
    ("pages", "chosen"),
    [([0], [0]), ([2, 0, 2], [0, 2]), ("1", [1]), ("0-1", [0, 1]), (" 2, 0-0 ", [0, 2]), ([], [])],
)
def test_only_the_chosen_pages_are_read_and_counted(sandbox: Sandbox, pages: Any, chosen: list[int]) -> None:
    answer = ask(sandbox, pages=pages).json()
    assert [page["index"] for page in answer["pages"]] == chosen
    assert answer["usage_info"]["pages_processed"] == len(chosen)
    assert sandbox.last().pages == len(chosen)


def test_images_can_be_limited(sandbox: Sandbox) -> None:
    for limit in ({"image_limit": 0}, {"image_min_size": 33}):
        (page,) = ask(sandbox, document=image(), **limit).json()["pages"]
        assert (page["images"], page["markdown"]) == ([], "")
    (page,) = ask(sandbox, document=image(), image_limit=1, image_min_size=32).json()["pages"]
    assert page["images"][0]["image_base64"] is None


def test_blocks_and_annotations_come_when_asked_for(mistral: Mistral) -> None:
    options: Any = {"document_annotation_format": SCHEMA, "bbox_annotation_format": SCHEMA}
    for given in (document(), image()):
        answer = mistral.ocr.process(model="m", document=given, **options)
        assert answer.document_annotation == '{"n":0}'
        page = answer.pages[0]
        # The SDK asks for blocks by itself.
        assert [block.type for block in page.blocks or []] == (["image"] if page.images else ["text"])
        assert all(found.image_annotation == '{"n":0}' for found in page.images)
    plain = mistral.ocr.process(model="m", document=document(), include_blocks=False)
    assert not plain.pages[0].blocks
    assert not plain.document_annotation


def test_a_rotated_page_is_wide_and_an_empty_password_opens(sandbox: Sandbox) -> None:
    (page,) = ask(sandbox, document=document(data_url("application/pdf", pdf("x", rotation=90)))).json()["pages"]
    assert (page["dimensions"]["width"], page["dimensions"]["height"]) == (2200, 1700)
    for algorithm in ("RC4-128", "AES-256"):
        locked = encrypted(THREE, password="", algorithm=algorithm)
        answer = ask(sandbox, document=document(data_url("application/pdf", locked)))
        assert answer.json()["usage_info"]["pages_processed"] == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_url_on_loopback_is_fetched(sandbox: Sandbox, files: int, host: str) -> None:
    answer = ask(sandbox, document={"document_url": f"http://{host}:{files}/a.pdf"})
    assert answer.json()["usage_info"]["pages_processed"] == 3


def test_what_loopback_cannot_give_is_refused(sandbox: Sandbox, files: int) -> None:
    base = f"http://127.0.0.1:{files}"
    assert "status 404" in message(ask(sandbox, document=document(f"{base}/none.pdf")))
    assert "status 302" in message(ask(sandbox, document=document(f"{base}/away")))
    assert "larger than" in message(ask(sandbox, document=document(f"{base}/large")))
    assert "could not be fetched" in message(ask(sandbox, document=document("http://[::1]:1/a.pdf")))


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/a.pdf",
        "http://example.com/a.pdf",
        "http://127.0.0.1@example.com/a.pdf",
        "http://example.com#@127.0.0.1/a.pdf",
        "http://example.com\\@127.0.0.1/a.pdf@",
        "http://169.254.169.254/latest",
        "http://0.0.0.0/a.pdf",
        "http://127.0.0.2/a.pdf",
        "http://2130706433/a.pdf",
        "http://localhost.example.com/a.pdf",
        "file:///etc/passwd",
        "a.pdf",
        "http://[",
        "http://127.0.0.1:99999/",
    ],
)
def test_nothing_but_loopback_is_fetched(sandbox: Sandbox, url: str) -> None:
    answer = ask(sandbox, document=document(url))
    assert answer.status_code == 400
    assert "read" in message(answer) or "valid" in message(answer) or "fetched" in message(answer)
    assert sandbox.last().pages == 0


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (data_url("application/pdf", THREE[:200]), "could not be read"),
        (data_url("application/pdf", b"%PDF-1.7 and then nothing"), "could not be read"),
        (data_url("application/pdf", encrypted(THREE, password="secret")), "encrypted"),
        (data_url("application/pdf", encrypted(THREE, password="secret", algorithm="RC4-128")), "encrypted"),
        (data_url("text/plain", b"hello"), "neither a PDF nor"),
        (data_url("application/pdf", b""), "neither a PDF nor"),
        (data_url("application/pdf", png(2, 2)), "send it as 'image_url'"),
        ("data:application/pdf;base64,!!!!", "base64"),
        ("data:application/pdf;base64", "no data"),
        ("data:application/pdf;base64,ü", "base64"),
        ("data:,%25PDF-broken", "could not be read"),
    ],
)
def test_a_document_that_cannot_be_read_is_a_clear_400(mistral: Mistral, url: str, text: str) -> None:
    with pytest.raises(SDKError, match=text) as caught:
        mistral.ocr.process(model="m", document=document(url))
    assert caught.value.status_code == 400


def test_an_image_that_is_a_pdf_a_page_beyond_the_end_a_file_and_a_missing_model(sandbox: Sandbox) -> None:
    assert "send it as 'document_url'" in message(ask(sandbox, document=image(INLINE)))
    assert "Page 3 does not exist" in message(ask(sandbox, pages=[0, 3]))
    absent = ask(sandbox, document={"type": "file", "file_id": "f"})
    assert (absent.status_code, message(absent)) == (404, "The sandbox keeps no files.")
    assert "Invalid model" in message(ask(sandbox, model="missing-model"))


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"nonsense", ""),
        (b"[]", ""),
        (b'{"document":{"document_url":"x"}}', "model"),
        (b'{"model":null,"document":{"document_url":"x"}}', "model"),
        (b'{"model":"m"}', "document"),
        (b'{"model":"m","url":"https://x.test/a.pdf"}', "url"),
        (b'{"model":"m","document":"x"}', "document"),
        (b'{"model":"m","document":{}}', "document.document_url"),
        (b'{"model":"m","document":{"type":"other"}}', "document.type"),
        (b'{"model":"m","document":{"type":"document_url","document_url":7}}', "document.document_url"),
        (b'{"model":"m","document":{"type":"image_url","image_url":{"url":7}}}', "document.image_url.url"),
        (b'{"model":"m","document":{"document_url":"x"},"pages":"a"}', "pages"),
        (b'{"model":"m","document":{"document_url":"x"},"pages":"2-1"}', "pages"),
        (b'{"model":"m","document":{"document_url":"x"},"pages":[-1]}', "pages[0]"),
        (b'{"model":"m","document":{"document_url":"x"},"pages":[true]}', "pages[0]"),
        (b'{"model":"m","document":{"document_url":"x"},"include_image_base64":1}', "include_image_base64"),
        (
            b'{"model":"m","document":{"document_url":"x"},"confidence_scores_granularity":"word"}',
            "confidence_scores_granularity",
        ),
        (
            b'{"model":"m","document":{"document_url":"x"},"document_annotation_prompt":"x"}',
            "document_annotation_prompt",
        ),
        (
            b'{"model":"m","document":{"document_url":"x"},"document_annotation_format":{"type":"text"}}',
            "document_annotation_format.type",
        ),
        (
            b'{"model":"m","document":{"document_url":"x"},"document_annotation_format":{"type":"json_schema"}}',
            "document_annotation_format.json_schema",
        ),
    ],
)
def test_a_body_of_the_wrong_shape_is_422_with_its_place(sandbox: Sandbox, body: bytes, place: str) -> None:
    answer = httpx.post(f"{sandbox.url}/v1/ocr", content=body)
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert ".".join(detail["loc"][1:]) == place
    assert detail["msg"]
    assert detail["type"]


def test_the_sdk_raises_its_own_errors(mistral: Mistral) -> None:
    with pytest.raises(HTTPValidationError):
        mistral.ocr.process(model="m", document=document(), pages="x")
    with pytest.raises(SDKError) as caught:
        mistral.ocr.process(model="m?status=429&retry_after=7", document=document())
    assert caught.value.status_code == 429
    assert caught.value.headers["retry-after"] == "7"


def test_faults_and_echoes_are_as_asked(sandbox: Sandbox) -> None:
    assert message(ask(sandbox, sandbox={"status": 503, "error_message": "away"})) == "away"
    assert "usage_info" not in ask(sandbox, sandbox={"no_usage": True}).json()
    assert sandbox.last(2).pages == 3
    echoed = ask(sandbox, sandbox={"echo_body": True, "echo_headers": True}).json()["sandbox"]
    assert echoed["body"]["document"] == document()
    with pytest.raises(httpx.RemoteProtocolError):
        ask(sandbox, sandbox={"cut_after_bytes": 10})
    cut = sandbox.last(4)
    assert (cut.outcome, cut.bytes_sent, cut.pages) == ("cut", 10, 3)
    with pytest.raises(httpx.RemoteProtocolError):
        ask(sandbox, sandbox={"no_answer": True})
    assert sandbox.last(5).pages == 0
    assert ask(sandbox, sandbox={"nonsense": 1}).status_code == 422
