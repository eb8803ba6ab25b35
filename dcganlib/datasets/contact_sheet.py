"""Contact sheets: grids of images that the library writes, marked so that they are never read as data."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from dcganlib.datasets import image_files
from dcganlib.runtime.files import write_atomically

SOFTWARE = 0x0131  # tag of EXIF
MARK = "dcganlib"


def save(sheet: Image.Image, path: str | Path) -> None:
    """Save a contact sheet with the mark.

    Formats that carry EXIF (PNG, JPEG, WebP, TIFF, AVIF) carry the mark.

    Args:
        sheet: The grid of images.
        path: File to write; replaced if it exists. Its suffix decides the format.

    Raises:
        OSError: As ``files.write_atomically``.
    """
    write_atomically(path, lambda temporary: sheet.save(temporary, exif=exif()))


def exif() -> Image.Exif:
    """The EXIF data that are the mark."""
    data = Image.Exif()
    data[SOFTWARE] = MARK
    return data


def has_mark(exif_data: dict[int, object] | Image.Exif) -> bool:
    """Whether an image's EXIF data have the mark."""
    return bool(exif_data.get(SOFTWARE) == MARK)


def is_in_source(source: image_files.Source, name: str) -> bool:
    """Whether an image of a source is a contact sheet; no pixel is decoded."""
    with suppress(Exception), image_files.open_image(source, name) as file:
        return _is_marked(file)
    return False


def is_file(path: Path) -> bool:
    """Whether a file is a contact sheet; no pixel is decoded."""
    with suppress(Exception):
        return _is_marked(path)
    return False


def _is_marked(file: BinaryIO | Path) -> bool:
    with Image.open(file, formats=image_files.formats()) as opened:
        return has_mark(opened.getexif())
