"""The benchmark of small datasets: its runs, its table, and the stored measures."""

from itertools import product

import pytest
import recipes
import small_sets as benchmark

from dcganlib import runs


@pytest.fixture
def trained(mnist_mini, monkeypatch, tmp_path):
    """Two steps of tiny networks on 8 digits, in each way, and again."""
    monkeypatch.setattr(recipes, "WIDTH", 4)
    monkeypatch.setattr(benchmark, "SIZES", (8,))
    monkeypatch.setattr(benchmark, "BATCH", 4)
    seen = {}
    monkeypatch.setattr(
        benchmark,
        "train_all",
        lambda out, one, seeds, images, budget: (
            seen.setdefault(one[0].name, images),
            recipes.train_all(out, one, seeds, images, budget),
        ),
    )

    def judge(images):
        return {"frechet": float(len(images)), "precision": 0.5, "recall": 0.25}

    known, held_out = mnist_mini.images[:20], mnist_mini.images[20:60]
    return lambda: (benchmark.train_and_measure(tmp_path, known, held_out, judge, [0], steps=2), seen, known)


def test_each_way_trains_on_the_same_few_images_and_mirroring_adds_their_mirror_images(trained, capsys):
    rows, seen, known = trained()
    assert [(row["images"], row["way"]) for row in rows] == [(8, way) for way in benchmark.WAYS]
    assert {row["frechet"] for row in rows} == {40.0}
    assert seen["plain-8"].equal(known[:8])
    assert seen["augment-8"].equal(known[:8])
    assert len(seen["mirror-8"]) == 16
    assert seen["mirror-8"][8:].equal(known[:8].flip(-1))
    capsys.readouterr()
    assert trained()[0] == rows
    assert "steps" not in capsys.readouterr().out  # nothing was trained again


def test_only_one_way_augments():
    settings = {way: benchmark.recipe(way, 100).config(0).augment for way in benchmark.WAYS}
    assert settings == {"plain": "none", "mirror": "none", "augment": benchmark.SHIFTS}


def test_the_table_has_medians_and_ranges(monkeypatch):
    monkeypatch.setattr(benchmark, "SIZES", (100,))
    monkeypatch.setattr(benchmark, "WAYS", ("plain",))
    same = {"precision": 0.5, "recall": 0.4, "d_real": 0.9, "d_fake": 0.1, "memorized": 0.25, "ratio": 1.5}
    rows = [{"images": 100, "way": "plain", "frechet": value, **same} for value in (30.0, 20.0, 21.0)]
    line = benchmark.table(rows).splitlines()[1].split()
    assert line == [
        "100",
        "plain",
        "21.00",
        "20.00",
        "-",
        "30.00",
        "0.50",
        "0.40",
        "0.90",
        "0.10",
        "25.0%",
        "1.50",
    ]


def test_the_stored_rows_are_of_all_sizes_and_ways():
    stored = runs.results("small_sets")
    expected = list(product(stored["seeds"], benchmark.SIZES, benchmark.WAYS))
    assert [(row["seed"], row["images"], row["way"]) for row in stored["rows"]] == expected
