"""Differentiable augmentation: random changes of all images that D sees, real and generated.

D cannot learn a small dataset by heart if it never sees an image twice. Augmenting only the real images would
teach G to draw augmented ones. Here D sees both kinds augmented in both players' halves of a step, and
gradients reach G through the augmentation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TRANSLATION = 1 / 8  # of the side, the largest shift
CUTOUT = 1 / 2  # of the side, the side of the square


def augment(images: Tensor, policy: str, *, rng: torch.Generator | None = None) -> Tensor:
    """Change each image at random; differentiable.

    Args:
        images: Float (N, C, H, W) in [-1, 1].
        policy: "none", or one or more of "color" (brightness, saturation, contrast), "translation" (by up to
            an eighth of the side) and "cutout" (a square of half the side), joined by commas. What is moved
            in or cut out is 0, mid-grey.
        rng: Source of randomness on the images' device; torch's global one if absent.

    Returns:
        The same shape. "color" can leave [-1, 1].

    Source:
        Zhao et al. 2020; the ranges are those of the authors' code.
    """
    steps = {"color": _color, "translation": _translation, "cutout": _cutout}
    for name, step in steps.items():
        if name in policy.split(","):
            images = step(images, rng)
    return images


class Augmented(nn.Module):
    """A discriminator whose images are augmented first.

    Args:
        network: Maps images to logits; shared and not copied.
        policy: As for ``augment``.
    """

    def __init__(self, network: nn.Module, policy: str) -> None:
        super().__init__()
        self.network, self.policy = network, policy

    def forward(self, images: Tensor) -> Tensor:
        """Judge augmented images, (N, C, H, W), drawn from torch's global source."""
        logits: Tensor = self.network(augment(images, self.policy))
        return logits


def _color(images: Tensor, rng: torch.Generator | None) -> Tensor:
    """Add up to 1/2 to the brightness; scale saturation by 0 to 2 and contrast by 1/2 to 3/2."""
    brightness, saturation, contrast = torch.rand(
        3, len(images), 1, 1, 1, generator=rng, dtype=images.dtype, device=images.device
    )
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = torch.lerp(grey.expand_as(images), images, 2 * saturation)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean.expand_as(images), images, contrast + 0.5)


def _translation(images: Tensor, rng: torch.Generator | None) -> Tensor:
    """Shift by whole pixels, drawn for each image and direction."""
    n, _, *sides = images.shape
    most = [round(side * TRANSLATION) for side in sides]
    padded = nn.functional.pad(images, (most[1], most[1], most[0], most[0])).permute(0, 2, 3, 1)
    rows, columns = (
        torch.randint(2 * shift + 1, (n, 1), generator=rng, device=images.device)
        + torch.arange(side, device=images.device)
        for shift, side in zip(most, sides, strict=True)
    )  # (N, H) and (N, W): where each row and column comes from
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(images: Tensor, rng: torch.Generator | None) -> Tensor:
    """Set a square to 0, drawn for each image; its centre lies in the image, its edges may not."""
    inside = []
    for side in images.shape[2:]:
        length = round(side * CUTOUT)
        start = torch.randint(side + 1 - length % 2, (len(images), 1), generator=rng, device=images.device)
        place = torch.arange(side, device=images.device) - start + length // 2
        inside.append((place >= 0) & (place < length))  # (N, H), then (N, W)
    return images * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])
