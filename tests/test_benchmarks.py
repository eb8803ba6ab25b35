"""The table of what each choice is worth: its recipes, their runs, and the measures that are stored."""

import json
from dataclasses import asdict, replace
from itertools import product

import pytest
import recipes
import torch
from recipes import ABLATIONS

from dcganlib import datasets, models
from dcganlib.runtime import checkpoint, files

BY_NAME = {recipe.name: recipe for recipe in ABLATIONS}
PAPER = BY_NAME["paper"]

# Weights that train, as counted for the tutorials' own networks at their full width.
PUBLISHED = {
    "flux-published": (2_231_168, 138_561),
    "flux-as-written": (2_231_168, 138_561),
    "flux-draft": (2_231_361, 138_561),
    "keras": (414_273 - 384, 138_561),  # less the biases under its batch norms, which get no gradient
}
TUTORIALS = {"flux-published", "flux-draft", "celeba-post", "d2l", "keras", "flux-as-written"}

every_recipe = pytest.mark.parametrize("recipe", ABLATIONS, ids=lambda recipe: recipe.name)


@pytest.fixture(scope="module")
def digits(mnist_mini):
    """200 real digits."""
    return mnist_mini.images[::25]


@pytest.fixture
def narrow(monkeypatch):
    """Networks that train in no time."""
    monkeypatch.setattr(recipes, "WIDTH", 2)


@pytest.fixture(scope="module")
def stored():
    return json.loads(recipes.RESULTS.read_text(encoding="utf-8"))


def changed(recipe):
    """In what a recipe is not the paper's: "G", "D", a setting's name, or how the losses are made."""
    players = zip("GD", recipe.layers(), PAPER.layers(), strict=True)
    found = {player for player, own, base in players if own != base}
    base = asdict(PAPER.config(0))
    found |= {name for name, value in asdict(recipe.config(0)).items() if value != base[name]}
    return found | {
        name
        for name in ("reduction", "saturating", "trained")
        if getattr(recipe, name) != getattr(PAPER, name)
    }


def pair(recipe):
    g_layers, d_layers = recipe.layers()
    return models.Generator(28, 1, layers=g_layers), models.Discriminator(28, 1, layers=d_layers)


# Recipes


@every_recipe
def test_a_recipe_draws_judges_and_trains_on_digits(recipe, digits, narrow, tmp_path):
    about = recipes.run(recipe, 0, digits, tmp_path, budget=64)
    assert about["steps"] == (64 // recipe.config(0).batch_size if recipe.trained else 0)
    assert about["diverged"] is None
    for name in ("generator", "ema"):
        generator, said = checkpoint.load_generator(tmp_path / f"{name}.safetensors")
        assert models.generate(generator, torch.zeros(2, 100)).shape == (2, 1, 28, 28)
        assert said == about == json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_tutorials_networks_have_as_many_weights_as_its_own(name, monkeypatch):
    monkeypatch.setattr(recipes, "WIDTH", 64)
    assert tuple(models.count_parameters(network) for network in pair(BY_NAME[name])) == PUBLISHED[name]


@pytest.mark.parametrize("recipe", [r for r in ABLATIONS if r.name not in TUTORIALS], ids=lambda r: r.name)
def test_a_row_for_one_choice_changes_the_networks_the_rates_or_the_loss_but_not_two_of_them(recipe):
    kinds = {"G": "networks", "D": "networks", "reduction": "loss", "saturating": "loss"}
    found = {kinds.get(name, "settings") for name in changed(recipe)}
    assert len(found) == (0 if recipe is PAPER else 1)


@every_recipe
def test_the_table_names_each_number_that_a_recipe_sets(recipe):
    numbers = {
        name: value for name, value in recipe.train.items() if name in ("g_lr", "d_lr", "beta1", "batch_size")
    }
    said = recipe.what.replace("as published", BY_NAME["flux-published"].what)
    assert [value for value in numbers.values() if str(value) not in said] == []
    assert recipe.train.get("g_lr") == recipe.train.get("d_lr")


def test_the_papers_recipe_is_the_papers():
    config = PAPER.config(0)
    assert (config.g_lr, config.d_lr, config.beta1, config.beta2) == (2e-4, 2e-4, 0.5, 0.999)
    for layers, bare in zip(PAPER.layers(), ({3}, {0, 2}), strict=True):  # G's output; D's input and output
        assert {position for position, layer in enumerate(layers) if layer.norm is None} == bare
        assert not any(layer.dropout for layer in layers)


def test_the_keras_recipe_has_the_notebooks_sizes_and_prior():
    generator, _ = pair(BY_NAME["keras"])
    assert generator.sizes == [1, 4, 11, 28]
    assert asdict(BY_NAME["keras"].config(0)).items() - asdict(PAPER.config(0)).items() == {
        ("prior", "uniform")
    }


def test_without_padding_the_celeba_posts_d_never_looks_at_the_last_two_rows_and_columns():
    _, discriminator = pair(BY_NAME["celeba-post"])
    models.init_weights(discriminator, torch.Generator().manual_seed(0)).eval()
    image = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(1)).requires_grad_()
    discriminator(image).sum().backward()
    seen = image.grad[0, 0] != 0
    assert seen[:26, :26].all()
    assert seen.sum() == 26 * 26


def test_every_recipe_that_is_trained_sees_as_many_images():
    assert {r.steps() * r.config(0).batch_size for r in ABLATIONS if r.trained} == {16_000}


def test_recipes_of_the_same_networks_start_from_the_same_weights(digits, narrow, tmp_path):
    drawn = []
    for index, (name, seed) in enumerate([("paper", 0), ("lr-0.001", 0), ("summed-loss", 0), ("paper", 1)]):
        folder = tmp_path / str(index)
        folder.mkdir()
        recipes.run(BY_NAME[name], seed, digits, folder, budget=0)
        weights = checkpoint.load_generator(folder / "generator.safetensors")[0].state_dict()
        drawn.append(torch.cat([weight.flatten() for weight in weights.values()]))
    assert drawn[0].equal(drawn[1])
    assert drawn[0].equal(drawn[2])
    assert not drawn[0].equal(drawn[3])


# Runs


def test_both_generators_of_a_run_are_read_back_by_the_library(digits, narrow, tmp_path):
    recipes.run(PAPER, 3, digits, tmp_path, budget=64)
    for name in ("generator", "ema"):
        _, about = checkpoint.load_generator(tmp_path / f"{name}.safetensors")
        assert (about["train"]["seed"], about["steps"]) == (3, 4)


def test_a_run_that_diverges_is_a_result_and_keeps_no_weights(digits, narrow, tmp_path):
    wild = replace(PAPER, train={"g_lr": 1e30, "d_lr": 1e30})
    about = recipes.run(wild, 0, digits, tmp_path, budget=640)
    assert about["steps"] < 10
    assert f"at step {about['steps']}" in about["diverged"]
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "history.csv"}


def test_runs_that_are_there_or_in_work_elsewhere_are_left_alone(digits, narrow, tmp_path, capsys):
    there, elsewhere = tmp_path / "paper-0", tmp_path / "no-norm-0"
    there.mkdir()
    (there / "config.json").write_text("kept", encoding="utf-8")
    elsewhere.mkdir()
    with files.locked(elsewhere):
        recipes.train_all(tmp_path, [PAPER, BY_NAME["no-norm"], BY_NAME["keras"]], [0], digits, budget=64)
    assert (there / "config.json").read_text(encoding="utf-8") == "kept"
    assert not (elsewhere / "config.json").exists()
    assert capsys.readouterr().out.startswith("keras-0: 4 steps, ")


# Measures


def test_measures_are_taken_of_both_generators_and_once(
    digits, mnist_mini, narrow, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(datasets, "load", lambda name, **options: mnist_mini)
    chosen = [PAPER, BY_NAME["flux-as-written"]]
    recipes.train_all(tmp_path, chosen, [0], digits, budget=128)
    judge, floor = recipes.make_judge("mnist", None, 100)
    rows = recipes.measure_all(tmp_path, chosen, [0], judge, 100)
    assert [(row["recipe"], row["weights"]) for row in rows] == [
        (name, weights) for name in ("paper", "flux-as-written") for weights in ("last", "ema")
    ]
    grey = rows[2]
    assert grey["spread"] < 0.02 < 0.3 < floor["spread"] < 0.5
    assert grey["frechet"] > 10 * floor["frechet"]
    assert grey["d_loss"] is None
    assert 0.1 < rows[0]["d_loss"] < 2
    capsys.readouterr()
    assert recipes.measure_all(tmp_path, chosen, [0], judge, 100) == json.loads(json.dumps(rows))
    assert capsys.readouterr().out == ""


def test_the_stored_measures_have_a_row_for_each_recipe_seed_and_kind_of_weights(stored):
    found = [(row["recipe"], row["seed"], row["weights"]) for row in stored["rows"]]
    assert len(stored["seeds"]) >= 3
    assert found == list(product(BY_NAME, stored["seeds"], ("last", "ema")))
    assert {row["recipe"]: row["what"] for row in stored["rows"]} == {r.name: r.what for r in ABLATIONS}
    for row in stored["rows"]:
        assert row["diverged"] or row["steps"] == BY_NAME[row["recipe"]].steps()


def test_the_table_shows_the_median_of_the_seeds_and_the_best_recipe_first(stored):
    """The row in the middle of three is known: it is made so."""
    made = json.loads(json.dumps(stored))
    frechet = {"paper": (8.0, 2.0, 5.0), "dropout": (1.25, 90.0, 1.0)}  # medians 5 and 1.25, means 5 and 30.8
    made["rows"] = [row for row in made["rows"] if row["recipe"] in frechet]
    made["seeds"] = [0, 1, 2]
    for row in made["rows"]:
        row |= {"diverged": None, "frechet": frechet[row["recipe"]][row["seed"]]}
    for block in recipes.table(made).split("ema weights"):
        lines = [line.split() for line in block.splitlines() if line.split()[:1] in (["paper"], ["dropout"])]
        assert [line[:2] for line in lines] == [["dropout", "1.25"], ["paper", "5.00"]]


def test_the_table_tells_of_runs_that_diverged(stored):
    changed = json.loads(json.dumps(stored))
    changed["rows"] = [row for row in changed["rows"] if row["seed"] < 2]
    for row in changed["rows"]:
        if row["recipe"] == "keras" or (row["recipe"], row["seed"]) == ("paper", 1):
            row["diverged"] = "d_loss is nan at step 7"
    for block in recipes.table(changed).split("ema weights"):
        lines = [line for line in block.splitlines() if line]
        assert lines[-1].split() == ["keras", "2", "diverged"]
        assert next(line for line in lines if line.startswith("paper")).endswith("1 diverged")
