"""The group of processes that train one pair of networks, as torchrun starts it. Only this file knows ranks.

``torchrun --nproc-per-node 2 -m dcganlib train …`` starts two processes and gives each its rank, in
environment variables. All run the same code; each takes its share of every batch, and only rank 0 writes
files. A process started without torchrun is a group of one, at no cost. A script of your own trains inside
``with distributed.process_group():``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

STEP_TIMEOUT = timedelta(minutes=5)
"""How long a process waits for the others inside a step."""

SETUP_TIMEOUT = timedelta(hours=12)
"""How long a process waits while rank 0 downloads, decodes or writes."""

# How errors of a lost connection begin, or what they contain, where torch raises a plain RuntimeError.
LOST_CONNECTION = "gloo|NCCL|[Cc]onnection (closed|reset|refused)|Timed out|Broken pipe"

_object_group: dist.ProcessGroup | None = (
    None  # for Python objects and errors; gradients use the default group
)


class OtherRankError(ConnectionError):
    """Another process of the group failed."""

    said = True  # that process reports the error


def rank() -> int:
    """Rank of this process in its group, from 0."""
    return dist.get_rank() if _is_initialized() else 0


def world_size() -> int:
    """Number of processes in the group; 1 without one."""
    return dist.get_world_size() if _is_initialized() else 1


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group, if torchrun's environment variables say that there is one, and leave it afterwards.

    Gradients go through gloo on the CPU and through NCCL on GPUs. Nested inside another one it does nothing.

    Raises:
        ConnectionError: Another process ended, or did not reply in time.
    """
    global _object_group
    started = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if _object_group is not None or not (_is_initialized() or started):
        yield
        return
    own = not _is_initialized()
    try:
        if own:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=STEP_TIMEOUT)
        _object_group = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=SETUP_TIMEOUT))
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or re.search(LOST_CONNECTION, str(error))):
            raise
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"process {rank()} of {world_size()} has lost the others ({reason}); "
            "go on from the last checkpoint"
        ) from error
    finally:
        if own and _is_initialized():
            _destroy_groups()
        _object_group = None


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Run the body on all ranks or on some, and fail on all if it fails on one.

    The lowest rank that failed raises its own error. It can be nested: an error is sent once.

    Raises:
        OtherRankError: On all other ranks.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OtherRankError) and not getattr(error, "exchanged", False):
            _exchange(error=error)
        raise
    _exchange()


def broadcast_from_rank0(action: Callable[[], Any]) -> Any:
    """Call a function on rank 0 alone, and return its result on all ranks.

    Args:
        action: The function; its result must be picklable.
    """
    result = None
    with raise_on_all_ranks():
        if rank() == 0:
            result = action()
    box = [result]
    if world_size() > 1:
        dist.broadcast_object_list(box, src=0, group=_object_group)
    return box[0]


def main_process_first(action: Callable[[], Any]) -> Any:
    """Call a function on rank 0 first, then on one rank of each other machine, then on the rest.

    For work whose result is cached on disk, so that it is done once a machine.

    Args:
        action: The function; each process keeps its own result.
    """
    own_turn = 0 if rank() == 0 else 1 if _local_rank() == 0 else 2
    for turn in range(3 if world_size() > 1 else 1):
        with raise_on_all_ranks():
            if turn == own_turn:
                result = action()
    return result


def is_restart() -> bool:
    """Whether torchrun has restarted the group after a failure on any machine."""
    return any(count > 0 for count in _exchange(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))))


def all_reduce_max(number: int) -> int:
    """The largest of the processes' numbers."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number, device="cpu")
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=_object_group)
    return int(largest)


def all_reduce_mean(values: Tensor) -> Tensor:
    """The mean of the processes' values, on their device; changed in place."""
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return values


def per_rank_batch_size(batch_size: int) -> int:
    """Number of images of a batch that each process takes.

    Args:
        batch_size: Images in a batch, over all processes.

    Raises:
        ValueError: It is not a multiple of the number of processes.
    """
    each, left = divmod(batch_size, world_size())
    if left:
        fitting = " or ".join(str(n * world_size()) for n in (each, each + 1) if n)
        raise ValueError(
            f"batch_size {batch_size} cannot be shared evenly by {world_size()} processes: use a multiple of "
            f"{world_size()}, such as {fitting}"
        )
    return each


def rank_slice(count: int) -> slice:
    """This rank's slice of a sequence of which each rank takes ``count`` items."""
    return slice(rank() * count, (rank() + 1) * count)


def local_device(device: torch.device) -> torch.device:
    """Device of this process: the CPU, or the GPU whose number is its rank on this machine.

    Args:
        device: As chosen for a process without a group.

    Raises:
        ValueError: A group cannot train there, there are too few GPUs, or the ranks' devices differ.
    """
    if not _is_initialized():
        return device
    if device.type not in device_types() or device.index is not None:
        raise ValueError(
            "device must be cpu or cuda in a group, where each process takes the GPU of its number, "
            f"got {device}"
        )
    if len(kinds := set(_exchange(device.type))) > 1:
        raise ValueError(
            f"some processes have {' and others '.join(sorted(kinds))}: pass device cpu, or use machines "
            "that are alike"
        )
    if device.type == "cpu":
        return device
    if _local_rank() >= torch.cuda.device_count():
        raise ValueError(
            f"process {_local_rank()} of this machine has no GPU of its own, there are "
            f"{torch.cuda.device_count()}: start at most as many processes"
        )
    torch.cuda.set_device(_local_rank())
    return torch.device("cuda", _local_rank())


def device_types() -> tuple[str, ...]:
    """Types of device that this process can train on; a group cannot train on MPS."""
    return ("cpu", "cuda") if _is_initialized() else ("cpu", "cuda", "mps")


def sync_batch_norm(*networks: nn.Module) -> None:
    """Let the batch norms of networks see the whole group's batch. A process by itself changes nothing.

    Args:
        networks: On this process's device; changed in place.

    Raises:
        ValueError: The device is not a GPU, and there are other processes.
    """
    if world_size() == 1:
        return
    check_sync_batch_norm(next(networks[0].parameters()).device)
    for network in networks:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # in place, for all but an outermost layer


def check_sync_batch_norm(device: torch.device) -> None:
    """Refuse to synchronise batch norm where a group of processes cannot.

    Args:
        device: Where this process trains.

    Raises:
        ValueError: The device is not a GPU, and there are other processes.
    """
    if world_size() > 1 and device.type != "cuda":
        raise ValueError("sync_batch_norm needs GPUs: torch cannot synchronise batch norm on the CPU")


def wrap_ddp(network: nn.Module) -> nn.Module:
    """Wrap a network so that its gradients are averaged over the group; without a group, return it unchanged.

    Every backward pass through it must reach all of its parameters. Its batch norms see only this process's
    share of a batch, and keep their own statistics.

    Args:
        network: Shared, not copied; its weights are set to those of rank 0.
    """
    if not _is_initialized():
        return network
    known = signature(DistributedDataParallel).parameters  # renamed in newer torch
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(network, **options)


def _exchange(value: Any = None, *, error: Exception | None = None) -> list[Any]:
    """Send a value to all ranks and return everyone's; or send an error, which is then raised on all.

    All communication between steps goes through here, so a rank that fails reaches the others wherever they
    are.
    """
    if world_size() == 1:
        return [value]
    message = None if error is None else f"{type(error).__name__}: {error}"
    replies: list[Any] = [None] * world_size()
    dist.all_gather_object(replies, (message, value), group=_object_group)
    failed = [number for number, (failure, _) in enumerate(replies) if failure is not None]
    if error is not None and failed[0] == rank():
        vars(error)["exchanged"] = True  # so that it is not sent again
        raise error
    if failed:
        raise OtherRankError(f"process {failed[0]} of {world_size()} has failed: {replies[failed[0]][0]}")
    return [value for _, value in replies]


def _destroy_groups() -> None:
    """Destroy the groups that this process has made.

    Destroying a group waits for its threads, and a thread that frees a tensor waits for the GIL. Before torch
    2.8 the group holds the GIL while it waits, so the two deadlock. A backend releases it, so each backend is
    kept here until its group is gone (https://github.com/pytorch/pytorch/pull/154976).
    """
    global _object_group
    groups = [group for group in (dist.group.WORLD, _object_group) if group is not None]
    backends = [group._get_backend(torch.device("cpu")) for group in groups]
    groups, _object_group = [], None
    dist.destroy_process_group()
    del backends


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _local_rank() -> int:
    """Rank of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", rank()))
