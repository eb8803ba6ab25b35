"""The metrics of a training step, and the check that they are finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True, eq=False)
class StepMetrics:
    """The metrics of one step, over all processes. They stay on the device until one is first read.

    Attributes:
        step: Steps done, this one included.
        epoch: Pass over the images that the step was part of, from 1.
        values: d_loss, g_loss, d_real and d_fake as one tensor of shape (4,).
    """

    step: int
    epoch: int
    values: Tensor

    @cached_property
    def _floats(self) -> list[float]:
        return self.values.tolist()

    @property
    def d_loss(self) -> float:
        """D's loss; in nats for the default loss."""
        return self._floats[0]

    @property
    def g_loss(self) -> float:
        """G's loss; in nats for the default loss."""
        return self._floats[1]

    @property
    def d_real(self) -> float:
        """D(x): mean probability that D gave the real images, before its update."""
        return self._floats[2]

    @property
    def d_fake(self) -> float:
        """D(G(z)): mean probability that D gave the generated images, before its update."""
        return self._floats[3]

    def as_dict(self) -> dict[str, float]:
        """Plain values, for a table or a file."""
        names = ("d_loss", "g_loss", "d_real", "d_fake")
        return {"step": self.step, "epoch": self.epoch, **dict(zip(names, self._floats, strict=True))}


def check_finite(records: Iterable[StepMetrics | dict[str, float]]) -> None:
    """Stop a run whose losses are no longer finite. Reading the records waits for a GPU.

    Args:
        records: From ``train``, or their ``as_dict``.

    Raises:
        FloatingPointError: A value is NaN or infinite. The message names the first one, its step, and the
            likely cause: broken images, a broken loss function, or a player that has diverged.
    """
    for record in records:
        row = record if isinstance(record, dict) else record.as_dict()
        lost = [name for name, value in row.items() if not math.isfinite(value)]
        if lost:
            raise FloatingPointError(
                f"{lost[0]} is {row[lost[0]]} at step {row['step']:.0f}: {_cause(lost, row['step'])}"
            )


def _cause(lost: list[str], step: float) -> str:
    """The likely cause, from the metrics that are not finite. D saw real and fake with the same weights."""
    if "d_real" in lost and "d_fake" not in lost:
        return "D's logits are not finite on real images alone, so the images are broken, not the training"
    if "d_real" in lost and step == 1:
        return "nothing was trained yet, so the networks' first weights are broken"
    if "d_real" in lost:
        return "D has diverged; start again with a smaller d_lr"
    if "d_fake" in lost:
        return "G's images are not finite, it has diverged; start again with a smaller g_lr"
    if "d_loss" in lost:
        return "D's logits overflowed, or its loss function is broken; try a smaller d_lr"
    return "D diverged in this very step, or G's loss function is broken; start again with a smaller d_lr"
