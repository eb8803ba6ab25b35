"""Configurations of runs from options side by side, as the command takes them."""

from dataclasses import fields

from dcganlib import runs
from dcganlib.config import DataConfig, ModelConfig, RunConfig, TrainConfig

TINY = {"image_size": 16, "channels": 1, "base_channels": 4, "checkpoint_every": 4, "sample_every": 2}
"""Options of a run on the discs: a few seconds of training."""


def run_config(data, *, config=None, **options):
    """Make a ``RunConfig``: ``run_config("mnist", steps=3, base_channels=4, config=TrainConfig())``."""
    parts = {
        kind: {field.name: options.pop(field.name) for field in fields(kind) if field.name in options}
        for kind in (DataConfig, ModelConfig)
    }
    return RunConfig(
        DataConfig(data, **parts[DataConfig]),
        ModelConfig(**parts[ModelConfig]),
        config or TrainConfig(),
        **options,
    )


def run(data, out=None, *, root=None, device="auto", **options):
    """``runs.run`` with the options side by side."""
    return runs.run(run_config(data, **options), out, root=root, device=device)
