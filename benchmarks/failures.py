"""A gallery of failed trainings: each failure recorded beside its cure, as two ordinary run folders.

python benchmarks/failures.py record                          # all failures, seed 0, into runs/failures
python benchmarks/failures.py record lr_too_high --seed 3     # one of them
python benchmarks/failures.py store                           # measure the recordings and keep their gist
python benchmarks/failures.py films                           # keep only their films

A failure is the healthy run with one thing changed: an option, a network, the images, or one function of
the training loop. ``record`` writes OUT/NAME/failed-SEED and OUT/NAME/cured-SEED; what is there already is
left alone. One thread is fastest: OMP_NUM_THREADS=1. A recording takes about half a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dcganlib import datasets, models, runs, train, zoo
from dcganlib.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from dcganlib.datasets import DatasetEntry, ImageDataset
from dcganlib.evaluation import classifier, diagnosis, metrics
from dcganlib.losses import generator_loss, minimax_generator_loss
from dcganlib.models import Layer
from dcganlib.runs import history as history_file
from dcganlib.runs import preflight
from dcganlib.runs.context import rng_for
from dcganlib.runs.report import animate, opened
from dcganlib.runtime import checkpoint, files
from dcganlib.runtime.optimizer import make_adam
from dcganlib.viz import plot

STEPS, SAMPLE_EVERY = 500, 25
SAMPLES, LAST_STEPS = 500, 100  # of which images and losses are measured
THINNED = 10  # steps in a point of the stored curves
COLUMNS, TILE = 16, 34  # of the stored sheet; a tile is in pixels
RESULTS = runs.PRETRAINED / "results" / "failures.json"
FILMS = RESULTS.with_suffix("")
FILM_STEPS = list(range(0, STEPS + 1, SAMPLE_EVERY))
NOT_FILMED = ("bn_eval_statistics",)  # trains as the healthy run does
DIVERGED = "diverged.txt"  # in the folder of a run that ended early: why
HEALTHY = "healthy"  # the run that most failures differ from by one thing, and that cures them


def healthy(seed: int) -> RunConfig:
    """The run without a fault: a small DCGAN of digits, with more steps than images in a batch."""
    return RunConfig(
        DataConfig("mnist-mini"),
        ModelConfig("dcgan-28", base_channels=16),
        TrainConfig(batch_size=16, g_lr=1e-3, d_lr=1e-3, precision="float32", seed=seed),
        steps=STEPS,
        sample_every=SAMPLE_EVERY,
        checkpoint_every=STEPS,
    )


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A configuration with some fields replaced, such as "steps" or "train.g_lr"."""
    for name, value in changes.items():
        part, _, inner = name.rpartition(".")
        value = replace(getattr(config, part), **{inner: value}) if part else value
        config = replace(config, **{part or name: value})
    return config


# Faulty images


def half_range(found: ImageDataset) -> ImageDataset:
    """Pixels in [0, 1] where the loader makes [-1, 1]: grey where black should be."""
    return replace(found, images=128 + found.images // 2)


def shuffled_labels(found: ImageDataset) -> ImageDataset:
    """Labels that belong to other images, as after shuffling one of two lists."""
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return replace(found, labels=found.labels[order])


def swapped_channel(found: ImageDataset) -> ImageDataset:
    """Blue, green, red, as OpenCV reads an image."""
    return replace(found, images=found.images.flip(1))


DATASETS = {
    "mnist-mini-half-range": ("mnist-mini", half_range),
    "mnist-mini-shuffled": ("mnist-mini", shuffled_labels),
    "faces-bgr": ("faces", swapped_channel),
}


# Faulty networks


def with_layers(g_changes: Mapping[int, Any] = {}, d_changes: Mapping[int, Any] = {}) -> Any:
    """dcgan-28 with fields of some layers changed, by the layer's position."""

    def layers(*sizes: int) -> tuple[list[Layer], list[Layer]]:
        pair = zoo.ARCHITECTURES["dcgan-28"].layers(*sizes)
        for one, changes in zip(pair, (g_changes, d_changes), strict=True):
            for position, fields in changes.items():
                one[position] = replace(one[position], **fields)
        return pair

    return layers


BARE = {"norm": None, "bias": True}
STAY = {"kernel": 3, "stride": 1}
FOURFOLD = {"kernel": 5, "stride": 4, "output_padding": 1}
ARCHITECTURES = {
    "no-norm-in-g": with_layers({0: BARE, 1: BARE, 2: BARE}),
    "no-norm-in-d": with_layers(d_changes={1: BARE}),
    # Every fourth row and column is covered by two kernels, the others by one.
    "kernel-5-stride-4": with_layers({2: STAY, 3: FOURFOLD}),
    # 28 -> 12 -> 4 -> 1: the remainders dropped on the way leave 7 rows and columns unseen.
    "blind-border": with_layers(
        d_changes={
            0: {"kernel": 5, "padding": 0},
            1: {"kernel": 5, "padding": 0},
            2: {"kernel": 3, "stride": 2},
        }
    ),
}


@contextmanager
def faults_known() -> Iterator[None]:
    """Make the faulty datasets and networks known by name, so that a run can be read, resumed or measured."""
    for name, (base, change) in DATASETS.items():
        entry = datasets.find_entry(base)

        def read(_: DatasetEntry, options: Any, entry: Any = entry, change: Any = change) -> ImageDataset:
            return change(entry.reader()(entry, options))

        datasets.register(replace(entry, name=name, summary=change.__doc__, read=read))
    own = zoo.ARCHITECTURES["dcgan-28"]
    known = {name: replace(own, summary=name, layers=layers) for name, layers in ARCHITECTURES.items()}
    try:
        with mock.patch.dict(zoo.ARCHITECTURES, known):
            yield
    finally:
        for name in DATASETS:
            datasets.unregister(name)


# Faulty training loops: what takes the place of one function of `dcganlib.train`


def minimax(*args: Any, **options: Any) -> Tensor:
    """G descends log(1 - D(G(z))), whose gradient vanishes where D is sure."""
    return generator_step(*args, **{**options, "loss": minimax_generator_loss})


def fakes_without_graph(
    discriminator: nn.Module, optimizer: torch.optim.Optimizer, fake: Tensor, *_: Any, **options: Any
) -> Tensor:
    """G's half on fakes made outside of the graph; D is free here, so nothing raises an error."""
    value = options["loss"](discriminator(fake.detach()))
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    return value.detach()


def joined_batch(
    discriminator: nn.Module, optimizer: torch.optim.Optimizer, real: Tensor, fake: Tensor, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """D's half with real and fake in one batch, so that they share batch norm's statistics."""
    real_logits, fake_logits = discriminator(torch.cat([real, fake.detach()])).chunk(2)
    value = options["loss"](real_logits, fake_logits)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    return value.detach(), real_logits.detach(), fake_logits.detach()


def sigmoid_twice(half: Callable[..., Any], discriminator: nn.Module, *args: Any, **options: Any) -> Any:
    """A half of the step for a D that ends in a sigmoid, where the loss applies another."""
    return half(nn.Sequential(discriminator, nn.Sigmoid()), *args, **options)


def naive_logarithm(*args: Any, **options: Any) -> Any:
    """D's loss from probabilities: log(1 - 1) where sigmoid(logit) rounds to 1."""

    def loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real, fake = real_logits.sigmoid(), fake_logits.sigmoid()
        return -(real.log().mean() + (1 - fake).log().mean()) / 2

    return discriminator_step(*args, **{**options, "loss": loss})


def statistics_lost(state: train.TrainState, *args: Any, **options: Any) -> Any:
    """Batch norm's running statistics never arrive, as where only the parameters are copied or saved."""
    record = train_step(state, *args, **options)
    for module in state.generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return record


def d_step_moves_g(state: train.TrainState, *args: Any, **options: Any) -> Any:
    """Fakes not detached, and an optimiser of D that holds G's parameters too, with moments of their own."""
    if not hasattr(state, "of_d"):
        vars(state)["of_d"] = make_adam(state.generator, state.config.d_lr, state.config)
    gradients: list[Tensor] = []
    parameters = list(state.generator.parameters())

    def step(network: nn.Module, optimizer: Any, real: Tensor, fake: Tensor, **half: Any) -> Any:
        value = half["loss"](network(real), network(fake))
        gradients[:] = torch.autograd.grad(value, parameters, retain_graph=True)
        return discriminator_step(network, optimizer, real, fake, **half)

    with mock.patch.object(train, "discriminator_step", step):
        record = train_step(state, *args, **options)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    vars(state)["of_d"].step()
    return record


discriminator_step, generator_step, train_step = (
    train.discriminator_step,
    train.generator_step,
    train.train_step,
)


@dataclass(frozen=True)
class Failure:
    """A failure and its cure.

    Attributes:
        name: Name of its folder.
        family: What kind of fault it is: "balance", "wiring", "data" or "evaluation".
        what: What differs from the healthy run.
        cure: What the cured run does instead.
        tell: The measure that tells it apart, see ``measures``.
        changes: Fields of the healthy run's configuration to replace, see ``changed``.
        cured: The same for the cured run; the healthy run itself where empty.
        faults: Functions of ``dcganlib.train`` to replace while the failed run trains, by name.
    """

    name: str
    family: str
    what: str
    cure: str
    tell: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    cured: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def config(self, kind: str, seed: int) -> RunConfig:
        """The configuration of its "failed" or its "cured" run."""
        return changed(healthy(seed), self.changes if kind == "failed" else self.cured)


FACES = {"data": DataConfig("faces", image_size=32, max_images=1500), "model": ModelConfig("dcgan", 16)}
CONDITIONAL = {"model": ModelConfig("paper-mnist-conditional", 8, conditional=True)}
PAPERS_RATE = {"train.g_lr": 2e-4, "train.d_lr": 2e-4}

FAILURES = (
    # Balance: one player is too strong, too weak, or too fast.
    Failure(
        "d_wins",
        "balance",
        "G descends the minimax game's loss, log(1 - D(G(z)))",
        "the non-saturating loss, -log D(G(z))",
        "g_gradient_minimax",
        faults={"generator_step": minimax},
    ),
    Failure(
        "full_collapse",
        "balance",
        "no batch norm in D, and D learns 100 times more slowly than G",
        "batch norm in D, equal learning rates",
        "spread",
        {"model": ModelConfig("no-norm-in-d", 16), "train.d_lr": 1e-5},
    ),
    Failure(
        "oscillating_collapse",
        "balance",
        "D learns 10 times more slowly than G",
        "equal learning rates",
        "spread",
        {"train.d_lr": 1e-4},
    ),
    Failure(
        "partial_collapse",
        "balance",
        "no batch norm in D",
        "batch norm in D",
        "recall",
        {"model": ModelConfig("no-norm-in-d", 16)},
    ),
    Failure(
        "lr_too_high",
        "balance",
        "learning rate 0.5 for both",
        "learning rate 0.001",
        "g_moved",
        {"train.g_lr": 0.5, "train.d_lr": 0.5},
    ),
    Failure(
        "lr_too_low",
        "balance",
        "learning rate 0.000002 for both",
        "learning rate 0.001",
        "g_moved",
        {"train.g_lr": 2e-6, "train.d_lr": 2e-6},
    ),
    Failure(
        "divergence",
        "balance",
        "D's loss from logarithms of probabilities, learning rate 0.05",
        "the loss on logits, learning rate 0.001",
        "g_moved",
        {"train.g_lr": 0.05, "train.d_lr": 0.05, "checkpoint_every": 2, "steps": 60},
        faults={"discriminator_step": naive_logarithm},
    ),
    # Wiring: networks or steps joined wrongly.
    Failure(
        "g_untrained",
        "wiring",
        "the fakes of G's half are made outside of the graph",
        "the fakes with their graph",
        "g_moved",
        faults={"generator_step": fakes_without_graph},
    ),
    Failure(
        "grey_g",
        "wiring",
        "no batch norm in G, at the paper's learning rate 0.0002",
        "batch norm in G",
        "spread_in_training",
        PAPERS_RATE | {"model": ModelConfig("no-norm-in-g", 16)},
        PAPERS_RATE,
    ),
    Failure(
        "checkerboard",
        "wiring",
        "kernel 5 at stride 4 in G's last layer",
        "kernel 4 at stride 2, twice",
        "grid",
        {"model": ModelConfig("kernel-5-stride-4", 16)},
    ),
    Failure(
        "blind_border",
        "wiring",
        "D without padding: it sees 21 of 28 rows and columns",
        "D with padding",
        "unseen",
        {"model": ModelConfig("blind-border", 16)},
    ),
    Failure(
        "joined_batch",
        "wiring",
        "real and fake in one batch through D's batch norm",
        "two batches",
        "joined_gap",
        faults={"discriminator_step": joined_batch},
    ),
    Failure(
        "no_detach",
        "wiring",
        "the fakes are not detached, and D's optimiser moves G too",
        "detach, and one optimiser for each network",
        "d_loss",
        faults={"train_step": d_step_moves_g},
    ),
    Failure(
        "sigmoid_twice",
        "wiring",
        "D ends in a sigmoid, and its loss applies another",
        "logits into a loss on logits",
        "d_loss_low",
        faults={
            "discriminator_step": partial(sigmoid_twice, discriminator_step),
            "generator_step": partial(sigmoid_twice, generator_step),
        },
    ),
    # Data: the right training of the wrong images.
    Failure(
        "memorization",
        "data",
        "10 images instead of 5,000",
        "all images",
        "memorization",
        {"data.max_images": 10, "train.batch_size": 10, "steps": 1000, "sample_every": 50},
    ),
    Failure(
        "data_range",
        "data",
        "pixels in [0, 1]",
        "pixels in [-1, 1], the range of tanh",
        "data_low",
        {"data.data": "mnist-mini-half-range"},
    ),
    Failure(
        "swapped_channel",
        "data",
        "blue, green, red",
        "red, green, blue",
        "red_minus_blue",
        FACES | {"data": replace(FACES["data"], data="faces-bgr")},
        FACES,
    ),
    Failure(
        "shuffled_labels",
        "data",
        "labels that belong to other images",
        "each image with its own label",
        "agreement",
        CONDITIONAL | {"data.data": "mnist-mini-shuffled"},
        CONDITIONAL,
    ),
    # Evaluation: the training is right, and its result is looked at wrongly.
    Failure(
        "bn_eval_statistics",
        "evaluation",
        "batch norm's running statistics are lost",
        "statistics kept with the weights",
        "modes_gap",
        faults={"train_step": statistics_lost},
    ),
)
BY_NAME = {failure.name: failure for failure in FAILURES}


def record(failure: Failure, seed: int, out: Path) -> None:
    """Train a failure and its cure into OUT/NAME/{failed,cured}-SEED; finished runs are left alone.

    Args:
        failure: What to record.
        seed: Of the weights, the latents and the order of the images.
        out: Folder of all recordings.
    """
    _train(failure.config("failed", seed), out / failure.name / f"failed-{seed}", failure.faults)
    cured = out / failure.name / f"cured-{seed}"
    if failure.cured:
        _train(failure.config("cured", seed), cured)
    elif not cured.exists():
        source = out / HEALTHY / f"cured-{seed}"
        _train(healthy(seed), source)
        shutil.copytree(source, cured, copy_function=os.link)


def _train(config: RunConfig, folder: Path, faults: Mapping[str, Callable[..., Any]] = {}) -> None:
    """Train a run; one whose losses are no longer finite is a result, and keeps its last finite state."""
    if (folder / "samples.gif").is_file():
        return
    if folder.exists():
        shutil.rmtree(folder)  # an interrupted recording
    with faults_known(), mock.patch.multiple(train, **faults) if faults else mock.MagicMock():
        try:
            runs.run(config, folder, device="cpu")
        except FloatingPointError as error:
            (folder / DIVERGED).write_text(f"{error}\n", encoding="utf-8")
            animate(folder, "samples")


# What is measured of every recording

MEASURES = {
    "d_loss": "D's loss",
    "g_loss": "G's loss",
    "d_real": "D(x)",
    "d_fake": "D(G(z))",
    "d_loss_low": "lowest loss of D",
    "d_loss_high": "highest loss of D",
    "motion": "motion from grid to grid",
    "modes_gap": "evaluation mode against training mode",
    "joined_gap": "change of D(G(z)) beside real images",
    "g_moved": "how far G's weights moved",
    "g_gradient": "gradient in G",
    "g_gradient_minimax": "gradient in G of the minimax loss",
    "spread_in_training": "spread in training mode",
    "unseen": "share of pixels that D does not see",
    "spread": "spread",
    "grid": "unevenness of edges",
    "ground": "median pixel",
    "data_low": "smallest number shown to D",
    "red_minus_blue": "mean red minus mean blue",
    "frame": "brightness of the last rows",
    "classes": "classes drawn",
    "precision": "precision",
    "recall": "recall",
    "frechet": "Fréchet distance",
    "memorization": "distance to the nearest training image",
    "agreement": "agreement with the label",
}
"""In words. The mean of the last steps, for the first four; a share of the real images', for most others."""


def measures(folder: Path) -> dict[str, float]:
    """The numbers that tell the failures apart, of one recording.

    Args:
        folder: Of a run that ``record`` made.

    Returns:
        By name; those that a run has no use for are absent. See ``MEASURES``.
    """
    run = runs.read(folder)
    data = run.config.data
    base, _ = DATASETS.get(str(data.data), (data.data, None))
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(SAMPLES, run.generator.latent_dim, generator=rng)
    labels = torch.arange(SAMPLES) % run.config.num_classes if run.config.num_classes else None
    fakes = models.generate(run.generator, z, labels)
    shown, true = (_images(replace(data, data=name)) for name in (data.data, base))
    found = _of_curves(run.history) | _of_grids(folder / "samples")
    found |= _of_weights(run, datasets.to_float(shown[:SAMPLES]), z, labels)
    found |= _of_pixels(fakes, datasets.to_float(true[:SAMPLES]), datasets.to_float(shown[:SAMPLES]))
    if fakes.shape[1] == 1:
        found |= _of_digits(fakes, labels)
        near = metrics.nearest(datasets.to_uint8(fakes), shown).distances
        found["memorization"] = metrics.compare_distances(near, _distances_among(data)).ratio
    return found


@cache
def _images(config: DataConfig) -> Tensor:
    with faults_known():
        return runs.load_data(RunConfig(config)).images


@cache
def _distances_among(config: DataConfig) -> Tensor:
    """From some training images to the nearest other one."""
    images = _images(config).flatten(1).float()
    return torch.cdist(images[:SAMPLES], images).topk(2, largest=False).values[:, 1]


def _of_curves(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the last steps, and the highest D(x) of all steps."""
    history = [row for row in history if math.isfinite(row["d_loss"])]  # the last of a diverged run is not
    last = history[-LAST_STEPS:]
    found = {name: mean(row[name] for row in last) for name in ("d_loss", "g_loss", "d_real", "d_fake")}
    return found | {
        "d_loss_low": min(row["d_loss"] for row in history),
        "d_loss_high": max(row["d_loss"] for row in history),
    }


def _of_grids(folder: Path) -> dict[str, float]:
    """How far the last grids differ from each other, as a share of their own contrast; 0 for a single one."""
    grids = [
        torch.tensor(np.array(Image.open(path).convert("L"))).float() for path in sorted(folder.glob("*.png"))
    ]
    steps = [(one - two).square().mean().item() for one, two in pairwise(grids)] or [0.0]
    return {"motion": (mean(steps) / max(1, grids[-1].var().item())) ** 0.5}


def _of_weights(run: runs.Run, real: Tensor, z: Tensor, labels: Tensor | None) -> dict[str, float]:
    """What G's weights did, and what gradient they get; what D makes of a batch."""
    config, few = run.config, slice(0, 100)
    state, _ = checkpoint.load(run.folder / "checkpoint.pt")
    with faults_known():
        first, _ = preflight.build(config, config.num_classes, rng=rng_for(config.train.seed, 0))
    began, now = (_flat(network.parameters()) for network in (first, run.generator))
    inputs = (z[few],) if labels is None else (z[few], labels[few])
    given = () if labels is None else (labels[few],)
    fakes = state.generator.train()(*inputs)
    logits = state.discriminator.train()(fakes, *given)
    gradients = [
        _flat(torch.autograd.grad(loss(logits), state.generator.parameters(), retain_graph=True))
        for loss in (generator_loss, minimax_generator_loss)
    ]
    both = (torch.cat([real[few], fakes.detach()]), *(torch.cat([one, one]) for one in given))
    with torch.no_grad():
        beside_real = state.discriminator(*both)[len(real[few]) :]
    judge = state.discriminator.eval()
    unseen = diagnosis.unseen(judge if labels is None else models.Conditioned(judge, labels[few]), real[few])
    return {
        "modes_gap": ((fakes.detach() - models.generate(run.generator, *inputs)).std() / real.std()).item(),
        "joined_gap": (beside_real.sigmoid().mean() - logits.sigmoid().mean()).abs().item(),
        "g_moved": ((now - began).norm() / began.norm()).item(),
        "g_gradient": gradients[0].norm().item(),
        "g_gradient_minimax": gradients[1].norm().item(),
        "spread_in_training": _spread(fakes.detach()) / _spread(real),
        "unseen": unseen,
    }


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of some tensors, whatever their order in memory."""
    return torch.cat([one.detach().flatten() for one in tensors])


def _spread(images: Tensor) -> float:
    """Standard deviation over the images, mean over the pixels."""
    return images.std(0).mean().item()


def _of_pixels(fakes: Tensor, true: Tensor, shown: Tensor) -> dict[str, float]:
    """Pixels of the fakes beside those of the true images; and the range of the images that D is shown."""
    colour = fakes.mean((0, 2, 3))
    return {
        "spread": _spread(fakes) / _spread(true),
        "grid": _grid(fakes),
        "ground": fakes.flatten(1).median(1).values.mean().item(),
        "data_low": shown.min().item(),
        "red_minus_blue": (colour[0] - colour[-1]).item(),
        "frame": (_frame(fakes) / _frame(true).clamp(min=0.001)).item(),
    }


def _grid(images: Tensor, period: int = 4) -> float:
    """How unevenly edges fall on every fourth row and column: most beside least, 1 where they fall evenly."""
    found = []
    for across in (images, images.mT):
        edges = across.diff(dim=-2).abs().mean((0, 1, 3))
        phases = edges[: len(edges) // period * period].reshape(-1, period).mean(0)
        found.append((phases.max() / phases.min()).item())
    return mean(found)


def _frame(images: Tensor) -> Tensor:
    """Root mean square of the last rows, above black."""
    return (images[:, :, -3:] + 1).square().mean().sqrt()


@cache
def _judge() -> tuple[classifier.Classifier, Tensor]:
    """The classifier of digits, and its features of real ones."""
    judge, real = classifier.load("mnist"), datasets.load("mnist-mini").images
    return judge, metrics.extract(judge, real[:: len(real) // SAMPLES])


def _of_digits(fakes: Tensor, labels: Tensor | None) -> dict[str, float]:
    """How many classes are drawn, whether they are those asked for, and the distance to real digits."""
    judge, real = _judge()
    features = metrics.extract(judge, fakes)
    classes = judge.head(features).argmax(1)
    precision, recall = metrics.precision_recall(real, features)
    found = {
        "classes": diagnosis.perplexity(metrics.class_histogram(classes, 10)),
        "precision": precision,
        "recall": recall,
        "frechet": metrics.frechet_distance(real, features),
    }
    if labels is not None:
        found["agreement"] = (classes == labels).double().mean().item()
    return found


# What the package keeps of the recordings


def store(out: Path) -> dict[str, Any]:
    """Measure all recordings, and keep the gist: ``failures.json`` and the sheet ``failures.webp``.

    Args:
        out: Folder of the recordings. Only seeds of which every failure has both runs are used.

    Returns:
        The content of the file. "runs" has the curves of the first seed and the measures of all; a row of
        the sheet belongs to each run, in this order. "rows" has a failure each, with the names of its runs.
    """
    seeds = [
        seed for seed in range(100) if all((out / one.name / f"cured-{seed}").is_dir() for one in FAILURES)
    ]
    own = [one for one in FAILURES if one.cured]
    folders = {HEALTHY: (out / HEALTHY, "cured")}
    folders |= {one.name: (out / one.name, "failed") for one in FAILURES}
    folders |= {f"{one.name}-cured": (out / one.name, "cured") for one in own}
    kept = {
        name: _kept([folder / f"{kind}-{seed}" for seed in seeds]) for name, (folder, kind) in folders.items()
    }
    rows = [
        {
            "name": one.name,
            "family": one.family,
            "what": one.what,
            "cure": one.cure,
            "tell": one.tell,
            "cured": f"{one.name}-cured" if one.cured else HEALTHY,
            "diverged": [(out / one.name / f"failed-{seed}" / DIVERGED).is_file() for seed in seeds],
        }
        for one in FAILURES
    ]
    found = {
        "command": "python benchmarks/failures.py record && python benchmarks/failures.py store",
        "seeds": seeds,
        "samples": SAMPLES,
        "config": {name: value for name, value in asdict(healthy(0)).items() if name != "data"},
        "measures": MEASURES,
        "rows": rows,
        "runs": kept,
    }
    files.write_text(RESULTS, json.dumps(found, separators=(",", ":")) + "\n")
    picture = sheet([folder / f"{kind}-{seeds[0]}" for folder, kind in folders.values()])
    picture.save(RESULTS.with_suffix(".webp"), quality=60, method=6)
    store_films(out)
    return found


def store_films(out: Path) -> None:
    """Keep how the samples of the first seed changed: a film for each run, ``failures/NAME.webp``.

    Runs that end early, train for longer or fail only in how they are looked at have none.

    Args:
        out: Folder of the recordings.
    """
    FILMS.mkdir(exist_ok=True)
    found = {HEALTHY: out / HEALTHY / "cured-0"}
    for one in FAILURES:
        found[one.name] = out / one.name / "failed-0"
        if one.cured:
            found[f"{one.name}-cured"] = out / one.name / "cured-0"
    for name, folder in found.items():
        paths = sorted((folder / "samples").glob("*.png"))
        if [int(path.stem.removeprefix("step_")) for path in paths] != FILM_STEPS or name in NOT_FILMED:
            continue
        size = int(runs.read_config(folder).data.image_size or 0)
        box = 0, 0, 8 * (size + 2) - 2, 2 * (size + 2) - 2  # two rows of eight
        frames = [opened(path).convert("RGB").crop(box) for path in paths]
        options: dict[str, Any] = {"save_all": True, "quality": 50, "method": 6, "minimize_size": True}
        times = [round(1000 / plot.FPS)] * (len(frames) - 1) + [round(1000 * plot.HOLD)]
        options |= {"append_images": frames[1:], "duration": times, "loop": 0}
        frames[0].save(FILMS / f"{name}.webp", **options)


def _kept(folders: Sequence[Path]) -> dict[str, Any]:
    """The measures of all seeds, and the curves of the first, thinned."""
    measured = []
    for folder in folders:
        file = folder / "measures.json"
        if not file.is_file():
            rounded = {name: float(f"{value:.4g}") for name, value in measures(folder).items()}
            files.write_text(file, json.dumps(rounded) + "\n")
        measured.append(json.loads(file.read_text(encoding="utf-8")))
    history = history_file.read(folders[0] / "history.csv")
    windows = [history[start : start + THINNED] for start in range(0, len(history), THINNED)]
    curves = {"step": [int(rows[-1]["step"]) for rows in windows]}
    for name in ("d_loss", "g_loss", "d_real", "d_fake"):
        curves[name] = [float(f"{mean(row[name] for row in rows):.3g}") for rows in windows]
    return {"curves": curves, "measures": {name: [one[name] for one in measured] for name in measured[0]}}


def sheet(folders: Sequence[Path]) -> Image.Image:
    """Three rows of tiles for each run: samples of its last grid in two, and its first sample over time."""
    picture = Image.new("RGB", (COLUMNS * TILE, 3 * TILE * len(folders)), "white")
    for top, folder in enumerate(folders):
        grids = [opened(path).convert("RGB") for path in sorted((folder / "samples").glob("*.png"))]
        moments = [round(index * (len(grids) - 1) / (COLUMNS - 1)) for index in range(COLUMNS)]
        tiles = [(grids[-1], place) for place in range(2 * COLUMNS)] + [(grids[one], 0) for one in moments]
        for place, (grid, image) in enumerate(tiles):
            row, column = divmod(place, COLUMNS)
            size = runs.read_config(folder).data.image_size
            columns = (grid.width + 2) // (size + 2)
            left, upper = (one * (size + 2) for one in (image % columns, image // columns))
            tile = grid.crop((left, upper, left + size, upper + size))
            picture.paste(tile, (column * TILE, (3 * top + row) * TILE))
    return picture


def main(arguments: Sequence[str] | None = None) -> None:
    """Record or store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record", help="train failures and their cures")
    one.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BY_NAME)}; all if absent")
    one.add_argument("--seed", type=int, nargs="+", default=[0], help="seeds, one after the other (0)")
    two = commands.add_parser("store", help="measure the recordings and keep their gist in the package")
    three = commands.add_parser("films", help="keep only the films of the recordings in the package")
    for command in (one, two, three):
        command.add_argument("--out", type=Path, default=Path("runs/failures"), help="(%(default)s)")
    options = parser.parse_args(arguments)
    if unknown := set(getattr(options, "names", ())) - BY_NAME.keys():
        parser.error(f"no failure {', '.join(sorted(unknown))}; there are {', '.join(BY_NAME)}")
    if options.command == "record":
        for seed in options.seed:
            for name in options.names or BY_NAME:
                record(BY_NAME[name], seed, options.out)
    elif options.command == "store":
        store(options.out)
    else:
        store_films(options.out)


if __name__ == "__main__":
    main()
