"""Sample grids drawn from the generator of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from dcganlib import datasets, models
from dcganlib.config import SampleConfig
from dcganlib.datasets import contact_sheet
from dcganlib.latents import sample_z
from dcganlib.runs import folder as run_folder
from dcganlib.runs.context import explain_memory_errors, torch_defaults
from dcganlib.runtime import files
from dcganlib.viz import plot

GAP = 2  # pixels between two images
BATCH = 64  # samples drawn at a time; of 64 pixels each takes about 2 MB meanwhile
LONGEST_SIDE = {"GIF": 65_535, "JPEG": 65_500, "WEBP": 16_383}  # pixels of a picture, by format

Strips = Iterator[Image.Image]


@torch_defaults()
def sample(folder: str | Path, config: SampleConfig | None = None) -> Image.Image:
    """Generate new images from a run: with its averaged weights if it has them, or with its best ones.

    Args:
        folder: The run's folder, or the name of a stored run.
        config: Number, seed and class of the images; the same seed gives the same images.

    Returns:
        A picture of the grid.

    Raises:
        ValueError, FileNotFoundError: The folder holds no trained generator, or not the best one that is
            asked for, or it has no such class.
        MemoryError: The picture does not fit into memory; ``save_sample`` needs far less.
    """
    config = config or SampleConfig()
    with explain_memory_errors(f"n {config.n}", "lower n"):
        return _join(*_sheet(folder, config))


@torch_defaults()
def save_sample(folder: str | Path, path: str | Path, config: SampleConfig | None = None) -> Path:
    """Generate new images into a file, as ``sample`` does. A PNG is written strip by strip, in little memory.

    Args:
        folder: As for ``sample``.
        path: File to write, in a format that Pillow writes; an older one is replaced.
        config: As for ``sample``.

    Returns:
        The path.

    Raises:
        ValueError, FileNotFoundError: As for ``sample``; or the format is unknown, or too small for so many
            images.
        MemoryError: The picture does not fit into memory.
        OSError: The file cannot be written.
    """
    config, path = config or SampleConfig(), files.expand_user(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"--out must end as a picture does, such as .png, got {path.name!r}")
    files.check_folder(path)
    with explain_memory_errors(f"n {config.n}", "lower n, or write a .png"):
        size, strips = _sheet(folder, config)
        longest = LONGEST_SIDE.get(kind, 2**31 - 1)
        if max(size) > longest:
            raise ValueError(
                f"a {path.suffix} has at most {longest:,} pixels on a side, and {config.n:,} images in rows "
                f"of {config.columns} take {size[0]:,} x {size[1]:,}: write a .png, or choose other columns"
            )
        if kind == "PNG":
            plot.write_png(path, strips, size)
        else:
            contact_sheet.save(_join(size, strips), path)
    return path


def drawn_generator(run: run_folder.Run, *, best: bool = False) -> models.Generator:
    """The generator of a run that draws: the averaged one if there is one.

    Args:
        run: The run.
        best: The weights that measured best while training, in place of these.

    Raises:
        FileNotFoundError: The run kept no best weights.
    """
    generator = run.best_generator if best else run.ema_generator or run.generator
    if generator is None:
        raise FileNotFoundError(
            f"{run.folder} has no best.safetensors: only a run with --evaluate-every and --keep-best has it"
        )
    return generator


def _sheet(folder: str | Path, config: SampleConfig) -> tuple[tuple[int, int], Strips]:
    """A grid of samples: its size, and its strips from top to bottom, generated on demand."""
    found, n = run_folder.read(folder), config.n
    generator = drawn_generator(found, best=config.best)
    number = label_number(config.label, generator.num_classes, found.config.class_names)
    rng = torch.Generator().manual_seed(config.seed)
    z = sample_z(n, generator.latent_dim, prior=found.config.train.prior, rng=rng)
    labels = None
    if generator.num_classes:
        labels = torch.arange(n) % generator.num_classes if number is None else torch.full((n,), number)
    columns = min(config.columns, n)
    side, rows = generator.image_size + GAP, -(-n // columns)
    return (columns * side - GAP, rows * side - GAP), _strips(generator, z, labels, columns)


def _strips(
    generator: models.Generator, z: torch.Tensor, labels: torch.Tensor | None, columns: int
) -> Strips:
    """Rows of the grid of samples; the gap between two strips is part of the upper one."""
    waiting: list[torch.Tensor] = []
    for begin in range(0, len(z), BATCH):
        part = slice(begin, begin + BATCH)
        images = models.generate(generator, z[part], None if labels is None else labels[part])
        waiting.append(datasets.to_uint8(images).cpu())
        last, there = part.stop >= len(z), sum(map(len, waiting))
        if not last and there < columns:
            continue
        images = torch.cat(waiting)
        whole = there if last else there // columns * columns
        waiting = [images[whole:]]
        grid = plot.grid_image(images[:whole], columns=columns, gap=GAP)
        width = columns * (generator.image_size + GAP) - GAP
        strip = Image.new(grid.mode, (width, grid.height + (0 if last else GAP)), "#808080")
        strip.paste(grid)
        yield strip


def _join(size: tuple[int, int], strips: Strips) -> Image.Image:
    first = next(strips)
    sheet, top = Image.new(first.mode, size), first.height
    sheet.paste(first)
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def label_number(label: int | str | None, num_classes: int, names: tuple[str, ...]) -> int | None:
    """Turn the name or number of a class into its number; a name has priority.

    Args:
        label: A name, a number, or a number as text; None for no label.
        num_classes: Number of classes of the generator.
        names: Names of the classes, as far as known.

    Raises:
        ValueError: There is no such class.
    """
    if label is None:
        return None
    if not num_classes:
        raise ValueError(f"label must be absent: the run has no classes, got {label}")
    known_names = run_folder.composed(names)
    if isinstance(label, str) and run_folder.composed((label,))[0] in known_names:
        return known_names.index(run_folder.composed((label,))[0])
    number = int(label) if isinstance(label, str) and re.fullmatch("[0-9]{1,9}", label) else label
    if type(number) is not int or not 0 <= number < num_classes:
        known = f", or the name of a class ({run_folder.listed(names)})" if names else ""
        raise ValueError(f"label must be from 0 to {num_classes - 1}{known}, got {label!r}")
    return number
