"""Runs in a folder: started, resumed, sampled from, and the ones that come with the package.

A run folder holds ``config.json``, ``history.csv``, ``real.png``, ``samples/step_*.png`` and ``samples.gif``
(drawn from the same 64 latents throughout), ``losses.png``, ``checkpoint.pt`` and ``generator.safetensors``;
with averaged weights also ``ema/step_*.png``, ``ema.gif`` and ``ema.safetensors``.
``checkpoint-previous.pt`` is the checkpoint before the last, for ``resume`` where the last is damaged. While
a process trains, ``.lock`` says which.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

import dcganlib
from dcganlib import zoo, datasets, models
from dcganlib.datasets import contact_sheet
from dcganlib.runs import history
from dcganlib.runtime import checkpoint, distributed, files, memory
from dcganlib.viz import plot
from dcganlib.latents import sample_z
from dcganlib.train import StepMetrics, TrainState, init_state, train
from dcganlib.runtime.step_metrics import check_finite
from dcganlib.runtime.train_checks import check_length, check_loader
from dcganlib.config import TrainConfig
from dcganlib.runtime.device import pick_device, resolve

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Folder of the runs that come with the package."""

DEFAULT_EPOCHS = 25
GRID = 64  # images in a sample grid
GAP = 2  # pixels between two of them
BATCH = 64  # samples drawn at a time; of 64 pixels each takes about 2 MB meanwhile
FILM = 2**28  # pixels of a film, all frames together, which Pillow holds in memory
MOST = 10**9  # what no number of steps, pixels or images exceeds
MOST_SAMPLES = 10**6
SEEDS = 2**62
ALLOCATION = "out of memory|allocate memory|DefaultCPUAllocator|ALLOC_FAILED|overflow"
STARTED = ("ema", "checkpoint.pt", "config.json", "real.png", "samples")  # all that a start writes
LONGEST_SIDE = {"GIF": 65_535, "JPEG": 65_500, "WEBP": 16_383}  # pixels of a picture, by format
REPORT = 20  # steps between two looks at the losses, for which a GPU must catch up
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal stopped a run between two steps, and its folder is complete up to there.

    Attributes:
        exit_code: 128 and the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int, folder: Path, step: int) -> None:
        super().__init__(
            f"stopped after step {step}, all saved; `dcganlib resume {folder}` goes on from there"
        )
        self.exit_code = 128 + number


@dataclass(frozen=True)
class RunConfig:
    """What a run is made of, as kept in ``config.json``.

    Attributes:
        data: Name of the set, or a folder.
        architecture: A name that ``zoo.build`` knows.
        steps: Steps in all, counted from the run's start.
        image_size, channels, base_channels: As given to ``zoo.build``.
        checkpoint_every, sample_every: Steps between two checkpoints, and between two sample grids.
        train: The settings of the training loop.
        center_crop, max_images: As given to ``datasets.load``.
        num_classes: Kinds of label that both networks are told; 0 where they are told none.
        contents: How many images the set had, of which shape, and a checksum; None in older runs.
        class_names: Names of the labels 0, 1, ...; empty where the networks are told none, and in older runs
            on a folder.

    Raises:
        ValueError: A value is of another type, or out of range.
    """

    data: str
    architecture: str
    steps: int
    image_size: int
    channels: int
    base_channels: int | None
    checkpoint_every: int
    sample_every: int
    train: TrainConfig
    center_crop: int | None = None
    max_images: int | None = None
    num_classes: int = 0
    contents: str | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("data", "architecture", "contents"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name, value) != ("contents", None):
                raise ValueError(f"{name} must be a text, got {value!r}")
        for name in ("steps", "image_size", "channels", "checkpoint_every", "sample_every"):
            _check_whole(name, getattr(self, name))
        for name in ("base_channels", "center_crop", "max_images"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name))
        _check_whole("num_classes", self.num_classes, 0)
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        if not isinstance(self.train, TrainConfig):
            raise ValueError(f"train must be a TrainConfig, got {self.train!r}")
        names = self.class_names
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"class_names must be a tuple of texts, got {names!r}")
        if names and len(names) != self.num_classes:
            raise ValueError(f"class_names must be one for each of the {self.num_classes} classes, got {names!r}")


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run, read back from its folder.

    Attributes:
        folder: Where it lies.
        config: What ``config.json`` says.
        history: A row for each step.
        generator: As the last step left it; the averaged one where that alone was kept.
        averaged: With its weights averaged over the steps, or None.
    """

    folder: Path
    config: dict[str, Any]
    history: list[dict[str, float]]
    generator: models.Generator
    ema_generator: models.Generator | None = None

    @property
    def animation(self) -> Path:
        """The film of the samples from the fixed latents; WebP for the runs that come with the package."""
        webp = self.folder / "samples.webp"
        return webp if webp.is_file() else self.folder / "samples.gif"


@contextmanager
def _usual_torch() -> Iterator[None]:
    """Undo what the caller may have set for all of torch: no gradients, another default type or device."""
    dtype = torch.get_default_dtype()
    elsewhere = torch.empty(0).device.type != "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.device("cpu") if elsewhere else nullcontext(),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


@_usual_torch()
def run(
    name_or_folder: str | Path,
    out: str | Path | None = None,
    *,
    architecture: str | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    base_channels: int | None = None,
    center_crop: int | None = None,
    max_images: int | None = None,
    conditional: bool = False,
    checkpoint_every: int = 500,
    sample_every: int | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    config: TrainConfig | None = None,
) -> Path:
    """Train from the beginning, into a new folder.

    Under torchrun all processes train and the first one writes; see ``team``. A group that torchrun has
    started again after a failure goes on with its run, if the folder holds one of the same settings.

    Ctrl-C, SIGTERM and SIGHUP let the step come to its end and save it; a second one breaks off at once, with
    the last checkpoint to go on from. The losses are looked at each step on the CPU and every 20 steps on a
    GPU, and a run whose losses or weights are no longer finite stops, its last finite checkpoint kept. A run
    that fails before its first step is complete leaves no folder.

    Args:
        name_or_folder: A set, as ``datasets.load`` takes it.
        out: The run's folder; ``runs/SET-ARCHITECTURE`` if absent.
        architecture: As ``zoo.build`` takes it; "dcgan-28" for grey images of 28 pixels, else "dcgan".
            By class "paper-mnist-conditional" takes the place of "dcgan-28".
        steps, epochs: Length of the run, in one or the other; 25 epochs if neither is given.
        image_size, channels: As ``datasets.load`` takes them.
        base_channels: Width of the networks.
        center_crop, max_images: As ``datasets.load`` takes them.
        conditional: Tell both networks the class of each image; for sets with labels.
        checkpoint_every: Steps between two checkpoints.
        sample_every: Steps between two sample grids; about 60 in all if absent.
        root: Folder of the sets, as ``datasets.load`` takes it.
        device: As ``device.pick_device`` takes it.
        config: Settings of the training loop; the defaults if absent.

    Returns:
        The run's folder.

    Raises:
        ValueError, FileNotFoundError: The data, the networks or a number are not as they should be, or the
            folder already holds a run. Raised before any training.
        ValueError: The networks cannot be compiled, as where there is no C++ compiler.
        OSError: Nothing can be written there, the disk is too full, or another process is writing there.
        FloatingPointError: A loss or a weight is NaN or infinite; the message names it, its step and why.
        MemoryError: The networks or a step do not fit into the device's memory.
        Stopped: A signal stopped the run.
    """
    config = config or TrainConfig()
    source = name_or_folder if datasets.is_named(name_or_folder) else files.expand_user(name_or_folder)
    with distributed.process_group(), ExitStack() as stack:
        with distributed.raise_on_all_ranks():
            if steps is not None and epochs is not None:
                raise ValueError("give steps or epochs, not both")
            _check_whole("epochs", DEFAULT_EPOCHS if epochs is None else epochs)
            colours, size = datasets.image_shape(source, image_size=image_size, channels=channels)
            small = "paper-mnist-conditional" if conditional else "dcgan-28"
            architecture = architecture or (small if (colours, size) == (1, 28) else "dcgan")
            settings = RunConfig(
                source if datasets.is_named(source) else str(Path(source).resolve()),
                architecture,
                1 if steps is None else steps,
                size,
                colours,
                base_channels,
                checkpoint_every,
                1 if sample_every is None else sample_every,
                config,
                center_crop,
                max_images,
            )
            if architecture not in zoo.ARCHITECTURES:
                raise ValueError(
                    f"no architecture {architecture!r}; there are {', '.join(zoo.ARCHITECTURES)}"
                )
            asked: dict[str, Any] = {"root": root, "image_size": size, "channels": colours}
            asked |= {"center_crop": center_crop, "max_images": max_images}
            load = partial(datasets.load, source if isinstance(name_or_folder, Path) else str(source), **asked)
            found = None
            if conditional or zoo.ARCHITECTURES[architecture].num_classes:
                if not datasets.is_named(source):  # the folder's own sub-folders say
                    found = distributed.main_process_first(load)
                names = _class_names(source, found)
                settings = replace(settings, num_classes=len(names), class_names=names)
            out = files.expand_user(out) if out else Path("runs", f"{datasets.title(source)}-{architecture}")
            distributed.per_rank_batch_size(config.batch_size)
            again = distributed.is_restart()
            if distributed.rank() == 0:
                _refuse_source(out, source)
                if not (again and (out / "config.json").is_file()):
                    _refuse_used(out)
                _refuse_read_only(out)
            place = distributed.local_device(pick_device(device))
            _refuse_too_large(settings, place)
            generator, discriminator = _build(settings, rng=_rng(config.seed, 0))
            config = distributed.broadcast_from_rank0(partial(resolve, config, place))  # the same on machines that differ
            state = init_state(generator.to(place), discriminator.to(place), config)
            if distributed.rank() == 0:
                _refuse_full_disk(out, state)
            found = found or distributed.main_process_first(load)
            loader = _loader(found, config, settings.num_classes, place)
            steps = steps or (epochs or DEFAULT_EPOCHS) * len(loader)
            check_length(config, steps)
            settings = replace(
                settings,
                steps=steps,
                sample_every=sample_every or max(1, steps // 60),
                train=config,
                contents=distributed.broadcast_from_rank0(lambda: _contents(found)),
            )
            check_loader(loader, state.config, state.generator, state.discriminator)
            if distributed.rank() == 0:
                stack.enter_context(_made(out))
            check = stack.enter_context(_locked(out))
            begun = again and distributed.broadcast_from_rank0(lambda: _is_of(out, settings))
            log, writes = None, distributed.rank() == 0
            if begun and distributed.broadcast_from_rank0(lambda: any(out.glob("checkpoint*.pt"))):
                state, kept = _load_everywhere(out, place)
                log = history.resume(out / "history.csv", state.step, kept) if writes else None
            elif writes:
                if not begun:
                    _refuse_used(out)  # as another process may have begun there meanwhile
                stack.enter_context(_undone(out, state))
                _furnish(out, settings, loader)
                log = history.History(out / "history.csv")
        _advance(out, settings, state, loader, log, check)
    return out


@_usual_torch()
def resume(
    folder: str | Path,
    *,
    steps: int | None = None,
    data: str | Path | None = None,
    root: str | Path | None = None,
    device: str = "auto",
) -> Path:
    """Go on from a run's last checkpoint, as if it had never stopped; under torchrun with all its processes.

    Where that is damaged, the one before is taken, with a warning, and the damaged one is set aside. A set
    that is not what it was when the run began is a warning too.

    Args:
        folder: The run's folder.
        steps: New length of the run, counted from its start; its own if absent.
        data: Where the run's images are now, if they were moved; kept with the run.
        root: Folder of the sets, as ``datasets.load`` takes it.
        device: As ``device.pick_device`` takes it.

    Returns:
        The folder.

    Raises:
        ValueError, FileNotFoundError: The folder holds no run that can go on, the data are not to be had, or
            their classes are others than the run was trained on.
        OSError, FloatingPointError, MemoryError, Stopped: As ``run`` does.
    """
    folder = files.expand_user(folder)
    with distributed.process_group(), ExitStack() as stack:
        with distributed.raise_on_all_ranks():
            if steps is not None:
                _check_whole("steps", steps)
            settings = moved(distributed.broadcast_from_rank0(lambda: read_config(folder)), data)
            place = distributed.local_device(pick_device(device))
            if settings.train.sync_batch_norm:
                distributed.check_sync_batch_norm(place)
            if distributed.rank() == 0:
                if not any(folder.glob("checkpoint*.pt")):
                    raise FileNotFoundError(f"{folder} has no checkpoint.pt to go on from")
                _refuse_read_only(folder)
            check = stack.enter_context(_locked(folder))
            state, kept = _load_everywhere(folder, place)
            _refuse_other(folder, settings, state)
            target = settings.steps if steps is None else steps
            if target < state.step:
                raise ValueError(
                    f"{folder} is at step {state.step} already, steps {target} lie behind it: give more than "
                    f"{state.step} to go on"
                )
            if distributed.rank() == 0:
                _refuse_full_disk(folder, state)
            check_length(state.config, target)
            found = distributed.main_process_first(lambda: load_data(settings, root))
            loader = _loader(found, state.config, settings.num_classes, place)
            contents = distributed.broadcast_from_rank0(lambda: _contents(found))
            if contents == (settings.contents or contents):
                names = tuple(found.class_names) if settings.num_classes else ()  # which older runs do not have
                settings = replace(settings, contents=contents, class_names=names)
            else:
                warnings.warn(
                    f"{settings.data} has changed since {folder} began: it was {settings.contents}, it is "
                    f"{contents}. Going on with what is there now",
                    stacklevel=4,
                )
            settings = replace(settings, steps=target)
            log = None
            if distributed.rank() == 0:
                _write_config(folder, settings)
                log = history.resume(folder / "history.csv", state.step, kept)
        _advance(folder, settings, state, loader, log, check)
    return folder


@_usual_torch()
def sample(
    folder: str | Path, n: int = 64, *, seed: int = 0, columns: int = 8, label: int | str | None = None
) -> Image.Image:
    """Draw new images from a run's generator, the averaged one where there is one.

    Args:
        folder: The run's folder.
        n: Number of images, from 1 to a million.
        seed: Of the latents, from 0 to below 2**62; the same seed gives the same images.
        columns: Images in a row.
        label: Class of all images, of a conditional run, as a number or a name; if absent, the classes take
            turns. A text that is the name of a class stands for that class also where it looks like a number.

    Returns:
        A picture of the grid.

    Raises:
        ValueError, FileNotFoundError: The folder holds no trained generator, or a number is out of range.
        MemoryError: The picture does not fit into memory; ``save_sample`` needs far less.
    """
    with _fits(f"n {n}", "lower n"):
        return _join(*_sheet(folder, n, seed, columns, label))


@_usual_torch()
def save_sample(
    folder: str | Path,
    path: str | Path,
    n: int = 64,
    *,
    seed: int = 0,
    columns: int = 8,
    label: int | str | None = None,
) -> Path:
    """Draw new images into a file, as ``sample`` does. A PNG is written part by part, in little memory.

    Args:
        folder: The run's folder.
        path: File to write, in a format that Pillow writes; an older one is replaced.
        n, seed, columns, label: As ``sample`` takes them.

    Returns:
        The path.

    Raises:
        ValueError, FileNotFoundError: As ``sample`` does; or the format is unknown, or too small for so many
            images.
        MemoryError: The picture does not fit into memory.
        OSError: The file cannot be written.
    """
    path = files.expand_user(path)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"--out must end as a picture does, such as .png, got {path.name!r}")
    files.check_folder(path)
    with _fits(f"n {n}", "lower n, or write a .png"):
        size, strips = _sheet(folder, n, seed, columns, label)
        longest = LONGEST_SIDE.get(kind, 2**31 - 1)
        if max(size) > longest:
            raise ValueError(
                f"a {path.suffix} has at most {longest:,} pixels on a side, and {n:,} images in rows of "
                f"{columns} take {size[0]:,} x {size[1]:,}: write a .png, or choose other columns"
            )
        if kind == "PNG":
            plot.write_png(path, strips, size)
        else:
            contact_sheet.save(_join(size, strips), path)
    return path


def moved(settings: RunConfig, to: str | Path | None) -> RunConfig:
    """The settings of a run whose images lie elsewhere now.

    Args:
        settings: The run's.
        to: Where the images are, or None where they are where they were.
    """
    if to is None:
        return settings
    return replace(settings, data=to if datasets.is_named(to) else str(files.expand_user(to).resolve()))


def load_data(settings: RunConfig, root: str | Path | None = None, **changes: Any) -> datasets.ImageDataset:
    """Load the images that a run is trained on.

    Args:
        settings: The run's.
        root: Folder of the sets, as ``datasets.load`` takes it.
        changes: Options of ``datasets.load`` to take in place of the run's.

    Raises:
        FileNotFoundError: They are not where they were.
        ValueError: Their classes are others than the run was trained on.
    """
    if not datasets.is_named(settings.data) and not Path(settings.data).exists():
        raise FileNotFoundError(
            f"the run's images are not in {settings.data}: if they were moved, say with --data where they are"
        )
    names = ("image_size", "channels", "center_crop", "max_images")
    asked = {name: getattr(settings, name) for name in names}
    found = datasets.load(settings.data, root=root, **(asked | changes))
    if settings.num_classes:
        return _with_labels_of_run(settings, found)
    return found


def _with_labels_of_run(settings: RunConfig, found: datasets.ImageDataset) -> datasets.ImageDataset:
    """The images with labels as the run numbers its classes.

    Raises:
        ValueError: The classes are others than the run's.
    """
    now, before = _composed(found.class_names), _composed(settings.class_names)
    if found.labels is not None and now != before and sorted(now) == sorted(set(before)):
        numbers = torch.tensor([before.index(name) for name in now])
        return replace(found, labels=numbers[found.labels], class_names=settings.class_names)
    if before and now != before:
        differences = [f"{name!r} is gone" for name in before if name not in now]
        differences += [f"{name!r} is new" for name in now if name not in before]
        raise ValueError(
            f"the classes of {settings.data} are {_listed(now)}; the run was trained on {_listed(before)} "
            f"({', '.join(differences) or 'in another order'}): bring the folders back to that"
        )
    if len(now) != settings.num_classes:
        raise ValueError(
            f"{settings.data} has {len(now)} classes ({_listed(now)}), the run was trained on "
            f"{settings.num_classes}: bring the folders back to that"
        )
    return replace(found, class_names=settings.class_names or found.class_names)


def _composed(names: Sequence[str]) -> tuple[str, ...]:
    """Names as Linux and Windows have them; macOS may store é as e and an accent."""
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def _listed(names: Sequence[str]) -> str:
    """Names in a row, of many the first ones."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "none"


Strips = Iterator[Image.Image]


def _sheet(
    folder: str | Path, n: int, seed: int, columns: int, label: int | str | None
) -> tuple[tuple[int, int], Strips]:
    """A grid of samples: its size, and its strips from top to bottom, drawn as they are asked for."""
    _check_whole("n", n, most=MOST_SAMPLES)
    _check_whole("columns", columns)
    _check_whole("seed", seed, 0, SEEDS - 1)
    found, settings = read(folder), read_config(folder)  # an older run's own config does not name the prior
    generator = found.ema_generator or found.generator
    number = _label_number(label, generator.num_classes, settings.class_names)
    rng = torch.Generator().manual_seed(seed)
    z = sample_z(n, generator.latent_dim, prior=settings.train.prior, rng=rng)
    labels = None
    if generator.num_classes:
        labels = torch.arange(n) % generator.num_classes if number is None else torch.full((n,), number)
    columns = min(columns, n)
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


def _label_number(label: int | str | None, num_classes: int, names: Sequence[str]) -> int | None:
    """The number of a class that is given by its name or its number; a name goes first."""
    if label is None:
        return None
    if not num_classes:
        raise ValueError(f"label must be absent: the run has no classes, got {label}")
    if isinstance(label, str) and _composed([label])[0] in _composed(names):
        return _composed(names).index(_composed([label])[0])
    number = int(label) if isinstance(label, str) and re.fullmatch("[0-9]{1,9}", label) else label
    if type(number) is not int or not 0 <= number < num_classes:
        known = f", or the name of a class ({_listed(names)})" if names else ""
        raise ValueError(f"label must be from 0 to {num_classes - 1}{known}, got {label!r}")
    return number


def read(folder: str | Path) -> Run:
    """Read a run back.

    Args:
        folder: A run's folder, or the name of one that comes with the package (see ``pretrained``).

    Raises:
        FileNotFoundError: There is no such folder, or a file of the run is missing.
        ValueError: A file of the run is damaged.
    """
    folder = find(folder)
    plain, smooth = folder / "generator.safetensors", _ema_file(folder)
    averaged = checkpoint.load_generator(smooth)[0] if smooth.is_file() else None
    if averaged is not None and not plain.is_file():  # it alone was kept
        generator = averaged
    else:
        generator = checkpoint.load_generator(plain)[0]
    rows = history.read(folder / "history.csv")
    return Run(folder, _parse_config(folder / "config.json")[0], rows, generator, averaged)


def _ema_file(folder: Path) -> Path:
    """The weights of the averaged generator, under the name that versions before 0.3 gave them where need be."""
    older = folder / "averaged.safetensors"
    return older if older.is_file() else folder / "ema.safetensors"


def find(folder: str | Path) -> Path:
    """A run's folder, given by its path or by the name of a stored run.

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
    raise FileNotFoundError(f"there is no run {folder}; the stored ones are {', '.join(pretrained()) or 'none'}")


def read_config(folder: str | Path) -> RunConfig:
    """Read a run's ``config.json``.

    Args:
        folder: As ``read`` takes it.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The file is damaged, or a setting is missing or out of range.
    """
    return _parse_config(find(folder) / "config.json")[1]


def _parse_config(path: Path) -> tuple[dict[str, Any], RunConfig]:
    """A ``config.json`` as it stands there, and the settings that it means."""
    content = _read_json(path)
    try:
        told = {name: value for name, value in content.items() if name != "version"}
        names = told.get("class_names")
        if names is None and told.get("num_classes"):  # an older run, whose set may have names of its own
            known = datasets.find_entry(told["data"]).class_names
            names = known if len(known) == told["num_classes"] else ()
        names = () if names is None else tuple(names) if isinstance(names, list) else names
        return content, RunConfig(**{**told, "train": TrainConfig(**told["train"]), "class_names": names})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or incomplete ({type(error).__name__}: {error})") from error


def pretrained() -> list[str]:
    """Names of the runs that come with the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def results(name: str) -> dict[str, Any]:
    """Read the results of a benchmark that come with the package: what took hours to measure.

    Args:
        name: Such as "recipes".

    Returns:
        "command", which measures them again, and "rows"; or what ``dcganlib evaluate`` writes, where the name
        is such as "evaluation-mnist".

    Raises:
        FileNotFoundError: There are no such results.
        ValueError: The file is damaged.
    """
    path = PRETRAINED / "results" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(path.stem for path in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"there are no results {name}; the stored ones are {there}")
    return _read_json(path)


def _advance(
    out: Path,
    settings: RunConfig,
    state: TrainState,
    loader: datasets.Loader,
    log: history.History | None,
    check: Callable[[], None],
) -> None:
    """Train up to ``settings.steps``, leaving the folder complete at each checkpoint.

    In a group all train, and the first, which alone has the ``log``, writes. What it writes it has all wait
    for, so that a full disk ends all; and all stop after the same step.
    """
    writes = log is not None
    fixed = _fixed_latents(state)
    unsaved: list[StepMetrics] = []
    with _compiled(settings.train), distributed.raise_on_all_ranks():
        if writes and state.step == 0:
            _draw(out, state, *fixed)
            checkpoint.save(out / "checkpoint.pt", state)  # so that an early interrupt can be resumed as well
        elif log is not None:
            _publish(out, state, log)  # which a kill right after the checkpoint left undone
    batch = state.config.batch_size
    on_cpu = loader.device.type == "cpu"
    progress = tqdm(
        total=settings.steps * batch,
        initial=state.step * batch,
        unit="img",
        unit_scale=True,
        disable=not writes,
    )
    with progress as bar, _signals() as caught, _compiled(settings.train):
        if writes:
            bar.write(_setting(state.config, loader.device), sys.stderr)
        if writes and distributed.world_size() > 1:
            bar.write(f"{distributed.world_size()} processes, {loader.share} images each, {batch} in a step", sys.stderr)
        for record in train(state, loader, settings.steps):
            unsaved.append(record)
            bar.update(batch)
            look = on_cpu or record.step % REPORT == 0
            asked = caught[0] if caught else 0
            stop = distributed.all_reduce_max(asked) if look or distributed.world_size() == 1 else 0  # all after the same step
            last = record.step == settings.steps
            save = stop > 0 or last or record.step % settings.checkpoint_every == 0
            draw = last or record.step % settings.sample_every == 0
            if look or save:
                check_finite(unsaved[-1:] if on_cpu else unsaved[-REPORT:])
            if record.step % REPORT == 0:
                bar.set_postfix(
                    step=record.step, d_loss=f"{record.d_loss:.3f}", g_loss=f"{record.g_loss:.3f}"
                )
            if save or draw:
                with distributed.raise_on_all_ranks():  # the others wait
                    if writes:
                        check()
                    if writes and draw:
                        _draw(out, state, *fixed)
                    if log is not None and save:
                        rows = [one.as_dict() for one in unsaved]
                        _save(out, state, log, rows)
                        bar.write(_report(rows, bar.format_dict["rate"]), sys.stderr)
            if save:
                unsaved.clear()
            if stop:
                raise Stopped(stop, out, state.step)
    with distributed.raise_on_all_ranks():
        if writes:
            _film(out)


@contextmanager
def _compiled(config: TrainConfig) -> Iterator[None]:
    """Say in one line why ``torch.compile`` failed, which happens when a network is first used."""
    try:
        yield
    except Exception as error:
        if not config.compile or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"torch.compile failed ({reason}): leave out --compile") from error


def _film(out: Path) -> None:
    """Join the grids to a film; of more than a film can hold, some at even distances."""
    for name in ("samples", "ema"):
        paths = sorted((out / name).glob("step_*.png"), key=_step)
        if paths:
            with Image.open(paths[0]) as first:
                room = max(2, FILM // (first.width * first.height))
            if len(paths) > room:
                warnings.warn(
                    f"{name}.gif shows {room:,} of the {len(paths):,} pictures in {out / name}, at even "
                    "distances: more do not fit into memory at once",
                    stacklevel=2,
                )
                paths = [paths[i * (len(paths) - 1) // (room - 1)] for i in range(room)]
            plot.animate(map(_opened, paths), out / f"{name}.gif")


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.copy()


def _step(path: Path) -> tuple[int, str]:
    """For sorting: the step of a grid, whose name has as many digits as it takes."""
    digits = path.stem.removeprefix("step_")
    return int(digits) if digits.isdecimal() else 0, path.name


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask a run to stop, in place of breaking off; a second one does break off."""
    caught: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        for other, handler in before.items():
            signal.signal(other, handler)

    if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
        usual = (signal.SIG_DFL, signal.default_int_handler)
        found = {number: signal.getsignal(number) for number in SIGNALS}
        before |= {number: handler for number, handler in found.items() if handler in usual}
        for number in before:  # not those that are ignored, as under nohup
            signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _setting(config: TrainConfig, device: torch.device) -> str:
    """A line on where and how the run trains."""
    where = f"{device}"
    if device.type == "cpu":
        where += f" ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        where += f" ({torch.cuda.get_device_name(device)})"
    how = [config.precision, *(name for name in ("fast", "compile") if getattr(config, name))]
    return f"training on {where}: {', '.join(how)}"


def _report(rows: list[dict[str, float]], rate: float | None) -> str:
    """A line on the last steps: means over exactly these steps, each counted once."""
    parts = [f"{name} {sum(row[name] for row in rows) / len(rows):.3f}" for name in rows[0] if "_" in name]
    speed = f"; {rate:.0f} images/s" if rate else ""
    return f"step {rows[-1]['step']:.0f}, means of {len(rows)} steps: {', '.join(parts)}{speed}"


def _fixed_latents(state: TrainState) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Latents of the sample grids; by class a row is one latent, told each class in turn."""
    generator, config = state.generator, state.config
    rows = GRID // 8 if generator.num_classes else GRID
    z = sample_z(rows, generator.latent_dim, prior=config.prior, rng=_rng(config.seed, 2))
    if not generator.num_classes:
        return z, None
    return z.repeat_interleave(generator.num_classes, dim=0), torch.arange(generator.num_classes).repeat(rows)


def _draw(out: Path, state: TrainState, fixed_z: torch.Tensor, labels: torch.Tensor | None) -> None:
    for name, generator in (("samples", state.generator), ("ema", state.ema_generator)):
        if generator is not None:
            images = models.generate(generator, fixed_z, labels)
            picture = plot.grid_image(images, columns=generator.num_classes or 8)
            (out / name).mkdir(exist_ok=True)  # which somebody may have deleted to save room
            files.write_atomically(out / name / f"step_{state.step:06d}.png", picture.save)


def _save(out: Path, state: TrainState, log: history.History, rows: Sequence[history.Row]) -> None:
    """Write the new rows, then the checkpoint that counts them, then what readers look at."""
    log.append(rows)
    checkpoint.save(out / "checkpoint.pt", state, previous=out / "checkpoint-previous.pt")
    _publish(out, state, log)


def _publish(out: Path, state: TrainState, log: history.History) -> None:
    """Write what a reader of the folder looks at: weights, and a picture of the losses."""
    checkpoint.save_generator(out / "generator.safetensors", state.generator, step=state.step)
    if state.ema_generator is not None:
        checkpoint.save_generator(out / "ema.safetensors", state.ema_generator, step=state.step)
    if log.points:
        _draw_losses(out / "losses.png", log)


def _draw_losses(path: Path, log: history.History) -> None:
    """Draw the losses; the running mean is over about 100 steps."""
    points = log.points
    plot.save_history(points, path, smooth=max(1, min(100 // log.stride, len(points))))


def _load_newest(folder: Path, place: torch.device) -> tuple[TrainState, list[dict[str, float]]]:
    """The last checkpoint, or the one before where the last is damaged or a crash left none in its place."""
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


def _load_everywhere(folder: Path, place: torch.device) -> tuple[TrainState, list[dict[str, float]]]:
    """``_load_newest`` by the first process; it sends the file to the others, who may not see the folder."""
    last, before = folder / "checkpoint.pt", folder / "checkpoint-previous.pt"
    if distributed.rank() == 0:
        found = _load_newest(folder, place)
    if distributed.world_size() > 1:
        content = distributed.broadcast_from_rank0(lambda: (last if last.exists() else before).read_bytes())
    if distributed.rank() > 0:
        with tempfile.TemporaryDirectory() as aside:
            copy = Path(aside) / last.name
            copy.write_bytes(content)
            found = checkpoint.load(copy, place)
    return found


def _is_of(out: Path, settings: RunConfig) -> bool:
    """Whether a folder holds a run of these very settings."""
    return (out / "config.json").is_file() and read_config(out) == settings


def _locked(folder: Path) -> AbstractContextManager[Callable[[], None]]:
    """``files.locked`` for the process that writes."""
    return files.locked(folder) if distributed.rank() == 0 else nullcontext(lambda: None)


def _refuse_other(folder: Path, settings: RunConfig, state: TrainState) -> None:
    """Refuse a checkpoint that is not of the run that config.json describes; list what differs."""
    pair = _build(settings, device="meta")  # shapes alone
    told, found = _facts(settings.train, pair), _facts(state.config, (state.generator, state.discriminator))
    differences = [
        f"{name} {found.get(name)}, not {told.get(name)}"
        for name in told | found
        if told.get(name) != found.get(name)
    ]
    if differences:
        raise ValueError(
            f"the checkpoint in {folder} is of another run than config.json says: {'; '.join(differences)}"
        )


def _facts(config: TrainConfig, pair: Sequence[models.Generator | models.Discriminator]) -> dict[str, Any]:
    """All settings of a run and its networks, by name."""
    facts = asdict(config)
    for label, network in zip("GD", pair, strict=True):
        names = ("image_size", "channels", "num_classes")
        facts |= {f"{label}'s {name}": getattr(network, name) for name in names}
        for position, layer in enumerate(network.layers, start=1):
            facts |= {f"{label}'s layer {position} {name}": value for name, value in asdict(layer).items()}
    return facts


def _write_config(out: Path, settings: RunConfig) -> None:
    text = json.dumps({"version": dcganlib.__version__, **asdict(settings)}, indent=2) + "\n"
    files.write_text(out / "config.json", text)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is no run: it has no {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # as Windows' editors save it
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no settings")
    return content


def _loader(found: datasets.ImageDataset, config: TrainConfig, num_classes: int, place: torch.device) -> datasets.Loader:
    labels = found.labels if num_classes else None
    return datasets.make_loader(
        found.images, config.batch_size, labels=labels, rng=_rng(config.seed, 1), device=place
    )


def _contents(found: datasets.ImageDataset) -> str:
    """What tells one state of a set from another, in words."""
    count, *shape = found.images.shape
    checksum = zlib.crc32(found.images.contiguous().numpy().data)
    if found.labels is not None:
        checksum = zlib.crc32(found.labels.contiguous().numpy().data, checksum)
    return f"{count:,} images of {'x'.join(map(str, shape))}, crc32 {checksum:08x}"


@contextmanager
def _made(out: Path) -> Iterator[None]:
    """Make a folder, and those above it; where what follows fails, take away again what is left empty."""
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the folder holds something, or is gone
            for folder in new:
                folder.rmdir()
        raise


@contextmanager
def _undone(out: Path, state: TrainState) -> Iterator[None]:
    """Take away the files of a start that failed before its first step was complete."""
    try:
        yield
    except BaseException as error:
        if state.step > 0:
            raise
        _clear(out)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(
                "interrupted before the first step was complete; nothing is kept"
            ) from error
        raise


def _clear(out: Path) -> None:
    for name in STARTED:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def _furnish(out: Path, settings: RunConfig, loader: datasets.Loader) -> None:
    """Write what a run's folder holds before the first step; an earlier try may have left some of it."""
    _clear(out)
    (out / "history.csv").unlink(missing_ok=True)
    _write_config(out, settings)
    for name in ("samples", "ema") if settings.train.ema else ("samples",):
        (out / name).mkdir()
    files.write_atomically(out / "real.png", plot.grid_image(datasets.to_float(loader.images[:GRID])).save)


def _class_names(source: str | Path, found: datasets.ImageDataset | None) -> tuple[str, ...]:
    """Names of a set's labels, which is not loaded yet where its name tells."""
    names = found.class_names if found else datasets.find_entry(source).class_names
    if not names:
        labelled = [entry.name for entry in datasets.entries() if entry.class_names]
        raise ValueError(
            f"{source} has no labels to draw by; {', '.join(labelled)} have, and a folder with a "
            "sub-folder for each class"
        )
    return names


def _check_whole(name: str, value: object, least: int = 1, most: int = MOST) -> None:
    if type(value) is not int:
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most:,}, got {value}")


def _build(
    settings: RunConfig, rng: torch.Generator | None = None, device: str = "cpu"
) -> tuple[models.Generator, models.Discriminator]:
    """The networks of a run."""
    return zoo.build(
        settings.architecture,
        image_size=settings.image_size,
        channels=settings.channels,
        base_channels=settings.base_channels,
        num_classes=settings.num_classes,
        rng=rng,
        device=device,
    )


@contextmanager
def _fits(what: str, advice: str) -> Iterator[None]:
    """Say in one line what was too large for the memory."""
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        if isinstance(error, RuntimeError) and not re.search(ALLOCATION, str(error)):
            raise
        raise MemoryError(f"{what} does not fit into memory: {advice}") from error


def _refuse_too_large(settings: RunConfig, place: torch.device) -> None:
    """Refuse networks that cannot be trained in the memory of the device, before any is taken."""
    width = settings.base_channels or zoo.ARCHITECTURES[settings.architecture].base_channels
    what, advice = f"a network with base_channels {width}", "lower base_channels"
    with _fits(what, advice):
        pair = _build(settings, device="meta")  # shapes alone
    # Each weight has a gradient and Adam's two moments.
    needed = 4 * sum(weight.nbytes for network in pair for weight in network.parameters())
    room = memory.free_memory(place)
    if room is not None and needed > room:
        raise MemoryError(
            f"{what} takes {needed / 1e9:,.0f} GB to train, and {place} has {room / 1e9:,.0f} left: {advice}"
        )


def _refuse_source(out: Path, source: str | Path) -> None:
    if not datasets.is_named(source) and Path(source).is_dir() and out.resolve() == Path(source).resolve():
        raise ValueError(f"{out} is the folder of the images: name another folder with --out")


def _refuse_used(out: Path) -> None:
    if out.exists() and not (out.is_dir() and (_names(out) == set() or _is_unfinished_start(out))):
        raise ValueError(
            f"{out} is there already: go on with `dcganlib resume {out}`, or name another folder with --out"
        )


def _names(out: Path) -> set[str]:
    return {entry.name for entry in out.iterdir()} - {files.LOCK}


def _is_unfinished_start(out: Path) -> bool:
    """Whether a folder holds nothing but what a start wrote that was killed before its first checkpoint."""
    names = {name for name in _names(out) if not re.fullmatch(r"\..+\.\d+\.tmp(\.\w+)?", name)}
    if "config.json" not in names or "checkpoint.pt" in names or not names <= set(STARTED):
        return False
    with suppress(ValueError, OSError):
        return read_config(out).contents is not None
    return False


def _refuse_read_only(out: Path) -> None:
    above = _above(out)
    if not files.writable(above):
        raise PermissionError(f"nothing can be written into {above}: name another folder with --out")


def _refuse_full_disk(out: Path, state: TrainState) -> None:
    """Refuse a disk that has no room for the checkpoints, before any work."""
    networks = [state.generator, state.discriminator]
    weights = sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())
    there = sum(path.stat().st_size for path in out.glob("checkpoint*.pt"))
    # Three at a time: the last, the one before and the one being written; each with Adam's two moments.
    needed = 3 * (3 + bool(state.config.ema)) * weights - there
    if shutil.disk_usage(_above(out)).free < needed:
        raise files.no_room(out / "checkpoint.pt", f"{needed:,}")


def _above(out: Path) -> Path:
    """A folder, or the nearest one above it that exists."""
    return next(folder for folder in (out, *out.absolute().parents) if folder.exists())


def _rng(seed: int, purpose: int) -> torch.Generator:
    """Separate sources from one seed: 0 for weights, 1 for the images' order, 2 for the fixed latents."""
    return torch.Generator().manual_seed((seed * 1_000_003 + purpose + 1) % 2**63)
