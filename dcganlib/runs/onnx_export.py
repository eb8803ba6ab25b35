"""The generator of a run as an ONNX file for other programs, compared with PyTorch when it is written."""

from __future__ import annotations

import importlib.util
import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dcganlib
from dcganlib import datasets, models
from dcganlib.config import ResolvedRunConfig
from dcganlib.latents import sample_z
from dcganlib.runs import folder as run_folder
from dcganlib.runs import sampling
from dcganlib.runs.context import torch_defaults
from dcganlib.runtime import files

NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of images in [-1, 1]; a grey level of 255 is 0.0078 wide
BATCHES = (1, 5)  # that are compared, neither of them the one the graph is recorded with
RECORDED = 2  # latents; with 1 torch would record a graph for that batch alone


@dataclass(frozen=True)
class Export:
    """An ONNX file that was written.

    Attributes:
        file: The file.
        difference: The largest difference to PyTorch of any pixel, in images in [-1, 1].
        inputs: Names and shapes of what it takes, such as {"z": ("N", 100)}.
    """

    file: Path
    difference: float
    inputs: dict[str, tuple[str | int, ...]]


@torch_defaults()
def export_onnx(
    folder: str | Path, path: str | Path, *, best: bool = False, tolerance: float = TOLERANCE
) -> Export:
    """Write a run's generator as ONNX: with its averaged weights if it has them, or with its best ones.

    The graph takes ``z``, float32 of shape (N, latent_dim), and in a class-conditional run ``labels``, int64
    of shape (N,), for any N. It returns ``images``, float32 of shape (N, C, H, W) in [-1, 1]. The law of z,
    the class names, the data and their licence are in the file's metadata. Before the file is moved into
    place, ONNX Runtime draws from it, and the images are compared with PyTorch's.

    Args:
        folder: The run's folder, or the name of a stored run.
        path: File to write; an older one is replaced.
        best: Use the weights that measured best while training, of a run with keep_best.
        tolerance: Largest difference of a pixel that is accepted, in images in [-1, 1].

    Returns:
        The file, and how far it is from PyTorch.

    Raises:
        ModuleNotFoundError: The extra ``onnx`` is missing.
        ValueError, FileNotFoundError: The folder holds no trained generator, or not the best one.
        FloatingPointError: The file draws other images than PyTorch; it is not kept.
        OSError: The file cannot be written.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"the export needs {', '.join(missing)}: pip install 'dcganlib[onnx]', or pip install "
            f"{' '.join(missing)}"
        )
    path = files.expand_user(path)
    files.check_folder(path)
    found = run_folder.read(folder)
    generator = sampling.drawn_generator(found, best=best).eval()
    difference = math.nan

    def write(temporary: Path) -> None:
        nonlocal difference
        _write(generator, _metadata(found.config, found.folder.name), temporary)
        difference = _difference(generator, temporary)
        if not difference <= tolerance:
            raise FloatingPointError(
                f"the exported network draws other images than PyTorch: a pixel differs by "
                f"{difference:.2g}, more than {tolerance:.2g}; {path} is not written"
            )

    files.write_atomically(path, write)
    inputs: dict[str, tuple[str | int, ...]] = {"z": ("N", generator.latent_dim)}
    if generator.num_classes:
        inputs["labels"] = ("N",)
    return Export(path, difference, inputs)


def _write(generator: models.Generator, metadata: dict[str, str], path: Path) -> None:
    """Record the graph with a batch of any size, and write it as one file."""
    example = _example(generator, RECORDED)
    size = torch.export.Dim("N")
    with warnings.catch_warnings():
        # Of the exporter's own: names of axes that two inputs share, and what it will drop in later versions.
        warnings.filterwarnings("ignore", module=r"torch\.onnx|onnxscript|onnx_ir|copyreg")
        program: Any = torch.onnx.export(
            generator,
            example,
            input_names=["z", "labels"][: len(example)],
            output_names=["images"],
            dynamic_shapes=[{0: size}] * len(example),
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props.update(metadata)
    program.model.producer_name, program.model.producer_version = "dcganlib", dcganlib.__version__
    program.save(path, external_data=False)


def _example(generator: models.Generator, count: int) -> tuple[Tensor, ...]:
    """Latents, and labels if the generator takes them."""
    rng = torch.Generator().manual_seed(count)
    z = sample_z(count, generator.latent_dim, rng=rng)
    return (z, torch.arange(count) % generator.num_classes) if generator.num_classes else (z,)


def _metadata(config: ResolvedRunConfig, name: str) -> dict[str, str]:
    """What a file says about itself beside its graph, all of it text."""
    entry = datasets.find_entry(config.data.data)
    return {
        "run": name,
        "data": datasets.title(config.data.data),
        "data licence": entry.licence,
        "prior": config.train.prior,
        "class names": json.dumps(list(config.class_names), ensure_ascii=False),
    }


def _difference(generator: models.Generator, path: Path) -> float:
    """The largest difference of a pixel between what a file and PyTorch draw."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        path.read_bytes(), sess_options=options, providers=["CPUExecutionProvider"]
    )
    differences = []
    for count in BATCHES:
        inputs = _example(generator, count)
        feed = {name: value.numpy() for name, value in zip(("z", "labels"), inputs, strict=False)}
        drawn = torch.from_numpy(session.run(["images"], feed)[0])
        differences.append((drawn - models.generate(generator, *inputs)).abs().max())
    return torch.stack(differences).max().item()
