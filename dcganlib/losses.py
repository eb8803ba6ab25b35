"""The two players' losses, on logits.

D's probability is sigmoid(logit). With softplus(x) = log(1 + e^x), -log sigmoid(x) = softplus(-x) and
-log(1 - sigmoid(x)) = softplus(x): exact for any logit, without an epsilon that flattens the gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus


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


def _checked(logits: Tensor, name: str) -> Tensor:
    """Refuse an empty batch, whose mean would be NaN; compute half-precision logits in float32."""
    if logits.numel() == 0:
        raise ValueError(f"{name} is empty: expected at least one logit, got shape {tuple(logits.shape)}")
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
