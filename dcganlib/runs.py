"""Runs in a folder: started, resumed, sampled from, and the ones that come with the package.

A run folder holds ``config.json``, ``history.csv``, ``real.png``, ``samples/step_*.png`` and ``samples.gif``
(drawn from the same 64 latents throughout), ``losses.png``, ``checkpoint.pt`` and ``generator.safetensors``;
with averaged weights also ``averaged/step_*.png``, ``averaged.gif`` and ``averaged.safetensors``.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from PIL import Image
from tqdm.auto import tqdm

import dcganlib
from dcganlib import checkpoint, data, files, models, plot
from dcganlib.latent import sample_z
from dcganlib.train import StepRecord, TrainConfig, TrainState, pick_device, start, train

PRETRAINED = Path(__file__).parent / "pretrained"
"""Folder of the runs that come with the package."""

DEFAULT_EPOCHS = 25
GRID = 64  # images in a sample grid


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
    checkpoint_every: int = 500,
    sample_every: int | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    config: TrainConfig | None = None,
) -> Path:
    """Train from the beginning, into a new folder.

    Args:
        name_or_folder: A set, as ``data.load`` takes it.
        out: The run's folder; ``runs/SET-ARCHITECTURE`` if absent.
        architecture: As ``models.build`` takes it; "dcgan-28" for grey images of 28 pixels, else "dcgan".
        steps, epochs: Length of the run, in one or the other; 25 epochs if neither is given.
        image_size, channels: As ``data.load`` takes them.
        base_channels: Width of the networks.
        crop, count: As ``data.load`` takes them.
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
    """
    config = config or TrainConfig()
    if steps is not None and epochs is not None:
        raise ValueError("give steps or epochs, not both")
    for label, value in (
        ("steps", steps),
        ("epochs", epochs),
        ("checkpoint_every", checkpoint_every),
        ("sample_every", sample_every),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{label} must be at least 1, got {value}")
    if architecture is not None and architecture not in models.ARCHITECTURES:
        raise ValueError(f"no architecture {architecture!r}; there are {', '.join(models.ARCHITECTURES)}")
    if out is not None:
        _refuse_used(Path(out))
    colours, size = data.image_shape(name_or_folder, image_size=image_size, channels=channels)
    architecture = architecture or ("dcgan-28" if (colours, size) == (1, 28) else "dcgan")
    generator, discriminator = models.build(
        architecture, image_size=size, channels=colours, base_channels=base_channels, rng=_rng(config.seed, 0)
    )
    out = Path(out or f"runs/{Path(name_or_folder).stem}-{architecture}")
    _refuse_used(out)
    place = pick_device(device)
    images = data.load(
        name_or_folder, root=root, image_size=size, channels=colours, crop=crop, count=count
    ).images
    loader = data.make_loader(images, config.batch_size, rng=_rng(config.seed, 1), device=place)
    steps = steps or (epochs or DEFAULT_EPOCHS) * len(loader)
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
    )
    state = start(generator.to(place), discriminator.to(place), config)
    for name in ("samples", "averaged") if config.ema else ("samples",):
        (out / name).mkdir(parents=True, exist_ok=True)
    _write_config(out, settings)
    files.write_atomically(out / "real.png", plot.grid_image(data.to_float(loader.images[:GRID])).save)
    _advance(out, settings, state, loader, [])
    return out


def resume(
    folder: str | Path, *, steps: int | None = None, root: str | Path | None = None, device: str = "auto"
) -> Path:
    """Go on from a run's last checkpoint, as if it had never stopped.

    Args:
        folder: The run's folder.
        steps: New length of the run, counted from its start; its own if absent.
        root: Folder of the sets, as ``data.load`` takes it.
        device: As ``train.pick_device`` takes it.

    Returns:
        The folder.

    Raises:
        ValueError, FileNotFoundError: The folder holds no run that can go on, or the data are not to be had.
    """
    folder = Path(folder)
    settings = read_config(folder)
    place = pick_device(device)
    state, history = checkpoint.load(folder / "checkpoint.pt", place)
    target = settings.steps if steps is None else steps
    if target < state.step:
        raise ValueError(f"{folder} is at step {state.step} already, steps {target} lie behind it")
    images = data.load(
        settings.data,
        root=root,
        image_size=settings.image_size,
        channels=settings.channels,
        crop=settings.crop,
        count=settings.count,
    ).images
    loader = data.make_loader(images, state.config.batch_size, rng=_rng(state.config.seed, 1), device=place)
    settings = RunConfig(**{**vars(settings), "steps": target})
    _write_config(folder, settings)
    _advance(folder, settings, state, loader, history)
    return folder


def sample(folder: str | Path, n: int = 64, *, seed: int = 0, columns: int = 8) -> Image.Image:
    """Draw new images from a run's generator, the averaged one where there is one.

    Args:
        folder: The run's folder.
        n: Number of images, at least 1.
        seed: Of the latents; the same seed gives the same images.
        columns: Images in a row.

    Returns:
        A picture of the grid.

    Raises:
        ValueError, FileNotFoundError: The folder holds no trained generator, or a number is below 1.
    """
    found = read(folder)
    generator = found.averaged or found.generator
    prior = found.config["train"]["prior"]
    z = sample_z(n, generator.latent_dim, prior=prior, rng=torch.Generator().manual_seed(seed))
    return plot.grid_image(models.generate(generator, z), columns=columns)


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
    with open(history_file, newline="") as file:
        history = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return Run(folder, _read_json(folder / "config.json"), history, generator, averaged)


def read_config(folder: str | Path) -> RunConfig:
    """Read a run's ``config.json``.

    Args:
        folder: As ``read`` takes it.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: The file is damaged, or a setting is missing or out of range.
    """
    path = _find(folder) / "config.json"
    content = _read_json(path)
    try:
        content.pop("version", None)
        return RunConfig(**{**content, "train": TrainConfig(**content["train"])})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or incomplete ({type(error).__name__}: {error})") from error


def stored() -> list[str]:
    """Names of the runs that come with the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def _advance(
    out: Path,
    settings: RunConfig,
    state: TrainState,
    loader: data.Loader,
    history: Sequence[dict[str, float]],
) -> None:
    """Train up to ``settings.steps``, leaving the folder complete at each checkpoint."""
    fixed_z = sample_z(
        GRID, state.generator.latent_dim, prior=state.config.prior, rng=_rng(state.config.seed, 2)
    )
    rows: list[StepRecord | dict[str, float]] = list(history)
    if state.step == 0:
        _draw(out, state, fixed_z)
        checkpoint.save(out / "checkpoint.pt", state)  # so that an early interrupt can be resumed as well
    batch = state.config.batch_size
    with tqdm(total=settings.steps * batch, initial=state.step * batch, unit="img", unit_scale=True) as bar:
        for record in train(state, loader, settings.steps):
            rows.append(record)
            bar.update(batch)
            if record.step % 20 == 0:
                bar.set_postfix(
                    step=record.step, d_loss=f"{record.d_loss:.3f}", g_loss=f"{record.g_loss:.3f}"
                )
            if record.step % settings.sample_every == 0 or record.step == settings.steps:
                _draw(out, state, fixed_z)
            if record.step % settings.checkpoint_every == 0 or record.step == settings.steps:
                _save(out, state, rows)
                bar.write(_report(rows[-settings.checkpoint_every :], bar.format_dict["rate"]), sys.stderr)
    for name in ("samples", "averaged"):
        frames = [Image.open(path) for path in sorted((out / name).glob("step_*.png"))]
        if frames:
            plot.animate(frames, out / f"{name}.gif")


def _report(rows: list[dict[str, float]], rate: float | None) -> str:
    """A line on the last steps: means over exactly these steps, each counted once."""
    parts = [f"{name} {sum(row[name] for row in rows) / len(rows):.3f}" for name in rows[0] if "_" in name]
    speed = f"; {rate:.0f} images/s" if rate else ""
    return f"step {rows[-1]['step']:.0f}, means of {len(rows)} steps: {', '.join(parts)}{speed}"


def _draw(out: Path, state: TrainState, fixed_z: torch.Tensor) -> None:
    for name, generator in (("samples", state.generator), ("averaged", state.averaged)):
        if generator is not None:
            picture = plot.grid_image(models.generate(generator, fixed_z))
            files.write_atomically(out / name / f"step_{state.step:06d}.png", picture.save)


def _save(out: Path, state: TrainState, rows: list[StepRecord | dict[str, float]]) -> None:
    """Write checkpoint, weights and history; the checkpoint first, since only it is needed to go on."""
    rows[:] = [row.as_dict() if isinstance(row, StepRecord) else row for row in rows]
    checkpoint.save(out / "checkpoint.pt", state, rows)
    checkpoint.save_generator(out / "generator.safetensors", state.generator, step=state.step)
    if state.averaged is not None:
        checkpoint.save_generator(out / "averaged.safetensors", state.averaged, step=state.step)
    lines = [",".join(rows[0])] + [",".join(_digits(value) for value in row.values()) for row in rows]
    files.write_text(out / "history.csv", "\n".join(lines) + "\n")
    figure = plot.plot_history(rows, smooth=min(100, len(rows)))[0].figure
    files.write_atomically(out / "losses.png", figure.savefig)
    plt.close(figure)


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
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _find(folder: str | Path) -> Path:
    """A run's folder, given by path or by the name of a stored run."""
    named = PRETRAINED / str(folder) if re.fullmatch(r"[\w-]+", str(folder)) else None
    if named is not None and named.is_dir() and not (Path(folder) / "config.json").is_file():
        return named  # a folder that only happens to have the name is no run
    if Path(folder).is_dir():
        return Path(folder)
    raise FileNotFoundError(f"there is no run {folder}; the stored ones are {', '.join(stored()) or 'none'}")


def _refuse_used(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"{out} is there already: go on with `dcganlib resume {out}`, or name another folder with --out"
        )


def _rng(seed: int, purpose: int) -> torch.Generator:
    """Separate sources from one seed: 0 for weights, 1 for the images' order, 2 for the fixed latents."""
    return torch.Generator().manual_seed((seed * 1_000_003 + purpose + 1) % 2**63)
