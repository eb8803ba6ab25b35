"""The options of a run: each field is an option of the command, a key of ``config.json`` and part of the API.

A field's annotation defines its check, its default is the option's default, and its line under "Attributes"
is the help that ``dcganlib train --help`` prints. So a new option is one field and one line of help. Nothing
here imports torch.

Fields accept only built-in Python numbers. A NumPy scalar in a checkpoint could not be loaded, because only
plain values are read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Integral
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

LARGEST = 2**62  # torch accepts no larger integers

TEXTS = tuple[str, ...]
WORDS: dict[Any, str] = {
    **{bool: "True or False", int: "a whole number", float: "a number", str: "a text", NoneType: "None"},
    **{Path: "a path", TEXTS: "a tuple of texts"},
}

DEFAULT_EPOCHS = 25


class ConfigError(ValueError):
    """An option has the wrong type, is out of range, or conflicts with another."""


@dataclass(frozen=True)
class Range:
    """The numbers that a field accepts, all of them finite.

    Attributes:
        low: Lower bound.
        above: Whether the lower bound is exclusive.
        below: Exclusive upper bound; default: the largest float.
        most: Inclusive upper bound of an integer, instead of ``below``.
    """

    low: float
    above: bool = False
    below: float | None = None
    most: int | None = None

    def holds(self, value: float) -> bool:
        """Whether a number is in range; NaN never is."""
        if not (value > self.low if self.above else value >= self.low):
            return False
        if self.most is not None:
            return value <= self.most
        return value <= sys.float_info.max if self.below is None else value < self.below

    def words_for(self, value: float) -> str:
        """The part of an error message that says what a number must be."""
        if self.most is not None:
            return f"at least {self.low}" if value < self.low else f"at most {self.most:,}"
        if self.below is None or (self.below == LARGEST and value < LARGEST):
            return f"above {self.low} and finite" if self.above else f"at least {self.low}"
        return f"from {self.low} to below {'2**62' if self.below == LARGEST else self.below}"


@dataclass(frozen=True)
class OneOf:
    """The few values that a field accepts, and how a message lists them."""

    values: tuple[Any, ...]
    words: str

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.values

    def words_for(self, value: Any) -> str:
        """The part of an error message that says what a value must be."""
        return self.words


@dataclass(frozen=True)
class SomeOf:
    """Words that a text field accepts, joined by commas, in any order; or "none".

    Attributes:
        choices: The words.
    """

    choices: tuple[str, ...]

    def holds(self, value: str) -> bool:
        """Whether a text names one or more of them, each once, or none."""
        words = value.split(",")
        return value == "none" or (set(words) <= set(self.choices) and len(set(words)) == len(words))

    def words_for(self, value: str) -> str:
        """The part of an error message that says what a text must be."""
        return f"none, or one or more of {', '.join(self.choices)} joined by commas"


Count = Annotated[int, Range(1, below=LARGEST)]
NonNegativeInt = Annotated[int, Range(0, below=LARGEST)]
Size = Annotated[int, Range(1, most=10**9)]  # of steps, pixels or images
UpToMillion = Annotated[int, Range(1, most=10**6)]
Channels = Annotated[int, OneOf((1, 3), "1 (grey) or 3 (RGB)")]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, below=1)]


def check_fields(settings: object) -> None:
    """Reject a value that has a different type from its field's annotation or is out of the annotated range.

    Args:
        settings: A dataclass whose fields are dataclasses, ``bool``, ``int``, ``float``, ``str``, ``Path``,
            ``tuple[str, ...]``, a ``Literal`` or None, or one of these with a ``Range``, ``OneOf`` or
            ``SomeOf``. Fields of other types are not checked. A ``float`` field accepts an ``int``.

    Raises:
        ConfigError: The message names the field, what it accepts, and what it got.
    """
    kind: Any = type(settings)  # mypy does not treat classes as hashable
    for name, hint in _hints(kind).items():
        value = getattr(settings, name)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        plain = [get_args(one)[0] if get_origin(one) is Annotated else one for one in kinds]
        if not all(one in WORDS or get_origin(one) is Literal or is_dataclass(one) for one in plain):
            continue
        fitting = [one for one, bare in zip(kinds, plain, strict=True) if _is(value, bare)]
        if not fitting:
            raise ConfigError(f"{name} must be {' or '.join(map(_words, plain))}, got {_shown(value)}")
        for bounds in getattr(fitting[0], "__metadata__", ()):
            if not bounds.holds(value):
                raise ConfigError(f"{name} must be {bounds.words_for(value)}, got {value!r}")


def check_count(name: str, value: object) -> int:
    """Reject anything but an integer of at least 1; NumPy integers are accepted.

    Args:
        name: Name of the argument, for the message.
        value: Its value.

    Returns:
        The number as a Python ``int``.

    Raises:
        ValueError: The message names the argument, what it accepts, and what it got.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


Kind = TypeVar("Kind")


def from_dict(kind: type[Kind], content: dict[str, Any]) -> Kind:
    """Rebuild a dataclass from its ``asdict`` form, also after JSON; nested ones and tuples are restored.

    Args:
        kind: The dataclass.
        content: Its fields by name. Those with a default may be absent.

    Raises:
        ConfigError: A value has the wrong type or is out of range.
        TypeError: A field is missing, or there is no such field.
        AttributeError: The value of a nested dataclass is not a dict.
    """
    values, itself = dict(content), cast("Any", kind)
    hints = _hints(itself)
    for name in values.keys() & hints.keys():
        hint = hints[name]
        if is_dataclass(hint):
            values[name] = from_dict(hint, dict(values[name].items()))  # type: ignore[arg-type]
        elif hint == TEXTS and isinstance(values[name], list):
            values[name] = tuple(values[name])
    return kind(**values)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {one.name: hints[one.name] for one in fields(kind)}


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return type(value) is str and value in get_args(kind)
    if kind == TEXTS:
        return type(value) is tuple and all(type(one) is str for one in value)
    if kind is Path or is_dataclass(kind):
        return isinstance(value, kind)  # type: ignore[arg-type]
    return type(value) in ((int, float) if kind is float else (kind,))


def _shown(value: Any) -> str:
    """A value as an error message shows it; NumPy 1.26 prints its scalars like Python numbers.

    NumPy is not imported for this, so that the command starts at once.
    """
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        return f"np.{type(value).__name__}({value.item()!r})"
    return repr(value)


def _words(kind: Any) -> str:
    if is_dataclass(kind):
        return f"a {kind.__name__}"  # type: ignore[union-attr]
    return f"one of {get_args(kind)}" if get_origin(kind) is Literal else WORDS[kind]


LossName = Literal["bce", "hinge", "wasserstein", "relativistic"]
Augmentations = Annotated[str, SomeOf(("color", "translation", "cutout"))]
Prior = Literal["normal", "uniform"]
PRIORS = get_args(Prior)
Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS = get_args(Precision)


@dataclass(frozen=True)
class Checked:
    """A dataclass whose fields are checked when it is made."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DataConfig(Checked):
    """The images to train on.

    If ``data`` is a ``Path`` or contains a path separator, it is always a folder or zip.

    Attributes:
        data: mnist, fashion-mnist, stacked-mnist, mnist-mini or faces (these two need no network), celeba,
            pokemon, landscapes, or a folder or zip of images.
        image_size: Resize to this many pixels. Default: 28 for the MNIST family, else 64.
        channels: 1 for grey, 3 for RGB. Default: the dataset's own, 3 for a folder.
        center_crop: Side of the centre square to keep, in pixels of the file. Default: the largest.
        max_images: Use N images, a random sample in which classes keep their shares. Default: all; for faces,
            how many to draw, 20000.
        mirror: In training, flip half of the images left to right, drawn anew in each epoch.

    Raises:
        ConfigError: A value has the wrong type or is out of range.
    """

    data: str | Path
    image_size: Size | None = None
    channels: Channels | None = None
    center_crop: Size | None = None
    max_images: Size | None = None
    mirror: bool = False

    @property
    def load_options(self) -> dict[str, Any]:
        """The options of ``datasets.load``, by name."""
        return {name: value for name, value in vars(self).items() if name not in ("data", "mirror")}


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The pair of networks.

    Attributes:
        architecture: Networks, as `dcganlib info` lists them. Default: dcgan; for grey images of 28 pixels
            dcgan-28, or paper-mnist-conditional if conditional.
        base_channels: Width of the networks. Default: the architecture's own.
        conditional: Train class-conditional networks, on a dataset with labels.

    Raises:
        ConfigError: A value has the wrong type or is out of range.
    """

    architecture: str | None = None
    base_channels: Size | None = None
    conditional: bool = False


@dataclass(frozen=True)
class TrainConfig(Checked):
    """The training loop. The defaults are the paper's (Radford et al. 2016, section 4) except for the prior.

    Attributes:
        batch_size: Images per step, over all processes together.
        g_lr: Learning rate of the generator's Adam.
        d_lr: Learning rate of the discriminator's Adam.
        beta1: Decay of Adam's first moment; 0.5 instead of Adam's usual 0.9.
        beta2: Decay of Adam's second moment.
        prior: Distribution of z. The paper's is uniform; nearly all later code uses normal.
        seed: Seed of z and dropout; in a run, also of the weights and the order of the images.
        precision: Format of convolutions: float32, or bfloat16 or float16, with weights, statistics and
            losses in float32. auto is the fastest on the device.
        ema: Decay of an exponential moving average of the generator's weights, such as 0.999; 0: none.
            Training does not use it.
        weight_decay: Fraction of each weight that is added to its gradient (L2); 2.5e-5 in the paper's MNIST
            test.
        decay_start: Step from which the learning rates decrease linearly.
        decay_steps: Steps over which they decrease to 0; 0 keeps them constant.
        fast: Use CPU-optimised layers, fused Adam and channels-last images, which change only
            the rounding.
        compile: Compile both networks with torch.compile, which takes up to a minute at the start.
        sync_batch_norm: Under torchrun, on GPUs: compute batch norm over the whole batch, not over each
            process's part.
        loss: Loss of both players: bce (binary cross-entropy, non-saturating), hinge, wasserstein, or
            relativistic (on pairs of a real and a generated image).
        gradient_penalty: Weight of WGAN-GP's penalty, which pulls the slope of D between real and generated
            images to 1; 10 in its paper, 0: none. The penalties need a D without batch norm.
        r1: Weight (gamma) of the penalty gamma/2 times the squared slope of D on real images; 0: none.
        r2: The same on generated images.
        d_steps: Steps of D for each step of G, each with a new batch and new z; 5 for WGAN-GP.
        augment: Differentiable augmentation of all images that D sees, for small datasets: none, or one or
            more of color, translation and cutout, joined by commas.

    Raises:
        ConfigError: A value has the wrong type or is out of range, or ``compile`` is set with a penalty.
    """

    batch_size: Count = 128
    g_lr: Positive = 2e-4
    d_lr: Positive = 2e-4
    beta1: Share = 0.5
    beta2: Share = 0.999
    prior: Prior = "normal"
    seed: NonNegativeInt = 0
    precision: Precision = "auto"
    ema: Share = 0.0
    weight_decay: NotNegative = 0.0
    decay_start: NonNegativeInt = 0
    decay_steps: NonNegativeInt = 0
    fast: bool = True
    compile: bool = False
    sync_batch_norm: bool = False
    loss: LossName = "bce"
    gradient_penalty: NotNegative = 0.0
    r1: NotNegative = 0.0
    r2: NotNegative = 0.0
    d_steps: Annotated[int, Range(1, below=1001)] = 1
    augment: Augmentations = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile and (self.gradient_penalty or self.r1 or self.r2):
            raise ConfigError(
                "compile must be False with gradient_penalty, r1 or r2, which need second derivatives"
            )


@dataclass(frozen=True)
class RunConfig(Checked):
    """A whole run: its images, networks, training loop and length.

    Attributes:
        data: The images to train on.
        model: The pair of networks.
        train: The training loop.
        steps: Length in steps. Default: 25 epochs.
        epochs: Length in passes over the images, instead of steps.
        checkpoint_every: Steps between two checkpoints.
        sample_every: Steps between two sample grids. Default: about 60 grids in all.
        init_from: Start from the weights of this run, a folder or the name of a stored one: G's, and D's if
            it kept them. The networks must be the same.
        evaluate_every: Measure 1,000 samples every N steps, into metrics.csv. Default: never.
        keep_best: Keep the weights with the lowest Fréchet distance too, in best.safetensors; needs
            evaluate_every.
        stop_when_collapsed: Stop, with all saved, once all samples look the same.

    Raises:
        ConfigError: A value has the wrong type or is out of range, both steps and epochs are given, or
            keep_best without evaluate_every.
    """

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    steps: Size | None = None
    epochs: Size | None = None
    checkpoint_every: Size = 500
    sample_every: Size | None = None
    init_from: str | Path | None = None
    evaluate_every: Size | None = None
    keep_best: bool = False
    stop_when_collapsed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("give steps or epochs, not both")
        if self.keep_best and self.evaluate_every is None:
            raise ConfigError("keep_best needs evaluate_every: without it no weights are measured")


@dataclass(frozen=True, kw_only=True)
class ResolvedRunConfig(RunConfig):
    """A run as ``config.json`` stores it: every option has its value, and facts about the data are added.

    Attributes:
        steps: Length in steps, counted from the run's start.
        sample_every: Steps between two sample grids.
        num_classes: Classes of class-conditional networks, else 0.
        class_names: Names of labels 0, 1, ... of class-conditional networks. Empty in old runs on a folder.
        contents: How many images the dataset had, their shape and a checksum. None in old runs.

    Raises:
        ConfigError: As for ``RunConfig``; or there is not one name per class.
    """

    steps: Size
    sample_every: Size
    num_classes: NonNegativeInt = 0
    class_names: tuple[str, ...] = ()
    contents: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ConfigError(
                f"class_names must be one for each of the {self.num_classes} classes, "
                f"got {self.class_names!r}"
            )


@dataclass(frozen=True)
class SampleConfig(Checked):
    """A grid of samples.

    Attributes:
        n: Number of images, at most a million.
        seed: Seed of the latents.
        columns: Images in a row.
        label: Class of all images of a class-conditional run: its name, or its number as `dcganlib info DIR`
            lists them. If a class name looks like a number, the name wins. Default: each class in turn.
        best: Use the weights that measured best while training, of a run with keep_best.

    Raises:
        ConfigError: A value has the wrong type or is out of range.
    """

    n: UpToMillion = 64
    seed: NonNegativeInt = 0
    columns: Size = 8
    label: str | int | None = None
    best: bool = False


MIN_SAMPLES = 10  # with fewer, the metrics of an evaluation are meaningless


@dataclass(frozen=True)
class EvaluationConfig(Checked):
    """What ``evaluate`` measures about a run, and how often.

    Attributes:
        samples: Images generated per repeat, and training images that they are compared with; at least 10. A
            smaller training set limits both.
        repeats: Number of repeats, each with new samples and other training images.
        seed: Seed of the first repeat; the next ones count up from it.
        ema: Use the averaged weights if the run has them, else those of the last step.
        inception: Compute the FID too, for colour images; needs torch-fidelity.

    Raises:
        ConfigError: A value has the wrong type or is out of range.
    """

    samples: Annotated[int, Range(MIN_SAMPLES, most=10**9)] = 10_000
    repeats: UpToMillion = 3
    seed: NonNegativeInt = 0
    ema: bool = True
    inception: bool = False
