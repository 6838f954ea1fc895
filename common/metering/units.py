"""What can be counted of a request: one unit for each kind of token, for pages and for images."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias


class Unit(StrEnum):
    """One thing that is counted. The classes of tokens are disjoint; the value names the unit in events and columns."""

    UNCACHED_INPUT = "uncached_input_tokens"
    CACHE_READ = "cache_read_tokens"
    CACHE_WRITE = "cache_write_tokens"
    TEXT_OUTPUT = "text_output_tokens"
    REASONING = "reasoning_tokens"
    PAGES = "ocr_pages"
    IMAGES = "images"


Quantities: TypeAlias = Mapping[Unit, int]
"""How many of each unit a request used; a unit that is not there was not used."""
