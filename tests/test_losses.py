"""The losses, against torch's binary cross-entropy in double precision and closed forms."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from dcganlib.losses import discriminator_loss, generator_loss, minimax_generator_loss

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
