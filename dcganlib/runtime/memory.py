"""How much memory a device has free, and errors that say what did not fit into it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

# How torch's CPU allocator, CUDA, cuDNN and MPS each report that memory ran out.
OUT_OF_MEMORY = "out of memory|DefaultCPUAllocator|ALLOC_FAILED"


def free_memory(device: str | torch.device = "cpu") -> int | None:
    """Bytes of memory that a device can still give.

    Args:
        device: A device by torch's name for it.

    Returns:
        The number; None where it is unknown: on MPS, and for the CPU of macOS and Windows.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory() if device.type == "cpu" else None


def fits(size: int, device: str | torch.device = "cpu") -> bool:
    """Whether a device has this many bytes free. Where that is unknown, the allocator is asked.

    Args:
        size: Bytes, of any magnitude.
        device: As ``free_memory`` takes it.
    """
    free = free_memory(device)
    if free is not None:
        return size <= free
    try:
        torch.empty(size, dtype=torch.uint8, device="cpu")  # not touched, so not taken
    except (RuntimeError, TypeError):  # the second for numbers beyond 64 bits
        return False
    return True


def check_weights_fit(count: int, **arguments: int) -> None:
    """Refuse a network whose float32 weights do not fit into this machine's free memory.

    On torch's "meta" device, which takes no memory, every network fits.

    Args:
        count: Number of weights.
        arguments: The arguments that decide on it, by name.

    Raises:
        MemoryError: The message names the argument that is farthest above its usual value.
    """
    if torch.empty(0).device.type == "meta" or fits(4 * count):
        return
    usual = {"base_channels": 64, "latent_dim": 100, "num_classes": 10, "channels": 3}
    name = max(arguments, key=lambda name: arguments[name] / usual[name])
    raise MemoryError(
        f"{name} {arguments[name]} makes a network of {count:,} weights, {4 * count / 1e9:,.0f} GB, more "
        "than this machine has free memory for: use a smaller one"
    )


@contextmanager
def explain_out_of_memory(real: Tensor) -> Iterator[None]:
    """Turn torch's error for a training step that does not fit into memory into one that gives advice.

    Args:
        real: The step's batch of images, (N, C, H, W).

    Raises:
        MemoryError: The step does not fit; the message names the batch size and a smaller one to try.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU and MPS have no type of their own
        if not re.search(OUT_OF_MEMORY, str(error)):
            raise
        batch, *shape = real.shape
        advice = f"try batch_size {batch // 2}" if batch > 1 else "try smaller images or base_channels"
        raise MemoryError(
            f"a step with batch_size {batch} of images {tuple(shape)} does not fit into the memory of "
            f"{real.device}: {advice}"
        ) from error


def available_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that this process can still take.

    This is Linux's "available", or less where a control group (of a container or a cluster's job) has a
    limit. Cached files count as available, because Linux drops them when memory is needed.

    Args:
        proc: Where Linux mounts its process information.
        groups: Where it mounts its control groups.

    Returns:
        The number, at least 0; None where it is unknown, as on macOS and Windows.
    """
    found = []
    try:
        lines = dict(line.split(":") for line in (proc / "meminfo").read_text(encoding="utf-8").splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, KeyError, ValueError):  # another system, or an old one
        return None
    for folder, limit, usage, cached in _groups(proc, groups):
        try:
            most = int((folder / limit).read_text(encoding="utf-8"))  # "max" where there is none
            used = int((folder / usage).read_text(encoding="utf-8"))
            stat = dict(
                line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
            )
            found.append(max(0, most - used + int(stat[cached])))
        except (OSError, KeyError, ValueError):
            continue
    return min(found)


def _groups(proc: Path, groups: Path) -> Iterator[tuple[Path, str, str, str]]:
    """This process's control groups and their parents, version 1 or 2: folder, files, key of memory.stat."""
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            root, names = groups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = groups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.lstrip("/")
        yield from ((above, *names) for above in (folder, *folder.parents) if above.is_relative_to(root))
