"""Which discriminator leads to better digits? Pairs and settings on MNIST, in short runs and in a long one.

All networks are half as wide as usual, weights are averaged, and rates fall to 0 in the second part of a run.
Each run is measured twice: against the test images, by which runs are compared, and against training images,
which gives the number to report. The best pair is also trained in float32, each precision from three seeds.

python benchmarks/digits.py            # train, measure and store what is missing: 4 hours of a core
python benchmarks/digits.py --table    # print the stored measures

Finished runs are reused, and interrupted ones are resumed. OMP_NUM_THREADS=1 is fastest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from recipes import about_machine, finished_run, make_parser
from torch import Tensor

from dcganlib import datasets, runs
from dcganlib.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from dcganlib.evaluation import classifier, evaluate, metrics
from dcganlib.latents import sample_z
from dcganlib.runtime import files

RESULTS = runs.PRETRAINED / "results" / "digits.json"
SHORT, LONG, SEEDS = 2_500, 10_000, (0, 1, 2)
SAMPLES = 10_000
LAST_STEPS = 500  # over which D's loss at the end of a run is averaged
WIDTH = 32
# The prior and the weight decay of the paper's code, with twice its learning rate.
CODE = {"g_lr": 4e-4, "d_lr": 4e-4, "prior": "uniform", "weight_decay": 2.5e-5}


@dataclass(frozen=True)
class Recipe:
    """A pair of networks and what differs from the usual training.

    Attributes:
        name: Of its runs.
        summary: What it is, in a line.
        architecture: A key of ``zoo.ARCHITECTURES``.
        train: Fields of ``TrainConfig``.
    """

    name: str
    summary: str
    architecture: str
    train: Mapping[str, Any]

    def config(self, steps: int, seed: int) -> RunConfig:
        """The run of so many steps; its rates begin to fall after half of them, in a long run after 4/10."""
        start = steps // 2 if steps < LONG else steps * 4 // 10
        usual = {"batch_size": 64, "g_lr": 1e-3, "d_lr": 1e-3, "precision": "bfloat16", "ema": 0.999}
        return RunConfig(
            DataConfig("mnist", image_size=28),
            ModelConfig(self.architecture, base_channels=WIDTH),
            TrainConfig(seed=seed, decay_start=start, decay_steps=steps - start, **{**usual, **self.train}),
            steps=steps,
            checkpoint_every=max(steps // 4, 1),
            sample_every=max(steps // 40, 1),
        )


RECIPES = (
    Recipe("dcgan-28", "dcgan-28", "dcgan-28", {}),
    Recipe("batch", "dcgan-28, batches of 128", "dcgan-28", {"batch_size": 128}),
    Recipe("slow-d", "dcgan-28, D's rate halved", "dcgan-28", {"d_lr": 5e-4}),
    Recipe("slow-g", "dcgan-28, G's rate halved", "dcgan-28", {"g_lr": 5e-4}),
    Recipe("code", "dcgan-28, settings of the paper's code", "dcgan-28", CODE),
    Recipe("chain", "three halvings in D, and doublings in G", "dcgan", {}),
    Recipe("chain-slow", "that chain, both rates 0.0004", "dcgan", {"g_lr": 4e-4, "d_lr": 4e-4}),
    Recipe("paper", "D of the paper's MNIST test, settings of its code", "dcgan-28-paper", CODE),
)
FLOAT32 = Recipe(
    "paper-float32", "the last one in float32", "dcgan-28-paper", {**CODE, "precision": "float32"}
)


def measure(
    folder: Path, known: Tensor, held_out: Tensor, judge: classifier.Classifier | None = None
) -> dict[str, float]:
    """Fréchet distances of new samples to test and to training images; precision, recall and D's loss.

    Args:
        folder: Of a run.
        known, held_out: Features of training and of test images, (N, F) on the CPU, as many of both.
        judge: The classifier whose features they are, on the device to compute on; that of digits if absent.
    """
    judge = judge or classifier.load("mnist")
    device = next(judge.parameters()).device
    run = runs.read(folder)
    assert run.ema_generator is not None
    z = sample_z(len(held_out), prior=run.config.train.prior, rng=torch.Generator().manual_seed(4321))
    drawn = evaluate.draw(run.ema_generator.to(device), z)
    fake = metrics.extract(judge, drawn.to(device)).cpu()
    precision, recall = metrics.precision_recall(known, fake)
    last = run.history[-LAST_STEPS:]
    return {
        "to_test_images": round(metrics.frechet_distance(held_out, fake), 3),
        "frechet": round(metrics.frechet_distance(known, fake), 3),
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "d_loss": round(sum(row["d_loss"] for row in last) / len(last), 3),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The measures as text."""
    lines = [f"{'':52}{'steps':>7}{'seed':>5}{'Fréchet':>9}{'precision':>11}{'recall':>8}{'D loss':>8}"]
    for row in rows:
        lines.append(
            f"{row['summary']:52}{row['steps']:7,}{row['seed']:5}{row['frechet']:9.2f}"
            f"{row['precision']:11.2f}{row['recall']:8.2f}{row['d_loss']:8.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Train, measure and store, or print."""
    parser, _ = make_parser(__doc__, "runs/digits")
    options = parser.parse_args()
    if not options.table:
        known, held_out = (
            metrics.extract(
                classifier.load("mnist"), datasets.load("mnist", root=options.root, **which).images
            )
            for which in ({"max_images": SAMPLES, "seed": 1}, {"split": "test"})
        )

        def trained_and_measured(plan: Iterable[tuple[Recipe, int, int]]) -> list[dict[str, Any]]:
            rows = []
            for recipe, steps, seed in plan:
                folder = options.out / f"{recipe.name}-{steps}-{seed}"
                finished_run(recipe.config(steps, seed), folder, options.root)
                about = {"recipe": recipe.name, "summary": recipe.summary, "steps": steps, "seed": seed}
                rows.append(about | measure(folder, known, held_out))
                print(table(rows[-1:]), flush=True)
            return rows

        best = RECIPES[-1]
        rows = trained_and_measured(
            [(recipe, SHORT, 0) for recipe in RECIPES] + [(best, LONG, seed) for seed in SEEDS]
        )
        precisions = trained_and_measured(
            (recipe, SHORT, seed) for recipe in (best, FLOAT32) for seed in SEEDS
        )
        found = {
            "command": "python benchmarks/digits.py",
            "machine": about_machine(),
            "samples": SAMPLES,
            "rows": rows,
            "precisions": precisions,
        }
        files.write_text(RESULTS, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    stored = runs.results("digits")
    print(table(stored["rows"] + stored["precisions"]))


if __name__ == "__main__":
    main()
