"""The digits and clothes as people have their files, against torchvision's reader and files made by hand."""

import gzip
import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest

from dcganlib import datasets
from dcganlib.datasets import mnist
from dcganlib.datasets.download import DownloadError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5, 9], np.uint8)


def idx(array):
    """The format of the files, written by hand: 0, 0, the type 8, the axes, their sizes, bytes."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(place, kind="{}-{}-idx{}-ubyte", packed=False):
    for prefix in ("train", "t10k"):
        for name, array in (("images", IMAGES), ("labels", LABELS)):
            path = place / (kind.format(prefix, name, array.ndim) + ".gz" * packed)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))


@pytest.mark.parametrize("folder", ["MNIST/raw", "MNIST", "mnist/raw", "raw", ""])
@pytest.mark.parametrize("kind", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_files_are_found_wherever_and_however_they_lie(tmp_path, folder, kind, packed):
    write(tmp_path / folder, kind, packed)
    images, labels = mnist.load("mnist", tmp_path, "test", download=False)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def test_a_folder_around_each_file_is_looked_into(tmp_path):
    write(tmp_path, "{0}-{1}-idx{2}-ubyte/{0}-{1}-idx{2}-ubyte")
    assert mnist.load("mnist", tmp_path, "train", download=False)[1].tolist() == LABELS.tolist()


def test_the_reader_gives_what_torchvisions_gives(tmp_path):
    from torchvision.datasets import FashionMNIST

    write(tmp_path / "FashionMNIST" / "raw")
    theirs = FashionMNIST(tmp_path)
    ours = datasets.load("fashion-mnist", root=tmp_path, download=False)
    assert ours.images[:, 0].equal(theirs.data)
    assert ours.labels.equal(theirs.targets)
    assert list(ours.class_names) == theirs.classes


@pytest.mark.pinned  # its list of hosts changes with its versions
def test_the_published_files_are_those_that_torchvision_knows():
    from torchvision.datasets import MNIST, FashionMNIST

    for name, known in (("mnist", MNIST), ("fashion-mnist", FashionMNIST)):
        assert mnist.PUBLISHED[name].checksums == dict(known.resources)
        assert all(mirror.startswith("https://") for mirror in mnist.PUBLISHED[name].mirrors)
    assert mnist.PUBLISHED["mnist"].mirrors[0] == MNIST.mirrors[0]


def test_a_file_that_is_cut_off_is_named_with_its_bytes(tmp_path):
    write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=r"train-images-idx3-ubyte is truncated: it has 1,000 of 4,720 bytes"
    ):
        mnist.load("mnist", tmp_path, "train")
    path.write_bytes(idx(IMAGES) + b"x")
    with pytest.raises(ValueError, match=r"is damaged: it has 4,721 bytes, 4,720 were expected"):
        mnist.load("mnist", tmp_path, "train")
    write(tmp_path / "packed", packed=True)
    path = tmp_path / "packed" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte\.gz is truncated after"):
        mnist.load("mnist", tmp_path / "packed", "train")


def test_the_packed_file_serves_where_unpacking_was_cut_off(tmp_path):
    write(tmp_path, packed=True)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES)[:100])
    np.testing.assert_array_equal(mnist.load("mnist", tmp_path, "train")[0], IMAGES)


def test_files_of_the_other_set_are_refused(tmp_path, monkeypatch):
    told = hashlib.md5(LABELS.tobytes()).hexdigest()
    monkeypatch.setitem(
        mnist.PUBLISHED, "fashion-mnist", replace(mnist.PUBLISHED["fashion-mnist"], labels=(told,))
    )
    write(tmp_path)
    with pytest.raises(ValueError, match="are those of fashion-mnist, not of mnist"):
        mnist.load("mnist", tmp_path, "train")
    assert len(mnist.load("fashion-mnist", tmp_path, "train")[0]) == 6
    write(tmp_path / "FashionMNIST" / "raw")
    for root in (tmp_path / "FashionMNIST", tmp_path / "FashionMNIST" / "raw"):
        with pytest.raises(FileNotFoundError):
            mnist.load("mnist", root, "train", download=False)


def test_a_file_without_the_one_that_goes_with_it_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        FileNotFoundError, match="t10k-images-idx3-ubyte is there, but its labels are missing.*t10k-labels"
    ):
        mnist.load("mnist", tmp_path, "test")
    assert len(mnist.load("mnist", tmp_path, "train")[0]) == 6


def test_a_download_brings_the_missing_files_and_another_mirror_stands_in(tmp_path, host, monkeypatch):
    write(tmp_path / "made", packed=True)
    contents = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    checksums = {name: hashlib.md5(contents[name]).hexdigest() for name in mnist.PUBLISHED["mnist"].checksums}
    mirrors = (f"{host.address}/one/", f"{host.address}/two/")
    monkeypatch.setitem(
        mnist.PUBLISHED, "mnist", replace(mnist.PUBLISHED["mnist"], mirrors=mirrors, checksums=checksums)
    )
    names = list(checksums)
    host.answers = [{"body": contents[names[0]]}, {"status": 404}]
    host.answers += [{"body": contents[name]} for name in names[1:]]
    root = tmp_path / "data"
    assert len(datasets.load("mnist", root=root)) == 6
    assert host.asked == [f"/one/{names[0]}"] + [f"/{n}/{names[1]}" for n in ("one", "two")] + [
        f"/one/{name}" for name in names[2:]
    ]
    host.close()
    assert len(datasets.load("mnist", root=root, split="test")) == 6
    (root / "MNIST" / "raw" / names[1]).unlink()
    monkeypatch.setattr("dcganlib.datasets.download.sleep", lambda seconds: None)
    with pytest.raises(DownloadError):
        mnist.load("mnist", root, "train")


# --- Stacked digits


def test_a_stacked_image_has_a_digit_a_channel_and_their_number_as_its_label(tmp_path):
    write(tmp_path / "MNIST" / "raw")
    found = datasets.load("stacked-mnist", root=tmp_path, download=False)
    assert found.images.shape == (6, 3, 28, 28)
    digit = {image.tobytes(): int(label) for image, label in zip(IMAGES, LABELS, strict=True)}
    for image, label in zip(found.images, found.labels.tolist(), strict=True):
        assert found.class_names[label] == "".join(str(digit[channel.numpy().tobytes()]) for channel in image)
    for channel in found.images.unbind(1):  # each digit once in each channel
        assert {image.numpy().tobytes() for image in channel} == set(digit)


def test_the_seed_decides_which_digits_are_stacked(tmp_path):
    write(tmp_path / "MNIST" / "raw")
    first, again, other = (
        datasets.load("stacked-mnist", root=tmp_path, download=False, seed=seed, split="test")
        for seed in (0, 0, 1)
    )
    assert first.images.equal(again.images)
    assert not first.images.equal(other.images)


def test_stacked_digits_without_mnist_say_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="mnist is not in .* Point DCGANLIB_DATA"):
        datasets.load("stacked-mnist", root=tmp_path, download=False)
