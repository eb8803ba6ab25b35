"""The drawn faces as files in CelebA's layout, so that the same code reads both datasets.

This module imports no torch, so that the processes that draw start quickly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dcganlib.datasets import celeba, decode_cache, synthetic_faces
from dcganlib.runtime.files import writable, write_atomically, write_text

FACES_PER_TASK = 32  # that one process draws at a time


def write_faces(folder: str | Path, count: int, seed: int = 0, workers: int | None = None) -> Path:
    """Draw faces into a folder in CelebA's layout.

    Images that are there already are kept, so a folder can grow, and an interrupted call can be repeated.

    Args:
        folder: Where ``img_align_celeba`` and the text files go.
        count: Number of images, at least 1.
        seed: Seed of the faces; see ``synthetic_faces.describe``.
        workers: Processes that draw; one for each processor if None.

    Returns:
        The folder.

    Raises:
        ValueError: A number is out of range, or the folder holds the faces of another seed.
        PermissionError: The folder cannot be written.
        ModuleNotFoundError: The extra ``faces`` is missing.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    first = [synthetic_faces.describe(index, seed).identity for index in range(min(count, 8))]
    folder, images = Path(folder), Path(folder) / celeba.IMAGES
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
    if (folder / celeba.IDENTITIES).is_file():
        listed = celeba.decode_text(
            str(folder / celeba.IDENTITIES), (folder / celeba.IDENTITIES).read_bytes()
        ).splitlines()
    if any(line.split()[1:] != [str(identity)] for line, identity in zip(listed, first, strict=False)):
        raise ValueError(f"{folder} holds the faces of another seed than {seed}: name another folder")
    if len(listed) < count:
        _write_lists(folder, names, [synthetic_faces.describe(index, seed) for index in range(count)])
    if missing:
        _draw_all(images, names, missing, seed, workers)
    return folder


def partition(face: synthetic_faces.Face) -> int:
    """The split of a drawn person, so that nobody is in two: of 20 people, 18 train, 1 valid, 1 test."""
    return {18: 1, 19: 2}.get(face.identity % 20, 0)


def _draw_all(folder: Path, names: list[str], missing: list[int], seed: int, workers: int | None) -> None:
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    chunks = [missing[i : i + FACES_PER_TASK] for i in range(0, len(missing), FACES_PER_TASK)]
    jobs = 1 if len(chunks) == 1 else workers or decode_cache.processors()
    work = (delayed(_draw_some)(folder, [(names[i], i) for i in chunk], seed) for chunk in chunks)
    done = Parallel(n_jobs=jobs, return_as="generator", batch_size=1, pre_dispatch="2*n_jobs")(work)
    with tqdm(total=len(missing), unit="img", desc="drawing faces", delay=2) as bar:
        for number in done:
            bar.update(number)


def _draw_some(folder: Path, faces: list[tuple[str, int]], seed: int) -> int:
    for name, index in faces:
        image = synthetic_faces.draw(synthetic_faces.describe(index, seed))
        write_atomically(folder / name, image.save)
    return len(faces)


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
    write_text(folder / celeba.ATTRIBUTES, heading + " ".join(synthetic_faces.ATTRIBUTES) + "\n" + attributes)
    write_text(folder / celeba.LANDMARKS, heading + points + "\n" + landmarks)
    write_text(folder / celeba.PARTITION, lines(lambda face: (partition(face),)))
    write_text(
        folder / celeba.IDENTITIES, lines(lambda face: (face.identity,))
    )  # last: it marks the lists as complete
