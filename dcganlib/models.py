"""The generator, the discriminator, and the networks of the source tutorials by name.

Both networks are one chain of layers, each a (transposed) convolution with what follows it. The generator
sees z as a 1 by 1 map with ``latent_dim`` channels and grows it to an image; the discriminator shrinks an
image to a single number. What differs between two DCGANs is the list of layers, so that is all that the
named networks say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from dcganlib.config import Share, check_count, check_fields
from dcganlib.runtime import memory
from dcganlib.sizes import feature_sizes

Norm = Literal["batch", "batch1d"]
Activation = Literal["relu", "leaky_relu", "tanh"]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Layer:
    """One (transposed) convolution, then its normalisation, activation and dropout, in this order.

    Attributes:
        channels: Output channels.
        kernel, stride, padding, output_padding: Of the convolution, in pixels; square.
        norm: "batch" for batch norm over each channel (``BatchNorm2d``), "batch1d" over each single unit
            (``BatchNorm1d``, as after a dense layer), or None.
        affine: Whether the batch norm has a learned gain and shift.
        activation: "relu", "leaky_relu" (leaky ReLU with ``slope``), "tanh" or None.
        slope: Of the leaky ReLU for negative input; 0.2 in the paper (section 4).
        bias: Whether the convolution adds one. Under a batch norm it would be dead weight.
        dropout: Share of units set to 0 in training, from 0 to below 1.
    """

    channels: int
    kernel: int = 4
    stride: int = 2
    padding: int = 1
    output_padding: int = 0
    norm: Norm | None = "batch"
    affine: bool = True
    activation: Activation | None = "relu"
    slope: float = 0.2
    bias: bool = False
    dropout: Share = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


class Generator(nn.Module):
    """Maps latents to images, from a 1 by 1 map up, by transposed convolutions.

    Args:
        image_size: Height and width of the images in pixels; see ``generator_layers`` for what is possible.
        channels: 1 for grey, 3 for RGB.
        base_channels: Width of the last hidden layer; the others double towards the latent.
        latent_dim: Numbers in a latent point.
        num_classes: Above 0 the generator is conditional: each layer also sees the label, as this many more
            maps of 0 and 1.
        layers: The chain itself, in place of the standard one; it ends at ``image_size`` and ``channels``.

    Raises:
        ValueError: A value is out of range, or the layers do not end at the promised size.
        MemoryError: The weights do not fit into this machine's memory.

    Source:
        Radford et al. 2016, section 3 and figure 1.
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        base_channels: int = 64,
        latent_dim: int = 100,
        *,
        num_classes: int = 0,
        layers: Sequence[Layer] | None = None,
    ) -> None:
        super().__init__()
        image_size, channels, base_channels, latent_dim = _check_positive(
            image_size=image_size, channels=channels, base_channels=base_channels, latent_dim=latent_dim
        )
        if layers is None:
            layers = generator_layers(image_size, channels, base_channels)
        _check_positive(layers=len(layers))
        self.num_classes = num_classes = _checked_classes(num_classes)
        self.layers, self.latent_dim = tuple(layers), latent_dim
        self.image_size, self.channels = image_size, channels
        self.sizes = feature_sizes(1, layers, transposed=True)
        if (layers[-1].channels, self.sizes[-1]) != (channels, image_size):
            raise ValueError(
                f"the layers give {layers[-1].channels} channels at {self.sizes[-1]} pixels "
                f"(chain {self.sizes}), expected {channels} at {image_size}"
            )
        asked = {"base_channels": base_channels, "channels": channels, "num_classes": num_classes}
        _check_fits(self.layers, latent_dim, latent_dim=latent_dim, **asked)
        self.blocks = _chain(nn.ConvTranspose2d, latent_dim, self.layers, self.sizes, num_classes)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw images in [-1, 1], (N, channels, image_size, image_size), from z, (N, latent_dim)."""
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z must have shape (N, {self.latent_dim}), got {tuple(z.shape)}")
        maps = z[:, :, None, None]  # (N, latent_dim, 1, 1)
        return _through(self.blocks, maps, labels, self.num_classes)  # (N, C, H, W)


class Discriminator(nn.Module):
    """Maps images to logits, down to a 1 by 1 map, by strided convolutions. Above 0 means "real".

    Args:
        image_size: Height and width of the images in pixels; see ``generator_layers`` for what is possible.
        channels: 1 for grey, 3 for RGB.
        base_channels: Width of the first layer; the others double.
        num_classes: Above 0 the discriminator is conditional: each layer also sees the label, as in G.
        layers: The chain itself, in place of the standard one; it must end in one channel on one pixel.

    Raises:
        ValueError: A value is out of range, or the layers do not end in a single number.
        MemoryError: The weights do not fit into this machine's memory.

    Source:
        Radford et al. 2016, section 3.
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        base_channels: int = 64,
        *,
        num_classes: int = 0,
        layers: Sequence[Layer] | None = None,
    ) -> None:
        super().__init__()
        image_size, channels, base_channels = _check_positive(
            image_size=image_size, channels=channels, base_channels=base_channels
        )
        if layers is None:
            layers = discriminator_layers(image_size, base_channels)
        _check_positive(layers=len(layers))
        self.num_classes = num_classes = _checked_classes(num_classes)
        self.layers, self.image_size, self.channels = tuple(layers), image_size, channels
        self.sizes = feature_sizes(image_size, layers)
        if (layers[-1].channels, self.sizes[-1]) != (1, 1):
            raise ValueError(
                f"the layers give {layers[-1].channels} channels at {self.sizes[-1]} pixels "
                f"(chain {self.sizes}), expected one logit an image: 1 channel at 1 pixel"
            )
        asked = {"base_channels": base_channels, "channels": channels, "num_classes": num_classes}
        _check_fits(self.layers, channels, **asked)
        self.blocks = _chain(nn.Conv2d, channels, self.layers, self.sizes, num_classes)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Judge images in [-1, 1], (N, channels, image_size, image_size): one logit each, (N,)."""
        expected = (self.channels, self.image_size, self.image_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images must have shape (N, {', '.join(map(str, expected))}), got {tuple(images.shape)}"
            )
        logits = _through(self.blocks, images, labels, self.num_classes)  # (N, 1, 1, 1)
        return logits.flatten()


class Conditioned(nn.Module):
    """A conditional network with its labels filled in: it maps z, or images, alone.

    Args:
        network: A conditional ``Generator`` or ``Discriminator``, shared and not copied.
        labels: int64 of shape (N,), one for each z or image that will come.
    """

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.network, self.labels = network, labels

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the network to N inputs and the N labels."""
        outputs: Tensor = self.network(inputs, self.labels)
        return outputs


def generator_layers(image_size: int, channels: int, base_channels: int) -> list[Layer]:
    """Standard chain of the generator: project z to 3 or 4 pixels, then double up to ``image_size``.

    A layer with kernel 4 doubles exactly; where the larger size is odd, kernel 3 gives one pixel less.

    Args:
        image_size: 16 to 256 pixels.
        channels: Channels of the image.
        base_channels: Width of the last hidden layer, doubled once for each earlier one.

    Returns:
        The layers, ReLU with batch norm inside and tanh without batch norm at the end.

    Raises:
        ValueError: The image size is out of range.

    Source:
        Radford et al. 2016, section 3; kernel 4 as in the authors' later code, so that kernel and stride
        build no checkerboard in (Odena et al. 2016).
    """
    sizes = _halvings(image_size)[::-1]  # such as [4, 8, 16, 32, 64]
    widths = [base_channels * 2**i for i in reversed(range(len(sizes) - 1))]
    layers = [Layer(widths[0], kernel=sizes[0], stride=1, padding=0)]
    layers += [Layer(width, kernel=_kernel(size)) for width, size in zip(widths[1:], sizes[1:], strict=False)]
    return [*layers, Layer(channels, kernel=_kernel(image_size), norm=None, activation="tanh")]


def discriminator_layers(image_size: int, base_channels: int) -> list[Layer]:
    """Standard chain of the discriminator: halve down to 3 or 4 pixels, then to one number.

    Args:
        image_size: 16 to 256 pixels.
        base_channels: Width of the first layer, doubled at each next one.

    Returns:
        The layers, leaky ReLU throughout, batch norm in all but the first and the last.

    Raises:
        ValueError: The image size is out of range.

    Source:
        Radford et al. 2016, sections 3 and 4.
    """
    sizes = _halvings(image_size)  # such as [64, 32, 16, 8, 4]
    layers = [
        Layer(
            base_channels * 2**i, kernel=_kernel(size), activation="leaky_relu", norm="batch" if i else None
        )
        for i, size in enumerate(sizes[:-1])
    ]
    return [*layers, Layer(1, kernel=sizes[-1], stride=1, padding=0, norm=None, activation=None)]


def init_weights(network: Network, rng: torch.Generator | None = None) -> Network:
    """Draw all weights anew: convolutions from N(0, 0.02^2), batch-norm gains from N(1, 0.02^2), the rest 0.

    Args:
        network: Changed in place.
        rng: Source of randomness on the network's device; torch's global one if absent.

    Returns:
        The network.

    Source:
        Radford et al. 2016, section 4, for the weights. The paper is silent on the gains; N(1, 0.02^2) is
        what the authors' own code draws.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=rng)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.reset_running_stats()
            if module.affine:
                nn.init.normal_(module.weight, 1.0, 0.02, generator=rng)
        bias = getattr(module, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)
    return network


@torch.no_grad()
def generate(generator: Generator, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Draw images for evaluation: batch norm by its running statistics, no gradients, the mode restored.

    Args:
        generator: On any device, in any mode.
        z: Latents of shape (N, latent_dim), on any device.
        labels: int64 of shape (N,), of a conditional generator.

    Returns:
        float32 images of shape (N, C, H, W) in [-1, 1], on the generator's device.

    Raises:
        ValueError: z has another shape than (N, latent_dim), or the labels are not those that it takes.
    """
    was_training = generator.training
    generator.eval()
    device = next(generator.parameters()).device
    given = () if labels is None else (labels.to(device),)
    try:
        images: Tensor = generator(z.to(device), *given).float()
        return images
    finally:
        generator.train(was_training)


def count_parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _chain(
    convolution: type[nn.Module],
    in_channels: int,
    layers: Sequence[Layer],
    sizes: Sequence[int],
    num_classes: int,
) -> nn.Sequential:
    """Stack the blocks of a network; each has ``num_classes`` more input channels, for the label."""
    blocks = nn.Sequential()
    for layer, size in zip(layers, sizes[1:], strict=True):
        blocks.append(_block(convolution, in_channels + num_classes, layer, size))
        in_channels = layer.channels
    return blocks


def _block(convolution: type[nn.Module], in_channels: int, layer: Layer, size: int) -> nn.Sequential:
    """One layer as modules: convolution, norm, activation, dropout."""
    names: tuple[str, ...] = ("kernel", "stride", "padding", "bias")
    names += ("output_padding",) * (convolution is nn.ConvTranspose2d)
    options = {"kernel_size" if name == "kernel" else name: getattr(layer, name) for name in names}
    single: dict[str, Any] = {"dtype": torch.float32}  # whatever torch's default is
    block = nn.Sequential(convolution(in_channels, layer.channels, **options, **single))
    if layer.norm == "batch1d":  # statistics for each unit, not for each channel
        shape = (layer.channels, size, size)
        units = nn.BatchNorm1d(layer.channels * size * size, affine=layer.affine, **single)
        block.extend([nn.Flatten(), units, nn.Unflatten(1, shape)])
    elif layer.norm is not None:
        block.append(nn.BatchNorm2d(layer.channels, affine=layer.affine, **single))
    if layer.activation is not None:
        kinds = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(layer.slope), "tanh": nn.Tanh()}
        block.append(kinds[layer.activation])
    if layer.dropout:
        block.append(nn.Dropout(layer.dropout))
    return block


def _through(blocks: nn.Sequential, maps: Tensor, labels: Tensor | None, num_classes: int) -> Tensor:
    """Apply the blocks in turn; those of a conditional network see the label beside the maps."""
    if not num_classes:
        if labels is not None:
            raise ValueError(f"this network knows no num_classes, and was given {len(labels)} labels")
        found: Tensor = blocks(maps)
        return found
    if labels is None or labels.shape != maps.shape[:1] or labels.dtype != torch.int64:
        got = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(f"labels must be int64 of shape ({len(maps)},), got {got}")
    one_hot = nn.functional.one_hot(labels, num_classes)[:, :, None, None]
    for block in blocks:
        told = one_hot.to(maps.dtype).expand(-1, -1, *maps.shape[2:])  # (N, num_classes, H, W)
        maps = block(torch.cat([maps, told], dim=1))
    return maps


def _halvings(image_size: int) -> list[int]:
    """Sizes from the image down to 3 or 4 pixels, each half of the last, rounded up."""
    if not 16 <= image_size <= 256:
        nearest = 16 if image_size < 16 else 256
        raise ValueError(
            f"image_size must be from 16 to 256 pixels, got {image_size}; the nearest is {nearest}"
        )
    sizes = [image_size]
    while sizes[-1] > 4:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def _kernel(larger: int) -> int:
    """Kernel that goes between ``larger`` and its half, rounded up, at stride 2 and padding 1."""
    return 4 if larger % 2 == 0 else 3


def _count_weights(layers: Sequence[Layer], in_channels: int, num_classes: int) -> int:
    """Weights of the convolutions of a chain, as plain arithmetic: no number is too large for it."""
    widths = [in_channels, *(layer.channels for layer in layers)]
    return sum(
        (before + num_classes) * layer.channels * layer.kernel**2
        for before, layer in zip(widths, layers, strict=False)
    )


def _check_fits(layers: Sequence[Layer], in_channels: int, **asked: int) -> None:
    """Refuse weights that do not fit into this machine's free memory, by the number that was asked for."""
    if torch.empty(0).device.type == "meta":
        return
    weights = _count_weights(layers, in_channels, asked["num_classes"])
    if not memory.fits(4 * weights):
        usual = {"base_channels": 64, "latent_dim": 100, "num_classes": 10, "channels": 3}
        name = max(usual, key=lambda name: asked.get(name, 0) / usual[name])
        raise MemoryError(
            f"{name} {asked[name]} makes a network of {weights:,} weights, {4 * weights / 1e9:,.0f} GB, more "
            "than this machine has free memory for: use a smaller one"
        )


def _checked_classes(num_classes: int) -> int:
    return _check_positive(num_classes=num_classes)[0] if num_classes else 0


def _check_positive(**values: int) -> list[int]:
    """Refuse what is no whole number of at least 1; the numbers as Python's own, in order."""
    return [check_count(name, value) for name, value in values.items()]
