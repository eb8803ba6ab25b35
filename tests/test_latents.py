"""Drawing from the prior and walking between two points of it."""

import math

import pytest
import torch

from dcganlib.latents import lerp, sample_z, slerp


def angle(a, b):
    a, b = a.double(), b.double()
    return torch.acos(((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).clamp(-1, 1))


@pytest.fixture
def ends(rng):
    """Two points of norm 3 in 100 dimensions, in double precision."""
    a, b = torch.randn(2, 100, generator=rng(5), dtype=torch.float64)
    return 3 * a / a.norm(), 3 * b / b.norm()


@pytest.mark.parametrize("n", [10**12, 10**18, 10**30])
def test_more_latents_than_memory_holds_are_refused_by_their_number(n):
    with pytest.raises(MemoryError, match=rf"n = {n:,} latents of latent_dim = 100 numbers take") as caught:
        sample_z(n)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("n", [2.0, True, "3", None])
def test_a_number_of_latents_of_another_kind_is_refused(n):
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got"):
        sample_z(n)


def test_normal_z_has_the_moments_of_the_standard_normal(rng):
    z = sample_z(2000, 50, rng=rng()).double()
    assert z.mean().item() == pytest.approx(0, abs=0.015)  # five standard errors of 100,000 numbers
    assert z.var().item() == pytest.approx(1, abs=0.023)
    assert (z**4).mean().item() == pytest.approx(3, abs=0.16)
    assert z.norm(dim=1).mean().item() == pytest.approx(math.sqrt(49.5), rel=0.01)


def test_uniform_z_has_the_moments_and_range_of_the_uniform(rng):
    z = sample_z(2000, 50, prior="uniform", rng=rng()).double()
    assert z.mean().item() == pytest.approx(0, abs=0.01)
    assert z.var().item() == pytest.approx(1 / 3, abs=0.005)
    assert -1 <= z.min().item() < -0.999
    assert 0.999 < z.max().item() < 1


def test_z_is_float32_of_the_asked_shape_with_the_papers_width():
    assert sample_z(3).shape == (3, 100)
    assert sample_z(2, 7).shape == (2, 7)
    assert sample_z(2, 7, prior="uniform").dtype == torch.float32


def test_the_numbers_of_a_point_are_uncorrelated(rng):
    z = sample_z(20_000, 4, rng=rng()).double()
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(4).double(), rtol=0, atol=0.06)


@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_same_seed_same_z_and_the_source_moves_on(rng, prior):
    source = rng(3)
    first, second = sample_z(4, prior=prior, rng=source), sample_z(4, prior=prior, rng=source)
    assert torch.equal(first, sample_z(4, prior=prior, rng=rng(3)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, sample_z(4, prior=prior, rng=rng(4)))


def test_z_with_its_own_source_leaves_the_global_one_alone(rng):
    before = torch.get_rng_state()
    sample_z(4, rng=rng())
    assert torch.equal(torch.get_rng_state(), before)


def test_z_goes_to_the_asked_device():
    assert sample_z(2, 3, device="meta").device.type == "meta"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"n": 1, "latent_dim": 0}, "latent_dim must be an integer of at least 1, got 0"),
        ({"n": 1, "prior": "gaussian"}, "'gaussian'"),
    ],
)
def test_a_bad_request_for_z_is_refused_by_name(options, words):
    with pytest.raises(ValueError, match=words):
        sample_z(**options)


@pytest.mark.parametrize("walk", [lerp, slerp])
def test_a_walk_starts_at_a_and_ends_at_b(ends, walk):
    a, b = ends
    torch.testing.assert_close(walk(a, b, 0), a, rtol=0, atol=1e-12)
    torch.testing.assert_close(walk(a, b, 1.0), b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("walk", [lerp, slerp])
def test_a_walk_backwards_is_the_walk_from_b_to_a(ends, walk):
    a, b = ends
    torch.testing.assert_close(walk(a, b, 0.3), walk(b, a, 0.7), rtol=0, atol=1e-12)


def test_lerp_is_the_weighted_mean():
    a, b = torch.tensor([0.0, 4.0]), torch.tensor([8.0, 0.0])
    assert lerp(a, b, 0.25).tolist() == [2.0, 3.0]


def test_slerp_halfway_between_right_angled_unit_vectors_is_at_45_degrees():
    half = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    assert half.tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    third = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), 1 / 3)
    assert third.tolist() == pytest.approx([math.sqrt(3), 1.0])


def test_slerp_keeps_the_norm_and_lerp_cuts_the_corner(ends):
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(slerp(*ends, t).norm(dim=-1), torch.full((11,), 3.0).double())
    assert lerp(*ends, 0.5).norm().item() == pytest.approx(3 * torch.cos(angle(*ends) / 2).item())


def test_slerp_turns_at_constant_speed(ends):
    a, b = ends
    t = torch.linspace(0, 1, 9).double()
    torch.testing.assert_close(angle(slerp(a, b, t), a), t * angle(a, b), rtol=0, atol=1e-6)


@pytest.mark.parametrize("walk", [lerp, slerp])
@pytest.mark.parametrize("shape", [(6,), (2, 6), (3, 2, 6)])
def test_a_tensor_of_positions_adds_one_axis_in_front(rng, walk, shape):
    a, b = torch.randn(2, *shape, generator=rng(1))
    t = torch.tensor([0.0, 0.2, 0.9, 1.0])
    path = walk(a, b, t)
    assert path.shape == (4, *shape)
    assert walk(a, b, 0.2).shape == shape
    assert walk(a, b, torch.tensor(0.2)).shape == shape
    for position, points in zip(t.tolist(), path, strict=True):
        torch.testing.assert_close(points, walk(a, b, position))


def test_each_row_of_a_batch_walks_on_its_own(rng):
    a, b = torch.randn(2, 5, 8, generator=rng(2))
    rows = torch.stack([slerp(start, end, 0.3) for start, end in zip(a, b, strict=True)])
    torch.testing.assert_close(slerp(a, b, 0.3), rows)


@pytest.mark.parametrize("turn", [0.0, 1e-7, 1e-4, 1.5e-3, 0.1, 0.4, 3.13])
def test_slerp_is_right_from_nearly_parallel_to_nearly_opposite_points(turn):
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(turn), math.sin(turn)])
    half = slerp(a, b, 0.5)
    assert half.tolist() == pytest.approx([math.cos(turn / 2), math.sin(turn / 2)], abs=1e-4)
    assert half.norm().item() == pytest.approx(1, abs=2e-4)


def test_parallel_points_of_different_norm_are_joined_by_a_line():
    a = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a)


@pytest.mark.parametrize("turn", [0.0, 1e-5, 1.0, 3.0])
def test_slerp_passes_finite_gradients_on(turn):
    a = torch.tensor([1.0, 0.0], requires_grad=True)
    b = torch.tensor([math.cos(turn), math.sin(turn)], requires_grad=True)
    slerp(a, b, 0.25).sum().backward()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()
    assert a.grad.abs().sum() > 0.1


def test_bad_walks_are_refused():
    a = torch.tensor([1.0, 2.0, 2.0])
    with pytest.raises(ValueError, match="opposite"):
        slerp(a, -2 * a, 0.5)
    with pytest.raises(ValueError, match="zero"):
        slerp(a, torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="zero"):
        slerp(torch.zeros(3), a, 0.5)
    for walk in (lerp, slerp):
        with pytest.raises(ValueError, match=r"\(3,\) and \(2, 3\)"):
            walk(a, torch.stack([a, a]), 0.5)
        with pytest.raises(ValueError, match=r"1-D.*\(1, 1\)"):
            walk(a, a, torch.zeros(1, 1))


def test_one_opposite_pair_in_a_batch_is_enough_to_refuse():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    with pytest.raises(ValueError, match="opposite"):
        slerp(a, b, 0.5)
