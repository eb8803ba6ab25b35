"""An ablation study of the DCGAN: the same digits, the same budget, one choice changed at a time.

Every recipe sees 16,000 digits of MNIST's training split (1,000 steps of 16) at half the usual width, and
starts from the same weights and the same order of images if its networks allow it. The averaged weights
come from the same runs.

python benchmarks/recipes.py                     # train what is missing: 60 runs, about a minute each
python benchmarks/recipes.py --measure           # measure all that is there, and print the table
python benchmarks/recipes.py --table             # print the table of the stored measures
python benchmarks/recipes.py --quick             # two recipes, few steps: two minutes

Finished runs are reused, so the work can be stopped at any time, and several processes can share it. One
thread per process is fastest: OMP_NUM_THREADS=1. On Linux, MALLOC_MMAP_THRESHOLD_=4294967296
MALLOC_TRIM_THRESHOLD_=8589934592 keeps big blocks of memory between steps, which saves a tenth of the time.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from dcganlib import datasets, runs
from dcganlib.config import RunConfig, TrainConfig
from dcganlib.evaluation import classifier, evaluate, metrics
from dcganlib.latents import sample_z
from dcganlib.losses import Loss, discriminator_loss, generator_loss, minimax_generator_loss
from dcganlib.models import Discriminator, Generator, Layer, init_weights
from dcganlib.runtime import checkpoint, files
from dcganlib.runtime.step_metrics import StepMetrics, check_finite
from dcganlib.train import init_state, train
from dcganlib.viz import plot
from dcganlib.zoo import ARCHITECTURES

IMAGE_SIZE, CHANNELS, WIDTH = 28, 1, 32
TRAINED_IMAGES = 16_000  # 1,000 steps of 16: the number of steps matters more than that of images
BASE = TrainConfig(batch_size=16, precision="bfloat16", ema=0.999)

RESULTS = runs.PRETRAINED / "results" / "recipes.json"
LAST_STEPS = 200  # over which the losses at the end of a run are averaged
ONE_NN_SAMPLES = 2_500  # of each set, for the 1-NN accuracy
GRID_IMAGES = 64
ROW_HEIGHT = IMAGE_SIZE + 2  # pixels of a grid's row with the line below it
COLUMNS = {  # header, width and digits in the table
    "frechet": ("Fréchet", 9, 2),
    "kernel": ("kernel", 9, 3),
    "precision": ("precision", 11, 2),
    "recall": ("recall", 8, 2),
    "one_nn": ("1-NN", 12, 2),
    "missing": ("missing", 9, 0),
    "chi2": ("chi2", 8, 3),
    "spread": ("spread", 8, 2),
}

Changes = Mapping[int, Mapping[str, Any]]
Judge = Callable[[Tensor], dict[str, Any]]  # measures images, uint8 of shape (N, 1, 28, 28)


@dataclass(frozen=True)
class Ablation:
    """A recipe for a DCGAN of digits: an architecture, and what is changed in it.

    Attributes:
        name: Name of its runs.
        what: What it changes, for the table.
        architecture: One of ``zoo.ARCHITECTURES`` for images of 28 pixels.
        generator, discriminator: Fields of ``Layer`` to change, by the layer's position.
        train: Fields of ``BASE`` to change.
        reduction: How D's two losses are joined, see ``losses.discriminator_loss``.
        saturating: Whether G descends the loss of the minimax game, see ``losses.minimax_generator_loss``.
        wider: Width of both networks, as a multiple of ``WIDTH``.
        trained: Whether it is trained at all.
        image_size, channels: Of the images.
    """

    name: str
    what: str
    architecture: str = "dcgan-28"
    generator: Changes = field(default_factory=dict)
    discriminator: Changes = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    reduction: Literal["mean", "sum"] = "mean"
    saturating: bool = False
    wider: float = 1
    trained: bool = True
    image_size: int = IMAGE_SIZE
    channels: int = CHANNELS

    def layers(self) -> tuple[list[Layer], list[Layer]]:
        """The layers of (generator, discriminator)."""
        pair = ARCHITECTURES[self.architecture].layers(
            self.image_size, self.channels, int(WIDTH * self.wider)
        )
        for layers, changes in zip(pair, (self.generator, self.discriminator), strict=True):
            for position, fields in changes.items():
                layers[position] = replace(layers[position], **fields)
        return pair

    def config(self, seed: int) -> TrainConfig:
        """The settings of its run from this seed."""
        return replace(BASE, seed=seed, **self.train)

    def loss(self) -> Loss | None:
        """The losses of both players, if they are others than the settings name."""
        if self.reduction == "mean" and not self.saturating:
            return None
        d_loss = partial(discriminator_loss, reduction=self.reduction)
        return Loss(self.what, d_loss, minimax_generator_loss if self.saturating else generator_loss)

    def steps(self, images: int = TRAINED_IMAGES) -> int:
        """How many steps see that many images."""
        return images // self.config(0).batch_size if self.trained else 0


# A convolution has a bias where no batch norm follows: under one it would be dead weight.
NORMED, BARE = {"norm": "batch", "bias": False}, {"norm": None, "bias": True}
DROPOUT = {"dropout": 0.3}
FALLING = {"decay_start": 375, "decay_steps": 625}

ABLATIONS = (
    Ablation("paper", "the paper's guidelines: batch norm in both networks, learning rate 0.0002, beta1 0.5"),
    # The five tutorials' own recipes, carried to 28 pixels and this budget.
    Ablation(
        "flux-published",
        "Flux tutorial, its generator let train: D without batch norm, dropout 0.3, summed loss, beta1 0.9",
        architecture="flux-mnist",
        train={"beta1": 0.9},
        reduction="sum",
    ),
    Ablation(
        "flux-draft",
        "Flux draft: as published, slope 0.3, dropout 0.3 and 0.25, biases under G's batch norms",
        architecture="flux-draft",
        train={"beta1": 0.9},
        reduction="sum",
    ),
    Ablation(
        "celeba-post",
        "CelebA post: batch norm before tanh and in D's first block, D without padding, biases in D",
        generator={-1: {"norm": "batch"}},
        discriminator={0: {"norm": "batch", "padding": 0}, 1: {"bias": True, "padding": 0}, 2: {"kernel": 5}},
    ),
    Ablation(
        "d2l",
        "d2l chapter: learning rate 0.005, batch norm in D's first block, no biases in D",
        discriminator={0: NORMED, 2: {"bias": False}},
        train={"g_lr": 0.005, "d_lr": 0.005},
    ),
    Ablation(
        "keras",
        "Keras notebook: its shapes 4, 11, 28, batch norm without gain and shift, uniform prior",
        architecture="keras-28",
        train={"prior": "uniform"},
    ),
    # One change from the paper's guidelines.
    Ablation("summed-loss", "D's two losses summed", reduction="sum"),
    Ablation(
        "dropout",
        "dropout 0.3 in D in place of batch norm",
        discriminator={0: DROPOUT, 1: BARE | DROPOUT},
    ),
    Ablation("no-norm", "no batch norm in D", discriminator={1: BARE}),
    Ablation("norm-before-tanh", "batch norm before G's tanh", generator={-1: {"norm": "batch"}}),
    Ablation("norm-in-first", "batch norm in D's first block", discriminator={0: NORMED}),
    Ablation("lr-0.001", "learning rate 0.001 for both", train={"g_lr": 0.001, "d_lr": 0.001}),
    Ablation("lr-0.005", "learning rate 0.005 for both", train={"g_lr": 0.005, "d_lr": 0.005}),
    Ablation("beta1-0.9", "beta1 0.9", train={"beta1": 0.9}),
    Ablation("batch-64", "batches of 64, a quarter of the steps", train={"batch_size": 64}),
    Ablation("saturating", "G descends the loss of the minimax game", saturating=True),
    Ablation("twice-as-wide", "twice as many channels in all layers", wider=2),
    Ablation("falling", "learning rates that fall to 0 over the last five eighths", train=FALLING),
    Ablation(
        "lr-0.001-falling",
        "learning rate 0.001 for both, falling to 0 over the last five eighths",
        train={"g_lr": 0.001, "d_lr": 0.001, **FALLING},
    ),
    # Not trained: what the published Flux code really has, as no gradient reaches its generator.
    Ablation(
        "flux-as-written",
        "Flux tutorial as written: G stays as drawn",
        architecture="flux-mnist",
        trained=False,
    ),
)


def run(
    recipe: Ablation,
    seed: int,
    images: Tensor,
    folder: Path,
    budget: int = TRAINED_IMAGES,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a recipe once, and keep both generators, the history and the settings in ``folder``.

    Args:
        recipe: What to train.
        seed: Seed of everything random.
        images: uint8 of shape (N, C, H, W), as large as the recipe's.
        folder: An existing folder. ``config.json`` is written last, so where it is, the run is whole.
        budget: How many images to show.
        device: Where to train.

    Returns:
        The content of ``config.json``. A run that diverges is a result, marked by "diverged"; its generators
        are not saved.
    """
    config = recipe.config(seed)
    g_layers, d_layers = recipe.layers()
    generator = Generator(recipe.image_size, recipe.channels, layers=g_layers)
    discriminator = Discriminator(recipe.image_size, recipe.channels, layers=d_layers)
    for purpose, network in enumerate((generator, discriminator)):
        init_weights(network, _rng(seed, purpose))
        layers = network.blocks[1:] if network is generator else network  # what projects z would be slower
        layers.to(memory_format=torch.channels_last)  # and these are faster
    state = init_state(generator.to(device), discriminator.to(device), config)
    loader = datasets.make_loader(images, config.batch_size, rng=_rng(seed, 2), device=device)
    begin, cpu_begin, records, diverged = time.perf_counter(), time.process_time(), [], None
    try:
        for record in train(state, loader, recipe.steps(budget), loss=recipe.loss()):
            check_finite([record])
            records.append(record)
    except FloatingPointError as error:
        diverged = str(error)
    about = {
        "recipe": recipe.name,
        "what": recipe.what,
        "seed": seed,
        "steps": state.step,
        "images": len(images),
        "diverged": diverged,
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(time.process_time() - cpu_begin, 2),
        "reduction": recipe.reduction,
        "saturating": recipe.saturating,
        "train": asdict(config),
    }
    if diverged is None:
        for name, network in (("generator", generator), ("ema", state.ema_generator)):
            checkpoint.save_generator(folder / f"{name}.safetensors", network, half=True, **about)
    files.write_text(folder / "history.csv", "".join(_lines(records)))
    files.write_text(folder / "config.json", json.dumps(about, indent=1) + "\n")
    return about


def _lines(records: Sequence[StepMetrics]) -> Iterator[str]:
    yield "step,epoch,d_loss,g_loss,d_real,d_fake\n"
    for record in records:
        yield ",".join(f"{value:.6g}" for value in record.as_dict().values()) + "\n"


def _rng(seed: int, purpose: int) -> torch.Generator:
    """Separate sources from one seed: 0 and 1 for the weights of G and D, 2 for the images' order."""
    return torch.Generator().manual_seed(1_000 * (seed + 1) + purpose)


def finished_run(config: RunConfig, folder: Path, root: str | None, device: str = "auto") -> Path:
    """Train a run, resume it after an interruption, or reuse it if it is finished.

    Args:
        config: Of the run, if it has to be begun.
        folder: Of the run.
        root: Folder of the datasets.
        device: As for ``runs.run``.

    Returns:
        The folder.
    """
    if (folder / "ema.gif").is_file():  # which a run with averaged weights writes last
        return folder
    if any(folder.glob("checkpoint*.pt")):
        return runs.resume(folder, root=root, device=device)
    return runs.run(config, folder, root=root, device=device)


def train_all(
    out: Path,
    recipes: Sequence[Ablation],
    seeds: Iterable[int],
    images: Tensor,
    budget: int,
    device: str = "cpu",
) -> None:
    """Train what is missing in ``out``, the first seed of all recipes first."""
    for seed, recipe in product(seeds, recipes):
        folder = out / f"{recipe.name}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with files.locked(folder):
                if not (folder / "config.json").is_file():
                    about = run(recipe, seed, images, folder, budget, device)
                    end = about["diverged"] or f"{about['steps']} steps"
                    print(f"{folder.name}: {end}, {about['seconds']} s", flush=True)
        except BlockingIOError:
            continue  # another process is at it


def measure_all(
    out: Path, recipes: Sequence[Ablation], seeds: Iterable[int], judge: Judge, samples: int
) -> list[dict[str, Any]]:
    """Measure the generators in ``out``, each by the same latents.

    Args:
        out: Folder of the runs. A run measured before with so many samples is not measured again.
        recipes: Of which to measure the runs.
        seeds: Which runs of each.
        judge: From ``make_judge``.
        samples: Images that a generator draws.

    Returns:
        A row for each run and kind of weights, of plain values for a JSON file.

    Raises:
        FileNotFoundError: A run is missing.
    """
    rows = []
    for recipe, seed in product(recipes, seeds):
        folder = out / f"{recipe.name}-{seed}"
        file = folder / "measures.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        if not found or found[0]["samples"] != samples:
            found = [{"samples": samples, **row} for row in _rows(folder, judge, samples)]
            files.write_text(file, json.dumps(found, indent=1) + "\n")
            print(f"{folder.name}: measured", flush=True)
        rows += [{name: value for name, value in row.items() if name != "samples"} for row in found]
    return rows


def make_judge(data: str, root: str | None, samples: int) -> tuple[Judge, dict[str, Any]]:
    """What measures a generator's images against training images.

    Args:
        data: mnist or fashion-mnist.
        root: Folder of the image sets.
        samples: How many training images the others are held against.

    Returns:
        (the judge, the floor); the floor holds the measures of as many images of the test split: what a
        perfect generator would get.
    """
    network = classifier.load(data)
    splits = [datasets.load(data, root=root, split=split) for split in ("train", "test")]
    reals, held_out = (  # shuffled, as the first half of MNIST's test split is the easier one
        split.images[torch.randperm(len(split), generator=_rng(0, 3 + index))[:samples]]
        for index, split in enumerate(splits)
    )
    reference = metrics.extract(network, reals)
    expected = metrics.class_histogram(splits[0].labels, len(splits[0].class_names))
    judge = partial(_measures, network=network, reference=reference, expected=expected)
    return judge, judge(held_out)


def about_machine() -> str:
    """The processor that the results were made on."""
    return f"{os.cpu_count()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _rows(folder: Path, judge: Judge, samples: int) -> Iterator[dict[str, Any]]:
    """The measures of one run: a row for its generator, and one for its moving average."""
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-LAST_STEPS:]
    losses = {
        name: sum(float(row[name]) for row in last) / len(last) if last else None
        for name in ("d_loss", "g_loss", "d_real", "d_fake")
    }
    z = sample_z(samples, prior=about["train"]["prior"], rng=_rng(0, 5))
    for weights, name in (("last", "generator"), ("ema", "ema")):
        row = {key: about[key] for key in ("recipe", "what", "seed", "steps", "diverged")}
        if about["diverged"] is None:
            generator, _ = checkpoint.load_generator(folder / f"{name}.safetensors")
            fakes = evaluate.draw(generator, z)
            plot.grid_image(fakes[:GRID_IMAGES], columns=16).save(folder / f"{name}.png")
            row |= judge(fakes)
        yield row | {"weights": weights, **losses}


def _measures(
    images: Tensor, *, network: classifier.Classifier, reference: Tensor, expected: Tensor
) -> dict[str, Any]:
    """All that is measured of images, uint8 of shape (N, 1, 28, 28)."""
    features = metrics.extract(network, images)
    precision, recall = metrics.precision_recall(reference, features)
    one_nn = metrics.one_nn_accuracy(reference[:ONE_NN_SAMPLES], features[:ONE_NN_SAMPLES])
    counts = metrics.class_histogram(network.head(features).argmax(1), len(expected))
    return {
        "frechet": metrics.frechet_distance(reference, features),
        "kernel": metrics.kernel_distance(
            reference, features, subsets=20, subset_size=min(1000, len(images)), rng=_rng(0, 6)
        ),
        "precision": precision,
        "recall": recall,
        "one_nn": one_nn.accuracy,
        "on_real": one_nn.on_real,
        "on_fake": one_nn.on_fake,
        "missing": metrics.missing_classes(counts),
        "chi2": metrics.chi2_distance(counts, expected),
        "spread": datasets.to_float(images).std(0).mean().item(),
    }


def summary(measured: Mapping[str, Any], weights: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Median, smallest and largest of each measure over the seeds, for each recipe, the best first.

    Args:
        measured: From ``measure_all``, or read back.
        weights: "last" or "ema".

    Returns:
        The recipes by their median Fréchet distance. One that always diverged has none, and is last.
    """
    rows = [row for row in measured["rows"] if row["weights"] == weights]
    found = {}
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        of_it = [row for row in rows if row["recipe"] == recipe and row["diverged"] is None]
        values = {name: [_number(row[name]) for row in of_it] for name in COLUMNS}
        found[recipe] = {name: (median(v), min(v), max(v)) for name, v in values.items() if v}
    return dict(sorted(found.items(), key=lambda item: item[1].get("frechet", (math.inf,))))


def table(measured: Mapping[str, Any]) -> str:
    """The measures as text: medians over the seeds, and the range of the Fréchet distance."""
    lines = [f"{measured['set']}; {measured['samples']:,} samples; features of: {measured['network']}"]
    heads = [f"{head:>{width}}" for head, width, _ in COLUMNS.values()]
    for weights in ("last", "ema"):
        lines += ["", f"{weights + ' weights':18}" + "".join(heads) + "   Fréchet from - to"]
        floor = {name: (_number(measured["floor"][name]),) * 3 for name in COLUMNS}
        for recipe, values in {"real (test split)": floor, **summary(measured, weights)}.items():
            cells = [
                f"{values[name][0]:{width}.{digits}f}"
                for name, (_, width, digits) in COLUMNS.items()
                if values
            ]
            lost = (
                sum(row["recipe"] == recipe and row["diverged"] is not None for row in measured["rows"]) // 2
            )
            ends = [f"   {values['frechet'][1]:.2f} - {values['frechet'][2]:.2f}"] if values else []
            note = [f"   {lost} diverged"] if lost else []
            lines.append(f"{recipe:18}" + "".join(cells + ends + note))
    return "\n".join(lines)


def _number(value: float | list[int]) -> float:
    """A measure as one number: of a list of missing classes, how many they are."""
    return float(len(value) if isinstance(value, list) else value)


def sheet(pages: Sequence[Path]) -> Image.Image:
    """The first row of each grid of samples, one below the other."""
    grids = [Image.open(page).convert("L") for page in pages]
    out = Image.new("L", (grids[0].width, ROW_HEIGHT * len(grids)))
    for place, grid in enumerate(grids):
        out.paste(grid.crop((0, 0, grid.width, ROW_HEIGHT)), (0, place * ROW_HEIGHT))
    return out


def make_parser(description: str, out: str) -> tuple[argparse.ArgumentParser, Any]:
    """A parser of a benchmark that trains many runs: with ``--table``, ``--out`` and ``--root``.

    Args:
        description: The benchmark's docstring.
        out: Where its runs go by default.

    Returns:
        (the parser, the group of options of which one can be given).
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", action="store_true", help="print the stored measures")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the runs (%(default)s)")
    parser.add_argument("--root", help="folder of the image sets")
    return parser, what


def main() -> None:
    """Train, measure or print."""
    parser, what = make_parser(__doc__, "runs/recipes")
    what.add_argument("--measure", action="store_true", help="measure the runs, in place of training")
    what.add_argument("--quick", action="store_true", help="train and measure two recipes a little")
    parser.add_argument("--json", type=Path, help="file of the measures; the one of the package if absent")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=[r.name for r in ABLATIONS], help="of the recipes, these"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each recipe (%(default)s)")
    parser.add_argument("--samples", type=int, default=5_000, help="images to measure (%(default)s)")
    options = parser.parse_args()
    recipes = [recipe for recipe in ABLATIONS if recipe.name in (options.only or [r.name for r in ABLATIONS])]
    file = options.json or RESULTS
    if options.quick:
        recipes = [recipe for recipe in ABLATIONS if recipe.name in ("paper", "dropout")]
        options.out, options.seeds, options.samples = options.out.with_name("recipes-quick"), 1, 1000
        file = options.out / "recipes.json"
    if not (options.measure or options.table):
        images = datasets.load("mnist", root=options.root).images
        train_all(
            options.out,
            recipes,
            range(options.seeds),
            images,
            TRAINED_IMAGES // 5 if options.quick else TRAINED_IMAGES,
        )
    if options.measure or options.quick:
        judge, floor = make_judge("mnist", options.root, options.samples)
        found = {
            "command": "python benchmarks/recipes.py && python benchmarks/recipes.py --measure",
            "machine": about_machine(),
            "set": "mnist, train split",
            "seeds": list(range(options.seeds)),
            "samples": options.samples,
            "network": "classifier mnist",
            "floor": floor,
            "rows": measure_all(options.out, recipes, range(options.seeds), judge, options.samples),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(file, json.dumps(found, indent=1) + "\n")
        sheet([options.out / f"{recipe.name}-0" / "generator.png" for recipe in recipes]).save(
            file.with_suffix(".webp"), quality=50, method=6
        )
    if options.measure or options.quick or options.table:
        print(table(json.loads(file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
