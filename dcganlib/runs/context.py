"""The context of a run: torch's defaults, signals, one-line errors, random number generators."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from dcganlib.config import TrainConfig

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
ALLOCATION = "out of memory|allocate memory|DefaultCPUAllocator|ALLOC_FAILED|overflow"


class Stopped(KeyboardInterrupt):
    """A signal stopped a run between two steps, and its folder is complete up to there.

    Attributes:
        exit_code: 128 plus the signal's number, as in shells: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int, folder: Path, step: int) -> None:
        super().__init__(
            f"stopped after step {step}, all saved; `dcganlib resume {folder}` goes on from there"
        )
        self.exit_code = 128 + number


class Collapsed(Stopped):
    """A run stopped because its samples have collapsed; its folder is complete up to there.

    Attributes:
        exit_code: 3.
    """

    def __init__(self, folder: Path, step: int) -> None:
        KeyboardInterrupt.__init__(
            self,
            f"stopped after step {step} because the samples have collapsed, all saved; `dcganlib diagnose "
            f"{folder}` says more, `dcganlib resume {folder}` goes on from there",
        )
        self.exit_code = 3


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Reset torch's global settings (grad mode, default dtype, default device) for the duration."""
    dtype = torch.get_default_dtype()
    elsewhere = torch.empty(0).device.type != "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.device("cpu") if elsewhere else nullcontext(),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect the signals that ask a run to stop; a second one interrupts at once.

    Yields:
        The numbers of the signals so far.
    """
    caught: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        for other, handler in before.items():
            signal.signal(other, handler)

    if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
        usual = (signal.SIG_DFL, signal.default_int_handler)
        found = {number: signal.getsignal(number) for number in SIGNALS}
        before |= {number: handler for number, handler in found.items() if handler in usual}
        for number in before:  # not those that are ignored, as under nohup
            signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def explain_compile_errors(config: TrainConfig) -> Iterator[None]:
    """Say in one line why ``torch.compile`` failed, which happens when a network is first used.

    Args:
        config: Settings of the run's training loop.

    Raises:
        ValueError: The networks could not be compiled.
    """
    try:
        yield
    except Exception as error:
        of_compiler = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
        # Compiled code asserts the sizes and strides that it was made for.
        if not config.compile or not (of_compiler or isinstance(error, AssertionError)):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"torch.compile failed ({reason}): leave out --compile") from error


@contextmanager
def explain_memory_errors(what: str, advice: str) -> Iterator[None]:
    """Say in one line what did not fit into memory.

    Args:
        what: What was too large, such as "n 5".
        advice: What to do.

    Raises:
        MemoryError: It did not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        if isinstance(error, RuntimeError) and not re.search(ALLOCATION, str(error)):
            raise
        raise MemoryError(f"{what} does not fit into memory: {advice}") from error


def rng_for(seed: int, purpose: int) -> torch.Generator:
    """A generator for a purpose: 0 for the weights, 1 for the image order, 2 for the fixed latents."""
    return torch.Generator().manual_seed((seed * 1_000_003 + purpose + 1) % 2**63)
