"""The layers that both networks are made of: what one does, and how a list of them becomes a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dcganlib.config import Share, check_fields
from dcganlib.runtime.checks import check_integers
from dcganlib.runtime.memory import check_weights_fit
from dcganlib.sizes import feature_sizes

Norm = Literal["batch", "batch1d", "spectral"]
Activation = Literal["relu", "leaky_relu", "tanh"]

POWER_STEPS = 50  # of the power method, for a largest singular value within a few percent


@dataclass(frozen=True)
class Layer:
    """One (transposed) convolution, then its normalisation, activation and dropout, in this order.

    Attributes:
        channels: Output channels.
        kernel, stride, padding, output_padding: Of the convolution, in pixels; square.
        norm: "batch" for batch norm over each channel (``BatchNorm2d``), "batch1d" over each single unit
            (``BatchNorm1d``, as after a dense layer), "spectral" to divide the convolution's weight by its
            largest singular value (Miyato et al. 2018), or None.
        affine: Whether the batch norm has a learned gain and shift.
        activation: "relu", "leaky_relu" (with ``slope``), "tanh" or None.
        slope: Of the leaky ReLU for negative input; 0.2 in the paper (section 4).
        bias: Whether the convolution adds one. Before a batch norm it has no effect.
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

    def count_weights(self, in_channels: int) -> int:
        """Number of weights in the convolution, without a bias."""
        return in_channels * self.channels * self.kernel**2


@dataclass(frozen=True)
class Residual:
    """A residual block without normalisation: resample the maps, then add to them a branch of convolutions.

    The branch is 1 by 1, leaky ReLU, 3 by 3, leaky ReLU, 1 by 1. The sizes are those of a (transposed) 3 by 3
    convolution with padding 1, so a block stands in a list of layers as such a convolution does.

    Attributes:
        channels: Output channels; where the input has another number, a 1 by 1 convolution adapts it.
        stride: 2 to halve the size in a discriminator and to double it in a generator; 1 to keep it.
        output_padding: In a generator with stride 2: 1 for exactly double, 0 for one pixel less.
        slope: Of the leaky ReLUs for negative input.

    Source:
        He et al. 2016; without normalisation as in Zhang et al. 2019 and in R3GAN (Huang et al. 2024).
    """

    channels: int
    stride: int = 1
    output_padding: int = 0
    slope: float = 0.2

    # What a `Layer` says of itself, and is the same in every block:
    kernel: ClassVar[int] = 3
    padding: ClassVar[int] = 1
    norm: ClassVar[Norm | None] = None
    affine: ClassVar[bool] = True
    activation: ClassVar[Activation] = "leaky_relu"
    bias: ClassVar[bool] = True
    dropout: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def count_weights(self, in_channels: int) -> int:
        """Number of weights in the convolutions, without biases."""
        adapts = in_channels != self.channels
        return adapts * in_channels * self.channels + (1 + self.kernel**2 + 1) * self.channels**2


AnyLayer = Layer | Residual


class ResidualBlock(nn.Module):
    """The module of a ``Residual``.

    Args:
        in_channels: Channels of the input.
        layer: What to build.
        size: Pixels of the output.
    """

    def __init__(self, in_channels: int, layer: Residual, size: int) -> None:
        super().__init__()
        self.layer, self.size, width = layer, size, layer.channels
        float32: dict[str, Any] = {"dtype": torch.float32}
        same = in_channels == width
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, width, 1, bias=False, **float32)
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 1, **float32),
            nn.LeakyReLU(layer.slope),
            nn.Conv2d(width, width, layer.kernel, padding=layer.kernel // 2, **float32),
            nn.LeakyReLU(layer.slope),
            nn.Conv2d(width, width, 1, bias=False, **float32),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, size, size)."""
        # The two steps commute; the convolution goes where there are fewer pixels.
        if self.size > maps.shape[-1]:
            maps = self._resample(self.skip(maps))
        else:
            maps = self.skip(self._resample(maps))
        added: Tensor = maps + self.branch(maps)
        return added

    def _resample(self, maps: Tensor) -> Tensor:
        """Bilinear, which leaves no jagged edges; at half the size it is the mean of 2 by 2 pixels."""
        if self.size == maps.shape[-1]:
            return maps
        return nn.functional.interpolate(maps, size=(self.size, self.size), mode="bilinear")

    def init_weights(self, blocks: int, rng: torch.Generator | None = None) -> None:
        """Redraw the convolutions so that the signal keeps its scale in a network of so many blocks.

        The branch begins with He's weights, scaled down by blocks^(1/4), and ends with zeros, so each block
        is the identity at first.

        Source:
            He et al. 2015, section 2.2; Zhang et al. 2019 (Fixup), for branches of three convolutions.
        """
        first, second, last = (module for module in self.branch if isinstance(module, nn.Conv2d))
        gain = (2 / (1 + self.layer.slope**2)) ** 0.5 * blocks**-0.25
        for convolution, scale in ((first, gain), (second, gain), (self.skip, 1.0)):
            if isinstance(convolution, nn.Conv2d):
                fan_in = convolution.weight[0].numel()
                nn.init.normal_(convolution.weight, 0.0, scale * fan_in**-0.5, generator=rng)
        nn.init.zeros_(last.weight)


class Chain(nn.Module):
    """A network that is a chain of layers; it can be conditional on a class label.

    Args:
        start: (channels, pixels) of the input.
        end: (channels, pixels) that the layers must give.
        layers: At least one.
        arguments: ``num_classes`` (above 0: conditional) and the other arguments that determine the number of
            weights; a network too large for the memory is refused by these names.

    Attributes:
        blocks: One ``nn.Sequential`` a layer.
        sizes: Pixels of the input and after each layer.

    Raises:
        ValueError: There are no layers, one is illegal, or they end at another shape.
        MemoryError: The weights do not fit into this machine's memory.
    """

    convolution: type[nn.Module]

    def __init__(
        self, start: tuple[int, int], end: tuple[int, int], layers: Sequence[AnyLayer], **arguments: int
    ) -> None:
        super().__init__()
        (self.num_classes,) = check_integers(0, num_classes=arguments["num_classes"])
        check_integers(layers=len(layers))
        self.layers = tuple(layers)
        self.sizes = feature_sizes(start[1], layers, transposed=self.convolution is nn.ConvTranspose2d)
        if (layers[-1].channels, self.sizes[-1]) != end:
            raise ValueError(
                f"the layers give {layers[-1].channels} channels at {self.sizes[-1]} pixels "
                f"(chain {self.sizes}), expected {end[0]} at {end[1]}"
            )
        inputs = [width + self.num_classes for width in (start[0], *(one.channels for one in layers[:-1]))]
        weights = [one.count_weights(width) for width, one in zip(inputs, layers, strict=True)]
        check_weights_fit(sum(weights), **arguments)
        stack = zip(inputs, layers, self.sizes[1:], strict=True)
        self.blocks = nn.Sequential(*(_block(self.convolution, *block) for block in stack))

    def _through(self, maps: Tensor, labels: Tensor | None) -> Tensor:
        """Apply the blocks in turn; those of a conditional network get the one-hot label as more maps."""
        if not self.num_classes:
            if labels is not None:
                raise ValueError(f"this network is not conditional, and was given {len(labels)} labels")
            outputs: Tensor = self.blocks(maps)
            return outputs
        if labels is None or labels.shape != maps.shape[:1] or labels.dtype != torch.int64:
            got = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise ValueError(f"labels must be int64 of shape ({len(maps)},), got {got}")
        one_hot = nn.functional.one_hot(labels, self.num_classes)[:, :, None, None]
        for block in self.blocks:
            label_maps = one_hot.to(maps.dtype).expand(-1, -1, *maps.shape[2:])  # (N, num_classes, H, W)
            maps = block(torch.cat([maps, label_maps], dim=1))
        return maps


class SpectralNorm(nn.Module):
    """A parametrisation that divides a weight by its largest singular value, estimated by the power method.

    As ``torch.nn.utils.parametrizations.spectral_norm``, but it computes in float32 under autocast too, and
    its start can be seeded and repeated (``reset``).

    Args:
        shape: Of the weight; all dimensions but ``dim`` together are the columns of the matrix.
        dim: Dimension of the output channels, the rows of the matrix.

    Source:
        Miyato et al. 2018, section 2.1 and algorithm 1.
    """

    u: Tensor
    v: Tensor

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("u", torch.zeros(shape[dim], dtype=torch.float32))
        self.register_buffer("v", torch.zeros(shape.numel() // shape[dim], dtype=torch.float32))

    def forward(self, weight: Tensor) -> Tensor:
        """Divide a weight; in training, first improve the estimate by one step of the power method."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.movedim(self.dim, 0).flatten(1)
            if self.training:
                self._improve(matrix)
            return weight / (self.u @ (matrix @ self.v))

    @torch.no_grad()
    def reset(self, weight: Tensor, rng: torch.Generator | None = None) -> None:
        """Estimate the singular value of a new weight, from a random start."""
        if weight.is_meta:
            return
        nn.init.normal_(self.v, generator=rng)
        for _ in range(POWER_STEPS):
            self._improve(weight.movedim(self.dim, 0).flatten(1))

    @torch.no_grad()
    def _improve(self, matrix: Tensor) -> None:
        # New tensors, as the graph of an earlier forward pass may hold the old ones.
        self.u = nn.functional.normalize(matrix @ self.v, dim=0)
        self.v = nn.functional.normalize(self.u @ matrix, dim=0)


def spectral_norms(network: nn.Module) -> list[tuple[SpectralNorm, Tensor]]:
    """The spectral norms in a network, each with the weight that it divides."""
    found = [one for one in network.modules() if isinstance(one, parametrize.ParametrizationList)]
    return [(one[0], one.original) for one in found if isinstance(one[0], SpectralNorm)]


def _block(convolution: type[nn.Module], in_channels: int, layer: AnyLayer, size: int) -> nn.Sequential:
    """One layer as modules: convolution, norm, activation, dropout."""
    if isinstance(layer, Residual):
        return nn.Sequential(ResidualBlock(in_channels, layer, size))
    dtype: dict[str, Any] = {"dtype": torch.float32}  # whatever torch's default is
    options: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "bias": layer.bias, **dtype}
    if convolution is nn.ConvTranspose2d:
        options["output_padding"] = layer.output_padding
    block = nn.Sequential(convolution(in_channels, layer.channels, layer.kernel, **options))
    if layer.norm == "batch1d":  # statistics for each unit, not for each channel
        shape = (layer.channels, size, size)
        units = nn.BatchNorm1d(layer.channels * size * size, affine=layer.affine, **dtype)
        block.extend([nn.Flatten(), units, nn.Unflatten(1, shape)])
    elif layer.norm == "spectral":
        weight = block[0].get_parameter("weight")
        norm = SpectralNorm(weight.shape, dim=int(convolution is nn.ConvTranspose2d))
        norm.reset(weight)
        parametrize.register_parametrization(block[0], "weight", norm, unsafe=True)
    elif layer.norm is not None:
        block.append(nn.BatchNorm2d(layer.channels, affine=layer.affine, **dtype))
    if layer.activation is not None:
        kinds = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(layer.slope), "tanh": nn.Tanh()}
        block.append(kinds[layer.activation])
    if layer.dropout:
        block.append(nn.Dropout(layer.dropout))
    return block
