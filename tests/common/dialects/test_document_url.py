"""Image or document: told by the URL alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dialects.document_url import is_data, is_image

IMAGES = ("avif", "bmp", "gif", "heic", "heif", "jfif", "jpeg", "jpg", "png", "svg", "tif", "tiff", "webp")
DOCUMENTS = ("pdf", "docx", "pptx", "txt", "html", "pngx", "apng2", "")
_name = st.text(st.characters(codec="ascii", exclude_characters="/?#%", exclude_categories=["Cc", "Zs"]), max_size=12)
_query = st.text(st.characters(exclude_characters="#", exclude_categories=["Cs"]), max_size=20)
_host = st.sampled_from(["x.test", "x.png", "[::1]:8080", "user:pw@x.test", "127.0.0.1"])


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,AAAA",
        "data:image/svg+xml,<svg/>",
        "DATA:Image/JPEG;base64,AAAA",
        "  data:image/gif;base64,AAAA",
        "https://x.test/a.png",
        "https://x.test/a.b/scan%2EJPG",
        "https://x.test/a.PNG?name=b.pdf#c.pdf",
        "https://x.test/a.jpeg ",
    ],
)
def test_images(url: str) -> None:
    assert is_image(url)


@pytest.mark.parametrize(
    "url",
    [
        "data:application/pdf;base64,AAAA",
        "data:application/pdf;name=a.png;base64,AAAA",
        "data:;base64,AAAA",
        "data:,image/png",
        "data:text/plain,data:image/png",
        "https://x.test/a.pdf",
        "https://x.test/a.pdf?as=b.png",
        "https://x.test/a.pdf#b.png",
        "https://x.test/?a.png",
        "https://x.test/a.png/",
        "https://x.test/png",
        "https://x.png",
        "https://x.png?y",
        "http://[",
        "a.png",
        "nonsense",
        "",
    ],
)
def test_documents(url: str) -> None:
    assert not is_image(url)


@given(_host, _name, st.sampled_from(IMAGES + DOCUMENTS), _query)
def test_only_the_extension_of_the_path_counts(host: str, name: str, extension: str, rest: str) -> None:
    for shown in (extension, extension.upper()):
        assert is_image(f"https://{host}/d/{name}.{shown}?{rest}#{rest}") == (extension in IMAGES)
        assert not is_image(f"https://{host}?{name}.{shown}")


@given(st.sampled_from(["data:", "DATA:", "Data:"]), st.sampled_from(["image/", "IMAGE/", "application/"]), _query)
def test_only_the_type_of_a_data_url_counts(scheme: str, kind: str, rest: str) -> None:
    assert is_data(scheme + kind + rest)
    assert is_image(scheme + kind + rest) == (kind.lower() == "image/")
