"""Checks of whole numbers that a caller passes."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def check_integers(minimum: int = 1, /, **values: Any) -> list[int]:
    """Refuse values that are not integers of at least ``minimum``.

    Args:
        minimum: Smallest value accepted.
        values: The values by name; NumPy's integers are accepted, booleans are not.

    Returns:
        The values as Python integers, in the order given.

    Raises:
        ValueError: The message names the first value that is refused.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
            raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return [int(value) for value in values.values()]
