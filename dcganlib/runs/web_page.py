"""A web page in one file that draws with a run's generator."""

from __future__ import annotations

from pathlib import Path

from dcganlib.runs import folder as run_folder
from dcganlib.runs.context import torch_defaults
from dcganlib.runs.sampling import drawn_generator
from dcganlib.runtime import files
from dcganlib.viz import web

ENDINGS = (".html", ".htm")


@torch_defaults()
def save_web_page(folder: str | Path, path: str | Path, *, best: bool = False) -> Path:
    """Write a page whose generator draws in any browser, without a network: with a grid, sliders and a seed.

    It draws what ``sample`` draws of the same seed, with weights rounded to half precision. The file is about
    as long as these.

    Args:
        folder: The run's folder, or the name of a stored run.
        path: File to write, ending in .html; an older one is replaced.
        best: Draw with the weights that measured best while training, not with the averaged or last ones.

    Returns:
        The path.

    Raises:
        ValueError, FileNotFoundError: The folder holds no trained generator, or not the best one that is
            asked for; or the generator is too large for a page, or its weights are not finite.
        OSError: The file cannot be written.
    """
    path = files.expand_user(path)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"--out must end as a web page does, in .html, got {path.name!r}")
    files.check_folder(path)
    run = run_folder.read(folder)
    generator = drawn_generator(run, best=best)
    name, prior, classes = run.folder.resolve().name, run.config.train.prior, run.config.class_names
    files.write_text(path, web.page(generator, name, prior=prior, classes=classes))
    return path
