"""The generator and the discriminator, each a chain of (transposed) convolutions.

The generator sees z as a 1 by 1 map with ``latent_dim`` channels and grows it to an image; the discriminator
shrinks an image to a single number. Two DCGANs differ only in their lists of layers: ``zoo`` has those of the
papers and tutorials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dcganlib.layers import AnyLayer, Chain, ResidualBlock, spectral_norms
from dcganlib.layers import Layer as Layer  # part of this module's interface
from dcganlib.layers import Residual as Residual
from dcganlib.runtime.checks import check_integers

Network = TypeVar("Network", bound=nn.Module)


class Generator(Chain):
    """Maps latents to images, from a 1 by 1 map up, by transposed convolutions.

    Args:
        image_size: Height and width of the images in pixels, from 16 to 256 for the standard chain.
        channels: 1 for grey, 3 for RGB.
        base_channels: Width of the last hidden layer; each earlier one is twice as wide.
        latent_dim: Numbers in a latent point.
        num_classes: Above 0 the generator is conditional: each layer sees the label as well.
        layers: The chain, in place of ``generator_layers``; it ends at ``image_size`` and ``channels``.

    Raises:
        ValueError: A value is out of range, or the layers do not end at the promised shape.
        MemoryError: The weights do not fit into this machine's memory.

    Source:
        Radford et al. 2016, section 3 and figure 1.
    """

    convolution = nn.ConvTranspose2d

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        base_channels: int = 64,
        latent_dim: int = 100,
        *,
        num_classes: int = 0,
        layers: Sequence[AnyLayer] | None = None,
    ) -> None:
        image_size, channels, base_channels, latent_dim = check_integers(
            image_size=image_size, channels=channels, base_channels=base_channels, latent_dim=latent_dim
        )
        layers = generator_layers(image_size, channels, base_channels) if layers is None else layers
        widths = {"base_channels": base_channels, "channels": channels, "latent_dim": latent_dim}
        super().__init__((latent_dim, 1), (channels, image_size), layers, num_classes=num_classes, **widths)
        self.image_size, self.channels, self.latent_dim = image_size, channels, latent_dim

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw images in [-1, 1], (N, channels, image_size, image_size), from z, (N, latent_dim)."""
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z must have shape (N, {self.latent_dim}), got {tuple(z.shape)}")
        maps = z[:, :, None, None]  # (N, latent_dim, 1, 1)
        return self._through(maps, labels)  # (N, C, H, W)


class Discriminator(Chain):
    """Maps images to logits, down to a 1 by 1 map, by strided convolutions. Above 0 means "real".

    Args:
        image_size: Height and width of the images in pixels, from 16 to 256 for the standard chain.
        channels: 1 for grey, 3 for RGB.
        base_channels: Width of the first layer; each next one is twice as wide.
        num_classes: Above 0 the discriminator is conditional: each layer sees the label as well.
        layers: The chain, in place of ``discriminator_layers``; it ends in one channel on one pixel.

    Raises:
        ValueError: A value is out of range, or the layers do not end in a single number.
        MemoryError: The weights do not fit into this machine's memory.

    Source:
        Radford et al. 2016, section 3.
    """

    convolution = nn.Conv2d

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        base_channels: int = 64,
        *,
        num_classes: int = 0,
        layers: Sequence[AnyLayer] | None = None,
    ) -> None:
        image_size, channels, base_channels = check_integers(
            image_size=image_size, channels=channels, base_channels=base_channels
        )
        layers = discriminator_layers(image_size, base_channels) if layers is None else layers
        widths = {"base_channels": base_channels, "channels": channels}
        super().__init__((channels, image_size), (1, 1), layers, num_classes=num_classes, **widths)
        self.image_size, self.channels = image_size, channels

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images in [-1, 1], (N, channels, image_size, image_size), to a logit each, (N,)."""
        self.check_images(images)
        logits = self._through(images, labels)  # (N, 1, 1, 1)
        return logits.flatten()

    def check_images(self, images: Tensor) -> None:
        """Refuse images of another shape than (N, channels, image_size, image_size) with a ValueError."""
        expected = (self.channels, self.image_size, self.image_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            shape = ", ".join(map(str, expected))
            raise ValueError(f"images must have shape (N, {shape}), got {tuple(images.shape)}")


class Conditioned(nn.Module):
    """A conditional network with its labels filled in, so that it takes z, or images, alone.

    Args:
        network: A conditional ``Generator`` or ``Discriminator``, shared and not copied.
        labels: int64 of shape (N,), one for each input.
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

    Kernel 4 doubles the size exactly; where the larger size is odd, kernel 3 gives one pixel less.

    Args:
        image_size: 16 to 256 pixels.
        channels: Channels of the image.
        base_channels: Width of the last hidden layer; each earlier one is twice as wide.

    Returns:
        The layers: batch norm and ReLU in all but the last, which has tanh alone.

    Raises:
        ValueError: The image size is out of range.

    Source:
        Radford et al. 2016, section 3; kernel 4, as in the authors' later code, is a multiple of the stride
        and so avoids checkerboard artefacts (Odena et al. 2016).
    """
    sizes = halvings(image_size)[::-1]  # such as [4, 8, 16, 32, 64]
    widths = [base_channels * 2**i for i in reversed(range(len(sizes) - 1))]
    layers = [Layer(widths[0], kernel=sizes[0], stride=1, padding=0)]
    layers += [Layer(width, kernel=_kernel(size)) for width, size in zip(widths[1:], sizes[1:], strict=False)]
    return [*layers, Layer(channels, kernel=_kernel(image_size), norm=None, activation="tanh")]


def discriminator_layers(image_size: int, base_channels: int) -> list[Layer]:
    """Standard chain of the discriminator: halve down to 3 or 4 pixels, then to one number.

    Args:
        image_size: 16 to 256 pixels.
        base_channels: Width of the first layer; each next one is twice as wide.

    Returns:
        The layers: leaky ReLU in all but the last, batch norm in all but the first and the last.

    Raises:
        ValueError: The image size is out of range.

    Source:
        Radford et al. 2016, sections 3 and 4.
    """
    sizes = halvings(image_size)  # such as [64, 32, 16, 8, 4]
    layers = [
        Layer(
            base_channels * 2**i, kernel=_kernel(size), activation="leaky_relu", norm="batch" if i else None
        )
        for i, size in enumerate(sizes[:-1])
    ]
    return [*layers, Layer(1, kernel=sizes[-1], stride=1, padding=0, norm=None, activation=None)]


def init_weights(network: Network, rng: torch.Generator | None = None) -> Network:
    """Redraw all weights: convolutions from N(0, 0.02^2), batch-norm gains from N(1, 0.02^2), the rest 0.

    Residual blocks, which have no batch norm, have a law of their own: ``ResidualBlock.init_weights``.

    Args:
        network: Changed in place.
        rng: Source of randomness on the network's device; torch's global one if absent.

    Returns:
        The network.

    Source:
        Radford et al. 2016, section 4, for the weights; the authors' code for the gains, on which the paper
        is silent.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            if not parametrize.is_parametrized(module):  # those with spectral norm come last
                nn.init.normal_(module.weight, 0.0, 0.02, generator=rng)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.reset_running_stats()
            if module.affine:
                nn.init.normal_(module.weight, 1.0, 0.02, generator=rng)
        bias = getattr(module, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    for block in blocks:
        block.init_weights(len(blocks), rng)
    for norm, weight in spectral_norms(network):
        nn.init.normal_(weight, 0.0, 0.02, generator=rng)
        norm.reset(weight, rng)
    return network


@torch.no_grad()
def generate(generator: Generator, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Draw images in eval mode and without gradients; the generator's mode is restored.

    Args:
        generator: On any device, in any mode.
        z: Latents of shape (N, latent_dim), on any device.
        labels: int64 of shape (N,), of a conditional generator.

    Returns:
        float32 images of shape (N, C, H, W) in [-1, 1], on the generator's device.

    Raises:
        ValueError: z has another shape than (N, latent_dim), or the labels do not fit the generator.
    """
    was_training = generator.training
    generator.eval()
    device = next(generator.parameters()).device
    inputs = (z,) if labels is None else (z, labels)
    try:
        images: Tensor = generator(*(value.to(device) for value in inputs)).float()
        return images
    finally:
        generator.train(was_training)


def count_parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def halvings(image_size: int) -> list[int]:
    """Sizes from the image down to 3 or 4 pixels, each half of the last, rounded up.

    Raises:
        ValueError: The image size is not from 16 to 256.
    """
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
