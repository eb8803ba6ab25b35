"""After DCGAN: a ladder of later remedies, all on one budget, on digits and on clothes.

Each rung changes one thing in an earlier one. All see as many images in as many steps, at a quarter of
the usual width. First three settings of each rung are tried on digits, from a seed of their own and for fewer
steps; the best of them trains the rung's runs on both datasets.

python benchmarks/ladder.py             # try, train and measure what is missing: about 25 minutes of a core
python benchmarks/ladder.py --store     # store all that is there in the package
python benchmarks/ladder.py --table     # print the stored table
python benchmarks/ladder.py --quick     # few steps of three rungs: a minute

Finished runs are reused, so the work can be stopped at any time. OMP_NUM_THREADS=1 is fastest, and makes the
images per second of processor time comparable whatever else the machine does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from recipes import (
    BARE,
    Ablation,
    Judge,
    about_machine,
    make_judge,
    make_parser,
    measure_all,
    sheet,
    train_all,
)
from torch import Tensor

from dcganlib import datasets, runs
from dcganlib.runtime import files

RESULTS = runs.PRETRAINED / "results" / "ladder.json"
DATASETS = ("mnist", "fashion-mnist")
SEEDS = (0, 1, 2)
TRY_SEED = 9  # of the runs that choose the settings
STEPS, TRY_STEPS, BATCH = 450, 300, 16
SAMPLES = 2_000
NARROWER = 0.5  # of the width in recipes.py

SHIFTS = {"augment": "translation,cutout"}  # colour says little of grey images on black

BY_RATE = tuple({"g_lr": rate, "d_lr": rate} for rate in (1e-3, 3e-3, 5e-3))


def _by_weight(weight: float, *names: str) -> tuple[dict[str, float], ...]:
    """Tries of a penalty: two learning rates, and with the larger one a tenth of the weight."""
    pairs = (3e-3, weight), (1e-3, weight), (3e-3, weight / 10)
    return tuple({"g_lr": rate, "d_lr": rate, **dict.fromkeys(names, value)} for rate, value in pairs)


@dataclass(frozen=True)
class Rung:
    """One rung: what it is, and how it trains.

    Attributes:
        name: Its name in the table and of its runs.
        what: Its loss, penalties and extras in a few words, for tables and figures.
        source: Key of its paper in book/references.bib.
        architecture: One of ``zoo.ARCHITECTURES`` for images of 28 pixels.
        bare: Whether the batch norm in D is left out.
        train: Fields of ``TrainConfig``.
        tries: Further fields, of which the best are chosen.
        trains_as: The rung whose runs it shares, if it trains none.
        chosen_as: The rung whose settings it takes, if it tries none.
        weights: "last", or "ema" for the averaged weights.
    """

    name: str
    what: str
    source: str
    architecture: str = "dcgan-28"
    bare: bool = False
    train: Mapping[str, Any] = field(default_factory=dict)
    tries: tuple[Mapping[str, float], ...] = BY_RATE
    trains_as: str | None = None
    chosen_as: str | None = None
    weights: str = "last"

    def recipe(self, name: str, settings: Mapping[str, float]) -> Ablation:
        """The recipe of its runs with these settings."""
        train = {"precision": "float32", "batch_size": BATCH, **self.train, **settings}
        changes = {1: BARE} if self.bare else {}
        return Ablation(name, self.what, self.architecture, {}, changes, train, wider=NARROWER)


BOTH = _by_weight(1.0, "r1", "r2")
R3GAN = {"loss": "relativistic"}

RUNGS = (
    Rung("dcgan", "DCGAN", "radford2016dcgan"),
    Rung(
        "spectral",
        "spectral norm in D",
        "miyato2018spectral",
        architecture="dcgan-28-spectral",
    ),
    Rung(
        "hinge",
        "spectral norm in D, hinge loss",
        "lim2017geometric",
        architecture="dcgan-28-spectral",
        train={"loss": "hinge"},
    ),
    Rung(
        "wgan-gp",
        "Wasserstein, gradient penalty",
        "gulrajani2017improved",
        bare=True,
        train={"loss": "wasserstein"},
        tries=_by_weight(10.0, "gradient_penalty"),
    ),
    Rung(
        "r1",
        "cross-entropy, R1",
        "mescheder2018converge",
        bare=True,
        tries=_by_weight(1.0, "r1"),
    ),
    Rung("r1-r2", "cross-entropy, R1 + R2", "roth2017stabilizing", bare=True, tries=BOTH),
    Rung(
        "relativistic",
        "relativistic, R1 + R2",
        "huang2024r3gan",
        bare=True,
        train=R3GAN,
        tries=BOTH,
    ),
    Rung(
        "averaged",
        "relativistic, R1 + R2, averaged",
        "yazici2019averaging",
        bare=True,
        train=R3GAN,
        trains_as="relativistic",
        chosen_as="relativistic",
        weights="ema",
    ),
    Rung(
        "augment",
        "relativistic, R1 + R2, augmented",
        "zhao2020differentiable",
        bare=True,
        train=R3GAN | SHIFTS,
        tries=BOTH,
        weights="ema",
    ),
    Rung(
        "resnet",
        "relativistic, R1 + R2, residual blocks",
        "he2016deep",
        architecture="resnet-28",
        train=R3GAN,
        tries=BOTH,
        weights="ema",
    ),
)


def choose(
    rung: Rung, out: Path, judge: Judge, images: Tensor, steps: int, samples: int
) -> tuple[Mapping[str, float], list[dict[str, Any]]]:
    """Try a rung's settings in short runs, and choose those of the smallest Fréchet distance.

    Args:
        rung: One with tries.
        out: Folder of the runs. Those that are there are reused.
        judge: For digits.
        images: Digits to train on.
        steps: Length of a run.
        samples: Images to measure.

    Returns:
        (the best settings, a row for each try).
    """
    recipes = [rung.recipe(f"try-{rung.name}-{place}", tried) for place, tried in enumerate(rung.tries)]
    train_all(out, recipes, [TRY_SEED], images, steps * BATCH)
    rows = measure_all(out, recipes, [TRY_SEED], judge, samples)
    found = [row.get("frechet") for row in rows if row["weights"] == rung.weights]
    best = min((value, place) for place, value in enumerate(found) if value is not None)[1]
    tries = [
        {"rung": rung.name, "settings": dict(settings), "frechet": value}
        for settings, value in zip(rung.tries, found, strict=True)
    ]
    return rung.tries[best], tries


def climb(
    out: Path, rungs: Sequence[Rung], seeds: Sequence[int], root: str | None, steps: int, samples: int
) -> dict[str, Any]:
    """Try, train and measure all rungs on both datasets, one seed of all after the other.

    Args:
        out: Folder of the runs. What is there is not done again.
        rungs: Which, in their order.
        seeds: Of the runs.
        root: Folder of the image sets.
        steps: Length of a run.
        samples: Images to measure.

    Returns:
        Plain values for a JSON file: "tries", and under "sets" for each dataset the floor and the rows.
    """
    images = {name: datasets.load(name, root=root).images for name in DATASETS}
    judges = {name: make_judge(name, root, samples) for name in DATASETS}
    chosen, tries = {}, []
    for rung in rungs:
        if rung.chosen_as is None:
            chosen[rung.name], rows = choose(
                rung, out, judges["mnist"][0], images["mnist"], min(steps, TRY_STEPS), samples
            )
            tries += rows
    recipes = [
        rung.recipe(rung.name, chosen[rung.chosen_as or rung.name]) for rung in rungs if not rung.trains_as
    ]
    for end, name in product(range(1, len(seeds) + 1), DATASETS):
        folder = out / name
        train_all(folder, recipes, seeds[:end], images[name], steps * BATCH)
        measure_all(folder, recipes, seeds[:end], judges[name][0], samples)
    found = {}
    for name in DATASETS:
        measured = measure_all(out / name, recipes, seeds, judges[name][0], samples)
        rows = [row for rung in rungs for row in _rows(rung, measured, out / name)]
        found[name] = {"floor": judges[name][1], "rows": rows}
    return {
        "command": "python benchmarks/ladder.py && python benchmarks/ladder.py --store",
        "machine": about_machine(),
        "steps": steps,
        "try_steps": min(steps, TRY_STEPS),
        "batch_size": BATCH,
        "samples": samples,
        "seeds": list(seeds),
        "tries": tries,
        "sets": found,
    }


def _rows(rung: Rung, measured: Sequence[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    """A rung's measures with the settings and the speed of each run."""
    runs_of_it = rung.trains_as or rung.name
    of_it = {(row["seed"], row["weights"]): row for row in measured if row["recipe"] == runs_of_it}
    for seed in dict.fromkeys(seed for seed, _ in of_it):
        row = of_it[seed, rung.weights]
        about = json.loads((folder / f"{runs_of_it}-{seed}" / "config.json").read_text("utf-8"))
        yield {
            **{key: value for key, value in row.items() if key not in ("recipe", "what", "spread")},
            **{"rung": rung.name, "what": rung.what, "source": rung.source},
            "frechet_by_weights": {name: of_it[seed, name].get("frechet") for name in ("last", "ema")},
            "settings": {key: about["train"][key] for key in (*rung.train, *rung.tries[0])},
            "images_per_second": round(about["steps"] * BATCH / about["cpu_seconds"], 1),
        }


def table(found: Mapping[str, Any]) -> str:
    """The measures as text: medians over the seeds, and the range of the Fréchet distance."""
    lines = []
    for name, measured in found["sets"].items():
        heads = "Fréchet    from - to      precision  recall  missing  diverged  speed"
        lines += [f"{name}: {found['samples']:,} samples", " " * 14 + heads]
        floor = measured["floor"]
        lines.append(
            f"{'real':14}{floor['frechet']:7.2f}{'':17}{floor['precision']:9.2f}{floor['recall']:8.2f}"
        )
        by_rung: dict[str, list[dict[str, Any]]] = {}
        for row in measured["rows"]:
            by_rung.setdefault(row["rung"], []).append(row)
        first = median(row["images_per_second"] for row in measured["rows"][: len(found["seeds"])])
        for rung, rows in by_rung.items():
            good = [row for row in rows if row["diverged"] is None]
            if not good:
                lines.append(f"{rung:14}  all diverged")
                continue
            values = [row["frechet"] for row in good]
            precision, recall = (median(row[name] for row in good) for name in ("precision", "recall"))
            missing = median(len(row["missing"]) for row in good)
            speed = median(row["images_per_second"] for row in rows) / first
            lines.append(
                f"{rung:14}{median(values):7.2f}  {min(values):6.2f} -{max(values):6.2f}{precision:10.2f}"
                f"{recall:8.2f}{missing:9.0f}{len(rows) - len(good):7d}/{len(rows)}{speed:8.2f}"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Climb, store or print."""
    parser, what = make_parser(__doc__, "runs/ladder")
    what.add_argument("--store", action="store_true", help="store what is there in the package")
    what.add_argument("--quick", action="store_true", help="train and measure three rungs a little")
    options = parser.parse_args()
    if options.table:
        print(table(runs.results("ladder")))
        return
    if options.store:
        found = json.loads((options.out / "ladder.json").read_text(encoding="utf-8"))
        files.write_text(RESULTS, json.dumps(found, indent=1) + "\n")
        grids = [
            options.out / name / f"{rung.trains_as or rung.name}-{SEEDS[0]}" / f"{_grid(rung)}.png"
            for name, rung in product(DATASETS, RUNGS)
        ]
        sheet(grids).save(RESULTS.with_suffix(".webp"), quality=50, method=6)
        return
    if options.quick:
        rungs = [rung for rung in RUNGS if rung.name in ("dcgan", "wgan-gp", "resnet")]
        options.out = options.out.with_name("ladder-quick")
        found = climb(options.out, rungs, SEEDS[:1], options.root, 20, 500)
    else:
        found = climb(options.out, RUNGS, SEEDS, options.root, STEPS, SAMPLES)
    files.write_text(options.out / "ladder.json", json.dumps(found, indent=1) + "\n")
    print(table(found))


def _grid(rung: Rung) -> str:
    """Name of the grid of samples that a rung is shown by."""
    return "ema" if rung.weights == "ema" else "generator"


if __name__ == "__main__":
    main()
