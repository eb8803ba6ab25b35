"""Real photographs of landscapes, from a package of Debian's, cut into squares that overlap."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcganlib.datasets.download import download_url
from dcganlib.datasets.image_dataset import ImageDataset
from dcganlib.datasets.registry import DatasetEntry, LoadOptions
from dcganlib.runtime import files

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
    """
    folder = Path(options.root or "", entry.location)
    missing = [name for name in PHOTOS if not (folder / f"{name}.jpg").is_file()]
    if missing and not options.download:
        raise FileNotFoundError(f"{entry.name} is not downloaded: {folder / missing[0]}.jpg is missing")
    if missing:
        package = folder / entry.url.rpartition("/")[2]
        _unpack(download_url(entry.url, package, entry.checksum, advice="Without it, use 'faces'."))
    size, channels = options.image_size or entry.image_size, options.channels or entry.channels
    squares = [
        square
        for number, name in enumerate(PHOTOS)
        if (number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == (options.split == "test")
        for square in _squares(folder / f"{name}.jpg", size, channels, [options.seed, number])
    ]
    return entry.dataset(torch.stack(squares))


def _unpack(package: Path) -> None:
    """Write the photographs, and the package's statement of their licences, into the package's folder."""
    wanted = {PICTURES / f"{name}.jpg" for name in PHOTOS} | {COPYRIGHT}
    data = next(content for name, content in _parts(package) if name.startswith("data.tar"))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path in wanted and (stream := archive.extractfile(member)):
                files.write_bytes(package.parent / path.name, stream.read())


def _parts(package: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of an archive that ``ar`` made, which a Debian package is."""
    with open(package, "rb") as stream:
        stream.seek(len(b"!<arch>\n"))
        while header := stream.read(60):
            size = int(header[48:58])
            yield header[:16].decode().rstrip(" /"), stream.read(size)
            stream.seek(size % 2, io.SEEK_CUR)


def _squares(path: Path, size: int, channels: int, seed: list[int]) -> Iterator[Tensor]:
    """Squares at random places of a photograph, uint8 (C, size, size)."""
    rng = np.random.default_rng(seed)
    try:
        with Image.open(path) as opened:
            photo = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read: {error}; delete it, so that it is written anew") from error
    for _ in range(SQUARES):
        side = int(rng.integers(round(SMALLEST * photo.height), photo.height + 1))
        left, top = (int(rng.integers(length - side + 1)) for length in photo.size)
        square = photo.resize(
            (size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)
        )
        yield torch.from_numpy(np.array(square)).view(size, size, -1).permute(2, 0, 1)
