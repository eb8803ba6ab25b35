"""A folder or a zip of images as a dataset, whose sub-folders are the classes.

Source of the layout: torchvision's ``ImageFolder``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from dcganlib.datasets import contact_sheet, decode_cache, image_files
from dcganlib.datasets.download import download_url
from dcganlib.datasets.image_dataset import ImageDataset, count_reasons, sample
from dcganlib.datasets.messages import caller_stacklevel, printable, shorten
from dcganlib.datasets.registry import DatasetEntry, LoadOptions

SPLIT_FOLDERS = frozenset(
    ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "holdout")
)
"""Names of folders that are splits of a dataset rather than classes."""

MAX_LOOSE_CHECKED = 100  # images beside folders that are checked for the mark of a contact sheet
MAX_LISTED = 10  # names that a warning lists


def read_dataset(entry: DatasetEntry, options: LoadOptions) -> ImageDataset:
    """Read the folder or zip at the entry's location.

    Args:
        entry: Of the folder or zip.
        options: How to read it.

    Returns:
        The images, sorted by path, at the requested size and channels. If every image is in a sub-folder,
        these are the classes.

    Raises:
        ValueError: There are no images, or none can be read.
        OSError: A folder cannot be listed.
    """
    return _read(Path(entry.location), entry, options)


def read_archive(entry: DatasetEntry, options: LoadOptions) -> ImageDataset:
    """Read the zip of images that is published at the entry's address; download it first if need be.

    Args:
        entry: Its ``url`` and ``checksum`` are used; its ``location`` is the file's name.
        options: How to read it; ``root`` is the folder it is in.

    Raises:
        FileNotFoundError: It is not there and must not be downloaded.
        DownloadError: It cannot be downloaded.
        ValueError: No image can be read.
    """
    path = Path(options.root or "", entry.location)
    if not options.download and not path.is_file():
        raise FileNotFoundError(f"{entry.name} is not downloaded: {path} is missing")
    download_url(entry.url, path, entry.checksum, advice="Without it, use 'faces'.")
    return replace(_read(path, entry, options), source=entry.citation)


def decode(source: image_files.Source, options: LoadOptions) -> decode_cache.Decoded:
    """Decode image files as ``load`` was asked, with a warning that lists those that cannot be read.

    Args:
        source: The files.
        options: With image_size and channels filled in.

    Raises:
        ValueError: As ``decode_cache.decode``.
    """
    decoded = decode_cache.decode(
        source,
        decode_cache.DecodeOptions(
            options.image_size or 64,
            options.channels or 3,
            options.center_crop,
            options.strict,
            options.cache,
        ),
    )
    _warn_of_skipped(decoded.skipped, source)
    return decoded


def with_files(
    dataset: ImageDataset, decoded: decode_cache.Decoded, source: image_files.Source
) -> ImageDataset:
    """Add to a dataset which files were skipped or ignored, with names that can be printed."""
    skipped = tuple((printable(name), reason) for name, reason in decoded.skipped)
    return replace(dataset, skipped=skipped, ignored=source.ignored)


def _read(path: Path, entry: DatasetEntry, options: LoadOptions) -> ImageDataset:
    found = _without_contact_sheets(image_files.find(path))
    classes = _classes(found)
    labels = None if classes is None else _labels(classes, _sorted(classes))
    chosen = sample(labels, len(found.names), options.max_images, options.seed).tolist()
    source = replace(found, names=tuple(found.names[index] for index in chosen))
    decoded = decode(source, options)
    names: Sequence[str] = ()
    if classes is not None:
        kept = [classes[chosen[index]] for index in decoded.kept]
        # A class of which no image can be read is left out; one that is only not in the sample is not.
        names = _sorted({*kept, *(set(classes) - {classes[index] for index in chosen})})
        labels = _labels(kept, names)
        _warn_of_empty_folders(path, found, classes)
    dataset = entry.dataset(torch.from_numpy(decoded.pixels), labels)
    return replace(
        with_files(dataset, decoded, source),
        name=printable(entry.name),
        source=printable(entry.citation),
        class_names=tuple(map(printable, names)),
    )


def _without_contact_sheets(source: image_files.Source) -> image_files.Source:
    """Leave out contact sheets beside the folders of classes, which they would hide."""
    loose = [name for name in source.names if "/" not in name]
    if not 0 < len(loose) < min(len(source.names), MAX_LOOSE_CHECKED):
        return source
    sheets = {name for name in loose if contact_sheet.is_in_source(source, name)}
    return replace(source, names=tuple(name for name in source.names if name not in sheets))


def _classes(source: image_files.Source) -> list[str] | None:
    """The class of each image, or None if there are none, with a warning if they look like a mistake."""
    parts = [PurePosixPath(name).parts for name in source.names]
    shared = _shared_depth(parts)
    loose = [name for name, part in zip(source.names, parts, strict=True) if len(part) <= shared + 1]
    classes = [part[shared] for part in parts if len(part) > shared + 1]
    if loose and len(set(classes)) > 1:
        warnings.warn(
            f"the folders of {source.path} are not used as classes, because {len(loose):,} of its images lie "
            f"beside them, such as {shorten(loose[0])}: move each away or into a class folder",
            stacklevel=caller_stacklevel(),
        )
    if loose:
        return None
    if len(set(classes)) > 1 and {name.lower() for name in classes} <= SPLIT_FOLDERS:
        advice = f": load {Path(source.path, *parts[0][:shared], classes[0])} to use the classes in it"
        warnings.warn(
            f"the classes are the folders {', '.join(_sorted(classes))} of {source.path}, which look like "
            f"the splits of a dataset{advice if source.path.is_dir() else ''}",
            stacklevel=caller_stacklevel(),
        )
    return classes


def _shared_depth(parts: Sequence[tuple[str, ...]]) -> int:
    """How many folders all images are in, as archives often have one around everything."""
    depth = 0
    while all(len(part) > depth + 1 for part in parts) and len({part[depth] for part in parts}) == 1:
        depth += 1
    return depth


def _sorted(classes: Sequence[str] | set[str]) -> list[str]:
    """The names of the classes, each once, "2" before "10"."""
    return sorted(set(classes), key=image_files.natural)


def _labels(classes: Sequence[str], names: Sequence[str]) -> Tensor:
    index = {name: number for number, name in enumerate(names)}
    return torch.tensor([index[name] for name in classes], dtype=torch.int64)


def _warn_of_empty_folders(path: Path, source: image_files.Source, classes: Sequence[str]) -> None:
    """Name the folders beside the classes that have no images."""
    parts = [PurePosixPath(name).parts for name in source.names]
    above = path.joinpath(*parts[0][: _shared_depth(parts)])
    empty = image_files.folders(above) - set(classes) if path.is_dir() else set()
    if empty:
        listed = ", ".join(shorten(name) for name in _sorted(empty)[:MAX_LISTED])
        warnings.warn(
            f"{len(empty):,} folders of {above} have no images and are not classes: {listed}",
            stacklevel=caller_stacklevel(),
        )


def _warn_of_skipped(skipped: Sequence[tuple[str, str]], source: image_files.Source) -> None:
    if skipped:
        shown = "; ".join(f"{shorten(name)}: {reason}" for name, reason in skipped[:MAX_LISTED])
        hidden = len(skipped) - MAX_LISTED
        more = f"; and {hidden:,} more, in `skipped`" if hidden > 0 else ""
        reasons = f"({'; '.join(count_reasons(skipped))}) " if len(skipped) > 1 else ""
        warnings.warn(
            f"{len(skipped):,} of {len(source.names):,} images of {source.path} were left out: "
            f"{reasons}{shown}{more}",
            stacklevel=caller_stacklevel(),
        )
