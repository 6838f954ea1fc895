"""OCR through Envoy: the Mistral SDK in both majors, raw HTTP and gRPC, and what was metered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest

from common.settings import MAX_BODY_BYTES
from tests.e2e.stack import REPOSITORY, Stack, bounded
from tests.services.sandbox.files import data_url, pdf, png
from turnpike.ocr.v1 import ocr_pb2, ocr_pb2_grpc

OCR = "/v1/ocr"
PDF = pdf("First page", "Second page", "Third page")
PDF_URL = data_url("application/pdf", PDF)
IMAGE_URL = data_url("image/png", png(64, 32))
ENVELOPE = {"message", "type", "param", "code"}


def ledger(stack: Stack, request_id: str) -> dict[str, Any]:
    entries = httpx.get(f"{stack.sandbox_url}/sandbox/ledger", params={"request_id": request_id}, trust_env=False)
    (entry,) = entries.json()["data"]
    return dict(entry)


@pytest.mark.parametrize("major", [3, 2])
def test_the_mistral_sdk_works_by_changing_the_server_url_alone(stack: Stack, tmp_path: Path, major: int) -> None:
    path = [str(REPOSITORY / ".venv" / "sdk-previous")] if major == 2 else []
    (tmp_path / "three.pdf").write_bytes(PDF)
    (tmp_path / "image.png").write_bytes(png(64, 32))
    unscoped = stack.new_token("sdk", scopes=["chat"])["token"]
    run = subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "tests/e2e/mistral_sdk.py"), stack.url, stack.token, unscoped),
            *(str(tmp_path / "three.pdf"), str(tmp_path / "image.png")),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1].startswith(f"{major}.")
    assert run.stdout.splitlines()[-1].endswith("errors ok")


@pytest.mark.parametrize(("url", "kind"), [(PDF_URL, "document_url"), (IMAGE_URL, "image_url")])
def test_a_bare_url_becomes_a_document_of_the_default_model(stack: Stack, url: str, kind: str) -> None:
    body = {"url": url, "pages": [0], "sandbox": {"echo_body": True, "echo_headers": True}}
    with stack.client() as client:
        answer = client.post(OCR, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["mistral-correlation-id"]
    sent = answer.json()["sandbox"]
    assert sent["body"].pop("document") == {"type": kind, kind: url}
    assert sent["body"] == {"pages": [0], "sandbox": body["sandbox"], "model": "mistral-ocr-latest"}
    assert sent["headers"]["x-request-id"] == answer.headers["x-request-id"]
    # The caller's credential ends at the gateway, and the sandbox needs none.
    assert "authorization" not in sent["headers"]


def test_a_complete_body_reaches_the_provider_as_it_is(stack: Stack) -> None:
    body = b'{ "model" : "m",\n"document": {"document_url":"%b"}, "sandbox":{"echo_body": true } }' % PDF_URL.encode()
    with stack.client() as client:
        answer = client.post(OCR, content=body)
    assert body in answer.content


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"null", None),
        (b"[]", None),
        (b"{}", "document"),
        (b'{"model":"m"}', "document"),
        (b'{"document":"x"}', "document"),
        (b'{"documents":"x"}', "documents"),
        (b'{"url":7}', "url"),
        (b'{"url":""}', "url"),
        (b'{"url":"x","model":7}', "model"),
    ],
)
def test_a_bad_body_is_400_with_the_envelope(stack: Stack, body: bytes, param: str | None) -> None:
    with stack.client() as client:
        answer = client.post(OCR, content=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == ENVELOPE
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
def test_other_methods_are_405(stack: Stack, method: str) -> None:
    with stack.client() as client:
        answer = client.request(method, OCR)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    if method != "HEAD":
        assert set(answer.json()["error"]) == ENVELOPE


def test_a_credential_and_the_scope_are_needed(stack: Stack) -> None:
    unscoped = stack.new_token("scopeless", scopes=["chat"])["token"]
    for credential, status in (("", 401), ("tp_wrong", 401), (unscoped, 403)):
        with stack.client(credential=credential) as client:
            answer = client.post(OCR, json={"url": PDF_URL})
        assert answer.status_code == status
        assert set(answer.json()["error"]) == ENVELOPE
    scoped = stack.new_token("scoped", scopes=["ocr"])["token"]
    with stack.client(credential=scoped) as client:
        assert client.post(OCR, json={"url": PDF_URL}).status_code == 200


def test_what_breaks_off_is_a_502_and_what_fails_keeps_its_status(stack: Stack) -> None:
    ask = {"url": PDF_URL}
    with stack.client() as client:
        cut = client.post(OCR, json={**ask, "sandbox": {"cut_after_bytes": 20}})
        gone = client.post(OCR, json={**ask, "sandbox": {"no_answer": True}})
        page = client.post(OCR, json={**ask, "sandbox": {"status": 503, "error_body": "<h1>away</h1>"}})
        broken = client.post(OCR, json={"url": data_url("application/pdf", PDF[:300])})
    assert (cut.status_code, cut.json()["error"]["code"]) == (502, "upstream_cut")
    assert (gone.status_code, gone.json()["error"]["code"]) == (502, "upstream_failed")
    assert (page.status_code, page.json()["error"]["type"]) == (503, "upstream_error")
    assert broken.status_code == 400
    assert broken.json()["object"] == "error"


def test_a_scan_of_many_megabytes_goes_there_and_back(stack: Stack) -> None:
    # As base64 about 30 MiB; the answer holds the same image again, so that it comes in many pieces.
    scan = png(640, 480, padding=os.urandom(22 * 1024 * 1024))
    with stack.client() as client:
        began = time.perf_counter()
        answer = client.post(OCR, json={"url": data_url("image/png", scan), "include_image_base64": True})
        seconds = time.perf_counter() - began
    assert answer.status_code == 200, answer.text[:500]
    (image,) = answer.json()["pages"][0]["images"]
    assert image["image_base64"] == data_url("image/png", scan)
    assert seconds < 20


def test_a_body_over_32_mib_is_413_and_one_just_below_reaches_the_provider(stack: Stack) -> None:
    head = b'{"url":"data:application/pdf;base64,'
    with stack.client() as client:
        below = client.post(OCR, content=head + b"A" * (MAX_BODY_BYTES - len(head) - 2) + b'"}')
        above = client.post(OCR, content=head + b"A" * MAX_BODY_BYTES + b'"}')
    # Not a PDF, says the provider: so it has seen it.
    assert (below.status_code, below.json()["code"]) == (400, "3310")
    assert (above.status_code, above.json()["error"]["code"]) == (413, "payload_too_large")


def _used(stack: Stack, model: str, *, requests: int) -> dict[str, Any]:
    """Return the usage of a model of which no other test has heard."""
    with stack.client() as client:
        for _ in bounded(60):
            usage = client.get("/v1/usage", params={"hours": 1}).json()
            found: list[dict[str, Any]] = [row for row in usage["top_models"] if row["model"] == model]
            if found and found[0]["requests"] == requests:
                return found[0]
    raise AssertionError(f"{model} is not in {usage}")


def test_the_pages_metered_are_those_of_the_sandboxs_ledger(stack: Stack) -> None:
    asks: list[tuple[dict[str, Any], int]] = [
        ({"url": PDF_URL}, 3),
        ({"url": PDF_URL, "pages": "0-1"}, 2),
        ({"url": IMAGE_URL}, 1),
        ({"url": PDF_URL, "sandbox": {"no_usage": True}}, 0),
        ({"url": PDF_URL, "sandbox": {"status": 429}}, 0),
        ({"url": data_url("application/pdf", PDF[:200])}, 0),
    ]
    model, ids = uuid4().hex, [uuid4().hex for _ in asks]
    with stack.client() as client:
        for (ask, _), request_id in zip(asks, ids, strict=True):
            client.post(OCR, json={**ask, "model": model}, headers={"x-request-id": request_id})
    entries = [ledger(stack, request_id) for request_id in ids]
    known = [entry["pages"] for entry, (ask, _) in zip(entries, asks, strict=True) if "no_usage" not in str(ask)]
    metered = _used(stack, model, requests=len(asks))
    assert sum(known) == sum(pages for _, pages in asks) == 6
    assert metered["ocr_pages"] == 6
    assert metered["errors"] == 2
    assert metered["total_tokens"] == 0


async def test_a_grpc_caller_gets_typed_pages(stack: Stack) -> None:
    metadata = (("authorization", f"Bearer {stack.token}"),)
    inline = ocr_pb2.InlineDocument(data=PDF, media_type="application/pdf")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stack.port}") as channel:
        stub = ocr_pb2_grpc.OcrServiceStub(channel)
        whole = await stub.ProcessDocument(ocr_pb2.ProcessDocumentRequest(inline=inline), metadata=metadata)
        image = await stub.ProcessDocument(ocr_pb2.ProcessDocumentRequest(url=IMAGE_URL), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ProcessDocument(
                ocr_pb2.ProcessDocumentRequest(document_url="https://example.com/a.pdf"), metadata=metadata
            )
    assert [page.markdown for page in whole.pages] == ["First page", "Second page", "Third page"]
    assert (whole.pages_processed, whole.document_bytes, whole.model) == (3, len(PDF), "mistral-ocr-latest")
    assert (image.pages[0].dimensions.width, image.pages[0].images[0].id) == (64, "img-0.png")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "127.0.0.1" in (caught.value.details() or "")


def test_curl_reads_a_document(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text(json.dumps({"url": PDF_URL}))
    command = [
        *("curl", "-sS", "--noproxy", "*", f"{stack.url}{OCR}", "-H", f"Authorization: Bearer {stack.token}"),
        *("-H", "Content-Type: application/json", "-d", f"@{tmp_path / 'body.json'}"),
    ]
    run = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert json.loads(run.stdout)["usage_info"]["pages_processed"] == 3
