"""Differentiable augmentation and mirrored batches: what changes, what stays, where gradients go."""

import pytest
import torch

from dcganlib.augmentation import Augmented, augment
from dcganlib.config import TrainConfig
from dcganlib.datasets import make_loader, to_float

POLICIES = ("color", "translation", "cutout", "color,translation,cutout")


@pytest.fixture
def images(rng):
    return torch.rand(64, 3, 16, 16, generator=rng()) * 2 - 1


def test_without_a_policy_images_are_not_touched(images):
    state = torch.get_rng_state()
    assert augment(images, "none") is images
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("policy", POLICIES)
def test_each_image_is_changed_by_its_own_draw_and_a_seed_repeats_it(images, rng, policy):
    same = images[:1].expand_as(images)
    found = augment(same, policy, rng=rng(1))
    assert found.shape == images.shape
    assert torch.equal(found, augment(same, policy, rng=rng(1)))
    assert len({tuple(image.flatten().tolist()) for image in found}) > 15


def test_color_is_brightness_saturation_and_contrast_within_their_ranges(images, rng):
    found = augment(images, "color", rng=rng(1))
    shift = found.mean((1, 2, 3)) - images.mean((1, 2, 3))  # saturation and contrast keep the mean
    assert -0.5 <= shift.min() < -0.3
    assert 0.3 < shift.max() <= 0.5
    grey, grey_before = found.mean(1), images.mean(1)  # saturation keeps the grey image
    contrast = grey.std((1, 2)) / grey_before.std((1, 2))
    assert 0.5 <= contrast.min() < 0.7
    assert 1.3 < contrast.max() <= 1.5
    colours, colours_before = (x - x.mean(1, keepdim=True) for x in (found, images))
    saturation = (colours.std((1, 2, 3)) / colours_before.std((1, 2, 3))) / contrast
    assert 0 <= saturation.min() < 0.3
    assert 1.7 < saturation.max() <= 2


def test_translation_moves_the_whole_image_by_up_to_an_eighth_and_fills_with_grey(images, rng):
    found = augment(images, "translation", rng=rng(1))
    shifts = set()
    for before, after in zip(images, found, strict=True):
        fitting = []
        for y in range(-2, 3):
            for x in range(-2, 3):
                moved = torch.zeros_like(before)
                rows, columns = slice(max(0, y), 16 + min(0, y)), slice(max(0, x), 16 + min(0, x))
                moved[:, rows, columns] = before[
                    :, slice(max(0, -y), 16 - max(0, y)), slice(max(0, -x), 16 - max(0, x))
                ]
                if torch.equal(moved, after):
                    fitting.append((y, x))
        (shift,) = fitting
        shifts.add(shift)
    assert {y for y, _ in shifts} == {x for _, x in shifts} == {-2, -1, 0, 1, 2}


def test_cutout_leaves_a_grey_square_of_half_the_side(images, rng):
    found = augment(images, "cutout", rng=rng(1))
    gone = (found == 0).all(1)
    assert torch.equal(found[~gone[:, None].expand_as(found)], images[~gone[:, None].expand_as(found)])
    heights, widths = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(gone.sum((1, 2)), heights * widths)
    assert heights.max() == widths.max() == 8
    assert heights.min() >= 4  # the centre lies in the image


@pytest.mark.parametrize("policy", POLICIES)
def test_the_gradient_reaches_every_pixel_that_is_still_seen(images, rng, policy):
    x = images.clone().requires_grad_()
    augment(x, policy, rng=rng(1)).sum().backward()
    assert (x.grad != 0).float().mean() > 0.5
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("policy", POLICIES)
def test_augmentation_has_second_derivatives(rng, policy):
    x = torch.rand(2, 1, 4, 4, generator=rng()).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda y: augment(y, policy, rng=rng(1)).square(), x, fast_mode=True)


def test_an_augmented_discriminator_shares_its_weights(tiny_pair, images):
    _, d = tiny_pair(channels=3)
    seen = Augmented(d, "color")
    assert list(seen.parameters()) == list(d.parameters())
    assert seen(images).shape == (64,)


@pytest.mark.parametrize("policy", ["colour", "color,color", "", "none,color", "color, cutout"])
def test_an_unknown_policy_is_refused_by_name(policy):
    with pytest.raises(ValueError, match=f"augment must be none, or one or more of color.*got '{policy}'"):
        TrainConfig(augment=policy)


# Mirrored batches


def test_half_of_the_images_are_flipped_anew_in_each_epoch(tiny_images, rng):
    plain, mirrored = (make_loader(tiny_images, 4, rng=rng(3)) for _ in range(2))
    mirrored.mirror = True
    flips = []
    for epoch in range(20):
        for one, other in zip(plain.epoch(epoch), mirrored.epoch(epoch), strict=True):
            for image, turned in zip(one, other, strict=True):
                assert torch.equal(turned, image) or torch.equal(turned, image.flip(2))
                flips.append(not torch.equal(turned, image))
    assert 0.4 < sum(flips) / len(flips) < 0.6
    assert flips[:20] != flips[20:40]


def test_mirrored_batches_are_the_same_from_the_middle_of_an_epoch(tiny_images, rng):
    loader = make_loader(tiny_images, 4, rng=rng(3))
    loader.mirror = True
    whole, rest = list(loader.epoch(2)), list(loader.epoch(2, start=3))
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))


# Groups of batches


def test_a_stream_of_batches_goes_on_through_epochs_and_groups_them(tiny_images, rng):
    loader = make_loader(tiny_images, 4, labels=torch.arange(20), rng=rng(3))
    batches = [batch for epoch in range(3) for batch in loader.epoch(epoch)]
    stream = loader.stream(start=1, count=3)
    for group, epoch in ((1, 0), (2, 1), (3, 1)):
        index, real, labels = next(stream)
        assert index == epoch
        expected = batches[3 * group : 3 * group + 3]
        assert torch.equal(labels, torch.cat([names for _, names in expected]))
        assert torch.equal(real, torch.cat([images for images, _ in expected]))
        assert torch.equal(real, to_float(tiny_images)[labels])
