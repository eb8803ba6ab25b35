"""CelebA as people have it: read from its folder or its zip, fetched, or filled with drawn faces.

The layout is that of torchvision's ``CelebA``: a folder with ``img_align_celeba/`` (or the zip of that name)
and the text files that list partition, attributes, landmarks and identities. Kaggle's layout is read as well
(a folder in a folder, lists as .csv), and so is the authors' own (``Img/``, ``Anno/``, ``Eval/``).

Source: Liu, Luo, Wang and Tang, Deep learning face attributes in the wild, ICCV 2015.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcganlib.datasets import image_folder, synthetic_faces
from dcganlib.datasets.download import download_url
from dcganlib.runtime.files import refuse_web_page, writable, write_atomically, write_text

PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
"""CelebA's official page."""

SOURCE = "Liu, Luo, Wang and Tang, Deep learning face attributes in the wild, 2015"
LICENCE = "non-commercial research only; see " + PAGE

IMAGES = "img_align_celeba"
PARTITION, ATTRIBUTES = "list_eval_partition.txt", "list_attr_celeba.txt"
LANDMARKS, IDENTITIES = "list_landmarks_align_celeba.txt", "identity_CelebA.txt"

TEXTS = (PARTITION, ATTRIBUTES, LANDMARKS, IDENTITIES)

HOST = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
"""Address of a file of CelebA by its number; the authors keep them on Google Drive."""

FILES = {
    f"{IMAGES}.zip": ("0B7EVK8r0v71pZjFTYXZWM3FlRnM", "md5:00d2c5bc6d35e252742224ab0c1e8fcb", 1_443_490_838),
    ATTRIBUTES: ("0B7EVK8r0v71pblRyaVFSWGxPY0U", "md5:75e246fa4810816ffd6ee81facbd244c", 26_721_026),
    IDENTITIES: ("1_ee_0u7vcNLOfNLegJRHmolfH5ICW-XS", "md5:32bd1bd63d3c78cd57e08160ec5ed1e2", 3_424_458),
    LANDMARKS: ("0B7EVK8r0v71pd0FJY3Blby1HUTQ", "md5:cc24ecafdb5b50baae59b03474781f8c", 12_156_055),
    PARTITION: ("0B7EVK8r0v71pY0NSMzRuSXJEVkk", "md5:d32c9cbf5e040fd4025c592c306e6668", 2_836_386),
}
"""Published files: (number at the host, checksum, bytes)."""

PARTS = {"train": 0, "valid": 1, "test": 2}
"""Number of each split in the partition file."""


@dataclass(frozen=True)
class Listing:
    """The images of one split, and what the text files say about them, in the order of the files.

    Attributes:
        source: The picture files.
        attributes: bool of shape (N, A), or None where there is no such file.
        attribute_names: The A names.
        landmarks: int64 of shape (N, L, 2), x and y in pixels of the uncropped picture, or None.
        identities: int64 of shape (N,), or None.
    """

    source: image_folder.Source
    attributes: np.ndarray | None
    attribute_names: tuple[str, ...]
    landmarks: np.ndarray | None
    identities: np.ndarray | None


def find(path: str | Path) -> image_folder.Source:
    """The pictures of a set in CelebA's layout.

    Args:
        path: The folder with the text files, its ``img_align_celeba``, the zip, the folder above, or a folder
            of pictures that are named as CelebA's.

    Raises:
        FileNotFoundError: There are no such pictures.
        ValueError: The zip is a web page or half a download.
    """
    path = Path(path)
    if path.is_file():
        return image_folder.find(path, about=_advice())
    if path.name == IMAGES and _has_pictures(path):
        return image_folder.find(path)
    bases = [path / base / inner for base in ("", "celeba", "CelebA") for inner in ("", "Img")]
    for base in bases:
        folder, archive = base / IMAGES, base / f"{IMAGES}.zip"
        if _has_pictures(folder):
            return image_folder.find(folder)
        if archive.is_file():
            return image_folder.find(archive, about=_advice())
    for base in bases:
        if any(re.fullmatch(r"[0-9]{6}\.(jpg|png)", name) for name in _names(base)):
            return image_folder.find(base)
    raise FileNotFoundError(f"there is neither {IMAGES} nor {IMAGES}.zip in {path}. {_advice()}")


def read(
    path: str | Path,
    split: str | None = None,
    max_images: int | None = None,
    *,
    among: int | None = None,
    seed: int = 0,
) -> Listing:
    """List a split of a set in CelebA's layout; no picture is opened yet.

    Args:
        path: As ``find`` takes it.
        split: "train", "valid", "test" or "all". If absent, "train"; or "all", with a warning, where no file
            says what belongs to which.
        max_images: Use so many images of the split, a random sample; all of them if absent.
        among: Look at the set's first so many images alone, before the split; at all of them if absent.
        seed: Of the sample.

    Raises:
        FileNotFoundError: Pictures or the partition are missing.
        ValueError: A text file does not fit the pictures.
    """
    source = find(path)
    at: dict[str, str] = {}
    for name in source.names:
        if at.setdefault(name.rpartition("/")[2], name) != name:
            raise ValueError(f"{source.path} has two images of one name: {at[Path(name).name]} and {name}")
    names = sorted(at)[:among]
    lists = _lists(source)
    if split is None and lists.get(PARTITION) is None:
        split = "all"
        warnings.warn(
            f"there is no {PARTITION} or .csv near {source.path}: all {len(names):,} images are "
            "taken, with those that CelebA keeps for tests",
            stacklevel=3,
        )
    split = split or "train"
    if split != "all":
        names = _part(source, lists.get(PARTITION), names, split, whole=among is None)
    if max_images is not None and max_images < len(names):
        chosen = np.random.default_rng(seed).choice(len(names), max_images, replace=False)
        names = [names[index] for index in np.sort(chosen)]
    attributes, attribute_names = _optional_table(lists.get(ATTRIBUTES), names)
    landmarks, _ = _optional_table(lists.get(LANDMARKS), names)
    identities, _ = _optional_table(lists.get(IDENTITIES), names, header=False)
    return Listing(
        image_folder.Source(source.path, tuple(at[name] for name in names), source.others),
        None if attributes is None else attributes > 0,
        attribute_names,
        None if landmarks is None else landmarks.reshape(len(names), -1, 2),
        None if identities is None else identities[:, 0],
    )


def missing_lists(source: image_folder.Source) -> list[str]:
    """Names of the text files that are nowhere near the pictures."""
    return sorted(set(TEXTS) - set(_lists(source)))


def download(root: str | Path, host: str | None = None) -> Path:
    """Fetch CelebA into ``root/celeba``: 1.4 GB of pictures as one zip, and its text files.

    What is there already is not fetched again: neither a file with the right checksum, nor the zip where its
    pictures lie beside it, unpacked. What broke off goes on.

    Args:
        root: Folder of the sets.
        host: Address with a place for ``{id}`` or ``{name}``; the authors' own if absent.

    Returns:
        The folder.

    Raises:
        DownloadError: The host does not give the file; the message says what it gave instead.
    """
    folder = Path(root) / "celeba"
    for name, (number, checksum, size) in FILES.items():
        if name == f"{IMAGES}.zip" and _has_pictures(folder / IMAGES):
            continue
        address = (host or HOST).format(id=number, name=name)
        download_url(address, folder / name, checksum, size=size, advice=_advice())
    return folder


def write_faces(folder: str | Path, count: int, seed: int = 0, workers: int | None = None) -> Path:
    """Draw a set of faces in CelebA's layout.

    What is there already is kept, so a set grows and an interrupted call goes on.

    Args:
        folder: Where ``img_align_celeba`` and the text files go.
        count: Number of pictures, at least 1.
        seed: Of the set; see ``synthetic_faces.describe``.
        workers: Processes that draw; one for each processor if absent.

    Returns:
        The folder.

    Raises:
        ValueError: A number is out of range, or the folder holds another set.
        PermissionError: Nothing can be written there.
        ModuleNotFoundError: The extra ``faces`` is missing.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    first = [synthetic_faces.describe(index, seed).identity for index in range(min(count, 8))]
    folder, images = Path(folder), Path(folder) / IMAGES
    names = [f"{index + 1:06d}.png" for index in range(count)]
    there = {path.name for path in images.iterdir()} if images.is_dir() else set()
    missing = [index for index, name in enumerate(names) if name not in there]
    if missing:
        synthetic_faces.check_installed()
    if not writable(images):
        raise PermissionError(
            f"nothing can be written into {images}: name another folder with --root or DCGANLIB_DATA"
        )
    listed: list[str] = []
    if (folder / IDENTITIES).is_file():
        listed = _text(str(folder / IDENTITIES), (folder / IDENTITIES).read_bytes()).splitlines()
    if any(line.split()[1:] != [str(identity)] for line, identity in zip(listed, first, strict=False)):
        raise ValueError(f"{folder} holds other faces than those of seed {seed}: name another folder")
    if len(listed) < count:
        _write_lists(folder, names, [synthetic_faces.describe(index, seed) for index in range(count)])
    if missing:
        _draw_all(images, names, missing, seed, workers)
    return folder


def partition(face: synthetic_faces.Face) -> int:
    """Which split a drawn person belongs to, so that nobody is in two: 18 of 20 train, 1 valid, 1 test."""
    return {18: 1, 19: 2}.get(face.identity % 20, 0)


def _draw_all(folder: Path, names: list[str], missing: list[int], seed: int, workers: int | None) -> None:
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    chunks = [missing[i : i + 32] for i in range(0, len(missing), 32)]
    jobs = 1 if len(chunks) == 1 else workers or image_folder.processors()
    work = (delayed(_draw_some)(folder, [(names[i], i) for i in chunk], seed) for chunk in chunks)
    done = Parallel(n_jobs=jobs, return_as="generator", batch_size=1, pre_dispatch="2*n_jobs")(work)
    with tqdm(total=len(missing), unit="img", desc="drawing faces", delay=2) as bar:
        for number in done:
            bar.update(number)


def _draw_some(folder: Path, wanted: list[tuple[str, int]], seed: int) -> int:
    for name, index in wanted:
        picture = synthetic_faces.draw(synthetic_faces.describe(index, seed))
        write_atomically(folder / name, picture.save)
    return len(wanted)


def _write_lists(folder: Path, names: list[str], described: list[synthetic_faces.Face]) -> None:
    """The text files, laid out as CelebA's."""

    def lines(row: Callable[[synthetic_faces.Face], tuple[int, ...]]) -> str:
        rows = (
            f"{name} {' '.join(map(str, row(face)))}\n" for name, face in zip(names, described, strict=True)
        )
        return "".join(rows)

    heading = f"{len(names)}\n"
    points = " ".join(f"{name}_{axis}" for name in synthetic_faces.LANDMARKS for axis in "xy")
    attributes = lines(lambda face: tuple(1 if holds else -1 for holds in face.attributes))
    landmarks = lines(lambda face: tuple(value for point in face.landmarks for value in point))
    write_text(folder / ATTRIBUTES, heading + " ".join(synthetic_faces.ATTRIBUTES) + "\n" + attributes)
    write_text(folder / LANDMARKS, heading + points + "\n" + landmarks)
    write_text(folder / PARTITION, lines(lambda face: (partition(face),)))
    write_text(folder / IDENTITIES, lines(lambda face: (face.identity,)))  # last: it says that all are there


@dataclass(frozen=True)
class _List:
    """One of the text files: where it is, and what it says."""

    path: str
    text: str


def _lists(source: image_folder.Source) -> dict[str, _List]:
    """The text files of the set, .txt or .csv, by name: those near the pictures, or in the zip with them."""
    found: dict[str, _List] = {}
    kinds = {each: name for name in TEXTS for each in (name, f"{Path(name).stem}.csv")}
    folder = source.path.parent
    near = (source.path,) if source.path.is_dir() else ()
    for place in (*near, folder, folder.parent):
        for inner in ("", "Anno", "Eval"):
            for each, name in kinds.items():
                path = place / inner / each
                if name not in found and path.is_file():
                    found[name] = _List(str(path), _text(str(path), path.read_bytes()))
    if len(found) < len(TEXTS) and source.path.is_file():
        with zipfile.ZipFile(source.path) as archive:
            for entry in archive.namelist():
                known = kinds.get(entry.rpartition("/")[2])
                if known and known not in found:
                    inside = f"{source.path}/{entry}"
                    found[known] = _List(inside, _text(inside, archive.read(entry)))
    return found


def _part(
    source: image_folder.Source, found: _List | None, names: list[str], split: str, whole: bool
) -> list[str]:
    """The names that belong to a split; a warning where pictures are missing of the ``whole`` set."""
    if found is None:
        raise FileNotFoundError(
            f"{source.path.parent} has no {PARTITION}, which says what is {split!r}: put it there, or ask "
            f"for the split 'all'. {_advice()}"
        )
    _, rows = _rows(found, header=False)
    if whole and len(names) < len(rows):
        warnings.warn(
            f"{found.path} lists {len(rows):,} images, {source.path} has {len(names):,}: the others are "
            "left out",
            stacklevel=4,
        )
    numbers, _ = _table(found, names, header=False)
    chosen = [name for name, (number,) in zip(names, numbers, strict=True) if number == PARTS[split]]
    if not chosen:
        raise ValueError(f"no image of {source.path} belongs to the split {split!r}")
    return chosen


def _rows(found: _List, *, header: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of the columns, and what each line says, by the name of its picture without its ending."""
    lines = found.text.split("\n")
    columns: tuple[str, ...] = ("",)
    if found.path.endswith(".csv"):  # one line of names, whatever the list
        separator = next((each for each in ";\t" if each in lines[0]), ",")
        try:
            table = list(csv.reader(lines, delimiter=separator, skipinitialspace=True))
        except csv.Error as error:
            raise ValueError(f"{found.path} is damaged: {error}") from error
        columns = tuple(name.strip() for name in table[0][1:])
        lines = [" ".join(row) for row in table[1:]]
    elif header:  # the number of pictures, then the names
        columns, lines = tuple(lines[1].split()) if len(lines) > 1 else (), lines[2:]
    rows: dict[str, str] = {}
    for name, said in (pair for pair in (line.split(None, 1) for line in lines) if len(pair) == 2):
        if rows.setdefault(_stem(name), said).split() != said.split():
            raise ValueError(f"{found.path} is damaged: it has two different lines for {name}")
    return columns, rows


def _optional_table(
    found: _List | None, names: list[str], *, header: bool = True
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """``_table`` of a text file that the set may lack."""
    return (None, ()) if found is None else _table(found, names, header=header)


def _table(found: _List, names: list[str], *, header: bool = True) -> tuple[np.ndarray, tuple[str, ...]]:
    """The rows of a text file that belong to ``names``, as integers, and the names of its columns."""
    columns, rows = _rows(found, header=header)
    missing = next((name for name in names if _stem(name) not in rows), None)
    if missing is not None:
        raise ValueError(
            f"{found.path} has no line for {missing}: it is damaged, or belongs to other pictures"
        )
    try:
        values = np.loadtxt([rows[_stem(name)] for name in names], np.int64, comments=None, ndmin=2)
    except ValueError as error:
        reason = str(error).partition(";")[0]  # then comes advice to programmers
        raise ValueError(f"{found.path} is damaged: {reason}") from error
    if values.shape[1] != len(columns):
        raise ValueError(f"{found.path} should have {len(columns)} columns and has {values.shape[1]}")
    return values, columns


def _stem(name: str) -> str:
    """A picture's name without its ending, which people change when they convert the pictures."""
    return name.rpartition(".")[0] or name


def _text(path: str, content: bytes) -> str:
    """The text of a file, with the line ends of any system."""
    refuse_web_page(path, content)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _has_pictures(folder: Path) -> bool:
    """Whether a folder holds pictures, or a folder of its own name that does, as Kaggle packs it."""
    known = image_folder.suffixes()
    inner = folder / folder.name
    return any(name.lower().endswith(tuple(known)) for place in (folder, inner) for name in _names(place))


def _names(folder: Path) -> Iterator[str]:
    """Names in a folder, none where there is no such folder; one by one, as CelebA has 202,599."""
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name


def _advice() -> str:
    _, checksum, size = FILES[f"{IMAGES}.zip"]
    return (
        f"CelebA's images are one file, {IMAGES}.zip, of {size:,} bytes ({checksum}); get it and the text "
        f"files from {PAGE} and put them, unpacked or not, into one folder. Without it, 'faces' stands in."
    )
