"""The examples of "Add a dataset, a network, a loss", run from the page itself."""

import re
from pathlib import Path

import pytest
import torch

from dcganlib import datasets, models, zoo

PAGE = Path(__file__).parents[1] / "book" / "extending.md"
MOST_LINES, WIDEST = 14, 88


def example(heading):
    """The code of one section of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    return code


def run(heading):
    """Run the code of one section; its names."""
    names = {}
    exec(compile(example(heading), f"{PAGE.name}, {heading}", "exec"), names)
    return names


@pytest.mark.parametrize("heading", ["A dataset", "A network", "A loss"])
def test_an_example_is_short(heading):
    lines = [line for line in example(heading).splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= WIDEST


def test_the_example_of_a_dataset_is_loaded_by_its_name():
    run("A dataset")
    try:
        squares = datasets.load("squares")
        assert squares.images.shape == (1000, 1, 28, 28)
        assert squares.class_names == ("small", "large")
        areas = (squares.images > 0).flatten(1).sum(1)
        assert torch.equal(areas, torch.where(squares.labels == 1, 144, 16))
        few = datasets.load("squares", max_images=100, image_size=16, channels=3)
        assert few.images.shape == (100, 3, 16, 16)
        assert few.labels.bincount().tolist() == [50, 50]
    finally:
        datasets.unregister("squares")


def test_the_example_of_a_network_is_built_by_its_name(monkeypatch):
    monkeypatch.setattr(zoo, "ARCHITECTURES", dict(zoo.ARCHITECTURES))
    run("A network")
    generator, discriminator = zoo.build("small-28", rng=torch.Generator().manual_seed(0))
    images = models.generate(generator, torch.zeros(2, 100))
    assert images.shape == (2, 1, 28, 28)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (2,)
    assert [layer.shape[1] for layer in generator_weights(generator)] == [32, 16, 1]


def generator_weights(generator):
    """The kernels of the transposed convolutions, (in, out, height, width) each."""
    return [module.weight for module in generator.modules() if isinstance(module, torch.nn.ConvTranspose2d)]


def test_the_example_of_a_loss_trains_and_is_least_squares():
    names = run("A loss")
    assert [record.step for record in names["records"]] == list(range(1, 11))
    ones, zeros, twos = torch.ones(4), torch.zeros(4), 2 * torch.ones(4)
    assert names["d_loss"](ones, zeros) == 0  # real at 1 and fake at 0 are ideal for D
    assert names["d_loss"](zeros, ones) == 1
    assert names["g_loss"](ones) == 0  # fake at 1 is ideal for G
    assert names["g_loss"](twos) == names["g_loss"](zeros) == 0.5
    first = names["records"][0]
    assert 0 < first.d_loss < 2
    assert 0 < first.g_loss < 2
