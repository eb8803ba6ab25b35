"""Sphinx inventories that link names such as `torch.Tensor` in the reference, without network at build time.

``python tools/inventories.py`` writes ``book/inventories/PROJECT.inv`` from the table below, in Sphinx's
format, with only the names that the reference uses. ``python tools/inventories.py check`` downloads each
project's full inventory and fails where an address of the table is no longer in it.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from urllib.request import Request, urlopen

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "book" / "inventories"
INVENTORIES = {
    "python": {
        "collections.abc.Callable": "library/collections.abc.html#collections.abc.Callable",
        "collections.abc.Iterable": "library/collections.abc.html#collections.abc.Iterable",
        "collections.abc.Iterator": "library/collections.abc.html#collections.abc.Iterator",
        "collections.abc.Mapping": "library/collections.abc.html#collections.abc.Mapping",
        "collections.abc.Sequence": "library/collections.abc.html#collections.abc.Sequence",
        "pathlib.Path": "library/pathlib.html#pathlib.Path",
        "pathlib._local.Path": "library/pathlib.html#pathlib.Path",  # where Python 3.13 defines it
        "zipfile.ZipFile": "library/zipfile.html#zipfile.ZipFile",
    },
    "torch": {
        "torch.Tensor": "tensors.html#torch.Tensor",
        "torch._C.Generator": "generated/torch.Generator.html#torch.Generator",
        "torch.amp.autocast_mode.autocast": "amp.html#torch.autocast",
        "torch.amp.grad_scaler.GradScaler": "amp.html#torch.amp.GradScaler",
        "torch.device": "tensor_attributes.html#torch.device",
        "torch.nn.modules.conv.Conv2d": "generated/torch.nn.Conv2d.html#torch.nn.Conv2d",
        "torch.nn.modules.conv.ConvTranspose2d": (
            "generated/torch.nn.ConvTranspose2d.html#torch.nn.ConvTranspose2d"
        ),
        "torch.nn.modules.module.Module": "generated/torch.nn.Module.html#torch.nn.Module",
        "torch.optim.adam.Adam": "generated/torch.optim.Adam.html#torch.optim.Adam",
        "torch.optim.lr_scheduler.LambdaLR": (
            "generated/torch.optim.lr_scheduler.LambdaLR.html#torch.optim.lr_scheduler.LambdaLR"
        ),
        "torch.optim.optimizer.Optimizer": "optim.html#torch.optim.Optimizer",
    },
    "numpy": {"numpy.ndarray": "reference/generated/numpy.ndarray.html#numpy.ndarray"},
    "matplotlib": {
        "matplotlib.axes._axes.Axes": "api/_as_gen/matplotlib.axes.Axes.html#matplotlib.axes.Axes",
        "matplotlib.figure.Figure": "api/_as_gen/matplotlib.figure.Figure.html#matplotlib.figure.Figure",
    },
    "pillow": {
        "PIL.Image.Exif": "reference/Image.html#PIL.Image.Exif",
        "PIL.Image.Image": "reference/Image.html#PIL.Image.Image",
    },
}
"""Per project: names as autodoc writes them (where a class is defined), and where they are documented."""


def dump(project: str, names: dict[str, str]) -> bytes:
    """An inventory in Sphinx's format, version 2."""
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    lines = "".join(f"{name} py:class 1 {address} -\n" for name, address in sorted(names.items()))
    return head.encode() + zlib.compress(lines.encode(), 9)


def load(data: bytes) -> dict[str, str]:
    """Addresses of an inventory by name, ``$`` at an address' end replaced by the name."""
    text = zlib.decompress(data.split(b"\n", 4)[4]).decode()
    entries = (line.rsplit(" ", 4) for line in text.splitlines() if line.count(" ") >= 4)
    return {name: address.replace("$", name) for name, _, _, address, _ in entries}


def check() -> list[str]:
    """Addresses of the table that the projects' own inventories no longer hold. Needs the network."""
    mapping = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"][
        "intersphinx_mapping"
    ]
    gone = []
    for project, names in INVENTORIES.items():
        address = mapping[project][0] + "objects.inv"
        with urlopen(Request(address, headers={"User-Agent": "dcgan-book"}), timeout=60) as answer:
            known = set(load(answer.read()).values())
        gone += [f"{project}: {entry}" for entry in names.values() if entry not in known]
    return gone


if __name__ == "__main__":
    if sys.argv[1:] == ["check"]:
        sys.exit("\n".join(check()))
    FOLDER.mkdir(exist_ok=True)
    for name, table in INVENTORIES.items():
        (FOLDER / f"{name}.inv").write_bytes(dump(name, table))
