"""Adam and its learning rate: made from the settings, and its moments loaded from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from dcganlib.config import TrainConfig


def make_adam(network: nn.Module, lr: float, config: TrainConfig) -> torch.optim.Adam:
    """Make the optimiser of one network.

    Args:
        network: Its parameters are the ones to train.
        lr: Learning rate.
        config: The settings of both networks.
    """
    betas = config.beta1, config.beta2
    return torch.optim.Adam(
        network.parameters(), lr=lr, betas=betas, weight_decay=config.weight_decay, fused=config.fast
    )


def linear_decay(optimizer: torch.optim.Optimizer, lr: float, config: TrainConfig, step: int) -> LambdaLR:
    """Make the schedule that keeps a learning rate, then lowers it in a straight line to 0.

    Args:
        optimizer: Its learning rate is set to that of ``step``.
        lr: Learning rate before the decay.
        config: The settings; ``decay_start`` and ``decay_steps`` matter here.
        step: Steps done so far.
    """
    start, length = config.decay_start, config.decay_steps
    for group in optimizer.param_groups:
        group["initial_lr"] = lr
    vars(optimizer)["_opt_called"] = True  # else torch warns where float16 skips the very first update
    return LambdaLR(optimizer, lambda done: min(1.0, max(0.0, 1 - (done - start) / length)), step - 1)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Keep a network's parameters out of the graph for the duration, so that they get no gradient."""
    free = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in free:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


def align_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give Adam's moments the memory order, type and device of their weights.

    Fused Adam reads both as they lie in memory. Moments in another order, as from a checkpoint of another
    device or after a change of ``memory_format``, would be applied to the wrong weights.

    Args:
        optimizer: Changed in place.
    """
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and name != "step":
                layout = (value.stride(), value.dtype, value.device)
                if layout != (parameter.stride(), parameter.dtype, parameter.device):
                    moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def load_moments(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a saved state of Adam, and keep computing as these settings and this device do: fused or not.

    Args:
        optimizer: Changed in place.
        saved: Its ``state_dict``, from any device.

    Raises:
        ValueError: The saved state does not fit the optimiser's parameters, or has unknown options.
    """
    _check_moments(optimizer, saved)
    own = [{name: group[name] for name in ("foreach", "fused")} for group in optimizer.param_groups]
    groups = [group | options for group, options in zip(saved["param_groups"], own, strict=True)]
    optimizer.load_state_dict(saved | {"param_groups": groups})
    align_moments(optimizer)


def _check_moments(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Refuse a state that does not fit the parameters, which torch would only notice at the next step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = saved["state"]
    trained = {index: one for index, one in enumerate(parameters) if one.requires_grad}
    if moments and set(moments) != set(trained):
        raise ValueError(f"Adam has moments of {len(moments)} parameters, not of {len(trained)}")
    for index, parameter in trained.items() if moments else ():
        for name, shape in (("step", ()), ("exp_avg", parameter.shape), ("exp_avg_sq", parameter.shape)):
            value = moments[index][name]
            if value.shape != shape or not value.is_floating_point() or value.layout != torch.strided:
                raise ValueError(f"Adam's {name} has shape {tuple(value.shape)}, not {tuple(shape)}")
        if more := set(moments[index]) - {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(f"Adam has moments that it does not use: {', '.join(sorted(map(str, more)))}")
    for own, group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        _check_options(own, group)


def _check_options(own: dict[str, Any], saved: dict[str, Any]) -> None:
    """Refuse options of Adam that no run of this library sets."""
    for name in ("lr", "betas", "eps", "weight_decay"):
        if not _same_kind(saved[name], own[name]):
            raise ValueError(f"Adam's {name} is {saved[name]!r}")
    switches = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")
    for name in switches:  # the last one is younger than the lowest torch supported
        default = own.get(name, False)
        if saved.get(name, default) is not default:
            raise ValueError(f"Adam's {name} is {saved[name]!r}")
    for name in ("foreach", "fused"):  # ways of computing; older checkpoints have none
        if not isinstance(saved.get(name), bool | None):
            raise ValueError(f"Adam's {name} is {saved[name]!r}")


def _same_kind(value: object, other: object) -> bool:
    """Whether both are numbers, or tuples of as many numbers."""
    if isinstance(other, tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(other):
            return False
        return all(map(_same_kind, value, other))
    return type(value) in (int, float)
