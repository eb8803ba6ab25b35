"""Loaders that index a dataset, and the conversion between bytes and the range of tanh.

A batch is a row of indices into the tensor of all images, converted to float32 in [-1, 1] on the training
device. No image passes through Python during training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dcganlib.config import check_count
from dcganlib.datasets.image_dataset import check_tensor
from dcganlib.runtime import distributed, memory


def to_float(images: Tensor) -> Tensor:
    """Bytes to the range of tanh: uint8 0 to 255 in, float32 -1 to 1 out, any shape."""
    if images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 images, got {images.dtype}")
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """The range of tanh to bytes: float -1 to 1 in (clipped), uint8 0 to 255 out, any shape."""
    if not images.is_floating_point():
        raise ValueError(f"expected floating-point images in [-1, 1], got {images.dtype}")
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


class Loader:
    """Batches of one dataset; made by ``make_loader``.

    ``len(loader)`` is the number of batches in an epoch. ``iter(loader)`` starts the next epoch. The order of
    epoch k depends only on the seed and on k, so a run can be resumed in the middle of an epoch. If there are
    labels, a batch is a pair (images, labels). In a process group all ranks have the same order, and each
    takes its own ``share`` images of every batch.

    Attributes:
        mirror: Whether each image is flipped left to right with probability 1/2, anew in each epoch; False
            unless set.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        seed: int,
        drop_last: bool,
        labels: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.images, self.batch_size, self.seed, self.drop_last = images, batch_size, seed, drop_last
        self.labels, self.device = labels, device or images.device
        self.share = distributed.per_rank_batch_size(batch_size)
        self.mirror = False
        self._next_epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Tensor] | Iterator[tuple[Tensor, Tensor]]:
        self._next_epoch += 1
        return self.epoch(self._next_epoch - 1)

    def epoch(self, index: int, start: int = 0) -> Iterator[Tensor] | Iterator[tuple[Tensor, Tensor]]:
        """Batches of epoch ``index`` (from 0), from batch ``start`` on: float32 (B, C, H, W) in [-1, 1]."""
        rng = torch.Generator().manual_seed(self.seed + index)
        order = torch.randperm(len(self.images), generator=rng, device="cpu").to(self.images.device)
        if self.mirror:
            flipped = torch.rand(len(order), generator=rng, device="cpu").to(order.device) < 0.5
        for batch in range(start, len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size][
                distributed.rank_slice(self.share)
            ]
            real = to_float(self.images[chosen].to(self.device))
            if self.mirror:
                real = torch.where(flipped[chosen, None, None, None].to(real.device), real.flip(3), real)
            yield real if self.labels is None else (real, self.labels[chosen].to(self.device))

    def stream(self, start: int = 0, count: int = 1) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """Endless groups of ``count`` batches, from group ``start`` on: (epoch from 0, images, labels).

        A group may reach into the next epoch. Its images are (count B, C, H, W), its epoch that of the first.
        """
        epoch, done = divmod(start * count, len(self))
        group: list[tuple[int, Tensor, Tensor | None]] = []
        while True:
            for batch in self.epoch(epoch, start=done):
                real, labels = batch if isinstance(batch, tuple) else (batch, None)
                group.append((epoch, real, labels))
                if len(group) == count:
                    first, images, names = zip(*group, strict=True)
                    group = []
                    yield first[0], _joined(images), None if labels is None else _joined(names)
            epoch, done = epoch + 1, 0


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors in a row as one; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


def make_loader(
    images: Tensor,
    batch_size: int = 128,
    *,
    labels: Tensor | None = None,
    rng: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    drop_last: bool = True,
) -> Loader:
    """Make a loader of shuffled float32 batches in [-1, 1] from uint8 images.

    Args:
        images: uint8 of shape (N, C, H, W), as ``load`` returns them; moved to ``device`` at once, or
            batch by batch if they would take more than half of a GPU's free memory.
        batch_size: Images in a batch, over all processes; 128 in the paper (section 4).
        labels: int64 of shape (N,), for class-conditional networks.
        rng: Source of the shuffling, on the CPU; torch's global one if None.
        device: Where the batches are needed.
        drop_last: Leave out the last batch of an epoch if it is smaller than the others.

    Returns:
        A ``Loader``.

    Raises:
        ValueError: The images are not a uint8 tensor of four dimensions; there are none, or fewer than a
            batch while ``drop_last`` is set; there is not one label for each image; or the processes of a
            group cannot share each batch evenly.
    """
    check_tensor(images)
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"images must be uint8 of shape (N, C, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    batch_size = check_count("batch_size", batch_size)
    if len(images) == 0:
        raise ValueError("there are no images in the dataset")
    if drop_last and len(images) < batch_size:
        raise ValueError(
            f"batch_size {batch_size} is more than the number of images, {len(images)}, so an epoch would "
            f"have no step: use a batch_size of at most {len(images)}, or add images"
        )
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype != torch.int64):
        raise ValueError(
            f"labels must be int64, one for each of the {len(images)} images, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if distributed.world_size() > 1 and not drop_last and len(images) % batch_size:
        raise ValueError(
            f"drop_last must be True in a group of processes: the last batch, of {len(images) % batch_size} "
            "images, would weigh as much as the others"
        )
    seed = int(torch.randint(2**62, (), generator=rng, device="cpu"))
    device = torch.empty(0, device=device).device  # "cuda" means one of them
    home = device if _has_room(device, images.nbytes) else images.device
    labels = None if labels is None else labels.to(home)
    return Loader(images.to(home), batch_size, seed, drop_last, labels, device)


def _has_room(device: torch.device, size: int) -> bool:
    """Whether the dataset may be kept on the device: on a GPU it may use at most half of the free memory."""
    return device.type != "cuda" or memory.fits(2 * size, device)
