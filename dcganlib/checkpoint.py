"""Saving and loading: the whole state of a run, and a generator's weights alone.

Every file is written whole or not at all (see ``dcganlib.files``), so a crash leaves either the old file or
the new one.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dcganlib.files import write_atomically
from dcganlib.models import Discriminator, Generator, Layer
from dcganlib.train import StepRecord, TrainConfig, TrainState, start

FORMAT = 1


def save(path: str | Path, state: TrainState, history: Sequence[StepRecord | dict[str, float]] = ()) -> None:
    """Save the whole state of a run, its history with it.

    Args:
        path: File to write; an older one there is replaced only when the new one is complete.
        state: From ``train.start``; also between two steps of ``train.train``.
        history: The records so far, or their ``as_dict``.

    Raises:
        OSError: The file cannot be written; what was at ``path`` is still there.
    """
    content = {
        "format": FORMAT,
        "step": state.step,
        "config": asdict(state.config),
        "rng": state.rng.get_state(),
        "generator": _describe(state.generator),
        "discriminator": _describe(state.discriminator),
        "weights": [state.generator.state_dict(), state.discriminator.state_dict()],
        "optimizers": [state.g_optimizer.state_dict(), state.d_optimizer.state_dict()],
        "averaged": None if state.averaged is None else state.averaged.state_dict(),
        "history": [
            record.as_dict() if isinstance(record, StepRecord) else dict(record) for record in history
        ],
    }
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def load(path: str | Path, device: torch.device | str = "cpu") -> tuple[TrainState, list[dict[str, float]]]:
    """Load what ``save`` wrote: networks, optimisers, randomness and history, ready for the next step.

    Args:
        path: The file.
        device: Where the run should go on.

    Returns:
        (state, history).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no checkpoint of this library, or is damaged.
    """
    content = _read(Path(path))
    with _naming(path):
        generator = _generator(content["generator"]).to(device)
        discriminator = Discriminator(**_arguments(content["discriminator"])).to(device)
        for network, weights in zip((generator, discriminator), content["weights"], strict=True):
            network.load_state_dict(weights)
        state = start(generator, discriminator, TrainConfig(**content["config"]))
        optimizers = state.g_optimizer, state.d_optimizer
        for optimizer, saved in zip(optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if state.averaged is not None:
            state.averaged.load_state_dict(content["averaged"])
        state.rng.set_state(content["rng"])
        state.step = content["step"]
        return state, content["history"]


def save_generator(path: str | Path, generator: Generator, *, half: bool = False, **about: Any) -> None:
    """Save a generator alone, as safetensors with its layers in the header.

    Args:
        path: File to write, replaced only when complete.
        generator: On any device.
        half: Store floats in 16 bits: half the size, and an image error below one grey level in 255.
        about: Anything that JSON can hold, such as the run's config; given back by ``load_generator``.
    """
    from safetensors.torch import save_file

    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in generator.state_dict().items()
    }
    header = {"dcganlib": json.dumps({"format": FORMAT, "generator": _describe(generator), "about": about})}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=header))


def load_generator(path: str | Path, device: torch.device | str = "cpu") -> tuple[Generator, dict[str, Any]]:
    """Load what ``save_generator`` wrote.

    Args:
        path: The file.
        device: Where the generator goes.

    Returns:
        (generator in eval mode and float32, what was stored about it).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file was not written by ``save_generator``, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = _existing(path)
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("dcganlib", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or is damaged: {error}") from error
    if header is None:
        raise ValueError(f"{path} was not written by dcganlib: its header has no description of a generator")
    _check_format(path, header)
    with _naming(path):
        generator = _generator(header["generator"])
        weights = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
        generator.load_state_dict(weights)
        return generator.to(device).eval(), header["about"]


def _describe(network: Generator | Discriminator) -> dict[str, Any]:
    """The arguments that make the network again, as plain values."""
    names = ["image_size", "channels"] + ["latent_dim"] * isinstance(network, Generator)
    return {name: getattr(network, name) for name in names} | {
        "layers": [asdict(layer) for layer in network.layers]
    }


def _arguments(description: dict[str, Any]) -> dict[str, Any]:
    return description | {"layers": [Layer(**layer) for layer in description["layers"]]}


def _generator(description: dict[str, Any]) -> Generator:
    return Generator(**_arguments(description))


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return Path(path)


def _read(path: Path) -> dict[str, Any]:
    path = _existing(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # compares each part with its checksum, which torch does not
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # many kinds, from BadZipFile to UnpicklingError
        raise ValueError(f"{path} is no checkpoint, or is damaged ({type(error).__name__})") from error
    if damaged:
        raise ValueError(f"{path} is damaged: {damaged} does not match its checksum")
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError(f"{path} was not written by dcganlib: it has no format number")
    _check_format(path, content)
    return content


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Say which file it was when a part is missing or does not fit the others."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise ValueError(f"{path} is damaged or incomplete ({type(error).__name__}: {reason})") from error


def _check_format(path: Path, content: dict[str, Any]) -> None:
    if content["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {content['format']}; this version of dcganlib reads format {FORMAT}"
        )
