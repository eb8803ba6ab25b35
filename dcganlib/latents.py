"""Points of the latent space: sampling them, and interpolating between them."""

from __future__ import annotations

import torch
from torch import Tensor

from dcganlib.config import PRIORS, Prior
from dcganlib.runtime.checks import check_integers


def sample_z(
    n: int,
    latent_dim: int = 100,
    *,
    prior: Prior = "normal",
    rng: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw a latent batch z from the prior p_z.

    Args:
        n: Number of points, at least 1.
        latent_dim: Numbers in a point, at least 1; 100 in the paper.
        prior: "normal" for N(0, 1), as in most code, or "uniform" on [-1, 1), as in the paper.
        rng: Source of randomness, on the CPU; torch's global one if absent.
        device: Where the batch goes. It is drawn on the CPU, so a seed gives the same z on every device.

    Returns:
        float32 of shape (n, latent_dim), regardless of torch's default dtype and device.

    Raises:
        ValueError: A count is not an integer of at least 1, or the prior is unknown.
        MemoryError: The points do not fit into memory.

    Source:
        Radford et al. 2016, section 4 and figure 1 (uniform, 100 numbers).
    """
    check_integers(n=n, latent_dim=latent_dim)
    if prior not in PRIORS:
        raise ValueError(f"prior must be one of {PRIORS}, got {prior!r}")
    draw = torch.randn if prior == "normal" else torch.rand
    try:
        z = draw(n, latent_dim, generator=rng, dtype=torch.float32, device="cpu")
    except (RuntimeError, TypeError) as error:  # the second for numbers beyond 64 bits
        if "generator" in str(error):  # the wrong type, or on another device
            raise
        raise MemoryError(
            f"n = {n:,} latents of latent_dim = {latent_dim:,} numbers take {4 * n * latent_dim / 1e9:,.0f} "
            "GB, more than this machine gives"
        ) from error
    if prior == "uniform":
        z.mul_(2).sub_(1)
    if torch.device(device).type == "cuda":  # a copy from pageable memory waits for the GPU
        return z.pin_memory().to(device, non_blocking=True)
    return z.to(device)


def lerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Interpolate linearly from a to b: (1 - t) a + t b.

    Args:
        a: Start, shape (..., latent_dim).
        b: End, shape (..., latent_dim).
        t: Position, 0 at a and 1 at b; a number, or a tensor of T positions.

    Returns:
        Shape (..., latent_dim) for a number, (T, ..., latent_dim) for a tensor of T positions.

    Raises:
        ValueError: The shapes of a and b differ.
    """
    a, b, t = _matched(a, b, t)
    return (1 - t) * a + t * b


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Interpolate from a to b along the arc between them, at constant angular speed.

    Halfway between two independent normal points, the straight line has 1/sqrt(2) of the norm of almost any
    sample; the arc keeps the norm.

    Args:
        a: Start, shape (..., latent_dim), not zero.
        b: End, shape (..., latent_dim), not zero.
        t: Position, 0 at a and 1 at b; a number, or a tensor of T positions.

    Returns:
        Shape (..., latent_dim) for a number, (T, ..., latent_dim) for a tensor of T positions.
        Points that lie in nearly the same direction are joined by a straight line.

    Raises:
        ValueError: The shapes differ, a point is zero, or two points lie in opposite directions, where
            every arc is as good as any other.

    Source:
        Shoemake 1985, section 3.3; White 2016, section 2.1.
    """
    a, b, t = _matched(a, b, t)
    norms = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    if (norms[0] == 0).any() or (norms[1] == 0).any():
        raise ValueError("slerp needs directions: a point is zero")
    # The angle from the half-chords: exact near 0 and near pi, where arccos of the product is not.
    unit_a, unit_b = a / norms[0], b / norms[1]
    angle = 2 * torch.atan2(
        (unit_a - unit_b).norm(dim=-1, keepdim=True), (unit_a + unit_b).norm(dim=-1, keepdim=True)
    )
    if (torch.pi - angle < 1e-3).any():
        raise ValueError("slerp is undefined between opposite points: no arc is the shortest")
    sine = angle.sin()
    near = angle < 1e-3
    safe = torch.where(near, torch.ones_like(sine), sine)
    arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / safe
    return torch.where(near, (1 - t) * a + t * b, arc)


def _matched(a: Tensor, b: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Check that a and b have one shape, and reshape t to broadcast against them."""
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device)
    if t.dim() > 1:
        raise ValueError(f"t must be a number or a 1-D tensor of positions, got shape {tuple(t.shape)}")
    return a, b, t.reshape(t.shape + (1,) * a.dim()) if t.dim() else t
