"""The benchmark of probes: its supervised rival, its tables, and the stored measures."""

import json
from dataclasses import replace
from itertools import product

import probes as benchmark
import pytest
import torch

from dcganlib import datasets, runs
from dcganlib.datasets import ImageDataset


@pytest.fixture
def stripes(rng):
    """Two classes of 28-pixel images, upright and lying stripes, in noise."""

    def make(n, seed):
        labels = torch.arange(n) % 2
        images = torch.randint(100, (n, 1, 28, 28), generator=rng(seed)).to(torch.uint8)
        images[labels == 0, :, ::4] += 120
        images[labels == 1, :, :, ::4] += 120
        return ImageDataset(images, labels, "stripes", "", "", ("upright", "lying"))

    return make


def test_the_supervised_network_learns_what_is_easy(stripes):
    assert benchmark.supervised_error(4, stripes(20, 0), stripes(40, 1), 20, 0) < 0.1


def test_the_supervised_network_learns_from_the_labels_that_it_is_given(stripes):
    swapped = stripes(20, 0)
    swapped = replace(swapped, labels=1 - swapped.labels)
    assert benchmark.supervised_error(4, swapped, stripes(40, 1), 20, 0) > 0.9


def test_the_table_has_the_mean_and_the_range_over_the_seeds():
    row = {"set": "mnist", "source": "trained D", "labels": 100}
    measured = {
        "features": {"labels": [100], "rows": [row | {"error": error} for error in (10.0, 14.0, 12.0)]},
        "modes": {
            "published": benchmark.PUBLISHED,
            "rows": [
                {"name": "dcgan-28", "modes": 900, "kl": 0.5},
                {"name": "dcgan-28", "modes": 950, "kl": 0.3},
            ],
        },
        "birthday": {
            "rows": [
                {"set": "mnist", "name": "few", "first_duplicates": [3, None], "pairs": 48},
                {"set": "mnist", "name": "few", "first_duplicates": [4], "pairs": 6},
                {"set": "mnist", "name": "real", "first_duplicates": [None], "pairs": 45},
            ]
        },
    }
    lines = [line.split() for line in benchmark.table(measured).splitlines() if line]
    assert ["mnist,", "trained", "D", "12.0", "(10.0-14.0)"] in lines
    assert ["dcgan-28", "925", "(900-950)", "0.400", "(0.300-0.500)"] in lines
    assert ["mnist,", "few", "2", "54", "27"] in lines
    assert ["mnist,", "real", "0", "45", "above", "15"] in lines


def test_a_part_is_measured_once_for_each_scale(tmp_path):
    asked = []
    other = replace(benchmark.QUICK, width=8)
    for scale in (benchmark.QUICK, benchmark.QUICK, other):
        found = benchmark.reused("part", lambda scale: asked.append(scale) or {"rows": (1,)}, tmp_path, scale)
        assert found == {"rows": [1]}
    assert asked == [benchmark.QUICK, other]


def test_only_the_whole_is_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["probes.py", "--out", str(tmp_path / "out"), "--only", "modes", "--store"]
    )
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "only all parts together are stored" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_each_draw_of_samples_is_new(tiny_pair, rng):
    generator, _ = tiny_pair()
    source = rng(0)
    first, second = (benchmark._samples(generator, source, 3) for _ in range(2))
    assert first.shape == (3, 1, 16, 16)
    assert first.dtype == torch.uint8
    assert not first.equal(second)


# --- What is stored


@pytest.fixture(scope="module")
def stored():
    return runs.results("probes")


def test_the_stored_errors_are_of_every_source_seed_and_number_of_labels(stored):
    rows = stored["features"]["rows"]
    sources = ("trained D", "untrained D", "pixels", "supervised network")
    found = {(row["set"], row["seed"], row["source"], row["labels"]) for row in rows}
    assert found == set(product(benchmark.SETS, range(3), sources, stored["features"]["labels"]))
    assert len(found) == len(rows)
    assert all(0 < row["error"] < 90 for row in rows)


def test_the_stored_coverage_has_three_seeds_and_a_floor(stored):
    rows = stored["modes"]["rows"]
    assert [(row["name"], row["seed"]) for row in rows] == [
        ("real", 0),
        *(("dcgan-28", seed) for seed in range(3)),
    ]
    floor = 999 / (2 * stored["modes"]["samples"])
    assert rows[0]["modes"] == 1000
    assert floor < rows[0]["kl"] < 3 * floor
    assert all(rows[0]["kl"] < row["kl"] for row in rows[1:])


def test_the_stored_birthday_tests_find_a_thousand_images_again(stored):
    rows = stored["birthday"]["rows"]
    for data in benchmark.SETS:
        of_it = [row for row in rows if (row["set"], row["name"]) == (data, "1,000 real images")]
        found = sum(end is not None for row in of_it for end in row["first_duplicates"])
        assert found == 15
        assert 500 < sum(row["pairs"] for row in of_it) / found < 2000  # four standard errors


def test_the_stored_table_prints(stored, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["probes.py", "--table"])
    benchmark.main()
    assert capsys.readouterr().out.strip() == benchmark.table(json.loads(json.dumps(stored))).strip()
    assert datasets.find_entry(benchmark.STACKED).channels == 3
