"""The size arithmetic, against torch's own layers and numbers worked by hand."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dcganlib.models import Layer
from dcganlib.sizes import conv_out, conv_transpose_out, feature_sizes


def torch_conv(size, kernel, stride, padding, dilation):
    """Size that torch's convolution really gives, or None where torch refuses."""
    try:
        return tuple(
            F.conv2d(
                torch.zeros(1, 1, *size), torch.zeros(1, 1, *kernel), None, stride, padding, dilation
            ).shape[2:]
        )
    except RuntimeError:
        return None


def torch_conv_transpose(size, kernel, stride, padding, output_padding, dilation):
    try:
        weight = torch.zeros(1, 1, *kernel)
        image = torch.zeros(1, 1, *size)
        out = F.conv_transpose2d(image, weight, None, stride, padding, output_padding, 1, dilation).shape[2:]
    except RuntimeError:
        return None
    # The one deliberate difference: torch gives a map of 0 pixels where nothing is left, dcganlib refuses.
    return tuple(out) if min(out) > 0 else None


def ours(rule, *values):
    try:
        return rule(*values)
    except ValueError:
        return None


def paired(cases):
    """Two cases a call, one for the height and one for the width: half the calls, and pairs tested too."""
    half = (len(cases) + 1) // 2
    for first, second in zip(cases[:half], cases[-half:], strict=True):
        yield list(zip(first, second, strict=True))


CONVS = list(product(range(1, 11), range(1, 7), (1, 2, 3, 4), (0, 1, 2, 3), (1, 2, 3)))
TRANSPOSED = list(product(range(1, 6), range(1, 7), (1, 2, 3), (0, 1, 2, 3), (0, 1, 2), (1, 2, 3)))


def test_conv_out_is_what_torch_gives_on_a_dense_grid():
    legal = [case for case in CONVS if ours(conv_out, *case) is not None]
    assert len(legal) > 2000
    for pair in paired(legal):
        expected = torch_conv(*pair)
        assert expected is not None, pair
        assert conv_out(*pair) == expected, pair
        assert tuple(conv_out(*(value[side] for value in pair)) for side in (0, 1)) == expected, pair


def test_conv_transpose_out_is_what_torch_gives_on_a_dense_grid():
    legal = [case for case in TRANSPOSED if ours(conv_transpose_out, *case) is not None]
    assert len(legal) > 2000
    for pair in paired(legal):
        expected = torch_conv_transpose(*pair)
        assert expected is not None, pair
        assert conv_transpose_out(*pair) == expected, pair
        assert tuple(conv_transpose_out(*(value[side] for value in pair)) for side in (0, 1)) == expected


def test_torch_refuses_what_conv_out_refuses():
    edge = list(product((0, 1, 3), (0, 1, 4), (-1, 0, 2), (-1, 0, 1), (0, 1, 2)))
    refused = [case for case in edge + CONVS[::7] if ours(conv_out, *case) is None]
    assert len(refused) > 200
    for case in refused:
        assert torch_conv(*((value, value) for value in case)) is None, case


def test_torch_refuses_what_conv_transpose_out_refuses():
    edge = list(product((0, 1, 3), (0, 1, 4), (-1, 0, 2), (-1, 0, 3), (-1, 0, 2), (0, 1, 2)))
    refused = [case for case in edge + TRANSPOSED[::7] if ours(conv_transpose_out, *case) is None]
    assert len(refused) > 200
    for case in refused:
        assert torch_conv_transpose(*((value, value) for value in case)) is None, case


def test_output_padding_brings_every_input_size_of_a_convolution_back():
    for size, kernel, stride, padding, dilation in CONVS:
        small = ours(conv_out, size, kernel, stride, padding, dilation)
        if small is not None:
            lost = (size + 2 * padding - dilation * (kernel - 1) - 1) % stride
            assert conv_transpose_out(small, kernel, stride, padding, lost, dilation) == size


def test_as_many_input_sizes_share_one_output_as_the_stride():
    assert [conv_out(size, 4, 3, 1) for size in range(11, 18)] == [4, 4, 4, 5, 5, 5, 6]


def test_worked_examples():
    assert conv_out(64, 4, 2, 1) == 32
    assert conv_out(28, 5, 1, 2) == 28
    assert conv_out(7, 3, dilation=2) == 3
    assert conv_transpose_out(16, 4, 2, 1) == 32
    assert conv_transpose_out(1, 4) == 4
    assert conv_transpose_out(16, 5, 2, 2, output_padding=1) == 32


def test_an_int_stands_for_both_sides_of_a_pair():
    assert conv_out((64, 28), 4, 2, 1) == (32, 14)
    assert conv_out((64, 28), (4, 7), (2, 1), (1, 0)) == (32, 22)
    assert conv_transpose_out((16, 7), (4, 3), 2, 1, (0, 1)) == (32, 14)
    assert conv_out(torch.Size([64, 28]), [4, 4], 2, 1) == (32, 14)


def test_numpy_integers_are_integers():
    assert conv_out(np.int64(64), np.int32(4), 2, 1) == 32


@pytest.mark.parametrize(
    ("rule", "values", "words"),
    [
        (conv_out, {"size": 0, "kernel": 1}, ["size", "0"]),
        (conv_out, {"size": 8, "kernel": 0}, ["kernel", "0"]),
        (conv_out, {"size": 8, "kernel": 3, "stride": 0}, ["stride", "0"]),
        (conv_out, {"size": 8, "kernel": 3, "padding": -2}, ["padding", "-2"]),
        (conv_out, {"size": 8, "kernel": 3, "dilation": 0}, ["dilation", "0"]),
        (conv_out, {"size": 8, "kernel": 2.5}, ["kernel", "2.5"]),
        (conv_out, {"size": 8, "kernel": True}, ["kernel", "True"]),
        (conv_out, {"size": "8", "kernel": 3}, ["size", "'8'"]),
        (conv_out, {"size": 3, "kernel": 7, "padding": 1}, ["kernel 7", "spans 7", "size 3", "has 5"]),
        (conv_out, {"size": 5, "kernel": 3, "dilation": 3}, ["spans 7", "has 5"]),
        (conv_out, {"size": (8, 8, 8), "kernel": 3}, ["(8, 8, 8)"]),
        (conv_transpose_out, {"size": 4, "kernel": 4, "output_padding": -1}, ["output_padding", "-1"]),
        (
            conv_transpose_out,
            {"size": 4, "kernel": 4, "stride": 2, "output_padding": 2},
            ["output_padding 2", "stride 2", "dilation 1"],
        ),
        (conv_transpose_out, {"size": 1, "kernel": 3, "padding": 2}, ["nothing is left", "-1 pixels"]),
    ],
)
def test_a_refusal_names_the_value(rule, values, words):
    with pytest.raises(ValueError, match=".") as caught:
        rule(**values)
    assert all(word in str(caught.value) for word in words), caught.value


def chain(*rows):
    return [dict(zip(("kernel", "stride", "padding"), row, strict=True)) for row in rows]


DOUBLE = (4, 2, 1)  # also halves, as a convolution


@pytest.mark.parametrize(
    ("layers", "transposed", "sizes"),
    [
        pytest.param(chain((7, 1, 0), (5, 1, 2), DOUBLE, DOUBLE), True, [1, 7, 7, 14, 28], id="Flux G"),
        pytest.param(chain(DOUBLE, DOUBLE, (7, 1, 0)), False, [28, 14, 7, 1], id="Flux D"),
        pytest.param(chain((4, 1, 0), *[DOUBLE] * 4), True, [1, 4, 8, 16, 32, 64], id="CelebA and d2l G"),
        pytest.param(chain(*[DOUBLE] * 4, (4, 1, 0)), False, [64, 32, 16, 8, 4, 1], id="d2l D"),
        pytest.param(
            chain((4, 2, 0), (4, 2, 0), (4, 1, 0), (4, 2, 0), (4, 2, 0)),
            False,
            [64, 31, 14, 11, 4, 1],
            id="CelebA D",
        ),
        pytest.param(chain((4, 1, 0), *[(4, 2, 0)] * 4), True, [1, 4, 10, 22, 46, 94], id="Keras as written"),
        pytest.param(chain((4, 1, 0), (5, 2, 0), (8, 2, 0)), True, [1, 4, 11, 28], id="Keras experiment"),
        pytest.param(chain((4, 2, 0), (4, 2, 0)), False, [28, 13, 5], id="Keras D, valid"),
    ],
)
def test_chains_of_the_source_tutorials(layers, transposed, sizes):
    assert feature_sizes(sizes[0], layers, transposed=transposed) == sizes
    as_attributes = [SimpleNamespace(**layer) for layer in layers]
    assert feature_sizes(sizes[0], iter(as_attributes), transposed=transposed) == sizes


def test_four_five_eight_are_kernels_that_lead_from_1_to_28():
    found = [
        kernels
        for kernels in product(range(1, 9), repeat=3)
        if feature_sizes(1, chain(*zip(kernels, (1, 2, 2), (0, 0, 0), strict=True)), transposed=True)[1::2]
        == [4, 28]
    ]
    assert (4, 5, 8) in found
    assert len(found) > 1


def test_feature_sizes_takes_the_layers_of_a_model_and_pairs():
    layers = [Layer(8, kernel=5, padding=2, output_padding=1)] * 2
    assert feature_sizes(7, layers, transposed=True) == [7, 14, 28]
    assert feature_sizes((28, 20), [Layer(8), Layer(8)]) == [(28, 20), (14, 10), (7, 5)]
    assert feature_sizes(28, []) == [28]


def test_feature_sizes_knows_dilation():
    assert feature_sizes(9, [{"kernel": 3, "dilation": 2}, {"kernel": 3}]) == [9, 5, 3]
    assert feature_sizes(3, [{"kernel": 3, "dilation": 2}], transposed=True) == [3, 7]


def test_an_illegal_chain_names_the_layer():
    with pytest.raises(ValueError, match=r"layer 3, after sizes \[28, 14, 7\].*kernel 9"):
        feature_sizes(28, chain(DOUBLE, DOUBLE, (9, 1, 0)))
    with pytest.raises(ValueError, match="layer 2 has no kernel"):
        feature_sizes(28, [{"kernel": 4}, {"stride": 2}])
    with pytest.raises(ValueError, match="layer 1 has output_padding"):
        feature_sizes(28, [{"kernel": 4, "output_padding": 1}])


def test_a_misspelt_option_of_a_layer_is_refused():
    with pytest.raises(ValueError, match="strides"):
        feature_sizes(28, [{"kernel": 4, "strides": 2}])
