"""Pictures: grids of samples, loss curves, animations, and a view that redraws while a run goes on.

Images come in as the networks have them: float in [-1, 1], shape (N, C, H, W). uint8 sets are taken as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from dcganlib.data import to_uint8
from dcganlib.files import write_atomically
from dcganlib.train import StepRecord

LN2 = 0.6931471805599453


def grid_image(images: Tensor, *, columns: int = 8, gap: int = 2) -> Image.Image:
    """Lay images out in rows, pixel for pixel.

    Args:
        images: Float in [-1, 1] or uint8, shape (N, 1 or 3, H, W).
        columns: Images in a row.
        gap: Pixels of mid grey between two images.

    Returns:
        A grey or RGB picture.

    Raises:
        ValueError: The shape is another, or there are no images.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(
            f"images must have shape (N, 1 or 3, H, W) with N of at least 1, got {tuple(images.shape)}"
        )
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    images = images.detach().cpu()
    pixels = images if images.dtype == torch.uint8 else to_uint8(images)
    count, channels, height, width = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = torch.full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 128, dtype=torch.uint8
    )
    for index, picture in enumerate(pixels):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = picture
    return Image.fromarray(sheet.permute(1, 2, 0).squeeze(-1).numpy())


def show_grid(images: Tensor, *, columns: int = 8, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw a grid of images.

    Args:
        images: Float in [-1, 1] or uint8, shape (N, 1 or 3, H, W).
        columns: Images in a row.
        ax: Where to draw; a new figure, sized to the grid, if absent.
        title: Above the grid.

    Returns:
        The axes.
    """
    picture = grid_image(images, columns=columns)
    if ax is None:
        inches = min(8.0, 0.75 * min(columns, len(images)))
        _, ax = plt.subplots(figsize=(inches, inches * picture.height / picture.width), layout="constrained")
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_axis_off()
    if title is not None:
        ax.set_title(title)
    return ax


def plot_history(
    records: Sequence[StepRecord | dict[str, float]], *, smooth: int = 1, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Draw the losses, and beside them what D says of real and generated images.

    Args:
        records: From ``train``, or their ``as_dict``.
        smooth: Steps in a running mean; the raw values stay behind it in a pale line.
        axes: Two axes to draw into; a new figure if absent.

    Returns:
        The two axes.

    Raises:
        ValueError: There are no records.
    """
    if len(records) == 0:
        raise ValueError("there are no records to draw")
    table = [record.as_dict() if isinstance(record, StepRecord) else record for record in records]
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    steps = [row["step"] for row in table]
    left = (("d_loss", "D's loss"), ("g_loss", "G's loss"))
    right = (("d_real", "D(x), real"), ("d_fake", "D(G(z)), generated"))
    for ax, curves in zip(axes, (left, right), strict=True):
        for colour, (name, label) in zip(("C0", "C1"), curves, strict=True):
            values = torch.tensor([row[name] for row in table])
            if smooth > 1 and len(values) >= smooth:
                ax.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
                ax.plot(steps[smooth - 1 :], values.unfold(0, smooth, 1).mean(-1), color=colour, label=label)
            else:
                ax.plot(steps, values, color=colour, label=label, linewidth=1)
        ax.set_xlabel("step")
        ax.legend(loc="best")
    axes[0].axhline(LN2, color="0.4", linestyle=":", linewidth=1)
    axes[0].set_ylabel("loss (nats)")
    axes[1].axhline(0.5, color="0.4", linestyle=":", linewidth=1)
    axes[1].set(ylabel="mean probability", ylim=(-0.02, 1.02))
    return axes


def animate(
    frames: Iterable[Tensor | Image.Image],
    path: str | Path,
    *,
    columns: int = 8,
    fps: float = 8,
    hold: float = 2.0,
) -> Path:
    """Write a film of how the samples of one set of fixed latents change.

    Args:
        frames: Batches of images (each drawn as a grid) or finished pictures, all of one size.
        path: File to write, ending in .gif or .webp; an older one is replaced when the new one is complete.
        columns: Images in a row of the grid.
        fps: Frames a second, above 0.
        hold: Seconds for which the last frame stays.

    Returns:
        The path.

    Raises:
        ValueError: There are no frames, or the ending or a number is not as above.
    """
    path = Path(path)
    if path.suffix.lower() not in (".gif", ".webp"):
        raise ValueError(f"an animation ends in .gif or .webp, got {path.name!r}")
    if fps <= 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    pictures = [
        frame if isinstance(frame, Image.Image) else grid_image(frame, columns=columns) for frame in frames
    ]
    if not pictures:
        raise ValueError("there are no frames to animate")
    durations = [round(1000 / fps)] * (len(pictures) - 1) + [round(1000 * max(hold, 1 / fps))]
    options = {"save_all": True, "append_images": pictures[1:], "duration": durations, "loop": 0}
    write_atomically(path, lambda temporary: pictures[0].save(temporary, **options))
    return path


def live(
    records: Iterable[StepRecord],
    draw: Callable[[], Tensor],
    *,
    every: int = 50,
    columns: int = 8,
    total: int | None = None,
) -> Iterator[StepRecord]:
    """Watch a run in a notebook: hand the records of ``train`` on, while one output redraws itself.

    Args:
        records: What ``train.train`` yields.
        draw: Called for images to show, float in [-1, 1]; usually from fixed latents through ``generate``.
        every: Steps between two redraws; the last step is always drawn.
        columns: Images in a row.
        total: Steps of the whole run, for the title.

    Yields:
        The records, unchanged.

    Raises:
        ValueError: ``every`` is below 1.
    """
    from IPython.display import display  # only notebooks have it

    if every < 1:
        raise ValueError(f"every must be at least 1 step, got {every}")
    history: list[StepRecord] = []
    handle: Any = None

    def redraw() -> None:
        nonlocal handle
        figure = _live_figure(history, draw(), columns, total)
        if handle is None:
            handle = display(figure, display_id=True)
        else:
            handle.update(figure)

    for record in records:
        history.append(record)
        if record.step % every == 0:
            redraw()
        yield record
    if history and history[-1].step % every:
        redraw()


def _live_figure(history: list[StepRecord], images: Tensor, columns: int, total: int | None) -> Figure:
    figure = Figure(figsize=(9, 5), layout="constrained")  # not pyplot's: nothing is left open
    axes = figure.subplot_mosaic([["grid", "loss"], ["grid", "says"]], width_ratios=[1.2, 1])
    of = f" of {total}" if total else ""
    show_grid(images, columns=columns, ax=axes["grid"], title=f"step {history[-1].step}{of}")
    plot_history(history, smooth=max(1, len(history) // 40), axes=(axes["loss"], axes["says"]))
    return figure
