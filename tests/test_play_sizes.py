"""The size calculator of the pages: its arithmetic against dcganlib and PyTorch, its view in a browser."""

import functools
import itertools
import json
import random
import re
from pathlib import Path

import architectures
import pytest
import torch
import torch.nn.functional as F
from browser import STATIC
from torch import nn
from torch.utils.flop_counter import conv_flop_count

from dcganlib import models, sizes, zoo

PLAY = STATIC / "play"
NETWORKS = ("generator", "discriminator")


@pytest.fixture(scope="module")
def script(blank):
    """``script("name", arguments)`` calls a function of sizes.js with each list of arguments."""
    blank.add_script_tag(path=PLAY / "sizes.js")

    def call(name, settings):
        found = blank.evaluate(
            """([name, settings]) => JSON.stringify(JSON.parse(settings).map((one) => {
                 try { return play.sizes[name](...one); } catch (error) { return error.message; } }))""",
            [name, json.dumps(settings)],
        )
        return json.loads(found)

    return call


def attempt(function, *args, **options):
    """The result of a call, or what its error says."""
    try:
        return function(*args, **options)
    except ValueError as error:
        return str(error)


def random_layers(source, count, transposed, *, dilated=True):
    """Layers that may or may not fit."""
    layers = []
    for _ in range(count):
        stride, dilation = source.randint(1, 3), source.choice([1, 1, 1, 2]) if dilated else 1
        layer = {"kernel": source.randint(1, 6), "stride": stride, "padding": source.randint(0, 2)}
        layer |= {"dilation": dilation, "channels": source.randint(1, 5)}
        layers.append(layer | ({"output_padding": source.randint(0, 2)} if transposed else {}))
    return layers


def without(layer, *names):
    return {name: value for name, value in layer.items() if name not in names}


def legal_chains(seed, count):
    """(size, layers, transposed) of chains that fit."""
    source, found = random.Random(seed), []
    while len(found) < count:
        transposed = source.random() < 0.5
        size = source.randint(1, 5) if transposed else source.randint(8, 40)
        layers = random_layers(source, source.randint(1, 4), transposed)
        plain = [without(layer, "channels") for layer in layers]
        if not isinstance(attempt(sizes.feature_sizes, size, plain, transposed=transposed), str):
            found.append((size, layers, transposed))
    return found


def test_sizes_and_errors_of_a_convolution_are_those_of_the_library(script):
    grid = list(itertools.product(range(1, 13), range(6), range(5), range(4), range(1, 4)))
    grid += [(8, bad, 1, 0, 1) for bad in (1.5, "", "four", -1, None, True)]
    grid += [(bad, 4, 2, 1, 1) for bad in (0, 2.5, "")] + [
        (8, 4, 2, -1, 1),
        (8, 4, 2, 1, 0),
        (8, 4, 2, "", 1),
    ]
    names = ("kernel", "stride", "padding", "dilation")
    layers = [(size, dict(zip(names, rest, strict=True))) for size, *rest in grid]
    expected = [attempt(sizes.conv_out, size, **layer) for size, layer in layers]
    assert script("convOut", layers) == expected
    assert len({re.sub(r"\d+", "", one) for one in expected if isinstance(one, str)}) > 5


def test_sizes_and_errors_of_a_transposed_convolution_are_those_of_the_library(script):
    grid = list(itertools.product(range(1, 9), range(6), range(4), range(4), range(4), range(1, 3)))
    grid += [(8, 4, 2, 1, bad, 1) for bad in (-1, 0.5, "", None)] + [(0, 4, 2, 1, 0, 1), (8, 4, 2, 1, 1, 0)]
    names = ("kernel", "stride", "padding", "output_padding", "dilation")
    layers = [(size, dict(zip(names, rest, strict=True))) for size, *rest in grid]
    expected = [attempt(sizes.conv_transpose_out, size, **layer) for size, layer in layers]
    assert script("convTransposeOut", layers) == expected
    assert len({re.sub(r"-?\d+", "", one) for one in expected if isinstance(one, str)}) > 5


def test_sizes_and_errors_of_chains_are_those_of_the_library(script):
    source, settings, expected = random.Random(0), [], []
    for _ in range(2000):
        transposed, size = source.random() < 0.5, source.randint(1, 40)
        layers = random_layers(source, source.randint(1, 5), transposed)
        layers = [without(layer, "channels") for layer in layers]
        if not transposed and source.random() < 0.1:
            layers[-1]["output_padding"] = 1
        settings.append((size, layers, transposed))
        expected.append(attempt(sizes.feature_sizes, size, layers, transposed=transposed))
    assert script("featureSizes", settings) == expected
    assert sum(isinstance(one, list) for one in expected) > 500
    assert sum(isinstance(one, str) and one.startswith("layer 3, after") for one in expected) > 50


def test_a_row_of_a_layer_is_pytorchs_matrix(script):
    grid = itertools.product((1, 2, 5, 8), range(1, 6), range(1, 4), range(3), range(3), (1, 2), (0, 1))
    settings, expected = [], []
    for size, k, s, p, a, d, transposed in grid:
        layer = {"kernel": k, "stride": s, "padding": p, "dilation": d}
        weight = torch.arange(1.0, k + 1)[None, None]
        if transposed and a < max(s, d) and s * (size - 1) + d * (k - 1) + 1 - 2 * p + a > 0:
            layer |= {"output_padding": a}
            columns = F.conv_transpose1d(torch.eye(size)[:, None], weight, None, s, p, a, 1, d)
        elif not transposed and a == 0 and d * (k - 1) + 1 <= size + 2 * p:
            columns = F.conv1d(torch.eye(size)[:, None], weight, None, s, p, d)
        else:
            continue
        settings.append((size, layer, bool(transposed), list(range(1, k + 1))))
        expected.append(columns[:, 0].T.tolist())
    assert len(settings) > 900
    assert script("matrix", settings) == expected


def paths_by_torch(size, layers, transposed):
    """Paths to each pixel of each map (transposed), or from each to the last map."""

    def one(row, layer):
        ones = torch.ones(1, 1, layer["kernel"], dtype=torch.float64)
        s, p, d = layer["stride"], layer["padding"], layer["dilation"]
        if transposed:
            return F.conv_transpose1d(row, ones, None, s, p, layer["output_padding"], 1, d)
        return F.conv1d(row, ones, None, s, p, d)

    rows = [torch.ones(1, 1, size, dtype=torch.float64, requires_grad=True)]
    for layer in layers:
        rows.append(one(rows[-1], layer))
    if not transposed:
        rows = torch.autograd.grad(rows[-1].sum(), rows)
    return [row.flatten().long().tolist() for row in rows]


def test_paths_unread_pixels_and_fields_are_those_of_pytorch(script):
    chains = legal_chains(1, 400)
    settings = [
        [{"channels": 2, "size": size, "layers": layers, "transposed": up}] for size, layers, up in chains
    ]
    unread = 0
    for (size, layers, up), found in zip(chains, script("describe", settings), strict=True):
        rows = paths_by_torch(size, layers, up)
        assert [one["paths"] for one in found] == (rows[1:] if up else rows[:-1])
        for layer, one in zip(layers, found, strict=True):
            own = paths_by_torch(one["inPixels"], [layer], up)[1 if up else 0]
            assert (one["counts"], one["unread"]) == (own, own.count(0))
            unread += not up and one["unread"]
        far = 200  # a unit far from all edges sees, or reaches, the field of its own
        for index, one in enumerate(found):
            part = [layer | {"padding": 0} for layer in (layers[index:] if up else layers[: index + 1])]
            dense = [layer | {"kernel": 1 + layer["dilation"] * (layer["kernel"] - 1)} for layer in part]
            dense = [layer | {"dilation": 1, "output_padding": 0} for layer in dense]
            row = torch.zeros(1, 1, 1, dtype=torch.float64) + 1
            for layer in dense if up else reversed(dense):
                ones = torch.ones(1, 1, layer["kernel"], dtype=torch.float64)
                row = F.conv_transpose1d(row, ones, None, layer["stride"])
            assert one["field"] == min(row.shape[-1], 10 * far)
    assert unread > 50


def test_coverage_away_from_the_ends_is_what_pytorch_counts_there(script):
    settings = list(itertools.product(range(1, 8), range(1, 5), range(1, 4)))
    layers = [{"kernel": k, "stride": s, "dilation": d} for k, s, d in settings]
    found = script("coverage", [[40, layer, True] for layer in layers])
    for (k, s, d), (least, most) in zip(settings, found, strict=True):
        ones = torch.ones(1, 1, k)
        row = F.conv_transpose1d(torch.ones(1, 1, 40), ones, None, s, 0, 0, 1, d)[0, 0, 40:-40]
        if len(row) >= s:
            assert (least, most) == (row.min(), row.max())
    assert (
        script("coverage", [[4, {"kernel": 4, "stride": 2}, False], [1, {"kernel": 5}, True]]) == [[1, 1]] * 2
    )
    assert script("grain", [[[9, 2, 2, 3, 3, 2, 9, 9]], [[2] * 12], [[5]]]) == [1.2, 1, 1]
    for kernel, padding, output_padding, contrast in [(3, 1, 0, 4), (4, 1, 0, 1), (5, 2, 1, 2.25)]:
        ones = torch.ones(1, 1, kernel)
        row = F.conv_transpose1d(torch.ones(1, 1, 12), ones, None, 2, padding, output_padding)
        assert script("grain", [[row.flatten().tolist()]])[0] ** 2 == contrast


def test_each_chain_of_the_zoo_is_in_the_pages_as_it_is_in_the_library():
    stored = (PLAY / "architectures.js").read_text(encoding="utf-8")
    assert stored == architectures.text(), "run: python tools/architectures.py"
    left_out = {name for name in zoo.ARCHITECTURES if name not in architectures.chains()}
    assert left_out == {"paper-mnist-conditional", "resnet", "resnet-28"}


@pytest.fixture(scope="module")
def presets(blank, script):
    """Each chain of the zoo as the script reads it: two networks that `describe` takes."""
    blank.add_script_tag(path=PLAY / "architectures.js")
    blank.add_script_tag(path=PLAY / "elements.js")
    blank.add_script_tag(path=PLAY / "size-calculator.js")
    return blank.evaluate(
        """Object.fromEntries(Object.keys(play.architectures.chains)
             .map((name) => [name, play.calculator.preset(name).networks]))"""
    )


@pytest.fixture(scope="module")
def zoo_pairs(presets):
    """The same networks, built by the library."""
    return {name: zoo.build(name, rng=torch.Generator().manual_seed(0)) for name in presets}


def work(blocks, inputs):
    """Multiply-adds of each layer for one image, as PyTorch counts them."""
    found = []
    for block in blocks:
        shape, convolution = inputs.shape, block[0]
        with torch.no_grad():
            inputs = block(inputs)
        transposed = isinstance(convolution, nn.ConvTranspose2d)
        found.append(conv_flop_count(shape, convolution.weight.shape, inputs.shape, transposed) // 2)
    return found


def test_sizes_parameters_and_multiply_adds_of_the_zoo_are_those_of_pytorch(script, presets, zoo_pairs):
    for name, networks in presets.items():
        for kind, built in zip(NETWORKS, zoo_pairs[name], strict=True):
            rows = script("describe", [[networks[kind]]])[0]
            assert [rows[0]["inPixels"], *(row["outPixels"] for row in rows)] == built.sizes
            assert sum(row["parameters"] for row in rows) == models.count_parameters(built)
            by_layer = [models.count_parameters(block) for block in built.blocks]
            assert [row["parameters"] for row in rows] == by_layer
            inputs = torch.zeros(1, networks[kind]["channels"], *[networks[kind]["size"]] * 2)
            assert [row["multiplyAdds"] for row in rows] == work(built.eval().blocks, inputs)


def as_layers(layers):
    """Layers of the script as the library's."""
    return [models.Layer(**({"stride": 1, "padding": 0} | layer)) for layer in layers]


def test_the_standard_chain_of_each_size_is_the_librarys(script):
    settings = [(size, 1 + size % 3, 4 + size % 5) for size in range(16, 257)]
    for (size, channels, base), found in zip(settings, script("standardLayers", settings), strict=True):
        assert as_layers(found["generator"]) == models.generator_layers(size, channels, base)
        assert as_layers(found["discriminator"]) == models.discriminator_layers(size, base)
    for size in (0, 15, 257):
        assert script("standardLayers", [[size, 3, 64]]) == [
            attempt(models.generator_layers, max(size, 1), 3, 64).replace("got 1;", f"got {size};")
            if size
            else "image_size must be an integer of at least 1, got 0"
        ]


def test_a_chain_that_ends_elsewhere_is_refused_in_the_librarys_words(script):
    layers = [{"channels": 4, "kernel": 4}, {"channels": 2, "kernel": 4, "stride": 2, "padding": 1}]
    error = attempt(models.Generator, 9, 3, 4, 10, layers=as_layers(layers))
    assert script("wrongEnd", [[[1, 4, 8], layers, {"channels": 3, "size": 9}]]) == [error]
    assert script("wrongEnd", [[[1, 4, 8], layers, {"channels": 2, "size": 8}]]) == [""]


def brute_force(wanted):
    """All chains that lead from one size to another, by trying each."""
    transposed, found = wanted["transposed"], []
    ranges = (range(1, wanted[name] + 1) for name in ("kernel", "stride"))
    settings = list(itertools.product(*ranges, range(wanted["padding"] + 1), range(wanted["stride"])))
    names = ("kernel", "stride", "padding", "output_padding")
    for chain in itertools.product(settings, repeat=wanted["count"]):
        size = wanted["from"]
        for k, s, p, a in chain:
            if k < s or p >= k or (wanted["even"] and k % s):
                break
            if a and not (transposed and wanted["output_padding"] and a < s):
                break
            if transposed:
                new = attempt(sizes.conv_transpose_out, size, k, s, p, a)
                grows = not isinstance(new, str) and size < new <= wanted["to"]
            else:
                new = attempt(sizes.conv_out, size, k, s, p)
                grows = not isinstance(new, str) and wanted["to"] <= new < size
                grows = grows and s * (new - 1) + k - p >= size  # the last window reads the last pixel
            if not grows:
                break
            size = new
        else:
            if size == wanted["to"]:
                found.append([dict(zip(names, layer, strict=True)) for layer in chain])
    return found


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("output_padding", [False, True])
@pytest.mark.parametrize(
    ("start", "end", "count"),
    [(1, 7, 1), (4, 7, 1), (7, 28, 2), (28, 7, 2), (64, 32, 1), (11, 1, 2), (5, 5, 1)],
)
def test_the_search_finds_what_trying_each_chain_finds(script, start, end, count, even, output_padding):
    wanted = {"from": start, "to": end, "count": count, "transposed": start < end, "even": even}
    wanted |= {"output_padding": output_padding, "kernel": 7 if count == 1 else 5, "stride": 3, "padding": 2}
    (found,) = script("search", [[wanted, 10_000]])
    expected = brute_force(wanted)

    def key(chain):
        return json.dumps(chain, sort_keys=True)

    assert sorted(map(key, found["chains"])) == sorted(map(key, expected))
    assert found["total"] == len(expected)


def test_the_search_counts_what_it_does_not_list_and_finds_the_answer_of_the_exercise(script):
    wanted = {"from": 4, "to": 32, "count": 2, "transposed": True, "even": False, "output_padding": False}
    wanted |= {"kernel": 8, "stride": 3, "padding": 0}
    (few, none) = script("search", [[wanted, 3], [wanted | {"to": 33, "kernel": 2}, 3]])
    assert (few["total"], len(few["chains"])) == (10, 3)
    assert none == {"total": 0, "chains": []}
    assert [[(one["kernel"], one["stride"]) for one in chain] for chain in few["chains"][:2]] == [
        [(6, 3), (4, 2)],
        [(8, 2), (6, 2)],
    ]
    assert any(one["kernel"] % one["stride"] for one in few["chains"][2])
    (standard,) = script(
        "search",
        [[wanted | {"from": 1, "to": 64, "count": 5, "padding": 3, "stride": 4, "even": True}, 20]],
    )
    assert standard["total"] > 1000
    assert len(standard["chains"]) == 20
    (refused,) = script("search", [[wanted | {"from": ""}]])
    assert refused == "from must be an integer of at least 1, got ''"


@functools.cache
def run_code(code, name):
    """The network that a copied piece of code makes."""
    made = {}
    exec(code, made)
    return made[name].eval()


@torch.no_grad()
def sizes_along(network, inputs):
    """The sides of the input and of what each convolution gives."""
    found = [inputs.shape[-1]]
    for module in network:
        inputs = module(inputs)
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            found.append(inputs.shape[-1])
    return found


def test_the_copied_code_makes_the_networks_of_the_zoo(script, presets, zoo_pairs):
    for name, networks in presets.items():
        for kind, built in zip(NETWORKS, zoo_pairs[name], strict=True):
            (code,) = script("torchCode", [[networks[kind], kind]])
            network = run_code(code, kind)
            shapes = [tuple(one.shape) for one in built.blocks.parameters()]
            assert [tuple(one.shape) for one in network.parameters()] == shapes
            inner = [one for block in built.blocks for one in block]
            assert [repr(one) for one in network] == [repr(one) for one in inner] or name.endswith("spectral")
            inputs = torch.zeros(1, networks[kind]["channels"], *[networks[kind]["size"]] * 2)
            assert sizes_along(network, inputs) == built.sizes


def test_the_copied_code_of_any_chain_has_the_sizes_and_parameters_shown(script):
    source = random.Random(2)
    chains = legal_chains(2, 60)
    for _, layers, _ in chains:
        for layer in layers:
            layer |= {"norm": source.choice([None, "batch", "batch1d", "spectral"]), "dropout": 0.25}
            layer |= {
                "affine": source.random() < 0.5,
                "bias": source.random() < 0.5,
                "activation": "leaky_relu",
            }
    networks = [
        {"channels": 3, "size": size, "layers": layers, "transposed": up} for size, layers, up in chains
    ]
    rows = script("describe", [[one] for one in networks])
    codes = script("torchCode", [[one, "network"] for one in networks])
    for network, row, code in zip(networks, rows, codes, strict=True):
        made = run_code(code, "network")
        count = sum(one["parameters"] for one in row)
        assert models.count_parameters(made) == count
        along = sizes_along(made, torch.zeros(1, 3, network["size"], network["size"]))
        assert along == [row[0]["inPixels"], *(one["outPixels"] for one in row)]
        written = [int(found) for found in re.findall(r"# (\d+) × \1$", code, re.M)]
        assert written == along[1:]
        assert isinstance(made, nn.Sequential)


@pytest.fixture(scope="module")
def figure(blank, presets):
    """``figure("size-calculator")`` puts a new figure into the page and returns it."""
    blank.add_script_tag(path=PLAY / "taps.js")
    blank.add_style_tag(path=STATIC / "book.css")

    def make(name):
        blank.evaluate(
            """async (name) => {
                 const box = document.createElement("div");
                 box.className = `play-box play-${name}`;
                 document.body.replaceChildren(box);
                 await play.made[name](box, {}); }""",
            name,
        )
        return blank.locator(".play-box")

    return make


def test_the_calculator_opens_with_the_tutorials_discriminator_and_its_unseen_pixels(figure, zoo_pairs):
    box = figure("size-calculator")
    assert box.locator("select").input_value() == "celeba-post"
    assert box.locator(".sizes-size").all_inner_texts() == [
        "64 → 31",
        "31 → 14",
        "14 → 11",
        "11 → 4",
        "4 → 1",
    ]
    assert "never sees 732 of the image's 4,096 pixels (17.9%)" in box.locator(".sizes-image").inner_text()
    unread = [text.split("\n")[1] for text in box.locator(".sizes-facts > div:first-child").all_inner_texts()]
    assert unread == ["0 px", "1 px", "0 px", "1 px", "0 px"]
    _, built = zoo_pairs["celeba-post"]
    assert f"{models.count_parameters(built):,} parameters" in box.locator("output").first.inner_text()


def test_a_changed_field_changes_what_follows_and_an_illegal_one_says_why(figure):
    box = figure("size-calculator")
    box.get_by_label("Padding of D1").fill("1")
    assert box.locator(".sizes-size").all_inner_texts()[:2] == ["64 → 32", "32 → 15"]
    box.get_by_label("Kernel of D2").fill("40")
    error = attempt(sizes.feature_sizes, 64, [{"kernel": 4, "stride": 2, "padding": 1}, {"kernel": 40}])
    assert box.locator(".sizes-error").inner_text() == error
    assert box.get_by_label("Kernel of D2").get_attribute("aria-invalid") == "true"
    assert box.get_by_label("Kernel of D1").get_attribute("aria-invalid") == "false"
    box.get_by_text("Both networks as PyTorch code").click()
    assert box.locator("textarea").input_value() == f"# {error}"
    assert box.get_by_role("button", name="Copy").is_disabled()
    box.get_by_label("Kernel of D2").fill("4")
    assert (
        not box.locator(".sizes-error").is_visible()
        or "expected 1 at 1" in box.locator(".sizes-error").inner_text()
    )
    box.get_by_label("Kernel of D2").fill("9999999")
    box.get_by_label("Padding of D2").fill("9999999")
    assert "this calculator goes up to 1024 pixels" in box.locator(".sizes-error").inner_text()


def test_the_standard_chain_and_another_width_make_the_librarys_networks(figure):
    box = figure("size-calculator")
    box.get_by_label("Image size").fill("97")
    box.get_by_label("Base width").fill("8")
    box.get_by_label("Latent size").fill("10")
    box.get_by_role("button", name="Standard chain for this size").click()
    code = box.locator("textarea").input_value()
    for kind, built in zip(
        NETWORKS,
        zoo.build("dcgan", image_size=97, base_channels=8, latent_dim=10),
        strict=True,
    ):
        made = run_code(code, kind)
        assert [repr(one) for one in made] == [repr(one) for block in built.blocks for one in block]
    assert not box.locator(".sizes-error").is_visible()
    box.get_by_label("Image size").fill("15")
    box.get_by_role("button", name="Standard chain for this size").click()
    assert "image_size must be from 16 to 256 pixels" in box.locator(".sizes-error").inner_text()


def test_layers_are_added_and_removed_by_keyboard(figure, blank):
    box = figure("size-calculator")
    box.get_by_role("radio", name="Generator").check()
    assert box.locator(".sizes-layers > li").count() == 5
    box.get_by_role("button", name="Add a layer").press("Enter")
    assert box.locator(".sizes-size").all_inner_texts()[-1] == "64 → 128"
    assert blank.evaluate("document.activeElement.getAttribute('aria-label')") == "Kernel of G5"
    assert "expected 3 at 64" in box.locator(".sizes-error").inner_text()
    box.get_by_role("button", name="Remove G1").press("Enter")
    assert box.locator(".sizes-size").all_inner_texts()[0] == "1 → 2"
    assert blank.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove G1"


def test_a_chain_that_the_search_found_is_used(figure):
    box = figure("size-calculator")
    box.get_by_role("radio", name="Generator").check()
    box.get_by_text("Which layers lead").press("Enter")
    box.get_by_label("Layers", exact=True).fill("3")
    box.get_by_label("Kernel up to").fill("8")
    box.get_by_label("Stride up to").fill("4")
    found = box.locator(".sizes-found li").first
    chain = found.inner_text().split("\n")[-1].split(":")[0].split(" → ")
    found.get_by_role("button").click()
    assert box.locator(".sizes-size").all_inner_texts() == [
        f"{before} → {after}" for before, after in itertools.pairwise(chain)
    ]
    assert not box.locator(".sizes-error").is_visible()
    network = run_code(box.locator("textarea").input_value(), "generator")
    assert network(torch.zeros(2, 100, 1, 1)).shape == (2, 3, 64, 64)
    box.get_by_label("Kernel up to").fill("99")
    assert "kernel must be at most 16" in box.locator("details output").inner_text()


def test_the_code_is_copied(figure, blank):
    box = figure("size-calculator")
    box.get_by_text("Both networks as PyTorch code").click()
    box.get_by_role("button", name="Copy").click()
    box.get_by_role("button", name="Copied").wait_for()
    assert blank.evaluate("getSelection().toString() || document.activeElement.value").startswith(
        "from torch"
    )


def test_a_pixel_is_followed_by_pointer_and_by_keyboard(figure):
    box = figure("taps")
    said = box.locator("output")
    assert said.inner_text() == "Output 1 = 1 · input 1 + 2 · input 2 + 3 · input 3 + 4 · input 4."
    box.get_by_role("slider", name="Pixel").focus()
    box.get_by_role("slider", name="Pixel").press("ArrowLeft")
    assert said.inner_text() == "Output 0 = 1 · 0 + 2 · input 0 + 3 · input 1 + 4 · input 2."
    box.locator("svg").first.locator("g", has_text=re.compile("^7$")).hover()
    assert said.inner_text() == "Input 7 is added 3 times to output 3."
    assert "column 7 is marked" in box.locator(".taps-matrix").get_attribute("aria-label")
    box.get_by_label("Layer").select_option("transposed")
    box.get_by_label("Follow").select_option("input")
    assert (
        said.inner_text()
        == "Input 0 is added 2 times to output 0, 3 times to output 1, 4 times to output 2; 1 more cut off."
    )


def numbers_of(matrix):
    """The weights of a drawn matrix as {(row, column): weight}."""
    drawn = matrix.evaluate(
        """(svg) => [...svg.querySelectorAll("text")].map((text) =>
             [text.getAttribute("y") - 0.5, text.getAttribute("x") - 0.5, Number(text.textContent)])"""
    )
    return {(round(row), round(column)): weight for row, column, weight in drawn}


@pytest.mark.parametrize("transposed", [False, True])
def test_the_drawn_matrix_is_pytorchs(figure, transposed):
    box = figure("taps")
    box.get_by_label("Layer").select_option("transposed" if transposed else "convolution")
    for name, value in {"Input": 6, "Kernel": 3, "Stride": 2, "Padding": 1}.items():
        box.get_by_label(name, exact=True).fill(str(value))
    weight = torch.tensor([[[1.0, 2.0, 3.0]]])
    layer = F.conv_transpose1d if transposed else F.conv1d
    expected = layer(torch.eye(6)[:, None], weight, None, 2, 1)[:, 0].T
    places = {tuple(place): int(expected[tuple(place)]) for place in expected.nonzero().tolist()}
    assert numbers_of(box.locator(".taps-matrix")) == places


def test_in_two_dimensions_a_row_of_the_matrix_has_the_weights_of_the_pixel(figure):
    box = figure("taps")
    box.get_by_label("Dimensions").select_option("2")
    for name, value in {"Input": 4, "Kernel": 3, "Stride": 1, "Padding": 1}.items():
        box.get_by_label(name, exact=True).fill(str(value))
    weight = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    columns = F.conv2d(torch.eye(16).reshape(16, 1, 4, 4), weight, None, 1, 1).flatten(1)
    places = {tuple(place): int(columns.T[tuple(place)]) for place in columns.T.nonzero().tolist()}
    assert numbers_of(box.locator(".taps-matrix")) == places
    box.get_by_role("slider", name="Row").fill("0")
    box.get_by_role("slider", name="Column").fill("3")
    assert (
        box.locator("output").inner_text()
        == "Output (0, 3) is the sum of 4 products; 5 more read zeros of the padding."
    )
    assert "row 3 is marked" in box.locator(".taps-matrix").get_attribute("aria-label")
    box.get_by_label("Input", exact=True).fill("40")
    assert "draws up to 10 pixels" in box.locator(".taps-error").inner_text()


def test_each_figure_fits_a_narrow_phone_and_axe_finds_nothing(figure, blank):
    axe = pytest.importorskip("axe_playwright_python")
    blank.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    blank.set_viewport_size({"width": 320, "height": 700})
    for name in ("size-calculator", "taps"):
        box = figure(name)
        for summary in box.locator("summary").all():
            summary.click()
        for kind in box.get_by_role("radio").all():
            kind.check()
        assert blank.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        small = box.locator("button, input, select, summary").evaluate_all(
            """(all) => all.filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect())
                 .filter((place) => place.width < 24 || place.height < 24).length"""
        )
        assert small == 0
        violations = blank.evaluate(
            "axe.run('.play-box').then((found) => found.violations.map((one) => one.id))"
        )
        assert violations == []
