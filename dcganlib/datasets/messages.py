"""Text for messages: file names as they can be printed, and where a warning points."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

MAX_NAME_LENGTH = 100  # characters of a file's name in a message
KEPT_START, KEPT_END = 60, 39  # characters that stay of a longer one


def printable(text: str) -> str:
    r"""A file's name as text that can be printed and saved: bytes that are not UTF-8 become ``\udcNN``."""
    return text.encode("utf-8", "backslashreplace").decode()


def shorten(name: str) -> str:
    """A file's name as a message shows it: printable, its middle left out where it is long."""
    name = printable(name)
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[:KEPT_START]}…{name[-KEPT_END:]}"


def caller_stacklevel() -> int:
    """The ``stacklevel`` that makes a warning point to the code that called the library.

    To be called in the function that warns.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and PACKAGE in Path(frame.f_code.co_filename).parents:
        frame, level = frame.f_back, level + 1
    return level
