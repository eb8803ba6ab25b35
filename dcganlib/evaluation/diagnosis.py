"""What is wrong with a run, told from its numbers: the measurements, and the findings that follow from them.

Everything here takes rows, tensors and networks, and returns numbers; ``runs.measurements`` takes them from a
run's folder. A measurement is a number with a name. Those of images are shares of the same number for the
training images, so that 1 is normal for most of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Literal, get_args

import torch
from torch import Tensor

from dcganlib.evaluation import classifier, metrics
from dcganlib.losses import discriminator_loss, generator_loss
from dcganlib.models import Conditioned, Discriminator, Generator

Measurements = dict[str, float]
Certainty = Literal["certain", "likely", "possible"]
CERTAINTIES = get_args(Certainty)

LAST = 100  # steps, or a quarter of a shorter run, whose losses describe its end
LAST_GRIDS = 6  # that do so for its samples
TINY = 1e-12


@dataclass(frozen=True)
class Sign:
    """A bound beyond which a measurement speaks for a failure.

    Attributes:
        measurement: Its name.
        bound: Where it begins to speak for the failure.
        sure: Where runs without the failure are far away.
        below: Whether it does so below the bounds, not above.
    """

    measurement: str
    bound: float
    sure: float
    below: bool = False

    def weight(self, value: float) -> int:
        """0 for a value within the bounds, 1 beyond ``bound``, 2 beyond ``sure``."""
        sign = -1 if self.below else 1
        return sum(sign * value > sign * limit for limit in (self.bound, self.sure))


@dataclass(frozen=True)
class Rule:
    """When a run shows a failure.

    Attributes:
        name: Name of the failure.
        text: What is the matter, and what to do, in one or two sentences.
        signs: All must speak for it.
        fact: Whether the signs leave no other explanation.
        hides: Other failures that this one explains, and that are not reported beside it.
    """

    name: str
    text: str
    signs: tuple[Sign, ...]
    fact: bool = False
    hides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A failure that a run shows.

    Attributes:
        name: Its name.
        certainty: "certain" where nothing else has these numbers, "likely" where they are far from those of
            runs without it, "possible" where they are not.
        text: What is the matter, and what to do.
        numbers: The measurements that say so, with the bound that each lies beyond, such as "above 0.5".
    """

    name: str
    certainty: Certainty
    text: str
    numbers: dict[str, tuple[float, str]]

    def __str__(self) -> str:
        shown = (f"{name} {value:.3g} ({bound})" for name, (value, bound) in self.numbers.items())
        return f"{self.name}, {self.certainty}: {self.text} [{'; '.join(shown)}]"


RULES: tuple[Rule, ...] = ()


def judge(measurements: Mapping[str, float]) -> list[Finding]:
    """Say which failures some measurements show.

    Args:
        measurements: By name; a rule whose measurements are absent does not apply.

    Returns:
        The findings, the surest first; none if nothing is unusual.
    """
    found: dict[str, Finding] = {}
    hidden: set[str] = set()
    for rule in RULES:
        values = [measurements.get(sign.measurement, math.nan) for sign in rule.signs]
        weight = min(sign.weight(value) for sign, value in zip(rule.signs, values, strict=True))
        if weight:
            certainty = CERTAINTIES[0 if rule.fact else 3 - weight]
            found[rule.name] = Finding(rule.name, certainty, rule.text, _numbers(rule, values))
            hidden |= set(rule.hides)
    kept = [finding for name, finding in found.items() if name not in hidden]
    return sorted(kept, key=lambda finding: CERTAINTIES.index(finding.certainty))


def _numbers(rule: Rule, values: Sequence[float]) -> dict[str, tuple[float, str]]:
    return {
        sign.measurement: (value, f"{'below' if sign.below else 'above'} {sign.bound:g}")
        for sign, value in zip(rule.signs, values, strict=True)
    }


def diversity(images: Tensor, labels: Tensor | None = None) -> float:
    """How much the images of a set differ from each other.

    Args:
        images: Floats of shape (N, C, H, W), N at least 2.
        labels: int64 (N,): only differences within a class count, each class by its number of images.

    Returns:
        Root of the mean variance of a pixel over the images: 0 for copies of one image.
    """
    rows = images.flatten(1).double()
    if labels is None:
        return rows.var(0, correction=0).mean().sqrt().item()
    within = rows.clone()
    for label in labels.unique():
        within[labels == label] -= rows[labels == label].mean(0)
    return within.square().mean().sqrt().item()


def contrast(images: Tensor) -> float:
    """How much the pixels of an image differ from each other.

    Args:
        images: Floats of shape (N, C, H, W).

    Returns:
        Root of the mean variance over the pixels of a channel: 0 for uniform images.
    """
    return images.double().var((2, 3), correction=0).mean().sqrt().item()


def two_pixel_power(images: Tensor) -> float:
    """Share of an image's power in waves of two pixels, the period of stride 2: a checkerboard and stripes.

    Args:
        images: Floats of shape (N, C, H, W).

    Returns:
        From 0, for uniform images as well, to 1 for a pure checkerboard.
    """
    power = torch.fft.fft2(images.double()).abs().square().mean((0, 1))
    power[0, 0] = 0
    height, width = power.shape
    fine = power[height // 2].sum() + power[:, width // 2].sum() - power[height // 2, width // 2]
    total = power.sum()
    return (fine / total).item() if total > TINY else 0.0


def crowding(images: Tensor) -> float:
    """Median distance of an image to the nearest other one: 0 if most images have a copy.

    Args:
        images: Of shape (N, ...), N at least 2.
    """
    return metrics.nearest(images, images, skip_self=True).distances.median().item()


def of_history(rows: Sequence[Mapping[str, float]]) -> Measurements:
    """Measure the losses of a run.

    Args:
        rows: As in ``history.csv``.

    Returns:
        Means over the last steps, of the finite rows alone: "d_loss", "g_loss", "d_real", "d_fake"; "swing",
        the standard deviation of G's loss there; over all steps "highest_d_real" and "lowest_d_fake"; and
        "lost", the share of rows that are not finite.
    """
    names = ("d_loss", "g_loss", "d_real", "d_fake")
    finite = [row for row in rows if all(math.isfinite(row[name]) for name in names)]
    found = {"lost": 1 - len(finite) / len(rows)}
    if not finite:
        return found
    last = finite[-max(1, min(LAST, len(finite) // 4)) :]
    found |= {name: mean(row[name] for row in last) for name in names}
    found["swing"] = mean((row["g_loss"] - found["g_loss"]) ** 2 for row in last) ** 0.5
    found["highest_d_real"] = max(row["d_real"] for row in finite)
    found["lowest_d_fake"] = min(row["d_fake"] for row in finite)
    return found


def of_grids(grids: Sequence[Tensor], real: Tensor, labels: Tensor | None = None) -> Measurements:
    """Measure samples from the same latents over time.

    Args:
        grids: Samples (N, C, H, W) in [-1, 1] at several steps, in order.
        real: Training images of the same shape, N at least 2.
        labels: Classes of the samples, int64 (N,), in a class-conditional run.

    Returns:
        "grid_diversity", the mean of the last grids' diversity, and "lowest_grid_diversity" among them;
        "motion", how much a sample changes from grid to grid at the end, and "common_motion", how much the
        mean of all samples does; "total_motion", how much a sample changes from the first grid to the last.
        All are shares of the training images' diversity.
    """
    scale = diversity(real) + TINY
    last = [grid.float() for grid in grids[-LAST_GRIDS:]]
    spreads = [diversity(grid, labels) / scale for grid in last]
    found = {"grid_diversity": mean(spreads), "lowest_grid_diversity": min(spreads)}
    if len(last) > 1:
        steps = [two - one for one, two in pairwise(last)]
        found["motion"] = mean(_size(step) for step in steps) / scale
        found["common_motion"] = mean(_size(step.mean(0)) for step in steps) / scale
        found["total_motion"] = _size(grids[-1].float() - grids[0].float()) / scale
    return found


def of_samples(fake: Tensor, real: Tensor, labels: Tensor | None = None) -> Measurements:
    """Measure samples beside training images.

    Args:
        fake: Samples (N, C, H, W) in [-1, 1].
        real: Training images of the same shape, about as many.
        labels: Classes of the samples, int64 (N,), in a class-conditional run.

    Returns:
        "diversity", "contrast", "crowding" and "two_pixel_power" as shares of the training images' values;
        "level", the difference of the mean pixels; "lowest_pixel" of the training images; and for colour
        images "red_over_blue", how much redder than blue the mean training image is.
    """
    count = min(len(fake), len(real))
    found = {
        "diversity": diversity(fake, labels) / (diversity(real) + TINY),
        "contrast": contrast(fake) / (contrast(real) + TINY),
        "crowding": crowding(fake[:count]) / (crowding(real[:count]) + TINY),
        "two_pixel_power": two_pixel_power(fake) / (two_pixel_power(real) + 1e-6),
        "level": (fake.mean() - real.mean()).item(),
        "lowest_pixel": real.min().item(),
    }
    if real.shape[1] == 3:
        red, _, blue = real.mean((0, 2, 3)).tolist()
        found["red_over_blue"] = red - blue
    return found


def of_classes(
    network: classifier.Classifier, fake: Tensor, real: Tensor, labels: Tensor | None = None
) -> Measurements:
    """Measure what samples show, by a classifier of the training images.

    Args:
        network: Its classes exclude each other.
        fake: Samples (N, C, H, W) in [-1, 1].
        real: Training images of the same shape.
        labels: Classes that the samples were asked for, int64 (N,).

    Returns:
        "classes", the number of equally frequent classes that would be as uncertain as the samples' are, as a
        share of the training images'; "confidence" in the training images, the mean probability of the
        likeliest class; "precision" and "recall"; and with labels "agreement", the share of samples that show
        the class they were asked for.

    Raises:
        ValueError: The classifier is one of attributes.
    """
    if network.multilabel:
        raise ValueError("the classifier has attributes, not classes")
    features = [metrics.extract(network, images) for images in (fake, real)]
    with torch.no_grad():
        chances = [network.head(rows).softmax(1) for rows in features]
    shown = chances[0].argmax(1)
    perplexities = [_perplexity(torch.bincount(one.argmax(1), minlength=network.outputs)) for one in chances]
    precision, recall = metrics.precision_recall(features[1], features[0])
    found = {
        "classes": perplexities[0] / perplexities[1],
        "confidence": chances[1].max(1).values.mean().item(),
        "precision": precision,
        "recall": recall,
    }
    if labels is not None:
        found["agreement"] = (shown == labels.to(shown.device)).double().mean().item()
    return found


def of_generator(generator: Generator, z: Tensor, real: Tensor, labels: Tensor | None = None) -> Measurements:
    """Measure a generator and its batch statistics.

    Args:
        generator: Not changed.
        z: Latents (N, latent_dim).
        real: Training images (M, C, H, W) in [-1, 1].
        labels: int64 (N,), of a conditional generator.

    Returns:
        "training_diversity" and "training_contrast" of samples drawn with the statistics of their own batch;
        "statistics_gap", how far they lie from those drawn with the running statistics; all as shares of the
        training images' values. "normed", the share of its inner layers with a batch norm.
    """
    inner = generator.layers[:-1]
    found = {"normed": mean(layer.norm is not None for layer in inner) if inner else 0.0}
    network = copy.deepcopy(generator)
    given = () if labels is None else (labels,)
    with torch.no_grad():
        stored, own = (network.train(mode)(z, *given).float() for mode in (False, True))
    scale = diversity(real) + TINY
    found["training_diversity"] = diversity(own, labels) / scale
    found["training_contrast"] = contrast(own) / (contrast(real) + TINY)
    found["statistics_gap"] = _size(own - stored) / scale
    return found


def of_pair(
    generator: Generator,
    discriminator: Discriminator,
    z: Tensor,
    real: Tensor,
    labels: Tensor | None = None,
) -> Measurements:
    """Measure the gradients of a pair, and how its D judges batches.

    Args:
        generator, discriminator: Not changed.
        z: Latents (N, latent_dim).
        real: Training images (N, C, H, W) in [-1, 1].
        labels: int64 (N,), of a conditional pair: of the images, and used for the samples too.

    Returns:
        "g_gradient", the norm of the gradient of G's non-saturating loss beside that of its weights;
        "saturating_gradient", that of the minimax game's loss; "unseen", the share of pixels that D's output
        does not depend on; "loss_apart" and "loss_joined", D's loss on real and fake in two batches and in
        one, with the batches' own statistics.
    """
    g, d = (copy.deepcopy(network).train() for network in (generator, discriminator))
    g.requires_grad_(True)
    players = (g, d) if labels is None else (Conditioned(g, labels), Conditioned(d, labels))
    with torch.enable_grad():
        fake = players[0](z).float()
        logits = players[1](fake).float()
        losses = generator_loss(logits), -discriminator_loss(logits.new_full((1,), 50.0), logits)
        weights = list(g.parameters())
        sizes = [
            _size_of(torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True))
            for loss in losses
        ]
        seen = real.clone().requires_grad_()
        frozen = d.eval() if labels is None else Conditioned(d.eval(), labels)
        (gradient,) = torch.autograd.grad(frozen(seen).sum(), seen)
    d.train()
    with torch.no_grad():
        fake = fake.detach()
        apart = discriminator_loss(players[1](real).float(), players[1](fake).float())
        both = d if labels is None else Conditioned(d, labels.repeat(2))
        joined = discriminator_loss(*both(torch.cat([real, fake])).float().chunk(2))
    return {
        "g_gradient": sizes[0] / (_size_of(weights) + TINY),
        "saturating_gradient": sizes[1] / (_size_of(weights) + TINY),
        "unseen": (gradient == 0).all(0).all(0).double().mean().item(),
        "loss_apart": apart.item(),
        "loss_joined": joined.item(),
    }


def of_optimizer(optimizer: torch.optim.Optimizer) -> float:
    """How far Adam's next step moves the weights, beside their size: the median over the convolutions.

    Args:
        optimizer: Adam, with the moments of the steps so far.

    Returns:
        Norm of the step over the norm of the weights; 0 if no weight has ever had a gradient.
    """
    shares = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if parameter.dim() > 1 and "exp_avg" in state:
                step, (beta1, beta2) = float(state["step"]), group["betas"]
                first = state["exp_avg"] / (1 - beta1**step)
                second = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt() + group["eps"]
                shares.append(
                    float(group["lr"]) * ((first / second).norm() / (parameter.norm() + TINY)).item()
                )
    return sorted(shares)[len(shares) // 2] if shares else 0.0


def _size(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()


def _size_of(tensors: Sequence[Tensor | None]) -> float:
    """Norm of several tensors together."""
    return math.sqrt(sum(one.double().square().sum().item() for one in tensors if one is not None))


def _perplexity(counts: Tensor) -> float:
    return float(torch.special.entr(counts.double() / counts.sum()).sum().exp())
