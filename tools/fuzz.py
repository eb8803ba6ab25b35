"""Damaged and hostile files, fed to everything that reads files.

Each case writes one input into an empty folder and reads it. What is read must make sense, or be refused with
a documented exception that names the file. All else is a finding: another exception, a crash, a hang, a need
for much memory, a file left behind, weights that differ from the ones that were saved. The inputs of findings
are kept. A case is made again from its seed and number alone.

python tools/fuzz.py --seconds 60 --seed 0
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import math
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dcganlib import celeba, checkpoint, classifier, data, models, pictures, runs, train

MEMORY = 2**30  # bytes that a case may take beyond what the process has at its start
PATIENCE = 20  # seconds of processor time until a case counts as hanging
WAIT = 200  # seconds by the clock until it does: other processes may be busy
BATCH = 100  # cases in one process
OLD = Path(__file__).parents[1] / "tests" / "data" / "f3d90a0"  # files from before there were checksums
STRAY = r"\..*\.tmp"

Value = Any
Case = Callable[[Path, random.Random], str]


class FindingError(Exception):
    """What was read makes no sense, or a refusal was not as promised."""


# How inputs are spoilt


def spoil(content: bytes, chance: random.Random) -> bytes:
    """Change, cut, insert, remove, repeat or swap some bytes, one to four times."""
    spoilt = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        size = len(spoilt)
        at, length = chance.randrange(size + 1), chance.choice((1, 2, 4, 8, 64, 512))
        kind = chance.randrange(8)
        if kind == 0 and size:
            spoilt[min(at, size - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            spoilt[at : at + length] = chance.randbytes(length)
        elif kind == 2:
            del spoilt[at:]
        elif kind == 3:
            spoilt[at:at] = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
        elif kind == 4:
            del spoilt[at : at + length]
        elif kind == 5:
            spoilt[at:at] = spoilt[at : at + length]
        elif kind == 6:
            other = chance.randrange(size + 1)
            first, second = spoilt[at : at + length], spoilt[other : other + length]
            spoilt[at : at + length], spoilt[other : other + length] = second, first
        else:
            spoilt[at : at + length] = chance.choice((b"\0", b"\xff")) * length
    return bytes(spoilt)


def odd(chance: random.Random) -> Value:
    """A value that nobody expects."""
    deep: Value = []
    for _ in range(chance.choice((3, 100))):
        deep = [deep] if chance.random() < 0.5 else {"a": deep}
    numbers = (-1, 0, 1, 2, 7, 10**4, 10**9, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308)
    lost = (math.nan, math.inf, -math.inf)
    texts = ("", "0", "x", "../x", "\0", "\ud800", "é" * 70, "nan", "batch", "a\nb", "9" * 5000)
    others = (None, True, False, [], {}, [[]], [1, 2], {"a": 1}, deep)
    return chance.choice(chance.choice((numbers, numbers, lost, texts, others)))


def edit(value: Value, chance: random.Random, make: Callable[[random.Random], Value] = odd) -> Value:
    """A copy with something in it replaced, removed, added, repeated or swapped, at any depth."""
    if isinstance(value, (dict, list, tuple)) and len(value) and chance.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        copy = dict(value) if isinstance(value, dict) else list(value)
        key, other = chance.choice(keys), chance.choice(keys)
        kind = chance.randrange(9)
        if kind == 0:
            del copy[key]
        elif kind == 1 and isinstance(copy, dict):
            copy[str(odd(chance))] = make(chance)
        elif kind == 1:
            copy.insert(key, copy[other])
        elif kind == 2:
            copy[key], copy[other] = copy[other], copy[key]
        elif kind == 3:
            copy[key] = copy[other]
        else:
            copy[key] = edit(copy[key], chance, make)
        return tuple(copy) if isinstance(value, tuple) else copy
    if isinstance(value, (int, float)) and not isinstance(value, bool) and chance.random() < 0.3:
        return value + chance.choice((-1, 1)) if chance.random() < 0.5 else value * chance.choice((-1, 2, 10))
    return make(chance)


def odd_tensor(chance: random.Random) -> Value:
    """As ``odd``, and often a tensor."""
    tensors = (
        lambda: torch.zeros(()),
        lambda: torch.empty(0),
        lambda: torch.ones(chance.randrange(1, 50)),
        lambda: torch.ones(8, 4, 4, 4, dtype=torch.complex64),
        lambda: torch.ones(4, dtype=torch.bool),
        lambda: torch.full((8,), math.nan),
        lambda: torch.ones(1).expand(10**6, 10**6),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.zeros(8, 1, 4, 4, dtype=torch.float64, requires_grad=True),
    )
    return chance.choice(tensors)() if chance.random() < 0.4 else odd(chance)


def odd_json(value: Value, chance: random.Random) -> bytes:
    """JSON that was edited, or spoilt, or nests deeper than any program likes."""
    if chance.random() < 0.3:
        return spoil(json.dumps(value, indent=2).encode(), chance)
    if chance.random() < 0.05:
        return chance.choice((b"[", b'{"a":')) * 10**5
    return json.dumps(edit(value, chance)).encode()


# What is spoilt: made once, from fixed seeds


@functools.cache
def networks() -> tuple[bytes, bytes, bytes]:
    """A checkpoint, a generator and a classifier."""
    rng = torch.Generator().manual_seed(0)
    pair = models.build("dcgan", image_size=16, channels=1, base_channels=4, latent_dim=8, rng=rng)
    state = train.start(*pair, train.TrainConfig(batch_size=4, ema=0.9))
    images = torch.randint(256, (12, 1, 16, 16), dtype=torch.uint8, generator=rng)
    history = [record.as_dict() for record in train.train(state, data.make_loader(images, 4, rng=rng), 3)]
    small = classifier.Classifier(16, 1, ("a", "b"), widths=(4, 4))
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("a.pt", "a.safetensors", "b.safetensors")]
        checkpoint.save(paths[0], state, history)
        checkpoint.save_generator(paths[1], pair[0], step=3)
        classifier.save(paths[2], small, description="small")
        return tuple(path.read_bytes() for path in paths)


@functools.cache
def originals() -> dict[str, tuple[bytes, np.ndarray]]:
    """Pictures of every kind by suffix, with what is to be read of each at 16 pixels in grey."""
    values = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    picture = Image.fromarray(values).resize((40, 48), Image.Resampling.BICUBIC)
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "a.png": (picture, {}),
        "b.jpg": (picture, {"quality": 90}),
        "c.gif": (picture.quantize(), {"save_all": True, "append_images": [picture.quantize(16)] * 2}),
        "d.bmp": (picture, {}),
        "e.webp": (picture, {}),
        "f.tiff": (picture, {"compression": "tiff_lzw"}),
        "g.png": (picture.convert("RGBA").rotate(30), {}),
        "h.png": (Image.fromarray(values[..., 0].astype(np.uint16) * 257), {}),
        "i.jpeg": (picture.convert("CMYK"), {"progressive": True}),
        "j.png": (picture.quantize(8), {"transparency": 0}),
        "k.webp": (picture, {"lossless": True, "save_all": True, "append_images": [picture.rotate(9)]}),
        "l.tif": (picture.convert("1"), {"compression": "group4"}),
    }
    made = {}
    for name, (image, options) in kinds.items():
        file = io.BytesIO()
        image.save(
            file, {".jpg": "jpeg", ".tif": "tiff"}.get(Path(name).suffix, Path(name).suffix[1:]), **options
        )
        made[name] = file.getvalue(), pictures.read(io.BytesIO(file.getvalue()), 16, 1)
    return made


@functools.cache
def listing() -> dict[str, str]:
    """The text files of a set of eight pictures in CelebA's layout."""
    names = [f"{index:06}.png" for index in range(1, 9)]
    return {
        celeba.PARTITION: "".join(f"{name} {index % 3}\n" for index, name in enumerate(names)),
        celeba.ATTRIBUTES: "8\nSmiling Young Male\n" + "".join(f"{name}  1 -1  1\n" for name in names),
        celeba.LANDMARKS: "8\nlefteye_x lefteye_y\n" + "".join(f"{name} 69 109\n" for name in names),
        celeba.IDENTITIES: "".join(f"{name} {index}\n" for index, name in enumerate(names)),
    }


# The cases


def refused(path: Path, error: Exception, *also: Path) -> str:
    """Whether a refusal names the file."""
    if not any(place.name in str(error) for place in (path, *also)):
        raise FindingError(f"the message names no file: {type(error).__name__}: {error}") from error
    return "refused"


def check_network(network: torch.nn.Module) -> None:
    """Whether it is a network that can be used."""
    for name, value in network.state_dict().items():
        if not isinstance(value, torch.Tensor) or value.device.type != "cpu" or value.layout != torch.strided:
            raise FindingError(f"{name} is {value}")
    if isinstance(network, models.Generator):
        labels = torch.zeros(2, dtype=torch.int64) if network.classes else None
        images = models.generate(network, torch.zeros(2, network.latent_dim), labels)
        if images.shape != (2, network.channels, network.image_size, network.image_size):
            raise FindingError(f"it draws {tuple(images.shape)}")


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether two networks have equal weights, NaN equal to NaN."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name].nan_to_num(7), theirs[name].nan_to_num(7)) for name in ours
    )


def read_checkpoint(path: Path, original: train.TrainState | None) -> str:
    """Load a checkpoint and look at all of it."""
    try:
        state, history = checkpoint.load(path)
    except ValueError as error:
        return refused(path, error)
    check_network(state.generator)
    if state.averaged is not None:
        check_network(state.averaged)
    if type(state.step) is not int or state.step < 0:
        raise FindingError(f"it is at step {state.step!r}")
    rows = [row for row in history if not isinstance(row, dict) or not all(map(is_number, row.values()))]
    if rows or not isinstance(history, list):
        raise FindingError(f"the history holds {rows[:1]}")
    if original is not None:
        pairs = zip(("generator", "discriminator"), ("generator", "discriminator"), strict=True)
        if not all(same(getattr(state, ours), getattr(original, theirs)) for ours, theirs in pairs):
            raise FindingError("the weights differ")
    elif not state.config.compile:  # whatever it says, a step must be possible, or be refused
        count = state.generator.channels, state.generator.image_size, state.generator.image_size
        real = torch.zeros(4, *count)
        labels = torch.zeros(4, dtype=torch.int64) if state.generator.classes else None
        train.train_step(state, real, labels)
    return "read"


def is_number(value: Value) -> bool:
    """Whether it is an int or a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def damaged_checkpoint(folder: Path, chance: random.Random) -> str:
    """A checkpoint with spoilt bytes, of today or from before there were checksums."""
    content = networks()[0] if chance.random() < 0.7 else (OLD / "checkpoint.pt").read_bytes()
    (folder / "whole.pt").write_bytes(content)
    original, _ = checkpoint.load(folder / "whole.pt")
    (folder / "whole.pt").unlink()
    path = folder / "checkpoint.pt"
    path.write_bytes(spoil(content, chance))
    return read_checkpoint(path, original)


def forged_checkpoint(folder: Path, chance: random.Random) -> str:
    """A checkpoint whose content was edited and whose checksum is right."""
    content = torch.load(io.BytesIO(networks()[0]), weights_only=True)
    for _ in range(chance.choice((1, 1, 2))):
        content = edit(content, chance, odd_tensor)
    archive = io.BytesIO()
    torch.save(content, archive)
    path = folder / "checkpoint.pt"
    path.write_bytes(checkpoint._sealed(archive))
    return read_checkpoint(path, None)


class Harm:
    """Runs something when it is unpickled."""

    def __init__(self, target: Path, how: str) -> None:
        self.target, self.how = target, how

    def __reduce__(self) -> tuple[Any, ...]:
        """What the unpickler is told to call."""
        calls = {
            "mkdir": (os.mkdir, (str(self.target),)),
            "eval": (eval, (f"__import__('os').mkdir({str(self.target)!r})",)),
            "open": (open, (str(self.target), "w")),
            "load": (torch.load, (str(self.target),)),
            "call": (functools.partial, (os.mkdir, str(self.target))),
        }
        return calls[self.how]


def hostile_checkpoint(folder: Path, chance: random.Random) -> str:
    """An archive rewritten: a hostile or broken pickle, parts packed, swapped, doubled, renamed or huge."""
    target = folder / "harm"
    source = zipfile.ZipFile(io.BytesIO(networks()[0]))
    parts = {name: source.read(name) for name in source.namelist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))
    kind = chance.randrange(7)
    if kind == 0:
        how = chance.choice(("mkdir", "eval", "open", "load", "call"))
        parts[pickled] = pickle.dumps({"format": 1, "step": Harm(target, how)}, protocol=2)
    elif kind == 1:
        parts[pickled] = spoil(parts[pickled], chance)
    elif kind == 2:
        name = chance.choice(list(parts))
        parts[name] = spoil(parts[name], chance)
    elif kind == 3:
        del parts[chance.choice(list(parts))]
    elif kind == 4:
        name = chance.choice(list(parts))
        parts[chance.choice(("../" + name, "/" + name, name + "\0", name.upper()))] = parts.pop(name)
    elif kind == 5:
        parts[pickled] = b"\x80\x02" + b"]" * chance.choice((10, 10**5)) + b"a" * 9 + b"."
    else:
        first, second = chance.choice(list(parts)), chance.choice(list(parts))
        parts[first], parts[second] = parts[second], parts[first]
    archive = io.BytesIO()
    packed = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(archive, "w", packed) as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a name stands twice
        for name, part in parts.items():
            made.writestr(zipfile.ZipInfo(name), part, packed)  # dated, so that a case can be made again
            if chance.random() < 0.05:
                made.writestr(zipfile.ZipInfo(name), bytes(chance.choice((0, 10**6))), packed)
    content = bytes(checkpoint._sealed(archive)) if chance.random() < 0.8 else archive.getvalue()
    path = folder / "checkpoint.pt"
    path.write_bytes(content)
    result = read_checkpoint(path, None)
    if target.exists():
        raise FindingError("the pickle ran")
    return result


def packed_weights(content: bytes, chance: random.Random) -> bytes:
    """Safetensors with an edited header, its checksum right where that can be."""
    length = int.from_bytes(content[:8], "little")
    header, tensors = json.loads(content[8 : 8 + length]), content[8 + length :]
    told = json.loads(header["__metadata__"]["dcganlib"])
    if chance.random() < 0.6:  # the network's description
        told = edit(told, chance)
        if isinstance(told, dict) and "sha256" in told:
            told["sha256"] = checkpoint.BLANK
        header["__metadata__"]["dcganlib"] = json.dumps(told)
    elif chance.random() < 0.1:
        header["__metadata__"]["dcganlib"] = chance.choice(("[", '{"a":')) * 10**5
    else:  # the list of tensors
        header = edit(header, chance)
    if chance.random() < 0.1:
        tensors = spoil(tensors, chance)
    text = json.dumps(header).encode()
    if chance.random() < 0.05:
        text = chance.choice((b"[", b'{"a":')) * 10**5
    said = (
        len(text) if chance.random() < 0.9 else chance.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(text) + 8))
    )
    made = said.to_bytes(8, "little") + text + tensors
    blank = checkpoint.BLANK.encode()
    return made.replace(blank, sha256(made).hexdigest().encode(), 1)


def read_weights(path: Path, content: bytes, original: bytes | None) -> str:
    """Load weights, of a generator or a classifier, and look at them."""
    path.write_bytes(content)

    def load() -> torch.nn.Module:
        return (
            classifier.load(path)
            if path.name == "classifier.safetensors"
            else checkpoint.load_generator(path)[0]
        )

    try:
        network = load()
    except ValueError as error:
        return refused(path, error)
    check_network(network)
    if original is not None:
        path.write_bytes(original)
        if not same(network, load()):
            raise FindingError("the weights differ")
    return "read"


def weights(folder: Path, chance: random.Random) -> str:
    """A file of weights with spoilt bytes or an edited header."""
    kind = chance.randrange(3)
    name = "classifier.safetensors" if kind == 2 else "generator.safetensors"
    content = (OLD / name).read_bytes() if kind == 0 else networks()[kind]
    if chance.random() < 0.4:
        # Without a checksum, changed numbers cannot be told.
        return read_weights(folder / name, spoil(content, chance), content if kind else None)
    content = networks()[max(1, kind)]
    return read_weights(folder / name, packed_weights(content, chance), None)


def odd_name(chance: random.Random, name: str) -> str:
    """Another name for a picture, perhaps in a folder."""
    stem, _, suffix = name.rpartition(".")
    stem = chance.choice(
        (stem, stem, "ü" * 20, "a b", "-x", "..c", "a\nb", "%s{0}", "🦆", ".hidden", "e\u0301")
    )
    suffix = chance.choice((suffix, suffix, suffix.upper(), "png", "jpg", "gif", "webp"))
    return chance.choice(("", "", "one/", "two/", "one/deep/", "__MACOSX/")) + f"{stem}.{suffix}"


def bomb(chance: random.Random) -> bytes:
    """A small file of a picture that says it is enormous."""
    content = bytearray(originals()["a.png"][0])
    side = chance.choice((9_000, 20_000, 2**31 - 1))
    content[16:24] = side.to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def some_pictures(chance: random.Random) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """One to five pictures by name, some damaged, and what is to be read of those that are not."""
    files, whole = {}, {}
    for name in chance.sample(sorted(originals()), chance.randrange(1, 6)):
        content, pixels = originals()[name]
        under = odd_name(chance, name) if chance.random() < 0.3 else name
        kind = chance.randrange(10)
        if kind < 5:
            content = spoil(content, chance)
        elif kind == 5:
            content = chance.choice((b"", b"x", b"GIF89a", chance.randbytes(99), bomb(chance)))
        else:
            whole[under] = pixels
        files[under] = content
        if kind < 6:
            whole.pop(under, None)
    return files, whole


def read_pictures(path: Path, whole: dict[str, np.ndarray], chance: random.Random) -> str:
    """Load a set of pictures twice and look at it."""
    strict, cache = chance.random() < 0.2, chance.random() < 0.7
    asked = {"image_size": 16, "channels": 1, "strict": strict, "cache": cache}
    before = {place for place in path.parent.rglob("*") if ".dcganlib" not in place.parts}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* were left out")
            found = data.load(path, **asked)
            again = data.load(path, **asked)
    except (ValueError, OSError) as error:
        result = refused(path, error)
    else:
        result = "read"
        if found.images.dtype != torch.uint8 or found.images.shape[1:] != (1, 16, 16) or not len(found):
            raise FindingError(f"it has {found.images.dtype} of shape {tuple(found.images.shape)}")
        if not torch.equal(found.images, again.images) or found.skipped != again.skipped:
            raise FindingError("the second time other pictures were read")
        if found.labels is not None and found.labels.shape != (len(found),):
            raise FindingError(f"there are labels of shape {tuple(found.labels.shape)}")
        images = {image.tobytes() for image in found.images.numpy()}
        lost = [name for name, pixels in whole.items() if pixels.tobytes() not in images]
        lost = [
            name for name in lost if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
        ]
        if lost:
            raise FindingError(f"a whole picture was not read: {lost[0]!r}; left out: {found.skipped}")
    after = {place for place in path.parent.rglob("*") if ".dcganlib" not in place.parts}
    if after - before:
        raise FindingError(f"left behind: {after - before}")
    return result


def picture_folder(folder: Path, chance: random.Random) -> str:
    """A folder of pictures, some damaged, misnamed or no files at all."""
    path = folder / "set"
    files, whole = some_pictures(chance)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    if chance.random() < 0.2:
        link = path / f"link{chance.randrange(3)}.png"
        link.symlink_to(chance.choice(("nowhere.png", link.name, "/dev/null", str(folder), ".")))
    if chance.random() < 0.1:
        (path / "folder.png").mkdir(exist_ok=True)
    return read_pictures(path, whole, chance)


def picture_zip(folder: Path, chance: random.Random) -> str:
    """A zip of pictures, damaged itself or in its parts."""
    files, whole = some_pictures(chance)
    archive = io.BytesIO()
    packed = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(archive, "w", packed) as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a name stands twice
        for name, content in files.items():
            if chance.random() < 0.1:
                whole.pop(name, None)
                name = chance.choice(("../", "/", "a\\", "./", "one//")) + name
            made.writestr(zipfile.ZipInfo(name), content, packed)
            if chance.random() < 0.05:
                made.writestr(zipfile.ZipInfo(name), b"", packed)
                whole.pop(name, None)
        if chance.random() < 0.03:
            made.writestr(zipfile.ZipInfo("zeros.png"), bytes(10**7), packed)
    content = archive.getvalue()
    if chance.random() < 0.6:
        content, whole = spoil(content, chance), {}
    elif chance.random() < 0.1:
        content, whole = chance.choice((b"", b"PK", b"<html>quota", b"PK\5\6" + bytes(18))), {}
    path = folder / "set.zip"
    path.write_bytes(content)
    return read_pictures(path, whole, chance)


def stale_cache(folder: Path, chance: random.Random) -> str:
    """A cache of decoded pictures that was cut off, spoilt or edited, or whose pictures have changed."""
    path = folder / "set"
    path.mkdir()
    for name in ("a.png", "b.jpg", "e.webp"):
        (path / name).write_bytes(originals()[name][0])
    (path / "x.png").write_bytes(b"broken")
    asked = {"image_size": 16, "channels": 1}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* were left out")
        data.load(path, **asked)
        (about,), (pixels,) = (path / ".dcganlib").glob("*.json"), (path / ".dcganlib").glob("*.u8")
        kind = chance.randrange(4)
        if kind == 0:
            pixels.write_bytes(pixels.read_bytes()[: chance.randrange(700)])
        elif kind == 1:
            about.write_bytes(odd_json(json.loads(about.read_bytes()), chance))
        elif kind == 2:
            chance.choice((about, pixels)).unlink()
        else:
            (path / "b.jpg").write_bytes(originals()["i.jpeg"][0])
        found, expected = data.load(path, **asked), data.load(path, **asked, cache=False)
    if found.skipped != expected.skipped and kind != 1:
        raise FindingError(f"left out {found.skipped}, not {expected.skipped}")
    if not torch.equal(found.images, expected.images):
        raise FindingError(f"the cache gave other pictures: {tuple(found.images.shape)}")
    return "read"


def lists(folder: Path, chance: random.Random) -> str:
    """CelebA's text files, spoilt as text."""
    source = folder / "set" / celeba.IMAGES
    source.mkdir(parents=True)
    for index in range(1, 9):
        (source / f"{index:06}.png").touch()
    spoilt = chance.choice(list(listing()))
    for name, text in listing().items():
        if name == spoilt:
            if chance.random() < 0.5:
                rows = edit([line.split() for line in text.split("\n")], chance)
                rows = (
                    [row if isinstance(row, list) else [row] for row in rows]
                    if isinstance(rows, list)
                    else []
                )
                text = "\n".join(" ".join(map(str, row)) for row in rows)
                content = text.encode(errors="surrogatepass")
            else:
                content = spoil(text.encode(), chance)
            (folder / "set" / name).write_bytes(content)
        elif chance.random() < 0.8:
            (folder / "set" / name).write_text(text, encoding="utf-8")
    split = chance.choice(("train", "valid", "test", "all"))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* lists .* images")
            found = celeba.read(folder / "set", split, chance.choice((None, 1, 2)))
    except (ValueError, OSError) as error:
        return refused(folder / "set" / spoilt, error, folder / "set")
    count = len(found.source.names)
    for values in (found.attributes, found.landmarks, found.identities):
        if values is not None and len(values) != count:
            raise FindingError(f"{len(values)} rows for {count} pictures")
    if found.attributes is not None and found.attributes.shape[1] != len(found.attribute_names):
        raise FindingError(f"{found.attributes.shape} for {found.attribute_names}")
    return "read"


def digit_files(folder: Path, chance: random.Random) -> str:
    """The files of MNIST, as torchvision reads them."""
    name, raw = chance.choice((("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")))
    place = folder / raw / "raw"
    place.mkdir(parents=True)
    spoilt = chance.choice(("images-idx3-ubyte", "labels-idx1-ubyte"))
    for kind, shape in (("images-idx3-ubyte", (5, 28, 28)), ("labels-idx1-ubyte", (5,))):
        content = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        content += bytes(range(math.prod(shape) % 256)) + bytes(math.prod(shape) - math.prod(shape) % 256)
        if kind == spoilt:
            head = chance.choice((len(content), 16))  # the header alone, or all of it
            content = spoil(content[:head], chance) + content[head:]
        for split in ("train", "t10k"):
            (place / f"{split}-{kind}").write_bytes(content)
    try:
        found = data.load(name, root=folder, split=chance.choice(("train", "test")), download=False)
    except (ValueError, FileNotFoundError) as error:
        return refused(folder / raw, error)
    if found.images.shape[1:] != (1, 28, 28) or found.labels.shape != found.images.shape[:1]:
        raise FindingError(f"{tuple(found.images.shape)} with labels {tuple(found.labels.shape)}")
    if found.images.dtype != torch.uint8 or found.labels.dtype != torch.int64:
        raise FindingError(f"{found.images.dtype} with labels {found.labels.dtype}")
    return "read"


def run_folder(folder: Path, chance: random.Random) -> str:
    """A run's config and history, spoilt; read as a run, and sampled from."""
    path = folder / "run"
    path.mkdir()
    path.joinpath("generator.safetensors").write_bytes(networks()[1])
    settings = runs.RunConfig("d", "dcgan", 3, 16, 1, 4, 500, 1, train.TrainConfig(batch_size=4))
    config = {"version": "0.1.0", **asdict(settings)}
    rows = [
        ["step", "epoch", "d_loss", "g_loss", "d_real", "d_fake"],
        [1, 1, 0.6, 0.7, 0.5, 0.5],
        [2, 1, 0.6, 0.7, 0.5, 0.5],
    ]
    which = chance.choice(("config", "config", "history"))
    history = io.StringIO()
    csv.writer(history).writerows(rows)
    content = history.getvalue().encode()
    if which == "history":
        edited = edit(rows, chance)
        if isinstance(edited, list) and chance.random() < 0.5:
            history = io.StringIO()
            try:
                csv.writer(history).writerows(row for row in edited if isinstance(row, list))
            except csv.Error:
                return "not made"
            content = history.getvalue().encode(errors="surrogatepass")
        else:
            content = spoil(content, chance)
    (path / "history.csv").write_bytes(content)
    text = odd_json(config, chance) if which == "config" else json.dumps(config).encode()
    (path / "config.json").write_bytes(text)
    result = "read"
    for read in (runs.read, runs.read_config, lambda place: runs.sample(place, 2)):
        try:
            found = read(path)
        except (ValueError, OSError) as error:
            result = refused(path / "config.json", error, path / "history.csv")
        else:
            if isinstance(found, runs.RunConfig):
                check_settings(found)
            if isinstance(found, runs.Run):
                lost = [row for row in found.history if not {"step", "d_loss", "g_loss"} <= row.keys()]
                if lost:
                    raise FindingError(f"a row of the history is {lost[0]}")
    return result


def check_settings(found: runs.RunConfig) -> None:
    """Whether settings have values of their kinds."""
    numbers = ("steps", "image_size", "channels", "checkpoint_every", "sample_every")
    wrong = [name for name in numbers if type(getattr(found, name)) is not int or getattr(found, name) < 1]
    wrong += [name for name in ("data", "architecture") if not isinstance(getattr(found, name), str)]
    wrong += [name for name in ("batch_size", "seed") if type(getattr(found.train, name)) is not int]
    if wrong:
        raise FindingError(f"{wrong[0]} is {getattr(found, wrong[0], None) or found.train!r}")


def results(folder: Path, chance: random.Random) -> str:
    """Stored results, spoilt."""
    path = folder / "measured" / "x.json"
    path.parent.mkdir()
    path.write_bytes(odd_json({"command": "a", "rows": [{"b": 1.5, "c": [1, 2]}]}, chance))
    kept, runs.PRETRAINED = runs.PRETRAINED, folder
    try:
        found = runs.measured("x")
    except ValueError as error:
        return refused(path, error)
    finally:
        runs.PRETRAINED = kept
    if not isinstance(found, dict):
        raise FindingError(f"it holds {found!r}")
    return "read"


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        *(damaged_checkpoint, forged_checkpoint, hostile_checkpoint, weights),
        *(picture_folder, picture_zip, stale_cache, lists, digit_files, run_folder, results),
    )
}


# Running them


def try_case(seed: int, number: int, names: list[str], keep: Path | None = None) -> tuple[str, str, str]:
    """Run one case: (its name, its outcome, what was found). A finding's folder goes to ``keep``."""
    chance = random.Random(f"{seed}/{number}")
    name = names[number % len(names)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                outcome, said = CASES[name](Path(folder), chance), ""
                stray = [path for path in Path(folder).rglob(".*") if re.match(STRAY, path.name)]
                if stray:
                    raise FindingError(f"left behind: {stray}")
        except Exception as error:
            outcome, said = "FINDING", f"{type(error).__name__}: {error}"
            if keep:
                shutil.copytree(folder, keep / f"{seed}-{number}", symlinks=True, dirs_exist_ok=True)
    return name, outcome, said


@contextmanager
def bounded() -> Iterator[None]:
    """Limit this process's memory."""
    pages = (
        int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) if sys.platform == "linux" else 0
    )
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def in_a_child(seed: int, numbers: range, names: list[str], keep: Path) -> list[tuple[str, str, str, int]]:
    """Run cases in a process of their own, up to the first that ends it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with bounded(), os.fdopen(writing, "w", encoding="utf-8") as told:
                for number in numbers:
                    signal.setitimer(signal.ITIMER_PROF, PATIENCE)  # its usual effect: the end
                    signal.alarm(WAIT)
                    told.write(json.dumps((*try_case(seed, number, names, keep), number)) + "\n")
                    told.flush()
            os._exit(0)
        except BaseException as error:
            print(repr(error)[:300], file=sys.stderr)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as told:
        done = [tuple(json.loads(line)) for line in told]
    status = os.waitpid(child, 0)[1]
    if status:
        end = signal.Signals(status & 127).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
        number = numbers[len(done)]
        name = names[number % len(names)]
        hangs = end in ("SIGPROF", "SIGALRM")
        done.append((name, "FINDING", "hangs" if hangs else f"the process ended by {end}", number))
    return done


def main() -> int:
    """Run cases for some seconds of processor time and say what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="processor time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all cases (%(default)s)")
    parser.add_argument("--only", choices=CASES, action="append", help="cases to run (all)")
    parser.add_argument("--case", type=int, help="run the case of this number alone, here")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="folder for findings (%(default)s)")
    options = parser.parse_args()
    names = options.only or list(CASES)
    torch.set_num_threads(1)
    if options.case is not None:
        print(*try_case(options.seed, options.case, names, options.out))
        return 0
    networks(), originals(), listing()
    outcomes: Counter[tuple[str, str]] = Counter()
    found: Counter[str] = Counter()
    spent, number, begin = 0.0, 0, time.time()
    while spent < options.seconds:
        done = in_a_child(options.seed, range(number, number + BATCH), names, options.out)
        number += len(done)
        for name, outcome, said, at in done:
            outcomes[name, outcome] += 1
            kind = f"{name}: {re.sub(r'/tmp/[^ ]*|[^ ]*[0-9][^ ]*', '…', said.partition(chr(10))[0])[:70]}"
            if said and kind not in found:
                print(f"case {at} {kind}\n    {said[:400]}", flush=True)
            found[kind] += bool(said)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = used.ru_utime + used.ru_stime
        if number % 5000 < BATCH:
            print(f"{number} cases, {spent:.0f} s of processor time", flush=True)
    took = time.time() - begin
    print(f"\n{number} cases, {spent:.0f} s of processor time in {took:.0f} s; seed {options.seed}")
    for (name, outcome), count in sorted(outcomes.items()):
        print(f"{count:>8} {name:<20} {outcome}")
    for kind, count in found.most_common():
        if count:
            print(f"{count:>8} {kind}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
