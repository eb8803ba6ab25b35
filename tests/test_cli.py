"""The command line: main(...) with real files, its exit codes and what it says."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcganlib import cli, datasets, runs, zoo
from dcganlib.cli import main
from dcganlib.config import SampleConfig, TrainConfig
from dcganlib.datasets.contact_sheet import SOFTWARE
from dcganlib.runs import folder as run_folder
from dcganlib.runs import session
from dcganlib.runtime import cpu_layers
from dcganlib.runtime.device import check_compiler, resolve

SMALL = [
    "--image-size",
    "16",
    "--channels",
    "1",
    "--base-channels",
    "4",
    "--batch-size",
    "4",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def trained(image_folder, tmp_path_factory):
    """A run of 4 steps, made by the command."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", str(image_folder), *SMALL, "--steps", "4", "--seed", "9", "--out", str(out)]) == 0
    return out


@pytest.fixture
def call(capsys):
    """Run the command: (exit code, standard output, complaint).

    A complaint is the last line of standard error, without the progress bar, or tyro's box.
    """

    def make(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:  # tyro's own way out
            code = stopped.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        if "For full helptext" in err:  # with or without a frame, by the encoding of the stream
            return code, out, " ".join(err.replace("│", "").split())
        return code, out, err.rstrip("\n").split("\n")[-1]

    return make


@pytest.fixture
def few_digits(tiny_images, replace_dataset):
    """Stand-in for the bundled digits, which take a while to read."""
    images = torch.nn.functional.pad(tiny_images, (6, 6, 6, 6))
    found = datasets.ImageDataset(images, torch.zeros(20, dtype=torch.int64), "mnist-mini", "discs", "none")
    replace_dataset("mnist-mini", found)


def test_help_answers_without_importing_torch():
    code = "import sys; from dcganlib.__main__ import main\ntry: main(['--help'])\n"
    code += "except SystemExit: print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("usage: dcganlib")
    assert told.stdout.endswith("False\n")


def test_train_makes_a_run_and_says_where(call, few_digits, tmp_path):
    out = tmp_path / "new" / "run"
    code, said, bar = call(
        "train", "mnist-mini", "--steps", 20, "--batch-size", 8, "--base-channels", 4, "--out", out
    )
    assert code == 0
    assert str(out) in said
    assert "sample" in said
    assert "img/s" in bar or "s/img" in bar
    assert "g_loss=" in bar
    assert (out / "samples.gif").is_file()
    assert len(runs.read(out).history) == 20


def test_every_option_of_train_reaches_the_run(call, image_folder, tmp_path):
    options = {
        "--epochs": 1,
        "--batch-size": 10,
        "--architecture": "dcgan",
        "--base-channels": 3,
        "--image-size": 17,
        "--channels": 3,
        "--g-lr": 0.001,
        "--d-lr": 0.002,
        "--beta1": 0.25,
        "--beta2": 0.75,
        "--prior": "uniform",
        "--precision": "bfloat16",
        "--ema": 0.5,
        "--weight-decay": 0.01,
        "--decay-start": 1,
        "--decay-steps": 9,
        "--seed": 11,
        "--loss": "hinge",
        "--gradient-penalty": 0.125,
        "--r1": 0.5,
        "--r2": 0.375,
        "--d-steps": 2,
        "--augment": "color,cutout",
        "--center-crop": 12,
        "--max-images": 19,
        "--checkpoint-every": 5,
        "--sample-every": 2,
        "--out": tmp_path / "run",
        "--device": "cpu",
        "--root": tmp_path,
    }
    words = [word for pair in options.items() for word in pair]
    code, _, _ = call("train", image_folder, "--sync-batch-norm", "--mirror", *words)
    assert code == 0
    content = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert content.pop("train") == {
        "batch_size": 10,
        "g_lr": 0.001,
        "d_lr": 0.002,
        "beta1": 0.25,
        "beta2": 0.75,
        "prior": "uniform",
        "seed": 11,
        "precision": "bfloat16",
        "ema": 0.5,
        "weight_decay": 0.01,
        "decay_start": 1,
        "decay_steps": 9,
        "loss": "hinge",
        "gradient_penalty": 0.125,
        "r1": 0.5,
        "r2": 0.375,
        "d_steps": 2,
        "augment": "color,cutout",
        "fast": True,
        "compile": False,
        "sync_batch_norm": True,
    }
    content.pop("version")
    assert content.pop("contents").startswith("19 images of 3x17x17, crc32 ")
    assert content == {
        "data": {
            "data": str(image_folder),
            "image_size": 17,
            "channels": 3,
            "center_crop": 12,
            "max_images": 19,
            "mirror": True,
        },
        "model": {"architecture": "dcgan", "base_channels": 3, "conditional": False},
        "steps": 1,
        "epochs": None,
        "checkpoint_every": 5,
        "sample_every": 2,
        "init_from": None,
        "evaluate_every": None,
        "keep_best": False,
        "stop_when_collapsed": False,
        "num_classes": 0,
        "class_names": [],
    }


def test_the_same_command_gives_the_same_weights(call, image_folder, trained, tmp_path):
    call("train", image_folder, *SMALL, "--steps", 4, "--seed", 9, "--out", tmp_path / "run")
    for name in ("generator.safetensors", "history.csv", "samples/step_000004.png"):
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes()


def test_resume_goes_on_to_the_step_counted_from_the_start(call, image_folder, tmp_path):
    out, whole = tmp_path / "run", tmp_path / "whole"
    call("train", image_folder, *SMALL, "--steps", 3, "--sample-every", 1, "--out", out)
    code, said, _ = call("resume", out, "--steps", 7, "--device", "cpu")
    assert code == 0
    assert str(out) in said
    call("train", image_folder, *SMALL, "--steps", 7, "--sample-every", 1, "--out", whole)
    for name in ("generator.safetensors", "history.csv", "samples/step_000007.png", "samples.gif"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_sample_draws_the_same_pictures_from_the_same_seed(call, trained, tmp_path):
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        code, said, _ = call("sample", trained, "--n", 10, "--seed", seed, "--out", tmp_path / name)
        assert code == 0
        assert name in said
    pictures = [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png")]
    assert pictures[0] == pictures[1] != pictures[2]
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (8 * 18 - 2, 2 * 18 - 2)
        np.testing.assert_array_equal(
            np.asarray(picture), np.asarray(runs.sample(trained, SampleConfig(10, seed=1)))
        )


def test_sample_writes_64_images_beside_the_caller_if_not_told_otherwise(
    call, trained, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert call("sample", trained)[0] == 0
    with Image.open("samples.png") as picture:
        assert picture.size == (142, 142)


@pytest.mark.parametrize("command", ["sample", "web", "evaluate", "classifier"])
def test_no_command_replaces_a_file_unless_it_is_forced_to(call, trained, tmp_path, monkeypatch, command):
    out = tmp_path / "mine.png"
    out.write_bytes(b"mine")
    run = "mnist" if command == "classifier" else trained
    called = []
    monkeypatch.setattr(run_folder, "read", lambda *args: called.append(1))
    monkeypatch.setattr(datasets, "load", lambda *args, **options: called.append(1))
    code, said, complaint = call(command, run, "--out", out)
    assert (code, said, called) == (2, "", [])
    assert complaint.endswith(
        f"{out} already exists; use --force to replace it, or --out to name another file"
    )
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize("command", ["data", "sample", "web", "evaluate", "classifier"])
@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_cannot_be_written_is_named_before_any_work(
    call, trained, tmp_path, monkeypatch, command, there
):
    out = tmp_path / "none" / "mine.png"
    if there:
        out.parent.mkdir()
        monkeypatch.setattr("dcganlib.runtime.files.writable", lambda folder: folder != out.parent)
    called = []
    monkeypatch.setattr(run_folder, "read", lambda *args: called.append(1))
    monkeypatch.setattr(datasets, "load", lambda *args, **options: called.append(1))
    wanted = trained if command in ("sample", "web", "evaluate") else "mnist"
    code, said, complaint = call(command, wanted, "--out", out)
    assert (code, said, called) == (2, "", [])
    words = "nothing can be written into {}" if there else "the folder {} is not there"
    assert words.format(out.parent) in complaint
    assert not out.exists()
    assert out.parent.exists() is there


def test_save_sample_names_a_missing_folder_before_it_draws(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "read", lambda folder: pytest.fail("it draws first"))
    with pytest.raises(FileNotFoundError, match="the folder .*none is not there"):
        runs.save_sample(trained, tmp_path / "none" / "a.jpg")
    assert not (tmp_path / "none").exists()


def test_force_replaces_a_file(call, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples.png").write_bytes(b"mine")
    assert call("sample", trained, "--n", 2)[0] == 2
    assert call("sample", trained, "--n", 2, "--columns", 1, "--force")[0] == 0
    with Image.open("samples.png") as picture:
        assert picture.size == (16, 34)
    assert call("sample", trained, "--n", 1)[0] == 0  # it is our own now
    with Image.open("samples.png") as picture:
        assert picture.size == (16, 16)
        picture.save("edited.png")  # which leaves the mark out
    assert call("sample", trained, "--n", 1, "--out", "edited.png")[0] == 2
    (trained / "evaluation.json").write_text("mine", encoding="utf-8")
    try:
        assert "evaluation.json already exists" in call("evaluate", trained)[2]
    finally:
        (trained / "evaluation.json").unlink()


def test_a_run_by_class_tells_its_classes_and_draws_one_by_name(call, image_folder, tmp_path):
    images = tmp_path / "images"
    for name in ("cat", "dog"):
        shutil.copytree(image_folder, images / name)
    out = tmp_path / "run"
    assert call("train", images, *SMALL, "--steps", 1, "--conditional", "--out", out)[0] == 0
    assert re.search(r"^class_names +0 cat, 1 dog$", call("info", out)[1], re.M)
    for label in ("dog", 1):
        call("sample", out, "--n", 3, "--label", label, "--out", tmp_path / f"{label}.png")
    assert (tmp_path / "dog.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    code, _, complaint = call("sample", out, "--label", "cow", "--out", tmp_path / "cow.png")
    assert code == 2
    assert complaint.endswith("label must be from 0 to 1, or the name of a class (cat, dog), got 'cow'")
    moved = images.rename(tmp_path / "moved")
    code, _, complaint = call("resume", out, "--steps", 2, "--device", "cpu")
    assert code == 2
    assert f"the run's images are not in {images}: if they were moved, say with --data" in complaint
    assert call("evaluate", out, "--device", "cpu")[2] == complaint
    assert call("resume", out, "--steps", 2, "--device", "cpu", "--data", moved)[0] == 0
    small = ("--samples", 10, "--repeats", 1, "--device", "cpu", "--data", moved)
    assert call("evaluate", out, *small)[0] == 0
    assert len(re.findall("class_names +0 0, 1 1, 2 2", call("info", "mnist-conditional")[1])) == 1


def test_compile_without_a_compiler_is_one_line_and_leaves_nothing(call, image_folder, tmp_path, monkeypatch):
    """The real compilation, in which the search for a compiler finds none."""
    from torch._inductor import cpp_builder, exc

    check_compiler.cache_clear()  # it may have been found before
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))

    def none_found(names):
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "cpp_compiler_search", none_found)
    words = ["train", image_folder, *SMALL, "--steps", 2, "--out", tmp_path / "run"]
    code, said, complaint = call(*words, "--compile", "--precision", "float32")
    assert (code, said) == (2, "")
    assert complaint.startswith("dcganlib: error: compile must be False: torch.compile does not work here")
    assert "\n" not in complaint
    assert not (tmp_path / "run").exists()
    assert call(*words)[0] == 0
    check_compiler.cache_clear()


def test_info_of_a_run_tells_its_settings_and_its_last_losses(call, trained):
    code, said, _ = call("info", trained)
    assert code == 0
    history = runs.read(trained).history
    mean = sum(row["g_loss"] for row in history) / 4
    for words in (
        f"{'architecture':<19} dcgan",
        f"{'steps done':<19} 4",
        f"{'g_loss':<19} {mean:.3f}",
        "last 4 steps",
        str(trained),
    ):
        assert words in said


def test_info_of_the_machine_lists_the_networks_with_their_counts(call, monkeypatch, tmp_path):
    monkeypatch.setenv("DCGANLIB_DATA", str(tmp_path))
    code, said, _ = call("info")
    assert code == 0
    lines = {line.split()[0]: line for line in said.splitlines() if line}
    for name, counts in {
        "flux-mnist": ("28", "2,231,168", "138,561"),
        "celeba-post": ("64", "12,658,438", "430,625"),
        "d2l": ("64", "3,576,704", "2,765,696"),
        "keras-28": ("28", "413,889", "138,561"),
    }.items():
        assert tuple(lines[name].split()[1:4]) == counts
    table = said[said.index("architecture") :].splitlines()
    ends = {re.match(r"\S+ +\S+", line).end() for line in table}
    assert len(table) == len(zoo.ARCHITECTURES) + 1
    assert len(ends) == 1  # the column of sizes is aligned
    assert str(tmp_path) in lines["data"]
    assert torch.__version__ in said
    for name in runs.pretrained():
        assert name in lines["stored"]


# Looking at a set


def test_data_tells_what_is_in_a_set_and_draws_its_mean_and_its_images(
    call, image_folder, tiny_images, tmp_path
):
    out = tmp_path / "sheet.png"
    code, said, _ = call("data", image_folder, "--image-size", 16, "--channels", 1, "--out", out)
    assert code == 0
    assert "20 images, 1 x 16 x 16, 5,120 bytes" in said
    assert "sheet.png" in said
    with Image.open(out) as picture:
        sheet = np.asarray(picture.convert("L"))
    tiles = [sheet[18 * (k // 8) :, 18 * (k % 8) :][:16, :16] for k in range(21)]
    np.testing.assert_allclose(tiles[0], tiny_images[:, 0].double().mean(0), rtol=0, atol=1)
    for tile, image in zip(tiles[1:], tiny_images[:, 0].numpy(), strict=True):
        np.testing.assert_array_equal(tile, image)


def test_data_lists_the_first_hundred_classes(call, tmp_path, replace_dataset):
    images = torch.zeros(240, 1, 16, 16, dtype=torch.uint8)
    names = tuple(f"kind {label}" for label in range(120))
    replace_dataset("mnist", datasets.ImageDataset(images, torch.arange(240) % 120, "mnist", "", "", names))
    code, said, _ = call("data", "mnist", "--image-size", 16, "--out", tmp_path / "sheet.png")
    assert code == 0
    assert "classes  120, of 2 to 2 images" in said
    assert "99  kind 99: 2 images" in said
    assert "kind 100" not in said
    assert "and 20 more classes" in said


@pytest.mark.filterwarnings("default")  # as outside the tests
def test_data_lists_classes_and_what_was_left_out(call, tmp_path):
    for k, name in enumerate(("ape/a", "ape/b", "cat/c")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 50 * k).save(tmp_path / "set" / f"{name}.png")
    (tmp_path / "set" / "cat" / "bad.png").write_bytes(b"")
    arguments = ["data", tmp_path / "set", "--out", tmp_path / "sheet.png"]
    code, said, complaint = call(*arguments)
    assert code == 0
    assert "classes  2, of 1 to 2 images" in said
    assert "left out cat/bad.png: is not an image" in said
    assert complaint.startswith("dcganlib: warning: 1 of 4 images")
    assert "left out 1 of 4 images: 1 × is not an image" in said
    assert "0  ape: 2 images" in said
    assert "1  cat: 1 images" in said
    code, _, complaint = call(*arguments, "--strict", "--force")
    assert code == 2
    assert "cannot read the image" in complaint


def test_data_replaces_no_picture_of_the_users_unless_told_to(call, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = Path(f"{image_folder.name}.png")
    name.write_bytes(b"mine")
    code, _, complaint = call("data", image_folder)
    assert code == 2
    assert f"{name} already exists; use --force" in complaint
    assert name.read_bytes() == b"mine"
    code, said, _ = call("data", image_folder, "--force")
    assert code == 0
    assert f"wrote {name}" in said
    with Image.open(name) as picture:
        assert picture.getexif()[SOFTWARE] == "dcganlib"
    code, _, complaint = call("data", image_folder, "--out", tmp_path / "a.txt")
    assert code == 2
    assert "must end as a picture does" in complaint


def test_data_tells_how_many_have_each_attribute_of_a_split(call, face_set, tmp_path):
    code, said, _ = call(
        *("data", "celeba", "--root", face_set, "--split", "all", "--center-crop", 148, "--max-images", 30),
        *("--image-size", 16, "--out", tmp_path / "sheet.png"),
    )
    assert code == 0
    found = datasets.load("celeba", root=face_set, split="all", max_images=30, image_size=16, center_crop=148)
    assert "30 images, 3 x 16 x 16" in said
    assert f"{found.has('Smiling').float().mean().item():.1%}  Smiling" in said
    assert found.licence in said


# What goes wrong


@pytest.fixture
def spoilt(tmp_path):
    """Folders that hold no set."""
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (broken / "photo.jpg").write_text("not an image", encoding="utf-8")
    return {"EMPTY": empty, "BROKEN": broken, "MISSING": tmp_path / "missing"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mnits"], ["'mnits'", "mnist-mini, mnist, stacked-mnist, fashion-mnist"]),
        (["MISSING"], ["missing", "neither a folder, nor a zip, nor a known dataset"]),
        (["EMPTY"], ["no images in", "empty"]),
        (["BROKEN"], ["none of the 1 images", "can be read", "photo.jpg"]),
        (["DISCS", "--batch-size", "0"], ["batch_size must be at least 1, got 0"]),
        (["DISCS", "--batch-size", "21"], ["batch_size 21 is more than the number of images, 20"]),
        (["DISCS", "--batch-size", "many"], ["--batch-size", "'many'"]),
        (["DISCS", "--steps", "0"], ["steps must be at least 1, got 0"]),
        (["DISCS", "--epochs", "-2"], ["epochs must be at least 1, got -2"]),
        (["DISCS", "--steps", "3", "--epochs", "1"], ["give steps or epochs, not both"]),
        (["DISCS", "--architecture", "stylegan"], ["'stylegan'", "dcgan-64"]),
        (["DISCS", "--image-size", "8"], ["image_size", "got 8"]),
        (["DISCS", "--channels", "2"], ["channels", "got 2"]),
        (["DISCS", "--base-channels", "-1"], ["base_channels must be at least 1, got -1"]),
        (["DISCS", "--base-channels", "100000000"], ["base_channels 100000000", "lower base_channels"]),
        (["DISCS", "--steps", "1" + 30 * "0"], ["steps must be at most 1,000,000,000, got 1000"]),
        (["DISCS", "--epochs", "1" + 30 * "0"], ["epochs must be at most 1,000,000,000, got 1000"]),
        (["DISCS", "--max-images", "1" + 30 * "0"], ["max_images must be at most", "got 1000"]),
        (["DISCS", "--center-crop", "-3"], ["center_crop must be at least 1, got -3"]),
        (["DISCS", "--sample-every", "1" + 30 * "0"], ["sample_every must be at most", "got 1000"]),
        (["DISCS", "--seed", "1" + 20 * "0"], ["seed", "100000000000000000000"]),
        (["DISCS", "--beta2", "nan"], ["beta2", "nan"]),
        (["DISCS", "--ema", "nan"], ["ema", "nan"]),
        (["DISCS", "--g-lr", "-1"], ["g_lr must be above 0", "-1.0"]),
        (["DISCS", "--beta1", "1"], ["beta1", "1.0"]),
        (["DISCS", "--prior", "cauchy"], ["prior", "'cauchy'"]),
        (["DISCS", "--precision", "float8"], ["precision", "'float8'"]),
        (["DISCS", "--seed", "-1"], ["seed", "-1"]),
        (["DISCS", "--checkpoint-every", "0"], ["checkpoint_every", "got 0"]),
        (["DISCS", "--sample-every", "0"], ["sample_every", "got 0"]),
        (["DISCS", "--device", "abacus"], ["device", "'abacus'"]),
    ],
)
def test_a_bad_train_says_why_in_one_line_and_leaves_nothing_behind(
    call, image_folder, spoilt, tmp_path, arguments, words
):
    places = spoilt | {"DISCS": image_folder}
    before = sorted(os.listdir(tmp_path))
    out = tmp_path / "run"
    code, said, complaint = call(
        "train", places.get(arguments[0], arguments[0]), *arguments[1:], "--out", out
    )
    assert code == 2
    assert said == ""
    assert all(word in complaint for word in words), complaint
    assert sorted(os.listdir(tmp_path)) == before


def test_a_missing_mnist_with_no_network_is_one_line_that_names_mnist_mini(call, tmp_path, monkeypatch):
    def no_network(*args, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr("dcganlib.datasets.mnist.download_url", no_network)
    code, _, complaint = call("train", "mnist", "--root", tmp_path / "data", "--out", tmp_path / "run")
    assert code == 2
    assert complaint.startswith("dcganlib: error: mnist is not in")
    assert "'mnist-mini'" in complaint
    assert not (tmp_path / "run").exists()


def test_a_used_folder_is_not_written_over(call, image_folder, trained):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    code, _, complaint = call("train", image_folder, *SMALL, "--steps", 1, "--out", trained)
    assert code == 2
    assert f"{trained} is there already" in complaint
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resume", "RUN", "--steps", "2"], ["at step 4 already: --steps must exceed 4, got 2"]),
        (["resume", "EMPTY"], ["is no run", "config.json"]),
        (["resume", "MISSING"], ["there is no run", "missing"]),
        (["sample", "RUN", "--out", "a.docx"], ["--out must end as a picture does", "'a.docx'"]),
        (["sample", "RUN", "--out", "picture"], ["--out must end", "'picture'"]),
        (["sample", "RUN", "--out", "no/such/folder/a.png"], ["no/such/folder/a.png"]),
        (["web", "RUN", "--out", "a.png"], ["--out must end as a web page does, in .html, got 'a.png'"]),
        (["web", "RUN", "--best"], ["has no best.safetensors"]),
        (["web", "no-such-run"], ["there is no run no-such-run"]),
        (["sample", "RUN", "--n", "0"], ["n must be at least 1, got 0"]),
        (["sample", "RUN", "--n", "1000000000000"], ["n must be at most 1,000,000"]),
        (["sample", "RUN", "--n", "many"], ["--n", "'many'"]),
        (["sample", "RUN", "--columns", "0"], ["columns must be at least 1, got 0"]),
        (["sample", "RUN", "--seed", "100000000000000000000"], ["seed must be from 0 to below 2**62"]),
        (["sample", "RUN", "--label", "cat"], ["label must be absent: the run has no classes, got cat"]),
        (
            ["evaluate", "RUN", "--seed", "100000000000000000000"],
            ["seed must be from 0 to below 2**62, got 1"],
        ),
        (["evaluate", "RUN", "--repeats", "1000000000000"], ["repeats must be at most 1,000,000, got 1"]),
        (["classifier", "mnist", "--epochs", "0"], ["epochs must be at least 1, got 0"]),
        (["classifier", "mnist", "--seed", "-1"], ["seed must be at least 0, got -1"]),
        (["resume", "RUN", "--steps", "0"], ["steps must be at least 1, got 0"]),
        (["sample", "EMPTY"], ["generator.safetensors"]),
        (["sample", "no-such-run"], ["there is no run no-such-run"]),
        (["report", "no-such-run"], ["there is no run no-such-run"]),
        (["report", "EMPTY"], ["generator.safetensors"]),
        (["report", "RUN", "--out", "no/such/folder/a.html"], ["no/such/folder/a.html"]),
        (["export", "no-such-run"], ["there is no run no-such-run"]),
        (["export", "RUN", "--onnx", "no/such/folder/a.onnx"], ["no/such/folder/a.onnx"]),
        (["info", "MISSING"], ["there is no run"]),
        (["info", "EMPTY"], ["generator.safetensors"]),
        (
            ["fly"],
            ["Unrecognized options: fly", "data, train, resume, sample, web, evaluate, diagnose, report"],
        ),
        (["info", "--fly"], ["Unrecognized options: --fly"]),
        ([], ["Expected one of {data, train, resume", "report, export, classifier, info, doctor}"]),
        (["train"], ["Missing from dcganlib train", "mnist, fashion-mnist, stacked-mnist, mnist-mini"]),
    ],
)
def test_a_bad_request_says_why_in_one_line(call, trained, spoilt, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    places = spoilt | {"RUN": trained}
    before = sorted(os.listdir(tmp_path))
    code, said, complaint = call(*(places.get(word, word) for word in arguments))
    assert code == 2
    assert said == ""
    assert all(word in complaint for word in words), complaint
    assert sorted(os.listdir(tmp_path)) == before


def test_an_ending_that_pil_cannot_write_is_refused(call, trained, tmp_path):
    code, _, complaint = call("sample", trained, "--out", tmp_path / "a.psd")
    assert code == 2
    assert "--out" in complaint


def test_two_damaged_checkpoints_are_one_line(call, image_folder, tmp_path, capsys):
    call("train", image_folder, *SMALL, "--steps", 1, "--out", tmp_path / "run")
    for name in ("checkpoint.pt", "checkpoint-previous.pt"):
        path = tmp_path / "run" / name
        path.write_bytes(path.read_bytes()[:-2000])
    assert main(["resume", str(tmp_path / "run"), "--steps", "2"]) == 2
    complaint = capsys.readouterr().err
    assert "checkpoint.pt is no checkpoint, or is damaged" in complaint
    assert "checkpoint-previous.pt is no checkpoint, or is damaged" in complaint
    assert len(complaint.splitlines()) == 1


def test_only_commands_that_train_point_to_resume(call, trained, monkeypatch):
    def interrupted(*given, **options):
        raise KeyboardInterrupt

    for name in ("run", "resume", "save_sample"):
        monkeypatch.setattr(runs, name, interrupted)
    said = {
        words[0]: call(*words) for words in (("train", "mnist"), ("resume", trained), ("sample", "mnist"))
    }
    assert {code for code, _, _ in said.values()} == {130}
    assert said["sample"][2] == "dcganlib: interrupted"
    hint = "dcganlib: interrupted; `dcganlib resume DIR` goes on from the last checkpoint"
    assert said["train"][2] == said["resume"][2] == hint


@pytest.mark.parametrize("fast", [True, False])
def test_a_run_without_fast_leaves_the_memory_of_the_process_alone(
    call, image_folder, tmp_path, monkeypatch, fast
):
    calls = []
    monkeypatch.setattr(cpu_layers, "keep_memory", lambda: calls.append("kept"))
    asked = [] if fast else ["--no-fast"]
    assert call("train", image_folder, *SMALL, *asked, "--steps", 1, "--out", tmp_path / "run")[0] == 0
    assert call("resume", tmp_path / "run", "--steps", 2, "--device", "cpu")[0] == 0
    assert calls == ["kept", "kept"] * fast


def test_an_interrupt_is_no_error_and_points_to_resume(call, image_folder, tmp_path, monkeypatch):
    def interrupted(state, loader, steps):
        for record in train(state, loader, steps):
            yield record
            if record.step == 3:
                raise KeyboardInterrupt

    train = session.train
    out = tmp_path / "run"
    monkeypatch.setattr(session, "train", interrupted)
    code, _, complaint = call(
        "train", image_folder, *SMALL, "--steps", 9, "--checkpoint-every", 2, "--out", out
    )
    assert code == 130
    assert "dcganlib resume" in complaint
    monkeypatch.undo()
    assert call("resume", out, "--device", "cpu")[0] == 0
    assert [row["step"] for row in runs.read(out).history] == list(range(1, 10))


@pytest.mark.parametrize(
    "command", [[], ["train"], ["resume"], ["sample"], ["web"], ["classifier"], ["info"], ["doctor"]]
)
def test_help_is_on_standard_output(call, command):
    code, said, _ = call(*command, "--help")
    assert code == 0
    assert said.startswith("usage: dcganlib")


# The doctor

build = zoo.build


def spoil_weights(generator, discriminator):
    generator.blocks[0][0].weight.data.fill_(torch.nan)
    return generator, discriminator


def test_the_doctor_goes_through_all_that_a_run_needs(call, tmp_path, monkeypatch):
    monkeypatch.setenv("DCGANLIB_DATA", str(tmp_path))
    (tmp_path / "MNIST").mkdir()
    code, said, _ = call("doctor")
    assert code == 0
    lines = {line[:9].rstrip(): line[10:] for line in said.splitlines()}
    assert list(lines)[:6] == ["versions", "device", "data", "disk", "memory", "caches"]
    assert list(lines)[6:8] == ["compiler", "one step"]
    assert f"torch {version('torch')}" in lines["versions"]
    assert lines["data"].startswith(f"{tmp_path} has mnist, ")
    config = resolve(TrainConfig(), torch.device("cpu"))
    if not torch.cuda.is_available():
        assert f"(1 threads): trains in {config.precision}, with faster layers" in lines["device"]
    assert "GB free" in lines["disk"]
    assert "D's loss 0." in lines["one step"]
    assert said.endswith("all is well\n")


@pytest.mark.parametrize(
    ("place", "spoil", "line", "advice"),
    [
        (
            "shutil.disk_usage",
            lambda path: shutil._ntuple_diskusage(10, 9, 1),
            "disk      FAILS: OSError: only 0.00",
            "free some",
        ),
        (
            "dcganlib.runtime.files.writable",
            lambda path: False,
            "data      FAILS: PermissionError: nothing",
            "DCGANLIB_DATA",
        ),
        (
            "importlib.metadata.version",
            lambda name: {}[name],
            "versions  FAILS: KeyError: 'torch'",
            "install dcganlib",
        ),
        (
            "dcganlib.runtime.device.pick_device",
            lambda: 1 / 0,
            "device    FAILS: ZeroDivisionError",
            "--device cpu",
        ),
        ("dcganlib.zoo.build", lambda *a, **o: 1 / 0, "one step  FAILS: ZeroDivisionError", "torch anew"),
        (
            "dcganlib.zoo.build",
            lambda *args, **options: spoil_weights(*build(*args, **options)),
            "one step  FAILS: FloatingPointError: d_loss is nan",
            "torch anew",
        ),
    ],
)
def test_the_doctor_says_what_fails_and_what_to_do_and_goes_on(call, monkeypatch, place, spoil, line, advice):
    monkeypatch.setattr(place, spoil)
    code, said, _ = call("doctor")
    assert code == 1
    lines = said.splitlines()
    (found,) = [number for number, text in enumerate(lines) if text.startswith(line)]
    assert lines[found + 1].strip().startswith("what to do: ")
    assert advice in lines[found + 1]
    assert lines[-1].endswith("of 8 checks failed")
    assert [text[:9] for text in lines if text.startswith("one step")]


@pytest.mark.parametrize(
    ("place", "spoil", "line"),
    [
        (
            "dcganlib.runtime.memory.available_memory",
            lambda: 10**8,
            "memory    FAILS: MemoryError: only 0.10 GB",
        ),
        ("shutil.which", lambda name: None, "compiler  none, which --compile alone needs"),
        ("shutil.which", lambda name: f"/bin/{name}", "compiler  /bin/own, for --compile"),
        ("dcganlib.datasets.decode_cache.processors", lambda: 0, "only 0 processors are available"),
    ],
)
def test_the_doctor_sees_the_limits_of_a_container(call, monkeypatch, tmp_path, place, spoil, line):
    monkeypatch.setenv("CXX", "own")
    monkeypatch.setenv("DCGANLIB_DATA", str(tmp_path))
    monkeypatch.setattr(zoo, "build", lambda *a, **o: 1 / 0)  # the step is tried by another test
    monkeypatch.setattr(place, spoil)
    assert line in call("doctor")[1]


# Where the output goes


class Console(io.TextIOWrapper):
    """A stream that keeps what is written, in some code page."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def some_command(monkeypatch):
    """Let ``info`` do something else: ``some_command(function)``."""

    def make(function):
        monkeypatch.setattr(cli.Info, "run", lambda self: function() or 0)

    return make


@pytest.mark.parametrize(
    ("page", "expected"),
    [("cp932", "Fr\\xe9chet"), ("cp1251", "Fr\\xe9chet"), ("ascii", "Fr\\xe9chet"), ("cp1252", "Fréchet")],
)
def test_what_a_code_page_lacks_is_written_as_an_escape(monkeypatch, some_command, page, expected):
    console = Console(page)
    monkeypatch.setattr(sys, "stdout", console)
    some_command(lambda: print("Fréchet"))
    assert main(["info"]) == 0
    assert console.text() == expected + os.linesep


def test_a_reader_that_has_gone_ends_the_command_quietly(monkeypatch, capfd, some_command):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        some_command(lambda: print("nobody reads this"))
        assert main(["info"]) == 141
        with pytest.raises(SystemExit):
            main(["--help"])  # into the place of what was closed
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a full disk at hand")
def test_output_into_a_full_disk_is_an_error_in_one_line(monkeypatch, capsys, some_command):
    some_command(lambda: print("there is no room for this"))
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["info"]) == 2
    assert capsys.readouterr().err == "dcganlib: error: [Errno 28] No space left on device\n"


@pytest.mark.filterwarnings("default")  # as outside the tests
def test_closed_streams_end_no_command(monkeypatch, some_command):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)

    def write():
        print("a")
        sys.stderr.write("b")
        warnings.warn("c", stacklevel=1)

    some_command(write)
    assert main(["info"]) == 0
    for stream in (sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nSee the documentation"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        RuntimeError("A worker process was unexpectedly terminated. This could be excessive memory usage"),
    ],
)
def test_what_does_not_fit_into_memory_is_said_in_one_line(call, monkeypatch, error):
    def fail(options):
        raise error

    monkeypatch.setattr(cli.Info, "run", fail)
    code, said, complaint = call("info")
    assert (code, said) == (2, "")
    assert complaint.startswith("dcganlib: error: out of memory: use fewer or smaller images at a time (")
    assert "documentation" not in complaint


def test_an_error_that_is_none_of_the_users_keeps_its_traceback(monkeypatch, some_command):
    def fail():
        raise RuntimeError("a fault of the package")

    some_command(fail)
    with pytest.raises(RuntimeError, match="a fault of the package"):
        main(["info"])


def test_evaluate_writes_its_measures_and_prints_them(call, trained, tmp_path):
    out = tmp_path / "measured.json"
    options = {
        "--samples": 10,
        "--repeats": 2,
        "--seed": 7,
        "--out": out,
        "--root": tmp_path,
        "--device": "cpu",
    }
    code, said, bar = call(
        "evaluate", trained, "--no-ema", *(word for pair in options.items() for word in pair)
    )
    assert code == 0
    assert "1-NN accuracy, fake" in said
    assert said.endswith(f"wrote {out}\n")
    assert "step" in bar
    content = json.loads(out.read_text(encoding="utf-8"))
    assert (content["samples"], content["seeds"], content["generator"]) == (10, [7, 8], "last step")
    assert not (trained / "evaluation.json").exists()
    code, said, error = call("evaluate", trained, "--inception")
    assert (code, said) == (2, "")
    assert "colour images" in error
