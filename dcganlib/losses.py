"""The two players' losses, on logits, and the penalties on D's gradient.

D's probability is sigmoid(logit). With softplus(x) = log(1 + e^x), -log sigmoid(x) = softplus(-x) and
-log(1 - sigmoid(x)) = softplus(x): exact for any logit, without an epsilon that flattens the gradient.
``LOSSES`` has the pairs of losses by name; penalties are added to D's loss of any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from dcganlib.config import TrainConfig

Penalty = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of (discriminator, real, fake)


@dataclass(frozen=True)
class Loss:
    """What each player minimises. To add one, write its two functions and an entry in ``LOSSES``.

    Attributes:
        summary: What it is, in a line.
        discriminator: Takes (real_logits, fake_logits), returns a scalar.
        generator: Takes (fake_logits,), or (fake_logits, real_logits) if ``paired``; returns a scalar.
        paired: Whether G's loss compares with real images, which D then judges once more after its update.
    """

    summary: str
    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[..., Tensor]
    paired: bool = False


def discriminator_loss(
    real_logits: Tensor, fake_logits: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Binary cross-entropy of D: real images should get logits above 0, generated ones below.

    Args:
        real_logits: D's logits on real images, any shape, usually (N,).
        fake_logits: D's logits on generated images, any shape, usually (N,).
        reduction: "mean" averages the two halves (log 2 = 0.693 where D knows nothing), "sum" adds
            them (2 log 2 = 1.386), as the Flux tutorials do.

    Returns:
        A scalar of at least 0, in nats.

    Raises:
        ValueError: A tensor is empty, or the reduction is unknown.

    Source:
        Goodfellow et al. 2014, equation 1.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    real_half = softplus(-_checked(real_logits, "real_logits")).mean()  # -log D(x)
    fake_half = softplus(_checked(fake_logits, "fake_logits")).mean()  # -log(1 - D(G(z)))
    return real_half + fake_half if reduction == "sum" else (real_half + fake_half) / 2


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of G: the mean of -log D(G(z)).

    Args:
        fake_logits: D's logits on generated images, any shape, usually (N,).

    Returns:
        A scalar of at least 0, in nats; log 2 = 0.693 where D knows nothing. Its gradient at a logit is
        sigmoid(logit) - 1: close to -1 exactly where D wins.

    Raises:
        ValueError: The tensor is empty.

    Source:
        Goodfellow et al. 2014, section 3; Goodfellow 2016, section 3.2.3.
    """
    return softplus(-_checked(fake_logits, "fake_logits")).mean()


def minimax_generator_loss(fake_logits: Tensor) -> Tensor:
    """The original loss of G: the mean of log(1 - D(G(z))), to be minimised.

    Args:
        fake_logits: D's logits on generated images, any shape, usually (N,).

    Returns:
        A scalar of at most 0, in nats; -log 2 = -0.693 where D knows nothing. Its gradient at a logit is
        -sigmoid(logit): it vanishes where D wins, which is why it is not used to train.

    Raises:
        ValueError: The tensor is empty.

    Source:
        Goodfellow et al. 2014, equation 1.
    """
    return -softplus(_checked(fake_logits, "fake_logits")).mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss of D: the mean of max(0, 1 - D(x)) plus the mean of max(0, 1 + D(G(z))).

    Args:
        real_logits: D's logits on real images, any shape, usually (N,).
        fake_logits: D's logits on generated images, any shape, usually (N,).

    Returns:
        A scalar of at least 0; 2 where all logits are 0. Real images above 1 and generated ones below -1 have
        no gradient: D does not learn from what it is sure of.

    Raises:
        ValueError: A tensor is empty.

    Source:
        Lim & Ye 2017; Miyato et al. 2018, equation 16.
    """
    real_half = relu(1 - _checked(real_logits, "real_logits")).mean()
    return real_half + relu(1 + _checked(fake_logits, "fake_logits")).mean()


def wasserstein_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Wasserstein loss of D, here called the critic: the mean of D(G(z)) minus the mean of D(x).

    If no slope of D exceeds 1, minus the smallest value is the earth mover's distance between real and fake.
    The loss itself does not bound the slope: a ``gradient_penalty`` must.

    Args:
        real_logits: D's outputs on real images, any shape, usually (N,); scores, not logits.
        fake_logits: D's outputs on generated images, any shape, usually (N,).

    Returns:
        A scalar of either sign; 0 where D cannot tell them apart.

    Raises:
        ValueError: A tensor is empty.

    Source:
        Arjovsky et al. 2017, equation 2 and algorithm 1.
    """
    return _checked(fake_logits, "fake_logits").mean() - _checked(real_logits, "real_logits").mean()


def wasserstein_generator_loss(fake_logits: Tensor) -> Tensor:
    """Wasserstein and hinge loss of G: minus the mean of D(G(z)).

    Args:
        fake_logits: D's outputs on generated images, any shape, usually (N,).

    Returns:
        A scalar of either sign, whose gradient is -1/N at each of N logits.

    Raises:
        ValueError: The tensor is empty.

    Source:
        Arjovsky et al. 2017, algorithm 1; Miyato et al. 2018, equation 17.
    """
    return -_checked(fake_logits, "fake_logits").mean()


def relativistic_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Relativistic pairing loss of D: the mean of -log sigmoid(D(x) - D(G(z))), over pairs of images.

    D says which image of a pair is the real one: only differences of logits count.

    Args:
        real_logits: D's logits on real images, (N,).
        fake_logits: D's logits on as many generated images.

    Returns:
        A scalar of at least 0, in nats; log 2 = 0.693 where D knows nothing.

    Raises:
        ValueError: A tensor is empty, or their shapes differ.

    Source:
        Jolicoeur-Martineau 2019; Huang et al. 2024, equation 2, with f(t) = -log(1 + e^-t).
    """
    return softplus(-_difference(real_logits, fake_logits)).mean()


def relativistic_generator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Relativistic pairing loss of G: that of D with the two images of each pair exchanged.

    Args:
        fake_logits: D's logits on generated images, (N,).
        real_logits: D's logits on as many real images.

    Returns:
        A scalar of at least 0, in nats. Its gradient at a fake logit is (sigmoid(D(G(z)) - D(x)) - 1)/N:
        close to -1/N exactly where D wins.

    Raises:
        ValueError: A tensor is empty, or their shapes differ.

    Source:
        As ``relativistic_discriminator_loss``.
    """
    return softplus(_difference(real_logits, fake_logits)).mean()


LOSSES = {
    "bce": Loss("binary cross-entropy, non-saturating for G", discriminator_loss, generator_loss),
    "hinge": Loss("hinge loss with margin 1", hinge_discriminator_loss, wasserstein_generator_loss),
    "wasserstein": Loss(
        "Wasserstein loss; needs a penalty", wasserstein_discriminator_loss, wasserstein_generator_loss
    ),
    "relativistic": Loss(
        "relativistic pairing loss", relativistic_discriminator_loss, relativistic_generator_loss, paired=True
    ),
}
"""The losses that ``TrainConfig.loss`` names."""


def gradient_penalty(
    discriminator: nn.Module, real: Tensor, fake: Tensor, *, rng: torch.Generator | None = None
) -> Tensor:
    """How far D's slope is from 1 between real and generated images: the mean of ``(|grad D(x')| - 1)^2``.

    Each x' = e x + (1 - e) G(z) is drawn uniformly from the line between the two images of a pair.

    Args:
        discriminator: Maps images to logits, (N,). Use one without batch norm, by which an image's logit
            depends on the others'.
        real: float32 (N, C, H, W).
        fake: Generated images of the same shape; no gradient reaches G.
        rng: Source of e, on the images' device; torch's global one if absent.

    Returns:
        A float32 scalar of at least 0, differentiable by D's weights. WGAN-GP adds 10 times this to D's loss.

    Source:
        Gulrajani et al. 2017, equation 3 and algorithm 1.
    """
    share = torch.rand(len(real), 1, 1, 1, generator=rng, device=real.device)
    slopes = _input_gradient(discriminator, torch.lerp(fake.detach().float(), real, share)).norm(dim=1)
    penalty: Tensor = (slopes - 1).square().mean()
    return penalty


def zero_centered_penalty(discriminator: nn.Module, images: Tensor) -> Tensor:
    """How steep D is at some images: the mean of ``|grad D(x)|^2``. R1 takes real images, R2 generated ones.

    At equilibrium D is flat on the data. With this term training converges near there and does not circle.

    Args:
        discriminator: Maps images to logits, (N,); without batch norm, as for ``gradient_penalty``.
        images: (N, C, H, W); no gradient reaches G.

    Returns:
        A float32 scalar of at least 0, differentiable by D's weights; gamma/2 of it is added to D's loss.

    Source:
        Mescheder et al. 2018, section 4.1 (equations 9 and 10); Roth et al. 2017; Huang et al. 2024 use both.
    """
    return _input_gradient(discriminator, images).square().sum(dim=1).mean()


def penalties(config: TrainConfig) -> list[Penalty]:
    """The terms that a configuration adds to D's loss, with its weights."""
    terms: dict[Penalty, float] = {
        gradient_penalty: config.gradient_penalty,
        lambda discriminator, real, fake: zero_centered_penalty(discriminator, real): config.r1 / 2,
        lambda discriminator, real, fake: zero_centered_penalty(discriminator, fake): config.r2 / 2,
    }
    return [lambda *inputs, t=term, w=weight: w * t(*inputs) for term, weight in terms.items() if weight]


def _input_gradient(discriminator: nn.Module, images: Tensor) -> Tensor:
    """The gradient of each image's logit by its pixels, (N, C H W), differentiable by D's weights.

    In float32: small slopes vanish in half precision, and the CPU's layers for it have no second derivative.
    """
    images = images.detach().float().requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.flatten(1)


def _difference(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """D(x) - D(G(z)) of each pair."""
    if real_logits.shape != fake_logits.shape:
        shapes = f"{tuple(real_logits.shape)} and {tuple(fake_logits.shape)}"
        raise ValueError(f"a paired loss needs as many real as fake logits, got {shapes}")
    return _checked(real_logits, "real_logits") - _checked(fake_logits, "fake_logits")


def _checked(logits: Tensor, name: str) -> Tensor:
    """Refuse an empty batch, whose mean would be NaN; compute half-precision logits in float32."""
    if logits.numel() == 0:
        raise ValueError(f"{name} is empty: expected at least one logit, got shape {tuple(logits.shape)}")
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
