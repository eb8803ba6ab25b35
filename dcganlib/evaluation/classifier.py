"""Small classifiers, whose features are used to measure generated images.

Distances between pixels say little about what two images show. The inputs of the last layer of a digit
classifier say more, so the measures compare these features. The package contains three trained classifiers,
each below 1 MB; ``dcganlib classifier NAME`` retrains one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

import dcganlib
from dcganlib import datasets
from dcganlib.config import Count, NonNegativeInt, Positive, Precision, TrainConfig, check_fields
from dcganlib.datasets import ImageDataset, check_tensor, to_float
from dcganlib.models import init_weights
from dcganlib.runtime import checkpoint
from dcganlib.runtime.device import autocast, pick_device, resolve

NAMES = ("mnist", "fashion-mnist", "faces")
"""The classifiers in the package, by the dataset that each was trained on."""

FOLDER = Path(__file__).parents[1] / "pretrained" / "classifiers"
"""Folder of the classifiers in the package."""


@dataclass(frozen=True)
class ClassifierConfig:
    """How a classifier is built and trained.

    Attributes:
        widths: Channels of the classifier, see ``Classifier``.
        epochs: Passes over the training images. An incomplete last batch of a pass is left out.
        batch_size: Images per step.
        lr: Peak learning rate.
        shift: Largest random shift of an image in pixels, vertical and horizontal; the edge is repeated.
        mirror: Whether to mirror half of the images, left to right.
        seed: Seed of the order, the shifts and the mirroring.
        precision: "float32"; "bfloat16" or "float16" for 16-bit convolutions (weights, statistics and losses
            stay float32, and gradients are scaled for "float16"); or "auto" for what ``device.resolve``
            chooses on the classifier's device.

    Raises:
        ValueError: A value has the wrong type or is out of range.
    """

    widths: tuple[int, ...] = (32, 64, 64)
    epochs: Count = 8
    batch_size: Count = 128
    lr: Positive = 4e-3
    shift: NonNegativeInt = 2
    mirror: bool = False
    seed: NonNegativeInt = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_fields(self)


CONFIGS = {
    "mnist": ClassifierConfig(precision="bfloat16"),
    "fashion-mnist": ClassifierConfig((48, 96, 64), epochs=9, shift=1, mirror=True, precision="bfloat16"),
    "faces": ClassifierConfig((32, 64, 64, 64), precision="bfloat16"),
}
"""How each of ``NAMES`` was trained."""

WARMUP = 0.2  # share of the training in which the learning rate rises; afterwards it falls


class Classifier(nn.Module):
    """A small convolutional classifier.

    A 5x5 convolution with stride 2, then per further width one 3x3 convolution with stride 2 and one with
    stride 1, each followed by batch norm and ReLU. The features are the channel means of the last map, so
    their number is the last width and none is negative. One linear layer computes the logits.

    Args:
        image_size: Height and width of the images in pixels.
        channels: 1 for grey, 3 for RGB.
        names: Meaning of the logits: classes, or attributes.
        multilabel: The names are attributes, any number of which may apply to an image.
        widths: Channels after each stride of 2.

    Attributes:
        about: Metadata of the file that it was loaded from, such as the accuracy; else empty.

    Raises:
        ValueError: A number is below 1, or the names are missing or not unique.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        names: Sequence[str],
        *,
        multilabel: bool = False,
        widths: Sequence[int] = (32, 64, 64),
    ) -> None:
        super().__init__()
        numbers = {"image_size": image_size, "channels": channels, "widths": min(widths, default=0)}
        _check_at_least(1, **numbers)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"names must be different, and at least one, got {tuple(names)}")
        self.image_size, self.channels, self.outputs = image_size, channels, len(names)
        self.names, self.multilabel, self.widths = tuple(names), multilabel, tuple(widths)
        self.about: dict[str, Any] = {}
        first, *others = self.widths
        blocks = _block(channels, first, kernel=5, stride=2)
        for before, width in zip(self.widths, others, strict=False):
            blocks += _block(before, width, stride=2) + _block(width, width)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(self.widths[-1], self.outputs, dtype=torch.float32)

    def features(self, images: Tensor) -> Tensor:
        """Compute features that depend little on the position of what the image shows.

        Args:
            images: float32 of shape (N, channels, image_size, image_size) in [-1, 1].

        Returns:
            Shape (N, D), at least 0: the mean of each channel of the last map, after ReLU. D is the last of
            ``widths``, 64 for the classifiers in the package.

        Raises:
            ValueError: The images have another shape, or are not floating-point.
        """
        _check_shape(self, images)
        if not images.is_floating_point():
            raise ValueError(f"expected floating-point images in [-1, 1], got {images.dtype}")
        maps: Tensor = self.blocks(images)
        return maps.float().mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, outputs) of images in [-1, 1], (N, channels, image_size, image_size)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def predictions(self, logits: Tensor) -> Tensor:
        """Turn logits (N, outputs) into labels, int64 (N,), or for attributes into bool (N, A)."""
        return logits > 0 if self.multilabel else logits.argmax(1)


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of one pass over the training images.

    Attributes:
        epoch: Number of the pass, from 1.
        loss: Mean over the shifted and mirrored images, in nats.
        accuracy: Share of correct predictions on them, over all attributes if there are several.
    """

    epoch: int
    loss: float
    accuracy: float


def build(
    image_set: ImageDataset, *, widths: Sequence[int] = (32, 64, 64), rng: torch.Generator | None = None
) -> Classifier:
    """Make an untrained classifier for a dataset's classes, or for its attributes if it has no classes.

    Args:
        image_set: Images with labels or attributes.
        widths: As in ``Classifier``.
        rng: Random source of the weights, on the CPU; torch's global one by default.

    Returns:
        The classifier on the CPU, in training mode, initialised by ``models.init_weights``.

    Raises:
        ValueError: ``image_set`` is no ``ImageDataset``, has neither classes nor attributes, or its images
            are not square.
    """
    _check_set(image_set)
    _, channels, height, width = image_set.images.shape
    if height != width:
        raise ValueError(f"a classifier takes square images, {image_set.name} has {height} x {width} pixels")
    multilabel = image_set.labels is None
    names = image_set.attribute_names if multilabel else image_set.class_names
    if not names:
        raise ValueError(f"{image_set.name} has neither classes nor attributes to learn")
    with _trainable(), torch.device("cpu"):
        classifier = Classifier(height, channels, names, multilabel=multilabel, widths=widths)
        init_weights(classifier, rng)
    return classifier


def fit(
    classifier: Classifier, image_set: ImageDataset, config: ClassifierConfig = ClassifierConfig()
) -> Iterator[EpochMetrics]:
    """Train a classifier with AdamW, one epoch at a time.

    The learning rate rises linearly from 0 over the first fifth of the steps, then falls linearly to 0.

    Args:
        classifier: Changed in place, on its device; in eval mode whenever metrics are yielded.
        image_set: Images with the classifier's labels or attributes.
        config: Settings. ``widths`` is not used here, because the classifier exists already.

    Yields:
        ``EpochMetrics`` after each epoch.

    Raises:
        ValueError: ``image_set`` is no ``ImageDataset`` or does not fit the classifier. Raised at the first
            step of the loop, before any work.
        FloatingPointError: The loss is NaN or infinite.

    Source:
        Smith and Topin 2018, for the learning rate; Loshchilov and Hutter 2019, for AdamW.
    """
    truth = _truth(classifier, image_set)
    device, rng = _device(classifier), torch.Generator().manual_seed(config.seed)
    precision = resolve(TrainConfig(precision=config.precision), device).precision
    images, truth = image_set.images.to(device), truth.to(device)
    with _trainable():  # not around the loop: between two epochs the caller's own modes apply
        # The memory layout that is fast on CPUs.
        classifier.requires_grad_(True).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=config.lr)
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    steps = len(images) // config.batch_size or 1  # per epoch
    for epoch in range(config.epochs):
        order = torch.randperm(len(images), generator=rng, device="cpu")
        sums = torch.zeros(2, dtype=torch.float32, device=device)
        classifier.train()
        for step in range(steps):
            done = (epoch + (step + 0.5) / steps) / config.epochs
            optimizer.param_groups[0]["lr"] = config.lr * min(done / WARMUP, (1 - done) / (1 - WARMUP))
            chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
            with _trainable():
                batch = to_float(_augmented(images, chosen, config, rng))
                with autocast(precision, device):
                    logits = classifier(batch)
                loss = _loss(logits.float(), truth[chosen.to(device)])
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            correct = classifier.predictions(logits) == truth[chosen.to(device)]
            sums += torch.stack([loss.detach(), correct.float().mean()])
        classifier.eval()
        mean_loss, accuracy = (sums / steps).tolist()
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"the classifier's loss is {mean_loss} in epoch {epoch + 1}: use a smaller lr"
            )
        yield EpochMetrics(epoch + 1, mean_loss, accuracy)


@torch.no_grad()
def predict(classifier: Classifier, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """Classify images in eval mode and without gradients.

    Args:
        classifier: On any device, in any mode, which is restored.
        images: uint8, or floats in [-1, 1], of shape (N, C, H, W), on any device.
        batch_size: Images per batch.

    Returns:
        On the classifier's device: int64 of shape (N,), the class of each image; or bool of shape (N, A),
        whether it has each attribute.

    Raises:
        ValueError: The images are no tensor or do not have the classifier's shape, or ``batch_size`` is
            below 1.
    """
    check_tensor(images)
    _check_at_least(1, batch_size=batch_size)
    device, was_training = _device(classifier), classifier.training
    classifier.eval()
    try:
        predictions = []
        for batch in images.split(batch_size):
            batch = to_float(batch.to(device)) if batch.dtype == torch.uint8 else batch.to(device)
            predictions.append(classifier.predictions(classifier(batch)))
        return torch.cat(predictions)
    finally:
        classifier.train(was_training)


def accuracy(classifier: Classifier, image_set: ImageDataset, *, batch_size: int = 500) -> Tensor | float:
    """Share of correct predictions on a dataset.

    Args:
        classifier: On any device, in any mode, which is restored.
        image_set: Images with the classifier's labels or attributes.
        batch_size: Images per batch.

    Returns:
        From 0 to 1: one number for classes; for attributes float32 of shape (A,) on the CPU.

    Raises:
        ValueError: The dataset does not fit the classifier, or ``batch_size`` is below 1.
    """
    truth = _truth(classifier, image_set)
    correct = truth.cpu() == predict(classifier, image_set.images, batch_size=batch_size).cpu()
    return correct.float().mean(0) if classifier.multilabel else correct.float().mean().item()


def save(path: str | Path, classifier: Classifier, **about: Any) -> None:
    """Save a classifier in float16, as a safetensors file with its class names in the header.

    Args:
        path: File to write. An existing file is replaced only once the new one is complete.
        classifier: On any device.
        about: Metadata that JSON can hold, such as the accuracy; ``load`` restores it in ``about``.

    Raises:
        OSError: The file cannot be written; an existing file is unchanged.
    """
    own = ("image_size", "channels", "names", "multilabel", "widths")
    description = {name: getattr(classifier, name) for name in own}
    checkpoint.save_network(path, "classifier", classifier, description, about, half=True)


def load(name_or_file: str | Path) -> Classifier:
    """Load a classifier.

    Args:
        name_or_file: One of ``NAMES``, or a file that ``save`` wrote.

    Returns:
        The classifier on the CPU, in eval mode; its weights require no gradients.

    Raises:
        ValueError: The name is unknown, or another version of this library wrote the file.
        FileNotFoundError: There is no such file.
        checkpoint.DamagedError: The file is damaged, or was not written by ``save``.
    """
    path = Path(name_or_file)
    if str(name_or_file) in NAMES:
        path = FOLDER / f"{name_or_file}.safetensors"
    elif not path.is_file():
        raise ValueError(f"there is no classifier {name_or_file}; the stored ones are {', '.join(NAMES)}")
    with _trainable(), torch.device("cpu"):
        classifier, about = checkpoint.load_network(
            path, "classifier", lambda description: Classifier(**description)
        )
    classifier.about = about
    return classifier.requires_grad_(False)


def find(data: str | Path, channels: int | None, image_size: int | None) -> tuple[Classifier | None, str]:
    """The classifier in the package that fits a dataset's images.

    Args:
        data: Name of the dataset, or a folder or zip.
        channels, image_size: Shape of the images.

    Returns:
        (classifier, ""), or (None, why there is none).
    """
    name = datasets.find_entry(data).classifier
    if name is None:
        return None, f"there is no classifier for {data}"
    network = load(name)
    if (network.channels, network.image_size) == (channels, image_size):
        return network, ""
    expected = f"{network.channels} x {network.image_size} x {network.image_size}"
    return None, (
        f"the classifier {name} takes images of {expected}, not {channels} x {image_size} x {image_size}"
    )


def _block(channels: int, width: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    options: dict[str, Any] = {"padding": kernel // 2, "bias": False}
    options["dtype"] = torch.float32  # whatever the default dtype is
    convolution = nn.Conv2d(channels, width, kernel, stride, **options)
    return [convolution, nn.BatchNorm2d(width, dtype=torch.float32), nn.ReLU()]


@contextmanager
def _trainable() -> Iterator[None]:
    """Create trainable tensors and record gradients, whatever the caller's modes are."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _augmented(images: Tensor, chosen: Tensor, config: ClassifierConfig, rng: torch.Generator) -> Tensor:
    """The chosen images, each shifted and perhaps mirrored at random: uint8 (chosen, C, H, W)."""
    size, count = images.shape[-1], len(chosen)
    shifts = torch.randint(-config.shift, config.shift + 1, (2, count, 1), generator=rng, device="cpu")
    positions = torch.arange(size, device="cpu") + shifts
    rows, columns = positions.clamp_(0, size - 1)  # (count, size) each; the edge is repeated
    if config.mirror:
        flips = torch.rand(count, 1, generator=rng, dtype=torch.float32, device="cpu") < 0.5
        columns = torch.where(flips, columns.flip(1), columns)
    parts = chosen[:, None, None], rows[:, :, None], columns[:, None, :]
    index, row, column = (part.to(images.device) for part in parts)
    return images[index, :, row, column].permute(0, 3, 1, 2)  # from (chosen, H, W, C)


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy in nats; for attributes the mean of their binary cross-entropies."""
    if truth.dtype == torch.bool:
        return F.binary_cross_entropy_with_logits(logits, truth.float())
    return F.cross_entropy(logits, truth)


def _truth(classifier: Classifier, image_set: ImageDataset) -> Tensor:
    """The correct predictions on a dataset, which is refused if it does not fit the classifier."""
    _check_set(image_set)
    if classifier.multilabel:
        kind, truth, names = "attributes", image_set.attributes, image_set.attribute_names
    else:
        kind, truth, names = "classes", image_set.labels, image_set.class_names
    if truth is None or tuple(names) != classifier.names:
        actual = "none" if truth is None else ", ".join(names)
        raise ValueError(
            f"the classifier predicts the {kind} {', '.join(classifier.names)}; {image_set.name} has {actual}"
        )
    if len(image_set) == 0:
        raise ValueError("there are no images in the dataset")
    _check_shape(classifier, image_set.images)
    return truth


def _check_set(image_set: object) -> None:
    if not isinstance(image_set, ImageDataset):
        kind = type(image_set).__name__
        raise ValueError(f"expected an ImageDataset from datasets.load, got {kind}")


def _check_shape(classifier: Classifier, images: Tensor) -> None:
    expected = (classifier.channels, classifier.image_size, classifier.image_size)
    if images.dim() != 4 or tuple(images.shape[1:]) != expected:
        raise ValueError(
            f"images must have shape (N, {', '.join(map(str, expected))}), got {tuple(images.shape)}"
        )


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def check_name(name: str) -> None:
    """Refuse a classifier that does not come with the package.

    Args:
        name: One of ``NAMES``.

    Raises:
        ValueError: It is none.
    """
    if name not in CONFIGS:
        raise ValueError(f"there is no classifier {name}; the stored ones are {', '.join(NAMES)}")


def retrain(
    name: str,
    out: str | Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Train one of the classifiers that come with the package again, and save it.

    Args:
        name: One of ``NAMES``.
        out: File to write, as ``save`` does.
        epochs: Passes over the training images. Default: the stored one's.
        seed: Of everything random.
        root: Folder of the datasets, as ``datasets.load`` takes it.
        device: As ``device.pick_device`` takes it.

    Returns:
        What the file says about the classifier: "test_accuracy", from 0 to 1; "test_accuracies" by attribute,
        where it has some; "test_images", their number; and how it was trained.

    Raises:
        ValueError, FileNotFoundError: There is no such classifier, or its data are missing.
        OSError: The file cannot be written.
    """
    check_name(name)
    config, place = replace(CONFIGS[name], seed=seed), pick_device(device)
    config = config if epochs is None else replace(config, epochs=epochs)
    train, test = (datasets.load(name, root=root, split=split) for split in ("train", "test"))
    network = build(train, widths=config.widths, rng=torch.Generator().manual_seed(seed)).to(place)
    with tqdm(fit(network, train, config), total=config.epochs, unit="epoch") as bar:
        for record in bar:
            line = f"epoch {record.epoch}: loss {record.loss:.4f}, right {record.accuracy:.2%}"
            bar.write(line, sys.stderr)
    network.half().float()  # as the file will have the weights, so that the accuracy is that of the file
    right = torch.as_tensor(accuracy(network, test))
    each = dict(zip(network.names, right.tolist(), strict=True)) if network.multilabel else {}
    kind = "attributes" if each else "classes"
    about = {
        "description": f"Tells the {kind} of {name}; trained on its train split",
        "data": train.name,
        "command": f"dcganlib classifier {name} --epochs {config.epochs} --seed {seed}",
        "seed": seed,
        "epochs": config.epochs,
        "test_accuracy": right.mean().item(),
        **({"test_accuracies": each} if each else {}),
        "train_images": len(train),
        "test_images": len(test),
        "version": dcganlib.__version__,
    }
    save(out, network, **about)
    return about
