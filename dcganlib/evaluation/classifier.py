"""Small classifiers: what an image shows, and the features by which generated images are measured.

Distances between pixels say little about what two pictures show. The numbers before the last layer of a
network that tells digits apart say more, so measures compare sets of images by them. Three trained
classifiers come with the package, each below 1 MB; ``dcganlib classifier NAME`` trains one again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcganlib.config import PRECISIONS, Precision, TrainConfig
from dcganlib.datasets import ImageDataset, check_tensor, to_float
from dcganlib.models import init_weights
from dcganlib.runtime import checkpoint
from dcganlib.runtime.device import autocast, resolve

NAMES = ("mnist", "fashion-mnist", "faces")
"""The classifiers that come with the package, by the set that each was trained on."""

FOLDER = Path(__file__).parents[1] / "pretrained" / "classifiers"
"""Folder of the classifiers that come with the package."""


@dataclass(frozen=True)
class ClassifierConfig:
    """How a classifier that comes with the package is made: the arguments of ``build`` and ``fit``."""

    widths: tuple[int, ...]
    epochs: int
    shift: int = 2
    mirror: bool = False


CONFIGS = {
    "mnist": ClassifierConfig((32, 64, 64), epochs=8),
    "fashion-mnist": ClassifierConfig((48, 96, 64), epochs=9, shift=1, mirror=True),
    "faces": ClassifierConfig((32, 64, 64, 64), epochs=8),
}
"""One for each of ``NAMES``."""

WARM = 0.2  # share of the training in which the learning rate rises; in the rest it falls


class Classifier(nn.Module):
    """A small convolutional network that names what an image shows.

    A 5 by 5 convolution halves the image; then for each further width one of 3 by 3 halves it again and one
    keeps its size, each with batch norm and ReLU. The mean of each channel of the last map is a feature, so
    there are as many as the last width, none below 0. One dense layer turns them into logits.

    Args:
        image_size: Height and width of the images in pixels.
        channels: 1 for grey, 3 for RGB.
        names: What the logits stand for: classes, of which one holds, or attributes.
        multilabel: The names are attributes, of which any number hold.
        widths: Channels after each halving.

    Attributes:
        about: What the file says that it was loaded from, such as the accuracy; else empty.

    Raises:
        ValueError: A number is below 1, a name is missing or stands twice.
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
        """Describe images by what is in them, wherever it is.

        Args:
            images: float32 of shape (N, channels, image_size, image_size) in [-1, 1].

        Returns:
            Shape (N, D), the mean of each channel of the last map, after ReLU: at least 0. D is the last
            of ``widths``, 64 for the classifiers that come with the package.

        Raises:
            ValueError: The images have another shape, or are no floats.
        """
        _check_shape(self, images)
        if not images.is_floating_point():
            raise ValueError(f"expected floating-point images in [-1, 1], got {images.dtype}")
        maps: Tensor = self.blocks(images)
        return maps.float().mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, outputs) of images in [-1, 1], (N, channels, image_size, image_size)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def answers(self, logits: Tensor) -> Tensor:
        """What logits (N, outputs) say: labels, int64 (N,), or which attributes there are, bool (N, A)."""
        return logits > 0 if self.multilabel else logits.argmax(1)


@dataclass(frozen=True)
class EpochRecord:
    """What one pass over the training images saw.

    Attributes:
        epoch: Which pass, from 1.
        loss: Mean over its images, as they were shifted and mirrored; in nats.
        accuracy: Share of right answers on them, over all attributes where there are several.
    """

    epoch: int
    loss: float
    accuracy: float


def build(
    image_set: ImageDataset, *, widths: Sequence[int] = (32, 64, 64), rng: torch.Generator | None = None
) -> Classifier:
    """Make an untrained classifier for a set: of its classes, or of its attributes where it has no classes.

    Args:
        image_set: With labels or attributes.
        widths: As ``Classifier`` takes them.
        rng: Source of the weights, on the CPU; torch's global one if absent.

    Returns:
        The classifier on the CPU, in training mode, its weights drawn by ``models.init_weights``.

    Raises:
        ValueError: It is not an ``ImageDataset``, has neither classes nor attributes, or its images are not
            square.
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
    classifier: Classifier,
    image_set: ImageDataset,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 4e-3,
    shift: int = 2,
    mirror: bool = False,
    seed: int = 0,
    precision: Precision = "float32",
) -> Iterator[EpochRecord]:
    """Train a classifier, an epoch at a time.

    Each image is shifted at random, and mirrored half of the time if asked. AdamW, its learning rate rising
    from 0 over the first fifth of the steps and falling to 0 over the others, each along a straight line.

    Args:
        classifier: Changed in place, on the device where it lies; in eval mode whenever a record is yielded.
        image_set: Images with labels or attributes, as the classifier has them.
        epochs: Passes over the images. The last batch of a pass is left out where it is smaller than others.
        batch_size: Images in a step.
        lr: The highest learning rate.
        shift: Pixels by which an image moves at most, up or down and left or right; the edge is repeated.
        mirror: Mirror half of the images, left to right.
        seed: Of the order, the shifts and the mirroring.
        precision: "float32"; "bfloat16" or "float16" for convolutions in half the bits (weights, statistics
            and losses stay float32, and gradients are scaled for "float16"); or "auto" for the one that
            ``device.resolve`` takes on the classifier's device.

    Yields:
        An ``EpochRecord`` after each epoch.

    Raises:
        ValueError: A number is out of range, or the dataset is not an ``ImageDataset`` or does not fit the
            classifier.
            Raised at the first step of the loop, before any work.
        FloatingPointError: The loss is no longer a number.

    Source:
        Smith and Topin 2018, for the learning rate that rises and falls once; Loshchilov and Hutter 2019, for
        AdamW.
    """
    _check_at_least(1, epochs=epochs, batch_size=batch_size)
    _check_at_least(0, shift=shift)
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr must be above 0 and finite, got {lr}")
    if not 0 <= seed < 2**62:
        raise ValueError(f"seed must be from 0 to below 2**62, got {seed}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {tuple(PRECISIONS)}, got {precision!r}")
    truth = _truth(classifier, image_set)
    device, rng = _device(classifier), torch.Generator().manual_seed(seed)
    precision = resolve(TrainConfig(precision=precision), device).precision
    images, truth = image_set.images.to(device), truth.to(device)
    with _trainable():  # not around the loop: what the caller does between two epochs has the caller's mode
        # The layout that CPUs are quick on.
        classifier.requires_grad_(True).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=lr)
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    count = len(images) // batch_size or 1  # batches in an epoch
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=rng, device="cpu")
        sums = torch.zeros(2, dtype=torch.float32, device=device)
        classifier.train()
        for step in range(count):
            done = (epoch + (step + 0.5) / count) / epochs
            optimizer.param_groups[0]["lr"] = lr * min(done / WARM, (1 - done) / (1 - WARM))
            chosen = order[step * batch_size : (step + 1) * batch_size]
            with _trainable():
                batch = to_float(_moved(images, chosen, shift, mirror, rng))
                with autocast(precision, device):
                    logits = classifier(batch)
                loss = _loss(logits.float(), truth[chosen.to(device)])
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            right = classifier.answers(logits) == truth[chosen.to(device)]
            sums += torch.stack([loss.detach(), right.float().mean()])
        classifier.eval()
        mean_loss, accuracy = (sums / count).tolist()
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"the classifier's loss is {mean_loss} in epoch {epoch + 1}: use a smaller lr"
            )
        yield EpochRecord(epoch + 1, mean_loss, accuracy)


@torch.no_grad()
def predict(classifier: Classifier, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """Say what images show: batch norm by its running statistics, no gradients, the mode restored.

    Args:
        classifier: On any device, in any mode.
        images: uint8, or floats in [-1, 1], of shape (N, C, H, W), on any device.
        batch_size: Images that are looked at together.

    Returns:
        int64 of shape (N,), the class of each; or bool of shape (N, A), whether each attribute holds. On the
        classifier's device.

    Raises:
        ValueError: The images are no tensor, have another shape than the classifier's, or ``batch_size`` is
            below 1.
    """
    check_tensor(images)
    _check_at_least(1, batch_size=batch_size)
    device, was_training = _device(classifier), classifier.training
    classifier.eval()
    try:
        found = []
        for batch in images.split(batch_size):
            batch = to_float(batch.to(device)) if batch.dtype == torch.uint8 else batch.to(device)
            found.append(classifier.answers(classifier(batch)))
        return torch.cat(found)
    finally:
        classifier.train(was_training)


def accuracy(classifier: Classifier, image_set: ImageDataset, *, batch_size: int = 500) -> Tensor | float:
    """Share of right answers on a set.

    Args:
        classifier: On any device, in any mode.
        image_set: Images with labels or attributes, as the classifier has them.
        batch_size: Images that are looked at together.

    Returns:
        From 0 to 1: a number for classes; for attributes float32 of shape (A,) on the CPU, one each.

    Raises:
        ValueError: The set does not fit the classifier, or ``batch_size`` is below 1.
    """
    truth = _truth(classifier, image_set)
    right = truth.cpu() == predict(classifier, image_set.images, batch_size=batch_size).cpu()
    return right.float().mean(0) if classifier.multilabel else right.float().mean().item()


def save(path: str | Path, classifier: Classifier, **about: Any) -> None:
    """Save a classifier in 16 bits, as safetensors with its names in the header.

    Args:
        path: File to write, replaced only when complete.
        classifier: On any device.
        about: Anything that JSON can hold, such as the accuracy; ``load`` gives it back in ``about``.

    Raises:
        OSError: The file cannot be written; what was at ``path`` is still there.
    """
    own = ("image_size", "channels", "names", "multilabel", "widths")
    description = {name: getattr(classifier, name) for name in own}
    checkpoint.save_network(path, "classifier", classifier, description, about, half=True)


def load(name_or_file: str | Path) -> Classifier:
    """Load a classifier.

    Args:
        name_or_file: One of ``NAMES``, or a file that ``save`` wrote.

    Returns:
        The classifier on the CPU, in eval mode, its weights taking no gradients.

    Raises:
        ValueError: The name is unknown, or the file is of another version of this library.
        FileNotFoundError: There is no such file.
        checkpoint.DamagedError: The file is damaged, or was not written by ``save``.
    """
    path = Path(name_or_file)
    if str(name_or_file) in NAMES:
        path = FOLDER / f"{name_or_file}.safetensors"
    elif not path.is_file():
        raise ValueError(f"there is no classifier {name_or_file}; the stored ones are {', '.join(NAMES)}")
    with _trainable(), torch.device("cpu"):
        classifier, about = checkpoint.load_network(path, "classifier", lambda told: Classifier(**told))
    classifier.about = about
    return classifier.requires_grad_(False)


def _block(channels: int, width: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    known: dict[str, Any] = {"padding": kernel // 2, "bias": False}
    known["dtype"] = torch.float32  # whatever the default dtype is
    convolution = nn.Conv2d(channels, width, kernel, stride, **known)
    return [convolution, nn.BatchNorm2d(width, dtype=torch.float32), nn.ReLU()]


@contextmanager
def _trainable() -> Iterator[None]:
    """Make tensors that can be trained, and take gradients, in whatever mode the caller is."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _moved(images: Tensor, chosen: Tensor, shift: int, mirror: bool, rng: torch.Generator) -> Tensor:
    """Take the chosen images, each shifted and perhaps mirrored at random: uint8 (chosen, C, H, W)."""
    size, count = images.shape[-1], len(chosen)
    by = torch.randint(-shift, shift + 1, (2, count, 1), generator=rng, device="cpu")
    places = torch.arange(size, device="cpu") + by
    rows, columns = places.clamp_(0, size - 1)  # (count, size) each; the edge is repeated
    if mirror:
        flips = torch.rand(count, 1, generator=rng, dtype=torch.float32, device="cpu") < 0.5
        columns = torch.where(flips, columns.flip(1), columns)
    parts = chosen[:, None, None], rows[:, :, None], columns[:, None, :]
    index, row, column = (part.to(images.device) for part in parts)
    return images[index, :, row, column].permute(0, 3, 1, 2)  # from (chosen, H, W, C)


def _loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy in nats; over attributes the mean of one each."""
    if truth.dtype == torch.bool:
        return F.binary_cross_entropy_with_logits(logits, truth.float())
    return F.cross_entropy(logits, truth)


def _truth(classifier: Classifier, image_set: ImageDataset) -> Tensor:
    """What the classifier should answer on a set; refuses one that does not fit it."""
    _check_set(image_set)
    if classifier.multilabel:
        kind, truth, names = "attributes", image_set.attributes, image_set.attribute_names
    else:
        kind, truth, names = "classes", image_set.labels, image_set.class_names
    if truth is None or tuple(names) != classifier.names:
        found = "none" if truth is None else ", ".join(names)
        raise ValueError(
            f"the classifier tells the {kind} {', '.join(classifier.names)}; {image_set.name} has {found}"
        )
    if len(image_set) == 0:
        raise ValueError("there are no images in the set")
    _check_shape(classifier, image_set.images)
    return truth


def _check_set(image_set: object) -> None:
    if not isinstance(image_set, ImageDataset):
        kind = type(image_set).__name__
        raise ValueError(f"expected an ImageDataset, as datasets.load gives it, got {kind}")


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
