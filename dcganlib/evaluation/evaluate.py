"""Measuring a run: its samples against real images, beside other real images against the same ones.

A measure alone says little, since each depends on the network of the features and on the counts. So each
stands beside what real images get that no network drew, and beside what is ideal.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

import dcganlib
from dcganlib import datasets, models, runs
from dcganlib.config import Prior
from dcganlib.evaluation import classifier, metrics
from dcganlib.latents import sample_z
from dcganlib.runtime import files, memory
from dcganlib.runtime.device import pick_device

LEAST = 10  # samples below which the measures mean nothing
BATCH = 500  # images that are drawn at a time
SEARCHED = 2000  # samples whose nearest training image is looked for: enough for a median and a hundredth

INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
"""Address of the weights of the Inception network."""

INCEPTION_WIDTH = 2048  # of its features

IDEAL = {
    "Fréchet distance": "0",
    "kernel distance": "0",
    "precision": "as real",
    "recall": "as real",
    "two-sample accuracy": "0.5",
    "two-sample accuracy, real": "0.5",
    "two-sample accuracy, fake": "0.5",
    "missing classes": "0",
    "classes, chi-squared": "0",
    "copying in features, ratio": "1",
    "copying in features, share": "0.01",
    "copying in pixels, ratio": "1",
    "copying in pixels, share": "0.01",
    "FID (Inception)": "0",
}
"""Every measure, in the order of the table, and what would be ideal; "as real" is what real images get."""


@dataclass(frozen=True)
class Measure:
    """One measure of a run.

    Attributes:
        values: Of the samples, one for each draw.
        real: Of other real images in their place, one for each draw.
    """

    values: tuple[float, ...]
    real: tuple[float, ...]


@dataclass(frozen=True)
class ClassCounts:
    """How many images show one class, or have one attribute, as the classifier sees it.

    Attributes:
        samples: Of the samples, one number for each draw.
        training: Of as many training images.
    """

    samples: tuple[int, ...]
    training: tuple[int, ...]


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a run, and how.

    Attributes:
        run: Its folder, or the name of a stored one.
        data: Its set.
        generator: "ema", or "last step".
        batch_norm: Which statistics its batch norms drew the samples with.
        network: Whose features were compared; "none" for the pixels themselves.
        samples: How many were drawn each time, and compared with as many training images.
        real_samples: How many held-out images were compared with as many training images.
        searched: How many samples, and as many held-out images, were looked for among all training images.
        train, held_out: How many training images there are, and how many were held out.
        held_out_are: Where these come from.
        seeds: One for each draw.
        measures: By name, in the order of ``IDEAL``.
        classes: By name; empty without a classifier.
        notes: What a reader should know.
        file: Where it was written.
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
    held_out_are: str
    seeds: tuple[int, ...]
    measures: dict[str, Measure]
    classes: dict[str, ClassCounts]
    notes: tuple[str, ...]
    file: Path

    def as_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, with the means and the command that measures them again."""
        command = f"dcganlib evaluate {self.run} --samples {self.samples} --repeats {len(self.seeds)}"
        command += f" --seed {self.seeds[0]}"
        content = {"version": dcganlib.__version__, "command": command, **asdict(self)}
        del content["file"]
        for name, found in content["measures"].items():
            found |= {"mean": _mean(found["values"]), "real_mean": _mean(found["real"]), "ideal": IDEAL[name]}
        return content

    def as_table(self) -> str:
        """As text: a heading, a line for each measure, the notes."""
        drawn, real = f"{self.samples:,}", f"{self.real_samples:,}"
        heading = [
            f"samples:  {drawn} of {self.run}, against {drawn} training images",
            f"weights:  {self.generator}; batch norm: {self.batch_norm}",
            f"real:     {real} held-out images of {self.data}, {self.held_out_are}, against {real} training "
            "images",
            f"copying:  {self.searched:,} samples, and as many held-out images, among all {self.train:,}",
            f"features: {self.network}",
            f"seeds:    {', '.join(map(str, self.seeds))}; the mean and the range of these draws",
        ]
        rows: list[tuple[str, ...]] = [("measure", "samples", "range", "real", "range", "ideal")]
        for name, found in self.measures.items():
            sides = [cell for values in (found.values, found.real) for cell in _cells(values)]
            rows.append((name, *sides, IDEAL[name]))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join([*heading, "", *(line.rstrip() for line in lines), *self.notes])


@contextmanager
def _own_settings() -> Iterator[None]:
    """Take back what the caller may have set for all tensors: a default device, gradients, autocast."""
    with (
        torch.device("cpu"),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


@_own_settings()
def evaluate(
    run: str | Path,
    *,
    samples: int = 10_000,
    repeats: int = 3,
    seed: int = 0,
    data: str | Path | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    ema: bool = True,
    inception: bool = False,
) -> Evaluation:
    """Measure a run's samples, several times, and write the result as JSON.

    Each draw compares new samples with new training images; held-out images take the samples' place in turn.
    Sets without a test split are cut in two at random: training images, and held-out ones, which the run
    was trained on too. A conditional generator is told labels drawn with the training set's class shares,
    independently of the images that its samples are compared with.

    Args:
        run: A run's folder, or the name of a stored one.
        samples: How many are drawn each time; no more than there are training images.
        repeats: How often.
        seed: Of the first draw; the others follow it.
        data: Where the run's images are now, if they were moved.
        root: Folder of the sets, as ``datasets.load`` takes it.
        device: As ``device.pick_device`` takes it.
        out: File to write; ``evaluation.json`` in the run's folder if absent, and for a stored run
            ``evaluation-NAME.json`` in the current one.
        ema: Take the averaged weights, where there are some; else those of the last step.
        inception: Measure the FID too, which needs torch-fidelity, its weights, and colour images.

    Returns:
        The measures, as they were written.

    Raises:
        ValueError, FileNotFoundError: The run, its data or a number are not as they should be. All is
            checked before any measure is made.
        ModuleNotFoundError: Inception is asked for, and torch-fidelity is missing.
        MemoryError: The samples would not fit into memory.
        OSError: Nothing can be written there.
    """
    for label, value, least in (("samples", samples, LEAST), ("repeats", repeats, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{label} must be at least {least}, got {value}")
    found, settings = runs.read(run), runs.moved(runs.read_config(run), data)
    file = result_file(run, out)
    if file.is_dir() or not files.writable(file.parent):
        raise PermissionError(f"{file} cannot be written: name another file with --out")
    generator = found.ema_generator if ema and found.ema_generator is not None else found.generator
    if not ema and found.generator is found.ema_generator:
        raise ValueError(f"{run} keeps its averaged weights alone: leave out --no-ema")
    place = pick_device(device)
    observer = _inception(settings.channels).to(place) if inception else None
    network, notes = _classifier(settings, place)
    train, held_out, held_out_are = _sets(settings, root, seed)
    count, real_count = min(samples, len(train)), min(samples, len(train), len(held_out))
    if real_count < LEAST:
        raise ValueError(
            f"{settings.data} is too small to measure: {real_count} images of {LEAST} are held out"
        )
    if count < samples:
        notes.append(f"There are {len(train):,} training images, so no more samples were drawn.")
    seeds = tuple(range(seed, seed + repeats))
    subject = _Subject(generator.to(place), settings.train.prior, network, observer)
    _refuse_too_many(subject, count, (train.images, held_out), place)
    labels = train.labels if generator.num_classes else None
    images = train.images.to(place), held_out.to(place)
    measures, classes = _measure(subject, *images, labels, count, real_count, seeds)
    result = Evaluation(
        str(run),
        settings.data,
        "ema" if generator is found.ema_generator else "last step",
        _batch_norm(generator),
        _described(network, settings.data),
        count,
        real_count,
        min(real_count, SEARCHED),
        len(train),
        len(held_out),
        held_out_are,
        seeds,
        measures,
        classes,
        tuple(notes),
        file,
    )
    files.write_text(file, json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n")
    return result


def is_our_result(path: Path) -> bool:
    """Whether a file is one that ``evaluate`` wrote."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and str(content.get("command")).startswith("dcganlib evaluate ")


def result_file(run: str | Path, out: str | Path | None = None) -> Path:
    """Where ``evaluate`` writes.

    Args:
        run, out: As ``evaluate`` takes them.

    Raises:
        FileNotFoundError: There is no such run.
    """
    if out:
        return files.expand_user(out)
    folder = runs.find(run)
    stored = folder.parent == runs.PRETRAINED
    return Path(f"evaluation-{folder.name}.json") if stored else folder / "evaluation.json"


def draw(generator: models.Generator, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Draw many images, a few at a time, as the bytes of an image file, which take a quarter of the room.

    Args:
        generator: On any device, in any mode.
        z: Latents of shape (N, latent_dim).
        labels: int64 of shape (N,), of a conditional generator.

    Returns:
        uint8 of shape (N, C, H, W), on the generator's device.

    Raises:
        ValueError: As ``models.generate`` does.
    """

    def work(part: slice) -> Tensor:
        told = None if labels is None else labels[part]
        return datasets.to_uint8(models.generate(generator, z[part], told))

    return metrics.in_parts(work, len(z), BATCH)


Seen = dict[str, Tensor]  # a row for each image: its pixels, and what networks see in it
VIEWS = ("features", "pixels")  # in which copies are looked for
WORK = 500_000_000  # bytes that a batch of images or a block of distances takes in passing


@dataclass(frozen=True)
class _Subject:
    """What draws the samples, and what looks at images."""

    generator: models.Generator
    prior: Prior
    network: classifier.Classifier | None
    inception: nn.Module | None

    @property
    def compared(self) -> tuple[str, ...]:
        """What of ``see`` the measures of two sets compare: pixels only where there is nothing better."""
        own = ("pixels",) if self.network is None else ("features", "labels")
        return own if self.inception is None else (*own, "Inception")

    def see(self, images: Tensor) -> Seen:
        seen = {"pixels": images}
        if self.network is not None:
            seen["features"] = metrics.extract(self.network, images)
            seen["labels"] = self.network.answers(self.network.head(seen["features"]))
        if self.inception is not None:
            seen["Inception"] = metrics.extract(self.inception, images, batch_size=50)
        return seen


def _measure(
    subject: _Subject,
    train: Tensor,
    held_out: Tensor,
    labels: Tensor | None,
    count: int,
    real_count: int,
    seeds: Sequence[int],
) -> tuple[dict[str, Measure], dict[str, ClassCounts]]:
    """All measures by name, over all draws."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in IDEAL}
    counts = []
    with tqdm(total=2 + 6 * len(seeds), unit="step") as bar:

        def step(label: str, work: Callable[..., Any], *arguments: Any) -> Any:
            bar.set_postfix_str(label)
            result = work(*arguments)
            bar.update()
            return result

        known = step("looking at training images", subject.see, train)
        new = step("looking at held-out images", subject.see, held_out)
        for seed in seeds:
            rng = torch.Generator().manual_seed(seed)
            z = sample_z(count, subject.generator.latent_dim, prior=subject.prior, rng=rng)
            chosen, others = (torch.randperm(len(images), generator=rng) for images in (train, held_out))
            told = None if labels is None else _draw_labels(labels, count, rng)
            fake = step("looking at samples", subject.see, step("drawing", draw, subject.generator, z, told))
            real = _pick(known, chosen[:count], subject.compared)
            ours = step("comparing samples", _compare, subject, real, fake, rng)
            few, own = torch.arange(min(real_count, SEARCHED)), others[: min(real_count, SEARCHED)]
            near = step("nearest to samples", _nearest, _pick(fake, few, VIEWS), known)
            usual = step("nearest to held-out images", _nearest, _pick(new, own, VIEWS), known)
            ours |= _copying(near, usual)
            pair = [
                _pick(seen, order[:real_count], subject.compared)
                for seen, order in ((known, chosen), (new, others))
            ]
            theirs = step("comparing real images", _compare, subject, *pair, rng)
            theirs |= _copying(*(_pick(usual, half, VIEWS) for half in few.chunk(2)))
            for name, value in ours.items():
                found[name].append((value, theirs[name]))
            if subject.network is not None:
                counts.append((_count(subject.network, fake), _count(subject.network, real)))
    measures = {name: Measure(*zip(*pairs, strict=True)) for name, pairs in found.items() if pairs}
    names = () if subject.network is None else subject.network.names
    sides = zip(*(torch.stack(side, 1).tolist() for side in zip(*counts, strict=True)), strict=True)
    classes = {name: ClassCounts(*map(tuple, pair)) for name, pair in zip(names, sides, strict=False)}
    return measures, classes


def _draw_labels(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Draw labels with the class shares of the training set.

    They are independent of the reference images. With the labels of these very images the class counts of
    samples and reference would match by construction, closer than those of any two sets of real images do.
    """
    return labels[torch.randint(len(labels), (count,), generator=rng)]


def _pick(seen: Seen, chosen: Tensor, names: Sequence[str]) -> Seen:
    """Some images, of what was seen the named part."""
    return {name: seen[name][chosen.to(seen[name].device)] for name in names if name in seen}


def _compare(subject: _Subject, real: Seen, fake: Seen, rng: torch.Generator) -> dict[str, float]:
    """All measures but copying, of samples or of real images in their place."""
    found: dict[str, float] = {}
    view = "pixels" if subject.network is None else "features"
    if subject.network is not None:  # pixels are nowhere near normally distributed
        found["Fréchet distance"] = metrics.frechet_distance(real[view], fake[view])
        size = min(1000, len(real[view]))
        found["kernel distance"] = metrics.kernel_distance(real[view], fake[view], subset_size=size, rng=rng)
        counts, expected = (_count(subject.network, seen) for seen in (fake, real))
        found["missing classes"] = float(len(metrics.missing_classes(counts[: subject.network.outputs])))
        found["classes, chi-squared"] = metrics.chi2_distance(counts, expected)
    found["precision"], found["recall"] = metrics.precision_recall(real[view], fake[view])
    told = metrics.two_sample_accuracy(real[view], fake[view])
    found["two-sample accuracy"] = told.accuracy
    found["two-sample accuracy, real"], found["two-sample accuracy, fake"] = told.on_real, told.on_fake
    if subject.inception is not None:
        found["FID (Inception)"] = metrics.frechet_distance(real["Inception"], fake["Inception"])
    return found


def _nearest(queries: Seen, train: Seen) -> Seen:
    """Distances to the nearest training image, in features and in pixels."""
    views = [view for view in VIEWS if view in train]
    return {view: metrics.nearest(queries[view], train[view]).distances for view in views}


def _copying(near: Seen, usual: Seen) -> dict[str, float]:
    found = {view: metrics.compare_distances(near[view], usual[view]) for view in near}
    ratios = {f"copying in {view}, ratio": copying.ratio for view, copying in found.items()}
    return ratios | {f"copying in {view}, share": copying.share for view, copying in found.items()}


def _count(network: classifier.Classifier, seen: Seen) -> Tensor:
    """How many show each class; or how many have each attribute, then how many have it not."""
    labels = seen["labels"]
    if network.multilabel:
        return torch.cat([labels.sum(0), (~labels).sum(0)])
    return metrics.class_histogram(labels, network.outputs)


def _sets(
    settings: runs.RunConfig, root: str | Path | None, seed: int
) -> tuple[datasets.ImageDataset, Tensor, str]:
    """The training set, the held-out images, and where these come from."""
    train = runs.load_data(settings, root)
    entry = datasets.find_entry(settings.data)
    if "test" in entry.splits:
        held_out = {
            "split": "test",
            "max_images": settings.max_images if entry.max_images_before_split else None,
        }
        return train, runs.load_data(settings, root, **held_out).images, "its test split"
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    kept, out = order[len(train) // 2 :], order[: len(train) // 2]
    labels = None if train.labels is None else train.labels[kept]
    where = "a random half of its images, though the run was trained on them too"
    return replace(train, images=train.images[kept], labels=labels), train.images[out], where


def _classifier(
    settings: runs.RunConfig, place: torch.device
) -> tuple[classifier.Classifier | None, list[str]]:
    """The classifier for a run's images, or none and why."""
    name = datasets.find_entry(settings.data).classifier
    if name is None:
        reason = f"there is no classifier for {settings.data}"
    else:
        network = classifier.load(name)
        if (network.channels, network.image_size) == (settings.channels, settings.image_size):
            return network.to(place), []
        own = f"{network.channels} x {network.image_size} x {network.image_size}"
        reason = f"the classifier {name} looks at images of {own}, not {settings.channels} x "
        reason += f"{settings.image_size} x {settings.image_size}"
    return None, [f"Only pixels are compared, with no distances of features and no classes: {reason}."]


class _Inception(nn.Module):
    """The network of the FID, as what ``metrics.extract`` takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def features(self, images: Tensor) -> Tensor:
        found: Tensor = self.network(datasets.to_uint8(images))
        return found


def _inception(channels: int) -> _Inception:
    """Load Inception, or say at once what is missing."""
    if channels != 3:
        raise ValueError(
            f"Inception looks at colour images, the run's have {channels} channel: no --inception"
        )
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ModuleNotFoundError(
            "--inception needs torch-fidelity, which is not installed: pip install torch-fidelity"
        )
    weights = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION.rsplit("/", 1)[1]
    if not weights.is_file():
        raise FileNotFoundError(
            f"--inception needs the file {weights}, which is not there: get it from {INCEPTION}"
        )
    from torchmetrics.image.fid import NoTrainInceptionV3  # here, because it takes seconds to import

    return _Inception(NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"]))


def _refuse_too_many(subject: _Subject, count: int, sets: Sequence[Tensor], place: torch.device) -> None:
    """Refuse samples that do not fit into memory, before any is drawn."""
    available = memory.free_memory(place)
    width = 0 if subject.network is None else subject.network.widths[-1]
    width += 0 if subject.inception is None else INCEPTION_WIDTH
    needed = count * sets[0][0].numel() + 4 * width * (count + sum(map(len, sets))) + WORK
    if available is not None and needed > available:
        raise MemoryError(
            f"{count:,} samples take {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free: ask "
            "for fewer --samples"
        )


def _batch_norm(generator: models.Generator) -> str:
    """Which statistics the batch norms of a generator draw with. ``models.generate`` uses eval mode."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
    found = any(isinstance(module, kinds) for module in generator.modules())
    return "the running statistics stored with these weights" if found else "none"


def _described(network: classifier.Classifier | None, name: str) -> str:
    if network is None:
        return "none, the pixels themselves"
    right = network.about.get("test_accuracy")
    known = "" if right is None else f", right on {right:.1%} of its test images"
    return f"classifier {datasets.find_entry(name).classifier}{known}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cells(values: Sequence[float]) -> tuple[str, str]:
    return f"{_mean(values):.4g}", f"{min(values):.4g} to {max(values):.4g}"
