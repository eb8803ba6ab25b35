"""Outputs for the chapters: source code, animations, sliders, trainings and tables."""

from __future__ import annotations

import ast
import base64
import html
import inspect
import io
import json
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dcganlib.viz import plot, training_figure
from dcganlib.viz.plot import StepRecord, grid_image

_MAX_WEBP_SIDE = 16_383  # pixels
_SLIDER_WIDTH = 480  # pixels on the page; narrower on a narrow page

# The JavaScript of `show_slider`: it shifts the strip of pictures and updates the text.
_ON_INPUT = (
    "const box = this.closest('[data-texts]'), texts = JSON.parse(box.dataset.texts);"
    "const text = texts[this.value];"
    "box.querySelector('img').style.transform = 'translateX(-' + 100 * this.value / texts.length + '%)';"
    "box.querySelector('output').value = text; this.setAttribute('aria-valuetext', text)"
)


def show_source(item: Any) -> Any:
    """Show the source of a function or class without its docstrings, as a notebook output.

    The text is read from the installed code, so a page shows the code that its cells call. The docstrings are
    in the reference.

    Args:
        item: A function, class or module with Python source.

    Returns:
        An IPython Markdown object with the source in a fence.

    Raises:
        TypeError: The item has no Python source, such as a built-in.
    """
    from IPython.display import Markdown  # only notebooks have it

    return Markdown(f"```python\n{_without_docstrings(inspect.getsource(item)).rstrip()}\n```")


def _without_docstrings(source: str) -> str:
    """Source code without the docstrings of its functions and classes; all other lines stay as they are."""
    lines: list[str | None] = list(source.splitlines())
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node) is not None
        ):
            text, *rest = node.body
            end = text.end_lineno or text.lineno
            while end < len(lines) and not lines[end]:
                end += 1
            lines[text.lineno - 1 : end] = [None] * (end - text.lineno + 1)
            if not rest:
                lines[text.lineno - 1] = " " * text.col_offset + "..."
    return "\n".join(line for line in lines if line is not None)


def show_animation(path: str | Path, alt: str, *, width: int = 360) -> Any:
    """Show an animation from ``plot.animate``, as a notebook output with the file embedded in it.

    Args:
        path: The file, ending in .gif or .webp.
        alt: Description for readers who cannot see the animation.
        width: Width on the page in pixels; narrower on a narrow page.

    Returns:
        An IPython HTML object with the animation as an image.

    Raises:
        ValueError: The file has another suffix, or the description is empty.
        FileNotFoundError: There is no such file.
    """
    from IPython.display import HTML  # only notebooks have it

    path = Path(path)
    if path.suffix.lower() not in (".gif", ".webp"):
        raise ValueError(f"an animation ends in .gif or .webp, got {path.name!r}")
    if not alt.strip():
        raise ValueError("alt must describe the animation, it is empty")
    content = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/{path.suffix.lower()[1:]};base64,{content}"
    described = f'class="dark-light" alt="{html.escape(alt)}" width="{width}" style="max-width: 100%"'
    return HTML(f'<img {described} src="{source}">')


def show_slider(
    frames: Sequence[Tensor | Image.Image],
    texts: Sequence[str],
    alt: str,
    *,
    label: str = "position",
    columns: int = 8,
    start: int | None = None,
) -> Any:
    """Show one of several pictures, selected with a slider, as a notebook output that needs no kernel.

    The output contains all pictures, side by side in one strip, and a little JavaScript that shifts it. Arrow
    keys move the slider. Without JavaScript, the picture of ``start`` is shown.

    Args:
        frames: Batches of images (each drawn as a grid) or finished pictures, all of the same size; at
            least 2.
        texts: Text next to the slider for each frame, such as its position.
        alt: Description for readers who cannot see the pictures.
        label: Label of the slider.
        columns: Images per row of the grid.
        start: Frame to begin with, from 0; by default the middle one.

    Returns:
        An IPython HTML object.

    Raises:
        ValueError: There are fewer than 2 frames or not as many texts, the frames differ in size or are too
            wide together, ``start`` is out of range, or the description is empty.
    """
    from IPython.display import HTML  # only notebooks have it

    if len(frames) < 2 or len(texts) != len(frames):
        raise ValueError(
            f"a slider needs at least 2 frames and a text for each, got {len(frames)} and {len(texts)}"
        )
    if not alt.strip():
        raise ValueError("alt must describe the pictures, it is empty")
    start = len(frames) // 2 if start is None else start
    if not 0 <= start < len(frames):
        raise ValueError(f"start must be from 0 to {len(frames) - 1}, got {start}")
    pictures = [
        frame if isinstance(frame, Image.Image) else grid_image(frame, columns=columns) for frame in frames
    ]
    wide, high = pictures[0].size
    if {picture.size for picture in pictures} != {(wide, high)}:
        raise ValueError(
            f"frames must have the same size, got {sorted({picture.size for picture in pictures})}"
        )
    if wide * len(pictures) > _MAX_WEBP_SIDE:
        raise ValueError(
            f"{len(pictures)} frames of {wide} pixels are wider than {_MAX_WEBP_SIDE} together: use fewer"
        )
    strip = Image.new("RGB", (wide * len(pictures), high))
    for index, picture in enumerate(pictures):
        strip.paste(picture, (index * wide, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "webp", quality=90)
    source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    shown = (
        f"display: block; width: {100 * len(pictures)}%; max-width: none; height: auto; padding: 0; "
        "border-radius: 0; image-rendering: pixelated; "
        f"transform: translateX(-{100 * start / len(pictures)}%)"
    )
    now, last = html.escape(texts[start]), len(pictures) - 1
    return HTML(
        f'<div data-texts="{html.escape(json.dumps(list(texts)))}" style="max-width: {_SLIDER_WIDTH}px">'
        f'<div style="overflow: hidden"><img class="dark-light" alt="{html.escape(alt)}" style="{shown}" '
        f'src="{source}"></div>'
        '<label style="display: flex; flex-wrap: wrap; gap: 0.6em; align-items: center; margin-top: 0.4em">'
        f"<span>{html.escape(label)}</span>"
        f'<input type="range" min="0" max="{last}" value="{start}" aria-valuetext="{now}" '
        f'style="flex: 1; min-width: 8em; height: 2rem" oninput="{html.escape(_ON_INPUT)}">'
        f"<output>{now}</output></label></div>"
    )


def show_training(
    films: Mapping[str, str | Path | Sequence[Tensor | Image.Image]],
    steps: Sequence[int],
    history: Sequence[StepRecord | Mapping[str, float]],
    alt: str,
    *,
    real: Tensor | None = None,
    columns: int = 8,
) -> Any:
    """Show what a generator drew while it was trained, beside the curves, as a notebook output.

    In a notebook the films run. On the pages of the book a slider takes their place: it goes through the
    steps, moves a line through the curves and shows the film's frame at that step.

    Args:
        films: Each with its name, such as "averaged weights": an animation from ``plot.animate``, or its
            frames, batches of images (each drawn as a grid) or finished pictures. A page shows one at a time.
        steps: Step of each frame, rising.
        history: From ``train.train``, or rows of a run's history.
        alt: Description for readers who cannot see the films.
        real: Training images to show beside them, float in [-1, 1] or uint8, (N, 1 or 3, H, W).
        columns: Images per row of a grid.

    Returns:
        An IPython HTML object.

    Raises:
        ValueError: A film has not one frame for each step, there is no film, or the steps do not rise, or the
            description is empty.
    """
    from IPython.display import HTML  # only notebooks have it

    if not alt.strip():
        raise ValueError("alt must describe the films, it is empty")
    if not films or list(steps) != sorted(set(steps)):
        raise ValueError(f"there must be a film, and steps that rise, got {len(films)} films, steps {steps}")
    pictures = []
    for name, film in films.items():
        content, kind = _film_file(film, columns)
        described = alt if len(films) == 1 else f"{alt} Drawn with {name}."
        source = training_figure.data_uri(content, kind)
        marks = {"generated": name, **training_figure.film_marks(content, len(steps))}
        pictures.append(training_figure.picture_html(source, described, name, marks))
    if real is not None:
        source = training_figure.data_uri(training_figure.webp(grid_image(real, columns=columns)))
        about = "Training images, to compare with the generated ones."
        pictures.append(training_figure.picture_html(source, about, "real", {"real": "real"}))
    rows = training_figure.as_rows(history)
    run = {"steps": [int(step) for step in steps], "charts": training_figure.charts(rows)}
    return HTML(training_figure.figure_html([run], pictures))


def _film_file(film: str | Path | Sequence[Tensor | Image.Image], columns: int) -> tuple[bytes, str]:
    """An animation's content and kind."""
    if isinstance(film, (str, Path)):
        path = Path(film)
        if path.suffix.lower() not in (".gif", ".webp"):
            raise ValueError(f"an animation ends in .gif or .webp, got {path.name!r}")
        return path.read_bytes(), path.suffix.lower()[1:]
    with tempfile.TemporaryDirectory() as folder:
        return plot.animate(film, Path(folder, "film.webp"), columns=columns).read_bytes(), "webp"


def show_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """Show a table, as a notebook output.

    Columns with numbers are right-aligned. The first column holds the row headers.

    Args:
        head: Column headers.
        rows: The cells of each row, one per column, shown as ``str(cell)``; a picture (PIL) is shown itself,
            described by its column and its row.

    Returns:
        An IPython HTML object.

    Raises:
        ValueError: A row does not have one cell per column.
    """
    from IPython.display import HTML  # only notebooks have it

    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"each row must have {len(head)} cells, one per column, got {list(row)}")
    right = [any(_is_number(row[column]) for row in rows) for column in range(len(head))]

    def cell(kind: str, value: Any, column: int, row: Sequence[Any] = ("",)) -> str:
        style = ' style="text-align: right"' if right[column] and column > 0 else ""
        if isinstance(value, Image.Image):
            content = _picture(value, f"{head[column]} in the row: {row[0]}")
        else:
            content = html.escape(str(value))
        return f"<{kind}{style}>{content}</{kind.split()[0]}>"

    top = "".join(
        cell('th scope="col"', name, index) if name else "<td></td>" for index, name in enumerate(head)
    )
    lines = [
        cell('th scope="row"', row[0], 0)
        + "".join(cell("td", value, index, row) for index, value in enumerate(row[1:], start=1))
        for row in rows
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return HTML(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")


class _Hidden:
    """An output that a page holds and does not show."""

    def __init__(self, content: str) -> None:
        self.content = content

    def _repr_html_(self) -> str:
        return self.content

    def __repr__(self) -> str:
        return ""


def play_data(name: str, options: dict[str, Any]) -> Any:
    """Leave numbers in the page for a figure that the reader can play with, as an invisible notebook output.

    Args:
        name: The figure's script, ``book/_static/play/NAME.js``.
        options: What the script gets: JSON values, with finite numbers.

    Returns:
        An object for the end of a cell.

    Raises:
        ValueError: A number is infinite or not a number.
        TypeError: A value has no form in JSON.
    """
    content = json.dumps(options, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
    return _Hidden(
        f'<script type="application/json" class="play-data" data-for="{html.escape(name)}">{content}</script>'
    )


def _picture(image: Image.Image, alt: str) -> str:
    """An ``<img>`` with the picture in it."""
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=80)
    source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    described = f'class="dark-light" alt="{html.escape(alt)}" width="{image.width}" style="max-width: none"'
    return f'<img {described} src="{source}">'


def _is_number(value: Any) -> bool:
    return str(value).lstrip("-−")[:1].isdigit()
