"""The one error that the starter reports as a line rather than a traceback."""

from __future__ import annotations


class Refused(Exception):
    """Says why nothing was started, and which variable or command changes that."""
