"""A generator as a script that draws in any browser, and as one web page: no network, nothing to install.

``generator.js`` is the forward pass, ``viewer.js`` the sliders and pictures around it. The weights are stored
in half precision; batch norm and biases become a scale and a shift of each channel.
"""

from __future__ import annotations

import gzip
import html
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dcganlib.config import Prior
from dcganlib.latents import sample_z
from dcganlib.layers import AnyLayer, Residual, ResidualBlock
from dcganlib.models import Generator, generate

FOLDER = Path(__file__).parent
SCRIPTS = ("generator.js", "viewer.js")
"""What a page needs beside a packed generator, in this order."""
MARK = '<meta name="generator" content="dcganlib web">'
MOST_WEIGHTS = 20_000_000  # for each a browser needs 8 bytes, and `to_text` 50
REPLACED = b'\0\t\n\r"&<\\'  # change on their way, or mean something in a script
DIRECTIONS, POINTS, STEP, BATCH = 8, 4, 0.25, 64

Values = npt.NDArray[np.float64]


def pack(generator: Generator, name: str, *, prior: Prior = "normal", classes: tuple[str, ...] = ()) -> str:
    """A classic script that puts a generator into ``dcgan.packed[name]``, from which ``dcgan.load`` makes it.

    Args:
        generator: On any device; drawn in eval mode.
        name: What the page calls it.
        prior: Distribution of its latents.
        classes: Names of its classes, if it is conditional; their numbers if absent.

    Returns:
        ASCII but for some pairs of characters; about as long as the weights in half precision.

    Raises:
        ValueError: It has too many weights for a page, or some that are not finite.
    """
    check_size(generator)
    numbers = _Numbers()
    layers = [
        _describe(layer, cast(nn.Sequential, block), generator.num_classes, numbers)
        for layer, block in zip(generator.layers, generator.blocks, strict=True)
    ]
    packed = gzip.compress(numbers.content(), mtime=0)
    description = {
        "name": name,
        "image_size": generator.image_size,
        "channels": generator.channels,
        "latent_dim": generator.latent_dim,
        "prior": prior,
        "classes": classes or tuple(map(str, range(generator.num_classes))),
        "directions": [
            {"name": f"Direction {index}", "vector": [round(value, 4) for value in way]}
            for index, way in enumerate(strongest_directions(generator, prior).tolist(), 1)
        ],
        "layers": layers,
        "bytes": len(packed),
    }
    key, about = (json.dumps(value).replace("<", "\\u003c") for value in (name, description))
    return f'dcgan.packed[{key}] = {{...{about}, weights: "{to_text(packed)}"}};\n'


def check_size(generator: Generator) -> None:
    """Refuse a generator that is too large for a page.

    Args:
        generator: The generator.

    Raises:
        ValueError: It has more than ``MOST_WEIGHTS`` weights.
    """
    count = sum(parameter.numel() for parameter in generator.parameters())
    if count > MOST_WEIGHTS:
        raise ValueError(
            f"the generator has {count:,} weights, a web page can hold {MOST_WEIGHTS:,}: train one with "
            "fewer --base-channels"
        )


def page(generator: Generator, name: str, *, prior: Prior = "normal", classes: tuple[str, ...] = ()) -> str:
    """One HTML file with a generator, its weights and all that draws with it.

    Args:
        generator: On any device.
        name: Title of the page.
        prior: Distribution of its latents.
        classes: Names of its classes, if it is conditional.

    Raises:
        ValueError: As ``pack``.
    """
    scripts = [(FOLDER / script).read_text(encoding="utf-8") for script in SCRIPTS]
    scripts.append(pack(generator, name, prior=prior, classes=classes))
    parts = {
        "<!--MARK-->": MARK,
        "<!--TITLE-->": html.escape(name),
        "<!--SCRIPTS-->": "\n".join(f"<script>\n{script}</script>" for script in scripts),
    }
    template = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub("|".join(parts), lambda found: parts[found[0]], template)


def is_page(path: Path) -> bool:
    """Whether a file is a page that ``page`` has made, by its first bytes.

    Args:
        path: The file.
    """
    with suppress(OSError), path.open("rb") as file:
        return MARK.encode() in file.read(1000)
    return False


def strongest_directions(generator: Generator, prior: Prior = "normal", count: int = DIRECTIONS) -> Tensor:
    """Unit vectors of the latent space along which the images change most, at right angles to each other.

    They are the leading eigenvectors of the mean of :math:`J^T J` over a few latents, where the Jacobian
    :math:`J` holds the change of each pixel for a unit step along each axis. Along each, images get brighter.

    Args:
        generator: On any device.
        prior: Distribution of its latents.
        count: How many, at most ``latent_dim``.

    Returns:
        Float32 of shape (count, latent_dim), the strongest first.

    Source:
        Constantine 2015, section 3 (active subspaces); Shen and Zhou 2021 take the first layer's instead.
    """
    dim = generator.latent_dim
    points = sample_z(POINTS, dim, prior=prior, rng=torch.Generator().manual_seed(0))
    total, brighter = torch.zeros(dim, dim), torch.zeros(dim)
    for index, point in enumerate(points):
        steps = torch.cat([point + STEP * torch.eye(dim), point - STEP * torch.eye(dim)])
        label = torch.full((1,), index % generator.num_classes) if generator.num_classes else None
        images = [
            generate(generator, part, None if label is None else label.expand(len(part)))
            for part in steps.split(BATCH)
        ]
        ahead, behind = torch.cat(images).cpu().flatten(1).chunk(2)
        jacobian = (ahead - behind) / (2 * STEP)  # (dim, pixels)
        total += jacobian @ jacobian.T
        brighter += jacobian.mean(dim=1)
    ways = torch.linalg.eigh(total.double()).eigenvectors.T.flip(0)[:count].float()
    signs = (ways @ brighter).sign()
    signed: Tensor = ways * torch.where(signs == 0, 1.0, signs)[:, None]
    return signed


def to_text(content: bytes) -> str:
    """Bytes as text of which UTF-8 needs an eighth more, and which stands in a string of a script as it is.

    Seven bits are an ASCII character. Where that is one of the eight of ``REPLACED``, its number and the next
    seven bits are a character of two bytes, from U+0400 to U+07FF. Base64 needs a third more.

    Args:
        content: The bytes.
    """
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    bits = np.append(bits, np.zeros(7 + -len(bits) % 7, np.uint8))  # a last one, for a replaced one to hold
    codes = bits.reshape(-1, 7) @ (1 << np.arange(6, -1, -1))
    keep, last = np.ones(len(codes), bool), -1
    for index in np.flatnonzero(np.isin(codes, list(REPLACED))).tolist():
        if index in (last, len(codes) - 1):  # held by the one before, or the padding
            continue
        last = index + 1
        codes[index] = 0x400 | REPLACED.index(int(codes[index])) << 7 | codes[last]
        keep[last] = False
    keep[-1] = False
    return codes[keep].astype("<u2").tobytes().decode("utf-16-le")


class _Numbers:
    """Gathers the numbers of the convolutions, in the order in which they are described.

    Attributes:
        halves: Weights in half precision, in the order of ``nn.ConvTranspose2d``: the real ones times a power
            of two, so that none is lost in the range of 16 bits.
        floats: The scale and then the shift that follow, one for each channel or for each unit; the scale
            undoes the power of two.
    """

    def __init__(self) -> None:
        self.halves: list[npt.NDArray[np.float16]] = []
        self.floats: list[npt.NDArray[np.float32]] = []

    def add(self, weight: Tensor, scale: Values, shift: Values, **options: Any) -> dict[str, Any]:
        """Take a transposed convolution's numbers, and describe it for ``generator.js``."""
        values = _values(weight)
        if not all(np.isfinite(part).all() for part in (values, scale, shift)):
            raise ValueError("the generator's weights are not all finite numbers: its training has diverged")
        largest = np.abs(values).max()
        power = 2.0 ** (14 - np.floor(np.log2(largest))) if largest > 0 else 1.0
        self.halves.append((values * power).astype("<f2").ravel())
        self.floats.append(np.concatenate([scale / power, shift]).astype("<f4"))
        of_classes = options.get("classes", 0)
        shape = {"in": len(weight) - of_classes, "out": weight.shape[1], "kernel": weight.shape[2]}
        plain = {"classes": 0, "stride": 1, "padding": 0, "output_padding": 0, "activation": None, "slope": 0}
        return {**plain, **options, **shape, "affine": len(scale)}

    def content(self) -> bytes:
        """All floats, then the high bytes of all halves, then the low ones, which compress better apart."""
        halves = np.concatenate(self.halves).view(np.uint8).reshape(-1, 2)
        return np.concatenate(self.floats).tobytes() + halves[:, 1].tobytes() + halves[:, 0].tobytes()


def _describe(layer: AnyLayer, block: nn.Sequential, classes: int, numbers: _Numbers) -> dict[str, Any]:
    """What ``generator.js`` needs to know of a layer."""
    if isinstance(layer, Residual):
        return _describe_residual(cast(ResidualBlock, block[0]), classes, numbers)
    convolution = cast(nn.ConvTranspose2d, block[0])
    norms = [one for one in block if isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d))]
    names = ("stride", "padding", "output_padding", "activation", "slope")
    options = {name: getattr(layer, name) for name in names}
    affine = _scale_and_shift(convolution, norms[0] if norms else None)
    return numbers.add(convolution.weight, *affine, classes=classes, **options)


def _describe_residual(block: ResidualBlock, classes: int, numbers: _Numbers) -> dict[str, Any]:
    """A residual block; a convolution is a transposed one with its kernel turned by 180 degrees."""

    def add(convolution: nn.Conv2d, **options: Any) -> dict[str, Any]:
        turned = convolution.weight.transpose(0, 1).flip(2, 3)
        padding = convolution.kernel_size[0] // 2
        return numbers.add(turned, *_scale_and_shift(convolution), padding=padding, **options)

    skip = block.skip
    if classes and isinstance(skip, nn.Identity):  # which passes the planes of the classes on
        skip = nn.Conv2d(block.layer.channels, block.layer.channels, 1, bias=False)
        nn.init.dirac_(skip.weight)
    adapt = add(skip, classes=classes) if isinstance(skip, nn.Conv2d) else None
    first, second, last = (one for one in block.branch if isinstance(one, nn.Conv2d))
    leaky: dict[str, Any] = {"activation": "leaky_relu", "slope": block.layer.slope}
    branch = [add(first, **leaky), add(second, **leaky), add(last)]
    return {"out": block.layer.channels, "size": block.size, "skip": adapt, "branch": branch}


def _scale_and_shift(
    convolution: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None
) -> tuple[Values, Values]:
    """What a bias, and batch norm in eval mode, do to a convolution's output: times a scale, plus a shift."""
    width = convolution.out_channels
    shift = np.zeros(width) if convolution.bias is None else _values(convolution.bias)
    if norm is None:
        return np.ones(width), shift
    mean, variance = _values(cast(Tensor, norm.running_mean)), _values(cast(Tensor, norm.running_var))
    scale = 1 / np.sqrt(variance + norm.eps)
    if norm.affine:
        scale = scale * _values(norm.weight)
    shift = (np.repeat(shift, len(mean) // width) - mean) * scale  # a unit of BatchNorm1d is a pixel
    return scale, shift + _values(norm.bias) if norm.affine else shift


def _values(tensor: Tensor) -> Values:
    return cast(Values, tensor.detach().cpu().double().numpy())
