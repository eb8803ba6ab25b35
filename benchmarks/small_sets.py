"""A DCGAN on 100, 500 and 5,000 images of clothes: what mirroring and differentiable augmentation bring.

The network is the DCGAN of ladder.py, drawn with averaged weights. All runs take the same number of steps, so
an image of the smallest set is seen 288 times and one of the largest 6 times.

python benchmarks/small_sets.py            # train, measure and store what is missing: half an hour of a core
python benchmarks/small_sets.py --table    # print the stored measures

Finished runs are reused. OMP_NUM_THREADS=1 is fastest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from recipes import Ablation, Judge, about_machine, make_judge, make_parser, measure_all, train_all
from torch import Tensor

from dcganlib import datasets, runs
from dcganlib.evaluation import evaluate, metrics
from dcganlib.latents import sample_z
from dcganlib.runtime import checkpoint, files

RESULTS = runs.PRETRAINED / "results" / "small_sets.json"
DATASET = "fashion-mnist"
SIZES = (100, 500, 5_000)  # images
WAYS = ("plain", "mirror", "augment")
STEPS, BATCH = 1_800, 16
RATE = 1e-3
SAMPLES = 2_000
SHIFTS = "translation,cutout"  # colour says little of grey images on black
NARROWER = 0.5  # of the width in recipes.py


def recipe(way: str, size: int) -> Ablation:
    """The recipe of the runs on so many images."""
    settings = {"precision": "float32", "batch_size": BATCH, "g_lr": RATE, "d_lr": RATE}
    if way == "augment":
        settings["augment"] = SHIFTS
    return Ablation(f"{way}-{size}", f"{way}, {size:,} images", train=settings, wider=NARROWER)


def train_and_measure(
    out: Path, known: Tensor, held_out: Tensor, judge: Judge, seeds: Sequence[int], steps: int = STEPS
) -> list[dict[str, Any]]:
    """Train all runs, one seed of all after the other, and measure them.

    Args:
        out: Folder of the runs. What is there is not done again.
        known: Training images, uint8 (N, C, H, W), of which each run gets the first few.
        held_out: Images of the same shape that no run has seen.
        judge: From ``recipes.make_judge``.
        seeds: Of the runs.
        steps: Length of a run.

    Returns:
        A row for each run: "memorized" is the share of samples that are nearer to a training image than
        nearly all held-out images are (``metrics.memorization``), "ratio" that of the median distances;
        "d_real" and "d_fake" are D's probabilities at the end.
    """
    rows = []
    for seed, size, way in product(seeds, SIZES, WAYS):
        images = known[:size]
        if way == "mirror":
            images = torch.cat([images, images.flip(-1)])
        one = recipe(way, size)
        train_all(out, [one], [seed], images, steps * BATCH)
        found = measure_all(out, [one], [seed], judge, len(held_out))[1]  # of the averaged weights
        generator, _ = checkpoint.load_generator(out / f"{one.name}-{seed}" / "ema.safetensors")
        z = sample_z(len(held_out), rng=torch.Generator().manual_seed(5))
        copied = metrics.memorization(evaluate.draw(generator, z), images, held_out)
        measures = {key: found[key] for key in ("frechet", "precision", "recall", "d_real", "d_fake")}
        rows.append(
            {
                **{"images": size, "way": way, "seed": seed},
                **{key: round(value, 4) for key, value in measures.items()},
                **{"memorized": round(copied.share, 4), "ratio": round(copied.ratio, 4)},
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The measures as text: medians over the seeds, and the range of the Fréchet distance."""
    lines = [
        f"{'images':>6}  {'way':8}{'Fréchet':>8}{'from - to':>15}"
        "  precision  recall    D(x)  D(G(z))  copies  ratio"
    ]
    for size, way in product(SIZES, WAYS):
        of_it = [row for row in rows if (row["images"], row["way"]) == (size, way)]
        middle = {key: median(row[key] for row in of_it) for key in of_it[0] if key != "way"}
        values = [row["frechet"] for row in of_it]
        lines.append(
            f"{size:6,}  {way:8}{middle['frechet']:8.2f}{min(values):7.2f} -{max(values):6.2f}"
            f"{middle['precision']:11.2f}{middle['recall']:8.2f}{middle['d_real']:8.2f}{middle['d_fake']:9.2f}"
            f"{middle['memorized']:8.1%}{middle['ratio']:7.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Train, measure and store, or print."""
    parser, _ = make_parser(__doc__, "runs/small_sets")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind (%(default)s)")
    options = parser.parse_args()
    seeds = range(options.seeds)
    if not options.table:
        known, held_out = (
            datasets.load(DATASET, root=options.root, split=split).images for split in ("train", "test")
        )
        known = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))]
        judge, floor = make_judge(DATASET, options.root, SAMPLES)
        found = {
            "command": f"python benchmarks/small_sets.py --seeds {options.seeds}",
            "machine": about_machine(),
            "set": DATASET,
            **{"steps": STEPS, "batch_size": BATCH, "learning_rate": RATE, "augment": SHIFTS},
            **{"samples": SAMPLES, "seeds": list(seeds)},
            "floor": floor,
            "rows": train_and_measure(options.out, known, held_out[:SAMPLES], judge, seeds),
        }
        files.write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    print(table(runs.results("small_sets")["rows"]))


if __name__ == "__main__":
    main()
