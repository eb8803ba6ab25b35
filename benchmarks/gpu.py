"""How long does a training step take on a GPU?

Two pairs of networks are trained in three ways: by the tutorials' loop, with the images on the GPU as bytes,
and by the library in float32 and in bfloat16. The ways take turns, so that what else the machine does hits
all alike. Images are noise: what they show does not change the time.

python benchmarks/gpu.py            # print the table: half a minute
python benchmarks/gpu.py --store    # and keep it with the package
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import torch
from _timing import timed
from speed import NETWORKS, OURS, OURS_BF16, PLAIN, Networks, Way, plain_steps

from dcganlib import datasets, runs
from dcganlib.config import TrainConfig
from dcganlib.runtime import files
from dcganlib.train import init_state, train

RESULTS = runs.PRETRAINED / "results" / "gpu.json"
WAYS = {"tutorials' loop": PLAIN, "dcganlib, float32": OURS, "dcganlib, bfloat16": OURS_BF16}
SETS = ("28px", "64px")
IMAGES = 4096
TURNS, STEPS, WARMUP = 3, 40, 8


def steps_of(known: Networks, way: Way, device: torch.device) -> Iterator[object]:
    """An endless training of these networks in this way."""
    rng = torch.Generator().manual_seed(0)
    generator, discriminator = (network.to(device) for network in known.build())
    shape = (IMAGES, generator.channels, known.size, known.size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
    loader = datasets.make_loader(images, known.batch, rng=rng, device=device)
    if way.ours:
        config = TrainConfig(batch_size=known.batch, precision=way.precision)
        return train(init_state(generator, discriminator, config), loader)
    return plain_steps(generator, discriminator, (batch for _ in itertools.count() for batch in loader))


def measure(name: str, device: torch.device) -> list[dict[str, Any]]:
    """Time all ways for one pair of networks.

    Args:
        name: A key of ``NETWORKS``.
        device: Where to train.

    Returns:
        A row for each way, with the milliseconds of a step in each of its turns.
    """
    known = NETWORKS[name]
    trainings = {way: steps_of(known, how, device) for way, how in WAYS.items()}

    def go(training: Iterator[object], n: int) -> None:
        for _ in range(n):
            next(training)

    for training in trainings.values():
        go(training, WARMUP)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(TURNS):
        for way, training in trainings.items():
            seconds[way].append(timed(lambda training=training: go(training, STEPS), device) / STEPS)
    return [
        {"network": name, "way": way, "batch": known.batch, "ms": [round(1e3 * value, 2) for value in found]}
        for way, found in seconds.items()
    ]


def table(found: Mapping[str, Any]) -> str:
    """The measures as text."""
    lines = [f"{found['device']}, torch {found['torch']}"]
    for row in found["rows"]:
        ms = median(row["ms"])
        lines.append(
            f"{row['network']}  {row['way']:20}{ms:6.1f} ms{1e3 * row['batch'] / ms:10,.0f} images/s"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", action="store_true", help="keep the result with the package")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA GPU on this machine; benchmarks/speed.py times the CPU")
    device = torch.device("cuda")
    found = {
        "command": "python benchmarks/gpu.py --store",
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "rows": [row for name in SETS for row in measure(name, device)],
    }
    print(table(found))
    if options.store:
        files.write_text(RESULTS, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
