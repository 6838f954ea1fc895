"""Paths and queries are read once, and only in one way."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chroma.refusals import Refusal
from services.chroma.request_line import RequestLine, query_string, read_target


def test_a_target_is_decoded_once() -> None:
    line = read_target("/api/v2/a%2541/b+c/%e2%98%83?limit=1&name=a+b%2Bc&empty&=x")
    assert line.segments == ("api", "v2", "a%41", "b+c", "☃")
    assert line.query == (("limit", "1"), ("name", "a b+c"), ("empty", ""), ("", "x"))
    assert query_string(line.query) == "limit=1&name=a%20b%2Bc&empty=&=x"
    assert read_target("") == RequestLine((), ())
    assert read_target("?x=1") == RequestLine((), (("x", "1"),))


@pytest.mark.parametrize("target", ["/", "/api/v2/", "//api/v2", "/api//v2", "api/v2", "X"])
def test_empty_parts_are_unknown_paths(target: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_target(target)
    assert refused.value.status == 404


@pytest.mark.parametrize(
    "target",
    [
        *(f"/api/{part}/x" for part in ("a%2Fb", "a%2fb", "%2e%2e", "..", ".", "%2E", "a%00", "%", "%2", "%zz", "%ff")),
        "/api/v2?limit=%",
        "/api/v2?%ff=1",
        "/api/v2?limit=1&limit=2",
        "/api/v2?limit=1&l%69mit=1",
        "/api/%ed%a0%80/x",
        "/api/v2?" + "&".join(["a=1"] * 101),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(target: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_target(target)
    assert refused.value.status == 400


@given(st.lists(st.text(min_size=1).filter(lambda text: text not in (".", "..") and not {"/", "\0"} & set(text))))
def test_what_was_encoded_comes_back(segments: list[str]) -> None:
    assert read_target("".join(f"/{quote(part, safe='')}" for part in segments)).segments == tuple(segments)


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=20, unique_by=lambda pair: pair[0]))
def test_a_query_comes_back(query: list[tuple[str, str]]) -> None:
    assert read_target(f"?{query_string(tuple(query))}").query == tuple(query)
