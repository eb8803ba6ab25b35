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
from torch import Tensor, nn
from torch.nn import functional as F

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


YOUNG = 250  # steps up to which a healthy G may draw a few kinds of images alone
HALF = 1 / (1 + math.exp(-1))  # the largest probability after two sigmoids

ALL_FAILED = ("full_collapse", "partial_collapse", "oscillating_collapse", "grey_g", "d_wins", "lr_too_low")

RULES = (
    Rule(
        "divergence",
        "a loss or a weight was NaN or infinite; start again with smaller learning rates, and with losses "
        "computed from logits",
        (Sign("diverged", 0.5, 0.5),),
        fact=True,
        hides=(*ALL_FAILED, "lr_too_high", "g_untrained", "joined_batch", "bn_eval_statistics"),
    ),
    Rule(
        "g_untrained",
        "no weight of G has ever had a gradient: G's images are cut off from its loss, or its optimiser has "
        "other weights",
        (Sign("g_moments", 0.5, 0.5, below=True), Sign("steps", 0, 0)),
        fact=True,
        hides=ALL_FAILED,
    ),
    Rule(
        "sigmoid_twice",
        "D's probabilities stay between 0.5 and 0.731, as after two sigmoids: give the loss D's logits",
        (
            Sign("lowest_d_fake", 0.4999, 0.4999),
            Sign("highest_d_real", 0.7, 0.725),
            Sign("d_real", HALF + 0.001, HALF + 0.001, below=True),
        ),
        hides=ALL_FAILED,
    ),
    Rule(
        "data_range",
        "no pixel of the training images is below the middle of the range, so they are in [0, 1] where G's "
        "tanh gives [-1, 1]: scale them with 2 x - 1",
        (Sign("lowest_pixel", -0.1, -0.01, below=False),),
        fact=True,
    ),
    Rule(
        "blind_border",
        "D's output does not depend on some pixels, so G may draw anything there: choose kernel, stride and "
        "padding so that no row is dropped",
        (Sign("unseen", 0, 0), Sign("unseen", 0.9, 0.9, below=True)),
        fact=True,
    ),
    Rule(
        "joined_batch",
        "D tells real from fake only where both are in one batch, by the batch's statistics: give it two "
        "batches",
        (Sign("joined_gain", 0.5, 1.5),),
        hides=ALL_FAILED,
    ),
    Rule(
        "bn_eval_statistics",
        "samples drawn with the running statistics differ from those drawn with the batch's own by more than "
        "two training images do: the statistics were lost, or averaged too slowly",
        (Sign("statistics_gap", 1.1, 1.5),),
        hides=("full_collapse", "partial_collapse", "oscillating_collapse", "grey_g"),
    ),
    Rule(
        "lr_too_high",
        "D's logits and G's loss are far outside of what they learn from; start again with learning rates "
        "ten times smaller",
        (Sign("g_loss", 12, 30),),
        hides=ALL_FAILED,
    ),
    Rule(
        "lr_too_low",
        "a step moves the weights by less than a ten-thousandth, and the samples are nearly those of the "
        "first grid; use larger learning rates",
        (
            Sign("g_update", 3e-4, 1.2e-4, below=True),
            Sign("d_update", 3e-4, 1.2e-4, below=True),
            Sign("total_motion", 0.3, 0.25, below=True),
        ),
        hides=("full_collapse", "partial_collapse", "oscillating_collapse", "grey_g", "d_wins"),
    ),
    Rule(
        "grey_g",
        "the samples are nearly uniform, and G's inner layers have no batch norm: give them one",
        (
            Sign("normed", 0.5, 0.5, below=True),
            Sign("contrast", 0.35, 0.15, below=True),
            Sign("training_contrast", 0.35, 0.15, below=True),
        ),
        hides=("full_collapse", "partial_collapse", "oscillating_collapse", "d_wins"),
    ),
    Rule(
        "d_wins",
        "D is right about every image, and the samples are far less diverse than the training images: use "
        "the non-saturating loss, a smaller d_lr, or dropout in D",
        (
            Sign("d_real", 0.99, 0.998),
            Sign("d_fake", 0.005, 0.001, below=True),
            Sign("diversity", 0.6, 0.45, below=True),  # with a good G, a D that is far ahead does no harm
        ),
        hides=("full_collapse", "partial_collapse", "oscillating_collapse"),
    ),
    Rule(
        "oscillating_collapse",
        "all samples look alike, and all together change from grid to grid: G runs from one image to the "
        "next and D follows",
        (
            Sign("grid_diversity", 0.3, 0.25, below=True),
            Sign("common_motion", 0.7, 0.9),
            Sign("d_fake", 0.25, 0.35),
        ),
        hides=("full_collapse", "partial_collapse"),
    ),
    Rule(
        "full_collapse",
        "every latent gives nearly the same image, which hardly changes: start again with batch norm in both "
        "networks, or with a faster D",
        (
            Sign("diversity", 0.3, 0.2, below=True),
            Sign("grid_diversity", 0.3, 0.2, below=True),
            Sign("contrast", 0.35, 0.5),
            Sign("d_fake", 0.25, 0.35),
        ),
        hides=("partial_collapse",),
    ),
    Rule(
        "full_collapse",
        "every latent gives nearly the same image, after a thousand steps and without growing more diverse: "
        "start again with another seed or smaller learning rates",
        (
            Sign("steps", 999, 1999),
            Sign("diversity", 0.3, 0.2, below=True),
            Sign("growth", 1.2, 1.1, below=True),
            Sign("contrast", 0.35, 0.5),
        ),
        hides=("partial_collapse",),
    ),
    Rule(
        "partial_collapse",
        "the samples are far less diverse than the training images, and many are nearly alike: G draws only "
        "some of the kinds",
        (
            Sign("steps", YOUNG, YOUNG),
            Sign("diversity", 0.6, 0.45, below=True),
            Sign("crowding", 0.5, 0.35, below=True),
            Sign("contrast", 0.35, 0.5),
            Sign("d_fake", 0.05, 0.1),
        ),
    ),
    Rule(
        "partial_collapse",
        "D is hardly better than chance, and some classes are rare among the samples: give D a larger "
        "learning rate",
        (
            Sign("steps", YOUNG, YOUNG),
            Sign("d_gap", 0.15, 0.1, below=True),
            Sign("classes", 0.8, 0.6, below=True),
        ),
    ),
    Rule(
        "checkerboard",
        "the kernel of G's last layer with a stride is no multiple of it, and even and odd pixels differ: "
        "take kernel 4 for stride 2",
        (Sign("uneven", 0.5, 0.5), Sign("phase_contrast", 0.14, 0.3)),
    ),
    Rule(
        "memorization",
        "samples lie nearer to training images than these to each other, so G copies: use more images",
        (Sign("memorization", 0.85, 0.7, below=True), Sign("contrast", 0.5, 0.7)),
    ),
    Rule(
        "shuffled_labels",
        "samples are as good as their class is wrong: the labels belong to other images, or G ignores them",
        (Sign("agreement", 0.5, 0.25, below=True), Sign("precision", 0.05, 0.2)),
    ),
    Rule(
        "swapped_channel",
        "the training faces are bluer than red: their channels are in the order blue, green, red",
        (Sign("red_over_blue", 0, -0.05, below=True),),
    ),
    Rule(
        "mirrored",
        "the dataset's classifier is unsure about the training images themselves: they may be mirrored, "
        "turned or inverted",
        (Sign("confidence", 0.95, 0.9, below=True),),
    ),
)
"""What is looked for. A failure that has two rules is reported once."""


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
        sign.measurement: (value, f"{'below' if sign.below else 'above'} {sign.bound:.3g}")
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


def phase_contrast(images: Tensor) -> float:
    """How much the fine detail of images depends on whether their rows and columns are even or odd.

    Layers of stride 2 whose kernel is no multiple of 2 add more terms to some pixels than to their
    neighbours, which shows as a checkerboard.

    Args:
        images: Floats of shape (N, C, H, W), H and W at least 8.

    Returns:
        Range of the detail's mean square over the four phases, over its mean: 0 where all phases are alike, 4
        where one phase has all of it.

    Source:
        Odena et al. 2016.
    """
    images = images.double()
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    detail = (images - smooth)[..., 2:-2, 2:-2].square()
    phases = torch.stack([detail[..., row::2, column::2].mean() for row in (0, 1) for column in (0, 1)])
    return ((phases.max() - phases.min()) / (phases.mean() + TINY)).item()


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
        Means over the last steps, of the finite rows alone: "d_loss", "g_loss", "d_real", "d_fake"; "d_gap",
        the difference of the last two; "swing",
        the standard deviation of G's loss there; "steps", the last step; over all steps "highest_d_real" and
        "lowest_d_fake"; and "lost", the share of rows that are not finite.
    """
    names = ("d_loss", "g_loss", "d_real", "d_fake")
    finite = [row for row in rows if all(math.isfinite(row[name]) for name in names)]
    found = {"lost": 1 - len(finite) / len(rows), "steps": float(rows[-1]["step"])}
    if not finite:
        return found
    last = finite[-max(1, min(LAST, len(finite) // 4)) :]
    found |= {name: mean(row[name] for row in last) for name in names}
    found["d_gap"] = found["d_real"] - found["d_fake"]
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
        "grid_diversity", the mean of the last grids' diversity; "growth", the last one's over that of a grid
        twice as many grids ago;
        "motion", how much a sample changes from grid to grid at the end, and "common_motion", how much the
        mean of all samples does; "total_motion", how much a sample changes from the first grid to the last.
        All are shares of the training images' diversity.
    """
    scale = diversity(real) + TINY
    before = diversity(grids[max(0, len(grids) - 2 * LAST_GRIDS)], labels)
    last = [grid.float() for grid in grids[-LAST_GRIDS:]]
    spreads = [diversity(grid, labels) / scale for grid in last]
    found = {"grid_diversity": mean(spreads), "growth": spreads[-1] * scale / (before + TINY)}
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
        "diversity", "contrast" and "crowding" as shares of the training images' values; "phase_contrast" and
        "level", the difference of the mean pixels; "lowest_pixel" of the training images; and for colour
        images "red_over_blue", how much redder than blue the mean training image is.
    """
    count = min(len(fake), len(real))
    found = {
        "diversity": diversity(fake, labels) / (diversity(real) + TINY),
        "contrast": contrast(fake) / (contrast(real) + TINY),
        "crowding": crowding(fake[:count]) / (crowding(real[:count]) + TINY),
        "phase_contrast": phase_contrast(fake),
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
        likeliest class as a share of the classifier's test accuracy, which it is normally close to (1 is
        taken where the accuracy is not known); "precision" and "recall"; and with labels "agreement", the
        share of samples that show the class they were asked for.

    Raises:
        ValueError: The classifier is one of attributes.
    """
    if network.multilabel:
        raise ValueError("the classifier has attributes, not classes")
    features = [metrics.extract(network, images) for images in (fake, real)]
    with torch.no_grad():
        chances = [network.head(rows).softmax(1) for rows in features]
    shown = chances[0].argmax(1)
    perplexities = [perplexity(torch.bincount(one.argmax(1), minlength=network.outputs)) for one in chances]
    precision, recall = metrics.precision_recall(features[1], features[0])
    found = {
        "classes": perplexities[0] / perplexities[1],
        "confidence": chances[1].max(1).values.mean().item() / network.about.get("test_accuracy", 1.0),
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
        training images' values. "normed", the share of its inner layers with a normalisation. "uneven", 1 if
        the kernel of its last layer with a stride is no multiple of that, else 0.
    """
    inner = generator.layers[:-1]
    found = {"normed": mean(layer.norm is not None for layer in inner) if inner else 1.0}
    strided = [layer for layer in generator.layers if layer.stride > 1]
    found["uneven"] = float(bool(strided) and strided[-1].kernel % strided[-1].stride > 0)
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
        does not depend on; "loss_apart", D's loss on real and fake in two batches with their own statistics,
        and "joined_gain", how much lower it is with both in one batch.
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
    found = unseen(d.eval() if labels is None else Conditioned(d.eval(), labels), real)
    d.train()
    with torch.no_grad():
        fake = fake.detach()
        apart = discriminator_loss(players[1](real).float(), players[1](fake).float())
        both = d if labels is None else Conditioned(d, labels.repeat(2))
        joined = discriminator_loss(*both(torch.cat([real, fake])).float().chunk(2))
    return {
        "g_gradient": sizes[0] / (_size_of(weights) + TINY),
        "saturating_gradient": sizes[1] / (_size_of(weights) + TINY),
        "unseen": found,
        "loss_apart": apart.item(),
        "joined_gain": (apart - joined).item(),
    }


def unseen(discriminator: nn.Module, images: Tensor) -> float:
    """Share of pixels that a discriminator's output does not depend on.

    Args:
        discriminator: Maps images to logits, in eval mode.
        images: Float (N, C, H, W).
    """
    with torch.enable_grad():
        seen = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(seen).sum(), seen)
    return (gradient == 0).all(0).all(0).double().mean().item()


def of_optimizer(optimizer: torch.optim.Optimizer) -> float:
    """How far Adam's next step moves the weights, beside their size: the median over the convolutions.

    Args:
        optimizer: Adam, with the moments of the steps so far.

    Returns:
        Norm of the step over the norm of the weights; 0 without a gradient.
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


def has_moments(optimizer: torch.optim.Optimizer) -> bool:
    """Whether any weight of an Adam has ever had a gradient.

    Args:
        optimizer: Adam.
    """
    moments = (state["exp_avg_sq"] for state in optimizer.state.values() if "exp_avg_sq" in state)
    return any(bool((moment != 0).any()) for moment in moments)


def _size(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()


def _size_of(tensors: Sequence[Tensor | None]) -> float:
    """Norm of several tensors together."""
    return math.sqrt(sum(one.double().square().sum().item() for one in tensors if one is not None))


def perplexity(counts: Tensor) -> float:
    """The number of equally frequent classes that would be as uncertain.

    Args:
        counts: How often each class occurs, (K,), not all 0.
    """
    return float(torch.special.entr(counts.double() / counts.sum()).sum().exp())
