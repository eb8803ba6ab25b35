"""The group of processes that train one pair of networks, as torchrun starts it.

``torchrun --nproc-per-node 2 -m dcganlib train …`` starts as many processes, each told by variables which one
it is. All run the same code; each takes its share of every batch, and the first alone writes. A process that
was started by itself is a group of one, and nothing here costs it anything. A script of your own trains
inside ``with distributed.process_group():``.
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

IN_STEP = timedelta(minutes=5)
"""How long one process waits for another inside a step before it gives up."""

BETWEEN = timedelta(hours=12)
"""How long it waits while the first one downloads, decodes or writes."""

LOST = "gloo|NCCL|[Cc]onnection (closed|reset|refused)|Timed out|Broken pipe"

_talk: dist.ProcessGroup | None = None  # through which words and objects go, never gradients


class OtherRankError(ConnectionError):
    """Another process of the group failed."""

    said = True  # by that process


def rank() -> int:
    """Number of this process in its group, from 0."""
    return dist.get_rank() if _is_initialized() else 0


def world_size() -> int:
    """Processes in the group; 1 where there is none."""
    return dist.get_world_size() if _is_initialized() else 1


@contextmanager
def process_group() -> Iterator[None]:
    """Be part of the group for a while, where torchrun's variables say that there is one.

    Gradients go through gloo on the CPU and through NCCL on GPUs. Inside another one nothing happens.

    Raises:
        ConnectionError: Another process ended, or did not answer in time.
    """
    global _talk
    started = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if _talk is not None or not (_is_initialized() or started):
        yield
        return
    own = not _is_initialized()
    try:
        if own:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=IN_STEP)
        _talk = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=BETWEEN))  # all are in it
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or re.search(LOST, str(error))):
            raise
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"process {rank()} of {world_size()} has lost the others ({reason}); "
            "go on from the last checkpoint"
        ) from error
    finally:
        if own and _is_initialized():
            _destroy_groups()
        _talk = None


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Do something on all processes, or on some of them, and fail on all if it fails on one.

    The first that failed raises its own error. May be nested: an error is told once.

    Raises:
        OtherRankError: On all others.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OtherRankError) and not getattr(error, "agreed", False):
            _exchange(error=error)
        raise
    _exchange()


def broadcast_from_rank0(action: Callable[[], Any]) -> Any:
    """Let the first process do something, and give all what it found.

    Args:
        action: What to do; its result is sent to the others.
    """
    found = None
    with raise_on_all_ranks():
        if rank() == 0:
            found = action()
    box = [found]
    if world_size() > 1:
        dist.broadcast_object_list(box, src=0, group=_talk)
    return box[0]


def main_process_first(action: Callable[[], Any]) -> Any:
    """Let the first process do something, then one on each other machine, then the rest; for what is cached.

    Args:
        action: What to do; each process keeps its own result.
    """
    mine = 0 if rank() == 0 else 1 if _local_rank() == 0 else 2
    for turn in range(3 if world_size() > 1 else 1):
        with raise_on_all_ranks():
            if turn == mine:
                found = action()
    return found


def is_restart() -> bool:
    """Whether torchrun has started the group again, after a failure on any machine."""
    return any(count > 0 for count in _exchange(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))))


def all_reduce_max(number: int) -> int:
    """The largest of the numbers that the processes give."""
    if world_size() == 1:
        return number
    found = torch.tensor(number, device="cpu")
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_talk)
    return int(found)


def all_reduce_mean(values: Tensor) -> Tensor:
    """The mean of the processes' values, on their device; changed in place."""
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return values


def per_rank_batch_size(batch_size: int) -> int:
    """How many images of a batch each process takes.

    Args:
        batch_size: Images in the batch of all.

    Raises:
        ValueError: They cannot be shared evenly.
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
    """This process's part of a row of things, where each takes ``count`` of them."""
    return slice(rank() * count, (rank() + 1) * count)


def local_device(device: torch.device) -> torch.device:
    """Where this process trains: on the CPU, or on the GPU that has its number on this machine.

    Args:
        device: As for a process by itself.

    Raises:
        ValueError: Groups cannot train there, there are too few GPUs, or the machines differ.
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
    """Kinds of device that this process may train on: a group cannot on MPS."""
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
    """A network whose gradients are the means over the group; in a process by itself the network as it is.

    Every backward pass through it must reach all of its parameters. Its batch norms see this process's share
    of a batch alone, and keep statistics of their own.

    Args:
        network: Shared and not copied; made equal to the first process's.
    """
    if not _is_initialized():
        return network
    known = signature(DistributedDataParallel).parameters  # newer versions of torch have another name for it
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(network, **options)


def _exchange(value: Any = None, *, error: Exception | None = None) -> list[Any]:
    """Give all a value and get everyone's; or tell an error, which is then raised on all.

    The one way to talk between two steps, so that a process that fails is heard wherever the others are.
    """
    if world_size() == 1:
        return [value]
    said = None if error is None else f"{type(error).__name__}: {error}"
    answers: list[Any] = [None] * world_size()
    dist.all_gather_object(answers, (said, value), group=_talk)
    failed = [number for number, answer in enumerate(answers) if answer[0] is not None]
    if error is not None and failed[0] == rank():
        vars(error)["agreed"] = True  # so that it is not told again
        raise error
    if failed:
        raise OtherRankError(f"process {failed[0]} of {world_size()} has failed: {answers[failed[0]][0]}")
    return [value for _, value in answers]


def _destroy_groups() -> None:
    """End the groups that this process has made.

    The end of a group waits for its threads, and a thread that frees a tensor waits for the interpreter's
    lock. Before torch 2.8 a group keeps that lock while it waits, and neither goes on. A backend gives it
    up, so each is held here until its group is gone (https://github.com/pytorch/pytorch/pull/154976).
    """
    global _talk
    groups = [group for group in (dist.group.WORLD, _talk) if group is not None]
    backends = [group._get_backend(torch.device("cpu")) for group in groups]
    groups, _talk = [], None
    dist.destroy_process_group()
    del backends


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", rank()))
