"""Checks before any long work: folders in use, full disks, networks too large, states of other runs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dcganlib import datasets, models, zoo
from dcganlib.config import ResolvedRunConfig, RunConfig, TrainConfig
from dcganlib.runs import folder as run_folder
from dcganlib.runs.context import explain_memory_errors
from dcganlib.runtime import files, memory
from dcganlib.train import TrainState

Pair = tuple[models.Generator, models.Discriminator]


def build(
    config: RunConfig, num_classes: int, *, rng: torch.Generator | None = None, device: str = "cpu"
) -> Pair:
    """Build the networks of a run, as ``zoo.build`` does.

    Args:
        config: Configuration of the run, with its architecture filled in.
        num_classes: Classes of class-conditional networks, else 0.
        rng: Random number generator for the weights.
        device: "cpu", or "meta" for shapes only.
    """
    return zoo.build(
        str(config.model.architecture),
        image_size=config.data.image_size,
        channels=config.data.channels,
        base_channels=config.model.base_channels,
        num_classes=num_classes,
        rng=rng,
        device=device,
    )


def check_new_folder(folder: Path, data: str | Path, *, restart: bool) -> None:
    """Reject a folder in which no run can start.

    Args:
        folder: Folder of the run.
        data: Name or folder of the images.
        restart: Whether torchrun has restarted the group, whose run may be there already.

    Raises:
        ValueError: It is the folder of the images, or in use.
        PermissionError: Nothing can be written there.
    """
    if not datasets.is_named(data) and Path(data).is_dir() and folder.resolve() == Path(data).resolve():
        raise ValueError(f"{folder} is the folder of the images: name another folder with --out")
    if not (restart and (folder / "config.json").is_file()):
        check_unused(folder)
    check_writable(folder)


def check_unused(folder: Path) -> None:
    """Reject a folder that holds anything but the files of a start that was killed.

    Args:
        folder: Folder of the run; it need not exist.

    Raises:
        ValueError: It holds something.
    """
    if folder.exists() and not (
        folder.is_dir() and (run_folder.entries(folder) == set() or run_folder.is_unfinished_start(folder))
    ):
        raise ValueError(
            f"{folder} is there already: go on with `dcganlib resume {folder}`, or name another folder "
            "with --out"
        )


def check_old_folder(folder: Path) -> None:
    """Reject a folder from which no run can be resumed.

    Args:
        folder: Folder of the run.

    Raises:
        FileNotFoundError: It has no checkpoint.
        PermissionError: Nothing can be written there.
    """
    if not run_folder.has_checkpoint(folder):
        raise FileNotFoundError(f"{folder} has no checkpoint.pt to go on from")
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Reject a folder that is not writable.

    Args:
        folder: Folder of the run; it need not exist.

    Raises:
        PermissionError: Nothing can be written there, or into the nearest folder above that exists.
    """
    above = _above(folder)
    if not files.writable(above):
        raise PermissionError(f"nothing can be written into {above}: name another folder with --out")


def check_disk(folder: Path, state: TrainState) -> None:
    """Reject a disk that has no room for the checkpoints.

    Args:
        folder: Folder of the run.
        state: The state to be saved.

    Raises:
        OSError: There is no room.
    """
    networks = [state.generator, state.discriminator]
    weights = sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())
    there = sum(path.stat().st_size for path in folder.glob("checkpoint*.pt"))
    # Three at a time: the last, the one before and the one being written; each with Adam's two moments.
    needed = 3 * (3 + bool(state.config.ema)) * weights - there
    if shutil.disk_usage(_above(folder)).free < needed:
        raise files.no_room(folder / "checkpoint.pt", f"{needed:,}")


def check_memory(config: RunConfig, num_classes: int, place: torch.device) -> None:
    """Reject networks that cannot be trained in the device's memory, before any of it is allocated.

    Args:
        config: Configuration of the run, with its architecture filled in.
        num_classes: Classes of class-conditional networks, else 0.
        place: Device to train on.

    Raises:
        MemoryError: They are too large.
        ValueError: There is no such architecture, or it cannot be built with these options.
    """
    known = zoo.ARCHITECTURES[str(config.model.architecture)]
    what = f"a network with base_channels {config.model.base_channels or known.base_channels}"
    advice = "lower base_channels"
    with explain_memory_errors(what, advice):
        pair = build(config, num_classes, device="meta")  # shapes only
    # Each weight has a gradient and Adam's two moments.
    needed = 4 * sum(weight.nbytes for network in pair for weight in network.parameters())
    room = memory.free_memory(place)
    if room is not None and needed > room:
        raise MemoryError(
            f"{what} takes {needed / 1e9:,.0f} GB to train, and {place} has {room / 1e9:,.0f} left: {advice}"
        )


def check_same_run(folder: Path, config: ResolvedRunConfig, state: TrainState) -> None:
    """Reject a checkpoint of a different run from the one in ``config.json``.

    Args:
        folder: Folder of the run.
        config: The configuration in ``config.json``.
        state: The state in the checkpoint.

    Raises:
        ValueError: The message lists what differs.
    """
    pair = build(config, config.num_classes, device="meta")  # shapes only
    expected, found = _facts(config.train, pair), _facts(state.config, (state.generator, state.discriminator))
    if differences := _differences(found, expected):
        raise ValueError(
            f"the checkpoint in {folder} is of another run than config.json says: {'; '.join(differences)}"
        )


def check_same_networks(source: run_folder.Run, expected: Pair) -> None:
    """Reject a run to start from whose networks are not like the new ones.

    Args:
        source: The run to start from.
        expected: The new networks.

    Raises:
        ValueError: The message names the first difference, and the other run's options.
    """
    found, own = [source.generator, source.discriminator], source.config.model
    there = [(old, new) for old, new in zip(found, expected, strict=True) if old is not None]
    if differences := _differences(*(_network_facts(pair) for pair in zip(*there, strict=True))):
        raise ValueError(
            f"init_from must be a run of the same networks: {source.folder} has {differences[0]}. Its "
            f"architecture is {own.architecture}, its base_channels {own.base_channels or 'the usual'}"
        )


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [
        f"{name} {found.get(name)}, not {expected.get(name)}"
        for name in expected | found
        if expected.get(name) != found.get(name)
    ]


def _facts(config: TrainConfig, pair: Sequence[models.Generator | models.Discriminator]) -> dict[str, Any]:
    """All options of a training loop and sizes of its networks, by name."""
    return asdict(config) | _network_facts(pair)


def _network_facts(networks: Sequence[models.Generator | models.Discriminator]) -> dict[str, Any]:
    """All sizes of networks and options of their layers, by name."""
    facts: dict[str, Any] = {}
    for network in networks:
        label = type(network).__name__[0]
        names = ["image_size", "channels", "num_classes"] + ["latent_dim"] * (label == "G")
        facts |= {f"{label}'s {name}": getattr(network, name) for name in names}
        for position, layer in enumerate(network.layers, start=1):
            facts |= {f"{label}'s layer {position} {name}": value for name, value in asdict(layer).items()}
    return facts


def _above(folder: Path) -> Path:
    """A folder, or the nearest one above it that exists."""
    return next(above for above in (folder, *folder.absolute().parents) if above.exists())
