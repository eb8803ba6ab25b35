"""The model card of a run: ``README.md`` in its folder, on what was trained, on which data, and how to draw.

The last line of the file holds a checksum of the lines above it. A card whose text still matches is written
anew as the run goes on; one that somebody has edited is left as it is.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from dcganlib import datasets, models, zoo
from dcganlib.config import DataConfig, ModelConfig, ResolvedRunConfig, RunConfig, TrainConfig
from dcganlib.runs import config_file, history
from dcganlib.runtime import files

NAME = "README.md"
PRETRAINED = Path(__file__).parents[1] / "pretrained"
LAST_STEPS = 500  # steps over which the last losses are averaged
MARK = "<!-- written by dcganlib, sha256 {}; an edited card is left as it is -->"
LIMITS = """## Limits

A GAN may leave out kinds of images that its data contain, and it may repeat training images;
`dcganlib diagnose` and `dcganlib report` look for both. The licence above is that of the data. Whether it
extends to the weights and the samples is for you to find out."""

Rows = Sequence[history.Row]


def write(folder: Path, config: ResolvedRunConfig, step: int, rows: Rows) -> bool:
    """Write the card of a run, unless its folder has one that was edited, or another ``README.md``.

    Args:
        folder: Folder of the run.
        config: Configuration of the run.
        step: The step that it has reached; 0 before the first.
        rows: Its history, or means over several steps each, in order.

    Returns:
        Whether it was written.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / NAME
    if path.exists() and not is_own(path):
        return False
    text = describe(config, step, rows, read_measures(folder))
    sealed = _sealed(text)
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != sealed:
        files.write_text(path, sealed)
    return True


def update(folder: Path) -> bool:
    """Write the card of a run anew from what its folder holds, as after it was measured.

    Args:
        folder: Folder of the run.

    Returns:
        Whether it was written, see ``write``.

    Raises:
        FileNotFoundError, ValueError: ``config.json`` or ``history.csv`` is missing or damaged.
        OSError: It cannot be written.
    """
    rows = history.read(folder / "history.csv")
    return write(folder, config_file.read(folder), int(rows[-1]["step"]), rows)


def is_own(path: Path) -> bool:
    """Whether a file is a card that is still as it was written; line ends do not count."""
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    body, end, _ = text.rstrip("\n").rpartition("\n")
    return bool(end) and text.rstrip("\n") + "\n" == _sealed(body + "\n")


def _sealed(text: str) -> str:
    return text + MARK.format(hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()) + "\n"


def read_measures(folder: Path) -> dict[str, Any] | None:
    """What ``dcganlib evaluate`` found of a run; None if it was not measured, or the file is damaged.

    Args:
        folder: Folder of the run, with ``evaluation.json``; of one in the package the results are beside it.
    """
    path = folder / "evaluation.json"
    if folder.resolve().parent == PRETRAINED.resolve():
        path = PRETRAINED / "results" / f"evaluation-{folder.name}.json"
    with suppress(ValueError, OSError):
        found = config_file.read_json(path)
        return found if isinstance(found.get("measures"), dict) else None
    return None


def describe(config: ResolvedRunConfig, step: int, rows: Rows, measures: Mapping[str, Any] | None) -> str:
    """The text of a card, without its last line.

    Args:
        config: Configuration of the run.
        step: The step that it has reached.
        rows: Its history, or means over several steps each.
        measures: What ``evaluate`` found, as in its file; None if nothing was measured.

    Returns:
        Markdown, with the header that hubs of models read.
    """
    kind = "A class-conditional" if config.num_classes else "An unconditional"
    data = datasets.title(config.data.data)
    size, colour = config.data.image_size, "grey" if config.data.channels == 1 else "colour"
    state = f"{step:,} of {config.steps:,} steps" if step < config.steps else f"{step:,} steps"
    parts = [
        "---\nlibrary_name: dcganlib\npipeline_tag: unconditional-image-generation\n"
        "tags: [gan, dcgan, pytorch]\n---",
        f"# {config.model.architecture} on {data}",
        f"{kind} GAN that draws {colour} images of {size} x {size} pixels, trained on `{data}` for "
        f"{state} of {config.train.batch_size} images.",
        "## Networks\n\n" + "\n".join(f"- {line}" for line in _networks(config)),
        "## Data\n\n" + "\n".join(f"- {line}" for line in _data(config)),
        "## Training\n\n```bash\n" + train_command(config) + "\n```",
        *_losses(rows),
        "## Measures\n\n" + _measures(measures),
        "## Use\n\n" + _use(config),
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n\n"


def train_command(config: ResolvedRunConfig) -> str:
    """The command that trains such a run again: all options that differ from their defaults."""
    words = ["dcganlib", "train", _place(config.data.data)]
    for name, value in _changed(config):
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, _place(value) if name == "init_from" else str(value)]
    return shlex.join(words)


def _changed(config: ResolvedRunConfig) -> Iterator[tuple[str, Any]]:
    """The options that a command must name."""
    own = dict(zip(("channels", "image_size"), datasets.image_shape(config.data.data), strict=True))
    own["sample_every"] = max(1, config.steps // 60)
    for kind, part in ((DataConfig, config.data), (ModelConfig, config.model), (TrainConfig, config.train)):
        for field in fields(kind):
            value = getattr(part, field.name)
            if field.name != "data" and value not in (None, own.get(field.name, field.default)):
                yield field.name, value
    for field in fields(RunConfig):
        value = getattr(config, field.name)
        if field.name not in ("data", "model", "train") and value not in (
            None,
            own.get(field.name, field.default),
        ):
            yield field.name, value


def _place(location: str | Path) -> str:
    """A dataset, or a folder without the path that it has on one machine."""
    return location if datasets.is_named(location) else f"path/to/{datasets.title(location)}"


def _networks(config: ResolvedRunConfig) -> Iterator[str]:
    name = str(config.model.architecture)
    known = zoo.ARCHITECTURES.get(name)
    yield f"`{name}`" + (f": {known.summary}" if known else "")
    if known is not None:
        generator, discriminator = zoo.build(
            name,
            image_size=config.data.image_size,
            channels=config.data.channels,
            base_channels=config.model.base_channels,
            num_classes=config.num_classes,
            device="meta",
        )
        counts = [f"{models.count_parameters(network):,}" for network in (generator, discriminator)]
        yield f"generator {counts[0]} parameters, discriminator {counts[1]}"
        yield f"latents: {generator.latent_dim} numbers, {config.train.prior} distribution"
    if config.num_classes:
        shown = ", ".join(config.class_names[:20]) + (", …" if len(config.class_names) > 20 else "")
        yield f"{config.num_classes} classes" + (f": {shown}" if shown else "")
    if config.train.ema:
        yield f"averaged weights (decay {config.train.ema}) are the ones that draw"


def _data(config: ResolvedRunConfig) -> Iterator[str]:
    entry = datasets.find_entry(config.data.data)
    named = datasets.is_named(config.data.data)
    title = datasets.title(config.data.data)
    yield f"`{title}`: {entry.summary}" if named else f"a folder or zip of images, `{title}`"
    if config.contents:
        yield f"used: {config.contents}"
    if named:
        yield f"source: {entry.citation}"
    yield f"licence: {entry.licence}"


def _losses(rows: Rows) -> list[str]:
    """Means over the last steps; rows that are means themselves count as the steps they stand for."""
    if not rows:
        return []
    end = rows[-1]["step"]
    last = [row for row in rows if row["step"] > end - LAST_STEPS]
    means = (
        f"{name} {sum(row[name] for row in last) / len(last):.3f}"
        for name in ("d_loss", "g_loss", "d_real", "d_fake")
    )
    return [f"Means over the last steps: {', '.join(means)}."]


def _measures(measures: Mapping[str, Any] | None) -> str:
    if measures is None:
        return "None yet: `dcganlib evaluate` measures samples against held-out images."
    lines = ["| measure | samples | held-out real images | ideal |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {one['mean']:.4g} | {one['real_mean']:.4g} | {one['ideal']} |"
        for name, one in measures["measures"].items()
    ]
    about = f"{measures['samples']:,} samples, means of {len(measures['seeds'])} repeats. "
    about += f"Features: {measures['network']}."
    return "\n".join([*lines, "", about])


def _use(config: ResolvedRunConfig) -> str:
    shape = f"(16, {config.data.channels}, {config.data.image_size}, {config.data.image_size})"
    labels, given = "", ""
    if config.num_classes:
        labels, given = f"labels = torch.arange(16) % {config.num_classes}\n", ", labels"
    prior = "" if config.train.prior == "normal" else f', prior="{config.train.prior}"'
    return (
        "In the folder of this file, with `dcganlib` installed:\n\n"
        "```bash\ndcganlib sample . --n 64 --out samples.png\n```\n\n"
        "```python\n"
        + ("import torch\n\n" if config.num_classes else "")
        + "from dcganlib import latents, models, runs\n\n"
        'run = runs.read(".")\n'
        "generator = run.ema_generator or run.generator\n"
        f"z = latents.sample_z(16, generator.latent_dim{prior})\n{labels}"
        f"images = models.generate(generator, z{given})  # {shape}, in [-1, 1]\n```"
    )
