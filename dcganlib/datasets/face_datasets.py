"""CelebA and the drawn faces as datasets: images with attributes, landmarks and identities."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dcganlib.datasets import celeba, face_files, image_folder
from dcganlib.datasets.download import DownloadError
from dcganlib.datasets.image_dataset import ImageDataset
from dcganlib.datasets.messages import caller_stacklevel
from dcganlib.datasets.registry import DatasetEntry, LoadOptions, data_root

DEFAULT_FACES = 20_000
"""How many faces are drawn if no ``max_images`` is given."""


def read_celeba(entry: DatasetEntry, options: LoadOptions) -> ImageDataset:
    """Read a split of CelebA; download it first if need be.

    Args:
        entry: Of "celeba".
        options: How to read it; ``root`` is the data root, or CelebA's own folder or zip.

    Raises:
        FileNotFoundError: It is not there and must not be downloaded.
        DownloadError: Its images cannot be downloaded.
        ValueError: A text file does not match the images, or no image can be read.
    """
    path = _find_or_download(data_root(options.root), options.download)
    listing = celeba.read(path, options.split, options.max_images, seed=options.seed)
    return _decode(listing, entry, options)


def read_faces(entry: DatasetEntry, options: LoadOptions) -> ImageDataset:
    """Read a split of the drawn faces; draw those that are missing first.

    Args:
        entry: Of "faces".
        options: How to read them. ``max_images`` is the number of faces in all splits, ``DEFAULT_FACES`` if
            None; ``seed`` decides which faces these are.

    Raises:
        ValueError: A number is out of range, or the split has no images.
        PermissionError: The folder cannot be written.
        ModuleNotFoundError: The extra ``faces`` is missing.
    """
    count = options.max_images or DEFAULT_FACES
    folder = data_root(options.root) / entry.location.replace("*", str(options.seed))
    face_files.write_faces(folder, count, options.seed)
    return _decode(celeba.read(folder, options.split or "train", first_images=count), entry, options)


def _find_or_download(root: Path, download: bool) -> Path:
    """Where CelebA is; an interrupted download continues if it may."""
    try:
        source = celeba.find(root)
    except FileNotFoundError:
        if not download:
            raise
        return celeba.download(root)
    missing = celeba.missing_lists(source) if source.path.parent == root / "celeba" else []
    if missing and download:
        try:
            celeba.download(root)
        except DownloadError as error:
            warnings.warn(
                f"{', '.join(missing)} could not be downloaded, going on without: {error}",
                stacklevel=caller_stacklevel(),
            )
    return root


def _decode(listing: celeba.Listing, entry: DatasetEntry, options: LoadOptions) -> ImageDataset:
    """Decode a listing, with the values of the images that can be read."""
    decoded = image_folder.decode(listing.source, options)
    dataset = entry.dataset(torch.from_numpy(decoded.pixels))
    dataset = image_folder.with_files(dataset, decoded, listing.source)
    return replace(
        dataset,
        attribute_names=listing.attribute_names,
        attributes=_tensor(listing.attributes, decoded.kept),
        landmarks=_tensor(listing.landmarks, decoded.kept),
        identities=_tensor(listing.identities, decoded.kept),
    )


def _tensor(values: np.ndarray | None, kept: list[int]) -> Tensor | None:
    return None if values is None else torch.from_numpy(values[kept])
