"""The benchmark of single layers: what it counts, and what is stored."""

import layers as benchmark
import pytest
import torch
from torch import nn

from dcganlib import runs


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(2, 3, 4, 2, 1), 8),
        (nn.Conv2d(1, 2, 5, 2, 2), 7),
        (nn.ConvTranspose2d(3, 2, 4, 2, 1), 4),
        (nn.ConvTranspose2d(2, 1, 5, 1, 2), 7),
        (nn.ConvTranspose2d(2, 1, 7), 1),
    ],
)
def test_useful_products_are_those_with_a_pixel_of_both_maps(layer, size):
    """With ones for maps, weights and no bias, the sum of the output counts them one by one."""
    with torch.no_grad():
        layer.weight.fill_(1)
        layer.bias.zero_()
        found = layer(torch.ones(1, layer.in_channels, size, size))
    assert benchmark.useful_products(layer, size, found.shape[-1]) == found.sum()


def test_a_layer_of_d_is_used_three_times_in_a_step():
    assert benchmark.of_a_step("G", (1.0, 10.0, 100.0)) == 11
    assert benchmark.of_a_step("D", (1.0, 10.0, 100.0)) == 3 + 20 + 100


def test_the_stored_table_has_every_layer_of_both_pairs():
    stored = runs.results("layers")
    rows = [row for row in stored["rows"] if row["way"] == "ours" and row["precision"] == "float32"]
    assert [(row["pair"], row["layer"]) for row in rows] == [
        (pair, f"{player}{place}")
        for pair, counts in (("28px", (4, 3)), ("64px", (5, 5)))
        for player, count in zip("GD", counts, strict=True)
        for place in range(1, count + 1)
    ]
    assert len(benchmark.table(stored["rows"]).splitlines()) >= len(rows)
