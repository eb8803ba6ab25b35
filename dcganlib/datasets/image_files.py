"""The image files of a folder or a zip: which there are, and one of them opened for reading.

Nothing is unpacked to the disk. This module imports no torch, so that the processes that decode start
quickly.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from dcganlib.datasets.messages import printable
from dcganlib.runtime.files import refuse_web_page

UNREADABLE_FORMATS = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
"""Formats that Pillow lists and that hold no pixels, or need another program to draw them."""

PLUGIN_SUFFIXES = (".avif", ".heic", ".heif", ".jxl")
"""Suffixes of formats that some versions of Pillow need a plug-in for, included to be reported."""

MAX_UNPACKED_BYTES = 2**30  # that one image of a zip may unpack to

IGNORED_PREFIXES = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""How the names of files and folders begin that are ignored: hidden ones, and what systems leave behind."""

RUN = "folder of a run"
RUN_CONFIG = "config.json"
RUN_FILES = frozenset(
    ("checkpoint.pt", "checkpoint-previous.pt", "generator.safetensors", "history.csv", "real.png")
)
"""A folder that has ``RUN_CONFIG`` and one of these holds a run, whose images are not data."""
RUN_IMAGE_FOLDERS = ("samples", "ema", "averaged")
"""Folders of images inside a run; older runs have "averaged"."""


@dataclass(frozen=True)
class Source:
    """Image files in a folder or in a zip.

    Attributes:
        path: The folder or the zip.
        names: The files, relative to the folder or as the zip has them, in the order of the dataset.
        ignored: (suffix, number) of the files that are not images, the most frequent suffix first.
    """

    path: Path
    names: tuple[str, ...]
    ignored: tuple[tuple[str, int], ...] = ()

    @property
    def cache_folder(self) -> Path:
        """Where decoded images are cached: beside the data."""
        return (self.path.parent if self.path.is_file() else self.path) / ".dcganlib"


def suffixes() -> frozenset[str]:
    """Suffixes of image files: those of all formats that Pillow reads, in lower case."""
    known = Image.registered_extensions()  # also loads Pillow's formats
    return frozenset(PLUGIN_SUFFIXES).union(
        suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in UNREADABLE_FORMATS
    )


@cache
def formats() -> tuple[str, ...]:
    """Pillow's formats, without those that run another program or hold no pixels."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind not in UNREADABLE_FORMATS)


def natural(name: str) -> tuple[object, ...]:
    """A sort key that puts "2" before "10", and text in the order of its characters."""
    parts = re.split(r"([0-9]+)", name)  # text and digits in turn
    digits = ((len(part), part) for part in (part.lstrip("0") for part in parts[1::2]))
    return tuple(zip(parts[::2], [*digits, (0, "")], strict=True)), name


def find(path: str | Path, *, about: str = "") -> Source:
    """All image files of a folder or a zip, sorted by name.

    Links are followed, as torchvision's ``ImageFolder`` does. Hidden files, hidden folders and the
    folders of runs are ignored.

    Args:
        path: The folder or the zip.
        about: As ``open_zip`` takes it.

    Raises:
        ValueError: There are none, or the file is not a zip, or the folder is that of a run.
        OSError: A folder cannot be listed.
    """
    path = Path(path)
    if path.is_file():
        with open_zip(path, about=about) as archive:
            names = list(_entries(archive))
    else:
        if _is_run(path) or (path.name in RUN_IMAGE_FOLDERS and _is_run(path.parent)):
            raise ValueError(f"{path} is the folder of a run, not of images to train on")
        names = list(files_in(path))
    known = suffixes()
    images = tuple(sorted(name for name in names if suffix_of(name) in known))
    rest = Counter(
        RUN if name.endswith("/") else suffix_of(name) or "no suffix"
        for name in names
        if suffix_of(name) not in known
    )
    ignored = tuple(rest.most_common())
    if not images:
        has = f"; it has {describe_ignored(ignored)}" if ignored else ""
        raise ValueError(
            f"there are no images in {path}: expected .jpg, .png, .webp or another format that Pillow "
            f"reads{has}"
        )
    return Source(path, images, ignored)


def folders(path: Path) -> set[str]:
    """Names of the folders in a folder, without hidden ones and those of runs."""
    return {
        entry.name
        for entry in path.iterdir()
        if not _ignored(entry.name) and entry.is_dir() and not _is_run(entry)
    }


def describe_ignored(ignored: Iterable[tuple[str, int]]) -> str:
    """``Source.ignored`` in words."""
    return ", ".join(f"{number:,} {printable(suffix)}" for suffix, number in ignored)


def open_zip(path: str | Path, *, about: str = "") -> zipfile.ZipFile:
    """Open a zip; the error says what the file is instead.

    Args:
        path: The file.
        about: What it should be and where to get it, for the message.

    Raises:
        ValueError: It is a web page, an incomplete download, or something else.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        size = Path(path).stat().st_size
        with open(path, "rb") as file:
            head = file.read(512)
        refuse_web_page(path, head, about=about)
        if size == 0:
            kind = "is empty"
        elif archive := _archive_kind(head):
            kind = f"is a {archive} archive, which is not read: unpack it and give the folder"
        elif head.startswith(b"PK") and isinstance(error, zipfile.BadZipFile):
            kind = f"ends after {size:,} bytes: the download is incomplete. Delete it and try again"
        else:
            kind = "is not a zip archive, or is damaged"
        raise ValueError(f"{path} {kind}. {about}".rstrip()) from error


def _archive_kind(head: bytes) -> str:
    """The kind of an archive that is not a zip, by its first 512 bytes or more; "" if it is unknown."""
    starts = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"7z\xbc\xaf": ".7z", b"Rar!": ".rar"}
    kinds = [kind for start, kind in starts.items() if head.startswith(start)]
    return kinds[0] if kinds else ".tar" if head[257:262] == b"ustar" else ""


def open_image(source: Source, name: str) -> BinaryIO:
    """Open one of the source's files for reading.

    Args:
        source: The folder or zip.
        name: One of its ``names``.

    Raises:
        ValueError: It is not a regular file, or would unpack to more than ``MAX_UNPACKED_BYTES``.
        OSError: It cannot be read, or is damaged; ``zipfile.BadZipFile`` for a damaged entry of a zip.
    """
    if not source.path.is_file():
        path = os.path.join(source.path, name)
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise ValueError("is not a regular file")
        return open(path, "rb")
    archive, entries = _archive(source.path, source.path.stat().st_mtime_ns)
    entry = entries[name]
    if entry.file_size > MAX_UNPACKED_BYTES:
        raise ValueError(f"would unpack to {entry.file_size:,} bytes, more than {MAX_UNPACKED_BYTES:,}")
    return io.BytesIO(archive.read(entry))  # compares the entry's checksum


@lru_cache(maxsize=1)
def _archive(path: Path, changed: int) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """A zip and its entries, kept from chunk to chunk, because listing CelebA's takes seconds."""
    archive = open_zip(path)
    return archive, _entries(archive)


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by name, with / between folders, whichever system packed it."""
    entries = {entry.filename.replace("\\", "/"): entry for entry in archive.infolist()}
    inside: dict[str, set[str]] = {}
    for name in entries:
        folder, _, file = name.rpartition("/")
        if file == RUN_CONFIG or file in RUN_FILES:
            inside.setdefault(folder + "/", set()).add(file)
    runs = tuple(folder for folder, names in inside.items() if folder != "/" and _holds_run(names))
    return {
        name: entry
        for name, entry in entries.items()
        if not name.endswith("/") and not any(map(_ignored, name.split("/"))) and not name.startswith(runs)
    }


def files_in(path: Path) -> Iterator[str]:
    """The files of a folder and its sub-folders, relative to it; the folder of a run ends in "/"."""
    yield from _walk(os.fspath(path), "", ())


def _walk(folder: str, prefix: str, parents: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """``files_in`` of one folder; a link may lead back to one of its ``parents``."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in parents:
        return
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not _ignored(entry.name)]
    if prefix and _holds_run({entry.name for entry in kept}):
        yield prefix
        return
    for entry in kept:
        if _is_folder(entry):
            yield from _walk(entry.path, f"{prefix}{entry.name}/", (*parents, here))
        else:
            yield prefix + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_run(path: Path) -> bool:
    return (path / RUN_CONFIG).is_file() and _holds_run({RUN_CONFIG, *os.listdir(path)})


def _holds_run(names: set[str]) -> bool:
    """Whether a folder with these files is that of a run."""
    return RUN_CONFIG in names and not RUN_FILES.isdisjoint(names)


def _ignored(name: str) -> bool:
    return name.startswith(IGNORED_PREFIXES) and name not in (".", "..")


def suffix_of(name: str) -> str:
    """The suffix of a file's name, in lower case, with its dot; "" where there is none."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if stem and dot else ""


def close_zip() -> None:
    """Close the zip that was read last."""
    _archive.cache_clear()
