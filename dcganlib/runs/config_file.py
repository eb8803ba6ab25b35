"""``config.json``: a ``ResolvedRunConfig`` with the same nesting, plus the package version."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dcganlib
from dcganlib import datasets
from dcganlib.config import ResolvedRunConfig, from_dict
from dcganlib.runtime import files

NAME = "config.json"
OLDER_NAMES = {"crop": "center_crop", "count": "max_images", "classes": "num_classes"}
REQUIRED = ("architecture", "steps", "image_size", "channels", "base_channels", "checkpoint_every")


def write(folder: Path, config: ResolvedRunConfig) -> None:
    """Write a run's configuration.

    Args:
        folder: Folder of the run.
        config: The configuration.

    Raises:
        OSError: It cannot be written; an existing one is kept.
    """
    text = json.dumps({"version": dcganlib.__version__, **asdict(config)}, indent=2) + "\n"
    files.write_text(folder / NAME, text)


def read(folder: Path) -> ResolvedRunConfig:
    """Read a run's configuration, as this or an older version wrote it.

    Args:
        folder: Folder of the run.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is damaged, or an option is missing, has the wrong type or is out of range.
    """
    content = read_json(folder / NAME)
    try:
        return from_dict(ResolvedRunConfig, migrate(content))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder / NAME} is damaged or incomplete ({type(error).__name__}: {error})"
        ) from error


def migrate(content: dict[str, Any]) -> dict[str, Any]:
    """Convert the content of an older ``config.json`` to the current layout.

    The older layout is flat: all options except those of the training loop are side by side, some under
    other names, and the networks are class-conditional if there are classes. It is recognised by ``data``
    being text, whatever the ``version``: both layouts have been written under the same version number.

    Args:
        content: The content, in either layout.

    Raises:
        KeyError: A key that the older versions always wrote is missing.
    """
    content = {name: value for name, value in content.items() if name != "version"}
    if isinstance(content["data"], dict):
        return content
    flat = {OLDER_NAMES.get(name, name): value for name, value in content.items()}
    flat = {**{name: flat[name] for name in (*REQUIRED, "sample_every", "train")}, **flat}  # or KeyError
    data = {
        name: flat.pop(name)
        for name in ("data", "image_size", "channels", "center_crop", "max_images")
        if name in flat
    }
    classes = flat.get("num_classes", 0)
    model = {name: flat.pop(name) for name in ("architecture", "base_channels")}
    if flat.get("class_names", ()) in ((), None):
        known = datasets.find_entry(data["data"]).class_names if isinstance(data["data"], str) else ()
        flat["class_names"] = known if classes and len(known) == classes else ()
    return {**flat, "data": data, "model": {**model, "conditional": bool(classes)}}


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file of a run, or of stored results.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is no run: it has no {path.name}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # as Windows' editors save it
    except (ValueError, RecursionError) as error:  # no JSON, or no text
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no settings")
    return content
