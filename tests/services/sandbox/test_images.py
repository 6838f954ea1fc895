import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sandbox.images import Image, read_image
from tests.services.sandbox.files import gif, jpeg, png, webp

SIZES = st.integers(1, 16_000)


@given(SIZES, SIZES)
def test_the_size_is_that_of_the_header(width: int, height: int) -> None:
    made = [
        (jpeg(width, height), "image/jpeg"),
        (gif(width, height), "image/gif"),
        *((webp(kind, width, height), "image/webp") for kind in (b"VP8X", b"VP8L", b"VP8 ")),
    ]
    for data, media_type in made:
        assert read_image(data) == Image(media_type=media_type, width=width, height=height)


def test_a_png_with_pixels() -> None:
    assert read_image(png(30, 20)) == Image(media_type="image/png", width=30, height=20)


@pytest.mark.parametrize(
    "data",
    [
        png(30, 20)[:20],
        png(0, 20),
        jpeg(30, 20)[:-5],
        b"\xff\xd8\xff\xff\xff",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8rubbish-without-markers",
        gif(30, 20)[:8],
        webp(b"VP8X", 30, 20)[:20],
        webp(b"NONE", 30, 20),
        b"%PDF-1.7",
        b"",
    ],
)
def test_what_has_no_size_is_no_image(data: bytes) -> None:
    assert read_image(data) is None


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\xff\xd8" + tail))
def test_any_bytes_are_read_or_not(data: bytes) -> None:
    read_image(data)
