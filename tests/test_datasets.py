"""Sets and loaders: bytes in, batches in [-1, 1] out, and an error that helps where that cannot be."""

import hashlib
import io
import os
import struct
import zipfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcganlib import datasets, train
from dcganlib.config import TrainConfig
from dcganlib.datasets import (
    contact_sheet,
    download,
    image_dataset,
    load,
    loader,
    make_loader,
    mnist,
    registry,
    to_float,
    to_uint8,
)
from dcganlib.evaluation import classifier


def write_idx(path, array):
    """Write the format of the MNIST files by hand: 0, 0, the type 8, the axes, their sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module", params=["mnist", "fashion-mnist"])
def idx_set(request, tmp_path_factory):
    """A folder as torchvision leaves it after a download, with few images: (name, folder, arrays)."""
    folder = tmp_path_factory.mktemp("sets")
    raw = folder / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[request.param] / "raw"
    source = np.random.default_rng(0)
    arrays = {}
    for split, prefix, count in (("train", "train", 12), ("test", "t10k", 7)):
        arrays[split] = source.integers(0, 256, (count, 28, 28)), source.integers(0, 10, count)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", arrays[split][0])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", arrays[split][1])
    return request.param, folder, arrays


@pytest.fixture
def numbered():
    """10 one-pixel images that hold their own number, so that a batch tells which images it took."""
    return torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)


def taken(batches):
    """Numbers of the images in each batch."""
    return [to_uint8(batch).flatten().tolist() for batch in batches]


# Bytes and floats


def test_all_256_bytes_survive_the_way_to_float_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(every)), every)


def test_to_float_is_the_line_from_minus_one_to_one():
    every = torch.arange(256, dtype=torch.uint8)
    assert to_float(every).dtype == torch.float32
    np.testing.assert_allclose(to_float(every).numpy(), np.linspace(-1, 1, 256), rtol=0, atol=1e-7)
    assert to_float(every)[[0, 255]].tolist() == [-1.0, 1.0]


def test_to_float_leaves_the_bytes_alone():
    images = torch.tensor([0, 255], dtype=torch.uint8)
    to_float(images)
    assert images.tolist() == [0, 255]


def test_to_uint8_rounds_to_the_nearest_byte_and_cuts_what_is_beyond():
    line = torch.tensor([-7.0, -1.0, -1 + 0.9 / 255, -1 + 1.1 / 255, 0.999, 1.0, 1.01, 7.0])
    assert to_uint8(line).tolist() == [0, 0, 0, 1, 255, 255, 255, 255]
    assert to_uint8(line.double()).tolist() == to_uint8(line).tolist()
    assert to_uint8(torch.tensor([1.0, -1.0]).bfloat16()).tolist() == [255, 0]
    assert line[0] == -7


def test_the_wrong_kind_of_pixel_is_refused_by_name():
    with pytest.raises(ValueError, match="float32"):
        to_float(torch.zeros(2))
    with pytest.raises(ValueError, match="uint8"):
        to_uint8(torch.zeros(2, dtype=torch.uint8))


# The loader


@pytest.mark.parametrize(("batch_size", "sizes"), [(3, [3, 3, 3, 1]), (5, [5, 5]), (10, [10]), (64, [10])])
def test_an_epoch_visits_every_image_once(rng, numbered, batch_size, sizes):
    loader = make_loader(numbered, batch_size, rng=rng(), drop_last=False)
    batches = taken(loader)
    assert [len(batch) for batch in batches] == sizes
    assert len(loader) == len(sizes)
    assert sorted(sum(batches, [])) == list(range(10))


@pytest.mark.parametrize(("batch_size", "count"), [(3, 3), (4, 2), (5, 2), (10, 1)])
def test_drop_last_leaves_whole_batches_alone(rng, numbered, batch_size, count):
    loader = make_loader(numbered, batch_size, rng=rng())
    batches = taken(loader)
    assert [len(batch) for batch in batches] == [batch_size] * count
    assert len(loader) == count
    assert len(set(sum(batches, []))) == batch_size * count


def test_a_batch_is_float32_in_the_range_of_tanh(rng, tiny_images):
    batch = next(iter(make_loader(tiny_images, 4, rng=rng())))
    assert batch.shape == (4, 1, 16, 16)
    assert batch.dtype == torch.float32
    assert set(batch.unique().tolist()) == {-1.0, 1.0}


def test_each_image_comes_whole(rng, tiny_images):
    shuffled = to_uint8(torch.cat(list(make_loader(tiny_images, 7, rng=rng(), drop_last=False))))
    found = sorted(image.numpy().tobytes() for image in shuffled)
    assert found == sorted(image.numpy().tobytes() for image in tiny_images)


def test_same_seed_same_order_and_different_epochs_differ(rng, numbered):
    first, second = make_loader(numbered, 5, rng=rng(1)), make_loader(numbered, 5, rng=rng(1))
    epochs = [taken(first) for _ in range(4)]
    assert [taken(second) for _ in range(4)] == epochs
    assert len({str(epoch) for epoch in epochs}) == 4
    assert taken(make_loader(numbered, 5, rng=rng(2))) != epochs[0]
    assert sum(epochs[0], []) != list(range(10))


def test_every_place_in_the_order_is_as_likely_for_every_image(rng, numbered):
    loader = make_loader(numbered, 10, rng=rng())
    places = torch.tensor([sum(taken(loader.epoch(k)), []) for k in range(500)]).double()
    # The mean of 500 draws from 0..9 has standard error 0.13.
    assert places.mean(0).tolist() == pytest.approx([4.5] * 10, abs=0.6)


def test_an_epoch_can_be_entered_at_any_batch(rng, numbered):
    loader = make_loader(numbered, 3, rng=rng(), drop_last=False)
    for k in range(3):
        whole = taken(loader.epoch(k))
        for start in range(5):
            assert taken(loader.epoch(k, start)) == whole[start:]


def test_iterating_goes_through_the_epochs_in_turn(rng, numbered):
    loader = make_loader(numbered, 5, rng=rng())
    expected = [taken(loader.epoch(k)) for k in range(3)]
    assert [taken(loader) for _ in range(3)] == expected


def test_a_loader_takes_one_number_from_its_source_and_none_from_the_global_one(rng, numbered):
    before = torch.get_rng_state()
    source = rng()
    loader = make_loader(numbered, 5, rng=source)
    after = source.get_state()
    taken(loader)
    assert torch.equal(source.get_state(), after)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("images", "batch_size", "words"),
    [
        (torch.zeros(10, 1, 4, 4, dtype=torch.uint8), 0, "batch_size must be at least 1, got 0"),
        (torch.zeros(10, 1, 4, 4, dtype=torch.uint8), -3, "got -3"),
        (torch.zeros(10, 1, 4, 4, dtype=torch.uint8), 4.0, "batch_size must be a whole number, got 4.0"),
        (torch.zeros(10, 1, 4, 4, dtype=torch.uint8), "4", "batch_size must be a whole number, got '4'"),
        (
            torch.zeros(10, 1, 4, 4, dtype=torch.uint8),
            11,
            "11 is more than the number.*at most 10",
        ),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), 1, "no images"),
        (torch.zeros(10, 1, 4, 4), 1, "float32"),
        (torch.zeros(10, 4, 4, dtype=torch.uint8), 1, r"\(10, 4, 4\)"),
    ],
)
def test_a_loader_that_could_not_give_batches_is_refused_by_name(images, batch_size, words):
    with pytest.raises(ValueError, match=words):
        make_loader(images, batch_size)


def test_a_gpu_gives_a_set_half_of_what_it_has_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    gpu = torch.device("cuda")
    assert [loader._has_room(gpu, size) for size in (500, 501)] == [True, False]
    assert loader._has_room(torch.device("cpu"), 10**30)  # where it lies already


# The sets by name


def test_mnist_mini_holds_500_real_digits_of_each_class(mnist_mini):
    assert len(mnist_mini) == 5000
    assert mnist_mini.images.shape == (5000, 1, 28, 28)
    assert mnist_mini.images.dtype == torch.uint8
    assert mnist_mini.labels.dtype == torch.int64
    assert mnist_mini.labels.bincount().tolist() == [500] * 10
    assert (mnist_mini.images.min(), mnist_mini.images.max()) == (0, 255)
    assert mnist_mini.name == "mnist-mini"
    assert "LeCun" in mnist_mini.source
    assert mnist_mini.licence == "CC BY-SA 3.0"
    assert mnist_mini.class_names == tuple("0123456789")


def test_mnist_mini_images_are_upright_digits(mnist_mini):
    middle = to_float(mnist_mini.images[:, 0]).mean(0)[8:20, 8:20].mean()
    border = torch.cat([mnist_mini.images[:, 0, 0], mnist_mini.images[:, 0, :, 0]])
    assert middle > -0.5
    assert border.float().mean() < 1
    # A one is a narrow upright stroke, a zero is hollow: true of the pixels only in the right order.
    ones, zeros = (mnist_mini.images[mnist_mini.labels == digit, 0].float().mean(0) for digit in (1, 0))
    assert ones.sum(0).std() > 1.5 * ones.sum(1).std()
    assert zeros[14, 14] < 0.2 * zeros[14].max()


def test_a_named_set_is_read_from_torchvisions_folder(idx_set):
    name, folder, arrays = idx_set
    for split in ("train", "test"):
        found = load(name, root=folder, split=split, download=False)
        pixels, labels = arrays[split]
        np.testing.assert_array_equal(found.images[:, 0], pixels)
        np.testing.assert_array_equal(found.labels, labels)
        assert found.images.dtype == torch.uint8
        assert found.labels.dtype == torch.int64
    assert found.name == name
    assert len(found.class_names) == 10
    assert ("LeCun" if name == "mnist" else "Xiao") in found.source
    assert found.licence == ("CC BY-SA 3.0" if name == "mnist" else "MIT")


def test_the_environment_names_the_folder_and_root_goes_before_it(idx_set, monkeypatch, tmp_path):
    name, folder, _ = idx_set
    monkeypatch.setenv("DCGANLIB_DATA", str(folder))
    assert len(load(name, download=False)) == 12
    with pytest.raises(FileNotFoundError):
        load(name, root=tmp_path, download=False)
    monkeypatch.setenv("DCGANLIB_DATA", str(tmp_path))
    assert len(load(name, root=folder, download=False)) == 12


def test_without_a_named_folder_the_sets_lie_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in (None, ""):
        monkeypatch.setenv("DCGANLIB_DATA", value) if value is not None else monkeypatch.delenv(
            "DCGANLIB_DATA", raising=False
        )
        assert datasets.data_root() == tmp_path / ".cache" / "dcganlib"
    assert datasets.data_root("~/here") == tmp_path / "here"


def test_a_set_that_is_there_is_not_downloaded_again(idx_set, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("went to the network")

    name, folder, _ = idx_set
    monkeypatch.setattr(mnist, "download_url", refuse)
    assert len(load(name, root=folder)) == 12


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_missing_set_with_no_network_points_to_mnist_mini(tmp_path, monkeypatch, name):
    def no_network(*args, **options):
        raise download.DownloadError("Name or service not known")

    monkeypatch.setattr(mnist, "download_url", no_network)
    with pytest.raises(FileNotFoundError, match="mnist-mini") as caught:
        load(name, root=tmp_path)
    assert all(word in str(caught.value) for word in (name, str(tmp_path), "DCGANLIB_DATA", "downloaded"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_set_that_must_not_be_downloaded_is_not(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("went to the network")

    monkeypatch.setattr(mnist, "download_url", refuse)
    with pytest.raises(FileNotFoundError, match="mnist-mini"):
        load("mnist", root=tmp_path, download=False)


@pytest.mark.parametrize(
    "kept",
    [0, 100],
)
def test_a_damaged_set_says_where_it_lies(tmp_path, kept):
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / "MNIST" / "raw" / f"{prefix}-images-idx3-ubyte", np.zeros((3, 28, 28)))
        write_idx(tmp_path / "MNIST" / "raw" / f"{prefix}-labels-idx1-ubyte", np.zeros(3))
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:kept])
    with pytest.raises(
        ValueError, match=rf"train-images-idx3-ubyte is truncated: it has {kept} of .*Download it"
    ):
        load("mnist", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "code"),
    [
        ("labels", np.zeros(3), 9),  # signed bytes
        ("labels", np.zeros(3), 10),  # a type that the format does not have
        ("labels", np.zeros(4), 8),
        ("images", np.zeros((3, 28, 27)), 8),
        ("images", np.zeros((2, 28, 28)), 8),
    ],
)
def test_files_of_a_set_that_do_not_go_together_are_refused(tmp_path, name, array, code):
    raw = tmp_path / "MNIST" / "raw"
    for prefix in ("train", "t10k"):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", np.zeros((3, 28, 28)))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.zeros(3))
    path = raw / f"train-{name}-idx{1 if name == 'labels' else 3}-ubyte"
    write_idx(path, array)
    path.write_bytes(bytes([0, 0, code]) + path.read_bytes()[3:])
    with pytest.raises(ValueError, match=r"MNIST/raw\S* is damaged"):
        load("mnist", root=tmp_path, download=False)


def test_a_named_set_is_resized_and_coloured_as_asked(idx_set):
    name, folder, arrays = idx_set
    found = load(name, root=folder, image_size=14, channels=3)
    assert found.images.shape == (12, 3, 14, 14)
    assert found.images.dtype == torch.uint8
    assert torch.equal(found.images[:, 0], found.images[:, 2])
    # Halving with antialiasing keeps the mean of the whole image.
    means = arrays["train"][0].mean((1, 2))
    np.testing.assert_allclose(found.images[:, 0].double().mean((1, 2)), means, rtol=0, atol=4)
    assert len(list(make_loader(found.images, 4))) == 3


# Folders


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path, **options)


def test_subfolders_are_the_classes(tmp_path):
    for name, grey in (("cat/b", 30), ("cat/a", 20), ("ape/deep/c", 10), ("dog/d", 40)):
        save(tmp_path / f"{name}.png", np.full((4, 4), grey))
    found = load(tmp_path, image_size=4, channels=1)
    assert found.class_names == ("ape", "cat", "dog")
    assert found.labels.tolist() == [0, 1, 1, 2]
    assert found.images[:, 0, 0, 0].tolist() == [10, 20, 30, 40]
    assert len(found) == 4


def test_a_flat_folder_has_no_labels(image_folder, tiny_images):
    found = load(image_folder, image_size=16, channels=1)
    assert torch.equal(found.images, tiny_images)
    assert found.labels is None
    assert found.class_names == ()
    assert found.name == found.source == str(image_folder)
    assert torch.equal(load(str(image_folder), image_size=16, channels=1).images, tiny_images)


def test_a_mixed_folder_has_no_labels(tmp_path):
    save(tmp_path / "loose.png", np.zeros((4, 4)))
    save(tmp_path / "kind" / "a.png", np.zeros((4, 4)))
    found = load(tmp_path)
    assert found.labels is None
    assert len(found) == 2


def test_a_folder_is_rgb_of_64_pixels_if_not_told_otherwise(image_folder):
    assert load(image_folder).images.shape == (20, 3, 64, 64)
    assert load(image_folder, image_size=8, channels=1).images.shape == (20, 1, 8, 8)


def test_files_that_are_no_images_are_passed_over(tmp_path):
    save(tmp_path / "A.PNG", np.zeros((4, 4)))
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    assert len(load(tmp_path)) == 1


def test_the_channels_of_a_pixel_keep_their_order(tmp_path):
    save(tmp_path / "a.png", np.full((4, 4, 3), (250, 100, 5)))
    channels = load(tmp_path, image_size=4).images[0]
    assert [channel.unique().tolist() for channel in channels] == [[250], [100], [5]]


def test_rows_and_columns_keep_their_place(tmp_path):
    square = np.arange(16).reshape(4, 4)
    save(tmp_path / "a.png", square)
    np.testing.assert_array_equal(load(tmp_path, image_size=4, channels=1).images[0, 0], square)


def test_an_oblong_image_is_cut_to_its_centre_square(tmp_path):
    wide = np.zeros((4, 8))
    wide[:, 2:6] = 200
    save(tmp_path / "a_wide.png", wide)
    save(tmp_path / "b_tall.png", wide.T)
    assert load(tmp_path, image_size=4, channels=1).images.unique().tolist() == [200]


def test_every_way_to_store_an_image_gives_the_same_pixels(tmp_path):
    grey = np.arange(0, 256, 4).reshape(8, 8)
    rgb = np.stack([grey] * 3, axis=-1)
    save(tmp_path / "a_grey.png", grey)
    save(tmp_path / "b_rgb.png", rgb)
    save(tmp_path / "c_alpha.png", np.concatenate([rgb, np.full((8, 8, 1), 255)], axis=-1))
    save(tmp_path / "d_grey_alpha.png", np.stack([grey, np.full((8, 8), 255)], axis=-1))
    Image.fromarray(grey.astype(np.uint8)).convert("P").save(tmp_path / "e_palette.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "f.bmp")
    for channels in (1, 3):
        images = load(tmp_path, image_size=8, channels=channels).images
        assert len(images) == 6
        for image in images:
            np.testing.assert_array_equal(image, np.broadcast_to(grey, (channels, 8, 8)))


def test_a_photo_is_turned_as_its_camera_says(tmp_path):
    upright = np.arange(0, 160, 10).reshape(4, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees clockwise to show
    save(tmp_path / "a.png", np.rot90(upright), exif=exif)
    np.testing.assert_array_equal(load(tmp_path, image_size=4, channels=1).images[0, 0], upright)


def test_a_sixteen_bit_image_is_scaled_to_bytes(tmp_path):
    steps = np.linspace(0, 65535, 16).round().astype(np.uint16).reshape(4, 4)
    Image.fromarray(steps).save(tmp_path / "a.png")
    np.testing.assert_allclose(load(tmp_path, image_size=4, channels=1).images[0, 0], steps / 257, atol=1)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    save(tmp_path / "a.png", np.zeros((4, 4)))
    bad = tmp_path / "kind" / "b.jpg"
    save(bad, np.random.default_rng(0).integers(0, 256, (64, 64)))
    bad.write_bytes(bad.read_bytes()[:-400])
    for reason in ("truncated", "is not an image"):
        with pytest.raises(ValueError, match=rf"cannot read the image .*kind.b\.jpg: .*{reason}"):
            load(tmp_path, strict=True)
        with pytest.warns(
            UserWarning, match=rf"1 of 2 images of .* left out: kind/b\.jpg: .*{reason}"
        ) as caught:
            found = load(tmp_path)
        assert caught[0].filename == __file__
        assert len(found) == 1
        ((name, said),) = found.skipped
        assert name == "kind/b.jpg"
        assert reason in said
        bad.write_text("not an image", encoding="utf-8")
    (tmp_path / "a.png").unlink()
    with pytest.raises(
        ValueError, match=r"none of the 1 images .* can be read; the first, kind/b\.jpg: is not"
    ):
        load(tmp_path)


def test_of_many_images_that_cannot_be_read_the_warning_names_ten(tmp_path):
    save(tmp_path / "good.png", np.zeros((4, 4)))
    for k in range(12):
        (tmp_path / f"{k:02}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"12 of 13 .*09\.png.*; and 2 more, in `skipped`") as caught:
        found = load(tmp_path)
    assert "10.png" not in str(caught[0].message)
    assert [name for name, _ in found.skipped] == [f"{k:02}.png" for k in range(12)]


def test_labels_follow_the_images_that_can_be_read(tmp_path):
    for name, grey in (("ape/a", 10), ("ape/b", 20), ("cat/c", 30), ("dog/d", 40)):
        save(tmp_path / f"{name}.png", np.full((4, 4), grey))
    (tmp_path / "ape" / "a.png").write_bytes(b"")
    (tmp_path / "cat" / "c.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 of 4"):
        found = load(tmp_path, image_size=4)
    assert found.images[:, 0, 0, 0].tolist() == [20, 40]
    assert found.labels.tolist() == [0, 1]
    assert found.class_names == ("ape", "dog")


# Zips, choices and the sprites


def zip_of(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, grey in entries.items():
            picture = io.BytesIO()
            Image.fromarray(np.full((6, 4), grey, np.uint8)).save(picture, "PNG")
            archive.writestr(name, picture.getvalue())
    return path


@pytest.mark.parametrize("around", ["", "set/", "set/inner/"])
def test_a_zip_has_the_classes_of_its_folders_whatever_is_around_them(tmp_path, around):
    entries = {"cat/b.png": 30, "ape/deep/c.png": 10, "cat/a.png": 20, "__MACOSX/cat/._a.png": 99}
    path = zip_of(tmp_path / "set.zip", {around + name: grey for name, grey in entries.items()})
    found = load(path, image_size=4, channels=1)
    assert found.class_names == ("ape", "cat")
    assert found.labels.tolist() == [0, 1, 1]
    assert found.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert found.name == str(path)


def test_one_folder_around_all_images_is_no_class(tmp_path):
    found = load(zip_of(tmp_path / "set.zip", {"set/a.png": 1, "set/b.png": 2}), image_size=4)
    assert found.labels is None
    assert found.class_names == ()


def places(images, whole):
    """Which images of a whole set these are."""
    known = {image.numpy().tobytes(): k for k, image in enumerate(whole)}
    return [known[image.numpy().tobytes()] for image in images]


def test_the_count_is_a_sample_in_the_order_of_the_set(image_folder, tiny_images, idx_set):
    found = load(image_folder, image_size=16, channels=1, max_images=7)
    chosen = places(found.images, tiny_images)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 7
    assert chosen != list(range(7))
    again, other = (load(image_folder, image_size=16, channels=1, max_images=7, seed=seed) for seed in (0, 1))
    assert torch.equal(again.images, found.images)
    assert places(other.images, tiny_images) != chosen
    for count in (20, 99):
        assert torch.equal(
            load(image_folder, image_size=16, channels=1, max_images=count).images, tiny_images
        )
    name, folder, arrays = idx_set
    few = load(name, root=folder, max_images=5)
    chosen = places(few.images, torch.tensor(arrays["train"][0], dtype=torch.uint8)[:, None])
    assert chosen == sorted(set(chosen))
    np.testing.assert_array_equal(few.labels, arrays["train"][1][chosen])


@pytest.mark.parametrize(("count", "each"), [(1000, [100] * 10), (10, [1] * 10), (4999, [500] * 9 + [499])])
def test_a_sample_of_a_sorted_set_has_every_class_with_its_share(count, each):
    few = load("mnist-mini", max_images=count)
    assert few.labels.bincount().tolist() == each
    assert torch.equal(few.labels, few.labels.sort().values)  # the order of the set


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([6, 3, 1], 5, [3, 2, 0]),  # 3, 1.5, 0.5: the first of two equal remainders
        ([7, 2, 1], 4, [3, 1, 0]),  # 2.8, 0.8, 0.4
        ([1, 1, 98], 50, [1, 0, 49]),  # 0.5, 0.5, 49
        ([5, 0, 5], 4, [2, 0, 2]),
    ],
)
def test_shares_are_rounded_by_the_largest_remainder(sizes, count, expected):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    chosen = datasets.sample(labels, len(labels), count)
    assert labels[chosen].bincount(minlength=len(sizes)).tolist() == expected
    assert chosen.tolist() == sorted(set(chosen.tolist()))


def test_a_sample_takes_each_image_of_a_class_as_often():
    labels = torch.tensor([0] * 8 + [1] * 4)
    taken = torch.zeros(12)
    for seed in range(400):
        taken[datasets.sample(labels, 12, 6, seed)] += 1
    # 400 draws of one half: mean 200, standard deviation 10.
    assert 150 < taken.min() <= taken.max() < 250


def test_a_sample_of_a_folder_keeps_its_classes_and_their_labels(tmp_path):
    for k in range(10):
        save(tmp_path / ("cat" if k < 6 else "dog") / f"{k}.png", np.full((4, 4), 10 * k))
    save(tmp_path / "rare" / "a.png", np.full((4, 4), 200))
    found = load(tmp_path, image_size=4, channels=1, max_images=5)
    assert found.class_names == ("cat", "dog", "rare")
    assert found.labels.bincount(minlength=3).tolist() == [3, 2, 0]
    for image, label in zip(found.images[:, 0, 0, 0].tolist(), found.labels.tolist(), strict=True):
        assert label == int(image >= 60)


def test_the_crop_is_a_centre_square_of_the_images_own_pixels(tmp_path):
    framed = np.zeros((8, 10))
    framed[2:6, 3:7] = 200
    save(tmp_path / "a.png", framed)
    assert load(tmp_path, image_size=4, center_crop=4).images.unique().tolist() == [200]
    with pytest.raises(ValueError, match=r"a\.png: is 10x8 pixels, smaller than the center_crop 9"):
        load(tmp_path, center_crop=9)


def test_the_shape_is_known_before_anything_is_read():
    assert datasets.image_shape("mnist") == datasets.image_shape("mnist-mini") == (1, 28)
    assert datasets.image_shape("celeba") == datasets.image_shape(Path("no/such")) == (3, 64)
    assert datasets.image_shape("faces", image_size=32, channels=1) == (1, 32)


@pytest.fixture
def sprites(tmp_path, host, monkeypatch):
    """A host with an archive like that of the sprites: folders by kind, transparent grounds."""
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for k, kind in enumerate(("abra", "mew")):
            pixels = np.zeros((8, 8, 4), np.uint8)  # black where it cannot be seen
            pixels[2:6, 2:6] = (100 * k + 50, 20, 30, 255)
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, "PNG")
            archive.writestr(f"pokemon/{kind}/1.png", picture.getvalue())
    content = path.read_bytes()
    path.unlink()
    checksum = "sha1:" + hashlib.sha1(content).hexdigest()
    entry = replace(datasets.find_entry("pokemon"), url=f"{host.address}/pokemon.zip", checksum=checksum)
    monkeypatch.setitem(registry._ENTRIES, "pokemon", entry)
    return content


def test_the_sprites_stand_on_white_and_are_never_unpacked(tmp_path, host, sprites):
    host.answers = [{"body": sprites}]
    found = load("pokemon", root=tmp_path, image_size=8)
    assert found.images[:, :, 0, 0].tolist() == [[255, 255, 255]] * 2
    assert found.images[:, :, 3, 3].tolist() == [[50, 20, 30], [150, 20, 30]]
    assert (found.name, found.class_names) == ("pokemon", ("abra", "mew"))
    assert found.labels.tolist() == [0, 1]
    assert "pokemondb" in found.source
    assert "Nintendo" in found.licence
    assert sorted(os.listdir(tmp_path)) == [".dcganlib", "pokemon.zip"]
    host.close()
    for allowed in (True, False):
        again = load("pokemon", root=tmp_path, image_size=8, download=allowed)
        assert torch.equal(again.images, found.images)


def test_sprites_that_are_not_there_or_not_right_are_refused_with_another_way(tmp_path, host, sprites):
    with pytest.raises(FileNotFoundError, match=r"pokemon is not downloaded: .*pokemon\.zip is missing"):
        load("pokemon", root=tmp_path, download=False)
    assert host.asked == []
    host.answers = [{"body": sprites[::-1]}]
    with pytest.raises(OSError, match="not the published file.*use 'faces'"):
        load("pokemon", root=tmp_path)
    assert os.listdir(tmp_path) == []


def test_an_empty_folder_says_what_it_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"no images in .*\.png"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "mnits",
            {},
            "'mnits'.*mnist-mini, mnist, stacked-mnist, fashion-mnist, faces, celeba, pokemon, landscapes",
        ),
        ("no/such/folder", {}, "'no/such/folder' is neither a folder, nor a zip, nor a known dataset"),
        ("mnist", {"split": "valid"}, "mnist has no split 'valid'; it has train, test"),
        ("mnist-mini", {"split": "test"}, "mnist-mini has no split 'test'; it has train"),
        ("celeba", {"split": "dev"}, "celeba has no split 'dev'; it has train, valid, test, all"),
        ("faces", {"split": ""}, "faces has no split ''"),
        ("tests", {"split": "test"}, "a folder has no split 'test'"),
        ("mnist", {"image_size": 0}, "image_size must be at least 1, got 0"),
        ("celeba", {"center_crop": 0}, "center_crop must be at least 1, got 0"),
        ("mnist-mini", {"max_images": 2.5}, "max_images must be a whole number, got 2.5"),
        ("mnist-mini", {"image_size": "28"}, "image_size must be a whole number, got '28'"),
        ("faces", {"center_crop": 8.0}, "center_crop must be a whole number, got 8.0"),
        ("mnist", {"center_crop": 20}, "mnist is not cropped.*got 20"),
        ("faces", {"max_images": 0}, "max_images must be at least 1, got 0"),
        ("faces", {"seed": -3}, "seed must be at least 0, got -3"),
        ("mnist", {"channels": 2}, "channels must be 1 .* got 2"),
    ],
)
def test_a_bad_request_for_a_set_is_refused_by_name(name, options, words):
    with pytest.raises(ValueError, match=words):
        load(name, **options)


@pytest.mark.parametrize("size", [10**6, 10**12])
def test_a_size_that_does_not_fit_into_memory_is_named(size):
    with pytest.raises(MemoryError, match=f"^image_size {size} does not fit into memory: use a smaller"):
        load("mnist-mini", image_size=size)


def test_a_set_takes_no_image_through_python_at_training_time(rng, tiny_images):
    """A batch is one row of indices: asking for it does not touch any single image."""
    loader = make_loader(tiny_images, 4, rng=rng())
    calls = []

    class Watched(torch.Tensor):
        def __getitem__(self, index):
            calls.append(len(index))
            return super().__getitem__(index)

    loader.images = loader.images.as_subclass(Watched)
    list(islice(loader, 3))
    assert calls == [4, 4, 4]


def test_labels_travel_with_their_images(rng):
    images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 16, 16).contiguous()
    labels = torch.arange(10) * 3
    loader = datasets.make_loader(images, 4, labels=labels, rng=rng(), drop_last=False)
    seen = [batch for _ in range(2) for batch in loader]
    assert [len(kinds) for _, kinds in seen] == [4, 4, 2] * 2
    for real, kinds in seen:
        assert torch.equal(datasets.to_uint8(real)[:, 0, 0, 0].long() * 3, kinds)
    plain = datasets.make_loader(images, 4, rng=rng(), drop_last=False)
    assert all(map(torch.equal, plain, (real for real, _ in seen[:3])))


@pytest.mark.parametrize("labels", [torch.arange(9), torch.arange(10) / 2, torch.zeros(10, 1).long()])
def test_labels_that_are_not_one_for_each_image_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be int64, one for each of the 10 images, got"):
        datasets.make_loader(torch.zeros(10, 1, 16, 16, dtype=torch.uint8), 4, labels=labels)


# What is taken for a class, and what for a name


def test_class_folders_sort_as_numbers(tmp_path):
    for k in range(12):
        save(tmp_path / str(k) / "a.png", np.full((4, 4), 20 * k))
    found = load(tmp_path, image_size=4, channels=1)
    assert found.class_names == tuple(map(str, range(12)))
    assert [20 * label for label in found.labels.tolist()] == found.images[:, 0, 0, 0].tolist()


def test_images_beside_the_classes_are_said_to_hide_them(tmp_path):
    for name in ("cat/a", "dog/b", "loose"):
        save(tmp_path / f"{name}.png", np.zeros((4, 4)))
    with pytest.warns(
        UserWarning, match="not used as classes, because 1 of its images lie.*loose.png"
    ) as caught:
        found = load(tmp_path)
    assert caught[0].filename == __file__
    assert found.labels is None
    assert len(found) == 3


def test_a_sheet_beside_the_classes_does_not_hide_them(tmp_path):
    for name in ("cat/a", "dog/b"):
        save(tmp_path / f"{name}.png", np.zeros((4, 4)))
    contact_sheet.save(Image.new("L", (8, 8)), tmp_path / "samples.png")
    found = load(tmp_path, strict=True)
    assert found.class_names == ("cat", "dog")
    assert len(found) == 2


@pytest.mark.parametrize("around", ["", "pets"])
def test_folders_that_look_like_splits_are_said_to_be_taken_for_classes(tmp_path, around):
    base = tmp_path / "set"
    for name in ("train/cat/a", "train/dog/b", "Test/cat/c"):
        save(base / around / f"{name}.png", np.zeros((4, 4)))
    with pytest.warns(UserWarning, match=r"the classes are the folders Test, train.*load \S*Test to use"):
        assert load(base).class_names == ("Test", "train")
    assert load(base / around / "train").class_names == ("cat", "dog")


def test_an_empty_class_folder_is_named(tmp_path):
    for name in ("set/cat/a", "set/dog/b"):
        save(tmp_path / f"{name}.png", np.zeros((4, 4)))
    (tmp_path / "set" / "eel").mkdir()
    (tmp_path / "set" / ".cache").mkdir()
    with pytest.warns(UserWarning, match=r"1 folders of \S*set have no images and are not classes: eel"):
        assert load(tmp_path).class_names == ("cat", "dog")


@pytest.mark.posix("links need a privilege")
def test_reasons_are_counted_and_so_are_other_files(tmp_path):
    save(tmp_path / "a.png", np.zeros((4, 4)))
    for name in ("b.png", "c.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "d.png").symlink_to(tmp_path / "gone")
    with pytest.warns(UserWarning, match=r"3 of 4 images .*\(2 × is not an image.*; 1 × No such file"):
        found = load(tmp_path)
    assert found.ignored == ((".txt", 1),)
    reasons = [(str(n), f"image file is truncated ({n:,} bytes not processed)") for n in (12, 1345)]
    assert datasets.count_reasons(reasons) == ["2 × image file is truncated (N bytes not processed)"]


def test_a_path_is_a_folder_whatever_its_name_and_the_other_meaning_is_said(tmp_path, monkeypatch):
    save(tmp_path / "mnist-mini" / "a.png", np.zeros((4, 4)))
    monkeypatch.chdir(tmp_path)
    for here in (Path("mnist-mini"), Path("./mnist-mini"), "./mnist-mini", "mnist-mini/"):
        assert not datasets.is_named(here)
        assert len(load(here)) == 1
        assert datasets.image_shape(here) == (3, 64)
    with pytest.warns(
        UserWarning, match=r"mnist-mini is read as the dataset of that name; write \./mnist-mini"
    ):
        assert len(load("mnist-mini")) == 5000
    with pytest.raises(ValueError, match="'celeba' is neither"):
        load(Path("celeba"))


def test_the_home_folder_may_be_written_as_a_tilde(image_folder, idx_set, monkeypatch):
    monkeypatch.setenv("HOME", str(image_folder.parent))
    assert len(load(f"~/{image_folder.name}")) == len(load(Path("~", image_folder.name))) == 20
    name, folder, _ = idx_set
    monkeypatch.setenv("HOME", str(folder.parent))
    for root in (f"~/{folder.name}", Path("~", folder.name)):
        assert len(load(name, root=root)) == 12
    monkeypatch.setenv("DCGANLIB_DATA", f"~/{folder.name}")
    assert len(load(name)) == 12


def test_every_set_and_path_has_a_title(tmp_path, monkeypatch):
    place = tmp_path / "my.pictures"
    (place / "inner").mkdir(parents=True)
    (place / "inner" / "set.zip").write_bytes(b"")
    monkeypatch.chdir(place / "inner")
    monkeypatch.setenv("HOME", str(place))
    names = {"mnist": "mnist", ".": "inner", "..": "my.pictures", "./": "inner", "~": "my.pictures"}
    names |= {"set.zip": "set", Path("mnist"): "mnist", "/": "images", str(place) + "/": "my.pictures"}
    assert {name: datasets.title(name) for name in names} == names


@pytest.mark.parametrize("size", [14, 32])
def test_a_set_that_is_resized_in_parts_is_as_one_that_is_resized_at_once(mnist_mini, monkeypatch, size):
    from torchvision.transforms.v2.functional import resize

    monkeypatch.setattr(image_dataset, "PIXELS_PER_RESIZE", 300 * size**2)
    found = load("mnist-mini", image_size=size, channels=3, max_images=1000)
    chosen = datasets.sample(mnist_mini.labels, 5000, 1000)
    expected = resize(mnist_mini.images[chosen], [size, size], antialias=True)
    assert torch.equal(found.images, expected.expand(-1, 3, -1, -1))


# The registry


def read_stripes(entry, options):
    images = torch.zeros(32, 1, 16, 16, dtype=torch.uint8)
    images[:16, :, ::2], images[16:, :, :, ::2] = 255, 255
    return entry.dataset(images, torch.arange(32) // 16)


STRIPES = datasets.DatasetEntry(
    name="stripes",
    summary="stripes across and down",
    channels=1,
    image_size=16,
    read=read_stripes,
    class_names=("across", "down"),
)


@pytest.fixture
def stripes():
    datasets.register(STRIPES)
    yield "stripes"
    datasets.unregister("stripes")


def test_a_registered_dataset_is_loaded_and_trained_on_by_name(stripes, tiny_pair, rng):
    whole = load(stripes)
    assert (whole.name, whole.class_names) == ("stripes", ("across", "down"))
    batches = make_loader(whole.images, 8, rng=rng())
    state = train.init_state(*tiny_pair(), TrainConfig(batch_size=8))
    assert [metrics.step for metrics in train.train(state, batches, 2)] == [1, 2]


def test_a_registered_dataset_need_not_sample_or_resize(stripes):
    found = load(stripes, image_size=8, channels=3, max_images=10)
    assert found.images.shape == (10, 3, 8, 8)
    assert found.labels.bincount().tolist() == [5, 5]
    assert datasets.image_shape(stripes) == (1, 16)
    assert "stripes" in datasets.names()
    with pytest.raises(ValueError, match="stripes has no split 'test'; it has train"):
        load(stripes, split="test")


def test_a_dataset_takes_under_fifteen_lines():
    source = Path(__file__).read_text(encoding="utf-8")
    start, end = source.index("def read_stripes"), source.index("@pytest.fixture\ndef stripes")
    assert sum(bool(line.strip()) for line in source[start:end].splitlines()) < 15


def test_a_grey_request_mixes_the_colours_as_the_eye_sees_them(replace_dataset):
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]], dtype=torch.uint8)
    images = colours[:, :, None, None].expand(-1, -1, 28, 28)
    replace_dataset("mnist-mini", datasets.ImageDataset(images, None, "four colours", "", ""))
    grey = load("mnist-mini", channels=1).images[:, 0, 0, 0]
    weights = [0.2989, 0.587, 0.114]  # of ITU-R 601
    np.testing.assert_allclose(grey, [*(255 * weight for weight in weights), 90], rtol=0, atol=1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "must be letters, digits.*got ''"),
        ("a/b", "must be letters, digits.*got 'a/b'"),
        ("..", "must be letters, digits.*got '..'"),
        ("mnist", "there is a dataset named 'mnist' already"),
    ],
)
def test_a_name_that_could_not_be_loaded_is_not_registered(name, words):
    before = datasets.names()
    with pytest.raises(ValueError, match=words):
        datasets.register(replace(STRIPES, name=name))
    assert datasets.names() == before


@pytest.mark.parametrize("name", ["mnist", "unknown"])
def test_only_a_registered_dataset_can_be_removed(name):
    with pytest.raises(ValueError, match=f"only a dataset that was registered can be removed, got '{name}'"):
        datasets.unregister(name)
    assert "mnist" in datasets.names()


def test_an_unknown_option_is_refused_by_name():
    with pytest.raises(TypeError, match="crop_size"):
        load("mnist-mini", crop_size=3)


@pytest.mark.parametrize("entry", datasets.entries(), ids=lambda entry: entry.name)
def test_each_entry_is_complete_and_its_reader_exists(entry):
    assert callable(entry.reader())
    assert entry.channels in (1, 3)
    assert entry.citation
    assert entry.licence
    assert not entry.summary.endswith(".")
    assert not entry.needs_network or entry.location
    assert entry.classifier is None or classifier.load(entry.classifier).channels == entry.channels


def test_the_readme_lists_the_datasets_of_the_registry():
    text = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    table = text[text.index("| Dataset |") :].split("\n\n")[0].splitlines()[2:]
    listed = [tuple(cell.strip(" `") for cell in line.strip("|").split(" | ")) for line in table]
    expected = [
        (entry.name, entry.summary, "downloaded once" if entry.needs_network else "none")
        for entry in datasets.entries()
    ]
    folder = ("a folder or a zip", datasets.find_entry(Path("folder")).summary, "none")
    assert listed == [*expected, folder]


def test_the_datasets_with_files_under_the_root_are_listed(tmp_path):
    assert datasets.downloaded(tmp_path) == []
    for name in ("MNIST", "faces-seed7", "celeba", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "pokemon.zip").write_bytes(b"")
    assert datasets.downloaded(tmp_path) == ["mnist", "stacked-mnist", "faces", "celeba", "pokemon"]


def test_the_package_lists_its_public_names():
    for name in (name for public in datasets._PUBLIC.values() for name in public):
        assert getattr(datasets, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        datasets.nothing  # noqa: B018
