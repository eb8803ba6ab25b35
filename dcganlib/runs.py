"""Runs in a folder: started, resumed, sampled from, and the ones that come with the package.

A run folder holds ``config.json``, ``history.csv``, ``real.png``, ``samples/step_*.png`` and ``samples.gif``
(drawn from the same 64 latents throughout), ``losses.png``, ``checkpoint.pt`` and ``generator.safetensors``;
with averaged weights also ``averaged/step_*.png``, ``averaged.gif`` and ``averaged.safetensors``.
``checkpoint-previous.pt`` is the checkpoint before the last, for ``resume`` where the last is damaged. While
a process trains, ``.lock`` says which.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

import dcganlib
from dcganlib import checkpoint, data, files, models, plot, team
from dcganlib.latent import sample_z
from dcganlib.train import (
    StepRecord,
    TrainConfig,
    TrainState,
    check_finite,
    check_length,
    check_loader,
    pick_device,
    resolve,
    start,
    train,
)

PRETRAINED = Path(__file__).parent / "pretrained"
"""Folder of the runs that come with the package."""

DEFAULT_EPOCHS = 25
GRID = 64  # images in a sample grid
COLUMNS = ("step", "epoch", "d_loss", "g_loss", "d_real", "d_fake")  # of a history
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
        architecture: A name that ``models.build`` knows.
        steps: Steps in all, counted from the run's start.
        image_size, channels, base_channels: As given to ``models.build``.
        checkpoint_every, sample_every: Steps between two checkpoints, and between two sample grids.
        train: The settings of the training loop.
        crop, count: As given to ``data.load``.
        classes: Kinds of label that both networks are told; 0 where they are told none.
        contents: How many images the set had, of which shape, and a checksum; None in older runs.
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
    crop: int | None = None
    count: int | None = None
    classes: int = 0
    contents: str | None = None


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
    averaged: models.Generator | None = None

    @property
    def film(self) -> Path:
        """The film of the samples from the fixed latents; WebP for the runs that come with the package."""
        webp = self.folder / "samples.webp"
        return webp if webp.is_file() else self.folder / "samples.gif"


def run(
    name_or_folder: str,
    out: str | Path | None = None,
    *,
    architecture: str | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    base_channels: int | None = None,
    crop: int | None = None,
    count: int | None = None,
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
    GPU, and a run whose losses or weights are no longer finite stops, its last finite checkpoint kept.

    Args:
        name_or_folder: A set, as ``data.load`` takes it.
        out: The run's folder; ``runs/SET-ARCHITECTURE`` if absent.
        architecture: As ``models.build`` takes it; "dcgan-28" for grey images of 28 pixels, else "dcgan".
            By class "paper-mnist-conditional" takes the place of "dcgan-28".
        steps, epochs: Length of the run, in one or the other; 25 epochs if neither is given.
        image_size, channels: As ``data.load`` takes them.
        base_channels: Width of the networks.
        crop, count: As ``data.load`` takes them.
        conditional: Tell both networks the class of each image; for sets with labels.
        checkpoint_every: Steps between two checkpoints.
        sample_every: Steps between two sample grids; about 60 in all if absent.
        root: Folder of the sets, as ``data.load`` takes it.
        device: As ``train.pick_device`` takes it.
        config: Settings of the training loop; the defaults if absent.

    Returns:
        The run's folder.

    Raises:
        ValueError, FileNotFoundError: The data, the networks or a number are not as they should be, or the
            folder already holds a run. Raised before any training.
        OSError: Nothing can be written there, the disk is too full, or another process is writing there.
        FloatingPointError: A loss or a weight is NaN or infinite; the message names it, its step and why.
        MemoryError: A step does not fit into the device's memory.
        Stopped: A signal stopped the run.
    """
    config = config or TrainConfig()
    with team.joined(), ExitStack() as stack:
        with team.agreed():
            _refuse_lengths(steps, epochs, checkpoint_every, sample_every)
            if architecture is not None and architecture not in models.ARCHITECTURES:
                raise ValueError(
                    f"no architecture {architecture!r}; there are {', '.join(models.ARCHITECTURES)}"
                )
            colours, size = data.image_shape(name_or_folder, image_size=image_size, channels=channels)
            small = "paper-mnist-conditional" if conditional else "dcgan-28"
            architecture = architecture or (small if (colours, size) == (1, 28) else "dcgan")
            asked = {"root": root, "image_size": size, "channels": colours, "crop": crop, "count": count}
            load = partial(data.load, name_or_folder, **asked)
            found, classes = None, 0
            if conditional or models.ARCHITECTURES[architecture].classes:
                if name_or_folder not in data.NAMES:  # the folder's own sub-folders say
                    found = team.in_turn(load)
                classes = _count_classes(name_or_folder, found)
            out = Path(out or f"runs/{Path(name_or_folder).stem}-{architecture}")
            team.share(config.batch_size)
            again = team.restarted()
            if team.rank() == 0:
                if not (again and (out / "config.json").is_file()):
                    _refuse_used(out)
                _refuse_read_only(out)
            generator, discriminator = models.build(
                architecture,
                image_size=size,
                channels=colours,
                base_channels=base_channels,
                classes=classes,
                rng=_rng(config.seed, 0),
            )
            place = team.place(pick_device(device))
            config = team.first(lambda: resolve(config, place))  # the same on machines that differ
            state = start(generator.to(place), discriminator.to(place), config)
            if team.rank() == 0:
                _refuse_full_disk(out, state)
            found = found or team.in_turn(load)
            loader = _loader(found, config, classes, place)
            steps = steps or (epochs or DEFAULT_EPOCHS) * len(loader)
            check_length(config, steps)
            folder = Path(name_or_folder)
            settings = RunConfig(
                str(name_or_folder) if str(name_or_folder) in data.NAMES else str(folder.resolve()),
                architecture,
                steps,
                size,
                colours,
                base_channels,
                checkpoint_every,
                sample_every or max(1, steps // 60),
                config,
                crop,
                count,
                classes,
                team.first(lambda: _contents(found)),
            )
            check_loader(state, loader)
            if team.rank() == 0:
                out.mkdir(parents=True, exist_ok=True)
            check = stack.enter_context(_locked(out))
            begun = again and team.first(lambda: _is_of(out, settings))
            if begun and team.first(lambda: any(out.glob("checkpoint*.pt"))):
                state, history = _load_everywhere(out, place)
            else:
                history = []
                if team.rank() == 0:
                    _furnish(out, settings, loader, begun)
        _advance(out, settings, state, loader, history, check)
    return out


def resume(
    folder: str | Path, *, steps: int | None = None, root: str | Path | None = None, device: str = "auto"
) -> Path:
    """Go on from a run's last checkpoint, as if it had never stopped; under torchrun with all its processes.

    Where that is damaged, the one before is taken, with a warning, and the damaged one is set aside. A set
    that is not what it was when the run began is a warning too.

    Args:
        folder: The run's folder.
        steps: New length of the run, counted from its start; its own if absent.
        root: Folder of the sets, as ``data.load`` takes it.
        device: As ``train.pick_device`` takes it.

    Returns:
        The folder.

    Raises:
        ValueError, FileNotFoundError: The folder holds no run that can go on, or the data are not to be had.
        OSError, FloatingPointError, MemoryError, Stopped: As ``run`` does.
    """
    folder = Path(folder)
    with team.joined(), ExitStack() as stack:
        with team.agreed():
            settings = team.first(lambda: read_config(folder))
            place = team.place(pick_device(device))
            if settings.train.sync_batch_norm:
                team.check_sync(place)
            if team.rank() == 0:
                if not any(folder.glob("checkpoint*.pt")):
                    raise FileNotFoundError(f"{folder} has no checkpoint.pt to go on from")
                _refuse_read_only(folder)
            check = stack.enter_context(_locked(folder))
            state, history = _load_everywhere(folder, place)
            _refuse_other(folder, settings, state)
            target = settings.steps if steps is None else steps
            if target < state.step:
                raise ValueError(
                    f"{folder} is at step {state.step} already, steps {target} lie behind it: give more than "
                    f"{state.step} to go on"
                )
            if team.rank() == 0:
                _refuse_full_disk(folder, state)
            check_length(state.config, target)
            load = partial(
                data.load,
                settings.data,
                root=root,
                image_size=settings.image_size,
                channels=settings.channels,
                crop=settings.crop,
                count=settings.count,
            )
            found = team.in_turn(load)
            loader = _loader(found, state.config, settings.classes, place)
            contents = team.first(lambda: _contents(found))
            if contents != (settings.contents or contents):
                warnings.warn(
                    f"{settings.data} has changed since {folder} began: it was {settings.contents}, it is "
                    f"{contents}. Going on with what is there now",
                    stacklevel=2,
                )
            settings = replace(settings, steps=target, contents=settings.contents or contents)
            if team.rank() == 0:
                _write_config(folder, settings)
        _advance(folder, settings, state, loader, history, check)
    return folder


def sample(
    folder: str | Path, n: int = 64, *, seed: int = 0, columns: int = 8, label: int | None = None
) -> Image.Image:
    """Draw new images from a run's generator, the averaged one where there is one.

    Args:
        folder: The run's folder.
        n: Number of images, at least 1.
        seed: Of the latents; the same seed gives the same images.
        columns: Images in a row.
        label: Class of all images, of a conditional run; if absent, the classes take turns.

    Returns:
        A picture of the grid.

    Raises:
        ValueError, FileNotFoundError: The folder holds no trained generator, or a number is out of range.
    """
    found = read(folder)
    generator = found.averaged or found.generator
    prior = read_config(folder).train.prior  # an older run does not name it
    if label is not None and not generator.classes:
        raise ValueError(f"label must be absent: the run has no classes, got {label}")
    if label is not None and not 0 <= label < generator.classes:
        raise ValueError(f"label must be from 0 to {generator.classes - 1}, got {label}")
    z = sample_z(n, generator.latent_dim, prior=prior, rng=torch.Generator().manual_seed(seed))
    labels = None
    if generator.classes:
        labels = torch.arange(n) % generator.classes if label is None else torch.full((n,), label)
    return plot.grid_image(models.generate(generator, z, labels), columns=columns)


def read(folder: str | Path) -> Run:
    """Read a run back.

    Args:
        folder: A run's folder, or the name of one that comes with the package (see ``stored``).

    Raises:
        FileNotFoundError: There is no such folder, or a file of the run is missing.
        ValueError: A file of the run is damaged.
    """
    folder = _find(folder)
    plain, smooth = folder / "generator.safetensors", folder / "averaged.safetensors"
    averaged = checkpoint.load_generator(smooth)[0] if smooth.is_file() else None
    kept_alone = averaged is not None and not plain.is_file()
    generator = averaged if kept_alone else checkpoint.load_generator(plain)[0]
    history_file = folder / "history.csv"
    if not history_file.is_file():
        raise FileNotFoundError(f"{folder} has no history.csv")
    try:
        with open(history_file, newline="", encoding="utf-8") as file:
            history = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        lost = [name for name in COLUMNS if history and name not in history[0]]
        if lost:
            raise ValueError(f"it has no column {lost[0]}")
    except (ValueError, TypeError, csv.Error) as error:  # not a number, a row too short or too long, not text
        raise ValueError(f"{history_file} is damaged: {error}") from error
    if not history:
        raise ValueError(f"{history_file} is damaged: it has no rows")
    return Run(folder, _parse_config(folder / "config.json")[0], history, generator, averaged)


def read_config(folder: str | Path) -> RunConfig:
    """Read a run's ``config.json``.

    Args:
        folder: As ``read`` takes it.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The file is damaged, or a setting is missing or out of range.
    """
    return _parse_config(_find(folder) / "config.json")[1]


def _parse_config(path: Path) -> tuple[dict[str, Any], RunConfig]:
    """A ``config.json`` as it stands there, and the settings that it means."""
    content = _read_json(path)
    try:
        told = {name: value for name, value in content.items() if name != "version"}
        settings = RunConfig(**{**told, "train": TrainConfig(**told["train"])})
        _check_settings(settings)
        return content, settings
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or incomplete ({type(error).__name__}: {error})") from error


def stored() -> list[str]:
    """Names of the runs that come with the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def measured(name: str) -> dict[str, Any]:
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
    path = PRETRAINED / "measured" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(path.stem for path in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"there are no results {name}; the stored ones are {there}")
    return _read_json(path)


def _advance(
    out: Path,
    settings: RunConfig,
    state: TrainState,
    loader: data.Loader,
    history: Sequence[dict[str, float]],
    check: Callable[[], None],
) -> None:
    """Train up to ``settings.steps``, leaving the folder complete at each checkpoint.

    In a group all train, and the first writes. What it writes it has all wait for, so that a full disk ends
    all; and all stop after the same step.
    """
    writes = team.rank() == 0
    fixed = _fixed_latents(state)
    rows: list[StepRecord | dict[str, float]] = list(history)
    with team.agreed():
        if writes and state.step == 0:
            _draw(out, state, *fixed)
            checkpoint.save(out / "checkpoint.pt", state)  # so that an early interrupt can be resumed as well
        elif writes:
            _publish(out, state, rows)  # which a kill right after the checkpoint left undone
    batch = state.config.batch_size
    on_cpu = loader.device.type == "cpu"
    progress = tqdm(
        total=settings.steps * batch,
        initial=state.step * batch,
        unit="img",
        unit_scale=True,
        disable=not writes,
    )
    with progress as bar, _signals() as caught:
        if writes:
            bar.write(_setting(state.config, loader.device), sys.stderr)
        if writes and team.size() > 1:
            bar.write(f"{team.size()} processes, {loader.share} images each, {batch} in a step", sys.stderr)
        for record in train(state, loader, settings.steps):
            rows.append(record)
            bar.update(batch)
            look = on_cpu or record.step % REPORT == 0
            asked = caught[0] if caught else 0
            stop = team.largest(asked) if look or team.size() == 1 else 0  # all after the same step
            last = record.step == settings.steps
            save = stop > 0 or last or record.step % settings.checkpoint_every == 0
            draw = last or record.step % settings.sample_every == 0
            if look or save:
                check_finite(rows[-1:] if on_cpu else rows[-REPORT:])
            if record.step % REPORT == 0:
                bar.set_postfix(
                    step=record.step, d_loss=f"{record.d_loss:.3f}", g_loss=f"{record.g_loss:.3f}"
                )
            if save or draw:
                with team.agreed():  # the others wait
                    if writes:
                        check()
                    if writes and draw:
                        _draw(out, state, *fixed)
                    if writes and save:
                        _save(out, state, rows)
                        said = _report(rows[-settings.checkpoint_every :], bar.format_dict["rate"])
                        bar.write(said, sys.stderr)
            if save and not writes:
                rows.clear()
            if stop:
                raise Stopped(stop, out, state.step)
    with team.agreed():
        if writes:
            _film(out)


def _film(out: Path) -> None:
    for name in ("samples", "averaged"):
        frames = [Image.open(path) for path in sorted((out / name).glob("step_*.png"))]
        if frames:
            plot.animate(frames, out / f"{name}.gif")


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
    rows = GRID // 8 if generator.classes else GRID
    z = sample_z(rows, generator.latent_dim, prior=config.prior, rng=_rng(config.seed, 2))
    if not generator.classes:
        return z, None
    return z.repeat_interleave(generator.classes, dim=0), torch.arange(generator.classes).repeat(rows)


def _draw(out: Path, state: TrainState, fixed_z: torch.Tensor, labels: torch.Tensor | None) -> None:
    for name, generator in (("samples", state.generator), ("averaged", state.averaged)):
        if generator is not None:
            images = models.generate(generator, fixed_z, labels)
            picture = plot.grid_image(images, columns=generator.classes or 8)
            files.write_atomically(out / name / f"step_{state.step:06d}.png", picture.save)


def _save(out: Path, state: TrainState, rows: list[StepRecord | dict[str, float]]) -> None:
    """Write checkpoint, weights and history; the checkpoint first, since only it is needed to go on."""
    rows[:] = [row.as_dict() if isinstance(row, StepRecord) else row for row in rows]
    checkpoint.save(out / "checkpoint.pt", state, rows, previous=out / "checkpoint-previous.pt")
    _publish(out, state, rows)


def _publish(out: Path, state: TrainState, rows: list[dict[str, float]]) -> None:
    """Write what a reader of the folder looks at: weights, history and its picture."""
    checkpoint.save_generator(out / "generator.safetensors", state.generator, step=state.step)
    if state.averaged is not None:
        checkpoint.save_generator(out / "averaged.safetensors", state.averaged, step=state.step)
    lines = [",".join(rows[0])] + [",".join(_digits(value) for value in row.values()) for row in rows]
    files.write_text(out / "history.csv", "\n".join(lines) + "\n")
    plot.save_history(rows, out / "losses.png", smooth=min(100, len(rows)))


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
    if team.rank() == 0:
        found = _load_newest(folder, place)
    if team.size() > 1:
        content = team.first(lambda: (last if last.exists() else before).read_bytes())
    if team.rank() > 0:
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
    return files.locked(folder) if team.rank() == 0 else nullcontext(lambda: None)


def _refuse_other(folder: Path, settings: RunConfig, state: TrainState) -> None:
    """Refuse a checkpoint that is not of the run that config.json describes; list what differs."""
    pair = models.build(
        settings.architecture,
        image_size=settings.image_size,
        channels=settings.channels,
        base_channels=settings.base_channels,
        classes=settings.classes,
        device="meta",  # shapes alone
    )
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
        names = ("image_size", "channels", "classes")
        facts |= {f"{label}'s {name}": getattr(network, name) for name in names}
        for position, layer in enumerate(network.layers, start=1):
            facts |= {f"{label}'s layer {position} {name}": value for name, value in asdict(layer).items()}
    return facts


def _digits(value: float) -> str:
    """A whole number in full, any other with six digits."""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _write_config(out: Path, settings: RunConfig) -> None:
    text = json.dumps({"version": dcganlib.__version__, **asdict(settings)}, indent=2) + "\n"
    files.write_text(out / "config.json", text)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is no run: it has no {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no settings")
    return content


def _check_settings(settings: RunConfig) -> None:
    """Refuse settings that no run has; those of the networks are left to ``models.build``."""
    for name in ("data", "architecture", "contents"):
        value = getattr(settings, name)
        if not isinstance(value, str) and (name, value) != ("contents", None):
            raise ValueError(f"{name} must be a text, got {value!r}")
    needed = ("steps", "image_size", "channels", "checkpoint_every", "sample_every")
    for name in (*needed, "base_channels", "crop", "count", "classes"):
        value = getattr(settings, name)
        if value is None and name not in (*needed, "classes"):
            continue
        if type(value) is not int:
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if value < (name != "classes"):
            raise ValueError(f"{name} must be at least {int(name != 'classes')}, got {value}")


def _find(folder: str | Path) -> Path:
    """A run's folder, given by path or by the name of a stored run."""
    named = PRETRAINED / str(folder) if re.fullmatch(r"[\w-]+", str(folder)) else None
    if named and (named / "config.json").is_file() and not (Path(folder) / "config.json").is_file():
        return named  # a folder that only happens to have the name is no run
    if Path(folder).is_dir():
        return Path(folder)
    raise FileNotFoundError(f"there is no run {folder}; the stored ones are {', '.join(stored()) or 'none'}")


def _loader(found: data.ImageSet, config: TrainConfig, classes: int, place: torch.device) -> data.Loader:
    labels = found.labels if classes else None
    return data.make_loader(
        found.images, config.batch_size, labels=labels, rng=_rng(config.seed, 1), device=place
    )


def _contents(found: data.ImageSet) -> str:
    """What tells one state of a set from another, in words."""
    count, *shape = found.images.shape
    checksum = zlib.crc32(found.images.contiguous().numpy())
    if found.labels is not None:
        checksum = zlib.crc32(found.labels.contiguous().numpy(), checksum)
    return f"{count:,} images of {'x'.join(map(str, shape))}, crc32 {checksum:08x}"


def _furnish(out: Path, settings: RunConfig, loader: data.Loader, begun: bool) -> None:
    """Write what a run's folder holds before the first step; ``begun`` if an earlier try may have done so."""
    if not begun:
        _refuse_used(out)  # as another process may have begun there meanwhile
    _write_config(out, settings)
    for name in ("samples", "averaged") if settings.train.ema else ("samples",):
        (out / name).mkdir(exist_ok=begun)
    files.write_atomically(out / "real.png", plot.grid_image(data.to_float(loader.images[:GRID])).save)


def _count_classes(name: str, found: data.ImageSet | None) -> int:
    """How many kinds of label a set has, which is not loaded yet where its name tells."""
    classes = len(found.class_names if found else data.CLASSES.get(name, ()))
    if not classes:
        raise ValueError(
            f"{name} has no labels to draw by; {', '.join(data.CLASSES)} have, and a folder with a "
            "sub-folder for each class"
        )
    return classes


def _refuse_lengths(
    steps: int | None, epochs: int | None, checkpoint_every: int, sample_every: int | None
) -> None:
    if steps is not None and epochs is not None:
        raise ValueError("give steps or epochs, not both")
    lengths = {"steps": steps, "epochs": epochs}
    lengths |= {"checkpoint_every": checkpoint_every, "sample_every": sample_every}
    for label, value in lengths.items():
        if value is not None and value < 1:
            raise ValueError(f"{label} must be at least 1, got {value}")


def _refuse_used(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(entry.name != files.LOCK for entry in out.iterdir())):
        raise ValueError(
            f"{out} is there already: go on with `dcganlib resume {out}`, or name another folder with --out"
        )


def _refuse_read_only(out: Path) -> None:
    above = _above(out)
    if not os.access(above, os.W_OK | os.X_OK):
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
