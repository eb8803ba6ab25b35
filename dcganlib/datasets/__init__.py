"""Data sets by name, folders of images, and the loader that training reads.

What needs torch is imported when it is first used, so that the processes that decode pictures start without
it, and so does ``dcganlib --help``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcganlib.datasets.registry import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        registry = import_module("dcganlib.datasets.registry")
        if hasattr(registry, name):
            return getattr(registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
