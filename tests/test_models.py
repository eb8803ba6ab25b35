"""The networks: sizes, counts, placements, weights, and two tutorials written again in plain torch."""

import re
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from flat import run
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from dcganlib import datasets, models, sizes, zoo
from dcganlib.layers import ResidualBlock, spectral_norms
from dcganlib.models import Discriminator, Generator, Layer, generate, init_weights
from dcganlib.runs import preflight
from dcganlib.runtime import memory
from dcganlib.zoo import ARCHITECTURES, build

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
STANDARD = ("dcgan", "dcgan-28", "dcgan-64", "dcgan-paper")
SPECTRAL, RESIDUAL = ("dcgan-spectral", "dcgan-28-spectral"), ("resnet", "resnet-28")
ANY_SIZE = {name for name, known in ARCHITECTURES.items() if known.any_size}


@pytest.fixture(scope="module")
def full(rng):
    """All pairs at their own sizes, with the seed 0."""
    return {name: build(name, rng=rng()) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def narrow(tiny_pair):
    """All pairs, narrowed to base_channels 4, at their own sizes but for a 16-pixel "dcgan"."""
    return {name: tiny_pair(name) for name in ARCHITECTURES}


def leaves(network):
    return [module for module in network.modules() if not list(module.children())]


def plain_leaves(network):
    """Those outside of residual blocks, whose weights have another law."""
    inside = {
        id(one) for block in network.modules() if isinstance(block, ResidualBlock) for one in leaves(block)
    }
    return [module for module in leaves(network) if id(module) not in inside]


def blocks(network):
    """Each block's modules, such as [ConvTranspose2d, BatchNorm2d, ReLU]."""
    return [list(block) for block in network.blocks]


def images_for(network, rng, n=4):
    shape = (n, network.channels, network.image_size, network.image_size)
    return torch.rand(shape, generator=rng(9)) * 2 - 1


def z_for(network, rng, n=4, seed=8):
    return torch.randn(n, network.latent_dim, generator=rng(seed))


def told(network, n):
    """What a conditional network takes beside z or images: n labels."""
    return (torch.arange(n) % network.num_classes,) if network.num_classes else ()


# Counts and sizes


@pytest.mark.parametrize(
    ("name", "g_count", "d_count"),
    [
        ("flux-mnist", 2_231_168, 138_561),
        ("flux-draft", 2_231_361, 138_561),
        ("celeba-post", 12_658_438, 430_625),
        ("d2l", 3_576_704, 2_765_696),
        ("dcgan-64", 3_576_704, 2_765_568),
        ("keras-28", 413_889, 138_561),
        # The sums of the weights, written out: kernels, then gains and shifts.
        (
            "dcgan-paper",
            100 * 1024 * 16
            + 25 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)
            + 2 * (1024 + 512 + 256 + 128),
            25 * (3 * 128 + 128 * 256 + 256 * 512 + 512 * 1024) + 1024 * 16 + 2 * (256 + 512 + 1024),
        ),
        (
            "dcgan-28",
            100 * 256 * 49 + 256 * 128 * 25 + 16 * (128 * 64 + 64) + 2 * (256 + 128 + 64),
            16 * 64 + 64 + 16 * 64 * 128 + 2 * 128 + 128 * 49 + 1,
        ),
    ],
)
def test_parameter_counts(full, name, g_count, d_count):
    generator, discriminator = full[name]
    assert models.count_parameters(generator) == g_count
    assert models.count_parameters(discriminator) == d_count


def test_count_parameters_leaves_out_what_does_not_train():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    network[0].weight.requires_grad_(False)
    assert models.count_parameters(network) == 4 + 20 + 5


def test_keras_counts_its_running_statistics_too(full):
    generator, _ = full["keras-28"]
    statistics = {name: b.numel() for name, b in generator.named_buffers() if "running" in name}
    assert sum(statistics.values()) == 384
    assert models.count_parameters(generator) + 384 == 414_273


@pytest.mark.parametrize(
    ("name", "g_sizes", "d_sizes"),
    [
        ("flux-mnist", [1, 7, 7, 14, 28], [28, 14, 7, 1]),
        ("flux-draft", [1, 7, 7, 14, 28], [28, 14, 7, 1]),
        ("dcgan-28", [1, 7, 7, 14, 28], [28, 14, 7, 1]),
        ("celeba-post", [1, 4, 8, 16, 32, 64], [64, 31, 14, 11, 4, 1]),
        ("d2l", [1, 4, 8, 16, 32, 64], [64, 32, 16, 8, 4, 1]),
        ("dcgan-64", [1, 4, 8, 16, 32, 64], [64, 32, 16, 8, 4, 1]),
        ("dcgan-paper", [1, 4, 8, 16, 32, 64], [64, 32, 16, 8, 4, 1]),
        ("keras-28", [1, 4, 11, 28], [28, 14, 7, 1]),
    ],
)
def test_maps_have_the_sizes_of_the_tutorials(narrow, rng, name, g_sizes, d_sizes):
    for network, make, expected in zip(narrow[name], (z_for, images_for), (g_sizes, d_sizes), strict=True):
        assert network.sizes == expected
        x = make(network, rng)
        x = x[:, :, None, None] if isinstance(network, Generator) else x
        seen = [x.shape[-1]]
        for block in network.blocks:
            x = block(x)
            seen.append(x.shape[-1])
        assert seen == expected


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("celeba-post", ([1024, 512, 256, 128, 3], [32, 64, 128, 128, 1])),
        ("d2l", ([512, 256, 128, 64, 3], [64, 128, 256, 512, 1])),
        ("dcgan-64", ([512, 256, 128, 64, 3], [64, 128, 256, 512, 1])),
        ("dcgan-paper", ([1024, 512, 256, 128, 3], [128, 256, 512, 1024, 1])),
        ("flux-mnist", ([256, 128, 64, 1], [64, 128, 1])),
        ("keras-28", ([128, 64, 1], [64, 128, 1])),
    ],
)
def test_maps_have_the_widths_of_the_tutorials(name, widths):
    known = ARCHITECTURES[name]
    chains = known.layers(known.image_size, known.channels, known.base_channels)
    assert tuple([layer.channels for layer in chain] for chain in chains) == widths


def test_the_papers_kernels_are_five_by_five():
    known = ARCHITECTURES["dcgan-paper"]
    g_layers, d_layers = known.layers(64, 3, 128)
    assert [layer.kernel for layer in g_layers] == [4, 5, 5, 5, 5]
    assert [layer.kernel for layer in d_layers] == [5, 5, 5, 5, 4]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_pair_fits_together(narrow, rng, name):
    generator, discriminator = narrow[name]
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    assert generator.training
    assert discriminator.training
    images = generator(z_for(generator, rng, 3), *told(generator, 3))
    assert images.shape == (3, generator.channels, generator.image_size, generator.image_size)
    assert images.dtype == torch.float32
    assert -1 <= images.min() < images.max() <= 1
    logits = discriminator(images, *told(discriminator, 3))
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_built_with_no_options_a_pair_has_its_own_sizes(full, name):
    known = ARCHITECTURES[name]
    for network in full[name]:
        assert (network.image_size, network.channels) == (known.image_size, known.channels)
    assert full[name][0].latent_dim == 100


def test_the_standard_chain_ends_right_at_every_size():
    for size in range(16, 257):
        g_sizes = sizes.feature_sizes(1, models.generator_layers(size, 3, 4), transposed=True)
        d_sizes = sizes.feature_sizes(size, models.discriminator_layers(size, 4))
        assert (g_sizes[0], g_sizes[-1], d_sizes[0], d_sizes[-1]) == (1, size, size, 1)
        assert g_sizes[1] in (3, 4)
        assert g_sizes[1:] == d_sizes[-2::-1]
        assert all(larger - 2 * smaller in (0, -1) for smaller, larger in pairwise(g_sizes[1:]))


@pytest.mark.parametrize("size", [16, 17, 28, 100, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_real_networks_of_odd_sizes_work(rng, size, channels):
    generator, discriminator = build(
        "dcgan", image_size=size, channels=channels, base_channels=1, latent_dim=2, rng=rng()
    )
    images = generator(z_for(generator, rng, 2))
    assert images.shape == (2, channels, size, size)
    assert discriminator(images).shape == (2,)


def test_networks_made_by_hand_get_the_standard_chain():
    generator, discriminator = Generator(28, 1, 4, 6), Discriminator(28, 1, 4)
    assert generator.layers == tuple(models.generator_layers(28, 1, 4))
    assert discriminator.layers == tuple(models.discriminator_layers(28, 4))
    assert generator(torch.zeros(2, 6)).shape == (2, 1, 28, 28)
    assert Generator().layers == tuple(models.generator_layers(64, 3, 64))


def test_widths_double_towards_the_latent():
    assert [layer.channels for layer in models.generator_layers(64, 3, 5)] == [40, 20, 10, 5, 3]
    assert [layer.channels for layer in models.discriminator_layers(64, 5)] == [5, 10, 20, 40, 1]


# Rules of the paper, and where the tutorials leave them


def has_norm(network):
    return [any(isinstance(module, NORMS) for module in block) for block in blocks(network)]


@pytest.mark.parametrize("name", STANDARD)
def test_batch_norm_is_everywhere_but_on_the_output_and_on_the_input_of_d(narrow, name):
    generator, discriminator = narrow[name]
    inner = len(generator.blocks) - 1
    assert has_norm(generator) == [True] * inner + [False]
    assert has_norm(discriminator) == [False] + [True] * (len(discriminator.blocks) - 2) + [False]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("celeba-post", ([True] * 5, [True] * 4 + [False])),
        ("d2l", ([True] * 4 + [False], [True] * 4 + [False])),
        ("flux-mnist", ([True] * 3 + [False], [False] * 3)),
        ("flux-draft", ([True] * 3 + [False], [False] * 3)),
        ("keras-28", ([True, True, False], [False, True, False])),
    ],
)
def test_batch_norm_of_the_tutorials_stands_where_they_put_it(narrow, name, expected):
    assert tuple(has_norm(network) for network in narrow[name]) == expected


@pytest.mark.parametrize("name", [*STANDARD, "d2l", "flux-mnist"])
def test_no_bias_lies_dead_under_a_batch_norm(narrow, name):
    for network in narrow[name]:
        for block in blocks(network):
            if any(isinstance(module, NORMS) for module in block):
                assert block[0].bias is None


@pytest.mark.parametrize(
    ("name", "count"),
    [("flux-draft", (3, 3)), ("keras-28", (3, 3)), ("celeba-post", (0, 5)), ("flux-mnist", (0, 3))],
)
def test_biases_of_the_tutorials_stand_where_they_put_them(narrow, name, count):
    found = tuple(sum(block[0].bias is not None for block in blocks(network)) for network in narrow[name])
    assert found == count


def test_the_dense_layer_of_flux_has_statistics_for_each_unit_and_dcgan_28_for_each_channel(full):
    assert isinstance(blocks(full["flux-mnist"][0])[0][2], nn.BatchNorm1d)
    assert blocks(full["flux-mnist"][0])[0][2].num_features == 7 * 7 * 256
    assert blocks(full["dcgan-28"][0])[0][1].num_features == 256


def test_batch_norm_of_keras_has_no_gain_and_no_shift(narrow):
    norms = [
        module for network in narrow["keras-28"] for module in leaves(network) if isinstance(module, NORMS)
    ]
    assert len(norms) == 3
    assert all(norm.weight is None and norm.bias is None for norm in norms)


@pytest.mark.parametrize(
    ("name", "shares", "slopes"),
    [
        ("flux-mnist", [0.3, 0.3], [0.2, 0.2]),
        ("flux-draft", [0.3, 0.25], [0.3, 0.3]),
        ("dcgan-28", [], [0.2, 0.2]),
        ("dcgan-64", [], [0.2] * 4),
        ("dcgan-paper", [], [0.2] * 4),
        ("celeba-post", [], [0.2] * 4),
        ("d2l", [], [0.2] * 4),
        ("keras-28", [], [0.2, 0.2]),
    ],
)
def test_dropout_and_leak_of_the_discriminators(narrow, name, shares, slopes):
    generator, discriminator = narrow[name]
    assert [module.p for module in leaves(discriminator) if isinstance(module, nn.Dropout)] == shares
    leaks = [module.negative_slope for module in leaves(discriminator) if isinstance(module, nn.LeakyReLU)]
    assert leaks == slopes
    assert not any(isinstance(module, (nn.Dropout, nn.LeakyReLU)) for module in leaves(generator))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in RESIDUAL])
def test_the_generator_has_relu_inside_and_tanh_at_the_end(narrow, name):
    ends = [type(block[-1]) for block in blocks(narrow[name][0])]
    assert ends == [nn.ReLU] * (len(ends) - 1) + [nn.Tanh]


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_residual_pair_has_its_blocks_between_two_layers_and_no_batch_norm(narrow, name):
    generator, discriminator = narrow[name]
    for network in narrow[name]:
        first, *inner, last = blocks(network)
        assert [type(module) for block in inner for module in block] == [ResidualBlock] * len(inner)
        assert not any(has_norm(network))
        assert isinstance(first[0], CONVOLUTIONS)
        assert isinstance(last[0], CONVOLUTIONS)
    assert type(blocks(generator)[-1][-1]) is nn.Tanh
    assert generator.sizes[1:-1] == discriminator.sizes[1:-1][::-1]


@pytest.mark.parametrize("name", SPECTRAL)
def test_a_spectral_pair_has_no_batch_norm_in_d_and_the_usual_generator(narrow, name):
    generator, discriminator = narrow[name]
    assert not any(has_norm(discriminator))
    assert len(spectral_norms(discriminator)) == len(discriminator.blocks)
    assert spectral_norms(generator) == []
    own = ARCHITECTURES[name.removesuffix("-spectral")].layers(generator.image_size, generator.channels, 4)
    assert generator.layers == tuple(own[0])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_discriminator_ends_in_a_bare_convolution(narrow, name):
    (last,) = blocks(narrow[name][1])[-1]
    assert isinstance(last, nn.Conv2d)


def test_dropout_works_in_training_and_rests_in_evaluation(narrow, rng):
    discriminator = narrow["flux-mnist"][1]
    images = images_for(discriminator, rng)
    assert not torch.equal(discriminator(images), discriminator(images))
    discriminator.eval()
    assert torch.equal(discriminator(images), discriminator(images))
    discriminator.train()


@pytest.mark.parametrize(("name", "blind"), [("celeba-post", True), ("dcgan-64", False), ("d2l", False)])
def test_only_the_discriminator_of_the_celeba_post_is_blind_to_the_last_six_pixels(narrow, rng, name, blind):
    discriminator = narrow[name][1].eval()
    images = images_for(discriminator, rng, 8).requires_grad_()
    discriminator(images).sum().backward()
    discriminator.train()
    seen = (images.grad != 0).any(0).any(0)
    if blind:
        assert not seen[58:].any()
        assert not seen[:, 58:].any()
        assert seen[:58, :58].all()
        assert 64**2 - seen.sum() == 732
    else:
        assert seen.all()


# Weights


def test_weights_are_drawn_as_the_paper_has_them(full):
    for name, pair in full.items():
        for network in pair:
            for _, weight in spectral_norms(network):
                assert weight.std().item() == pytest.approx(0.02, rel=5 / weight.numel() ** 0.5), name
            for module in plain_leaves(network):
                if isinstance(module, CONVOLUTIONS) and module.weight.numel() > 10_000:
                    error = 5 / module.weight.numel() ** 0.5
                    assert module.weight.mean().item() == pytest.approx(0, abs=0.02 * error), name
                    assert module.weight.std().item() == pytest.approx(0.02, rel=error), name
                if isinstance(module, NORMS) and module.weight is not None:
                    error = 5 / module.weight.numel() ** 0.5
                    assert module.weight.mean().item() == pytest.approx(1, abs=0.02 * error), name
                    if module.weight.numel() > 100:
                        assert module.weight.std().item() == pytest.approx(0.02, rel=error), name
                if getattr(module, "bias", None) is not None:
                    assert not module.bias.any(), name


def test_init_weights_starts_a_used_network_afresh(rng, tiny_pair):
    generator, _ = tiny_pair(seed=1)
    fresh = {name: value.clone() for name, value in generator.state_dict().items()}
    generator(z_for(generator, rng))
    for parameter in generator.parameters():
        parameter.data.fill_(7)
    assert init_weights(generator, rng(1)) is generator
    assert all(torch.equal(value, fresh[name]) for name, value in generator.state_dict().items())


def test_init_weights_serves_plain_modules(rng):
    network = nn.Sequential(nn.Linear(200, 100), nn.BatchNorm1d(100), nn.BatchNorm1d(100, affine=False))
    init_weights(network, rng())
    assert network[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not network[0].bias.any()
    assert network[1].weight.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["dcgan", "flux-mnist", "keras-28"])
def test_same_seed_same_weights(tiny_pair, name):
    def weights(seed):
        return torch.cat(
            [p.flatten() for network in tiny_pair(name, seed=seed) for p in network.parameters()]
        )

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


# Generating


@pytest.mark.parametrize("training", [True, False])
def test_generate_restores_the_mode_and_leaves_no_trace(tiny_pair, rng, training):
    generator, _ = tiny_pair()
    generator.train(training)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    images = generate(generator, z_for(generator, rng))
    assert generator.training is training
    assert all(module.training is training for module in generator.modules())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert not images.requires_grad
    with pytest.raises(ValueError, match="z must"):
        generate(generator, torch.zeros(2, 3))
    assert generator.training is training


def test_generate_uses_the_running_statistics(tiny_pair, rng):
    generator, _ = tiny_pair()
    generator(z_for(generator, rng, 64))  # moves the statistics
    z = z_for(generator, rng, 5, seed=2)
    together = generate(generator, z)
    alone = torch.cat([generate(generator, row[None]) for row in z])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, generator(z), atol=1e-3)
    assert together.shape == (5, 1, 16, 16)
    assert together.dtype == torch.float32


def test_generate_gives_float32_from_a_half_precision_generator(tiny_pair, rng):
    generator = tiny_pair()[0].bfloat16()
    assert generate(generator, z_for(generator, rng).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(4, 100), (8,), (4, 8, 1, 1), (4, 7)])
def test_a_z_of_the_wrong_shape_gets_told_the_right_one(tiny_pair, shape):
    generator, _ = tiny_pair()
    with pytest.raises(ValueError, match=r"z must have shape \(N, 8\), got ") as caught:
        generator(torch.zeros(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("shape", [(4, 1, 32, 32), (4, 3, 16, 16), (1, 16, 16)])
def test_images_of_the_wrong_shape_get_told_the_right_one(tiny_pair, shape):
    _, discriminator = tiny_pair()
    with pytest.raises(ValueError, match=r"images must have shape \(N, 1, 16, 16\), got ") as caught:
        discriminator(torch.zeros(shape))
    assert str(shape) in str(caught.value)


# The same networks in plain torch, written from the tutorials


def test_the_projection_is_a_matrix_product(tiny_pair, rng):
    generator, _ = tiny_pair()
    projection = generator.blocks[0][0]
    z = z_for(generator, rng)
    matrix = projection.weight.flatten(1)  # (latent_dim, C H W)
    expected = (z @ matrix).reshape(4, projection.out_channels, 4, 4)
    torch.testing.assert_close(projection(z[:, :, None, None]), expected)


def plain_flux():
    """The Flux tutorial with its dense layers, 1/16 as wide."""
    generator = nn.Sequential(
        nn.Linear(100, 7 * 7 * 16, bias=False),
        nn.BatchNorm1d(7 * 7 * 16),
        nn.ReLU(),
        nn.Unflatten(1, (16, 7, 7)),
        nn.ConvTranspose2d(16, 8, 5, stride=1, padding=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1, bias=False),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(1, 4, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.3),
        nn.Conv2d(4, 8, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(7 * 7 * 8, 1),
    )
    return generator, discriminator


def plain_dcgan_64():
    """The DCGAN of the PyTorch tutorial, 1/16 as wide, without its closing sigmoid."""
    up = {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False}
    generator = nn.Sequential(
        nn.Unflatten(1, (100, 1, 1)),
        nn.ConvTranspose2d(100, 32, 4, 1, 0, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, **up),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, **up),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, **up),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 3, **up),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(3, 4, **up),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 8, **up),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 16, **up),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, **up),
        nn.BatchNorm2d(32),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 1, 4, 1, 0, bias=False),
    )
    return generator, discriminator


def plain_celeba_post():
    """The CelebA post's discriminator, 1/8 as wide, beside the generator of which only the end differs."""
    generator = plain_dcgan_64()[0]
    for index, (wide_in, wide_out) in {1: (100, 128), 4: (128, 64), 7: (64, 32), 10: (32, 16)}.items():
        stride = (1, 0) if index == 1 else (2, 1)
        generator[index] = nn.ConvTranspose2d(wide_in, wide_out, 4, *stride, bias=False)
        generator[index + 1] = nn.BatchNorm2d(wide_out)
    generator[13] = nn.Sequential(nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False), nn.BatchNorm2d(3))
    modules = []
    for wide_in, wide_out, stride in ((3, 4, 2), (4, 8, 2), (8, 16, 1), (16, 16, 2)):
        modules += [nn.Conv2d(wide_in, wide_out, 4, stride), nn.BatchNorm2d(wide_out), nn.LeakyReLU(0.2)]
    return generator, nn.Sequential(*modules, nn.Conv2d(16, 1, 4, 2))


@pytest.mark.parametrize(
    ("name", "plain_pair"),
    [("flux-mnist", plain_flux), ("dcgan-64", plain_dcgan_64), ("celeba-post", plain_celeba_post)],
)
def test_a_named_network_equals_its_tutorial_in_plain_torch(tiny_pair, rng, name, plain_pair):
    source = rng(4)
    pairs = zip(tiny_pair(name, latent_dim=100), plain_pair(), (z_for, images_for), strict=True)
    for network, plain, make in pairs:
        for new, old in zip(network.parameters(), plain.parameters(), strict=True):
            old.data.normal_(0, 0.2, generator=source)
            # A convolution from one pixel holds a dense layer's matrix transposed, one to a pixel as it is.
            dense = isinstance(network, Generator) and old.dim() == 2
            new.data.copy_((old.data.T if dense else old.data).reshape(new.shape))
        for training in (True, False):  # the second uses the statistics that the first has left
            x = make(network, rng, 6)
            torch.manual_seed(1)  # for dropout
            actual = network.train(training)(x)
            torch.manual_seed(1)
            expected = plain.train(training)(x)
            assert expected.std() > 1e-3  # 100 times what assert_close lets pass
            torch.testing.assert_close(actual, expected.reshape(actual.shape))


# What is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "dcgan128"}, "'dcgan128'.*dcgan, dcgan-28"),
        ({"name": "dcgan-64", "image_size": 28}, "dcgan-64 draws .*64.* not 28"),
        ({"name": "dcgan", "image_size": 15}, "image_size must be from 16 to 256 pixels, got 15"),
        ({"name": "dcgan", "image_size": 257}, "got 257"),
        ({"name": "dcgan", "channels": -1}, "channels must be an integer of at least 1, got -1"),
        ({"name": "dcgan", "base_channels": -4}, "base_channels must be an integer of at least 1, got -4"),
        ({"name": "dcgan", "latent_dim": 0}, "latent_dim must be an integer of at least 1, got 0"),
    ],
)
def test_a_pair_that_cannot_be_is_refused_by_name(options, words):
    with pytest.raises(ValueError, match=words):
        build(**options)


@pytest.mark.parametrize("name", ["image_size", "channels", "base_channels"])
def test_zero_is_not_the_default(name):
    with pytest.raises(ValueError, match="0"):
        build("dcgan", **{name: 0})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_channels": 10**8}, "base_channels 100000000 makes a network of [0-9,]+ weights, [0-9,]+ GB"),
        ({"base_channels": 10**30}, "base_channels 1000000000000000000000000000000 makes"),
        ({"latent_dim": 10**12}, "latent_dim 1000000000000 makes"),
        ({"num_classes": 10**12}, "num_classes 1000000000000 makes"),
        ({"channels": 10**12}, "channels 1000000000000 makes"),
    ],
)
def test_networks_beyond_all_memory_are_refused_by_the_number_that_was_asked_for(options, words):
    with pytest.raises(MemoryError, match=words) as caught:
        build("dcgan-28", **options)
    assert len(str(caught.value).splitlines()) == 1


def test_a_network_that_does_not_fit_is_refused_with_its_number_of_weights_and_not_made(monkeypatch):
    pairs = {name: build(name, device="meta") for name in ARCHITECTURES}
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    for name, (generator, _) in pairs.items():
        made = sum(m.weight.numel() for m in generator.modules() if isinstance(m, CONVOLUTIONS))
        with pytest.raises(MemoryError, match=f"makes a network of {made:,} weights"):
            build(name)
        assert {parameter.device.type for parameter in generator.parameters()} == {"meta"}


def test_numbers_of_numpys_become_pythons_own_which_a_checkpoint_can_hold():
    generator, discriminator = build(
        "dcgan", image_size=np.int64(16), channels=np.int32(1), base_channels=np.int64(4)
    )
    for network in (generator, discriminator):
        values = [network.image_size, network.channels, network.num_classes]
        values += [value for layer in network.layers for value in asdict(layer).values()]
        assert {type(value) for value in values} <= {int, float, bool, str, type(None)}
    with pytest.raises(ValueError, match="channels must be a whole number, got np.int64"):
        Layer(np.int64(4))


def test_layers_that_do_not_end_as_promised_are_refused():
    layers = models.generator_layers(32, 1, 4)
    with pytest.raises(
        ValueError, match=r"1 channels at 32 pixels \(chain \[1, 4, 8, 16, 32\]\), expected 1 at 64"
    ):
        Generator(64, 1, 4, layers=layers)
    with pytest.raises(ValueError, match="expected 3 at 32"):
        Generator(32, 3, 4, layers=layers)
    layers = models.discriminator_layers(32, 4)
    with pytest.raises(ValueError, match=r"1 channels at 5 pixels.*expected 1 at 1"):
        Discriminator(64, 1, 4, layers=layers)
    with pytest.raises(ValueError, match="2 channels at 1 pixels"):
        Discriminator(32, 1, 4, layers=[*layers[:-1], replace(layers[-1], channels=2)])


def test_an_unknown_norm_or_activation_is_refused_by_name():
    for options, words in (
        ({"norm": "layer"}, r"norm must be one of \('batch', 'batch1d', 'spectral'\) or None, got 'layer'"),
        ({"activation": "elu"}, r"activation must be one of .*'leaky_relu', 'tanh'\) or None, got 'elu'"),
    ):
        with pytest.raises(ValueError, match=words):
            Layer(1, kernel=16, padding=0, **options)


def test_an_empty_chain_is_refused():
    with pytest.raises(ValueError, match="layers"):
        Generator(16, 1, 4, layers=[])


# Whatever is asked for


HUNDREDS = settings(
    max_examples=150, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
NO_COUNT = st.one_of(st.integers(max_value=0), st.floats(), st.none(), st.text(max_size=3))
SMALL = {"channels": st.integers(1, 4), "latent_dim": st.integers(1, 9), "num_classes": st.integers(0, 3)}


def check_built(generator, discriminator, size, channels, num_classes):
    """Two images go through both networks and come out at the promised size."""
    labels = torch.arange(2) % num_classes if num_classes else None
    images = models.generate(generator, torch.zeros(2, generator.latent_dim), labels)
    assert tuple(images.shape) == (2, channels, size, size)
    assert images.abs().max() <= 1
    with torch.no_grad():
        assert tuple(discriminator.eval()(images, labels).shape) == (2,)


@HUNDREDS
@given(size=st.integers(16, 256), base_channels=st.integers(1, 3), **SMALL)
def test_any_size_that_is_allowed_is_built_and_drawn(size, base_channels, channels, latent_dim, num_classes):
    options = {"channels": channels, "latent_dim": latent_dim, "num_classes": num_classes}
    pair = zoo.build("dcgan", image_size=size, base_channels=base_channels, **options)
    check_built(*pair, size, channels, num_classes)
    standard = models.Generator(size, channels, base_channels, latent_dim, num_classes=num_classes)
    assert [tuple(p.shape) for p in standard.parameters()] == [tuple(p.shape) for p in pair[0].parameters()]


@HUNDREDS
@given(name=st.sampled_from(sorted(ARCHITECTURES)), base_channels=st.integers(1, 3), **SMALL)
def test_any_named_network_of_any_width_draws_its_own_size(
    name, base_channels, channels, latent_dim, num_classes
):
    known = ARCHITECTURES[name]
    num_classes = num_classes or known.num_classes
    options = {"channels": channels, "latent_dim": latent_dim, "num_classes": num_classes}
    pair = zoo.build(name, base_channels=base_channels, **options)
    check_built(*pair, known.image_size, channels, num_classes)


@HUNDREDS
@given(size=st.integers(-(10**9), 10**9).filter(lambda size: not 16 <= size <= 256))
def test_any_other_size_is_refused_with_the_nearest_that_can_be(size):
    with pytest.raises(ValueError, match=r"image_size must be") as caught:
        zoo.build("dcgan", image_size=size, base_channels=1)
    if size >= 1:
        (nearest,) = re.findall(r"the nearest is (\d+)", str(caught.value))
        assert abs(int(nearest) - size) == min(abs(size - possible) for possible in (16, 256))
        models.Generator(int(nearest), 1, 1, 1)


@HUNDREDS
@given(
    name=st.sampled_from(sorted(set(ARCHITECTURES) - ANY_SIZE)),
    size=st.one_of(st.integers(), st.integers(16, 256)),
)
def test_a_network_of_one_size_refuses_any_other_and_names_its_own(name, size):
    own = ARCHITECTURES[name].image_size
    assume(size != own)
    with pytest.raises(
        ValueError, match=f"{name} draws images of {own} pixels, not {size}; 'dcgan' draws any"
    ):
        zoo.build(name, image_size=size)


@HUNDREDS
@given(
    wrong=st.sampled_from(["image_size", "channels", "base_channels", "latent_dim", "num_classes"]),
    value=NO_COUNT,
    name=st.sampled_from(sorted(ARCHITECTURES)),
)
def test_what_is_no_count_is_refused_by_name(wrong, value, name):
    assume(value is not None)  # the network's own
    assume(not (wrong == "num_classes" and value in (0, "")))  # none
    assume(wrong != "image_size" or name == "dcgan")
    with pytest.raises(ValueError, match=rf"{wrong}.* must be .*got {re.escape(repr(value))}"):
        zoo.build(name, **{wrong: value})


@HUNDREDS
@given(
    size=st.one_of(st.integers(-5, 15), st.integers(257, 999)),
    name=st.sampled_from(sorted(ARCHITECTURES)),
    count=st.integers(-2, 0),
)
def test_a_run_that_cannot_be_is_refused_before_any_data_is_read(size, name, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda *args, **options: pytest.fail("the data were read"))
        patch.setattr(preflight, "check_disk", lambda *args: None)
        for options in ({"image_size": size}, {"base_channels": count}, {"channels": count}):
            with pytest.raises(ValueError, match=r"must be|draws images of|no labels"):
                run("mnist", "nowhere", architecture=name, **options)


# Networks that are told the class


@pytest.mark.parametrize("name", [*STANDARD[:2], "gan-28"])
def test_a_label_costs_each_layer_its_kernel_once_for_each_class_and_map(tiny_pair, name):
    told, untold = tiny_pair(name, num_classes=3), tiny_pair(name)
    for with_labels, without in zip(told, untold, strict=True):
        more = sum(3 * layer.channels * layer.kernel**2 for layer in with_labels.layers)
        assert models.count_parameters(with_labels) == models.count_parameters(without) + more


def test_a_layer_sees_the_label_as_maps_of_ones_and_zeros(tiny_pair, rng):
    generator, discriminator = tiny_pair(num_classes=3)
    seen = []
    for network in (generator, discriminator):
        for block in network.blocks:
            block[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    labels = torch.tensor([2, 0])
    discriminator(generator(z_for(generator, rng, 2), labels), labels)
    assert len(seen) == len(generator.blocks) + len(discriminator.blocks)
    for maps in seen:
        expected = torch.zeros(2, 3, *maps.shape[2:])
        expected[0, 2] = expected[1, 0] = 1
        assert torch.equal(maps[:, -3:], expected)


def test_zeroed_for_the_label_a_conditional_network_is_the_plain_one(tiny_pair, rng):
    told, untold = tiny_pair(num_classes=3), tiny_pair()
    labels = torch.tensor([0, 1, 2, 1])
    for with_labels, without, inputs in zip(
        told, untold, (z_for(untold[0], rng), images_for(untold[1], rng)), strict=True
    ):
        own = with_labels.state_dict()
        for name, tensor in without.state_dict().items():
            if own[name].shape == tensor.shape:
                own[name].copy_(tensor)
            elif with_labels is told[0]:  # a transposed convolution has its input channels first
                own[name].zero_()[: len(tensor)] = tensor
            else:
                own[name].zero_()[:, : tensor.shape[1]] = tensor
        torch.testing.assert_close(with_labels(inputs, labels), without(inputs), rtol=1e-5, atol=1e-6)


def test_labels_filled_in_are_labels_given(tiny_pair, rng):
    generator, discriminator = tiny_pair(num_classes=3)
    labels, z = torch.tensor([2, 0, 1]), z_for(generator, rng, 3)
    images = generator(z, labels)
    assert torch.equal(models.Conditioned(generator, labels)(z), images)
    judge = models.Conditioned(discriminator, labels)
    assert torch.equal(judge(images), discriminator(images, labels))
    assert list(judge.parameters()) == list(discriminator.parameters())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "got none"),
        (torch.tensor([0, 1]), r"int64 of shape \(2,\)"),
        (torch.tensor([0.0, 1.0, 2.0]), "float32"),
    ],
)
def test_a_network_that_is_told_the_class_needs_it_for_each_image(tiny_pair, rng, labels, words):
    generator, _ = tiny_pair(num_classes=3)
    with pytest.raises(ValueError, match=rf"labels must be int64 of shape \(3,\), .*{words}"):
        generator(z_for(generator, rng, 3), labels)


def test_a_network_that_knows_no_classes_takes_no_labels(tiny_pair, rng):
    generator, _ = tiny_pair()
    with pytest.raises(ValueError, match="is not conditional, and was given 4 labels"):
        generate(generator, z_for(generator, rng), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("classes", [-1, 2.5])
def test_an_impossible_number_of_classes_is_refused(classes):
    with pytest.raises(ValueError, match=f"classes must be .*{classes}"):
        build("dcgan", num_classes=classes)


def test_networks_that_draw_by_class_cannot_go_without():
    with pytest.raises(ValueError, match="paper-mnist-conditional is conditional"):
        build("paper-mnist-conditional", num_classes=0)


def test_the_papers_mnist_networks_have_five_by_five_kernels_and_batch_norm_without_gain_and_shift(full):
    generator, discriminator = full["paper-mnist-conditional"]
    assert (generator.sizes, discriminator.sizes) == ([1, 1, 7, 14, 28], [28, 14, 7, 1, 1])
    assert [layer.channels for layer in generator.layers] == [1024, 128, 64, 1]
    assert [layer.channels for layer in discriminator.layers] == [64, 128, 1024, 1]
    for network in (generator, discriminator):
        spatial = [
            layer.kernel for layer, size in zip(network.layers, network.sizes, strict=False) if size > 1
        ]
        assert set(spatial) <= {5, 7}
        assert not any(module.affine for module in leaves(network) if isinstance(module, NORMS))
        assert network.num_classes == 10
