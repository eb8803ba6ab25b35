"""``ImageDataset``: all images of a dataset as one uint8 tensor, with their labels and attributes.

A dataset lies in memory (or on the GPU) whole, as bytes. One that is decoded from files is a file mapped into
memory, of which each batch reads only its rows.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcganlib.runtime import memory

PIXELS_PER_RESIZE = 2**24  # resized at a time, to bound the memory that this takes


@dataclass(frozen=True)
class ImageDataset:
    """A whole dataset of images.

    Attributes:
        images: uint8 of shape (N, C, H, W), 0 to 255.
        labels: int64 of shape (N,), or None if there are none.
        name: Name or path that it was loaded by.
        source: Where the images come from, a citation or a path.
        licence: Licence of the images, as far as known.
        class_names: Names of the labels 0, 1, ...; empty if there are none.
        attributes: bool of shape (N, A), what is true of each image, or None.
        attribute_names: Names of the A attributes.
        landmarks: int64 of shape (N, L, 2), points on the face as x and y in pixels of the image before it
            was cropped, or None.
        identities: int64 of shape (N,), a number for each person, or None.
        skipped: (name, reason) of each image file that could not be read.
        ignored: (suffix, number) of the files that are not images, the most frequent suffix first.
    """

    images: Tensor
    labels: Tensor | None
    name: str
    source: str
    licence: str
    class_names: tuple[str, ...] = ()
    attributes: Tensor | None = None
    attribute_names: tuple[str, ...] = ()
    landmarks: Tensor | None = None
    identities: Tensor | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def has(self, attribute: str) -> Tensor:
        """Which images have an attribute, such as "Smiling": bool of shape (N,).

        Raises:
            ValueError: The dataset has no such attribute.
        """
        if self.attributes is None or attribute not in self.attribute_names:
            known = ", ".join(self.attribute_names) or "none"
            raise ValueError(f"{self.name} has no attribute {attribute!r}; it has {known}")
        return self.attributes[:, self.attribute_names.index(attribute)]

    def take(self, indices: Tensor) -> ImageDataset:
        """The images at these positions, with all that belongs to them."""
        return replace(
            self,
            images=self.images[indices],
            labels=_take(self.labels, indices),
            attributes=_take(self.attributes, indices),
            landmarks=_take(self.landmarks, indices),
            identities=_take(self.identities, indices),
        )


def fit(
    dataset: ImageDataset, *, max_images: int | None, seed: int, image_size: int, channels: int
) -> ImageDataset:
    """Bring a dataset to the requested number of images, size and channels.

    Args:
        dataset: As it was read.
        max_images: Keep a random sample of this many images, as ``sample`` chooses them; all if None.
        seed: Seed of the sample.
        image_size: Height and width in pixels.
        channels: 1 for grey, 3 for RGB.
    """
    if max_images is not None and max_images < len(dataset):
        dataset = dataset.take(sample(dataset.labels, len(dataset), max_images, seed))
    images = dataset.images
    if image_size != images.shape[-1]:
        images = _resize(images, image_size)
    if channels != images.shape[1]:
        images = _convert(images, channels)
    return dataset if images is dataset.images else replace(dataset, images=images)


def sample(labels: Tensor | None, total: int, max_images: int | None, seed: int = 0) -> Tensor:
    """Choose images of a dataset at random, each class with its share of the whole.

    The shares are rounded by the largest-remainder method, so each is off by less than one image.

    Args:
        labels: int64 of shape (total,), or None if there are no classes.
        total: Images in the dataset.
        max_images: How many to choose; all if None or more than there are.
        seed: Seed of the choice.

    Returns:
        int64, the positions of the chosen images, ascending.
    """
    if max_images is None or max_images >= total:
        return torch.arange(total)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(total, generator=rng)
    if labels is None:
        return order[:max_images].sort().values
    sizes = labels.bincount()
    quotas = sizes * max_images // total
    remainders = sizes * max_images % total
    quotas[remainders.argsort(descending=True, stable=True)[: max_images - int(quotas.sum())]] += 1
    # In the order of the shuffle, the rank of each image within its class.
    shuffled = labels[order]
    by_class = shuffled.argsort(stable=True)
    ranks = torch.empty_like(order)
    ranks[by_class] = torch.arange(total) - (sizes.cumsum(0) - sizes)[shuffled[by_class]]
    return order[ranks < quotas[shuffled]].sort().values


def check_tensor(images: object) -> None:
    """Refuse anything but a tensor of images, and say what to pass instead.

    Raises:
        ValueError: It is something else, such as an ``ImageDataset``, a loader or an array.
    """
    if isinstance(images, Tensor):
        return
    kind = type(images).__name__
    advice = "use torch.as_tensor"
    if isinstance(getattr(images, "images", None), Tensor):  # a dataset, or a loader of this library
        advice = f"pass the {kind}'s .images"
    elif hasattr(images, "dataset"):
        advice = "pass one batch of it"
    raise ValueError(f"images must be a tensor of shape (N, C, H, W), got {kind}: {advice}")


def count_reasons(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """How many images were skipped for which reason, the most frequent first; numbers in it become N."""
    counts = Counter(re.sub(r"[0-9][0-9,.]*", "N", reason) for _, reason in skipped)
    return [f"{number:,} × {reason}" for reason, number in counts.most_common()]


def _take(values: Tensor | None, indices: Tensor) -> Tensor | None:
    return None if values is None else values[indices]


def _resize(images: Tensor, size: int) -> Tensor:
    """Resize square images part by part, so that the float copies stay small."""
    from torchvision.transforms.v2.functional import resize

    shape = (*images.shape[:2], size, size)
    if not memory.fits(math.prod(shape)):
        raise MemoryError(f"image_size {size} does not fit into memory: use a smaller one")
    resized = torch.empty(shape, dtype=torch.uint8)
    step = max(1, PIXELS_PER_RESIZE // size**2)
    for start in range(0, len(images), step):
        part = images[start : start + step]
        resized[start : start + step] = resize(part, [size, size], antialias=True)
    return resized


def _convert(images: Tensor, channels: int) -> Tensor:
    """From grey to RGB or back."""
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    grey: Tensor = rgb_to_grayscale(images)
    return grey
