"""How the stored runs ``mnist``, ``fashion-mnist`` and ``faces`` were found: a sweep, then long runs.

The sweep changes the learning rates, the width, D's kernels and the augmentation, in runs of 3,000 steps from
one seed. The long runs follow its best settings, with three seeds of each dataset. In all of them the
learning rates fall to 0 in the second half, and the weights are averaged. Each run is measured with averaged
weights: against images of the splits that it never saw, by which settings and the stored run are chosen, and
against training images, which gives the figures to report.

python benchmarks/stored_runs.py                 # train, measure and store what is missing: see below
python benchmarks/stored_runs.py --only faces    # of one dataset, without storing
python benchmarks/stored_runs.py --table         # print the stored measures

All of it took 10 minutes of an H200, up to 17 runs side by side with NVIDIA's MPS. Finished runs are reused,
and interrupted ones are resumed, so several processes can share the work, one dataset each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import digits
import torch
from recipes import about_machine, finished_run, make_parser
from torch import Tensor

from dcganlib import datasets, runs
from dcganlib.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from dcganlib.evaluation import classifier, metrics
from dcganlib.runtime import files
from dcganlib.runtime.device import pick_device

RESULTS = runs.PRETRAINED / "results" / "stored_runs.json"
SWEEP = 3_000
LONG = {"mnist": 22_000, "fashion-mnist": 20_000, "faces": 15_000}
SEEDS = (0, 1, 2)
HELD_OUT = {"mnist": ("test",), "fashion-mnist": ("test",), "faces": ("valid", "test")}
WHOLE = {"architecture": "dcgan-28-paper", "g_lr": 8e-4, "d_lr": 8e-4, "weight_decay": 2.5e-5}
DIGITS = {**WHOLE, "base_channels": 64}
CLOTHES = {**WHOLE, "base_channels": 48}
FACES = {"architecture": "dcgan-64", "base_channels": 48, "g_lr": 4e-4, "d_lr": 2e-4, "mirror": True}


@dataclass(frozen=True)
class Candidate:
    """A run's settings.

    Attributes:
        data: Name of the dataset.
        name: Of its folder, with the seed behind it.
        steps: Its length.
        settings: Fields of the configs of images, networks and training that differ from the usual ones.
        seeds: Of the runs.
    """

    data: str
    name: str
    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)

    def config(self, seed: int) -> RunConfig:
        """Settings of the run from a seed: batches of 128, and rates that fall to 0 after half of it."""
        settings, half = dict(self.settings), self.steps // 2
        network = {name: settings.pop(name) for name in ("architecture", "base_channels")}
        usual = {"batch_size": 128, "precision": "bfloat16", "ema": 0.999}
        return RunConfig(
            DataConfig(self.data, mirror=settings.pop("mirror", False)),
            ModelConfig(**network),
            TrainConfig(**usual, **settings, seed=seed, decay_start=half, decay_steps=self.steps - half),
            steps=self.steps,
            checkpoint_every=max(self.steps // 4, 1),
            sample_every=max(self.steps // 40, 1),
        )


def _sweep(data: str, name: str, base: Mapping[str, Any], **changes: Any) -> Candidate:
    return Candidate(data, f"{data}-{name}", SWEEP, {**base, **changes})


CANDIDATES = (
    _sweep("mnist", "rates-4-4", DIGITS, g_lr=4e-4, d_lr=4e-4),
    _sweep("mnist", "rates-8-8", DIGITS),
    _sweep("mnist", "no-decay", DIGITS, weight_decay=0.0),
    _sweep("mnist", "rates-8-4", DIGITS, d_lr=4e-4),
    _sweep("fashion-mnist", "rates-4-4", CLOTHES, g_lr=4e-4, d_lr=4e-4),
    _sweep("fashion-mnist", "rates-8-8", CLOTHES),
    _sweep("faces", "rates-4-1", FACES, d_lr=1e-4),
    _sweep("faces", "rates-4-2", FACES),
    _sweep("faces", "rates-8-2", FACES, g_lr=8e-4),
    _sweep("faces", "rates-8-4", FACES, g_lr=8e-4, d_lr=4e-4),
    _sweep("faces", "wider", FACES, base_channels=64),
    _sweep("faces", "five", FACES, architecture="dcgan-paper"),
    _sweep("faces", "translation", FACES, augment="translation"),
    _sweep("faces", "color", FACES, augment="color,translation"),
    _sweep("faces", "rates-8-2-translation", FACES, g_lr=8e-4, augment="translation"),
    Candidate("mnist", "mnist", LONG["mnist"], {**DIGITS, "d_lr": 4e-4}, SEEDS),
    Candidate("fashion-mnist", "fashion-mnist", LONG["fashion-mnist"], CLOTHES, SEEDS),
    Candidate("faces", "faces", LONG["faces"], {**FACES, "g_lr": 8e-4, "d_lr": 4e-4}, SEEDS),
    Candidate("faces", "faces-12-6", LONG["faces"], {**FACES, "g_lr": 1.2e-3, "d_lr": 6e-4}),
)


@cache
def features(
    data: str, root: str | None, device: torch.device
) -> tuple[classifier.Classifier, Tensor, Tensor]:
    """A dataset's classifier, and its features of training and of unseen images, as many of both."""
    judge = classifier.load(data).to(device)
    unseen = torch.cat([datasets.load(data, root=root, split=split).images for split in HELD_OUT[data]])
    known = datasets.load(data, root=root).images
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(1))
    seen, held_out = (
        metrics.extract(judge, images.to(device)).cpu() for images in (known[order[: len(unseen)]], unseen)
    )
    return judge, seen, held_out


def measure(folder: Path, data: str, root: str | None, device: torch.device) -> dict[str, float]:
    """Fréchet distances of new samples to unseen and to training images; precision, recall and D's loss.

    Args:
        folder: Of a run.
        data: Name of its dataset.
        root: Folder of the datasets.
        device: Where to compute.
    """
    judge, seen, held_out = features(data, root, device)
    found = digits.measure(folder, seen, held_out, judge)
    return {"to_unseen_images": found.pop("to_test_images"), **found}


def describe(settings: Mapping[str, Any]) -> str:
    """Settings as a short text, such as "dcgan-64, 48 wide, rates 0.0008 and 0.0004, translation"."""
    text = "{architecture}, {base_channels} wide, rates {g_lr:g} and {d_lr:g}".format(**settings)
    if settings.get("weight_decay") == 0:
        text += ", no weight decay"
    if settings.get("augment"):
        text += f", {settings['augment']}"
    return text


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The measures as text."""
    lines = [
        f"{'':14}{'':66}{'steps':>7}{'seed':>5}{'unseen':>8}{'Fréchet':>9}{'precision':>11}{'recall':>8}"
        f"{'D loss':>8}"
    ]
    for row in rows:
        measured = [
            row.get(name) for name in ("to_unseen_images", "frechet", "precision", "recall", "d_loss")
        ]
        cells = [
            f"{'' if value is None else f'{value:.2f}':>{width}}"
            for value, width in zip(measured, (8, 9, 11, 8, 8), strict=True)
        ]
        lines.append(f"{row['data']:14}{row['summary']:66}{row['steps']:7,}{row['seed']:5}" + "".join(cells))
    return "\n".join(lines)


def main() -> None:
    """Train, measure and store, or print."""
    parser, _ = make_parser(__doc__, "runs/stored")
    parser.add_argument("--only", choices=sorted(LONG), help="of the datasets, this one")
    parser.add_argument("--device", default="auto", help="as for dcganlib train (%(default)s)")
    options = parser.parse_args()
    if not options.table:
        device = pick_device(options.device)
        rows = []
        for one in CANDIDATES:
            if options.only not in (None, one.data):
                continue
            for seed in one.seeds:
                folder = options.out / f"{one.name}-{seed}"
                finished_run(one.config(seed), folder, options.root, options.device)
                about = {"data": one.data, "run": one.name, "summary": describe(one.settings)}
                about |= {"steps": one.steps, "seed": seed}
                rows.append(about | measure(folder, one.data, options.root, device))
                print(table(rows[-1:]), flush=True)
        if options.only is None:
            found = {
                "command": "python benchmarks/stored_runs.py",
                "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else about_machine(),
                "rows": rows,
            }
            files.write_text(RESULTS, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(table(runs.results("stored_runs")["rows"]))


if __name__ == "__main__":
    main()
