"""All images of a folder or a zip as one array, decoded once and cached on disk.

The cache is one file beside the images. It is mapped into memory, so that the next start reads nothing. This
module imports no torch, so that the processes that decode start quickly.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dcganlib.datasets import image_decoding, image_files
from dcganlib.datasets.image_files import Source
from dcganlib.datasets.messages import caller_stacklevel, printable
from dcganlib.runtime.files import cache_dir, writable, write_atomically, write_text

IMAGES_PER_CHUNK = 256  # that one process decodes at a time
SINGLE_PROCESS_IMAGES = 512  # up to which one process decodes alone
CACHE_FORMAT = 3  # a new number makes all older caches stale


_Chunk = tuple[np.ndarray, list[tuple[str, str]]]  # pixels, and (name, reason) of what cannot be read


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode the images of a source.

    Attributes:
        image_size, channels, center_crop: As in ``image_decoding.read``.
        strict: Raise an error for the first file that cannot be read.
        cache: Keep the result on disk: beside the data, or in the user's cache if that cannot be written.
        workers: Processes that decode; one for each processor if None.
    """

    image_size: int
    channels: int
    center_crop: int | None = None
    strict: bool = False
    cache: bool = True
    workers: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one decoded image."""
        return self.channels, self.image_size, self.image_size


@dataclass(frozen=True)
class Decoded:
    """The decoded images of a source.

    Attributes:
        pixels: uint8 of shape (N, C, H, W), in memory or mapped into it.
        kept: Positions of the N images among the source's names.
        skipped: (name, reason) of each file that could not be read.
    """

    pixels: np.ndarray
    kept: list[int]
    skipped: list[tuple[str, str]]


def decode(source: Source, options: DecodeOptions) -> Decoded:
    """Decode all images of a source, or open them from the cache if it is up to date.

    Args:
        source: From ``image_files.find``, or made by hand.
        options: How to decode them. If the cache cannot be written, there is a warning and the result is
            held in memory.

    Returns:
        The pixels, which images they are, and why the others were skipped.

    Raises:
        ValueError: A file cannot be read and ``strict`` is set, or none can.
    """
    if not options.cache:
        return _decode_into_memory(source, options)
    cache = _describe_cache(source, options)
    for folder in _cache_folders(source):
        cached = _open_cache(folder, cache)
        if cached is not None:
            _check_strict(source, cached.skipped, options.strict)
            return cached
    try:
        return _decode_into_cache(source, options, cache)
    except OSError as error:  # a full disk, or a drive that cannot hold such files
        warnings.warn(
            f"the decoded images of {source.path} are held in memory and are not cached for the next start: "
            f"{error}",
            stacklevel=caller_stacklevel(),
        )
    return _decode_into_memory(source, options)


def processors() -> int:
    """How many processors this process may use: those of its container, or fewer by LOKY_MAX_CPU_COUNT."""
    from joblib import cpu_count

    return int(cpu_count(only_physical_cores=False))


@dataclass(frozen=True)
class _Cache:
    """What a cache must be to hold the images that are requested."""

    key: str  # checksum of the request and of the state of the files
    state: str
    source: str
    count: int  # of the files
    shape: tuple[int, int, int]
    stem: str  # name of its two files, without suffix


def _describe_cache(source: Source, options: DecodeOptions) -> _Cache:
    state, count = _state(source), len(source.names)
    request: list[Any] = [CACHE_FORMAT, options.image_size, options.channels, options.center_crop]
    request += [source.names, state, image_decoding.max_pixels()]
    key = hashlib.sha256(json.dumps(request).encode()).hexdigest()
    crop = options.center_crop or 0
    stem = f"{count}x{options.channels}x{options.image_size}-crop{crop}-{key[:8]}"
    return _Cache(key, state, _label(source), count, options.shape, stem)


def _decode_into_memory(source: Source, options: DecodeOptions) -> Decoded:
    decoded = Decoded(np.empty((len(source.names), *options.shape), np.uint8), [], [])
    end = 0
    for array in _decode_arrays(source, options, decoded):
        decoded.pixels[end : end + len(array)] = array
        end += len(array)
    return replace(decoded, pixels=decoded.pixels[:end])


def _decode_into_cache(source: Source, options: DecodeOptions, cache: _Cache) -> Decoded:
    folder = next((folder for folder in _cache_folders(source) if writable(folder)), None)
    if folder is None:
        raise OSError("nothing can be written beside it, nor into the user's cache")
    listed = Decoded(np.empty(0), [], [])

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            for array in _decode_arrays(source, options, listed):
                file.write(array.tobytes())

    write_atomically((folder / cache.stem).with_suffix(".u8"), write)
    description: dict[str, Any] = {"key": cache.key, "source": cache.source, "state": cache.state}
    description |= {"shape": (len(listed.kept), *cache.shape)}
    description |= {"kept": listed.kept, "skipped": listed.skipped}
    # The cache is valid once its description is there.
    write_text((folder / cache.stem).with_suffix(".json"), json.dumps(description))
    _remove_stale(folder, cache)
    decoded = _open_cache(folder, cache)
    if decoded is None:
        raise OSError(f"the cache in {folder} was changed by another process")
    return decoded


def _decode_arrays(source: Source, options: DecodeOptions, listed: Decoded) -> Iterator[np.ndarray]:
    """The pixels chunk by chunk; what is read and what is skipped is appended to the lists of ``listed``."""
    chunks = _decode_chunks(source, options)
    for start, (array, failed) in zip(range(0, len(source.names), IMAGES_PER_CHUNK), chunks, strict=True):
        _check_strict(source, failed, options.strict)
        listed.skipped.extend(failed)
        bad = {name for name, _ in failed}
        names = source.names[start : start + IMAGES_PER_CHUNK]
        listed.kept.extend(start + i for i, name in enumerate(names) if name not in bad)
        yield array
    if not listed.kept:
        name, reason = listed.skipped[0]
        raise ValueError(
            f"none of the {len(listed.skipped):,} images of {source.path} can be read; the first, "
            f"{printable(name)}: {reason}"
        )


def _decode_chunks(source: Source, options: DecodeOptions) -> Iterator[_Chunk]:
    """Chunks in order, decoded in parallel, no more than a few ahead of the reader."""
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    jobs = options.workers or (1 if len(source.names) <= SINGLE_PROCESS_IMAGES else processors())
    chunks = [source.names[i : i + IMAGES_PER_CHUNK] for i in range(0, len(source.names), IMAGES_PER_CHUNK)]
    limit = image_decoding.max_pixels()
    tasks = (delayed(_decode_chunk)(Source(source.path, names), options, limit) for names in chunks)
    results = Parallel(n_jobs=jobs, return_as="generator", batch_size=1, pre_dispatch="2*n_jobs")(tasks)
    try:
        with tqdm(total=len(source.names), unit="img", desc="decoding", delay=2) as bar:
            for names, result in zip(chunks, results, strict=True):
                bar.update(len(names))
                yield result
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib's, that work is discarded: strict intends that
            results.close()
        image_files.close_zip()


def _decode_chunk(source: Source, options: DecodeOptions, limit: int) -> _Chunk:
    """Decode all images of a source; this is what the other processes run."""
    arrays, failed = [], []
    for name in source.names:
        try:
            with image_files.open_image(source, name) as file:
                arrays.append(
                    image_decoding.read(
                        file, options.image_size, options.channels, options.center_crop, limit
                    )
                )
        except Exception as error:  # as in `read`; a damaged archive can fail in as many ways
            failed.append((name, image_decoding.error_reason(error)))
    return (np.stack(arrays) if arrays else np.empty((0, *options.shape), np.uint8)), failed


def _state(source: Source) -> str:
    """A checksum that changes when the zip does, or any image in the folder."""
    paths = [str(source.path)]
    if source.path.is_dir():
        known = image_files.suffixes()
        names = image_files.files_in(source.path)
        paths = [
            os.path.join(source.path, name)
            for name in sorted(name for name in names if image_files.suffix_of(name) in known)
        ]
    state = []
    for path in paths:
        with suppress(OSError):  # a link that leads nowhere or in a circle: reading it reports that
            status = os.stat(path)
            state.append((os.path.basename(path), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _label(source: Source) -> str:
    """Tells apart the sources that share a cache folder: the zips in one folder."""
    return source.path.name if source.path.is_file() else ""


def _cache_folders(source: Source) -> Iterator[Path]:
    """Where a cache may lie: beside the data, or in the user's cache if that cannot be written."""
    yield source.cache_folder
    where = hashlib.sha256(os.fsencode(source.path.resolve())).hexdigest()[:16]
    yield cache_dir() / "decoded" / where


def _open_cache(folder: Path, cache: _Cache) -> Decoded | None:
    """The cache in a folder, if it is complete and of the same key."""
    description, pixels = (folder / cache.stem).with_suffix(".json"), (folder / cache.stem).with_suffix(".u8")
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        kept, skipped = content["kept"], [(name, reason) for name, reason in content["skipped"]]
        if content["key"] != cache.key or pixels.stat().st_size != len(kept) * np.prod(cache.shape):
            return None
        if sorted({*kept} & {*range(cache.count)}) != kept or len(kept) + len(skipped) != cache.count:
            return None
        if not all(isinstance(text, str) for pair in skipped for text in pair):
            return None
        # Copy on write: changing the array changes a page of memory, never the file.
        return Decoded(np.memmap(pixels, np.uint8, "c", shape=(len(kept), *cache.shape)), kept, skipped)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # there is none, or it is damaged
        return None


def _remove_stale(folder: Path, cache: _Cache) -> None:
    """Remove what was decoded from the source before it changed."""
    for description in folder.glob("*.json"):
        # Another process may be using or removing it; a file that is not a cache is left alone.
        with suppress(OSError, ValueError, KeyError, TypeError):
            old = json.loads(description.read_text(encoding="utf-8"))
            if old["source"] == cache.source and old["state"] != cache.state:
                description.with_suffix(".u8").unlink()  # first: Windows refuses while it is in use
                description.unlink()


def _check_strict(source: Source, skipped: Sequence[tuple[str, str]], strict: bool) -> None:
    """Raise an error for the first image that cannot be read, if ``strict`` is set."""
    for name, reason in skipped if strict else ():
        if reason != image_decoding.CONTACT_SHEET:
            raise ValueError(f"cannot read the image {source.path}/{printable(name)}: {reason}")
