"""The figure of a training that a reader can scrub through: curves and films, tied together by one slider.

What is made here is HTML that shows pictures everywhere. In the pages of the book and of ``dcganlib report``
the script ``web/scrubber.js`` takes their place.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from dcganlib.viz.plot import LN2, StepRecord, frame_counts

POINTS = 300  # of a curve
QUALITY = 80  # of pictures, for WebP
MAX_SIDE = 16_383  # pixels of a WebP picture

Chart = dict[str, Any]
Row = Mapping[str, float]


def thin(rows: Sequence[Row], points: int = POINTS) -> list[dict[str, float]]:
    """Means over windows of equal length, so that a curve has no more than ``points`` points.

    Args:
        rows: Rows of a history.
        points: Their largest number, at least 1.

    Returns:
        The means, "step" among them; the last window may be shorter.
    """
    length = max(1, math.ceil(len(rows) / points))
    windows = [rows[start : start + length] for start in range(0, len(rows), length)]
    return [{name: sum(row[name] for row in window) / len(window) for name in rows[0]} for window in windows]


def charts(history: Sequence[Row], measured: Sequence[Row] = ()) -> list[Chart]:
    """The curves of a training, as the script draws them.

    Args:
        history: A row for each step, with "step", "d_loss", "g_loss", "d_real" and "d_fake".
        measured: Rows of ``metrics.csv``, if it was measured while training.

    Returns:
        Charts of the losses and of the probabilities; with measures one of the Fréchet distance.
    """
    rows = thin(history)
    found = [
        _chart("loss (nats)", rows, {"d_loss": "D's loss", "g_loss": "G's loss"}, level=LN2),
        _chart(
            "mean probability", rows, {"d_real": "D(x)", "d_fake": "D(G(z))"}, level=0.5, range=[-0.02, 1.02]
        ),
    ]
    if measured:
        found.append(_chart("Fréchet distance", measured, {"frechet_distance": "Fréchet distance"}))
        shares = {"precision": "precision", "recall": "recall"}
        found.append(_chart("precision and recall", measured, shares, range=[-0.02, 1.02]))
    return found


def _chart(title: str, rows: Sequence[Row], names: Mapping[str, str], **more: Any) -> Chart:
    series = [
        {"name": shown, "values": [_number(row[name]) for row in rows]} for name, shown in names.items()
    ]
    return {"title": title, "steps": [_number(row["step"]) for row in rows], "series": series, **more}


def _number(value: float) -> float | None:
    """A number with four digits, as JSON has them; None where it is not finite."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.4g}") if abs(value) < 1000 else round(value, 1)
    return int(rounded) if rounded.is_integer() else rounded


def as_rows(records: Iterable[StepRecord | Row]) -> list[Row]:
    """Records of ``train.train``, or rows of a history, as rows."""
    return [record if isinstance(record, Mapping) else record.as_dict() for record in records]


def frame_sheet(frames: Sequence[Image.Image]) -> tuple[bytes, int]:
    """All frames of a film in one picture, row by row, about as wide as it is high.

    Args:
        frames: Pictures of one size, at least 1.

    Returns:
        (a WebP file, frames in a row).

    Raises:
        ValueError: The frames differ in size, or do not fit into one picture.
    """
    width, height = frames[0].size
    if {frame.size for frame in frames} != {(width, height)}:
        raise ValueError(f"frames must have the same size, got {sorted({frame.size for frame in frames})}")
    columns = max(1, min(len(frames), round(math.sqrt(len(frames) * height / width))))
    rows = math.ceil(len(frames) / columns)
    if max(columns * width, rows * height) > MAX_SIDE:
        raise ValueError(
            f"{len(frames)} frames of {width} x {height} pixels do not fit into a picture of {MAX_SIDE} "
            "pixels on a side: use fewer"
        )
    sheet = Image.new("RGB", (columns * width, rows * height))
    for index, frame in enumerate(frames):
        sheet.paste(frame, (index % columns * width, index // columns * height))
    return webp(sheet), columns


def webp(picture: Image.Image) -> bytes:
    """A picture as a WebP file."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "webp", quality=QUALITY, method=6)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str = "webp") -> str:
    """A picture as text, for the source of an image."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def film_marks(film: bytes, frames: int) -> dict[str, str]:
    """Marks of a film for ``picture_html``, beside its name: ``{"generated": "failed", **film_marks(...)}``.

    Args:
        film: The content of an animation from ``plot.animate``.
        frames: The number of its frames.

    Returns:
        Nothing, or "counts", how many frames each of its pictures stands for.

    Raises:
        ValueError: It has another number of frames.
    """
    with Image.open(io.BytesIO(film)) as opened:
        counts = frame_counts(opened) if getattr(opened, "n_frames", 1) > 1 else [frames]
    if sum(counts) != frames:
        raise ValueError(f"the film has {sum(counts)} frames for {frames} steps")
    return {} if set(counts) == {1} else {"counts": " ".join(map(str, counts))}


def pair(name: str, steps: Sequence[int], curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Chart:
    """Two trainings to be compared, such as a failure and its cure: an entry of ``figure_html``'s ``runs``.

    Args:
        name: Name of the pair.
        steps: Step of each frame of its films.
        curves: Of each training, by name: columns "step", "d_loss" and "g_loss".
    """
    found = []
    for column, title in (("d_loss", "D's loss (nats)"), ("g_loss", "G's loss (nats)")):
        series = [
            {"name": kind, "values": [_number(value) for value in table[column]]}
            for kind, table in curves.items()
        ]
        times = max((list(table["step"]) for table in curves.values()), key=len)
        found.append({"title": title, "steps": times, "series": series, "level": LN2})
    return {"name": name, "beside": True, "steps": list(steps), "charts": found}


def picture_html(
    source: str, alt: str, caption: str, marks: Mapping[str, str | int], *, hidden: bool = False
) -> str:
    """One picture of the figure with its caption.

    Args:
        source: Address of the picture.
        alt: Its description.
        caption: What it shows, in a few words.
        marks: Values of ``data-NAME`` for the script, such as {"generated": "averaged weights"}.
        hidden: Only the script shows it, as there would be too many at once.
    """
    named = "".join(f' data-{name}="{html.escape(str(value))}"' for name, value in marks.items())
    return (
        f'<figure{" hidden" if hidden else ""} style="margin: 0; max-width: 24rem">'
        f'<figcaption style="margin: 0; text-align: left">{html.escape(caption)}</figcaption>'
        f'<img class="dark-light" alt="{html.escape(alt)}"{named} '
        f'style="max-width: 100%; height: auto; image-rendering: pixelated" src="{source}"></figure>'
    )


def figure_html(runs: Sequence[Mapping[str, Any]], pictures: Iterable[str]) -> str:
    """The whole figure.

    Args:
        runs: What ``scrubber.js`` takes as ``options.runs``.
        pictures: From ``picture_html``.
    """
    options = html.escape(json.dumps({"runs": list(runs)}, ensure_ascii=False, separators=(",", ":")))
    return (
        f'<div class="play" data-play="scrubber" data-options="{options}">'
        f'<div style="display: flex; flex-wrap: wrap; gap: 1rem">{"".join(pictures)}</div></div>'
    )
