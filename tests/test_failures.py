"""The recorded failures: each fault does what it is named for, and what is stored belongs to them."""

import json
import math
from dataclasses import replace
from functools import partial

import failures
import pytest
import torch
from failures import BY_NAME, FAILURES
from PIL import Image
from torch import nn

from dcganlib import datasets, losses, runs, train, zoo

every_failure = pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)


@pytest.fixture
def tiny(monkeypatch):
    """A healthy run that takes no time."""
    whole = failures.healthy
    small = {"steps": 2, "sample_every": 1, "train.batch_size": 4, "data.max_images": 40}
    small["model.base_channels"] = 2
    monkeypatch.setattr(failures, "healthy", lambda seed: failures.changed(whole(seed), small))


@pytest.fixture(scope="module")
def stored():
    return json.loads(failures.RESULTS.read_text(encoding="utf-8"))


def pair(name="dcgan-28"):
    with failures.faults_known():
        return zoo.build(name, base_channels=2, rng=torch.Generator().manual_seed(0))


def step_with(name, seed=0):
    """The state before and after one training step with a failure's fault."""
    state = train.init_state(*pair(), failures.healthy(seed).train)
    real = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before = [parameter.detach().clone() for parameter in state.generator.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        for function, fault in BY_NAME[name].faults.items():
            patch.setattr(train, function, fault)
        record = train.train_step(state, real)
    return state, before, record


def moved(state, before):
    return [not one.equal(two) for one, two in zip(state.generator.parameters(), before, strict=True)]


# Faults


def test_fakes_made_outside_of_the_graph_leave_g_as_it_was():
    assert not any(moved(*step_with("g_untrained")[:2]))
    assert all(moved(*step_with("bn_eval_statistics")[:2]))


def test_lost_statistics_are_those_of_a_network_that_has_seen_nothing():
    state, _, _ = step_with("bn_eval_statistics")
    norms = [module for module in state.generator.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 3
    assert all((norm.running_mean == 0).all() and (norm.running_var == 1).all() for norm in norms)


def test_without_detach_g_takes_a_second_step_that_helps_d():
    state, _, _ = step_with("no_detach")
    optimizers = (state.g_optimizer, vars(state)["of_d"], state.d_optimizer)
    for optimizer, network in zip(
        optimizers, (state.generator, state.generator, state.discriminator), strict=True
    ):
        assert {value["step"].item() for value in optimizer.state.values()} == {1}
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert held == {id(parameter) for parameter in network.parameters()}


def test_a_joined_batch_shares_its_statistics():
    _, discriminator = pair()
    real, fake = torch.ones(4, 1, 28, 28), -torch.ones(4, 1, 28, 28)
    optimizer = torch.optim.SGD(discriminator.parameters(), 0.0)
    _, real_logits, fake_logits = failures.joined_batch(
        discriminator, optimizer, real, fake, loss=losses.discriminator_loss
    )
    torch.testing.assert_close(torch.cat([real_logits, fake_logits]), discriminator(torch.cat([real, fake])))
    assert not torch.allclose(real_logits, discriminator(real))


@pytest.mark.parametrize("logit", [-50.0, 0.0, 50.0])
def test_with_two_sigmoids_ds_loss_has_a_floor(logit):
    real, fake = torch.tensor(logit).sigmoid(), torch.tensor(-logit).sigmoid()
    floor = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    assert floor == pytest.approx(0.5032, abs=1e-4)
    assert losses.discriminator_loss(real, fake) >= floor - 1e-6
    _, _, record = step_with("sigmoid_twice")
    assert 0.5 <= record.d_real <= 1 / (1 + math.exp(-1))


def test_the_minimax_loss_is_what_g_descends():
    _, _, record = step_with("d_wins")
    assert record.g_loss < 0


def test_a_logarithm_of_a_probability_is_lost_where_the_library_is_exact():
    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1.0))

        def forward(self, images):
            return self.weight * images.flatten()

    network, images = Sure(), torch.tensor([40.0])
    optimizer = torch.optim.SGD(network.parameters(), 0.0)
    exact = train.discriminator_step(network, optimizer, images, images, loss=losses.discriminator_loss)
    naive = failures.naive_logarithm(network, optimizer, images, images, loss=losses.discriminator_loss)
    assert (naive[0].item(), exact[0].item()) == (math.inf, 20.0)


def test_half_of_the_range_is_missing():
    found = datasets.ImageDataset(
        torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1), None, "", "", ""
    )
    pixels = datasets.to_float(failures.half_range(found).images).flatten().tolist()
    assert pixels == pytest.approx([0, 1], abs=0.005)


def test_shuffled_labels_are_the_same_labels_of_other_images(mnist_mini):
    found = failures.shuffled_labels(mnist_mini)
    assert found.images is mnist_mini.images
    assert found.labels.bincount().tolist() == [500] * 10
    assert 0.08 < (found.labels == mnist_mini.labels).double().mean() < 0.12


def test_swapped_channels_end_where_they_began_after_two_swaps():
    found = datasets.ImageDataset(torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8), None, "", "", "")
    once = failures.swapped_channel(found)
    assert once.images[:, 0].equal(found.images[:, 2])
    assert failures.swapped_channel(once).images.equal(found.images)


def test_the_blind_d_sees_21_rows_and_columns():
    _, discriminator = pair("blind-border")
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)).requires_grad_()
    discriminator.eval()(images).sum().backward()
    seen = (images.grad != 0).all(0)[0]
    assert seen[:21, :21].all()
    assert seen.sum() == 21 * 21


@pytest.mark.parametrize("name", failures.ARCHITECTURES)
def test_a_faulty_network_draws_and_judges_digits(name):
    generator, discriminator = pair(name)
    assert discriminator(generator(torch.zeros(2, 100))).shape == (2,)


def test_faults_are_known_only_while_a_failure_is_recorded():
    before = set(datasets.names()), set(zoo.ARCHITECTURES)
    with failures.faults_known():
        assert failures.DATASETS.keys() <= set(datasets.names())
        assert failures.ARCHITECTURES.keys() <= zoo.ARCHITECTURES.keys()
    assert (set(datasets.names()), set(zoo.ARCHITECTURES)) == before


# Recordings


@every_failure
def test_a_failure_differs_from_its_cure(failure):
    assert failure.changes or failure.faults
    assert failure.config("failed", 3).train.seed == failure.config("cured", 3).train.seed == 3
    assert failure.faults or failure.config("failed", 0) != failure.config("cured", 0)


@pytest.mark.parametrize("name", ["g_untrained", "full_collapse"])
def test_a_recording_is_two_runs_that_are_read_and_measured(name, tiny, tmp_path):
    failures.record(BY_NAME[name], 1, tmp_path)
    for kind in ("failed", "cured"):
        folder = tmp_path / name / f"{kind}-1"
        assert len(runs.read(folder).history) == 2
        assert (folder / "samples.gif").is_file()
        found = failures.measures(folder)
        assert all(math.isfinite(value) for value in found.values())
        assert (found["g_moved"] == 0) == (name == "g_untrained" and kind == "failed")
    assert (tmp_path / "healthy" / "cured-1" / "config.json").is_file()


def test_a_finished_recording_is_left_alone(tiny, tmp_path):
    failures.record(BY_NAME["g_untrained"], 0, tmp_path)
    file = tmp_path / "g_untrained" / "failed-0" / "history.csv"
    file.write_text("kept", encoding="utf-8")
    failures.record(BY_NAME["g_untrained"], 0, tmp_path)
    assert file.read_text(encoding="utf-8") == "kept"


def test_a_run_that_diverges_keeps_its_last_finite_state(tiny, tmp_path, monkeypatch):
    def lost(step, state, real, labels=None, **options):
        record = step(state, real, labels, **options)
        return replace(record, values=record.values * (math.nan if state.step == 2 else 1))

    wild = replace(BY_NAME["divergence"], changes={"checkpoint_every": 1}, faults={})
    wild = replace(wild, faults={"train_step": partial(lost, train.train_step)})
    failures.record(wild, 0, tmp_path)
    folder = tmp_path / "divergence" / "failed-0"
    assert "at step 2" in (folder / failures.DIVERGED).read_text(encoding="utf-8")
    run = runs.read(folder)
    assert [math.isfinite(row["d_loss"]) for row in run.history] == [True, False]
    assert all(parameter.isfinite().all() for parameter in run.generator.parameters())


def test_an_unknown_failure_is_refused(capsys):
    with pytest.raises(SystemExit):
        failures.main(["record", "d_loses"])
    assert "no failure d_loses" in capsys.readouterr().err


# What is stored


def test_the_stored_results_have_a_row_for_each_failure(stored):
    told = [(row["name"], row["family"], row["what"], row["cure"]) for row in stored["rows"]]
    assert told == [(one.name, one.family, one.what, one.cure) for one in FAILURES]
    assert len(stored["seeds"]) >= 3
    assert stored["measures"] == failures.MEASURES
    assert all(run["measures"].keys() <= failures.MEASURES.keys() for run in stored["runs"].values())
    for row in stored["rows"]:
        for run in (row["name"], row["cured"]):
            assert len(stored["runs"][run]["measures"][row["tell"]]) == len(stored["seeds"])


def test_the_stored_sheet_has_three_rows_for_each_run(stored):
    with Image.open(failures.RESULTS.with_suffix(".webp")) as sheet:
        assert sheet.size == (16 * failures.TILE, 3 * failures.TILE * len(stored["runs"]))


def failed_and_cured(stored, row):
    return (stored["runs"][run]["measures"][row["tell"]] for run in (row["name"], row["cured"]))


def test_a_failure_can_be_told_from_its_cure_by_one_measure_at_every_seed(stored):
    """No value of the failed runs lies among those of the cured ones."""
    for row in stored["rows"]:
        if row["name"] != "partial_collapse":
            failed, cured = failed_and_cured(stored, row)
            assert max(failed) < min(cured) or min(failed) > max(cured), row["name"]


def test_recall_shows_a_partial_collapse_at_three_seeds_of_four(stored):
    """The chapter says so; the other seed has the recall of a healthy run."""
    row = next(row for row in stored["rows"] if row["name"] == "partial_collapse")
    failed, cured = failed_and_cured(stored, row)
    assert row["tell"] == "recall"
    assert [value < min(cured) for value in failed].count(True) == 3
    assert len(failed) == 4
