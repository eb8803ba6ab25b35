"""Picture files to bytes: read one, or decode a folder or a zip of them once and keep the result.

A decoded set lies in one file beside its source and is mapped into memory, so the next start reads nothing.
This module imports no torch, so that the processes that decode start quickly.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from dcganlib.files import cache_dir, writable, write_atomically, write_text

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Files that are taken for pictures."""

CHUNK = 256  # pictures decoded at a time by one process
FEW = 512  # pictures that are not worth a second process
LARGEST_FILE = 2**28  # bytes that one picture of an archive may unpack to
HIDDEN = (".", "__MACOSX")  # how the names begin that are passed over
FORMAT = 1  # of the cache; a new one makes all older caches stale


@dataclass(frozen=True)
class Source:
    """Picture files in a folder or in a zip, never unpacked.

    Attributes:
        path: The folder or the zip.
        names: Files, relative to the folder or as the zip has them, in the order of the set.
    """

    path: Path
    names: tuple[str, ...]

    @property
    def cache_folder(self) -> Path:
        """Where decoded pictures are kept: beside the data."""
        return (self.path.parent if self.path.is_file() else self.path) / ".dcganlib"


@dataclass(frozen=True)
class Decoded:
    """A decoded set.

    Attributes:
        pixels: uint8 of shape (N, C, H, W), in memory or mapped into it.
        kept: Positions among the source's names of the N pictures.
        skipped: (name, reason) of each file that could not be read.
    """

    pixels: np.ndarray
    kept: list[int]
    skipped: list[tuple[str, str]]


def find(path: str | Path, *, about: str = "") -> Source:
    """All pictures of a folder or a zip, sorted by name; hidden files and folders are passed over.

    Args:
        path: The folder or the zip.
        about: As ``open_zip`` takes it.

    Raises:
        ValueError: There are none, or the file is no zip.
        OSError: A folder cannot be listed.
    """
    path = Path(path)
    if path.is_file():
        with open_zip(path, about=about) as archive:
            names = _entries(archive)
    else:
        names = _files(path)
    pictures = tuple(sorted(name for name in names if name.lower().endswith(SUFFIXES)))
    if not pictures:
        raise ValueError(f"there are no images in {path}: expected files ending in {', '.join(SUFFIXES)}")
    return Source(path, pictures)


def open_zip(path: str | Path, *, about: str = "") -> zipfile.ZipFile:
    """Open an archive, or say what it is instead.

    Args:
        path: The file.
        about: What it should be and where to get it, for the message.

    Raises:
        ValueError: It is a web page, half a download, or something else.
    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        size = Path(path).stat().st_size
        with open(path, "rb") as file:
            head = file.read(512).lstrip().lower()
        if size == 0:
            kind = "is empty"
        elif head.startswith((b"<!doctype html", b"<html")):
            kind = (
                "is a web page, not the archive. The host answers with such a page when its download quota "
                "is used up, or when it wants a confirmation: download it in a browser, or try again tomorrow"
            )
        elif head.startswith(b"pk") and isinstance(error, zipfile.BadZipFile):
            kind = f"breaks off after {size:,} bytes: the download was not completed. Delete it and try again"
        else:
            kind = "is no zip archive, or is damaged"
        raise ValueError(f"{path} {kind}. {about}".rstrip()) from error


def read(file: str | Path | BinaryIO, image_size: int, channels: int, crop: int | None = None) -> np.ndarray:
    """Read one picture: its first frame, upright, cut to a centre square, resized.

    Transparent parts are laid on white, 16-bit values scaled to 8.

    Args:
        file: A path or an open binary file.
        image_size: Pixels of the result.
        channels: 1 for grey, 3 for RGB.
        crop: Side of the square that is kept, in pixels of the file; the largest if absent.

    Returns:
        uint8 of shape (channels, image_size, image_size).

    Raises:
        ValueError: It cannot be read, or is smaller than ``crop``. The message is the reason alone.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # odd metadata
            with Image.open(file) as opened:
                picture = _to_mode(ImageOps.exif_transpose(opened), "L" if channels == 1 else "RGB")
    except Image.UnidentifiedImageError as error:
        raise ValueError("is no picture, or of an unknown kind") from error
    except Exception as error:  # damaged bytes lead Pillow's decoders to errors of any kind
        raise ValueError(str(error) or type(error).__name__) from error
    side = min(picture.size) if crop is None else crop
    if side > min(picture.size):
        raise ValueError(f"is {picture.width}x{picture.height} pixels, smaller than the crop of {crop}")
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(image_size, image_size, channels).transpose(2, 0, 1)


def decode(
    source: Source,
    image_size: int,
    channels: int,
    *,
    crop: int | None = None,
    cache: bool = True,
    strict: bool = False,
    workers: int | None = None,
) -> Decoded:
    """All pictures of a source as one array, from the cache where it is up to date.

    Args:
        source: From ``find``, or of your own making.
        image_size, channels, crop: As in ``read``.
        cache: Keep the result beside the data and map it into memory; else hold it in memory alone.
        strict: Stop at the first file that cannot be read.
        workers: Processes that decode; one for each processor if absent.

    Returns:
        The pixels, which pictures they are, and why the others are not among them.

    Raises:
        ValueError: A file cannot be read and ``strict`` is set, or none can.
    """
    state = _state(source)
    asked = [FORMAT, image_size, channels, crop, source.names, state]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    stem = f"{len(source.names)}x{channels}x{image_size}-crop{crop or 0}-{key[:8]}"
    for folder in _folders(source) if cache else ():
        found = _open_cache(folder / stem, key, len(source.names), (channels, image_size, image_size))
        if found is not None:
            _refuse(source, found.skipped, strict)
            return found
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []

    def chunks() -> Iterator[np.ndarray]:
        decoded = _decode_chunks(source, image_size, channels, crop, workers)
        for start, (array, failed) in zip(range(0, len(source.names), CHUNK), decoded, strict=True):
            _refuse(source, failed, strict)
            skipped.extend(failed)
            bad = {name for name, _ in failed}
            names = source.names[start : start + CHUNK]
            kept.extend(start + i for i, name in enumerate(names) if name not in bad)
            yield array

    def fill(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            for array in chunks():
                file.write(array.tobytes())
        _refuse_empty(source, kept, skipped)

    place = next((folder for folder in _folders(source) if writable(folder)), None) if cache else None
    if place is None:
        pixels = np.concatenate(list(chunks()))
        _refuse_empty(source, kept, skipped)
        return Decoded(pixels, kept, skipped)
    write_atomically((place / stem).with_suffix(".u8"), fill)
    shape = (channels, image_size, image_size)
    about = {"key": key, "source": _label(source), "state": state}
    about |= {"shape": (len(kept), *shape), "kept": kept, "skipped": skipped}
    write_text((place / stem).with_suffix(".json"), json.dumps(about))  # from now on the cache counts
    _drop_stale(place, source, state)
    return _open_cache(place / stem, key, len(source.names), shape)


def processors() -> int:
    """How many processors this process may use."""
    from joblib import cpu_count  # which knows of containers' limits and LOKY_MAX_CPU_COUNT

    return cpu_count()


def _to_mode(picture: Image.Image, mode: str) -> Image.Image:
    """To "L" or "RGB" from whatever Pillow may give."""
    if picture.mode == "F":
        raise ValueError("has floating-point pixels, whose range is unknown")
    if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut at 255
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"has pixels from {values.min()} to {values.max()}, not 8 or 16 bits")
        picture = Image.fromarray((values / 257).round().astype(np.uint8))
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture)
        picture = white
    return picture.convert(mode)


def _decode_chunks(
    source: Source, image_size: int, channels: int, crop: int | None, workers: int | None
) -> Iterator[tuple[np.ndarray, list[tuple[str, str]]]]:
    """Chunks in order, decoded side by side, no more than a few ahead of the reader."""
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    jobs = workers or (1 if len(source.names) <= FEW else processors())
    chunks = [source.names[i : i + CHUNK] for i in range(0, len(source.names), CHUNK)]
    work = (
        delayed(_decode_chunk)(Source(source.path, names), image_size, channels, crop) for names in chunks
    )
    results = Parallel(n_jobs=jobs, return_as="generator", batch_size=1, pre_dispatch="2*n_jobs")(work)
    try:
        with tqdm(total=len(source.names), unit="img", desc="decoding", delay=2) as bar:
            for names, result in zip(chunks, results, strict=True):
                bar.update(len(names))
                yield result
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib's, that some work is thrown away: strict means it so
            results.close()
        _archive.cache_clear()


def _decode_chunk(
    source: Source, image_size: int, channels: int, crop: int | None
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Read all of some pictures; this is what runs in the other processes."""
    found, failed = [], []
    for name in source.names:
        try:
            with _open(source, name) as file:
                found.append(read(file, image_size, channels, crop))
        except Exception as error:  # as in `read`; a damaged archive has as many ways to fail
            failed.append((name, str(error) or type(error).__name__))
    empty = np.empty((0, channels, image_size, image_size), np.uint8)
    return (np.stack(found) if found else empty), failed


def _open(source: Source, name: str) -> BinaryIO:
    """Open one of the source's files for reading."""
    if not source.path.is_file():
        return (source.path / name).open("rb")
    archive, entries = _archive(source.path, source.path.stat().st_mtime_ns)
    entry = entries[name]
    if entry.file_size > LARGEST_FILE:
        raise ValueError(f"would unpack to {entry.file_size:,} bytes, more than {LARGEST_FILE:,}")
    return io.BytesIO(archive.read(entry))  # compares the entry's checksum


@lru_cache(maxsize=1)
def _archive(path: Path, changed: int) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """A zip and its entries, kept from chunk to chunk: to list CelebA's takes seconds."""
    archive = open_zip(path)
    return archive, _entries(archive)


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by name, with / between folders, whatever system packed it."""
    entries = {entry.filename.replace("\\", "/"): entry for entry in archive.infolist()}
    return {
        name: entry
        for name, entry in entries.items()
        if not name.endswith("/") and not any(map(_hidden, name.split("/")))
    }


def _files(path: Path) -> Iterator[str]:
    """The files of a folder and of the folders in it, relative to it."""

    def stop(error: OSError) -> None:
        raise error

    for folder, inner, names in os.walk(path, onerror=stop):
        inner[:] = [name for name in inner if not _hidden(name)]
        under = "" if folder == str(path) else Path(folder).relative_to(path).as_posix() + "/"
        yield from (under + name for name in names if not _hidden(name))


def _hidden(name: str) -> bool:
    return name.startswith(HIDDEN) and name not in (".", "..")


def _state(source: Source) -> str:
    """Changes when the zip does, or any picture in the folder."""
    files = [str(source.path)]
    if source.path.is_dir():
        names = sorted(name for name in _files(source.path) if name.lower().endswith(SUFFIXES))
        files = [os.path.join(source.path, name) for name in names]
    state = []
    for file in files:
        with suppress(FileNotFoundError):  # a link that leads nowhere: reading it says so
            status = os.stat(file)
            state.append((os.path.basename(file), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _label(source: Source) -> str:
    """Tells apart what shares a cache folder: the zips that lie side by side."""
    return source.path.name if source.path.is_file() else ""


def _folders(source: Source) -> Iterator[Path]:
    """Where a cache may lie: beside the data, or with the user where that cannot be written."""
    yield source.cache_folder
    where = hashlib.sha256(str(source.path.resolve()).encode()).hexdigest()[:16]
    yield cache_dir() / "decoded" / where


def _open_cache(stem: Path, key: str, names: int, shape: tuple[int, int, int]) -> Decoded | None:
    """A cache that is whole and belongs to the key, or nothing."""
    about, pixels = stem.with_suffix(".json"), stem.with_suffix(".u8")
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
        kept, skipped = found["kept"], [(name, reason) for name, reason in found["skipped"]]
        if found["key"] != key or pixels.stat().st_size != len(kept) * np.prod(shape):
            return None
        if sorted({*kept} & {*range(names)}) != kept or len(kept) + len(skipped) != names:
            return None
        # Copy on write: whoever changes the array changes a page of memory, never the file.
        return Decoded(np.memmap(pixels, np.uint8, "c", shape=(len(kept), *shape)), kept, skipped)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # none there, or damaged
        return None


def _drop_stale(place: Path, source: Source, state: str) -> None:
    """Remove what was decoded from the source before it changed."""
    for about in place.glob("*.json"):
        # Another process may be using or removing it; what is no cache is left alone.
        with suppress(OSError, ValueError, KeyError, TypeError):
            old = json.loads(about.read_text(encoding="utf-8"))
            if old["source"] == _label(source) and old["state"] != state:
                about.unlink()
                about.with_suffix(".u8").unlink()


def _refuse(source: Source, skipped: Sequence[tuple[str, str]], strict: bool) -> None:
    if skipped and strict:
        raise ValueError(f"cannot read the image {source.path}/{skipped[0][0]}: {skipped[0][1]}")


def _refuse_empty(source: Source, kept: list[int], skipped: list[tuple[str, str]]) -> None:
    if not kept:
        name, reason = skipped[0]
        raise ValueError(
            f"none of the {len(skipped)} images of {source.path} can be read; the first, {name}: {reason}"
        )
