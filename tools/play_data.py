"""Put the stored generators that draw in the pages beside their scripts, as scripts: called by finish_pages.

The weights lie in the package alone; the rendered book holds them in half precision. With the faces come the
examples and directions of the latent chapter, found as it finds them: by the package's classifier, in a bank
of generated faces.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dcganlib import runs
from dcganlib.evaluation import classifier
from dcganlib.latents import sample_z
from dcganlib.models import Generator, generate
from dcganlib.viz import web

RUNS = {"digits": "mnist-small", "faces": "faces-small"}
"""The stored run behind each script. A page loads one of them, of at most ``MOST_BYTES`` of weights."""
MOST_BYTES = 2**20
SCRIPTS = ("generator.js", "viewer.js")
BANK, SEED, EXAMPLES = 1000, 0, 20
ATTRIBUTES = {
    "mouth": ("Mouth_Slightly_Open", "open mouth", "closed mouth"),
    "smile": ("Smiling", "smile", "no smile"),
    "long": ("Long_Hair", "long hair", "short hair"),
    "blond": ("Blond_Hair", "blond hair", "hair not blond"),
    "black": ("Black_Hair", "black hair", "hair not black"),
}
WAYS = ("mouth", "smile", "long", "blond")
TASKS = {  # to be gained: (shared by a and b, kept from c), as in the chapter
    "mouth": ("blond", "black"),
    "smile": ("blond", "black"),
    "long": ("mouth", "-mouth"),
    "blond": ("mouth", "-mouth"),
}


def write(folder: Path) -> None:
    """Write the scripts and the weights.

    Args:
        folder: Folder of ``draw.js`` in the rendered book.

    Raises:
        FileNotFoundError: A run of ``RUNS`` is not in the package.
        ValueError: A generator is too large for a page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCRIPTS:
        shutil.copy(web.FOLDER / name, folder / name)
    shutil.copy(web.FOLDER / "scrubber.js", folder.parent)  # play/scrubber.js is the book's part
    for name, run_name in RUNS.items():
        target, key = folder / f"generator-{name}.js", f"// {_checksum(run_name)}\n"
        if target.is_file() and target.read_text(encoding="utf-8").startswith(key):
            continue
        run = runs.read(run_name)
        generator = run.ema_generator or run.generator
        size = 2 * sum(values.numel() for values in generator.parameters())
        if size > MOST_BYTES:
            raise ValueError(
                f"{run_name} takes {size:,} bytes of a page, at most {MOST_BYTES:,}: store a narrower run"
            )
        prior, classes = run.config.train.prior, run.config.class_names
        script = key + web.pack(generator, name, prior=prior, classes=classes)
        extras = EXTRAS[name](generator) if name in EXTRAS else {}
        script += f'dcgan.packed["{name}"].extras = {json.dumps(extras)};\n'
        target.write_text(script, encoding="utf-8", newline="")


def _checksum(run_name: str) -> str:
    """Of all that a script is made from, so that the next build need not make it again."""
    made_from = [Path(__file__), Path(web.__file__), runs.PRETRAINED / "classifiers" / "faces.safetensors"]
    made_from += sorted(runs.find(run_name).glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in made_from)).hexdigest()


def of_faces(generator: Generator) -> dict[str, Any]:
    """What the pages need to move and add faces: directions of attributes, and examples for each sum."""
    z = sample_z(BANK, generator.latent_dim, rng=torch.Generator().manual_seed(SEED))
    judge = classifier.load("faces")
    with torch.no_grad():
        logits = torch.cat([judge(generate(generator, part)) for part in z.split(100)])
    columns = {short: logits[:, judge.names.index(name)] for short, (name, *_) in ATTRIBUTES.items()}
    ways = [
        {"name": _words(name).capitalize(), "vector": _rounded(_way(z, columns[name] > 0))} for name in WAYS
    ]
    tasks = [
        {
            "name": _words(gain),
            "terms": [" and ".join(map(_words, concept)) for concept in _concepts(gain, *kept)],
            "examples": [_clearest(columns, concept) for concept in _concepts(gain, *kept)[:3]],
        }
        for gain, kept in TASKS.items()
    ]
    return {"ways": ways, "tasks": tasks, "bank": {"seed": SEED, "count": BANK}}


EXTRAS: dict[str, Callable[[Generator], dict[str, Any]]] = {"faces": of_faces}


def _words(name: str) -> str:
    """An attribute in words; with a minus sign, its absence."""
    return ATTRIBUTES[name.removeprefix("-")][2 if name.startswith("-") else 1]


def _concepts(gain: str, shared: str, kept: str) -> list[tuple[str, str]]:
    """What a, b, c and the sum a - b + c show."""
    return [(gain, shared), (f"-{gain}", shared), (f"-{gain}", kept), (gain, kept)]


def _way(z: Tensor, shows: Tensor) -> Tensor:
    """Unit vector from the mean latent without an attribute to the mean with it."""
    return normalize(z[shows].mean(dim=0) - z[~shows].mean(dim=0), dim=0)


def _clearest(columns: dict[str, Tensor], concept: tuple[str, ...]) -> list[int]:
    """The numbers of the faces that show a concept most clearly, by its least certain attribute."""
    signed = [columns[name.removeprefix("-")] * (-1 if name[0] == "-" else 1) for name in concept]
    least: Tensor = torch.stack(signed).amin(dim=0)
    return least.topk(EXAMPLES).indices.tolist()


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
