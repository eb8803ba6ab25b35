"""Configurations of runs from options side by side, as the command takes them; and weights that matter."""

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


def spread(generator, rng, *, half=True):
    """Give a generator weights as after a training, so that each layer and its batch norm matter."""
    for name, values in generator.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.2, 2.0, generator=rng)
        elif values.is_floating_point() and not name.endswith((".u", ".v")):
            scale = len(values) ** -0.5 if values.dim() == 4 else 0.1
            values.normal_(1.0 * name.endswith("1.weight"), scale, generator=rng)
        if half and values.is_floating_point():
            values.copy_(values.half())
    return generator.eval()
