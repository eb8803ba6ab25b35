"""The named networks of the papers and tutorials, as lists of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dcganlib.layers import AnyLayer
from dcganlib.models import (
    Discriminator,
    Generator,
    Layer,
    Residual,
    discriminator_layers,
    generator_layers,
    halvings,
    init_weights,
)
from dcganlib.runtime.checks import check_integers


@dataclass(frozen=True)
class Architecture:
    """A named pair of networks. To add one, write its lists of layers and an entry in ``ARCHITECTURES``.

    Attributes:
        summary: What it is, in a line.
        image_size, channels, base_channels: Its own sizes, which ``build`` takes by default.
        layers: Takes these three, returns the layers of the generator and of the discriminator.
        num_classes: Classes that it is conditional on by default; if above 0, the network must be
            conditional.
        any_size: Whether it can be built for other image sizes.
        latent_dim: Numbers in a latent point; 100 in the paper (section 4).
    """

    summary: str
    image_size: int
    channels: int
    base_channels: int
    layers: Callable[[int, int, int], tuple[Sequence[AnyLayer], Sequence[AnyLayer]]]
    num_classes: int = 0
    any_size: bool = False
    latent_dim: int = 100


SIZES = ("image_size", "channels", "base_channels", "latent_dim", "num_classes")
"""Fields of an ``Architecture`` that ``build`` can replace."""


def _dcgan(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    return generator_layers(image_size, channels, base_channels), discriminator_layers(
        image_size, base_channels
    )


def _dcgan_paper(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """The standard chain with 5 by 5 kernels: padding 2 keeps the halving, output_padding 1 the doubling."""
    g_layers, d_layers = _dcgan(image_size, channels, base_channels)
    five: dict[str, Any] = {"kernel": 5, "padding": 2}
    return (
        [g_layers[0]] + [replace(layer, output_padding=1, **five) for layer in g_layers[1:]],
        [replace(layer, **five) for layer in d_layers[:-1]] + [d_layers[-1]],
    )


def _flux(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """The Flux tutorial as published; its dense layers are the kernel-7 convolutions from and to 1 pixel."""
    leaky: dict[str, Any] = {"norm": None, "activation": "leaky_relu", "bias": True}
    generator = [
        Layer(4 * base_channels, kernel=7, stride=1, padding=0, norm="batch1d"),
        Layer(2 * base_channels, kernel=5, stride=1, padding=2),
        Layer(base_channels),
        Layer(channels, norm=None, activation="tanh"),
    ]
    discriminator = [
        Layer(base_channels, dropout=0.3, **leaky),
        Layer(2 * base_channels, dropout=0.3, **leaky),
        Layer(1, kernel=7, stride=1, padding=0, norm=None, activation=None, bias=True),
    ]
    return generator, discriminator


def _flux_draft(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """The earlier Flux draft: biases under the generator's batch norms, a steeper slope, less dropout."""
    generator, (first, second, last) = _flux(image_size, channels, base_channels)
    generator = [generator[0]] + [replace(layer, bias=True) for layer in generator[1:]]
    return generator, [replace(first, slope=0.3), replace(second, slope=0.3, dropout=0.25), last]


def _dcgan_28(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """The Flux shapes by the paper's rules: batch norm inside D, no dropout, no bias under a batch norm."""
    (first, *rest), (d_first, d_second, d_last) = _flux(image_size, channels, base_channels)
    return (
        [replace(first, norm="batch"), *rest],
        [replace(d_first, dropout=0.0), replace(d_second, norm="batch", bias=False, dropout=0.0), d_last],
    )


def _celeba_post(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """The CelebA post as written: batch norm before tanh and on D's input block, no padding in D."""
    g_layers = generator_layers(image_size, channels, 4 * base_channels)
    g_layers[-1] = replace(g_layers[-1], norm="batch")
    d_layers = [
        Layer(base_channels * width, stride=stride, padding=0, activation="leaky_relu", bias=True)
        for width, stride in ((1, 2), (2, 2), (4, 1), (4, 2))
    ]
    return g_layers, [*d_layers, Layer(1, padding=0, norm=None, activation=None, bias=True)]


def _d2l(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """d2l's chapter: the standard chain with batch norm on D's first block too."""
    g_layers, (first, *rest) = _dcgan(image_size, channels, base_channels)
    return g_layers, [replace(first, norm="batch"), *rest]


def _keras_28(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """The Keras notebook's experiment (1 -> 4 -> 11 -> 28), with the discriminator of its comments."""
    valid: dict[str, Any] = {"padding": 0, "norm": "batch", "affine": False, "bias": True}
    generator = [
        Layer(2 * base_channels, kernel=4, stride=1, **valid),
        Layer(base_channels, kernel=5, **valid),
        Layer(channels, kernel=8, padding=0, norm=None, activation="tanh", bias=True),
    ]
    discriminator = [
        Layer(base_channels, norm=None, activation="leaky_relu", bias=True),
        Layer(2 * base_channels, norm="batch", affine=False, activation="leaky_relu", bias=True),
        Layer(1, kernel=7, stride=1, padding=0, norm=None, activation=None, bias=True),
    ]
    return generator, discriminator


def _paper_mnist(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """The paper's MNIST networks: 5 by 5 kernels, wide dense layers, batch norm without gain and shift."""
    dense: dict[str, Any] = {"stride": 1, "padding": 0, "norm": "batch", "affine": False}
    five: dict[str, Any] = {"kernel": 5, "padding": 2, "norm": "batch", "affine": False}
    leaky: dict[str, Any] = {"activation": "leaky_relu"}
    generator = [
        Layer(16 * base_channels, kernel=1, **dense),
        Layer(2 * base_channels, kernel=7, **dense),
        Layer(base_channels, output_padding=1, **five),
        Layer(channels, output_padding=1, **{**five, "norm": None}, activation="tanh"),
    ]
    discriminator = [
        Layer(base_channels, **{**five, "norm": None}, **leaky),
        Layer(2 * base_channels, **five, **leaky),
        Layer(16 * base_channels, kernel=7, **dense, **leaky),
        Layer(1, kernel=1, stride=1, padding=0, norm=None, activation=None),
    ]
    return generator, discriminator


def _dcgan_28_paper(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """G of "dcgan-28"; D of the paper's MNIST networks, whose wide layer sees the whole image at once."""
    generator, _ = _dcgan_28(image_size, channels, base_channels)
    _, discriminator = _paper_mnist(image_size, channels, base_channels)
    return generator, discriminator


def _gan(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """Dense layers alone: on one pixel a convolution with kernel 1 is one; kernel 28 covers the image."""
    dense: dict[str, Any] = {"kernel": 1, "stride": 1, "padding": 0}
    leaky: dict[str, Any] = {"norm": None, "activation": "leaky_relu", "bias": True, "dropout": 0.3}
    width, whole = 16 * base_channels, {**dense, "kernel": image_size}
    generator = [
        Layer(width, **dense),
        Layer(width, **dense),
        Layer(channels, **whole, norm=None, activation="tanh"),
    ]
    discriminator = [
        Layer(width, **whole, **leaky),
        Layer(width // 2, **dense, **leaky),
        Layer(1, **dense, norm=None, activation=None, bias=True),
    ]
    return generator, discriminator


def _spectral(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """The standard chain with spectral norm on all of D's layers in place of batch norm."""
    return _with_spectral_norm(*_dcgan(image_size, channels, base_channels))


def _spectral_28(image_size: int, channels: int, base_channels: int) -> tuple[list[Layer], list[Layer]]:
    """The same of "dcgan-28"."""
    return _with_spectral_norm(*_dcgan_28(image_size, channels, base_channels))


def _with_spectral_norm(g_layers: list[Layer], d_layers: list[Layer]) -> tuple[list[Layer], list[Layer]]:
    return g_layers, [replace(layer, norm="spectral", bias=True) for layer in d_layers]


def _resnet(image_size: int, channels: int, base_channels: int) -> tuple[list[AnyLayer], list[AnyLayer]]:
    """Residual blocks between the sizes of the standard chain."""
    return _residual_chain(halvings(image_size)[::-1], channels, base_channels)


def _resnet_28(image_size: int, channels: int, base_channels: int) -> tuple[list[AnyLayer], list[AnyLayer]]:
    """Residual blocks between the sizes of "dcgan-28"."""
    return _residual_chain([7, 14, 28], channels, base_channels)


def _residual_chain(
    sizes: list[int], channels: int, base_channels: int
) -> tuple[list[AnyLayer], list[AnyLayer]]:
    """A block a doubling in G, its mirror image in D; widths double as the sizes halve."""
    widths = [base_channels * 2**i for i in reversed(range(len(sizes) - 1))] + [max(1, base_channels // 2)]
    plain: dict[str, Any] = {"stride": 1, "norm": None, "bias": True}
    whole: dict[str, Any] = {**plain, "kernel": sizes[0], "padding": 0, "activation": None}
    up = [
        Residual(width, stride=2, output_padding=larger - (2 * smaller - 1))
        for width, smaller, larger in zip(widths[1:], sizes, sizes[1:], strict=False)
    ]
    down = [Residual(width, stride=2) for width in reversed(widths[:-1])]
    return (
        [Layer(widths[0], **whole), *up, Layer(channels, kernel=3, activation="tanh", **plain)],
        [Layer(widths[-1], kernel=3, activation=None, **plain), *down, Layer(1, **whole)],
    )


ARCHITECTURES: dict[str, Architecture] = {
    "dcgan": Architecture(
        "the standard chain, 64 wide, for any image size from 16 to 256", 64, 3, 64, _dcgan, any_size=True
    ),
    "dcgan-28": Architecture(
        "the Flux tutorial's shapes with batch norm in D and no dropout", 28, 1, 64, _dcgan_28
    ),
    "dcgan-28-paper": Architecture(
        "dcgan-28's generator against the discriminator of the paper's MNIST test", 28, 1, 64, _dcgan_28_paper
    ),
    "dcgan-64": Architecture("the widely used 64-wide DCGAN, 512 channels at 4 by 4", 64, 3, 64, _dcgan),
    "dcgan-paper": Architecture(
        "the paper's: 5 by 5 kernels, 1024 channels at 4 by 4", 64, 3, 128, _dcgan_paper
    ),
    "paper-mnist-conditional": Architecture(
        "the paper's for its MNIST test: conditional on the digit at every layer",
        28,
        1,
        64,
        _paper_mnist,
        num_classes=10,
    ),
    "dcgan-28-spectral": Architecture("dcgan-28 with spectral norm in D", 28, 1, 64, _spectral_28),
    "dcgan-spectral": Architecture("dcgan with spectral norm in D", 64, 3, 64, _spectral, any_size=True),
    "resnet-28": Architecture(
        "residual blocks without normalisation, as costly as dcgan-28", 28, 1, 64, _resnet_28
    ),
    "resnet": Architecture(
        "residual blocks without normalisation, as costly as dcgan", 64, 3, 48, _resnet, any_size=True
    ),
    "gan-28": Architecture("no convolution: a GAN of dense layers, to compare with", 28, 1, 64, _gan),
    "flux-mnist": Architecture("the Flux tutorial, as published", 28, 1, 64, _flux),
    "flux-draft": Architecture("the Flux tutorial's earlier draft", 28, 1, 64, _flux_draft),
    "celeba-post": Architecture("the CelebA post, its faults included", 64, 3, 32, _celeba_post),
    "d2l": Architecture("d2l's Pokémon chapter", 64, 3, 64, _d2l),
    "keras-28": Architecture("the unfinished Keras notebook, 1 -> 4 -> 11 -> 28", 28, 1, 64, _keras_28),
}
"""The networks that ``build`` can make, by name."""


def build(
    name: str, *, rng: torch.Generator | None = None, device: str = "cpu", **sizes: int | None
) -> tuple[Generator, Discriminator]:
    """Build a pair of networks by name, with float32 weights drawn by ``init_weights``.

    Torch's default device and dtype have no effect, and networks built under ``torch.inference_mode`` can
    still be trained.

    Args:
        name: A key of ``ARCHITECTURES``.
        rng: Source of the weights, on the CPU; torch's global one if absent.
        device: "cpu", or "meta" for shapes without memory. Move the networks with ``.to`` to train elsewhere.
        sizes: ``image_size``, ``channels``, ``base_channels``, ``latent_dim`` or ``num_classes``, in place of
            the architecture's own; None keeps its own. Only "dcgan" takes other image sizes, 16 to 256.

    Returns:
        (generator, discriminator), in training mode.

    Raises:
        ValueError: The name is unknown, or the network cannot be built as asked.
        MemoryError: The weights do not fit into this machine's memory.
    """
    if device not in ("cpu", "meta"):
        raise ValueError(f"device must be cpu or meta, got {device!r}: move the networks with .to(device)")
    if name not in ARCHITECTURES:
        raise ValueError(f"no architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
    own = ARCHITECTURES[name]
    if unknown := set(sizes) - set(SIZES):
        raise ValueError(f"an architecture has no {unknown.pop()!r}; it has {', '.join(SIZES)}")
    wanted: dict[str, Any] = {size: value for size, value in sizes.items() if value is not None}
    changed = replace(own, **wanted)
    if changed.image_size != own.image_size and not own.any_size:
        raise ValueError(
            f"{name} draws images of {own.image_size} pixels, not {changed.image_size}; 'dcgan' draws any "
            "size"
        )
    if own.num_classes and not changed.num_classes:
        raise ValueError(f"{name} is conditional: num_classes must be at least 1, got {changed.num_classes}")
    shape = check_integers(**{size: getattr(changed, size) for size in SIZES if size != "num_classes"})
    size, channels, width, latent_dim = shape
    g_layers, d_layers = own.layers(size, channels, width)
    classes = changed.num_classes
    with torch.device(device), torch.inference_mode(False):
        generator = Generator(size, channels, width, latent_dim, num_classes=classes, layers=g_layers)
        discriminator = Discriminator(size, channels, width, num_classes=classes, layers=d_layers)
    if device == "meta":  # nothing to draw, and drawing it would import torch's compiler, which takes seconds
        return generator, discriminator
    return init_weights(generator, rng), init_weights(discriminator, rng)
