"""On a GPU as on the CPU. Without a GPU these tests are skipped; nothing else in the suite needs one."""

import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from flat import TINY, run, run_config

from dcganlib import cli, datasets, runs, zoo
from dcganlib import train as training
from dcganlib.config import EvaluationConfig, TrainConfig
from dcganlib.evaluation import evaluate, metrics, modes, probes
from dcganlib.latents import sample_z
from dcganlib.losses import LOSSES, gradient_penalty, zero_centered_penalty
from dcganlib.models import generate
from dcganlib.runtime import checkpoint
from dcganlib.runtime.device import pick_device, resolve
from dcganlib.train import init_state

if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU on this machine", allow_module_level=True)
DEVICE = torch.device("cuda")
CONFIG = TrainConfig(batch_size=8, precision="float32")
LOSS_OPTIONS = {
    "bce": {},
    "hinge": {"loss": "hinge"},
    "wasserstein": {"loss": "wasserstein", "gradient_penalty": 10.0, "d_steps": 2},
    "relativistic": {"loss": "relativistic", "r1": 1.0, "r2": 1.0},
    "augmented": {"augment": "color,translation,cutout"},
}


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """Without TF32, whose 10 bits of a product would hide an error."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def pair_of(name, **options):
    """A narrow pair of networks on the CPU, always the same."""
    sizes = {"image_size": 16, "channels": 1} if zoo.ARCHITECTURES[name].any_size else {}
    return zoo.build(name, base_channels=4, rng=torch.Generator().manual_seed(0), **(sizes | options))


def first_steps(pair, config, device, steps=2):
    """Train on random images from the same start; return the records and both networks."""
    networks = [copy.deepcopy(network).to(device) for network in pair]
    shape = (40, pair[0].channels, pair[0].image_size, pair[0].image_size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % pair[0].num_classes if pair[0].num_classes else None
    loader = datasets.make_loader(
        images, config.batch_size, labels=labels, rng=torch.Generator().manual_seed(2), device=device
    )
    records = [record.as_dict() for record in training.train(init_state(*networks, config), loader, steps)]
    return records, networks


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_every_network_draws_and_judges_the_same_on_both_devices(name):
    generator, discriminator = (network.eval() for network in pair_of(name))
    labels = torch.arange(4) if generator.num_classes else None
    conditions = () if labels is None else (labels,)
    z = sample_z(4, rng=torch.Generator().manual_seed(3))
    with torch.no_grad():
        images = generator(z, *conditions)
        logits = discriminator(images, *conditions)
        on_gpu = generator.to(DEVICE)(z.to(DEVICE), *(labels.to(DEVICE) for labels in conditions))
        judged = discriminator.to(DEVICE)(images.to(DEVICE), *(labels.to(DEVICE) for labels in conditions))
    torch.testing.assert_close(on_gpu.cpu(), images, rtol=0, atol=1e-4)
    torch.testing.assert_close(judged.cpu(), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in zoo.ARCHITECTURES if name != "flux-draft"])
def test_every_network_takes_the_same_first_step(name):
    """Networks with dropout draw other masks on a GPU: only their values are finite there."""
    pair = pair_of(name)
    config = replace(CONFIG, fast=False)
    (cpu, *_), _ = first_steps(pair, config, "cpu", 1)
    (gpu, *_), networks = first_steps(pair, config, DEVICE, 1)
    assert all(
        parameter.device.type == DEVICE.type for network in networks for parameter in network.parameters()
    )
    drops = any(getattr(layer, "dropout", 0) for layer in pair[1].layers)
    assert gpu == pytest.approx(cpu, rel=0.5 if drops else 1e-3, abs=0.3 if drops else 1e-4)


@pytest.mark.parametrize("name", LOSS_OPTIONS)
def test_every_loss_and_penalty_gives_the_same_first_step(name):
    spectral = name != "bce"
    pair = pair_of("dcgan-spectral" if spectral else "dcgan")
    config = replace(CONFIG, **LOSS_OPTIONS[name])
    (cpu, *_), _ = first_steps(pair, config, "cpu", 1)
    (gpu, *_), _ = first_steps(pair, config, DEVICE, 1)
    assert set(LOSSES) <= {"bce", "hinge", "wasserstein", "relativistic"}
    if name in ("augmented", "wasserstein"):  # shifts and points between images are drawn on the device
        assert all(abs(gpu[key]) < 20 for key in gpu)
    else:
        assert gpu == pytest.approx(cpu, rel=2e-3, abs=2e-4)


def test_penalties_have_the_same_value():
    _, discriminator = pair_of("dcgan-spectral")
    discriminator.eval()
    real, fake = torch.rand(2, 4, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    on_gpu = copy.deepcopy(discriminator).to(DEVICE)
    torch.testing.assert_close(
        zero_centered_penalty(on_gpu, real.to(DEVICE)).cpu(), zero_centered_penalty(discriminator, real)
    )
    same = torch.full_like(real, 0.25)  # between two equal images every point is the same
    torch.testing.assert_close(
        gradient_penalty(on_gpu, same.to(DEVICE), same.to(DEVICE)).cpu(),
        gradient_penalty(discriminator, same, same),
    )
    assert gradient_penalty(on_gpu, real.to(DEVICE), fake.to(DEVICE)).isfinite()


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("fast", [True, False])
def test_every_precision_trains(precision, fast):
    config = replace(CONFIG, precision=precision, fast=fast, ema=0.9)
    records, (generator, _) = first_steps(pair_of("dcgan"), config, DEVICE, 6)
    assert len(records) == 6
    assert all(torch.isfinite(parameter).all() for parameter in generator.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in generator.parameters())


def test_auto_is_a_half_precision_on_a_gpu_that_has_one():
    major, _ = torch.cuda.get_device_capability()
    expected = "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    assert resolve(TrainConfig(), DEVICE).precision == expected
    assert pick_device("auto").type == pick_device("gpu").type == "cuda"


def test_half_precision_stays_near_float32():
    pair = pair_of("dcgan")
    exact, _ = first_steps(pair, CONFIG, DEVICE, 1)
    rounded, _ = first_steps(pair, replace(CONFIG, precision="bfloat16"), DEVICE, 1)
    assert rounded[0] == pytest.approx(exact[0], rel=0.05, abs=0.02)


def test_latents_of_a_seed_are_the_same_on_both_devices():
    here = sample_z(5, rng=torch.Generator().manual_seed(6))
    there = sample_z(5, rng=torch.Generator().manual_seed(6), device=DEVICE)
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), here)


def test_dropout_follows_the_seed_and_leaves_torchs_own_source_alone():
    pair = pair_of("flux-mnist")
    torch.cuda.manual_seed(5)
    before = torch.rand(3, device=DEVICE)
    torch.cuda.manual_seed(5)
    first, _ = first_steps(pair, CONFIG, DEVICE)
    assert torch.equal(torch.rand(3, device=DEVICE), before)
    second, _ = first_steps(pair, CONFIG, DEVICE)
    assert second[0] == pytest.approx(first[0], rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"loss": "relativistic", "r1": 1.0}, {"ema": 0.9}])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(options, image_folder, tmp_path, quick_curves):
    """Up to what two runs of the same steps differ by on a GPU, which adds in no fixed order."""
    config = replace(CONFIG, precision="bfloat16", **options)
    architecture = "dcgan-spectral" if "r1" in options else "dcgan"
    shape = TINY | {"architecture": architecture}
    whole = run(str(image_folder), tmp_path / "whole", device="cuda", config=config, steps=6, **shape)
    part = run(str(image_folder), tmp_path / "part", device="cuda", config=config, steps=4, **shape)
    runs.resume(part, steps=6, device="cuda")
    expected, found = (runs.read(folder).history for folder in (whole, part))
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for name in ("d_loss", "g_loss"):
        assert [row[name] for row in found] == pytest.approx(
            [row[name] for row in expected], rel=0.05, abs=0.05
        )


def test_a_run_from_a_gpu_goes_on_and_draws_on_the_cpu(image_folder, tmp_path, quick_curves):
    folder = run(str(image_folder), tmp_path / "run", device="cuda", config=CONFIG, steps=4, **TINY)
    runs.resume(folder, steps=6, device="cpu")
    generator = runs.read(folder).generator
    assert next(generator.parameters()).device.type == "cpu"
    z = sample_z(3, generator.latent_dim, rng=torch.Generator().manual_seed(7))
    here, there = generate(generator, z), generate(copy.deepcopy(generator).to(DEVICE), z.to(DEVICE))
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-4)
    loaded = checkpoint.load(sorted(folder.glob("checkpoint*"))[-1], device="cuda")
    assert next(loaded[0].generator.parameters()).device.type == "cuda"


def test_the_loader_keeps_images_on_the_gpu():
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16).contiguous()
    loader = datasets.make_loader(images, 8, rng=torch.Generator().manual_seed(0), device=DEVICE)
    _, batch, _ = next(loader.stream(0, 1))
    assert batch.device.type == "cuda"
    assert batch.shape == (8, 1, 16, 16)
    assert -1 <= batch.min() <= batch.max() <= 1


def test_measures_are_the_same_on_both_devices(rng):
    real, fake = torch.randint(256, (2, 200, 1, 28, 28), dtype=torch.uint8, generator=rng(8))
    network = evaluate.classifier.load("mnist")
    features = [metrics.extract(network, images) for images in (real, fake)]
    on_gpu = [
        metrics.extract(copy.deepcopy(network).to(DEVICE), images.to(DEVICE)).cpu() for images in (real, fake)
    ]
    torch.testing.assert_close(on_gpu[0], features[0], rtol=1e-3, atol=1e-3)
    assert metrics.frechet_distance(*on_gpu) == pytest.approx(metrics.frechet_distance(*features), rel=1e-2)


def test_features_and_guided_gradients_are_the_same_on_both_devices(rng):
    _, discriminator = pair_of("dcgan")
    images = torch.randint(256, (6, 1, 16, 16), dtype=torch.uint8, generator=rng(9))
    here = probes.discriminator_features(discriminator, images)
    there = probes.discriminator_features(copy.deepcopy(discriminator).to(DEVICE), images.to(DEVICE))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)


def test_modes_are_counted_on_either_device():
    labels = torch.tensor([0, 5, 5, 999])
    assert modes.count_modes(labels.to(DEVICE)) == modes.count_modes(labels)


def test_the_command_trains_measures_and_diagnoses_on_the_gpu(tmp_path, monkeypatch, capsys, quick_curves):
    monkeypatch.chdir(tmp_path)
    options = "--steps 20 --base-channels 8 --max-images 400 --sample-every 10 --evaluate-every 10 --ema 0.9"
    assert not cli.main(
        ["train", "mnist-mini", "--out", "run", "--keep-best", "--device", "cuda", *options.split()]
    )
    assert not cli.main(["resume", "run", "--steps", "24", "--device", "cuda"])
    assert not cli.main(["sample", "run"])
    assert not cli.main(["evaluate", "run", "--samples", "100", "--device", "cuda"])
    assert cli.main(["diagnose", "run"]) in (0, 1)
    assert (tmp_path / "run" / "best.safetensors").is_file()
    assert "wrote" in capsys.readouterr().out


def test_a_result_of_evaluate_holds_on_both_devices(image_folder, tmp_path, quick_curves):
    folder = run(
        "mnist-mini", tmp_path / "run", device="cuda", config=CONFIG, steps=4, base_channels=4, max_images=300
    )
    found = [
        evaluate.evaluate(
            folder, EvaluationConfig(samples=100), device=device, out=tmp_path / f"{device}.json"
        )
        for device in ("cpu", "cuda")
    ]
    assert [one.measures["Fréchet distance"].values for one in found][1] == pytest.approx(
        found[0].measures["Fréchet distance"].values, rel=0.02
    )


@pytest.mark.parametrize("name", ["dcgan-28", "resnet-28"])
def test_a_compiled_run_takes_the_first_steps_of_a_plain_one(name, tmp_path):
    """In processes of their own, where the warnings of the compiler's imports are no errors."""
    losses = {}
    for option in ("--no-compile", "--compile"):
        folder = tmp_path / option.strip("-")
        asked = (
            f"--architecture {name} --base-channels 4 --batch-size 8 --precision float32 --steps 2 {option}"
        )
        command = [sys.executable, "-m", "dcganlib", "train", "mnist-mini", "--out", str(folder)]
        done = subprocess.run(
            [*command, *asked.split(), "--device", DEVICE.type], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        losses[option] = [row[key] for row in runs.read(folder).history for key in ("d_loss", "g_loss")]
    assert losses["--compile"] == pytest.approx(losses["--no-compile"], rel=1e-2)


def test_what_does_not_fit_on_the_gpu_says_so():
    free, _ = torch.cuda.mem_get_info()
    config = run_config("mnist-mini", steps=1, base_channels=4, config=replace(CONFIG, batch_size=2**20))
    assert free > 0
    with pytest.raises((MemoryError, ValueError), match="memory|images"):
        runs.run(config, device="cuda")
