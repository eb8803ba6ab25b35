"""What is wrong with a run, told from its numbers: measurements of histories and images, and the findings.

Everything here takes tensors and rows of numbers and returns numbers; ``runs.measurements`` takes them from a
run's folder.
"""

from __future__ import annotations

from torch import Tensor


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
