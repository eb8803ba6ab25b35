"""Evaluate a run: compare its samples with real images, with held-out real images as the baseline.

A measure on its own says little, because it depends on the feature network and on the sample size. So each is
reported next to the value that held-out real images get in place of the samples, and next to its ideal value.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

import dcganlib
from dcganlib import datasets, models, runs
from dcganlib.config import MIN_SAMPLES, EvaluationConfig, Prior, ResolvedRunConfig
from dcganlib.evaluation import classifier, metrics
from dcganlib.latents import sample_z
from dcganlib.runs import folder as run_folder
from dcganlib.runs import model_card
from dcganlib.runtime import files, memory
from dcganlib.runtime.device import pick_device

DRAW_BATCH_SIZE = 500  # images generated at a time
INCEPTION_BATCH_SIZE = 50  # images that Inception takes at a time
MAX_SEARCHED = 2000  # samples whose nearest training image is searched: enough for a median and a 1% quantile
WORKING_MEMORY = 500_000_000  # bytes that a batch of images or a block of distances needs temporarily

INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
"""Address of the weights of the Inception network."""

INCEPTION_WIDTH = 2048  # number of its features

IDEAL = {
    "Fréchet distance": "0",
    "kernel distance": "0",
    "precision": "as real",
    "recall": "as real",
    "1-NN accuracy": "0.5",
    "1-NN accuracy, real": "0.5",
    "1-NN accuracy, fake": "0.5",
    "missing classes": "0",
    "classes, chi-squared": "0",
    "memorization in features, ratio": "1",
    "memorization in features, share": "0.01",
    "memorization in pixels, ratio": "1",
    "memorization in pixels, share": "0.01",
    "FID (Inception)": "0",
}
"""Every measure with its ideal value, in table order; "as real" is the value of held-out real images."""

SPACES = ("features", "pixels")  # in which nearest training images are searched


@dataclass(frozen=True)
class Measure:
    """One measure of a run.

    Attributes:
        values: Of the samples, one per repeat.
        real: Of held-out real images in their place, one per repeat.
    """

    values: tuple[float, ...]
    real: tuple[float, ...]


@dataclass(frozen=True)
class ClassCounts:
    """Number of images that show one class or have one attribute, according to the classifier.

    Attributes:
        samples: Among the samples, one number per repeat.
        training: Among as many training images.
    """

    samples: tuple[int, ...]
    training: tuple[int, ...]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        run: The run's folder, or the name of a pretrained one.
        data: Its dataset.
        generator: "ema", or "last step".
        batch_norm: Which statistics the generator's batch norms used.
        network: The network whose features were compared; "none" for raw pixels.
        samples: Samples per repeat, compared with as many training images.
        real_samples: Held-out images per repeat, compared with as many training images.
        searched: Samples, and as many held-out images, whose nearest training image was searched.
        train, held_out: Number of training images and of held-out images.
        held_out_source: Where the held-out images come from.
        seeds: One per repeat.
        measures: By name, in the order of ``IDEAL``.
        classes: By name; empty without a classifier.
        notes: Remarks for the reader of the result.
        file: Where the result was written.
    """

    run: str
    data: str
    generator: str
    batch_norm: str
    network: str
    samples: int
    real_samples: int
    searched: int
    train: int
    held_out: int
    held_out_source: str
    seeds: tuple[int, ...]
    measures: dict[str, Measure]
    classes: dict[str, ClassCounts]
    notes: tuple[str, ...]
    file: Path

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the means and the command that repeats the evaluation."""
        command = f"dcganlib evaluate {self.run} --samples {self.samples} --repeats {len(self.seeds)}"
        command += f" --seed {self.seeds[0]}"
        content = {"version": dcganlib.__version__, "command": command, **asdict(self)}
        del content["file"]
        for name, entry in content["measures"].items():
            entry |= {"mean": _mean(entry["values"]), "real_mean": _mean(entry["real"]), "ideal": IDEAL[name]}
        return content

    def as_table(self) -> str:
        """Text for a terminal: a heading, one line per measure, the notes."""
        samples, real = f"{self.samples:,}", f"{self.real_samples:,}"
        heading = [
            f"samples:  {samples} of {self.run}, compared with {samples} training images",
            f"weights:  {self.generator}; batch norm: {self.batch_norm}",
            f"real:     {real} held-out images of {self.data}, {self.held_out_source}, compared with {real} "
            "training images",
            f"nearest:  training images of {self.searched:,} samples and as many held-out images, among all "
            f"{self.train:,}",
            f"features: {self.network}",
            f"seeds:    {', '.join(map(str, self.seeds))}; each measure with its mean and range",
        ]
        rows: list[tuple[str, ...]] = [("measure", "samples", "range", "real", "range", "ideal")]
        for name, measure in self.measures.items():
            cells = [cell for values in (measure.values, measure.real) for cell in _mean_and_range(values)]
            rows.append((name, *cells, IDEAL[name]))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join([*heading, "", *(line.rstrip() for line in lines), *self.notes])


@contextmanager
def _default_modes() -> Iterator[None]:
    """Undo modes that the caller may have set: a default device, gradients, autocast."""
    with (
        torch.device("cpu"),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


@_default_modes()
def evaluate(
    run: str | Path,
    config: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (frozen)
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    root: str | Path | None = None,
    device: str = "auto",
) -> Evaluation:
    """Measure a run's samples, several times, and write the result as JSON, and into the run's model card.

    Each repeat compares new samples with a new choice of training images; held-out images are compared with
    training images in the same way. A dataset without a test split is cut into two random halves, training
    images and held-out ones; the run was trained on both. The labels of a conditional generator's samples are
    drawn with the class shares of the training set, independently of the images that they are compared with.

    Args:
        run: A run's folder, or the name of a pretrained one.
        config: What to measure, and how often.
        data: Where the run's images are now, if they were moved; a folder, a zip or a name.
        out: File to write. By default ``evaluation.json`` in the run's folder, or ``evaluation-NAME.json`` in
            the current folder for a pretrained run.
        root: Folder of the datasets, as in ``datasets.load``.
        device: As in ``device.pick_device``.

    Returns:
        The measures, as they were written.

    Raises:
        ValueError, FileNotFoundError: The run or its data cannot be used. Raised before anything is measured.
        ModuleNotFoundError: ``config.inception`` is set and torch-fidelity is missing.
        MemoryError: The samples would not fit into memory.
        OSError: The file cannot be written.
    """
    settings = runs.moved(runs.read_config(run), data)
    file = _checked_file(run, out)
    sampler, weights = _sampler(runs.read(run), config.ema, settings.train.prior)
    place = pick_device(device)
    embedder, notes = _embedder(settings, config.inception, place)
    study = _Study.plan(sampler, embedder, _split(settings, root, config.seed), config.samples)
    if study.samples < config.samples:
        notes.append(
            f"The dataset has only {len(study.data.train):,} training images, so no more samples were drawn."
        )
    _check_memory(study, place)
    seeds = tuple(range(config.seed, config.seed + config.repeats))
    measures, classes = _measure(study.to(place), seeds)
    result = Evaluation(
        run=str(run),
        data=str(settings.data.data),
        generator=weights,
        batch_norm=_batch_norm(sampler.generator),
        network=_describe(embedder.network, str(settings.data.data)),
        samples=study.samples,
        real_samples=study.real_samples,
        searched=study.searched,
        train=len(study.data.train),
        held_out=len(study.data.held_out),
        held_out_source=study.data.source,
        seeds=seeds,
        measures=measures,
        classes=classes,
        notes=tuple(notes),
        file=file,
    )
    files.write_text(file, json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n")
    folder = runs.find(run)
    if file.resolve() == folder.resolve() / "evaluation.json":
        model_card.update(folder)
    return result


def is_our_result(path: Path) -> bool:
    """Whether ``evaluate`` wrote a file, in this or an older version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and str(content.get("command")).startswith("dcganlib evaluate ")


def result_file(run: str | Path, out: str | Path | None = None) -> Path:
    """The file that ``evaluate`` writes.

    Args:
        run, out: As in ``evaluate``.

    Raises:
        FileNotFoundError: There is no such run.
    """
    return run_folder.output_file(run, out, "evaluation.json")


def draw(generator: models.Generator, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Generate many images in batches, as bytes, which take a quarter of the memory of floats.

    Args:
        generator: On any device, in any mode.
        z: Latents of shape (N, latent_dim).
        labels: int64 of shape (N,), for a conditional generator.

    Returns:
        uint8 of shape (N, C, H, W), on the generator's device.

    Raises:
        ValueError: As in ``models.generate``.
    """

    def generate(rows: slice) -> Tensor:
        batch_labels = None if labels is None else labels[rows]
        return datasets.to_uint8(models.generate(generator, z[rows], batch_labels))

    return metrics.map_batches(generate, len(z), DRAW_BATCH_SIZE)


Features = dict[str, Tensor]  # a row per image: its pixels, and the outputs of the networks


@dataclass(frozen=True)
class _Sampler:
    """A generator, and the law of its latents."""

    generator: models.Generator
    prior: Prior


@dataclass(frozen=True)
class _Embedder:
    """The networks that turn images into features."""

    network: classifier.Classifier | None
    inception: nn.Module | None

    @property
    def space(self) -> str:
        """In which two sets of images are compared: pixels only if there is no classifier."""
        return "pixels" if self.network is None else "features"

    @property
    def compared(self) -> tuple[str, ...]:
        """The features that ``_compare`` needs."""
        own = ("pixels",) if self.network is None else ("features", "labels")
        return own if self.inception is None else (*own, "Inception")

    @property
    def width(self) -> int:
        """Numbers per image, without pixels."""
        width = 0 if self.network is None else self.network.widths[-1]
        return width if self.inception is None else width + INCEPTION_WIDTH

    def embed(self, images: Tensor) -> Features:
        """Features of uint8 images (N, C, H, W)."""
        features = {"pixels": images}
        if self.network is not None:
            features["features"] = metrics.extract(self.network, images)
            features["labels"] = self.network.predictions(self.network.head(features["features"]))
        if self.inception is not None:
            features["Inception"] = metrics.extract(self.inception, images, batch_size=INCEPTION_BATCH_SIZE)
        return features


@dataclass(frozen=True)
class _Split:
    """Training and held-out images, uint8 (N, C, H, W); the labels belong to the training images."""

    train: Tensor
    labels: Tensor | None
    held_out: Tensor
    source: str


@dataclass(frozen=True)
class _Study:
    """All that the repeats of an evaluation share."""

    sampler: _Sampler
    embedder: _Embedder
    data: _Split
    samples: int
    real_samples: int

    @classmethod
    def plan(cls, sampler: _Sampler, embedder: _Embedder, data: _Split, samples: int) -> _Study:
        """Limit the samples to the images that there are; too few are refused."""
        count = min(samples, len(data.train))
        real_count = min(count, len(data.held_out))
        if real_count < MIN_SAMPLES:
            raise ValueError(
                f"the dataset is too small to measure: {real_count} images are held out, {MIN_SAMPLES} are "
                "needed"
            )
        return cls(sampler, embedder, data, count, real_count)

    @property
    def searched(self) -> int:
        return min(self.real_samples, MAX_SEARCHED)

    def to(self, place: torch.device) -> _Study:
        """The same with the generator and the images on a device."""
        self.sampler.generator.to(place)
        data = replace(self.data, train=self.data.train.to(place), held_out=self.data.held_out.to(place))
        return replace(self, data=data)


@dataclass(frozen=True)
class _Repeat:
    """The measures of one repeat, for the samples and the baseline, and the class counts of both sets."""

    measures: dict[str, float]
    baseline: dict[str, float]
    counts: tuple[Tensor, Tensor] | None


def _checked_file(run: str | Path, out: str | Path | None) -> Path:
    file = result_file(run, out)
    if file.is_dir() or not files.writable(file.parent):
        raise PermissionError(f"{file} cannot be written: name another file with --out")
    return file


def _sampler(run: runs.Run, ema: bool, prior: Prior) -> tuple[_Sampler, str]:
    """The generator to measure, and which of the run's weights it has."""
    generator = run.ema_generator if ema and run.ema_generator is not None else run.generator
    is_ema = generator is run.ema_generator
    if is_ema and not ema:
        raise ValueError(f"{run.folder} has only averaged weights: leave out --no-ema")
    return _Sampler(generator, prior), "ema" if is_ema else "last step"


@contextmanager
def _stage(bar: Any, label: str) -> Iterator[None]:
    """One step of a progress bar."""
    bar.set_postfix_str(label)
    yield
    bar.update()


def _measure(study: _Study, seeds: Sequence[int]) -> tuple[dict[str, Measure], dict[str, ClassCounts]]:
    """All measures and class counts by name, over all repeats."""
    with tqdm(total=2 + 6 * len(seeds), unit="step") as bar:
        with _stage(bar, "features of training images"):
            train = study.embedder.embed(study.data.train)
        with _stage(bar, "features of held-out images"):
            held_out = study.embedder.embed(study.data.held_out)
        repeats = [_measure_once(study, train, held_out, seed, bar) for seed in seeds]
    measures = {
        name: Measure(
            tuple(repeat.measures[name] for repeat in repeats),
            tuple(repeat.baseline[name] for repeat in repeats),
        )
        for name in IDEAL
        if name in repeats[0].measures
    }
    if study.embedder.network is None:
        return measures, {}
    counts = torch.stack([torch.stack(repeat.counts) for repeat in repeats if repeat.counts is not None])
    names = study.embedder.network.names
    classes = {
        name: ClassCounts(*map(tuple, counts[:, :, index].T.tolist())) for index, name in enumerate(names)
    }
    return measures, classes


def _measure_once(study: _Study, train: Features, held_out: Features, seed: int, bar: Any) -> _Repeat:
    """One repeat, from features of the training and of the held-out images."""
    embedder, generator = study.embedder, study.sampler.generator
    rng = torch.Generator().manual_seed(seed)
    z = sample_z(study.samples, generator.latent_dim, prior=study.sampler.prior, rng=rng)
    train_order = torch.randperm(len(study.data.train), generator=rng)
    held_out_order = torch.randperm(len(study.data.held_out), generator=rng)
    labels = _draw_labels(study.data.labels, study.samples, rng) if generator.num_classes else None
    with _stage(bar, "generating samples"):
        images = draw(generator, z, labels)
    with _stage(bar, "features of samples"):
        fake = embedder.embed(images)
    with _stage(bar, "comparing samples"):
        real = _select(train, train_order[: study.samples], embedder.compared)
        measures = _compare(embedder, real, fake, rng)
    with _stage(bar, "nearest to samples"):
        fake_distances = _nearest_distances(fake, torch.arange(study.searched), train)
    with _stage(bar, "nearest to held-out images"):
        real_distances = _nearest_distances(held_out, held_out_order[: study.searched], train)
    with _stage(bar, "comparing held-out images"):
        few = study.real_samples
        real_few = _select(train, train_order[:few], embedder.compared)
        baseline = _compare(
            embedder, real_few, _select(held_out, held_out_order[:few], embedder.compared), rng
        )
    measures |= _memorization(fake_distances, real_distances)
    halves = torch.arange(study.searched).chunk(2)
    baseline |= _memorization(*(_select(real_distances, half, SPACES) for half in halves))
    network = embedder.network
    counts = None if network is None else (_count(network, fake["labels"]), _count(network, real["labels"]))
    return _Repeat(measures, baseline, counts)


def _draw_labels(labels: Tensor | None, count: int, rng: torch.Generator) -> Tensor | None:
    """Draw labels with the class shares of the training set, independently of the reference images.

    With the labels of the reference images themselves, the class counts of samples and reference would match
    by construction, closer than those of any two sets of real images.
    """
    return None if labels is None else labels[torch.randint(len(labels), (count,), generator=rng)]


def _select(features: Features, chosen: Tensor, names: Sequence[str]) -> Features:
    """The named features of some images."""
    return {name: features[name][chosen.to(features[name].device)] for name in names if name in features}


def _compare(embedder: _Embedder, real: Features, fake: Features, rng: torch.Generator) -> dict[str, float]:
    """All measures of two sets; those of memorization need the whole training set."""
    values: dict[str, float] = {}
    real_rows, fake_rows = real[embedder.space], fake[embedder.space]
    network = embedder.network
    if network is not None:  # pixels are far from normally distributed
        values["Fréchet distance"] = metrics.frechet_distance(real_rows, fake_rows)
        size = min(1000, len(real_rows))
        values["kernel distance"] = metrics.kernel_distance(real_rows, fake_rows, subset_size=size, rng=rng)
        counts, expected = (_count(network, features["labels"]) for features in (fake, real))
        values["missing classes"] = float(len(metrics.missing_classes(counts[: network.outputs])))
        values["classes, chi-squared"] = metrics.chi2_distance(counts, expected)
    values["precision"], values["recall"] = metrics.precision_recall(real_rows, fake_rows)
    one_nn = metrics.one_nn_accuracy(real_rows, fake_rows)
    values["1-NN accuracy"] = one_nn.accuracy
    values["1-NN accuracy, real"], values["1-NN accuracy, fake"] = one_nn.on_real, one_nn.on_fake
    if embedder.inception is not None:
        values["FID (Inception)"] = metrics.frechet_distance(real["Inception"], fake["Inception"])
    return values


def _nearest_distances(queries: Features, chosen: Tensor, train: Features) -> Features:
    """Distances of some images to their nearest training image, by space."""
    selected = _select(queries, chosen, SPACES)
    return {space: metrics.nearest(rows, train[space]).distances for space, rows in selected.items()}


def _memorization(fake: Features, real: Features) -> dict[str, float]:
    """Measures of memorization, from the distances of samples and of held-out images by space."""
    by_space = {space: metrics.compare_distances(fake[space], real[space]) for space in fake}
    ratios = {f"memorization in {space}, ratio": both.ratio for space, both in by_space.items()}
    return ratios | {f"memorization in {space}, share": both.share for space, both in by_space.items()}


def _count(network: classifier.Classifier, labels: Tensor) -> Tensor:
    """Images per class; or images with each attribute, then images without each attribute."""
    if network.multilabel:
        return torch.cat([labels.sum(0), (~labels).sum(0)])
    return metrics.class_histogram(labels, network.outputs)


def _split(settings: ResolvedRunConfig, root: str | Path | None, seed: int) -> _Split:
    """A run's training images, and images to hold against them."""
    train = runs.load_data(settings, root)
    entry = datasets.find_entry(settings.data.data)
    if "test" in entry.splits:
        limit = settings.data.max_images if entry.max_images_before_split else None
        held_out = runs.load_data(settings, root, split="test", max_images=limit)
        return _Split(train.images, train.labels, held_out.images, "its test split")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    kept, out = order[len(train) // 2 :], order[: len(train) // 2]
    labels = None if train.labels is None else train.labels[kept]
    source = "a random half of its images, on which the run was trained too"
    return _Split(train.images[kept], labels, train.images[out], source)


def _embedder(
    settings: ResolvedRunConfig, inception: bool, place: torch.device
) -> tuple[_Embedder, list[str]]:
    """The networks for a run's images on a device, and a note if there is no classifier."""
    inception_network = _inception(int(settings.data.channels or 0)).to(place) if inception else None
    data = settings.data
    network, reason = classifier.find(data.data, data.channels, data.image_size)
    if network is not None:
        return _Embedder(network.to(place), inception_network), []
    note = f"Only pixels were compared, without feature distances and class counts: {reason}."
    return _Embedder(None, inception_network), [note]


class _Inception(nn.Module):
    """The feature network of the FID, for ``metrics.extract``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(datasets.to_uint8(images))
        return features


def _inception(channels: int) -> _Inception:
    """Load Inception; raise at once if something is missing."""
    if channels != 3:
        raise ValueError(
            f"Inception takes colour images, the run's have {channels} channel: leave out --inception"
        )
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ModuleNotFoundError(
            "--inception needs torch-fidelity, which is not installed: pip install torch-fidelity"
        )
    weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION.rsplit("/", 1)[1]
    if not weights.is_file():
        raise FileNotFoundError(
            f"--inception needs the file {weights}, which is missing: download it from {INCEPTION}"
        )
    from torchmetrics.image.fid import NoTrainInceptionV3  # here, because it takes seconds to import

    return _Inception(NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"]))


def _check_memory(study: _Study, place: torch.device) -> None:
    """Refuse samples that do not fit into memory, before any are generated."""
    available = memory.free_memory(place)
    count, rows = study.samples, study.samples + len(study.data.train) + len(study.data.held_out)
    needed = count * study.data.train[0].numel() + 4 * study.embedder.width * rows + WORKING_MEMORY
    if available is not None and needed > available:
        raise MemoryError(
            f"{count:,} samples take {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free: use "
            "fewer --samples"
        )


def _batch_norm(generator: models.Generator) -> str:
    """Which statistics a generator's batch norms use. ``models.generate`` draws in eval mode."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
    has_batch_norm = any(isinstance(module, kinds) for module in generator.modules())
    return "the running statistics stored with these weights" if has_batch_norm else "none"


def _describe(network: classifier.Classifier | None, data: str) -> str:
    if network is None:
        return "none, raw pixels"
    accuracy = network.about.get("test_accuracy")
    details = "" if accuracy is None else f", {accuracy:.1%} accurate on its test images"
    return f"classifier {datasets.find_entry(data).classifier}{details}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_and_range(values: Sequence[float]) -> tuple[str, str]:
    return f"{_mean(values):.4g}", f"{min(values):.4g} to {max(values):.4g}"
