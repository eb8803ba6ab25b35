"""How time and memory of a training step grow: with the batch, the width, the image size, the set.

The networks are the standard chain ("dcgan"), trained as ``dcganlib train`` would on this device. Each point
is measured in a process of its own, all points once in each round: seconds are the median over the rounds,
memory is the most that the process ever held, less what it held when it had trained tiny networks. Of
the set, an epoch's order and all its batches are timed, without networks. A power law is fitted to each
column: an exponent of 1 is in proportion, "off" how far the worst point lies from the fit, as a ratio,
"last" the exponent between the two largest points, where fixed costs weigh least.

python benchmarks/scaling.py                    all of it: ten minutes on two cores
python benchmarks/scaling.py --quick            fewer points and one round: a minute
python benchmarks/scaling.py --store            keep the tables with the package
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from _timing import Child, machine, memory_peak, power_law, serve, spread, timed

from dcganlib import datasets, zoo
from dcganlib.config import TrainConfig
from dcganlib.runtime import files
from dcganlib.runtime.device import pick_device
from dcganlib.train import init_state, train

BASE = {"batch": 64, "width": 32, "size": 32, "images": 1_000}
POINTS = {
    "batch": (8, 16, 32, 64, 128, 256),
    "width": (8, 16, 32, 64, 96),
    "size": (16, 32, 64, 128),
    "images": (10_000, 50_000, 100_000, 200_000),
}
QUICK = {"batch": (16, 64, 256), "width": (8, 16, 32), "size": (16, 32, 64), "images": (10_000, 200_000)}
STEPS = 4
PER_ROW = {"batch": "step_ms", "width": "step_ms", "size": "step_ms", "images": "epoch_ms"}


def measure(axis: str, value: int, device: torch.device) -> dict[str, float]:
    """Time and memory at one point, in this process."""
    point = BASE | {axis: value}
    rng = torch.Generator().manual_seed(0)
    if axis != "images":
        _stepper(
            2, 1, 16, torch.zeros(2, 3, 16, 16, dtype=torch.uint8), rng, device
        )  # libraries take memory too
    idle = memory_peak(device)
    # Where the set is what grows, it has the size of digits: 200,000 of them are 157 MB.
    shape = (1, 28, 28) if axis == "images" else (3, point["size"], point["size"])
    images = torch.randint(256, (point["images"], *shape), dtype=torch.uint8, generator=rng)
    if axis == "images":
        loader = datasets.make_loader(images, point["batch"], rng=rng, device=device)
        orders = [timed(lambda: next(loader.epoch(0)), device) for _ in range(3)]
        whole = timed(lambda: [None for _ in loader.epoch(1)], device)
        found = {"order_ms": 1e3 * median(orders), "epoch_ms": 1e3 * whole}
        found["batch_us"] = 1e6 * (whole - median(orders)) / len(loader)
    else:
        step = _stepper(point["batch"], point["width"], point["size"], images, rng, device)
        found = {"step_ms": 1e3 * median(timed(step, device) for _ in range(STEPS))}
    return found | {"memory_mb": (memory_peak(device) - idle) / 1e6}


def _stepper(
    batch: int, width: int, size: int, images: torch.Tensor, rng: torch.Generator, device: torch.device
) -> Callable[[], object]:
    """Start a training and take its first step, which sets up; return a function that takes the next one."""
    pair = zoo.build("dcgan", image_size=size, base_channels=width, rng=rng)
    loader = datasets.make_loader(images, batch, rng=rng, device=device)
    state = init_state(*(network.to(device) for network in pair), TrainConfig(batch_size=batch))
    steps = train(state, loader)
    next(steps)
    return partial(next, steps)


def fits(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponents of time and memory along each axis."""
    found = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        points = [row for row in rows if row["axis"] == axis]
        x = [row["value"] for row in points]
        for column in (PER_ROW[axis], "memory_mb"):
            y = [max(row[column]["median"], 1e-3) for row in points]  # memory below the measure's grain
            exponent, off = power_law(x, y)
            last, _ = power_law(x[-2:], y[-2:])
            law = {"exponent": round(exponent, 3), "off": round(off, 3), "last": round(last, 3)}
            found.append({"axis": axis, "column": column, **law})
    return found


def table(rows: list[dict[str, Any]], laws: list[dict[str, Any]]) -> str:
    """A block for each axis: medians, the range of the time, and the exponents below."""
    lines = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        points = [row for row in rows if row["axis"] == axis]
        columns = [name for name in points[0] if name not in ("axis", "value")]
        lines.append(f"{axis:>10}" + "".join(f"{name:>12}" for name in columns) + f"{'range':>18}")
        for row in points:
            line = f"{row['value']:>10,}" + "".join(f"{row[name]['median']:>12,.1f}" for name in columns)
            time = row[PER_ROW[axis]]
            between = f"{time['low']:,.1f}-{time['high']:,.1f}"
            lines.append(line + f"{between:>18}")
        for law in laws:
            if law["axis"] == axis:
                line = f"{law['column']:>22} ~ {axis}^{law['exponent']:.2f}, off by {law['off']:.2f}"
                lines.append(f"{line}, at the end ^{law['last']:.2f}")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure all points, print the tables and store them on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each point (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer points, one round")
    parser.add_argument("--store", action="store_true", help="keep the tables with the package")
    parser.add_argument("--device", default="auto", help="as for dcganlib train (%(default)s)")
    options = parser.parse_args()
    if options.store and (options.quick or options.rounds < 5):
        parser.error("only five rounds or more of the whole are stored, not --quick")
    device = pick_device(options.device)
    points = [
        (axis, value) for axis, values in (QUICK if options.quick else POINTS).items() for value in values
    ]
    found: dict[tuple[str, int], list[dict[str, float]]] = {point: [] for point in points}
    for _ in range(1 if options.quick else options.rounds):
        for axis, value in points:
            with Child(__file__, {"axis": axis, "value": value, "device": str(device)}) as child:
                found[axis, value].append(child.ready)
    rows = [
        {"axis": axis, "value": value} | {name: spread([each[name] for each in times]) for name in times[0]}
        for (axis, value), times in found.items()
    ]
    laws = fits(rows)
    print(table(rows, laws))
    if options.store:
        from dcganlib import runs

        more = f" --rounds {options.rounds}" * (options.rounds != parser.get_default("rounds"))
        content = {
            "command": f"python benchmarks/scaling.py{more} --store",
            "machine": machine(device),
            "base": BASE,
            "rounds": options.rounds,
            "rows": rows,
            "fits": laws,
        }
        file = runs.PRETRAINED / "results" / "scaling.json"
        files.write_text(file, json.dumps(content, indent=1) + "\n")
        print(f"wrote {file}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        spec = json.loads(sys.argv[2])
        place = torch.device(spec["device"])
        serve(lambda: (measure(spec["axis"], spec["value"], place), dict))
    else:
        main()
