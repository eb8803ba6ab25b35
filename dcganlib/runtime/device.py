"""Where a run computes, and in which precision."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn

from dcganlib.config import Precision, TrainConfig
from dcganlib.runtime import cpu_layers, distributed

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)  # passes losses and gradients through unchanged
CHANNELS_LAST_MIN_SIZE = 32  # pixels; on a CPU the order in memory gains nothing for smaller images


def pick_device(name: str = "auto") -> torch.device:
    """Choose where to train.

    Args:
        name: "auto" for a GPU where there is one and the CPU otherwise; "gpu" likewise, but with a warning
            (once) where there is none; or "cpu", "cuda", "cuda:1", "mps". In a group of processes "auto" and
            "gpu" never choose MPS, on which groups cannot train.

    Raises:
        ValueError: The name is unknown.
    """
    available = [
        kind
        for kind, exists in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
        if exists
    ]
    if name in ("auto", "gpu"):
        available = [kind for kind in available if kind in distributed.device_types()]
        if name == "gpu" and not available:
            _warn_no_gpu(name)
        return torch.device((available or ["cpu"])[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device must be auto, gpu, cpu, cuda, cuda:N or mps, got {name!r}")
    if device.type != "cpu" and device.type not in available:
        _warn_no_gpu(name)
        return torch.device("cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def resolve(config: TrainConfig, device: torch.device) -> TrainConfig:
    """Replace precision "auto" by the fastest one on a device.

    Args:
        config: The settings.
        device: Where the run takes place.

    Returns:
        The settings with "bfloat16" where the processor or GPU multiplies it faster, "float16" on GPUs of the
        generation before (such as the T4), and "float32" elsewhere.
    """
    if config.precision != "auto":
        return config
    precision: Precision = "float32"
    if device.type == "cpu" and cpu_layers.has_bfloat16():
        precision = "bfloat16"
    elif device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)  # 7 has units for float16, 8 for bfloat16 too
        precision = "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    return replace(config, precision=precision)


def prepare_network(network: nn.Module, config: TrainConfig, image_size: int) -> None:
    """Make a network compute in the fastest way that the settings allow on its device.

    Its parameters and their names stay the same; ``forward`` of some layers and the order of the weights in
    memory change.

    Args:
        network: On its device; changed in place.
        config: The settings; ``fast`` and ``compile`` matter here.
        image_size: Pixels of the images that it draws or judges.
    """
    kind = next(network.parameters()).device.type
    if config.fast and kind == "cpu":
        cpu_layers.optimize(network)
    # Not on MPS, where gradients in this order are wrong. On a GPU the compiler chooses the order itself, and
    # with this one it fails at a convolution of a single pixel.
    on_gpu = kind == "cuda" and not config.compile
    if config.fast and (on_gpu or (kind == "cpu" and image_size >= CHANNELS_LAST_MIN_SIZE)):
        network.to(memory_format=torch.channels_last)
    if config.compile:
        network.compile()


@dataclass(frozen=True)
class Amp:
    """Automatic mixed precision of one player's step.

    Attributes:
        precision: "float32", "bfloat16" or "float16".
        scaler: For "float16", in which small gradients become 0; the default changes nothing.
    """

    precision: str = "float32"
    scaler: torch.amp.GradScaler = UNSCALED


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Context in which convolutions run in ``precision``: "float32", "bfloat16" or "float16"."""
    half = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype=half, enabled=precision != "float32")


@cache
def check_compiler(device_type: str) -> None:
    """Refuse ``compile`` where ``torch.compile`` does not work, by compiling a one-line function.

    Args:
        device_type: "cpu", "cuda" or "mps".

    Raises:
        ValueError: No compiler works; the message says why.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device_type))
    except Exception as error:  # many kinds, of three compilers
        reason = next((line for line in str(error).splitlines() if "ompiler" in line or "riton" in line), "")
        raise ValueError(
            f"compile must be False: torch.compile does not work here ({type(error).__name__}: "
            f"{reason.strip() or str(error).splitlines()[0]}). It needs a C++ compiler on a CPU, such as "
            "g++, and Triton on a GPU"
        ) from error


@cache
def _warn_no_gpu(name: str) -> None:
    warnings.warn(
        f"device {name!r} was asked for and there is no such GPU: training on the CPU", stacklevel=3
    )
