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
import gzip
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
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dcganlib import datasets, models, runs, train, zoo
from dcganlib.config import DataConfig, ModelConfig, ResolvedRunConfig, SampleConfig, TrainConfig
from dcganlib.datasets import celeba, image_decoding
from dcganlib.datasets.messages import printable
from dcganlib.evaluation import classifier
from dcganlib.runs import history
from dcganlib.runtime import checkpoint

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
    pair = zoo.build("dcgan", image_size=16, channels=1, base_channels=4, latent_dim=8, rng=rng)
    state = train.init_state(*pair, TrainConfig(batch_size=4, ema=0.9))
    images = torch.randint(256, (12, 1, 16, 16), dtype=torch.uint8, generator=rng)
    history = [record.as_dict() for record in train.train(state, datasets.make_loader(images, 4, rng=rng), 3)]
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
        made[name] = file.getvalue(), image_decoding.read(io.BytesIO(file.getvalue()), 16, 1)
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
        labels = torch.zeros(2, dtype=torch.int64) if network.num_classes else None
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
    if state.ema_generator is not None:
        check_network(state.ema_generator)
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
        labels = torch.zeros(4, dtype=torch.int64) if state.generator.num_classes else None
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


def expect_warnings() -> None:
    """Let pass what ``datasets.load`` says of pictures that are left out and of odd classes."""
    for words in (".* were left out", "the (folders of|classes are)", "[0-9,]+ folders of"):
        warnings.filterwarnings("ignore", words)


def read_pictures(path: Path, whole: dict[str, np.ndarray], chance: random.Random) -> str:
    """Load a set of pictures twice and look at it."""
    strict, cache = chance.random() < 0.2, chance.random() < 0.7
    asked = {"image_size": 16, "channels": 1, "strict": strict, "cache": cache}
    before = {place for place in path.parent.rglob("*") if ".dcganlib" not in place.parts}
    try:
        with warnings.catch_warnings():
            expect_warnings()
            found = datasets.load(path, **asked)
            again = datasets.load(path, **asked)
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


LAYOUTS = (
    *(
        [""],
        ["cat/"],
        ["cat/", "dog/"],
        ["2/", "10/", "1/"],
        ["all/cat/", "all/dog/"],
        ["a/b/x/", "a/b/y/z/"],
    ),
    *(["train/cat/", "train/dog/", "test/cat/"], ["", "cat/", "dog/"], ["cat/", "cat/deep/", "dog/"]),
    *(
        ["folder.png/", "a b/"],
        ["%s{0}/", "ü/", "e\u0301/"],
        ["a\nb/", "~/"],
        [os.fsdecode(b"\xff\xe9/"), "y/"],
    ),
)
STEMS = (
    "",
    "",
    "",
    "a b",
    "ü",
    "🦆",
    "-",
    "a\nb",
    "%s{0}",
    "a.jpg",
    "x" * 240,
    "CON",
    "a\\b",
    os.fsdecode(b"\xff"),
)
PASSED_OVER = (
    *(".hidden.png", "._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt", "a", "png"),
    *(
        "__MACOSX/a.png",
        "@eaDir/a.png",
        "$RECYCLE.BIN/a.png",
        ".git/a.png",
        "System Volume Information/a.png",
    ),
)


@functools.cache
def dot(value: int, suffix: str) -> bytes:
    """A picture of one grey value, by which it is known again."""
    file = io.BytesIO()
    options = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    kind = {"jpg": "jpeg", "tif": "tiff", "ppm": "ppm"}.get(suffix, suffix)
    Image.new("L", (4, 4), value).save(file, kind, **options)
    return file.getvalue()


def add_links(path: Path, made: dict[str, int | None], folders: list[str], chance: random.Random) -> None:
    """Links and pipes in a folder, and what is to be read of them."""
    place = chance.choice(folders)
    for kind in chance.sample(range(5), 2):
        if kind == 0:  # to a picture
            name, (target, value) = f"{place}link.png", chance.choice(sorted(made.items()))
            (path / name).symlink_to(path / target)
            made[name] = value
        elif kind == 1:  # to nothing that can be read
            name = f"{place}nothing.png"
            (path / name).symlink_to(chance.choice(("nowhere.png", "nothing.png", "/dev/null")))
            made[name] = None
        elif kind == 2:  # a circle
            (path / place / "circle").symlink_to(chance.choice((".", "..", str(path), str(path.parent))))
        elif kind == 3:
            os.mkfifo(path / place / "pipe.png")
            made[f"{place}pipe.png"] = None
    if chance.random() < 0.5 and place and not (path / place / "circle").is_symlink():  # to a folder
        name, target = f"{chance.choice(('', folders[-1]))}twin/", place
        if not name.startswith(target):
            (path / name[:-1]).symlink_to(path / target)
            made |= {name + each[len(target) :]: made[each] for each in made if each.startswith(target)}


def folder_tree(folder: Path, chance: random.Random) -> str:
    """A tree of folders as people have them, or a zip of it: classes, splits, links, runs, odd names."""
    path, made, folders = folder / "set", {}, chance.choice(LAYOUTS)
    suffixes = chance.choice((["png"], ["png", "jpg", "bmp", "gif", "tif", "webp", "ppm"]))
    for value in range(chance.randrange(len(folders), 12)):
        under = folders[value] if value < len(folders) else chance.choice(folders)
        suffix = chance.choice(suffixes)
        name = f"{under}{chance.choice(STEMS)}{value}.{chance.choice((suffix, suffix, suffix.upper()))}"
        made[name] = value * 20 if chance.random() < 0.9 else None
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(
            chance.choice((b"", b"x")) if made[name] is None else dot(value * 20, suffix)
        )
    others = [chance.choice(folders) + name for name in chance.sample(PASSED_OVER, chance.randrange(4))]
    if chance.random() < 0.2:
        place = chance.choice(folders)
        others += [f"{place}run/{name}" for name in ("config.json", "real.png", "samples/1.png")]
    for name in others:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(dot(7, "png"))
    if chance.random() < 0.2:
        (path / chance.choice(folders) / chance.choice(("empty", "empty.png", "empty/deep"))).mkdir(
            parents=True
        )
    if chance.random() < 0.4:
        add_links(path, made, folders, chance)
    elif chance.random() < 0.4 and all(name.isprintable() and "\\" not in name for name in made):
        files = sorted(each for each in path.rglob("*") if each.is_file())
        with zipfile.ZipFile(folder / "set.zip", "w") as archive:
            for each in files:
                archive.writestr(zipfile.ZipInfo(str(each.relative_to(path))), each.read_bytes())
        path = folder / "set.zip"
    return read_tree(path, made, chance)


def read_tree(path: Path, made: dict[str, int | None], chance: random.Random) -> str:
    """Load a tree and compare it with what was made: grey values by name, None of what cannot be read."""
    whole = [name for name in sorted(made) if made[name] is not None]
    count, strict = chance.choice((None, None, None, 1, 3)), chance.random() < 0.1
    try:
        with warnings.catch_warnings():
            expect_warnings()
            found = datasets.load(
                path, image_size=4, channels=1, max_images=count, strict=strict, cache=chance.random() < 0.3
            )
    except ValueError as error:
        if whole and count is None and not (strict and len(whole) < len(made)):
            raise FindingError(f"it was refused: {error}") from error
        return refused(path, error)
    total = len(found) + len(found.skipped)
    if total != min(count or len(made), len(made)):
        raise FindingError(
            f"{len(found)} were taken and {len(found.skipped)} left out of {len(made)}, count {count}"
        )
    values = found.images[:, 0, 0, 0].tolist()
    if count is None and values != [made[name] for name in whole]:
        raise FindingError(f"the pictures are {values}, not {whole}")
    above = os.path.commonpath([os.path.dirname("/" + name) for name in made])
    inside = {name: os.path.relpath("/" + name, above).split("/") for name in made}
    classes = {name: printable(parts[0]) for name, parts in inside.items()}
    if any(len(parts) == 1 for parts in inside.values()):
        if found.labels is not None:
            raise FindingError(f"there are classes {found.class_names}")
    elif count is None:
        told = [found.class_names[label] for label in found.labels]
        if told != [classes[name] for name in whole] or {*told} != {*found.class_names}:
            raise FindingError(f"the classes are {told} of {found.class_names}")
    return "read"


# Single pictures


def laid_on_white(image: Image.Image) -> np.ndarray:
    """RGB values of shape (H, W, 3), by Pillow's conversion to RGBA."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float64) * (255 if image.mode == "F" else 1 / 257)
        return grey[..., None].repeat(3, 2)
    values = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = values[..., 3:] / 255
    return values[..., :3] * alpha + 255 * (1 - alpha)


def read_picture(content: bytes, expected: list[np.ndarray], near: float = 1) -> str:
    """Read a square picture and compare it with what it may look like; anything goes where that is empty."""
    side = len(expected[0]) if expected else 8
    try:
        found = image_decoding.read(io.BytesIO(content), side, 3)
    except ValueError as error:
        if expected:
            raise FindingError(f"a whole picture was refused: {error}") from error
        return "refused"
    if found.shape != (3, side, side) or found.dtype != np.uint8:
        raise FindingError(f"it has {found.dtype} of shape {found.shape}")
    pixels = found.transpose(1, 2, 0)
    if expected and min(np.abs(pixels - each).max() for each in expected) > near:
        raise FindingError(f"the pixels differ by {min(np.abs(pixels - each).max() for each in expected)}")
    return "read"


@functools.cache
def plain() -> dict[str, tuple[bytes, np.ndarray]]:
    """A picture without metadata in the formats that have some, and its pixels as Pillow has them."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    made = {}
    for kind in ("png", "jpeg", "webp", "tiff"):
        file = io.BytesIO()
        image.save(file, kind, **({"lossless": True} if kind == "webp" else {}))
        made[kind] = file.getvalue(), np.asarray(Image.open(file).convert("RGB")).astype(np.float64)
    return made


@functools.cache
def blocks() -> dict[str, bytes]:
    """Metadata in good order, but for the orientation 3 in EXIF that of a picture that stands upright."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 3, "maker", 72.0
    exif.get_ifd(0x8769).update({0x9003: "2020:01:01 00:00:00", 0x927C: b"note" * 9, 0x829A: 0.5})
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    from PIL import ImageCms

    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += b'<rdf:RDF><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="1"/>'
    xmp += b"</rdf:RDF></x:xmpmeta>"
    return {
        "exif": exif.tobytes()[6:],
        "xmp": xmp,
        "icc": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "mpf": bytes.fromhex("4d4d002a00000008000100000b000700000004303130300000000000"),
        "text": b"Comment\0text",
    }


CHUNKS = {"exif": b"eXIf", "xmp": b"iTXt", "icc": b"iCCP", "mpf": b"acTL", "text": b"tEXt"}
ANCILLARY = b"zTXt gAMA cHRM sRGB sBIT bKGD hIST pHYs tIME acTL fcTL cICP sPLT iTXt tEXt eXIf iCCP".split()
SEGMENTS = {
    "exif": (0xE1, b"Exif\0\0"),
    "xmp": (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    "icc": (0xE2, b"ICC_PROFILE\0\1\1"),
    "mpf": (0xE2, b"MPF\0"),
    "text": (0xFE, b""),
}


def chunk(name: bytes, content: bytes, spoil_sum: bool = False) -> bytes:
    """A chunk of a PNG."""
    told = zlib.crc32(name + content) ^ spoil_sum
    return len(content).to_bytes(4, "big") + name + content + told.to_bytes(4, "big")


def with_block(kind: str, content: bytes, name: str, block: bytes, chance: random.Random) -> bytes:
    """A PNG or JPEG with one block of metadata more."""
    if kind == "jpeg":
        marker, start = SEGMENTS[name]
        if chance.random() < 0.1:
            marker, start = (
                chance.choice((0xE3, 0xED, 0xEF)),
                chance.choice((b"Photoshop 3.0\0", b"8BIM", b"")),
            )
        block = (start + block)[:65000]
        return content[:2] + bytes([0xFF, marker]) + (len(block) + 2).to_bytes(2, "big") + block + content[2:]
    start = {"xmp": b"XML:com.adobe.xmp\0\0\0\0\0", "icc": b"icc\0\0"}.get(name, b"")
    block = zlib.compress(block) if name == "icc" and chance.random() < 0.8 else block
    which = CHUNKS[name] if chance.random() < 0.7 else chance.choice(ANCILLARY)
    at = 33 if chance.random() < 0.8 else len(content) - 12
    return content[:at] + chunk(which, start + block, chance.random() < 0.2) + content[at:]


def metadata(folder: Path, chance: random.Random) -> str:
    """A picture with whole pixels and damaged EXIF, XMP, colour profile or comments."""
    kind = chance.choice(("png", "jpeg", "webp", "tiff"))
    content, pixels = plain()[kind]
    turns = [pixels, pixels[::-1, ::-1], pixels[::-1], pixels[:, ::-1]]
    turns += [turn.transpose(1, 0, 2) for turn in turns]
    chosen = {name: blocks()[name] for name in chance.sample(sorted(blocks()), chance.randrange(1, 4))}
    damaged = chance.random() < 0.8
    if damaged:
        chosen = {
            name: chance.choice(
                (block, spoil(block, chance), spoil(block, chance), chance.randbytes(30), b"")
            )
            for name, block in chosen.items()
        }
    if kind == "webp":
        options = {"exif": "exif", "xmp": "xmp", "icc": "icc_profile"}
        file = io.BytesIO()
        asked = {options[name]: block for name, block in chosen.items() if name in options}
        Image.open(io.BytesIO(content)).save(file, kind, lossless=True, **asked)
        content = file.getvalue()
    elif kind == "tiff":
        content = tiff_with(chosen, damaged, chance)
        turns = [np.rot90(pixels, -1)]
    else:
        for name, block in chosen.items():
            content = with_block(kind, content, name, block, chance)
    if not damaged and kind in ("webp", "jpeg"):
        turns = turns[1:2] if "exif" in chosen and kind == "webp" else turns[:2]
    (folder / f"a.{kind}").write_bytes(content)
    return read_picture(content, turns, 0)


def tiff_with(chosen: dict[str, bytes], damaged: bool, chance: random.Random) -> bytes:
    """A TIFF with metadata in its tags, whose entries may be damaged too."""
    tags = {270: "text", 274: 6, 305: "program", 282: 72.0, 33723: b"iptc" * 9, 34377: b"8BIM" * 9}
    tags |= {700: chosen.get("xmp") or b"x", 34675: chosen.get("icc") or b"x"}
    file = io.BytesIO()
    image = Image.fromarray(plain()["tiff"][1].astype(np.uint8))
    image.save(file, "tiff", tiffinfo=tags, compression=chance.choice((None, "tiff_lzw", "packbits")))
    content = bytearray(file.getvalue())
    start = int.from_bytes(content[4:8], "little")
    for at in range(start + 2, start + 2 + 12 * int.from_bytes(content[start : start + 2], "little"), 12):
        if (
            damaged
            and int.from_bytes(content[at : at + 2], "little") in {*tags} - {274}
            and chance.random() < 0.4
        ):
            begin, end = chance.choice(((2, 4), (4, 8), (8, 12), (2, 12)))
            size = end - begin
            content[at + begin : at + end] = chance.choice(
                (chance.randbytes(size), chance.randrange(20).to_bytes(size, "little"), b"\xff" * size)
            )
    return bytes(content)


MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "gif": ("1", "L", "P", "RGB", "RGBA"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "tga": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "ppm": ("1", "L", "RGB", "RGBA", "I;16", "F"),
    "webp": ("L", "P", "RGB", "RGBA"),
    "jpeg": ("1", "L", "RGB", "CMYK", "YCbCr"),
    "jpeg2000": ("L", "LA", "RGB", "RGBA", "YCbCr", "I;16"),
    "pcx": ("1", "L", "P", "RGB"),
    "sgi": ("L", "RGB", "RGBA"),
    "qoi": ("RGB", "RGBA"),
    "dds": ("L", "LA", "RGB", "RGBA"),
    "im": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"),
    "avif": ("L", "LA", "RGB", "RGBA"),
    "ico": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "spider": ("F",),
    "msp": ("1",),
    "xbm": ("1",),
}
"""Modes that each format holds."""


def modes(folder: Path, chance: random.Random) -> str:
    """A picture of any mode that a format holds, transparent or not, sometimes spoilt."""
    kind = chance.choice(sorted(MODES))
    mode, noise = chance.choice(MODES[kind]), np.random.default_rng(chance.randrange(99))
    values = noise.integers(0, 256, (16, 16, 4), np.uint8)
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    if mode == "F":
        image = Image.fromarray(values[..., 0].astype(np.float32) / 255)
    elif mode.startswith("I"):
        image = Image.fromarray(values[..., 0].astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    elif mode == "P":
        image = Image.fromarray(values).quantize(chance.choice((2, 4, 16, 200)))
    elif mode == "PA":
        image = Image.fromarray(values).convert("LA").convert("PA")
    else:
        image = Image.fromarray(values).convert("RGB" if mode == "LAB" else "RGBA")
        image = (
            image.convert(mode)
            if mode != "LAB"
            else Image.frombytes("LAB", (16, 16), values[..., :3].tobytes())
        )
    if (kind == "png" and mode in ("1", "L", "P", "RGB")) or (kind, mode) == ("gif", "P"):
        if chance.random() < 0.5:
            options["transparency"] = {"P": 1, "RGB": tuple(values[0, 0, :3].tolist())}.get(mode, 255)
        if mode == "P" and kind == "png" and chance.random() < 0.5:
            options["transparency"] = chance.randbytes(len(image.getcolors()))
    if kind == "tiff" and mode != "1":
        options["compression"] = chance.choice((None, "tiff_lzw", "tiff_adobe_deflate", "packbits"))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of formats that Pillow will drop
        image.save(file, kind, **options)
    content = file.getvalue()
    if chance.random() < 0.4:
        content, expected = spoil(content, chance), []
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                expected = [laid_on_white(Image.open(file))]
        except ValueError:  # LAB
            expected = []
    (folder / f"a.{kind}").write_bytes(content)
    return read_picture(content, expected)


def png_kinds(folder: Path, chance: random.Random) -> str:
    """A PNG of any depth and colour type, written sample by sample, with a transparent colour or not."""
    colour, depth = chance.choice(
        [(0, depth) for depth in (1, 2, 4, 8, 16)]
        + [(3, depth) for depth in (1, 2, 4, 8)]
        + [(colour, depth) for colour in (2, 4, 6) for depth in (8, 16)]
    )
    noise, top = np.random.default_rng(chance.randrange(10**6)), 2**depth - 1
    axes = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    samples = noise.integers(0, min(top, 255) + 1, (8, 8, axes)) * (257 if depth == 16 else 1)
    palette = noise.integers(0, 256, (2**depth, 3)) if colour == 3 else None
    values = palette[samples[..., 0]] / 255 if colour == 3 else samples[..., : 3 if axes > 2 else 1] / top
    alpha = samples[..., -1:] / top if colour in (4, 6) else np.ones((8, 8, 1))
    chunks = [chunk(b"PLTE", palette.astype(np.uint8).tobytes())] if colour == 3 else []
    if colour < 4 and chance.random() < 0.7:
        if colour == 3:
            told = noise.integers(0, 256, chance.randrange(1, 2**depth + 1))
            alpha = np.append(told, np.full(2**depth - len(told), 255))[samples] / 255
            chunks.append(chunk(b"tRNS", told.astype(np.uint8).tobytes()))
        else:
            told = samples[chance.randrange(8), chance.randrange(8)]
            alpha = 1.0 - (samples == told).all(-1, keepdims=True)
            chunks.append(chunk(b"tRNS", told.astype(">u2").tobytes()))
    if depth == 16:
        packed = samples.astype(">u2").reshape(8, -1).view(np.uint8)
    elif depth == 8:
        packed = samples.astype(np.uint8).reshape(8, -1)
    else:
        bits = samples >> np.arange(depth)[::-1] & 1
        packed = np.packbits(bits.reshape(8, -1).astype(np.uint8), axis=1)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    head = (8).to_bytes(4, "big") * 2 + bytes([depth, colour, 0, 0, 0])
    whole = chance.random() < 0.7
    if not whole and chunks:  # a palette or transparency that does not fit
        chunks[-1] = chunk(chunks[-1][4:8], spoil(chunks[-1][8:-4], chance))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IDAT", rows)
    content += chunk(b"IEND", b"")
    (folder / "a.png").write_bytes(content)
    expected = 255 * np.broadcast_to(values * alpha + 1 - alpha, (8, 8, 3))
    return read_picture(content, [expected] if whole else [])


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
        datasets.load(path, **asked)
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
        found, expected = datasets.load(path, **asked), datasets.load(path, **asked, cache=False)
    if found.skipped != expected.skipped and kind != 1:
        raise FindingError(f"left out {found.skipped}, not {expected.skipped}")
    if not torch.equal(found.images, expected.images):
        raise FindingError(f"the cache gave other pictures: {tuple(found.images.shape)}")
    return "read"


def as_csv(rows: list[list[str]], named: list[str], chance: random.Random) -> bytes:
    """A list as programs for tables write it."""
    separator, quote = chance.choice((",", ",", ";", ", ", "\t")), chance.choice(("", "", '"'))
    lines = [separator.join(f"{quote}{cell}{quote}" for cell in row) for row in (named, *rows)]
    text = chance.choice(("\n", "\r\n", "\r")).join([*lines, ""] if chance.random() < 0.8 else lines)
    return text.encode(chance.choice(("utf-8", "utf-8-sig", "utf-16")))


def unruly(rows: list[list[str]], chance: random.Random) -> bool:
    """Do to a list what people do to tables; whether it must be refused then."""
    at, kind = chance.randrange(len(rows)), chance.randrange(6)
    if kind == 0:  # a cell is lost
        del rows[at][chance.randrange(len(rows[at]))]
    elif kind == 1:  # a column is
        column = chance.randrange(len(rows[0]))
        for row in rows:
            del row[column]
    elif kind == 2:
        rows[at].append("1")
    elif kind == 3:  # two lines that contradict each other
        rows.append([*rows[at][:-1], str(7 - int(rows[at][-1]))])
    elif kind == 4:
        del rows[at]
    else:  # lines of pictures that are not there, in any order, and some twice
        rows.extend([[f"{number:06}.png", *rows[0][1:]] for number in range(50, 55)])
        rows.append(rows[at])
        chance.shuffle(rows)
    return kind != 5


def lists(folder: Path, chance: random.Random) -> str:
    """CelebA's text files, as text or as tables, spoilt or not."""
    source = folder / "set" / celeba.IMAGES
    source.mkdir(parents=True)
    for index in range(1, 9):
        (source / f"{index:06}.png").touch()
    spoilt, there, kind, bad = chance.choice(list(listing())), set(), chance.randrange(4), False
    for name, text in listing().items():
        path, content = folder / "set" / name, text.encode()
        rows = [line.split() for line in text.splitlines()]
        if name != spoilt and chance.random() < 0.2:
            continue
        if name == spoilt and kind == 0:
            rows = edit([line.split() for line in text.split("\n")], chance)
            rows = [row if isinstance(row, list) else [row] for row in rows] if isinstance(rows, list) else []
            content = "\n".join(" ".join(map(str, row)) for row in rows).encode(errors="surrogatepass")
        elif name == spoilt and kind == 1:
            content = spoil(content, chance)
        else:
            head = rows[: 2 * (name in (celeba.ATTRIBUTES, celeba.LANDMARKS))]
            rows = rows[len(head) :]
            if name == spoilt and kind == 2:
                bad = unruly(rows, chance)
            if name == spoilt or chance.random() < 0.2:
                path = path.with_suffix(".csv")
                content = as_csv(rows, ["image_id", *(head[1] if head else ["value"])], chance)
                spoilt = path.name if name == spoilt else spoilt
            else:
                content = "\r\n".join(" ".join(row) for row in (*head, *rows)).encode()
        path.write_bytes(content)
        there.add(name)
    split = chance.choice(("train", "valid", "test", "all"))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* lists .* images")
            count = chance.choice((None, None, 1, 2))
            found = celeba.read(folder / "set", split, count)
    except (ValueError, OSError) as error:
        if kind == 3 and (split == "all" or celeba.PARTITION in there):
            raise FindingError(f"a good list was refused: {error}") from error
        return refused(folder / "set" / spoilt, error, folder / "set")
    check_listing(found, None if kind < 2 or bad else split, count)
    needed = split == "all" or spoilt.startswith(celeba.PARTITION.rpartition(".")[0])
    if bad and count is None and needed and not (split == "all" and spoilt.startswith("list_eval")):
        raise FindingError(f"{spoilt} was read, and is damaged")
    return "read"


def check_listing(found: celeba.Listing, split: str | None, count: int | None) -> None:
    """Whether a set says what ``listing`` does; where the split is None, whether it fits together."""
    total = len(found.source.names)
    for values in (found.attributes, found.landmarks, found.identities):
        if values is not None and len(values) != total:
            raise FindingError(f"{len(values)} rows for {total} pictures")
    if found.attributes is not None and found.attributes.shape[1] != len(found.attribute_names):
        raise FindingError(f"{found.attributes.shape} for {found.attribute_names}")
    if split is None:
        return
    number = celeba.PARTITION_NUMBERS.get(split)
    chosen = [int(name[:6]) - 1 for name in found.source.names]
    expected = [index for index in range(8) if number in (None, index % 3)]
    right = chosen == expected if count is None else len(chosen) == count and {*chosen} <= {*expected}
    said = (found.attributes, [[True, False, True]]), (found.landmarks, [[[69, 109]]])
    right &= all(values is None or values.tolist() == row * total for values, row in said)
    right &= found.identities is None or found.identities.tolist() == chosen
    right &= found.attribute_names in ((), ("Smiling", "Young", "Male"))
    if not right:
        raise FindingError(f"the lists are read as {found}")


def idx(shape: tuple[int, ...]) -> bytes:
    """A file of MNIST of this shape."""
    content = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return content + bytes(range(math.prod(shape) % 256)) + bytes(math.prod(shape) - math.prod(shape) % 256)


def digit_files(folder: Path, chance: random.Random) -> str:
    """The files of MNIST, packed or not, under the names that people have them, some cut off or spoilt."""
    name, raw = chance.choice((("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")))
    place, split = folder / raw / chance.choice(("raw", "")), chance.choice(("train", "test"))
    place.mkdir(parents=True, exist_ok=True)
    sound, harmless = True, True
    for kind, shape in (("images{}idx3-ubyte", (5, 28, 28)), ("labels{}idx1-ubyte", (5,))):
        copies = [(dot, packed) for dot in "-." for packed in ("", ".gz")]
        whole = False
        for dot, packed in chance.sample(copies, chance.choice((1, 1, 2))):
            content, harm = idx(shape), chance.randrange(5)
            if harm == 0:  # in the header alone, or anywhere
                head = chance.choice((len(content), 16))
                content = spoil(content[:head], chance) + content[head:]
            if packed or chance.random() < 0.1:
                content = gzip.compress(content, mtime=0)
                content = spoil(content, chance) if harm == 1 else content
            if harm == 2:
                content = content[: chance.randrange(len(content))]
            whole |= harm > 2
            harmless &= harm > 1
            file = f"{'train' if split == 'train' else 't10k'}-{kind.format(dot)}{packed}"
            inside = place / file if chance.random() < 0.2 else place
            inside.mkdir(exist_ok=True)
            (inside / file).write_bytes(content)
        sound &= whole
    try:
        found = datasets.load(name, root=folder, split=split, download=False)
    except (ValueError, FileNotFoundError) as error:
        if sound and harmless:
            raise FindingError(f"there are whole files: {error}") from error
        return refused(folder / raw, error)
    if found.images.shape[1:] != (1, 28, 28) or found.labels.shape != found.images.shape[:1]:
        raise FindingError(f"{tuple(found.images.shape)} with labels {tuple(found.labels.shape)}")
    if found.images.dtype != torch.uint8 or found.labels.dtype != torch.int64:
        raise FindingError(f"{found.images.dtype} with labels {found.labels.dtype}")
    if harmless and found.images.numpy().tobytes() != idx((5, 28, 28))[16:]:
        raise FindingError("the images differ")
    return "read"


def run_folder(folder: Path, chance: random.Random) -> str:
    """A run's config and history, spoilt; read as a run, and sampled from."""
    path = folder / "run"
    path.mkdir()
    path.joinpath("generator.safetensors").write_bytes(networks()[1])
    config = {"version": "0.3.0", **asdict(run_settings())}
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
    config |= {"num_classes": 2, "class_names": ["a", "b"]} if chance.random() < 0.5 else {}
    wrong = which == "config" and chance.random() < 0.3
    if wrong:
        config["class_names"] = chance.choice(
            (
                "ab",
                {"a": 0, "b": 1},
                {},
                "",
                0,
                2,
                False,
                True,
                [1, 2],
                ["a"],
                ["a", None],
                [["a", "b"]],
                list("abc"),
            )
        )
    text = json.dumps(config).encode() if wrong or which == "history" else odd_json(config, chance)
    (path / "config.json").write_bytes(text)
    result = "read"
    for read in (runs.read, runs.read_config, lambda place: runs.sample(place, SampleConfig(2))):
        try:
            found = read(path)
        except (ValueError, OSError) as error:
            result = refused(path / "config.json", error, path / "history.csv")
        else:
            if wrong:
                raise FindingError(f"class_names {config['class_names']!r} were read")
            if isinstance(found, ResolvedRunConfig):
                check_settings(found)
            if isinstance(found, runs.Run):
                lost = [row for row in found.history if not {"step", "d_loss", "g_loss"} <= row.keys()]
                if lost:
                    raise FindingError(f"a row of the history is {lost[0]}")
    return result


def history_file(folder: Path, chance: random.Random) -> str:
    """A history that was cut, spoilt or mixed with other lines: read, brought to a step, and gone on with."""
    path, total = folder / "history.csv", 6
    rows = [[step, 1, 0.6, 0.7, 0.5, 0.5] for step in range(1, total + 2)]
    lines = [",".join(map(str, row)) for row in (history.COLUMNS, *rows[:total])]
    at, kind, end = chance.randrange(total + 1), chance.randrange(9), "\n"
    if kind == 0:
        lines[at:at] = chance.choice(
            (["x"], [""], ["1,2"], ["nan,1,1,1,1,1"], ["2.5,1,1,1,1,1"], ["0," * 9], ["-1,1,1,1,1,1"])
        )
    elif kind == 1:
        lines[at:at] = chance.choice(
            (lines, lines[:1], lines[at:], ["\0" * 50], ["1,1,\x0c,1,1,1"], ["9" * 400 + ",1,1,1,1,1"])
        )
    elif kind == 2:
        del lines[at]
    elif kind == 3:
        end = chance.choice(("\r\n", "\r", "\n\n"))
    elif kind == 4:
        lines.reverse()
    content = "".join(line + end for line in lines).encode()
    if kind == 5:
        content = spoil(content, chance)
    elif kind == 6:
        content = content[: chance.randrange(len(content))]
    elif kind == 7:
        content += chance.choice(
            (bytes(60), b"7,1,0.", b"\xff\xfe", b"7,1,1,1,1,1", b'"', b"7,1,1,1,1,1,1\n")
        )
    path.write_bytes(content)
    step = chance.randrange(total + 1)
    result = "read"
    try:
        found = history.read(path)
    except ValueError as error:
        result = refused(path, error)
    else:
        if any(
            not {*history.COLUMNS} <= row.keys() or not all(map(is_number, row.values())) for row in found
        ):
            raise FindingError(f"the rows are {found}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        log = history.resume(path, step)
    kept = path.read_bytes().decode().splitlines() if path.exists() else []
    log.append([dict(zip(history.COLUMNS, rows[step], strict=True))])
    steps = [row["step"] for row in history.read(path)]
    if steps != [*sorted({*steps} & {*range(1, step + 1)}), step + 1]:
        raise FindingError(f"at step {step} it has rows of {steps}")
    if len(steps) <= step and not told:
        raise FindingError(f"at step {step} it has rows of {steps}, and nothing was said")
    sound = kind in (7, 8) or (kind == 3 and end != "\n\n")
    if sound and len(steps) <= step:
        raise FindingError(f"of whole rows these are left: {steps}")
    before = [line for line in content.decode(errors="replace").splitlines() if line]
    final = kept[-1] if kept and kept[-1].startswith(f"{step},") else ""  # behind it lies what a crash left
    before = before[: before.index(final)] if final in before else before
    later = {"step", *map(str, range(step + 1, total + 2))}
    lost = [line for line in before if line not in kept and line.partition(",")[0] not in later]
    aside = path.with_name("history-damaged.csv")
    if lost and step and not (aside.exists() and aside.read_bytes() == content):
        raise FindingError(f"a line is lost: {lost[0]!r}")
    return result


def run_settings() -> ResolvedRunConfig:
    """The configuration of a small run."""
    return ResolvedRunConfig(
        data=DataConfig("d", 16, 1),
        model=ModelConfig("dcgan", 4),
        train=TrainConfig(batch_size=4),
        steps=3,
        sample_every=1,
    )


def check_settings(found: ResolvedRunConfig) -> None:
    """Whether settings have values of their kinds."""
    numbers = ("steps", "checkpoint_every", "sample_every")
    wrong = [name for name in numbers if type(getattr(found, name)) is not int or getattr(found, name) < 1]
    wrong += [] if isinstance(found.data.data, str) else ["data"]
    wrong += ["class_names"] * (len(found.class_names) not in (0, found.num_classes))
    wrong += [name for name in ("batch_size", "seed") if type(getattr(found.train, name)) is not int]
    if wrong:
        raise FindingError(f"{wrong[0]} is {getattr(found, wrong[0], None) or found.train!r}")


def results(folder: Path, chance: random.Random) -> str:
    """Stored results, damaged."""
    path = folder / "results" / "x.json"
    path.parent.mkdir()
    path.write_bytes(odd_json({"command": "a", "rows": [{"b": 1.5, "c": [1, 2]}]}, chance))
    kept, runs.folder.PRETRAINED = runs.folder.PRETRAINED, folder
    try:
        found = runs.results("x")
    except ValueError as error:
        return refused(path, error)
    finally:
        runs.folder.PRETRAINED = kept
    if not isinstance(found, dict):
        raise FindingError(f"it holds {found!r}")
    return "read"


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        *(damaged_checkpoint, forged_checkpoint, hostile_checkpoint, weights),
        *(picture_folder, picture_zip, folder_tree, metadata, modes, png_kinds, stale_cache),
        *(lists, digit_files, history_file, run_folder, results),
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
                with suppress(shutil.Error):  # a pipe cannot be copied
                    shutil.copytree(folder, keep / f"{seed}-{number}", symlinks=True, dirs_exist_ok=True)
    return name, outcome, said


@contextmanager
def bounded() -> Iterator[None]:
    """Limit this process's memory."""
    pages = 0
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
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
        print(printable(" ".join(try_case(options.seed, options.case, names, options.out))))
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
                print(printable(f"case {at} {kind}\n    {said[:400]}"), flush=True)
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
            print(printable(f"{count:>8} {kind}"))
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
