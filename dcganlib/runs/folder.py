"""The folder of a run: its contents, how it is started and read back, and the runs in the package.

It holds ``config.json``, ``history.csv``, ``real.png``, ``samples/step_*.png`` and ``samples.gif`` (drawn
from the same 64 latents throughout), ``losses.png``, ``checkpoint.pt``, ``generator.safetensors`` and
``discriminator.safetensors``; with averaged weights also ``ema/step_*.png``, ``ema.gif`` and
``ema.safetensors``. A run with ``evaluate_every`` also has ``metrics.csv``, one with ``keep_best``
``best.safetensors``, and one that gave warnings while it trained ``warnings.txt``. ``README.md`` describes
the run for readers (see ``model_card``). ``checkpoint-previous.pt``
is the checkpoint before the last, for ``resume`` if the last is damaged. While a process trains, ``.lock``
says which.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dcganlib import datasets, models
from dcganlib.config import ResolvedRunConfig, RunConfig
from dcganlib.runs import config_file, history, model_card
from dcganlib.runtime import checkpoint, files
from dcganlib.train import TrainState
from dcganlib.viz import plot

PRETRAINED = model_card.PRETRAINED
"""Folder of the runs in the package."""

GRID = 64  # images in a sample grid
STARTED = (  # everything that a start writes
    *("ema", "checkpoint.pt", "config.json", "real.png", "samples"),
    model_card.NAME,  # unless somebody has edited it
)
OLDER_NAMES = {f"averaged{ending}": f"ema{ending}" for ending in ("", ".gif", ".safetensors")}


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run, read back from its folder.

    Attributes:
        folder: Its folder.
        config: Its configuration.
        history: A row for each step.
        generator: With the weights of the last step, or with the averaged ones if the run kept only those.
        ema_generator: With the averaged weights, or None.
        discriminator: With the weights of the last step. None where they were not kept: in the package's
            runs, and by versions before 0.3.
        best_generator: With the weights that measured best while training, or None.
    """

    folder: Path
    config: ResolvedRunConfig
    history: list[dict[str, float]]
    generator: models.Generator
    ema_generator: models.Generator | None = None
    discriminator: models.Discriminator | None = None
    best_generator: models.Generator | None = None

    @property
    def animation(self) -> Path:
        """The samples from the fixed latents over time; WebP for the runs in the package."""
        webp = self.folder / "samples.webp"
        return webp if webp.is_file() else self.folder / "samples.gif"

    @property
    def animation_steps(self) -> list[int]:
        """Step of each frame of ``animation``, which shows an evenly spaced choice of the sample grids."""
        with Image.open(self.animation) as film:
            frames = sum(plot.frame_counts(film))
        last, every = int(self.history[-1]["step"]), self.config.sample_every
        steps = sorted({*range(0, last + 1, every), last})
        return [steps[round(i * (len(steps) - 1) / max(1, frames - 1))] for i in range(frames)]


def read(folder: str | Path) -> Run:
    """Read a run back.

    Args:
        folder: A run's folder, or the name of one in the package (see ``pretrained``).

    Raises:
        FileNotFoundError: There is no such folder, or a file of the run is missing.
        ValueError: A file of the run is damaged.
    """
    folder = find(folder)
    last, smooth = folder / "generator.safetensors", _ema_file(folder)
    ema_generator = checkpoint.load_generator(smooth)[0] if smooth.is_file() else None
    if ema_generator is not None and not last.is_file():
        generator = ema_generator
    else:
        generator = checkpoint.load_generator(last)[0]
    kept = folder / "best.safetensors"
    best = checkpoint.load_generator(kept)[0] if kept.is_file() else None
    judge = folder / "discriminator.safetensors"
    discriminator = checkpoint.load_discriminator(judge)[0] if judge.is_file() else None
    rows = history.read(folder / "history.csv")
    config = config_file.read(folder)
    return Run(folder, config, rows, generator, ema_generator, discriminator, best)


def _ema_file(folder: Path) -> Path:
    """The averaged weights, which versions before 0.3 stored under another name."""
    path, older = folder / "ema.safetensors", folder / "averaged.safetensors"
    return path if path.is_file() else older


def find(folder: str | Path) -> Path:
    """Find a run's folder, given by its path or by the name of a stored run.

    Args:
        folder: The path or the name.

    Raises:
        FileNotFoundError: There is no such run.
    """
    named = PRETRAINED / str(folder) if re.fullmatch(r"[\w-]+", str(folder)) else None
    path = files.expand_user(folder)
    if named and (named / "config.json").is_file() and not (path / "config.json").is_file():
        return named  # a folder that only happens to have the name is no run
    if path.is_dir():
        return path
    raise FileNotFoundError(
        f"there is no run {folder}; the stored ones are {', '.join(pretrained()) or 'none'}"
    )


def output_file(folder: str | Path, path: str | Path | None, name: str) -> Path:
    """Where a result about a run goes: into its folder; for a stored run STEM-RUN.SUFFIX, here.

    Args:
        folder: The run's folder, or the name of a stored run.
        path: In place of that, if given.
        name: Of the file in a run's folder.

    Raises:
        FileNotFoundError: There is no such run.
    """
    if path:
        return files.expand_user(path)
    found, file = find(folder), Path(name)
    return Path(f"{file.stem}-{found.name}{file.suffix}") if found.parent == PRETRAINED else found / file


def read_config(folder: str | Path) -> ResolvedRunConfig:
    """Read only a run's configuration.

    Args:
        folder: As for ``read``.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: ``config.json`` is damaged, or an option is missing or out of range.
    """
    return config_file.read(find(folder))


def pretrained() -> list[str]:
    """Names of the runs in the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def results(name: str) -> dict[str, Any]:
    """Read the results of a benchmark that are in the package; they took hours to measure.

    Args:
        name: Such as "recipes".

    Returns:
        "command", which measures them again, and "rows"; or what ``dcganlib evaluate`` writes, for a name
        such as "evaluation-mnist".

    Raises:
        FileNotFoundError: There are no such results.
        ValueError: The file is damaged.
    """
    path = PRETRAINED / "results" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(path.stem for path in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"there are no results {name}; the stored ones are {there}")
    return config_file.read_json(path)


def moved(config: ResolvedRunConfig, to: str | Path | None) -> ResolvedRunConfig:
    """The configuration of a run whose images were moved.

    Args:
        config: Configuration of the run.
        to: Where the images are now; None if they were not moved.
    """
    return config if to is None else replace(config, data=replace(config.data, data=absolute(to)))


def absolute(data: str | Path) -> str:
    """``DataConfig.data`` as ``config.json`` stores it: a dataset's name, or the folder's absolute path."""
    return data if datasets.is_named(data) else str(files.expand_user(data).resolve())


def load_data(config: RunConfig, root: str | Path | None = None, **changes: Any) -> datasets.ImageDataset:
    """Load the images of a run.

    Args:
        config: Configuration of the run.
        root: Folder of the datasets, as for ``datasets.load``.
        changes: Options of ``datasets.load`` that replace the run's.

    Raises:
        FileNotFoundError: The images were moved or deleted.
        ValueError: Their classes differ from those that the run was trained on.
    """
    asked = config.data.load_options | changes
    if not isinstance(config, ResolvedRunConfig):
        return datasets.load(config.data.data, root=root, **asked)
    if not datasets.is_named(config.data.data) and not Path(config.data.data).exists():
        raise FileNotFoundError(
            f"the run's images are not in {config.data.data}: if they were moved, say with --data where "
            "they are"
        )
    found = datasets.load(config.data.data, root=root, **asked)
    return _with_labels_of_run(config, found) if config.num_classes else found


def _with_labels_of_run(config: ResolvedRunConfig, found: datasets.ImageDataset) -> datasets.ImageDataset:
    """The images, their labels renumbered as in the run.

    Raises:
        ValueError: The classes differ from the run's: the labels would mean something else.
    """
    data, now, before = config.data.data, composed(found.class_names), composed(config.class_names)
    if found.labels is not None and now != before and sorted(now) == sorted(set(before)):
        numbers = torch.tensor([before.index(name) for name in now])
        return replace(found, labels=numbers[found.labels], class_names=config.class_names)
    if before and now != before:
        differences = [f"{name!r} is gone" for name in before if name not in now]
        differences += [f"{name!r} is new" for name in now if name not in before]
        raise ValueError(
            f"the classes of {data} are {listed(now)}; the run was trained on {listed(before)} "
            f"({', '.join(differences) or 'in another order'}): bring the folders back to that"
        )
    if len(now) != config.num_classes:
        raise ValueError(
            f"{data} has {len(now)} classes ({listed(now)}), the run was trained on "
            f"{config.num_classes}: bring the folders back to that"
        )
    return replace(found, class_names=config.class_names or found.class_names)


def composed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names in Unicode's composed form; macOS may store é as e and an accent."""
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def listed(names: tuple[str, ...]) -> str:
    """Names separated by commas; of many, the first 20."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "none"


# Checkpoints


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder has a checkpoint to resume from."""
    return any(folder.glob("checkpoint*.pt"))


def newest_checkpoint(folder: Path) -> Path:
    """The last checkpoint, or the one before if a crash or damage left none in its place."""
    last = folder / "checkpoint.pt"
    return last if last.exists() else folder / "checkpoint-previous.pt"


def load_newest(folder: Path, place: torch.device) -> tuple[TrainState, list[dict[str, float]]]:
    """Load the last checkpoint, or the one before if the last is damaged or missing.

    Args:
        folder: Folder of the run. A damaged checkpoint is set aside in it.
        place: Device to train on.

    Returns:
        The state, and the rows of the history that checkpoints of older versions hold.

    Raises:
        FileNotFoundError: There is no checkpoint.
        checkpoint.DamagedError: None is intact.
    """
    last, before = folder / "checkpoint.pt", folder / "checkpoint-previous.pt"
    try:
        return checkpoint.load(last, place)
    except (checkpoint.DamagedError, FileNotFoundError) as error:
        if not before.is_file():
            raise
        try:
            found = checkpoint.load(before, place)
        except checkpoint.DamagedError as second:
            raise checkpoint.DamagedError(
                f"{error}; and {second}. No checkpoint is left to go on from"
            ) from error
        warnings.warn(f"{error}. Going on from {before}, which is at step {found[0].step}", stacklevel=3)
    if last.exists():  # out of the way, so that the next save does not put it in the place of the good one
        os.replace(last, folder / "checkpoint-damaged.pt")
    return found


# A start


def start(folder: Path, config: ResolvedRunConfig, loader: datasets.Loader) -> history.History:
    """Write what a run's folder holds before the first step, replacing what an earlier attempt left.

    Args:
        folder: Folder of the run.
        config: Configuration of the run.
        loader: Loader; its first images go into ``real.png``.

    Returns:
        The history, ready for the first row.
    """
    clear(folder)
    for name in ("history.csv", "metrics.csv", "best.safetensors", "warnings.txt"):
        (folder / name).unlink(missing_ok=True)
    config_file.write(folder, config)
    model_card.write(folder, config, 0, ())
    for name in ("samples", "ema") if config.train.ema else ("samples",):
        (folder / name).mkdir()
    real = plot.grid_image(datasets.to_float(loader.images[:GRID]))
    files.write_atomically(folder / "real.png", real.save)
    return history.History(folder / "history.csv")


def go_on(
    folder: Path, config: ResolvedRunConfig, step: int, kept: list[dict[str, float]]
) -> history.History:
    """Bring a run's folder to the state of a step: file names, configuration and history.

    Args:
        folder: Folder of the run.
        config: Configuration of the run, to be written.
        step: Step of its checkpoint.
        kept: The rows of a checkpoint that holds its history, as those of earlier versions do.

    Returns:
        The history, ready for the next row.
    """
    for older, name in OLDER_NAMES.items():
        if (folder / older).exists() and not (folder / name).exists():
            os.replace(folder / older, folder / name)
    config_file.write(folder, config)
    return history.resume(folder / "history.csv", step, kept)


def clear(folder: Path) -> None:
    """Remove what ``start`` and the first step write; a model card only if it is as it was written."""
    for name in STARTED:
        if name == model_card.NAME and not model_card.is_own(folder / name):
            continue
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def is_unfinished_start(folder: Path) -> bool:
    """Whether a folder holds only what a start wrote before it was killed, with no checkpoint yet."""
    names = {name for name in entries(folder) if not re.fullmatch(r"\..+\.\d+\.tmp(\.\w+)?", name)}
    if "config.json" not in names or "checkpoint.pt" in names or not names <= set(STARTED):
        return False
    if model_card.NAME in names and not model_card.is_own(folder / model_card.NAME):
        return False
    with suppress(ValueError, OSError):
        return config_file.read(folder).contents is not None
    return False


def entries(folder: Path) -> set[str]:
    """Names of everything in a folder except the lock."""
    return {entry.name for entry in folder.iterdir()} - {files.LOCK}


def is_of(folder: Path, config: ResolvedRunConfig) -> bool:
    """Whether a folder holds a run with exactly this configuration."""
    return (folder / "config.json").is_file() and config_file.read(folder) == config


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; if the body fails, remove those that are left empty.

    Args:
        folder: The folder to make.

    Raises:
        OSError: It cannot be made.
    """
    new = [above for above in (folder, *folder.parents) if not above.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the folder holds something, or is gone
            for above in new:
                above.rmdir()
        raise


@contextmanager
def undone_if_failed(folder: Path, state: TrainState) -> Iterator[None]:
    """Remove the files of a start that fails before its first step is complete.

    Args:
        folder: Folder of the run.
        state: State of the run, which holds the step.

    Raises:
        KeyboardInterrupt: It was interrupted; the message says that nothing is kept.
    """
    try:
        yield
    except BaseException as error:
        if state.step > 0:
            raise
        clear(folder)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(
                "interrupted before the first step was complete; nothing is kept"
            ) from error
        raise
