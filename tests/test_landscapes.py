"""Photographs from a Debian package as a dataset, with a package that is made here."""

import hashlib
import io
import os
import tarfile
from dataclasses import replace

import pytest
import torch
from PIL import Image

from dcganlib import datasets
from dcganlib.datasets import image_dataset, landscapes, registry
from dcganlib.datasets.landscapes import PHOTOS, SQUARES

WIDTH, HEIGHT = 72, 36


FOLDER, PACKAGE = "endless-sky-0.9.8", "endless-sky-data_0.9.8-1.2_all.deb"


def photograph(number):
    """One red for each photograph; green tells the column, blue the row."""
    channels = [
        Image.new("L", (WIDTH, HEIGHT), 20 + number),
        Image.linear_gradient("L").rotate(90).resize((WIDTH, HEIGHT)),
        Image.linear_gradient("L").resize((WIDTH, HEIGHT)),
    ]
    written = io.BytesIO()
    Image.merge("RGB", channels).save(written, "JPEG", quality=100, subsampling=0)
    return written.getvalue()


def member(name, content):
    """A file in an ar archive: a header of 60 bytes, the content, and a byte if its length is odd."""
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    assert len(header) == 60
    return header + content + b"\n" * (len(content) % 2)


def package():
    """A Debian package with all photographs, another picture, and a statement of licences."""
    packed = io.BytesIO()
    pictures = "./usr/share/games/endless-sky/images/land"
    held = {f"{pictures}/{name}.jpg": photograph(number) for number, name in enumerate(PHOTOS)}
    held[f"{pictures}/city0.jpg"] = photograph(0)
    held["./usr/share/doc/endless-sky-data/copyright"] = b"CC BY-SA"
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, content in held.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": packed.getvalue()}
    return b"!<arch>\n" + b"".join(member(name, content) for name, content in parts.items())


@pytest.fixture(scope="module")
def content():
    return package()


@pytest.fixture
def served(content, host, monkeypatch):
    """A host with the package, under the address that the entry gives."""
    known = datasets.find_entry("landscapes")
    address = f"{host.address}/{known.url.rpartition('/')[2]}"
    entry = replace(known, url=address, checksum="sha256:" + hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(registry._ENTRIES, "landscapes", entry)
    host.answers = [{"body": content}]
    return host


@pytest.fixture
def folder(tmp_path):
    """A data root with the photographs, as an earlier call left them."""
    where = tmp_path / "root" / FOLDER
    where.mkdir(parents=True)
    for number, name in enumerate(PHOTOS):
        (where / f"{name}.jpg").write_bytes(photograph(number))
    (where / "copyright").write_text("CC BY-SA", encoding="utf-8")
    return where


def test_the_package_is_unpacked_once_with_its_statement_of_licences(served, tmp_path):
    first = datasets.load("landscapes", root=tmp_path, image_size=8)
    assert set(os.listdir(tmp_path / FOLDER)) == {f"{name}.jpg" for name in PHOTOS} | {"copyright", PACKAGE}
    assert (tmp_path / FOLDER / "copyright").read_text(encoding="utf-8") == "CC BY-SA"
    (tmp_path / FOLDER / PACKAGE).unlink()
    served.close()
    again = datasets.load("landscapes", root=tmp_path, image_size=8, download=False)
    assert torch.equal(again.images, first.images)
    assert datasets.downloaded(tmp_path) == ["landscapes"]


def test_an_interrupted_unpacking_is_finished_from_the_package_and_leaves_what_is_there(served, tmp_path):
    first = datasets.load("landscapes", root=tmp_path, image_size=8)
    served.close()
    kept = tmp_path / FOLDER / "forest2.jpg"
    kept.write_bytes(photograph(3))
    for name in ("snow1.jpg", "valley10-sfiera.jpg", "copyright"):
        (tmp_path / FOLDER / name).unlink()
    again = datasets.load("landscapes", root=tmp_path, image_size=8, download=False)
    assert kept.read_bytes() == photograph(3)
    assert (tmp_path / FOLDER / "copyright").is_file()
    changed = (again.images != first.images).flatten(1).any(1).view(-1, SQUARES).any(1)
    assert changed.sum() == 1


def test_a_sample_is_that_of_the_whole_set(folder):
    whole = datasets.load("landscapes", root=folder.parent, image_size=8, seed=5)
    some = datasets.load("landscapes", root=folder.parent, image_size=8, seed=5, max_images=30)
    chosen = image_dataset.sample(None, len(whole), 30, 5)
    assert torch.equal(some.images, whole.images[chosen])


def test_squares_that_do_not_fit_into_memory_are_refused_before_any_is_cut(folder, monkeypatch):
    monkeypatch.setattr(landscapes.memory, "fits", lambda size: size < 10**9)
    with pytest.raises(MemoryError, match="image_size 512 does not fit into memory"):
        datasets.load("landscapes", root=folder.parent, image_size=512)
    assert len(datasets.load("landscapes", root=folder.parent, image_size=512, max_images=2)) == 2


def test_no_photograph_is_in_both_splits_and_each_gives_forty_squares(folder):
    seen = {}
    for split in ("train", "test"):
        reds = datasets.load("landscapes", root=folder.parent, split=split, image_size=8).images[:, 0]
        of_a_square = reds.double().mean((1, 2)) - 20
        seen[split] = of_a_square.view(-1, SQUARES).median(1).values.round().int().tolist()
        assert (of_a_square.view(-1, SQUARES) - torch.tensor(seen[split])[:, None]).abs().max() < 2
    assert seen["test"] == list(range(7, 140, 8))
    assert sorted(seen["train"] + seen["test"]) == list(range(140))


def test_squares_have_three_quarters_to_all_of_the_height_and_lie_anywhere(folder):
    images = datasets.load("landscapes", root=folder.parent, image_size=36).images.double()
    across = images[:, 1].mean(1) / 255 * WIDTH  # the column that each column of a square comes from
    down = images[:, 2].mean(2) / 255 * HEIGHT
    for places, length in ((across, WIDTH), (down, HEIGHT)):
        sides = (places[:, 35] - places[:, 0]) * 36 / 35
        assert 0.75 * HEIGHT - 1 < sides.min() < 0.77 * HEIGHT
        assert 0.98 * HEIGHT < sides.max() < HEIGHT + 1
        assert places.min() < 0.02 * length
        assert places.max() > 0.98 * length


def test_the_seed_decides_where_the_squares_are(folder):
    def load(seed):
        return datasets.load("landscapes", root=folder.parent, split="test", image_size=8, seed=seed).images

    assert torch.equal(load(3), load(3))
    assert not torch.equal(load(3), load(4))


def test_squares_are_grey_if_asked(folder):
    options = {"root": folder.parent, "split": "test", "image_size": 8}
    grey, colour = (datasets.load("landscapes", **options, channels=n).images.double() for n in (1, 3))
    luma = (colour * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert (grey - luma).abs().max() < 2


def test_what_is_missing_is_named_where_nothing_may_be_downloaded(folder):
    (folder / "snow1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"landscapes is not downloaded: .*snow1\.jpg is missing"):
        datasets.load("landscapes", root=folder.parent, download=False)


def test_a_damaged_photograph_is_named_with_the_way_out(folder):
    (folder / "badlands0.jpg").write_bytes(photograph(0)[:300])
    with pytest.raises(ValueError, match=r"badlands0\.jpg cannot be read: .*; delete it, so that it is"):
        datasets.load("landscapes", root=folder.parent)


def test_another_file_than_the_published_package_is_refused(served, content, tmp_path):
    served.answers = [{"body": content[::-1]}]
    with pytest.raises(OSError, match="not the published file.*use 'faces'"):
        datasets.load("landscapes", root=tmp_path)
    assert os.listdir(tmp_path / FOLDER) == []


def test_there_are_140_photographs_by_name():
    assert len(set(PHOTOS)) == len(PHOTOS) == 140
    assert landscapes.SQUARES * 140 == 5600  # as the summary says
    assert "5,600 squares of 140 photographs" in datasets.find_entry("landscapes").summary
