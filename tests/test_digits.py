"""The benchmark of digits: its plan, what is done again, and what is stored."""

import digits as benchmark
import pytest
from recipes import finished_run

from dcganlib import runs, zoo
from dcganlib.config import DataConfig, RunConfig, TrainConfig
from dcganlib.evaluation import classifier, evaluate, metrics


@pytest.fixture
def trained(tmp_path):
    """The folder of a run of two steps on digits, with averaged weights."""
    settings = TrainConfig(batch_size=8, precision="float32", ema=0.5)
    config = RunConfig(DataConfig("mnist-mini", max_images=50), train=settings, steps=2)
    return finished_run(config, tmp_path / "run", None, "cpu"), config


@pytest.mark.parametrize(("steps", "falls_after"), [(benchmark.SHORT, 1_250), (benchmark.LONG, 4_000)])
def test_rates_fall_to_0_after_half_of_a_short_run_and_four_tenths_of_a_long_one(steps, falls_after):
    for recipe in benchmark.RECIPES:
        config = recipe.config(steps, 3)
        assert (config.train.decay_start, config.train.decay_steps) == (falls_after, steps - falls_after)
        assert config.train.seed == 3
        zoo.build(config.model.architecture, image_size=28, channels=1, base_channels=32, device="meta")


def test_a_finished_run_is_reused_and_one_that_was_interrupted_goes_on(trained, monkeypatch):
    folder, config = trained
    calls = []
    monkeypatch.setattr(runs, "run", lambda *given, **options: calls.append("run"))
    monkeypatch.setattr(runs, "resume", lambda *given, **options: calls.append("resume"))
    assert finished_run(config, folder, None, "cpu") == folder
    assert calls == []
    (folder / "ema.gif").unlink()
    finished_run(config, folder, None, "cpu")
    assert calls == ["resume"]


def test_samples_are_compared_with_training_and_with_test_images(trained, mnist_mini):
    folder, _ = trained
    network = classifier.load("mnist")
    digits = metrics.extract(network, mnist_mini.images[:300])
    z = benchmark.sample_z(300, rng=benchmark.torch.Generator().manual_seed(4321))
    own = metrics.extract(network, evaluate.draw(runs.read(folder).ema_generator, z))
    to_digits, to_itself = benchmark.measure(folder, digits, own), benchmark.measure(folder, own, digits)
    assert to_digits["to_test_images"] == pytest.approx(0, abs=0.01)
    assert to_itself["frechet"] == pytest.approx(0, abs=0.01)
    assert to_digits["frechet"] == to_itself["to_test_images"] > 10
    assert (to_itself["precision"], to_itself["recall"]) == (1, 1)
    assert to_digits["precision"] < 0.2


def test_the_stored_table_has_every_recipe_and_every_seed():
    rows = runs.results("digits")["rows"]
    short = [row["recipe"] for row in rows if row["steps"] == benchmark.SHORT]
    assert short == [recipe.name for recipe in benchmark.RECIPES]
    long = [row for row in rows if row["steps"] == benchmark.LONG]
    assert [row["seed"] for row in long] == list(benchmark.SEEDS)
    assert len(benchmark.table(rows).splitlines()) == len(rows) + 1
    seeds = [(row["recipe"], row["seed"]) for row in runs.results("digits")["precisions"]]
    assert seeds == [(name, seed) for name in ("paper", "paper-float32") for seed in benchmark.SEEDS]
    assert benchmark.FLOAT32.config(benchmark.SHORT, 0).train.precision == "float32"
