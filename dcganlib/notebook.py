"""Helpers for the chapters."""

from __future__ import annotations

import base64
import html
import inspect
from pathlib import Path
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


def show_animation(path: str | Path, alt: str, *, width: int = 360) -> Any:
    """Show a film made by ``plot.animate``, as a notebook output that carries the film in itself.

    Args:
        path: The file, ending in .gif or .webp.
        alt: What the film shows, for those who do not see it.
        width: On the page, in pixels; narrower where the page is.

    Returns:
        An IPython HTML object with the film as an image.

    Raises:
        ValueError: The file is of another kind, or the description is empty.
        FileNotFoundError: There is no such file.
    """
    from IPython.display import HTML  # only notebooks have it

    path = Path(path)
    if path.suffix.lower() not in (".gif", ".webp"):
        raise ValueError(f"a film ends in .gif or .webp, got {path.name!r}")
    if not alt.strip():
        raise ValueError("alt must say what the film shows, it is empty")
    content = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/{path.suffix.lower()[1:]};base64,{content}"
    described = f'class="dark-light" alt="{html.escape(alt)}" width="{width}" style="max-width: 100%"'
    return HTML(f'<img {described} src="{source}">')
