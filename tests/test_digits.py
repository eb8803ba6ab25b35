"""The benchmark of digits: its plan, what is done again, and what is stored."""

import digits as benchmark
import pytest

from dcganlib import runs, zoo


@pytest.mark.parametrize("steps", [benchmark.SHORT, benchmark.LONG])
def test_every_recipe_is_a_run_whose_rates_end_at_0(steps):
    for recipe in benchmark.RECIPES:
        config = recipe.config(steps, 3)
        assert config.train.decay_start + config.train.decay_steps == config.steps == steps
        assert config.train.seed == 3
        zoo.build(config.model.architecture, image_size=28, channels=1, base_channels=32, device="meta")


def test_a_finished_run_is_measured_and_not_trained_again(tmp_path, mnist_mini, monkeypatch):
    monkeypatch.setattr(benchmark, "WIDTH", 4)
    monkeypatch.setattr(runs, "run", lambda config, out, root: made.append(config) or trained(config, out))
    made, real_run = [], runs.session.run

    def trained(config, out):
        small = benchmark.DataConfig("mnist-mini", max_images=200)
        return real_run(benchmark.RunConfig(small, config.model, config.train, steps=4), out, device="cpu")

    recipe = benchmark.Recipe("small", "small", "dcgan-28", {"batch_size": 8, "precision": "float32"})
    folder = benchmark.train(recipe, 4, 0, tmp_path, None)
    assert benchmark.train(recipe, 4, 0, tmp_path, None) == folder == tmp_path / "small-4-0"
    assert len(made) == 1
    known, held_out = mnist_mini.images[:300], mnist_mini.images[300:600]
    found = benchmark.measure(folder, known, held_out)
    assert found["frechet"] > 10
    assert found["precision"] < 0.2
    assert found == benchmark.measure(folder, known, held_out)


def test_the_stored_table_has_every_recipe_and_every_seed(capsys):
    rows = runs.results("digits")["rows"]
    short = [row["recipe"] for row in rows if row["steps"] == benchmark.SHORT]
    assert short == [recipe.name for recipe in benchmark.RECIPES]
    long = [row for row in rows if row["steps"] == benchmark.LONG]
    assert [row["seed"] for row in long] == list(benchmark.SEEDS)
    assert len(benchmark.table(rows).splitlines()) == len(rows) + 1
