"""Run folders: what is in them, how they go on, and what is drawn from them."""

import csv
import json
import os
import random
import re
import shutil
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from flat import TINY, run, run_config
from PIL import Image
from safetensors.torch import load_file

import dcganlib
from dcganlib import datasets, models, runs, zoo
from dcganlib.config import DataConfig, ModelConfig, ResolvedRunConfig, SampleConfig, TrainConfig
from dcganlib.latents import sample_z
from dcganlib.runs import config_file, history, monitor, report, sampling, session
from dcganlib.runs.context import rng_for
from dcganlib.runtime import checkpoint
from dcganlib.runtime.device import resolve
from dcganlib.train import init_state, train
from dcganlib.viz import plot

CONFIG = TrainConfig(batch_size=4, seed=3)

pytestmark = pytest.mark.usefixtures("quick_curves")


@pytest.fixture(scope="module")
def whole(train_discs):
    """A run of 10 steps without a stop."""
    return train_discs(steps=10)


def contents(folder):
    """Every file with its bytes, but for the checkpoints, whose tensors are compared on their own."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pt")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def table(folder):
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_a_run_leaves_a_complete_folder(whole):
    pictures = [f"step_{step:06}.png" for step in (0, 2, 4, 6, 8, 10)]
    assert sorted(os.listdir(whole / "samples")) == pictures
    assert sorted(os.listdir(whole)) == [
        "README.md",
        "checkpoint-previous.pt",
        "checkpoint.pt",
        "config.json",
        "discriminator.safetensors",
        "generator.safetensors",
        "history.csv",
        "losses.png",
        "real.png",
        "samples",
        "samples.gif",
    ]


def test_the_animation_tells_the_step_of_each_frame(whole):
    assert runs.read(whole).animation_steps == [0, 2, 4, 6, 8, 10]
    assert runs.read("mnist").animation_steps[:3] == [0, 1650, 3300]  # 14 of the 41 grids, 550 steps apart
    assert runs.read("mnist").animation_steps[-1] == 22_000
    assert len(runs.read("fashion-mnist").animation_steps) == 14


def test_the_history_has_every_step_once(whole):
    rows = table(whole)
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [row["epoch"] for row in rows] == [1] * 5 + [2] * 5
    assert list(rows[0]) == ["step", "epoch", "d_loss", "g_loss", "d_real", "d_fake"]


def test_the_config_says_how_to_make_the_run_again(whole, image_folder):
    content = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    images = datasets.load(image_folder, image_size=16, channels=1).images
    assert content == {
        "version": dcganlib.__version__,
        "data": {
            "data": str(image_folder),
            "image_size": 16,
            "channels": 1,
            "center_crop": None,
            "max_images": None,
            "mirror": False,
        },
        "model": {"architecture": "dcgan", "base_channels": 4, "conditional": False},
        "train": asdict(resolve(CONFIG, torch.device("cpu"))),
        "steps": 10,
        "epochs": None,
        "checkpoint_every": 4,
        "sample_every": 2,
        "init_from": None,
        "evaluate_every": None,
        "keep_best": False,
        "stop_when_collapsed": False,
        "num_classes": 0,
        "class_names": [],
        "contents": f"20 images of 1x16x16, crc32 {zlib.crc32(images.numpy()):08x}",
    }
    assert runs.read_config(whole).train == resolve(CONFIG, torch.device("cpu"))


def test_a_run_is_the_loop_of_the_library(whole, image_folder):
    """The same run by hand: the seed's own sources for weights, order and fixed latents."""
    images = datasets.load(image_folder, image_size=16, channels=1).images
    pair = zoo.build("dcgan", image_size=16, channels=1, base_channels=4, rng=rng_for(3, 0))
    state = init_state(*pair, CONFIG)
    loader = datasets.make_loader(images, 4, rng=rng_for(3, 1))
    records = [record.as_dict() for record in train(state, loader, 10)]
    kept, _ = checkpoint.load(whole / "checkpoint.pt")
    for row, exact in zip(table(whole), records, strict=True):
        assert row == pytest.approx(exact, rel=1e-5)
    assert all(map(torch.equal, kept.generator.state_dict().values(), state.generator.state_dict().values()))
    fixed_z = sample_z(64, 100, rng=rng_for(3, 2))
    with Image.open(whole / "samples" / "step_000010.png") as picture:
        expected = plot.grid_image(models.generate(state.generator, fixed_z))
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_the_sources_of_a_seed_differ_from_each_other_and_from_those_of_other_seeds():
    drawn = {
        torch.rand(1, generator=rng_for(seed, purpose)).item() for seed in range(20) for purpose in range(3)
    }
    assert len(drawn) == 60
    assert torch.equal(rng_for(7, 1).get_state(), rng_for(7, 1).get_state())
    rng_for(2**62 - 1, 2)


def test_the_weights_of_the_file_are_those_of_the_checkpoint(whole):
    state, _ = checkpoint.load(whole / "checkpoint.pt")
    tensors = load_file(whole / "generator.safetensors")
    assert all(torch.equal(tensors[name], value) for name, value in state.generator.state_dict().items())
    assert checkpoint.load_generator(whole / "generator.safetensors")[1] == {"step": 10}


def test_the_film_has_a_frame_for_each_grid(whole):
    with Image.open(whole / "samples.gif") as film:
        # PIL joins frames that are the same to the last pixel.
        assert 2 <= film.n_frames <= 6
        assert film.size == (8 * 18 - 2, 8 * 18 - 2)


def test_the_grids_change_as_g_learns(whole):
    first, last = (np.asarray(Image.open(whole / "samples" / f"step_{step:06}.png")) for step in (0, 10))
    assert first.shape == last.shape == (142, 142)
    assert (first != last).mean() > 0.1


@pytest.mark.parametrize("stop", [4, 7])
def test_a_resumed_run_equals_one_that_never_stopped(train_discs, whole, stop):
    folder = train_discs(steps=stop, sample_every=1)
    for picture in (folder / "samples").iterdir():  # so that the folder has the grids of every second step
        if int(picture.stem[5:]) % 2:
            picture.unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"sample_every": 2}), encoding="utf-8")
    assert runs.resume(folder, steps=10, device="cpu") == folder
    assert contents(folder) == contents(whole)


def test_a_run_that_broke_off_between_two_checkpoints_ends_as_if_it_had_not(train_discs, whole, monkeypatch):
    class PowerCutError(Exception):
        pass

    def broken(*args):
        for record in train(*args):
            if record.step == 7:
                raise PowerCutError
            yield record

    folders = []
    remember = config_file.write
    monkeypatch.setattr(session, "train", broken)
    monkeypatch.setattr(
        config_file, "write", lambda out, config: (folders.append(out), remember(out, config))
    )
    with pytest.raises(PowerCutError):
        train_discs(steps=10)
    (folder,) = folders
    assert len(table(folder)) == 4  # the last checkpoint
    monkeypatch.undo()
    runs.resume(folder, device="cpu")
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("csv_file", ["gone", "short", "there"])
def test_a_run_whose_checkpoint_holds_its_history_goes_on_as_one_that_never_stopped(
    train_discs, whole, image_folder, csv_file
):
    """As the checkpoints of earlier versions do."""
    folder = train_discs(steps=4)
    state, _ = checkpoint.load(folder / "checkpoint.pt")
    pair = zoo.build("dcgan", image_size=16, channels=1, base_channels=4, rng=rng_for(3, 0))
    images = datasets.load(image_folder, image_size=16, channels=1).images
    loader = datasets.make_loader(images, 4, rng=rng_for(3, 1))
    checkpoint.save(folder / "checkpoint.pt", state, list(train(init_state(*pair, CONFIG), loader, 4)))
    if csv_file == "gone":
        (folder / "history.csv").unlink()
    if csv_file == "short":
        (folder / "history.csv").write_text("step,epoch\n1,", encoding="utf-8")
    runs.resume(folder, steps=10, device="cpu")
    ours, theirs = contents(folder), contents(whole)
    for name in ("history.csv", "losses.png", "generator.safetensors", "samples/step_000010.png"):
        assert ours[name] == theirs[name]


def test_rows_beyond_the_checkpoint_are_cut_on_resume(train_discs, whole):
    folder = train_discs(steps=8)
    shutil.copy(folder / "checkpoint-previous.pt", folder / "checkpoint.pt")  # of step 4
    runs.resume(folder, steps=10, device="cpu")
    assert table(folder) == table(whole)


def test_a_finished_run_is_left_as_it_is_by_resume(train_discs):
    folder = train_discs(steps=3)
    before = contents(folder)
    runs.resume(folder, device="cpu")
    assert contents(folder) == before


def test_resume_refuses_to_go_back(whole):
    before = contents(whole)
    with pytest.raises(ValueError, match="at step 10 already: --steps must exceed 10, got 9"):
        runs.resume(whole, steps=9)
    assert contents(whole) == before


def test_resume_says_what_is_missing(tmp_path, whole):
    with pytest.raises(FileNotFoundError, match="there is no run"):
        runs.resume(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"is no run: it has no config\.json"):
        runs.resume(tmp_path)
    (tmp_path / "config.json").write_bytes((whole / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.pt"):
        runs.resume(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        runs.resume(tmp_path)


def test_a_config_that_lacks_a_setting_is_called_damaged(tmp_path):
    (tmp_path / "config.json").write_text('{"data": "mnist"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json"):
        runs.resume(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("steps", "10", "steps must be a whole number, got '10'"),
        ("steps", None, "steps must be a whole number, got None"),
        ("image_size", 16.5, "image_size must be a whole number or None, got 16.5"),
        ("checkpoint_every", 0, "checkpoint_every must be at least 1, got 0"),
        ("num_classes", True, "num_classes must be a whole number, got True"),
        ("num_classes", -1, "num_classes must be at least 0, got -1"),
        ("center_crop", [], r"center_crop must be a whole number or None, got \[\]"),
        ("data", None, "data must be a text or a path, got None"),
        ("architecture", 7, "architecture must be a text or None, got 7"),
        ("contents", 7, "contents must be a text or None, got 7"),
        ("epochs", 3, "give steps or epochs, not both"),
        ("step", 3, "unexpected keyword argument 'step'"),
        ("channels", 2, r"channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
        ("steps", 10**30, "steps must be at most 1,000,000,000, got 10{30}"),
        ("class_names", "ab", "class_names must be a tuple of texts, got 'ab'"),
        ("class_names", "", "class_names must be a tuple of texts, got ''"),
        ("class_names", 0, "class_names must be a tuple of texts, got 0"),
        ("class_names", {}, "class_names must be a tuple of texts, got {}"),
        ("class_names", [1], r"class_names must be a tuple of texts, got \(1,\)"),
        ("class_names", ["a"], r"class_names must be one for each of the 0 classes, got \('a',\)"),
        ("train", None, "Error"),
        ("train", {"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ("train", {"beta1": "0.5"}, "beta1 must be a number, got '0.5'"),
    ],
)
def test_a_setting_of_another_kind_is_named_wherever_the_run_is_read(whole, tmp_path, name, value, words):
    for own in ("history.csv", "generator.safetensors"):
        (tmp_path / own).write_bytes((whole / own).read_bytes())
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    part = next((config[part] for part in ("data", "model") if name in config[part]), config)
    part[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for read in (runs.read, runs.read_config, runs.sample, runs.resume):
        with pytest.raises(ValueError, match=rf"config\.json is damaged or incomplete .*{words}"):
            read(tmp_path)


def test_resume_says_that_the_data_have_changed_and_goes_on(image_folder, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    folder = run(str(images), tmp_path / "run", device="cpu", config=CONFIG, **TINY, steps=3)
    began = runs.read_config(folder).contents
    assert re.fullmatch(r"20 images of 1x16x16, crc32 [0-9a-f]{8}", began)
    shutil.copy(images / "00.png", images / "01.png")
    with pytest.warns(
        UserWarning, match=rf"{images} has changed since {folder} began: it was {began}, it is 20 "
    ):
        runs.resume(folder, steps=4, device="cpu")
    (images / "02.png").unlink()
    with pytest.warns(UserWarning, match=rf"it was {began}, it is 19 images of 1x16x16, crc32"):
        runs.resume(folder, steps=5, device="cpu")
    assert len(runs.read(folder).history) == 5


def test_a_run_from_before_contents_were_kept_goes_on_and_keeps_them(train_discs):
    folder = train_discs(steps=3)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    began = config.pop("contents")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    runs.resume(folder, steps=4, device="cpu")
    assert runs.read_config(folder).contents == began


def test_a_run_on_a_relative_folder_can_be_resumed_from_elsewhere(
    train_discs, image_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(image_folder.parent)
    out = tmp_path / "run"
    run(image_folder.name, out, steps=1, device="cpu", config=CONFIG, **TINY)
    monkeypatch.chdir(tmp_path)
    runs.resume(out, steps=2, device="cpu")


def test_images_that_were_moved_are_found_where_data_says_and_stay_found(image_folder, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(image_folder, old / "images")
    run(str(old / "images"), old / "run", steps=2, device="cpu", config=CONFIG, **TINY)
    whole = run(str(old / "images"), tmp_path / "whole", steps=4, device="cpu", config=CONFIG, **TINY)
    old.rename(new)
    before = contents(new / "run")
    words = (
        f"the run's images are not in {old / 'images'}: if they were moved, say with --data where they are"
    )
    with pytest.raises(FileNotFoundError, match=words):
        runs.resume(new / "run", steps=3, device="cpu")
    assert contents(new / "run") == before
    runs.resume(new / "run", steps=3, data=new / "images", device="cpu")
    runs.resume(new / "run", steps=4, device="cpu")
    assert runs.read_config(new / "run").data.data == str(new / "images")
    assert (new / "run" / "generator.safetensors").read_bytes() == (
        whole / "generator.safetensors"
    ).read_bytes()


def test_a_path_of_another_system_is_a_folder_that_is_not_there(train_discs, image_folder):
    folder = train_discs(steps=1)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(
        json.dumps(config | {"data": config["data"] | {"data": "C:\\Users\\Jo\\discs"}}), encoding="utf-8"
    )
    with pytest.raises(FileNotFoundError, match=r"not in C:\\Users\\Jo\\discs: if they were moved"):
        runs.resume(folder, steps=2, device="cpu")
    runs.resume(folder, steps=2, data=image_folder, device="cpu")
    assert runs.read_config(folder).data.data == str(image_folder)


def test_a_run_is_called_after_its_folder_however_that_is_named(image_folder, tmp_path, monkeypatch):
    folder = tmp_path / "mes fleurs.v2 é"
    (folder / "inner").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name in (".", "../mes fleurs.v2 é", f"{folder}/", folder, "inner/.."):
        assert datasets.title(name) == "mes fleurs.v2 é"
    monkeypatch.chdir(folder / "inner")
    assert datasets.title("..") == "mes fleurs.v2 é"
    (folder / "rose.v2.ZIP").touch()
    assert datasets.title(folder / "rose.v2.ZIP") == "rose.v2"
    assert (datasets.title("mnist"), datasets.title("/")) == ("mnist", "images")
    (folder / "mnist").mkdir()
    assert datasets.is_named("mnist")
    assert not datasets.is_named(Path("mnist"))


def test_home_is_found_in_every_path(image_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copytree(image_folder, tmp_path / "discs")
    out = run("~/discs", "~/run", steps=1, device="cpu", config=CONFIG, **TINY)
    assert out == tmp_path / "run"
    runs.resume("~/run", steps=2, data="~/discs", device="cpu")
    assert runs.save_sample("~/run", "~/a.png") == tmp_path / "a.png"
    assert runs.read("~/run").folder == out
    assert runs.read_config(out).data.data == str(tmp_path / "discs")


def test_a_run_in_the_folder_of_its_images_is_refused_and_one_below_it_sees_them_alone(
    image_folder, tmp_path
):
    images = shutil.copytree(image_folder, tmp_path / "discs")
    with pytest.raises(ValueError, match="is the folder of the images: name another folder with --out"):
        run(str(images), images, steps=1, config=CONFIG, **TINY)
    before = {path.name for path in images.iterdir()}
    out = run(str(images), images / "runs" / "a", steps=1, device="cpu", config=CONFIG, **TINY)
    assert runs.read_config(out).contents.startswith("20 images of ")
    assert {path.name for path in images.iterdir()} == before | {"runs", ".dcganlib"}


def test_epochs_are_counted_in_whole_batches(train_discs):
    folder = train_discs(epochs=1, sample_every=None)
    assert len(table(folder)) == 5
    assert runs.read_config(folder).sample_every == 1


def test_without_a_length_a_run_has_25_epochs(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(session.Session, "advance", lambda self: None)
    run(str(image_folder), tmp_path / "run", config=CONFIG, **(TINY | {"sample_every": None}))
    settings = runs.read_config(tmp_path / "run")
    assert settings.steps == 125
    assert settings.sample_every == 2


def test_small_grey_images_get_the_network_for_them_and_a_folder_named_after_both(
    mnist_mini_of_twenty, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    out = run("mnist-mini", steps=1, base_channels=4, device="cpu", config=CONFIG)
    assert str(out) == "runs/mnist-mini-dcgan-28"
    assert runs.read_config(out).model.architecture == "dcgan-28"
    assert runs.read_config(out).model.base_channels == 4
    with pytest.raises(ValueError, match="runs/mnist-mini-dcgan-28 is there already"):
        run("mnist-mini", steps=1, base_channels=4, device="cpu", config=CONFIG)


@pytest.fixture
def mnist_mini_of_twenty(tiny_images, replace_dataset):
    """Stand-in for the bundled digits, which take a while to read."""
    images = torch.nn.functional.pad(tiny_images, (6, 6, 6, 6))
    found = datasets.ImageDataset(images, torch.zeros(20, dtype=torch.int64), "mnist-mini", "discs", "none")
    replace_dataset("mnist-mini", found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 3, "epochs": 1}, "steps or epochs, not both"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"epochs": -1}, "epochs must be at least 1, got -1"),
        ({"steps": 1, "checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"steps": 1, "sample_every": 0}, "sample_every must be at least 1, got 0"),
        ({"steps": 1, "architecture": "biggan"}, "'biggan'"),
        ({"steps": 1, "architecture": "dcgan-64"}, "dcgan-64 draws .* 64"),
        ({"steps": 1, "image_size": 8}, "got 8"),
        ({"steps": 1, "config": TrainConfig(batch_size=21)}, "21 is more than the number of images, 20"),
        ({"steps": 1, "device": "tpu"}, "'tpu'"),
    ],
)
def test_a_bad_request_is_refused_before_anything_is_written(image_folder, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        run(str(image_folder), tmp_path / "run", **(TINY | {"config": CONFIG} | options))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("used", ["folder", "file"])
def test_a_used_place_is_refused_and_left_alone(image_folder, tmp_path, used):
    out = tmp_path / "run"
    if used == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("mine", encoding="utf-8")
    else:
        out.write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="run is there already.*dcganlib resume"):
        run(str(image_folder), out, steps=1, config=CONFIG, **TINY)
    assert (out / "thesis.txt" if used == "folder" else out).read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_may_be_used(train_discs, image_folder, tmp_path):
    (tmp_path / "run").mkdir()
    run(str(image_folder), tmp_path / "run", steps=1, device="cpu", config=CONFIG, **TINY)
    assert len(table(tmp_path / "run")) == 1


# Runs that are told the class


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory, tiny_images):
    """The discs in two sub-folders: those of the upper half, and the others."""
    folder = tmp_path_factory.mktemp("classes")
    for index, image in enumerate(tiny_images[:, 0].numpy()):
        place = folder / ("high" if image[:8].sum() > image[8:].sum() else "low")
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{index:02}.png")
    return folder


def test_a_run_by_class_learns_samples_and_goes_on_as_one_that_never_stopped(class_folder, tmp_path):
    options = TINY | {"conditional": True, "device": "cpu", "config": CONFIG}
    whole = run(str(class_folder), tmp_path / "whole", steps=6, **options)
    part = run(str(class_folder), tmp_path / "part", steps=3, **options)
    runs.resume(part, steps=6)
    assert runs.read_config(whole).num_classes == 2
    for name in ("history.csv", "samples/step_000006.png", "generator.safetensors"):
        assert (part / name).read_bytes() == (whole / name).read_bytes()
    with Image.open(whole / "samples" / "step_000006.png") as grid:
        assert grid.size == (2 * 16 + 2, 8 * 16 + 14)  # a column a class, a row a latent


def test_samples_of_a_run_by_class_take_the_classes_in_turn_or_are_of_one(class_folder, tmp_path):
    options = TINY | {"conditional": True, "device": "cpu", "config": CONFIG}
    out = run(str(class_folder), tmp_path / "run", steps=2, **options)
    generator = runs.read(out).generator
    z = sample_z(4, generator.latent_dim, rng=torch.Generator().manual_seed(5))
    for label, labels in ((None, [0, 1, 0, 1]), (1, [1, 1, 1, 1])):
        expected = plot.grid_image(models.generate(generator, z, torch.tensor(labels)), columns=8)
        assert runs.sample(out, SampleConfig(4, 5, label=label)).tobytes() == expected.tobytes()
    for label in (2, -1, "2", "cow", ""):
        words = r"label must be from 0 to 1, or the name of a class \(high, low\), got "
        with pytest.raises(ValueError, match=f"{words}{label!r}$"):
            runs.sample(out, SampleConfig(4, label=label))
    assert runs.sample(out, SampleConfig(4, 5, label="low")).tobytes() == expected.tobytes()


def test_the_names_of_the_classes_are_kept_and_checked(class_folder, tmp_path):
    images = shutil.copytree(class_folder, tmp_path / "images")
    options = TINY | {"conditional": True, "device": "cpu", "config": CONFIG}
    out = run(str(images), tmp_path / "run", steps=2, **options)
    assert runs.read_config(out).class_names == ("high", "low")
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["class_names"] == ["high", "low"]
    before = contents(out)
    (images / "high").rename(images / "up")  # from now on "low" is 0
    words = (
        rf"classes of {images} are low, up; the run was trained on high, low \('high' is gone, 'up' is new\)"
    )
    with pytest.raises(ValueError, match=words):
        runs.resume(out, steps=3, device="cpu")
    with pytest.raises(ValueError, match=words):
        runs.load_data(runs.read_config(out))
    assert contents(out) == before
    (images / "up").rename(images / "high")
    runs.resume(out, steps=3, device="cpu")
    shutil.copytree(images / "low", images / "middle")
    with pytest.raises(ValueError, match=r"are high, low, middle; .* high, low \('middle' is new\)"):
        runs.resume(out, steps=4, device="cpu")


def test_classes_keep_their_labels_where_a_system_spells_their_names_in_another_form(class_folder, tmp_path):
    """As macOS may: é as e and an accent, which sorts before f and not behind it."""
    images, (one, two) = tmp_path / "images", ("\u00e9t\u00e9", "e\u0301te\u0301")
    shutil.copytree(class_folder / "high", images / "f")
    shutil.copytree(class_folder / "low", images / one)
    options = TINY | {"conditional": True, "device": "cpu", "config": CONFIG}
    out = run(str(images), tmp_path / "run", steps=1, **options)
    assert runs.read_config(out).class_names == ("f", one)
    before = runs.load_data(runs.read_config(out))
    (images / one).rename(images / two)
    after = runs.load_data(runs.read_config(out))
    assert after.class_names == before.class_names
    by_label = [found.images[found.labels == 0] for found in (before, after)]
    assert torch.equal(*by_label)
    assert not torch.equal(after.images, before.images)
    with pytest.warns(UserWarning, match="has changed since"):  # the images come in another order
        runs.resume(out, steps=2, device="cpu")
    by_name, by_number = (runs.sample(out, SampleConfig(2, label=label)) for label in (two, 1))
    assert by_name.tobytes() == by_number.tobytes()


def test_a_run_from_before_class_names_were_kept_goes_on_and_gets_them(class_folder, tmp_path):
    options = TINY | {"conditional": True, "device": "cpu", "config": CONFIG}
    out = run(str(class_folder), tmp_path / "run", steps=1, **options)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    del config["class_names"]
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert runs.read_config(out).class_names == ()
    other = shutil.copytree(class_folder, tmp_path / "other")
    shutil.copytree(other / "low", other / "middle")
    with pytest.raises(
        ValueError, match=r"other has 3 classes \(high, low, middle\), the run .* on 2: bring"
    ):
        runs.resume(out, steps=2, data=other, device="cpu")
    runs.resume(out, steps=2, device="cpu")
    assert runs.read_config(out).class_names == ("high", "low")


def test_the_stored_run_by_class_knows_its_classes():
    assert runs.read_config("mnist-conditional").class_names == tuple("0123456789")
    by_name, by_number = (
        runs.sample("mnist-conditional", SampleConfig(2, label=label)) for label in ("7", 7)
    )
    assert by_name.tobytes() == by_number.tobytes()


def test_where_names_are_numbers_the_name_counts():
    names = ("0", "1", "10", "11", "2")
    assert [sampling.label_number(label, 5, names) for label in ("2", 2, "10", "4", None)] == [
        4,
        2,
        2,
        4,
        None,
    ]
    with pytest.raises(ValueError, match="got '7'"):
        sampling.label_number("7", 5, names)


def test_a_label_for_a_run_without_classes_is_refused(whole):
    with pytest.raises(ValueError, match="label must be absent: the run has no classes, got 0"):
        runs.sample(whole, SampleConfig(4, label=0))


@pytest.mark.parametrize("options", [{"conditional": True}, {"architecture": "paper-mnist-conditional"}])
def test_a_set_without_labels_cannot_be_drawn_by_class(image_folder, tmp_path, options):
    asked = TINY | {"image_size": 28, "base_channels": 4} | options
    with pytest.raises(ValueError, match="has no labels to draw by"):
        run(str(image_folder), tmp_path / "run", steps=1, config=CONFIG, **asked)
    assert not (tmp_path / "run").exists()


def test_a_run_longer_than_its_learning_rates_is_refused(image_folder, tmp_path):
    config = TrainConfig(batch_size=4, decay_start=1, decay_steps=3)
    with pytest.raises(ValueError, match="steps must be at most"):
        run(str(image_folder), tmp_path / "run", steps=5, config=config, **TINY)
    assert not (tmp_path / "run").exists()
    run(str(image_folder), tmp_path / "run", steps=4, config=config, device="cpu", **TINY)
    with pytest.raises(ValueError, match="steps must be at most"):
        runs.resume(tmp_path / "run", steps=5)


# Averaged weights


@pytest.fixture(scope="module")
def averaged(image_folder, tmp_path_factory):
    """A run of 6 steps that keeps an average."""
    out = tmp_path_factory.mktemp("runs") / "averaged"
    config = TrainConfig(batch_size=4, seed=3, ema=0.5)
    return run(str(image_folder), out, steps=6, device="cpu", config=config, **TINY)


def test_a_run_that_averages_leaves_its_files_beside_those_of_one_that_does_not(averaged, train_discs):
    plain = train_discs(steps=6)
    own = ["ema", "ema.gif", "ema.safetensors"]
    assert sorted(set(os.listdir(averaged)) - set(os.listdir(plain))) == own
    assert os.listdir(averaged / "ema") == os.listdir(averaged / "samples")
    for name, content in contents(plain).items():
        if name not in ("config.json", "README.md"):
            assert (averaged / name).read_bytes() == content, name


def test_a_run_that_averages_samples_from_the_average(averaged):
    found = runs.read(averaged)
    state, _ = checkpoint.load(averaged / "checkpoint.pt")
    for network, kept in ((found.ema_generator, state.ema_generator), (found.generator, state.generator)):
        assert all(map(torch.equal, network.state_dict().values(), kept.state_dict().values()))
    assert checkpoint.load_generator(averaged / "ema.safetensors")[1] == {"step": 6}
    z = sample_z(3, 100, rng=torch.Generator().manual_seed(5))
    expected = [
        np.asarray(plot.grid_image(models.generate(g, z))) for g in (found.ema_generator, found.generator)
    ]
    np.testing.assert_array_equal(np.asarray(runs.sample(averaged, SampleConfig(3, 5))), expected[0])
    assert not np.array_equal(*expected)
    fixed_z = sample_z(64, 100, rng=rng_for(3, 2))
    with Image.open(averaged / "ema" / "step_000006.png") as picture:
        drawn = plot.grid_image(models.generate(found.ema_generator, fixed_z))
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(drawn))


def test_a_resumed_run_that_averages_equals_one_that_never_stopped(averaged, image_folder, tmp_path):
    config = TrainConfig(batch_size=4, seed=3, ema=0.5)
    folder = run(str(image_folder), tmp_path / "run", steps=4, device="cpu", config=config, **TINY)
    runs.resume(folder, steps=6, device="cpu")
    assert contents(folder) == contents(averaged)


def test_where_the_average_alone_was_kept_it_is_the_generator(averaged, tmp_path):
    folder = shutil.copytree(averaged, tmp_path / "run")
    (folder / "generator.safetensors").unlink()
    found = runs.read(folder)
    expected = runs.read(averaged).ema_generator.state_dict().values()
    assert all(map(torch.equal, found.generator.state_dict().values(), expected))
    assert all(map(torch.equal, found.ema_generator.state_dict().values(), expected))


def test_a_run_without_averages_has_none(whole):
    assert runs.read(whole).ema_generator is None


# What people do to the folder of a run


def test_pictures_that_were_deleted_to_save_room_do_not_stop_a_run(averaged, tmp_path):
    folder = shutil.copytree(averaged, tmp_path / "run")
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix in (".png", ".gif"):
            path.unlink()
    runs.resume(folder, steps=7, device="cpu")
    names = [
        "ema/step_000007.png",
        "ema.gif",
        "losses.png",
        "samples/step_000007.png",
        "samples.gif",
    ]
    assert [name for name in names if not (folder / name).is_file()] == []


def test_settings_and_history_are_read_as_editors_of_windows_save_them(whole, tmp_path):
    """With a mark of the encoding before the text, and \\r\\n at the end of each line."""
    folder = shutil.copytree(whole, tmp_path / "run")
    for name in ("config.json", "history.csv"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-8-sig", newline="\r\n")
    assert runs.read(folder).history == runs.read(whole).history
    assert runs.read_config(folder) == runs.read_config(whole)
    runs.resume(folder, steps=10, device="cpu")  # nothing to train
    for name in ("config.json", "history.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


# What a run was trained on


def test_a_run_shows_the_real_images_and_its_losses(whole, tiny_images):
    with Image.open(whole / "real.png") as picture:
        # 20 images in rows of 8, each drawn as it is.
        grid = np.asarray(picture.convert("L"))
        for k, image in enumerate(tiny_images[:, 0].numpy()):
            top, left = (k // 8) * 18, (k % 8) * 18
            np.testing.assert_array_equal(grid[top : top + 16, left : left + 16], image)
    with Image.open(whole / "losses.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_crop_and_count_reach_the_data_and_hold_on_resuming(image_folder, tmp_path, monkeypatch):
    asked, real = [], datasets.load
    monkeypatch.setattr(
        datasets, "load", lambda *args, **options: asked.append(options) or real(*args, **options)
    )
    out = tmp_path / "run"
    run(str(image_folder), out, steps=1, center_crop=12, max_images=9, device="cpu", config=CONFIG, **TINY)
    runs.resume(out, steps=2, device="cpu")
    assert [(options["center_crop"], options["max_images"]) for options in asked] == [(12, 9)] * 2
    with Image.open(out / "real.png") as picture:
        assert picture.height == 2 * 18 - 2  # 9 images, 8 in a row


# Drawing from a run


def test_a_sample_is_what_the_generator_draws_from_the_seed(whole):
    picture = runs.sample(whole, SampleConfig(3, 5, 2))
    generator, _ = checkpoint.load_generator(whole / "generator.safetensors")
    z = sample_z(3, 100, rng=torch.Generator().manual_seed(5))
    expected = plot.grid_image(models.generate(generator, z), columns=2)
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))
    assert not np.array_equal(np.asarray(runs.sample(whole, SampleConfig(3, 6, 2))), np.asarray(expected))


@pytest.mark.parametrize("columns", [1, 3, 8, 20])
def test_a_sample_drawn_part_by_part_is_the_sample_drawn_at_once(whole, tmp_path, monkeypatch, columns):
    options = SampleConfig(19, columns=columns)
    at_once = runs.sample(whole, options)
    monkeypatch.setattr(sampling, "BATCH", 5)
    assert runs.sample(whole, options).size == at_once.size
    difference = np.asarray(runs.sample(whole, options)).astype(int) - np.asarray(at_once)
    assert abs(difference).max() <= 1  # the last bits of a float depend on the size of the batch
    path = runs.save_sample(whole, tmp_path / "a.png", options)
    with Image.open(path) as picture:
        picture.verify()
    with Image.open(path) as picture:
        assert picture.mode == "L"
        assert picture.tobytes() == runs.sample(whole, options).tobytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 10**12}, "n must be at most 1,000,000, got 1000000000000"),
        ({"label": True}, "label must be a text or a whole number or None, got True"),
        ({"n": 2.0}, "n must be a whole number, got 2.0"),
        ({"columns": 0}, "columns must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 10**20}, r"seed must be from 0 to below 2\*\*62, got 1"),
    ],
)
def test_a_number_of_a_sample_that_is_out_of_range_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        SampleConfig(**options)


def test_a_picture_too_long_for_its_format_is_refused_before_anything_is_drawn(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "generate", None)
    words = (
        "a .webp has at most 16,383 pixels on a side, and 1,000 images in rows of 1 take 16 x 17,998: write"
    )
    with pytest.raises(ValueError, match=words):
        runs.save_sample(whole, tmp_path / "a.webp", SampleConfig(1000, columns=1))


def test_a_sample_that_does_not_fit_into_memory_names_n(whole, monkeypatch):
    def full(*args):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(models, "generate", full)
    with pytest.raises(MemoryError, match="^n 5 does not fit into memory: lower n$"):
        runs.sample(whole, SampleConfig(5))

    def broken(*args):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(models, "generate", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        runs.sample(whole, SampleConfig(5))


def test_a_sample_uses_the_prior_that_the_run_was_trained_with(train_discs, image_folder, tmp_path):
    config = TrainConfig(batch_size=4, prior="uniform")
    run(str(image_folder), tmp_path / "run", steps=1, device="cpu", config=config, **TINY)
    generator, _ = checkpoint.load_generator(tmp_path / "run" / "generator.safetensors")
    z = sample_z(64, 100, prior="uniform", rng=torch.Generator().manual_seed(0))
    expected = plot.grid_image(models.generate(generator, z))
    np.testing.assert_array_equal(np.asarray(runs.sample(tmp_path / "run")), np.asarray(expected))
    fixed_z = sample_z(64, 100, prior="uniform", rng=rng_for(0, 2))
    with Image.open(tmp_path / "run" / "samples" / "step_000001.png") as picture:
        expected = plot.grid_image(models.generate(generator, fixed_z))
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_a_run_is_read_back(whole):
    found = runs.read(str(whole))
    assert found.folder == whole
    assert found.history == table(whole)
    assert found.config.steps == 10
    assert not found.generator.training
    assert found.animation == whole / "samples.gif"


def test_a_webp_film_goes_before_a_gif(train_discs):
    folder = train_discs(steps=1)
    (folder / "samples.webp").write_bytes(b"film")
    assert runs.read(folder).animation == folder / "samples.webp"


def test_what_is_no_run_is_refused_by_name(tmp_path, train_discs):
    with pytest.raises(FileNotFoundError, match="there is no run nowhere; the stored ones are "):
        runs.read("nowhere")
    with pytest.raises(FileNotFoundError, match=r"generator\.safetensors"):
        runs.read(tmp_path)
    folder = train_discs(steps=1)
    (folder / "history.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no history\.csv"):
        runs.read(folder)


def test_the_stored_runs_can_be_read_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no folder of that name here
    for name in runs.pretrained():
        found = runs.read(name)
        steps = [row["step"] for row in found.history]
        assert steps == sorted(set(steps))
        assert steps[-1] == found.config.steps
        assert found.animation.is_file()
        picture = np.asarray(runs.sample(name, SampleConfig(16)))
        assert picture.std() > 40  # drawings, not the even grey of an untrained network


def test_stored_results_name_the_command_that_makes_them_again():
    names = [path.stem for path in (runs.PRETRAINED / "results").glob("*.json")]
    for name in names:
        found = runs.results(name)
        script = re.search(r"benchmarks/\w+\.py", found["command"])
        assert script is None or (Path(__file__).parents[1] / script[0]).is_file()
        assert any(found.get(content) for content in ("rows", "measures", "sets", "features"))
    with pytest.raises(
        FileNotFoundError, match=rf"no results ages; the stored ones are {', '.join(sorted(names))}"
    ):
        runs.results("ages")


def test_a_step_above_a_million_is_written_in_full(tmp_path, tiny_pair, tiny_images):
    state = init_state(*tiny_pair(), CONFIG)
    row = {"step": 1_234_567, "epoch": 2, "d_loss": 0.5, "g_loss": 0.5, "d_real": 0.5, "d_fake": 0.5}
    log = history.History(tmp_path / "history.csv")
    options = vars(run_config("mnist-mini", architecture="dcgan-28")) | {"steps": 10**7, "sample_every": 9}
    config = ResolvedRunConfig(**options)
    watch = monitor.Watch(tmp_path, config, datasets.make_loader(tiny_images, 4))
    report.Report(tmp_path, log, lambda: None, watch).save(state, [row])
    assert table(tmp_path)[0]["step"] == 1_234_567


# Damaged files of a run


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("history.csv", b""),
        ("history.csv", b"step,epoch,d_loss\n"),
        ("history.csv", b"step,epoch,d_loss\n1,1,0.69\n2,1,0.6x\n"),
        ("history.csv", b"step,epoch,d_loss\n1,1,0.69\n2,1\n"),
        ("history.csv", b"step,epoch,d_loss\n1,1,0.69,7\n"),
        ("history.csv", b"step,epoch,d_loss\n1,1,\xff\n"),
        ("history.csv", bytes(1000)),
        ("history.csv", b"step,epoch,d_loss,g_loss,d_real,d_fade\n1,1,0.69,0.69,0.5,0.5\n"),
        ("history.csv", b"1,1,0.69,0.69,0.5,0.5\n2,1,0.69,0.69,0.5,0.5\n"),
        ("config.json", b"[" * 10**5),
        ("config.json", b""),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b"\xff\xfe"),
        ("generator.safetensors", b""),
        ("generator.safetensors", b"hello, this is no safetensors"),
        ("generator.safetensors", bytes(1000)),
    ],
)
def test_a_damaged_file_of_a_run_is_one_line_that_names_it(whole, tmp_path, name, content):
    for own in ("history.csv", "config.json", "generator.safetensors"):
        (tmp_path / own).write_bytes((whole / own).read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / name} is .*damaged") as caught:
        runs.read(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_any_changed_byte_of_a_history_or_config_is_an_error_that_names_it_or_a_readable_run(whole, tmp_path):
    chance = random.Random(0)
    for own in ("history.csv", "config.json", "generator.safetensors"):
        (tmp_path / own).write_bytes((whole / own).read_bytes())
    for _ in range(60):
        path = tmp_path / chance.choice(["history.csv", "config.json"])
        before = path.read_bytes()
        content = bytearray(before)
        content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
        path.write_bytes(content)
        try:
            assert runs.read(tmp_path).history
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 - either is right
        path.write_bytes(before)


def test_an_option_that_config_json_does_not_name_has_its_default(whole, tmp_path):
    older = shutil.copytree(whole, tmp_path / "older")
    content = json.loads((older / "config.json").read_text(encoding="utf-8"))
    del content["num_classes"], content["train"]["prior"]
    (older / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert runs.sample(older).tobytes() == runs.sample(whole).tobytes()


# A run of version 0.2, made by its code: by class, with averaged weights

OLD = Path(__file__).parent / "data" / "run-0.2"
MACHINE = {"torch": "2.15.0", "capability": "AVX512"}  # where EXPECTED was made


@pytest.fixture
def old_run(tmp_path):
    """A copy of the run and of its images."""
    return shutil.copytree(OLD / "run", tmp_path / "run"), shutil.copytree(
        OLD / "images", tmp_path / "images"
    )


def same_weights(path, expected):
    """Bit for bit where the expected ones were made; elsewhere convolutions round in another way."""
    here = {
        "torch": torch.__version__.partition("+")[0],
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    close = {"rtol": 0, "atol": 0} if here == MACHINE else {"rtol": 1e-4, "atol": 1e-5}
    ours, theirs = load_file(path), load_file(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, **close)


def test_a_run_of_version_0_2_is_read(old_run):
    folder, _ = old_run
    found = runs.read(folder)
    assert found.config == ResolvedRunConfig(
        data=DataConfig("/home/jo/images", image_size=16, channels=1, center_crop=16, max_images=10),
        model=ModelConfig("dcgan", 1, conditional=True),
        train=TrainConfig(batch_size=4, seed=3, ema=0.5, precision="float32", beta2=0.99),
        steps=3,
        checkpoint_every=2,
        sample_every=3,
        num_classes=2,
        class_names=("high", "low"),
        contents="10 images of 1x16x16, crc32 6b607d17",
    )
    assert [row["step"] for row in found.history] == [1, 2, 3]
    for generator, name in ((found.generator, "generator"), (found.ema_generator, "averaged")):
        kept = load_file(folder / f"{name}.safetensors")
        assert all(torch.equal(kept[key], value) for key, value in generator.state_dict().items())


def test_a_run_of_version_0_2_draws_from_its_averaged_weights(old_run):
    generator = runs.read(old_run[0]).ema_generator
    z = sample_z(6, 100, rng=torch.Generator().manual_seed(5))
    expected = plot.grid_image(models.generate(generator, z, torch.tensor([0, 1, 0, 1, 0, 1])), columns=6)
    assert runs.sample(old_run[0], SampleConfig(6, 5, columns=6)).tobytes() == expected.tobytes()


def test_a_run_of_version_0_2_goes_on_as_its_own_code_would_have(old_run):
    folder, images = old_run
    runs.resume(folder, steps=8, data=images, device="cpu")
    same_weights(folder / "generator.safetensors", OLD / "expected" / "generator.safetensors")
    same_weights(folder / "ema.safetensors", OLD / "expected" / "averaged.safetensors")
    for ours, theirs in zip(table(folder), table(OLD / "expected"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    steps = ["step_000000.png", "step_000003.png", "step_000006.png", "step_000008.png"]
    assert sorted(os.listdir(folder / "ema")) == sorted(os.listdir(folder / "samples")) == steps
    assert not [name for name in os.listdir(folder) if name.startswith("averaged")]
    for name in ("averaged/step_000003.png", "samples/step_000003.png"):
        kept = folder / name.replace("averaged", "ema")
        assert kept.read_bytes() == (OLD / "run" / name).read_bytes()
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["data"]["data"] == str(images)


@pytest.mark.parametrize("name", ["data", "architecture", "steps", "image_size", "sample_every", "train"])
def test_a_config_of_version_0_2_that_lacks_an_option_is_called_damaged(old_run, name):
    path = old_run[0] / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[name]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"config\.json is damaged or incomplete \(KeyError: '{name}'\)"):
        runs.read_config(old_run[0])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("crop", [], "center_crop must be a whole number or None"),
        ("count", 0, "max_images must be at least 1, got 0"),
        ("classes", -1, "num_classes must be at least 0, got -1"),
        ("class_names", "ab", "class_names must be a tuple of texts, got 'ab'"),
        ("class_names", ["a"], "class_names must be one for each of the 2 classes"),
        ("clases", 2, "unexpected keyword argument 'clases'"),
    ],
)
def test_a_bad_option_of_a_config_of_version_0_2_is_named(old_run, name, value, words):
    path = old_run[0] / "config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | {name: value}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"config\.json is damaged or incomplete .*{words}"):
        runs.read_config(old_run[0])
