"""The measurements of a run and the findings that follow, on histories, images and networks made for it."""

import math

import pytest
import torch
from flat import run

from dcganlib import cli, datasets, runs, zoo
from dcganlib.config import TrainConfig
from dcganlib.evaluation import diagnosis
from dcganlib.evaluation.diagnosis import RULES, Sign, judge
from dcganlib.runtime import checkpoint
from dcganlib.train import init_state, train

pytestmark = pytest.mark.usefixtures("quick_curves")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(count, **values):
    """A history of constant values, or of functions of the step."""
    known = {"d_loss": 0.6, "g_loss": 1.0, "d_real": 0.6, "d_fake": 0.4} | values
    return [
        {"step": step, "epoch": 1, **{n: v(step) if callable(v) else v for n, v in known.items()}}
        for step in range(1, count + 1)
    ]


def test_the_diversity_of_noise_is_its_standard_deviation():
    assert diagnosis.diversity(2 * noise(4000, 1, 4, 4)) == pytest.approx(2, rel=0.02)
    assert diagnosis.diversity(noise(1, 1, 8, 8).expand(9, 1, 8, 8)) == pytest.approx(0, abs=1e-7)


def test_differences_between_classes_do_not_count_as_diversity_within_them():
    labels = torch.tensor([0, 1]).repeat(50)
    images = (2.0 * labels - 1)[:, None, None, None].expand(100, 1, 4, 4)
    assert diagnosis.diversity(images) == pytest.approx(1)
    assert diagnosis.diversity(images, labels) == pytest.approx(0, abs=1e-12)


def test_contrast_counts_pixels_within_an_image_alone():
    flat = noise(50, 1, 1, 1).expand(50, 1, 6, 6)
    assert diagnosis.contrast(flat) == pytest.approx(0, abs=1e-6)
    half = torch.ones(5, 1, 4, 4)
    half[..., :2] = -1
    assert diagnosis.contrast(half) == pytest.approx(1)


def test_phases_differ_where_stride_two_leaves_a_pattern():
    """White noise has none; noise on even rows and columns alone has nearly all of its detail there."""
    images = noise(200, 1, 32, 32)
    assert diagnosis.phase_contrast(images) == pytest.approx(0, abs=0.05)
    mask = torch.zeros(32, 32)
    mask[::2, ::2] = 1
    assert diagnosis.phase_contrast(images * mask) == pytest.approx(3.7, abs=0.3)
    up = torch.nn.ConvTranspose2d(1, 1, 3, 2, padding=1, output_padding=1, bias=False)
    torch.nn.init.ones_(up.weight)
    with torch.no_grad():
        assert diagnosis.phase_contrast(up(noise(200, 1, 16, 16))) > 0.5


def test_crowding_is_the_distance_to_the_nearest_other_image():
    corners = torch.tensor([[0.0, 0], [0, 3], [4, 0], [4, 3]])[:, :, None, None]
    assert diagnosis.crowding(corners) == pytest.approx(3)
    assert diagnosis.crowding(corners.repeat(2, 1, 1, 1)) == 0


def test_a_history_is_described_by_its_last_quarter_up_to_a_hundred_steps():
    found = diagnosis.of_history(rows(1000, g_loss=lambda step: float(step)))
    assert found["g_loss"] == pytest.approx(950.5)
    assert found["swing"] == pytest.approx(math.sqrt((100**2 - 1) / 12))
    assert diagnosis.of_history(rows(40, g_loss=lambda step: float(step)))["g_loss"] == pytest.approx(35.5)
    assert found["lost"] == 0
    assert found["steps"] == 1000


def test_rows_that_are_not_finite_are_counted_and_left_out():
    found = diagnosis.of_history(rows(100, d_loss=lambda step: math.nan if step > 90 else 0.5))
    assert found["lost"] == pytest.approx(0.1)
    assert found["d_loss"] == pytest.approx(0.5)


def test_grids_that_change_together_move_as_their_mean_does():
    real = noise(64, 1, 8, 8)
    one = noise(1, 1, 8, 8, seed=1)
    together = [step * 0.5 * torch.ones(1, 1, 8, 8) + one.expand(64, 1, 8, 8) for step in range(8)]
    found = diagnosis.of_grids(together, real)
    assert found["grid_diversity"] == pytest.approx(0, abs=1e-6)
    assert found["motion"] == pytest.approx(0.5, rel=0.03)
    assert found["common_motion"] == pytest.approx(0.5, rel=0.03)
    assert found["total_motion"] == pytest.approx(3.5, rel=0.03)
    apart = [noise(64, 1, 8, 8, seed=step) for step in range(8)]
    found = diagnosis.of_grids(apart, real)
    assert found["grid_diversity"] == pytest.approx(1, abs=0.05)
    assert found["motion"] == pytest.approx(math.sqrt(2), rel=0.05)
    assert found["common_motion"] == pytest.approx(math.sqrt(2) / 8, rel=0.1)


def test_growth_compares_the_last_grid_with_one_twelve_grids_ago():
    real = noise(64, 1, 8, 8)
    grids = [real * 1.1**step for step in range(20)]
    assert diagnosis.of_grids(grids, real)["growth"] == pytest.approx(1.1**11)


def test_samples_are_measured_in_shares_of_the_training_images():
    real = noise(300, 3, 8, 8).clamp(-1, 1)
    found = diagnosis.of_samples(0.5 * noise(300, 3, 8, 8, seed=1).clamp(-1, 1) + 0.25, real)
    assert found["diversity"] == pytest.approx(0.5, rel=0.03)
    assert found["contrast"] == pytest.approx(0.5, rel=0.03)
    assert found["crowding"] == pytest.approx(0.5, rel=0.03)
    assert found["level"] == pytest.approx(0.25, abs=0.02)
    assert found["lowest_pixel"] == -1
    assert found["red_over_blue"] == pytest.approx(0, abs=0.02)
    shifted = real + torch.tensor([0.3, 0, -0.3])[:, None, None]
    assert diagnosis.of_samples(real, shifted)["red_over_blue"] == pytest.approx(0.6, abs=0.02)


def test_the_classifier_tells_digits_that_are_missing_wrong_or_mirrored(mnist_mini):
    from dcganlib.evaluation import classifier

    network = classifier.load("mnist")
    chosen = torch.randperm(len(mnist_mini), generator=torch.Generator().manual_seed(0))[:400]
    real, labels = datasets.to_float(mnist_mini.images[chosen]), mnist_mini.labels[chosen]
    found = diagnosis.of_classes(network, real, real, labels)
    assert found["agreement"] > 0.95
    assert found["classes"] == pytest.approx(1)
    assert found["precision"] == found["recall"] == 1
    assert found["confidence"] > 0.97
    two = real[(labels == 1) | (labels == 7)]
    assert len(two) > 4
    assert diagnosis.of_classes(network, two, real)["classes"] < 0.3
    assert diagnosis.of_classes(network, real, real, labels.roll(1))["agreement"] < 0.3
    assert diagnosis.of_classes(network, real, real.flip(3))["confidence"] < found["confidence"] - 0.02
    network.about = network.about | {"test_accuracy": 0.8}  # one that is often unsure says nothing by it
    assert diagnosis.of_classes(network, real, real)["confidence"] > 1.2
    network.multilabel = True
    with pytest.raises(ValueError, match="the classifier has attributes, not classes"):
        diagnosis.of_classes(network, real, real)


def test_a_generator_whose_statistics_were_lost_differs_from_itself_in_training(tiny_pair, tiny_images):
    generator, _ = tiny_pair()
    z, real = noise(32, 8), datasets.to_float(tiny_images)
    with torch.no_grad():
        for _ in range(100):
            generator.train()(z)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    settled = diagnosis.of_generator(generator, z, real)
    assert settled["statistics_gap"] == pytest.approx(0, abs=0.05)
    assert settled["normed"] == 1
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += 3
            module.running_var /= 100
    lost = diagnosis.of_generator(generator, z, real)
    assert lost["statistics_gap"] > 10 * settled["statistics_gap"] + 0.05
    assert lost["training_diversity"] == pytest.approx(settled["training_diversity"])


def test_pixels_that_a_discriminator_does_not_see_are_counted(tiny_pair, tiny_images):
    generator, discriminator = tiny_pair()
    z, real = noise(8, 8), datasets.to_float(tiny_images[:8])
    assert diagnosis.of_pair(generator, discriminator, z, real)["unseen"] == 0

    class Cropping(type(discriminator)):
        def forward(self, images, labels=None):
            kept = torch.nn.functional.pad(images[..., 2:-2, 2:-2], (2, 2, 2, 2))
            return super().forward(kept, labels)

    discriminator.__class__ = Cropping
    unseen = diagnosis.of_pair(generator, discriminator, z, real)["unseen"]
    assert unseen == pytest.approx(1 - 12**2 / 16**2)


def test_a_discriminator_that_needs_both_in_one_batch_gives_itself_away(tiny_images):
    """The sign of a batch's normalised values tells real from fake in a joined batch, and nothing in two."""

    class Centred(torch.nn.Module):
        def forward(self, images, labels=None):
            means = images.mean((1, 2, 3))
            return 100 * (means.mean() - means)

    class Bright(torch.nn.Module):
        layers = ()

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, z, labels=None):
            return self.weight * torch.ones(len(z), 1, 16, 16)

    real = datasets.to_float(tiny_images[:8])
    found = diagnosis.of_pair(Bright(), Centred(), noise(8, 8), real)
    assert found["loss_apart"] > 0.6
    assert found["joined_gain"] == pytest.approx(found["loss_apart"], abs=1e-6)


def test_an_update_is_measured_beside_the_weights(tiny_pair, tiny_images):
    """After one step, Adam's update is the learning rate for every weight."""
    state = init_state(*tiny_pair(), TrainConfig(batch_size=4, g_lr=1e-3))
    assert diagnosis.of_optimizer(state.g_optimizer) == 0
    assert not diagnosis.has_moments(state.g_optimizer)
    loader = datasets.make_loader(tiny_images, 4, rng=torch.Generator())
    list(train(state, loader, 1))
    expected = sorted(
        1e-3 * math.sqrt(weight.numel()) / weight.norm().item()
        for weight in state.generator.parameters()
        if weight.dim() > 1
    )
    found = diagnosis.of_optimizer(state.g_optimizer)
    assert found == pytest.approx(expected[len(expected) // 2], rel=0.02)
    assert diagnosis.has_moments(state.g_optimizer)


# Findings


def test_a_sign_weighs_more_the_further_a_value_lies_beyond_it():
    above, below = Sign("x", 1, 2), Sign("x", 1, 0.5, below=True)
    assert [above.weight(value) for value in (0.5, 1, 1.5, 2.5, math.nan)] == [0, 0, 1, 2, 0]
    assert [below.weight(value) for value in (1.5, 1, 0.7, 0.2, math.nan)] == [0, 0, 1, 2, 0]


def beyond(rule):
    """Measurements that lie beyond all bounds of a rule by as little as possible, and by much."""
    near, far = {}, {}
    for sign in rule.signs:
        step = 1e-6 * (-1 if sign.below else 1)
        near.setdefault(sign.measurement, sign.bound + step)
        far.setdefault(sign.measurement, sign.sure + step)
    return near, far


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{rule.signs[0].measurement}")
def test_each_rule_finds_its_failure_and_needs_all_of_its_signs(rule):
    near, far = beyond(rule)
    (first,), (second,) = judge(near), judge(far)
    assert first.name == second.name == rule.name
    assert second.certainty == ("certain" if rule.fact else "likely")
    assert set(first.numbers) == {sign.measurement for sign in rule.signs}
    assert first.certainty == "certain" if rule.fact else first.certainty in ("possible", "likely")
    for name in near:
        assert judge({other: value for other, value in near.items() if other != name}) == []


def test_a_failure_hides_those_that_it_explains():
    hidden = {name for rule in RULES for name in rule.hides}
    assert hidden <= {rule.name for rule in RULES}
    winning = {"d_real": 0.9999, "d_fake": 0.0001, "diversity": 0.1}
    assert [one.name for one in judge(winning)] == ["d_wins"]
    assert judge(winning | {"diversity": 0.9}) == []  # D is far ahead of a G that draws well
    assert [one.name for one in judge(winning | {"g_moments": 0.0, "steps": 9.0})] == ["g_untrained"]


def test_findings_come_surest_first_and_say_their_numbers():
    found = judge({"lowest_pixel": 0.0, "memorization": 0.8, "contrast": 0.9, "joined_gain": 2.0})
    assert [(one.name, one.certainty) for one in found] == [
        ("data_range", "certain"),
        ("joined_batch", "likely"),
        ("memorization", "possible"),
    ]
    text = str(found[2])
    assert text.startswith("memorization, possible: samples lie nearer to training images")
    assert "[memorization 0.8 (below 0.85); contrast 0.9 (above 0.5)]" in text


def test_nothing_is_found_without_measurements():
    assert judge({}) == []


# Folders


@pytest.fixture(scope="module")
def discs_run(image_folder, tmp_path_factory):
    """A healthy run of 8 steps, too young to have failed."""
    config = TrainConfig(batch_size=4, seed=3)
    sizes = {"image_size": 16, "channels": 1, "base_channels": 4, "checkpoint_every": 4, "sample_every": 2}
    out = tmp_path_factory.mktemp("runs") / "run"
    return run(str(image_folder), out, device="cpu", config=config, steps=8, **sizes)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_young_run_shows_nothing_unusual_and_stays_as_it_is(discs_run, capsys):
    before = contents(discs_run)
    assert runs.diagnose(discs_run) == []
    assert cli.main(["diagnose", str(discs_run), "--measurements"]) == 0
    shown = capsys.readouterr().out
    assert "nothing unusual (" in shown
    assert "g_update " in shown
    assert contents(discs_run) == before


def test_a_run_is_measured_as_its_parts_are(discs_run, tiny_images):
    found = runs.measure(discs_run)
    state, _ = checkpoint.load(discs_run / "checkpoint.pt")
    assert found["g_update"] == pytest.approx(diagnosis.of_optimizer(state.g_optimizer))
    assert found["diverged"] == 0
    assert found["steps"] == 8
    expected = diagnosis.of_history(runs.read(discs_run).history)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["lowest_pixel"] == -1


@pytest.mark.parametrize("name", runs.pretrained())
def test_the_stored_runs_show_nothing_unusual(name, monkeypatch, tmp_path):
    monkeypatch.setenv("DCGANLIB_DATA", str(tmp_path))
    assert runs.diagnose(name) == []


def test_without_its_data_a_run_is_compared_with_its_picture_of_real_images(discs_run, tmp_path):
    import shutil

    moved = tmp_path / "run"
    shutil.copytree(discs_run, moved)
    config = (moved / "config.json").read_text(encoding="utf-8")
    (moved / "config.json").write_text(
        config.replace(str(runs.read_config(moved).data.data), str(tmp_path / "gone")), encoding="utf-8"
    )
    found, whole = runs.measure(moved), runs.measure(discs_run)
    assert found["diversity"] == pytest.approx(whole["diversity"], rel=1e-4)
    assert found["grid_diversity"] == pytest.approx(whole["grid_diversity"], rel=1e-4)
    assert "memorization" in whole
    assert "memorization" not in found


def test_without_a_checkpoint_the_discriminator_is_the_one_that_the_run_kept(discs_run, tmp_path):
    import shutil

    moved = tmp_path / "run"
    shutil.copytree(discs_run, moved, ignore=shutil.ignore_patterns("checkpoint*"))
    found, whole = runs.measure(moved), runs.measure(discs_run)
    of_pair = ("g_gradient", "saturating_gradient", "unseen", "loss_apart", "joined_gain")
    assert {name: found[name] for name in of_pair} == pytest.approx(
        {name: whole[name] for name in of_pair}, rel=1e-3, abs=1e-6
    )
    assert "g_update" in whole
    assert "g_update" not in found


def test_a_run_without_a_step_of_g_is_found_out(image_folder, tmp_path, monkeypatch, capsys):
    from dcganlib import train as training

    def cut_off(discriminator, optimizer, fake, real=None, **options):
        with torch.no_grad():
            return options["loss"](discriminator(fake.float()))

    monkeypatch.setattr(training, "generator_step", cut_off)
    sizes = {"image_size": 16, "channels": 1, "base_channels": 4, "sample_every": 2}
    config = TrainConfig(batch_size=4)
    folder = run(str(image_folder), tmp_path / "run", device="cpu", config=config, steps=6, **sizes)
    (finding,) = runs.diagnose(folder)
    assert (finding.name, finding.certainty) == ("g_untrained", "certain")
    assert cli.main(["diagnose", str(folder)]) == 1
    assert "g_untrained, certain: no weight of G has ever had a gradient" in capsys.readouterr().out


def test_a_run_on_half_of_the_range_is_found_out(tmp_path, tiny_images):
    from PIL import Image

    (tmp_path / "bright").mkdir()
    for index, image in enumerate(tiny_images[:, 0]):
        Image.fromarray((128 + image // 2).numpy()).save(tmp_path / "bright" / f"{index}.png")
    sizes = {"image_size": 16, "channels": 1, "base_channels": 4, "sample_every": 2}
    config = TrainConfig(batch_size=4)
    folder = run(str(tmp_path / "bright"), tmp_path / "run", device="cpu", config=config, steps=4, **sizes)
    assert [one.name for one in runs.diagnose(folder)] == ["data_range"]


def test_a_conditional_run_is_measured_with_its_labels(tmp_path, mnist_mini):
    pair = zoo.build("paper-mnist-conditional", base_channels=2, latent_dim=8)
    labels = torch.arange(20) % 10
    real = datasets.to_float(mnist_mini.images[:20])
    found = diagnosis.of_pair(*pair, noise(20, 8), real, labels)
    assert all(math.isfinite(value) for value in found.values())
    assert 0 <= diagnosis.of_generator(pair[0], noise(20, 8), real, labels)["training_diversity"] < 2
