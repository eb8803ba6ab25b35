"""The size arithmetic of convolutions: what goes in, what comes out, and which combinations are illegal.

Every function works on one side of a square map (an ``int``) or on a (height, width) pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from dcganlib.runtime.checks import check_integers

IntOrPair = int | tuple[int, int]
"""One number for both sides, or a (height, width) pair."""

Size = TypeVar("Size", int, tuple[int, int])


@overload
def conv_out(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int: ...
@overload
def conv_out(
    size: IntOrPair, kernel: IntOrPair, stride: IntOrPair = 1, padding: IntOrPair = 0, dilation: IntOrPair = 1
) -> IntOrPair: ...


def conv_out(
    size: IntOrPair, kernel: IntOrPair, stride: IntOrPair = 1, padding: IntOrPair = 0, dilation: IntOrPair = 1
) -> IntOrPair:
    """Output size of a convolution: floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1.

    Args:
        size: Input size in pixels, at least 1; an int or a (height, width) pair.
        kernel: Kernel size, at least 1.
        stride: Step between two windows, at least 1.
        padding: Zeros added on each side, at least 0.
        dilation: Distance between two kernel taps, at least 1.

    Returns:
        The output size, an int if ``size`` is one, else a (height, width) pair.

    Raises:
        ValueError: A value is not an integer in its range, or the kernel does not fit the padded input.

    Source:
        Dumoulin & Visin 2016, section 2; ``torch.nn.Conv2d``.
    """
    if _any_pair(size, kernel, stride, padding, dilation):
        return _per_side(conv_out, size, kernel, stride, padding, dilation)
    size, kernel = check_integers(size=size, kernel=kernel)
    stride, dilation = check_integers(stride=stride, dilation=dilation)
    (padding,) = check_integers(0, padding=padding)
    extent = dilation * (kernel - 1) + 1  # pixels one window spans
    padded = size + 2 * padding
    if extent > padded:
        raise ValueError(
            f"the kernel does not fit: kernel {kernel} with dilation {dilation} spans {extent} pixels, "
            f"size {size} with padding {padding} has {padded}; use a smaller kernel or more padding"
        )
    return (padded - extent) // stride + 1


@overload
def conv_transpose_out(
    size: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> int: ...
@overload
def conv_transpose_out(
    size: IntOrPair,
    kernel: IntOrPair,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> IntOrPair: ...
def conv_transpose_out(
    size: IntOrPair,
    kernel: IntOrPair,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> IntOrPair:
    """Output size of a transposed convolution, the inverse of ``conv_out`` up to the dropped remainder.

    stride (size - 1) + dilation (kernel - 1) + 1 - 2 padding + output_padding.

    Args:
        size: Input size in pixels, at least 1; an int or a (height, width) pair.
        kernel: Kernel size, at least 1.
        stride: Step between two stamped kernels in the output, at least 1.
        padding: Pixels cut off on each side of the output, at least 0.
        output_padding: Pixels added at the bottom and right of the output, from 0 to below
            max(stride, dilation). It picks one of the ``stride`` input sizes that the matching
            convolution would send to the same output size.
        dilation: Distance between two kernel taps, at least 1.

    Returns:
        The output size, an int if ``size`` is one, else a (height, width) pair.

    Raises:
        ValueError: A value is not an integer in its range, or nothing is left of the output.

    Source:
        Dumoulin & Visin 2016, section 4; ``torch.nn.ConvTranspose2d``.
    """
    if _any_pair(size, kernel, stride, padding, output_padding, dilation):
        return _per_side(conv_transpose_out, size, kernel, stride, padding, output_padding, dilation)
    size, kernel = check_integers(size=size, kernel=kernel)
    stride, dilation = check_integers(stride=stride, dilation=dilation)
    padding, output_padding = check_integers(0, padding=padding, output_padding=output_padding)
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"output_padding must be smaller than stride or dilation: got output_padding {output_padding} "
            f"with stride {stride} and dilation {dilation}"
        )
    out = stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * padding + output_padding
    if out < 1:
        raise ValueError(
            f"nothing is left: size {size}, kernel {kernel}, stride {stride}, padding {padding}, "
            f"output_padding {output_padding}, dilation {dilation} give {out} pixels; use less padding"
        )
    return out


def feature_sizes(size: Size, layers: Iterable[Any], *, transposed: bool = False) -> list[Size]:
    """Sizes along a chain of layers, the input first.

    Args:
        size: Input size in pixels; an int or a (height, width) pair.
        layers: One entry a layer, with ``kernel`` and, where they differ from the defaults, ``stride``,
            ``padding``, ``dilation`` and (transposed only) ``output_padding``, as attributes
            (``models.Layer``) or as a mapping.
        transposed: Follow transposed convolutions instead of convolutions.

    Returns:
        A list of len(layers) + 1 sizes.

    Raises:
        ValueError: A layer is illegal; the message names its position, counted from 1.
    """
    step: Callable[..., Any] = conv_transpose_out if transposed else conv_out
    names: list[str] = ["kernel", "stride", "padding", "dilation"] + ["output_padding"] * transposed
    known = {*names, "output_padding"}
    sizes = [size]
    for position, layer in enumerate(layers, start=1):
        options = (
            layer
            if isinstance(layer, Mapping)
            else {n: getattr(layer, n) for n in known if hasattr(layer, n)}
        )
        if unknown := set(options) - known:
            raise ValueError(
                f"layer {position} has an unknown option {sorted(unknown)[0]!r}; there are {names}"
            )
        if "kernel" not in options:
            raise ValueError(f"layer {position} has no kernel: got {layer!r}")
        if not transposed and options.get("output_padding", 0) != 0:
            raise ValueError(
                f"layer {position} has output_padding, which only a transposed convolution takes"
            )
        try:
            sizes.append(step(sizes[-1], **{name: options[name] for name in names if name in options}))
        except ValueError as error:
            raise ValueError(f"layer {position}, after sizes {sizes}: {error}") from error
    return sizes


def _any_pair(*values: Any) -> bool:
    return any(isinstance(value, (tuple, list)) for value in values)


def _per_side(rule: Any, *values: Any) -> tuple[int, int]:
    """Apply a rule for one side to height and width; an int stands for both."""
    pairs = [tuple(value) if isinstance(value, (tuple, list)) else (value, value) for value in values]
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"expected an int or a (height, width) pair, got {pair}")
    height, width = (rule(*side) for side in zip(*pairs, strict=True))
    return height, width
