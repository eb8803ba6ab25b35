"""The confusion table of ``diagnose``: its counts on made-up measurements, and the stored one."""

import json

import diagnosis as benchmark
import pytest

from dcganlib import runs
from dcganlib.config import DataConfig
from dcganlib.evaluation import diagnosis

WINS = {"d_real": 0.9999, "d_fake": 0.0001, "diversity": 0.1}


def test_hits_misses_and_false_alarms_are_counted_apart_by_seed():
    found = {
        ("d_wins", 0): WINS,
        ("d_wins", 1): {},
        ("d_wins", 8): WINS | {"lowest_pixel": 0.0},
        ("healthy", 0): {},
        ("healthy", 9): WINS,
    }
    failed, healthy = benchmark.confusion(found)
    assert failed == {
        "name": "d_wins",
        "seen": {"runs": 2, "hits": 1, "other": 0, "findings": {"d_wins": 1}},
        "held_out": {"runs": 1, "hits": 1, "other": 1, "findings": {"d_wins": 1, "data_range": 1}},
    }
    assert (healthy["seen"]["hits"], healthy["held_out"]["hits"]) == (1, 0)
    totals = benchmark.totals([failed, healthy], "seen")
    assert totals == {"failed_runs": 2, "hit_rate": 0.5, "healthy_runs": 1, "false_alarm_rate": 0}
    assert benchmark.totals([failed, healthy], "held_out")["false_alarm_rate"] == 1
    assert benchmark.spreads(found)["d_real"]["d_wins"] == pytest.approx([0.9999, 0.9999, 0.9999], abs=2e-4)


def test_the_stored_table_is_of_the_rules_that_there_are():
    stored = json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))
    bounds = [
        [sign.measurement, "below" if sign.below else "above", sign.bound, sign.sure]
        for rule in diagnosis.RULES
        for sign in rule.signs
    ]
    assert [sign for rule in stored["bounds"] for sign in rule["signs"]] == bounds
    rows = {row["name"]: row for row in stored["rows"]}
    for name in ("healthy", "stored", "young"):
        assert rows[name]["seen"]["hits"] == rows[name]["seen"]["runs"] > 1
    assert stored["seeds"] == list(range(benchmark.CHOSEN_ON))
    assert stored["held_out_seeds"] == [8, 9, 10]
    for row in stored["rows"]:
        counts = [row[part]["runs"] for part in ("seen", "held_out")]
        assert counts == ([len(runs.pretrained()), 0] if row["name"] == "stored" else [8, 3])


def test_the_images_of_a_recording_are_read_whatever_its_options_for_training():
    images = benchmark._images(DataConfig("mnist-mini", max_images=20, mirror=True))
    assert images.images.shape == (20, 1, 28, 28)
