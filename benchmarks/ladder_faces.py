"""After DCGAN, in colour: the ladder of ladder.py on faces of 64 pixels, on a GPU.

The rungs and the choice of their settings are the same. Networks are half as wide as usual, batches hold 64
images, and learning rates are a fifth of those on digits.

python benchmarks/ladder_faces.py                 # try, train and measure: 25 minutes of an H200
python benchmarks/ladder_faces.py --rung hinge    # one of them: several processes can share the work
python benchmarks/ladder_faces.py --store         # store what is there in the package
python benchmarks/ladder_faces.py --table         # print the stored table
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ladder import RUNGS, SEEDS, TRY_SEED, Rung, _grid, _rows, table
from PIL import Image
from recipes import BARE, ONE_NN_SAMPLES, Ablation, Judge, make_parser, measure_all, train_all
from torch import Tensor

from dcganlib import datasets, runs
from dcganlib.evaluation import classifier, metrics
from dcganlib.runtime import files
from dcganlib.runtime.device import pick_device

RESULTS = runs.PRETRAINED / "results" / "ladder_faces.json"
LARGER = {"dcgan-28": "dcgan-64", "dcgan-28-spectral": "dcgan-spectral", "resnet-28": "resnet"}
RATE = 0.2  # of the learning rates on digits: batches are four times as large, and networks wider
STEPS, TRY_STEPS, BATCH = 1200, 400, 64
SAMPLES = 2_000  # the validation and test splits have a few more


def in_colour(recipe: Ablation) -> Ablation:
    """A rung's recipe for faces of 64 pixels."""
    rates = {name: recipe.train[name] * RATE for name in ("g_lr", "d_lr")}
    return replace(
        recipe,
        architecture=LARGER[recipe.architecture],
        discriminator=dict.fromkeys((1, 2, 3), BARE) if recipe.discriminator else {},
        train={**recipe.train, **rates, "batch_size": BATCH},
        wider=0.75 if recipe.architecture == "resnet-28" else 1.0,  # its own width is 48, not 64
        image_size=64,
        channels=3,
    )


def make_judge(root: str | None, samples: int, device: torch.device) -> tuple[Judge, dict[str, Any]]:
    """What measures generated faces against training images; and the floor, of held-out ones."""
    network = classifier.load("faces").to(device)
    splits = {
        split: datasets.load("faces", root=root, split=split).images for split in ("train", "valid", "test")
    }
    reals, held_out = (
        images[torch.randperm(len(images), generator=torch.Generator().manual_seed(3))[:samples]]
        for images in (splits["train"], torch.cat([splits["valid"], splits["test"]]))
    )
    reference = metrics.extract(network, reals.to(device)).cpu()
    judge = partial(_measures, network=network, reference=reference)
    return judge, judge(held_out)


def _measures(images: Tensor, *, network: classifier.Classifier, reference: Tensor) -> dict[str, Any]:
    features = metrics.extract(network, images.to(next(network.parameters()).device))
    shares = (network.head(features) > 0).float().mean(0)
    features = features.cpu()
    precision, recall = metrics.precision_recall(reference, features)
    return {
        "frechet": metrics.frechet_distance(reference, features),
        "kernel": metrics.kernel_distance(
            reference,
            features,
            subsets=20,
            subset_size=min(1000, len(images)),
            rng=torch.Generator().manual_seed(6),
        ),
        "precision": precision,
        "recall": recall,
        "one_nn": metrics.one_nn_accuracy(reference[:ONE_NN_SAMPLES], features[:ONE_NN_SAMPLES]).accuracy,
        "missing": (shares == 0).nonzero().flatten().tolist(),
        "spread": datasets.to_float(images).std(0).mean().item(),
    }


def climb(
    rung: Rung, out: Path, judge: Judge, images: Tensor, seeds: Sequence[int], device: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Try a rung's settings, train its runs by the best of them, and measure.

    Args:
        rung: One that trains runs of its own.
        out: Folder of the runs. What is there is not done again.
        judge: From ``make_judge``.
        images: Faces, uint8 of shape (N, 3, 64, 64).
        seeds: Of the runs.
        device: Where to train.

    Returns:
        (the tries, a row for each run and kind of weights).
    """
    tried = [
        in_colour(rung.recipe(f"try-{rung.name}-{i}", settings)) for i, settings in enumerate(rung.tries)
    ]
    train_all(out, tried, [TRY_SEED], images, TRY_STEPS * BATCH, device)
    found = [
        row.get("frechet")
        for row in measure_all(out, tried, [TRY_SEED], judge, SAMPLES)
        if row["weights"] == rung.weights
    ]
    best = min((value, place) for place, value in enumerate(found) if value is not None)[1]
    recipe = in_colour(rung.recipe(rung.name, rung.tries[best]))
    train_all(out, [recipe], seeds, images, STEPS * BATCH, device)
    tries = [
        {"rung": rung.name, "settings": dict(one.train), "frechet": value}
        for one, value in zip(tried, found, strict=True)
    ]
    return tries, measure_all(out, [recipe], seeds, judge, SAMPLES)


def collect(out: Path, judge: Judge, floor: dict[str, Any], machine: str) -> dict[str, Any]:
    """The table of all rungs from their finished runs, as plain values for a JSON file."""
    tries, rows = [], []
    for rung in RUNGS:
        trained = next(one for one in RUNGS if one.name == (rung.trains_as or rung.name))
        tried, measured = climb(trained, out, judge, torch.empty(0), SEEDS, "cpu")
        tries += tried if rung is trained else []
        for row in _rows(rung, measured, out):
            about = json.loads((out / f"{trained.name}-{row['seed']}" / "config.json").read_text("utf-8"))
            # A GPU has its own clock: of the whole run, in place of processor time.
            row["images_per_second"] = round(about["steps"] * BATCH / about["seconds"], 1)
            rows.append(row)
    return {
        "command": "python benchmarks/ladder_faces.py && python benchmarks/ladder_faces.py --store",
        "machine": machine,
        "steps": STEPS,
        "try_steps": TRY_STEPS,
        "batch_size": BATCH,
        "samples": SAMPLES,
        "seeds": list(SEEDS),
        "tries": tries,
        "sets": {"faces": {"floor": floor, "rows": rows}},
    }


def main() -> None:
    """Climb, store or print."""
    parser, what = make_parser(__doc__, "runs/ladder-faces")
    what.add_argument("--rung", choices=[rung.name for rung in RUNGS if not rung.trains_as], help="one rung")
    what.add_argument("--store", action="store_true", help="store what is there in the package")
    parser.add_argument("--device", default="auto", help="as for dcganlib train (%(default)s)")
    options = parser.parse_args()
    if options.table:
        print(table(runs.results("ladder_faces")))
        return
    place = pick_device(options.device)
    floor_file = options.out / "floor.json"
    if options.store:
        known = json.loads(floor_file.read_text(encoding="utf-8"))
        found = collect(options.out, lambda images: {}, known["floor"], known["machine"])
        files.write_text(RESULTS, json.dumps(found, indent=1) + "\n")
        rows = [
            Image.open(options.out / f"{rung.trains_as or rung.name}-{SEEDS[0]}" / f"{_grid(rung)}.png")
            for rung in RUNGS
        ]
        height = 66
        joined = Image.new("RGB", (rows[0].width, height * len(rows)))
        for place_in_sheet, grid in enumerate(rows):
            joined.paste(grid.crop((0, 0, grid.width, height)), (0, height * place_in_sheet))
        joined.save(RESULTS.with_suffix(".webp"), quality=60, method=6)
        print(table(found))
        return
    judge, floor = make_judge(options.root, SAMPLES, place)
    options.out.mkdir(parents=True, exist_ok=True)
    machine = torch.cuda.get_device_name() if place.type == "cuda" else place.type
    files.write_text(floor_file, json.dumps({"floor": floor, "machine": machine}) + "\n")
    images = datasets.load("faces", root=options.root).images
    for rung in RUNGS:
        if not rung.trains_as and options.rung in (None, rung.name):
            climb(rung, options.out, judge, images, SEEDS, str(place))


if __name__ == "__main__":
    main()
