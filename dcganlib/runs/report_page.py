"""A run as one web page that holds all it needs: settings, curves, film, samples, measures, findings."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageSequence
from torch import Tensor

import dcganlib
from dcganlib import datasets, models
from dcganlib.config import ResolvedRunConfig, SampleConfig
from dcganlib.datasets import ImageDataset
from dcganlib.evaluation import diagnosis, metrics
from dcganlib.latents import sample_z
from dcganlib.runs import folder as run_folder
from dcganlib.runs import measurements, model_card, monitor, report, sampling
from dcganlib.runs.context import torch_defaults
from dcganlib.runtime import files
from dcganlib.viz import plot, training_figure

MARK = '<meta name="generator" content="dcganlib report">'
FRAMES = 40  # of the film
MAX_SIDE = 560  # pixels of a frame; larger ones are scaled down
MIN_WIDTH = 480  # pixels of a grid of samples on the page
SEARCHED = 16  # samples whose nearest training image is shown
WEB = Path(training_figure.__file__).parent / "web"

STYLE = """
:root { color-scheme: light dark; --pst-color-text-base: #1d2127; --pst-color-text-muted: #4a5563;
  --pst-color-surface: #f3f5f8; --pst-color-border: #c3cad3; --pst-color-primary: #1a5fa8; --ground: #fff; }
@media (prefers-color-scheme: dark) { :root { --pst-color-text-base: #d5dbe3; --pst-color-text-muted: #a3adb9;
  --pst-color-surface: #232a33; --pst-color-border: #4b5664; --pst-color-primary: #6cb6ff;
  --ground: #14181e; } }
* { box-sizing: border-box; }
body { background: var(--ground); color: var(--pst-color-text-base); font: 1rem/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 58rem; padding: 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
a { color: var(--pst-color-primary); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; list-style: none; padding: 0; }
nav a { display: inline-block; padding: 0.25rem 0; }
img { height: auto; image-rendering: pixelated; max-width: 100%; }
.smooth { image-rendering: auto; }
pre { background: var(--pst-color-surface);
  overflow-wrap: anywhere; padding: 0.75rem; white-space: pre-wrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--pst-color-border); padding: 0.25rem 0.75rem 0.25rem 0;
  text-align: left; vertical-align: top; }
summary { cursor: pointer; padding: 0.4rem 0; }
.muted { color: var(--pst-color-text-muted); }
.play-box { border: 1px solid var(--pst-color-border); border-radius: 6px; padding: 0.75rem; }
button, select { background: var(--pst-color-surface); border: 1px solid var(--pst-color-text-muted);
  border-radius: 4px; color: inherit; font: inherit; padding: 0.2rem 0.6rem; }
input[type="range"] { accent-color: var(--pst-color-primary); }
:focus-visible { outline: 3px solid var(--pst-color-primary); outline-offset: 2px; }
@media screen { .play-still { display: none !important; } }
@media print { .play-box, nav { display: none; } details > * { display: revert; } }
"""

MOUNT = """
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => { document.documentElement.dataset.theme = dark.matches ? "dark" : "light"; };
  dark.addEventListener("change", paint);
  paint();
  document.querySelectorAll('[data-play="scrubber"]').forEach((still) => {
    const box = document.createElement("div");
    box.className = "play-box";
    box.setAttribute("role", "group");
    still.before(box);
    scrubber.make(box, JSON.parse(still.dataset.options), still);
    still.classList.add("play-still");
  });
})();
"""


@torch_defaults()
def save_report(
    folder: str | Path,
    path: str | Path | None = None,
    *,
    data: str | Path | None = None,
    root: str | Path | None = None,
) -> Path:
    """Write a run as one web page that needs no other file and no network.

    It has the settings, the data and their licence, the curves with the film beside real images, new samples,
    what ``evaluate`` has stored, what ``diagnose`` finds, and the training images nearest to some samples.
    What is not there is left out; nothing is downloaded, and the run is left as it is.

    Args:
        folder: The run's folder, or the name of a stored run.
        path: File to write, an older one is replaced. Default: see ``report_file``.
        data: Where the run's images are now, if they were moved.
        root: Folder of the datasets, as for ``datasets.load``.

    Returns:
        The file.

    Raises:
        FileNotFoundError: There is no such run, or it has not come to its first checkpoint.
        ValueError: A file of the run is damaged.
        OSError: The file cannot be written.
    """
    path = report_file(folder, path)
    files.check_folder(path)
    material = _material(run_folder.find(folder), data, root)
    sections = [section for section in _sections(material) if section.content]
    files.write_text(path, _page(material, sections))
    return path


def report_file(folder: str | Path, path: str | Path | None = None) -> Path:
    """The file of ``save_report``: ``report.html`` in the folder; report-NAME.html, here, for a stored run.

    Args:
        folder, path: As for ``save_report``.

    Raises:
        FileNotFoundError: There is no such run.
    """
    return run_folder.output_file(folder, path, "report.html")


def is_own(path: Path) -> bool:
    """Whether ``save_report`` wrote a file."""
    if not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        return MARK in file.read(2000)


@dataclass(frozen=True)
class _Material:
    """What a report is made of."""

    run: run_folder.Run
    images: ImageDataset | None
    measured: dict[str, float]

    @property
    def config(self) -> ResolvedRunConfig:
        return self.run.config

    @property
    def step(self) -> int:
        return int(self.run.history[-1]["step"])

    @property
    def title(self) -> str:
        return f"{self.run.folder.resolve().name}: {self.config.model.architecture} on {self.data}"

    @property
    def data(self) -> str:
        return datasets.title(self.config.data.data)


@dataclass(frozen=True)
class _Section:
    name: str
    title: str
    content: str


def _material(folder: Path, data: str | Path | None, root: str | Path | None) -> _Material:
    run = run_folder.read(folder)
    images = measurements.load_if_there(run_folder.moved(run.config, data), root)
    return _Material(run, images, measurements.measure(folder, images=images, root=root))


def _sections(material: _Material) -> Iterator[_Section]:
    yield _Section("training", "Training", _training(material))
    yield _Section("samples", "Samples", _samples(material))
    yield _Section("nearest", "Nearest training images", _nearest(material))
    yield _Section("measures", "Measures", _measures(material))
    yield _Section("diagnosis", "Diagnosis", _diagnosis(material))
    yield _Section("data", "Data", _data(material))
    yield _Section("settings", "Settings", _settings(material))


def _page(material: _Material, sections: Sequence[_Section]) -> str:
    """The whole page."""
    title = html.escape(material.title)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    script = (WEB / "scrubber.js").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{one.name}">{one.title}</a></li>' for one in sections)
    body = "".join(
        f'<section id="{one.name}"><h2>{one.title}</h2>{one.content}</section>' for one in sections
    )
    steps = f"{material.step:,} of {material.config.steps:,} steps"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{MARK}\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><header><h1>{title}</h1>"
        f'<p class="muted">{steps}, written by dcganlib {dcganlib.__version__}</p></header>'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav><main>{body}</main>\n'
        f"<script>{script}</script><script>{MOUNT}</script></body></html>\n"
    )


# Training


def _training(material: _Material) -> str:
    rows = material.run.history
    films, steps = _films(material)
    pictures = [_film_html(name, frames) for name, frames in films.items()]
    real = _real(material)
    if real is not None:
        source = training_figure.data_uri(training_figure.webp(real))
        pictures.append(training_figure.picture_html(source, "Training images.", "real", {"real": "real"}))
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "losses.png")
        points = training_figure.thin(rows, 2000)
        plot.save_history(points, file, smooth=max(1, len(points) // 40))
        source = training_figure.data_uri(file.read_bytes(), "png")
    about = "Losses of both networks, and mean probabilities of real and generated images."
    pictures.append(f'<img class="smooth" alt="{about}" src="{source}">')
    charts = training_figure.charts(rows, monitor.read_metrics(material.run.folder))
    return training_figure.figure_html([{"steps": steps, "charts": charts}], pictures)


def _films(material: _Material) -> tuple[dict[str, list[Image.Image]], list[int]]:
    """The frames of each film, by the weights that drew them, and their steps."""
    run = material.run
    grids = {
        name: {int(path.stem.removeprefix("step_")): path for path in report.grid_paths(run.folder, kind)}
        for name, kind in (("last weights", "samples"), ("averaged weights", "ema"))
    }
    grids = {name: paths for name, paths in grids.items() if paths}
    if grids:
        steps = _evenly(sorted(set.intersection(*map(set, grids.values()))))
        films = {name: [_frame(report.opened(paths[s])) for s in steps] for name, paths in grids.items()}
        return films, steps
    name = "last weights" if run.ema_generator is None else "averaged weights"
    if run.animation.is_file():
        with Image.open(run.animation) as film:
            counts = plot.frame_counts(film)
            frames = [_frame(frame) for frame in ImageSequence.Iterator(film)]
        shown = [frame for frame, count in zip(frames, counts, strict=True) for _ in range(count)]
        return {name: shown}, run.animation_steps
    return {}, [material.step]


def _evenly(steps: list[int]) -> list[int]:
    """At most ``FRAMES`` of some steps, at even distances, the first and the last among them."""
    count = min(FRAMES, len(steps))
    return [steps[i * (len(steps) - 1) // max(1, count - 1)] for i in range(count)]


def _frame(picture: Image.Image) -> Image.Image:
    frame = picture.convert("RGB")
    frame.thumbnail((MAX_SIDE, MAX_SIDE))
    return frame


def _film_html(name: str, frames: Sequence[Image.Image]) -> str:
    sheet, columns = training_figure.frame_sheet(frames)
    last = training_figure.data_uri(training_figure.webp(frames[-1]))
    marks: dict[str, str | int] = {
        "generated": name,
        "frames": training_figure.data_uri(sheet),
        "columns": columns,
    }
    return training_figure.picture_html(last, f"Images drawn with the {name}.", name, marks)


def _real(material: _Material) -> Image.Image | None:
    path = material.run.folder / "real.png"
    if path.is_file():
        return _frame(report.opened(path))
    if material.images is None:
        return None
    order = torch.randperm(len(material.images), generator=torch.Generator().manual_seed(0))
    return _frame(plot.grid_image(material.images.images[order[: run_folder.GRID]]))


# Samples


def _samples(material: _Material) -> str:
    run, classes = material.run, material.config.num_classes
    columns = min(classes, 20) if classes else 8
    config = SampleConfig(n=8 * columns if classes <= 20 else 64, columns=columns)
    kind = "last" if run.ema_generator is None else "averaged"
    by_class = f" A column is a class: {_class_names(material)}." if 0 < classes <= 20 else ""
    content = [
        f"<p>{config.n} samples of the {kind} weights, seed {config.seed}.{by_class} "
        f"<code>dcganlib sample</code> draws the same.</p>",
        _picture(sampling.sample(run.folder, config), "Samples."),
    ]
    if run.best_generator is not None:
        best = SampleConfig(n=config.n, columns=columns, best=True)
        content += [
            "<p>The same latents with the weights that measured best while training:</p>",
            _picture(sampling.sample(run.folder, best), "Samples of the best weights."),
        ]
    return "".join(content)


def _class_names(material: _Material) -> str:
    names = material.config.class_names or tuple(map(str, range(material.config.num_classes)))
    return html.escape(", ".join(names))


def _picture(picture: Image.Image, alt: str) -> str:
    """A picture, small ones enlarged so that they can be looked at."""
    source = training_figure.data_uri(training_figure.webp(picture))
    width = max(picture.width, MIN_WIDTH)
    height = round(picture.height * width / picture.width)
    return f'<img alt="{html.escape(alt)}" width="{width}" height="{height}" src="{source}">'


def _nearest(material: _Material) -> str:
    """Samples above the training images that are nearest to them, pixel by pixel."""
    if material.images is None:
        return ""
    fake = _drawn(material)
    if not fake.isfinite().all():
        return ""
    fake = datasets.to_uint8(fake)
    found = metrics.nearest(fake, material.images.images)
    near = material.images.images[found.indices]
    pairs = torch.cat([part for eight in zip(fake.split(8), near.split(8), strict=True) for part in eight])
    ratio = material.measured.get("memorization")
    text = (
        f"{SEARCHED} samples in the odd rows, and below each the nearest of the {len(material.images):,} "
        "training images, pixel by pixel."
    )
    if ratio is not None:
        text += (
            f" The median distance of samples to their nearest training image is {ratio:.2f} times that of "
            "training images to others; far below 1 samples are copies."
        )
    return f"<p>{text}</p>" + _picture(plot.grid_image(pairs), "Samples and their nearest training images.")


def _drawn(material: _Material) -> Tensor:
    generator = sampling.drawn_generator(material.run)
    rng = torch.Generator().manual_seed(0)
    z = sample_z(SEARCHED, generator.latent_dim, prior=material.config.train.prior, rng=rng)
    labels = torch.arange(SEARCHED) % generator.num_classes if generator.num_classes else None
    return models.generate(generator, z, labels)


# Numbers


def _measures(material: _Material) -> str:
    found = model_card.read_measures(material.run.folder)
    parts = []
    if found is None:
        name = html.escape(str(material.run.folder))
        parts.append(f"<p>Not evaluated yet: <code>dcganlib evaluate {name}</code> measures it.</p>")
    else:
        table = [
            (name, f"{one['mean']:.4g}", _range(one["values"]), f"{one['real_mean']:.4g}", one["ideal"])
            for name, one in found["measures"].items()
        ]
        head = ("measure", "samples", "range", "held-out real images", "ideal")
        about = (
            f"{found['samples']:,} samples, {len(found['seeds'])} repeats, weights: {found['generator']}; "
            f"features: {found['network']}."
        )
        parts += [f"<p>{html.escape(about)}</p>", _table(head, table)]
    rows = [(name, f"{value:.4g}") for name, value in material.measured.items()]
    parts.append(_folded("Measurements of the diagnosis", _table(("measurement", "value"), rows)))
    return "".join(parts)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.4g} to {max(values):.4g}"


def _diagnosis(material: _Material) -> str:
    findings = diagnosis.judge(material.measured)
    lines = [
        f"<li><strong>{html.escape(one.name)}</strong>, {one.certainty}: {html.escape(one.text)} "
        f'<span class="muted">({html.escape(_numbers(one))})</span></li>'
        for one in findings
    ]
    said = [
        f"<li>step {step:,}: {html.escape(text)}</li>"
        for step, _, text in monitor.read_warnings(material.run.folder)
    ]
    content = f"<p>Nothing unusual in {len(material.measured)} measurements.</p>"
    if lines:
        content = f"<ul>{''.join(lines)}</ul>"
    return content + (f"<p>While it trained:</p><ul>{''.join(said)}</ul>" if said else "")


def _numbers(finding: diagnosis.Finding) -> str:
    return "; ".join(f"{name} {value:.3g}, {bound}" for name, (value, bound) in finding.numbers.items())


# Data and settings


def _data(material: _Material) -> str:
    entry = datasets.find_entry(material.config.data.data)
    rows = [("name", material.data)]
    if datasets.is_named(material.config.data.data):
        rows += [("contents", entry.summary), ("source", entry.citation)]
    if material.config.contents:
        rows.append(("used", material.config.contents))
    rows.append(("licence", entry.licence))
    return _table(("", ""), rows)


def _settings(material: _Material) -> str:
    content = asdict(material.config)
    rows: list[tuple[str, str]] = []
    for part in ("data", "model", "train"):
        rows += [(name, value) for name, value in content.pop(part).items() if name != "data"]
    rows += [(name, value) for name, value in content.items() if name not in ("class_names", "contents")]
    shown = [(name, "none" if value is None else str(value)) for name, value in rows]
    command = html.escape(model_card.train_command(material.config))
    return f"<p>Trained again by:</p><pre><code>{command}</code></pre>" + _folded(
        "All settings", _table(("setting", "value"), shown)
    )


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names its rows; a head of empty words is left out."""
    cells = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    top = f"<thead><tr>{cells}</tr></thead>" if any(head) else ""
    lines = (
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    table = f"<table>{top}<tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="group" aria-label="Table">{table}</div>'
