"""Measures of sample quality: distances between two sets of features, coverage and memorization.

Each measure compares rows of numbers: features of images (see ``extract``), or raw images, which are
flattened. Distances are computed in blocks, so memory grows with the sets, not with their product. Between
bytes they are exact, because float32 adds up to 1,024 products of whole numbers from -128 to 127 without
rounding; other types use float64. None of these numbers is an "FID": that name is reserved for the features
of one Inception network, and values from other features cannot be compared with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from dcganlib import datasets, models

BLOCK_ROWS, BLOCK_COLUMNS = 512, 2048  # of a block of distances, which fits into the cache
MAX_BLOCK_INPUTS = 2**24  # numbers in the rows from which a block is computed: 128 MB in float64
MAX_EXACT_TERMS = 1024  # products of bytes that float32 adds up without rounding: 1024 * 128**2 = 2**24


@dataclass(frozen=True)
class OneNNAccuracy:
    """Leave-one-out accuracy of a 1-nearest-neighbour classifier that separates real from fake samples.

    0.5 is ideal. At 1 the two sets lie apart; at 0 each fake sample is a copy of a real one.

    Attributes:
        accuracy: Share of all samples whose nearest other sample belongs to the same set.
        on_real, on_fake: The same share among the real samples, and among the fake ones.
    """

    accuracy: float
    on_real: float
    on_fake: float


@dataclass(frozen=True)
class Nearest:
    """The nearest reference of each query.

    Attributes:
        distances: float64 of shape (N,), Euclidean.
        indices: int64 of shape (N,), into the references; the first of those equally near.
    """

    distances: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Memorization:
    """Whether samples lie nearer to the training set than held-out images do.

    Attributes:
        ratio: Median distance of the samples to their nearest training image over that of the held-out
            images; about 1 for new images of the same kind, 0 for copies.
        share: Share of the samples that lie as near to a training image as the nearest 1% of the held-out
            images do; about 0.01 for new images of the same kind, 1 for copies.
    """

    ratio: float
    share: float


@torch.no_grad()
def extract(classifier: nn.Module, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """Compute a network's features of images.

    Args:
        classifier: A network with a method ``features``, such as one from ``classifier.load``. It runs in
            eval mode; its mode is restored.
        images: uint8, or float32 in [-1, 1], of shape (N, C, H, W), on any device.
        batch_size: Images per batch.

    Returns:
        float32 of shape (N, D), on the classifier's device.

    Raises:
        ValueError: The images are no tensor, there are none, or ``batch_size`` is below 1.
    """
    datasets.check_tensor(images)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(images) == 0:
        raise ValueError("there are no images in the dataset")
    device = next(classifier.parameters()).device
    was_training = classifier.training
    classifier.eval()
    try:
        features = cast("Callable[[Tensor], Tensor]", classifier.features)

        def features_of(rows: slice) -> Tensor:
            batch = images[rows].to(device)
            return features(datasets.to_float(batch) if batch.dtype == torch.uint8 else batch).float()

        return map_batches(features_of, len(images), batch_size)
    finally:
        classifier.train(was_training)


def map_batches(function: Callable[[slice], Tensor], count: int, batch_size: int) -> Tensor:
    """Apply a function to ``count`` rows in batches, and join the results without a second copy of them.

    Args:
        function: Takes the slice of a batch; returns one row for each of the batch's rows.
        count: Number of rows, at least 1.
        batch_size: Rows per batch.

    Returns:
        All result rows, in order.
    """
    for batch in _slices(count, batch_size):
        rows = function(batch)
        if batch.start == 0:
            joined = rows.new_empty(count, *rows.shape[1:])
        joined[batch] = rows
    return joined


def draw(
    generator: models.Generator, z: Tensor, labels: Tensor | None = None, *, batch_size: int = 100
) -> Tensor:
    """Generate many images in batches, as ``models.generate`` does.

    Args:
        generator: On any device, in any mode.
        z: Latents of shape (N, latent_dim).
        labels: int64 of shape (N,), for a conditional generator.
        batch_size: Images per batch.

    Returns:
        float32 of shape (N, C, H, W) in [-1, 1], on the generator's device.

    Raises:
        ValueError: As in ``models.generate``.
    """

    def generate(rows: slice) -> Tensor:
        return models.generate(generator, z[rows], None if labels is None else labels[rows])

    return map_batches(generate, len(z), batch_size)


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance between the normal distributions that have the sets' means and covariances.

    It depends on the feature network and on the sample sizes: fewer samples give a larger distance. Compare
    only distances between sets of equal size, on the same features.

    Args:
        real: Features of shape (N, D), at least 2.
        fake: Features of shape (M, D), at least 2.

    Returns:
        ``|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2))``, at least 0.

    Raises:
        ValueError: A set is too small or not finite, or their widths differ.

    Source:
        Heusel et al. 2017, equation 6; computed by torchmetrics.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # here, because it takes seconds to import

    real, fake = _pair(2, real=real, fake=fake)
    identity = _Identity(real.shape[1])
    centre = real.mean(0, dtype=torch.float64).cpu()  # shifting both sets changes nothing, and keeps digits
    with torch.device("cpu"):  # whatever the default is
        metric = FrechetInceptionDistance(feature=identity)
        for rows, is_real in ((real, True), (fake, False)):
            for part in rows.split(10_000):
                metric.update(part.double().cpu() - centre, real=is_real)
        return max(metric.compute().item(), 0.0)  # rounding may leave it below 0


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    *,
    subsets: int = 50,
    subset_size: int = 1000,
    rng: torch.Generator | None = None,
) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, a mean over random subsets.

    The estimate is unbiased: for two samples of the same distribution it is 0 on average at any sample size,
    so it is often slightly negative.

    Args:
        real: Features of shape (N, D).
        fake: Features of shape (M, D).
        subsets: Number of pairs of subsets.
        subset_size: Samples per subset, from 2 to the size of the smaller set.
        rng: Random source of the subsets, on the CPU; torch's global one by default.

    Returns:
        The mean over the subsets.

    Raises:
        ValueError: A number is out of range, a set is too small or not finite, or their widths differ.

    Source:
        Bińkowski et al. 2018, section 4; computed by torchmetrics.
    """
    from torchmetrics.image.kid import KernelInceptionDistance  # here, because it takes seconds to import

    real, fake = _pair(2, real=real, fake=fake)
    if subsets < 1:
        raise ValueError(f"subsets must be at least 1, got {subsets}")
    fewer = min(len(real), len(fake))
    if not 2 <= subset_size <= fewer:
        raise ValueError(f"subset_size must be from 2 to {fewer}, the smaller set's size, got {subset_size}")
    seed = int(torch.randint(2**62, (), generator=rng, device="cpu"))
    # torchmetrics draws the subsets from the global source, on the default device.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
            metric = KernelInceptionDistance(nn.Identity(), subsets=subsets, subset_size=subset_size)
        metric.update(real.double().cpu(), real=True)
        metric.update(fake.double().cpu(), real=False)
        torch.default_generator.manual_seed(seed)
        return metric.compute()[0].item()


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3) -> tuple[float, float]:
    """Share of fakes that look real (precision), and share of the real samples that fakes cover (recall).

    The manifold of a set is estimated by balls: one around each of its samples, which reaches to that
    sample's k-th nearest neighbour in the set.

    Args:
        real: Features of shape (N, D), N above k.
        fake: Features of shape (M, D), M above k.
        k: Which neighbour sets the radius of a ball.

    Returns:
        (precision, recall): the share of fakes within the manifold of the real samples, and the share of
        real samples within the manifold of the fakes.

    Raises:
        ValueError: A set has no more than k samples or is not finite, k is below 1, or the widths differ.

    Source:
        Kynkäänniemi et al. 2019, section 2.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    real, fake = _pair(k + 1, real=real, fake=fake)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    inside_fake = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    inside_real = torch.zeros(len(fake), dtype=torch.bool, device=real.device)
    for rows, columns, squared in _blocks(real, fake):
        inside_fake[rows] |= (squared <= fake_radii[columns]).any(1)
        inside_real[columns] |= (squared <= real_radii[rows, None]).any(0)
    return inside_real.double().mean().item(), inside_fake.double().mean().item()


def one_nn_accuracy(real: Tensor, fake: Tensor) -> OneNNAccuracy:
    """Two-sample test: classify each sample as real or fake by its nearest other sample.

    Args:
        real: Features of shape (N, D), N at least 2.
        fake: Features of shape (N, D). With sets of different size, 0.5 would not be ideal.

    Returns:
        The accuracies. Among equally near neighbours the first counts, real before fake.

    Raises:
        ValueError: The sets differ in size or width, are too small, or are not finite.

    Source:
        Lopez-Paz and Oquab 2017, section 3; Xu et al. 2018, section 2.
    """
    real, fake = _pair(2, real=real, fake=fake)
    if len(real) != len(fake):
        raise ValueError(f"real and fake must be equally many, got {len(real)} and {len(fake)}")
    pool = torch.cat([real, fake])
    predicted_fake = nearest(pool, pool, skip_self=True).indices >= len(real)
    on_real = 1 - predicted_fake[: len(real)].double().mean().item()
    on_fake = predicted_fake[len(real) :].double().mean().item()
    return OneNNAccuracy((on_real + on_fake) / 2, on_real, on_fake)


def class_histogram(labels: Tensor, num_classes: int) -> Tensor:
    """Count the samples of each class.

    Args:
        labels: int64 of shape (N,), from 0 to ``num_classes`` - 1.
        num_classes: Number of classes.

    Returns:
        int64 of shape (num_classes,).

    Raises:
        ValueError: A label is out of range, or there are none.
    """
    if labels.numel() == 0 or not 0 <= labels.min() <= labels.max() < num_classes:
        actual = f"from {labels.min()} to {labels.max()}" if labels.numel() else "none"
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {actual}")
    return torch.bincount(labels.flatten(), minlength=num_classes)


def missing_classes(counts: Tensor) -> list[int]:
    """Classes without a sample, given the counts of all classes."""
    return (counts == 0).nonzero().flatten().tolist()


def chi2_distance(counts: Tensor, expected: Tensor) -> float:
    """Symmetric chi-squared distance between two histograms, each normalised to shares p and q.

    Args:
        counts: Shape (num_classes,), none below 0.
        expected: Shape (num_classes,), none below 0.

    Returns:
        Half the sum of (p - q)^2 / (p + q): 0 for equal shares, 1 if no class occurs in both.

    Raises:
        ValueError: The lengths differ, a count is below 0, or a histogram is empty.
    """
    if counts.shape != expected.shape or counts.dim() != 1:
        raise ValueError(
            f"histograms must have the same length, got {tuple(counts.shape)} and {tuple(expected.shape)}"
        )
    for values in (counts, expected):
        if (values < 0).any() or not 0 < values.sum() < torch.inf:
            raise ValueError(f"a histogram needs counts of at least 0, not all 0, got {values.tolist()}")
    p, q = (values.cpu().double() for values in (counts, expected))  # MPS has no float64
    p, q = p / p.sum(), q / q.sum()
    both = p + q
    return ((p - q).square() / torch.where(both > 0, both, 1)).sum().item() / 2


def nearest(queries: Tensor, references: Tensor, *, skip_self: bool = False) -> Nearest:
    """Find the nearest reference of each query.

    Args:
        queries: Shape (N, ...), bytes or floats; flattened.
        references: Shape (M, ...), of the same kind.
        skip_self: ``queries`` and ``references`` are the same set; no row counts as its own neighbour.

    Returns:
        Distances and indices. The distance of a copy is exactly 0.

    Raises:
        ValueError: There are none, they are not finite, or they differ in width or kind.
    """
    search = NearestNeighbour(queries)
    references = _rows(1 + skip_self, references=references)
    search._update(references, torch.arange(len(references), device=references.device), skip_self)
    return Nearest(search.distances, search.labels)


def memorization(fake: Tensor, train: Tensor, held_out: Tensor) -> Memorization:
    """Compare how near samples and held-out images lie to the training set.

    Args:
        fake: Images or features of the samples, shape (N, ...).
        train: The same of the training images, shape (M, ...).
        held_out: The same of real images that were not trained on, shape (K, ...).

    Returns:
        The comparison, see ``compare_distances``.

    Raises:
        ValueError: As ``nearest`` does.
    """
    return compare_distances(nearest(fake, train).distances, nearest(held_out, train).distances)


def compare_distances(fake: Tensor, held_out: Tensor) -> Memorization:
    """Compare distances to the nearest training image, of samples and of held-out images.

    Args:
        fake: Distances of the samples, shape (N,).
        held_out: Distances of the held-out images, shape (K,).

    Returns:
        Ratio and share. If at least half of the held-out images are in the training set too, the ratio is
        infinite, or 1 if at least half of the samples are there as well.

    Raises:
        ValueError: There are none.
    """
    for name, values in (("fake", fake), ("held_out", held_out)):
        if values.numel() == 0:
            raise ValueError(f"{name} must be at least 1, got 0")
    fake_median, real_median = fake.median().item(), held_out.median().item()
    ratio = fake_median / real_median if real_median else (1.0 if fake_median == 0 else torch.inf)
    threshold = held_out.sort().values[(len(held_out) - 1) // 100]
    return Memorization(ratio, (fake <= threshold).cpu().double().mean().item())


class NearestNeighbour:
    """The nearest reference of each query, for references that arrive in batches and are not kept.

    Args:
        queries: Shape (N, ...), bytes or floats; flattened.

    Attributes:
        labels: int64 of shape (N,), the label of the nearest reference so far; -1 before there is any.

    Raises:
        ValueError: There are none, or they are not finite.
    """

    @torch.inference_mode(False)  # so that it can be updated in another mode than it was made in
    def __init__(self, queries: Tensor) -> None:
        self._queries = _rows(1, queries=queries)
        shape, device = self._queries.shape[:1], self._queries.device
        self._squared = torch.full(shape, torch.inf, dtype=torch.float64, device=device)
        self.labels = torch.full(shape, -1, dtype=torch.int64, device=device)

    @property
    def distances(self) -> Tensor:
        """Euclidean distances to the nearest reference so far, float64 of shape (N,)."""
        return self._squared.sqrt()

    def update(self, references: Tensor, labels: Tensor) -> None:
        """Compare the queries with more references.

        Args:
            references: Shape (M, ...), of the same kind as the queries.
            labels: int64 of shape (M,).

        Raises:
            ValueError: There are none, they are not finite, or they differ in width, kind or number.
        """
        references = _rows(1, references=references)
        if labels.shape != (len(references),):
            raise ValueError(f"labels must have shape ({len(references)},), got {tuple(labels.shape)}")
        self._update(references, labels, skip_self=False)

    def error(self, true_labels: Tensor) -> float:
        """Share of the queries whose nearest reference has another label than they.

        Args:
            true_labels: int64 of shape (N,).

        Raises:
            ValueError: The labels are not as many as the queries.
        """
        if true_labels.shape != self.labels.shape:
            raise ValueError(
                f"true_labels must have shape ({len(self.labels)},), got {tuple(true_labels.shape)}"
            )
        return (self.labels != true_labels.to(self.labels.device)).double().mean().item()

    def _update(self, references: Tensor, labels: Tensor, skip_self: bool) -> None:
        _check_alike(queries=self._queries, references=references)
        references, labels = references.to(self._queries.device), labels.to(self._queries.device)
        for rows, columns, squared in _blocks(self._queries, references):
            if skip_self:
                squared.diagonal(rows.start - columns.start).fill_(torch.inf)
            chosen = squared.argmin(1)
            exact = squared.gather(1, chosen[:, None])[:, 0]
            if (
                self._queries.dtype != torch.uint8
            ):  # rounding of the product would give copies a distance above 0
                pairs = self._queries[rows].double() - references[columns][chosen].double()
                exact = torch.where(exact == torch.inf, exact, pairs.square().sum(1))
            nearer = exact < self._squared[rows]
            self._squared[rows] = torch.where(nearer, exact, self._squared[rows])
            self.labels[rows] = torch.where(nearer, labels[columns][chosen], self.labels[rows])


class _Identity(nn.Identity):
    """A feature network for torchmetrics whose features are its input."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _radii(rows: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th nearest other row."""
    smallest = torch.full((len(rows), k + 1), torch.inf, dtype=torch.float64, device=rows.device)
    for block, _, squared in _blocks(rows, rows):  # each row is its own neighbour too, at 0
        candidates = torch.cat(
            [smallest[block], squared.topk(min(k + 1, squared.shape[1]), largest=False)[0]], 1
        )
        smallest[block] = candidates.topk(k + 1, largest=False)[0]
    return smallest.max(1).values


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the squared distances between the rows of two sets in blocks, float64: (rows, columns, block)."""
    block_distances: Callable[[Tensor, Tensor], Tensor] = _squared_bytes
    if a.is_floating_point():
        block_distances = partial(_squared_floats, centre=a.mean(0, keepdim=True, dtype=torch.float64))
    height, width = (
        max(1, min(most, MAX_BLOCK_INPUTS // a.shape[1])) for most in (BLOCK_ROWS, BLOCK_COLUMNS)
    )
    for rows in _slices(len(a), height):
        for columns in _slices(len(b), width):
            yield rows, columns, block_distances(a[rows], b[columns])


def _squared_bytes(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.float() - 128, b.float() - 128  # whole numbers, as are all results below
    squared = a.double().square().sum(1)[:, None] + b.double().square().sum(1)
    with torch.autocast(a.device.type, enabled=False):  # which would round the products
        for part in _slices(a.shape[1], MAX_EXACT_TERMS):
            squared.sub_(a[:, part] @ b[:, part].T, alpha=2)
    return squared


def _squared_floats(a: Tensor, b: Tensor, centre: Tensor) -> Tensor:
    """|a|^2 + |b|^2 - 2 a.b as one product, with the squares as two more columns.

    The squares are reduced by more than the rounding error, and negative results are set to 0. So copies have
    a distance of 0, and lie within a ball of radius 0.
    """
    a, b = a.double() - centre, b.double() - centre  # numbers near 0 have more digits
    a_squares, b_squares = (rows.square().sum(1, keepdim=True).mul_(1 - 1e-13) for rows in (a, b))
    left = torch.cat([a, a_squares, torch.ones_like(a_squares)], 1)
    right = torch.cat([-2 * b, torch.ones_like(b_squares), b_squares], 1)
    return (left @ right.T).clamp_(min=0)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, length, step))


def _pair(least: int, **sets: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets as checked rows on one device."""
    first, second = (_rows(least, **{name: rows}) for name, rows in sets.items())
    _check_alike(**dict(zip(sets, (first, second), strict=True)))
    return first, second.to(first.device)


def _rows(least: int, **named: Tensor) -> Tensor:
    """A set as rows of numbers; a set that is too small or not finite is refused."""
    ((name, values),) = named.items()
    if values.dim() < 2 or len(values) < least or values.numel() == 0:
        raise ValueError(
            f"{name} must have shape (N, D) with N of at least {least}, got {tuple(values.shape)}"
        )
    if values.dtype != torch.uint8 and not values.is_floating_point():
        raise ValueError(f"{name} must be uint8 or floating-point, got {values.dtype}")
    if values.is_floating_point() and not all(end.isfinite() for end in values.aminmax()):
        raise ValueError(f"{name} has {int((~values.isfinite()).sum())} values that are NaN or infinite")
    values = values.cpu() if values.device.type == "mps" else values  # which has no float64
    return values.detach().reshape(len(values), -1)


def _check_alike(**sets: Tensor) -> None:
    """Refuse sets that cannot be compared."""
    (one, first), (other, second) = sets.items()
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{one} and {other} must have rows of the same length, got {first.shape[1]} and {second.shape[1]}"
        )
    if (first.dtype == torch.uint8) != (second.dtype == torch.uint8):
        raise ValueError(
            f"{one} is {first.dtype} and {other} {second.dtype}: give both as bytes or as floats"
        )
