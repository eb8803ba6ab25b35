"""The paper's own MNIST test: how well do generated digits replace real ones?

A class-conditional generator draws labelled digits. They are the reference set of a nearest-neighbour
classifier (Euclidean distance on pixels), which is tested on the 10,000 real test images. With real training
images instead, its error is about 3.1%. Radford et al. 2016, section 5.1 and table 2, report 2.98%
with 50,000 images of their DCGAN, 1.48% with 10 million, and 6.28% and 5.65% with those of a GAN.

All networks are trained on the first 50,000 training images; the other 10,000 are for validation
(--validate). Finished runs in --out are reused, and interrupted ones are resumed. The same 50,000, each
deformed anew as often as needed, are the rival that needs no network.

python benchmarks/paper_mnist_1nn.py --out runs/paper-mnist                   all of it: hours on two cores
python benchmarks/paper_mnist_1nn.py --out runs/quick --quick                 a short form: minutes
python benchmarks/paper_mnist_1nn.py --out runs/paper-mnist --validate        errors on 10,000 held-out ones
python benchmarks/paper_mnist_1nn.py --only deformed --many 1000000 --store   one row anew, the others kept
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from recipes import finished_run
from torch import Tensor
from torchvision.transforms import v2
from tqdm.auto import tqdm

from dcganlib import datasets, runs
from dcganlib.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from dcganlib.evaluation import evaluate, metrics
from dcganlib.latents import sample_z
from dcganlib.runtime import files
from dcganlib.runtime.device import pick_device
from dcganlib.runtime.randomness import fork_rng

TRAIN_IMAGES = 50_000
STORED = "paper_mnist_1nn.json"
PUBLISHED = {
    "GAN, Radford et al. 2016": {50_000: 6.28, 10_000_000: 5.65},
    "DCGAN, Radford et al. 2016": {50_000: 2.98, 10_000_000: 1.48},
}
"""Test errors in percent by number of generated images (Radford et al. 2016, table 2)."""


@dataclass(frozen=True)
class Experiment:
    """An architecture, and how it is trained."""

    name: str
    architecture: str
    seeds: tuple[int, ...]
    steps: int = 6248
    base_channels: int = 32
    batch_size: int = 64

    def config(self, seed: int, steps: int) -> TrainConfig:
        """Settings of a run: a constant learning rate for three eighths of it, then down to 0."""
        start = 3 * steps // 8
        return TrainConfig(
            batch_size=self.batch_size,
            g_lr=self.batch_size * 6.25e-6,
            d_lr=self.batch_size * 6.25e-6,
            prior="uniform",
            seed=seed,
            precision="bfloat16",
            ema=0.999,
            weight_decay=2.5e-5,
            decay_start=start,
            decay_steps=steps - start,
        )


EXPERIMENTS = (
    Experiment("DCGAN of the paper, half as wide", "paper-mnist-conditional", seeds=(0, 1, 2)),
    Experiment(
        "DCGAN of the paper, half as wide, longer run", "paper-mnist-conditional", seeds=(0,), steps=18_744
    ),
    Experiment(
        "DCGAN of the paper",
        "paper-mnist-conditional",
        seeds=(0, 1, 2),
        steps=12_000,
        base_channels=64,
        batch_size=128,
    ),
    Experiment("DCGAN, dcgan-28, half as wide", "dcgan-28", seeds=(0, 1, 2)),
    Experiment("GAN of dense layers", "gan-28", seeds=(0, 1, 2)),
)
MOST = (EXPERIMENTS[1], EXPERIMENTS[2])  # those that ``--many`` draws more of

DEFORMED = "real training images, deformed"
DEFORMED_SEEDS = (0, 1, 2)
DEFORM = v2.Compose(
    [
        v2.ElasticTransform(alpha=34.0, sigma=4.0),
        v2.RandomAffine(
            10, translate=(0.05, 0.05), scale=(0.9, 1.1), shear=5, interpolation=v2.InterpolationMode.BILINEAR
        ),
    ]
)
"""An elastic deformation as strong as in Simard et al. 2003, section 2, and a slight affine one."""

Draw = Callable[[int], tuple[Tensor, Tensor]]  # the next N labelled images


def train(experiment: Experiment, seed: int, out: Path, quick: bool, root: str | None, device: str) -> Path:
    """Run an experiment, or the rest of it, in its own folder."""
    steps = 60 if quick else experiment.steps
    folder = out / f"{experiment.architecture}-{steps}-{seed}"
    config = RunConfig(
        DataConfig("mnist", max_images=TRAIN_IMAGES),
        ModelConfig(experiment.architecture, 4 if quick else experiment.base_channels, conditional=True),
        experiment.config(seed, steps),
        steps=steps,
        checkpoint_every=781,
        sample_every=781,
    )
    return finished_run(config, folder, root, device)


def drawn(folder: Path, *, ema: bool, device: torch.device) -> Draw:
    """Images of a run's generator, as many of each class, uint8."""
    run = runs.read(folder)
    generator = (run.ema_generator if ema else run.generator).to(device)
    rng = torch.Generator().manual_seed(run.config.train.seed)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(n) % generator.num_classes
        z = sample_z(n, generator.latent_dim, prior=run.config.train.prior, rng=rng)
        return evaluate.draw(generator, z, labels), labels

    return draw


def deformed(images: Tensor, labels: Tensor, seed: int) -> Draw:
    """Real images in turn, again and again, uint8; each ten that follow one another share a deformation."""
    rng, place = torch.Generator().manual_seed(seed), 0

    def draw(n: int) -> tuple[Tensor, Tensor]:
        nonlocal place
        chosen = torch.arange(place, place + n) % len(images)
        place += n
        with fork_rng(rng, images.device):
            return torch.cat([DEFORM(ten) for ten in images[chosen].split(10)]), labels[chosen]

    return draw


def errors(
    draw: Draw, counts: list[int], queries: Tensor, truth: Tensor, *, title: str, device: torch.device
) -> dict[int, float]:
    """Error of a 1-nearest-neighbour classifier on real images, by the number of references.

    The references of a smaller count are the first of a larger one. They are drawn 10,000 at a
    time and not kept.
    """
    one_nn = metrics.NearestNeighbour(queries.to(device))
    found, known = {}, 0
    with tqdm(total=max(counts), unit="img", unit_scale=True, desc=title) as bar:
        for count in sorted(counts):
            while known < count:
                n = min(10_000, count - known)
                images, labels = draw(n)
                one_nn.update(images.to(device), labels)
                known += n
                bar.update(n)
            found[count] = 100 * one_nn.error(truth)
    return found


def table(rows: list[dict[str, object]], counts: list[int]) -> str:
    """One line a reference set, one column a count; the mean over the seeds, and the range."""
    lines = [f"{'reference set':<36} {'seeds':>5}" + "".join(f"{count:>22,}" for count in counts)]
    for name in dict.fromkeys(row["name"] for row in rows):
        line = f"{name:<36} {len({row['seed'] for row in rows if row['name'] == name}):>5}"
        for count in counts:
            values = [row["error"] for row in rows if (row["name"], row["count"]) == (name, count)]
            spread = f" ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else ""
            line += f"{f'{mean(values):.2f}%{spread}' if values else '-':>22}"
        lines.append(line)
    return "\n".join(lines)


def with_others(content: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """What is stored, with its rows replaced by new ones of the same names."""
    new = {row["name"] for row in content["rows"]}
    kept = [row for row in stored["rows"] if row["name"] not in new]
    return {**content, "command": stored["command"], "rows": [*content["rows"], *kept]}


def main() -> None:
    """Train what is missing, measure all, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/paper-mnist"), help="folder (%(default)s)")
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 50_000], help="images drawn")
    parser.add_argument(
        "--many", type=int, help="as many of the runs at full width, of the longer run and deformed as well"
    )
    parser.add_argument("--validate", action="store_true", help="test on the held-out training images")
    parser.add_argument(
        "--no-ema", dest="ema", action="store_false", help="the last weights, not the averaged ones"
    )
    parser.add_argument("--only", nargs="+", help="architectures to look at, or deformed (all)")
    parser.add_argument("--quick", action="store_true", help="tiny networks, 60 steps, 2,000 images")
    parser.add_argument("--store", action="store_true", help="keep the errors with the package")
    parser.add_argument("--root", help="folder of the sets (DCGANLIB_DATA, else ~/.cache/dcganlib)")
    parser.add_argument("--device", default="auto", help="as for dcganlib train (%(default)s)")
    options = parser.parse_args()
    if options.store and (options.quick or options.validate):
        parser.error("only the whole test is stored, not --quick or --validate")
    device = pick_device(options.device)
    counts = [1_000, 2_000] if options.quick else sorted(options.samples)

    known = datasets.load("mnist", root=options.root)
    if options.validate:
        queries, truth = known.images[TRAIN_IMAGES:], known.labels[TRAIN_IMAGES:]
        real = (TRAIN_IMAGES,)
    else:
        test = datasets.load("mnist", root=options.root, split="test")
        queries, truth = test.images, test.labels
        real = (TRAIN_IMAGES, len(known))
    rows = []

    def measure(name: str, seed: int, draw: Draw, more: list[int]) -> None:
        title = f"{name}, seed {seed}"
        found = errors(draw, counts + more, queries, truth, title=title, device=device)
        rows.extend(
            {"name": name, "seed": seed, "count": count, "error": error} for count, error in found.items()
        )

    for count in real:
        nearest = metrics.NearestNeighbour(queries.to(device))
        nearest.update(known.images[:count].to(device), known.labels[:count])
        rows.append(
            {"name": "real training images", "seed": 0, "count": count, "error": 100 * nearest.error(truth)}
        )
    many = [options.many] if options.many else []
    if not options.only or "deformed" in options.only:
        for seed in DEFORMED_SEEDS:
            draw = deformed(known.images[:TRAIN_IMAGES], known.labels[:TRAIN_IMAGES], seed)
            measure(DEFORMED, seed, draw, [] if seed else many)
    for experiment in EXPERIMENTS:
        if options.only and experiment.architecture not in options.only:
            continue
        for seed in experiment.seeds:
            folder = train(experiment, seed, options.out, options.quick, options.root, options.device)
            draw = drawn(folder, ema=options.ema, device=device)
            measure(experiment.name, seed, draw, many if experiment in MOST else [])
    columns = sorted({row["count"] for row in rows})
    print(table(rows, columns))
    kind = "validation" if options.validate else "test"
    arguments = ["--only", *options.only] if options.only else []
    arguments += ["--many", str(options.many)] if options.many else []
    content = {
        "command": " ".join(["python benchmarks/paper_mnist_1nn.py", *arguments, "--store"]),
        "set": f"mnist, {len(queries):,} {kind} images",
        "trained_on": TRAIN_IMAGES,
        "weights": "ema" if options.ema else "last step",
        "published": PUBLISHED,
        "rows": rows,
    }
    file = runs.PRETRAINED / "results" / STORED if options.store else options.out / f"errors-{kind}.json"
    if options.store and options.only and file.exists():  # that command makes these rows as well
        content = with_others(content, json.loads(file.read_text(encoding="utf-8")))
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(file, json.dumps(content, indent=1) + "\n")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
