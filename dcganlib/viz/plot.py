"""Grids of samples, loss curves, animations, and a live view of a running training.

Images have the format of the networks, float in [-1, 1] of shape (N, C, H, W), or are uint8. Functions that
write files need no display: pyplot and its backend are used only for figures to be shown.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from dcganlib.datasets import check_tensor, contact_sheet, to_uint8
from dcganlib.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LN2 = 0.6931471805599453
HISTORY_INCHES = (5.8, 5.4)  # size of the figure of a history: its text can be read on a phone
LIVE_INCHES = (9, 5)  # size of the figure of ``live``
LIVE_WINDOWS = 40  # of which one is the running mean in the curves of ``live``


class StepRecord(Protocol):
    """What the plots need of ``train.StepMetrics``."""

    @property
    def step(self) -> int:
        """Number of the step, from 1."""

    def as_dict(self) -> dict[str, float]:
        """The metrics by name: "step", "d_loss", "g_loss", "d_real", "d_fake"."""


Record = TypeVar("Record", bound=StepRecord)
"""The type of the records that ``live`` takes and yields."""


def grid_image(images: Tensor, *, columns: int = 8, gap: int = 2) -> Image.Image:
    """Arrange images in a grid, pixel for pixel.

    Args:
        images: Float in [-1, 1] or uint8, shape (N, 1 or 3, H, W).
        columns: Images per row.
        gap: Width of the grey gap between images, in pixels.

    Returns:
        A grey or RGB picture.

    Raises:
        ValueError: The images are no tensor, have another shape, or there are none.
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
        columns: Images per row.
        ax: Axes to draw into; by default a new figure that fits the grid.
        title: Title of the axes.

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
    """Write a grid strip by strip, as a PNG with the mark of ``image_folder.save_sheet``.

    Only one strip at a time is held in memory.

    Args:
        path: File to write. An existing file is replaced only once the new one is complete.
        strips: Grey or RGB pictures from top to bottom, each as wide as the grid.
        size: Width and height of the grid.

    Raises:
        ValueError: The strips do not add up to the size.
        OSError: The file cannot be written; an existing file is unchanged.

    Source:
        W3C, Portable Network Graphics, third edition; each row uses the filter "sub".
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
    records: Sequence[StepRecord | Mapping[str, float]],
    *,
    smooth: int = 1,
    axes: Sequence[Axes] | None = None,
) -> Sequence[Axes]:
    """Plot the losses, and below them D's mean probabilities for real and generated images.

    Args:
        records: From ``train``, or their ``as_dict``.
        smooth: Steps in the running mean; the raw values are drawn behind it as a pale line.
        axes: Two axes to draw into; by default a new figure.

    Returns:
        The two axes.

    Raises:
        ValueError: There are no records.
    """
    if len(records) == 0:
        raise ValueError("there are no records to draw")
    table = [record if isinstance(record, Mapping) else record.as_dict() for record in records]
    if axes is None:
        from matplotlib import pyplot as plt  # here, because it asks for the backend of the display

        _, axes = plt.subplots(2, 1, figsize=HISTORY_INCHES, layout="constrained")
    steps = [row["step"] for row in table]
    upper = (("d_loss", "D's loss"), ("g_loss", "G's loss"))
    lower = (("d_real", "D(x), real"), ("d_fake", "D(G(z)), generated"))
    for ax, curves in zip(axes, (upper, lower), strict=True):
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
    records: Sequence[StepRecord | Mapping[str, float]], path: str | Path, *, smooth: int = 1
) -> None:
    """Write the figure of ``plot_history`` to a file, without a display.

    Args:
        records: From ``train``, or their ``as_dict``.
        path: File to write, in the format of its suffix.
        smooth: Steps in the running mean.

    Raises:
        ValueError: There are no records, or Matplotlib cannot write that format.
        OSError: The file cannot be written; an existing file is unchanged.
    """
    figure = _new_figure(HISTORY_INCHES)
    plot_history(records, smooth=smooth, axes=figure.subplots(2, 1))
    write_atomically(path, figure.savefig)


FPS, HOLD = 8, 2.0  # of an animation, and the seconds for which its last frame is shown


def animate(
    frames: Iterable[Tensor | Image.Image],
    path: str | Path,
    *,
    columns: int = 8,
    fps: float = FPS,
    hold: float = HOLD,
) -> Path:
    """Write an animation, such as the samples of fixed latents over the course of a training.

    Args:
        frames: Batches of images (each drawn as a grid) or finished pictures, all of the same size.
        path: File to write, ending in .gif or .webp. An existing file is replaced only once the new one is
            complete.
        columns: Images per row of the grid.
        fps: Frames per second, above 0.
        hold: Seconds for which the last frame is shown.

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
        """The frames one by one, each once its duration is known; Pillow reads that after the frame."""
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


def frame_counts(film: Image.Image) -> list[int]:
    """How many frames each picture of an animation stands for: equal ones in a row are stored as one.

    Args:
        film: An animation that ``animate`` wrote at its own speed, opened.

    Returns:
        A number for each picture, told from the time for which it is shown.
    """
    shown = []
    for frame in ImageSequence.Iterator(film):
        frame.load()  # which reads the time
        shown.append(float(frame.info.get("duration", 0)))
    shown[-1] -= 1000 * HOLD - 1000 / FPS
    return [max(1, round(time * FPS / 1000)) for time in shown]


def live(
    records: Iterable[Record],
    draw: Callable[[], Tensor],
    *,
    every: int = 50,
    columns: int = 8,
    total: int | None = None,
) -> Iterator[Record]:
    """Pass on the records of a training, and show its samples and losses in one notebook output.

    The output is a PNG, which every notebook front end can show. Outside of a notebook, as in a script,
    nothing is drawn, and a warning is issued.

    Args:
        records: From ``train.train``.
        draw: Returns the images to show, float in [-1, 1], such as those of fixed latents by ``generate``.
        every: Steps between two updates; the last step is always shown.
        columns: Images per row.
        total: Number of steps of the training, for the title.

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
        warnings.warn("plot.live draws only in a notebook: nothing is drawn here", stacklevel=2)
        yield from records
        return
    history: list[Record] = []
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
    """IPython's ``display`` in a notebook; None outside of one, as in a script or a terminal."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    shell = get_ipython()
    in_terminal = shell is None or type(shell).__module__.startswith("IPython.terminal")
    return None if in_terminal else display


def _live_image(history: Sequence[StepRecord], images: Tensor, columns: int, total: int | None) -> Any:
    """The figure as a notebook output.

    It is a PNG, because Jupyter shows a Matplotlib figure only once pyplot has been imported.
    """
    from IPython.display import Image as Output

    buffer = io.BytesIO()
    _live_figure(history, images, columns, total).savefig(buffer, format="png")
    return Output(buffer.getvalue(), format="png")


def _live_figure(history: Sequence[StepRecord], images: Tensor, columns: int, total: int | None) -> Figure:
    figure = _new_figure(LIVE_INCHES)
    axes = figure.subplot_mosaic([["grid", "loss"], ["grid", "probability"]], width_ratios=[1.2, 1])
    of = f" of {total}" if total else ""
    show_grid(images, columns=columns, ax=axes["grid"], title=f"step {history[-1].step}{of}")
    plot_history(
        history, smooth=max(1, len(history) // LIVE_WINDOWS), axes=(axes["loss"], axes["probability"])
    )
    return figure


def _new_figure(inches: tuple[float, float]) -> Figure:
    """A figure outside of pyplot: it needs no backend, and is not left open."""
    if "matplotlib" not in sys.modules:
        _import_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=inches, layout="constrained")


def _import_matplotlib() -> None:
    """Import Matplotlib without MPLBACKEND, because an unknown backend there would make the import fail."""
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
            warnings.warn(f"MPLBACKEND is {backend!r}, which is not a backend of Matplotlib", stacklevel=4)


_STYLE: dict[Any, Any] = {
    "figure.dpi": 130,
    "font.size": 10.5,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def use_style() -> None:
    """Use the book's style for all further charts: larger type, no box around axes and legends."""
    import matplotlib as mpl

    mpl.rcParams.update(_STYLE)
