"""Coverage beyond ten classes: modes of stacked digits, and the birthday-paradox test.

A generator that draws good images may draw few different ones. On a dataset whose modes are known they can be
counted. Elsewhere, the sample size at which the first duplicate appears tells how many different images there
are to draw from.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from dcganlib.datasets import check_tensor
from dcganlib.evaluation import classifier, metrics
from dcganlib.runtime.checks import check_integers


@dataclass(frozen=True)
class ModeCoverage:
    """How samples are spread over a known number of modes.

    Attributes:
        modes: Number of modes with at least one sample.
        kl: Kullback-Leibler divergence of the samples' distribution over the modes from the uniform one, in
            nats: 0 if all modes are equally frequent, the logarithm of their number if one mode has all.
    """

    modes: int
    kl: float


@dataclass(frozen=True)
class BirthdayTest:
    """How soon samples repeat.

    Attributes:
        first_duplicates: For each repeat the smallest number of samples that contains a duplicate, or None if
            all its samples differ.
        pairs: Number of pairs that were compared up to there, in all repeats.
        sample_size: Median of ``first_duplicates``, the sample size at which a duplicate is as likely as not;
            None if at least half of the repeats have no duplicate.
        support: Estimated number of different images, ``pairs`` per duplicate; infinite if there is none.
    """

    first_duplicates: tuple[int | None, ...]
    pairs: int
    sample_size: float | None
    support: float


def stacked_labels(digits: classifier.Classifier, images: Tensor) -> Tensor:
    """Read the number that three stacked digits form: 100 red + 10 green + blue.

    Args:
        digits: A classifier of grey digits, such as ``classifier.load("mnist")``.
        images: uint8, or floats in [-1, 1], of shape (N, 3, H, W).

    Returns:
        int64 of shape (N,), from 0 to 999, on the classifier's device.

    Raises:
        ValueError: The images do not have three channels, or not the classifier's size.

    Source:
        Metz et al. 2017, section 3.3.1.
    """
    check_tensor(images)
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (N, 3, H, W), got {tuple(images.shape)}")
    red, green, blue = (classifier.predict(digits, channel) for channel in images.split(1, dim=1))
    return 100 * red + 10 * green + blue


def count_modes(labels: Tensor, num_modes: int = 1000) -> ModeCoverage:
    """Count the modes among samples, and measure how far they are from equally frequent.

    Even N samples of equally frequent modes have a divergence of about ``(num_modes - 1) / (2 N)``, and miss
    each mode with probability ``(1 - 1 / num_modes) ** N``.

    Args:
        labels: int64 of shape (N,): the mode of each sample, from 0 to ``num_modes`` - 1.
        num_modes: Number of modes there are.

    Raises:
        ValueError: There are no samples, or a label is out of range.

    Source:
        Metz et al. 2017, section 3.3.1; Lin et al. 2018.
    """
    counts = metrics.class_histogram(labels, num_modes)
    shares = counts[counts > 0].cpu().double() / counts.sum().item()
    kl = (shares * (shares * num_modes).log()).sum().item()
    return ModeCoverage(len(shares), max(kl, 0.0))  # rounding may leave it below 0


def duplicate_threshold(real: Tensor) -> float:
    """Distance up to which two images count as the same: the smallest distance between two real images.

    Different real images are never nearer than this, so what is nearer looks more alike than any two of them.
    More real images give a smaller threshold, and so a stricter test.

    Args:
        real: Features or images of shape (N, ...), bytes or floats, all of different scenes.

    Returns:
        The distance; 0 if two of the images are equal, so that only copies count.

    Raises:
        ValueError: There are fewer than two images, or they are not finite.
    """
    return metrics.nearest(real, real, skip_self=True).distances.min().item()


def birthday_test(
    draw: Callable[[int], Tensor], threshold: float, *, sample_size: int = 2000, repeats: int = 10
) -> BirthdayTest:
    """Estimate how many different images a generator draws from the first duplicate among its samples.

    Among N equally likely images, the smallest sample with a duplicate contains exactly N pairs on average.
    So the number of pairs per duplicate estimates N, with a relative standard error of about one over the
    square root of the number of duplicates. If no duplicate is found, N is above a third of the pairs with
    95% confidence.

    The images need not be equally likely. If image i has probability p_i and none dominates, the test
    estimates about ``1 / sum(p_i ** 2)``: the number of equally likely images that would repeat as often. So
    it is a lower bound of the support. A continuous generator never repeats exactly; then the test counts
    images that the threshold can tell apart, and estimates at different thresholds cannot be compared.

    Args:
        draw: Takes a number, returns as many new samples, as features or images of shape (n, ...).
        threshold: Largest distance of duplicates, such as from ``duplicate_threshold``.
        sample_size: Samples per repeat, at least 2.
        repeats: Number of samples.

    Returns:
        The first duplicates and the estimate.

    Raises:
        ValueError: A number is out of range, or ``draw`` returns another number of samples.

    Source:
        Arora et al. 2018, which estimates the support by the square of the sample size; a person
        confirms each duplicate there.
    """
    check_integers(2, sample_size=sample_size)
    check_integers(repeats=repeats)
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be at least 0 and finite, got {threshold}")
    found: list[int | None] = []
    for _ in range(repeats):
        samples = draw(sample_size)
        if len(samples) != sample_size:
            raise ValueError(f"draw must return {sample_size} samples, got {len(samples)}")
        found.append(_first_duplicate(samples, threshold))
    ends = [sample_size if end is None else end for end in found]
    pairs = sum(end * (end - 1) // 2 for end in ends)
    duplicates = sum(end is not None for end in found)
    middle = median(math.inf if end is None else end for end in found)
    return BirthdayTest(
        tuple(found),
        pairs,
        middle if middle < math.inf else None,
        pairs / duplicates if duplicates else math.inf,
    )


def _first_duplicate(samples: Tensor, threshold: float) -> int | None:
    """Smallest number of samples, in their order, of which two are at most ``threshold`` apart."""

    def has_duplicate(size: int) -> bool:
        return duplicate_threshold(samples[:size]) <= threshold

    end = bisect_left(range(len(samples) + 1), True, lo=2, key=has_duplicate)
    return end if end <= len(samples) else None
