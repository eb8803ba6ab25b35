"""The training loop, against a loop written by hand, closed forms and its own promises."""

import math
import re
import warnings
from dataclasses import FrozenInstanceError, fields, replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.utils.data import DataLoader, TensorDataset

from dcganlib import models, zoo
from dcganlib import train as training
from dcganlib.config import TrainConfig
from dcganlib.datasets import ImageDataset, make_loader
from dcganlib.latents import sample_z
from dcganlib.losses import Loss, discriminator_loss, generator_loss, minimax_generator_loss
from dcganlib.models import Conditioned, Discriminator, Generator, Layer, generate
from dcganlib.runtime import cpu_layers, device
from dcganlib.runtime.device import pick_device, resolve
from dcganlib.runtime.ema import calibrate, update_ema
from dcganlib.runtime.step_metrics import check_finite
from dcganlib.train import StepMetrics, discriminator_step, generator_step, init_state, train


@pytest.fixture
def begin(tiny_pair, tiny_images, rng):
    """Make a state and its loader of 5 batches an epoch: ``begin(seed=1)``."""

    def make(*, name="dcgan", pair_seed=0, **options):
        config = TrainConfig(**{"batch_size": 4, "precision": "float32", **options})
        images = tiny_images if name == "dcgan" else torch.nn.functional.pad(tiny_images, (6, 6, 6, 6))
        loader = make_loader(images, config.batch_size, rng=rng(config.seed + 7))
        return init_state(*tiny_pair(name, seed=pair_seed), config), loader

    return make


def weights(*networks):
    """A copy of all parameters and running statistics."""
    return [tensor.clone() for network in networks for tensor in network.state_dict().values()]


def parameters(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def same(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def rows(records):
    return [record.as_dict() for record in records]


# Settings


FAULTY = {  # values that a field of this type does not take
    int: (np.int64(3), np.float32(3), 3.0, True, None, "3", float("nan"), 2**62),
    float: (np.float64(0.5), False, None, "0.5", float("nan"), float("inf"), 10**400),
    bool: ("no", "false", 0, 1, None),
    str: (None, 3, b"normal", "", ["normal"]),
}
# As NumPy 2 writes them itself; NumPy 1.26 leaves the type out.
SHOWN = {np.int64: "np.int64(3)", np.float32: "np.float32(3.0)", np.float64: "np.float64(0.5)"}


@pytest.mark.parametrize("name", [one.name for one in fields(TrainConfig)])
def test_every_field_refuses_values_of_other_types_and_says_what_it_takes(name):
    """A checkpoint would hold them, and could not be loaded; or they would mean their opposite."""
    kind = type(getattr(TrainConfig(), name))
    words = {int: "a whole number|from .* to below", float: "a number|above 0|at least 0|from .* to below"}
    words |= {bool: "True or False", str: r"one of \(|a text|none, or one or more of"}
    for value in FAULTY[kind]:
        shown = SHOWN.get(type(value)) or repr(value)
        with pytest.raises(ValueError, match=f"{name} must be ({words[kind]}).*, got {re.escape(shown)}$"):
            TrainConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("batch_size", 1, 2**62 - 1),
        ("g_lr", 5e-324, 1e308),
        ("beta1", 0.0, 1 - 2**-53),
        ("beta2", 0, 1 - 2**-53),
        ("ema", 0.0, 0.9999),
        ("weight_decay", 0, 1e308),
        ("decay_steps", 0, 2**62 - 1),
        ("seed", 0, 2**62 - 1),
    ],
)
def test_the_ends_of_a_range_are_taken_and_what_is_next_to_them_is_not(name, least, most):
    for value in (least, most):
        assert getattr(TrainConfig(**{name: value}), name) == value
    for value in (least - 1, most + 1 if type(most) is int else 10.0**300 * most * 1e10):
        with pytest.raises(ValueError, match=name):
            TrainConfig(**{name: value})


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(FrozenInstanceError):
        TrainConfig().seed = 1


def test_the_optimisers_are_adam_with_the_configs_numbers(tiny_pair):
    state = init_state(*tiny_pair(), TrainConfig(g_lr=0.1, d_lr=0.3, beta1=0.25, beta2=0.75))
    for optimizer, network, lr in (
        (state.g_optimizer, state.generator, 0.1),
        (state.d_optimizer, state.discriminator, 0.3),
    ):
        assert type(optimizer) is torch.optim.Adam
        (group,) = optimizer.param_groups
        assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (lr, (0.25, 0.75), 0)
        assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]
    assert state.step == 0
    assert init_state(*tiny_pair()).config == resolve(TrainConfig(), torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("g_lr", 0.0),
        ("d_lr", -1e-4),
        ("g_lr", float("inf")),
        ("d_lr", float("nan")),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("ema", 1.0),
        ("ema", -0.001),
        ("ema", float("nan")),
        ("weight_decay", -1e-5),
        ("weight_decay", float("nan")),
        ("decay_start", -1),
        ("decay_steps", float("inf")),
        ("prior", "gauss"),
        ("precision", "float64"),
        ("seed", -1),
        ("seed", 2**62),
    ],
)
def test_a_bad_setting_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name) as caught:
        TrainConfig(**{name: value})
    assert str(value) in str(caught.value)


def test_networks_that_do_not_fit_are_refused(tiny_pair):
    with pytest.raises(ValueError, match=r"\(1, 16\).*\(1, 32\)"):
        init_state(tiny_pair()[0], tiny_pair(image_size=32)[1])
    with pytest.raises(ValueError, match=r"\(3, 16\).*\(1, 16\)"):
        init_state(tiny_pair(channels=3)[0], tiny_pair()[1])
    with pytest.raises(ValueError, match="generator is on cpu, the discriminator on meta"):
        init_state(tiny_pair()[0], tiny_pair()[1].to("meta"))


def test_networks_that_could_not_be_trained_are_refused_before_the_first_step(tiny_pair):
    pair = tiny_pair()
    pair[1].blocks[1].to("meta")
    with pytest.raises(ValueError, match=r"discriminator is on cpu and meta: move all of it with \.to"):
        init_state(*pair)
    with pytest.raises(ValueError, match=r"generator's blocks\.0\.0\.weight is torch\.float64.*\.float\(\)"):
        init_state(tiny_pair()[0].double(), tiny_pair()[1])
    with pytest.raises(ValueError, match="all weights of the discriminator are frozen"):
        init_state(tiny_pair()[0], tiny_pair()[1].requires_grad_(False))
    with torch.inference_mode():
        made = Generator(16, 1, 4, 8)
    with pytest.raises(ValueError, match=r"generator was made under torch\.inference_mode"):
        init_state(made, tiny_pair()[1])


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_a_loop_without_gradients_is_refused_in_words(begin, off):
    state, loader = begin()
    with off(), pytest.raises(ValueError, match="gradients are off: train outside of"):
        next(train(state, loader))
    assert state.step == 0


def test_a_run_begun_under_inference_mode_trains_as_any_other(begin):
    with torch.inference_mode():
        state, loader = begin(name="flux-mnist", ema=0.9)
    other, _ = begin(name="flux-mnist", ema=0.9)
    assert rows(train(state, loader, 3)) == rows(train(other, loader, 3))
    with torch.inference_mode():
        assert torch.isfinite(state.ema_generator(sample_z(4, 8))).all()
    assert rows(train(state, loader, 5)) == rows(train(other, loader, 5))


def test_a_weight_that_is_frozen_at_the_start_stays_where_it_is(begin, tiny_pair):
    _, loader = begin()
    generator, discriminator = tiny_pair()
    frozen = discriminator.blocks[0][0].weight.requires_grad_(False)
    before = frozen.clone()
    state = init_state(generator, discriminator, TrainConfig(batch_size=4, precision="float32"))
    list(train(state, loader, 2))
    assert torch.equal(frozen, before)
    assert not same(parameters(discriminator), parameters(tiny_pair()[1]))


@pytest.fixture
def _another_default():
    """As a notebook that set torch's defaults earlier; meta stands in for a GPU: nothing may land there."""
    kind = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(kind)


# torch 2.6 itself makes the step count of an Adam that is not fused on the default device.
@pytest.mark.usefixtures("_another_default")
@pytest.mark.parametrize("fast", [pytest.param(False, marks=pytest.mark.pinned), True])
def test_training_does_not_depend_on_torchs_default_dtype_and_device(rng, fast):
    pair = zoo.build("flux-mnist", base_channels=4, latent_dim=8, rng=rng())
    config = TrainConfig(batch_size=4, precision="float32", ema=0.9, fast=fast)
    state = init_state(*pair, config)
    images = torch.zeros(8, 1, 28, 28, dtype=torch.uint8, device="cpu")
    records = list(train(state, make_loader(images, 4, rng=rng(1)), 3))
    check_finite(records)
    tensors = [*weights(*pair), *weights(state.ema_generator)]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert {tensor.dtype for tensor in tensors} == {torch.float32, torch.int64}
    with torch.device("cpu"):
        torch.set_default_dtype(torch.float32)
        other = init_state(*zoo.build("flux-mnist", base_channels=4, latent_dim=8, rng=rng()), config)
        assert rows(train(other, make_loader(images, 4, rng=rng(1)), 3)) == rows(records)


# One step of each player


@pytest.fixture
def stage(begin):
    """A state with real and generated images, the latter with their graph."""
    state, loader = begin()
    real = next(loader.epoch(0))
    fake = state.generator(sample_z(4, 8, rng=state.rng))
    return state, real, fake


def test_discriminator_step_moves_d_alone_and_gives_g_no_gradient(stage):
    state, real, fake = stage
    generator, discriminator = parameters(state.generator), parameters(state.discriminator)
    value, real_logits, fake_logits = discriminator_step(state.discriminator, state.d_optimizer, real, fake)
    assert all(parameter.grad is None for parameter in state.generator.parameters())
    assert same(parameters(state.generator), generator)
    assert not any(map(torch.equal, parameters(state.discriminator), discriminator))
    assert not any(tensor.requires_grad for tensor in (value, real_logits, fake_logits))
    assert real_logits.shape == fake_logits.shape == (4,)


def test_generator_step_moves_g_alone_and_gives_d_no_gradient(stage):
    state, _, fake = stage
    generator, discriminator = parameters(state.generator), parameters(state.discriminator)
    value = generator_step(state.discriminator, state.g_optimizer, fake)
    assert all(parameter.grad is None for parameter in state.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in state.discriminator.parameters())
    assert same(parameters(state.discriminator), discriminator)
    assert not any(map(torch.equal, parameters(state.generator), generator))
    assert not value.requires_grad


def test_generator_step_leaves_old_gradients_of_d_alone(stage):
    state, real, fake = stage
    discriminator_step(state.discriminator, state.d_optimizer, real, fake)
    before = [parameter.grad.clone() for parameter in state.discriminator.parameters()]
    generator_step(state.discriminator, state.g_optimizer, fake)
    assert same([parameter.grad for parameter in state.discriminator.parameters()], before)


def test_d_is_free_again_after_an_error_and_what_was_frozen_stays_frozen(stage):
    state, _, fake = stage
    first, *rest = state.discriminator.parameters()
    first.requires_grad_(False)

    def broken(logits):
        raise RuntimeError("broken loss")

    with pytest.raises(RuntimeError, match="broken loss"):
        generator_step(state.discriminator, state.g_optimizer, fake, loss=broken)
    assert not first.requires_grad
    assert all(parameter.requires_grad for parameter in rest)


def test_gradients_of_earlier_steps_do_not_add_up(stage):
    state, real, fake = stage
    for parameter in state.discriminator.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    discriminator_step(state.discriminator, state.d_optimizer, real, fake)
    assert all(parameter.grad.abs().max() < 100 for parameter in state.discriminator.parameters())
    for parameter in state.generator.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    generator_step(state.discriminator, state.g_optimizer, fake)
    assert all(parameter.grad.abs().max() < 100 for parameter in state.generator.parameters())


def test_the_first_step_of_adam_moves_each_weight_by_the_learning_rate(stage):
    state, real, fake = stage
    before = parameters(state.discriminator)
    discriminator_step(state.discriminator, state.d_optimizer, real, fake)
    for old, new in zip(before, state.discriminator.parameters(), strict=True):
        clear = new.grad.abs() > 1e-4  # 10,000 times Adam's epsilon
        torch.testing.assert_close((new - old)[clear], -2e-4 * new.grad.sign()[clear], rtol=1e-2, atol=1e-7)
        assert clear.any()


def test_real_and_fake_pass_d_in_batches_of_their_own(stage):
    """Batch norm must see one kind of image at a time."""
    state, real, fake = stage
    seen = []
    state.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    discriminator_step(state.discriminator, state.d_optimizer, real, fake)
    assert [tuple(batch.shape) for batch in seen] == [(4, 1, 16, 16)] * 2
    assert torch.equal(seen[0], real)
    assert torch.equal(seen[1], fake)


def test_d_learns_to_tell_bright_from_dark(tiny_pair):
    _, discriminator = tiny_pair("dcgan-28")
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3)
    real, fake = torch.full((8, 1, 28, 28), 0.8), torch.full((8, 1, 28, 28), -0.8)
    source = torch.Generator().manual_seed(0)
    for _ in range(60):
        noise = [0.1 * torch.randn(real.shape, generator=source) for _ in range(2)]
        value, real_logits, fake_logits = discriminator_step(
            discriminator, optimizer, real + noise[0], fake + noise[1]
        )
    assert 0 <= value < 0.2
    assert real_logits.min() > 0 > fake_logits.max()


def test_g_learns_to_please_a_fixed_d(tiny_pair, rng):
    generator, _ = tiny_pair()
    judge = nn.Sequential(nn.Flatten(), nn.Linear(256, 1), nn.Flatten(0))
    judge[1].weight.data.fill_(1 / 256)  # bright is real
    optimizer = torch.optim.Adam(generator.parameters(), lr=5e-3)
    means = []
    for _ in range(30):
        fake = generator(sample_z(8, 8, rng=rng(1)))
        generator_step(judge, optimizer, fake)
        means.append(fake.mean().item())
    assert abs(means[0]) < 0.05
    assert means[-1] > 0.5


# The loop


def by_hand(state, batches, *, uniform=False, total=False):
    """The loop once more, in plain autograd and with both losses as cross-entropy: rows of records."""
    generator, discriminator = state.generator, state.discriminator
    g_adam = torch.optim.Adam(generator.parameters(), 0.0002, (0.5, 0.999))
    d_adam = torch.optim.Adam(discriminator.parameters(), 0.0002, (0.5, 0.999))
    source = torch.Generator().manual_seed(state.config.seed)
    found = []
    for real in batches:
        shape = (len(real), generator.latent_dim)
        z = torch.rand(shape, generator=source) * 2 - 1 if uniform else torch.randn(shape, generator=source)
        torch.manual_seed(torch.randint(2**62, (1,), generator=source).item())  # for dropout
        fake = generator(z)
        on_real, on_fake = discriminator(real), discriminator(fake.detach())
        d_loss = bce(on_real, torch.ones_like(on_real)) + bce(on_fake, torch.zeros_like(on_fake))
        d_loss = d_loss if total else d_loss / 2
        d_adam.zero_grad()
        d_loss.backward()
        d_adam.step()
        again = discriminator(fake)
        g_loss = bce(again, torch.ones_like(again))
        g_adam.zero_grad()
        g_loss.backward()
        g_adam.step()
        found.append(torch.stack([d_loss, g_loss, on_real.sigmoid().mean(), on_fake.sigmoid().mean()]))
    return torch.stack(found).detach()


@pytest.mark.parametrize(
    ("name", "options", "sum_losses"),
    [
        ("dcgan", {}, False),
        ("dcgan", {"prior": "uniform", "seed": 5}, False),
        ("dcgan", {}, True),
        ("flux-mnist", {}, True),  # has dropout
    ],
)
def test_training_equals_the_loop_written_by_hand(begin, name, options, sum_losses):
    (ours, loader), (other, _) = begin(name=name, **options), begin(name=name, **options)
    summed = Loss("", partial(discriminator_loss, reduction="sum"), generator_loss)
    records = list(train(ours, loader, 4, loss=summed if sum_losses else None))
    with torch.random.fork_rng():
        expected = by_hand(other, islice(loader.epoch(0), 4), uniform="prior" in options, total=sum_losses)
    actual = torch.tensor([[r.d_loss, r.g_loss, r.d_real, r.d_fake] for r in records])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    for network, reference in ((ours.generator, other.generator), (ours.discriminator, other.discriminator)):
        for new, old in zip(weights(network), weights(reference), strict=True):
            # Four steps of Adam move a weight by up to 8e-4.
            torch.testing.assert_close(new, old, rtol=1e-4, atol=2e-5)


def test_the_loss_of_g_is_the_one_that_was_given(begin):
    (state, loader), (other, _) = begin(), begin()
    (usual,) = train(state, loader, 1)
    (minimax,) = train(other, loader, 1, loss=Loss("", discriminator_loss, minimax_generator_loss))
    # Up to G's update both runs are the same, so the two values speak of the same logits near 0.
    assert minimax.d_loss == usual.d_loss
    assert usual.g_loss == pytest.approx(0.693, abs=0.1)
    assert minimax.g_loss == pytest.approx(-0.693, abs=0.1)
    assert not same(parameters(state.generator), parameters(other.generator))


def test_a_record_tells_what_the_logits_were(begin):
    state, loader = begin()
    seen = []

    def watch(real_logits, fake_logits):
        seen.append((real_logits.detach(), fake_logits.detach()))
        return discriminator_loss(real_logits, fake_logits)

    (record,) = train(state, loader, 1, loss=Loss("", watch, generator_loss))
    real_logits, fake_logits = seen[0]
    assert record.d_real == pytest.approx((1 / (1 + torch.exp(-real_logits))).mean().item(), rel=1e-6)
    assert record.d_fake == pytest.approx((1 / (1 + torch.exp(-fake_logits))).mean().item(), rel=1e-6)
    assert record.d_real != record.d_fake


@pytest.mark.parametrize("name", ["dcgan", "flux-mnist"])
def test_same_seed_same_records_bit_for_bit(begin, name):
    runs = []
    for noise in (0, 1):
        torch.manual_seed(noise)  # must not matter
        state, loader = begin(name=name, seed=3)
        runs.append((rows(train(state, loader, 7)), weights(state.generator, state.discriminator)))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])


def test_another_seed_gives_another_run(begin):
    (state, loader), (other, _) = begin(seed=3), begin(seed=4)
    assert rows(train(state, loader, 2)) != rows(train(other, loader, 2))


def test_the_global_source_of_randomness_is_left_alone(begin):
    state, loader = begin(name="flux-mnist")
    before = torch.get_rng_state()
    list(train(state, loader, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_other_source_of_randomness_is_seeded(begin, monkeypatch):
    """torch.manual_seed would seed every GPU, also those that this run does not use."""
    seeded = []
    for place in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            if hasattr(place, name):
                monkeypatch.setattr(place, name, lambda seed, place=place: seeded.append(place))
    torch.manual_seed(torch.initial_seed())
    assert seeded  # so this sees it
    seeded.clear()
    state, loader = begin(name="flux-mnist")
    list(train(state, loader, 1))
    assert not seeded


def test_dropout_differs_from_step_to_step(begin):
    state, _ = begin(name="flux-mnist")
    masks = []
    dropout = next(module for module in state.discriminator.modules() if isinstance(module, nn.Dropout))
    dropout.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    real = torch.zeros(4, 1, 28, 28) + 0.5
    training.train_step(state, real)
    training.train_step(state, real)
    assert len(masks) == 6
    assert not any(torch.equal(masks[0], mask) for mask in masks[1:])


def test_training_can_be_cut_off_and_picked_up_in_the_middle_of_an_epoch(begin):
    (whole, loader), (parts, _) = begin(), begin()
    expected = rows(train(whole, loader, 12))
    found = []
    for stop in (3, 5, 5, 8, 12):
        found += rows(train(parts, loader, stop))
        assert parts.step == stop
    assert found == expected
    assert same(weights(whole.generator, whole.discriminator), weights(parts.generator, parts.discriminator))


def test_a_loop_that_is_left_early_has_done_the_steps_it_yielded(begin):
    state, loader = begin()
    assert [record.step for record in islice(train(state, loader), 2)] == [1, 2]
    assert state.step == 2
    assert [record.step for record in islice(train(state, loader), 2)] == [3, 4]


def test_steps_and_epochs_are_counted_from_one_over_the_end_of_the_epoch(begin):
    state, loader = begin()
    records = list(train(state, loader, 11))
    assert [record.step for record in records] == list(range(1, 12))
    assert [record.epoch for record in records] == [1] * 5 + [2] * 5 + [3]
    assert list(train(state, loader, 11)) == []
    assert list(train(state, loader, 4)) == []


def test_each_epoch_trains_on_its_own_shuffle(begin):
    state, loader = begin()
    seen = []
    state.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    list(train(state, loader, 10))
    reals = seen[::3]  # real, fake, fake again
    expected = [*loader.epoch(0), *loader.epoch(1)]
    assert same(reals, expected)
    assert not same(reals[:5], reals[5:])


def test_z_is_as_long_as_the_batch_even_where_the_last_one_is_short(begin, tiny_images, rng):
    state, _ = begin(batch_size=8)
    sizes = []
    state.generator.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    list(train(state, make_loader(tiny_images, 8, rng=rng(), drop_last=False), 3))
    assert sizes == [8, 8, 4]


def test_a_loader_of_another_batch_size_than_the_settings_is_refused(tiny_pair, tiny_images, rng):
    state = init_state(*tiny_pair(), TrainConfig(batch_size=999))
    with pytest.raises(ValueError, match="loader's batch_size is 8, the settings' 999"):
        next(train(state, make_loader(tiny_images, 8, rng=rng())))
    assert state.step == 0


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (
            lambda images: DataLoader(TensorDataset(images), 4),
            r"a DataLoader: pass datasets.make_loader\(images, 4\)",
        ),
        (
            lambda images: ImageDataset(images, None, "discs", "", ""),
            r"an ImageDataset: pass datasets.make_loader\(loader.images, 4\)",
        ),
        (lambda images: images, r"a Tensor: pass datasets.make_loader\(images, 4\)"),
        (list, r"a list: pass datasets.make_loader\(images, 4\)"),
        (lambda images: None, "a NoneType: pass datasets.make_loader"),
    ],
)
def test_whatever_is_no_loader_of_ours_is_refused_and_the_way_to_one_is_told(begin, tiny_images, wrap, words):
    state, _ = begin()
    with pytest.raises(ValueError, match=words):
        next(train(state, wrap(tiny_images)))
    assert state.step == 0


def test_fakes_are_made_once_a_step_in_training_mode(begin):
    state, loader = begin()
    state.generator.eval()
    state.discriminator.eval()
    modes = []
    state.generator.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    list(train(state, loader, 3))
    assert modes == [True] * 3
    assert state.discriminator.training


# The averaged generator


def test_the_average_of_a_constant_network_nears_it_by_the_product_of_the_decays(tiny_pair):
    """Closed form: of the distance to weights that stay, the product of all decays is left."""
    (mean, _), (target, _) = tiny_pair(), tiny_pair(seed=1)
    first, last = parameters(mean.double()), parameters(target.double())
    for step in range(1, 21):
        update_ema(mean, target, 0.5, step)
    # Up to step 8 the decay is (1 + t) / (10 + t), whose product is 2 * 3 * ... * 9 / (11 * 12 * ... * 18).
    left = math.prod(range(2, 10)) / math.prod(range(11, 19)) * 0.5**12
    for new, old, there in zip(parameters(mean), first, last, strict=True):
        torch.testing.assert_close(new - there, left * (old - there), rtol=1e-6, atol=1e-12)


def test_the_average_is_the_weighted_sum_of_all_weights_since_the_start(begin):
    """In NumPy: each step's weights, times the share they got, times what the later steps left of it."""
    state, loader = begin(ema=0.4)
    seen = [np.concatenate([p.double().flatten().numpy() for p in parameters(state.generator)])]
    for _ in train(state, loader, 9):
        seen.append(np.concatenate([p.double().flatten().numpy() for p in parameters(state.generator)]))
    decays = np.array([0.0, *(min(0.4, (1 + t) / (10 + t)) for t in range(1, 10))])
    shares = (1 - decays) * np.append(np.cumprod(decays[:0:-1])[::-1], 1)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    found = torch.cat([p.flatten() for p in parameters(state.ema_generator)])
    np.testing.assert_allclose(found.numpy(), shares @ np.array(seen), rtol=1e-4, atol=1e-7)


def test_the_average_draws_with_statistics_of_its_own_weights(begin, rng):
    """Other latents have the mean and variance that its batch norms keep."""
    state, loader = begin(ema=0.99, g_lr=5e-3, d_lr=5e-3)
    list(train(state, loader, 30))
    seen = {}
    for name, module in state.ema_generator.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    generate(state.ema_generator, sample_z(4000, 8, rng=rng(9)))
    for name, maps in seen.items():
        norm = state.ema_generator.get_submodule(name)
        spread = maps.var((0, 2, 3))
        assert ((norm.running_mean - maps.mean((0, 2, 3))).abs() < 0.2 * spread.sqrt()).all()
        torch.testing.assert_close(norm.running_var, spread, rtol=0.25, atol=0)
    assert len(seen) == 2


def test_the_statistics_are_measured_again_after_each_step_and_are_always_the_same(begin):
    (state, loader), (other, _) = begin(ema=0.9), begin(ema=0.9)
    for _ in train(state, loader, 3):
        statistics = weights(state.ema_generator)
    assert same(weights(state.ema_generator), statistics)
    list(train(other, loader, 3))  # never looked at before
    assert same(weights(other.ema_generator), statistics)
    list(train(state, loader, 4))
    assert not same(weights(state.ema_generator), statistics)


def test_statistics_by_class_are_those_of_all_classes(tiny_pair, rng):
    generator, _ = tiny_pair(num_classes=3)
    torch.nn.init.normal_(generator.blocks[0][0].weight, generator=rng(2))
    calibrate(generator)
    drawn = []
    generator.blocks[0][0].register_forward_hook(lambda _, inputs, maps: drawn.append(maps))
    generate(generator, sample_z(3000, 8, rng=rng(1)), torch.arange(3000) % 3)
    norm = generator.blocks[0][1]
    torch.testing.assert_close(norm.running_var, drawn[0].var((0, 2, 3)), rtol=0.25, atol=0)


def test_without_a_decay_no_average_is_kept(begin):
    state, loader = begin()
    list(train(state, loader, 2))
    assert state.ema_generator is None


@pytest.mark.parametrize("name", ["dcgan", "flux-mnist"])
def test_averaging_leaves_the_training_alone_bit_for_bit(begin, name):
    (plain, loader), (averaging, other) = begin(name=name), begin(name=name, ema=0.9)
    assert rows(train(averaging, other, 7)) == rows(train(plain, loader, 7))
    assert same(
        weights(averaging.generator, averaging.discriminator), weights(plain.generator, plain.discriminator)
    )
    assert torch.equal(averaging.rng.get_state(), plain.rng.get_state())


def test_the_average_begins_as_a_copy_that_takes_no_gradient(begin):
    state, loader = begin(ema=0.9)
    assert same(parameters(state.ema_generator), parameters(state.generator))
    own = {tensor.data_ptr() for tensor in state.ema_generator.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in state.generator.state_dict().values()}
    list(train(state, loader, 1))
    assert all(parameter.grad is None for parameter in state.ema_generator.parameters())
    optimised = {id(p) for group in state.g_optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(parameter) for parameter in state.ema_generator.parameters()}


@pytest.fixture
def by_class(tiny_pair, tiny_images, rng):
    """A run whose networks are told which of three classes an image is of."""

    def make(**options):
        labels = torch.arange(len(tiny_images)) % 3
        loader = make_loader(tiny_images, 4, labels=labels, rng=rng(1))
        config = TrainConfig(**{"batch_size": 4, "precision": "float32", **options})
        return init_state(*tiny_pair(num_classes=3), config), loader

    return make


def test_training_by_class_gives_fakes_the_labels_of_the_real_images(by_class):
    state, loader = by_class()
    told = {"generator": [], "discriminator": []}
    for name, seen in told.items():
        getattr(state, name).register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[1]))
    list(train(state, loader, 2))
    labels = [labels for _, labels in loader.epoch(0)][:2]
    assert all(map(torch.equal, told["generator"], labels))
    assert len(told["discriminator"]) == 6  # real, fake, and fake again for G, in each step
    assert all(map(torch.equal, told["discriminator"], [part for part in labels for _ in range(3)]))


def test_training_by_class_is_training_with_the_labels_filled_in(by_class):
    (state, loader), (other, _) = by_class(), by_class()
    record = next(iter(train(state, loader, 1)))
    real, labels = next(iter(loader.epoch(0)))
    z = sample_z(4, 8, rng=torch.Generator().manual_seed(0))
    fake = other.generator(z, labels)
    value, _, _ = discriminator_step(Conditioned(other.discriminator, labels), other.d_optimizer, real, fake)
    assert record.d_loss == pytest.approx(value.item(), rel=1e-6)
    assert same(parameters(other.discriminator), parameters(state.discriminator))


def test_labels_and_networks_that_do_not_fit_are_refused(by_class, begin, tiny_images, tiny_pair, rng):
    told, with_labels = by_class()
    plain, without = begin()
    high = make_loader(tiny_images, 4, labels=torch.arange(20) % 4, rng=rng())
    for state, loader, words in (
        (told, without, "pass labels to make_loader"),
        (plain, with_labels, "have 0 classes, the loader's labels go from 0 to 2"),
        (told, high, "have 3 classes, the loader's labels go from 0 to 3"),
    ):
        with pytest.raises(ValueError, match=words):
            next(train(state, loader))
        assert state.step == 0
    with pytest.raises(ValueError, match="generator has 3 classes, the discriminator 0"):
        init_state(tiny_pair(num_classes=3)[0], tiny_pair()[1])


def test_the_learning_rates_stay_and_then_fall_in_a_straight_line_to_nothing(begin):
    state, loader = begin(g_lr=0.1, d_lr=0.2, decay_start=2, decay_steps=4)
    seen = {"g": [], "d": []}
    for name, optimizer in (("g", state.g_optimizer), ("d", state.d_optimizer)):
        optimizer.register_step_pre_hook(lambda o, *_, name=name: seen[name].append(o.param_groups[0]["lr"]))
    list(train(state, loader, 6))
    shares = [1, 1, 1, 0.75, 0.5, 0.25]
    assert seen["g"] == pytest.approx([0.1 * share for share in shares])
    assert seen["d"] == pytest.approx([0.2 * share for share in shares])


def test_the_learning_rates_fall_without_a_warning_where_float16_skips_the_first_update(begin):
    state, loader = begin(precision="float16", fast=False, g_lr=0.1, decay_start=0, decay_steps=4)
    huge = Loss("", lambda real, fake: discriminator_loss(real, fake) * 1e38, generator_loss)
    list(train(state, loader, 1, loss=huge))
    assert state.g_optimizer.param_groups[0]["lr"] == pytest.approx(0.075)


@pytest.mark.parametrize("steps", [7, None])
def test_no_step_is_taken_where_the_learning_rates_are_nothing(begin, steps):
    state, loader = begin(decay_start=2, decay_steps=4)
    with pytest.raises(ValueError, match=f"at most decay_start \\+ decay_steps = 6, .*got {steps}"):
        next(train(state, loader, steps))


def test_weight_decay_adds_its_share_of_each_weight_to_the_gradient_before_adam(stage):
    """By hand: the first step goes against the sign of gradient + decay * weight, by the learning rate.

    Decoupled decay, as AdamW's, would move by the sign of the gradient alone, and a share of the weight.
    """
    state, real, fake = stage
    decayed = init_state(state.generator, state.discriminator, replace(state.config, weight_decay=50.0))
    before = parameters(state.discriminator)
    discriminator_step(state.discriminator, decayed.d_optimizer, real, fake)
    turned = 0
    for old, new in zip(before, state.discriminator.parameters(), strict=True):
        total = new.grad + 50.0 * old
        clear = total.abs() > 1e-4
        torch.testing.assert_close((new - old)[clear], -2e-4 * total.sign()[clear], rtol=1e-2, atol=1e-7)
        turned += int((total.sign() != new.grad.sign())[clear].sum())
    assert turned > 20  # weights that the gradient alone would have moved the other way


def test_images_of_the_wrong_shape_are_refused(begin):
    state, _ = begin()
    loader = make_loader(torch.zeros(8, 1, 32, 32, dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match=r"\(N, 1, 16, 16\), got \(4, 1, 32, 32\)"):
        next(train(state, loader))


def test_images_on_another_device_are_refused(begin, tiny_images, rng):
    state, _ = begin()
    with pytest.raises(ValueError, match="images are on meta, the networks on cpu"):
        next(train(state, make_loader(tiny_images, 4, rng=rng(), device="meta")))


def test_training_prints_nothing(begin, capfd):
    state, loader = begin()
    list(train(state, loader, 2))
    assert capfd.readouterr() == ("", "")


# Precision and device


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close_to_float32_and_not_the_same(begin, precision):
    (exact, loader), (half, _) = begin(), begin(precision=precision)
    expected, actual = rows(train(exact, loader, 1))[0], rows(train(half, loader, 1))[0]
    assert actual == pytest.approx(expected, abs=0.01)
    assert actual != expected
    for new, old in zip(parameters(half.generator), parameters(exact.generator), strict=True):
        assert new.dtype == torch.float32
        assert (new - old).abs().max() <= 4.1e-4  # one step of Adam each, in opposite directions at worst


def test_auto_is_what_the_device_multiplies_fastest(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    for capability, expected in (((9, 0), "bfloat16"), ((7, 5), "float16"), ((6, 1), "float32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert resolve(TrainConfig(), gpu).precision == expected
    for there, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(cpu_layers, "has_bfloat16", lambda there=there: there)
        assert resolve(TrainConfig(), cpu).precision == expected
    assert resolve(TrainConfig(), torch.device("mps")).precision == "float32"
    for named in ("float32", "bfloat16", "float16"):
        config = TrainConfig(precision=named, seed=3)
        assert resolve(config, cpu) is config


def test_float16_skips_a_step_whose_gradients_overflow(begin):
    state, loader = begin(precision="float16")
    before, scale = parameters(state.discriminator), state.d_scaler.get_scale()

    def d_loss(real_logits, fake_logits):
        return discriminator_loss(real_logits, fake_logits) * 1e38  # the gradients are beyond all numbers

    list(train(state, loader, 1, loss=Loss("", d_loss, generator_loss)))
    assert same(parameters(state.discriminator), before)
    assert state.d_scaler.get_scale() == scale / 2
    list(train(state, loader, 2))
    assert not same(parameters(state.discriminator), before)


def test_the_plain_and_the_faster_way_differ_in_rounding_alone(tiny_pair, rng):
    found = []
    for fast in (False, True):
        state = init_state(*tiny_pair(image_size=32), TrainConfig(4, precision="float32", fast=fast))
        images = torch.randint(256, (8, 1, 32, 32), dtype=torch.uint8, generator=rng(5))
        records = list(train(state, make_loader(images, 4, rng=rng(6)), 3))
        found.append((records, parameters(state.generator) + parameters(state.discriminator), state))
    (expected, old, plain), (actual, new, quick) = found
    for first, second in zip(expected, actual, strict=True):
        assert second.as_dict() == pytest.approx(first.as_dict(), rel=1e-4)
    for a, b in zip(new, old, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=3e-5)  # three steps of Adam move up to 6e-4
    kinds = [{type(m) for m in (*s.generator.modules(), *s.discriminator.modules())} for s in (plain, quick)]
    assert torch.nn.Conv2d in kinds[0]
    assert torch.nn.Conv2d not in kinds[1]
    weight = quick.discriminator.blocks[1][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not quick.discriminator.blocks[1][0].weight.is_contiguous()


def test_compile_without_a_compiler_is_refused_before_anything_is_changed(monkeypatch, tiny_pair, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    device.check_compiler.cache_clear()
    generator, discriminator = tiny_pair()
    kinds = [type(module) for module in generator.modules()]
    try:
        with pytest.raises(ValueError, match="compile must be False: .*ompiler") as caught:
            init_state(generator, discriminator, TrainConfig(compile=True))
    finally:
        device.check_compiler.cache_clear()
    assert len(str(caught.value).splitlines()) == 1
    assert [type(module) for module in generator.modules()] == kinds


def test_bfloat16_losses_are_computed_in_float32(begin):
    state, loader = begin(precision="bfloat16")
    kinds = []

    def d_loss(real_logits, fake_logits):
        kinds.append((real_logits.dtype, fake_logits.dtype))
        return discriminator_loss(real_logits, fake_logits)

    list(train(state, loader, 1, loss=Loss("", d_loss, generator_loss)))
    assert kinds == [(torch.float32, torch.float32)]


def test_autocast_is_on_but_for_float32():
    weight = torch.ones(2, 2)
    for precision, dtype in (
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ):
        with device.autocast(precision, torch.device("cpu")):
            assert (weight @ weight).dtype == dtype


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with some GPUs: ``machine(cuda=2, mps=False)``."""

    def pretend(*, cuda=0, mps=False):
        device._warn_no_gpu.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    yield pretend
    device._warn_no_gpu.cache_clear()


@pytest.mark.parametrize(
    ("there", "asked", "expected"),
    [
        ({}, "auto", "cpu"),
        ({}, "cpu", "cpu"),
        ({"cuda": 1}, "auto", "cuda"),
        ({"cuda": 1}, "gpu", "cuda"),
        ({"cuda": 1}, "cpu", "cpu"),
        ({"cuda": 2}, "cuda:1", "cuda:1"),
        ({"mps": True}, "auto", "mps"),
        ({"mps": True}, "gpu", "mps"),
        ({"mps": True}, "mps", "mps"),
    ],
)
def test_the_device_is_what_was_asked_for_where_it_is_there(machine, there, asked, expected):
    machine(**there)
    assert pick_device(asked) == torch.device(expected)


@pytest.mark.parametrize("asked", ["gpu", "cuda", "cuda:3", "mps"])
def test_a_missing_gpu_is_warned_of_once_and_the_cpu_used(machine, asked):
    machine()
    with pytest.warns(UserWarning, match=f"'{asked}' was asked for.*CPU") as caught:
        assert pick_device(asked) == torch.device("cpu")
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pick_device(asked) == torch.device("cpu")
        assert pick_device("auto") == torch.device("cpu")


def test_a_device_that_cannot_be_is_refused_by_name(machine):
    machine(cuda=2)
    for name in ("tpu", "", "xpu", "cuda:two"):
        with pytest.raises(ValueError, match=f"got '{name}'"):
            pick_device(name)
    with pytest.raises(ValueError, match="no cuda:2: this machine has 2"):
        pick_device("cuda:2")


# Records


def test_a_record_reads_the_device_once_and_only_when_asked():
    class Spy:
        reads = 0

        def tolist(self):
            self.reads += 1
            return [0.1, 0.2, 0.3, 0.4]

    spy = Spy()
    record = StepMetrics(7, 2, spy)
    assert spy.reads == 0
    assert (record.d_loss, record.g_loss, record.d_real, record.d_fake) == (0.1, 0.2, 0.3, 0.4)
    expected = {"step": 7, "epoch": 2, "d_loss": 0.1, "g_loss": 0.2, "d_real": 0.3, "d_fake": 0.4}
    assert record.as_dict() == expected
    assert spy.reads == 1


def test_a_record_keeps_no_graph_alive(begin):
    state, loader = begin()
    (record,) = train(state, loader, 1)
    assert record.values.shape == (4,)
    assert record.values.grad_fn is None
    assert not record.values.requires_grad
    with pytest.raises(FrozenInstanceError):
        record.step = 2


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::DeprecationWarning")
def test_a_compiled_run_is_the_same_run_but_for_rounding(monkeypatch, tmp_path, rng):
    """Compiled for real: two layers each, with and without batch norm, on 4 by 4 pixels."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    try:
        device.check_compiler("cpu")
    except ValueError as error:
        pytest.skip(f"nothing can be compiled here: {error}")
    one = {"kernel": 2, "stride": 1, "padding": 0}
    g_layers = [Layer(4, **one), Layer(1, norm=None, activation="tanh")]
    d_layers = [Layer(4, activation="leaky_relu"), Layer(1, **one, norm=None, activation=None)]
    graphs, found = torch._dynamo.utils.counters["stats"], []
    for compiled in (False, True):
        pair = Generator(4, 1, latent_dim=8, layers=g_layers), Discriminator(4, 1, layers=d_layers)
        for network in pair:
            models.init_weights(network, rng())
        config = TrainConfig(batch_size=4, precision="float32", compile=compiled)
        before = graphs["unique_graphs"]
        state = init_state(*pair, config)
        images = torch.randint(256, (8, 1, 4, 4), dtype=torch.uint8, generator=rng(5))
        records = list(train(state, make_loader(images, 4, rng=rng(6)), 2))
        found.append((records, parameters(pair[0]) + parameters(pair[1])))
        assert (graphs["unique_graphs"] > before) == compiled
    for expected, actual in zip(found[0][0], found[1][0], strict=True):
        assert actual.as_dict() == pytest.approx(expected.as_dict(), rel=1e-4)
    for old, new in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(new, old, rtol=1e-4, atol=4e-5)  # two steps of Adam move up to 4e-4
