"""Generators as ONNX files: what ONNX Runtime draws with them is what PyTorch draws."""

import copy
import importlib.util
import json
import re

import numpy as np
import pytest
import torch

from dcganlib import cli, models, runs
from dcganlib.config import DataConfig, ModelConfig, ResolvedRunConfig, TrainConfig
from dcganlib.latents import sample_z
from dcganlib.runs import config_file, onnx_export
from dcganlib.runtime import checkpoint

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in onnx_export.NEEDED),
    reason="the extra `onnx` is not installed",
)


def write_run(folder, generator, *, class_names=(), train=None):
    """A run's folder, as far as an export reads it."""
    folder.mkdir()
    config = ResolvedRunConfig(
        data=DataConfig("mnist-mini", image_size=16, channels=1),
        model=ModelConfig("dcgan", 4, conditional=bool(class_names)),
        train=train or TrainConfig(),
        steps=1,
        sample_every=1,
        num_classes=len(class_names),
        class_names=class_names,
    )
    config_file.write(folder, config)
    columns = "step,epoch,d_loss,g_loss,d_real,d_fake"
    (folder / "history.csv").write_text(f"{columns}\n1,0,1,1,0.5,0.5\n", encoding="utf-8")
    checkpoint.save_generator(folder / "generator.safetensors", generator)
    return folder


def settle(generator):
    """Give batch norms the statistics of training, which an untrained generator lacks."""
    rng = torch.Generator().manual_seed(5)
    labels = torch.arange(64) % generator.num_classes if generator.num_classes else None
    with torch.no_grad():
        for _ in range(3):
            generator.train()(sample_z(64, generator.latent_dim, rng=rng), labels)
    return generator.eval()


@pytest.fixture(scope="module")
def exported(tiny_pair, tmp_path_factory):
    """A class-conditional run and its export; the other kind differs by one input less."""
    folder = tmp_path_factory.mktemp("export")
    generator = settle(tiny_pair(num_classes=3)[0])
    run = write_run(
        folder / "run", generator, class_names=("a", "é", "c"), train=TrainConfig(prior="uniform")
    )
    return generator, run, runs.export_onnx(run, folder / "g.onnx")


@needs_onnx
def test_the_file_draws_what_pytorch_draws_for_any_number_of_latents(exported):
    import onnxruntime

    generator, _, export = exported
    session = onnxruntime.InferenceSession(export.file, providers=["CPUExecutionProvider"])
    for count in (1, 7):
        z = sample_z(count, 8, rng=torch.Generator().manual_seed(count))
        labels = torch.arange(count) % 3
        (images,) = session.run(None, {"z": z.numpy(), "labels": labels.numpy()})
        expected = models.generate(generator, z, labels).numpy()
        assert images.dtype == np.float32
        assert images.shape == (count, 1, 16, 16)
        assert np.abs(images - expected).max() < 1e-5
        assert expected.std() > 0.01  # not one colour, which any network could match
    assert 0 <= export.difference < 1e-5
    assert export.inputs == {"z": ("N", 8), "labels": ("N",)}


@needs_onnx
def test_the_file_says_what_its_latents_classes_and_data_are(exported):
    import onnxruntime

    export = exported[2]
    session = onnxruntime.InferenceSession(export.file, providers=["CPUExecutionProvider"])
    shapes = {one.name: one.shape for one in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {"z": ["N", 8], "labels": ["N"], "images": ["N", 1, 16, 16]}
    about = session.get_modelmeta()
    assert about.producer_name == "dcganlib"
    assert about.custom_metadata_map["prior"] == "uniform"
    assert json.loads(about.custom_metadata_map["class names"]) == ["a", "é", "c"]
    assert about.custom_metadata_map["data licence"] == "CC BY-SA 3.0"


@needs_onnx
def test_one_file_holds_all_weights(exported):
    generator, _, export = exported
    assert {path.name for path in export.file.parent.iterdir()} == {"g.onnx", "run"}
    assert export.file.stat().st_size > 4 * models.count_parameters(generator)


@needs_onnx
def test_a_file_that_draws_other_images_is_not_kept(exported, tmp_path, monkeypatch):
    generator, _, export = exported
    other = copy.deepcopy(generator)
    with torch.no_grad():
        list(other.parameters())[-1].mul_(1.01)
    run = write_run(tmp_path / "run", other, class_names=("a", "b", "c"))
    before = tmp_path / "before.onnx"
    before.write_bytes(b"older")
    monkeypatch.setattr(
        onnx_export, "_write", lambda generator, metadata, path: path.write_bytes(export.file.read_bytes())
    )
    with pytest.raises(FloatingPointError, match=r"a pixel differs by 0\.\d+, more than 0\.0001; .*before"):
        runs.export_onnx(run, before)
    assert before.read_bytes() == b"older"
    assert {path.name for path in tmp_path.iterdir()} == {"before.onnx", "run"}


@needs_onnx
def test_a_difference_that_is_no_number_is_refused(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_write", lambda generator, metadata, path: path.write_bytes(b""))
    monkeypatch.setattr(onnx_export, "_difference", lambda generator, path: float("nan"))
    with pytest.raises(FloatingPointError, match="differs by nan"):
        runs.export_onnx(exported[1], tmp_path / "g.onnx")
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_the_command_names_the_file_after_the_run_and_says_how_far_it_is(
    exported, tmp_path, monkeypatch, capsys
):
    _, run, export = exported
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        onnx_export, "_write", lambda generator, metadata, path: path.write_bytes(export.file.read_bytes())
    )
    assert cli.main(["export", str(run)]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r"wrote run\.onnx: pixels differ from PyTorch's by at most \d+e-\d+\n", said)
    assert (tmp_path / "run.onnx").read_bytes() == export.file.read_bytes()
    (tmp_path / "run.onnx").write_bytes(b"mine")
    assert cli.main(["export", str(run)]) == 2
    assert "use --force to replace it, or --onnx to name another file" in capsys.readouterr().err
    assert (tmp_path / "run.onnx").read_bytes() == b"mine"
    assert cli.main(["export", str(run), "--force"]) == 0
    assert (tmp_path / "run.onnx").read_bytes() == export.file.read_bytes()


def test_without_the_extra_the_error_names_it(monkeypatch, tmp_path, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name.startswith("onnx") else find(name, *more),
    )
    assert cli.main(["export", "mnist", "--onnx", str(tmp_path / "g.onnx")]) == 2
    assert "pip install 'dcganlib[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
