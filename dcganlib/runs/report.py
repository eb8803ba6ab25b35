"""What a run writes into its folder during training: samples, checkpoints, weights, losses, animations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from dcganlib import models
from dcganlib.config import TrainConfig
from dcganlib.latents import sample_z
from dcganlib.runs import model_card, monitor
from dcganlib.runs.context import rng_for
from dcganlib.runs.folder import GRID
from dcganlib.runs.history import History, Row
from dcganlib.runtime import checkpoint, files
from dcganlib.train import TrainState
from dcganlib.viz import plot

FRAME_PIXELS = 2**28  # pixels of an animation, all frames together, which Pillow holds in memory


class Report:
    """Writes into the folder of a run; only the first process makes one.

    Args:
        folder: Folder of the run.
        log: History of the run.
        check: Raises FileNotFoundError once the folder is no longer there.
        watch: Notices when the run fails.
        evaluator: Measures samples, in a run that asks for it.
    """

    def __init__(
        self,
        folder: Path,
        log: History,
        check: Callable[[], None],
        watch: monitor.Watch,
        evaluator: monitor.Evaluator | None = None,
    ) -> None:
        self.folder, self.log, self.check = folder, log, check
        self.watch, self.evaluator = watch, evaluator

    def begin(self, state: TrainState) -> None:
        """Complete the folder before the first step, or after a kill that followed a checkpoint."""
        if state.step:
            self.publish(state)
        else:
            self.draw(state)
            checkpoint.save(self.folder / "checkpoint.pt", state)  # an early interrupt can be resumed as well

    def draw(self, state: TrainState) -> tuple[list[str], bool]:
        """Draw a grid of samples from the fixed latents, of each generator.

        Args:
            state: State of the run.

        Returns:
            What ``Watch.see_samples`` says about the samples of the last step's generator.
        """
        fixed_z, labels = fixed_latents(state)
        seen: tuple[list[str], bool] = [], False
        for name, generator in (("samples", state.generator), ("ema", state.ema_generator)):
            if generator is not None:
                images = models.generate(generator, fixed_z, labels)
                if generator is state.generator:
                    seen = self.watch.see_samples(state.step, images, labels)
                picture = plot.grid_image(images, columns=generator.num_classes or 8)
                (self.folder / name).mkdir(exist_ok=True)  # the user may have deleted it to save space
                files.write_atomically(self.folder / name / f"step_{state.step:06d}.png", picture.save)
        return seen

    def save(self, state: TrainState, rows: Sequence[Row]) -> None:
        """Write the new rows, then the checkpoint that counts them, then the files for readers."""
        self.log.append(rows)
        self.watch.save()
        if self.evaluator is not None:
            self.evaluator.save(self.folder)
        path = self.folder / "checkpoint.pt"
        checkpoint.save(path, state, previous=self.folder / "checkpoint-previous.pt")
        self.publish(state)

    def save_divergence(self, rows: Sequence[Row], reason: str) -> None:
        """Write the rows of the steps since the last checkpoint, the last ones not finite, and the reason.

        Resuming from the checkpoint cuts both.
        """
        self.log.append(rows)
        self.watch.add(int(rows[-1]["step"]), "diverged", reason)
        self.watch.save()

    def publish(self, state: TrainState) -> None:
        """Write the files for readers: weights, a picture of the losses, and the model card."""
        checkpoint.save_generator(self.folder / "generator.safetensors", state.generator, step=state.step)
        discriminator = self.folder / "discriminator.safetensors"
        checkpoint.save_discriminator(discriminator, state.discriminator, step=state.step)
        if state.ema_generator is not None:
            checkpoint.save_generator(self.folder / "ema.safetensors", state.ema_generator, step=state.step)
        if self.log.points:
            draw_losses(self.folder / "losses.png", self.log)
        model_card.write(self.folder, self.watch.config, state.step, self.log.points)

    def animate(self) -> None:
        """Join the grids into animations."""
        for name in ("samples", "ema"):
            animate(self.folder, name)


def fixed_latents(state: TrainState) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Latents and labels of the sample grids; by class, a row is one latent with each class in turn."""
    generator, config = state.generator, state.config
    rows = GRID // 8 if generator.num_classes else GRID
    z = sample_z(rows, generator.latent_dim, prior=config.prior, rng=rng_for(config.seed, 2))
    if not generator.num_classes:
        return z, None
    return z.repeat_interleave(generator.num_classes, dim=0), torch.arange(generator.num_classes).repeat(rows)


def draw_losses(path: Path, log: History) -> None:
    """Draw the losses; the running mean is over about 100 steps."""
    points = log.points
    plot.save_history(points, path, smooth=max(1, min(100 // log.stride, len(points))))


def animate(folder: Path, name: str) -> None:
    """Join grids into an animation; if there are too many, it shows an evenly spaced choice.

    Args:
        folder: Folder of the run.
        name: Name of the grids' folder in it.
    """
    paths = grid_paths(folder, name)
    if not paths:
        return
    with Image.open(paths[0]) as first:
        room = max(2, FRAME_PIXELS // (first.width * first.height))
    if len(paths) > room:
        warnings.warn(
            f"{name}.gif shows {room:,} of the {len(paths):,} pictures in {folder / name}, at even "
            "distances: more do not fit into memory at once",
            stacklevel=2,
        )
        paths = [paths[i * (len(paths) - 1) // (room - 1)] for i in range(room)]
    plot.animate(map(opened, paths), folder / f"{name}.gif")


def grid_paths(folder: Path, name: str) -> list[Path]:
    """The grids in a folder of a run, such as "samples", in order of their steps."""
    return sorted((folder / name).glob("step_*.png"), key=_step)


def opened(path: Path) -> Image.Image:
    """Read a picture and close its file."""
    with Image.open(path) as picture:
        return picture.copy()


def _step(path: Path) -> tuple[int, str]:
    """Sort key: the step of a grid, whose name has as many digits as the step needs."""
    digits = path.stem.removeprefix("step_")
    return int(digits) if digits.isdecimal() else 0, path.name


def where_and_how(config: TrainConfig, device: torch.device) -> str:
    """A line about where and how the run trains."""
    where = f"{device}"
    if device.type == "cpu":
        where += f" ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        where += f" ({torch.cuda.get_device_name(device)})"
    how = [config.precision, *(name for name in ("fast", "compile") if getattr(config, name))]
    return f"training on {where}: {', '.join(how)}"


def means(rows: Sequence[Row], rate: float | None) -> str:
    """A line about the last steps: means over exactly these steps."""
    parts = [f"{name} {sum(row[name] for row in rows) / len(rows):.3f}" for name in rows[0] if "_" in name]
    speed = f"; {rate:.0f} images/s" if rate else ""
    return f"step {rows[-1]['step']:.0f}, means of {len(rows)} steps: {', '.join(parts)}{speed}"
