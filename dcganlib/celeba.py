"""CelebA's published layout: read from its folder or its zip, fetched, or filled with drawn faces.

The layout is that of torchvision's ``CelebA``: a folder with ``img_align_celeba/`` (or the zip of that name)
and the text files that list partition, attributes, landmarks and identities.

Source: Liu, Luo, Wang and Tang, Deep learning face attributes in the wild, ICCV 2015.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcganlib import faces, fetch, pictures
from dcganlib.files import write_atomically, write_text

PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
"""CelebA's official page."""

SOURCE = "Liu, Luo, Wang and Tang, Deep learning face attributes in the wild, 2015"
LICENCE = "non-commercial research only; see " + PAGE

IMAGES = "img_align_celeba"
PARTITION, ATTRIBUTES = "list_eval_partition.txt", "list_attr_celeba.txt"
LANDMARKS, IDENTITIES = "list_landmarks_align_celeba.txt", "identity_CelebA.txt"

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

    source: pictures.Source
    attributes: np.ndarray | None
    attribute_names: tuple[str, ...]
    landmarks: np.ndarray | None
    identities: np.ndarray | None


def find(path: str | Path) -> pictures.Source:
    """The pictures of a set in CelebA's layout.

    Args:
        path: The folder with the text files, its ``img_align_celeba``, the zip, or the folder above.

    Raises:
        FileNotFoundError: There are no such pictures.
        ValueError: The zip is a web page or half a download.
    """
    path = Path(path)
    for folder in (path, path / "celeba") if path.is_dir() else ():
        if (folder / IMAGES).is_dir():
            return pictures.find(folder / IMAGES)
        if (folder / f"{IMAGES}.zip").is_file():
            return find(folder / f"{IMAGES}.zip")
    if path.is_dir() and path.name == IMAGES:
        return pictures.find(path)
    if path.is_file():
        return pictures.find(path, about=_advice())
    raise FileNotFoundError(f"there is neither {IMAGES} nor {IMAGES}.zip in {path}. {_advice()}")


def read(
    path: str | Path, split: str = "train", count: int | None = None, *, among: int | None = None
) -> Listing:
    """List a split of a set in CelebA's layout; no picture is opened yet.

    Args:
        path: As ``find`` takes it.
        split: "train", "valid", "test" or "all".
        count: The split's first so many images; all of them if absent.
        among: Look at the set's first so many images alone, before the split; at all of them if absent.

    Raises:
        FileNotFoundError: Pictures or the partition are missing.
        ValueError: A text file does not fit the pictures.
    """
    source = find(path)
    folder = source.path.parent
    at: dict[str, str] = {}
    for name in source.names:
        if at.setdefault(name.rpartition("/")[2], name) != name:
            raise ValueError(f"{source.path} has two images of one name: {at[Path(name).name]} and {name}")
    names = sorted(at)[:among]
    if split != "all":
        if not (folder / PARTITION).is_file():
            raise FileNotFoundError(
                f"{folder} has no {PARTITION}, which says what is {split!r}: put it there, or ask for the "
                f"split 'all'. {_advice()}"
            )
        listed = len(_text(folder / PARTITION).split()) // 2
        if len(names) < min(among or listed, listed):
            warnings.warn(
                f"{folder / PARTITION} lists {listed:,} images, {source.path} has {len(at):,}: "
                "the others are left out",
                stacklevel=3,
            )
        part, _ = _table(folder / PARTITION, names, header=False)
        names = [name for name, (number,) in zip(names, part, strict=True) if number == PARTS[split]]
        if not names:
            raise ValueError(f"no image of {source.path} belongs to the split {split!r}")
    names = names[:count]
    attributes, attribute_names = _table(folder / ATTRIBUTES, names)
    landmarks, _ = _table(folder / LANDMARKS, names)
    identities, _ = _table(folder / IDENTITIES, names, header=False)
    return Listing(
        pictures.Source(source.path, tuple(at[name] for name in names)),
        None if attributes is None else attributes > 0,
        attribute_names,
        None if landmarks is None else landmarks.reshape(len(names), -1, 2),
        None if identities is None else identities[:, 0],
    )


def download(root: str | Path, host: str | None = None) -> Path:
    """Fetch CelebA into ``root/celeba``: 1.4 GB of pictures as one zip, and its text files.

    Args:
        root: Folder of the sets.
        host: Address with a place for ``{id}`` or ``{name}``; the authors' own if absent.

    Returns:
        The folder. What is there already with the right checksum is not fetched again.

    Raises:
        fetch.DownloadError: The host does not give the file; the message says what it gave instead.
    """
    folder = Path(root) / "celeba"
    for name, (number, checksum, size) in FILES.items():
        address = (host or HOST).format(id=number, name=name)
        fetch.fetch(address, folder / name, checksum, size=size, advice=_advice())
    return folder


def write_faces(folder: str | Path, count: int, seed: int = 0, workers: int | None = None) -> Path:
    """Draw a set of faces in CelebA's layout.

    What is there already is kept, so a set grows and an interrupted call goes on.

    Args:
        folder: Where ``img_align_celeba`` and the text files go.
        count: Number of pictures, at least 1.
        seed: Of the set; see ``faces.describe``.
        workers: Processes that draw; one for each processor if absent.

    Returns:
        The folder.

    Raises:
        ValueError: A number is out of range, or the folder holds another set.
        ModuleNotFoundError: The extra ``faces`` is missing.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    first = [faces.describe(index, seed).identity for index in range(min(count, 8))]
    folder, images = Path(folder), Path(folder) / IMAGES
    names = [f"{index + 1:06d}.png" for index in range(count)]
    there = {path.name for path in images.iterdir()} if images.is_dir() else set()
    missing = [index for index, name in enumerate(names) if name not in there]
    if missing:
        faces.check_installed()
    images.mkdir(parents=True, exist_ok=True)
    listed: list[str] = []
    if (folder / IDENTITIES).is_file():
        listed = _text(folder / IDENTITIES).splitlines()
    if any(line.split()[1:] != [str(identity)] for line, identity in zip(listed, first, strict=False)):
        raise ValueError(f"{folder} holds other faces than those of seed {seed}: name another folder")
    if len(listed) < count:
        _write_lists(folder, names, [faces.describe(index, seed) for index in range(count)])
    if missing:
        _draw_all(images, names, missing, seed, workers)
    return folder


def partition(face: faces.Face) -> int:
    """Which split a drawn person belongs to, so that nobody is in two: 18 of 20 train, 1 valid, 1 test."""
    return {18: 1, 19: 2}.get(face.identity % 20, 0)


def _draw_all(folder: Path, names: list[str], missing: list[int], seed: int, workers: int | None) -> None:
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    chunks = [missing[i : i + 32] for i in range(0, len(missing), 32)]
    jobs = 1 if len(chunks) == 1 else workers or pictures.processors()
    work = (delayed(_draw_some)(folder, [(names[i], i) for i in chunk], seed) for chunk in chunks)
    done = Parallel(n_jobs=jobs, return_as="generator", batch_size=1, pre_dispatch="2*n_jobs")(work)
    with tqdm(total=len(missing), unit="img", desc="drawing faces", delay=2) as bar:
        for number in done:
            bar.update(number)


def _draw_some(folder: Path, wanted: list[tuple[str, int]], seed: int) -> int:
    for name, index in wanted:
        picture = faces.draw(faces.describe(index, seed))
        write_atomically(folder / name, picture.save)
    return len(wanted)


def _write_lists(folder: Path, names: list[str], described: list[faces.Face]) -> None:
    """The text files, laid out as CelebA's."""

    def lines(row: Callable[[faces.Face], tuple[int, ...]]) -> str:
        rows = (
            f"{name} {' '.join(map(str, row(face)))}\n" for name, face in zip(names, described, strict=True)
        )
        return "".join(rows)

    heading = f"{len(names)}\n"
    points = " ".join(f"{name}_{axis}" for name in faces.LANDMARKS for axis in "xy")
    attributes = lines(lambda face: tuple(1 if holds else -1 for holds in face.attributes))
    landmarks = lines(lambda face: tuple(value for point in face.landmarks for value in point))
    write_text(folder / ATTRIBUTES, heading + " ".join(faces.ATTRIBUTES) + "\n" + attributes)
    write_text(folder / LANDMARKS, heading + points + "\n" + landmarks)
    write_text(folder / PARTITION, lines(lambda face: (partition(face),)))
    write_text(folder / IDENTITIES, lines(lambda face: (face.identity,)))  # last: it says that all are there


def _table(path: Path, names: list[str], *, header: bool = True) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The rows of a text file that belong to ``names``, as integers, and the names of its columns."""
    if not path.is_file():
        return None, ()
    lines = _text(path).split("\n")
    columns: tuple[str, ...] = ()
    if header:
        columns, lines = tuple(lines[1].split()) if len(lines) > 1 else (), lines[2:]
    rows = dict(pair for line in lines if len(pair := line.split(None, 1)) == 2)
    missing = next((name for name in names if name not in rows), None)
    if missing is not None:
        raise ValueError(f"{path} has no line for {missing}: it is damaged, or belongs to other pictures")
    try:
        values = np.loadtxt([rows[name] for name in names], np.int64, comments=None, ndmin=2)
    except ValueError as error:
        reason = str(error).partition(";")[0]  # then comes advice to programmers
        raise ValueError(f"{path} is damaged: {reason}") from error
    expected = len(columns) if header else 1
    if values.shape[1] != expected:
        raise ValueError(f"{path} should have {expected} columns and has {values.shape[1]}")
    return values, columns


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _advice() -> str:
    _, checksum, size = FILES[f"{IMAGES}.zip"]
    return (
        f"CelebA's images are one file, {IMAGES}.zip, of {size:,} bytes ({checksum}); get it and the text "
        f"files from {PAGE} and put them, unpacked or not, into one folder. Without it, 'faces' stands in."
    )
