"""The measurements that ``evaluation.diagnosis`` judges, taken from the folder of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcganlib import datasets, models
from dcganlib.config import ResolvedRunConfig
from dcganlib.datasets import ImageDataset
from dcganlib.evaluation import classifier, diagnosis, metrics
from dcganlib.evaluation.diagnosis import Finding, Measurements
from dcganlib.latents import sample_z
from dcganlib.runs import folder as run_folder
from dcganlib.runs import history, monitor, report
from dcganlib.runs.context import torch_defaults
from dcganlib.runtime import checkpoint
from dcganlib.train import TrainState

SAMPLES = 500  # that are drawn, and as many training images that they are compared with
SEARCHED = 200  # samples whose nearest training image is searched
MOST_IMAGES = 5000  # of the dataset that are read
BATCH = 64  # images in a batch that D judges
GAP = 2  # pixels between the images of a grid


@torch_defaults()
def diagnose(
    folder: str | Path, *, images: ImageDataset | None = None, root: str | Path | None = None
) -> list[Finding]:
    """Say which failures a run shows, how sure that is, and which numbers say so.

    Args:
        folder: The run's folder, or the name of a stored run.
        images: Its training images, as the run saw them. Default: they are loaded, if they are there.
        root: Folder of the datasets, as for ``datasets.load``.

    Returns:
        The findings, the surest first; none if nothing is unusual.

    Raises:
        FileNotFoundError: There is no such run.
        ValueError: A file of the run is damaged.
    """
    return diagnosis.judge(measure(folder, images=images, root=root))


@torch_defaults()
def measure(
    folder: str | Path, *, images: ImageDataset | None = None, root: str | Path | None = None
) -> Measurements:
    """Take all measurements of a run that its folder and its data allow; it is left as it is.

    The history, the sample grids, both networks and the checkpoint are read where they are there. Training
    images come from the dataset, at most 5,000 of them, or else from ``real.png``.

    Args:
        folder, images, root: As for ``diagnose``.

    Returns:
        By name, see the functions of ``evaluation.diagnosis``.

    Raises:
        FileNotFoundError, ValueError: As for ``diagnose``.
    """
    path = run_folder.find(folder)
    config = run_folder.read_config(path)
    state = _state(path)
    found = {"diverged": float(any(name == "diverged" for _, name, _ in monitor.read_warnings(path)))}
    if (path / "history.csv").is_file():  # else it ended before its first checkpoint
        found |= diagnosis.of_history(history.read(path / "history.csv"))
    if config.train.loss != "bce":  # whose logits are no log-odds, and losses no nats
        found = {name: value for name, value in found.items() if name in ("diverged", "lost", "steps")}
    if state is not None:
        found["g_update"], found["d_update"] = map(
            diagnosis.of_optimizer, (state.g_optimizer, state.d_optimizer)
        )
        found["g_moments"] = float(diagnosis.has_moments(state.g_optimizer))
    material = _material(path, config, images, root)
    if material is None:
        return found
    grids = _grids(path, config)
    if grids:
        labels = _grid_labels(config, len(grids[-1]))
        found |= diagnosis.of_grids(grids, material.real, labels)
    pair = run_folder.read(path) if state is None else state  # a run without a checkpoint may have kept its D
    return found | _of_samples(config, pair.generator, pair.discriminator, material)


@dataclass(frozen=True)
class _Material:
    """Training images: float32 (N, C, H, W) in [-1, 1], with labels if known; and all of the set as bytes."""

    real: Tensor
    labels: Tensor | None
    all: Tensor | None


def _of_samples(
    config: ResolvedRunConfig,
    generator: models.Generator,
    discriminator: models.Discriminator | None,
    material: _Material,
) -> Measurements:
    """What a run's generator draws, and what its discriminator makes of it."""
    real = material.real
    rng = torch.Generator().manual_seed(0)
    z = sample_z(SAMPLES, generator.latent_dim, prior=config.train.prior, rng=rng)
    labels = torch.arange(SAMPLES) % config.num_classes if config.num_classes else None
    fake = metrics.draw(generator, z, labels)
    if not fake.isfinite().all():
        return {"diverged": 1.0}
    found = diagnosis.of_samples(fake, real, labels)
    few = slice(0, BATCH)
    found |= diagnosis.of_generator(generator, z[few], real, None if labels is None else labels[few])
    network, _ = classifier.find(config.data.data, config.data.channels, config.data.image_size)
    if network is not None and not network.multilabel and len(real) > 10:
        found |= diagnosis.of_classes(network, fake, real, labels)
    if datasets.find_entry(config.data.data).classifier != "faces":
        found.pop("red_over_blue", None)  # says something about faces alone
    known = not config.num_classes or material.labels is not None
    if discriminator is not None and known and len(real) >= 2:
        size = min(BATCH, len(real), config.train.batch_size)
        chosen = None if labels is None or material.labels is None else material.labels[:size]
        found |= diagnosis.of_pair(generator, discriminator, z[:size], real[:size], chosen)
    if material.all is not None and len(material.all) > 1:
        found["memorization"] = _memorization(datasets.to_uint8(fake), material.all)
    return found


def _memorization(fake: Tensor, images: Tensor) -> float:
    """Median distance of samples to their nearest training image, over that of training images to another."""
    near = metrics.nearest(fake[:SEARCHED], images).distances
    searched = min(SEARCHED, len(images) // 2)
    among = metrics.nearest(images[:searched], images[searched:]).distances
    return metrics.compare_distances(near, among).ratio


def _state(folder: Path) -> TrainState | None:
    """The newest checkpoint that can be read, without moving any file."""
    for path in (folder / "checkpoint.pt", folder / "checkpoint-previous.pt"):
        if path.is_file():
            try:
                return checkpoint.load(path)[0]
            except checkpoint.DamagedError:
                continue
    return None


def _material(
    folder: Path, config: ResolvedRunConfig, images: ImageDataset | None, root: str | Path | None
) -> _Material | None:
    """Training images from the dataset, else from ``real.png``, else None."""
    if images is None:
        images = load_if_there(config, root, MOST_IMAGES)
    if images is not None:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:SAMPLES]
        labels = images.labels[order] if images.labels is not None else None
        return _Material(datasets.to_float(images.images[order]), labels, images.images)
    path = folder / "real.png"
    if not path.is_file():
        return None
    tiles = _tiles(path, config)
    empty = tiles == datasets.to_float(torch.tensor(128, dtype=torch.uint8))  # the colour of the gaps
    return _Material(tiles[~empty.flatten(1).all(1)], None, None)


def load_if_there(
    config: ResolvedRunConfig, root: str | Path | None = None, most: int | None = None
) -> ImageDataset | None:
    """A run's training images, if they are on this machine; nothing is downloaded or drawn.

    Args:
        config: Configuration of the run.
        root: Folder of the datasets, as for ``datasets.load``.
        most: The largest number to load; None for as many as the run has.
    """
    location = datasets.find_entry(config.data.data).location
    if "*" in location and not any(datasets.data_root(root).glob(location)):  # drawn faces
        return None
    limits = [limit for limit in (config.data.max_images, most) if limit is not None]
    try:
        return run_folder.load_data(config, root, max_images=min(limits, default=None), download=False)
    except (OSError, ValueError):  # moved, not downloaded, or of other classes
        return None


def _grids(folder: Path, config: ResolvedRunConfig) -> list[Tensor]:
    """The sample grids of a run, in order of their steps: float32 (N, C, H, W) in [-1, 1] each."""
    return [_tiles(path, config) for path in report.grid_paths(folder, "samples")]


def _tiles(path: Path, config: ResolvedRunConfig) -> Tensor:
    """The images of a picture that ``plot.grid_image`` made, empty places at its end among them."""
    size = int(config.data.image_size or 0)
    with Image.open(path) as picture:
        pixels = np.array(picture)
    sheet = torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)
    rows, columns = ((length + GAP) // (size + GAP) for length in sheet.shape[1:])
    tiles = [
        sheet[:, top : top + size, left : left + size]
        for top in range(0, rows * (size + GAP), size + GAP)
        for left in range(0, columns * (size + GAP), size + GAP)
    ]
    return datasets.to_float(torch.stack(tiles))


def _grid_labels(config: ResolvedRunConfig, count: int) -> Tensor | None:
    """Classes of the images in a sample grid, see ``report.fixed_latents``."""
    return torch.arange(count) % config.num_classes if config.num_classes else None
