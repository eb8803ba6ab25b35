"""The training loop: one step of each player in turn, yielded as a record.

``train`` is a Python generator. It never prints, draws or saves: the ``for`` loop around it does, and
decides when to stop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from dcganlib.augmentation import Augmented
from dcganlib.config import TrainConfig
from dcganlib.datasets import Loader
from dcganlib.latents import sample_z
from dcganlib.losses import LOSSES, Loss, Penalty, discriminator_loss, generator_loss, penalties
from dcganlib.models import Conditioned, Discriminator, Generator
from dcganlib.runtime import distributed
from dcganlib.runtime.device import UNSCALED, Amp, autocast, check_compiler, prepare_network, resolve
from dcganlib.runtime.ema import calibrate, update_ema
from dcganlib.runtime.interrupts import hold_interrupts
from dcganlib.runtime.memory import explain_out_of_memory
from dcganlib.runtime.optimizer import align_moments, frozen, linear_decay, make_adam
from dcganlib.runtime.randomness import fork_rng
from dcganlib.runtime.step_metrics import StepMetrics as StepMetrics  # part of this module's interface
from dcganlib.runtime.train_checks import check_length, check_loader, check_networks

FLOAT32 = Amp()


@dataclass
class TrainState:
    """All that a run carries from step to step. ``init_state`` makes it, ``train`` changes it in place.

    Attributes:
        generator, discriminator: On the device where the run takes place.
        g_optimizer, d_optimizer: Their optimisers.
        rng: Source of z and of dropout, on the CPU.
        config: The run's settings.
        step: Steps done so far.
        ema_model: G with averaged weights, or None where ``config.ema`` is 0; draw with ``ema_generator``.
        g_scaler, d_scaler: Keep gradients in the range of "float16"; no effect in other precisions.
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
    _calibrated: int | None = field(default=None, repr=False)  # the step of the statistics of `ema_model`

    @property
    def ema_generator(self) -> Generator | None:
        """G with averaged weights and batch-norm statistics of its own, by ``calibrate``."""
        if self.ema_model is not None and self._calibrated != self.step:
            calibrate(self.ema_model, self.config.prior)
            self._calibrated = self.step
        return self.ema_model

    @cached_property
    def ddp_modules(self) -> tuple[nn.Module, nn.Module]:
        """G and D to call in a step: in a group of processes their gradients become the group's means."""
        return distributed.wrap_ddp(self.generator), distributed.wrap_ddp(self.discriminator)

    @cached_property
    def schedules(self) -> list[LambdaLR]:
        """The learning-rate schedules, from ``step`` on; none where the rates are constant."""
        rates = (self.g_optimizer, self.config.g_lr), (self.d_optimizer, self.config.d_lr)
        return [linear_decay(*rate, self.config, self.step) for rate in rates if self.config.decay_steps]


@torch.inference_mode(False)
def init_state(
    generator: Generator, discriminator: Discriminator, config: TrainConfig | None = None
) -> TrainState:
    """Make the state of a new run: two Adam optimisers and a seeded source of randomness.

    Args:
        generator, discriminator: On the device where the run takes place. Their ``forward`` and the memory
            order of their weights change where ``config.fast`` or ``config.compile`` ask for it.
        config: The settings; the defaults if absent. The state has them as ``resolve`` returns them.

    Raises:
        ValueError: As ``check_networks``; batch norm cannot be synchronised, or `torch.compile` does not work
            here.
    """
    check_networks(generator, discriminator)
    device = next(generator.parameters()).device
    config = resolve(config or TrainConfig(), device)
    if config.compile:
        check_compiler(device.type)
    ema_model = copy.deepcopy(generator) if config.ema else None
    if config.sync_batch_norm:
        distributed.sync_batch_norm(generator, discriminator)
    for network in (generator, discriminator):
        prepare_network(network, config, network.image_size)
    half = config.precision == "float16"
    return TrainState(
        generator,
        discriminator,
        make_adam(generator, config.g_lr, config),
        make_adam(discriminator, config.d_lr, config),
        torch.Generator().manual_seed(config.seed),
        config,
        ema_model=ema_model,
        g_scaler=torch.amp.GradScaler(device.type, enabled=half),
        d_scaler=torch.amp.GradScaler(device.type, enabled=half),
    )


def train(
    state: TrainState, loader: Loader, steps: int | None = None, *, loss: Loss | None = None
) -> Iterator[StepMetrics]:
    """Train both networks, one step at a time.

    Ctrl-C (in a notebook: interrupt the kernel) during a step is raised after the step's record was yielded,
    so ``state`` and the records agree. A second Ctrl-C is raised at once: D may have moved and G not, but
    ``state.step`` does not count that step, and training can go on. Nothing here waits for a GPU, so a NaN
    goes unnoticed; see ``check_finite``.

    Args:
        state: From ``init_state`` or ``checkpoint.load``; changed in place.
        loader: From ``datasets.make_loader``, with labels for conditional networks. A step takes the next
            ``config.d_steps`` batches. If ``state.step`` is inside an epoch, training begins there.
        steps: Value of ``state.step`` at which to stop; never if absent.
        loss: In place of the one that ``config.loss`` names.

    Yields:
        A ``StepMetrics`` after each step.

    Raises:
        ValueError: As ``check_loader`` and ``check_length``; or gradients are switched off.
        MemoryError: A step does not fit into the device's memory; the message says what to try.

    Source:
        Goodfellow et al. 2014, algorithm 1, whose k is ``config.d_steps``.
    """
    check_loader(loader, state.config, state.generator, state.discriminator)
    check_length(state.config, steps)
    if not torch.is_grad_enabled():
        raise ValueError("gradients are off: train outside of torch.no_grad() and torch.inference_mode()")
    for optimizer in (state.g_optimizer, state.d_optimizer):
        align_moments(optimizer)
    batches = loader.stream(state.step, state.config.d_steps)
    while steps is None or state.step < steps:
        epoch, real, labels = next(batches)
        with hold_interrupts() as interrupted, explain_out_of_memory(real[: loader.share]):
            record = train_step(state, real, labels, epoch=epoch + 1, loss=loss)
        yield record
        if interrupted:
            raise KeyboardInterrupt


def train_step(
    state: TrainState,
    real: Tensor,
    labels: Tensor | None = None,
    *,
    epoch: int = 1,
    loss: Loss | None = None,
) -> StepMetrics:
    """Take one step: draw z, make fakes once, train D on real and fake, then G against the updated D.

    Where ``config.d_steps`` is above 1, D takes that many steps, each with its own part of the images and
    of z. G takes its step with the last part.

    Args:
        state: Changed in place.
        real: float32 (N, C, H, W) in [-1, 1], on the networks' device; this process's share of the batch, or
            of ``config.d_steps`` batches.
        labels: int64 (N,), for conditional networks; the fakes are drawn with the same ones.
        epoch: For the record.
        loss: In place of the one that ``config.loss`` names.

    Returns:
        The step's record. ``d_loss`` is without penalties, and of D's last step.
    """
    config, schedules, loss = state.config, state.schedules, loss or LOSSES[state.config.loss]
    shape = len(real) * distributed.world_size(), state.generator.latent_dim  # all processes draw all of z
    z = sample_z(*shape, prior=config.prior, rng=state.rng, device=real.device)
    d_amp, g_amp = (Amp(config.precision, scaler) for scaler in (state.d_scaler, state.g_scaler))
    parts = [values.tensor_split(config.d_steps) for values in (z, real, real if labels is None else labels)]
    with fork_rng(state.rng, real.device):
        for left, (z, real, own) in zip(range(config.d_steps)[::-1], zip(*parts, strict=True), strict=True):
            generator, discriminator, plain_d = _players(state, None if labels is None else own)
            with autocast(config.precision, real.device), torch.set_grad_enabled(left == 0):
                fake = generator(z[distributed.rank_slice(len(real))])
            d_value, *logits = discriminator_step(
                discriminator,
                state.d_optimizer,
                real,
                fake,
                *penalties(config),
                loss=loss.discriminator,
                amp=d_amp,
            )
        g_value = generator_step(
            plain_d, state.g_optimizer, fake, real if loss.paired else None, loss=loss.generator, amp=g_amp
        )
    state.step += 1
    for schedule in schedules:
        schedule.step()
    if state.ema_model is not None:
        update_ema(state.ema_model, state.generator, config.ema, state.step)
    means = [values.sigmoid().mean() for values in logits]  # D(x), D(G(z))
    metrics = distributed.all_reduce_mean(torch.stack([d_value, g_value, *means]))
    return StepMetrics(state.step, epoch, metrics)


def _players(state: TrainState, labels: Tensor | None) -> list[nn.Module]:
    """G and D as a step calls them, and D without DDP, as G's half leaves D alone."""
    players = [*(network.train() for network in state.ddp_modules), state.discriminator]
    if labels is not None:
        players = [Conditioned(network, labels) for network in players]
    if state.config.augment != "none":
        players[1:] = [Augmented(network, state.config.augment) for network in players[1:]]
    return players


def discriminator_step(
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    *terms: Penalty,
    loss: Callable[[Tensor, Tensor], Tensor] = discriminator_loss,
    amp: Amp = FLOAT32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Update D once, to tell real from fake. G gets no gradient.

    Args:
        discriminator: Maps images to logits.
        optimizer: Of D's parameters.
        real: float32 (N, C, H, W) in [-1, 1].
        fake: Generated images, same shape; detached from G here.
        loss: Takes (real_logits, fake_logits).
        amp: Precision, and the scaler that it needs.
        terms: Penalties; each takes (discriminator, real, fake). Their sum is added to the loss.

    Returns:
        (loss without penalties, real_logits, fake_logits), all detached, from before the update.
    """
    with autocast(amp.precision, real.device):
        # Two passes: batch norm must not mix the statistics of real and fake.
        real_logits, fake_logits = discriminator(real).float(), discriminator(fake.detach()).float()
    value = loss(real_logits, fake_logits)
    penalized = sum((penalty(discriminator, real, fake) for penalty in terms), value)
    optimizer.zero_grad()
    amp.scaler.scale(penalized).backward()
    amp.scaler.step(optimizer)
    amp.scaler.update()
    return value.detach(), real_logits.detach(), fake_logits.detach()


def generator_step(
    discriminator: nn.Module,
    optimizer: torch.optim.Optimizer,
    fake: Tensor,
    real: Tensor | None = None,
    *,
    loss: Callable[..., Tensor] = generator_loss,
    amp: Amp = FLOAT32,
) -> Tensor:
    """Update G once, to fool D. D's weights do not change; in training mode its running statistics do.

    Args:
        discriminator: Maps images to logits.
        optimizer: Of G's parameters.
        fake: G's images with their graph, (N, C, H, W) in [-1, 1].
        real: Real images for a paired loss, same shape.
        loss: Takes (fake_logits,), or (fake_logits, real_logits) if there are real images.
        amp: Precision, and the scaler that it needs.

    Returns:
        The loss, detached, from before the update.
    """
    with frozen(discriminator):  # D's own gradients would be thrown away: do not compute them
        with autocast(amp.precision, fake.device):
            logits = [discriminator(images).float() for images in (fake, real) if images is not None]
        value = loss(*logits)
        optimizer.zero_grad()
        amp.scaler.scale(value).backward()
    amp.scaler.step(optimizer)
    amp.scaler.update()
    return value.detach()
