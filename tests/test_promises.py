"""What a run promises its reader: no night of training is lost, and whatever goes wrong is said."""

import ast
import contextlib
import copy
import gc
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from flat import run
from PIL import Image

from dcganlib import datasets, models, runs, train
from dcganlib.__main__ import main
from dcganlib.config import SampleConfig, TrainConfig
from dcganlib.datasets import make_loader
from dcganlib.latents import sample_z
from dcganlib.losses import LOSSES, Loss, discriminator_loss, generator_loss
from dcganlib.runs import context, preflight, report, session
from dcganlib.runtime import checkpoint, files
from dcganlib.runtime.step_metrics import check_finite
from dcganlib.viz import plot

ROOT = Path(__file__).parent.parent
OLD = ROOT / "tests" / "data" / "f3d90a0"  # written by the code of that commit, before there were checksums
TINY = {"image_size": 16, "channels": 1, "base_channels": 4, "checkpoint_every": 4, "sample_every": 3}
CONFIG = TrainConfig(batch_size=4, seed=3)

pytestmark = pytest.mark.usefixtures("quick_curves")


@pytest.fixture
def begin(tiny_pair, tiny_images, rng):
    """A state and its loader of 5 batches an epoch."""

    def make(**options):
        config = TrainConfig(**{"batch_size": 4, "seed": 5, **options})
        return train.init_state(*tiny_pair(), config), make_loader(tiny_images, 4, rng=rng(1))

    return make


@pytest.fixture(autouse=True)
def _usual_signals():
    """Also where the tests run in the background, with Ctrl-C ignored."""
    before = {number: signal.getsignal(number) for number in context.SIGNALS}
    for number in context.SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def new_run(image_folder, tmp_path):
    """Train on the discs into a new folder: ``new_run(steps=6)``."""

    def make(name="run", **options):
        options = TINY | {"config": CONFIG, "device": "cpu"} | options
        return run(str(image_folder), tmp_path / name, **options)

    return make


@pytest.fixture
def in_the_middle(monkeypatch):
    """Let something happen in the middle of a step of a run, between D's pass and D's update."""

    def arrange(step, event, calls=1):
        counted = []

        def d_loss(real_logits, fake_logits):
            counted.append(1)
            if len(counted) == step:
                for _ in range(calls):
                    event()
            return discriminator_loss(real_logits, fake_logits)

        monkeypatch.setattr(session, "train", partial(train.train, loss=Loss("", d_loss, generator_loss)))

    return arrange


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("checkpoint")
    }


def everything(state):
    tensors = [state.rng.get_state(), torch.tensor(state.step)]
    for network in (state.generator, state.discriminator, state.ema_generator):
        tensors += network.state_dict().values() if network is not None else []
    for optimizer in (state.g_optimizer, state.d_optimizer):
        for moments in optimizer.state_dict()["state"].values():
            tensors += moments.values()
    return tensors


def equal(first, second):
    first, second = everything(first), everything(second)
    return len(first) == len(second) > 20 and all(map(torch.equal, first, second))


# 1. A kill at any moment

KILLER = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import torch
from dcganlib import train, zoo
from dcganlib.runs import folder as run_folder
from dcganlib.runtime import checkpoint, files
torch.set_num_threads(1)
warnings.simplefilter("ignore")
folder, kills, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(0)
last, before = folder / "checkpoint.pt", folder / "checkpoint-previous.pt"
state = train.init_state(*zoo.build("dcgan", image_size=16, channels=1, base_channels=32))
checkpoint.save(last, state)
fell_back = 0
for kill in range(kills):
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with files.locked(folder):
                state, _ = run_folder.load_newest(folder, torch.device("cpu"))
                while True:
                    state.step += 1
                    checkpoint.save(last, state, previous=before)
                    os.write(tell, state.step.to_bytes(4, "little"))
        finally:
            os._exit(1)
    os.close(tell)
    done = int.from_bytes(os.read(told, 4), "little")
    time.sleep(chance.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    while more := os.read(told, 4):
        done = int.from_bytes(more, "little")
    os.close(told)
    for path in (last, before):
        if path.exists():
            checkpoint.load(path)  # not one is unreadable
    fell_back += not last.exists()
    found = run_folder.load_newest(folder, torch.device("cpu"))[0].step
    assert done <= found <= done + 1, (done, found)
with files.locked(folder):
    pass
print(sorted(os.listdir(folder)), "step", found, "after", kills, "kills;", fell_back, "times the one before")
"""


@pytest.mark.posix("no fork")
def test_a_kill_at_any_moment_leaves_the_last_checkpoint_or_the_one_before(tmp_path):
    kills = os.environ.get("DCGANLIB_KILLS", "12")
    command = [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path), kills]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    # Nothing half-written is left; the last kill may have come between the two renames.
    assert re.match(r"\['checkpoint-previous\.pt'(, 'checkpoint\.pt')?\] step ", done.stdout), done.stdout
    print(done.stdout)


# 2. A full disk


@contextlib.contextmanager
def no_file_above(size):
    """Let the system refuse to write a file beyond this many bytes, as a full disk would."""
    resource = pytest.importorskip("resource")  # which Windows lacks
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def frames():
    return [torch.rand(9, 1, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(4)]


WRITERS = {
    "checkpoint.pt": lambda path, state: checkpoint.save(path, state),
    "generator.safetensors": lambda path, state: checkpoint.save_generator(path, state.generator),
    "history.csv": lambda path, state: files.write_text(path, "1,2,3\n" * 2000),
    "grid.png": lambda path, state: files.write_atomically(path, plot.grid_image(frames()[0]).save),
    "film.gif": lambda path, state: plot.animate(frames(), path),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("size", [0, 1000, 4096])
def test_a_full_disk_is_said_and_leaves_the_old_file_and_no_half_one(begin, tmp_path, name, size):
    path, (state, _) = tmp_path / name, begin()
    WRITERS[name](path, state)
    before = path.read_bytes()
    assert len(before) > 4096
    words = rf"no room for {path}: (more than )?[\d,]+ bytes are needed, [\d,]+ are free"
    with no_file_above(size), pytest.raises(OSError, match=words) as caught:
        WRITERS[name](path, state)
    if not name.endswith((".png", ".gif")):
        assert f" {len(before):,} bytes" in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [name]


def test_a_disk_that_fills_up_in_the_middle_of_a_run_costs_only_the_last_steps(new_run, tmp_path, capsys):
    out, write = tmp_path / "run", files.write_bytes

    def full(path, content, **options):
        room = 10**9 if not (out / "checkpoint-previous.pt").exists() else 4096
        with no_file_above(room):
            write(path, content, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_bytes", full)
        with pytest.raises(OSError, match=r"no room for .*generator\.safetensors"):
            new_run(steps=12)
    assert not [path for path in out.rglob("*") if ".tmp" in path.name or path.name == files.LOCK]
    assert checkpoint.load(out / "checkpoint.pt")[0].step == 4
    runs.resume(out, device="cpu")
    assert contents(out) == contents(new_run("whole", steps=12)) | {
        "config.json": (out / "config.json").read_bytes()
    }


def test_a_disk_too_small_for_the_checkpoints_is_refused_before_the_data_are_read(
    new_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(datasets, "load", lambda *args, **options: pytest.fail("the data were read"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=r"no room for .*checkpoint\.pt: [\d,]+ bytes are needed, 1 are free"):
        new_run(steps=1)
    assert not (tmp_path / "run").exists()


# 3. Damage


def spoilt(content, count, seed=0):
    """Copies of a file with one byte changed, each at another place and to another value."""
    chance = random.Random(seed)
    for _ in range(count):
        copy = bytearray(content)
        copy[chance.randrange(len(copy))] ^= chance.randrange(1, 256)
        yield bytes(copy)
    for share in (0, 0.3, 0.999):
        yield content[: int(share * len(content))]


@pytest.mark.parametrize("name", ["checkpoint.pt", "generator.safetensors"])
def test_any_changed_byte_and_any_cut_is_found_before_the_file_is_used(begin, tmp_path, name, monkeypatch):
    path, (state, loader) = tmp_path / name, begin(ema=0.9)
    list(train.train(state, loader, 1))
    WRITERS[name](path, state)
    read = checkpoint.load if name == "checkpoint.pt" else checkpoint.load_generator
    read(path)
    monkeypatch.setattr(checkpoint, "_fill", lambda *args: pytest.fail("a damaged file was used"))
    content = path.read_bytes()
    ends = [content[:-1] + b"0", content + b"0", content[:-71] + b"md5" + content[-68:], content[:-71]]
    for damaged in [*spoilt(content, 100), *ends]:
        if damaged != content:
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=name):
                read(path)


@pytest.mark.parametrize("part", ["the comment", "its length"])
def test_no_changed_byte_of_the_seal_itself_passes_as_an_older_file(begin, tmp_path, part):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, begin()[0])
    content = path.read_bytes()
    length = len(content)
    for place in range(length - 71, length) if part == "the comment" else (length - 73, length - 72):
        for value in (0, 1, 255, content[place] ^ 1):
            if value != content[place]:
                path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
                with pytest.raises(checkpoint.DamagedError):
                    checkpoint.load(path)


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "gone"])
def test_resume_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(new_run, harm):
    whole, out = new_run("whole", steps=10), new_run(steps=8)
    last = out / "checkpoint.pt"
    content = last.read_bytes()
    if harm == "gone":
        last.unlink()
    else:
        last.write_bytes(
            {"flip": next(spoilt(content, 1)), "cut": content[: len(content) // 2], "empty": b""}[harm]
        )
    with pytest.warns(UserWarning, match=r"checkpoint\.pt.*Going on from .*previous\.pt.* at step 4"):
        runs.resume(out, steps=10, device="cpu")
    assert (out / "checkpoint-damaged.pt").exists() == (harm != "gone")
    assert {**contents(out), "samples/step_000008.png": b"", "samples.gif": b""} == {
        **contents(whole),
        "samples/step_000008.png": b"",  # the end of the first run, which the whole one does not have
        "samples.gif": b"",
    }
    assert equal(checkpoint.load(out / "checkpoint.pt")[0], checkpoint.load(whole / "checkpoint.pt")[0])


def test_a_file_of_a_newer_version_is_not_passed_over_as_damaged(new_run):
    out = new_run(steps=4)
    torch.save({"format": 99}, out / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"has format 99.*reads format 1: update dcganlib"):
        runs.resume(out, steps=5, device="cpu")


def test_a_checkpoint_can_be_read_without_dcganlib(begin, tmp_path):
    state, _ = begin()
    checkpoint.save(tmp_path / "a.pt", state)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(content["rng"], state.rng.get_state())


# 4. Hostile files


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_hostile_checkpoint_with_a_valid_checksum_is_refused_and_not_run(new_run, tmp_path):
    out, target = new_run(steps=4), tmp_path / "harm"
    archive = io.BytesIO()
    torch.save({"format": 1, "step": Hostile(str(target))}, archive)
    for name in ("checkpoint.pt", "checkpoint-previous.pt"):
        (out / name).write_bytes(checkpoint._sealed(archive))
    with pytest.raises(ValueError, match=r"no checkpoint, or is damaged \(UnpicklingError\).*No checkpoint"):
        runs.resume(out, steps=5, device="cpu")
    assert not target.exists()


def trusts_a_pickle(call):
    """Whether a call reads a file in a way that may run code from it."""
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    name = ast.unparse(call.func)
    if name in ("torch.load", "load_state_dict_from_url", "torch.hub.load_state_dict_from_url"):
        return options.get("weights_only") != "True"
    if name in ("pickle.load", "pickle.loads", "joblib.load", "torch.hub.load", "pandas.read_pickle"):
        return True
    return options.get("allow_pickle", "False") != "False" or options.get("weights_only", "True") != "True"


def test_nothing_in_the_project_loads_a_pickle_that_may_run_code():
    folders = [ROOT / folder for folder in ("dcganlib", "tools", "tests", "benchmarks")]
    seen = 0
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert not trusts_a_pickle(node), f"{path}:{node.lineno}"
                seen += ast.unparse(node.func) == "torch.load"
    assert seen > 5
    for path in (ROOT / "book").glob("*.md"):
        assert "weights_only=False" not in path.read_text(encoding="utf-8").replace(" ", ""), path


@pytest.mark.parametrize(
    ("line", "trusts"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, map_location='cpu', weights_only=True)", False),
        ("numpy.load(path, allow_pickle=True)", True),
        ("numpy.load(path)", False),
        ("pickle.loads(content)", True),
    ],
)
def test_the_rule_on_pickles_sees_what_is_left_out_too(line, trusts):
    assert trusts_a_pickle(ast.parse(line, mode="eval").body) == trusts


# 5. Resume at every step


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resumed_at_any_step_a_run_equals_one_that_never_stopped(begin, tmp_path, precision, ema):
    whole, loader = begin(precision=precision, ema=ema)
    records = []
    for record in train.train(whole, loader, 7):  # of 5 batches an epoch
        records.append(record)
        checkpoint.save(tmp_path / f"{record.step}.pt", whole, records)
    rows = [record.as_dict() for record in records]
    z = sample_z(4, 8, rng=torch.Generator().manual_seed(0))
    for step in range(1, 8):
        state, history = checkpoint.load(tmp_path / f"{step}.pt")
        assert (state.step, history) == (step, rows[:step])
        history += [record.as_dict() for record in train.train(state, begin()[1], 7)]
        assert history == rows
        assert equal(state, whole)
        assert (state.ema_generator is None) == (ema == 0)
        for ours, theirs in ((state.generator, whole.generator), (state.ema_generator, whole.ema_generator)):
            if ours is not None:
                pictures = [plot.grid_image(models.generate(network, z)) for network in (ours, theirs)]
                assert pictures[0].tobytes() == pictures[1].tobytes()


# 6. Ctrl-C and SIGTERM

CODES = [("SIGINT", 130), ("SIGTERM", 143)]
CODES += [("SIGHUP", 129)] if hasattr(signal, "SIGHUP") else []


@pytest.mark.parametrize(("name", "code"), CODES)
def test_a_signal_lets_the_step_end_saves_and_leaves_with_its_own_code(
    image_folder, tmp_path, new_run, in_the_middle, capsys, name, code, monkeypatch
):
    out = tmp_path / "run"
    words = "--image-size 16 --channels 1 --base-channels 4 --batch-size 4 --seed 3 --device cpu --steps 9"
    words += " --checkpoint-every 4 --sample-every 3"
    in_the_middle(6, lambda: signal.raise_signal(getattr(signal, name)))
    assert main(["train", str(image_folder), "--out", str(out), *words.split()]) == code
    said = capsys.readouterr().err
    assert f"dcganlib: stopped after step 6, all saved; `dcganlib resume {out}` goes on from there" in said
    assert (checkpoint.load(out / "checkpoint.pt")[0].step, len(runs.read(out).history)) == (6, 6)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(session, "train", train.train)
    assert main(["resume", str(out), "--device", "cpu"]) == 0
    assert contents(out) == contents(new_run("whole", steps=9))


def test_a_second_ctrl_c_leaves_at_once_and_harms_nothing(new_run, in_the_middle, tmp_path, monkeypatch):
    in_the_middle(6, lambda: signal.raise_signal(signal.SIGINT), calls=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        new_run(steps=9)
    assert not isinstance(caught.value, runs.Stopped)
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")[0].step == 4
    assert not (tmp_path / "run" / files.LOCK).exists()
    monkeypatch.setattr(session, "train", train.train)
    runs.resume(tmp_path / "run", device="cpu")
    assert contents(tmp_path / "run") == contents(new_run("whole", steps=9))


@pytest.mark.posix("no SIGHUP")
def test_a_signal_that_is_ignored_stays_ignored(new_run, in_the_middle):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    in_the_middle(2, lambda: signal.raise_signal(signal.SIGHUP))
    assert len(runs.read(new_run(steps=3)).history) == 3


def test_a_run_in_another_thread_needs_no_signals(new_run):
    with ThreadPoolExecutor(1) as pool:
        assert len(runs.read(pool.submit(new_run, steps=2).result()).history) == 2


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_an_interrupted_kernel_leaves_whole_steps_in_models_and_history(begin, player):
    (state, loader), (other, _) = begin(ema=0.9), begin(ema=0.9)
    calls, history = [], []
    usual = getattr(LOSSES["bce"], player)

    def interrupted(*logits):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return usual(*logits)

    def cell():
        for record in train.train(state, loader, 9, loss=replace(LOSSES["bce"], **{player: interrupted})):
            history.append(record.as_dict())

    with pytest.raises(KeyboardInterrupt):
        cell()
    expected = [record.as_dict() for record in train.train(other, loader, 3)]
    assert history == expected
    assert equal(state, other)
    cell()  # the cell again
    assert history == expected + [record.as_dict() for record in train.train(other, loader, 9)]
    assert equal(state, other)


def test_a_second_interrupt_breaks_off_with_the_state_as_documented(begin):
    state, loader = begin()
    list(train.train(state, loader, 2))
    randomness = torch.get_rng_state()

    def twice(logits):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        next(train.train(state, loader, loss=Loss("", discriminator_loss, twice)))
    assert state.step == 2
    assert all(parameter.requires_grad for parameter in state.discriminator.parameters())
    assert torch.equal(torch.get_rng_state(), randomness)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [record.step for record in train.train(state, loader, 4)] == [3, 4]


def test_a_callers_own_handler_is_left_alone(begin):
    state, loader = begin()
    caught = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))

    def poked(logits):
        signal.raise_signal(signal.SIGINT)
        return generator_loss(logits)

    assert len(list(train.train(state, loader, 2, loss=Loss("", discriminator_loss, poked)))) == 2
    assert caught == [signal.SIGINT] * 2


# 7. NaN


def broken_at(step, loss, value=float("nan")):
    """A loss that turns into NaN at its call number ``step``."""
    calls = []

    def broken(*logits):
        calls.append(1)
        return loss(*logits) * (value if len(calls) == step else 1)

    return broken


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"discriminator": broken_at(6, discriminator_loss)}, "d_loss is nan at step 6: .*loss function"),
        ({"generator": broken_at(6, generator_loss)}, "g_loss is nan at step 6: .*loss function"),
        ({"discriminator": broken_at(6, discriminator_loss, float("inf"))}, "d_loss is inf at step 6"),
    ],
)
def test_a_lost_loss_stops_the_run_at_its_step_and_keeps_the_last_finite_checkpoint(
    new_run, tmp_path, monkeypatch, changes, words
):
    loss = replace(LOSSES["bce"], **changes)
    monkeypatch.setattr(session, "train", partial(train.train, loss=loss))
    with pytest.raises(FloatingPointError, match=words):
        new_run(steps=12)
    state, _ = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert (state.step, len(runs.read(tmp_path / "run").history)) == (4, 6)  # the lost loss is kept
    assert all(tensor.isfinite().all() for tensor in everything(state))


def test_a_run_that_diverges_says_so_and_a_broken_image_says_otherwise(begin):
    for options in ({"d_lr": 1e20}, {"g_lr": 1e20}):
        state, loader = begin(**options)
        records = list(train.train(state, loader, 9))
        with pytest.raises(FloatingPointError, match=r"is (nan|inf) at step [1-9]: .*diverged"):
            check_finite(records)
    state, loader = begin()
    real = next(loader.epoch(0))
    check_finite([train.train_step(state, real)])
    real[1, 0, 3, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="at step 2: .*images are broken, not the training"):
        check_finite([train.train_step(state, real)])


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (("d_loss", "g_loss", "d_real", "d_fake"), "d_loss is nan at step 3: D has diverged.*smaller d_lr"),
        (("d_loss", "g_loss", "d_fake"), "G's images are not finite, it has diverged.*smaller g_lr"),
        (("d_loss", "g_loss", "d_real"), "the images are broken"),
        (("d_loss",), "D's logits overflowed.*smaller d_lr"),
        (("g_loss",), "g_loss is nan.*in this very step"),
    ],
)
def test_the_numbers_that_are_lost_tell_the_cause(lost, words):
    good = {"step": 2, "epoch": 1, "d_loss": 0.7, "g_loss": 0.7, "d_real": 0.5, "d_fake": 0.5}
    check_finite([good])
    with pytest.raises(FloatingPointError, match=words):
        check_finite([good, good | {"step": 3} | dict.fromkeys(lost, float("nan"))])


def test_a_state_with_a_lost_weight_is_not_saved_over_a_good_one(begin, tmp_path):
    state, _ = begin()
    checkpoint.save(tmp_path / "a.pt", state)
    before = (tmp_path / "a.pt").read_bytes()
    with torch.no_grad():
        state.discriminator.blocks[1][0].weight[0, 0, 0, 0] = float("inf")
    words = r"discriminator\.blocks\.1\.0\.weight is NaN or infinite at step 0 \(1 of \d+ tensors are\)"
    with pytest.raises(FloatingPointError, match=words):
        checkpoint.save(tmp_path / "a.pt", state)
    assert (tmp_path / "a.pt").read_bytes() == before


def test_the_loop_of_the_library_never_reads_a_number(begin, monkeypatch):
    """Reading would make a GPU wait; ``check_finite`` is for that."""
    state, loader = begin(ema=0.9)
    monkeypatch.setattr(train.StepMetrics, "_floats", property(lambda self: pytest.fail("it was read")))
    assert len(list(train.train(state, loader, 3))) == 3


# 8. Too few images


@pytest.mark.parametrize("drop_last", [True, False])
def test_any_number_of_images_gives_an_error_or_uses_each_as_promised(tiny_pair, rng, drop_last):
    for count in range(12):
        images = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 16, 16)
        if count == 0 or (drop_last and count < 4):
            with pytest.raises(ValueError, match="no images|more than the"):
                make_loader(images, 4, drop_last=drop_last)
            continue
        loader = make_loader(images, 4, rng=rng(count), drop_last=drop_last)
        seen = torch.cat(list(loader.epoch(0)))[:, 0, 0, 0].add(1).mul(127.5).round().int().tolist()
        assert len(set(seen)) == len(seen) == (count - count % 4 if drop_last else count)
        state = train.init_state(*tiny_pair(), TrainConfig(batch_size=4))
        records = list(train.train(state, loader, len(loader)))
        assert len(records) == len(loader) >= 1
        check_finite(records)


def test_a_batch_of_one_under_batch_norm_over_single_units_is_refused_before_any_step(tiny_pair):
    images = torch.zeros(5, 1, 28, 28, dtype=torch.uint8)
    for size, drop_last in ((1, True), (4, False)):
        state = train.init_state(*tiny_pair("flux-mnist"), TrainConfig(batch_size=size))
        loader = make_loader(images, size, drop_last=drop_last)
        words = f"batch_size {size} on 5 images makes a batch of 1, and batch"
        with pytest.raises(ValueError, match=words) as caught:
            next(train.train(state, loader))
        assert ("drop_last" in str(caught.value)) == (size > 1)  # which is of no help to batches of 1
    assert state.step == 0
    assert len(list(train.train(state, make_loader(images, 4), 1))) == 1


# 11. Places


HOLDER = "from dcganlib.runtime import files; from pathlib import Path; import sys\n"
HOLDER += "with files.locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def holder():
    """Another process that holds a folder."""
    started = []

    def hold(folder):
        command = [sys.executable, "-c", HOLDER, str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.posix("folders are not locked")
def test_a_folder_belongs_to_one_process_until_that_ends_or_is_killed(new_run, holder):
    out = new_run(steps=4)
    before = contents(out)
    other = holder(out)
    with pytest.raises(BlockingIOError, match=rf"process {other.pid} on .* is training into {out}"):
        runs.resume(out, steps=5, device="cpu")
    assert {**contents(out)} == {**before, files.LOCK: (out / files.LOCK).read_bytes()}
    other.kill()
    other.wait()
    assert (out / files.LOCK).exists()  # a stale one, which holds nobody up
    left = out / "samples" / ".step_000007.png.4711.tmp.png"
    left.write_bytes(b"half")
    runs.resume(out, steps=5, device="cpu")
    assert not left.exists()
    assert not (out / files.LOCK).exists()


@pytest.mark.posix("folders are not locked")
def test_two_runs_that_begin_in_one_folder_do_not_mix(new_run, tmp_path, holder, monkeypatch):
    load = datasets.load

    def slow_load(*args, **options):  # meanwhile another run begins there
        (tmp_path / "run").mkdir()
        holder(tmp_path / "run")
        return load(*args, **options)

    monkeypatch.setattr(datasets, "load", slow_load)
    with pytest.raises(BlockingIOError, match="is training into"):
        new_run(steps=2)
    assert os.listdir(tmp_path / "run") == [files.LOCK]


def test_a_folder_that_cannot_be_written_is_refused_before_the_data_are_read(new_run, tmp_path, monkeypatch):
    out = new_run(steps=2)
    monkeypatch.setattr(datasets, "load", lambda *args, **options: pytest.fail("the data were read"))
    monkeypatch.setattr(
        files, "writable", lambda folder: False
    )  # tests may run as root, who may write anywhere
    with pytest.raises(PermissionError, match=f"nothing can be written into {tmp_path}: name another"):
        new_run("other", steps=2)
    with pytest.raises(PermissionError, match=f"nothing can be written into {out}"):
        runs.resume(out, steps=3, device="cpu")
    assert not (tmp_path / "other").exists()


@pytest.mark.posix("an open file keeps its folder")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_vanishes_is_an_error_and_one_in_its_place_is_left_alone(
    new_run, tmp_path, in_the_middle, replaced
):
    out = tmp_path / "run"

    def vanish():
        shutil.rmtree(out)
        if replaced:
            (out / "samples").mkdir(parents=True)

    in_the_middle(4, vanish)
    with pytest.raises(FileNotFoundError, match=rf"{out} was moved or deleted while a run was writing"):
        new_run(steps=12)
    assert not out.exists() or sorted(os.listdir(out)) == ["samples"]


def test_a_clock_that_jumps_changes_nothing_in_the_run(new_run, monkeypatch):
    whole = new_run("whole", steps=8)
    chance = random.Random(0)
    monkeypatch.setattr("tqdm.std.time", lambda: chance.uniform(-1e9, 1e9))
    out = new_run(steps=4)
    runs.resume(out, steps=8, device="cpu")
    ours, theirs = contents(out), contents(whole)
    for name in (
        "history.csv",
        "generator.safetensors",
        "samples/step_000006.png",
        "samples/step_000008.png",
    ):
        assert ours[name] == theirs[name]


# 12. Memory and files


def live_tensors():
    """How many tensors Python holds, and the bytes of all their storages, each counted once.

    Not the subclasses without storage that torch.compile may have left behind.
    """
    gc.collect()
    held = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    return len(held), sum(storages.values())


def test_training_holds_no_more_tensors_after_300_steps_than_after_100(begin, tmp_path):
    state, loader = begin(ema=0.9)
    marks = []
    for record in train.train(state, loader, 300):
        if record.step % 100 == 0:
            checkpoint.save(tmp_path / "a.pt", state, previous=tmp_path / "b.pt")
            marks.append(live_tensors())
    assert marks[1] == marks[2]
    count, size = live_tensors()
    kept = copy.deepcopy(state.generator.blocks[0])  # the count notices a part of one copy
    more_count, more_size = live_tensors()
    assert more_count > count
    assert more_size - size >= sum(weight.nbytes for weight in kept.parameters()) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_whole_run_opens_few_files_at_a_time_and_leaves_none_open(new_run, monkeypatch):
    seen, draw = [], plot.grid_image
    open_files = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731
    monkeypatch.setattr(
        plot, "grid_image", lambda *args, **kw: seen.append(open_files()) or draw(*args, **kw)
    )
    new_run("before", steps=1)  # what is opened once and for all
    seen.clear()
    before = open_files()
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 9, hard))
    try:
        out = new_run(steps=24, sample_every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_files() == before
    assert len(seen) == 26  # the real images, and a grid for each step and for step 0
    assert max(seen) <= before + 2
    assert len(os.listdir(out / "samples")) == 25


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_film_of_400_grids_opens_one_at_a_time_and_keeps_their_order(tmp_path, monkeypatch):
    folder = tmp_path / "samples"
    folder.mkdir()
    steps = [*range(200), *range(1_000_000, 1_000_200)]  # the names of the later ones are longer
    for number, step in enumerate(steps):
        Image.new("L", (4, 4), number % 251).save(folder / f"step_{step:06}.png")
    opened = []
    monkeypatch.setattr(report, "opened", lambda path: opened.append(path.name) or OPENED(path))
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 9, hard))
    try:
        report.animate(tmp_path, "samples")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert opened == [f"step_{step:06}.png" for step in steps]
    with Image.open(tmp_path / "samples.gif") as film:
        assert film.n_frames == 400
    opened.clear()
    monkeypatch.setattr(report, "FRAME_PIXELS", 16 * 50)  # room for 50 frames
    with pytest.warns(UserWarning, match=r"samples\.gif shows 50 of the 400 pictures in .*samples, at even"):
        report.animate(tmp_path, "samples")
    assert (len(opened), opened[0], opened[-1]) == (50, "step_000000.png", "step_1000199.png")
    with Image.open(tmp_path / "samples.gif") as film:
        assert film.n_frames == 50


OPENED = report.opened


def test_a_late_checkpoint_writes_as_much_as_an_early_one(new_run, monkeypatch):
    sizes, write = {}, files.write_bytes

    def noting(path, content, **options):
        sizes.setdefault(Path(path).name, []).append(len(content))
        write(path, content, **options)

    monkeypatch.setattr(files, "write_bytes", noting)
    monkeypatch.setattr(checkpoint, "write_bytes", noting)
    monkeypatch.setattr(report, "draw_losses", lambda path, log: None)
    new_run(steps=60, checkpoint_every=3, sample_every=60)
    for name in ("checkpoint.pt", "generator.safetensors"):
        early, late = sizes[name][1], sizes[name][-1]
        assert abs(late - early) <= 8, name  # a step of two digits, in a header padded to 8 bytes
        assert len(sizes[name]) >= 20
    assert len(sizes["history.csv"]) == 1  # written whole but once; then it grows


# 13. A start that fails, and torch as the caller has set it


@pytest.mark.parametrize("there", ["nothing", "empty folder"])
@pytest.mark.parametrize("error", [MemoryError("no room"), KeyboardInterrupt()])
def test_a_run_that_fails_before_its_first_step_is_complete_leaves_nothing(
    new_run, in_the_middle, tmp_path, there, error
):
    if there == "empty folder":
        (tmp_path / "new" / "run").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))

    def fail():
        raise error

    in_the_middle(1, fail)
    with pytest.raises(type(error)) as caught:
        new_run("new/run", steps=3)
    assert sorted(tmp_path.rglob("*")) == before
    if isinstance(error, KeyboardInterrupt):
        assert str(caught.value) == "interrupted before the first step was complete; nothing is kept"
    assert len(runs.read(new_run("new/run", steps=1, config=CONFIG)).history) == 1


def test_a_run_that_fails_in_its_second_step_keeps_its_folder(new_run, in_the_middle, tmp_path, monkeypatch):
    def fail():
        raise MemoryError("no room")

    in_the_middle(2, fail)
    with pytest.raises(MemoryError):
        new_run(steps=3)
    monkeypatch.setattr(session, "train", train.train)
    runs.resume(tmp_path / "run", device="cpu")
    assert len(runs.read(tmp_path / "run").history) == 3


def test_what_a_kill_leaves_before_the_first_checkpoint_is_begun_anew(new_run, tmp_path):
    whole, out = new_run("whole", steps=2), tmp_path / "run"
    (out / "samples").mkdir(parents=True)
    for name in ("config.json", "real.png", "samples/step_000000.png"):
        shutil.copy(whole / name, out / name)
    (out / ".checkpoint.pt.4711.tmp.pt").write_bytes(b"half")
    new_run(steps=2)
    assert contents(out) == contents(whole)
    (tmp_path / "own").mkdir()
    for name in ("config.json", "real.png"):  # not what a start leaves: the settings are no run's
        (tmp_path / "own" / name).write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="own is there already"):
        new_run("own", steps=2)
    assert (tmp_path / "own" / "config.json").read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_run_inside_a_mode_without_gradients_is_the_same_run(new_run, mode):
    whole = new_run("whole", steps=5)
    with mode():
        out = new_run(steps=3)
        runs.resume(out, steps=5, device="cpu")
        picture = runs.sample(out, SampleConfig(3))
    for name in ("generator.safetensors", "history.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert picture.tobytes() == runs.sample(whole, SampleConfig(3)).tobytes()


def test_a_run_under_another_default_type_or_device_is_the_same_run(new_run):
    whole = new_run("whole", steps=3)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            out = new_run(steps=3)
            picture = runs.sample(out, SampleConfig(3))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    for name in ("generator.safetensors", "history.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert picture.tobytes() == runs.sample(whole, SampleConfig(3)).tobytes()


def test_networks_too_large_to_train_are_refused_by_name_before_the_data_are_read(
    new_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(datasets, "load", lambda *args, **options: pytest.fail("the data were read"))
    with pytest.raises(MemoryError, match="a network with base_channels 100000 takes .* GB.*lower base_ch"):
        new_run(steps=1, base_channels=100_000)
    with pytest.raises(MemoryError, match="a network with base_channels 1000000000 does not fit.*lower base"):
        new_run(steps=1, base_channels=10**9)
    monkeypatch.setattr(preflight.memory, "free_memory", lambda place="cpu": 10_000)
    with pytest.raises(
        MemoryError, match="base_channels 4 takes 0 GB to train, and cpu has 0 left: lower base"
    ):
        new_run(steps=1)
    assert not (tmp_path / "run").exists()


def no_memory(*logits):
    return torch.empty(1 << 56)


def test_running_out_of_memory_names_batch_and_image_and_a_batch_to_try(begin, monkeypatch):
    state, loader = begin()
    words = r"batch_size 4 of images \(1, 16, 16\) does not fit into the memory of cpu: try batch_size 2"
    with pytest.raises(MemoryError, match=words):
        next(train.train(state, loader, loss=Loss("", no_memory, generator_loss)))

    def no_gpu_memory(*logits):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(MemoryError, match=words):
        next(train.train(state, loader, loss=Loss("", discriminator_loss, no_gpu_memory)))
    assert all(parameter.requires_grad for parameter in state.discriminator.parameters())
    assert state.step == 0


def test_another_error_of_torch_is_not_taken_for_a_lack_of_memory(begin):
    state, loader = begin()
    wrong = Loss("", lambda real, fake: real @ torch.ones(7), generator_loss)
    with pytest.raises(RuntimeError, match="size"):
        next(train.train(state, loader, loss=wrong))


def test_with_one_image_a_smaller_network_is_advised(tiny_pair, tiny_images):
    state = train.init_state(*tiny_pair(), TrainConfig(batch_size=1))
    loader, loss = make_loader(tiny_images, 1), Loss("", no_memory, generator_loss)
    with pytest.raises(MemoryError, match="try smaller images or base_channels"):
        next(train.train(state, loader, loss=loss))


# 14. Another architecture, an older format


def test_a_checkpoint_of_another_run_is_refused_with_all_that_differs(new_run):
    out, other = new_run(steps=2), new_run("other", steps=2, base_channels=5, config=TrainConfig(4, seed=8))
    shutil.copy(other / "checkpoint.pt", out / "checkpoint.pt")
    before = contents(out)
    with pytest.raises(ValueError, match=r"checkpoint in .*run is of another run") as caught:
        runs.resume(out, steps=3, device="cpu")
    for words in ("seed 8, not 3", "G's layer 1 channels 10, not 8", "D's layer 2 channels 10, not 8"):
        assert words in str(caught.value)
    assert contents(out) == before


def test_weights_that_do_not_fit_are_listed_and_none_is_loaded(tiny_pair):
    network, _ = tiny_pair()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = tiny_pair(seed=1)[0].state_dict()
    weights["blocks.0.0.weight"] = torch.zeros(3)
    weights["stray"] = weights.pop("blocks.1.1.bias")
    words = (
        r"blocks\.1\.1\.bias is missing; stray is not part.*; blocks\.0\.0\.weight has shape \(3,\), not \(8"
    )
    with pytest.raises(ValueError, match=words):
        checkpoint._fill(network, weights)
    assert all(map(torch.equal, network.state_dict().values(), before.values()))


def test_files_from_before_there_were_checksums_stay_readable():
    state, history = checkpoint.load(OLD / "checkpoint.pt")
    assert (state.step, len(history), state.config.batch_size, state.config.ema) == (3, 3, 4, 0.0)
    assert history[0]["d_loss"] == pytest.approx(0.7011944, abs=1e-7)
    generator, about = checkpoint.load_generator(OLD / "generator.safetensors")
    assert about == {"step": 3}
    weights = state.generator.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in generator.state_dict().items())
    images = torch.zeros(8, 1, 16, 16, dtype=torch.uint8)
    (record,) = train.train(state, make_loader(images, 4), 4)
    check_finite([record])


@pytest.mark.parametrize("name", ["checkpoint.pt", "generator.safetensors"])
def test_a_file_without_a_checksum_is_still_checked_as_far_as_it_can_be(tmp_path, name):
    content = (OLD / name).read_bytes()
    read = checkpoint.load if name == "checkpoint.pt" else checkpoint.load_generator
    for share in (0, 0.3, 0.999):
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)


def test_the_stored_run_has_no_checksum_and_is_read_all_the_same():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runs.read("mnist").generator.image_size == 28
