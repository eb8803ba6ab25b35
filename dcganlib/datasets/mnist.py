"""MNIST and Fashion-MNIST: found as people have them, fetched, and read without torchvision.

Sources: LeCun, Cortes and Burges, The MNIST database, 1998, whose last section describes the file format;
Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from dcganlib.datasets.download import download_url
from dcganlib.runtime.files import refuse_web_page

KINDS = {"images": 3, "labels": 1}
"""Axes of the two files of a split."""

PREFIXES = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class Published:
    """One of the two sets, as it is published.

    Attributes:
        folders: Where people keep it; the first is torchvision's, where a download goes.
        mirrors: Addresses that its files' names are put after.
        checksums: MD5 of each packed file, by name; torchvision has the same.
        labels: MD5 of the labels of each split, to tell the two sets apart, whose files have the same names.
    """

    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    checksums: dict[str, str]
    labels: tuple[str, ...]


SETS = {
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
"""What is known of the two sets."""


def load(name: str, root: str | Path, split: str, *, download: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Read one split.

    Args:
        name: "mnist" or "fashion-mnist".
        root: Folder that has the set's folder, or is it: with the files in it or in its ``raw/``, packed
            (.gz) or not, named as published or with a dot ("train-images.idx3-ubyte").
        split: "train" or "test".
        download: Fetch the set into ``root`` if it is not there.

    Returns:
        Images, uint8 of shape (N, 28, 28), and labels, uint8 of shape (N,).

    Raises:
        FileNotFoundError: The set is not there and not to be fetched.
        DownloadError: It cannot be fetched.
        ValueError: A file is cut off or damaged, or is of the other set.
        OSError: A file cannot be read.
    """
    root = Path(root)
    places = _places(name, root)
    place = _place(places, split)
    there = [file for each in places for kind in KINDS for file in _files(each, split, kind)]
    if place is None and download and all(places[0] in file.parents for file in there):
        _download(name, places[0])
        place = _place(places, split)
    if place is None and there:
        lost = "labels" if "-images" in there[0].name else "images"
        raise FileNotFoundError(
            f"{there[0]} is there, and the {lost} that go with it are not: "
            f"{PREFIXES[split]}-{lost}-idx{KINDS[lost]}-ubyte"
        )
    if place is None:
        raise FileNotFoundError(f"there is no {PREFIXES[split]}-images-idx3-ubyte in {root}")
    images, labels = (_read_first(_files(place, split, kind), axes) for kind, axes in KINDS.items())
    if images.shape != (len(labels), 28, 28):
        raise ValueError(f"{place} is damaged: {images.shape} pixels do not go with {len(labels)} labels")
    told = hashlib.md5(labels.data, usedforsecurity=False).hexdigest()
    other = next((known for known, published in SETS.items() if told in published.labels), name)
    if other != name:
        raise ValueError(f"the files in {place} are those of {other}, not of {name}")
    return images, labels


def read_idx(path: str | Path, axes: int) -> np.ndarray:
    """Read a file of the format of MNIST, packed or not.

    Args:
        path: The file.
        axes: How many its array has.

    Returns:
        uint8, writable.

    Raises:
        ValueError: It is cut off, damaged, or of another kind.
        OSError: It cannot be read.
    """
    content = Path(path).read_bytes()
    refuse_web_page(path, content)
    if content[:2] == b"\x1f\x8b":  # whatever its name
        try:
            content = gzip.decompress(content)
        except EOFError as error:
            raise ValueError(f"{path} is cut off after {len(content):,} bytes: fetch it again") from error
        except (OSError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    start = 4 + 4 * axes
    head = np.frombuffer(content[:start], np.uint8)
    if len(head) == start and head[:4].tolist() != [0, 0, 8, axes]:
        raise ValueError(f"{path} is damaged, or no file of MNIST: it begins with {content[:4].hex(' ')}")
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist()) if len(head) == start else ()
    needed = start + prod(shape) if shape else start
    if len(content) < needed:
        raise ValueError(f"{path} is cut off: it has {len(content):,} of {needed:,} bytes. Fetch it again")
    if len(content) > needed:
        raise ValueError(f"{path} is damaged: it has {len(content):,} bytes, {needed:,} were expected")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _places(name: str, root: Path) -> list[Path]:
    """Folders that may have the files; the first is where a download goes."""
    bases = [root / folder for folder in SETS[name].folders]
    others = {folder for other, known in SETS.items() if other != name for folder in known.folders}
    near = {root.name, root.resolve().name, root.resolve().parent.name if root.name == "raw" else ""}
    if not near & others:  # as the files of both sets have the same names
        bases.append(root)
    return [place for base in bases for place in (base / "raw", base)]


def _place(places: list[Path], split: str) -> Path | None:
    """The first folder that has all files of a split."""
    return next((place for place in places if all(_files(place, split, kind) for kind in KINDS)), None)


def _files(place: Path, split: str, kind: str) -> list[Path]:
    """The files in a folder that are of a kind, unpacked ones first; some unpackers put a folder around."""
    names = [
        f"{PREFIXES[split]}-{kind}{dot}idx{KINDS[kind]}-ubyte{packed}"
        for packed in ("", ".gz")
        for dot in "-."
    ]
    return [path for name in names for path in (place / name, place / name / name) if path.is_file()]


def _read_first(files: list[Path], axes: int) -> np.ndarray:
    """The first file that is whole: unpacking may have been cut off, with the packed file still there."""
    reasons: list[ValueError] = []
    for file in files:
        try:
            return read_idx(file, axes)
        except ValueError as error:
            reasons.append(error)
    raise reasons[0]


def _download(name: str, folder: Path) -> None:
    known = SETS[name]
    for file, checksum in known.checksums.items():
        download_url([mirror + file for mirror in known.mirrors], folder / file, f"md5:{checksum}")
