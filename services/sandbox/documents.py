"""Gets a document by its URL, and reads its pages: PDFs with pypdf, images as one page of their own size.

Only data URLs and http URLs on loopback are followed: the sandbox reads what lies on the machine that it runs on, and
must not become a way into the network around it.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from services.sandbox.checks import Refused
from services.sandbox.images import Image, read_image

if TYPE_CHECKING:
    from pypdf import PageObject

DPI: Final = 200
MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024

_POINTS_PER_INCH: Final = 72
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_FETCH_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContent:
    """One page; the size is in pixels at `DPI`."""

    index: int
    text: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The pages that were asked for; `image` is set when the document is one, and `data` are its bytes."""

    data: bytes
    pages: tuple[PageContent, ...]
    image: Image | None = None


def unreadable(message: str) -> Refused:
    """Return the refusal of a document."""
    return Refused(message, kind="invalid_file", code="3310")


async def fetch(url: str) -> bytes:
    """Get the bytes behind a data URL or an http URL on loopback; raises `Refused`."""
    if url[:5].lower() == "data:":
        return _decoded(url)
    # Imported when needed: most requests hold their document, and httpx takes a third of a second to load.
    import httpx  # noqa: PLC0415

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise unreadable("The document's URL is not valid.") from None
    if parsed.scheme != "http" or parsed.host not in _LOOPBACK:
        raise unreadable("The sandbox reads data URLs, and http URLs on 127.0.0.1, localhost and ::1 only.")
    parts, size = [], 0
    try:
        # Without proxies and redirects: both lead off this machine.
        async with (
            httpx.AsyncClient(trust_env=False, timeout=_FETCH_SECONDS, follow_redirects=False) as client,
            client.stream("GET", parsed) as answer,
        ):
            if answer.status_code != 200:
                raise unreadable(f"The document's URL answered with status {answer.status_code}.")
            async for part in answer.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > MAX_DOCUMENT_BYTES:
                    raise unreadable(f"The document is larger than {MAX_DOCUMENT_BYTES} bytes.")
    except httpx.HTTPError as error:
        raise unreadable(f"The document could not be fetched: {type(error).__name__}.") from None
    return b"".join(parts)


def read_document(data: bytes, *, is_image: bool, choose: Callable[[int], Sequence[int]]) -> Document:
    """Read the pages that `choose` picks, given how many there are; raises `Refused`."""
    image = read_image(data)
    if image is not None:
        if not is_image:
            raise unreadable("The document is an image: send it as 'image_url'.")
        pages = tuple(PageContent(index=i, text="", width=image.width, height=image.height) for i in choose(1))
        return Document(data=data, pages=pages, image=image)
    if b"%PDF-" not in data[:1024]:
        raise unreadable("The document is neither a PDF nor a PNG, JPEG, GIF or WebP image.")
    if is_image:
        raise unreadable("The image is a PDF: send it as 'document_url'.")
    return Document(data=data, pages=_pages(data, choose=choose))


def _decoded(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise unreadable("The document's data URL has no data.")
    try:
        if head.lower().endswith(";base64"):
            return binascii.a2b_base64(body, strict_mode=True)
        return unquote_to_bytes(body)
    except (binascii.Error, ValueError):
        raise unreadable("The document's data URL is not valid base64.") from None


def _pages(data: bytes, *, choose: Callable[[int], Sequence[int]]) -> tuple[PageContent, ...]:
    # Imported when needed: a sandbox that only chats starts without it.
    from pypdf import PasswordType, PdfReader  # noqa: PLC0415

    try:
        reader = PdfReader(BytesIO(data))
        # Many PDFs are encrypted with an empty password, which every reader tries.
        locked = reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED
        pages = () if locked else tuple(_page(reader.pages[i], index=i) for i in choose(len(reader.pages)))
    except Refused:
        raise
    except Exception as error:
        # A broken file makes pypdf raise almost anything, from its own errors to KeyError.
        raise unreadable(f"The document could not be read: {error}.") from error
    if locked:
        raise unreadable("The document is encrypted: a password is needed to read it.")
    return pages


def _page(page: PageObject, *, index: int) -> PageContent:
    width, height = float(page.mediabox.width), float(page.mediabox.height)
    if page.rotation % 180:
        width, height = height, width
    return PageContent(index=index, text=page.extract_text().strip(), width=_pixels(width), height=_pixels(height))


def _pixels(points: float) -> int:
    return max(1, round(points * DPI / _POINTS_PER_INCH))
