"""The settings of a run, and the check of each by its annotation: type and range, where it is made.

A field takes Python's own numbers alone. One of NumPy's would be saved in a checkpoint, which then could not
be loaded, as nothing but plain values is read from a file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from numbers import Integral
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", NoneType: "None"}


LARGEST = 2**62  # beyond it no number goes into torch


@dataclass(frozen=True)
class Range:
    """The numbers that a field takes, all of them finite.

    Attributes:
        low: The least, or the one that all lie above.
        above: Whether ``low`` itself is out of range.
        below: What all are less than; if absent, the largest float.
    """

    low: float
    above: bool = False
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a number is in range, which NaN never is."""
        if not (value > self.low if self.above else value >= self.low):
            return False
        return value <= sys.float_info.max if self.below is None else value < self.below

    def words_for(self, value: float) -> str:
        """What a number out of range must be."""
        if self.below is None or (self.below == LARGEST and value < LARGEST):
            return f"above {self.low} and finite" if self.above else f"at least {self.low}"
        return f"from {self.low} to below {'2**62' if self.below == LARGEST else self.below}"


Count = Annotated[int, Range(1, below=LARGEST)]
Whole = Annotated[int, Range(0, below=LARGEST)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, below=1)]


def check_fields(settings: object) -> None:
    """Refuse a value of another type than its field is annotated with, or out of the annotated range.

    Args:
        settings: A dataclass whose fields are ``bool``, ``int``, ``float``, ``str``, a ``Literal`` or None,
            or one of these with a ``Range``. Fields of other types are left alone. A ``float`` takes an
            ``int``.

    Raises:
        ValueError: The message names the field, what it takes, and what it got.
    """
    kind: Any = type(settings)  # mypy takes no class for hashable
    for name, hint in _hints(kind).items():
        value = getattr(settings, name)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        plain = [get_args(one)[0] if get_origin(one) is Annotated else one for one in kinds]
        if not all(one in WORDS or get_origin(one) is Literal for one in plain):
            continue
        fitting = [one for one, bare in zip(kinds, plain, strict=True) if _is(value, bare)]
        if not fitting:
            raise ValueError(f"{name} must be {' or '.join(map(_said, plain))}, got {_shown(value)}")
        for bounds in getattr(fitting[0], "__metadata__", ()):
            if not bounds.holds(value):
                raise ValueError(f"{name} must be {bounds.words_for(value)}, got {value!r}")


def check_count(name: str, value: object) -> int:
    """Refuse what is no whole number of at least 1, which may be one of NumPy's.

    Args:
        name: For the message.
        value: Of the argument.

    Returns:
        The number as Python's own.

    Raises:
        ValueError: The message names the argument, what it takes, and what it got.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return type(value) is str and value in get_args(kind)
    return type(value) in ((int, float) if kind is float else (kind,))


def _shown(value: Any) -> str:
    """A value as an error shows it; in NumPy 1.26 the numbers of an array look like Python's own."""
    if type(value).__module__ == "numpy" and hasattr(
        value, "item"
    ):  # not imported: the command starts at once
        return f"np.{type(value).__name__}({value.item()!r})"
    return repr(value)


def _said(kind: Any) -> str:
    return f"one of {get_args(kind)}" if get_origin(kind) is Literal else WORDS[kind]


Prior = Literal["normal", "uniform"]
PRIORS = get_args(Prior)
Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS = get_args(Precision)


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run. The defaults are the paper's (Radford et al. 2016, section 4) but for ``prior``.

    Attributes:
        batch_size: Images in a step, of all processes together; 128. The loader's must be the same.
        g_lr, d_lr: Learning rates of the two Adam optimisers; 0.0002.
        beta1: Decay of Adam's first moment; 0.5, in place of Adam's usual 0.9.
        beta2: Decay of Adam's second moment; 0.999, Adam's usual one.
        prior: Law of z. "normal", as nearly all code since has it; the paper's is "uniform".
        seed: Of z and dropout. ``runs.run`` takes it for the weights and the order of the images too, which
            elsewhere are those that ``zoo.build`` and ``datasets.make_loader`` were given a source for.
        precision: "float32"; "bfloat16" or "float16" for convolutions in half the bits (weights, statistics
            and losses stay float32); or "auto", which ``resolve`` turns into what is fastest on the device.
        ema: Decay of a running average of G's weights, such as 0.999; 0 keeps none. It never enters training.
        weight_decay: Share of each weight that is added to its gradient (L2); 0, and 2.5e-5 in the paper's
            MNIST test.
        decay_start, decay_steps: From step ``decay_start`` on, the learning rates fall in a straight line, to
            0 at ``decay_start + decay_steps``. Never where ``decay_steps`` is 0.
        fast: Whether to take the faster of two ways that differ in rounding alone; see ``cpu_layers``,
            and how an image lies in memory.
        compile: Whether ``torch.compile`` writes both networks anew, which takes up to a minute at the start.
        sync_batch_norm: Let batch norm see the whole batch, not each process its own share. On GPUs alone;
            a process by itself sees the whole in any case.

    Raises:
        ValueError: A value is of another type or out of range.
    """

    batch_size: Count = 128
    g_lr: Positive = 2e-4
    d_lr: Positive = 2e-4
    beta1: Share = 0.5
    beta2: Share = 0.999
    prior: Prior = "normal"
    seed: Whole = 0
    precision: Precision = "auto"
    ema: Share = 0.0
    weight_decay: NotNegative = 0.0
    decay_start: Whole = 0
    decay_steps: Whole = 0
    fast: bool = True
    compile: bool = False
    sync_batch_norm: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


MIN_SAMPLES = 10  # with fewer the measures of an evaluation mean nothing


@dataclass(frozen=True)
class EvaluationConfig:
    """What ``evaluation.evaluate`` measures of a run, and how often.

    Attributes:
        samples: Images generated per repeat, and training images that they are compared with; at least 10. A
            smaller training set limits both.
        repeats: Number of repeats, each with new samples and other training images.
        seed: Seed of the first repeat; the next ones count up from it.
        ema: Use the moving average of G's weights if the run has one; else those of the last step.
        inception: Compute the FID as well. Needs torch-fidelity, the weights of Inception, and colour images.

    Raises:
        ValueError: A value has the wrong type or is out of range.
    """

    samples: Annotated[int, Range(MIN_SAMPLES, below=LARGEST)] = 10_000
    repeats: Count = 3
    seed: Whole = 0
    ema: bool = True
    inception: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
