"""Real photographs of landscapes, from a package of Debian's, cut into squares that overlap."""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from dcganlib.datasets.download import download_url
from dcganlib.datasets.image_dataset import ImageDataset, sample
from dcganlib.datasets.registry import DatasetEntry, LoadOptions
from dcganlib.runtime import files, memory

_NAMES = """
    badlands0 badlands5 badlands7 badlands8 badlands9-harro beach0 beach10-sfiera beach11-harro
    beach12-harro beach2 beach3 beach4 beach5 beach6 beach7-sfiera beach8-sfiera beach9-sfiera bwerner0
    bwerner1 bwerner2 bwerner3 bwerner4 bwerner5 bwerner6 bwerner7 bwerner8 canyon0 canyon10-harro canyon7
    desert0 desert1 desert10-harro desert2 desert8-sfiera desert9-sfiera dmottl0 dmottl1 dmottl2 dmottl3
    dmottl4 dmottl5 dune6-harro fields1 fields10-sfiera fields11-sfiera fields12-sfiera fields13-sfiera
    fields2 fields5 fields6 fields7 fields9 fog0 fog2 fog4 forest1 forest2 forest3 forest4 forest5 hills2
    hills5-sfiera hills6-sfiera hills7-harro lava0 lava1 lava2 lava5 lava6 lava7-sfiera mfield5 mountain1
    mountain10-sfiera mountain11-sfiera mountain12-sfiera mountain13-sfiera mountain14-sfiera
    mountain15-sfiera mountain16-striker mountain17-harro mountain18-harro mountain19-harro mountain20-harro
    mountain21-harro mountain22-spfld mountain23-spfld mountain24-spfld mountain25-spfld mountain3 mountain4
    mountain5 mountain6 mountain7 mountain8 mountain9 myrabella0 myrabella1 myrabella2 myrabella3 myrabella4
    myrabella5 myrabella6 myrabella7 myrabella8 sea10-sfiera sea11-sfiera sea12-sfiera sea13-sfiera
    sea14-sfiera sea15-harro sea16-harro sea17-harro sea3 sea8 sky0 sky2 sky3 sky7 sky8 sky9 snow0 snow1
    snow10-sfiera snow10 snow11-sfiera snow2 snow3 snow4 snow6 snow7 valley10-sfiera valley11-harro
    valley12-harro valley13-harro valley14-harro valley15-harro water0 water10-harro water11-harro water8
"""

PHOTOS = tuple(_NAMES.split())
"""The photographs of nature whose licence the package states file by file, without ``.jpg``."""

PICTURES = PurePosixPath("usr/share/games/endless-sky/images/land")
COPYRIGHT = PurePosixPath("usr/share/doc/endless-sky-data/copyright")
HELD_OUT_EVERY = 8  # each eighth photograph is a test photograph, with all its squares
SQUARES = 40  # of a photograph
SMALLEST = 0.75  # of the height, the side of the smallest square


def read_landscapes(entry: DatasetEntry, options: LoadOptions) -> ImageDataset:
    """Cut a split of the photographs into squares; download them first if need be.

    A square has 3/4 to all of a photograph's height. No photograph is in two splits, and the squares of one
    follow one another.

    Args:
        entry: Its ``url`` and ``checksum`` are the package's; its ``location`` is the folder of photographs.
        options: How to read it; ``root`` is the data root, ``seed`` decides where the squares are.

    Raises:
        FileNotFoundError: A photograph is not there and must not be downloaded.
        DownloadError: The package cannot be downloaded.
        ValueError: A photograph cannot be read.
        MemoryError: The squares would not fit into memory.
    """
    numbers = [
        number
        for number in range(len(PHOTOS))
        if (number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == (options.split == "test")
    ]
    chosen = sample(None, len(numbers) * SQUARES, options.max_images, options.seed).tolist()
    size, channels = options.image_size or entry.image_size, options.channels or entry.channels
    shape = (len(chosen), channels, size, size)
    if not memory.fits(math.prod(shape)):
        raise MemoryError(f"image_size {size} does not fit into memory: use a smaller one")
    folder = _unpacked(entry, options)
    images, filled = torch.empty(shape, dtype=torch.uint8), 0
    for number, group in groupby(chosen, lambda square: numbers[square // SQUARES]):
        photo = _open(folder / f"{PHOTOS[number]}.jpg", channels)
        boxes = _boxes(photo.size, np.random.default_rng([options.seed, number]))
        for square in group:
            cut = photo.resize((size, size), Image.Resampling.LANCZOS, box=boxes[square % SQUARES])
            images[filled] = torch.from_numpy(np.array(cut)).view(size, size, -1).permute(2, 0, 1)
            filled += 1
    return entry.dataset(images)


def _unpacked(entry: DatasetEntry, options: LoadOptions) -> Path:
    """The folder of the photographs, after what is missing was written from the package."""
    folder = Path(options.root or "", entry.location)
    wanted = {PICTURES / f"{name}.jpg" for name in PHOTOS} | {COPYRIGHT}
    missing = sorted(path for path in wanted if not (folder / path.name).is_file())
    if not missing:
        return folder
    package = folder / entry.url.rpartition("/")[2]
    if not options.download and not package.is_file():
        raise FileNotFoundError(f"{entry.name} is not downloaded: {folder / missing[0].name} is missing")
    download_url(entry.url, package, entry.checksum, advice="Without it, use 'faces'.")
    data = next(content for name, content in _parts(package) if name.startswith("data.tar"))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path in missing and (stream := archive.extractfile(member)):
                files.write_bytes(folder / path.name, stream.read())
    return folder


def _parts(package: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of an archive that ``ar`` made, which a Debian package is."""
    with open(package, "rb") as stream:
        stream.seek(len(b"!<arch>\n"))  # the mark of the format
        while header := stream.read(60):
            size = int(header[48:58])
            yield header[:16].decode().rstrip(" /"), stream.read(size)
            stream.seek(size % 2, io.SEEK_CUR)


def _open(path: Path, channels: int) -> Image.Image:
    """A photograph, grey or in colour."""
    try:
        with Image.open(path) as opened:
            return opened.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError) as error:
        if isinstance(error, OSError) and error.errno:  # not damaged, but out of reach
            raise
        raise ValueError(f"{path} cannot be read: {error}; delete it, so that it is written anew") from error


def _boxes(size: tuple[int, int], rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Places of the squares in a photograph of (width, height): left, top, right and bottom."""
    boxes = []
    for _ in range(SQUARES):
        side = int(rng.integers(round(SMALLEST * size[1]), size[1] + 1))
        left, top = (int(rng.integers(length - side + 1)) for length in size)
        boxes.append((left, top, left + side, top + side))
    return boxes
