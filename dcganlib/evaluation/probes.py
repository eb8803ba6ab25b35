"""What a discriminator has learned: its features, a linear classifier on them, what its filters respond to.

The discriminator sees no labels. If a linear classifier on its features predicts the class of an image well,
it must have learned what tells the classes apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcganlib.datasets import check_tensor, to_float
from dcganlib.evaluation.metrics import extract
from dcganlib.models import Discriminator
from dcganlib.runtime.checks import check_integers

INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for C, the inverse weight of the L2 penalty."""


@dataclass(frozen=True)
class LinearProbe:
    """The result of a linear classifier on fixed features.

    Attributes:
        error: Share of wrong predictions on the test features.
        C: The chosen inverse weight of the L2 penalty.
    """

    error: float
    C: float


def discriminator_features(
    discriminator: Discriminator, images: Tensor, *, grid: int = 4, batch_size: int = 500
) -> Tensor:
    """Compute a discriminator's features: the maps of all its layers but the last, pooled and concatenated.

    The maps after each activation are max-pooled to ``grid`` by ``grid`` pixels; smaller maps stay as they
    are. The last layer only computes the logit. Where a map's size is no multiple of ``grid``, neighbouring
    windows overlap by a pixel.

    Args:
        discriminator: Unconditional. It runs in eval mode; its mode is restored.
        images: uint8, or float32 in [-1, 1], of shape (N, C, H, W), on any device.
        grid: Pixels of a pooled map along each side.
        batch_size: Images per batch.

    Returns:
        float32 of shape (N, D) on the discriminator's device; D is ``grid**2`` times the sum of the layers'
        channels, 3,072 for ``dcgan-28`` at its full width.

    Raises:
        ValueError: The discriminator is conditional, or the images do not have its shape.

    Source:
        Radford et al. 2016, section 5.1: 4 by 4 pixels of all layers.
    """
    check_integers(grid=grid)
    check_tensor(images)
    _check(discriminator, images)
    return extract(_Features(discriminator, grid), images, batch_size=batch_size)


def linear_probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    inverse_penalties: Sequence[float] = INVERSE_PENALTIES,
    folds: int = 3,
) -> LinearProbe:
    """Measure how well a linear classifier on fixed features predicts labels.

    Multinomial logistic regression with an L2 penalty. Its weight is chosen by cross-validation among the
    training features alone. All features are centred, and divided by one number, so that a penalty means the
    same for features of any scale.

    Args:
        train: Features of shape (N, D) and int64 labels of shape (N,), at least ``folds`` of each class.
        test: The same of M other images.
        inverse_penalties: Values of C to choose from.
        folds: Parts of the cross-validation, at least 2.

    Returns:
        The test error and the chosen C.

    Raises:
        ValueError: A class has too few images, or the shapes do not fit.

    Source:
        Radford et al. 2016, section 5.1, with an L2-SVM instead.
    """
    from sklearn.linear_model import LogisticRegression  # here, because it takes a second to import
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    check_integers(2, folds=folds)
    for features, labels in (train, test):
        if features.dim() != 2 or labels.shape != features.shape[:1] or len(labels) == 0:
            raise ValueError(
                "features must have shape (N, D) and labels (N,), "
                f"got {tuple(features.shape)} and {tuple(labels.shape)}"
            )
    fewest = int(train[1].unique(return_counts=True)[1].min())
    if fewest < folds:
        raise ValueError(f"each class must have at least {folds} training images, one has {fewest}")
    centre = train[0].mean(0)
    scale = (train[0] - centre).square().mean().sqrt().clamp(min=1e-12)
    known, asked = (((rows - centre) / scale).cpu().numpy() for rows in (train[0], test[0]))
    search = GridSearchCV(
        LogisticRegression(tol=1e-3, max_iter=2_000),
        {"C": list(inverse_penalties)},
        cv=StratifiedKFold(folds),
    )
    search.fit(known, train[1].cpu().numpy())
    return LinearProbe(1 - search.score(asked, test[1].cpu().numpy()), search.best_params_["C"])


def guided_backpropagation(
    discriminator: Discriminator, images: Tensor, *, layer: int, channel: int
) -> Tensor:
    """Show which pixels raise the response of one filter, by guided backpropagation.

    The response is the largest value of the channel's map after the layer's activation. On the way back from
    it, each ReLU or leaky ReLU passes only positive gradients, and only where its own input was positive. A
    network without them gives the plain gradient.

    Args:
        discriminator: Unconditional. It runs in eval mode; its mode is restored.
        images: uint8, or float32 in [-1, 1], of shape (N, C, H, W), on the discriminator's device.
        layer: Number of the layer, from 0.
        channel: Number of its channel, from 0.

    Returns:
        float32 of shape (N, C, H, W).

    Raises:
        ValueError: There is no such layer or channel, the discriminator is conditional, or the images do not
            have its shape.

    Source:
        Springenberg et al. 2015; Radford et al. 2016, figure 5. Both use it on filters; here a
        leaky ReLU counts as a ReLU on the way back.
    """
    check_tensor(images)
    _check(discriminator, images)
    _check_index("layer", layer, len(discriminator.layers))
    _check_index("channel", channel, discriminator.layers[layer].channels)
    was_training, blocks = discriminator.training, discriminator.blocks[: layer + 1]
    activations = [part for part in blocks.modules() if isinstance(part, (nn.ReLU, nn.LeakyReLU))]
    hooks = [part.register_forward_hook(_guide) for part in activations]
    discriminator.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = to_float(images) if images.dtype == torch.uint8 else images.detach().clone()
            inputs.requires_grad_()
            maps = blocks(inputs)[:, channel]  # (N, h, w)
            responses = maps.flatten(1).max(1).values
            (gradient,) = torch.autograd.grad(responses.sum(), inputs)
            return gradient
    finally:
        discriminator.train(was_training)
        for hook in hooks:
            hook.remove()


class _Features(nn.Module):
    """A discriminator as a network that ``metrics.extract`` takes."""

    def __init__(self, discriminator: Discriminator, grid: int) -> None:
        super().__init__()
        self.discriminator, self.grid, self.training = discriminator, grid, discriminator.training

    def features(self, images: Tensor) -> Tensor:
        """Pooled maps of all layers but the last, (N, D)."""
        pooled = [
            F.adaptive_max_pool2d(maps, min(self.grid, maps.shape[-1])).flatten(1)  # (N, channels * grid**2)
            for maps in _feature_maps(self.discriminator, images)
        ]
        return torch.cat(pooled, 1)


def _feature_maps(discriminator: Discriminator, maps: Tensor) -> Iterator[Tensor]:
    for block in discriminator.blocks[:-1]:
        maps = block(maps)
        yield maps


def _guide(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Let only positive gradients pass, and only where the output, and so the input, is positive."""
    active = output.detach() > 0
    output.register_hook(lambda gradient: gradient.clamp(min=0) * active)


def _check(discriminator: Discriminator, images: Tensor) -> None:
    discriminator.check_images(images)
    if discriminator.num_classes:
        raise ValueError(
            f"the discriminator is conditional on {discriminator.num_classes} classes: it has no features "
            "without a label"
        )


def _check_index(name: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise ValueError(f"{name} must be from 0 to {count - 1}, got {value}")
