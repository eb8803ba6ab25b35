"""One image file to bytes: upright, cut to a square, resized, with a reason where it cannot be read.

This module imports no torch, so that the processes that decode start quickly.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from dcganlib.datasets import contact_sheet, image_files
from dcganlib.runtime.files import is_web_page

MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is read, as a small file can claim any size: Pillow's own limit."""

MAX_PIXELS_VARIABLE = "DCGANLIB_MAX_PIXELS"
"""Environment variable that replaces ``MAX_PIXELS``."""

CONTACT_SHEET = "is a contact sheet that dcganlib wrote"
"""Reason why an image with the mark of ``contact_sheet.save`` is left out."""

PHOTOMETRIC, ORIENTATION = 0x0106, 0x0112  # tags of TIFF and EXIF
PIXEL_TAGS = frozenset(
    (*range(254, 260), 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325)
) | {332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532}
"""Tags of TIFF that say how the pixels are stored and which way up; all others are metadata."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image upright, by its EXIF orientation."""


def max_pixels() -> int:
    """Pixels of the largest image that is read: ``MAX_PIXELS``, or the value of the environment variable.

    Raises:
        ValueError: The environment variable is not a whole number above 0.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE) or str(MAX_PIXELS)
    if not re.fullmatch(r"0*[1-9][0-9_]*", text):
        raise ValueError(f"{MAX_PIXELS_VARIABLE} must be a whole number of pixels above 0, got {text!r}")
    return int(text)


def read(
    file: str | Path | BinaryIO,
    image_size: int,
    channels: int,
    center_crop: int | None = None,
    limit: int | None = None,
) -> np.ndarray:
    """Read one image: its first frame, upright, cut to a centre square, resized.

    Transparent parts become white; 16-bit values and floats from 0 to 1 are scaled to bytes. Damaged metadata
    are ignored if the pixels are whole.

    Args:
        file: A path or an open binary file.
        image_size: Height and width of the result in pixels.
        channels: 1 for grey, 3 for RGB.
        center_crop: Side in pixels of the centre square to cut from the file's image; the largest if None.
        limit: Pixels of the largest image that is read; ``max_pixels()`` if None.

    Returns:
        uint8 of shape (channels, image_size, image_size).

    Raises:
        ValueError: It cannot be read, or is smaller than ``center_crop``. The message is the reason only.
    """
    limit = limit or max_pixels()
    try:
        with open(file, "rb") if isinstance(file, (str, Path)) else nullcontext(file) as stream:
            image = _first_frame(stream, "L" if channels == 1 else "RGB", limit)
    except UnidentifiedImageError as error:
        raise ValueError("is not an image, or of a format that Pillow cannot read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"[0-9]+", str(error))
        raise ValueError(
            f"has {int(pixels[0]) if pixels else 0:,} pixels, more than the limit of {limit:,}; set the "
            f"environment variable {MAX_PIXELS_VARIABLE} to read it"
        ) from error
    except Exception as error:  # Pillow's decoders raise errors of any kind for damaged bytes
        raise ValueError(error_reason(error)) from error
    side = min(image.size) if center_crop is None else center_crop
    if side > min(image.size):
        raise ValueError(
            f"is {image.width}x{image.height} pixels, smaller than the center_crop {center_crop}"
        )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(image_size, image_size, channels).transpose(2, 0, 1)


def error_reason(error: Exception) -> str:
    """The message of an error, without the path, which the caller's message names."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


@contextmanager
def _pixel_limit(limit: int) -> Iterator[None]:
    """Make Pillow refuse images of more pixels than this."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
    try:
        with warnings.catch_warnings():
            for category in (UserWarning, DeprecationWarning):  # odd metadata, a format Pillow will drop
                warnings.filterwarnings("ignore", category=category, module="PIL")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _first_frame(stream: BinaryIO, mode: str, limit: int) -> Image.Image:
    """The first frame, upright; if that fails, a second try without the metadata."""
    start = stream.tell()
    try:
        return _open_image(stream, mode, limit)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, _ContactSheetError):
        raise
    except Exception as error:
        stream.seek(start)
        content = stream.read()
        if is_web_page(content):
            raise ValueError("is a web page that was saved in place of an image") from error
        bare = _without_metadata(content)
        if bare is None:
            raise
        try:
            return _open_image(io.BytesIO(bare), mode, limit)
        except Exception:
            raise error from None  # the first error describes the file as it is


def _open_image(stream: BinaryIO, mode: str, limit: int) -> Image.Image:
    with _pixel_limit(limit), Image.open(stream, formats=image_files.formats()) as opened:
        raw = _raw_mode(opened)  # before the metadata, because reading them loads a PNG
        exif: dict[int, Any] = {}
        with suppress(Exception):  # whatever the error, the metadata are damaged
            exif = dict(opened.getexif())
        if contact_sheet.has_mark(exif):
            raise _ContactSheetError(CONTACT_SHEET)
        image = _to_mode(opened, mode, raw)
        # Pillow turns a TIFF when it loads it.
        turn = None if opened.format == "TIFF" else TURNS.get(exif.get(ORIENTATION, 0))
        return image if turn is None else image.transpose(turn)


class _ContactSheetError(ValueError):
    """The image is a contact sheet."""


def _without_metadata(content: bytes) -> bytes | None:
    """A PNG, JPEG or TIFF without its metadata, or None if it has none or is of another format."""
    bare = content
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        bare = _png_without_metadata(content)
    elif content.startswith(b"\xff\xd8"):
        bare = _jpeg_without_metadata(content)
    elif content[:4] in (b"II*\0", b"MM\0*"):
        bare = _tiff_without_metadata(content)
    return bare if bare != content else None


def _png_without_metadata(content: bytes) -> bytes:
    kept, at = [content[:8]], 8
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def _jpeg_without_metadata(content: bytes) -> bytes:
    kept, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        marker = content[at + 1]
        # APP0 and APP14 say how the colours are coded; the other APPn and comments are metadata.
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(content[at:end])
        at = end
    return b"".join([*kept, content[at:]])


def _tiff_without_metadata(content: bytes) -> bytes:
    order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"
    at = int.from_bytes(content[4:8], order)
    end = at + 2 + 12 * int.from_bytes(content[at : at + 2], order)
    tags = [content[start : start + 12] for start in range(at + 2, end, 12)]
    tags = [tag for tag in tags if int.from_bytes(tag[:2], order) in PIXEL_TAGS]
    # The shorter directory takes the place of the old one, so that all offsets stay valid.
    directory = len(tags).to_bytes(2, order) + b"".join(tags) + bytes(4)
    return content[:at] + directory + content[at + len(directory) :]


def _to_mode(opened: Image.Image, mode: str, raw: str) -> Image.Image:
    """Convert any of Pillow's modes to "L" or "RGB", transparent parts white; ``raw`` is of ``_raw_mode``."""
    opened.load()
    if opened.mode == "F" or opened.mode.startswith("I"):
        return Image.fromarray(_to_bytes(opened, raw, opened.info.get("transparency"))).convert(mode)
    _scale_transparent_colour(opened, raw)
    return (_on_white(opened) if _has_transparency(opened) else opened).convert(mode)


def _scale_transparent_colour(opened: Image.Image, raw: str) -> None:
    """A PNG gives its transparent colour in its own bit depth; Pillow has scaled the pixels to 8 bits."""
    transparent, factors = opened.info.get("transparency"), {"L;2": 85, "L;4": 17}
    if isinstance(transparent, int) and raw in factors:
        opened.info["transparency"] = transparent * factors[raw]
    elif isinstance(transparent, tuple) and raw.startswith("RGB;16"):
        opened.info["transparency"] = tuple(value >> 8 for value in transparent)


def _has_transparency(image: Image.Image) -> bool:
    palette = image.palette
    in_palette = image.mode == "P" and palette is not None and palette.mode.endswith("A")
    in_mode = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    return in_palette or in_mode or image.info.get("transparency") is not None


def _on_white(image: Image.Image) -> Image.Image:
    """Lay an image with transparent parts on a white ground."""
    if image.mode == "La":  # which Pillow does not convert to RGBA
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white


def _raw_mode(opened: Image.Image) -> str:
    """How the file stores its pixels, such as "I;12", before it is loaded; "" if that is unknown."""
    with suppress(IndexError, TypeError):
        arguments = getattr(opened, "tile", [])[0][3]  # only an image from a file has it
        return str(arguments if isinstance(arguments, str) else arguments[0])
    return ""


def _to_bytes(opened: Image.Image, raw: str, transparent: object) -> np.ndarray:
    """Grey values of more than 8 bits as uint8 of shape (H, W), transparent ones white."""
    values = np.asarray(opened)
    low, high = values.min(), values.max()
    if opened.mode == "F":
        if not (low >= 0 and high <= 1):  # true of NaN as well
            raise ValueError(f"has floating-point pixels from {low:g} to {high:g}, not from 0 to 1")
        return (values * 255).round().astype(np.uint8)
    if low < 0 or high > 65535:
        raise ValueError(f"has pixels from {low} to {high}, not 8 or 16 bits")
    top = 4095 if raw.startswith("I;12") else 65535
    grey = ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    if getattr(opened, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # a TIFF whose 0 is white
        grey = 255 - grey
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey
