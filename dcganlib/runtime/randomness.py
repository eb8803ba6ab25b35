"""Torch's global random source, borrowed for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dcganlib.runtime import distributed


@contextmanager
def fork_rng(rng: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed torch's global source, which dropout draws from, by ``rng``; restore it afterwards.

    Each process of a group gets its own seed, because each has other images.

    Args:
        rng: Source of the seed, on the CPU. One number is drawn from it.
        device: Where the layers compute. The sources of other devices are left alone.
    """
    seed = int(torch.randint(2**62, (), generator=rng, device="cpu")) + distributed.rank()
    gpu = device.type in ("cuda", "mps")
    with torch.random.fork_rng([device] if gpu else [], device_type=device.type):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed all other GPUs too
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
