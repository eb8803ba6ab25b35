"""Store a finished run in the package: config, history, animation, model card, 16-bit weights, no checkpoint.

Of a generator with averaged weights only these are stored, with the last grid of the others as an image.

dcganlib train mnist --precision bfloat16 --out runs/mnist
python tools/store_run.py runs/mnist mnist
python tools/store_run.py --cards    # only write the model cards of all stored runs anew
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from PIL import Image

from dcganlib import runs
from dcganlib.runs import model_card
from dcganlib.runtime import checkpoint
from dcganlib.viz import plot


def main() -> None:
    """Copy what a chapter needs of a run into ``dcganlib/pretrained/NAME``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="folder of the run")
    parser.add_argument("name", nargs="?", help="name of the stored run")
    parser.add_argument("--cards", action="store_true", help="write the model cards alone")
    parser.add_argument("--frames", type=int, default=40, help="frames of the animation (%(default)s)")
    options = parser.parse_args()
    if options.cards:
        for name in runs.pretrained():
            model_card.update(runs.PRETRAINED / name)
        return
    if options.name is None:
        parser.error("the following arguments are required: run, name")

    run = runs.read(options.run)
    kind = "samples" if run.ema_generator is None else "ema"
    grids = sorted((run.folder / kind).glob("step_*.png"))
    frames = min(options.frames, len(grids))
    chosen = [grids[round(i * (len(grids) - 1) / (frames - 1))] for i in range(frames)]
    out = runs.PRETRAINED / options.name
    out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "history.csv"):
        shutil.copy(run.folder / name, out / name)
    weights, step = "generator" if run.ema_generator is None else "ema", int(run.history[-1]["step"])
    checkpoint.save_generator(
        out / f"{weights}.safetensors", run.ema_generator or run.generator, half=True, step=step
    )
    if run.discriminator is not None:  # a run of an older version has kept none
        checkpoint.save_discriminator(
            out / "discriminator.safetensors", run.discriminator, half=True, step=step
        )
    plot.animate([Image.open(path) for path in chosen], out / "samples.webp")
    if run.ema_generator is not None:
        last = sorted((run.folder / "samples").glob("step_*.png"))[-1]
        Image.open(last).save(out / "plain.webp", quality=90)
    model_card.update(out)
    for path in sorted(out.iterdir()):
        print(f"{path.stat().st_size:>9,} {path}")


if __name__ == "__main__":
    main()
