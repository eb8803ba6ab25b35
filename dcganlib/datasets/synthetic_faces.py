"""Portraits drawn from a seed: a substitute for CelebA that needs no download.

The images are drawings in the style "ToonHead" by Johan Melin (CC BY 4.0, in the DiceBear library), placed in
front of varied backgrounds, rotated, scaled and lit. Each part is chosen by name, so every attribute of an
image is true. This module needs the extra ``faces`` and imports no torch, so that the processes that draw
start quickly.
"""

from __future__ import annotations

import colorsys
import io
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import cos, radians, sin
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

WIDTH, HEIGHT = 178, 218
"""Size of an image in pixels, the same as CelebA's aligned images."""

PEOPLE = 10_177
"""Number of different people, the same as in CelebA (Liu et al. 2015)."""

SKIN = {
    "fair": (241, 195, 165),
    "light": (198, 142, 122),
    "olive": (185, 142, 106),
    "brown": (163, 107, 79),
    "dark": (92, 56, 41),
}
HAIR = {
    "Black_Hair": (38, 28, 26),
    "Brown_Hair": (112, 66, 46),
    "Blond_Hair": (218, 178, 106),
    "Red_Hair": (172, 84, 38),
    "Gray_Hair": (156, 152, 150),
}

ATTRIBUTES = (
    "Arched_Eyebrows",
    "Bald",
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Eyes_Closed",
    "Full_Beard",
    "Goatee",
    "Gray_Hair",
    "Long_Hair",
    "Mouth_Slightly_Open",
    "Mustache",
    "No_Beard",
    "Pale_Skin",
    "Red_Hair",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Winking",
)
"""The attributes of each image. Names that CelebA also has mean the same there; "Eyes_Closed", "Full_Beard",
"Long_Hair", "Red_Hair" and "Winking" exist only here."""

LANDMARKS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
"""Points on the face, named and ordered as in CelebA; left and right are the viewer's."""

_POINTS = ((316, 411), (452, 411), (384, 465), (352, 512), (416, 512))  # the same on the style's 768 by 768


@dataclass(frozen=True)
class Face:
    """Everything that determines one image.

    Attributes:
        identity: Number of the person, 1 to ``PEOPLE``, who has the same skin, hair and beard in all images.
        parts: Variant of each part of the style, by name; None if the part is absent.
        colours: RGB of 0 to 255 for "skin", "hair", "clothes" and "stroke".
        hair_name, skin_name: Keys of ``HAIR`` and ``SKIN``.
        scale: Pixels of the image per unit of the style.
        centre: Position of the point between the eyes, (x, y) in pixels.
        turn: Clockwise rotation in degrees.
        mirrored: Whether left and right are swapped.
        backdrop, light: SVG of the background, and of the light in front of the head.
    """

    identity: int
    parts: dict[str, str | None]
    colours: dict[str, tuple[int, int, int]]
    hair_name: str
    skin_name: str
    scale: float
    centre: tuple[float, float]
    turn: float
    mirrored: bool
    backdrop: str
    light: str

    @property
    def attributes(self) -> tuple[bool, ...]:
        """Whether each of ``ATTRIBUTES`` holds."""
        hair, rear, beard = self.parts["hair"], self.parts["rearHair"], self.parts["beard"]
        eyes, mouth = self.parts["eyes"], self.parts["mouth"]
        holds = {
            "Arched_Eyebrows": self.parts["eyebrows"] == "happy",
            "Bald": hair is None and rear is None,
            "Eyes_Closed": eyes in ("bow", "humble"),
            "Full_Beard": beard in ("fullBeard", "longBeard"),
            "Goatee": beard in ("chin", "chinMoustache"),
            "Long_Hair": rear in ("longStraight", "longWavy"),
            "Mouth_Slightly_Open": mouth in ("agape", "angry", "laugh"),
            "Mustache": beard not in (None, "chin"),
            "No_Beard": beard in (None, "moustacheTwirl"),
            "Pale_Skin": self.skin_name == "fair",
            "Smiling": mouth in ("laugh", "smile"),
            "Straight_Hair": rear == "longStraight",
            "Wavy_Hair": rear == "longWavy",
            "Winking": eyes == "wink",
        }
        holds |= {name: self.hair_name == name and not holds["Bald"] for name in HAIR}
        return tuple(holds[name] for name in ATTRIBUTES)

    @property
    def landmarks(self) -> tuple[tuple[int, int], ...]:
        """The five points of ``LANDMARKS``, (x, y) in pixels of the image."""
        angle, sign = radians(self.turn), -1 if self.mirrored else 1
        found = []
        for x, y in _POINTS:
            across, down = sign * (x - 384) * self.scale, (y - 411) * self.scale
            found.append(
                (
                    round(self.centre[0] + across * cos(angle) - down * sin(angle)),
                    round(self.centre[1] + across * sin(angle) + down * cos(angle)),
                )
            )
        if self.mirrored:  # left and right have changed places
            found = [found[i] for i in (1, 0, 2, 4, 3)]
        return tuple(found)


def describe(index: int, seed: int = 0) -> Face:
    """Choose everything that determines an image.

    Args:
        index: Number of the image, from 0.
        seed: Seed of the dataset. The same seed and index give the same image, whatever else is drawn.

    Raises:
        ValueError: A number is below 0.
    """
    for name, value in (("index", index), ("seed", seed)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    own = random.Random(f"dcganlib faces/{seed}/picture/{index}")
    identity = 1 + int(own.random() * PEOPLE)
    person = _person(identity, seed)
    clothes = colorsys.hsv_to_rgb(own.random(), own.uniform(0.1, 0.8), own.uniform(0.15, 0.95))
    parts = {
        **person.parts,
        "eyes": _pick(own, {"wide": 5, "happy": 3, "bow": 1, "humble": 1, "wink": 1}),
        "eyebrows": _pick(own, {"neutral": 3, "raised": 2, "happy": 2, "angry": 1, "sad": 1}),
        "mouth": _pick(own, {"smile": 4, "laugh": 4, "agape": 2, "sad": 2, "angry": 1}),
        "clothes": _pick(own, {"dress": 1, "openJacket": 1, "shirt": 1, "tShirt": 1, "turtleNeck": 1}),
    }
    scale = own.uniform(0.30, 0.38)
    return Face(
        identity,
        parts,
        {
            "skin": person.skin,
            "hair": person.hair,
            "clothes": _rgb(255 * part for part in clothes),
            "stroke": _rgb(0.3 * part for part in person.skin),
        },
        person.hair_name,
        person.skin_name,
        scale,
        (own.gauss(WIDTH / 2, 4.0), own.gauss(112, 4.0)),
        own.gauss(0, 4.0),
        own.random() < 0.5,
        _background(own),
        _light(own),
    )


@dataclass(frozen=True)
class _Person:
    """What stays the same in all images of one person; named as in ``Face``."""

    skin_name: str
    hair_name: str
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    parts: dict[str, str | None]


def _person(identity: int, seed: int) -> _Person:
    rng = random.Random(f"dcganlib faces/{seed}/person/{identity}")
    skin_name = _pick(rng, {"fair": 3, "light": 2, "olive": 2, "brown": 2, "dark": 2})
    hair_name = _pick(rng, {"Black_Hair": 3, "Brown_Hair": 3, "Blond_Hair": 2, "Red_Hair": 1, "Gray_Hair": 1})
    skin, hair = _vary(rng, SKIN[skin_name], 0.06), _vary(rng, HAIR[hair_name], 0.1)
    top = _pick(rng, {"bun": 3, "sideComed": 3, "spiky": 3, "undercut": 3, None: 1})
    long = {"longStraight": 2, "longWavy": 2, "neckHigh": 1, "shoulderHigh": 1}
    rear = _pick(rng, {None: 6, **long}) if top is not None else None
    beards = {"chin": 1, "chinMoustache": 1, "fullBeard": 2, "longBeard": 1, "moustacheTwirl": 1}
    beard = _pick(rng, {None: 8, **beards}) if rear is None and top != "bun" else None
    return _Person(skin_name, hair_name, skin, hair, {"hair": top, "rearHair": rear, "beard": beard})


def to_svg(face: Face) -> tuple[str, str, str]:
    """The image as three layers of SVG, each ``WIDTH`` by ``HEIGHT``: backdrop, head, light."""
    from dicebear import Avatar

    options: dict[str, Any] = {"seed": "0", "size": 768}
    for part, variant in face.parts.items():
        options[f"{part}Probability"] = 0 if variant is None else 100
        if variant is not None:
            options[f"{part}Variant"] = [variant]
    options |= {f"{name}Color": [_hex(colour)] for name, colour in face.colours.items()}
    head = Avatar(_style(), options).to_string()
    # The clip to the style's square is not needed here, and takes a third of the time.
    head = re.sub(r'clip-path="[^"]*"', "", head)
    (x, y), mirror = face.centre, -1 if face.mirrored else 1
    place = (
        f"translate({x:.2f} {y:.2f}) rotate({face.turn:.2f}) "
        f"scale({mirror * face.scale:.4f} {face.scale:.4f}) translate(-384 -411)"
    )
    torso = f'<rect x="107" y="760" width="562" height="200" fill="{_hex(face.colours["clothes"])}"/>'
    canvas = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
    placed = f'<g transform="{place}">{torso}{head}</g>'
    return f"{canvas}{face.backdrop}</svg>", f"{canvas}{placed}</svg>", f"{canvas}{face.light}</svg>"


def draw(face: Face) -> Image.Image:
    """Draw the image, RGB, ``WIDTH`` by ``HEIGHT``.

    Backdrop and light are drawn at a quarter of the size and enlarged, which is faster and looks out of
    focus.
    """
    import resvg_py
    from PIL import Image

    layers = []
    for svg, width in zip(to_svg(face), (WIDTH // 4, WIDTH, WIDTH // 4), strict=True):
        png = resvg_py.svg_to_bytes(svg_string=svg, width=width, skip_system_fonts=True)
        layer = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        layers.append(layer.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    backdrop, head, light = layers
    backdrop.alpha_composite(head)
    backdrop.alpha_composite(light)
    return backdrop.convert("RGB")


def check_installed() -> None:
    """Check that the extra ``faces`` is installed.

    Raises:
        ModuleNotFoundError: It is missing; the message says what to install.
    """
    for module in ("dicebear", "dicebear_styles", "resvg_py"):
        if find_spec(module) is None:
            raise ModuleNotFoundError(
                f"drawing faces needs {module}, which is not installed: "
                "pip install dicebear-core dicebear-styles resvg_py"
            )


@cache
def _style() -> Any:
    from importlib.resources import files

    from dicebear import Style

    return Style(json.loads(files("dicebear_styles").joinpath("toon-head.json").read_text("utf-8")))


def _background(rng: random.Random) -> str:
    """A gradient between two colours, with a few soft shapes on it."""
    hue = rng.random()
    ends = [
        colorsys.hsv_to_rgb((hue + rng.gauss(0, 0.08)) % 1, rng.uniform(0, 0.6), rng.uniform(0.2, 0.98))
        for _ in range(2)
    ]
    stops = "".join(
        f'<stop offset="{i}" stop-color="{_hex([round(255 * part) for part in end])}"/>'
        for i, end in enumerate(ends)
    )
    parts = [
        f'<linearGradient id="back" gradientTransform="rotate({rng.uniform(0, 90):.1f} .5 .5)">{stops}'
        f'</linearGradient><rect width="{WIDTH}" height="{HEIGHT}" fill="url(#back)"/>'
    ]
    for _ in range(rng.randrange(4)):
        shade = _hex([round(255 * part) for part in colorsys.hsv_to_rgb(rng.random(), 0.4, rng.random())])
        x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        wide, high = rng.uniform(15, 70), rng.uniform(15, 70)
        parts.append(
            f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{wide:.1f}" ry="{high:.1f}" fill="{shade}" '
            f'fill-opacity="{rng.uniform(0.15, 0.5):.2f}"/>'
        )
    return "".join(parts)


def _light(rng: random.Random) -> str:
    """Light from one side and shade on the other, over the whole image."""
    bright, dark = rng.uniform(0, 0.22), rng.uniform(0, 0.3)
    sides = (("#ffffff", bright), ("#000000", dark))
    first, last = sides if rng.random() < 0.5 else sides[::-1]
    return (
        f'<linearGradient id="light" gradientTransform="rotate({rng.uniform(-40, 40):.1f} .5 .5)">'
        f'<stop offset="0" stop-color="{first[0]}" stop-opacity="{first[1]:.2f}"/>'
        f'<stop offset="0.5" stop-color="{first[0]}" stop-opacity="0"/>'
        f'<stop offset="0.5" stop-color="{last[0]}" stop-opacity="0"/>'
        f'<stop offset="1" stop-color="{last[0]}" stop-opacity="{last[1]:.2f}"/></linearGradient>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="url(#light)"/>'
    )


def _pick(rng: random.Random, weights: dict[Any, float]) -> Any:
    return rng.choices(list(weights), weights=list(weights.values()))[0]


def _vary(rng: random.Random, colour: Sequence[int], spread: float) -> tuple[int, int, int]:
    """A colour that is a little lighter or darker, and a little warmer or colder."""
    light, warm = 1 + rng.gauss(0, spread), rng.gauss(0, spread / 3)
    factors = (light * (1 + warm), light, light * (1 - warm))
    return _rgb(part * factor for part, factor in zip(colour, factors, strict=True))


def _rgb(values: Iterable[float]) -> tuple[int, int, int]:
    """Round three numbers to bytes."""
    red, green, blue = (min(255, max(0, round(value))) for value in values)
    return red, green, blue


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)
