"""Faster stand-ins for slow layers on a CPU, and a setting of its memory: all that is tuned and not taught.

A stand-in is the plain layer with another ``forward``: same parameters, same names in a checkpoint, the same
result but for rounding (dropout: the same law, from other random bits). ``TrainConfig(fast=False)`` leaves
them out.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import numpy
import torch
from torch import Tensor, nn

WORD = 1 << 16  # values of the 16 random bits that decide on one unit


def accelerate(network: nn.Module) -> nn.Module:
    """Give the layers of a network their faster ``forward`` where they have one.

    Args:
        network: On the CPU, changed in place; its parameters and their names stay as they are.

    Returns:
        The network.
    """
    for module in network.modules():
        stand_in = _STAND_INS.get(type(module))
        if stand_in is not None:
            module.__class__ = stand_in
    return network


def keep_memory() -> bool:
    """Ask the C library to keep the memory of large tensors for the next ones, in place of giving it back.

    Without it Linux hands out each large tensor page by page, zeroed, in every step anew. This is a setting
    of the whole process, which is why no other function here makes it: call it first thing in a script.

    Returns:
        Whether the setting was made; only the C library of most Linux systems, glibc, knows it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    largest = 2**31 - 1
    options = {-1: largest, -2: 256 << 20, -3: largest}  # trim threshold, top pad, mmap threshold, in bytes
    made = [set_option(option, value) == 1 for option, value in options.items()]
    return all(made)


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware, and may."""
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()  # how one caps the instructions in use
    capped = not ("BF16" in allowed or "AMX" in allowed or allowed in ("ALL", "DEFAULT"))
    return not capped and torch.cpu._is_avx512_bf16_supported()


class Dropout(nn.Dropout):
    """Dropout whose mask takes 16 random bits a unit; torch's own draws one number after the other.

    The share of dropped units is ``p`` to the nearest 1/65,536, and the others are scaled by exactly what
    that share asks for.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Set each unit to 0 with probability ``p``, in training; any shape."""
        dropped = round(self.p * WORD)
        if not self.training or not 0 < dropped < WORD or self.inplace:
            return super().forward(inputs)
        source = numpy.random.SFC64(int(torch.randint(2**62, ())))  # seeded by torch, and so reproducible
        words = source.random_raw(-(-inputs.numel() // 4)).view(numpy.int16)  # four to a number of 64 bits
        bits = torch.from_numpy(words)[: inputs.numel()].view(inputs.shape)
        kept = (bits >= dropped - WORD // 2).to(inputs.dtype)
        return inputs * kept.mul_(WORD / (WORD - dropped))


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution as a matrix product where it starts from one pixel; else see ``_by_dft``."""

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the layer to (N, C, H, W)."""
        size, kernel, padding = maps.shape[-1], self.kernel_size[0], self.padding[0]
        square = maps.shape[-2] == size and self._is_simple() and output_size is None
        if square and size == 1 and padding == 0:
            product = maps.flatten(1) @ self.weight.flatten(1)
            grown = product.view(len(maps), self.out_channels, kernel, kernel)
        elif square and self.stride == (1, 1) and _pays(size, kernel, padding):
            grown = _by_dft(maps, self.weight, padding)
        else:
            return super().forward(maps, output_size)
        return grown if self.bias is None else grown + self.bias[:, None, None].to(grown.dtype)

    def _is_simple(self) -> bool:
        """Whether all there is to it are a square kernel, a stride and a padding."""
        return (
            (self.groups, self.dilation, self.output_padding) == (1, (1, 1), (0, 0))
            and self.kernel_size[0] == self.kernel_size[1]
            and self.padding[0] == self.padding[1]
        )


class Conv2d(nn.Conv2d):
    """A convolution as a matrix product where its kernel covers the whole map."""

    def forward(self, maps: Tensor) -> Tensor:
        """Apply the layer to (N, C, H, W)."""
        whole = tuple(maps.shape[-2:]) == self.kernel_size and self.padding == (0, 0)
        if not whole or self.groups != 1 or self.dilation != (1, 1):
            return super().forward(maps)
        return nn.functional.linear(maps.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


_STAND_INS = {nn.Dropout: Dropout, nn.ConvTranspose2d: ConvTranspose2d, nn.Conv2d: Conv2d}


def _by_dft(maps: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Transposed convolution with stride 1 by way of the discrete Fourier transform.

    There a convolution is a product for each frequency. The transforms of such small maps are constant
    matrices, so all of it is three matrix products around one batch of them.
    """
    (n, channels, size, _), (_, out_channels, kernel, _) = maps.shape, weight.shape
    out = size + kernel - 1 - 2 * padding
    to_maps, to_weight, back = (m.to(maps.device) for m in _transforms(size, kernel, padding))
    pixels = maps.permute(2, 3, 0, 1).reshape(size * size, n * channels)
    taps = weight.permute(2, 3, 0, 1).reshape(kernel * kernel, channels * out_channels)
    products = (to_maps @ pixels).view(-1, n, channels) @ (to_weight @ taps).view(-1, channels, out_channels)
    grown = back @ products.view(len(products), n * out_channels)  # (out * out, N * out_channels)
    return grown.view(out, out, n, out_channels).permute(2, 3, 0, 1)


def _length(size: int, kernel: int, padding: int) -> int:
    """Period of the transform: long enough that nothing wraps into the pixels that are kept, and odd."""
    return (size + kernel - 1 - padding) | 1


def _pays(size: int, kernel: int, padding: int) -> bool:
    """Whether the products by frequency are far fewer than those by pixel and tap."""
    frequencies = 1 + 3 * (_length(size, kernel, padding) ** 2 - 1) // 2
    return 3 * frequencies < (size * kernel) ** 2


@cache
def _transforms(size: int, kernel: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices for maps, weights and the way back, real throughout.

    Of a real signal one half of the frequencies is enough. A product of two complex numbers a + bi and
    c + di takes three real ones (Gauss): c(a + b), a(d - c) and b(c + d); real part first minus third,
    imaginary part first plus second.
    """
    period = _length(size, kernel, padding)
    half = [
        (u, v) for u in range(period) for v in range(period) if (u, v) < ((-u) % period, (-v) % period)
    ]  # one of each pair of opposite frequencies; (0, 0), its own opposite, comes apart
    frequencies = torch.tensor(half, dtype=torch.float64)

    def waves(start: int, stop: int) -> tuple[Tensor, Tensor]:
        line = torch.arange(start, stop, dtype=torch.float64)
        points = torch.cartesian_prod(line, line)
        angles = 2 * torch.pi / period * frequencies @ points.T
        return angles.cos(), angles.sin()

    cos, sin = waves(0, size)
    to_maps = torch.cat([torch.ones(1, size**2), cos - sin, cos, -sin])
    cos, sin = waves(0, kernel)
    to_weight = torch.cat([torch.ones(1, kernel**2), cos, -sin - cos, cos - sin])
    cos, sin = waves(padding, size + kernel - 1 - padding)
    back = torch.cat([torch.full((1, cos.shape[1]), 0.5), cos - sin, -sin, -cos]).T * (2 / period**2)
    return to_maps.float(), to_weight.float(), back.float().contiguous()
