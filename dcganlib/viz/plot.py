"""Pictures: grids of samples, loss curves, animations, and a view that redraws while a run goes on.

Images come in as the networks have them: float in [-1, 1], shape (N, C, H, W). uint8 sets are taken as well.
What is written into a file needs no display: pyplot and its backend serve only new figures to be shown.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcganlib.datasets import check_tensor, contact_sheet, to_uint8
from dcganlib.runtime.files import write_atomically
from dcganlib.train import StepMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LN2 = 0.6931471805599453
HISTORY = (9, 3.2)  # inches of the figure of a history


def grid_image(images: Tensor, *, columns: int = 8, gap: int = 2) -> Image.Image:
    """Lay images out in rows, pixel for pixel.

    Args:
        images: Float in [-1, 1] or uint8, shape (N, 1 or 3, H, W).
        columns: Images in a row.
        gap: Pixels of mid grey between two images.

    Returns:
        A grey or RGB picture.

    Raises:
        ValueError: The images are no tensor, the shape is another, or there are no images.
    """
    check_tensor(images)
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
    shape = channels, rows * (height + gap) - gap, columns * (width + gap) - gap
    sheet = torch.full(shape, 128, dtype=torch.uint8, device="cpu")
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
        from matplotlib import pyplot as plt  # here, because it asks for the backend of the display

        inches = min(8.0, 0.75 * min(columns, len(images)))
        _, ax = plt.subplots(figsize=(inches, inches * picture.height / picture.width), layout="constrained")
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_axis_off()
    if title is not None:
        ax.set_title(title)
    return ax


def write_png(path: str | Path, strips: Iterable[Image.Image], size: tuple[int, int]) -> None:
    """Write a grid that comes strip by strip, as a PNG with the mark of ``contact_sheet.save``.

    No more than one strip is held in memory.

    Args:
        path: File to write; an older one is replaced when the new one is complete.
        strips: Grey or RGB pictures, to lie below each other; all as wide as the whole.
        size: Width and height of the whole.

    Raises:
        ValueError: The strips do not add up to the size.
        OSError: The file cannot be written; what was at ``path`` is still there.

    Source:
        W3C, Portable Network Graphics, third edition; each row by the filter "sub".
    """
    width, height = size

    def write(temporary: Path) -> None:
        packer, rows, strip = zlib.compressobj(), 0, None
        with open(temporary, "wb") as file:
            for strip in strips:
                if rows == 0:
                    kind = 0 if strip.mode == "L" else 2  # grey, or RGB
                    file.write(b"\x89PNG\r\n\x1a\n")
                    file.write(_png_chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, kind, 0, 0, 0)))
                    file.write(_png_chunk(b"eXIf", contact_sheet.exif().tobytes().removeprefix(b"Exif\0\0")))
                pixels = np.asarray(strip).reshape(strip.height, strip.width, -1)
                differences = pixels.copy()
                differences[:, 1:] -= pixels[:, :-1]  # from the pixel on the left, modulo 256
                lines = np.full((strip.height, 1 + differences[0].size), 1, np.uint8)  # 1 is the filter "sub"
                lines[:, 1:] = differences.reshape(strip.height, -1)
                file.write(_png_chunk(b"IDAT", packer.compress(lines.tobytes())))
                rows += strip.height
                if strip.width != width or rows > height:
                    break
            if strip is None or (strip.width, rows) != size:
                raise ValueError(f"the strips must add up to {width} x {height} pixels")
            file.write(_png_chunk(b"IDAT", packer.flush()) + _png_chunk(b"IEND", b""))

    write_atomically(path, write)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def plot_history(
    records: Sequence[StepMetrics | dict[str, float]], *, smooth: int = 1, axes: Sequence[Axes] | None = None
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
    table = [record.as_dict() if isinstance(record, StepMetrics) else record for record in records]
    if axes is None:
        from matplotlib import pyplot as plt  # here, because it asks for the backend of the display

        _, axes = plt.subplots(1, 2, figsize=HISTORY, layout="constrained")
    steps = [row["step"] for row in table]
    left = (("d_loss", "D's loss"), ("g_loss", "G's loss"))
    right = (("d_real", "D(x), real"), ("d_fake", "D(G(z)), generated"))
    for ax, curves in zip(axes, (left, right), strict=True):
        for colour, (name, label) in zip(("C0", "C1"), curves, strict=True):
            values = torch.tensor([row[name] for row in table], dtype=torch.float32, device="cpu")
            if smooth > 1 and len(values) >= smooth:
                ax.plot(steps, values, color=colour, alpha=0.15, linewidth=0.5)
                ax.plot(steps[smooth - 1 :], values.unfold(0, smooth, 1).mean(-1), color=colour, label=label)
            else:
                ax.plot(steps, values, color=colour, label=label, linewidth=1)
        ax.set_xlabel("step")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)  # above, off the curves
    axes[0].axhline(LN2, color="0.4", linestyle=":", linewidth=1)
    axes[0].set_ylabel("loss (nats)")
    axes[1].axhline(0.5, color="0.4", linestyle=":", linewidth=1)
    axes[1].set(ylabel="mean probability", ylim=(-0.02, 1.02))
    return axes


def save_history(
    records: Sequence[StepMetrics | dict[str, float]], path: str | Path, *, smooth: int = 1
) -> None:
    """Draw a history as ``plot_history`` does, into a file and without a display.

    Args:
        records: From ``train``, or their ``as_dict``.
        path: File to write; its ending says the format, as Matplotlib knows them.
        smooth: Steps in a running mean.

    Raises:
        ValueError: There are no records, or Matplotlib cannot write that format.
        OSError: The file cannot be written; what was at ``path`` is still there.
    """
    figure = _new_figure(HISTORY)
    plot_history(records, smooth=smooth, axes=figure.subplots(1, 2))
    write_atomically(path, figure.savefig)


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
    pictures = (
        frame if isinstance(frame, Image.Image) else grid_image(frame, columns=columns) for frame in frames
    )
    first = next(pictures, None)
    if first is None:
        raise ValueError("there are no frames to animate")
    durations: list[int] = []

    def timed() -> Iterator[Image.Image]:
        """The frames one by one, each once its duration is known; Pillow asks for that after the frame."""
        held = first
        for following in pictures:
            durations.append(round(1000 / fps))
            yield held
            held = following
        durations.append(round(1000 * max(hold, 1 / fps)))
        yield held

    def save(temporary: Path) -> None:
        later = timed()
        options: dict[str, Any] = {"save_all": True, "append_images": later, "duration": durations, "loop": 0}
        next(later).save(temporary, **options)

    write_atomically(path, save)
    return path


def live(
    records: Iterable[StepMetrics],
    draw: Callable[[], Tensor],
    *,
    every: int = 50,
    columns: int = 8,
    total: int | None = None,
) -> Iterator[StepMetrics]:
    """Watch a run in a notebook: hand the records of ``train`` on, while one output redraws itself.

    The output is a PNG, which every notebook shows. Where there is no notebook, as in a script, nothing is
    drawn, and a warning says so.

    Args:
        records: What ``train.train`` yields.
        draw: Called for images to show, float in [-1, 1]; usually from fixed latents through ``generate``.
        every: Steps between two redraws; the last step is always drawn.
        columns: Images in a row.
        total: Steps of the whole run, for the title.

    Yields:
        The records, unchanged.

    Raises:
        ValueError: ``every`` is below 1, or ``draw`` is no function.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1 step, got {every}")
    if not callable(draw):
        raise ValueError(
            "draw must be a function that returns images, such as lambda: generate(generator, z), "
            f"got {type(draw).__name__}"
        )
    display = _display()
    if display is None:
        warnings.warn("plot.live shows its picture in a notebook alone: nothing is drawn here", stacklevel=2)
        yield from records
        return
    history: list[StepMetrics] = []
    handle: Any = None

    def redraw() -> None:
        nonlocal handle
        picture = _live_image(history, draw(), columns, total)
        if handle is None:
            handle = display(picture, display_id=True)
        else:
            handle.update(picture)

    for record in records:
        history.append(record)
        if record.step % every == 0:
            redraw()
        yield record
    if history and history[-1].step % every:
        redraw()


def _display() -> Callable[..., Any] | None:
    """What shows an output in a notebook; None where there is none, as in a script or a terminal."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    shell = get_ipython()
    in_terminal = shell is None or type(shell).__module__.startswith("IPython.terminal")
    return None if in_terminal else display


def _live_image(history: list[StepMetrics], images: Tensor, columns: int, total: int | None) -> Any:
    """The picture as a notebook output.

    As a PNG, since Jupyter shows no Matplotlib figure, only its name, before pyplot is first used.
    """
    from IPython.display import Image as Output

    buffer = io.BytesIO()
    _live_figure(history, images, columns, total).savefig(buffer, format="png")
    return Output(buffer.getvalue(), format="png")


def _live_figure(history: list[StepMetrics], images: Tensor, columns: int, total: int | None) -> Figure:
    figure = _new_figure((9, 5))
    axes = figure.subplot_mosaic([["grid", "loss"], ["grid", "says"]], width_ratios=[1.2, 1])
    of = f" of {total}" if total else ""
    show_grid(images, columns=columns, ax=axes["grid"], title=f"step {history[-1].step}{of}")
    plot_history(history, smooth=max(1, len(history) // 40), axes=(axes["loss"], axes["says"]))
    return figure


def _new_figure(inches: tuple[float, float]) -> Figure:
    """A figure that is none of pyplot's: it needs no backend, and is not left open."""
    if "matplotlib" not in sys.modules:
        _import_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=inches, layout="constrained")


def _import_matplotlib() -> None:
    """Import it where MPLBACKEND may name no backend, with which its import fails for good."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as mpl
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        try:
            mpl.rcParams["backend"] = backend
        except ValueError:
            warnings.warn(f"MPLBACKEND is {backend!r}, which is no backend of Matplotlib", stacklevel=4)


_STYLE: dict[Any, Any] = {
    "figure.dpi": 130,
    "font.size": 10.5,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def use_style() -> None:
    """Draw all further charts in the book's style: large type, no box around the axes or the legend."""
    import matplotlib as mpl

    mpl.rcParams.update(_STYLE)
