"""The GAN that trains in the page, in a browser, against PyTorch and the chapters' own code."""

import json
import math
import re
from types import SimpleNamespace

import browser
import chapters
import pytest
import torch
from torch import nn

from dcganlib import losses, train
from dcganlib.evaluation import metrics

browser.require()
import axe_playwright_python  # noqa: E402

THEORY = chapters.BOOK / "01_gan_theory.md"
AXE = browser.Path(axe_playwright_python.__file__).parent / "axe.min.js"
RANDOM, ENGINE, VIEW = (browser.STATIC / f"play/{name}.js" for name in ("random", "gan2d_engine", "gan2d"))
G_LOSSES = {"non-saturating": losses.generator_loss, "minimax": losses.minimax_generator_loss}


@pytest.fixture(scope="module")
def chapter():
    """What the chapter defines: its networks, its optimiser, the modes of its ring and how it counts them."""
    names = {"math": math, "torch": torch, "nn": nn}
    for cell in chapters.code_cells(chapters.from_source(THEORY)):
        if re.search(r"^(CENTRES =|def (mlp|adam|survey)\b)", cell.source, re.M):
            exec(cell.source, names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def page(blank):
    blank.add_script_tag(path=RANDOM)
    blank.add_script_tag(path=ENGINE)
    blank.add_script_tag(path=VIEW)
    return blank


@pytest.fixture(scope="module")
def js(page):
    """Evaluate JavaScript with the engine as `e`."""
    return lambda code, *args: page.evaluate(f"(args) => {{ const e = play.gan2d; {code} }}", args)


PLAIN = "const plain = (array) => Array.from(array);"
GAME = f"""
  {PLAIN}
  const [seed, settings] = args;
  const game = e.makeGame(e.DATA.ring, seed, settings);
  const both = (what) => [game.generator, game.discriminator].map((network) => plain(network[what]));
"""


def pair(chapter, weights, dtype):
    """The chapter's G and D with given weights, each a flat list."""
    networks = chapter.mlp(2, 2).to(dtype), chapter.mlp(2, 1).to(dtype)
    for network, values in zip(networks, weights, strict=True):
        nn.utils.vector_to_parameters(torch.tensor(values, dtype=dtype), network.parameters())
    return networks


def points(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).view(-1, 2)


@pytest.mark.parametrize("g_loss", G_LOSSES)
def test_the_gradients_of_one_step_are_those_of_pytorch(js, chapter, g_loss):
    found = js(
        GAME + "const before = both('parameters'); e.step(game);"
        "return {before, real: plain(game.real), z: plain(game.z), gradients: both('gradient'),"
        "        losses: [game.dLoss, game.gLoss]};",
        3,
        {"gLoss": g_loss},
    )
    g, d = pair(chapter, found["before"], torch.float32)
    fake = g(points(found["z"], torch.float32))
    d_loss, *_ = train.discriminator_step(
        d, chapter.adam(d, 2e-3), points(found["real"], torch.float32), fake
    )
    d_gradient = nn.utils.parameters_to_vector([p.grad for p in d.parameters()])
    g_loss = train.generator_step(d, chapter.adam(g, 1e-3), fake, loss=G_LOSSES[g_loss])
    g_gradient = nn.utils.parameters_to_vector([p.grad for p in g.parameters()])
    for own, theirs in zip(found["gradients"], (g_gradient, d_gradient), strict=True):
        assert theirs.abs().max() > 0.01
        torch.testing.assert_close(torch.tensor(own), theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found["losses"]), torch.stack([d_loss, g_loss.detach()]))


@pytest.mark.parametrize("g_optimizer", ["Adam", "plain"])
def test_forty_steps_end_at_the_weights_at_which_pytorch_ends(js, chapter, g_optimizer):
    g_lr = {"Adam": 1e-3, "plain": 0.05}[g_optimizer]
    found = js(
        GAME + "const before = both('parameters'); const batches = [];"
        "for (let k = 0; k < 40; k++) { e.step(game); batches.push([plain(game.real), plain(game.z)]); }"
        "return {before, batches, after: both('parameters')};",
        5,
        {"gOptimizer": g_optimizer, "gLr": g_lr},
    )
    g, d = pair(chapter, found["before"], torch.float64)
    g_optimizer = chapter.adam(g, g_lr) if g_optimizer == "Adam" else torch.optim.SGD(g.parameters(), g_lr)
    d_optimizer = chapter.adam(d, 2e-3)
    for real, z in found["batches"]:
        fake = g(points(z))
        d_optimizer.zero_grad()
        losses.discriminator_loss(d(points(real)), d(fake.detach())).backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        losses.generator_loss(d(fake)).backward()
        g_optimizer.step()
    for own, before, network in zip(found["after"], found["before"], (g, d), strict=True):
        theirs = nn.utils.parameters_to_vector(network.parameters()).detach()
        own, before = (torch.tensor(values, dtype=torch.float64) for values in (own, before))
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-9)
        assert (own - before).abs().max() > 0.01


def test_a_step_updates_each_player_as_often_as_it_says(js):
    ratios = [(1, 1), (5, 1), (1, 10), (1, 0), (0, 1)]
    for d_steps, g_steps in ratios:
        updates = js(
            GAME + "e.step(game); e.step(game); return [game.discriminator.updates, game.generator.updates];",
            0,
            {"dSteps": d_steps, "gSteps": g_steps},
        )
        assert updates == [2 * d_steps, 2 * g_steps]


def test_the_ring_is_learned_as_the_chapter_says(js):
    """8 modes at step 1,500, and as many samples near one as in the chapter's stored run."""
    cells = chapters.code_cells(chapters.stored(THEORY))
    told = re.findall(
        r"(\d) modes covered, (\d+)% of the samples near one", "".join(map(chapters.printed, cells))
    )
    (first_modes, first_near), (last_modes, last_near) = [
        (int(modes), int(near) / 100) for modes, near in told
    ]
    code = """
      const z = new Float64Array(2000), out = new Float64Array(2000), random = play.makeRandom(args[0], 9);
      for (let i = 0; i < 2000; i++) z[i] = random.normal();
      const game = e.makeGame(e.DATA.ring, args[0]);
      return [1, 1500].map((stop) => {
        while (game.steps < stop) e.step(game);
        e.sample(game.generator, z, out);
        const { covered, near } = e.survey(out, game.data.modes);
        return [covered.filter(Boolean).length, near];
      });"""
    (modes, near), end = js(code, 0)
    assert modes <= first_modes + 1
    assert near < first_near + 0.2
    assert end[0] == last_modes == 8
    assert end[1] == pytest.approx(last_near, abs=0.08)


def test_modes_are_counted_as_in_the_chapter(js, chapter):
    rng = torch.Generator().manual_seed(0)
    for spread in (0.1, 0.5, 1.5):
        mode = torch.randint(5, (1000,), generator=rng)  # three modes are left out
        samples = chapter.CENTRES.double()[mode] + spread * torch.randn(1000, 2, generator=rng).double()
        code = "const {covered, near} = e.survey(Float64Array.from(args[0]), e.DATA.ring.modes);"
        covered, near = js(code + "return [covered.filter(Boolean).length, near]", samples.flatten().tolist())
        assert (covered, near) == pytest.approx(chapter.survey(samples.float()))


def test_precision_and_recall_are_those_of_the_library(js):
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(300, 2, generator=rng).double()
    for scale, shift in ((1, 0), (0.2, 1), (4, 0)):
        fake = scale * torch.randn(200, 2, generator=rng).double() + shift
        code = "const found = e.precisionRecall(...args.map((flat) => Float64Array.from(flat)));"
        code += "return [found.precision, found.recall];"
        found = js(code, real.flatten().tolist(), fake.flatten().tolist())
        expected = metrics.precision_recall(real, fake)
        assert found == pytest.approx(expected, abs=1e-12)
        assert min(expected) < 0.99


def test_the_surface_is_d_at_the_middles_of_the_cells_from_the_top(js, chapter):
    weights, surface = js(
        GAME + "const out = new Float64Array(36); e.surface(game.discriminator, 6, 3, out);"
        "return [both('parameters'), plain(out)];",
        2,
        {},
    )
    _, d = pair(chapter, weights, torch.float64)
    middles = torch.linspace(-2.5, 2.5, 6, dtype=torch.float64)
    y, x = torch.meshgrid(-middles, middles, indexing="ij")
    expected = d(torch.stack([x, y], dim=2).view(-1, 2)).sigmoid().flatten()
    torch.testing.assert_close(torch.tensor(surface, dtype=torch.float64), expected.detach())
    assert expected.max() - expected.min() > 0.01


def test_numbers_are_random_as_they_should_be_and_follow_from_the_seed(js):
    code = (
        PLAIN
        + """
      const draw = (...seed) => { const random = play.makeRandom(...seed);
        return [Array.from({length: 20000}, random.normal), Array.from({length: 20000}, random.uniform)]; };
      return args.map((seed) => draw(...seed));"""
    )
    (normal, uniform), again, other, stream = js(code, [1, 0], [1, 0], [2, 0], [1, 1])
    assert again == [normal, uniform]
    normal, uniform = torch.tensor(normal), torch.tensor(uniform)
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert normal.pow(power).mean() == pytest.approx(moment, abs=0.15)
    assert 0 <= uniform.min() < 0.001 < 0.999 < uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    for unrelated in (other, stream):
        assert abs(torch.corrcoef(torch.stack([normal, torch.tensor(unrelated[0])]))[0, 1]) < 0.03


def test_first_weights_are_drawn_as_by_pytorch(js):
    generator, _ = js(GAME + "return both('parameters');", 0, {})
    theirs = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    parts = torch.tensor(generator).split([p.numel() for p in theirs.parameters()])
    for own, expected in zip(parts, theirs.parameters(), strict=True):
        limit = 0.5**0.5 if expected.shape in ((64, 2),) or own is parts[1] else 1 / 8
        assert own.abs().max() <= limit
        if own.numel() >= 64:
            assert own.abs().max() > 0.9 * limit
            assert own.std() == pytest.approx(limit / 3**0.5, rel=0.2)


def test_the_ring_is_drawn_as_in_the_chapter(js, chapter):
    code = (
        PLAIN
        + """const random = play.makeRandom(0), out = new Float64Array(16000);
      for (let i = 0; i < out.length; i += 2) e.DATA.ring.draw(random, out, i); return plain(out);"""
    )
    drawn = points(js(code))
    distances, mode = torch.cdist(drawn, chapter.CENTRES.double()).min(dim=1)
    torch.testing.assert_close(mode.bincount(minlength=8) / 8000, torch.full((8,), 1 / 8), rtol=0, atol=0.015)
    away = drawn - chapter.CENTRES.double()[mode]
    assert away.std(dim=0).tolist() == pytest.approx([0.2, 0.2], abs=0.01)
    assert distances.median() == pytest.approx(0.2 * (2 * math.log(2)) ** 0.5, abs=0.01)


# The figure


@pytest.fixture
def figure(page):
    """Put a figure into the page; returns it and how to read its state."""

    def put(preset="ring"):
        page.evaluate(
            """async (preset) => { document.documentElement.lang = "en"; document.title = "figure";
              const box = document.createElement("div"); box.className = "play-box play-gan2d";
              document.body.replaceChildren(box); await play.made.gan2d(box, {preset}); }""",
            preset,
        )
        return page.locator(".play-gan2d")

    return put


def steps(page):
    return page.evaluate("document.querySelector('.play-gan2d').gan2d.game().steps")


def test_nothing_moves_before_play_and_everything_rests_after_pause(page, figure):
    box = figure()
    page.wait_for_timeout(100)
    assert steps(page) == 0
    box.get_by_role("button", name="Play").press("Enter")
    page.wait_for_function("document.querySelector('.play-gan2d').gan2d.game().steps > 3")
    box.get_by_role("button", name="Pause").press("Enter")
    at = steps(page)
    page.wait_for_timeout(150)
    assert steps(page) == at
    assert box.locator("[aria-live]").inner_text().startswith(f"Step {at}: loss of D 0.")


def test_a_seed_gives_the_same_game_and_another_seed_another(page, figure):
    def weights(seed, count=3):
        box.get_by_label("Seed").fill(str(seed))
        box.get_by_label("Seed").press("Tab")
        box.get_by_role("button", name="Reset").click()
        for _ in range(count):
            box.get_by_role("button", name="Step").click()
        assert steps(page) == count
        return page.evaluate(
            "Array.from(document.querySelector('.play-gan2d').gan2d.game().generator.parameters)"
        )

    box = figure()
    first = weights(1)
    assert weights(2) != first
    assert weights(1) == first


def test_controls_reach_the_game(page, figure):
    box = figure()
    box.get_by_role("combobox", name="Loss of G").select_option("minimax")
    box.get_by_role("combobox", name="Updates in a step").select_option("1:10")
    box.get_by_role("slider", name="Learning rate of D").press("ArrowRight")
    settings = page.evaluate("document.querySelector('.play-gan2d').gan2d.game().settings")
    learning = {"gOptimizer": "Adam", "dLr": 0.005, "gLr": 0.001}
    assert settings == {"gLoss": "minimax", **learning, "dSteps": 1, "gSteps": 10}
    assert box.get_by_role("combobox", name="Set-up").input_value() == "own"
    box.get_by_role("combobox", name="Set-up").select_option("ring")
    settings = page.evaluate("document.querySelector('.play-gan2d').gan2d.game().settings")
    assert settings == page.evaluate("play.gan2d.SETTINGS")


def test_the_preset_of_the_chapter_on_measures_shows_precision_and_recall_of_a_game_that_drops_modes(
    page, figure
):
    box = figure("measures")
    assert box.get_by_role("checkbox", name="Precision and recall").is_checked()
    game = "document.querySelector('.play-gan2d').gan2d"
    page.evaluate(f"for (let k = 0; k < 299; k++) play.gan2d.step({game}.game())")
    box.get_by_role("button", name="Step").click()
    found = page.evaluate(f"{game}.found()")
    assert found["step"] == 300
    assert found["modes"] <= 3
    assert found["recall"] < 0.35
    text = box.locator("dl").inner_text()
    assert f"{found['precision']:.2f}" in text
    assert "(real: 0.9" in text


def test_dots_are_drawn_by_the_pointer_and_by_the_keyboard(page, figure):
    page.set_viewport_size({"width": 500, "height": 900})  # so that the whole plane can be seen
    box = figure()
    box.get_by_role("combobox", name="Data").select_option("dots")
    play, undo = (box.get_by_role("button", name=name) for name in ("Play", "Undo"))
    assert play.is_disabled()
    box.get_by_label("x", exact=True).fill("1.5")
    box.get_by_role("button", name="Add a dot").press("Enter")
    assert play.is_enabled()
    plane = box.locator(".gan2d-plane")
    plane.scroll_into_view_if_needed()
    place = plane.bounding_box()
    x, y = place["x"] + place["width"] / 4, place["y"] + place["height"] / 4
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + place["width"] / 2, y, steps=10)
    page.mouse.up()
    drawn = points(
        page.evaluate(
            """() => { const {data} = document.querySelector('.play-gan2d').gan2d.game();
              const out = new Float64Array(400), random = play.makeRandom(0);
              for (let i = 0; i < 400; i += 2) data.draw(random, out, i);
              return Array.from(out); }"""
        )
    )
    by_hand = drawn[drawn[:, 1] > 1]
    assert 0 < len(drawn) - len(by_hand) < 100  # near (1.5, 0)
    assert by_hand[:, 1].mean() == pytest.approx(1.6, abs=0.1)
    assert by_hand[:, 0].min() < -1.2 < 1.2 < by_hand[:, 0].max()
    box.get_by_role("button", name="Step").click()
    assert steps(page) == 1
    box.get_by_role("button", name="Clear").click()
    assert play.is_disabled()
    assert undo.is_disabled()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_the_figure_is_accessible_and_fits(page, figure, width, theme):
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    box = figure("measures")
    box.get_by_role("combobox", name="Data").select_option("dots")
    inside = box.bounding_box()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for control in box.locator("button, select, input, canvas").all():
        place = control.bounding_box()
        assert place["x"] + place["width"] <= inside["x"] + inside["width"] + 1
    page.add_script_tag(path=AXE)
    rules = {
        "rules": {
            name: {"enabled": False} for name in ("landmark-one-main", "page-has-heading-one", "region")
        }
    }
    violations = page.evaluate(f"axe.run(document, {json.dumps(rules)}).then((result) => result.violations)")
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in violations] == []


def test_the_scripts_are_small():
    assert max(path.stat().st_size for path in (ENGINE, VIEW)) < 60_000
