"""What memory a device, or the container that this process runs in, can still give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch


def free_memory(device: str | torch.device = "cpu") -> int | None:
    """Bytes of memory that a device can still give.

    Args:
        device: As torch names it.

    Returns:
        The number; None where it is not known: on MPS, and for the CPU on macOS and Windows.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory() if device.type == "cpu" else None


def fits(size: int, device: str | torch.device = "cpu") -> bool:
    """Whether a device has free memory for so many bytes. Where it is not known, the allocator decides.

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


def available_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that this process can still take.

    That is what Linux says to be available, or less where a control group, as of a container or a job of a
    cluster, has a limit. Cached files count as available, since Linux drops them when memory is asked for.

    Args:
        proc: Where Linux tells of its processes.
        groups: Where it tells of its control groups.

    Returns:
        The number, at least 0; None where it is not known, as on macOS and Windows.
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
    """This process's control groups and those above, of either version: folder, files, key of memory.stat."""
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
