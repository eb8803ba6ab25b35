"""How well ``dcganlib diagnose`` tells failures apart: its findings on recorded runs whose failure is known.

python benchmarks/failures.py record --seed 0 1 2 3 4 5 6 7 8 9 10    # the recordings, into runs/failures
python benchmarks/diagnosis.py --young 0 1 2 3 4 5 6 7 8 9 10         # measure and judge them, and store

The bounds of ``evaluation.diagnosis.RULES`` were set with the measurements of seeds 0 to 7 in view. Seeds 8
to 10 were recorded and measured after that: they are held out. Whoever changes a bound must move
``CHOSEN_ON`` beyond the seeds that were looked at, and record others. Healthy runs are the recordings' cures,
runs only 200 steps old, and the runs in the package. Measurements are kept beside each recording, so that
changed rules are judged again at once.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from dcganlib import datasets, runs
from dcganlib.config import DataConfig
from dcganlib.evaluation import diagnosis
from dcganlib.runtime import files

RESULTS = runs.PRETRAINED / "results" / "diagnosis.json"
CHOSEN_ON = 8  # seeds below this, at which the bounds were set; the others are held out
YOUNG_STEPS = 200
MEASURED = "measurements.json"
HEALTHY = ("healthy", "young", "stored")  # groups of runs in which any finding is a false alarm
OWN_CURES = ("grey_g", "shuffled_labels", "swapped_channel")  # not cured by the healthy run itself

Measured = Mapping[tuple[str, int], Mapping[str, float]]  # by failure and seed


def record_young(out: Path, seeds: Sequence[int]) -> None:
    """Train healthy runs of 200 steps into OUT/young/cured-SEED; those that are there are left alone."""
    import failures

    for seed in seeds:
        folder = out / "young" / f"cured-{seed}"
        if not (folder / "samples.gif").is_file():
            runs.run(replace(failures.healthy(seed), steps=YOUNG_STEPS), folder, device="cpu")


def measured(out: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Measure all recordings, and the stored runs as far as their folders allow."""
    import failures

    found: dict[tuple[str, int], dict[str, float]] = {}
    with failures.faults_known():
        for name, seed, folder in _recordings(out):
            kept = folder / MEASURED
            if not kept.is_file():
                images = _images(runs.read_config(folder).data)
                files.write_text(kept, json.dumps(runs.measure(folder, images=images)) + "\n")
            found[name, seed] = json.loads(kept.read_text(encoding="utf-8"))
            if (folder / "diverged.txt").is_file():
                found[name, seed]["diverged"] = 1.0
    for seed, name in enumerate(runs.pretrained()):
        found["stored", seed] = runs.measure(name)
    return found


def _recordings(out: Path) -> Iterator[tuple[str, int, Path]]:
    for mark in sorted(out.glob("*/*/samples.gif")):
        folder = mark.parent
        kind, _, seed = folder.name.partition("-")
        name = folder.parent.name
        if kind == "failed" or name in ("healthy", "young"):
            yield name, int(seed), folder
        elif name in OWN_CURES:
            yield f"{name}, cured", int(seed), folder


@cache
def _images(config: DataConfig) -> datasets.ImageDataset:
    return datasets.load(config.data, **config.load_options)


def confusion(found: Measured) -> list[dict[str, Any]]:
    """What is found in the runs with each failure.

    Args:
        found: Measurements of the runs.

    Returns:
        A row for each failure and kind of healthy run: its name, and for the seeds that the bounds were
        set from ("seen") and the others ("held_out") how many runs there are, in how many the failure was
        found (in healthy ones: nothing), in how many something else, and all findings with their number.
    """
    rows = []
    for name in sorted({name for name, _ in found}, key=lambda one: (_healthy(one), one)):
        row: dict[str, Any] = {"name": name}
        for part in ("seen", "held_out"):
            judged = [
                {finding.name for finding in diagnosis.judge(values)}
                for (group, seed), values in found.items()
                if group == name and (seed < CHOSEN_ON) == (part == "seen")
            ]
            right = [not names if _healthy(name) else name in names for names in judged]
            row[part] = {
                "runs": len(judged),
                "hits": sum(right),
                "other": sum(bool(names - {name}) for names in judged),
                "findings": dict(sorted(Counter(one for names in judged for one in names).items())),
            }
        rows.append(row)
    return rows


def _healthy(name: str) -> bool:
    return name in HEALTHY or name.endswith(", cured")


def spreads(found: Measured) -> dict[str, dict[str, list[float]]]:
    """Lowest, median and highest value of each measurement that a rule uses, by failure."""
    used = sorted({sign.measurement for rule in diagnosis.RULES for sign in rule.signs})
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (name, _), row in found.items():
        for measurement in used:
            if measurement in row:
                values[measurement][name].append(row[measurement])
    return {
        measurement: {
            name: [float(f"{value:.3g}") for value in (min(all_), median(all_), max(all_))]
            for name, all_ in by_name.items()
        }
        for measurement, by_name in values.items()
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The confusion as text."""
    lines = [f"{'run':<26} {'seen':>9} {'held out':>9}  findings in both"]
    for row in rows:
        both = Counter(row["seen"]["findings"]) + Counter(row["held_out"]["findings"])
        shares = [f"{row[part]['hits']}/{row[part]['runs']}" for part in ("seen", "held_out")]
        listed = ", ".join(f"{name} {count}" for name, count in both.most_common()) or "nothing unusual"
        lines.append(f"{row['name']:<26} {shares[0]:>9} {shares[1]:>9}  {listed}")
    return "\n".join(lines)


def totals(rows: Sequence[Mapping[str, Any]], part: str) -> dict[str, float]:
    """Share of failed runs whose failure is found, and of healthy runs with a false alarm."""
    failed = [row[part] for row in rows if not _healthy(row["name"])]
    healthy = [row[part] for row in rows if _healthy(row["name"])]
    counts = [sum(one["runs"] for one in group) for group in (failed, healthy)]
    hits, quiet = (sum(one["hits"] for one in group) for group in (failed, healthy))
    return {
        "failed_runs": counts[0],
        "hit_rate": round(hits / max(1, counts[0]), 3),
        "healthy_runs": counts[1],
        "false_alarm_rate": round(1 - quiet / max(1, counts[1]), 3) if counts[1] else 0.0,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, judge, print and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/failures"), help="(%(default)s)")
    parser.add_argument("--young", type=int, nargs="*", default=[], help="seeds of young runs to train first")
    parser.add_argument("--out", type=Path, default=RESULTS, help="(%(default)s)")
    options = parser.parse_args(arguments)
    record_young(options.runs, options.young)
    found = measured(options.runs)
    rows = confusion(found)
    seeds = sorted({seed for (name, seed) in found if name != "stored"})
    content = {
        "command": f"python benchmarks/diagnosis.py --young {' '.join(map(str, seeds))}",
        "recordings": f"python benchmarks/failures.py record --seed {' '.join(map(str, seeds))}",
        "seeds": [seed for seed in seeds if seed < CHOSEN_ON],
        "held_out_seeds": [seed for seed in seeds if seed >= CHOSEN_ON],
        "totals": {part: totals(rows, part) for part in ("seen", "held_out")},
        "rows": rows,
        "bounds": [
            {
                "name": rule.name,
                "signs": [
                    [sign.measurement, "below" if sign.below else "above", sign.bound, sign.sure]
                    for sign in rule.signs
                ],
            }
            for rule in diagnosis.RULES
        ],
        "spreads": spreads(found),
    }
    files.write_text(options.out, json.dumps(content, separators=(",", ":")) + "\n")
    print(table(rows))
    for part, values in content["totals"].items():
        print(part, values)


if __name__ == "__main__":
    main()
