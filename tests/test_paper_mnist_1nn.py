"""The paper's MNIST test: labelled images that are drawn, the error they lead to, and the table."""

import json
from types import SimpleNamespace

import paper_mnist_1nn as benchmark
import pytest
import torch
from torch import nn

from dcganlib import datasets
from dcganlib.config import TrainConfig
from dcganlib.datasets import to_float


class Levels(nn.Module):
    """Draws class k as an even grey of level 20 k + 10, a little off by z."""

    num_classes, latent_dim = 10, 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, z, labels):
        levels = 20 * labels + 10 + z[:, 0].clamp(-1, 1).round()
        return to_float(levels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 28, 28))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    run = SimpleNamespace(
        generator=Levels(),
        ema_generator=Levels(),
        config=SimpleNamespace(train=TrainConfig(seed=3, prior="uniform")),
    )
    monkeypatch.setattr(benchmark.runs, "read", lambda path: run)
    return tmp_path


def test_as_many_images_of_each_class_are_drawn(folder):
    images, labels = benchmark.drawn(folder, ema=True, device=torch.device("cpu"))(25)
    assert images.dtype == torch.uint8
    assert images.shape == (25, 1, 28, 28)
    assert torch.bincount(labels).tolist() == [3] * 5 + [2] * 5
    assert torch.equal((images[:, 0, 0, 0].float() / 20 - 0.5).round().long(), labels)


@pytest.mark.parametrize("wrong", [0, 3])
def test_the_error_is_the_share_of_real_images_whose_nearest_drawn_image_has_another_label(folder, wrong):
    truth = torch.arange(10).repeat(2)
    queries = (20 * truth + 11).to(torch.uint8)[:, None, None, None].expand(-1, 1, 28, 28).contiguous()
    told = truth.clone()
    told[:wrong] = 9 - told[:wrong]
    device = torch.device("cpu")
    draw = benchmark.drawn(folder, ema=True, device=device)
    found = benchmark.errors(draw, [40, 20], queries, told, title="", device=device)
    assert found == {20: pytest.approx(100 * wrong / 20), 40: pytest.approx(100 * wrong / 20)}


def test_real_images_are_deformed_in_turn_and_slightly_ten_at_a_time():
    strokes = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    for k in range(3):  # three vertical strokes, at columns that differ
        strokes[k, 0, 6:22, 6 + 6 * k : 9 + 6 * k] = 255
    images, labels = benchmark.deformed(strokes, torch.arange(3), seed=5)(14)
    assert labels.tolist() == [0, 1, 2] * 4 + [0, 1]
    assert images.dtype == torch.uint8
    assert torch.equal(images[0], images[3])  # of the same ten
    assert not torch.equal(images[0], images[12])
    mass = images.double().sum((1, 2, 3))
    assert (mass > 0.7 * mass.mean()).all()
    assert (mass < 1.3 * mass.mean()).all()
    assert ((mass / strokes[0].double().sum() - 1).abs() < 0.35).all()
    columns = (images.double().sum((1, 2)) * torch.arange(28)).sum(1) / mass
    assert ((columns - (7 + 6 * labels)).abs() < 3).all()
    again, _ = benchmark.deformed(strokes, torch.arange(3), seed=5)(14)
    assert torch.equal(again, images)


def test_storing_one_row_anew_keeps_the_others():
    old = {"command": "all", "rows": [{"name": "real", "error": 1.0}, {"name": "GAN", "error": 2.0}]}
    new = {"command": "one", "set": "mnist", "rows": [{"name": "real", "error": 3.0}]}
    assert benchmark.with_others(new, old) == {
        "command": "all",
        "set": "mnist",
        "rows": [{"name": "real", "error": 3.0}, {"name": "GAN", "error": 2.0}],
    }


def test_the_table_has_a_line_for_each_set_and_the_mean_and_range_over_its_seeds():
    rows = [
        {"name": "real", "seed": 0, "count": 50_000, "error": 3.0},
        {"name": "DCGAN", "seed": 0, "count": 50_000, "error": 4.0},
        {"name": "DCGAN", "seed": 1, "count": 50_000, "error": 5.0},
        {"name": "DCGAN", "seed": 0, "count": 1_000_000, "error": 2.0},
    ]
    heading, real, dcgan = benchmark.table(rows, [50_000, 1_000_000]).splitlines()
    assert heading.split() == ["reference", "set", "seeds", "50,000", "1,000,000"]
    assert real.split() == ["real", "1", "3.00%", "-"]
    assert dcgan.split() == ["DCGAN", "2", "4.50%", "(4.00-5.00)", "2.00%"]


def test_a_run_keeps_its_learning_rate_for_three_eighths_and_then_lets_it_fall_to_its_end():
    for experiment in benchmark.EXPERIMENTS:
        config = experiment.config(2, experiment.steps)
        start = {6248: 2343, 18_744: 7029, 12_000: 4500}[experiment.steps]
        assert (config.decay_start, config.decay_start + config.decay_steps) == (start, experiment.steps)
        assert (config.seed, config.prior, config.weight_decay) == (2, "uniform", 2.5e-5)
        assert (config.batch_size, config.g_lr, config.d_lr) in [(64, 4e-4, 4e-4), (128, 8e-4, 8e-4)]


@pytest.mark.parametrize("asked", [[], ["--many", "40"], ["--only", "gan-28"]])
def test_what_is_stored_names_the_command_that_makes_it_again(asked, folder, monkeypatch):
    grey = (20 * torch.arange(10).repeat(2) + 11).to(torch.uint8)[:, None, None, None]
    labels = torch.arange(10).repeat(2)
    digits = datasets.ImageDataset(grey.expand(-1, 1, 28, 28).contiguous(), labels, "few", "", "")
    monkeypatch.setattr(benchmark.datasets, "load", lambda *what, **how: digits)
    monkeypatch.setattr(benchmark, "train", lambda *what: folder / "run")
    monkeypatch.setattr(benchmark.runs, "PRETRAINED", folder)
    monkeypatch.setattr("sys.argv", ["benchmark", "--samples", "20", "--store", *asked])
    benchmark.main()
    stored = json.loads((folder / "results" / benchmark.STORED).read_text(encoding="utf-8"))
    assert stored["command"] == " ".join(["python benchmarks/paper_mnist_1nn.py", *asked, "--store"])
