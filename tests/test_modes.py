"""Modes and duplicates on samples whose number of modes, or of different images, is known."""

import math
from statistics import median

import pytest
import torch

from dcganlib import datasets
from dcganlib.evaluation import classifier, metrics, modes

# --- Modes


def test_equally_frequent_modes_have_no_divergence():
    assert modes.count_modes(torch.arange(3000) % 1000) == modes.ModeCoverage(
        1000, pytest.approx(0, abs=1e-12)
    )


def test_one_mode_has_the_logarithm_of_their_number():
    found = modes.count_modes(torch.full((50,), 7), 1000)
    assert found.modes == 1
    assert found.kl == pytest.approx(math.log(1000), rel=1e-12)


def test_the_divergence_is_the_sum_over_the_modes_that_occur():
    counts = torch.tensor([5, 0, 3, 2])
    found = modes.count_modes(torch.arange(4).repeat_interleave(counts), 4)
    assert found.modes == 3
    assert found.kl == pytest.approx(sum(p * math.log(4 * p) for p in (0.5, 0.3, 0.2)), rel=1e-12)


def test_equally_frequent_modes_sampled_at_random_have_the_divergence_of_their_number(rng):
    """About (K - 1) / 2N, as the likelihood-ratio statistic 2N KL is chi-squared with K - 1 degrees."""
    found = modes.count_modes(torch.randint(1000, (26_000,), generator=rng(0)))
    assert found.modes == 1000
    error = 4 * math.sqrt(2 * 999) / 52_000
    assert found.kl == pytest.approx(999 / 52_000, abs=error)


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match="from 0 to 999, got from 3 to 1000"):
        modes.count_modes(torch.tensor([3, 1000]))


def test_a_stacked_image_is_read_channel_by_channel(mnist_mini, rng):
    digits = classifier.load("mnist")
    chosen = torch.randint(len(mnist_mini), (3, 20), generator=rng(0))
    images = torch.cat([mnist_mini.images[row] for row in chosen], 1)
    read = [classifier.predict(digits, mnist_mini.images[row]) for row in chosen]
    found = modes.stacked_labels(digits, images)
    assert found.tolist() == [
        int(f"{r}{g}{b}") for r, g, b in zip(*(row.tolist() for row in read), strict=True)
    ]
    assert torch.equal(modes.stacked_labels(digits, datasets.to_float(images)), found)
    with pytest.raises(ValueError, match=r"shape \(N, 3, H, W\), got \(5000, 1, 28, 28\)"):
        modes.stacked_labels(digits, mnist_mini.images)


# --- Duplicates


def one_of(count, seed=0):
    """A generator that draws one of ``count`` different images, each as likely as any other."""
    rng = torch.Generator().manual_seed(seed)
    return lambda n: torch.randint(count, (n, 1), generator=rng).float()


def test_a_generator_of_100_images_has_a_support_near_100():
    """On average exactly 100; with 100 duplicates the standard error is about 10%."""
    found = modes.birthday_test(one_of(100), 0.5, sample_size=60, repeats=100)
    assert None not in found.first_duplicates
    assert 75 < found.support < 130
    assert found.sample_size == pytest.approx(math.sqrt(2 * math.log(2) * 100), abs=2)  # by the paradox, 12


def test_the_first_duplicate_is_found_at_its_place_in_whatever_order(rng):
    for _ in range(20):
        samples = torch.randint(40, (30, 1), generator=rng(_)).float()
        seen = samples.flatten().tolist()
        expected = next((end for end in range(2, 31) if len(set(seen[:end])) < end), None)
        found = modes.birthday_test(lambda n, rows=samples: rows, 0, sample_size=30, repeats=1)
        assert found.first_duplicates == (expected,)
        ends = expected or 30
        assert found.pairs == ends * (ends - 1) // 2


def test_samples_that_never_repeat_have_an_infinite_support():
    drawn = iter(torch.arange(100.0)[:, None].split(20))
    found = modes.birthday_test(lambda n: next(drawn), 0.5, sample_size=20, repeats=5)
    assert found == modes.BirthdayTest((None,) * 5, 5 * 190, None, math.inf)


def test_images_of_unequal_chance_count_as_many_as_equal_ones_that_repeat_as_often(rng):
    """Half of the samples are one of 50 images, half one of 500: 1 / sum of squares is 182, not 550."""
    source = rng(0)

    def draw(n):
        frequent, rare = (
            torch.randint(low, high, (n, 1), generator=source) for low, high in ((0, 50), (50, 550))
        )
        return torch.where(torch.rand(n, 1, generator=source) < 0.5, frequent, rare).float()

    found = modes.birthday_test(draw, 0, sample_size=80, repeats=100)
    assert 130 < found.support < 260
    assert found.sample_size == median(found.first_duplicates)


def test_the_threshold_decides_what_is_the_same():
    apart = torch.tensor([[0.0], [1.0], [1.5], [9.0]])
    for threshold, expected in ((0.4, None), (0.5, 3), (1, 2)):
        found = modes.birthday_test(lambda n: apart, threshold, sample_size=4, repeats=1)
        assert found.first_duplicates == (expected,), threshold


def test_the_threshold_is_the_smallest_distance_between_real_images(mnist_mini):
    images = mnist_mini.images[::100]
    rows = images.flatten(1).double()
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    assert modes.duplicate_threshold(images) == pytest.approx(distances.min().item(), rel=1e-12)
    assert modes.duplicate_threshold(torch.cat([images, images[:1]])) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": -1}, "threshold must be at least 0 and finite, got -1"),
        ({"threshold": math.nan}, "finite, got nan"),
        ({"sample_size": 1}, "sample_size must be an integer of at least 2, got 1"),
        ({"repeats": 0}, "repeats must be an integer of at least 1, got 0"),
        ({"draw": lambda n: torch.zeros(n - 1, 1)}, "draw must return 2000 samples, got 1999"),
    ],
)
def test_a_test_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        modes.birthday_test(**({"draw": one_of(5), "threshold": 0.5} | options))


def test_real_digits_have_no_duplicate_in_the_features_of_a_classifier(mnist_mini):
    features = metrics.extract(classifier.load("mnist"), mnist_mini.images[::20])
    threshold = modes.duplicate_threshold(features)
    assert 0 < threshold < features.std(0).norm()
    copies = torch.cat([features, features[:1] + threshold / 100])
    found = modes.birthday_test(lambda n: copies, threshold / 2, sample_size=len(copies), repeats=1)
    assert found.first_duplicates == (len(copies),)
