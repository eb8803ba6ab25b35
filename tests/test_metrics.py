"""Numbers for the quality of samples: known answers, brute force, and what each one must not react to."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dcganlib import datasets
from dcganlib.evaluation import metrics

# Squared distances between bytes are exact whole numbers, but a vector library's square root may be off by an
# ulp (at most 2.2e-16 of the value), and differs from one processor to the next.
ONE_ROOT = {"rtol": 1e-15, "atol": 0}


@pytest.fixture(scope="module")
def normal(rng):
    """Draw normal points: ``normal(100, 5, seed=1)``."""

    def make(n, width, *, seed=0):
        return torch.randn(n, width, generator=rng(seed))

    return make


@pytest.fixture(scope="module")
def digits(mnist_mini, rng):
    """700 real digits in a random order, the first 300 for queries and the rest for references."""
    order = torch.randperm(len(mnist_mini), generator=rng(0))[:700]
    images = mnist_mini.images[order]
    return images[:300], images[300:]


def standardised(points):
    """The same points with a mean of exactly 0 and the identity as covariance, as far as float64 can."""
    points = points.double() - points.double().mean(0)
    return points @ torch.linalg.inv(torch.linalg.cholesky(points.T.cov())).T


def all_distances(queries, references):
    """Euclidean distances by the plain difference, in float64: (N, M)."""
    a, b = (x.double().flatten(1).numpy() for x in (queries, references))
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


def in_manifold(points, of, k):
    """Whether each point is in the union of the balls about another set's, one point at a time."""
    within = all_distances(of, of)
    radii = [np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(within)]
    return np.array(
        [any(d <= r for d, r in zip(row, radii, strict=True)) for row in all_distances(points, of)]
    )


# --- Fréchet distance


def test_equal_gaussians_are_at_frechet_distance_0(normal):
    points = normal(400, 6)
    assert metrics.frechet_distance(points, points.flip(0)) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_of_a_shift_is_the_squared_length_of_the_shift(normal):
    points = normal(300, 4)
    shift = torch.tensor([3.0, 0.0, -4.0, 0.5])
    assert metrics.frechet_distance(points, points + shift) == pytest.approx(25.25, abs=1e-4)


def test_the_frechet_distance_of_diagonal_covariances_is_the_closed_form(normal):
    real, fake = standardised(normal(200, 3)), standardised(normal(300, 3, seed=1))
    a, b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 0.0]).double()
    expected = ((a - b) ** 2).sum().item()  # (1 - 3)^2 + 0 + 0.5^2
    assert expected == 4.25
    assert metrics.frechet_distance(real * a, fake * b) == pytest.approx(4.25, abs=1e-6)


def test_the_frechet_distance_keeps_its_digits_far_from_the_origin(normal):
    real, fake = standardised(normal(200, 3)), standardised(normal(200, 3, seed=1)) * 2
    assert metrics.frechet_distance(real, fake) == pytest.approx(3, abs=1e-9)
    assert metrics.frechet_distance(real + 1e6, fake + 1e6) == pytest.approx(3, abs=1e-6)


def test_the_frechet_distance_grows_as_the_samples_get_fewer(normal):
    distances = [metrics.frechet_distance(normal(n, 10), normal(n, 10, seed=1)) for n in (50, 500, 5000)]
    assert distances[0] > 5 * distances[1] > 25 * distances[2] > 0


# --- kernel distance


def unbiased_mmd(x, y):
    """The estimator by its definition, as sums over pairs of distinct samples."""
    x, y = x.double().numpy(), y.double().numpy()
    n, width = x.shape

    def kernel(a, b):
        return (a @ b / width + 1) ** 3

    within = [
        sum(kernel(z[i], z[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1)) for z in (x, y)
    ]
    across = sum(kernel(a, b) for a in x for b in y) / n**2
    return sum(within) - 2 * across


def test_the_kernel_distance_of_one_whole_subset_is_its_formula(normal, rng):
    real, fake = normal(24, 5), 1.5 * normal(24, 5, seed=1) + 0.3
    found = metrics.kernel_distance(real, fake, subsets=1, subset_size=24, rng=rng(0))
    assert found == pytest.approx(unbiased_mmd(real, fake), rel=1e-9)
    assert found > 0.1


def test_the_kernel_distance_has_no_bias(normal, rng):
    """Of two draws of one law it is as often below 0 as above, also for few samples."""
    found = [
        metrics.kernel_distance(
            normal(40, 8, seed=2 * i), normal(40, 8, seed=2 * i + 1), subsets=1, subset_size=40, rng=rng(0)
        )
        for i in range(60)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(60)
    assert 12 < sum(value < 0 for value in found) < 48


def test_the_kernel_distance_depends_on_its_own_source_alone(normal, rng):
    real, fake = normal(60, 3), normal(60, 3, seed=1)
    options = {"subsets": 3, "subset_size": 10}
    torch.manual_seed(1)
    first = metrics.kernel_distance(real, fake, rng=rng(5), **options)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert metrics.kernel_distance(real, fake, rng=rng(5), **options) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert metrics.kernel_distance(real, fake, rng=rng(6), **options) != first


def test_without_a_source_the_kernel_distance_follows_the_global_one(normal):
    real, fake = normal(60, 3), normal(60, 3, seed=1)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(metrics.kernel_distance(real, fake, subsets=3, subset_size=10))
    assert found[0] == found[1] != found[2]


# --- precision and recall


@pytest.mark.parametrize("k", [1, 3, 6])
def test_precision_and_recall_are_those_of_a_plain_loop(normal, k):
    real, fake = normal(70, 3), 0.7 * normal(50, 3, seed=1) + 0.5
    precision, recall = metrics.precision_recall(real, fake, k=k)
    assert precision == pytest.approx(in_manifold(fake, real, k).mean(), abs=1e-12)
    assert recall == pytest.approx(in_manifold(real, fake, k).mean(), abs=1e-12)
    assert 0.1 < recall < precision <= 1


def test_a_set_covers_itself(normal):
    points = normal(100, 4)
    assert metrics.precision_recall(points, points) == (1, 1)


def test_a_lost_class_costs_recall_and_not_precision(normal):
    centres = 20 * torch.eye(4)
    real, fake = ((centres[:, None] + normal(400, 4, seed=s).view(4, 100, 4)).flatten(0, 1) for s in (0, 1))
    whole = metrics.precision_recall(real, fake)
    precision, recall = metrics.precision_recall(real, fake[:300])
    assert precision == pytest.approx(whole[0], abs=0.05)
    assert recall == pytest.approx(0.75 * whole[1], abs=0.02)
    assert min(whole) > 0.8


def test_a_single_mode_has_precision_and_hardly_any_recall(normal):
    precision, recall = metrics.precision_recall(normal(300, 4), 0.05 * normal(300, 4, seed=1))
    assert precision == 1
    assert recall < 0.02


def test_noise_has_neither_precision_nor_recall(digits, rng):
    noise = torch.randint(256, (200, 1, 28, 28), dtype=torch.uint8, generator=rng(1))
    assert metrics.precision_recall(digits[0], noise) == (0, 0)


def test_points_scattered_far_and_wide_have_recall_for_nothing(normal):
    """A weakness of the measure: the balls of outliers are so large that they cover everything."""
    assert metrics.precision_recall(normal(200, 6), 30 * normal(200, 6, seed=1)) == (0, 1)


def test_samples_that_are_all_the_same_cover_their_own_copies_alone(normal):
    real = normal(50, 4) + 100
    precision, recall = metrics.precision_recall(real, real[7].repeat(30, 1))
    assert (precision, recall) == (1, 1 / 50)


# --- 1-NN accuracy


def test_one_nn_accuracy_is_leave_one_out_of_sklearn(normal):
    real, fake = normal(80, 3), 0.8 * normal(80, 3, seed=1) + 0.6
    points, kinds = torch.cat([real, fake]).numpy(), np.repeat([0, 1], 80)
    guessed = cross_val_predict(KNeighborsClassifier(1), points, kinds, cv=LeaveOneOut())
    found = metrics.one_nn_accuracy(real, fake)
    assert found.accuracy == pytest.approx((guessed == kinds).mean(), abs=1e-12)
    assert found.on_real == pytest.approx((guessed[:80] == 0).mean(), abs=1e-12)
    assert found.on_fake == pytest.approx((guessed[80:] == 1).mean(), abs=1e-12)
    assert found.on_real != found.on_fake


def test_two_draws_of_one_law_cannot_be_told_apart(normal):
    assert metrics.one_nn_accuracy(normal(1000, 4), normal(1000, 4, seed=1)).accuracy == pytest.approx(
        0.5, abs=0.05
    )


def test_two_sets_far_apart_are_told_apart(normal):
    assert metrics.one_nn_accuracy(normal(50, 4), normal(50, 4) + 50) == metrics.OneNNAccuracy(1, 1, 1)


def test_a_copied_set_has_a_one_nn_accuracy_of_0(digits):
    assert metrics.one_nn_accuracy(digits[0], digits[0].clone()) == metrics.OneNNAccuracy(0, 0, 0)
    features = digits[0].flatten(1) / 7
    assert metrics.one_nn_accuracy(features, features.clone()) == metrics.OneNNAccuracy(0, 0, 0)


# --- classes


def test_classes_are_counted():
    labels = torch.tensor([3, 0, 3, 1])
    counts = metrics.class_histogram(labels, 5)
    assert counts.tolist() == [1, 1, 0, 2, 0]
    assert metrics.missing_classes(counts) == [2, 4]
    assert metrics.missing_classes(torch.ones(3)) == []


def test_chi2_distance_has_its_known_values():
    chi2 = metrics.chi2_distance
    assert chi2(torch.tensor([2, 4, 6]), torch.tensor([10, 20, 30])) == pytest.approx(0, abs=1e-15)
    assert chi2(torch.tensor([1, 0, 0]), torch.tensor([0, 5, 0])) == pytest.approx(1, abs=1e-15)
    # shares 1/2, 1/2 against 1/4, 3/4: (1/16 / (3/4) + 1/16 / (5/4)) / 2 = 1/15
    assert chi2(torch.tensor([1, 1]), torch.tensor([1, 3])) == pytest.approx(1 / 15, rel=1e-12)
    assert chi2(torch.tensor([1, 3]), torch.tensor([1, 1])) == pytest.approx(1 / 15, rel=1e-12)


# --- nearest neighbours


def test_the_nearest_digits_are_those_of_float64(digits):
    queries, references = digits
    expected = all_distances(queries[:60], references)
    found = metrics.nearest(queries[:60], references)
    assert found.indices.tolist() == expected.argmin(1).tolist()
    np.testing.assert_allclose(found.distances, expected.min(1), **ONE_ROOT)


def test_bytes_are_compared_exactly_where_float32_is_not_enough(rng):
    """Colour images of 64 pixels, each a little nearer to the query than the one before it."""
    query = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8, generator=rng(0))
    references = (255 - query).repeat(40, 1, 1, 1)
    flat, gap = references.view(40, -1), 255 - 2 * query.flatten().int()
    close = (gap.abs() <= 5).nonzero().flatten()[:39]
    for row in range(40):  # one pixel more that is as in the query, but for the last
        flat[row, close[: min(row, 38)]] = query.flatten()[close[: min(row, 38)]]
    exact = (references.long() - query.long()).square().flatten(1).sum(1)
    assert exact.diff()[:-1].max() < 0 == exact.diff()[-1]
    single = (flat.float() - query.flatten().float()).square().sum(1)
    assert len(single.unique()) < 30  # of 39
    found = metrics.nearest(query, references)
    assert found.indices.tolist() == [38]
    assert found.distances.item() == pytest.approx(exact[38].item() ** 0.5, rel=ONE_ROOT["rtol"], abs=0)


def test_of_equal_bytes_the_first_counts_over_all_blocks(digits, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK_COLUMNS", 7)
    query = digits[0][:1]
    references = digits[1][:50].clone()
    references[[13, 20, 41]] = query
    found = metrics.nearest(query, references)
    assert (found.indices.item(), found.distances.item()) == (13, 0)


def test_a_copy_among_floats_is_at_exactly_0(normal):
    references = 1e4 + normal(500, 30)
    found = metrics.nearest(references[100:200], references)
    assert found.indices.tolist() == list(range(100, 200))
    assert found.distances.abs().max() == 0


def test_float_neighbours_are_those_of_brute_force(normal):
    queries, references = normal(90, 12), normal(150, 12, seed=1)
    expected = all_distances(queries, references)
    found = metrics.nearest(queries, references)
    assert found.indices.tolist() == expected.argmin(1).tolist()
    np.testing.assert_allclose(found.distances.numpy(), expected.min(1), rtol=1e-12)


def test_nothing_is_its_own_neighbour_when_asked(normal):
    points = normal(40, 2)
    expected = all_distances(points, points) + np.diag(np.full(40, np.inf))
    found = metrics.nearest(points, points, skip_self=True)
    assert found.indices.tolist() == expected.argmin(1).tolist()
    assert metrics.nearest(points, points).indices.tolist() == list(range(40))


@pytest.mark.parametrize(("rows", "columns"), [(1, 40), (7, 300), (300, 7), (16, 15)])
def test_the_size_of_a_block_changes_nothing(monkeypatch, digits, normal, rows, columns):
    images = digits[0][:60]
    real, fake = normal(60, 5), 0.9 * normal(50, 5, seed=1)

    def everything():
        found = metrics.nearest(images, images, skip_self=True)
        own = metrics.nearest(real, fake)
        counts = (
            found.indices.tolist(),
            own.indices.tolist(),
            metrics.precision_recall(real, fake),
            metrics.one_nn_accuracy(real[:50], fake),
        )
        return counts, torch.cat([found.distances, own.distances])

    counts, distances = everything()
    monkeypatch.setattr(metrics, "BLOCK_ROWS", rows)
    monkeypatch.setattr(metrics, "BLOCK_COLUMNS", columns)
    in_blocks = everything()
    assert in_blocks[0] == counts
    torch.testing.assert_close(in_blocks[1], distances, rtol=1e-14, atol=0)  # another shape, other rounding


class Largest(TorchDispatchMode):
    """Notes the most numbers of any tensor that is made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        own = {leaf.untyped_storage().data_ptr() for leaf in args if isinstance(leaf, torch.Tensor)}
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in own:
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.mark.parametrize("as_bytes", [True, False])
def test_wide_rows_are_compared_a_few_at_a_time(monkeypatch, normal, as_bytes):
    queries, references = (normal(n, 500, seed=n) for n in (40, 60))
    if as_bytes:
        queries, references = (
            (40 * rows + 128).clamp(0, 255).to(torch.uint8) for rows in (queries, references)
        )
    whole = metrics.nearest(queries, references), metrics.precision_recall(queries, references)
    monkeypatch.setattr(metrics, "MAX_BLOCK_INPUTS", 2000)
    with Largest() as seen:
        parts = metrics.nearest(queries, references), metrics.precision_recall(queries, references)
    assert seen.numbers <= 2500 < 20_000  # 4 rows of 500, and two columns more
    assert torch.equal(parts[0].indices, whole[0].indices)
    torch.testing.assert_close(parts[0].distances, whole[0].distances, rtol=1e-12, atol=0)
    assert parts[1] == whole[1]


@pytest.mark.parametrize("place", ["meta", "float64", "inference", "no_grad", "autocast", "deterministic"])
def test_a_measure_does_not_depend_on_what_the_caller_has_set(digits, normal, rng, place):
    real, fake = normal(60, 5), 0.9 * normal(60, 5, seed=1)
    images = digits[0][:40], digits[1][:90]

    def everything():
        found, own = metrics.nearest(*images), metrics.nearest(real, fake)
        return (
            (found.indices.tolist(), found.distances.tolist(), own.indices.tolist(), own.distances.tolist()),
            metrics.frechet_distance(real, fake),
            metrics.kernel_distance(real, fake, subsets=3, subset_size=20, rng=rng(1)),
            metrics.precision_recall(real, fake),
            metrics.precision_recall(*images),
            metrics.one_nn_accuracy(real, fake),
            metrics.chi2_distance(torch.tensor([1, 1], device="cpu"), torch.tensor([1, 3], device="cpu")),
        )

    expected = everything()
    around = {
        "meta": torch.device("meta"),
        "inference": torch.inference_mode(),
        "no_grad": torch.no_grad(),
        "autocast": torch.autocast("cpu", dtype=torch.bfloat16),
    }.get(place, nullcontext())
    try:
        if place == "float64":
            torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(place == "deterministic")
        with around:
            assert everything() == expected
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("modes", [(True, False), (False, True)])
def test_a_search_goes_on_in_another_mode_than_it_began_in(digits, modes):
    queries, references = digits[0][:20], digits[1][:60]
    labels = torch.arange(60)
    with torch.inference_mode(modes[0]):
        stream = metrics.NearestNeighbour(queries)
    for mode, part in zip(modes, labels.split(30), strict=True):
        with torch.inference_mode(mode):
            stream.update(references[part], labels[part])
    assert torch.equal(stream.labels, metrics.nearest(queries, references).indices)


class OnMps(torch.Tensor):
    """Stands in for a tensor on an Apple GPU, which has no float64."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_classes_and_distances_on_a_device_without_float64_are_compared_on_the_cpu():
    one, two = (torch.tensor(values).as_subclass(OnMps) for values in ([1, 1], [1, 3]))
    with pytest.raises(TypeError):
        one.double()
    assert metrics.chi2_distance(one, two) == pytest.approx(1 / 15, rel=1e-12)
    near, usual = (torch.tensor(values).as_subclass(OnMps) for values in ([1.0, 2.0, 3.0], [2.0, 4.0]))
    assert metrics.compare_distances(near, usual) == metrics.Memorization(1, 2 / 3)


def test_references_in_parts_give_what_they_give_at_once(digits, rng):
    queries, references = digits
    labels = torch.randint(10, (len(references),), generator=rng(1))
    whole = metrics.nearest(queries, references)
    stream = metrics.NearestNeighbour(queries)
    assert set(stream.labels.tolist()) == {-1}
    assert stream.distances.min() == torch.inf
    for part in torch.arange(len(references)).split(90):
        stream.update(references[part], labels[part])
    np.testing.assert_allclose(stream.distances, whole.distances, **ONE_ROOT)
    assert torch.equal(stream.labels, labels[whole.indices])


def test_the_error_of_a_neighbour_is_that_of_sklearn(mnist_mini, rng):
    order = torch.randperm(len(mnist_mini), generator=rng(2))[:900]
    images, labels = mnist_mini.images[order], mnist_mini.labels[order]
    oracle = KNeighborsClassifier(1).fit(images[:800].flatten(1).numpy(), labels[:800].numpy())
    expected = 1 - oracle.score(images[800:].flatten(1).numpy(), labels[800:].numpy())
    stream = metrics.NearestNeighbour(images[800:])
    stream.update(images[:800], labels[:800])
    assert stream.error(labels[800:]) == pytest.approx(expected, abs=1e-12)
    assert 0.02 < expected < 0.3


# --- memorization


def test_copies_have_a_ratio_of_0_and_a_share_of_1(digits):
    held_out, train = digits
    assert metrics.memorization(train[:200], train, held_out) == metrics.Memorization(0, 1)


def test_held_out_images_are_no_copies_of_the_training_set(normal):
    train, held_out, fake = (normal(2000, 6, seed=seed) for seed in range(3))
    found = metrics.memorization(fake, train, held_out)
    assert found.ratio == pytest.approx(1, abs=0.05)
    assert found.share == pytest.approx(0.01, abs=0.01)


def test_the_share_is_of_those_as_near_as_the_nearest_hundredth():
    held_out = torch.arange(1, 301).double().flip(0)
    found = metrics.compare_distances(torch.tensor([1.0, 2.9, 3.0, 3.1, 301.0]), held_out)
    assert found == metrics.Memorization(3 / 150, 3 / 5)


def test_a_ratio_over_nothing_is_infinite_and_1_for_copies():
    nothing = torch.zeros(5)
    assert metrics.compare_distances(torch.ones(3), nothing) == metrics.Memorization(float("inf"), 0)
    assert metrics.compare_distances(torch.zeros(3), nothing) == metrics.Memorization(1, 1)


# --- features


class Halves(nn.Module):
    """Stands in for a classifier: the means of an image's two halves, and of a batch norm's dropout none."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)

    def features(self, images):
        assert images.dtype == torch.float32
        return self.dropout(self.scale * images.view(len(images), 2, -1).mean(2)).double()


def test_features_are_those_of_the_classifier_in_eval_mode(digits):
    images = digits[0]
    expected = datasets.to_float(images).view(300, 2, -1).mean(2)
    network = Halves().train()
    found = metrics.extract(network, images, batch_size=7)
    assert network.training
    assert not found.requires_grad
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(metrics.extract(network.eval(), datasets.to_float(images)), expected)
    assert not network.training


def test_parts_are_joined_in_their_order_and_there_is_one_copy(digits):
    images = digits[0]
    with Largest() as seen:
        found = metrics.map_batches(lambda rows: images[rows] + 1, 300, 70)
    assert torch.equal(found, images + 1)
    assert seen.numbers == images.numel()


def test_features_of_a_set_are_asked_of_its_images(mnist_mini):
    with pytest.raises(ValueError, match="got ImageDataset: pass the ImageDataset's .images"):
        metrics.extract(Halves(), mnist_mini)


# --- bad input

SETS = {
    "frechet_distance": 2,
    "kernel_distance": 2,
    "precision_recall": 4,
    "one_nn_accuracy": 2,
    "nearest": 1,
}
of_two_sets = pytest.mark.parametrize("name", SETS)


@of_two_sets
def test_sets_that_are_too_small_are_refused(name, normal):
    few, enough = normal(SETS[name] - 1, 3), normal(20, 3)
    for pair in ((few, enough), (enough, few)):
        with pytest.raises(ValueError, match=rf"at least {SETS[name]}, got \({SETS[name] - 1}, 3\)"):
            getattr(metrics, name)(*pair)


@of_two_sets
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(name, value, normal):
    broken, enough = normal(20, 3), normal(20, 3)
    broken[3, 1] = value
    for pair in ((broken, enough), (enough, broken)):
        with pytest.raises(ValueError, match="has 1 values that are NaN or infinite"):
            getattr(metrics, name)(*pair)


@of_two_sets
def test_sets_of_two_widths_or_two_kinds_are_refused(name, normal):
    with pytest.raises(ValueError, match="rows of the same length, got 3 and 4"):
        getattr(metrics, name)(normal(20, 3), normal(20, 4))
    with pytest.raises(ValueError, match="is torch.float32 and .* torch.uint8"):
        getattr(metrics, name)(normal(20, 3), torch.zeros(20, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"must be uint8 or floating-point, got torch.int64"):
        getattr(metrics, name)(torch.zeros(20, 3, dtype=torch.int64), normal(20, 3))


def test_numbers_out_of_range_are_refused(normal):
    points = normal(20, 3)
    with pytest.raises(ValueError, match="subsets must be at least 1, got 0"):
        metrics.kernel_distance(points, points, subsets=0, subset_size=5)
    for size in (1, 21):
        with pytest.raises(ValueError, match=f"from 2 to 20, the smaller set's size, got {size}"):
            metrics.kernel_distance(points, normal(30, 3), subset_size=size)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        metrics.precision_recall(points, points, k=0)
    with pytest.raises(ValueError, match="equally many, got 20 and 19"):
        metrics.one_nn_accuracy(points, points[:19])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        metrics.extract(Halves(), points, batch_size=0)
    with pytest.raises(ValueError, match="there are no images"):
        metrics.extract(Halves(), points[:0])
    with pytest.raises(ValueError, match=r"references must .* at least 2, got \(1, 3\)"):
        metrics.nearest(points[:1], points[:1], skip_self=True)


def test_labels_and_histograms_that_cannot_be_are_refused(normal):
    with pytest.raises(ValueError, match="from 0 to 3, got from 1 to 4"):
        metrics.class_histogram(torch.tensor([1, 4]), 4)
    with pytest.raises(ValueError, match="from 0 to 3, got none"):
        metrics.class_histogram(torch.tensor([], dtype=torch.int64), 4)
    with pytest.raises(ValueError, match=r"same length, got \(2,\) and \(3,\)"):
        metrics.chi2_distance(torch.ones(2), torch.ones(3))
    for broken in ([0, 0], [-1, 2]):
        with pytest.raises(ValueError, match="counts of at least 0, not all 0, got"):
            metrics.chi2_distance(torch.ones(2), torch.tensor(broken))
    with pytest.raises(ValueError, match="held_out must be at least 1, got 0"):
        metrics.compare_distances(torch.ones(2), torch.ones(0))
    stream = metrics.NearestNeighbour(normal(5, 2))
    with pytest.raises(ValueError, match=r"labels must have shape \(4,\), got \(3,\)"):
        stream.update(normal(4, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"true_labels must have shape \(5,\), got \(4,\)"):
        stream.error(torch.zeros(4, dtype=torch.int64))
