"""The benchmark of the landscapes: what counts as near, and what is stored."""

import landscapes as benchmark
import numpy as np
import pytest
import torch
from PIL import Image

from dcganlib import runs
from dcganlib.datasets.landscapes import SQUARES
from dcganlib.evaluation import evaluate
from dcganlib.latents import sample_z


@pytest.fixture
def known():
    """Three photographs of 40 squares each, of noise."""
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3 * SQUARES, 3, 8, 8), generator=rng, dtype=torch.uint8)


def noise(count, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=rng, dtype=torch.uint8)


def test_mirrored_copies_of_two_photographs_are_copies_of_two(known):
    chosen = torch.tensor([3, 3 + 2 * SQUARES, 5])
    fakes = known[chosen].flip(-1)
    measures, nearest = benchmark.compare(fakes, known, noise(50, 1))
    assert measures == {"ratio": 0.0, "share": 1.0, "photographs": 2, "of": 3}
    assert torch.equal(nearest, fakes)


def test_new_images_of_the_same_kind_are_as_near_as_held_out_ones(known):
    measures, _ = benchmark.compare(noise(400, 2), known, noise(400, 3))
    assert measures["ratio"] == pytest.approx(1, abs=0.01)
    assert measures["share"] < 0.04
    assert measures["photographs"] == 3


def test_a_row_of_the_picture_holds_a_row_of_images(known):
    made = benchmark.picture(known[:4], known[4:8], known[8:12])
    assert made.size == (4 * 10 + 2, 3 * 10 + 2)
    left, top = 2 + 10, 2 + 2 * 10
    pixels = torch.from_numpy(np.array(made.crop((left, top, left + 8, top + 8))))
    assert torch.equal(pixels.permute(2, 0, 1), known[9])


def test_what_is_stored_belongs_to_the_stored_run():
    stored = runs.results("landscapes")["measures"]
    z = sample_z(benchmark.SAMPLES, rng=torch.Generator().manual_seed(0))[: benchmark.SHOWN]
    drawn = benchmark.picture(evaluate.draw(runs.read("landscapes").ema_generator, z))
    assert stored["of"] == 123
    assert 0.8 < stored["ratio"] < 1.5
    assert 0 <= stored["share"] < 0.05
    with Image.open(benchmark.PICTURE) as picture:
        assert picture.size == (benchmark.SHOWN * 66 + 2, 3 * 66 + 2)
        middle = picture.convert("RGB").crop((0, 66, picture.width, 66 + drawn.height))
    difference = np.asarray(middle, dtype=int) - np.asarray(drawn, dtype=int)
    assert abs(difference).mean() < 8
