"""Picture files to bytes: read one, or decode a folder or a zip of them once and keep the result.

A decoded set lies in one file beside its source and is mapped into memory, so the next start reads nothing.
This module imports no torch, so that the processes that decode start quickly.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache as remember
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from dcganlib.runtime.files import (
    cache_dir,
    is_web_page,
    refuse_web_page,
    writable,
    write_atomically,
    write_text,
)

NOT_READ = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
"""Formats that Pillow lists and that hold no pixels, or need another program to draw them."""

NEEDS_PLUGIN = (".avif", ".heic", ".heif", ".jxl")
"""Endings that Pillow knows with a plug-in, or not at all; taken, so that they are listed where it cannot."""

MAX_PIXELS = 178_956_970
"""Pixels of the largest picture that is read, as a small file can claim any size: Pillow's own limit."""

MAX_PIXELS_VARIABLE = "DCGANLIB_MAX_PIXELS"
"""Environment variable that replaces ``MAX_PIXELS``."""

SHEET = "is a sheet of images that dcganlib wrote"
"""Reason why a picture with the mark of ``save_sheet`` is left out."""

CHUNK = 256  # pictures decoded at a time by one process
FEW = 512  # pictures that are not worth a second process
LARGEST_FILE = 2**30  # bytes that one picture of an archive may unpack to
# How the names begin that are passed over: hidden ones, and what systems leave in folders.
HIDDEN = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
FORMAT = 3  # of the cache; a new one makes all older caches stale

RUN = "folder of a run"
RUN_CONFIG = "config.json"
RUN_FILES = frozenset(
    ("checkpoint.pt", "checkpoint-previous.pt", "generator.safetensors", "history.csv", "real.png")
)
"""A folder that has ``RUN_CONFIG`` and one of these holds a run, whose pictures are no data."""

PHOTOMETRIC, ORIENTATION, SOFTWARE = 0x0106, 0x0112, 0x0131  # tags of TIFF and EXIF
PIXEL_TAGS = frozenset(
    (*range(254, 260), 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325)
) | {332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532}
"""Tags of TIFF that say how the pixels are stored and which way up; all others are metadata."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to show a picture upright, by its EXIF orientation."""


@dataclass(frozen=True)
class Source:
    """Picture files in a folder or in a zip, never unpacked.

    Attributes:
        path: The folder or the zip.
        names: Files, relative to the folder or as the zip has them, in the order of the set.
        others: What else is there, as pairs of an ending and the number of files, the most frequent first.
    """

    path: Path
    names: tuple[str, ...]
    others: tuple[tuple[str, int], ...] = ()

    @property
    def cache_folder(self) -> Path:
        """Where decoded pictures are kept: beside the data."""
        return (self.path.parent if self.path.is_file() else self.path) / ".dcganlib"


_Chunk = tuple[np.ndarray, list[tuple[str, str]]]  # pixels, and (name, reason) of what has none


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


def suffixes() -> frozenset[str]:
    """Endings of the files that are taken for pictures: all that Pillow reads, in lower case."""
    known = Image.registered_extensions()  # also loads Pillow's formats
    return frozenset(NEEDS_PLUGIN).union(
        suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in NOT_READ
    )


def max_pixels() -> int:
    """Pixels of the largest picture that is read: ``MAX_PIXELS``, or what the environment says.

    Raises:
        ValueError: The environment variable is no whole number above 0.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE) or str(MAX_PIXELS)
    if not re.fullmatch(r"0*[1-9][0-9_]*", text):
        raise ValueError(f"{MAX_PIXELS_VARIABLE} must be a whole number of pixels above 0, got {text!r}")
    return int(text)


def natural(name: str) -> tuple[object, ...]:
    """A sort key that puts "2" before "10", and text in the order of its characters."""
    parts = re.split(r"([0-9]+)", name)  # text and digits in turn
    digits = ((len(part), part) for part in (part.lstrip("0") for part in parts[1::2]))
    return tuple(zip(parts[::2], [*digits, (0, "")], strict=True)), name


def printable(text: str) -> str:
    r"""A file's name as text that can be printed and saved: bytes that are no UTF-8 become ``\udcNN``."""
    return text.encode("utf-8", "backslashreplace").decode()


def save_sheet(picture: Image.Image, path: str | Path) -> None:
    """Save a grid of images with a mark, so that it is never read as a picture of a set.

    Formats that carry EXIF (PNG, JPEG, WebP, TIFF, AVIF) carry the mark.

    Args:
        picture: The grid.
        path: File to write; replaced if there. Its ending says the format.

    Raises:
        OSError: As ``files.write_atomically``.
    """
    write_atomically(path, lambda temporary: picture.save(temporary, exif=sheet_mark()))


def sheet_mark() -> Image.Exif:
    """The EXIF data by which ``load`` knows a grid that dcganlib wrote."""
    exif = Image.Exif()
    exif[SOFTWARE] = "dcganlib"
    return exif


def is_sheet(source: Source, name: str) -> bool:
    """Whether a picture of a source has the mark of ``save_sheet``; no pixel is decoded."""
    with suppress(Exception), _open(source, name) as file:
        return _has_mark(file)
    return False


def is_our_sheet(path: Path) -> bool:
    """Whether a file is a grid that ``save_sheet`` wrote; no pixel is decoded."""
    with suppress(Exception):
        return _has_mark(path)
    return False


def _has_mark(file: BinaryIO | Path) -> bool:
    with Image.open(file, formats=_formats()) as opened:
        return bool(opened.getexif().get(SOFTWARE) == "dcganlib")


def find(path: str | Path, *, about: str = "") -> Source:
    """All pictures of a folder or a zip, sorted by name.

    Links are followed, as torchvision's ``ImageFolder`` does. Hidden files and folders are passed over, and
    so are the folders of runs.

    Args:
        path: The folder or the zip.
        about: As ``open_zip`` takes it.

    Raises:
        ValueError: There are none, or the file is no zip, or the folder is that of a run.
        OSError: A folder cannot be listed.
    """
    path = Path(path)
    if path.is_file():
        with open_zip(path, about=about) as archive:
            names = list(_entries(archive))
    else:
        if _is_run(path) or (path.name in ("samples", "ema", "averaged") and _is_run(path.parent)):
            raise ValueError(f"{path} is the folder of a run, not of pictures to train on")
        names = list(_files(path))
    known = suffixes()
    pictures = tuple(sorted(name for name in names if _suffix(name) in known))
    rest = Counter(
        RUN if name.endswith("/") else _suffix(name) or "no ending"
        for name in names
        if _suffix(name) not in known
    )
    others = tuple(rest.most_common())
    if not pictures:
        has = f"; it has {count_others(others)}" if others else ""
        raise ValueError(
            f"there are no images in {path}: expected files ending in .jpg, .png, .webp or whatever else "
            f"Pillow reads{has}"
        )
    return Source(path, pictures, others)


def folders(path: Path) -> set[str]:
    """Names of the folders in a folder, but for hidden ones and those of runs."""
    return {
        each.name for each in path.iterdir() if not _hidden(each.name) and each.is_dir() and not _is_run(each)
    }


def count_others(others: Iterable[tuple[str, int]]) -> str:
    """What ``Source.others`` holds, in words."""
    return ", ".join(f"{number:,} {printable(kind)}" for kind, number in others)


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
            head = file.read(512)
        refuse_web_page(path, head, about=about)
        if size == 0:
            kind = "is empty"
        elif other := _archive_kind(head):
            kind = f"is a {other} archive, which is not read: unpack it and give the folder"
        elif head.startswith(b"PK") and isinstance(error, zipfile.BadZipFile):
            kind = f"breaks off after {size:,} bytes: the download was not completed. Delete it and try again"
        else:
            kind = "is no zip archive, or is damaged"
        raise ValueError(f"{path} {kind}. {about}".rstrip()) from error


def _archive_kind(head: bytes) -> str:
    """What archive a file is that is no zip, by its first bytes, 512 or more; "" for none that is known."""
    starts = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"7z\xbc\xaf": ".7z", b"Rar!": ".rar"}
    kinds = [kind for start, kind in starts.items() if head.startswith(start)]
    return kinds[0] if kinds else ".tar" if head[257:262] == b"ustar" else ""


def read(
    file: str | Path | BinaryIO,
    image_size: int,
    channels: int,
    center_crop: int | None = None,
    limit: int | None = None,
) -> np.ndarray:
    """Read one picture: its first frame, upright, cut to a centre square, resized.

    Transparent parts are laid on white, 16-bit values and floats from 0 to 1 scaled to bytes. Metadata that
    are damaged are ignored where the pixels are whole.

    Args:
        file: A path or an open binary file.
        image_size: Pixels of the result.
        channels: 1 for grey, 3 for RGB.
        center_crop: Side of the square that is kept, in pixels of the file; the largest if absent.
        limit: Pixels of the largest file that is read; ``max_pixels()`` if absent.

    Returns:
        uint8 of shape (channels, image_size, image_size).

    Raises:
        ValueError: It cannot be read, or is smaller than ``center_crop``. The message is the reason alone.
    """
    limit = limit or max_pixels()
    try:
        with open(file, "rb") if isinstance(file, (str, Path)) else nullcontext(file) as stream:
            picture = _picture(stream, "L" if channels == 1 else "RGB", limit)
    except UnidentifiedImageError as error:
        raise ValueError("is no picture, or of a kind that Pillow cannot read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"[0-9]+", str(error))
        raise ValueError(
            f"has {int(pixels[0]) if pixels else 0:,} pixels and exceeds limit of {limit:,}; set the "
            f"environment variable {MAX_PIXELS_VARIABLE} to read it"
        ) from error
    except Exception as error:  # damaged bytes lead Pillow's decoders to errors of any kind
        raise ValueError(_reason(error)) from error
    side = min(picture.size) if center_crop is None else center_crop
    if side > min(picture.size):
        raise ValueError(
            f"is {picture.width}x{picture.height} pixels, smaller than the center_crop {center_crop}"
        )
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(image_size, image_size, channels).transpose(2, 0, 1)


def decode(
    source: Source,
    image_size: int,
    channels: int,
    *,
    center_crop: int | None = None,
    cache: bool = True,
    strict: bool = False,
    workers: int | None = None,
) -> Decoded:
    """All pictures of a source as one array, from the cache where it is up to date.

    Args:
        source: From ``find``, or of your own making.
        image_size, channels, center_crop: As in ``read``.
        cache: Keep the result beside the data, or with the user where nothing can be written there, and map
            it into memory. Where that fails too, with a warning, or if False, it is held in memory alone.
        strict: Stop at the first file that cannot be read.
        workers: Processes that decode; one for each processor if absent.

    Returns:
        The pixels, which pictures they are, and why the others are not among them.

    Raises:
        ValueError: A file cannot be read and ``strict`` is set, or none can.
    """
    state, limit = _state(source), max_pixels()
    asked = [FORMAT, image_size, channels, center_crop, source.names, state, limit]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    stem = f"{len(source.names)}x{channels}x{image_size}-crop{center_crop or 0}-{key[:8]}"
    for folder in _folders(source) if cache else ():
        found = _open_cache(folder / stem, key, len(source.names), (channels, image_size, image_size))
        if found is not None:
            _refuse(source, found.skipped, strict)
            return found
    shape = (channels, image_size, image_size)
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []

    def chunks() -> Iterator[np.ndarray]:
        kept.clear()
        skipped.clear()
        work = partial(
            _decode_chunk, image_size=image_size, channels=channels, center_crop=center_crop, limit=limit
        )
        decoded = _decode_chunks(source, work, workers)
        for start, (array, failed) in zip(range(0, len(source.names), CHUNK), decoded, strict=True):
            _refuse(source, failed, strict)
            skipped.extend(failed)
            bad = {name for name, _ in failed}
            names = source.names[start : start + CHUNK]
            kept.extend(start + i for i, name in enumerate(names) if name not in bad)
            yield array
        _refuse_empty(source, kept, skipped)

    def fill(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            for array in chunks():
                file.write(array.tobytes())

    failed = "nothing can be written beside it, nor into the user's cache"
    place = next((folder for folder in _folders(source) if writable(folder)), None) if cache else None
    if place is not None:
        try:
            write_atomically((place / stem).with_suffix(".u8"), fill)
            about: dict[str, Any] = {"key": key, "source": _label(source), "state": state}
            about |= {"shape": (len(kept), *shape), "kept": kept, "skipped": skipped}
            write_text((place / stem).with_suffix(".json"), json.dumps(about))  # now the cache counts
            _drop_stale(place, source, state)
            found = _open_cache(place / stem, key, len(source.names), shape)
            if found is not None:
                return found
            failed = f"the decoded pictures in {place} were changed by another process"
        except OSError as error:  # a full disk, or a drive that takes no such files
            failed = str(error)
    if cache:
        warnings.warn(
            f"the decoded pictures of {source.path} are held in memory and are not kept for the next start: "
            f"{failed}",
            stacklevel=4,  # whoever loads the set
        )
    pixels, end = np.empty((len(source.names), *shape), np.uint8), 0
    for array in chunks():
        pixels[end : end + len(array)] = array
        end += len(array)
    return Decoded(pixels[:end], kept, skipped)


def processors() -> int:
    """How many processors this process may use: those of its container, or fewer by LOKY_MAX_CPU_COUNT."""
    from joblib import cpu_count

    return int(cpu_count(only_physical_cores=False))


@contextmanager
def _pixel_limit(limit: int) -> Iterator[None]:
    """Let Pillow refuse pictures of more pixels than this."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
    try:
        with warnings.catch_warnings():
            for category in (UserWarning, DeprecationWarning):  # odd metadata, a format Pillow will drop
                warnings.filterwarnings("ignore", category=category, module="PIL")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _picture(stream: BinaryIO, mode: str, limit: int) -> Image.Image:
    """The first frame, upright; where that fails, once more without the metadata."""
    start = stream.tell()
    try:
        return _open_picture(stream, mode, limit)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, _SheetError):
        raise
    except Exception as error:
        stream.seek(start)
        content = stream.read()
        if is_web_page(content):
            raise ValueError("is a web page that was saved in place of a picture") from error
        bare = _without_metadata(content)
        if bare is None:
            raise
        try:
            return _open_picture(io.BytesIO(bare), mode, limit)
        except Exception:
            raise error from None  # the first reason is that of the file as it is


def _open_picture(stream: BinaryIO, mode: str, limit: int) -> Image.Image:
    with _pixel_limit(limit), Image.open(stream, formats=_formats()) as opened:
        raw = _raw_mode(opened)  # before the metadata, for which a PNG is loaded
        exif: dict[int, Any] = {}
        with suppress(Exception):  # damaged, as any error says
            exif = dict(opened.getexif())
        if exif.get(SOFTWARE) == "dcganlib":
            raise _SheetError(SHEET)
        picture = _to_mode(opened, mode, raw)
        # Pillow turns a TIFF itself when it loads it.
        turn = None if opened.format == "TIFF" else TURNS.get(exif.get(ORIENTATION, 0))
        return picture if turn is None else picture.transpose(turn)


class _SheetError(ValueError):
    """A picture that ``save_sheet`` wrote."""


@remember
def _formats() -> tuple[str, ...]:
    """Pillow's formats, but for those that run another program or hold no pixels."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind not in NOT_READ)


def _without_metadata(content: bytes) -> bytes | None:
    """A PNG, JPEG or TIFF without what says nothing about its pixels, or None where that is all it has."""
    kept, at = [], 0
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        kept, at = [content[:8]], 8
        while at + 12 <= len(content):
            end = at + 12 + int.from_bytes(content[at : at + 4], "big")
            if content[at + 4 : at + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
                kept.append(content[at:end])
            at = end
    elif content.startswith(b"\xff\xd8"):
        kept, at = [content[:2]], 2
        while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
            marker = content[at + 1]
            # APP0 and APP14 say how the colours are coded; the other APPn and comments are metadata.
            if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                kept.append(content[at:end])
            at = end
        kept.append(content[at:])
    elif content[:4] in (b"II*\0", b"MM\0*"):
        order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"
        at = int.from_bytes(content[4:8], order)
        end = at + 2 + 12 * int.from_bytes(content[at : at + 2], order)
        entries = [content[each : each + 12] for each in range(at + 2, end, 12)]
        entries = [entry for entry in entries if int.from_bytes(entry[:2], order) in PIXEL_TAGS]
        # The shorter directory takes the place of the old one, so that all offsets hold.
        directory = len(entries).to_bytes(2, order) + b"".join(entries) + bytes(4)
        kept = [content[:at], directory, content[at + len(directory) :]]
    bare = b"".join(kept)
    return bare if bare and bare != content else None


def _to_mode(opened: Image.Image, mode: str, raw: str) -> Image.Image:
    """To "L" or "RGB" from whatever Pillow may give, transparent parts on white; ``raw`` of ``_raw_mode``."""
    opened.load()
    picture, transparent = opened, opened.info.get("transparency")
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = Image.fromarray(_to_bytes(opened, raw, transparent))
    else:
        # A PNG names its transparent colour in its own bits, Pillow spreads the pixels over 8.
        spread = {"L;2": 85, "L;4": 17}
        if isinstance(transparent, int) and raw in spread:
            picture.info["transparency"] = transparent * spread[raw]
        elif isinstance(transparent, tuple) and raw.startswith("RGB;16"):
            picture.info["transparency"] = tuple(value >> 8 for value in transparent)
        palette = picture.palette
        in_palette = picture.mode == "P" and palette is not None and palette.mode.endswith("A")
        if transparent is not None or in_palette or picture.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
            if picture.mode == "La":
                picture = picture.convert("LA")
            picture = picture.convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            white.alpha_composite(picture)
            picture = white
    return picture.convert(mode)


def _raw_mode(opened: Image.Image) -> str:
    """How the file holds its pixels, such as "I;12", before it is loaded; "" where it does not say."""
    with suppress(IndexError, TypeError):
        arguments = getattr(opened, "tile", [])[0][3]  # only what was read from a file has it
        return str(arguments if isinstance(arguments, str) else arguments[0])
    return ""


def _to_bytes(opened: Image.Image, raw: str, transparent: object) -> np.ndarray:
    """Grey values of more than 8 bits as uint8 of shape (H, W), the transparent one white."""
    values = np.asarray(opened)
    least, most = values.min(), values.max()
    if opened.mode == "F":
        if not (least >= 0 and most <= 1):  # or not a number
            raise ValueError(f"has floating-point pixels from {least:g} to {most:g}, not from 0 to 1")
        return (values * 255).round().astype(np.uint8)
    if least < 0 or most > 65535:
        raise ValueError(f"has pixels from {least} to {most}, not 8 or 16 bits")
    top = 4095 if raw.startswith("I;12") else 65535
    grey = ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    if getattr(opened, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # a TIFF whose 0 is white
        grey = 255 - grey
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey


def _decode_chunks(source: Source, work: Callable[[Source], _Chunk], workers: int | None) -> Iterator[_Chunk]:
    """Chunks in order, decoded side by side, no more than a few ahead of the reader."""
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    jobs = workers or (1 if len(source.names) <= FEW else processors())
    chunks = [source.names[i : i + CHUNK] for i in range(0, len(source.names), CHUNK)]
    tasks = (delayed(work)(Source(source.path, names)) for names in chunks)
    results = Parallel(n_jobs=jobs, return_as="generator", batch_size=1, pre_dispatch="2*n_jobs")(tasks)
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
    source: Source, image_size: int, channels: int, center_crop: int | None, limit: int
) -> _Chunk:
    """Read all of some pictures; this is what runs in the other processes."""
    found, failed = [], []
    for name in source.names:
        try:
            with _open(source, name) as file:
                found.append(read(file, image_size, channels, center_crop, limit))
        except Exception as error:  # as in `read`; a damaged archive has as many ways to fail
            failed.append((name, _reason(error)))
    empty = np.empty((0, channels, image_size, image_size), np.uint8)
    return (np.stack(found) if found else empty), failed


def _reason(error: Exception) -> str:
    """What an error says, without the path that goes before it elsewhere."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _open(source: Source, name: str) -> BinaryIO:
    """Open one of the source's files for reading."""
    if not source.path.is_file():
        path = os.path.join(source.path, name)
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
            raise ValueError("is no regular file")
        return open(path, "rb")
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
    inside: dict[str, set[str]] = {}
    for name in entries:
        folder, _, file = name.rpartition("/")
        if file == RUN_CONFIG or file in RUN_FILES:
            inside.setdefault(folder + "/", set()).add(file)
    runs = tuple(folder for folder, names in inside.items() if folder != "/" and _holds_run(names))
    return {
        name: entry
        for name, entry in entries.items()
        if not name.endswith("/") and not any(map(_hidden, name.split("/"))) and not name.startswith(runs)
    }


def _files(path: Path) -> Iterator[str]:
    """The files of a folder and of the folders in it, relative to it; the folder of a run ends in "/"."""
    yield from _walk(os.fspath(path), "", ())


def _walk(folder: str, under: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """``_files`` of one folder; ``above`` are the folders it lies in, which a link may lead back to."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not _hidden(entry.name)]
    if under and _holds_run({entry.name for entry in found}):
        yield under
        return
    for entry in found:
        if _is_folder(entry):
            yield from _walk(entry.path, f"{under}{entry.name}/", (*above, here))
        else:
            yield under + entry.name


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


def _hidden(name: str) -> bool:
    return name.startswith(HIDDEN) and name not in (".", "..")


def _suffix(name: str) -> str:
    """The ending of a file's name, in lower case, with its dot; "" where there is none."""
    stem, dot, ending = name.rpartition("/")[2].rpartition(".")
    return f".{ending.lower()}" if stem and dot else ""


def _state(source: Source) -> str:
    """Changes when the zip does, or any picture in the folder."""
    files = [str(source.path)]
    if source.path.is_dir():
        known = suffixes()
        names = sorted(name for name in _files(source.path) if _suffix(name) in known)
        files = [os.path.join(source.path, name) for name in names]
    state = []
    for file in files:
        with suppress(OSError):  # a link that leads nowhere or in a circle: reading it says so
            status = os.stat(file)
            state.append((os.path.basename(file), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _label(source: Source) -> str:
    """Tells apart what shares a cache folder: the zips that lie side by side."""
    return source.path.name if source.path.is_file() else ""


def _folders(source: Source) -> Iterator[Path]:
    """Where a cache may lie: beside the data, or with the user where that cannot be written."""
    yield source.cache_folder
    where = hashlib.sha256(os.fsencode(source.path.resolve())).hexdigest()[:16]
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
        if not all(isinstance(text, str) for pair in skipped for text in pair):
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
                about.with_suffix(".u8").unlink()  # first: Windows refuses while it is in use
                about.unlink()


def _refuse(source: Source, skipped: Sequence[tuple[str, str]], strict: bool) -> None:
    for name, reason in skipped if strict else ():
        if reason != SHEET:
            raise ValueError(f"cannot read the image {source.path}/{printable(name)}: {reason}")


def _refuse_empty(source: Source, kept: list[int], skipped: list[tuple[str, str]]) -> None:
    if not kept:
        name, reason = skipped[0]
        raise ValueError(
            f"none of the {len(skipped):,} images of {source.path} can be read; the first, "
            f"{printable(name)}: {reason}"
        )
