"""What is measured about a run while it trains: the quality of its samples, and whether it has failed."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.nn import functional as F

from dcganlib import datasets, models
from dcganlib.config import MIN_SAMPLES, ResolvedRunConfig
from dcganlib.evaluation import classifier, metrics
from dcganlib.evaluation.diagnosis import diversity
from dcganlib.latents import sample_z
from dcganlib.runs import history
from dcganlib.runs.context import rng_for
from dcganlib.runtime import checkpoint, files
from dcganlib.runtime.step_metrics import StepMetrics
from dcganlib.train import TrainState

SAMPLES = 1000  # that are measured, and as many training images
BATCH = 250  # samples drawn at a time
THUMBNAIL = 8  # pixels; without a classifier, images are compared at this size

BEST = "best.safetensors"
METRICS = "metrics.csv"
WARNINGS = "warnings.txt"

D_WINS_STEPS = 400  # a healthy D can win for a while at the start
D_WINS_WINDOW = 200  # steps over which the losses are averaged
D_WINS_REAL, D_WINS_FAKE = 0.99, 0.005  # means of D(x) and D(G(z)) that say that it has won
D_WINS_DIVERSITY = 0.6  # and of the samples: with more, G draws well enough although D is far ahead
GRIDS = 3  # in a row that must agree
UNIFORM_DIVERSITY = 0.25  # of the samples as a share of the training images': they look alike
DIVERSE = 0.5  # above this they do not
UNIFORM_STEPS = 1000  # for which a healthy G may draw nearly one image at the start
FOOLED_STEPS, FOOLED = 300, 0.35  # fewer steps, where G draws one image and yet D(G(z)) is above this
GROWTH = 1.2  # of the diversity over the last grids: it is about to become diverse
STILL_STEPS = 300
STILL_CHANGE = 0.01  # from grid to grid, as a share of the training images' diversity

Row = history.Row


class TrainingWarning(UserWarning):
    """A run that is training has failed in a way that its numbers show."""


class Evaluator:
    """Measures samples from fixed latents against training images, every ``config.evaluate_every`` steps.

    The features are those of the dataset's classifier in the package. Without one, the images themselves are
    compared, averaged down to 8 x 8 pixels: enough to tell which of two steps of a run is better, but not
    comparable with other runs. Measuring leaves the networks, their statistics and all random sources as they
    are.

    Args:
        config: Configuration of the run.
        loader: Its batches.

    Attributes:
        about: What is measured, for a line of text.
        best: Step and Fréchet distance of the best weights so far; (0, infinity) at the start.

    Raises:
        ValueError: There are too few training images.
    """

    def __init__(self, config: ResolvedRunConfig, loader: datasets.Loader) -> None:
        if len(loader.images) < MIN_SAMPLES:
            raise ValueError(
                f"evaluate_every needs at least {MIN_SAMPLES} training images, there are {len(loader.images)}"
            )
        self.config, self.device = config, loader.device
        data = config.data
        network, reason = classifier.find(data.data, data.channels, data.image_size)
        self._network = None if network is None else network.to(loader.device)
        rng = rng_for(config.train.seed, 3)
        chosen = torch.randperm(len(loader.images), generator=rng)[:SAMPLES]
        real = datasets.to_float(loader.images[chosen.to(loader.images.device)].to(loader.device))
        self._count, self._real = len(real), self._features(real)
        self._real_diversity = diversity(real)
        self._labels = None
        if config.num_classes and loader.labels is not None:
            drawn = torch.randint(len(loader.labels), (self._count,), generator=rng)
            self._labels = loader.labels[drawn.to(loader.labels.device)].to(loader.device)
        self._rng_state = rng.get_state()
        by = "the features of the dataset's classifier" if network else f"8 x 8 pixels, since {reason}"
        self.about = f"evaluating {self._count:,} samples every {config.evaluate_every} steps by {by}"
        self.best = (0, math.inf)
        self._best_generator: models.Generator | None = None
        self._rows: list[Row] = []
        self._seconds, self._begun = 0.0, time.monotonic()

    def resume(self, folder: Path, step: int) -> None:
        """Go on in a folder from the step of its checkpoint.

        Args:
            folder: Folder of the run.
            step: Step of its checkpoint.
        """
        history.resume(
            folder / METRICS, step, columns=history.METRICS, every=int(self.config.evaluate_every or 1)
        )
        if self.config.keep_best and (folder / BEST).is_file():
            _, about = checkpoint.load_generator(folder / BEST)
            self.best = int(about["step"]), float(about["frechet_distance"])

    def measure(self, state: TrainState) -> str:
        """Measure the weights that would be sampled, averaged ones if the run has them.

        Args:
            state: State of the run; not changed.

        Returns:
            A line of text with the measures and what they cost.

        Raises:
            FloatingPointError: A sample is NaN or infinite.
        """
        begin = time.monotonic()
        generator = state.ema_generator or state.generator
        rng = torch.Generator()
        rng.set_state(self._rng_state)
        z = sample_z(self._count, generator.latent_dim, prior=self.config.train.prior, rng=rng)
        with torch.no_grad():
            images = metrics.draw(generator, z, self._labels, batch_size=BATCH)
            if not images.isfinite().all():
                raise FloatingPointError(
                    f"G's images are not finite at step {state.step}, it has diverged; start again with a "
                    "smaller g_lr"
                )
            fake = self._features(images)
        precision, recall = metrics.precision_recall(self._real, fake)
        values = (
            metrics.frechet_distance(self._real, fake),
            precision,
            recall,
            diversity(images) / self._real_diversity if self._real_diversity else math.nan,
        )
        row = dict(zip(history.METRICS, (state.step, *values), strict=True))
        self._rows.append(row)
        if values[0] < self.best[1]:
            self.best = state.step, values[0]
            self._best_generator = checkpoint.copy_generator(generator) if self.config.keep_best else None
        now = time.monotonic()
        self._seconds += now - begin
        return self._line(row, now - begin, self._seconds / max(now - self._begun, 1e-9))

    def save(self, folder: Path) -> None:
        """Write the new rows and the best weights, before the checkpoint that counts them.

        Args:
            folder: Folder of the run.

        Raises:
            OSError: They cannot be written.
        """
        history.History(folder / METRICS).append(self._rows)
        self._rows = []
        if self._best_generator is not None:
            step, distance = self.best
            path = folder / BEST
            checkpoint.save_generator(path, self._best_generator, step=step, frechet_distance=distance)
            self._best_generator = None

    def _features(self, images: Tensor) -> Tensor:
        if self._network is None:
            return F.adaptive_avg_pool2d(images, THUMBNAIL).flatten(1)
        return metrics.extract(self._network, images)

    def _line(self, row: Row, seconds: float, share: float) -> str:
        step, distance = self.best
        return (
            f"step {row['step']}, {self._count:,} samples: Fréchet distance {row['frechet_distance']:.3g} "
            f"(lowest {distance:.3g}, at step {step}), precision {row['precision']:.2f}, recall "
            f"{row['recall']:.2f}, diversity {row['diversity']:.2f}; measured in {seconds:.1f} s, "
            f"{share:.0%} of the time so far"
        )


class Watch:
    """Notices while a run trains that D has won, or that the samples have collapsed or stand still.

    Each is said once in a run, also if it is resumed: ``warnings.txt`` in the run's folder keeps what was
    said, a line each, and lines beyond a checkpoint's step are cut when the run is resumed from it.

    Args:
        folder: Folder of the run.
        config: Configuration of the run.
        loader: Its batches.
    """

    def __init__(self, folder: Path, config: ResolvedRunConfig, loader: datasets.Loader) -> None:
        self.path, self.config = folder / WARNINGS, config
        chosen = torch.randperm(len(loader.images), generator=rng_for(config.train.seed, 3))[:SAMPLES]
        labels = None if loader.labels is None else loader.labels[chosen.to(loader.labels.device)].cpu()
        real = datasets.to_float(loader.images[chosen.to(loader.images.device)].cpu())
        self._real_diversity = diversity(real, labels)
        self._records: deque[StepMetrics] = deque(maxlen=D_WINS_WINDOW)
        self._before: tuple[int, Tensor] | None = None
        self._diversity = 0.0
        self._uniform: list[float] = []
        self._was_diverse = False
        self._still = 0
        self._said: set[str] = set()
        self._unsaved: list[str] = []

    def resume(self, step: int) -> None:
        """Forget what was said after the step of a checkpoint.

        Args:
            step: Step of the checkpoint.
        """
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            files.write_text(self.path, "".join(kept))
        self._said = {line.split()[1] for line in kept if len(line.split()) > 1}

    def save(self) -> None:
        """Write the new warnings, before the checkpoint that counts them.

        Raises:
            OSError: They cannot be written.
        """
        if self._unsaved:
            before = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
            files.write_text(self.path, before + "".join(self._unsaved))
            self._unsaved = []

    def see_losses(self, record: StepMetrics) -> str | None:
        """Take in the metrics of the next step.

        Args:
            record: The metrics.

        Returns:
            A warning, the first time that D has won and the last samples were far from diverse.
        """
        self._records.append(record)
        step = record.step
        if step < D_WINS_STEPS or step % 100 or len(self._records) < D_WINS_WINDOW:
            return None
        d_real, d_fake = self._mean("d_real"), self._mean("d_fake")
        won = d_real >= D_WINS_REAL and d_fake <= D_WINS_FAKE
        if not won or self._diversity > D_WINS_DIVERSITY:
            return None
        return self.add(
            step,
            "d_wins",
            f"D has won: over the last {D_WINS_WINDOW} steps its mean D(x) is {d_real:.3f} and D(G(z)) "
            f"{d_fake:.3f}, so G learns hardly anything; lower d_lr",
        )

    def see_samples(self, step: int, images: Tensor, labels: Tensor | None) -> tuple[list[str], bool]:
        """Take in the next grid of samples.

        Args:
            step: Step of the run.
            images: The samples from the fixed latents, (N, C, H, W) in [-1, 1].
            labels: Their classes, int64 (N,), in a class-conditional run.

        Returns:
            (warnings, whether the samples have collapsed by now).
        """
        images = images.detach().float().cpu()
        scale = self._real_diversity or 1.0
        self._diversity = spread = diversity(images, None if labels is None else labels.cpu()) / scale
        self._uniform = [*self._uniform, spread][-GRIDS:] if spread < UNIFORM_DIVERSITY else []
        self._was_diverse |= spread > DIVERSE
        found: list[str | None] = []
        if self._before is not None and self._before[0] < step:
            change = (images - self._before[1]).square().mean().sqrt().item() / scale
            self._still = self._still + 1 if change < STILL_CHANGE else 0
            if step >= STILL_STEPS and self._still >= GRIDS:
                text = (
                    f"the samples stand still: from step {self._before[0]} to {step} they changed by "
                    f"{change:.2g} of the training images' diversity; check that G is trained, and g_lr"
                )
                found.append(self.add(step, "samples_stand_still", text))
        self._before = step, images
        late = step >= UNIFORM_STEPS or (step >= FOOLED_STEPS and self._mean("d_fake") > FOOLED)
        late &= self._uniform[-1:] <= [GROWTH * one for one in self._uniform[:1]]
        collapsed = len(self._uniform) == GRIDS and (self._was_diverse or late) and self._still < GRIDS
        if collapsed:
            shown = ", ".join(f"{value:.2f}" for value in self._uniform)
            text = (
                f"the samples have collapsed: in the last {GRIDS} grids their diversity is {shown} of the "
                "training images'; start again with another seed, smaller learning rates or batch norm in "
                "both networks"
            )
            found.append(self.add(step, "collapsed", text))
        return [text for text in found if text is not None], collapsed

    def _mean(self, name: str) -> float:
        """Mean of D(x) or D(G(z)) over the last steps; NaN where D's logits are no log-odds."""
        if not self._records or self.config.train.loss != "bce":
            return math.nan
        return mean(float(getattr(one, name)) for one in self._records)

    def add(self, step: int, name: str, text: str) -> str | None:
        """Keep a warning for ``save``, unless one of that name is there already.

        Args:
            step: Step of the run.
            name: What was noticed, in one word.
            text: The warning, in one line.

        Returns:
            The warning with its step, if it is new.
        """
        if name in self._said:
            return None
        self._said.add(name)
        self._unsaved.append(f"{step} {name} {text}\n")
        return f"step {step}: {text}"


def _step_of(line: str) -> float:
    first = line.split(maxsplit=1)[:1]
    return int(first[0]) if first and first[0].isdecimal() else math.inf


def read_metrics(folder: Path) -> Sequence[Row]:
    """The rows of a run's ``metrics.csv``; none if it was not evaluated while training.

    Args:
        folder: Folder of the run.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / METRICS
    return history.read(path, history.METRICS) if path.is_file() else []


def read_warnings(folder: Path) -> list[tuple[int, str, str]]:
    """What was said while a run trained: (step, name, text) each.

    Args:
        folder: Folder of the run.
    """
    path = folder / WARNINGS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    parts = [line.split(maxsplit=2) for line in lines]
    return [(int(part[0]), part[1], part[2]) for part in parts if len(part) == 3 and part[0].isdecimal()]
