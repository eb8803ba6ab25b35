"""The exponential moving average (EMA) of the generator's weights."""

from __future__ import annotations

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn, update_bn

from dcganlib.config import Prior
from dcganlib.latents import sample_z
from dcganlib.layers import spectral_norms
from dcganlib.models import Conditioned, Generator
from dcganlib.runtime.randomness import fork_rng

BN_BATCHES, BN_BATCH_SIZE = 4, 128  # latents from which `calibrate` takes batch norm's statistics


def update_ema(ema_model: Generator, generator: Generator, decay: float, step: int) -> None:
    """Move the averaged weights a little towards the current ones: a <- decay a + (1 - decay) w.

    Args:
        ema_model: A copy of the generator; its parameters are changed in place, its batch-norm statistics
            are not.
        generator: As it is after this step.
        decay: From 0 to below 1. While (1 + step) / (10 + step) is smaller, that is used instead, so that
            the average forgets the initial weights; in place of 0.999, until step 8,990.
        step: Steps done, from 1.

    Source:
        Yazıcı et al. 2019, for averaging in GANs.
    """
    # Not AveragedModel: it hands the step to its function as a tensor on the device, and reading that for the
    # warm-up would make a GPU wait in every step. It also copies statistics that `calibrate` replaces.
    average = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
    average(list(ema_model.parameters()), list(generator.parameters()), None)


@torch.inference_mode(False)
def calibrate(generator: Generator, prior: Prior = "normal") -> None:
    """Measure the statistics of G's batch norms and spectral norms anew, as averaged weights need their own.

    Averaged running statistics fit no network: early in a run, samples drawn with them are much worse. The
    latents are seeded, so the same weights always get the same statistics.

    Args:
        generator: Its statistics are changed in place. If it is conditional, all classes are drawn equally
            often.
        prior: Law of z that the generator was trained with.

    Source:
        Izmailov et al. 2018, section 3.2, for averaged weights and batch norm.
    """
    device, rng = next(generator.parameters()).device, torch.Generator().manual_seed(0)
    size = max(BN_BATCH_SIZE, generator.num_classes)
    z = sample_z(BN_BATCHES * size, generator.latent_dim, prior=prior, rng=rng, device=device)
    labels = torch.arange(size, device=device) % generator.num_classes if generator.num_classes else None
    network = generator if labels is None else Conditioned(generator, labels).train(generator.training)
    with fork_rng(rng, device):
        for norm, weight in spectral_norms(generator):
            norm.reset(weight)
        update_bn(z.split(size), network)
