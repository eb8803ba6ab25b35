"""The layers that both networks are made of: what one does, and how a list of them becomes a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dcganlib.config import Share, check_fields
from dcganlib.runtime.checks import check_integers
from dcganlib.runtime.memory import check_weights_fit
from dcganlib.sizes import feature_sizes

Norm = Literal["batch", "batch1d"]
Activation = Literal["relu", "leaky_relu", "tanh"]


@dataclass(frozen=True)
class Layer:
    """One (transposed) convolution, then its normalisation, activation and dropout, in this order.

    Attributes:
        channels: Output channels.
        kernel, stride, padding, output_padding: Of the convolution, in pixels; square.
        norm: "batch" for batch norm over each channel (``BatchNorm2d``), "batch1d" over each single unit
            (``BatchNorm1d``, as after a dense layer), or None.
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
        self, start: tuple[int, int], end: tuple[int, int], layers: Sequence[Layer], **arguments: int
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
        weights = [width * one.channels * one.kernel**2 for width, one in zip(inputs, layers, strict=True)]
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


def _block(convolution: type[nn.Module], in_channels: int, layer: Layer, size: int) -> nn.Sequential:
    """One layer as modules: convolution, norm, activation, dropout."""
    dtype: dict[str, Any] = {"dtype": torch.float32}  # whatever torch's default is
    options: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "bias": layer.bias, **dtype}
    if convolution is nn.ConvTranspose2d:
        options["output_padding"] = layer.output_padding
    block = nn.Sequential(convolution(in_channels, layer.channels, layer.kernel, **options))
    if layer.norm == "batch1d":  # statistics for each unit, not for each channel
        shape = (layer.channels, size, size)
        units = nn.BatchNorm1d(layer.channels * size * size, affine=layer.affine, **dtype)
        block.extend([nn.Flatten(), units, nn.Unflatten(1, shape)])
    elif layer.norm is not None:
        block.append(nn.BatchNorm2d(layer.channels, affine=layer.affine, **dtype))
    if layer.activation is not None:
        kinds = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(layer.slope), "tanh": nn.Tanh()}
        block.append(kinds[layer.activation])
    if layer.dropout:
        block.append(nn.Dropout(layer.dropout))
    return block
