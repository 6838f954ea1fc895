"""Names of users cannot meet, whatever the ids and the separator."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Internal
from services.chroma.namespace import checked_separator, namespace_of
from services.chroma.refusals import Refusal

IDS = st.text(min_size=1)
SEPARATORS = st.text("abcZ019_.-", min_size=1, max_size=32).filter(lambda text: ".." not in text)
NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,40}[a-zA-Z0-9]", fullmatch=True).filter(lambda n: ".." not in n)


@given(IDS, IDS, NAMES, NAMES, SEPARATORS)
def test_two_users_never_share_a_stored_name(one: str, other: str, name: str, another: str, separator: str) -> None:
    first, second = namespace_of(one, separator=separator), namespace_of(other, separator=separator)
    assert first.own_name(first.stored_name(name)) == name
    if one == other:
        assert first == second
        return
    assert first.stored_name(name) != second.stored_name(another)
    assert not second.owns(first.stored_name(name))
    with pytest.raises(Internal):
        second.own_name(first.stored_name(name))
    assert first.tenant != second.tenant
    # A user may choose a name that looks like another's stored one: it is stored below their own prefix.
    assert not second.owns(first.stored_name(second.prefix + "mine"))


@given(IDS, SEPARATORS)
def test_a_prefix_has_a_fixed_length_and_characters_that_chroma_takes(user_id: str, separator: str) -> None:
    prefix = namespace_of(user_id, separator=checked_separator(separator)).prefix
    assert len(prefix) == 33 + len(separator)
    assert prefix.startswith("u")
    assert prefix.isascii()
    tenant = namespace_of(user_id, separator=separator).tenant
    assert len(tenant) == len(prefix) + len("tenant")
    assert tenant.isascii()


def test_names_are_the_same_at_every_start() -> None:
    alice = namespace_of("alice", separator="__")
    assert alice.prefix == "u2bd806c97f0e00af1a1fc3328fa763a9__"
    assert alice.tenant == "t2bd806c97f0e00af1a1fc3328fa763a9__tenant"


@pytest.mark.parametrize(
    "name", ["", "ab", "-abc", "abc-", "a+bc", "abc+def", "a b", "abc/", "ä" * 5, "abc\n", "\nabc", "x" * 478, "a\0bc"]
)
def test_a_bad_name_is_refused_before_the_prefix_makes_it_good(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        namespace_of("alice", separator="__").stored_name(name)
    assert refused.value.status == 400
    assert refused.value.body.startswith(
        b'{"error":"InvalidArgumentError","message":"Expected a name containing 3-477 characters from [a-zA-Z0-9._-], '
        b"starting and ending with a character in [a-zA-Z0-9]. Got: "
    )


def test_two_periods_are_refused_in_chromas_words() -> None:
    with pytest.raises(Refusal) as refused:
        namespace_of("alice", separator="__").stored_name("a..b")
    assert b"Expected a name that does not contains two consecutive periods (..). Got a..b" in refused.value.body


def test_the_longest_name_fits() -> None:
    assert len(namespace_of("alice", separator="__").stored_name("x" * 477)) == 512


@pytest.mark.parametrize("separator", ["", "+", "a+b", "/", "..", "a..b", " ", "ä", "\n", "_" * 33])
def test_a_separator_that_chroma_would_not_take_is_refused(separator: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        checked_separator(separator)


def test_nobody_has_no_namespace() -> None:
    with pytest.raises(ValueError, match="needs a user"):
        namespace_of("", separator="__")


def test_messages_are_shown_with_the_users_own_names() -> None:
    namespace = namespace_of("alice", separator="__")
    prefix = namespace.prefix
    assert namespace.scrub(f"Database [{prefix}mine] not found", database="mine") == "Database [mine] not found"
    assert namespace.scrub(f"No {prefix}other", database="") == "No other"
    assert namespace.scrub(f"Tenant [{namespace.tenant}] not found", database="") == "Tenant [default_tenant] not found"
    tenant_and_database = f"[{namespace.tenant}] [{prefix}tenant]"
    assert namespace.scrub(tenant_and_database, database="tenant") == "[default_tenant] [tenant]"
    own = f"{prefix}mine"
    assert namespace.scrub(f"Database [{prefix}{own}] not found", database=own) == f"Database [{own}] not found"
