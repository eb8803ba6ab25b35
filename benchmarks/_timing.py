"""Shared by the speed benchmarks: processes that take turns, FLOP counts, fits, and the machine."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import torch


class Child:
    """A fresh process of a benchmark. It prepares its work, then answers requests one by one.

    Args:
        script: The benchmark, which calls ``serve`` if it is started with ``--child``.
        spec: The task of the process; plain values.
        deadline: When to stop waiting for an answer and end the process, by ``time.perf_counter``.

    Attributes:
        ready: Its report after the preparation.
        seconds: From its start until then, imports included.

    Raises:
        TimeoutError: There was no answer by the deadline; also from ``ask``.
        RuntimeError: The process ended by itself.
    """

    def __init__(self, script: str, spec: dict[str, Any], deadline: float = math.inf) -> None:
        begin, self._deadline = time.perf_counter(), deadline
        command = [sys.executable, script, "--child", json.dumps(spec)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            self.ready = self._answer()
        except BaseException:
            self.__exit__()
            raise
        self.seconds = time.perf_counter() - begin

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        left = min(self._deadline - time.perf_counter(), threading.TIMEOUT_MAX)
        watch = threading.Timer(max(left, 0), self._process.kill)
        watch.daemon = True
        watch.start()
        line = self._process.stdout.readline()
        watch.cancel()
        if line:
            return json.loads(line)
        code = self._process.wait()
        if time.perf_counter() >= self._deadline:
            raise TimeoutError("a process of the benchmark had no answer in time")
        raise RuntimeError(f"a process of the benchmark ended with code {code}")

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def serve(prepare: Callable[[], tuple[dict[str, Any], Callable[..., dict[str, Any]]]]) -> None:
    """Run as a ``Child``: prepare, then answer one request per line until there are no more.

    Args:
        prepare: Returns the report of the preparation, and a function that turns the values of a request into
            the answer.
    """
    with os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as replies:
        os.dup2(2, 1)  # other output must not mix with the answers
        ready, handle = prepare()
        replies.write(json.dumps(ready) + "\n")
        for line in sys.stdin:
            replies.write(json.dumps(handle(**json.loads(line))) + "\n")


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Measure the seconds of a function call."""
    synchronise(device)
    begin = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begin


def peak(precision: str, device: torch.device, sizes: Sequence[int] | None = None) -> float:
    """FLOP/s of the machine's fastest square matrix product at this moment; a multiply-add counts as two."""
    if device.type == "cuda":  # let float32 products round as its convolutions do
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    default_sizes, repeats = ((4096, 8192), 10) if device.type == "cuda" else ((1024, 2048), 3)
    best = 0.0
    for n in sizes or default_sizes:
        a, b = (torch.randn(n, n, device=device).to(getattr(torch, precision)) for _ in range(2))
        out = torch.empty_like(a)
        seconds = min(
            timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device) for _ in range(repeats)
        )
        best = max(best, 2 * n**3 / seconds)
    return best


def count_flops(work: Callable[[], object]) -> int:
    """FLOPs of the matrix products and convolutions in some work; a multiply-add counts as two."""
    from torch.utils.flop_counter import (
        FlopCounterMode,
    )  # here, so that a process that counts not starts sooner

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def memory_peak(device: torch.device) -> int:
    """Most bytes that this process has held: on the GPU, else in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # of this program alone; getrusage also counts what its parent held at the fork
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="utf-8"))[1])
    import resource  # which Windows lacks

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest, to four digits."""
    found = {"median": median(values), "low": min(values), "high": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def power_law(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Fit y = factor · x^exponent by least squares on the logarithms.

    Returns:
        (exponent, off): off is how far the worst point lies from the fit, as a ratio of at least 1.

    Raises:
        ValueError: A value is not above 0.
    """
    if min(*x, *y) <= 0:
        raise ValueError(f"a power law needs values above 0, got {list(x)} and {list(y)}")
    logs = [math.log(value) for value in x], [math.log(value) for value in y]
    slope, constant = linear_regression(*logs)
    return slope, math.exp(max(abs(b - slope * a - constant) for a, b in zip(*logs, strict=True)))


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    from dcganlib.runtime import cpu_layers  # here, as the start of a process that does without it is timed

    meminfo = Path("/proc/meminfo")
    memory = (
        re.search(r"MemTotal:\s+(\d+)", meminfo.read_text(encoding="utf-8")) if meminfo.exists() else None
    )
    return cpu_layers.processor() | {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(1024 * int(memory[1]) / 1e9, 1) if memory else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
