"""The benchmark of chapter 9: its choice of settings, its rows and table, and the stored measures."""

import json
from dataclasses import replace
from itertools import product

import ladder as benchmark
import pytest
import recipes

from dcganlib import datasets, runs, zoo

BY_NAME = {rung.name: rung for rung in benchmark.RUNGS}
FEW = tuple(BY_NAME[name] for name in ("dcgan", "relativistic", "averaged"))


@pytest.fixture(scope="module")
def stored():
    return runs.results("ladder")


@pytest.fixture
def climbed(mnist_mini, monkeypatch, tmp_path):
    """A climb of three rungs, two tries each, in two steps of tiny networks."""
    monkeypatch.setattr(recipes, "WIDTH", 4)
    monkeypatch.setattr(datasets, "load", lambda name, **options: mnist_mini)
    rungs = [replace(rung, tries=rung.tries[:2]) for rung in FEW]
    return lambda: benchmark.climb(tmp_path, rungs, [0], None, 2, 50)


def test_a_climb_has_a_row_for_each_rung_and_does_its_work_once(climbed, capsys):
    found = climbed()
    assert len(found["tries"]) == 4  # averaged weights try nothing of their own
    for measured in found["sets"].values():
        assert [row["rung"] for row in measured["rows"]] == ["dcgan", "relativistic", "averaged"]
        _, last, averaged = measured["rows"]
        assert last["frechet_by_weights"] == averaged["frechet_by_weights"]
        assert last["frechet"] == last["frechet_by_weights"]["last"]
        assert averaged["frechet"] == averaged["frechet_by_weights"]["ema"]
    capsys.readouterr()
    assert climbed() == found
    assert capsys.readouterr().out == ""


def test_the_best_of_the_tries_trains_the_rung(climbed):
    found = climbed()
    for name in ("dcgan", "relativistic"):
        best = min((one for one in found["tries"] if one["rung"] == name), key=lambda one: one["frechet"])
        for measured in found["sets"].values():
            (row,) = (row for row in measured["rows"] if row["rung"] == name)
            assert best["settings"].items() <= row["settings"].items()


def test_the_table_has_medians_ranges_and_speeds():
    row = {"rung": "dcgan", "diverged": None, "precision": 0.5, "recall": 0.4, "missing": [3]}
    rows = [row | {"frechet": value, "images_per_second": 100} for value in (30.0, 20.0, 21.0)]
    other = {"rung": "r1", "diverged": "step 3", "images_per_second": 50}
    lost = [other, other, row | {"rung": "r1", "frechet": 25.0, "images_per_second": 50}]
    floor = {"frechet": 1.0, "precision": 0.9, "recall": 0.8}
    measured = {"seeds": [0, 1, 2], "samples": 50, "sets": {"mnist": {"floor": floor, "rows": rows + lost}}}
    lines = [line.split() for line in benchmark.table(measured).splitlines()]
    assert ["dcgan", "21.00", "20.00", "-", "30.00", "0.50", "0.40", "1", "0/3", "1.00"] in lines
    assert ["r1", "25.00", "25.00", "-", "25.00", "0.50", "0.40", "1", "2/3", "0.50"] in lines


def test_a_rung_whose_runs_all_diverged_is_named_in_the_table():
    row = {"rung": "wgan-gp", "diverged": "step 3", "images_per_second": 50}
    floor = {"frechet": 1.0, "precision": 0.9, "recall": 0.8}
    measured = {"seeds": [0], "samples": 50, "sets": {"mnist": {"floor": floor, "rows": [row]}}}
    assert "wgan-gp         all diverged" in benchmark.table(measured).splitlines()


@pytest.mark.parametrize("rung", benchmark.RUNGS, ids=lambda rung: rung.name)
def test_a_rungs_architecture_and_settings_are_accepted(rung):
    assert rung.architecture in zoo.ARCHITECTURES
    for settings in rung.tries:
        assert rung.recipe("try", settings).config(0).batch_size == benchmark.BATCH


def test_the_stored_ladder_has_a_row_for_each_rung_seed_and_dataset(stored):
    expected = [(rung.name, seed) for rung, seed in product(benchmark.RUNGS, benchmark.SEEDS)]
    assert list(stored["sets"]) == list(benchmark.DATASETS)
    for measured in stored["sets"].values():
        assert [(row["rung"], row["seed"]) for row in measured["rows"]] == expected
        assert {row["what"] for row in measured["rows"]} == {rung.what for rung in benchmark.RUNGS}
    assert json.dumps(stored)


def test_averaged_weights_of_the_plain_dcgan_are_the_best_on_stored_digits(stored):
    ends = {}
    for row in stored["sets"]["mnist"]["rows"]:
        ends.setdefault(row["rung"], []).append(row["frechet_by_weights"]["ema"])
    winner = ends.pop("dcgan")
    assert max(winner) < min(min(values) for values in ends.values())


def test_the_stored_settings_are_the_best_of_the_tries(stored):
    for rung in benchmark.RUNGS:
        tries = [one for one in stored["tries"] if one["rung"] == (rung.chosen_as or rung.name)]
        best = min((one for one in tries if one["frechet"] is not None), key=lambda one: one["frechet"])
        for measured in stored["sets"].values():
            for row in measured["rows"]:
                if row["rung"] == rung.name:
                    common = best["settings"].keys() & row["settings"].keys()
                    assert {key: row["settings"][key] for key in common} == {
                        key: best["settings"][key] for key in common
                    }
