"""The faster stand-ins, against the plain layers in double precision, and the law of dropout."""

import copy
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from dcganlib import zoo
from dcganlib.runtime import cpu_layers


def both(plain, shape, rng):
    """Output and all gradients of a layer in double precision, and of its stand-in in single."""
    found = []
    inputs, weight = torch.randn(shape, generator=rng), None
    for layer, dtype in ((plain, torch.float64), (cpu_layers.optimize(copy.deepcopy(plain)), torch.float32)):
        layer, given = layer.to(dtype), inputs.detach().to(dtype).requires_grad_()
        output = layer(given)
        weight = torch.randn(output.shape, generator=rng) if weight is None else weight
        (output * weight.to(dtype)).sum().backward()
        found.append([output, given.grad, *(p.grad for p in layer.parameters())])
    return found


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(6, 4, 7), (3, 6, 1, 1)),
        (nn.ConvTranspose2d(6, 4, 4, stride=2, bias=False), (1, 6, 1, 1)),
        (nn.ConvTranspose2d(96, 64, 5, padding=2), (48, 96, 7, 7)),
        (nn.Conv2d(6, 1, 4), (3, 6, 4, 4)),
        (nn.Conv2d(6, 5, 7, stride=2, bias=False), (1, 6, 7, 7)),
    ],
    ids=str,
)
def test_a_stand_in_gives_what_the_plain_layer_gives(layer, shape, rng):
    expected, actual = both(layer, shape, rng())
    for new, old in zip(actual, expected, strict=True):
        torch.testing.assert_close(new, old.float(), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(6, 4, 7), (3, 6, 1, 1)),
        (nn.ConvTranspose2d(96, 64, 5, padding=2), (48, 96, 7, 7)),
        (nn.Conv2d(6, 1, 4), (3, 6, 4, 4)),
    ],
    ids=str,
)
def test_a_stand_in_calls_no_convolution(layer, shape):
    with torch.profiler.profile() as profile:
        cpu_layers.optimize(copy.deepcopy(layer))(torch.ones(shape))
    assert not any("conv" in event.key for event in profile.key_averages())


STRIDED = [  # kernel, stride, padding, output_padding, size
    *((4, 2, 1, 0, 8), (5, 2, 2, 1, 6), (3, 2, 1, 1, 7), (3, 1, 1, 0, 5)),
    *((4, 3, 1, 0, 9), (2, 2, 0, 0, 4), (5, 3, 2, 2, 8)),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "extra", "size"), STRIDED)
def test_the_products_are_the_convolution_and_its_transpose(kernel, stride, padding, extra, size, rng):
    maps = torch.randn(2, 3, size, size, generator=rng(), dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, kernel, kernel, generator=rng(1), dtype=torch.float64, requires_grad=True)
    expected = nn.functional.conv2d(maps, weight, None, stride, padding)
    torch.testing.assert_close(cpu_layers._Im2Col.apply(maps, weight, stride, padding), expected)
    assert torch.autograd.gradcheck(
        lambda *both: cpu_layers._Im2Col.apply(*both, stride, padding), (maps, weight)
    )
    weight = torch.randn(3, 4, kernel, kernel, generator=rng(2), dtype=torch.float64, requires_grad=True)
    options = (stride, padding, extra)
    expected = nn.functional.conv_transpose2d(maps, weight, None, *options)
    torch.testing.assert_close(cpu_layers._Col2Im.apply(maps, weight, *options), expected)
    assert torch.autograd.gradcheck(lambda *both: cpu_layers._Col2Im.apply(*both, *options), (maps, weight))


@pytest.mark.parametrize(
    ("kernel", "padding", "size"), [(5, 2, 7), (5, 2, 6), (6, 1, 8), (6, 0, 8), (3, 1, 4), (1, 0, 3)]
)
def test_the_transform_gives_the_transposed_convolution(kernel, padding, size, rng):
    maps = torch.randn(3, 4, size, size, generator=rng(), requires_grad=True)
    weight = torch.randn(4, 5, kernel, kernel, generator=rng(1), requires_grad=True)
    exact = nn.functional.conv_transpose2d(maps.double(), weight.double(), padding=padding)
    found = cpu_layers._by_dft(maps, weight, padding)
    upstream = torch.randn(exact.shape, generator=rng(2))
    for ours, plain in zip(
        (found, *torch.autograd.grad(found, (maps, weight), upstream)),
        (exact, *torch.autograd.grad(exact, (maps, weight), upstream.double())),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain.float(), rtol=1e-4, atol=2e-4)


# Forward and backward in float32 on one thread: the plain layer's time over that of ``_by_dft``, on an AMD
# EPYC (Zen 4) with all of its instructions, and with PyTorch kept to those of AVX2.
TIMED = {  # images, channels in and out, kernel, pixels: ratios
    (128, 256, 128, 5, 7): (2.49, 3.27),
    (32, 256, 128, 5, 7): (1.46, 2.00),
    (64, 128, 64, 5, 7): (1.65, 1.76),
    (16, 32, 16, 5, 7): (1.00, 1.08),
    (8, 8, 4, 5, 7): (1.18, 1.13),
    (64, 128, 64, 3, 7): (0.77, 0.83),
    (64, 128, 64, 3, 14): (0.65, 0.69),
    (32, 64, 32, 5, 14): (0.77, 0.86),
    (64, 128, 64, 3, 4): (1.00, 1.28),
}


@pytest.mark.parametrize("shape", TIMED, ids=str)
def test_the_transform_is_taken_where_it_was_much_faster_and_never_where_it_was_slower(shape):
    n, channels, out_channels, kernel, size = shape
    maps, weight = (n, channels, size, size), (channels, out_channels, kernel, kernel)
    taken = cpu_layers._dft_is_faster(torch.Size(maps), torch.Size(weight), kernel // 2)
    assert taken or min(TIMED[shape]) < 1.4
    assert not taken or min(TIMED[shape]) > 1


@pytest.mark.parametrize(
    ("half", "amx", "many"),
    [(torch.bfloat16, True, 256), (torch.bfloat16, False, 512), (torch.float16, True, 512)],
)
def test_strided_layers_become_products_from_more_channels_on_where_there_is_no_amx(
    half, amx, many, monkeypatch
):
    monkeypatch.setattr(cpu_layers, "has_amx", lambda: amx)
    for channels, quick in ((many - 1, False), (many, True)):
        for layer in (nn.Conv2d(2, channels, 4, 2, 1), nn.ConvTranspose2d(channels, 2, 4, 2, 1)):
            called = events(cpu_layers.optimize(layer), torch.ones(1, layer.in_channels, 2, 2), half)
            assert any("_Col2Im" in event or "_Im2Col" in event for event in called) == quick


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(8, 256, 4, stride=2, padding=1), 8),
        (nn.Conv2d(8, 256, 5, stride=2, padding=2, bias=False), 7),
        (nn.ConvTranspose2d(256, 8, 4, stride=2, padding=1), 4),
        (nn.ConvTranspose2d(256, 8, 5, stride=2, padding=2, output_padding=1, bias=False), 4),
    ],
    ids=str,
)
def test_many_channels_in_half_precision_are_as_exact_as_torchs_own(layer, size, rng, monkeypatch):
    """Against double precision, the error is at most a little more than that of torch's layer in half."""
    monkeypatch.setattr(cpu_layers, "has_amx", lambda: True)
    inputs = torch.randn(4, layer.in_channels, size, size, generator=rng())
    found = []
    for module, half in ((layer.double(), False), (layer, True), (cpu_layers.optimize(layer), True)):
        module = copy.deepcopy(module).to(torch.float32 if half else torch.float64)
        given = inputs.to(torch.float32 if half else torch.float64).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = module(given)
        assert output.dtype == (torch.bfloat16 if half else torch.float64)
        output.float().square().sum().backward()
        found.append([output, given.grad, *(p.grad for p in module.parameters())])
    for exact, plain, quick in zip(*found, strict=True):
        error, usual = ((one - exact).norm() / exact.norm() for one in (quick, plain))
        assert error.item() < max(1.5 * usual.item(), 0.006)
    assert any(
        "_Col2Im" in event or "_Im2Col" in event for event in events(cpu_layers.optimize(layer), inputs)
    )


def events(layer, inputs, half=torch.bfloat16):
    with torch.profiler.profile() as profile, torch.autocast("cpu", half):
        layer.float()(inputs)
    return [event.key for event in profile.key_averages()]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 4, 3, padding="same"), (2, 4, 7, 7)),
        (nn.Conv2d(4, 256, 3, padding=1, padding_mode="reflect"), (2, 4, 7, 7)),
        (nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1), (2, 4, 7, 7)),
        (nn.ConvTranspose2d(4, 4, 5, padding=2, groups=2), (2, 4, 7, 7)),
        (nn.ConvTranspose2d(4, 4, 3, padding=1, dilation=2), (2, 4, 7, 7)),
        (nn.ConvTranspose2d(4, 4, (5, 3), padding=(2, 1)), (2, 4, 7, 7)),
        (nn.ConvTranspose2d(4, 4, 5, padding=2), (2, 4, 7, 9)),
        (nn.ConvTranspose2d(4, 4, 4, stride=2, output_padding=1), (2, 4, 1, 1)),
        (nn.ConvTranspose2d(4, 4, 3, padding=1), (2, 4, 1, 1)),
        (nn.Conv2d(4, 4, 4, padding=1), (2, 4, 4, 4)),
        (nn.Conv2d(4, 4, 4, groups=4), (2, 4, 4, 4)),
        (nn.Conv2d(4, 4, 3), (2, 4, 4, 4)),
    ],
    ids=str,
)
def test_what_has_no_faster_way_goes_the_plain_one(layer, shape, rng):
    inputs = torch.randn(shape, generator=rng())
    expected = layer(inputs)
    assert torch.equal(cpu_layers.optimize(layer)(inputs), expected)


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_an_accelerated_network_draws_and_judges_the_same(name, rng):
    pair = zoo.build(name, base_channels=4, latent_dim=8, rng=rng())
    known = zoo.ARCHITECTURES[name]
    labels = (torch.arange(3),) if known.num_classes else ()
    inputs = torch.randn(3, 8, generator=rng(1)), torch.rand(3, known.channels, *2 * [known.image_size]) - 0.5
    for network, given in zip(pair, inputs, strict=True):
        network.eval()
        expected, names = network(given, *labels), list(network.state_dict())
        actual = cpu_layers.optimize(network)(given, *labels)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        assert list(network.state_dict()) == names


def test_the_transform_takes_121_products_where_the_layer_takes_1225():
    """A kernel of 5 by 5 on 7 by 7 pixels: period 9, one real frequency and 40 pairs of three products."""
    to_maps, to_weight, back = cpu_layers._transforms(7, 5, 2, torch.float32, torch.device("cpu"))
    assert (to_maps.shape, to_weight.shape, back.shape) == ((121, 49), (121, 25), (49, 121))


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad])
def test_a_network_can_be_trained_after_others_drew_with_it_without_gradients(rng, first):
    """What is computed once and kept must not be a tensor of inference mode."""
    cpu_layers._transforms.cache_clear()
    layer, inputs = cpu_layers.optimize(nn.ConvTranspose2d(6, 4, 5, padding=2)), torch.randn(3, 6, 7, 7)
    with first():
        expected = layer(inputs)
    output = layer(inputs)
    output.sum().backward()
    assert torch.equal(output, expected)
    assert layer.weight.grad.abs().max() > 0


def test_a_stand_in_computes_in_the_type_of_its_maps_whatever_came_before(rng):
    plain = nn.ConvTranspose2d(6, 4, 5, padding=2)
    inputs = torch.randn(3, 6, 7, 7, generator=rng())
    for dtype in (torch.float32, torch.float64, torch.float32):
        layer, given = cpu_layers.optimize(copy.deepcopy(plain).to(dtype)), inputs.to(dtype)
        assert layer(given).dtype == dtype
        torch.testing.assert_close(layer(given), copy.deepcopy(plain).to(dtype)(given), rtol=1e-4, atol=1e-4)


# Dropout


def masks(p, count, rng, dtype=torch.float32):
    layer = cpu_layers.Dropout(p)
    with torch.random.fork_rng():
        torch.manual_seed(rng().initial_seed())
        return layer(torch.ones(count, dtype=dtype))


@pytest.mark.parametrize("p", [0.1, 0.25, 0.3, 0.5, 0.9])
def test_the_share_of_dropped_units_is_p_and_the_mean_stays(p, rng):
    count = 400_000
    found = masks(p, count, rng)
    spread = (p * (1 - p) / count) ** 0.5
    assert (found == 0).float().mean().item() == pytest.approx(p, abs=5 * spread)
    assert found.mean().item() == pytest.approx(1, abs=5 * spread / (1 - p))
    assert found.max().item() == pytest.approx(1 / (1 - p), rel=1e-3)


def test_each_unit_is_dropped_apart_from_its_neighbours(rng):
    dropped = (masks(0.3, 400_000, rng) == 0).double() - 0.3
    for distance in range(1, 9):  # the four that share a number of 64 bits, and beyond
        together = (dropped[distance:] * dropped[:-distance]).mean() / 0.21
        assert abs(together) < 5 / 400_000**0.5


def test_dropout_is_seeded_by_torch_and_new_in_each_call(rng):
    layer, inputs = cpu_layers.Dropout(0.5), torch.ones(3, 51, 11, 11)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        first, second = layer(inputs), layer(inputs)
        torch.manual_seed(4)
        again = layer(inputs)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_of_few_units_the_mask_is_torchs_own():
    for count, own in ((cpu_layers.DROPOUT_MIN_UNITS - 1, True), (cpu_layers.DROPOUT_MIN_UNITS, False)):
        inputs = torch.ones(count)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            found = cpu_layers.Dropout(0.3)(inputs)
            torch.manual_seed(4)
            assert torch.equal(found, nn.functional.dropout(inputs, 0.3)) == own


def test_the_gradient_goes_through_the_units_that_are_kept():
    inputs = torch.ones(cpu_layers.DROPOUT_MIN_UNITS + 1, requires_grad=True)
    output = cpu_layers.Dropout(0.3)(inputs)
    output.sum().backward()
    assert torch.equal(inputs.grad, output.detach())


def test_dropout_lets_all_pass_in_evaluation_and_at_the_ends(rng):
    inputs = torch.randn(64, generator=rng())
    assert torch.equal(cpu_layers.Dropout(0.5).eval()(inputs), inputs)
    assert torch.equal(cpu_layers.Dropout(0.0)(inputs), inputs)
    assert torch.equal(cpu_layers.Dropout(1.0)(inputs), torch.zeros(64))
    assert cpu_layers.Dropout(0.3)(inputs.bfloat16()).dtype == torch.bfloat16


# Processor and memory


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        ("ALL", True),
        ("default", True),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_AMX", True),
        ("AVX512_CORE", False),
        ("AVX2", False),
    ],
)
def test_a_cap_on_the_instructions_is_heeded(monkeypatch, cap, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    assert cpu_layers.has_bfloat16() is expected
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not cpu_layers.has_bfloat16()


def test_a_cap_below_amx_is_heeded(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    for cap, expected in (("ALL", True), ("AVX512_CORE_AMX", True), ("AVX512_CORE_BF16", False)):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
        assert cpu_layers.has_amx() is expected
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert not cpu_layers.has_amx()


def test_the_processor_is_described_as_the_system_does():
    found = cpu_layers.processor()
    assert found.keys() == {"cpu", "cores", "threads", "isa"}
    assert found["cpu"] == found["cpu"].strip() != ""
    assert 1 <= found["cores"] <= os.cpu_count()
    assert found["threads"] == torch.get_num_threads()
    assert set(found["isa"]) <= set(KNOWN)
    if sys.platform == "linux" and platform.machine() == "x86_64":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        told = dict(line.split(":", 1) for line in lines if ":" in line)
        told = {name.strip(): value.strip() for name, value in told.items()}
        assert found["cpu"] == told["model name"]
        assert found["isa"] == [name for name in KNOWN if name in told["flags"].split()]


KNOWN = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]


def test_the_name_of_the_processor_is_asked_for_in_each_systems_own_way(monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    monkeypatch.setattr("sys.platform", "darwin")
    asked = []

    def sysctl(command, **options):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "Apple M9\n")

    monkeypatch.setattr(subprocess, "run", sysctl)
    assert cpu_layers.processor()["cpu"] == "Apple M9"
    assert asked == [["sysctl", "-n", "machdep.cpu.brand_string"]]
    key = MagicMock()
    registry = SimpleNamespace(
        HKEY_LOCAL_MACHINE=0, OpenKey=lambda *where: key, QueryValueEx=lambda key, name: (f"{name} 1 ", 1)
    )
    monkeypatch.setitem(sys.modules, "winreg", registry)
    monkeypatch.setattr("sys.platform", "win32")
    assert cpu_layers.processor()["cpu"] == "ProcessorNameString 1"


def test_where_the_system_does_not_tell_the_processor_has_the_name_of_its_kind(monkeypatch):
    def missing(*words, **options):
        raise FileNotFoundError

    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(subprocess, "run", missing)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert cpu_layers.processor()["cpu"] == "riscv64"


FAULTS = """
import resource, torch
from dcganlib.runtime import cpu_layers
kept = cpu_layers.keep_memory() if {asked} else False
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16_000_000)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(int(kept), faults())
"""


@pytest.mark.posix("no resource module to count page faults")
def test_kept_memory_is_not_asked_for_again():
    found = {}
    for asked in (False, True):
        said = subprocess.run(
            [sys.executable, "-c", FAULTS.format(asked=asked)], capture_output=True, text=True, check=True
        )
        found[asked] = [int(word) for word in said.stdout.split()]
    if not found[True][0]:
        pytest.skip("this C library has no such setting")
    assert found[False][1] > 10_000  # ten times 64 MB, in pages of 4,096 bytes
    assert found[True][1] < 1_000
