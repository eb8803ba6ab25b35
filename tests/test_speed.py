"""The benchmarks of speed: the tutorials' loop is the same training, and what is counted is what was done."""

import json
import math
import re
import time
from itertools import product
from pathlib import Path

import _timing
import pytest
import scaling
import speed
import torch
from torch import nn

from dcganlib import datasets, losses, models, runs, sizes, train, zoo
from dcganlib.config import TrainConfig
from dcganlib.runtime import cpu_layers
from dcganlib.zoo import ARCHITECTURES

CPU = torch.device("cpu")
WITHOUT_RANDOMNESS = {"prior": "normal", "precision": "float32"}


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.fixture
def noise(rng):
    """The same latents, again and again from the first."""

    def make(latent_dim=8):
        source = rng(5)
        return lambda n: torch.randn(n, latent_dim, generator=source)

    return make


@pytest.fixture
def moved(tiny_pair, tiny_images, noise):
    """Weights of G and D after three plain steps."""

    def make(name="dcgan-28", **options):
        pair = tiny_pair(name)
        size = pair[0].image_size
        images = nn.functional.pad(tiny_images, [(size - 16) // 2] * 4)
        batches = datasets.make_loader(images, 5, rng=torch.Generator().manual_seed(0))
        steps = speed.plain_steps(*pair, batches, noise=noise(), variant=speed.StepVariant(**options))
        values = [next(steps) for _ in range(3)]
        return [weights(network) for network in pair], values

    return make


# The tutorials' loop


def test_the_tutorials_loop_moves_the_weights_as_train_does(tiny_pair, tiny_images, noise, rng, monkeypatch):
    latents = noise()
    monkeypatch.setattr(train, "sample_z", lambda n, *rest, **options: latents(n))
    ours, plain = tiny_pair(), tiny_pair()
    state = train.init_state(*ours, TrainConfig(batch_size=5, **WITHOUT_RANDOMNESS))
    loader = datasets.make_loader(tiny_images, 5, rng=rng(0))

    def summed(real, fake):
        return losses.discriminator_loss(real, fake, reduction="sum")

    records = list(train.train(state, loader, 4, loss=losses.Loss("", summed, losses.generator_loss)))
    before = [weights(network) for network in plain]
    batches = datasets.make_loader(tiny_images, 5, rng=rng(0)).epoch(0)
    found = list(speed.plain_steps(*plain, batches, noise=noise()))
    for network, other, first in zip(ours, plain, before, strict=True):
        assert (weights(other) - first).abs().max() > 2e-4
        torch.testing.assert_close(weights(network), weights(other), rtol=0, atol=5e-6)
        for buffer, own in zip(network.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(buffer, own, rtol=1e-4, atol=1e-5)
    assert [(r.d_loss, r.g_loss) for r in records] == [pytest.approx(pair, rel=1e-5) for pair in found]


def test_what_is_thrown_away_changes_nothing(moved):
    (g, d), values = moved()
    (g_frozen, d_frozen), same = moved(frozen=True)
    # A backward pass that is asked for fewer gradients may take another way, and round otherwise.
    torch.testing.assert_close(g_frozen, g, rtol=0, atol=5e-6)  # three steps of Adam are up to 6e-4
    torch.testing.assert_close(d_frozen, d, rtol=0, atol=5e-6)
    assert values == [pytest.approx(pair, rel=1e-5) for pair in same]


def test_other_fakes_change_what_g_learns_and_not_ds_first_step(moved):
    (g, _), values = moved()
    (g_twice, _), other = moved(twice=True)
    assert values[0][0] == other[0][0]
    assert (g - g_twice).abs().max() > 1e-4


def test_joining_real_and_fake_changes_nothing_but_batch_norm(tiny_pair, tiny_images, noise):
    for name, same in (("gan-28", True), ("dcgan-28", False)):
        images = nn.functional.pad(tiny_images, [6] * 4)
        found = []
        for joined in (False, True):
            pair = tiny_pair(name)
            for module in pair[1].modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            batches = [datasets.to_float(images[:10])]
            list(speed.plain_steps(*pair, batches, noise=noise(), variant=speed.StepVariant(joined=joined)))
            found.append(weights(pair[1]))
        assert torch.allclose(*found, rtol=0, atol=2e-5) == same


# Ways and tricks


@pytest.fixture
def tiny_networks(monkeypatch, mnist_mini):
    layers = ARCHITECTURES["flux-mnist"].layers(28, 1, 2)
    monkeypatch.setattr(speed, "NETWORKS", {"28px": speed.Networks("tiny", 4, 28, layers)})
    monkeypatch.setattr(speed, "load", lambda *where: mnist_mini)


EVERY_WAY = speed.WAYS | {name: way for name, (_, way) in speed.TRICKS.items()}


@pytest.mark.parametrize("name", EVERY_WAY)
def test_every_way_gets_ready_and_steps(name, tiny_networks):
    way = speed.replace(EVERY_WAY[name], keep_memory=False)  # which would change this whole process
    ready, handle = speed.prepare("28px", way, CPU, None, "")
    assert ready.keys() == {"load", "step"}
    assert handle(n=2)["seconds"] > 0
    assert handle(flops=True)["flops"] > 1000


def test_each_trick_is_one_change():
    for name, pair in speed.TRICKS.items():
        base, changed = ({k: str(v) for k, v in vars(way).items()} for way in pair)
        assert len(base.items() - changed.items()) == 1, name


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("dropout", ["D 0 3", "D 1 3"]),
        ("dft", ["G 1 0"]),
        ("dense", ["G 0 0", "D 2 0"]),
        ("strided", ["G 2 0", "G 3 0", "D 0 0", "D 1 0"]),
    ],
)
def test_an_optimized_layer_replaces_only_its_own_kind(kind, changed):
    pair = zoo.build("flux-mnist", base_channels=2)
    before = [[[type(m) for m in block] for block in network.blocks] for network in pair]
    speed._change(*pair, speed.Way(optimized=(kind,)))
    found = [
        f"{player} {i} {j}"
        for player, network, types in zip("GD", pair, before, strict=True)
        for i, block in enumerate(network.blocks)
        for j, module in enumerate(block)
        if type(module) is not types[i][j]
    ]
    places = [place if kind != "dropout" else place.rsplit(" ", 1)[0] for place in changed]
    assert [place if kind != "dropout" else place.rsplit(" ", 1)[0] for place in found] == places


def test_tensorflows_networks_have_the_tutorials_number_of_weights():
    generator, discriminator = speed.NETWORKS["tensorflow"].build()
    dense, wide, half, last = 100 * 12544 + 2 * 12544, 25 * 256 * 128 + 256, 25 * 128 * 64 + 128, 25 * 64
    assert models.count_parameters(generator) == dense + wide + half + last
    assert models.count_parameters(discriminator) == 212_865  # as the tutorial's summary has it
    assert generator.sizes == [1, 7, 7, 14, 28]


def test_the_same_networks_always_start_from_the_same_weights():
    known = speed.Networks("flux-mnist", 4, 28, ARCHITECTURES["flux-mnist"].layers(28, 1, 2))
    assert all(weights(a).equal(weights(b)) for a, b in zip(known.build(), known.build(), strict=True))


def test_the_dataloader_gives_the_images_that_lie_in_memory(mnist_mini, monkeypatch):
    few = datasets.ImageDataset(mnist_mini.images[::1000], None, "few", "", "")
    monkeypatch.setattr(speed, "load", lambda *where: few)
    batches = speed.picture_batches(28, 500, None, "", 0)
    found = next(batches)
    truth = datasets.to_float(few.images)
    distance = (found[:, None] - truth[None]).abs().amax(dim=(2, 3, 4))  # (500, 5)
    assert distance.amin(dim=1).max() < 1e-6
    assert set(distance.argmin(dim=1).tolist()) == set(range(5))


def test_pictures_are_as_large_as_celebas_and_are_cut_to_a_square(tmp_path):
    folder = speed.make_pictures(tmp_path / "pictures", 4)
    with speed.Image.open(folder / "all" / "000000.jpg") as picture:
        assert picture.size == (178, 218)
    assert datasets.load(folder, image_size=64).images.shape == (4, 3, 64, 64)  # which leaves a cache there
    batch = next(speed.picture_batches(64, 8, None, str(folder), 0))
    assert batch.shape == (8, 3, 64, 64)
    assert -1 <= batch.min() < -0.5 < 0.5 < batch.max() <= 1


# Counts


def conv_flops(network, inputs):
    """2 · N · taps · products of one pass, layer by layer: at each pixel of the smaller map, in and out."""
    total, channels = [], inputs
    for layer, size, after in zip(network.layers, network.sizes, network.sizes[1:], strict=False):
        pixels = min(size, after) ** 2  # stride 1 on a single pixel, or strided, without padding lost
        total.append(2 * channels * layer.channels * layer.kernel**2 * pixels)
        channels = layer.channels
    return total


@pytest.mark.parametrize("transposed", [False, True])
def test_flops_of_a_convolution_are_those_on_paper(transposed):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer, maps = kind(3, 5, 4, stride=2, padding=1), torch.randn(2, 3, 8, 8)
    pixels = 8 * 8 if transposed else 4 * 4
    forward = 2 * 2 * 3 * 5 * 4 * 4 * pixels
    assert _timing.count_flops(lambda: layer(maps)) == forward
    assert _timing.count_flops(lambda: layer(maps).sum().backward()) == 2 * forward  # and for the weights
    maps.requires_grad_()
    assert _timing.count_flops(lambda: layer(maps).sum().backward()) == 3 * forward  # and for the maps


@pytest.mark.parametrize("frozen", [False, True])
def test_flops_of_a_step_are_those_on_paper(frozen, tiny_pair, noise):
    g, d = tiny_pair()
    assert sizes.feature_sizes(16, d.layers) == [16, 8, 4, 1]
    steps = speed.plain_steps(
        g, d, [torch.zeros(3, 1, 16, 16)], noise=noise(), variant=speed.StepVariant(frozen=frozen)
    )
    g_layers, d_layers = conv_flops(g, 8), conv_flops(d, 1)
    of_g = 3 * sum(g_layers) - g_layers[0]  # no gradient of z
    real_and_fake = 2 * (3 * sum(d_layers) - d_layers[0])  # none of the images
    through_d = (2 if frozen else 3) * sum(d_layers)
    assert _timing.count_flops(lambda: next(steps)) == 3 * (of_g + real_and_fake + through_d)


def test_a_power_law_is_found():
    x = [1, 2, 5, 10]
    exponent, off = _timing.power_law(x, [3 * value**1.7 for value in x])
    assert exponent == pytest.approx(1.7)
    assert off == pytest.approx(1)


def test_how_far_the_worst_point_lies_is_told():
    exponent, off = _timing.power_law([1, 10, 100], [1, 10 * 2**1.5, 100])
    assert exponent == pytest.approx(1)
    assert off == pytest.approx(2)  # the others are drawn up by 2^0.5, the middle lies 2 above


def test_a_power_law_needs_values_above_0():
    with pytest.raises(ValueError, match="above 0"):
        _timing.power_law([1, 2], [0, 1])


def test_a_spread_has_the_median_and_both_ends():
    assert _timing.spread([5.0, 1.0, 2.00004]) == {"median": 2.0, "low": 1.0, "high": 5.0}


def test_a_machines_peak_is_that_of_no_abacus():
    assert 1e8 < _timing.peak("float32", CPU, (256,)) < 1e15


def test_the_machine_is_described_in_plain_values():
    about = _timing.machine(CPU)
    assert about["torch"] == torch.__version__
    assert about["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(about)) == about


# Turns and processes


def test_processes_take_turns_of_about_the_same_length():
    log = []

    class Fake:
        def __init__(self, name, step):
            self.name, self.ready = name, {"step": step}

        def ask(self, n):
            log.append((self.name, n))
            return {"seconds": n * self.ready["step"] * 2}

    found = speed.take_turns({"a": Fake("a", 0.5), "b": Fake("b", 9.0)}, 2, 2.0, lambda: log.append("look"))
    assert log == [("a", 4), ("b", 2), "look"] * 2
    assert found == {"a": [1.0, 1.0], "b": [18.0, 18.0]}


ECHO = """
import sys
sys.path.insert(0, {folder!r})
import torch
from _timing import memory_peak, serve

def prepare():
    print("not an answer")
    return {{"said": sys.argv[2]}}, grow

def grow(n):
    before = memory_peak(torch.device("cpu"))
    block = torch.ones(n)
    return {{"grown": memory_peak(torch.device("cpu")) - before}}

serve(prepare)
"""


def test_a_process_gets_ready_answers_and_tells_what_memory_it_took(tmp_path):
    script = tmp_path / "echo.py"
    script.write_text(ECHO.format(folder=str(Path(_timing.__file__).parent)), encoding="utf-8")
    with _timing.Child(str(script), {"a": 1}) as child:
        assert json.loads(child.ready["said"]) == {"a": 1}
        for n in (20_000_000, 40_000_000):  # floats; the second block needs 80 MB more than the first
            assert child.ask(n=n)["grown"] == pytest.approx(80e6, rel=0.1)
        assert child.seconds > 0
    assert child._process.returncode == 0


def test_a_process_that_dies_is_told(tmp_path):
    script = tmp_path / "dies.py"
    script.write_text("import sys; sys.exit(3)", encoding="utf-8")
    with pytest.raises(RuntimeError, match="code 3"):
        _timing.Child(str(script), {})


def test_a_process_with_no_answer_by_the_deadline_is_ended(tmp_path):
    script = tmp_path / "hangs.py"
    script.write_text("import time\nprint('{}', flush=True)\ntime.sleep(600)", encoding="utf-8")
    with _timing.Child(str(script), {}) as child:
        child._deadline = time.perf_counter() + 0.1
        with pytest.raises(TimeoutError, match="no answer in time"):
            child.ask()
        assert child._process.returncode < 0
    with pytest.raises(TimeoutError, match="no answer in time"):
        _timing.Child(str(script), {}, time.perf_counter())


# Results


def rows_of(times, network="28px"):
    """A round in which an epoch and a step take so long, by way."""
    return [
        {
            "network": network,
            "way": way,
            "start_s": 1.0,
            "load_s": 0.1,
            "step_ms": 2.0 * seconds,
            "images_s": 1 / seconds,
            "epoch_s": seconds,
            "peak_gflops": 100.0,
            "flops": 1e9,
        }
        for way, seconds in times.items()
    ]


def test_ratios_are_medians_of_the_rounds_own():
    rounds = [
        rows_of({"tutorial": a, "float32": b, "bfloat16": c}) for a, b, c in [(4, 2, 1), (9, 3, 3), (8, 8, 2)]
    ]
    found = {row["way"]: row for row in speed.summary(rounds)}
    assert found["tutorial"]["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert found["float32"]["ratio"] == {"median": 2, "low": 1, "high": 3}
    assert found["bfloat16"]["step_ratio"] == {"median": 4, "low": 3, "high": 4}
    assert found["float32"]["rounds"] == 3
    # 1 GFLOP in 4, 6 and 16 ms is 250, 167 and 62.5 GFLOP/s, of 100.
    assert found["float32"]["share"] == {"median": 1.667, "low": 0.625, "high": 2.5}


def test_tensorflow_is_reached_by_way_of_plain_torch():
    rows = speed.summary([rows_of({"resident": 4, "float32": 2, "bfloat16": 1}, "tensorflow")])
    found = speed.over_tensorflow(rows)
    assert found == {"float32": [1.6, 1.7], "bfloat16": [3.21, 3.4]}  # 2 and 4, over 1.247 and 1.176
    assert speed.over_tensorflow(speed.summary([rows_of({"tutorial": 1})])) == {}


def test_the_last_line_has_the_four_ratios():
    rounds = {"28px": {"tutorial": 6, "float32": 3, "bfloat16": 2}, "64px": {"tutorial": 5, "float32": 4}}
    rounds["64px"]["bfloat16"] = 2.5
    rows = [row for network, times in rounds.items() for row in speed.summary([rows_of(times, network)])]
    assert speed.last_line(rows) == "ratio 28px fp32 2.00 bf16 3.00 64px fp32 1.25 bf16 2.00"
    lines = speed.table(rows).splitlines()
    assert len(lines) == 7
    assert lines[2].split()[:2] == ["28px", "float32"]
    assert lines[2].endswith("2.00 (2.00 - 2.00)")


class FakeChild:
    """A process of which a step takes a quarter of a second."""

    seconds, ready = 7.0, {"load": 0.5, "step": 0.1}

    def ask(self, **request):
        return {"flops": 10**9} if "flops" in request else {"seconds": 0.25 * request["n"]}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def fake_children(monkeypatch):
    """Processes that answer at once, on a processor that has bfloat16; gives what was started."""
    started = []

    def start(self, network, way):
        started.append((network, way.precision))
        return FakeChild()

    monkeypatch.setattr(cpu_layers, "has_bfloat16", lambda: True)
    monkeypatch.setattr(speed, "peak", lambda precision, device: 1e11)
    monkeypatch.setattr(speed.Bench, "start", start)
    monkeypatch.setattr(speed, "make_pictures", lambda folder: folder)
    monkeypatch.setattr(speed, "cold_and_warm", lambda folder: {"cold_60000_s": 60.0, "cache_s": 0.1})
    monkeypatch.setattr(speed, "imports", lambda times: {"import torch": 2.0})
    return started


def test_a_round_adds_the_start_to_an_epochs_steps(fake_children, tmp_path):
    options = speed.argparse.Namespace(device="cpu", quick=True, turn=1.0, root=None, rounds=2)
    row = speed.Bench(options, tmp_path).round("64px", speed.WAYS, 0)[2]
    assert row["epoch_s"] == pytest.approx(7 + (60_000 / 64 - 3) * 0.25)
    assert row["images_s"] == pytest.approx(256)
    assert row["peak_gflops"] == pytest.approx(100)


EQUAL = "ratio 28px fp32 1.00 bf16 1.00 64px fp32 1.00 bf16 1.00"


def test_the_quick_form_ends_with_the_line_of_ratios_and_stores_nothing(
    fake_children, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr("sys.argv", ["speed.py", "--quick", "--device", "cpu"])
    monkeypatch.setattr(runs, "PRETRAINED", tmp_path)
    monkeypatch.setattr(runs.folder, "PRETRAINED", tmp_path)
    speed.main()
    assert capsys.readouterr().out.splitlines()[-1] == EQUAL
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quick", [["--quick"], []])
def test_bfloat16_is_left_out_where_the_processor_lacks_it(quick, fake_children, monkeypatch, capsys):
    def only_float32(precision, device):
        assert precision == "float32"
        return 1e11

    monkeypatch.setattr("sys.argv", ["speed.py", *quick, "--device", "cpu"])
    monkeypatch.setattr(cpu_layers, "has_bfloat16", lambda: False)
    monkeypatch.setattr(speed, "peak", only_float32)
    speed.main()
    said = capsys.readouterr().out.splitlines()
    assert "bfloat16 is left out: this processor has no instructions for it" in said
    assert said[-1] == "ratio 28px fp32 1.00 64px fp32 1.00"
    assert {precision for _, precision in fake_children} == {"float32"}


def test_what_the_quick_form_cannot_measure_in_time_is_left_out(fake_children, monkeypatch, capsys):
    def start(self, network, way):
        if network == "64px":
            raise TimeoutError
        return FakeChild()

    monkeypatch.setattr("sys.argv", ["speed.py", "--quick", "--device", "cpu"])
    monkeypatch.setattr(speed.Bench, "start", start)
    speed.main()
    said = capsys.readouterr().out.splitlines()
    assert "64px is left out: it was not measured within 220 seconds" in said
    assert said[-1] == "ratio 28px fp32 1.00 bf16 1.00"


def test_a_machine_too_slow_for_the_quick_form_is_told_so(fake_children, monkeypatch):
    def start(self, network, way):
        assert self.deadline - time.perf_counter() == pytest.approx(speed.QUICK_SECONDS, abs=60)
        raise TimeoutError

    monkeypatch.setattr("sys.argv", ["speed.py", "--quick", "--device", "cpu"])
    monkeypatch.setattr(speed.Bench, "start", start)
    with pytest.raises(SystemExit, match="too slow for --quick"):
        speed.main()


@pytest.mark.parametrize(("left", "rounds"), [(math.inf, 3), (0, 1)])
def test_no_further_round_begins_that_would_not_be_over_in_time(left, rounds, fake_children, tmp_path):
    options = speed.argparse.Namespace(device="cpu", quick=True, turn=1.0, root=None, rounds=5)
    bench = speed.Bench(options, tmp_path, time.perf_counter() + left)
    found = speed.all_rounds(bench, ["28px", "64px"], {"tutorial": speed.WAYS["tutorial"]})
    assert {network: len(each) for network, each in found.items()} == {"28px": rounds, "64px": rounds}


def test_the_whole_is_stored_with_all_that_was_measured(fake_children, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["speed.py", "--store", "--turn", "0.6", "--device", "cpu"])
    monkeypatch.setattr(runs, "PRETRAINED", tmp_path)
    monkeypatch.setattr(runs.folder, "PRETRAINED", tmp_path)
    (tmp_path / "results").mkdir()
    speed.main()
    stored = runs.results("speed")
    assert stored["command"] == "python benchmarks/speed.py --turn 0.6 --store"
    assert [(row["network"], row["way"]) for row in stored["rows"]] == list(
        product(("28px", "64px", "tensorflow"), ("tutorial", "resident", "float32", "bfloat16"))
    )
    assert {row["rounds"] for row in stored["rows"]} == {5}
    of = {size: [r["trick"] for r in stored["tricks"] if r["network"] == size] for size in ("28px", "64px")}
    for network, found in of.items():
        assert found == [name for name in speed.TRICKS if speed.ONLY.get(name, network) == network]
    assert {row["ratio"]["median"] for row in stored["tricks"]} == {1.0}
    assert capsys.readouterr().out.splitlines()[-1] == EQUAL


def test_torch_compile_is_measured_by_itself(fake_children, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["speed.py", "--compile", "--store", "--device", "cpu"])
    monkeypatch.setattr(runs, "PRETRAINED", tmp_path)
    monkeypatch.setattr(runs.folder, "PRETRAINED", tmp_path)
    (tmp_path / "results").mkdir()
    speed.main()
    stored = runs.results("compile")
    assert stored["command"] == "python benchmarks/speed.py --compile --store"
    assert [(row["network"], row["trick"]) for row in stored["rows"]] == list(
        product(("28px", "64px"), speed.COMPILED)
    )
    assert {tuple(row["start_s"]) for row in stored["rows"]} == {(7.0, 7.0)}
    assert not runs.PRETRAINED.joinpath("results", "speed.json").exists()


@pytest.mark.parametrize("module", [speed, scaling])
def test_only_the_whole_is_stored(module, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark", "--quick", "--store"])
    with pytest.raises(SystemExit):
        module.main()
    assert "--quick" in capsys.readouterr().err


# Scaling


@pytest.mark.parametrize(("axis", "value"), [("batch", 4), ("width", 2), ("size", 16), ("images", 50)])
def test_a_point_is_measured(axis, value, monkeypatch):
    monkeypatch.setattr(scaling, "BASE", {"batch": 2, "width": 1, "size": 16, "images": 8})
    found = scaling.measure(axis, value, CPU)
    assert all(math.isfinite(number) and number >= 0 for number in found.values())
    assert found[scaling.PER_ROW[axis]] > 0


def test_the_laws_of_time_and_memory_are_found_and_shown():
    columns = {
        "batch": {"step_ms": lambda n: 5.0 * n, "memory_mb": lambda n: max(3.0, n / 2)},
        "images": {"order_ms": lambda n: 1, "epoch_ms": lambda n: n**1.5, "memory_mb": lambda n: n},
    }
    rows = [
        {"axis": axis, "value": n}
        | {name: _timing.spread([of(n) / 2, of(n), of(n) * 3]) for name, of in columns[axis].items()}
        for axis, values in (("batch", (1, 4, 16)), ("images", (10, 1000)))
        for n in values
    ]
    laws = scaling.fits(rows)
    assert [(law["axis"], law["column"], law["exponent"], law["last"]) for law in laws] == [
        ("batch", "step_ms", 1.0, 1.0),
        ("batch", "memory_mb", pytest.approx(0.354, abs=1e-3), pytest.approx(0.708, abs=1e-3)),
        ("images", "epoch_ms", 1.5, 1.5),
        ("images", "memory_mb", 1.0, 1.0),
    ]
    text = scaling.table(rows, laws)
    assert re.search(r"^ +16 +80\.0 +8\.0 +40\.0-240\.0$", text, re.MULTILINE)
    assert "epoch_ms ~ images^1.50, off by 1.00, at the end ^1.50" in text


def test_a_piece_of_work_is_timed():
    assert 0.02 <= _timing.timed(lambda: time.sleep(0.02), CPU) < 2
