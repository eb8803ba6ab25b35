"""Helpers for the chapters."""

from __future__ import annotations

import inspect
from typing import Any


def show_source(item: Any) -> Any:
    """Show the source of a function or class of the library, as a notebook output.

    The text is read from the code that runs, so what the page shows is what the cell below it calls.

    Args:
        item: A function, class or module with Python source.

    Returns:
        An IPython Markdown object with the source in a fence.

    Raises:
        TypeError: The item has no Python source, as a built-in.
    """
    from IPython.display import Markdown  # only notebooks have it

    return Markdown(f"```python\n{inspect.getsource(item).rstrip()}\n```")
