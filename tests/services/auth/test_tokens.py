"""The form of API tokens."""

from __future__ import annotations

import random
import secrets
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.tokens import display_prefix, hash_of, is_token_id, is_well_formed, new_token, new_token_id

_BASE62 = string.ascii_letters + string.digits


def _token(seed: int) -> str:
    return new_token(random.Random(seed).randrange)


@given(st.integers())
def test_a_token_is_well_formed(seed: int) -> None:
    token = _token(seed)
    assert token.startswith("tp_")
    assert len(token) == 45
    assert set(token[3:]) <= set(_BASE62)
    assert is_well_formed(token)


@given(st.integers(), st.integers(0, 44), st.characters())
def test_a_token_with_one_wrong_character_is_malformed(seed: int, place: int, character: str) -> None:
    token = _token(seed)
    mutated = token[:place] + character + token[place + 1 :]
    assert is_well_formed(mutated) is (mutated == token)


@given(st.integers(), st.integers(3, 43))
def test_a_token_with_two_exchanged_characters_is_malformed(seed: int, place: int) -> None:
    token = _token(seed)
    exchanged = token[:place] + token[place + 1] + token[place] + token[place + 2 :]
    assert is_well_formed(exchanged) is (exchanged == token)


@given(st.integers(), st.integers(0, 44))
def test_a_part_of_a_token_is_malformed(seed: int, length: int) -> None:
    assert not is_well_formed(_token(seed)[:length])
    assert not is_well_formed(_token(seed) + _token(seed)[: length + 1])


@given(st.text())
def test_any_text_may_be_asked_about(text: str) -> None:
    assert not is_well_formed(text)
    assert not is_well_formed(f"tp_{text}")
    assert not is_token_id(text)


@pytest.mark.parametrize("end", ["\n", " ", "\0", "="])
def test_nothing_may_follow_a_token(end: str) -> None:
    assert not is_well_formed(_token(1) + end)


def test_checksums_do_not_change_between_versions() -> None:
    # Tokens that users hold must stay valid: these two were made by version 0.1.0.
    assert new_token(lambda _: 0) == "tp_" + "0" * 36 + "0etOEM"
    assert new_token(lambda below: below - 1) == "tp_" + "z" * 36 + "1ej79G"


def test_tokens_and_ids_differ() -> None:
    assert len({new_token(secrets.randbelow) for _ in range(100)}) == 100
    ids = {new_token_id(secrets.randbelow) for _ in range(100)}
    assert len(ids) == 100
    assert all(is_token_id(token_id) for token_id in ids)


def test_what_is_kept_and_shown_is_not_the_token() -> None:
    token = _token(1)
    assert len(hash_of(token)) == 32
    assert display_prefix(token) == token[:9]
