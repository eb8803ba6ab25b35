"""A discriminator's features, a linear classifier on them, and guided backpropagation: each by hand."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from dcganlib import datasets, zoo
from dcganlib.evaluation import metrics, probes
from dcganlib.models import Discriminator, Layer

PLAIN = {"padding": 0, "norm": None, "activation": None}


def made(*layers, size=8):
    """A discriminator of these layers, with random weights."""
    network = Discriminator(size, 1, layers=layers)
    for seed, parameter in enumerate(network.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    return network


@pytest.fixture
def by_hand():
    """The first layer doubles the pixels, the second has sums over 4 by 4 of them, and minus these."""
    first = Layer(1, kernel=1, stride=1, **PLAIN)
    second = Layer(2, kernel=4, stride=4, **(PLAIN | {"activation": "leaky_relu"}), slope=0.5)
    network = made(first, second, Layer(1, kernel=2, stride=1, **PLAIN))
    network.blocks[0][0].weight.data.fill_(2)
    network.blocks[1][0].weight.data[:] = torch.tensor([1.0, -1.0])[:, None, None, None]
    return network


# --- Features


def test_features_are_the_maps_after_activation_pooled_by_their_largest_values(by_hand):
    image = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    doubled = 2 * image[0, 0]
    pooled = [doubled[y : y + 2, x : x + 2].max() for y in (0, 2, 4, 6) for x in (0, 2, 4, 6)]
    sums = torch.stack([doubled[y : y + 4, x : x + 4].sum() for y in (0, 4) for x in (0, 4)])
    assert (sums < 0).any()
    assert (sums > 0).any()
    leaky = [value if value > 0 else 0.5 * value for value in torch.cat([sums, -sums])]
    found = probes.discriminator_features(by_hand, image)
    torch.testing.assert_close(found, torch.stack([*pooled, *leaky])[None])


def test_a_bytes_image_has_the_features_of_the_same_floats_in_any_batches(by_hand, rng):
    images = torch.randint(256, (7, 1, 8, 8), dtype=torch.uint8, generator=rng(0))
    whole = probes.discriminator_features(by_hand, datasets.to_float(images))
    torch.testing.assert_close(probes.discriminator_features(by_hand, images, batch_size=3), whole)


def test_a_wide_dcgan_has_16_features_a_channel():
    _, discriminator = zoo.build("dcgan-28", base_channels=4)
    features = probes.discriminator_features(discriminator, torch.zeros(2, 1, 28, 28))
    assert features.shape == (2, 16 * (4 + 8))
    assert probes.discriminator_features(discriminator, torch.zeros(2, 1, 28, 28), grid=2).shape == (2, 48)


def test_features_use_running_statistics_and_leave_the_mode_as_it_was(rng):
    _, discriminator = zoo.build("dcgan-28", base_channels=4, rng=rng(0))
    images = torch.rand(6, 1, 28, 28, generator=rng(1))
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    together = probes.discriminator_features(discriminator.train(), images)
    assert discriminator.training
    assert all(part.training for part in discriminator.modules())
    alone = torch.cat([probes.discriminator_features(discriminator, image[None]) for image in images])
    torch.testing.assert_close(together, alone)
    assert all(torch.equal(before[name], value) for name, value in discriminator.state_dict().items())
    assert not together.requires_grad


def test_what_has_no_features_is_refused():
    _, discriminator = zoo.build("dcgan-28", base_channels=4)
    with pytest.raises(ValueError, match=r"shape \(N, 1, 28, 28\), got \(2, 3, 28, 28\)"):
        probes.discriminator_features(discriminator, torch.zeros(2, 3, 28, 28))
    with pytest.raises(ValueError, match="grid must be an integer of at least 1, got 0"):
        probes.discriminator_features(discriminator, torch.zeros(2, 1, 28, 28), grid=0)
    _, conditional = zoo.build("dcgan-28", base_channels=4, num_classes=10)
    with pytest.raises(ValueError, match="conditional on 10 classes"):
        probes.discriminator_features(conditional, torch.zeros(2, 1, 28, 28))


# --- The linear classifier


@pytest.fixture
def blobs(rng):
    """Normal points about three means, far apart against their spread in the first two numbers of five."""

    def make(n, seed):
        labels = torch.arange(n) % 3
        means = torch.tensor([[4.0, 0], [0, 4], [-4, -4]])
        points = torch.randn(n, 5, generator=rng(seed))
        points[:, :2] += means[labels]
        return points, labels

    return make


def test_classes_that_a_line_separates_are_told_apart_and_random_labels_are_not(blobs, rng):
    assert probes.linear_probe(blobs(60, 0), blobs(300, 1)).error < 0.02
    features, labels = blobs(300, 2)
    shuffled = labels[torch.randperm(300, generator=rng(0))]
    assert (
        0.5
        < probes.linear_probe((features[:150], shuffled[:150]), (features[150:], shuffled[150:])).error
        < 0.8
    )


def test_the_error_is_that_of_logistic_regression_with_the_chosen_penalty(blobs):
    (train, known), (test, asked) = blobs(60, 3), blobs(200, 4)
    train, test = train / 3, test / 3
    asked = (asked + (torch.arange(200) < 20)) % 3  # a tenth is wrong whatever is predicted
    found = probes.linear_probe((train, known), (test, asked), inverse_penalties=[0.25])
    centre = train.mean(0)
    scale = (train - centre).square().mean().sqrt()
    fitted = LogisticRegression(C=0.25).fit(((train - centre) / scale).numpy(), known.numpy())
    assert found.C == 0.25
    assert found.error == pytest.approx(1 - fitted.score(((test - centre) / scale).numpy(), asked.numpy()))
    assert 0.05 < found.error < 0.2


def test_scale_and_offset_of_the_features_do_not_matter(blobs):
    (train, known), (test, asked) = blobs(60, 5), blobs(300, 6)
    noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(7))
    plain = probes.linear_probe((train + 2 * noise, known), (test, asked))
    moved = probes.linear_probe((1e-3 * (train + 2 * noise) + 5, known), (1e-3 * test + 5, asked))
    assert moved.C == plain.C
    assert moved.error == pytest.approx(plain.error, abs=0.01)


def test_the_penalty_is_chosen_without_the_test_images(blobs):
    train, (test, asked) = blobs(60, 8), blobs(90, 9)
    told, reversed_ = (probes.linear_probe(train, (test, labels)) for labels in (asked, asked.flip(0)))
    assert told.C == reversed_.C
    assert told.error < reversed_.error


def test_too_few_images_of_a_class_or_shapes_that_do_not_fit_are_refused(blobs):
    features, labels = blobs(8, 10)  # two of the last class
    with pytest.raises(ValueError, match="at least 3 training images, one has 2"):
        probes.linear_probe((features, labels), (features, labels))
    with pytest.raises(ValueError, match=r"got \(8, 5\) and \(7,\)"):
        probes.linear_probe((features, labels[1:]), (features, labels))
    with pytest.raises(ValueError, match="folds must be an integer of at least 2, got 1"):
        probes.linear_probe((features, labels), (features, labels), folds=1)


def test_a_discriminators_features_classify_real_digits(mnist_mini, rng):
    _, discriminator = zoo.build("dcgan-28", base_channels=4, rng=rng(0))
    order = torch.randperm(len(mnist_mini), generator=rng(1))[:400]
    features = probes.discriminator_features(discriminator, mnist_mini.images[order])
    labels = mnist_mini.labels[order]
    found = probes.linear_probe((features[:200], labels[:200]), (features[200:], labels[200:]))
    assert 0.05 < found.error < 0.4  # chance is 0.9


# --- Guided backpropagation


def plain_gradient(network, images, layer, channel):
    inputs = images.clone().requires_grad_()
    network.blocks[: layer + 1](inputs)[:, channel].flatten(1).max(1).values.sum().backward()
    network.zero_grad()
    return inputs.grad


def test_without_relus_it_is_the_plain_gradient(rng):
    network = made(
        Layer(3, kernel=3, stride=1, **PLAIN), Layer(2, kernel=3, stride=3, **PLAIN), Layer(1, 2, 1, **PLAIN)
    )
    images = torch.randn(4, 1, 8, 8, generator=rng(0))
    for layer, channel in ((0, 2), (1, 0), (2, 0)):
        found = probes.guided_backpropagation(network, images, layer=layer, channel=channel)
        torch.testing.assert_close(found, plain_gradient(network, images, layer, channel))
        assert found.abs().max() > 0


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_each_relu_passes_positive_gradients_where_its_input_was_positive(activation, rng):
    """By the definition, with the two layers' products written out."""
    rectified = PLAIN | {"activation": activation}
    network = made(Layer(3, 2, 2, **rectified), Layer(2, 2, 2, **rectified), Layer(1, 2, 1, **PLAIN))
    images = torch.randn(5, 1, 8, 8, generator=rng(3))
    found = probes.guided_backpropagation(network, images, layer=1, channel=1)
    slope = 0.2 if activation == "leaky_relu" else 0.0
    first, second = (network.blocks[layer][0].weight.detach() for layer in (0, 1))
    for image, gradient in zip(images, found, strict=True):
        before = F.conv2d(image[None], first, stride=2)
        after = F.conv2d(F.leaky_relu(before, slope), second, stride=2)[0, 1]
        at = torch.zeros_like(after).flatten()
        at[after.argmax()] = float(after.max() > 0)
        back = F.conv_transpose2d(at.reshape(1, 1, 2, 2), second[1:2], stride=2)  # to the first layer's maps
        back = back.clamp(min=0) * (before > 0)
        torch.testing.assert_close(gradient, F.conv_transpose2d(back, first, stride=2)[0])
    assert found.abs().max() > 0
    assert not torch.allclose(found, plain_gradient(network, images, 1, 1))


def test_through_positive_weights_it_is_never_negative(rng):
    rectified = PLAIN | {"activation": "leaky_relu"}
    network = made(Layer(3, 2, 2, **rectified), Layer(2, 2, 2, **rectified), Layer(1, 2, 1, **PLAIN))
    network.blocks[0][
        0
    ].weight.data.abs_()  # the last product on the way back; what came to it is not negative
    images = torch.randn(5, 1, 8, 8, generator=rng(4))
    for channel in (0, 1):
        found = probes.guided_backpropagation(network, images, layer=1, channel=channel)
        assert found.min() >= 0
        assert found.max() > 0
    assert plain_gradient(network, images, 1, 0).min() < 0


def test_guided_backpropagation_leaves_nothing_behind(rng):
    _, discriminator = zoo.build("dcgan-28", base_channels=4, rng=rng(0))
    images = torch.rand(3, 1, 28, 28, generator=rng(1))
    before = plain_gradient(discriminator.eval(), images, 1, 0)
    discriminator.train()
    with torch.no_grad():
        found = probes.guided_backpropagation(discriminator, images, layer=1, channel=0)
    assert found.shape == images.shape
    assert discriminator.training
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    torch.testing.assert_close(plain_gradient(discriminator.eval(), images, 1, 0), before)


@pytest.mark.parametrize(
    ("layer", "channel", "words"),
    [
        (3, 0, "layer must be from 0 to 2, got 3"),
        (-1, 0, "got -1"),
        (1, 8, "channel must be from 0 to 7, got 8"),
    ],
)
def test_a_layer_or_a_channel_that_is_not_there_is_refused(layer, channel, words):
    _, discriminator = zoo.build("dcgan-28", base_channels=4)
    with pytest.raises(ValueError, match=words):
        probes.guided_backpropagation(discriminator, torch.zeros(1, 1, 28, 28), layer=layer, channel=channel)


def test_features_are_extracted_as_those_of_a_classifier_are(by_hand):
    """``metrics.extract`` takes the same object, so the two agree on empty sets."""
    with pytest.raises(ValueError, match="there are no images"):
        probes.discriminator_features(by_hand, torch.zeros(0, 1, 8, 8))
    assert probes.extract is metrics.extract
