"""The benchmark behind the stored runs: its plan, and that the package holds what it chose."""

import pytest
import stored_runs as benchmark
import torch

from dcganlib import runs, zoo
from dcganlib.config import DataConfig, RunConfig, TrainConfig
from dcganlib.evaluation import classifier, evaluate, metrics
from dcganlib.latents import sample_z

ROWS = runs.results("stored_runs")["rows"]
ALL = [(one, seed) for one in benchmark.CANDIDATES for seed in one.seeds]


def test_every_candidate_can_be_built_and_its_rates_fall_in_the_second_half():
    for one, seed in ALL:
        config = one.config(seed)
        train = config.train
        assert (train.decay_start, train.decay_start + train.decay_steps) == (one.steps // 2, one.steps)
        assert (train.seed, train.batch_size, config.data.data) == (seed, 128, one.data)
        zoo.build(config.model.architecture, base_channels=config.model.base_channels, device="meta")


def test_the_stored_table_has_each_run_of_the_plan_once():
    assert [(row["run"], row["steps"], row["seed"]) for row in ROWS] == [
        (one.name, one.steps, seed) for one, seed in ALL
    ]
    assert [row["summary"] for row in ROWS] == [benchmark.describe(one.settings) for one, _ in ALL]
    assert len(benchmark.table(ROWS).splitlines()) == len(ROWS) + 1


@pytest.mark.parametrize("data", benchmark.LONG)
def test_the_stored_run_is_the_one_that_unseen_images_chose(data):
    long = [row for row in ROWS if row["data"] == data and row["steps"] == benchmark.LONG[data]]
    assert len({row["seed"] for row in long}) >= 3
    best = min(long, key=lambda row: row["to_unseen_images"])
    (chosen,) = [one for one in benchmark.CANDIDATES if one.name == best["run"]]
    wanted, stored = chosen.config(best["seed"]), runs.read(data).config
    assert (stored.model, stored.train) == (wanted.model, wanted.train)
    assert (stored.steps, stored.sample_every, stored.data.mirror) == (
        wanted.steps,
        wanted.sample_every,
        wanted.data.mirror,
    )


def test_samples_are_compared_with_unseen_and_with_training_images(tmp_path, mnist_mini, monkeypatch):
    config = RunConfig(
        DataConfig("mnist-mini", max_images=50),
        train=TrainConfig(batch_size=8, precision="float32", ema=0.5),
        steps=2,
    )
    folder = runs.run(config, tmp_path / "run", device="cpu")
    seen, unseen = mnist_mini.images[:300], mnist_mini.images[-200:]
    splits = {"train": seen, "test": unseen}

    class Split:
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

    monkeypatch.setattr(benchmark.datasets, "load", lambda name, *, root, split="train": Split(splits[split]))
    measured = benchmark.measure(folder, "mnist", None, torch.device("cpu"))
    judge = classifier.load("mnist")
    z = sample_z(200, rng=torch.Generator().manual_seed(4321))
    fake = metrics.extract(judge, evaluate.draw(runs.read(folder).ema_generator, z))
    real = metrics.extract(judge, unseen)
    assert measured["to_unseen_images"] == pytest.approx(metrics.frechet_distance(real, fake), abs=1e-3)
    assert measured["frechet"] != measured["to_unseen_images"]
    assert 0 <= measured["precision"] < 0.5
    assert measured["d_loss"] == pytest.approx(
        sum(row["d_loss"] for row in runs.read(folder).history) / 2, abs=1e-3
    )
