"""CelebA's files: which images there are, what its text files say about them, and their download.

The layout is that of torchvision's ``CelebA``: a folder with ``img_align_celeba/`` (or the zip of that name)
and the text files that list partition, attributes, landmarks and identities. Kaggle's layout (a folder in a
folder, lists as .csv) and the authors' own (``Img/``, ``Anno/``, ``Eval/``) are read as well. No image is
decoded here, and no torch is imported.

Source: Liu, Luo, Wang and Tang, Deep learning face attributes in the wild, ICCV 2015.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcganlib.datasets import image_files
from dcganlib.datasets.download import download_url
from dcganlib.datasets.messages import caller_stacklevel
from dcganlib.runtime.files import refuse_web_page

PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
"""CelebA's official page."""

IMAGES = "img_align_celeba"
PARTITION, ATTRIBUTES = "list_eval_partition.txt", "list_attr_celeba.txt"
LANDMARKS, IDENTITIES = "list_landmarks_align_celeba.txt", "identity_CelebA.txt"

TEXTS = (PARTITION, ATTRIBUTES, LANDMARKS, IDENTITIES)

HOST = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
"""Address of a file of CelebA by its number; the authors keep the files on Google Drive."""

FILES = {
    f"{IMAGES}.zip": ("0B7EVK8r0v71pZjFTYXZWM3FlRnM", "md5:00d2c5bc6d35e252742224ab0c1e8fcb", 1_443_490_838),
    ATTRIBUTES: ("0B7EVK8r0v71pblRyaVFSWGxPY0U", "md5:75e246fa4810816ffd6ee81facbd244c", 26_721_026),
    IDENTITIES: ("1_ee_0u7vcNLOfNLegJRHmolfH5ICW-XS", "md5:32bd1bd63d3c78cd57e08160ec5ed1e2", 3_424_458),
    LANDMARKS: ("0B7EVK8r0v71pd0FJY3Blby1HUTQ", "md5:cc24ecafdb5b50baae59b03474781f8c", 12_156_055),
    PARTITION: ("0B7EVK8r0v71pY0NSMzRuSXJEVkk", "md5:d32c9cbf5e040fd4025c592c306e6668", 2_836_386),
}
"""The published files: (number at the host, checksum, bytes)."""

PARTITION_NUMBERS = {"train": 0, "valid": 1, "test": 2}
"""Number of each split in the partition file."""


@dataclass(frozen=True)
class Listing:
    """The images of one split and what the text files say about them, sorted by name.

    Attributes:
        source: The image files.
        attributes: bool of shape (N, A), or None where there is no such file.
        attribute_names: The A names.
        landmarks: int64 of shape (N, L, 2), x and y in pixels of the uncropped image, or None.
        identities: int64 of shape (N,), or None.
    """

    source: image_files.Source
    attributes: np.ndarray | None
    attribute_names: tuple[str, ...]
    landmarks: np.ndarray | None
    identities: np.ndarray | None


def find(path: str | Path) -> image_files.Source:
    """The image files of a dataset in CelebA's layout.

    Args:
        path: The folder with the text files, its ``img_align_celeba``, the zip, the folder above, or a folder
            of images that are named as CelebA's.

    Raises:
        FileNotFoundError: There are no such images.
        ValueError: The zip is a web page or an incomplete download.
    """
    path = Path(path)
    if path.is_file():
        return image_files.find(path, about=_advice())
    if path.name == IMAGES and _has_images(path):
        return image_files.find(path)
    bases = [path / base / inner for base in ("", "celeba", "CelebA") for inner in ("", "Img")]
    for base in bases:
        folder, archive = base / IMAGES, base / f"{IMAGES}.zip"
        if _has_images(folder):
            return image_files.find(folder)
        if archive.is_file():
            return image_files.find(archive, about=_advice())
    for base in bases:
        if any(re.fullmatch(r"[0-9]{6}\.(jpg|png)", name) for name in _names(base)):
            return image_files.find(base)
    raise FileNotFoundError(f"there is neither {IMAGES} nor {IMAGES}.zip in {path}. {_advice()}")


def read(
    path: str | Path,
    split: str | None = None,
    max_images: int | None = None,
    *,
    first_images: int | None = None,
    seed: int = 0,
) -> Listing:
    """List a split of a dataset in CelebA's layout; no image is opened.

    Args:
        path: As ``find`` takes it.
        split: "train", "valid", "test" or "all". If None, "train"; or "all", with a warning, if there is no
            partition file.
        max_images: Use at most this many images of the split, a random sample; all if None.
        first_images: Consider only this many images of the dataset, before the split; all if None.
        seed: Seed of the sample.

    Raises:
        FileNotFoundError: The images or the partition file are missing.
        ValueError: A text file does not match the images.
    """
    source = find(path)
    paths = _paths_by_name(source)
    names = sorted(paths)[:first_images]
    lists = _lists(source)
    if split is None and lists.get(PARTITION) is None:
        split = "all"
        warnings.warn(
            f"there is no {PARTITION} or .csv near {source.path}: all {len(names):,} images are "
            "used, including those that CelebA holds out for tests",
            stacklevel=caller_stacklevel(),
        )
    split = split or "train"
    if split != "all":
        names = _names_of_split(source, lists.get(PARTITION), names, split, whole=first_images is None)
    if max_images is not None and max_images < len(names):
        chosen = np.random.default_rng(seed).choice(len(names), max_images, replace=False)
        names = [names[index] for index in np.sort(chosen)]
    attributes, attribute_names = _optional_table(lists.get(ATTRIBUTES), names)
    landmarks, _ = _optional_table(lists.get(LANDMARKS), names)
    identities, _ = _optional_table(lists.get(IDENTITIES), names, header=False)
    return Listing(
        image_files.Source(source.path, tuple(paths[name] for name in names), source.ignored),
        None if attributes is None else attributes > 0,
        attribute_names,
        None if landmarks is None else landmarks.reshape(len(names), -1, 2),
        None if identities is None else identities[:, 0],
    )


def _paths_by_name(source: image_files.Source) -> dict[str, str]:
    """The files of a source by their names, as the text files list them."""
    paths: dict[str, str] = {}
    for name in source.names:
        if paths.setdefault(name.rpartition("/")[2], name) != name:
            raise ValueError(f"{source.path} has two images of one name: {paths[Path(name).name]} and {name}")
    return paths


def missing_lists(source: image_files.Source) -> list[str]:
    """Names of the text files that are missing."""
    return sorted(set(TEXTS) - set(_lists(source)))


def download(root: str | Path, host: str | None = None) -> Path:
    """Download CelebA into ``root/celeba``: 1.4 GB of images as one zip, and its text files.

    Files with the right checksum are not downloaded again, nor is the zip if its images are there, unpacked.
    An interrupted download continues.

    Args:
        root: Folder of the datasets.
        host: Address with a place for ``{id}`` or ``{name}``; the authors' own if None.

    Returns:
        The folder.

    Raises:
        DownloadError: The host does not send a file; the message says what it sent instead.
    """
    folder = Path(root) / "celeba"
    for name, (number, checksum, size) in FILES.items():
        if name == f"{IMAGES}.zip" and _has_images(folder / IMAGES):
            continue
        address = (host or HOST).format(id=number, name=name)
        download_url(address, folder / name, checksum, size=size, advice=_advice())
    return folder


@dataclass(frozen=True)
class _List:
    """One of the text files and its content."""

    path: str
    text: str


def _lists(source: image_files.Source) -> dict[str, _List]:
    """The text files, .txt or .csv, by name: those near the images, or in the zip with them."""
    found: dict[str, _List] = {}
    kinds = {file: name for name in TEXTS for file in (name, f"{Path(name).stem}.csv")}
    folder = source.path.parent
    within = (source.path,) if source.path.is_dir() else ()
    for place in (*within, folder, folder.parent):
        for inner in ("", "Anno", "Eval"):
            for file, name in kinds.items():
                path = place / inner / file
                if name not in found and path.is_file():
                    found[name] = _List(str(path), decode_text(str(path), path.read_bytes()))
    if len(found) < len(TEXTS) and source.path.is_file():
        with zipfile.ZipFile(source.path) as archive:
            for entry in archive.namelist():
                known = kinds.get(entry.rpartition("/")[2])
                if known and known not in found:
                    inside = f"{source.path}/{entry}"
                    found[known] = _List(inside, decode_text(inside, archive.read(entry)))
    return found


def _names_of_split(
    source: image_files.Source, found: _List | None, names: list[str], split: str, whole: bool
) -> list[str]:
    """The names that belong to a split; a warning if images of the ``whole`` dataset are missing."""
    if found is None:
        raise FileNotFoundError(
            f"{source.path.parent} has no {PARTITION}, which lists the split {split!r}: put it there, or "
            f"use the split 'all'. {_advice()}"
        )
    _, rows = _rows(found, header=False)
    if whole and len(names) < len(rows):
        warnings.warn(
            f"{found.path} lists {len(rows):,} images, {source.path} has {len(names):,}: the rest "
            "is left out",
            stacklevel=caller_stacklevel(),
        )
    numbers, _ = _table(found, names, header=False)
    chosen = [
        name for name, (number,) in zip(names, numbers, strict=True) if number == PARTITION_NUMBERS[split]
    ]
    if not chosen:
        raise ValueError(f"no image of {source.path} belongs to the split {split!r}")
    return chosen


def _rows(found: _List, *, header: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of the columns, and the values of each line by the name of its image without suffix."""
    lines = found.text.split("\n")
    columns: tuple[str, ...] = ("",)
    if found.path.endswith(".csv"):  # one line of names in every list
        separator = next((mark for mark in ";\t" if mark in lines[0]), ",")
        try:
            table = list(csv.reader(lines, delimiter=separator, skipinitialspace=True))
        except csv.Error as error:
            raise ValueError(f"{found.path} is damaged: {error}") from error
        columns = tuple(name.strip() for name in table[0][1:])
        lines = [" ".join(row) for row in table[1:]]
    elif header:  # the number of images, then the names
        columns, lines = tuple(lines[1].split()) if len(lines) > 1 else (), lines[2:]
    rows: dict[str, str] = {}
    for name, values in (pair for pair in (line.split(None, 1) for line in lines) if len(pair) == 2):
        if rows.setdefault(_stem(name), values).split() != values.split():
            raise ValueError(f"{found.path} is damaged: it has two different lines for {name}")
    return columns, rows


def _optional_table(
    found: _List | None, names: list[str], *, header: bool = True
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """``_table`` of a text file that may be missing."""
    return (None, ()) if found is None else _table(found, names, header=header)


def _table(found: _List, names: list[str], *, header: bool = True) -> tuple[np.ndarray, tuple[str, ...]]:
    """The rows of a text file that belong to ``names``, as integers, and the names of its columns."""
    columns, rows = _rows(found, header=header)
    missing = next((name for name in names if _stem(name) not in rows), None)
    if missing is not None:
        raise ValueError(f"{found.path} has no line for {missing}: it is damaged, or belongs to other images")
    try:
        values = np.loadtxt([rows[_stem(name)] for name in names], np.int64, comments=None, ndmin=2)
    except ValueError as error:
        reason = str(error).partition(";")[0]  # advice to programmers follows
        raise ValueError(f"{found.path} is damaged: {reason}") from error
    if values.shape[1] != len(columns):
        raise ValueError(f"{found.path} should have {len(columns)} columns and has {values.shape[1]}")
    return values, columns


def _stem(name: str) -> str:
    """An image's name without its suffix, which changes when images are converted."""
    return name.rpartition(".")[0] or name


def decode_text(path: str, content: bytes) -> str:
    """Decode a text file, with the line ends of any system.

    Args:
        path: The file, for messages.
        content: Its bytes.

    Raises:
        ValueError: It is a web page, or not text.
    """
    refuse_web_page(path, content)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _has_images(folder: Path) -> bool:
    """Whether a folder holds images, or a folder of its own name that does, as Kaggle packs it."""
    known = image_files.suffixes()
    inner = folder / folder.name
    return any(name.lower().endswith(tuple(known)) for place in (folder, inner) for name in _names(place))


def _names(folder: Path) -> Iterator[str]:
    """Names in a folder, none if there is no such folder; one by one, as CelebA has 202,599."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name


def _advice() -> str:
    _, checksum, size = FILES[f"{IMAGES}.zip"]
    return (
        f"CelebA's images are one file, {IMAGES}.zip, of {size:,} bytes ({checksum}); get it and the text "
        f"files from {PAGE} and put them, unpacked or not, into one folder. Without it, use 'faces'."
    )
