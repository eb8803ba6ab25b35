"""Model cards: what is in them, and whose they are."""

import json
import re
import shlex
import shutil

import pytest
from flat import TINY, run_config

from dcganlib import cli, models, runs, zoo
from dcganlib.config import TrainConfig
from dcganlib.evaluation import evaluate
from dcganlib.runs import model_card, session

CONFIG = TrainConfig(batch_size=4, g_lr=0.001, ema=0.9, prior="uniform", fast=False)


@pytest.fixture(scope="module")
def run_of_six(train_discs, quick_curves):
    return train_discs(steps=6)


@pytest.fixture
def folder(run_of_six, tmp_path):
    """A copy of a finished run of 6 steps."""
    return shutil.copytree(run_of_six, tmp_path / "run")


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_run_leaves_a_card_with_what_was_trained_on_what(folder, image_folder):
    card = card_of(folder)
    assert "draws grey images of 16 x 16 pixels" in card
    assert "for 6 steps of 4 images" in card
    counts = map(models.count_parameters, zoo.build("dcgan", image_size=16, channels=1, base_channels=4))
    assert "generator {:,} parameters, discriminator {:,}".format(*counts) in card
    assert "latents: 100 numbers, uniform distribution" in card
    assert "averaged weights (decay 0.9)" in card
    assert runs.read_config(folder).contents in card
    assert "licence: unknown" in card
    assert "None yet: `dcganlib evaluate`" in card
    assert str(image_folder) not in card  # a path says something about one machine and its user
    assert image_folder.name in card


def test_the_losses_of_the_card_are_those_of_the_history(folder):
    found = re.search(r"d_loss (\S+), g_loss (\S+), d_real (\S+), d_fake (\S+)\.", card_of(folder))
    rows = runs.read(folder).history
    for text, name in zip(found.groups(), ("d_loss", "g_loss", "d_real", "d_fake"), strict=True):
        assert float(text) == pytest.approx(sum(row[name] for row in rows) / len(rows), abs=6e-4)


def test_the_command_of_the_card_trains_the_same_run(folder, image_folder):
    config = runs.read_config(folder)
    command = re.search(r"^dcganlib train .*$", card_of(folder), re.M)[0]
    program, *words = shlex.split(command.replace(f"path/to/{image_folder.name}", str(image_folder)))
    assert program == "dcganlib"
    again = session._with_networks(cli.parse(words).config)
    assert again.train == config.train
    assert again.model == config.model
    assert vars(again.data) == vars(config.data)
    assert (again.steps, again.checkpoint_every, again.sample_every) == (6, 4, 2)


@pytest.mark.parametrize("name", runs.pretrained())
def test_the_stored_runs_have_their_cards_and_the_commands_give_their_settings(name):
    config, card = runs.read_config(name), card_of(runs.PRETRAINED / name)
    assert model_card.is_own(runs.PRETRAINED / name / "README.md")
    again = session._with_networks(cli.parse(shlex.split(model_card.train_command(config))[1:]).config)
    assert model_card.train_command(config) in card
    assert (again.train, again.model, again.data) == (config.train, config.model, config.data)
    assert f"{config.steps:,} steps" in card
    rows = runs.read(name).history
    text = model_card.describe(
        config, int(rows[-1]["step"]), rows, model_card.read_measures(runs.PRETRAINED / name)
    )
    assert card.startswith(text), "run: python tools/store_run.py --cards"


def test_the_code_of_a_card_draws(tmp_path, monkeypatch):
    """Of the conditional run, whose code has one input more."""
    card = card_of(runs.PRETRAINED / "mnist-conditional")
    code = re.search(r"```python\n(.*?)```", card, re.S)[1]
    monkeypatch.chdir(runs.PRETRAINED / "mnist-conditional")
    found = {}
    exec(code, found)
    assert found["images"].shape == (16, 1, 28, 28)
    assert found["images"].min() >= -1
    assert found["images"].std() > 0.1


def test_a_card_says_how_far_the_run_is_and_follows_when_it_goes_on(folder):
    assert runs.resume(folder, steps=8, device="cpu")
    assert "for 8 steps of 4 images" in card_of(folder)
    config = runs.read_config(folder)
    model_card.write(folder, config, 5, runs.read(folder).history[:5])
    assert "for 5 of 8 steps of 4 images" in card_of(folder)


def test_a_card_that_somebody_edited_is_left_alone(folder):
    text = card_of(folder).replace("## Limits", "## What I think\n\nIt is good.\n\n## Limits")
    (folder / "README.md").write_text(text, encoding="utf-8")
    runs.resume(folder, steps=8, device="cpu")
    assert card_of(folder) == text
    assert not model_card.update(folder)


@pytest.mark.parametrize(
    "text", ["", "\n", "mine", "# Mine\n\nwith lines\n", "a\n<!-- written by dcganlib -->\n"]
)
def test_another_readme_is_left_alone(folder, text):
    (folder / "README.md").write_text(text, encoding="utf-8")
    assert not model_card.update(folder)
    assert card_of(folder) == text


def test_line_ends_of_windows_are_no_edit(folder):
    text = card_of(folder)
    (folder / "README.md").write_bytes(text.replace("\n", "\r\n").encode())
    assert model_card.is_own(folder / "README.md")
    assert model_card.update(folder)


def test_a_start_that_was_killed_is_begun_again_but_not_over_an_edited_card(folder, image_folder):
    for path in folder.iterdir():
        if path.name not in ("README.md", "config.json", "real.png", "samples"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    config = run_config(str(image_folder), config=CONFIG, steps=1, **TINY)
    edited = card_of(folder) + "mine\n"
    (folder / "README.md").write_text(edited, encoding="utf-8")
    with pytest.raises(ValueError, match="is there already"):
        runs.run(config, folder, device="cpu")
    assert card_of(folder) == edited
    (folder / "README.md").write_text(edited.removesuffix("mine\n"), encoding="utf-8")
    runs.run(config, folder, device="cpu")
    assert "for 1 steps" in card_of(folder)


def test_evaluate_adds_its_measures_to_the_card(folder, monkeypatch):
    measures = {"precision": evaluate.Measure((0.5, 0.25), (0.75, 0.75))}
    monkeypatch.setattr(evaluate, "_measure", lambda study, seeds: (measures, {}))
    evaluate.evaluate(folder, device="cpu")
    assert "| precision | 0.375 | 0.75 | as real |" in card_of(folder)
    assert "means of 3 repeats" in card_of(folder)
    (folder / "README.md").write_text("mine", encoding="utf-8")
    evaluate.evaluate(folder, device="cpu")
    assert card_of(folder) == "mine"


def test_a_damaged_result_does_not_stop_a_run(folder):
    for content in ("{", "[]", json.dumps({"measures": 3})):
        (folder / "evaluation.json").write_text(content, encoding="utf-8")
        assert model_card.update(folder)
        assert "None yet" in card_of(folder)
