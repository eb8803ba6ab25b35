"""CPU-optimised layers and a malloc setting.

An optimised layer is the plain one with another ``forward``: same parameters, same names in a checkpoint, and
the same result except for rounding (dropout: the same distribution, from other random bits).
``TrainConfig(fast=False)`` leaves them out.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DROPOUT_LEVELS = 1 << 16  # values of the 16 random bits that decide on one unit
DROPOUT_MIN_UNITS = 1 << 14  # below, torch's own dropout is as fast, as it has less to set up
PRODUCT_MIN_CHANNELS = 512  # from which a strided convolution in half precision is faster as a product
PRODUCT_MIN_CHANNELS_AMX = 256  # the same in bfloat16, on a processor with AMX
PRODUCTS_PER_MOVE = 100  # multiplications in the time of writing a number to memory and reading it back


def optimize(network: nn.Module) -> nn.Module:
    """Give the layers of a network their faster ``forward`` where there is one.

    Args:
        network: On the CPU; changed in place, except for its parameters and their names.

    Returns:
        The network.
    """
    for module in network.modules():
        module.__class__ = _OPTIMIZED.get(type(module), type(module))
    return network


def keep_memory() -> bool:
    """Make the C library reuse the memory of large tensors instead of returning it to the system.

    Otherwise Linux provides each large tensor page by page, zeroed, in every step. The setting affects the
    whole process, so nothing in this package makes it for you: call it at the start of a script.

    Returns:
        Whether the setting was made; only glibc, the C library of most Linux systems, has it.
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
    """Whether this processor multiplies bfloat16 in hardware, and ONEDNN_MAX_CPU_ISA allows it."""
    return _may_use("BF16", "AMX") and torch.cpu._is_avx512_bf16_supported()


def has_amx() -> bool:
    """Whether this processor multiplies tiles of bfloat16 (Intel's AMX), and ONEDNN_MAX_CPU_ISA allows it."""
    return _may_use("AMX") and torch.cpu._is_amx_tile_supported()


def processor() -> dict[str, Any]:
    """Describe the processor that this process runs on, on Linux, macOS and Windows.

    Returns:
        "cpu": its name. "cores": the number that this process may use. "threads": the number that PyTorch
        uses. "isa": the instruction sets that decide how fast a matrix product is, by their names in Linux's
        /proc/cpuinfo: "avx2", "avx512f", "avx512_bf16" and "amx_bf16".
    """
    from joblib import cpu_count  # here, because training does not need it

    known = {
        "avx2": torch.cpu._is_avx2_supported,
        "avx512f": torch.cpu._is_avx512_supported,
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported,
        "amx_bf16": torch.cpu._is_amx_tile_supported,
    }
    return {
        "cpu": _processor_name(),
        "cores": cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": [name for name, supported in known.items() if supported()],
    }


def _processor_name() -> str:
    """Its product name; its architecture where the system gives no name."""
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        elif sys.platform == "win32":
            import winreg

            key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                name = winreg.QueryValueEx(opened, "ProcessorNameString")[0]
        else:
            with open("/proc/cpuinfo", encoding="utf-8") as file:  # without this line on ARM
                name = (re.search(r"^model name[ \t]*:(.*)$", file.read(), re.MULTILINE) or ["", ""])[1]
    except (OSError, subprocess.CalledProcessError):
        name = ""
    return name.strip() or platform.processor() or platform.machine()


def _may_use(*parts: str) -> bool:
    """Whether ONEDNN_MAX_CPU_ISA is unset or names one of these instruction sets."""
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    return cap in ("ALL", "DEFAULT") or any(part in cap for part in parts)


class Dropout(nn.Dropout):
    """Dropout whose mask takes 16 random bits a unit; torch's own draws a full number for each.

    The share of dropped units is ``p`` to the nearest 1/65,536, and the others are scaled to match that share
    exactly.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Set each unit to 0 with probability ``p``, in training; any shape."""
        dropped = round(self.p * DROPOUT_LEVELS)
        plain = self.inplace or not inputs.is_cpu or inputs.numel() < DROPOUT_MIN_UNITS
        if plain or not self.training or not 0 < dropped < DROPOUT_LEVELS:
            return super().forward(inputs)
        seed = int(torch.randint(2**62, (), device="cpu"))  # from torch's own source, so it is reproducible
        source = numpy.random.SFC64(seed)
        words = source.random_raw(-(-inputs.numel() // 4)).view(numpy.int16)  # four in 64 bits
        bits = torch.from_numpy(words)[: inputs.numel()].view(inputs.shape)
        kept = (bits >= dropped - DROPOUT_LEVELS // 2).to(inputs.dtype)
        return inputs * kept.mul_(DROPOUT_LEVELS / (DROPOUT_LEVELS - dropped))


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution as matrix products, where that is faster.

    From one pixel it is a single product. For stride 1 on small maps see ``_by_dft``; for many channels in
    half precision see ``_Col2Im``.
    """

    padding: tuple[int, int]  # a plain convolution's may be a string

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the layer to (N, C, H, W)."""
        size, kernel, stride, padding = maps.shape[-1], self.kernel_size[0], self.stride[0], self.padding[0]
        if output_size is not None or not _is_square(self, maps):
            return super().forward(maps, output_size)
        extra, half = self.output_padding[0], _half(maps)
        if size == 1 and (padding, extra) == (0, 0):
            product = maps.flatten(1) @ self.weight.flatten(1)
            grown = product.view(len(maps), self.out_channels, kernel, kernel)
        elif (stride, extra) == (1, 0) and _dft_is_faster(maps.shape, self.weight.shape, padding):
            grown = _by_dft(maps, self.weight, padding)
        elif half and self.in_channels >= _min_channels(half) and extra <= padding:
            grown = _Col2Im.apply(maps.to(half), self.weight.to(half), stride, padding, extra)
        else:
            return super().forward(maps)
        return grown if self.bias is None else grown + self.bias[:, None, None].to(grown.dtype)


class Conv2d(nn.Conv2d):
    """A convolution as a matrix product, where its kernel covers the whole map or ``_Im2Col`` is faster."""

    def forward(self, maps: Tensor) -> Tensor:
        """Apply the layer to (N, C, H, W)."""
        if not _is_square(self, maps):
            return super().forward(maps)
        half = _half(maps)
        if maps.shape[-1] == self.kernel_size[0] and self.padding == (0, 0):
            product = nn.functional.linear(maps.flatten(1), self.weight.flatten(1), self.bias)
            return product[:, :, None, None]
        if half and self.out_channels >= _min_channels(half):
            inputs, weight = maps.to(half), self.weight.to(half)
            found: Tensor = _Im2Col.apply(inputs, weight, self.stride[0], self.padding[0])
            return found if self.bias is None else found + self.bias[:, None, None].to(half)
        return super().forward(maps)


_OPTIMIZED = {nn.Dropout: Dropout, nn.ConvTranspose2d: ConvTranspose2d, nn.Conv2d: Conv2d}


class _Im2Col(torch.autograd.Function):
    """A convolution as one product: all patches of the maps, a row each, times the weight.

    The cost of the product grows with the output channels, that of copying the patches does not, so this is
    faster for many channels. In half precision torch's own backward pass is slow there.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.grid = weight.shape[-1], stride, padding
        patches, (height, width) = _patches(maps, *ctx.grid)
        return _maps(patches @ _matrix(weight).T, len(maps), height, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        found: list[Tensor | None] = [None, None]
        if ctx.needs_input_grad[0]:
            found[0] = _sum_patches(_rows(grad) @ _matrix(weight), maps.shape, grad.shape, *ctx.grid)
        if ctx.needs_input_grad[1]:
            found[1] = _weight(_rows(grad).T @ _patches(maps, *ctx.grid)[0], weight.shape)
        return *found, None, None


class _Col2Im(torch.autograd.Function):
    """A transposed convolution as one product: each pixel becomes a patch, and patches are added up."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, stride: int, padding: int, extra: int) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.grid = weight.shape[-1], stride, padding
        sides = [(side - 1) * stride + weight.shape[-1] - 2 * padding + extra for side in maps.shape[2:]]
        shape = (len(maps), weight.shape[1], *sides)
        return _sum_patches(_rows(maps) @ _matrix(weight), shape, maps.shape, *ctx.grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        found: list[Tensor | None] = [None, None]
        patches, (height, width) = _patches(grad, *ctx.grid)
        if ctx.needs_input_grad[0]:
            found[0] = _maps(patches @ _matrix(weight).T, len(maps), height, width)
        if ctx.needs_input_grad[1]:
            found[1] = _weight(_rows(maps).T @ patches, weight.shape)
        return *found, None, None, None


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) as a matrix with a row for each pixel."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _maps(rows: Tensor, count: int, height: int, width: int) -> Tensor:
    """The inverse of ``_rows``."""
    return rows.view(count, height, width, -1).permute(0, 3, 1, 2)


def _matrix(weight: Tensor) -> Tensor:
    """(A, B, K, K) as a matrix with a row for each of A, in the order of the patches."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _weight(matrix: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of ``_matrix``."""
    return matrix.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)


def _patches(maps: Tensor, kernel: int, stride: int, padding: int) -> tuple[Tensor, tuple[int, int]]:
    """All patches that a kernel covers, a row each (im2col), and how many there are in height and width."""
    padded = nn.functional.pad(maps.permute(0, 2, 3, 1), (0, 0, *4 * [padding]))
    found = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # (N, h, w, C, K, K)
    count, height, width, channels = found.shape[:4]
    rows = found.permute(0, 1, 2, 4, 5, 3).reshape(count * height * width, kernel * kernel * channels)
    return rows, (height, width)


def _sum_patches(
    rows: Tensor, shape: Sequence[int], grid: Sequence[int], kernel: int, stride: int, padding: int
) -> Tensor:
    """Put each patch at its place in maps of ``shape``, and add them where they overlap (col2im)."""
    (count, channels, height, width), (_, _, down, across) = shape, grid
    patches = rows.view(count, down, across, kernel, kernel, channels)
    exact = torch.promote_types(rows.dtype, torch.float32)
    padded = (count, height + 2 * padding, width + 2 * padding, channels)
    summed = torch.zeros(padded, dtype=exact, device=rows.device)
    for i in range(kernel):
        for j in range(kernel):
            below, beside = slice(i, i + stride * down, stride), slice(j, j + stride * across, stride)
            summed[:, below, beside] += patches[:, :, :, i, j]
    kept = summed[:, padding : padding + height, padding : padding + width]
    return kept.to(rows.dtype).permute(0, 3, 1, 2)


def _is_square(layer: nn.Conv2d | nn.ConvTranspose2d, maps: Tensor) -> bool:
    """Whether map, kernel, stride and padding are square, and there are no groups and no dilation."""
    pairs = (maps.shape[-2:], layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
    square = all(len(pair) == 2 and pair[0] == pair[1] for pair in pairs)  # padding may be a string
    return square and (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")


def _half(maps: Tensor) -> torch.dtype | None:
    """The 16-bit type that a layer computes in here, or None."""
    kind = maps.device.type
    used = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else maps.dtype
    return used if used in (torch.bfloat16, torch.float16) else None


def _min_channels(half: torch.dtype) -> int:
    """Channels from which a strided convolution in half precision is faster as a product here."""
    return PRODUCT_MIN_CHANNELS_AMX if half == torch.bfloat16 and has_amx() else PRODUCT_MIN_CHANNELS


def _by_dft(maps: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Transposed convolution with stride 1 by the discrete Fourier transform.

    After the transform a convolution is one product per frequency. The transforms of such small maps are
    constant matrices, so the whole is three matrix products and one batch of them.
    """
    (n, channels, size, _), (_, out_channels, kernel, _) = maps.shape, weight.shape
    out = size + kernel - 1 - 2 * padding
    to_maps, to_weight, back = _transforms(size, kernel, padding, maps.dtype, maps.device)
    pixels = maps.permute(2, 3, 0, 1).reshape(size * size, n * channels)
    taps = weight.permute(2, 3, 0, 1).reshape(kernel * kernel, channels * out_channels)
    products = (to_maps @ pixels).view(-1, n, channels) @ (to_weight @ taps).view(-1, channels, out_channels)
    grown = back @ products.view(len(products), n * out_channels)  # (out * out, N * out_channels)
    return grown.view(out, out, n, out_channels).permute(2, 3, 0, 1)


def _length(size: int, kernel: int, padding: int) -> int:
    """Period of the transform: odd, and long enough that nothing wraps into the output pixels."""
    return (size + kernel - 1 - padding) | 1


def _dft_is_faster(maps: torch.Size, weight: torch.Size, padding: int) -> bool:
    """Whether ``_by_dft`` takes less time than the plain layer, from the multiplications and memory traffic.

    There are fewer products per frequency than per pixel and tap. But transforming maps, weights and output
    takes products as well, and all of these are written to memory and read back. For few channels, few
    images or a small kernel that costs more than is saved.
    """
    (n, channels, size, _), (_, out_channels, kernel, _) = maps, weight
    out = size + kernel - 1 - 2 * padding
    frequencies = 1 + 3 * (_length(size, kernel, padding) ** 2 - 1) // 2
    products = n * channels * out_channels
    transforms = (
        n * channels * (size**2 + PRODUCTS_PER_MOVE)
        + channels * out_channels * (kernel**2 + PRODUCTS_PER_MOVE)
        + n * out_channels * (out**2 + PRODUCTS_PER_MOVE)
    )
    return frequencies * (products + transforms) < products * (size * kernel) ** 2


@cache
@torch.inference_mode(False)  # they are cached, and training cannot use tensors made in inference mode
def _transforms(
    size: int, kernel: int, padding: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Real matrices that transform maps and weights, and the inverse transform.

    Half of the frequencies describe a real signal. The product of two complex numbers a + bi and c + di takes
    three real products (Gauss): c(a + b), a(d - c) and b(c + d). The real part is the first minus the third,
    the imaginary part the first plus the second.
    """
    period = _length(size, kernel, padding)
    half = [
        (u, v) for u in range(period) for v in range(period) if (u, v) < ((-u) % period, (-v) % period)
    ]  # one of each pair of opposite frequencies; (0, 0), its own opposite, is added below
    exact: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    frequencies = torch.tensor(half, **exact)

    def waves(start: int, stop: int) -> tuple[Tensor, Tensor]:
        line = torch.arange(start, stop, **exact)
        points = torch.cartesian_prod(line, line)
        angles = 2 * torch.pi / period * frequencies @ points.T
        return angles.cos(), angles.sin()

    cos, sin = waves(0, size)
    to_maps = torch.cat([torch.ones(1, size**2, **exact), cos - sin, cos, -sin])
    cos, sin = waves(0, kernel)
    to_weight = torch.cat([torch.ones(1, kernel**2, **exact), cos, -sin - cos, cos - sin])
    cos, sin = waves(padding, size + kernel - 1 - padding)
    back = torch.cat([torch.full((1, cos.shape[1]), 0.5, **exact), cos - sin, -sin, -cos]).T
    back = (back * (2 / period**2)).contiguous()
    return to_maps.to(device, dtype), to_weight.to(device, dtype), back.to(device, dtype)
