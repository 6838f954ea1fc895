"""Parts of Envoy's configuration that match strings, headers and paths, and the filters that depend on a match."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

Json = dict[str, Any]
PRINTABLE: Final = "[ -~\t]*"
"""What gRPC takes as a header's value."""
VALID_ID: Final = "[A-Za-z0-9._:/+=@-]{1,128}"
"""The form of an x-request-id that is kept; common/request.py has the same."""
_TAIL: Final = "%[89ABab][0-9A-Fa-f]"
VALID_PATH: Final = (
    # UTF-8 as RFC 3629 has it, percent-encoded; a percent sign that begins no escape stands for itself.
    "(?:[!-$&-~]|%(?:[^0-9A-Fa-f%]|[0-9A-Fa-f][^0-9A-Fa-f%]|[0-9A-Fa-f]?$)|%[0-7][0-9A-Fa-f]"
    f"|%(?:[Cc][2-9A-Fa-f]|[Dd][0-9A-Fa-f]){_TAIL}"
    f"|%[Ee]0%[ABab][0-9A-Fa-f]{_TAIL}|%[Ee](?:[1-9A-Ca-c]|[EFef]){_TAIL}{_TAIL}|%[Ee][Dd]%[89][0-9A-Fa-f]{_TAIL}"
    f"|%[Ff]0%(?:9|[ABab])[0-9A-Fa-f]{_TAIL}{_TAIL}|%[Ff][1-3]{_TAIL}{_TAIL}{_TAIL}|%[Ff]4%8[0-9A-Fa-f]{_TAIL}{_TAIL})*"
)
"""A path and query whose percent-encoded bytes are UTF-8."""


def regex(pattern: str) -> Json:
    """Return a StringMatcher that the whole string must match."""
    return {"safe_regex": {"regex": pattern}}


def header(name: str, matcher: Json, *, negated: bool = False) -> Json:
    """Return a HeaderMatcher of a route."""
    return {"name": name, "string_match": matcher, **({"invert_match": True} if negated else {})}


def header_present(name: str, *, present: bool = True) -> Json:
    """Return a HeaderMatcher for a header that is there, or is not."""
    return {"name": name, "present_match": True, **({} if present else {"invert_match": True})}


def above(limit: int) -> str:
    """Return a regular expression of the decimal numbers greater than ``limit``."""
    digits = str(limit)
    longer = f"[0-9]{{{len(digits) + 1},}}"
    greater = [
        f"{digits[:place]}[{int(digit) + 1}-9][0-9]{{{len(digits) - place - 1}}}"
        for place, digit in enumerate(digits)
        if digit != "9"
    ]
    return "|".join([longer, *greater])


def all_but(names: Collection[str]) -> str:
    """Return a regular expression of all header names but these; names of pseudo-headers do not match.

    RE2 has no negative look-ahead, so it is built character by character.
    """
    return _all_but(names, first=True)


def _all_but(rests: Collection[str], *, first: bool = False) -> str:
    heads = sorted({rest[0] for rest in rests if rest})
    # A hyphen is escaped, because it would make a range.
    others = "".join(head.replace("-", r"\-") for head in heads) + (":" if first else "")
    alternatives = [f"[^{others}].*" if others else ".+"]
    if "" not in rests and not first:
        alternatives.append("")
    for head in heads:
        rest = _all_but([rest[1:] for rest in rests if rest[:1] == head])
        alternatives.append(head.replace("-", r"\-") + rest)
    return f"(?:{'|'.join(alternatives)})"


def skipped_unless(name: str, typed_config: Json, *, predicate: Json) -> Json:
    """Return an HTTP filter that does nothing for a stream unless the predicate matches."""
    skip = {"@type": "type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter"}
    matcher = {
        "predicate": {"not_matcher": predicate},
        "on_match": {"action": {"name": "skip", "typed_config": skip}},
    }
    return {
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {"name": name, "typed_config": typed_config},
            "xds_matcher": {"matcher_list": {"matchers": [matcher]}},
        },
    }


def request_header(name: str, pattern: str) -> Json:
    """Return a predicate: the request has the header, and its whole value matches."""
    return _predicate("HttpRequestHeaderMatchInput", name, pattern)


def response_header(name: str, pattern: str) -> Json:
    """Return a predicate: the answer has the header, and its whole value matches."""
    return _predicate("HttpResponseHeaderMatchInput", name, pattern)


def negated(predicate: Json) -> Json:
    """Return a predicate that matches where the other does not."""
    return {"not_matcher": predicate}


def any_of(predicates: Sequence[Json]) -> Json:
    """Return a predicate that matches where one of them does."""
    return {"or_matcher": {"predicate": list(predicates)}}


def _predicate(kind: str, name: str, pattern: str) -> Json:
    data = {"@type": f"type.googleapis.com/envoy.type.matcher.v3.{kind}", "header_name": name}
    matcher = {"safe_regex": {"google_re2": {}, "regex": pattern}}
    return {"single_predicate": {"input": {"name": name, "typed_config": data}, "value_match": matcher}}
