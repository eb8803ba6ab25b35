"""Pictures, read back pixel by pixel and point by point."""

import io
import os
import subprocess
import sys
from types import SimpleNamespace

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from dcganlib import datasets
from dcganlib.datasets import to_float
from dcganlib.train import StepMetrics
from dcganlib.viz import plot
from dcganlib.viz.plot import animate, grid_image, live, plot_history, save_history, show_grid


def plain_images(*greys, size=(2, 3), channels=1):
    """One even image for each grey."""
    return torch.stack([torch.full((channels, *size), grey, dtype=torch.uint8) for grey in greys])


def records(count, seed=0):
    values = np.random.default_rng(seed).uniform(0, 1, (count, 4)).astype(np.float32)
    return [StepMetrics(step, 1, torch.from_numpy(row)) for step, row in enumerate(values, start=1)]


# Grids


def test_a_grid_places_every_pixel():
    images = torch.arange(5 * 6, dtype=torch.uint8).reshape(5, 1, 2, 3)
    sheet = np.asarray(grid_image(images, columns=3, gap=1))
    expected = np.full((5, 11), 128)
    expected[0:2, 0:3] = [[0, 1, 2], [3, 4, 5]]
    expected[0:2, 4:7] = [[6, 7, 8], [9, 10, 11]]
    expected[0:2, 8:11] = [[12, 13, 14], [15, 16, 17]]
    expected[3:5, 0:3] = [[18, 19, 20], [21, 22, 23]]
    expected[3:5, 4:7] = [[24, 25, 26], [27, 28, 29]]
    np.testing.assert_array_equal(sheet, expected)


def test_floats_and_bytes_give_the_same_grid():
    images = torch.arange(0, 240, 10, dtype=torch.uint8).reshape(4, 1, 2, 3)
    expected = np.asarray(grid_image(images))
    np.testing.assert_array_equal(grid_image(to_float(images)), expected)
    np.testing.assert_array_equal(grid_image(to_float(images).requires_grad_()), expected)


def test_colours_keep_their_order():
    image = torch.tensor([250, 100, 5], dtype=torch.uint8).reshape(1, 3, 1, 1)
    picture = grid_image(image)
    assert picture.mode == "RGB"
    assert picture.getpixel((0, 0)) == (250, 100, 5)
    assert grid_image(plain_images(7)).mode == "L"


@pytest.mark.parametrize(
    ("count", "columns", "size"), [(1, 8, (3, 2)), (8, 8, (38, 2)), (9, 8, (38, 6)), (3, 1, (3, 10))]
)
def test_a_grid_is_no_larger_than_its_images_need(count, columns, size):
    assert grid_image(plain_images(*range(count)), columns=columns).size == size


@pytest.mark.parametrize(
    ("images", "columns", "words"),
    [
        (torch.zeros(3, 2, 4, 4), 8, r"\(N, 1 or 3, H, W\).*\(3, 2, 4, 4\)"),
        (torch.zeros(1, 4, 4), 8, r"\(1, 4, 4\)"),
        (torch.zeros(0, 1, 4, 4), 8, "N of at least 1"),
        (torch.zeros(3, 1, 4, 4), 0, "columns must be at least 1, got 0"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.int64), 8, "int64"),
    ],
)
def test_what_is_no_grid_is_refused_by_name(images, columns, words):
    with pytest.raises(ValueError, match=words):
        grid_image(images, columns=columns)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            datasets.ImageDataset(plain_images(1), None, "a", "b", "c"),
            "got ImageDataset: pass the ImageDataset's .images",
        ),
        (datasets.make_loader(plain_images(1), 1), "got Loader: pass the Loader's .images"),
        (DataLoader(TensorDataset(plain_images(1))), "got DataLoader: pass one batch of it"),
        (plain_images(1).numpy(), "got ndarray: use torch.as_tensor"),
    ],
)
@pytest.mark.parametrize("use", [grid_image, show_grid, datasets.make_loader])
def test_what_is_no_tensor_is_refused_with_what_to_pass(use, images, words):
    with pytest.raises(ValueError, match=words):
        use(images)


def test_a_grid_does_not_depend_on_torchs_default_device():
    images = plain_images(9, 90)
    expected = np.asarray(grid_image(images))
    with torch.device("meta"):
        np.testing.assert_array_equal(grid_image(images), expected)


def test_show_grid_draws_the_grid_into_the_axes_it_gets():
    images = plain_images(20, 90, 100)
    _, ax = plt.subplots()
    assert show_grid(images, columns=2, ax=ax, title="three") is ax
    (shown,) = ax.images
    np.testing.assert_array_equal(shown.get_array(), np.asarray(grid_image(images, columns=2)))
    assert shown.get_clim() == (0, 255)  # a dark grid stays dark
    assert shown.get_cmap().name in ("gray", "grey")
    assert ax.get_title() == "three"
    assert not ax.axison
    assert len(plt.get_fignums()) == 1


def test_show_grid_makes_a_figure_of_its_own():
    ax = show_grid(plain_images(*range(16)), columns=4)
    assert ax.get_title() == ""
    assert plt.get_fignums() == [ax.figure.number]
    ax.figure.canvas.draw()


# Curves


def lines(ax):
    """Curves by the label in the legend."""
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def table(found, name):
    return np.array([getattr(record, name) for record in found])


@pytest.mark.parametrize("as_rows", [False, True])
def test_curves_are_the_records(as_rows):
    found = records(6)
    axes = plot_history([record.as_dict() for record in found] if as_rows else found)
    drawn = [lines(ax) for ax in axes]
    assert [list(curves) for curves in drawn] == [
        ["D's loss", "G's loss"],
        ["D(x), real", "D(G(z)), generated"],
    ]
    for curves, names in zip(drawn, (("d_loss", "g_loss"), ("d_real", "d_fake")), strict=True):
        for line, name in zip(curves.values(), names, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4, 5, 6])
            np.testing.assert_allclose(line.get_ydata(), table(found, name), rtol=1e-6)


def test_the_point_where_d_knows_nothing_is_marked():
    heights = [
        [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"]
        for ax in plot_history(records(3))
    ]
    assert heights == [[pytest.approx(np.log(2))], [0.5]]


@pytest.mark.parametrize("smooth", [2, 5, 20])
def test_smooth_curves_are_running_means_over_the_past(smooth):
    found = records(20)
    axes = plot_history(found, smooth=smooth)
    line = lines(axes[0])["G's loss"]
    expected = np.convolve(table(found, "g_loss"), np.ones(smooth) / smooth, mode="valid")
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-5)
    np.testing.assert_array_equal(line.get_xdata(), np.arange(smooth, 21))
    pale = [other for other in axes[0].lines if other.get_alpha()]
    np.testing.assert_allclose(pale[1].get_ydata(), table(found, "g_loss"), rtol=1e-6)


def test_a_short_history_is_drawn_raw():
    line = lines(plot_history(records(3), smooth=10)[1])["D(x), real"]
    assert len(line.get_xdata()) == 3


def test_plot_history_draws_into_the_axes_it_gets():
    _, axes = plt.subplots(1, 2)
    assert plot_history(records(3), axes=axes) is axes
    assert len(plt.get_fignums()) == 1
    axes[0].figure.canvas.draw()


def test_no_records_are_refused():
    with pytest.raises(ValueError, match="no records"):
        plot_history([])


def test_a_saved_history_is_the_picture_that_plot_history_draws(tmp_path):
    found = records(30)
    save_history(found, tmp_path / "losses.png", smooth=5)
    assert plt.get_fignums() == []
    buffer = io.BytesIO()
    plot_history(found, smooth=5)[0].figure.savefig(buffer)
    with Image.open(tmp_path / "losses.png") as saved, Image.open(buffer) as drawn:
        np.testing.assert_array_equal(saved, drawn)
    assert os.listdir(tmp_path) == ["losses.png"]


@pytest.mark.parametrize("backend", ["module://of_another_environment", "unheard-of"])
def test_files_are_written_whatever_backend_the_environment_asks_for(tmp_path, backend):
    code = (
        "import sys, torch\n"
        "from dcganlib.viz import plot\n"
        "row = dict(step=1, epoch=1, d_loss=1, g_loss=1, d_real=0.5, d_fake=0.5)\n"
        "plot.save_history([row], 'losses.png')\n"
        "plot.animate([torch.zeros(1, 1, 8, 8)], 'animation.gif')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {**os.environ, "MPLBACKEND": backend}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("MPLBACKEND is 'unheard-of'" in done.stderr) == (backend == "unheard-of")
    assert sorted(os.listdir(tmp_path)) == ["animation.gif", "losses.png"]


# Animations


def read_animation(path):
    """Greys and durations of all frames."""
    with Image.open(path) as animation:
        greys, durations = [], []
        for index in range(animation.n_frames):
            animation.seek(index)
            greys.append(np.asarray(animation.convert("L")))
            durations.append(animation.info["duration"])
        return greys, durations, animation.info["loop"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_shows_each_frame_for_its_time_and_the_last_one_longer(tmp_path, suffix):
    frames = [plain_images(grey, grey, size=(8, 8)) for grey in (0, 80, 160, 240)]
    path = animate(frames, str(tmp_path / f"animation{suffix}"), columns=2, fps=5, hold=3)
    assert path == tmp_path / f"animation{suffix}"
    greys, durations, loop = read_animation(path)
    assert durations == [200, 200, 200, 3000]
    assert loop == 0  # for ever
    for found, frame in zip(greys, frames, strict=True):
        np.testing.assert_allclose(found, np.asarray(grid_image(frame, columns=2)), atol=8)


def test_an_animation_takes_finished_pictures_and_floats(tmp_path):
    frames = [grid_image(plain_images(10, size=(8, 8))), to_float(plain_images(200, size=(8, 8)))]
    greys, durations, _ = read_animation(animate(iter(frames), tmp_path / "animation.gif"))
    assert [int(grey.mean()) for grey in greys] == [10, 200]
    assert durations == [120, 2000]  # 125 ms in the hundredths of a second that GIF knows


def test_the_last_frame_is_never_shorter_than_the_others(tmp_path):
    frames = [plain_images(grey, size=(8, 8)) for grey in (0, 255)]
    _, durations, _ = read_animation(animate(frames, tmp_path / "animation.gif", fps=0.5, hold=0))
    assert durations == [2000, 2000]


def test_an_animation_of_one_frame_is_a_picture(tmp_path):
    with Image.open(animate([plain_images(77, size=(8, 8))], tmp_path / "animation.gif")) as animation:
        assert animation.n_frames == 1
        assert animation.convert("L").getpixel((0, 0)) == 77


@pytest.mark.parametrize(
    ("name", "frames", "fps", "words"),
    [
        ("animation.mp4", [plain_images(1)], 8, r"\.gif or \.webp, got 'animation\.mp4'"),
        ("animation.gif", [], 8, "no frames"),
        ("animation.gif", [plain_images(1)], 0, "fps must be above 0, got 0"),
    ],
)
def test_an_animation_that_cannot_be_is_refused_and_the_old_one_kept(tmp_path, name, frames, fps, words):
    (tmp_path / name).write_text("old", encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        animate(frames, tmp_path / name, fps=fps)
    assert (tmp_path / name).read_text(encoding="utf-8") == "old"


# A view that redraws itself


@pytest.fixture
def screen(monkeypatch):
    """A notebook's output: the figures it showed, the first displayed, the others as updates of it."""
    shown, figures = [], []
    draw = plot._live_figure

    def show(kind, output):
        assert isinstance(output, IPython.display.Image)  # which a notebook shows without pyplot's help
        with Image.open(io.BytesIO(output.data)) as png:
            assert (png.format, png.size) == ("PNG", (900, 500))
        shown.append((kind, figures[-1]))

    class Handle:
        def update(self, output):
            show("update", output)

    def display(output, *, display_id):
        assert display_id is True
        show("display", output)
        return Handle()

    def drawn(*arguments):
        figures.append(draw(*arguments))
        return figures[-1]

    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=1))
    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(plot, "_live_figure", drawn)
    return shown


def step_of(figure):
    return int(figure.axes[0].get_title().split()[1])


@pytest.mark.parametrize(
    ("count", "every", "steps"),
    [(10, 4, [4, 8, 10]), (8, 4, [4, 8]), (3, 50, [3]), (2, 1, [1, 2]), (0, 4, [])],
)
def test_live_lets_the_records_through_and_redraws_in_one_place(screen, count, every, steps):
    found = records(count)
    passed = list(live(iter(found), lambda: torch.zeros(4, 1, 8, 8), every=every))
    assert len(passed) == count
    assert all(a is b for a, b in zip(passed, found, strict=True))
    assert [step_of(figure) for _, figure in screen] == steps
    assert [kind for kind, _ in screen] == ["display", "update", "update", "update"][: len(steps)]
    assert plt.get_fignums() == []


def test_live_has_drawn_a_step_before_it_hands_its_record_out(screen):
    watched = live(records(4), lambda: torch.zeros(4, 1, 8, 8), every=2)
    counts = [len(screen) for _ in watched]
    assert counts == [0, 1, 1, 2]


def test_live_shows_the_images_of_the_moment_and_the_curves_so_far(screen):
    found = records(4)
    greys = iter([50, 100])
    list(live(found, lambda: plain_images(next(greys), next(iter([0]))), every=2, columns=1, total=9))
    for (_, figure), grey, count in zip(screen, (50, 100), (2, 4), strict=True):
        grid, losses, says = figure.axes
        assert grid.images[0].get_array()[0, 0] == grey
        assert grid.get_title() == f"step {count} of 9"
        np.testing.assert_allclose(
            lines(losses)["D's loss"].get_ydata(), table(found[:count], "d_loss"), rtol=1e-6
        )
        np.testing.assert_allclose(
            lines(says)["D(x), real"].get_ydata(), table(found[:count], "d_real"), rtol=1e-6
        )
        figure.canvas.draw()


def test_live_does_not_ask_for_images_it_does_not_show(screen):
    calls = []

    def draw():
        calls.append(1)
        return torch.zeros(1, 1, 8, 8)

    list(live(records(9), draw, every=5))
    assert len(calls) == 2


def test_live_refuses_to_redraw_every_zero_steps(screen):
    with pytest.raises(ValueError, match="every must be at least 1 step, got 0"):
        next(live(records(2), lambda: None, every=0))


def test_live_asks_for_a_function_that_draws(screen):
    with pytest.raises(ValueError, match="draw must be a function that returns images, .* got Tensor"):
        next(live(records(2), torch.zeros(1, 1, 8, 8)))


@pytest.mark.parametrize("place", ["script", "terminal", "no IPython"])
def test_live_lets_the_records_through_and_says_so_where_there_is_no_notebook(monkeypatch, place):
    from IPython.terminal.interactiveshell import TerminalInteractiveShell

    shell = object.__new__(TerminalInteractiveShell) if place == "terminal" else None
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    if place == "no IPython":
        monkeypatch.setitem(sys.modules, "IPython", None)
    found = records(3)
    with pytest.warns(UserWarning, match="only in a notebook: nothing is drawn here"):
        assert list(live(found, lambda: 1 / 0, every=1)) == found


def test_ln2_is_the_logarithm_of_two():
    assert pytest.approx(np.log(2), rel=1e-15) == plot.LN2


def test_the_legends_of_a_history_lie_above_the_curves():
    records = [{"step": n, "d_loss": 1.0, "g_loss": 0.7, "d_real": 0.9, "d_fake": 0.95} for n in range(20)]
    axes = plot.plot_history(records)
    axes[0].figure.canvas.draw()
    for ax in axes:
        assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1 - 1


def test_the_books_style_holds_for_all_further_charts():
    with plt.rc_context():
        plot.use_style()
        _, ax = plt.subplots()
        assert not ax.spines["top"].get_visible()
        assert ax.spines["left"].get_visible()
        assert ax.xaxis.label.get_fontsize() == pytest.approx(10.5)
    assert plt.rcParams["axes.spines.top"]
