"""Saving and loading: the whole state of a run, and a network's weights alone.

Every file is written whole or not at all (see ``runtime.files``), so a crash leaves either the old file or
the new one. Every file has a checksum of all its bytes, so later damage is noticed before the file is used: a
checkpoint in the comment at the end of its zip archive, a safetensors file in its header. Older files without
checksums are read as well.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dcganlib.config import TrainConfig
from dcganlib.models import Discriminator, Generator, Layer, Residual
from dcganlib.runtime.device import check_compiler
from dcganlib.runtime.files import refuse_web_page, write_bytes
from dcganlib.runtime.optimizer import load_moments
from dcganlib.train import StepMetrics, TrainState, init_state

FORMAT = 1
SEAL = b"sha256:"  # then 64 hexadecimal digits
BLANK = "0" * 64  # holds the place of a checksum in a header while it is computed

KINDS = ("generator", "discriminator", "classifier")
"""The kinds of network that can be saved alone."""

Network = TypeVar("Network", bound=nn.Module)


class DamagedError(ValueError):
    """A file was damaged, or not written by this library."""


def save(
    path: str | Path,
    state: TrainState,
    history: Sequence[StepMetrics | dict[str, float]] = (),
    *,
    previous: str | Path | None = None,
) -> None:
    """Save the whole state of a run with its history.

    Args:
        path: File to write; an existing one is replaced only when the new one is complete.
        state: From ``train.init_state``, or between two steps of ``train.train``.
        history: The records so far, or their ``as_dict``.
        previous: Where to move an existing file; it is deleted if absent.

    Raises:
        FloatingPointError: A weight is NaN or infinite; what was at ``path`` is still there.
        OSError: The file cannot be written; what was at ``path`` is still there.
    """
    networks: dict[str, nn.Module] = {"generator": state.generator, "discriminator": state.discriminator}
    _refuse_lost(networks, state.step)
    content = {
        "format": FORMAT,
        "step": state.step,
        "config": asdict(state.config),
        "rng": state.rng.get_state(),
        "generator": _describe(state.generator),
        "discriminator": _describe(state.discriminator),
        "weights": [network.state_dict() for network in networks.values()],
        "optimizers": [state.g_optimizer.state_dict(), state.d_optimizer.state_dict()],
        "scalers": [state.g_scaler.state_dict(), state.d_scaler.state_dict()],
        "averaged": None if state.ema_generator is None else state.ema_generator.state_dict(),
        "frozen": [
            [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
            for network in networks.values()
        ],
        "history": [
            record.as_dict() if isinstance(record, StepMetrics) else dict(record) for record in history
        ],
    }
    archive = io.BytesIO()
    torch.save(content, archive)
    write_bytes(path, _sealed(archive), previous=None if previous is None else Path(previous))


@torch.inference_mode(False)  # else the tensors could not be trained
def load(path: str | Path, device: torch.device | str = "cpu") -> tuple[TrainState, list[dict[str, float]]]:
    """Load what ``save`` wrote: networks, optimisers, random state and history, ready for the next step.

    Args:
        path: The file.
        device: Where to continue the run.

    Returns:
        (state, history).

    Raises:
        FileNotFoundError: There is no such file.
        DamagedError: The file is damaged, or no checkpoint.
        ValueError: It was written by another version of this library, or its parts do not fit; the message
            lists the differences. Or it uses ``torch.compile``, which does not work here.
    """
    content = _read(Path(path))
    device = torch.device(device)
    with _naming(path):
        with torch.device("meta"):  # without memory until the weights are known to fit
            pair = _generator(content["generator"]), _discriminator(content["discriminator"])
        frozen = content.get("frozen", ((), ()))
        for network, weights, names in zip(pair, content["weights"], frozen, strict=True):
            _fill(network, weights)
            network.to(device)
            for name in names:
                network.get_parameter(name).requires_grad_(False)
        config = TrainConfig(**content["config"])
    if config.compile:
        check_compiler(device.type)
    with _naming(path):
        state = init_state(*pair, config)
        optimizers = state.g_optimizer, state.d_optimizer
        for optimizer, saved in zip(optimizers, content["optimizers"], strict=True):
            load_moments(optimizer, saved)
        for scaler, saved in zip((state.g_scaler, state.d_scaler), content.get("scalers", ()), strict=False):
            scaler.load_state_dict(saved)
        if state.ema_model is not None:
            _fill(state.ema_model, content["averaged"])
        state.rng.set_state(content["rng"])
        state.step = content["step"]
        _check_progress(state.step, content["history"])
        return state, content["history"]


def save_generator(path: str | Path, generator: Generator, *, half: bool = False, **about: Any) -> None:
    """Save a generator alone, as safetensors with its layers in the header.

    Args:
        path: File to write, replaced only when complete.
        generator: On any device.
        half: Store floats in 16 bits: half the size, at an image error below one grey level in 255.
        about: JSON values, such as the run's config; ``load_generator`` returns them.
    """
    save_network(path, "generator", generator, _describe(generator), about, half=half)


@torch.inference_mode(False)
def copy_generator(generator: Generator) -> Generator:
    """A copy of a generator on the CPU, without what a run has put on top of it to compute faster.

    Args:
        generator: On any device.
    """
    with torch.device("meta"):
        copy = _generator(_describe(generator))
    _fill(copy, generator.state_dict())
    return copy.eval()


def load_generator(path: str | Path, device: torch.device | str = "cpu") -> tuple[Generator, dict[str, Any]]:
    """Load what ``save_generator`` wrote.

    Args:
        path: The file.
        device: Where the generator goes.

    Returns:
        (generator in eval mode and float32, the values stored with it).

    Raises:
        FileNotFoundError: There is no such file.
        DamagedError: The file is damaged, or was not written by ``save_generator``.
        ValueError: It holds another kind of network, was written by another version of this library, or its
            parts do not fit.
    """
    generator, about = load_network(path, "generator", _generator)
    return generator.to(device), about


def save_discriminator(
    path: str | Path, discriminator: Discriminator, *, half: bool = False, **about: Any
) -> None:
    """Save a discriminator alone, as ``save_generator`` does a generator.

    Args:
        path: File to write, replaced only when complete.
        discriminator: On any device.
        half: Store floats in 16 bits: half the size.
        about: JSON values to store with it.
    """
    save_network(path, "discriminator", discriminator, _describe(discriminator), about, half=half)


def load_discriminator(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[Discriminator, dict[str, Any]]:
    """Load what ``save_discriminator`` wrote.

    Args:
        path: The file.
        device: Where the discriminator goes.

    Returns:
        (discriminator in eval mode and float32, the values stored with it).

    Raises:
        FileNotFoundError, DamagedError, ValueError: As ``load_generator``.
    """
    discriminator, about = load_network(path, "discriminator", _discriminator)
    return discriminator.to(device), about


def save_network(
    path: str | Path,
    kind: str,
    network: nn.Module,
    description: dict[str, Any],
    about: dict[str, Any],
    *,
    half: bool = False,
) -> None:
    """Save a network alone, as safetensors with its description and a checksum in the header.

    Args:
        path: File to write, replaced only when complete.
        kind: One of ``KINDS``.
        network: On any device.
        description: Plain values from which the network can be rebuilt.
        about: JSON values to store with it.
        half: Store floats in 16 bits.
    """
    from safetensors.torch import save as to_bytes

    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    header = {"sha256": BLANK, "format": FORMAT, kind: description, "about": about}
    content = to_bytes(tensors, {"dcganlib": json.dumps(header)})
    write_bytes(path, content.replace(BLANK.encode(), sha256(content).hexdigest().encode(), 1))


@torch.inference_mode(False)
def load_network(
    path: str | Path, kind: str, make: Callable[[dict[str, Any]], Network]
) -> tuple[Network, dict[str, Any]]:
    """Load what ``save_network`` wrote.

    Args:
        path: The file.
        kind: One of ``KINDS``.
        make: Takes the description, returns the network.

    Returns:
        (network on the CPU, in eval mode and float32; the values stored with it).

    Raises:
        FileNotFoundError: There is no such file.
        DamagedError: The file is damaged, or was not written by ``save_network``.
        ValueError: It holds another kind of network, was written by another version of this library, or its
            parts do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = _existing(path)
    content = path.read_bytes()
    refuse_web_page(path, content, error=DamagedError)
    try:
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
        header = json.loads(metadata.get("dcganlib", "null"))
        tensors = from_bytes(content)
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is no safetensors file, or is damaged: {error}") from error
    if not isinstance(header, dict):
        raise DamagedError(f"{path} was not written by dcganlib: its header has no description of a {kind}")
    _check_format(path, header)
    digest = str(header.pop("sha256", BLANK))
    blank = content.replace(digest.encode(), BLANK.encode(), 1)
    known = [{"format", name, "about"} for name in KINDS]
    if header.keys() not in known or digest not in (BLANK, sha256(blank).hexdigest()):
        raise DamagedError(f"{path} is damaged: it does not match its checksum. Copy or download it again")
    if kind not in header:
        raise ValueError(f"{path} holds another kind of network, not a {kind}")
    with _naming(path):
        with torch.device("meta"):  # as in `load`
            network = make(header[kind])
        _fill(network, {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
        return network.eval(), header["about"]


def _describe(network: Generator | Discriminator) -> dict[str, Any]:
    """The arguments from which the network can be rebuilt, as plain values."""
    names = ["image_size", "channels"] + ["latent_dim"] * isinstance(network, Generator)
    names += ["num_classes"] * (network.num_classes > 0)
    return {name: getattr(network, name) for name in names} | {
        "layers": [asdict(layer) for layer in network.layers]
    }


def _arguments(description: dict[str, Any]) -> dict[str, Any]:
    renamed = {"classes": "num_classes"}  # before version 0.3
    description = {renamed.get(name, name): value for name, value in description.items()}
    return description | {"layers": [_layer(one) for one in description["layers"]]}


def _layer(description: dict[str, Any]) -> Layer | Residual:
    kind = Layer if "kernel" in description else Residual  # whose kernel is always 3
    return kind(**_renamed_layer(description))


def _renamed_layer(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer described by a version before 0.3, in today's terms."""
    norms: dict[Any, dict[str, Any]] = {
        "plain": {"norm": "batch", "affine": False},
        "unit": {"norm": "batch1d"},
    }
    layer = layer | norms.get(layer.get("norm"), {})
    return layer | {"activation": "leaky_relu"} if layer.get("activation") == "leaky" else layer


def _generator(description: dict[str, Any]) -> Generator:
    return Generator(**_arguments(description))


def _discriminator(description: dict[str, Any]) -> Discriminator:
    return Discriminator(**_arguments(description))


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return Path(path)


def _sealed(archive: io.BytesIO) -> bytearray:
    """A zip archive with the checksum of its bytes as its comment, which zip readers ignore."""
    content = bytearray(archive.getbuffer())
    content[-2:] = (len(SEAL) + len(BLANK)).to_bytes(2, "little")  # the comment's length, so far 0
    return content + SEAL + sha256(content).hexdigest().encode()


def _read(path: Path) -> dict[str, Any]:
    content = _existing(path).read_bytes()
    refuse_web_page(path, content, error=DamagedError)
    end = len(content) - len(SEAL) - len(BLANK)
    if content[-22:-18] == b"PK\5\6" and content[-2:] == bytes(2):  # ends with no comment: an older file
        whole = _parts_are_whole(content)
    else:
        whole = end > 0 and content[end:] == SEAL + sha256(content[:end]).hexdigest().encode()
    if not whole:
        raise DamagedError(f"{path} is no checkpoint, or is damaged: it does not match its checksum")
    try:
        _refuse_packed(content)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of many types; torch's message may recommend unsafe loading
        raise DamagedError(f"{path} is no checkpoint, or is damaged ({type(error).__name__})") from error
    if not isinstance(found, dict) or "format" not in found:
        raise DamagedError(f"{path} was not written by dcganlib: it has no format number")
    _check_format(path, found)
    return found


def _parts_are_whole(content: bytes) -> bool:
    """Whether each part of a zip archive matches its own checksum, which torch does not compare."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.testzip() is None
    except Exception:  # of many types, from BadZipFile to UnicodeDecodeError
        return False


def _refuse_packed(content: bytes) -> None:
    """Refuse an archive that unpacks to more than its size; ``save`` does not compress."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(part.file_size for part in archive.infolist()) > len(content):
            raise zipfile.BadZipFile


def _refuse_lost(networks: dict[str, nn.Module], step: int) -> None:
    """Refuse to replace a good checkpoint by one whose weights are not finite."""
    tensors = [
        (f"{label}.{name}", tensor)
        for label, network in networks.items()
        for name, tensor in network.state_dict().items()
    ]
    finite = torch.stack([tensor.isfinite().all() for _, tensor in tensors]).tolist()  # one wait for a GPU
    lost = [name for (name, _), good in zip(tensors, finite, strict=True) if not good]
    if lost:
        raise FloatingPointError(
            f"{lost[0]} is NaN or infinite at step {step} ({len(lost)} of {len(tensors)} tensors are): the "
            "training diverged, and this state was not saved; start again with a smaller g_lr and d_lr"
        )


def _fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights, or raise an error that lists all missing, extra and misshapen ones."""
    own = network.state_dict()
    differences = [f"{name} is missing" for name in own if name not in weights]
    differences += [f"{name} is not part of the network" for name in weights if name not in own]
    differences += [
        f"{name} has shape {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if differences:
        raise ValueError("; ".join(differences))
    empty = next(network.parameters()).is_meta
    if empty:  # not `to_empty`, whose `empty_like` imports sympy for tensors of "meta", which takes seconds
        weights = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(weights[name])
            for name, tensor in own.items()
        }
    network.load_state_dict(weights, assign=empty)


def _check_progress(step: object, history: object) -> None:
    """Refuse a step that is not a count, or a history that is not a list of rows of numbers."""
    if type(step) is not int or step < 0:
        raise ValueError(f"the step is {step!r}")
    if not isinstance(history, list):
        raise ValueError(f"the history is {history!r}")
    for row in history:
        if not isinstance(row, dict) or not all(type(value) in (int, float) for value in row.values()):
            raise ValueError(f"a row of the history is {row!r}")


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Name the file in errors about parts that are missing or do not fit."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise ValueError(
            f"{path} is incomplete or from another version ({type(error).__name__}: {reason})"
        ) from error


def _check_format(path: Path, content: dict[str, Any]) -> None:
    number = content.get("format")
    if type(number) not in (int, type(None)):
        raise DamagedError(f"{path} was not written by dcganlib: its format is no number")
    if number != FORMAT:
        raise ValueError(
            f"{path} has format {number}; this version of dcganlib reads format {FORMAT}: "
            "update dcganlib, or use the version that wrote it"
        )
