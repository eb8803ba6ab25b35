"""The figures that explore one idea: their arithmetic against the chapters' own code, and their controls."""

import ast
import functools
import math
import shutil
from dataclasses import replace
from pathlib import Path

import browser
import chapters
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.optim import adam

from dcganlib import latents, models
from dcganlib.viz.notebook import play_data, show_table

browser.require()
PLAY = browser.STATIC / "play"
BOOK = Path(__file__).resolve().parents[1] / "book"
DISTRIBUTIONS = {"MixtureSameFamily": MixtureSameFamily, "Categorical": Categorical, "Normal": Normal}


@pytest.fixture(scope="module")
def page(blank):
    """An empty page with the shared charts and all figures that use them."""
    for name in (
        "random",
        "plot",
        "divergence",
        "orbit",
        "table",
        "roofline",
        "momentum",
        "scales",
        "bias",
        "mates",
    ):
        blank.add_script_tag(path=PLAY / f"{name}.js")
    return blank


@functools.cache
def statements(name):
    """The code of a chapter, cell by cell."""
    cells = chapters.code_cells(chapters.from_source(BOOK / f"{name}.md"))
    return [
        node for cell in cells if "colab" not in chapters.tags(cell) for node in ast.parse(cell.source).body
    ]


def defined_by(node):
    if isinstance(node, ast.Assign):
        return {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return {getattr(node, "name", None)}


def from_chapter(name, *wanted, **known):
    """Names as a chapter's code defines them first, without running the rest of it."""
    scope = {"torch": torch, "math": math, **known}
    for one in wanted:
        node = next(node for node in statements(name) if one in defined_by(node))
        exec(compile(ast.Module([node], []), name, "exec"), scope)
    return [scope[one] for one in wanted]


def shown(page, name, options=None, still="<p></p>"):
    """Fill a box with a figure, as play.js does, in place of the one before."""
    page.evaluate(
        """async ([name, options, picture]) => {
             document.querySelector(".play-box")?.remove();
             const box = document.createElement("div");
             box.className = "play-box";
             document.body.append(box);
             const still = document.createElement("div");
             still.innerHTML = picture;
             await play.made[name](box, options, still);
           }""",
        [name, options or {}, still],
    )
    box = page.locator(".play-box")
    unnamed = box.evaluate("""(box) => [...box.querySelectorAll("input, select")]
        .filter((one) => !one.labels.length || !one.labels[0].textContent.trim()).length""")
    assert unnamed == 0
    assert box.get_attribute("aria-label")
    return box


# --- in a page ---------------------------------------------------------------------------------------


def test_a_caption_stays_and_what_a_cell_measured_arrives(chromium, tmp_path):
    shutil.copy(browser.STATIC / "play.js", tmp_path)
    shutil.copy(browser.STATIC / "book.css", tmp_path)
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "demo.js").write_text(
        """play.register("demo", (box, options, still) => {
             box.textContent = `${options.size} in place of ${still.tagName}`;
           });""",
        encoding="utf-8",
    )
    left = play_data("demo", {"size": 7})._repr_html_()
    (tmp_path / "page.html").write_text(
        f"""<link rel="stylesheet" href="book.css"><script src="play.js" defer></script>
            <div class="cell"><div class="cell_output">{left}</div></div>
            <div class="cell tag_hide-input tag_play-demo"><div class="cell_output"><p>printed</p>
            <figure id="fig-demo"><a href="big.png"><img alt="still" width="9" height="9"></a>
            <figcaption>What is seen</figcaption></figure></div></div>""",
        encoding="utf-8",
    )
    tab = chromium.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    tab.locator("figure .play-box.play-demo").wait_for()
    assert tab.locator("figure").inner_text().split("\n")[0] == "7 in place of A"
    seen = [tab.locator(part).is_visible() for part in ("figcaption", "p", "img")]
    assert seen == [True, True, False]
    tab.emulate_media(media="print")
    assert [tab.locator(part).is_visible() for part in ("img", ".play-box")] == [True, False]
    tab.close()


# --- charts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "count", "log", "expected"),
    [
        (0, 1, 5, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-4, 4, 4, False, [-4, -2, 0, 2, 4]),
        (0, 0.3, 3, False, [0, 0.1, 0.2, 0.3]),
        (0.5, 2000, 5, True, [1, 10, 100, 1000]),
    ],
)
def test_an_axis_has_round_values(page, low, high, count, log, expected):
    found = page.evaluate("(given) => play.plot.ticks(...given)", [low, high, count, log])
    assert found == pytest.approx(expected)


def test_numbers_are_plain_in_the_middle_and_powers_of_ten_outside(page):
    found = page.evaluate("[0, 1, -0.25, 12345, 1e-7, 3.2e9].map((value) => play.plot.number(value))")
    assert found == ["0", "1", "−0.25", "12,300", "10⁻⁷", "3.2 × 10⁹"]
    assert page.evaluate("[-0.001, -1.5].map((value) => play.plot.fixed(value))") == ["0.00", "−1.50"]


@pytest.mark.parametrize("axis", [{"min": -3, "max": 5}, {"min": 0.01, "max": 100, "log": True}])
def test_a_pixel_leads_back_to_its_value(page, axis):
    found = page.evaluate(
        """(axis) => {
             const at = play.plot.scale(axis, 40, 300);
             return [at(axis.min), at(axis.max), at.back(at(1.7))];
           }""",
        axis,
    )
    assert found == pytest.approx([40, 300, 1.7])


# --- chapter 1: the divergence -----------------------------------------------------------------------


def test_divergence_value_and_accuracy_are_the_chapters(page):
    p_data, divergence = from_chapter("01_gan_theory", "p_data", "divergence", **DISTRIBUTIONS)
    grid = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    p = p_data.log_prob(grid)
    for mean, width in [(0, 1.2), (4, 0.2), (-1.5, 0.6), (2.5, 3), (-4, 0.5)]:
        q = Normal(*torch.tensor([mean, width], dtype=torch.float64)).log_prob(grid)
        jsd = divergence(p, q, grid).item()
        found = page.evaluate("([mean, width]) => play.divergence.measures(mean, width)", [mean, width])
        assert found["jsd"] == pytest.approx(jsd, abs=1e-6)
        assert found["value"] == pytest.approx(2 * jsd - math.log(4), abs=2e-6)
        assert found["dLoss"] == pytest.approx(math.log(2) - jsd, abs=1e-6)
        assert found["kl"] == pytest.approx(
            torch.trapezoid(q.exp() * (q - p), grid).item(), rel=1e-5, abs=1e-6
        )
        best = torch.maximum(p.exp(), q.exp()).sum().item() * 0.001 / 2
        assert found["accuracy"] == pytest.approx(best, abs=1e-5)
        at = page.evaluate(
            "([m, w]) => [-3, 0, 1, 3].map((x) => play.divergence.bestD(x, m, w))", [mean, width]
        )
        ratio = torch.sigmoid(p - q)[[17_000, 20_000, 21_000, 23_000]]  # the same places of the grid
        assert at == pytest.approx(ratio.tolist(), abs=1e-5)


@pytest.mark.parametrize("loss", ["minimax", "nonSaturating"])
def test_the_pull_on_g_is_autograds(page, loss):
    (p_data,) = from_chapter("01_gan_theory", "p_data", **DISTRIBUTIONS)
    grid = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    for mean, width in [(0.3, 1.2), (3, 0.5), (-2, 2.5)]:
        at = torch.tensor([mean, math.log(width)], dtype=torch.float64, requires_grad=True)
        p, q = p_data.log_prob(grid), Normal(at[0], at[1].exp()).log_prob(grid)
        logit = (p - q).detach()  # the best D, held fixed while G steps
        per_x = -F.softplus(logit) if loss == "minimax" else F.softplus(-logit)
        expected = torch.autograd.grad(torch.trapezoid(q.exp() * per_x, grid), at)[0].tolist()
        found = page.evaluate("(given) => play.divergence.gradient(...given)", [mean, width, loss])
        assert found == pytest.approx(expected, abs=2e-4, rel=1e-4)


def test_far_off_the_minimax_loss_leaves_g_and_the_other_takes_it_to_one_hump(page):
    ends = page.evaluate(
        """["minimax", "nonSaturating"].map((loss) => play.divergence.descend(4, 0.3, loss, 50).pop())"""
    )
    assert ends[0][0] == pytest.approx(3.97, abs=0.02)
    assert ends[1] == pytest.approx([1.5, 0.45], abs=0.15)


def test_sliders_and_button_move_g(page):
    box = shown(page, "divergence")
    assert "JSD 0.131" in box.inner_text()
    box.get_by_label("mean of G").fill("4")
    box.get_by_label("width of G").fill("0.3")
    assert "JSD 0.692" in box.inner_text()
    box.get_by_role("button", name="25 steps of G").press("Enter")
    assert box.get_by_label("mean of G").input_value() == "4"  # a flat place
    box.get_by_label("the non-saturating loss").check()
    box.get_by_role("button", name="25 steps of G").press("Enter")
    assert float(box.get_by_label("mean of G").input_value()) < 2


def test_the_mouse_drags_g_over_the_map_and_a_tap_moves_it(page):
    box = shown(page, "divergence")
    place = box.locator(".drags svg").bounding_box()
    mean, width = (box.get_by_label(name) for name in ("mean of G", "width of G"))
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + 20)
    page.mouse.down()
    high = float(width.input_value())
    page.mouse.move(place["x"] + 70, place["y"] + place["height"] - 60)
    page.mouse.up()
    left, low = float(mean.input_value()), float(width.input_value())
    assert -4 <= left < -3.5
    assert low < 0.8 < 2.5 < high
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + 20)
    assert float(mean.input_value()) == left
    box.locator(".drags svg").click(position={"x": place["width"] - 20, "y": 30})
    assert float(mean.input_value()) > 3.5


# --- chapter 1: two players that circle ----------------------------------------------------------------


@pytest.mark.parametrize("alternating", [False, True])
@pytest.mark.parametrize("eta", [0.1, 0.7, 2.1])
def test_the_path_of_the_two_players_is_the_chapters(page, eta, alternating):
    (orbit,) = from_chapter("01_gan_theory", "orbit")
    found = page.evaluate(
        "(given) => play.orbit.path(given)", {"eta": eta, "alternating": alternating, "steps": 60}
    )
    assert torch.allclose(torch.tensor(found, dtype=torch.float64), orbit(eta, alternating, 60), rtol=1e-9)


@pytest.mark.parametrize("alternating", [False, True])
def test_growth_is_the_larger_eigenvalue(page, alternating):
    for eta, gamma in [(0.1, 0), (0.5, 0.5), (2.1, 0), (0.3, 1), (2.2, 0.9)]:
        d = np.array([[1, 0], [eta, 1 - eta * gamma]])
        g = np.array([[1, -eta], [0, 1]])
        step = g @ d if alternating else d + g - np.eye(2)
        expected = np.abs(np.linalg.eigvals(step)).max()
        found = page.evaluate(
            "(given) => play.orbit.growth(given)", {"eta": eta, "gamma": gamma, "alternating": alternating}
        )
        assert found == pytest.approx(expected, abs=1e-9)


def test_the_players_move_only_while_play_is_pressed(page):
    box = shown(page, "orbit")
    assert "simultaneous: radius 2.11" in box.inner_text()
    steps = box.get_by_label("steps")
    page.wait_for_timeout(150)
    assert steps.input_value() == "150"
    box.get_by_role("button", name="Play").press("Enter")
    page.wait_for_function("() => Number(document.querySelectorAll('.play-box input')[2].value) > 151")
    box.get_by_role("button", name="Pause").press("Enter")
    at = steps.input_value()
    page.wait_for_timeout(150)
    assert steps.input_value() == at
    box.get_by_label("step size η").fill("2.1")
    assert "alternating: radius over a million" in box.inner_text()


# --- details of chapter 4: a table to sort --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.95", 0.95),
        ("−3.5 s", -3.5),
        ("12,345 to 9", 12345),
        ("1.2e-3", 0.0012),
        ("–", None),
        ("Flux", "flux"),
    ],
)
def test_a_cell_is_sorted_by_its_number_or_its_words(page, text, expected):
    assert page.evaluate("(text) => play.table.key(text)", text) == expected


def test_rows_without_a_value_stay_last_and_ties_keep_their_order(page):
    keys = [3, None, 1, "b", 3, "a"]
    found = page.evaluate("(keys) => [play.table.order(keys), play.table.order(keys, true)]", keys)
    assert found == [[2, 0, 4, 5, 3, 1], [3, 5, 0, 4, 2, 1]]


def test_the_heads_sort_a_table_by_click_and_by_key(page):
    rows = [["b", 10, "x"], ["a", 9, "y"], ["c", "–", "z"]]
    box = shown(page, "table", still=show_table(["name", "score", "what"], rows).data)

    def column():
        return box.locator("tbody th").all_inner_texts()

    button = box.get_by_role("button", name="score")
    assert column() == ["b", "a", "c"]
    button.click()
    assert column() == ["a", "b", "c"]
    assert box.locator("th[aria-sort]").evaluate_all("(all) => all.map((one) => one.ariaSort)") == [
        "ascending"
    ]
    button.press("Enter")
    assert column() == ["b", "a", "c"]
    assert "score, largest first" in box.locator("output").inner_text()
    box.get_by_role("button", name="name").press("Space")
    assert column() == ["a", "b", "c"]
    assert box.locator("th[aria-sort]").inner_text().startswith("name")


# --- chapter 10: the roofline ---------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "width"), [(2, 1), (1, 0.5)])
def test_operations_and_bytes_are_the_chapters(page, batch, width):
    _, costs = from_chapter("10_going_faster", "useful_flops", "costs", nn=nn, F=F)
    described = page.evaluate("play.roofline.LAYERS")
    found = page.evaluate(
        "(given) => play.roofline.costs(given)", {"batch": batch, "width": width, "precision": "float32"}
    )
    weights = 0
    for one, by_script in zip(described, found, strict=False):
        if "kernel" in one:
            channels = [round(width * one[k]) if one[k] > 1 else 1 for k in ("inputs", "outputs")]
            layer = nn.ConvTranspose2d(*channels, one["kernel"], one["stride"], one["padding"], bias=False)
            weights += layer.weight.numel()
        else:
            channels = [round(width * one["channels"])]
            layer = nn.BatchNorm2d(*channels) if one["parameters"] else nn.LeakyReLU(0.2)
        flops, moved = costs(layer, torch.randn(batch, channels[0], one["size"], one["size"]))
        assert (by_script["flops"], by_script["bytes"]) == (flops, moved), one["name"]
    assert found[-1] == {"name": "Adam", "flops": 12 * weights, "bytes": 28 * weights}


def test_the_layers_of_the_roofline_are_the_chapters(page):
    (layers,) = from_chapter("10_going_faster", "layers", nn=nn)
    described = page.evaluate("play.roofline.LAYERS")
    for (name, (layer, channels, size)), one in zip(layers.items(), described, strict=True):
        assert (name, size) == (one["name"], one["size"])
        assert channels == one.get("inputs", one.get("channels"))
        if isinstance(layer, nn.ConvTranspose2d):
            form = layer.out_channels, layer.kernel_size[0], layer.stride[0], layer.padding[0]
            assert form == tuple(one[k] for k in ("outputs", "kernel", "stride", "padding"))


def test_half_the_bits_double_the_intensity_of_a_layer_but_not_adams(page):
    full, half = (
        page.evaluate(
            "(given) => play.roofline.costs(given)", {"batch": 8, "width": 1, "precision": precision}
        )
        for precision in ("float32", "bfloat16")
    )
    ratios = [one["bytes"] / other["bytes"] for one, other in zip(full, half, strict=True)]
    assert ratios == pytest.approx([2, 2, 2, 2, 2, 1], abs=0.01)


def test_a_roof_is_the_smaller_of_two_limits(page):
    machine = {"peak": 100, "bandwidth": 10}
    bound = "([flops, machine]) => play.roofline.bound({flops, bytes: 10}, machine)"
    left, right = (page.evaluate(bound, [flops, machine]) for flops in (50, 400))
    assert left == {"seconds": 1, "limit": "memory", "speed": 50, "intensity": 5}
    assert right == {"seconds": 4, "limit": "arithmetic", "speed": 100, "intensity": 40}


def test_the_roofline_follows_its_controls(page):
    times = {layer["name"]: 1e-3 for layer in page.evaluate("play.roofline.LAYERS")}
    measured = {"peaks": {"float32": 2e11, "bfloat16": 6e11}, "bandwidth": 1e10, "batch": 32, "times": times}
    box = shown(page, "roofline", measured)
    assert box.locator("circle").count() == 6 + 5
    assert "Edge at 20 FLOP per byte" in box.inner_text()
    box.get_by_label("batch size").fill("0")
    assert box.locator("circle").count() == 6
    first = box.locator("tbody tr").first
    assert first.inner_text().split()[-3:] == ["16.4", "335", "memory"]
    box.get_by_label("memory speed").fill("4")
    assert first.inner_text().split()[-1] == "arithmetic"
    box.get_by_label("bfloat16").check()
    assert "Edge at 3.8 FLOP per byte" in box.inner_text()


# --- chapter 4: Adam's average, and the first weights ------------------------------------------------------


def pytorchs_adam(gradients, beta1):
    """The path of a weight from 0, at a learning rate of 1."""
    weight, average, square, step = (torch.zeros(1, dtype=torch.float64) for _ in range(4))
    path = []
    for gradient in gradients:
        state = [weight], [torch.full_like(weight, gradient)], [average], [square], [], [step]
        numbers = {"beta1": beta1, "beta2": 0.999, "lr": 1.0, "eps": 1e-8, "weight_decay": 0.0}
        adam.adam(*state, foreach=False, amsgrad=False, maximize=False, **numbers)
        path.append(weight.item())
    return path


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_averages_are_the_chapters_and_the_path_is_that_of_pytorchs_adam(page, beta1):
    (averages,) = from_chapter("04_dcgan_guidelines", "averages")
    for kind in ("flips", "turns", "noise"):
        values, truth = page.evaluate("(kind) => Object.values(play.momentum.gradients(kind, 5, 50))", kind)
        found = page.evaluate("([values, beta]) => play.momentum.averages(values, beta)", [values, beta1])
        assert found == pytest.approx(averages(values, beta1).tolist(), abs=1e-6)
        path = pytorchs_adam(values, beta1)
        found = page.evaluate("([values, beta]) => play.momentum.adam(values, beta)", [values, beta1])
        assert found == pytest.approx(path, rel=1e-9, abs=1e-9)
        assert len(truth) == 50


def test_the_share_of_wrong_steps_is_the_chapters(page):
    (averages,) = from_chapter("04_dcgan_guidelines", "averages")
    (signal,) = from_chapter("04_dcgan_guidelines", "signal")
    given = page.evaluate("play.momentum.gradients('flips', 8, 64)")
    assert given["values"] == given["truth"] == signal.tolist()
    judge = "play.momentum.judge(play.momentum.gradients('flips', 8, 64), {}, 32)"
    for beta1 in (0.5, 0.9):
        m = averages(signal.tolist(), beta1)[32:]
        found = page.evaluate(judge.format(beta1))
        assert found["wrong"] == pytest.approx((m * signal[32:] < 0).float().mean().item())
        assert found["largest"] == pytest.approx(m.max().item(), abs=1e-6)


def test_the_noise_is_normal_and_0_9_errs_least_in_it(page):
    values = np.array(page.evaluate("play.momentum.gradients('noise', 1, 20000).values")) - 0.3
    assert abs(values.mean()) < 0.02
    assert values.std() == pytest.approx(1, abs=0.02)
    assert (np.abs(values) < 1.96).mean() == pytest.approx(0.95, abs=0.005)
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.02
    judge = "play.momentum.judge(play.momentum.gradients('noise', 8, 1088), {}, 64).wrong"
    wrong = [page.evaluate(judge.format(beta1)) for beta1 in (0.9, 0.5)]
    assert wrong[0] < 0.1
    assert 0.25 < wrong[1] < 0.32
    few = page.evaluate("play.momentum.judge(play.momentum.gradients('flips', 2, 1088), 0.9, 64)")
    assert few["largest"] == pytest.approx(0.105, abs=0.002)


def test_the_momentum_figure_follows_its_controls(page):
    box = shown(page, "momentum")
    says = box.locator("output.plot-says")
    assert says.inner_text() == (
        "β₁ 0.50: wrong direction on 0%, at most 0.99; β₁ 0.90: wrong direction on 38%, at most 0.40."
    )
    box.get_by_role("slider", name="β₁").fill("0.95")
    box.get_by_label("is noisy").check()
    assert not box.get_by_label("steps to a turn").is_visible()
    assert "β₁ 0.95: wrong direction on" in says.inner_text()


@pytest.mark.parametrize("base", [16, 64])
@pytest.mark.parametrize("norm", [False, True])
def test_the_predicted_scale_is_that_of_an_untrained_generator(page, base, norm):
    layers = models.generator_layers(64, 3, base_channels=base)
    layers = layers if norm else [replace(one, norm=None) for one in layers]
    (scales,) = from_chapter(
        "04_dcgan_guidelines",
        "scales",
        Generator=models.Generator,
        seeded=lambda seed: torch.Generator().manual_seed(seed),
        latents=latents,
    )
    for deviation, draw in ((0.02, models.init_weights), (None, lambda network, rng: network)):
        given = {"base": base, "deviation": deviation, "norm": norm}
        found = page.evaluate("(given) => play.scales.predict(given)", given)
        assert found == pytest.approx(scales(layers, draw), rel=0.15)


def test_taps_per_output_and_the_mean_square_of_tanh_are_exact(page):
    layers = page.evaluate("play.scales.layers(8)")
    for side, one in zip((1, 4, 8, 16, 32), layers, strict=True):
        stride, padding = (1, 0) if side == 1 else (2, 1)
        taps = F.conv_transpose2d(torch.ones(1, 1, side, side), torch.ones(1, 1, 4, 4), None, stride, padding)
        assert one["taps"] == pytest.approx(taps.mean().sqrt().item())
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    for variance in (0.01, 0.5, 4):
        expected = torch.trapezoid((x * variance**0.5).tanh() ** 2 * Normal(0, 1).log_prob(x).exp(), x).item()
        assert page.evaluate("(v) => play.scales.squashed(v)", variance) == pytest.approx(expected, rel=1e-6)


def test_rings_show_what_was_measured_only_where_it_was(page):
    values = [0.7, 0.7, 0.7, 0.7, 0.2]
    measured = {norm: {"default": values, "paper": values} for norm in ("with", "without")}
    box = shown(page, "scales", measured)
    rings = box.locator("circle[style*='fill: none'], circle[style*='fill:none']")
    assert rings.count() == 20
    box.get_by_label("base channels").fill("4")
    assert rings.count() == 0
    before = box.locator("output.plot-says").inner_text()
    box.get_by_label("gain of batch norm").fill("0.02")
    assert box.locator("output.plot-says").inner_text() != before


# --- details of chapter 7: the distance and the number of samples -----------------------------------------


@pytest.mark.parametrize(("features", "count"), [(2, 20), (5, 60), (32, 100)])
def test_the_frechet_distance_is_the_chapters(page, features, count):
    (frechet,) = from_chapter("07_measuring_gans", "frechet")
    rng = torch.Generator().manual_seed(features)
    real = torch.randn(count, features, generator=rng, dtype=torch.float64)
    fake = 0.3 + real.roll(1, 0) @ torch.randn(features, features, generator=rng, dtype=torch.float64)
    found = page.evaluate("([a, b]) => play.bias.frechet(a, b)", [real.tolist(), fake.tolist()])
    assert found == pytest.approx(frechet(real, fake).item(), rel=1e-6, abs=1e-6)


def test_eigenvalues_are_numpys(page):
    values = np.random.default_rng(0).normal(size=(9, 9))
    symmetric = values @ values.T
    found = page.evaluate("(S) => play.bias.eigenvalues(S)", symmetric.tolist())
    assert sorted(found) == pytest.approx(np.linalg.eigvalsh(symmetric), rel=1e-9)


@pytest.mark.parametrize("features", [2, 16])
def test_the_bias_is_what_many_draws_show(page, features):
    rng = torch.Generator().manual_seed(0)
    sets = torch.randn(60, 2, 400, features, generator=rng, dtype=torch.float64)
    (frechet,) = from_chapter("07_measuring_gans", "frechet")
    shown_by = np.mean([frechet(*pair).item() for pair in sets])
    expected = page.evaluate("(size) => play.bias.expected(size, 400)", features)
    assert expected == pytest.approx(shown_by, rel=0.12)
    drawn = page.evaluate(
        """(size) => {
             const next = play.makeRandom(1).normal;
             return Array.from({ length: 30 }, () => play.bias.drawn(size, 400, 1, next));
           }""",
        features,
    )
    assert np.mean(drawn) == pytest.approx(1 + shown_by, abs=0.12)


def test_a_line_through_points_meets_0_where_numpys_does(page):
    points = [[0.01, 5.2], [0.005, 2.4], [0.0025, 1.4], [0.0025, 1.1]]
    slope, at0 = np.polyfit(*np.array(points).T, 1)
    found = page.evaluate("(points) => play.bias.fit(points)", points)
    assert found == pytest.approx({"at0": at0, "slope": slope})


def test_the_bias_figure_begins_with_what_was_measured_and_draws_when_asked(page):
    measured = {str(count): [260 / count, 250 / count] for count in (100, 200, 400, 800, 1600)}
    box = shown(page, "bias", measured)
    assert box.locator("circle").count() == 10 + 1
    assert "line through the measured dots" in box.inner_text()
    box.get_by_label("numbers from a normal distribution").check()
    assert box.locator("circle").count() == 0
    assert "line through the measured dots" not in box.inner_text()
    before = box.locator("svg path").count()
    box.get_by_role("button", name="Draw both sets").press("Enter")
    assert box.locator("circle").count() == 5 + 1
    assert box.locator("svg path").count() == before + 2  # in the chart and in its legend
    box.get_by_role("slider", name="features").fill("5")
    assert box.locator("circle").count() == 0
    assert "With 32 features, 100 samples add 6 on average" in box.inner_text()


# --- details of chapter 4: one image and its batch mates --------------------------------------------------


@pytest.mark.parametrize(
    ("contrast", "brightness", "count"), [(1, 0, 31), (3, 0, 7), (0.5, 0.4, 15), (1, 0, 0)]
)
def test_batch_norm_from_two_sums_is_pytorchs(page, contrast, brightness, count):
    rng = torch.Generator().manual_seed(0)
    image, mates = (torch.rand(n, 1, 6, 6, generator=rng, dtype=torch.float64) * 2 - 1 for n in (1, 31))
    if count:
        mates = mates[:count]
    found = page.evaluate(
        """({image, mates, contrast, brightness, count}) => {
             const { sums, changed, statistics, normalise } = play.mates;
             return normalise(image, statistics(image, changed(sums(mates), contrast, brightness), count));
           }""",
        {
            "image": image.flatten().tolist(),
            "mates": mates.flatten().tolist(),
            "contrast": contrast,
            "brightness": brightness,
            "count": count,
        },
    )
    batch = torch.cat([image, contrast * mates + brightness]) if count else image
    expected = nn.BatchNorm2d(1).double()(batch)[0].flatten().detach()
    assert found == pytest.approx(expected.tolist(), abs=1e-9)


def test_strong_mates_fade_the_image(page):
    image = [-1.0] * 30 + [1.0] * 6
    box = shown(page, "mates", {"image": image, "mates": {"ones": [-0.8, 0.9], "zeros": [-0.6, 0.8]}})
    after = box.locator("canvas").nth(1)
    shades = (
        "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, 6, 6).data].filter((_, k) => k % 4 === 0)"
    )
    first = after.evaluate(shades)
    box.get_by_label("their contrast").fill("3")
    faded = after.evaluate(shades)
    assert max(faded) - min(faded) < (max(first) - min(first)) / 2
    box.get_by_label("zeros").check()
    assert after.get_attribute("aria-label").startswith("after batch norm: values from")
