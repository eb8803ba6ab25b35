"""Each loss, penalty and network of chapter 9: through a step by hand, resumed, in every mode."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from dcganlib import layers, models, runs, sizes, zoo
from dcganlib import train as training
from dcganlib.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from dcganlib.datasets import make_loader
from dcganlib.layers import Layer, Residual, ResidualBlock, spectral_norms
from dcganlib.losses import LOSSES, gradient_penalty, zero_centered_penalty
from dcganlib.models import Discriminator, Generator
from dcganlib.runtime import checkpoint, cpu_layers
from dcganlib.runtime.ema import calibrate
from dcganlib.train import init_state, train

pytestmark = pytest.mark.usefixtures("quick_curves")

RUNGS = {
    "hinge": {"loss": "hinge"},
    "wasserstein": {"loss": "wasserstein", "gradient_penalty": 10.0, "d_steps": 2},
    "relativistic": {"loss": "relativistic"},
    "r1": {"r1": 1.0},
    "r3gan": {"loss": "relativistic", "r1": 0.5, "r2": 0.5, "ema": 0.5},
    "augmented": {"loss": "relativistic", "r1": 0.1, "augment": "color,translation,cutout"},
}
NEW = ("dcgan-28-spectral", "dcgan-spectral", "resnet-28", "resnet")


@pytest.fixture
def begin(tiny_pair, tiny_images, rng):
    """Make a state and its loader of 5 batches an epoch: ``begin("resnet", r1=1)``."""

    def make(name="dcgan", *, labels=None, **options):
        config = TrainConfig(**{"batch_size": 4, "precision": "float32", **options})
        own = {"image_size": 16, "channels": 1} if name in ("resnet", "dcgan-spectral") else {}
        classes = 0 if labels is None else 3
        pair = tiny_pair(name, num_classes=classes, **own)
        images = nn.functional.pad(tiny_images, (6, 6, 6, 6)) if "28" in name else tiny_images
        loader = make_loader(images, 4, labels=labels, rng=rng(7))
        return init_state(*pair, config), loader

    return make


def weights(state):
    networks = (state.generator, state.discriminator, state.ema_generator)
    return [x.clone() for one in networks if one is not None for x in one.state_dict().values()]


def same(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# The step


def test_a_step_with_every_term_is_what_a_loop_by_hand_does(begin, monkeypatch):
    """One step of D on loss + 10 gp + 3/2 R1 + 2 R2, then one of G on pairs; and then the same again."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.full(shape, 0.25))
    options = {"loss": "relativistic", "gradient_penalty": 10, "r1": 3, "r2": 4, "fast": False}
    (state, loader), (other, _) = begin(**options), begin(**options)
    latents = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(3))
    drawn = iter(latents)
    monkeypatch.setattr(training, "sample_z", lambda *rest, **options: next(drawn))
    records = list(train(state, loader, 2))
    g, d = other.generator, other.discriminator
    for record, z, real in zip(records, latents, loader.epoch(0), strict=False):
        fake = g(z)
        pairs = d(real) - d(fake.detach())
        value = nn.functional.softplus(-pairs).mean()
        x, y, between = (
            images.detach().clone().requires_grad_() for images in (real, fake, 0.25 * real + 0.75 * fake)
        )
        slopes = [
            torch.autograd.grad(d(images).sum(), images, create_graph=True)[0] for images in (between, x, y)
        ]
        norms = [slope.square().sum((1, 2, 3)) for slope in slopes]
        total = (
            value + 10 * (norms[0].sqrt() - 1).square().mean() + 1.5 * norms[1].mean() + 2 * norms[2].mean()
        )
        other.d_optimizer.zero_grad()
        total.backward()
        other.d_optimizer.step()
        g_value = nn.functional.softplus(-(d(fake) - d(real))).mean()
        other.g_optimizer.zero_grad()
        g_value.backward()
        other.g_optimizer.step()
        assert record.d_loss == pytest.approx(value.item(), rel=1e-4)
        assert record.g_loss == pytest.approx(g_value.item(), rel=1e-4)
    for new, old in zip(weights(state), weights(other), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-4, atol=3e-5)  # Adam moves a weight by up to 4e-4


def test_d_takes_its_steps_each_on_a_batch_and_z_of_its_own(begin, monkeypatch):
    state, loader = begin(d_steps=3)
    seen, step, g_step = [], training.discriminator_step, training.generator_step
    monkeypatch.setattr(
        training, "discriminator_step", lambda *a, **k: (seen.append(a[2:4]), step(*a, **k))[1]
    )
    last = []
    monkeypatch.setattr(training, "generator_step", lambda *a, **k: (last.append(a[2]), g_step(*a, **k))[1])
    records = list(train(state, loader, 2))
    assert [record.epoch for record in records] == [1, 1]
    batches = [*loader.epoch(0), *loader.epoch(1)]
    assert len(seen) == 6
    for (real, _), batch in zip(seen, batches, strict=False):
        assert torch.equal(real, batch)
    fakes = [fake.detach() for _, fake in seen[:3]]
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.pairwise(fakes))
    assert [fake.requires_grad for _, fake in seen] == [False, False, True] * 2
    assert last[0] is seen[2][1]


def test_one_step_of_d_is_the_default_and_draws_what_it_always_drew(begin):
    (state, loader), (other, _) = begin(), begin(d_steps=1, loss="bce", r1=0, augment="none")
    assert [r.as_dict() for r in train(state, loader, 3)] == [r.as_dict() for r in train(other, loader, 3)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rung", RUNGS)
def test_each_rung_trains_in_each_precision_with_and_without_classes(begin, rung, precision):
    for labels in (None, torch.arange(20) % 3):
        state, loader = begin("resnet", labels=labels, precision=precision, **RUNGS[rung])
        before = weights(state)
        records = list(train(state, loader, 3))
        assert all(abs(value) < 10 for record in records for value in record.as_dict().values())
        moved = [(a != b).any() for a, b in zip(before, weights(state), strict=True)]
        assert sum(moved) > 0.8 * len(moved)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("options", [{}, {"loss": "hinge", "r1": 0.5}])
def test_each_network_trains(begin, name, options):
    state, loader = begin(name, ema=0.5, **options)
    values = [value for record in train(state, loader, 3) for value in (record.d_loss, record.g_loss)]
    assert all(abs(value) < 10 for value in values)


def test_a_penalty_takes_no_layer_without_a_second_derivative(begin, monkeypatch):
    """The optimised layers for half precision have none; a penalty gives the plain layers' gradient."""
    monkeypatch.setattr(cpu_layers, "PRODUCT_MIN_CHANNELS", 1)
    monkeypatch.setattr(cpu_layers, "PRODUCT_MIN_CHANNELS_AMX", 1)
    grads = []
    for fast in (True, False):
        state, loader = begin(fast=fast, precision="bfloat16", r1=1.0, gradient_penalty=1.0)
        d, real = state.discriminator.eval(), next(loader.epoch(0))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = d(real)
            penalty = zero_centered_penalty(d, real) + gradient_penalty(
                d, real, real.flip(0), rng=torch.Generator().manual_seed(0)
            )
        assert ("Im2Col" in names(found.grad_fn)) == fast
        penalty.backward()
        grads.append([parameter.grad for parameter in d.parameters()])
        list(train(state, loader, 2))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def names(node):
    """The names of all nodes of a graph, joined."""
    return node.name() + "".join(names(other) for other, _ in node.next_functions if other is not None)


# Runs


@pytest.mark.parametrize("rung", ["wasserstein", "augmented", "r3gan"])
def test_a_run_that_is_resumed_is_the_run_that_never_stopped(image_folder, tmp_path, rung):
    train_config = TrainConfig(batch_size=4, precision="float32", **RUNGS[rung])
    data = DataConfig(str(image_folder), image_size=16, channels=1, mirror=True)
    model = ModelConfig("resnet", base_channels=4)
    config = RunConfig(data, model, train_config, steps=2, sample_every=2)
    whole, parts = runs.run(config, tmp_path / "whole", device="cpu"), tmp_path / "parts"
    runs.run(replace(config, steps=1), parts, device="cpu")
    runs.resume(parts, steps=2, device="cpu")
    for name in ("history.csv", "generator.safetensors", "discriminator.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    (first, _), (second, _) = (checkpoint.load(folder / "checkpoint.pt") for folder in (whole, parts))
    assert same(weights(first), weights(second))


@pytest.fixture(scope="module")
def source(image_folder, tmp_path_factory):
    """A run of two steps, with spectral norm."""
    data, model = DataConfig(str(image_folder), 16, 1), ModelConfig("dcgan-spectral", base_channels=4)
    config = RunConfig(data, model, TrainConfig(batch_size=4, seed=3, r1=1.0), steps=2)
    return runs.run(config, tmp_path_factory.mktemp("source") / "run", device="cpu")


def test_a_run_keeps_its_discriminator(source):
    state, _ = checkpoint.load(source / "checkpoint.pt")
    kept = runs.read(source).discriminator
    assert kept.layers == state.discriminator.layers
    assert same(list(kept.state_dict().values()), list(state.discriminator.state_dict().values()))
    assert not kept.training


def test_a_run_without_one_has_none(source, tmp_path):
    for name in ("config.json", "history.csv", "generator.safetensors"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    assert runs.read(tmp_path).discriminator is None
    assert runs.read("mnist").discriminator is None


def begin_from(source, folder, **model):
    """Start a run from another; its state before the first step."""
    found = runs.read(source).config
    config = RunConfig(
        found.data,
        replace(found.model, **model),
        replace(found.train, seed=4, loss="hinge"),
        steps=1,
        init_from=source,
    )
    runs.run(config, folder, device="cpu")
    return checkpoint.load(folder / "checkpoint-previous.pt")[0]


def test_a_run_starts_from_the_weights_of_another(source, tmp_path):
    before, _ = checkpoint.load(source / "checkpoint.pt")
    state = begin_from(source, tmp_path / "next")
    assert state.step == 0
    assert same(weights(state), weights(before))
    assert runs.read(tmp_path / "next").config.init_from == str(source)
    runs.resume(tmp_path / "next", steps=2, device="cpu")
    assert len(runs.read(tmp_path / "next").history) == 2


def test_without_a_kept_discriminator_only_the_generator_starts_from_the_other_run(source, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "history.csv", "generator.safetensors"):
        (bare / name).write_bytes((source / name).read_bytes())
    with pytest.warns(UserWarning, match="bare kept no discriminator: D starts from new weights"):
        state = begin_from(bare, tmp_path / "next")
    before, _ = checkpoint.load(source / "checkpoint.pt")
    assert same(list(state.generator.parameters()), list(before.generator.parameters()))
    assert not same(list(state.discriminator.parameters()), list(before.discriminator.parameters()))


def test_a_run_of_other_networks_is_no_start(source, tmp_path):
    words = "init_from must be a run of the same networks: .*G's layer 1 channels 8, not 4.*dcgan-spectral"
    with pytest.raises(ValueError, match=words):
        begin_from(source, tmp_path / "next", base_channels=2)
    with pytest.raises(FileNotFoundError, match="there is no run nowhere"):
        runs.run(RunConfig(DataConfig("mnist-mini"), steps=1, init_from="nowhere"), tmp_path / "next")
    assert not (tmp_path / "next").exists()


def test_an_epoch_has_a_share_of_the_steps_where_d_takes_several(image_folder, tmp_path):
    data, model = DataConfig(str(image_folder), 16, 1), ModelConfig(base_channels=4)
    config = RunConfig(data, model, TrainConfig(batch_size=4, d_steps=3), epochs=2)
    found = runs.read(runs.run(config, tmp_path / "run", device="cpu"))
    assert found.config.steps == 4  # 10 batches, 3 a step
    assert [row["epoch"] for row in found.history] == [1, 1, 2, 2]


# Spectral norm


def test_spectral_norm_makes_the_largest_singular_value_one(rng):
    for name, network in zip("GD", both_spectral(rng), strict=True):
        norms = spectral_norms(network)
        assert len(norms) == len(network.layers)
        for norm, weight in norms:
            matrix = norm.eval()(weight).movedim(norm.dim, 0).flatten(1)
            assert torch.linalg.svdvals(matrix)[0].item() == pytest.approx(1, abs=0.02), name


def both_spectral(rng):
    """Both networks with spectral norm on all layers."""
    pair = zoo.build("dcgan", image_size=16, channels=1, base_channels=8, rng=rng())
    options = {"norm": "spectral"}
    changed = [[replace(layer, **options) for layer in network.layers] for network in pair]
    made = Generator(16, 1, 8, layers=changed[0]), Discriminator(16, 1, 8, layers=changed[1])
    return [models.init_weights(network, rng()) for network in made]


def test_spectral_norm_is_torchs(rng):
    """The same weight, gradient and state after training steps, given the same start."""
    for kind, dim in ((nn.Conv2d, 0), (nn.ConvTranspose2d, 1)):
        layer = kind(3, 5, 4, bias=False)
        weight = layer.weight.detach().clone().requires_grad_()
        parametrizations.spectral_norm(layer)
        theirs = layer.parametrizations.weight[0]
        ours = layers.SpectralNorm(weight.shape, dim)
        ours.u, ours.v = theirs._u.clone(), theirs._v.clone()
        for _ in range(3):
            found, expected = ours(weight), layer.weight
            torch.testing.assert_close(found, expected)
        direction = torch.randn(weight.shape, generator=rng())
        (mine,) = torch.autograd.grad((found * direction).sum(), weight)
        (others,) = torch.autograd.grad((expected * direction).sum(), layer.parametrizations.weight.original)
        torch.testing.assert_close(mine, others, rtol=1e-4, atol=1e-5)


def test_spectral_norm_has_second_derivatives(rng):
    norm = layers.SpectralNorm(torch.Size((3, 2, 2, 2)), 0).double()
    weight = torch.randn(3, 2, 2, 2, generator=rng()).double().requires_grad_()
    norm.reset(weight)
    assert torch.autograd.gradgradcheck(norm.eval(), weight)


def test_the_same_seed_gives_the_same_spectral_weights_whatever_torchs_source_says(tiny_pair):
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        _, d = tiny_pair("dcgan-28-spectral", seed=5)
        found.append(list(d.state_dict().values()))
    assert same(*found)


def test_averaged_spectral_weights_get_a_norm_of_their_own(rng):
    generator, _ = both_spectral(rng)
    with torch.no_grad():
        for _, weight in spectral_norms(generator):
            weight.mul_(3).add_(0.1 * torch.randn(weight.shape, generator=rng(3)))
    calibrate(generator)
    first = [x.clone() for x in generator.state_dict().values()]
    for norm, weight in spectral_norms(generator):
        matrix = norm.eval()(weight).movedim(norm.dim, 0).flatten(1)
        assert torch.linalg.svdvals(matrix)[0].item() == pytest.approx(1, abs=0.03)
    calibrate(generator)
    assert same(first, list(generator.state_dict().values()))


def test_a_spectral_network_passes_through_a_file(tiny_pair, tmp_path, rng):
    _, d = tiny_pair("dcgan-28-spectral")
    images = torch.rand(3, 1, 28, 28, generator=rng())
    d(images)  # a step of the power method
    checkpoint.save_discriminator(tmp_path / "d.safetensors", d, step=1)
    again, about = checkpoint.load_discriminator(tmp_path / "d.safetensors")
    assert about == {"step": 1}
    assert torch.equal(again(images), d.eval()(images))
    with pytest.raises(ValueError, match="holds another kind of network, not a generator"):
        checkpoint.load_generator(tmp_path / "d.safetensors")


# Residual blocks


@pytest.mark.parametrize("size", [16, 17, 28, 45, 64])
def test_residual_blocks_have_the_sizes_of_their_arithmetic(rng, size):
    pair = zoo.build("resnet", image_size=size, channels=1, base_channels=4, rng=rng())
    for network, inputs in zip(pair, (torch.zeros(2, 100, 1, 1), torch.zeros(2, 1, size, size)), strict=True):
        transposed = isinstance(network, Generator)
        assert network.sizes == sizes.feature_sizes(inputs.shape[-1], network.layers, transposed=transposed)
        for block, expected in zip(network.blocks, network.sizes[1:], strict=True):
            inputs = block(inputs)
            assert inputs.shape[-1] == expected


def test_a_new_block_is_the_resampled_input(rng):
    for stride, size, pool in ((1, 8, nn.Identity()), (2, 4, nn.AvgPool2d(2))):
        block = ResidualBlock(6, Residual(6, stride=stride), size)
        block.init_weights(4, rng())
        maps = torch.randn(2, 6, 8, 8, generator=rng(1))
        torch.testing.assert_close(block(maps), pool(maps))


def test_a_block_keeps_the_scale_of_its_input_where_the_width_changes(rng):
    block = ResidualBlock(256, Residual(128), 8)
    block.init_weights(1, rng())
    maps = torch.randn(8, 256, 8, 8, generator=rng(1))
    assert block(maps).std().item() == pytest.approx(1, abs=0.05)


def test_the_branch_begins_with_hes_weights_scaled_by_the_number_of_blocks(rng):
    block = ResidualBlock(64, Residual(64), 8)
    for blocks in (1, 16):
        block.init_weights(blocks, rng())
        gain = (2 / 1.04) ** 0.5 / blocks**0.25
        assert block.branch[0].weight.std().item() == pytest.approx(gain / 64**0.5, rel=0.03)
        assert block.branch[2].weight.std().item() == pytest.approx(gain / (9 * 64) ** 0.5, rel=0.03)
        assert block.branch[4].weight.abs().max() == 0


def test_a_block_is_its_formula(rng):
    block = ResidualBlock(3, Residual(5, stride=2, output_padding=1), 8)
    for parameter in block.parameters():
        nn.init.normal_(parameter, generator=rng())
    maps = torch.randn(2, 3, 4, 4, generator=rng(1))
    conv, leaky = nn.functional.conv2d, nn.functional.leaky_relu
    # The other order of adapting and resampling gives the same.
    x = conv(nn.functional.interpolate(maps, scale_factor=2, mode="bilinear"), block.skip.weight)
    first, second, last = (block.branch[i] for i in (0, 2, 4))
    y = leaky(conv(x, first.weight, first.bias), 0.2)
    y = leaky(conv(y, second.weight, second.bias, padding=1), 0.2)
    torch.testing.assert_close(block(maps), x + conv(y, last.weight), rtol=1e-4, atol=1e-4)


def test_a_layers_description_survives_a_checkpoint(tmp_path):
    for name in NEW:
        state = init_state(*zoo.build(name, base_channels=2), TrainConfig(batch_size=2))
        checkpoint.save(tmp_path / f"{name}.pt", state)
        again, _ = checkpoint.load(tmp_path / f"{name}.pt")
        assert again.generator.layers == state.generator.layers
        assert again.discriminator.layers == state.discriminator.layers
        assert same(weights(again), weights(state))


@pytest.mark.parametrize(("new", "old"), [("resnet-28", "dcgan-28"), ("resnet", "dcgan")])
def test_a_step_of_the_residual_pair_costs_what_one_of_the_dcgan_costs(new, old):
    """G goes forward and back once, D three times forward, twice back in full and once to its input."""
    costs = []
    for name in (new, old):
        g, d = (multiply_adds(network) for network in zoo.build(name, device="meta"))
        costs.append(3 * g + 8 * d)
    assert costs[0] / costs[1] == pytest.approx(1.06, abs=0.03)


def multiply_adds(network):
    """Multiplications of the convolutions for one image, from the shapes that pass through."""
    counts = []

    def count(module, inputs, output):
        pixels = (inputs[0] if isinstance(module, nn.ConvTranspose2d) else output)[0, 0].numel()
        counts.append(pixels * module.in_channels * module.out_channels * module.kernel_size[0] ** 2)

    hooks = [m.register_forward_hook(count) for m in network.modules() if hasattr(m, "kernel_size")]
    shape = (
        (2, network.latent_dim)
        if isinstance(network, Generator)
        else (2, network.channels, *[network.image_size] * 2)
    )
    network(torch.zeros(shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def test_an_option_out_of_range_is_refused_by_name():
    for options, words in (({"stride": "2"}, "stride must be"), ({"channels": 1.5}, "channels must be")):
        with pytest.raises(ValueError, match=words):
            Residual(**{"channels": 4, **options})
    with pytest.raises(ValueError, match="norm must be one of .*'spectral'"):
        Layer(4, norm="weight")
    assert LOSSES["relativistic"].paired
