"""Generators in a browser: Chromium draws what PyTorch draws, from the same weights, latents and seeds."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from browser import require
from flat import spread
from PIL import Image
from torch.nn.utils import parametrize

from dcganlib import cli, datasets, latents, models, runs, zoo
from dcganlib.config import DataConfig, ModelConfig, RunConfig, SampleConfig, TrainConfig
from dcganlib.layers import Layer, Residual
from dcganlib.runtime import checkpoint
from dcganlib.viz import web

require()
from axe_playwright_python.sync_playwright import Axe  # noqa: E402

LEVEL = 2 / 255  # one of the 255 steps of a pixel, of an image from -1 to 1


@pytest.fixture(scope="module")
def tab(blank):
    blank.add_script_tag(path=web.FOLDER / "generator.js")
    return blank


@pytest.fixture(scope="module")
def browser_draws(tab):
    """Images that the browser draws with a packed generator: ``browser_draws(generator, z, labels)``."""

    def drawn(generator, z, labels=None):
        tab.add_script_tag(content=web.pack(generator, "tested"))
        images = tab.evaluate(
            """async ([z, labels]) => {
                 const generator = await dcgan.load(dcgan.packed.tested);
                 const images = JSON.parse(z).map((one, i) => generator.draw(one, labels ? labels[i] : 0));
                 return JSON.stringify(images.map((image) => [...image]));
               }""",
            [json.dumps(z.tolist()), None if labels is None else labels.tolist()],
        )
        return torch.tensor(json.loads(images)).reshape(
            len(z), generator.channels, *2 * [generator.image_size]
        )

    return drawn


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_a_browser_draws_what_torch_draws_from_the_same_weights(name, browser_draws, rng):
    size = {"image_size": 16} if zoo.ARCHITECTURES[name].any_size else {}
    classes = {"num_classes": 3} if zoo.ARCHITECTURES[name].num_classes else {}
    generator, _ = zoo.build(name, base_channels=2, latent_dim=8, rng=rng(), **size, **classes)
    spread(generator, rng(1))
    z = latents.sample_z(3, 8, rng=rng(2))
    labels = torch.tensor([2, 0, 1]) if classes else None
    expected = models.generate(generator, z, labels)
    assert expected.std() > 0.03
    found = browser_draws(generator, z, labels)
    assert (found - expected).abs().max() < 0.01 * LEVEL


@pytest.mark.parametrize("size", [16, 17, 21, 24])
@pytest.mark.parametrize("name", ["dcgan", "resnet"])
def test_classes_and_other_sizes_reach_the_browser(name, size, browser_draws, rng):
    """A residual block as wide as its input with the classes has no convolution of its own for them."""
    generator, _ = zoo.build(name, base_channels=4, latent_dim=8, image_size=size, num_classes=2, rng=rng())
    spread(generator, rng(1))
    z, labels = latents.sample_z(2, 8, rng=rng(2)), torch.tensor([1, 0])
    expected = models.generate(generator, z, labels)
    assert (expected - models.generate(generator, z, 1 - labels)).abs().max() > LEVEL
    assert (browser_draws(generator, z, labels) - expected).abs().max() < 0.01 * LEVEL


@pytest.mark.parametrize("norm", [None, "batch", "batch1d", "spectral"])
@pytest.mark.parametrize("bias", [False, True])
def test_every_kind_of_layer_reaches_the_browser(norm, bias, browser_draws, rng):
    layers = [
        Layer(3, kernel=3, stride=3, padding=0, output_padding=2, norm=norm, bias=bias),
        Layer(5, kernel=5, stride=1, padding=2, norm=norm, bias=bias, activation="leaky_relu", slope=0.3),
        Residual(3, stride=2, output_padding=1),
        Residual(3),
        Layer(1, kernel=7, stride=2, padding=3, norm=norm, affine=False, bias=bias, activation=None),
    ]
    generator = models.Generator(19, 1, latent_dim=6, layers=layers)
    spread(models.init_weights(generator, rng()), rng(1))
    z = latents.sample_z(2, 6, rng=rng(2))
    found = browser_draws(generator, z)
    for block in generator.blocks:
        if parametrize.is_parametrized(block[0]):  # what is rounded to 16 bits is the divided weight
            parametrize.remove_parametrizations(block[0], "weight")
            block[0].weight.data = block[0].weight.data.half().float()
    expected = models.generate(generator, z)
    scale = expected.abs().max()
    assert expected.std() > 0.01 * scale
    assert (found - expected).abs().max() < 1e-5 * scale


def test_an_identity_that_passes_classes_on_reaches_the_browser(browser_draws, rng):
    layers = [Layer(3, kernel=4, stride=1, padding=0), Residual(5), Layer(1, activation="tanh", norm=None)]
    generator = models.Generator(8, 1, latent_dim=6, num_classes=2, layers=layers)
    assert isinstance(generator.blocks[1][0].skip, torch.nn.Identity)
    spread(models.init_weights(generator, rng()), rng(1))
    z, labels = latents.sample_z(2, 6, rng=rng(2)), torch.tensor([0, 1])
    expected = models.generate(generator, z, labels)
    assert (browser_draws(generator, z, labels) - expected).abs().max() < 0.01 * LEVEL


def test_weights_of_any_scale_keep_the_precision_of_16_bits(browser_draws, rng):
    """Half precision alone ends at 65,504, and below 0.00006 it loses digits."""
    images = []
    for scale in (1.0, 1e-7, 1e7):
        layers = [Layer(2, kernel=4, stride=1, padding=0), Layer(1, norm=None, activation="tanh")]
        generator = spread(models.Generator(8, 1, latent_dim=6, layers=layers), rng(1))
        generator.blocks[0][0].weight.data *= scale
        norm = generator.blocks[0][1]
        norm.eps *= scale**2
        norm.running_mean *= scale
        norm.running_var *= scale**2
        z = latents.sample_z(2, 6, rng=rng(2))
        found = browser_draws(generator, z)
        assert (found - models.generate(generator, z)).abs().max() < 0.5 * LEVEL
        images.append(found)
    assert (images[0] - images[1]).abs().max() < 0.5 * LEVEL
    assert (images[0] - images[2]).abs().max() < 0.5 * LEVEL


def test_weights_in_full_precision_are_rounded_to_half(browser_draws, rng, tiny_pair):
    """The error of a pixel stays below one of its 255 steps, and is no rounding of the arithmetic."""
    generator = spread(tiny_pair()[0], rng(1), half=False)
    z = latents.sample_z(8, 8, rng=rng(2))
    difference = (browser_draws(generator, z) - models.generate(generator, z)).abs().max()
    assert 1e-6 < difference < LEVEL


def test_bytes_become_text_and_bytes_again(tab, rng):
    for length in (*range(20), 5000):
        content = bytes(torch.randint(256, (length,), generator=rng(length)).tolist())
        text = web.to_text(content)
        assert not re.search(r'[\0\t\n\r"&<\\]', text)
        assert (
            bytes(tab.evaluate("([text, length]) => [...dcgan.decode(text, length)]", [text, length]))
            == content
        )
    assert 8 / 7 <= len(text.encode()) / 5000 < 1.01 * 8 / 7
    for content in (bytes(700), bytes(range(256)) * 7, b"\x12\x24\x48\x91" * 50):
        found = tab.evaluate(
            "([text, length]) => [...dcgan.decode(text, length)]", [web.to_text(content), len(content)]
        )
        assert bytes(found) == content


@pytest.mark.parametrize("prior", ["normal", "uniform"])
@pytest.mark.parametrize(("n", "dim"), [(64, 100), (1, 100), (3, 7), (2, 8)])
def test_a_seed_gives_the_latents_of_torch(tab, prior, n, dim):
    for seed in (0, 4, 2**32 - 1):
        expected = latents.sample_z(n, dim, prior=prior, rng=torch.Generator().manual_seed(seed))
        found = tab.evaluate(
            "(given) => JSON.stringify(dcgan.sampleZ(...given).map((z) => [...z]))", [seed, n, dim, prior]
        )
        torch.testing.assert_close(torch.tensor(json.loads(found)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_to_uint8(tab, channels, rng):
    images = torch.empty(1, channels, 16, 16).uniform_(-1.1, 1.1, generator=rng())
    images.view(-1)[:3] = torch.tensor([-1.0, 0.0, 1.0])
    found = tab.evaluate(
        "([image, about]) => [...dcgan.toPixels(image, about).data]",
        [images.flatten().tolist(), {"imageSize": 16, "channels": channels}],
    )
    pixels = torch.tensor(found, dtype=torch.uint8).reshape(16, 16, 4).permute(2, 0, 1)
    assert (pixels[3] == 255).all()
    assert torch.equal(pixels[:3], datasets.to_uint8(images)[0].expand(3, -1, -1))


@pytest.mark.parametrize("way", ["lerp", "slerp"])
def test_walks_are_those_of_the_library(tab, way, rng):
    a, b = latents.sample_z(2, 100, rng=rng())
    for t in (0.0, 0.3, 1.0):
        found = tab.evaluate("([way, a, b, t]) => dcgan[way](a, b, t)", [way, a.tolist(), b.tolist(), t])
        torch.testing.assert_close(torch.tensor(found), getattr(latents, way)(a, b, t))


def test_a_walk_to_itself_stays_where_it_is(tab):
    assert tab.evaluate("dcgan.slerp([1, 2], [1, 2], 0.5)") == [1, 2]


def test_the_strongest_directions_are_those_along_which_images_change_most(tiny_pair, rng):
    """Against exact Jacobians at the same points."""
    generator = spread(tiny_pair()[0], rng(1)).requires_grad_(False)
    ways = web.strongest_directions(generator, count=8)
    torch.testing.assert_close(ways @ ways.T, torch.eye(8), rtol=0, atol=1e-4)
    total, brighter = torch.zeros(8, 8), torch.zeros(8)
    for point in latents.sample_z(web.POINTS, 8, rng=rng(0)):
        jacobian = torch.autograd.functional.jacobian(lambda z: generator(z[None]).flatten(), point).T
        total += jacobian @ jacobian.T
        brighter += jacobian.mean(dim=1)
    strengths = torch.stack([way @ total @ way for way in ways])
    torch.testing.assert_close(strengths, torch.linalg.eigvalsh(total).flip(0), rtol=0.1, atol=0.02)
    assert (strengths[:-1] > 0.9 * strengths[1:]).all()
    assert (ways[0] @ brighter) > 0


def test_no_name_ends_the_script_that_it_stands_in(tab, tiny_pair):
    name, classes = "<!--<script>'\"\\é\u2028", ("</script>", "\n")
    script = web.pack(tiny_pair(num_classes=2)[0], name, classes=classes)
    assert "<" not in script
    tab.add_script_tag(content=script)
    assert tab.evaluate("(name) => dcgan.packed[name].classes", name) == list(classes)


def test_a_generator_whose_training_diverged_is_refused(tiny_pair):
    generator, _ = tiny_pair()
    generator.blocks[1][0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not all finite"):
        web.pack(generator, "broken")


def test_a_generator_too_large_for_a_page_is_refused_before_the_work(monkeypatch, tiny_pair):
    generator, _ = tiny_pair()
    count = models.count_parameters(generator)
    monkeypatch.setattr(web, "MOST_WEIGHTS", count)
    assert "weights" in web.pack(generator, "just")
    monkeypatch.setattr(web, "MOST_WEIGHTS", count - 1)
    monkeypatch.setattr(web, "_describe", lambda *given: pytest.fail("it packs first"))
    with pytest.raises(ValueError, match=f"has {count:,} weights, a web page can hold {count - 1:,}"):
        web.pack(generator, "wide")


# One page


@pytest.fixture(scope="module")
def trained(image_folder, tmp_path_factory):
    """A run of two classes whose generator has weights of some contrast."""
    images = tmp_path_factory.mktemp("classes")
    for index, path in enumerate(sorted(image_folder.glob("*.png"))):
        folder = images / ("dög", "cat")[index % 2]
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    out = tmp_path_factory.mktemp("web") / "cats & dogs"
    config = RunConfig(
        DataConfig(str(images), image_size=16, channels=1),
        ModelConfig(base_channels=4, conditional=True),
        TrainConfig(batch_size=4, prior="uniform"),
        steps=1,
    )
    runs.run(config, out, device="cpu")
    generator = spread(runs.read(out).generator, torch.Generator().manual_seed(1))
    checkpoint.save_generator(out / "generator.safetensors", generator)
    return out


@pytest.fixture(scope="module")
def opened(chromium, trained):
    """The page of the run, opened from its file without a network."""
    path = runs.save_web_page(trained, trained.parent / "page.html")
    context = chromium.new_context(offline=True, viewport={"width": 320, "height": 800})
    page = context.new_page()
    failures = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("request", lambda request: failures.append(request.url) if request.url[:4] == "http" else None)
    page.goto(path.as_uri())
    settle(page)
    yield page
    assert failures == []
    context.close()


def settle(page):
    """Wait until the grid and the large image are drawn."""
    page.wait_for_selector(".dcgan-view")
    page.wait_for_function("!document.querySelector('#view').hasAttribute('aria-busy')")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixels(page, which):
    """The pixels of a canvas of the page, as an array of grey values."""
    words = "(canvas) => JSON.stringify([canvas.width, canvas.height, [...canvas.getContext('2d')"
    words += ".getImageData(0, 0, canvas.width, canvas.height).data]])"
    width, height, values = json.loads(page.locator(which).evaluate(words))
    return np.array(values).reshape(height, width, 4)[..., 0]


def test_the_page_draws_what_sample_draws_of_the_same_seed(opened, trained):
    for seed, label in ((0, None), (7, "cat")):
        opened.get_by_role("spinbutton", name="Seed").fill(str(seed))
        opened.get_by_role("spinbutton", name="Seed").press("Enter")
        opened.get_by_role("combobox", name="Class").select_option(label or "each in turn")
        settle(opened)
        expected = np.asarray(runs.sample(trained, SampleConfig(64, seed=seed, label=label)))
        assert expected.std() > 10
        assert np.abs(pixels(opened, ".dcgan-pick canvas") - expected).max() <= 1


def test_an_image_of_the_grid_is_shown_large_and_changes_with_the_sliders(opened, trained):
    opened.get_by_role("spinbutton", name="Seed").fill("3")
    opened.get_by_role("combobox", name="Class").select_option("dög")
    settle(opened)
    grid = opened.locator(".dcgan-pick canvas")
    box = grid.bounding_box()
    grid.click(position={"x": box["width"] * 2.5 / 8, "y": box["height"] * 1.5 / 8})
    settle(opened)
    large = ".dcgan-view > div:last-child canvas"
    z = latents.sample_z(64, 100, prior="uniform", rng=torch.Generator().manual_seed(3))
    generator, labels = runs.read(trained).generator, torch.tensor([1])
    assert runs.read_config(trained).class_names == ("cat", "dög")
    assert opened.get_by_text("Image 11 of seed 3, class dög").is_visible()

    def off(latent):
        expected = datasets.to_uint8(models.generate(generator, latent[None], labels))[0, 0].numpy()
        return np.abs(pixels(opened, large) - expected.astype(int)).max()

    assert off(z[10]) <= 1
    slider = opened.get_by_role("slider", name="Direction 2")
    slider.focus()
    for _ in range(20):
        slider.press("ArrowRight")
    settle(opened)
    moved = z[10] + 2.0 * web.strongest_directions(generator, "uniform")[1]
    moved *= z[10].norm() / moved.norm()
    assert off(moved) <= 1 < off(z[10])
    opened.get_by_role("button", name="Reset").click()
    opened.get_by_role("spinbutton", name="to image").fill("5")
    opened.get_by_role("spinbutton", name="to image").press("Enter")
    walk = opened.get_by_role("slider", name="Walk")
    walk.fill("0.25")
    settle(opened)
    assert off(latents.slerp(z[10], z[4], 0.25)) <= 1 < off(z[10])
    opened.get_by_role("button", name="Reset").click()


def test_images_are_saved_as_png(opened, tmp_path):
    opened.get_by_role("spinbutton", name="Seed").fill("0")
    opened.get_by_role("combobox", name="Class").select_option("each in turn")
    settle(opened)
    for button, name in (("Save grid", "cats & dogs-seed0.png"), ("Save image", "cats & dogs-seed0-")):
        with opened.expect_download() as waiting:
            opened.get_by_role("button", name=button).click()
        assert waiting.value.suggested_filename.startswith(name)
        waiting.value.save_as(tmp_path / "saved.png")
        with Image.open(tmp_path / "saved.png") as picture:
            saved = np.asarray(picture.convert("L"))
        if button == "Save grid":
            np.testing.assert_array_equal(saved, pixels(opened, ".dcgan-pick canvas"))
        else:
            large = pixels(opened, ".dcgan-view > div:last-child canvas")
            np.testing.assert_array_equal(saved, large.repeat(32, 0).repeat(32, 1))


def test_the_page_fits_a_phone_and_passes_the_accessibility_rules(opened):
    assert opened.evaluate("document.documentElement.scrollWidth") == 320
    for selector in ("button", "input", "select"):
        for one in opened.locator(selector).all():
            assert one.bounding_box()["height"] >= 24
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        found = Axe().run(opened).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_the_file_is_as_long_as_the_weights_in_half_precision(tmp_path):
    path = runs.save_web_page("fashion-mnist", tmp_path / "clothes.html")
    weights = sum(values.numel() for values in runs.read("fashion-mnist").ema_generator.state_dict().values())
    assert 1.5 * weights < path.stat().st_size < 2 * weights + 100_000
    text = path.read_text(encoding="utf-8")
    assert text.isascii() is False  # as UTF-8 it has to be read
    assert text.startswith("<!doctype html>")
    assert "http" not in text.split("dcgan.packed[")[0]


def test_the_best_weights_draw_if_asked_for(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    best = spread(runs.read(folder).generator, torch.Generator().manual_seed(9))
    checkpoint.save_generator(folder / "best.safetensors", best)
    for chosen, generator in ((True, best), (False, runs.read(trained).generator)):
        path = runs.save_web_page(folder, tmp_path / "a.html", best=chosen)
        script = web.pack(generator, "run", prior="uniform", classes=("cat", "dög"))
        assert script in path.read_text(encoding="utf-8")


def test_only_a_page_of_our_own_is_one(trained, tmp_path):
    path = runs.save_web_page(trained, tmp_path / "a.html")
    assert web.is_page(path)
    path.write_text("<!doctype html><title>mine</title>", encoding="utf-8")
    assert not web.is_page(path)
    assert not web.is_page(tmp_path)


def test_a_page_is_written_anew_but_nothing_else_is_replaced(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["web", str(trained)]) == 0
    assert "wrote cats & dogs.html, 0." in capsys.readouterr().out
    assert cli.main(["web", str(trained)]) == 0
    (tmp_path / "mine.html").write_text("mine", encoding="utf-8")
    assert cli.main(["web", str(trained), "--out", "mine.html"]) == 2
    assert (tmp_path / "mine.html").read_text(encoding="utf-8") == "mine"
    assert cli.main(["web", str(trained), "--out", "mine.html", "--force"]) == 0
    assert web.is_page(tmp_path / "mine.html")
