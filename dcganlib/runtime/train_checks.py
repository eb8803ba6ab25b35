"""Checks before the first step of a run: its networks, its loader and its length."""

from __future__ import annotations

import torch
from torch import nn

from dcganlib.config import TrainConfig
from dcganlib.datasets import ImageDataset, Loader
from dcganlib.models import Discriminator, Generator


def check_networks(generator: Generator, discriminator: Discriminator) -> None:
    """Refuse networks that cannot be trained, or not with each other.

    Args:
        generator: The network that draws.
        discriminator: The network that judges its images.

    Raises:
        ValueError: Weights are not all on one device and float32, were made under ``torch.inference_mode``,
            or are all frozen; or the two networks differ in device, image shape or classes.
    """
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        _check_trainable(name, network)
    g_device, d_device = (next(network.parameters()).device for network in (generator, discriminator))
    if g_device != d_device:
        raise ValueError(f"the generator is on {g_device}, the discriminator on {d_device}")
    drawn, judged = [(n.channels, n.image_size) for n in (generator, discriminator)]
    if drawn != judged:
        raise ValueError(f"the generator draws (channels, size) {drawn}, the discriminator judges {judged}")
    if generator.num_classes != discriminator.num_classes:
        raise ValueError(
            f"the generator has {generator.num_classes} classes, the discriminator "
            f"{discriminator.num_classes}"
        )


def check_loader(
    loader: Loader, config: TrainConfig, generator: Generator, discriminator: Discriminator
) -> None:
    """Refuse batches that these networks cannot train on. ``train`` calls it before the first step.

    Args:
        loader: From ``datasets.make_loader``.
        config: The settings.
        generator: The network that draws.
        discriminator: The network that judges its images.

    Raises:
        ValueError: It is not such a loader; its batch size is not that of the settings; its images are on
            another device than the networks; labels are missing, unexpected or beyond the networks' classes;
            or an epoch has a batch of one image, of which batch norm over single units learns nothing.
    """
    if not isinstance(loader, Loader):
        images = "loader.images" if isinstance(loader, ImageDataset) else "images"
        raise ValueError(
            f"loader must come from datasets.make_loader, got {_kind(loader)}: pass "
            f"datasets.make_loader({images}, {config.batch_size}), whose images are uint8 of shape "
            "(N, C, H, W)"
        )
    if loader.batch_size != config.batch_size:
        raise ValueError(
            f"the loader's batch_size is {loader.batch_size}, the settings' {config.batch_size}: pass "
            "config.batch_size to make_loader"
        )
    _check_labels(loader, generator.num_classes)
    device = next(generator.parameters()).device
    if loader.device != device:
        raise ValueError(
            f"the loader's images are on {loader.device}, the networks on {device}: "
            "pass that device to make_loader"
        )
    _check_smallest_batch(loader, (generator, discriminator))


def check_length(config: TrainConfig, steps: int | None) -> None:
    """Refuse a run longer than its learning-rate schedule. ``train`` calls it before the first step.

    Args:
        config: The settings.
        steps: Length of the run; None for one without end.

    Raises:
        ValueError: The learning rates reach 0 before the last step.
    """
    end = config.decay_start + config.decay_steps
    if config.decay_steps and (steps is None or steps > end):
        raise ValueError(
            f"steps must be at most decay_start + decay_steps = {end}, where the learning rates reach 0, "
            f"got {steps}"
        )


def _check_trainable(name: str, network: nn.Module) -> None:
    tensors = [*network.parameters(), *network.buffers()]
    if len(devices := {str(tensor.device) for tensor in tensors}) > 1:
        raise ValueError(f"the {name} is on {' and '.join(sorted(devices))}: move all of it with .to(device)")
    for label, tensor in network.named_parameters():
        if tensor.dtype != torch.float32:
            raise ValueError(
                f"the {name}'s {label} is {tensor.dtype}, training takes float32 weights: call .float() on "
                "it; TrainConfig(precision=...) computes in half precision"
            )
    if any(tensor.is_inference() for tensor in tensors):
        raise ValueError(
            f"the {name} was made under torch.inference_mode(), and cannot be trained: make it outside"
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"all weights of the {name} are frozen: call .requires_grad_(True) on it")


def _check_labels(loader: Loader, classes: int) -> None:
    if loader.labels is None:
        if classes:
            raise ValueError(f"the networks are conditional on {classes} classes: pass labels to make_loader")
        return
    lowest, highest = int(loader.labels.min()), int(loader.labels.max())
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"the networks have {classes} classes, the loader's labels go from {lowest} to {highest}"
        )


def _check_smallest_batch(loader: Loader, networks: tuple[Generator, Discriminator]) -> None:
    count, size = len(loader.images), loader.batch_size
    if not (loader.share == 1 or (count % size == 1 and not loader.drop_last)):
        return
    for network in networks:
        for layer, pixels in zip(network.layers, network.sizes[1:], strict=True):
            if layer.norm == "batch1d" or (layer.norm == "batch" and pixels == 1):
                advice = "use a larger one" if size == 1 else "use another batch_size, or drop_last=True"
                raise ValueError(
                    f"batch_size {size} on {count} images makes a batch of 1, and batch norm over single "
                    f"units needs 2: {advice}"
                )


def _kind(value: object) -> str:
    """A type with its article, such as "a DataLoader"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
