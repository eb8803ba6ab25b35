"""What ``dcganlib doctor`` checks: versions, device, data, disk, memory, and one step of training."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

import dcganlib
from dcganlib import datasets, zoo
from dcganlib.config import TrainConfig
from dcganlib.datasets import decode_cache
from dcganlib.runtime import device as devices
from dcganlib.runtime import files, memory
from dcganlib.runtime.step_metrics import check_finite
from dcganlib.train import init_state, train

GIGABYTE = 1e9


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        name: Of the check.
        text: The result, or why the check failed and what to do.
        failed: Whether it failed.
    """

    name: str
    text: str
    failed: bool


def examine() -> Iterator[Finding]:
    """Go through what a run needs; where a check fails, the others are made all the same.

    Yields:
        A ``Finding`` for each of ``CHECKS``.
    """
    for name, (check, advice) in CHECKS.items():
        try:
            yield Finding(name, check(), False)
        except Exception as error:  # of any kind: it is what the reader wants to know
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            text = f"FAILS: {type(error).__name__}: {reason}\n{'':<9} what to do: {advice}"
            yield Finding(name, text, True)


def _versions() -> str:
    names = ("torch", "torchvision", "numpy", "pillow", "safetensors", "matplotlib")
    found = [f"{name} {metadata.version(name)}" for name in names]
    return ", ".join([f"dcganlib {dcganlib.__version__}", f"Python {platform.python_version()}", *found])


def _device() -> str:
    device, threads = devices.pick_device(), torch.get_num_threads()
    processors = decode_cache.processors()
    torch.ones(2, device=device).sum().item()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} threads"
    precision = devices.resolve(TrainConfig(), device).precision
    fast = "faster layers and fused Adam" if device.type == "cpu" else "channels-last images and fused Adam"
    text = f"{device} ({name}): trains in {precision}, with {fast}"
    if device.type == "cpu" and threads > processors:
        text += f"; only {processors} processors are available: set OMP_NUM_THREADS={processors}"
    return text


def _data() -> str:
    root = datasets.data_root()
    if not files.writable(root):
        raise PermissionError(f"nothing can be written into {root}")
    free = shutil.disk_usage(root).free / GIGABYTE
    has = ", ".join(datasets.downloaded()) or "no dataset yet"
    return f"{root} has {has}, {free:.0f} GB free; mnist-mini comes with the package"


def _disk() -> str:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    if not files.writable(here):
        raise PermissionError(f"nothing can be written into {here}")
    if free < GIGABYTE:
        raise OSError(
            f"only {free / GIGABYTE:.2f} GB are free in {here}; the checkpoints of a run take up to 1"
        )
    return f"{free / GIGABYTE:.0f} GB free in {here}"


def _memory() -> str:
    free = memory.available_memory()
    if free is not None and free < GIGABYTE:
        raise MemoryError(f"only {free / GIGABYTE:.2f} GB are free; a batch of 128 takes about 1")
    text = "not known on this system" if free is None else f"{free / GIGABYTE:.0f} GB free"
    if torch.cuda.is_available():
        text += f", {torch.cuda.mem_get_info()[0] / GIGABYTE:.0f} GB on the GPU"
    return text


def _caches() -> str:
    aside, cache = tempfile.gettempdir(), files.cache_dir()
    free = shutil.disk_usage(aside).free / GIGABYTE
    if free < 0.1:
        raise OSError(f"only {free:.2f} GB are free in {aside}, the folder of temporary files")
    kept = "can be written" if files.writable(cache) else "cannot be written, so less is kept between starts"
    return f"{cache} {kept}; {free:.0f} GB free in {aside}"


def _compiler() -> str:
    names = (os.environ.get("CXX"), "g++", "clang++", "cl")  # as torch.compile looks for one
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    return f"{found}, for --compile" if found else "none, which --compile alone needs"


def _step() -> str:
    device, rng = devices.pick_device(), torch.Generator().manual_seed(0)
    generator, discriminator = zoo.build("dcgan-28", base_channels=8, rng=rng)
    images = torch.randint(256, (16, 1, 28, 28), dtype=torch.uint8, generator=rng)
    loader = datasets.make_loader(images, 16, rng=rng, device=device)
    state = init_state(generator.to(device), discriminator.to(device), TrainConfig(batch_size=16))
    records = list(train(state, loader, 1))
    check_finite(records)
    return f"a small dcgan-28 on {device}: D's loss {records[0].d_loss:.2f}, G's loss {records[0].g_loss:.2f}"


CHECKS: dict[str, tuple[Callable[[], str], str]] = {
    "versions": (_versions, "install dcganlib again, with the line in README.md"),
    "device": (_device, "use --device cpu, or repair the GPU's driver"),
    "data": (_data, "point DCGANLIB_DATA at a folder that you may write into"),
    "disk": (_disk, "free some space, or work in another folder"),
    "memory": (_memory, "close other programs, or use a smaller --batch-size"),
    "caches": (_caches, "set TMPDIR to a folder that you may write into, with some space"),
    "compiler": (_compiler, "leave out --compile"),
    "one step": (_step, "try --device cpu; if that fails too, install torch anew"),
}
"""Each check by name, with what to do where it fails."""
