"""What a discriminator learned, how many modes a generator found, and how many different images it draws.

Three parts, each with three seeds:

features: a linear classifier on the discriminator's features, as in Radford et al. 2016, section 5.1, against
pixels, an untrained discriminator, and a supervised network with the same layers and the same labels.
modes: the modes of stacked MNIST that a DCGAN finds (Metz et al. 2017; Lin et al. 2018).
birthday: the first duplicates among samples (Arora et al. 2018), of these runs and of two in the package.

python benchmarks/probes.py                      train what is missing, and measure: half an hour of one core
python benchmarks/probes.py --quick              a short form of everything: two minutes
python benchmarks/probes.py --table              print the stored measures

Finished runs and finished parts in --out are reused. One thread is fastest: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcganlib import datasets, runs, zoo
from dcganlib.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from dcganlib.evaluation import classifier, evaluate, metrics, modes, probes
from dcganlib.latents import sample_z
from dcganlib.models import Discriminator, Generator
from dcganlib.runtime import checkpoint, files

RESULTS = runs.PRETRAINED / "results" / "probes.json"
SETS = ("mnist", "fashion-mnist")
STACKED = "stacked-mnist"
BATCH_SIZE = 64
INVERSE_PENALTIES, FOLDS = (1e-2, 1e-1, 1.0), 2
EVALUATION_SEED = 1000  # of what is drawn to measure
PUBLISHED = (
    {"name": "DCGAN (Srivastava et al. 2017)", "modes": 99.0, "kl": 3.40},
    {"name": "R3GAN (Huang et al. 2024)", "modes": 1000.0, "kl": 0.029},
)
"""Modes of stacked MNIST and divergence as published, each with other networks and another budget.

Both are in table 3 of Huang et al. 2024.
"""


@dataclass(frozen=True)
class Scale:
    """How much is trained and measured.

    Attributes:
        seeds: Runs on each dataset.
        steps, stacked_steps: Length of a run on ``SETS``, and on stacked MNIST.
        width: ``base_channels`` of both networks.
        labels: Numbers of labelled images.
        test_images: Real images that the classifiers are tested on, and that set the threshold of duplicates.
        supervised_steps: Of the supervised network, for each of ``labels``.
        stacked_samples: Samples whose modes are counted; 26,000 in the papers.
        birthday_samples, repeats: Of the birthday test.
    """

    seeds: int = 3
    steps: int = 800
    stacked_steps: int = 1000
    width: int = 32
    labels: tuple[int, ...] = (100, 1_000, 5_000)
    test_images: int = 5_000
    supervised_steps: tuple[int, ...] = (200, 400, 600)
    stacked_samples: int = 26_000
    birthday_samples: int = 2_000
    repeats: int = 5


QUICK = Scale(1, 20, 20, 4, (50, 100), 500, (10, 10), 1_000, 100, 2)


def train(data: str, seed: int, out: Path, scale: Scale, root: str | None) -> Path:
    """Train a DCGAN by the paper's settings on batches of 64, in its own folder, unless it is there."""
    steps = scale.stacked_steps if data == STACKED else scale.steps
    folder = out / f"{data}-{steps}-{seed}"
    if (folder / "samples.gif").is_file():  # which a run writes last
        return folder
    if (folder / "config.json").is_file():
        return runs.resume(folder, root=root, device="cpu")
    config = RunConfig(
        DataConfig(data),
        ModelConfig("dcgan-28", scale.width),
        TrainConfig(batch_size=BATCH_SIZE, seed=seed, precision="bfloat16"),
        steps=steps,
        checkpoint_every=steps,
        sample_every=steps,
    )
    return runs.run(config, folder, root=root, device="cpu")


def trained_discriminator(folder: Path) -> Discriminator:
    """The discriminator of a run, from its checkpoint."""
    discriminator: Discriminator = checkpoint.load(folder / "checkpoint.pt")[0].discriminator
    return discriminator.requires_grad_(False)


# The discriminator's features


def measure_features(out: Path, root: str | None, scale: Scale) -> dict[str, Any]:
    """Test errors of classifiers with few and with many labels, in percent."""
    rows = []
    for seed, data in product(range(scale.seeds), SETS):
        rows += reused(f"features-{data}-{seed}", partial(_errors, data, seed, out, root), out, scale)
    return {"labels": scale.labels, "test_images": scale.test_images, "rows": rows}


def _errors(data: str, seed: int, out: Path, root: str | None, scale: Scale) -> list[dict[str, Any]]:
    """The test errors of all classifiers on one dataset, from one seed."""
    rows = []
    folder = train(data, seed, out, scale, root)
    test = datasets.load(data, root=root, split="test", max_images=scale.test_images)
    sets = [datasets.load(data, root=root, max_images=count, seed=seed) for count in scale.labels]
    _, untrained = zoo.build("dcgan-28", base_channels=scale.width, rng=_rng(seed))
    sources = {
        "trained D": partial(probes.discriminator_features, trained_discriminator(folder)),
        "untrained D": partial(probes.discriminator_features, untrained),
        "pixels": lambda images: datasets.to_float(images).flatten(1),
    }
    for source, features in sources.items():
        tested = features(test.images), test.labels
        for known in sets:
            training = features(known.images), known.labels
            found = probes.linear_probe(training, tested, inverse_penalties=INVERSE_PENALTIES, folds=FOLDS)
            rows.append(_row(data, seed, source, len(known), found.error) | {"C": found.C})
            print(rows[-1], flush=True)
    for known, steps in zip(sets, scale.supervised_steps, strict=True):
        error = supervised_error(scale.width, known, test, steps, seed)
        rows.append(_row(data, seed, "supervised network", len(known), error))
        print(rows[-1], flush=True)
    return rows


def _row(data: str, seed: int, source: str, labels: int, error: float) -> dict[str, Any]:
    return {"set": data, "seed": seed, "source": source, "labels": labels, "error": round(100 * error, 2)}


def supervised_error(
    width: int, known: datasets.ImageDataset, test: datasets.ImageDataset, steps: int, seed: int
) -> float:
    """Test error of D's layers with a linear layer in place of the last, trained on the labels from scratch.

    Adam with a learning rate that falls from 0.001 to 0; no augmentation, as the other classifiers have none.
    """
    _, discriminator = zoo.build("dcgan-28", base_channels=width, rng=_rng(seed))
    head = nn.Linear(2 * width * 7 * 7, len(known.class_names))
    nn.init.normal_(head.weight, 0, 0.02, generator=_rng(seed))
    nn.init.zeros_(head.bias)
    network = nn.Sequential(*discriminator.blocks[:-1], nn.Flatten(), head)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, steps)
    batches = _batches(known, _rng(seed))
    for _ in range(steps):
        images, labels = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        scheduler.step()
    network.eval()
    with torch.no_grad():
        predicted = metrics.map_batches(
            lambda rows: network(datasets.to_float(test.images[rows])).argmax(1), len(test), 500
        )
    return (predicted != test.labels).double().mean().item()


def _batches(known: datasets.ImageDataset, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    batch_size = min(BATCH_SIZE, len(known))
    loader = datasets.make_loader(known.images, batch_size, labels=known.labels, rng=rng)
    while True:
        yield from loader


# The modes of stacked digits


def measure_modes(out: Path, root: str | None, scale: Scale) -> dict[str, Any]:
    """Modes found and divergence from uniform, of real stacked digits and of the samples of each run."""
    digits = classifier.load("mnist")
    real = datasets.load(STACKED, root=root).images
    chosen = torch.randperm(len(real), generator=_rng(EVALUATION_SEED))[: scale.stacked_samples]
    rows = [{"name": "real", "seed": 0, **_coverage(digits, real[chosen])}]
    for seed in range(scale.seeds):
        generator = runs.read(train(STACKED, seed, out, scale, root)).generator
        samples = evaluate.draw(generator, sample_z(scale.stacked_samples, rng=_rng(EVALUATION_SEED + seed)))
        rows.append({"name": "dcgan-28", "seed": seed, **_coverage(digits, samples)})
        print(rows[-1], flush=True)
    return {"samples": scale.stacked_samples, "published": PUBLISHED, "rows": rows}


def _coverage(digits: classifier.Classifier, images: Tensor) -> dict[str, Any]:
    found = modes.count_modes(modes.stacked_labels(digits, images))
    return {"modes": found.modes, "kl": round(found.kl, 4)}


# Duplicates


def measure_birthdays(out: Path, root: str | None, scale: Scale) -> dict[str, Any]:
    """The birthday test on real images, on few images that repeat, and on the samples of runs."""
    rows = []
    for data in SETS:
        network = classifier.load(data)
        test = datasets.load(data, root=root, split="test", max_images=scale.test_images)
        threshold = modes.duplicate_threshold(metrics.extract(network, test.images))
        images, rng = datasets.load(data, root=root).images, _rng(EVALUATION_SEED)
        few = images[torch.randperm(len(images), generator=rng)[:1000]]
        sources: dict[str, Any] = {
            "real images": lambda n, images=images, rng=rng: images[
                torch.randperm(len(images), generator=rng)[:n]
            ],
            "1,000 real images": lambda n, few=few, rng=rng: few[torch.randint(1000, (n,), generator=rng)],
            "stored run": partial(_samples, _stored_generator(data), rng),
        }
        for seed in range(scale.seeds):
            sources["dcgan-28"] = partial(
                _samples, runs.read(train(data, seed, out, scale, root)).generator, rng
            )
            for name, draw in sources.items():
                found = modes.birthday_test(
                    lambda n, draw=draw, network=network: metrics.extract(network, draw(n)),
                    threshold,
                    sample_size=scale.birthday_samples,
                    repeats=scale.repeats,
                )
                support = None if found.support == math.inf else round(found.support)
                row = {"set": data, "name": name, "seed": seed, "first_duplicates": found.first_duplicates}
                rows.append(row | {"pairs": found.pairs, "support": support})
                print(rows[-1], flush=True)
    return {"sample_size": scale.birthday_samples, "threshold_from": scale.test_images, "rows": rows}


def _stored_generator(data: str) -> Generator:
    run = runs.read(data)
    return run.ema_generator or run.generator


def _samples(generator: Generator, rng: torch.Generator, n: int) -> Tensor:
    return evaluate.draw(generator, sample_z(n, generator.latent_dim, rng=rng))


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The tables


def table(measured: dict[str, Any]) -> str:
    """The measures as text: the mean over the seeds, and the range."""
    lines = []
    if "features" in measured:
        counts = measured["features"]["labels"]
        lines += [f"{'test error, %':<36}" + "".join(f"{f'{count:,} labels':>22}" for count in counts)]
        rows = measured["features"]["rows"]
        for data, source in dict.fromkeys((row["set"], row["source"]) for row in rows):
            cells = [
                _spread(
                    [
                        r["error"]
                        for r in rows
                        if (r["set"], r["source"], r["labels"]) == (data, source, count)
                    ]
                )
                for count in counts
            ]
            lines.append(f"{f'{data}, {source}':<36}" + "".join(f"{cell:>22}" for cell in cells))
    if "modes" in measured:
        lines += ["", f"{'stacked MNIST':<36}{'modes of 1,000':>22}{'KL':>22}"]
        rows = measured["modes"]["rows"]
        for name in dict.fromkeys(row["name"] for row in rows):
            found = [[row[key] for row in rows if row["name"] == name] for key in ("modes", "kl")]
            lines.append(f"{name:<36}{_spread(found[0], 0):>22}{_spread(found[1], 3):>22}")
        lines += [
            f"{row['name']:<36}{row['modes']:>22.0f}{row['kl']:>22}" for row in measured["modes"]["published"]
        ]
    if "birthday" in measured:
        lines += ["", f"{'birthday test':<36}{'duplicates':>22}{'pairs':>22}{'support':>22}"]
        rows = measured["birthday"]["rows"]
        for data, name in dict.fromkeys((row["set"], row["name"]) for row in rows):
            of_it = [row for row in rows if (row["set"], row["name"]) == (data, name)]
            pairs = sum(row["pairs"] for row in of_it)
            found = sum(end is not None for row in of_it for end in row["first_duplicates"])
            support = f"{pairs / found:,.0f}" if found else f"above {pairs / 3:,.0f}"
            lines.append(f"{f'{data}, {name}':<36}{found:>22}{pairs:>22,}{support:>22}")
    return "\n".join(lines)


def _spread(values: list[float], digits: int = 1) -> str:
    ends = f" ({min(values):.{digits}f}-{max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{ends}"


PARTS = {"features": measure_features, "modes": measure_modes, "birthday": measure_birthdays}


def reused(name: str, measure: Callable[[Scale], Any], out: Path, scale: Scale) -> Any:
    """What ``measure`` returns, or what an earlier call with the same scale wrote to ``out``."""
    file = out / f"{name}.json"
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["scale"] == repr(scale):
            return kept["measured"]
    text = json.dumps({"scale": repr(scale), "measured": measure(scale)}, indent=1)
    files.write_text(file, text + "\n")
    return json.loads(text)["measured"]


def main() -> None:
    """Train, measure, print and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/probes"), help="folder (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="of the parts, these")
    parser.add_argument("--root", help="folder of the sets (DCGANLIB_DATA, else ~/.cache/dcganlib)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="tiny networks, 20 steps, one seed")
    what.add_argument("--store", action="store_true", help="keep the measures with the package")
    what.add_argument("--table", action="store_true", help="print the stored measures")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(RESULTS.read_text(encoding="utf-8"))))
        return
    if options.store and options.only != list(PARTS):
        parser.error("only all parts together are stored")
    scale = QUICK if options.quick else Scale()
    out = options.out / "quick" if options.quick else options.out
    out.mkdir(parents=True, exist_ok=True)
    measured = {
        "command": "python benchmarks/probes.py --store",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "training": f"dcgan-28, base_channels {scale.width}, batches of {BATCH_SIZE}: {scale.steps} steps on "
        f"{' and '.join(SETS)}, {scale.stacked_steps} steps on {STACKED}",
        **{part: reused(part, partial(PARTS[part], out, options.root), out, scale) for part in options.only},
    }
    print(table(measured))
    if options.store:
        files.write_text(RESULTS, json.dumps(measured, indent=1) + "\n")
        print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
