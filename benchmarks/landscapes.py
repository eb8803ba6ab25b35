"""Does a GAN that was trained on a few photographs repeat them? The stored run `landscapes`, image by image.

For each sample, find the nearest square that the run was trained on, mirror images included, and compare the
distances with those of squares of other photographs. Chapter 5 shows the picture and the numbers.

dcganlib train landscapes ... && python tools/store_run.py runs/landscapes-dcgan-64 landscapes
python benchmarks/landscapes.py            # minutes of a core; downloads the photographs, 70 MB
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from dcganlib import datasets, runs
from dcganlib.datasets.landscapes import SQUARES
from dcganlib.evaluation import evaluate, metrics
from dcganlib.latents import sample_z
from dcganlib.runtime import files

RESULTS = runs.PRETRAINED / "results" / "landscapes.json"
PICTURE = RESULTS.with_suffix(".webp")
SAMPLES, SHOWN = 1_000, 8


def compare(fakes: Tensor, known: Tensor, held_out: Tensor) -> tuple[dict[str, float], Tensor]:
    """How near the samples are to the training images, beside held-out images.

    Args:
        fakes, known, held_out: uint8 (N, C, H, W) of one shape; ``known`` in the order of the dataset.

    Returns:
        (measures, images). The measures: "ratio" and "share" as ``metrics.memorization``, "photographs" the
        number of photographs that are the nearest one to a sample, "of" how many there are. The images: for
        each sample the nearest of ``known`` and its mirror images.
    """
    both = torch.cat([known, known.flip(-1)])
    near, usual = metrics.nearest(fakes, both), metrics.nearest(held_out, both)
    found = metrics.compare_distances(near.distances, usual.distances)
    photographs = near.indices % len(known) // SQUARES
    measures = {
        "ratio": round(found.ratio, 3),
        "share": round(found.share, 4),
        "photographs": len(photographs.unique()),
        "of": len(known) // SQUARES,
    }
    return measures, both[near.indices]


def picture(*rows: Tensor) -> Image.Image:
    """Rows of images, uint8 (N, 3, H, W), as one picture with a thin white grid."""
    grid = make_grid(torch.cat(rows), nrow=len(rows[0]), padding=2, pad_value=255)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def main() -> None:
    """Compare, and store the numbers and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="folder of the datasets")
    options = parser.parse_args()
    known, held_out = (
        datasets.load("landscapes", root=options.root, split=split).images for split in ("train", "test")
    )
    generator = runs.read("landscapes").ema_generator
    assert generator is not None
    z = sample_z(SAMPLES, generator.latent_dim, rng=torch.Generator().manual_seed(0))
    fakes = evaluate.draw(generator, z)
    measures, nearest = compare(fakes, known, held_out)
    found = {"command": "python benchmarks/landscapes.py", "samples": SAMPLES, "measures": measures}
    photographs = torch.randperm(len(known) // SQUARES, generator=torch.Generator().manual_seed(1))
    some = photographs[:SHOWN] * SQUARES
    shown = picture(known[some], fakes[:SHOWN], nearest[:SHOWN])
    files.write_atomically(PICTURE, lambda path: shown.save(path, quality=90))
    files.write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
