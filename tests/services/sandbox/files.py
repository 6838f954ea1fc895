"""Real PDFs and images, made on the spot."""

import base64
import io
import struct
import zlib

from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject


def pdf(*texts: str, width: float = 612, height: float = 792, rotation: int = 0) -> bytes:
    """Make a PDF with one page for each text, in Helvetica."""
    writer = PdfWriter()
    for text in texts:
        page = writer.add_blank_page(width, height)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        content = DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode("latin-1"))
        page[NameObject("/Contents")] = writer._add_object(content)
        page.rotate(rotation)
    return written(writer)


def encrypted(data: bytes, *, password: str, algorithm: str = "AES-256") -> bytes:
    """Encrypt a PDF; with an empty password every reader opens it."""
    writer = PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(password, owner_password="the owner's", algorithm=algorithm)
    return written(writer)


def written(writer: PdfWriter) -> bytes:
    """Return what the writer writes."""
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def png(width: int, height: int, *, padding: bytes = b"") -> bytes:
    """Make a grey PNG, with a comment of so many bytes."""
    rows = zlib.compress(b"".join(b"\0" + b"\x80" * width for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    comment = [(b"tEXt", b"c\0" + padding)] if padding else []
    chunks = [(b"IHDR", header), *comment, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def jpeg(width: int, height: int) -> bytes:
    """Make the headers of a JPEG: an application segment, a Huffman table that is no frame, and the frame."""
    segments = [(0xE0, b"JFIF\0" + bytes(9)), (0xC4, bytes(17)), (0xC2, struct.pack(">BHHB", 8, height, width, 1))]
    return b"\xff\xd8" + b"".join(
        bytes((0xFF, kind)) + struct.pack(">H", len(data) + 2) + data for kind, data in segments
    )


def gif(width: int, height: int) -> bytes:
    """Make the headers of a GIF."""
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(3)


def webp(kind: bytes, width: int, height: int) -> bytes:
    """Make the headers of a WebP of one of its three kinds."""
    if kind == b"VP8X":
        body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + bytes(5)
    else:
        body = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


def data_url(media_type: str, data: bytes) -> str:
    """Return a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
