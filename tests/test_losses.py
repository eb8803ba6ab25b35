"""The losses, against torch's binary cross-entropy in double precision and closed forms; the penalties."""

import math
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from dcganlib.config import LossName, TrainConfig
from dcganlib.losses import (
    LOSSES,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    minimax_generator_loss,
    penalties,
    zero_centered_penalty,
)

EXTREMES = torch.tensor([-500.0, -50.0, -3.0, -0.1, 0.0, 0.1, 3.0, 50.0, 500.0])


def logits(rng, *shape, seed=0, scale=4.0):
    return scale * torch.randn(*shape, generator=rng(seed))


def gradient(loss, at):
    at = at.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(at), at)
    return grad


def exactly(actual, expected):
    torch.testing.assert_close(actual.double(), expected, rtol=2e-6, atol=1e-15)


@pytest.mark.parametrize("shape", [(1,), (64,), (8, 1), (4, 1, 3, 3)])
def test_discriminator_loss_is_the_mean_of_two_cross_entropies(rng, shape):
    real, fake = logits(rng, *shape), logits(rng, *shape, seed=1)
    ones, zeros = torch.ones(shape).double(), torch.zeros(shape).double()
    exactly(discriminator_loss(real, fake), (bce(real.double(), ones) + bce(fake.double(), zeros)) / 2)


def test_batches_of_different_sizes_weigh_the_same(rng):
    real, fake = logits(rng, 10), logits(rng, 3, seed=1)
    halves = [bce(real.double(), torch.ones(10).double()), bce(fake.double(), torch.zeros(3).double())]
    exactly(discriminator_loss(real, fake), sum(halves) / 2)


def test_generator_loss_is_cross_entropy_against_real(rng):
    fake = logits(rng, 64)
    exactly(generator_loss(fake), bce(fake.double(), torch.ones(64).double()))


def test_minimax_loss_is_the_mean_of_log_one_minus_d(rng):
    fake = logits(rng, 64)
    exactly(minimax_generator_loss(fake), torch.log(1 - torch.sigmoid(fake.double())).mean())


@pytest.mark.parametrize("logit", EXTREMES.tolist())
def test_losses_are_exact_at_any_logit(logit):
    at = torch.tensor([logit])
    towards_real = bce(at.double(), torch.ones(1).double())
    towards_fake = bce(at.double(), torch.zeros(1).double())
    exactly(generator_loss(at), towards_real)
    exactly(minimax_generator_loss(at), -towards_fake)
    exactly(discriminator_loss(at, at), (towards_real + towards_fake) / 2)


def test_worked_example():
    # D(x) = 3/4 and D(G(z)) = 1/3
    real, fake = torch.tensor([math.log(3)]), torch.tensor([-math.log(2)])
    assert discriminator_loss(real, fake).item() == pytest.approx((math.log(4 / 3) + math.log(3 / 2)) / 2)
    assert generator_loss(fake).item() == pytest.approx(math.log(3))
    assert minimax_generator_loss(fake).item() == pytest.approx(math.log(2 / 3))


def test_the_sum_is_twice_the_mean(rng):
    real, fake = logits(rng, 32), logits(rng, 32, seed=1)
    assert discriminator_loss(real, fake, reduction="sum") == 2 * discriminator_loss(real, fake)


def test_equal_logits_of_zero_give_log_two():
    zero = torch.zeros(5)
    assert discriminator_loss(zero, zero).item() == pytest.approx(math.log(2), rel=1e-6)
    assert discriminator_loss(zero, zero, reduction="sum").item() == pytest.approx(2 * math.log(2), rel=1e-6)
    assert generator_loss(zero).item() == pytest.approx(math.log(2), rel=1e-6)
    assert minimax_generator_loss(zero).item() == pytest.approx(-math.log(2), rel=1e-6)


def test_gradients_are_the_closed_forms():
    n = len(EXTREMES)
    sigmoid = EXTREMES.double().sigmoid()
    exactly(gradient(generator_loss, EXTREMES), (sigmoid - 1) / n)
    exactly(gradient(minimax_generator_loss, EXTREMES), -sigmoid / n)
    exactly(gradient(lambda real: discriminator_loss(real, EXTREMES), EXTREMES), (sigmoid - 1) / (2 * n))
    exactly(gradient(lambda fake: discriminator_loss(EXTREMES, fake), EXTREMES), sigmoid / (2 * n))


def test_the_generator_keeps_its_gradient_where_the_minimax_one_vanishes():
    lost = torch.tensor([-30.0])
    assert gradient(generator_loss, lost).item() == pytest.approx(-1, abs=1e-6)
    assert gradient(minimax_generator_loss, lost).item() == pytest.approx(0, abs=1e-12)


def test_each_player_gains_in_its_own_direction():
    low, high = torch.tensor([-1.0]), torch.tensor([1.0])
    assert discriminator_loss(high, low) < discriminator_loss(low, low) < discriminator_loss(low, high)
    assert generator_loss(high) < generator_loss(low)
    assert minimax_generator_loss(high) < minimax_generator_loss(low)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(rng, dtype):
    real, fake = logits(rng, 1000).to(dtype), logits(rng, 1000, seed=1).to(dtype)
    for value, exact in (
        (discriminator_loss(real, fake), discriminator_loss(real.double(), fake.double())),
        (generator_loss(fake), generator_loss(fake.double())),
        (minimax_generator_loss(fake), minimax_generator_loss(fake.double())),
    ):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact.item(), rel=1e-5)


def test_double_precision_is_kept(rng):
    fake = logits(rng, 8).double()
    assert generator_loss(fake).dtype == torch.float64


def test_an_empty_batch_is_refused_by_name():
    empty, full = torch.zeros(0), torch.zeros(3)
    with pytest.raises(ValueError, match=r"real_logits is empty.*\(0,\)"):
        discriminator_loss(empty, full)
    with pytest.raises(ValueError, match="fake_logits is empty"):
        discriminator_loss(full, empty)
    with pytest.raises(ValueError, match="fake_logits is empty"):
        generator_loss(empty)
    with pytest.raises(ValueError, match="fake_logits is empty"):
        minimax_generator_loss(empty)


def test_an_unknown_reduction_is_refused_by_name():
    with pytest.raises(ValueError, match="'none'"):
        discriminator_loss(torch.zeros(2), torch.zeros(2), reduction="none")


# The other losses, in closed form


def test_the_hinge_loss_counts_what_is_missing_to_the_margin():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 0.25])
    assert LOSSES["hinge"].discriminator(real, fake).item() == pytest.approx((0.5 + 2) / 3 + (1 + 1.25) / 3)
    assert LOSSES["hinge"].generator(fake).item() == pytest.approx(2.75 / 3)
    assert LOSSES["hinge"].discriminator(torch.zeros(4), torch.zeros(2)).item() == 2
    pulls = gradient(lambda at: LOSSES["hinge"].discriminator(at, -at), real)
    torch.testing.assert_close(pulls, torch.tensor([0, -2 / 3, -2 / 3]))  # none beyond the margin


def test_the_wasserstein_loss_is_the_difference_of_the_means():
    real, fake = torch.tensor([3.0, -1.0]), torch.tensor([4.0, 5.0, 0.0])
    assert LOSSES["wasserstein"].discriminator(real, fake).item() == pytest.approx(3 - 1)
    assert LOSSES["wasserstein"].generator(fake).item() == pytest.approx(-3)
    assert gradient(LOSSES["wasserstein"].generator, fake).tolist() == pytest.approx([-1 / 3] * 3)


def test_the_relativistic_loss_is_cross_entropy_of_the_pairs_differences(rng):
    real, fake = logits(rng, 32), logits(rng, 32, seed=1)
    towards_real, towards_fake = (make(32).double() for make in (torch.ones, torch.zeros))
    difference = real.double() - fake.double()
    exactly(LOSSES["relativistic"].discriminator(real, fake), bce(difference, towards_real))
    exactly(LOSSES["relativistic"].generator(fake, real), bce(difference, towards_fake))
    pull = gradient(lambda at: LOSSES["relativistic"].generator(at, real), fake)
    exactly(pull, (torch.sigmoid(-difference) - 1) / 32)


def test_only_differences_of_logits_count_in_the_relativistic_loss(rng):
    real, fake = logits(rng, 8).double(), logits(rng, 8, seed=1).double()
    for loss in (LOSSES["relativistic"].discriminator, LOSSES["relativistic"].generator):
        torch.testing.assert_close(loss(real + 100, fake + 100), loss(real, fake))


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_pulls_the_players_in_opposite_directions(name):
    loss = LOSSES[name]
    real, fake = torch.tensor([0.3]), torch.tensor([-0.2])
    assert gradient(lambda at: loss.discriminator(at, fake), real) < 0  # D raises the logits of real images
    assert gradient(lambda at: loss.discriminator(real, at), fake) > 0
    assert gradient(lambda at: loss.generator(*((at, real) if loss.paired else (at,))), fake) < 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_each_loss_is_at_least_float32_and_refuses_an_empty_batch(name, dtype):
    loss, some = LOSSES[name], torch.tensor([0.5, -0.5], dtype=dtype)
    expected = torch.promote_types(dtype, torch.float32)
    assert loss.discriminator(some, some).dtype == expected
    assert loss.generator(*[some] * (1 + loss.paired)).dtype == expected
    with pytest.raises(ValueError, match="logits is empty"):
        loss.discriminator(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="logits is empty"):
        loss.generator(*[torch.zeros(0)] * (1 + loss.paired))


def test_the_named_losses_are_those_of_the_settings():
    assert tuple(LOSSES) == get_args(LossName)
    assert all(loss.summary for loss in LOSSES.values())


def test_pairs_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"as many real as fake logits, got \(3,\) and \(2,\)"):
        LOSSES["relativistic"].discriminator(torch.zeros(3), torch.zeros(2))


# Penalties, against closed forms


class Linear(nn.Module):
    """D(x) = w x: its slope is |w| everywhere."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images):
        return images.flatten(1) @ self.weight


class Doubled(nn.Module):
    """A float64 network that takes the float32 images of a penalty."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images.double())


class Square(Linear):
    """D(x) = (w x)^2 / 2: its gradient at x is (w x) w."""

    def forward(self, images):
        return super().forward(images).square() / 2


@pytest.fixture
def pictures(rng):
    """Two batches of images, and a weight for each of their pixels."""
    return [torch.randn(5, 2, 3, 3, generator=rng(seed)) for seed in (0, 1)], torch.randn(
        18, generator=rng(2)
    )


def test_the_penalties_of_a_linear_discriminator_are_those_of_its_weights_norm(pictures):
    (real, fake), weight = pictures
    norm = weight.double().norm().item()
    for penalty, value, slope in (
        (gradient_penalty(d := Linear(weight), real, fake), (norm - 1) ** 2, 2 * (norm - 1) / norm),
        (zero_centered_penalty(d, real), norm**2, 2),
    ):
        assert penalty.item() == pytest.approx(value, rel=1e-5)
        (by_weight,) = torch.autograd.grad(penalty, d.weight)
        torch.testing.assert_close(by_weight, slope * weight, rtol=1e-5, atol=1e-6)


def test_the_zero_centered_penalty_is_the_mean_square_of_the_gradient_at_the_images(pictures):
    (real, _), weight = pictures
    scores = real.flatten(1).double() @ weight.double()
    expected = (scores.square() * weight.double().square().sum()).mean()
    exactly(zero_centered_penalty(Square(weight), real).detach(), expected)


def test_the_gradient_penalty_lies_between_real_and_fake_where_the_rng_says(pictures, rng):
    (real, fake), weight = pictures
    share = torch.rand(5, 1, 1, 1, generator=rng(7)).double()
    between = share * real.double() + (1 - share) * fake.double()
    slopes = (between.flatten(1) @ weight.double()).abs() * weight.double().norm()
    found = gradient_penalty(Square(weight), real, fake, rng=rng(7))
    torch.testing.assert_close(found.detach().double(), (slopes - 1).square().mean(), rtol=1e-5, atol=0)
    assert gradient_penalty(Square(weight), real, fake, rng=rng(8)) != found


def test_a_penaltys_derivative_by_a_weight_is_that_of_finite_differences(tiny_pair, rng):
    d = tiny_pair("dcgan")[1].eval().double()  # in evaluation batch norm is a constant factor
    images = torch.rand(3, 1, 16, 16, generator=rng()).double()
    weight = d.blocks[1][0].weight

    def penalty():
        x = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
        return slope.square().flatten(1).sum(1).mean()

    (found,) = torch.autograd.grad(zero_centered_penalty(Doubled(d), images), weight)
    step, place = 1e-4, (0, 0, 1, 2)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[place] += sign * step
        values.append(penalty().item())
        with torch.no_grad():
            weight[place] -= sign * step
    assert found[place].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3)


def test_a_penalty_is_float32_under_autocast_and_no_gradient_reaches_the_generator(tiny_pair, rng):
    g, d = tiny_pair()
    fake = g(torch.randn(4, 8, generator=rng()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = zero_centered_penalty(d, fake)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, zero_centered_penalty(d, fake), rtol=1e-6, atol=0)
    gradient_penalty(d, torch.zeros_like(fake), fake).backward()
    assert all(parameter.grad is None for parameter in g.parameters())
    assert d.blocks[0][0].weight.grad.abs().sum() > 0


def test_the_settings_weigh_the_penalties(pictures):
    (real, fake), weight = pictures
    d, norm = Linear(weight), weight.norm().item()
    config = TrainConfig(gradient_penalty=10, r1=2, r2=3)
    values = [term(d, real, fake).item() for term in penalties(config)]
    assert values == pytest.approx([10 * (norm - 1) ** 2, norm**2, 1.5 * norm**2], rel=1e-5)
    (only_r2,) = penalties(TrainConfig(r2=4))
    assert only_r2(Square(weight), torch.zeros_like(real), fake) > 0
    assert only_r2(Square(weight), real, torch.zeros_like(fake)) == 0
    assert penalties(TrainConfig()) == []


def test_compile_with_a_penalty_is_refused():
    for option in ("gradient_penalty", "r1", "r2"):
        with pytest.raises(ValueError, match="compile must be False with gradient_penalty, r1 or r2"):
            TrainConfig(compile=True, **{option: 1})
