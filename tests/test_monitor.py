"""Measuring and warning while a run trains."""

import csv
import itertools

import pytest
import torch
from flat import TINY, run, run_config

from dcganlib import cli, datasets, models, runs
from dcganlib.config import ConfigError, DataConfig, ResolvedRunConfig, RunConfig, SampleConfig, TrainConfig
from dcganlib.evaluation import classifier
from dcganlib.latents import sample_z
from dcganlib.runs import monitor, session
from dcganlib.runtime import checkpoint
from dcganlib.runtime.step_metrics import StepMetrics
from dcganlib.train import init_state

CONFIG = TrainConfig(batch_size=4, seed=3, ema=0.5)

pytestmark = pytest.mark.usefixtures("quick_curves")


@pytest.fixture(scope="module")
def measured(train_discs):
    """A run of 10 steps that is measured at steps 3, 6, 9 and 10."""
    return train_discs(steps=10, evaluate_every=3, keep_best=True)


def table(folder):
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def resolved(**options):
    config = run_config("mnist-mini", config=TrainConfig(batch_size=4))
    known = {name: value for name, value in vars(config).items() if name not in ("steps", "sample_every")}
    return ResolvedRunConfig(**(known | {"steps": 1000, "sample_every": 40} | options))


def watch(folder, images, **options):
    return monitor.Watch(folder, resolved(**options), datasets.make_loader(images, 4))


def step_metrics(step, d_real, d_fake):
    return StepMetrics(step, 1, torch.tensor([0.1, 3.0, d_real, d_fake]))


def test_keeping_the_best_weights_needs_a_measurement():
    with pytest.raises(ConfigError, match="keep_best needs evaluate_every: without it no weights are"):
        RunConfig(DataConfig("mnist"), keep_best=True)
    assert RunConfig(DataConfig("mnist"), keep_best=True, evaluate_every=5).keep_best


def test_the_command_has_an_option_for_each():
    words = ["train", "mnist", "--evaluate-every", "9", "--keep-best", "--stop-when-collapsed"]
    found = cli.parse(words).config
    assert (found.evaluate_every, found.keep_best, found.stop_when_collapsed) == (9, True, True)


def test_a_run_is_measured_every_so_many_steps_and_at_its_end(measured):
    rows = table(measured)
    assert [row["step"] for row in rows] == [3, 6, 9, 10]
    assert list(rows[0]) == ["step", "frechet_distance", "precision", "recall", "diversity"]
    assert all(row["frechet_distance"] > 0 and 0 <= row["precision"] <= 1 for row in rows)
    assert monitor.read_metrics(measured) == rows


def test_measuring_leaves_the_run_as_it_is(measured, train_discs):
    alone = train_discs(steps=10)
    for name in ("history.csv", "generator.safetensors", "ema.safetensors", "samples/step_000010.png"):
        assert (alone / name).read_bytes() == (measured / name).read_bytes(), name
    one, other = (checkpoint.load(folder / "checkpoint.pt")[0] for folder in (alone, measured))
    assert torch.equal(one.rng.get_state(), other.rng.get_state())
    pairs = zip(
        one.discriminator.state_dict().values(), other.discriminator.state_dict().values(), strict=True
    )
    assert all(torch.equal(*pair) for pair in pairs)
    assert not (alone / "metrics.csv").exists()
    assert not (alone / "best.safetensors").exists()


def test_measuring_leaves_modes_statistics_and_random_sources_alone(tiny_pair, tiny_images):
    state = init_state(*tiny_pair(), TrainConfig(batch_size=4))
    state.generator.train()
    before = {name: value.clone() for name, value in state.generator.state_dict().items()}
    sources = torch.get_rng_state(), state.rng.get_state()
    config = resolved(evaluate_every=1, data=DataConfig("mnist-mini", image_size=16))
    loader = datasets.make_loader(tiny_images, 4, rng=torch.Generator())
    monitor.Evaluator(config, loader).measure(state)
    assert all(torch.equal(value, before[name]) for name, value in state.generator.state_dict().items())
    assert all(map(torch.equal, sources, (torch.get_rng_state(), state.rng.get_state())))
    assert all(module.training for module in state.generator.modules())


def test_the_best_weights_are_those_of_the_lowest_distance(measured, train_discs):
    rows = table(measured)
    best = min(rows, key=lambda row: row["frechet_distance"])
    generator, about = checkpoint.load_generator(measured / "best.safetensors")
    assert about["step"] == best["step"]
    assert about["frechet_distance"] == pytest.approx(best["frechet_distance"], rel=1e-5)
    expected = checkpoint.load_generator(train_discs(steps=int(best["step"])) / "ema.safetensors")[0]
    z = sample_z(5, generator.latent_dim, rng=torch.Generator().manual_seed(0))
    assert torch.equal(models.generate(generator, z), models.generate(expected, z))
    found = runs.read(measured)
    assert torch.equal(models.generate(found.best_generator, z), models.generate(expected, z))


def test_a_sample_can_be_drawn_with_the_best_weights(measured, train_discs, tmp_path):
    z = sample_z(4, 100, rng=torch.Generator().manual_seed(0))
    images = datasets.to_uint8(models.generate(runs.read(measured).best_generator, z))
    picture = runs.sample(measured, SampleConfig(n=4, best=True, columns=1))
    drawn = torch.tensor(list(picture.convert("L").tobytes()), dtype=torch.uint8).reshape(-1, 16)
    assert torch.equal(drawn[:16], images[0, 0])
    with pytest.raises(FileNotFoundError, match="has no best.safetensors: only a run with --evaluate-every"):
        runs.sample(train_discs(steps=2), SampleConfig(n=4, best=True))


def test_a_run_that_stopped_goes_on_with_the_same_measures_and_best_weights(measured, train_discs):
    folder = train_discs(steps=10, evaluate_every=3, keep_best=True)
    for name in ("metrics.csv", "best.safetensors"):
        assert (folder / name).read_bytes() == (measured / name).read_bytes()
    (folder / "checkpoint.pt").unlink()  # the one before is of step 8
    with pytest.warns(UserWarning, match="which is at step 8"):
        runs.resume(folder, device="cpu")
    assert (folder / "metrics.csv").read_bytes() == (measured / "metrics.csv").read_bytes()
    first, second = (checkpoint.load_generator(one / "best.safetensors") for one in (folder, measured))
    assert first[1] == second[1]


def test_rows_beyond_a_checkpoint_are_cut(measured, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes((measured / "metrics.csv").read_bytes())
    config = resolved(evaluate_every=3, data=DataConfig("mnist-mini"))
    evaluator = monitor.Evaluator(
        config, datasets.make_loader(torch.zeros(10, 1, 28, 28, dtype=torch.uint8), 4)
    )
    evaluator.resume(tmp_path, 8)
    assert [row["step"] for row in table(tmp_path)] == [3, 6]
    evaluator.resume(tmp_path, 2)
    assert not path.exists()


def test_a_run_that_is_extended_keeps_the_measure_of_its_old_end(train_discs):
    folder = train_discs(steps=4, evaluate_every=3)
    runs.resume(folder, steps=6, device="cpu")
    assert [row["step"] for row in table(folder)] == [3, 4, 6]


def test_too_few_images_are_refused_before_training(tmp_path, image_folder):
    few = {"steps": 4, "max_images": 8, "evaluate_every": 2, "config": CONFIG}
    with pytest.raises(ValueError, match="evaluate_every needs at least 10 training images, there are 8"):
        run(str(image_folder), tmp_path / "run", device="cpu", **(TINY | few))
    assert not (tmp_path / "run").exists()


def test_digits_are_measured_by_the_features_of_their_classifier(mnist_mini, tiny_pair, monkeypatch):
    """The real digits themselves, drawn by a generator that returns them, are at distance 0."""
    loader = datasets.make_loader(mnist_mini.images[:400], 4)
    config = resolved(evaluate_every=5, data=DataConfig("mnist-mini", image_size=28, channels=1))
    evaluator = monitor.Evaluator(config, loader)
    assert (
        evaluator.about == "evaluating 400 samples every 5 steps by the features of the dataset's classifier"
    )
    assert evaluator._real.shape == (400, classifier.load("mnist").widths[-1])
    drawn = datasets.to_float(mnist_mini.images[:400])
    monkeypatch.setattr(monitor.metrics, "draw", lambda *_, **__: drawn)
    state = init_state(*tiny_pair(), TrainConfig(batch_size=4))
    line = evaluator.measure(state)
    (row,) = evaluator._rows
    assert row["frechet_distance"] == pytest.approx(0, abs=1e-3)
    assert row["precision"] == row["recall"] == pytest.approx(1)
    assert row["diversity"] == pytest.approx(1, abs=1e-6)
    assert "precision 1.00, recall 1.00, diversity 1.00; measured in" in line
    assert "% of the time so far" in line


def test_without_a_classifier_thumbnails_are_compared(tiny_images, tiny_pair):
    config = resolved(evaluate_every=1, data=DataConfig("folder/of", image_size=16, channels=1))
    evaluator = monitor.Evaluator(config, datasets.make_loader(tiny_images, 4))
    assert "by 8 x 8 pixels, since there is no classifier for folder/of" in evaluator.about
    images = datasets.to_float(tiny_images)
    blocks = images.reshape(20, 8, 2, 8, 2).mean((2, 4)).flatten(1)
    order = torch.cdist(blocks, evaluator._real).argmin(0)
    torch.testing.assert_close(evaluator._real, blocks[order])
    assert sorted(order.tolist()) == list(range(20))


def test_samples_of_a_conditional_run_have_the_class_shares_of_the_training_set(mnist_mini, tiny_pair):
    labels = torch.tensor([7] * 300 + [1] * 100)
    loader = datasets.make_loader(mnist_mini.images[:400], 4, labels=labels)
    config = resolved(
        evaluate_every=5, num_classes=10, data=DataConfig("mnist-mini", image_size=28, channels=1)
    )
    drawn = torch.bincount(monitor.Evaluator(config, loader)._labels, minlength=10)
    assert set(drawn.nonzero().flatten().tolist()) == {1, 7}
    assert 250 <= drawn[7] <= 340


# Warnings


def test_a_winning_discriminator_is_told_once_with_its_numbers(tmp_path, tiny_images):
    seen = watch(tmp_path, tiny_images)
    texts = [seen.see_losses(step_metrics(step, 0.999, 0.004)) for step in range(1, 1401)]
    (text,) = filter(None, texts)
    assert "D has won: over the last 200 steps its mean D(x) is 0.999 and D(G(z)) 0.004" in text
    assert texts[399] == text
    assert text.startswith("step 400: ")


def test_a_discriminator_far_ahead_of_diverse_samples_is_passed_over(tmp_path, tiny_images):
    seen = watch(tmp_path, tiny_images)
    seen.see_samples(100, datasets.to_float(tiny_images), None)
    assert not any(seen.see_losses(step_metrics(step, 0.999, 0.004)) for step in range(1, 1401))
    seen.see_samples(1401, datasets.to_float(tiny_images[:1]).expand(20, -1, -1, -1), None)
    assert any(seen.see_losses(step_metrics(step, 0.999, 0.004)) for step in range(1401, 1601))


@pytest.mark.parametrize(("d_real", "d_fake"), [(0.9, 0.01), (0.995, 0.1), (0.5, 0.5)])
def test_a_discriminator_that_has_not_won_is_passed_over(tmp_path, tiny_images, d_real, d_fake):
    seen = watch(tmp_path, tiny_images)
    assert not any(seen.see_losses(step_metrics(step, d_real, d_fake)) for step in range(1, 1401))


def grids(tiny_images, spread):
    """Endless grids: the discs' mean and a share of their differences, brighter and darker in turn."""
    real = datasets.to_float(tiny_images)
    for change in itertools.cycle((0.05, -0.05)):
        yield real.mean(0) + spread * (real - real.mean(0)) + change


def see_grids(seen, images, steps):
    return [seen.see_samples(step, one, None) for step, one in zip(steps, images, strict=False)]


def test_collapsed_samples_are_told_once_and_from_then_on_known(tmp_path, tiny_images):
    seen = watch(tmp_path, tiny_images)
    steps = range(0, 2000, 40)
    found = see_grids(seen, grids(tiny_images, 0.02), steps)
    said = [(step, texts) for step, (texts, _) in zip(steps, found, strict=True) if texts]
    assert len(said) == 1
    assert "the samples have collapsed: in the last 3 grids their diversity is 0.0" in said[0][1][0]
    collapsed = [step for step, (_, is_collapsed) in zip(steps, found, strict=True) if is_collapsed]
    assert collapsed == [step for step in steps if step >= said[0][0]]
    assert said[0][0] == 1000


def test_samples_that_were_diverse_have_collapsed_sooner(tmp_path, tiny_images):
    diverse, alike = grids(tiny_images, 0.9), grids(tiny_images, 0.02)
    seen = watch(tmp_path, tiny_images)
    images = (next(diverse) if step < 200 else next(alike) for step in range(0, 400, 40))
    found = see_grids(seen, images, range(0, 400, 40))
    assert [is_collapsed for _, is_collapsed in found] == [False] * 7 + [True] * 3


def test_samples_that_become_diverse_late_have_not_collapsed(tmp_path, tiny_images):
    """As those of a healthy run with a small learning rate do."""
    shares = [0.05 * 1.15**position for position in range(60)]
    images = (next(grids(tiny_images, min(share, 1))) for share in shares)
    found = see_grids(watch(tmp_path, tiny_images), images, range(800, 800 + 60 * 40, 40))
    assert not any(is_collapsed for _, is_collapsed in found)


def test_different_samples_are_not_collapsed(tmp_path, tiny_images):
    found = see_grids(watch(tmp_path, tiny_images), grids(tiny_images, 0.8), range(0, 2000, 40))
    assert found == [([], False)] * 50


def test_samples_that_stand_still_are_told_once(tmp_path, tiny_images):
    seen = watch(tmp_path, tiny_images)
    images = datasets.to_float(tiny_images)
    found = [seen.see_samples(step, images, None) for step in range(0, 2000, 40)]
    (text,) = [texts[0] for texts, _ in found if texts]
    assert "the samples stand still: from step" in text
    assert "they changed by 0 of the training images' diversity" in text
    assert not any(collapsed for _, collapsed in found)


def test_the_samples_of_a_class_may_not_all_look_the_same(tmp_path, tiny_images):
    """One image for each class is a collapse, however much the classes differ."""
    images = datasets.to_float(tiny_images)[:4]
    labels = torch.arange(4).repeat(8)
    seen = watch(tmp_path, tiny_images)
    noise = torch.Generator().manual_seed(0)
    found = [
        seen.see_samples(step, images[labels] + 0.2 * torch.rand(1, generator=noise), labels)
        for step in range(0, 2000, 40)
    ]
    assert found[-1][1]


def test_what_was_said_is_kept_and_not_said_again_after_a_resume(tmp_path, tiny_images):
    seen = watch(tmp_path, tiny_images)
    seen.add(700, "d_wins", "D has won")
    assert not (tmp_path / "warnings.txt").exists()
    seen.save()
    seen.add(900, "collapsed", "the samples have collapsed")
    seen.save()
    path = tmp_path / "warnings.txt"
    both = path.read_text(encoding="utf-8")
    assert both == "700 d_wins D has won\n900 collapsed the samples have collapsed\n"
    again = watch(tmp_path, tiny_images)
    again.resume(800)
    assert path.read_text(encoding="utf-8") == "700 d_wins D has won\n"
    assert again.add(1000, "d_wins", "D has won") is None
    assert again.add(1000, "collapsed", "the samples have collapsed") == (
        "step 1000: the samples have collapsed"
    )


def test_a_run_warns_and_stops_when_it_has_collapsed(train_discs, monkeypatch):
    monkeypatch.setattr(monitor, "UNIFORM_STEPS", 4)
    monkeypatch.setattr(monitor, "GROWTH", 1e9)
    monkeypatch.setattr(monitor, "STILL_CHANGE", 0)
    with pytest.warns(
        monitor.TrainingWarning, match="step 4: the samples have collapsed: in the last 3 grids"
    ):
        folder = train_discs(steps=8)
    assert (folder / "warnings.txt").read_text(encoding="utf-8").startswith("4 collapsed the samples have")
    assert checkpoint.load(folder / "checkpoint.pt")[0].step == 8
    with pytest.warns(monitor.TrainingWarning), pytest.raises(runs.Collapsed) as stopped:
        train_discs(steps=8, stop_when_collapsed=True, checkpoint_every=5)
    assert stopped.value.exit_code == 3
    assert "stopped after step 4 because the samples have collapsed, all saved; `dcganlib diagnose " in str(
        stopped.value
    )
    folder = str(stopped.value).split("`dcganlib resume ")[1].split("`")[0]
    state, _ = checkpoint.load(f"{folder}/checkpoint.pt")
    assert state.step == 4
    assert len(runs.read(folder).history) == 4


@pytest.mark.filterwarnings("always::dcganlib.runs.monitor.TrainingWarning")
def test_the_command_stops_with_its_own_exit_code(tmp_path, image_folder, monkeypatch, capsys):
    monkeypatch.setattr(monitor, "UNIFORM_STEPS", 4)
    monkeypatch.setattr(monitor, "GROWTH", 1e9)
    words = "--image-size 16 --channels 1 --base-channels 4 --steps 8 --sample-every 2 --batch-size 4"
    words = ["train", str(image_folder), *words.split(), "--stop-when-collapsed", "--device", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 3
    shown = capsys.readouterr().err
    assert "dcganlib: warning: step 4: the samples have collapsed" in shown
    assert "dcganlib: stopped after step 4 because the samples have collapsed, all saved" in shown
    assert "Traceback" not in shown


def test_a_diverged_run_keeps_its_last_losses_and_the_reason(train_discs, monkeypatch):
    """Resuming cuts both."""
    checked = session.check_finite
    broken = []

    def diverge(records):
        for record in records:
            if record.step == 7 and not broken:
                broken.append(record)
                raise FloatingPointError("d_loss is nan at step 7: a reason")
        checked(records)

    monkeypatch.setattr(session, "check_finite", diverge)
    out = []
    original = session._open

    def opened(request, stack):
        out.append(request.folder)
        return original(request, stack)

    monkeypatch.setattr(session, "_open", opened)
    with pytest.raises(FloatingPointError, match="step 7"):
        train_discs(steps=8)
    (folder,) = out
    assert [row["step"] for row in runs.read(folder).history] == [1, 2, 3, 4, 5, 6, 7]
    path = folder / "warnings.txt"
    assert path.read_text(encoding="utf-8") == "7 diverged d_loss is nan at step 7: a reason\n"
    runs.resume(folder, device="cpu")
    assert [row["step"] for row in runs.read(folder).history] == list(range(1, 9))
    assert path.read_text(encoding="utf-8") == ""
