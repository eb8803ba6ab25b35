"""The training loop: one step of each player in turn, yielded as a record.

``train`` is a Python generator. It never prints, draws or saves: the ``for`` loop around it does, and
decides when to stop.
"""

from __future__ import annotations

import copy
import math
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, update_bn

from dcganlib.config import Prior, TrainConfig
from dcganlib.datasets import ImageDataset, Loader
from dcganlib.latents import sample_z
from dcganlib.losses import discriminator_loss, generator_loss
from dcganlib.models import Conditioned, Discriminator, Generator
from dcganlib.runtime import cpu_layers, distributed
from dcganlib.runtime.device import autocast, check_compiler, resolve

UNSCALED = torch.amp.GradScaler("cpu", enabled=False)
"""Passes losses and gradients through as they are."""

CHANNELS_LAST_FROM = 32  # pixels; on a CPU smaller images gain nothing from that order in memory
STATISTICS = 4, 128  # batches, and latents in each, from which `calibrate` takes batch norm's statistics


@dataclass
class TrainState:
    """All that a run carries from step to step. ``init_state`` makes it, ``train`` moves it on.

    Attributes:
        generator, discriminator: On one device, which is where the run takes place.
        g_optimizer, d_optimizer: Their optimisers.
        rng: Source of z and of dropout, on the CPU.
        config: The run's settings.
        step: Steps done so far.
        ema_model: A copy of G whose weights are averages over the steps, or None where ``config.ema``
            is 0. To draw from it take ``averaged``.
        g_scaler, d_scaler: Keep gradients in the range of "float16"; of no effect in other precisions.
    """

    generator: Generator
    discriminator: Discriminator
    g_optimizer: torch.optim.Optimizer
    d_optimizer: torch.optim.Optimizer
    rng: torch.Generator
    config: TrainConfig
    step: int = 0
    ema_model: Generator | None = None
    g_scaler: torch.amp.GradScaler = UNSCALED
    d_scaler: torch.amp.GradScaler = UNSCALED
    _calibrated: int | None = field(default=None, repr=False)  # the step of `averaged`'s statistics

    @property
    def ema_generator(self) -> Generator | None:
        """G with averaged weights, ready to draw: ``calibrate`` gives it batch-norm statistics of its own."""
        if self.ema_model is not None and self._calibrated != self.step:
            calibrate(self.ema_model, self.config.prior)
            self._calibrated = self.step
        return self.ema_model

    @cached_property
    def ddp_modules(self) -> tuple[nn.Module, nn.Module]:
        """G and D as each passes through itself: in a group of processes, gradients become their means."""
        return distributed.wrap_ddp(self.generator), distributed.wrap_ddp(self.discriminator)


@dataclass(frozen=True, eq=False)
class StepMetrics:
    """What one step saw, in all processes. The four numbers stay on the device until one is first read.

    Attributes:
        step: Steps done, this one included.
        epoch: Which pass over the images it belonged to, from 1.
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
        """D's loss, in nats."""
        return self._floats[0]

    @property
    def g_loss(self) -> float:
        """G's loss, in nats."""
        return self._floats[1]

    @property
    def d_real(self) -> float:
        """D(x): mean probability that D gave to the real images, before its update."""
        return self._floats[2]

    @property
    def d_fake(self) -> float:
        """D(G(z)): mean probability that D gave to the generated images, before its update."""
        return self._floats[3]

    def as_dict(self) -> dict[str, float]:
        """Plain values, for a table or a file."""
        names = ("d_loss", "g_loss", "d_real", "d_fake")
        return {"step": self.step, "epoch": self.epoch, **dict(zip(names, self._floats, strict=True))}


@torch.inference_mode(False)
def init_state(
    generator: Generator, discriminator: Discriminator, config: TrainConfig | None = None
) -> TrainState:
    """Make the state of a new run: two Adam optimisers and a seeded source of randomness.

    Args:
        generator: On the device where the run should take place. Where ``config.fast`` or ``config.compile``
            say so, its layers get another ``forward`` and its weights another order in memory.
        discriminator: On the same device, treated alike.
        config: The settings; the defaults if absent. The state's own has them as ``resolve`` gives them.

    Raises:
        ValueError: The two networks lie on different devices, or disagree on the image or the classes; one of
            them could not be trained, as its weights are not all on one device and float32, were made under
            ``torch.inference_mode``, or are all frozen; a group without GPUs is to synchronise its batch
            norms; or ``torch.compile`` does not work here.
    """
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        _check_trainable(name, network)
    device = _device(generator)
    config = resolve(config or TrainConfig(), device)
    if device != _device(discriminator):
        raise ValueError(f"the generator is on {device}, the discriminator on {_device(discriminator)}")
    drawn, judged = [(n.channels, n.image_size) for n in (generator, discriminator)]
    if drawn != judged:
        raise ValueError(f"the generator draws (channels, size) {drawn}, the discriminator judges {judged}")
    if generator.num_classes != discriminator.num_classes:
        raise ValueError(
            f"the generator knows {generator.num_classes} classes, the discriminator "
            f"{discriminator.num_classes}"
        )
    if config.compile:
        check_compiler(device.type)
    averaged = copy.deepcopy(generator) if config.ema else None
    if config.sync_batch_norm and distributed.world_size() > 1:
        distributed.check_sync_batch_norm(device)
        for network in (generator, discriminator):
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # in place, for all but an outermost layer
    for network in (generator, discriminator):
        if config.fast and device.type == "cpu":
            cpu_layers.optimize(network)
        least = {"cuda": 0, "cpu": CHANNELS_LAST_FROM}.get(device.type, math.inf)  # MPS gets gradients wrong
        if config.fast and network.image_size >= least:
            network.to(memory_format=torch.channels_last)
        if config.compile:
            network.compile()
    common: dict[str, Any] = {
        "betas": (config.beta1, config.beta2),
        "weight_decay": config.weight_decay,
        "fused": config.fast,
    }
    g_scaler, d_scaler = (
        torch.amp.GradScaler(device.type, enabled=config.precision == "float16") for _ in range(2)
    )
    return TrainState(
        generator,
        discriminator,
        torch.optim.Adam(generator.parameters(), lr=config.g_lr, **common),
        torch.optim.Adam(discriminator.parameters(), lr=config.d_lr, **common),
        torch.Generator().manual_seed(config.seed),
        config,
        ema_model=averaged,
        g_scaler=g_scaler,
        d_scaler=d_scaler,
    )


def train(
    state: TrainState,
    loader: Loader,
    steps: int | None = None,
    *,
    d_loss: Callable[[Tensor, Tensor], Tensor] = discriminator_loss,
    g_loss: Callable[[Tensor], Tensor] = generator_loss,
) -> Iterator[StepMetrics]:
    """Train both networks, a step at a time.

    A Ctrl-C (in a notebook: interrupt the kernel) in the middle of a step is held back until the step is
    whole and its record yielded; then it is raised, so ``state`` and the records so far fit together. A
    second one is raised at once: D may have moved and G not, but ``state.step`` does not count that step,
    and training can go on. Nothing here waits for a GPU, so a NaN goes unseen; see ``check_finite``.

    Args:
        state: From ``init_state`` or ``checkpoint.load``; changed in place.
        loader: From ``datasets.make_loader``, in batches of ``config.batch_size``, with labels for
            conditional networks. Where ``state.step`` lies inside an epoch, so does the first batch.
        steps: Stop when ``state.step`` reaches it, counted from the run's start; never if absent.
        d_loss: Takes (real_logits, fake_logits).
        g_loss: Takes (fake_logits,).

    Yields:
        A ``StepMetrics`` after each step.

    Raises:
        ValueError: As ``check_loader`` and ``check_length`` do; gradients are switched off; or the images are
            not what the discriminator judges.
        MemoryError: A step does not fit into the device's memory; the message says what to try.

    Source:
        Goodfellow et al. 2014, algorithm 1, with one step of D for each step of G (k = 1).
    """
    check_loader(state, loader)
    check_length(state.config, steps)
    if not torch.is_grad_enabled():
        raise ValueError("gradients are off: train outside of torch.no_grad() and torch.inference_mode()")
    for optimizer in (state.g_optimizer, state.d_optimizer):
        align_moments(optimizer)
    while steps is None or state.step < steps:
        epoch, done = divmod(state.step, len(loader))
        for batch in loader.epoch(epoch, start=done):
            real, labels = batch if isinstance(batch, tuple) else (batch, None)
            with _whole_step() as held, _out_of_memory(real):
                record = train_step(state, real, labels, epoch=epoch + 1, d_loss=d_loss, g_loss=g_loss)
            yield record
            if held:
                raise KeyboardInterrupt
            if state.step == steps:
                return


def check_loader(state: TrainState, loader: Loader) -> None:
    """Refuse batches that these networks could not train on, before any step; ``train`` does so first.

    Args:
        state: From ``init_state`` or ``checkpoint.load``.
        loader: From ``datasets.make_loader``.

    Raises:
        ValueError: It is no such loader; its batch size is not that of the settings; its images lie on
            another device than the networks; there are labels and the networks take none, or the reverse, or
            a label beyond their classes; or an epoch has a batch of one image, of which batch norm over
            single units could learn nothing.
    """
    if not isinstance(loader, Loader):
        images = "loader.images" if isinstance(loader, ImageDataset) else "images"
        raise ValueError(
            f"loader must come from datasets.make_loader, got {_kind(loader)}: pass "
            f"datasets.make_loader({images}, {state.config.batch_size}), whose images are uint8 of shape "
            "(N, C, H, W)"
        )
    if loader.batch_size != state.config.batch_size:
        raise ValueError(
            f"the loader's batch_size is {loader.batch_size}, the settings' {state.config.batch_size}: pass "
            "config.batch_size to make_loader"
        )
    classes, labels = state.generator.num_classes, loader.labels
    if classes and labels is None:
        raise ValueError(f"the networks draw by class, of {classes}: pass labels to make_loader")
    if labels is not None:
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= classes:
            raise ValueError(
                f"the networks know {classes} classes, the loader's labels go from {lowest} to {highest}"
            )
    if loader.device != _device(state.generator):
        raise ValueError(
            f"the loader's images are on {loader.device}, the networks on {_device(state.generator)}: "
            "pass that device to make_loader"
        )
    count, size = len(loader.images), loader.batch_size
    if loader.share == 1 or (count % size == 1 and not loader.drop_last):
        for network in (state.generator, state.discriminator):
            for layer, pixels in zip(network.layers, network.sizes[1:], strict=True):
                if layer.norm == "batch1d" or (layer.norm is not None and pixels == 1):
                    advice = "use a larger one" if size == 1 else "use another batch_size, or drop_last=True"
                    raise ValueError(
                        f"batch_size {size} on {count} images makes a batch of 1, and batch norm over single "
                        f"units needs 2: {advice}"
                    )


def check_length(config: TrainConfig, steps: int | None) -> None:
    """Refuse a run that goes on where the learning rates have fallen to 0; ``train`` does so first.

    Args:
        config: The settings.
        steps: Length of the run; None for one without end.

    Raises:
        ValueError: The run is longer than its rates.
    """
    end = config.decay_start + config.decay_steps
    if config.decay_steps and (steps is None or steps > end):
        raise ValueError(
            f"steps must be at most decay_start + decay_steps = {end}, where the learning rates reach 0, "
            f"got {steps}"
        )


def train_step(
    state: TrainState,
    real: Tensor,
    labels: Tensor | None = None,
    *,
    epoch: int = 1,
    d_loss: Callable[[Tensor, Tensor], Tensor] = discriminator_loss,
    g_loss: Callable[[Tensor], Tensor] = generator_loss,
) -> StepMetrics:
    """One step: draw z, make fakes once, let D learn from real and fake, then G from the moved D.

    Args:
        state: Changed in place.
        real: float32 (N, C, H, W) in [-1, 1], on the networks' device; this process's share of the batch.
        labels: int64 (N,), for conditional networks; the fakes are drawn with the same.
        epoch: Written into the record.
        d_loss: Takes (real_logits, fake_logits).
        g_loss: Takes (fake_logits,).

    Returns:
        The step's record.
    """
    config = state.config
    judge: nn.Module = state.discriminator
    generator, discriminator = (network.train() for network in state.ddp_modules)
    if labels is not None:
        generator, discriminator, judge = (Conditioned(n, labels) for n in (generator, discriminator, judge))
    shape = len(real) * distributed.world_size(), state.generator.latent_dim  # all processes draw all of z
    z = sample_z(*shape, prior=config.prior, rng=state.rng, device=real.device)[
        distributed.rank_slice(len(real))
    ]
    d_how: dict[str, Any] = {"loss": d_loss, "precision": config.precision, "scaler": state.d_scaler}
    g_how: dict[str, Any] = {"loss": g_loss, "precision": config.precision, "scaler": state.g_scaler}
    _set_rates(state)
    with _own_randomness(state.rng, real.device):
        with autocast(config.precision, real.device):
            fake = generator(z)
        d_value, *logits = discriminator_step(discriminator, state.d_optimizer, real, fake, **d_how)
        g_value = generator_step(judge, state.g_optimizer, fake, **g_how)
    state.step += 1
    if state.ema_model is not None:
        update_ema(state.ema_model, state.generator, config.ema, state.step)
    means = [one.sigmoid().mean() for one in logits]  # on real, on fake
    return StepMetrics(
        state.step, epoch, distributed.all_reduce_mean(torch.stack([d_value, g_value, *means]))
    )


def discriminator_step(
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = discriminator_loss,
    precision: str = "float32",
    scaler: torch.amp.GradScaler = UNSCALED,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move D once towards telling real from fake. G gets no gradient.

    Args:
        discriminator: Maps images to logits.
        optimizer: Of D's parameters.
        real: float32 (N, C, H, W) in [-1, 1].
        fake: Generated images, same shape; their graph back to G is cut here.
        loss: Takes (real_logits, fake_logits).
        precision: "float32", "bfloat16" or "float16".
        scaler: For "float16", in which small gradients would become 0.

    Returns:
        (loss, real_logits, fake_logits), all detached, from before the update.
    """
    with autocast(precision, real.device):
        # Two passes: batch norm must not mix the statistics of real and fake.
        real_logits, fake_logits = discriminator(real).float(), discriminator(fake.detach()).float()
    value = loss(real_logits, fake_logits)
    optimizer.zero_grad()
    scaler.scale(value).backward()
    scaler.step(optimizer)
    scaler.update()
    return value.detach(), real_logits.detach(), fake_logits.detach()


def generator_step(
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    fake: Tensor,
    *,
    loss: Callable[[Tensor], Tensor] = generator_loss,
    precision: str = "float32",
    scaler: torch.amp.GradScaler = UNSCALED,
) -> Tensor:
    """Move G once towards fooling D. D is passed through, and left as it is.

    Args:
        discriminator: Maps images to logits.
        optimizer: Of G's parameters.
        fake: G's images with their graph, (N, C, H, W) in [-1, 1].
        loss: Takes (fake_logits,).
        precision: "float32", "bfloat16" or "float16".
        scaler: For "float16", in which small gradients would become 0.

    Returns:
        The loss, detached, from before the update.
    """
    with _frozen(discriminator):  # D's own gradients would be thrown away: do not compute them
        with autocast(precision, fake.device):
            fake_logits = discriminator(fake).float()
        value = loss(fake_logits)
        optimizer.zero_grad()
        scaler.scale(value).backward()
    scaler.step(optimizer)
    scaler.update()
    return value.detach()


def update_ema(averaged: Generator, generator: Generator, decay: float, step: int) -> None:
    """Move the weights of the averaged generator a little towards the current ones.

    Args:
        averaged: Its parameters are changed in place; batch norm's running statistics are left to
            ``calibrate``.
        generator: As it is after this step.
        decay: Share of the average that stays, from 0 to below 1. In the first steps less does,
            (1 + step) / (10 + step), so that the average forgets where G began.
        step: Steps done, from 1.

    Source:
        Yazıcı et al. 2019, for averaging in GANs.
    """
    move = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
    move(list(averaged.parameters()), list(generator.parameters()), None)


@torch.inference_mode(False)
def calibrate(generator: Generator, prior: Prior = "normal") -> None:
    """Measure the statistics of G's batch norms anew, as averaged weights need statistics of their own.

    An average of the running statistics belongs to no network: early in a run samples drawn with it are much
    worse. The latents are seeded, so the same weights always get the same statistics.

    Args:
        generator: Changed in place: the statistics alone. By class it draws each class as often.
        prior: Law of z, as the generator was trained with.

    Source:
        Izmailov et al. 2018, section 3.2, for averaged weights and batch norm.
    """
    batches, size = STATISTICS
    device, rng = _device(generator), torch.Generator().manual_seed(0)
    size = max(size, generator.num_classes)
    z = sample_z(batches * size, generator.latent_dim, prior=prior, rng=rng, device=device)
    labels = torch.arange(size, device=device) % generator.num_classes if generator.num_classes else None
    network = generator if labels is None else Conditioned(generator, labels).train(generator.training)
    with _own_randomness(rng, device):
        update_bn(z.split(size), network)


def check_finite(records: Iterable[StepMetrics | dict[str, float]]) -> None:
    """Stop a run whose losses are no longer numbers. Reads the records, for which a GPU must catch up.

    Args:
        records: From ``train``, or their ``as_dict``.

    Raises:
        FloatingPointError: A value is NaN or infinite. The message names the first one, its step, and what
            it tells: the images are broken, the loss function is, or one of the two players has diverged.
    """
    for record in records:
        row = record.as_dict() if isinstance(record, StepMetrics) else record
        lost = [name for name, value in row.items() if not math.isfinite(value)]
        if lost:
            raise FloatingPointError(
                f"{lost[0]} is {row[lost[0]]} at step {row['step']:.0f}: {_cause(lost, row['step'])}"
            )


def _cause(lost: list[str], step: float) -> str:
    """What the numbers that are lost say. D judged real and fake with the same weights."""
    if "d_real" in lost and "d_fake" not in lost:
        return "D has no finite answer to the real images alone, so the images are broken, not the training"
    if "d_real" in lost and step == 1:
        return "nothing was trained yet, so the networks' first weights are broken"
    if "d_real" in lost:
        return "D has diverged; start again with a smaller d_lr"
    if "d_fake" in lost:
        return "G no longer draws finite images, it has diverged; start again with a smaller g_lr"
    if "d_loss" in lost:
        return "D's answers have grown beyond all numbers, or its loss function is broken; try a smaller d_lr"
    return "D diverged in this very step, or G's loss function is broken; start again with a smaller d_lr"


def align_moments(optimizer: torch.optim.Optimizer) -> None:
    """Bring Adam's moments into the order in memory, the type and the device of their weights.

    Fused Adam reads both as they lie in memory, so moments in another order would go to other weights: those
    of a checkpoint from another device, or those of a network whose ``memory_format`` was changed.

    Args:
        optimizer: Changed in place.
    """
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and name != "step":
                alike = (value.stride(), value.dtype, value.device)
                if alike != (parameter.stride(), parameter.dtype, parameter.device):
                    moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


@contextmanager
def _whole_step() -> Iterator[list[int]]:
    """Note a Ctrl-C in the list that is given, in place of breaking off; a second one does break off.

    Only where Ctrl-C does what it usually does: a caller's own handler is left alone.
    """
    held: list[int] = []
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) != usual:
        yield held
        return

    def hold(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, usual)
        held.append(number)

    signal.signal(signal.SIGINT, hold)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, usual)


@contextmanager
def _out_of_memory(real: Tensor) -> Iterator[None]:
    """Say what was too large, and what to try."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU and MPS have no kind of their own
        if not re.search("out of memory|DefaultCPUAllocator|ALLOC_FAILED", str(error)):
            raise
        batch, *shape = real.shape
        advice = f"try batch_size {batch // 2}" if batch > 1 else "try smaller images or base_channels"
        raise MemoryError(
            f"a step with batch_size {batch} of images {tuple(shape)} does not fit into the memory of "
            f"{real.device}: {advice}"
        ) from error


@contextmanager
def _own_randomness(rng: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let dropout, which draws from torch's global source, draw from ``rng``, and leave no trace.

    Each process of a group draws its own, as each has other images.
    """
    seed = int(torch.randint(2**62, (), generator=rng, device="cpu")) + distributed.rank()
    gpu = device.type in ("cuda", "mps")
    with torch.random.fork_rng([device] if gpu else [], device_type=device.type):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed all other GPUs too
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield


def _set_rates(state: TrainState) -> None:
    """Lower both learning rates on their way to 0, where the settings ask for it."""
    config = state.config
    if config.decay_steps:
        left = 1 - (state.step - config.decay_start) / config.decay_steps
        for optimizer, rate in ((state.g_optimizer, config.g_lr), (state.d_optimizer, config.d_lr)):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, max(0.0, left))


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Keep the parameters out of the graph for a while."""
    free = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in free:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


def _check_trainable(name: str, network: nn.Module) -> None:
    """Refuse a network that the first step would fail on, or leave as it is."""
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


def _kind(value: object) -> str:
    """A type in words, such as "a DataLoader"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
