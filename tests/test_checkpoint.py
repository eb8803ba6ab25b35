"""Saving and loading: bit for bit, whole after any crash, and never the code of a stranger."""

import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dcganlib import zoo
from dcganlib.config import TrainConfig
from dcganlib.datasets import make_loader
from dcganlib.latents import sample_z
from dcganlib.models import generate
from dcganlib.runtime import checkpoint
from dcganlib.runtime.checkpoint import load, load_generator, save, save_generator
from dcganlib.train import init_state, train

OLD = b"the old content"


@pytest.fixture
def begin(tiny_pair, tiny_images, rng):
    def make(name="dcgan", **options):
        config = TrainConfig(**{"batch_size": 4, "seed": 5, **options})
        images = tiny_images if name == "dcgan" else torch.nn.functional.pad(tiny_images, (6, 6, 6, 6))
        return init_state(*tiny_pair(name), config), make_loader(images, 4, rng=rng(1))

    return make


def rows(records):
    return [record.as_dict() for record in records]


def everything(state):
    """All tensors of a state in one list: weights, statistics, moments of Adam, randomness."""
    tensors = [state.rng.get_state()]
    for network in (state.generator, state.discriminator):
        tensors += network.state_dict().values()
    for optimizer in (state.g_optimizer, state.d_optimizer):
        for moments in optimizer.state_dict()["state"].values():
            tensors += moments.values()
    return tensors


# The whole state


@pytest.mark.parametrize("name", ["dcgan", "flux-mnist"])
def test_a_loaded_run_goes_on_bit_for_bit(begin, tmp_path, name):
    state, loader = begin(name, prior="uniform", g_lr=1e-3)
    history = list(train(state, loader, 3))
    save(tmp_path / "a.pt", state, history)
    on = rows(train(state, loader, 8))
    again, rows_so_far = load(tmp_path / "a.pt")
    assert rows_so_far == rows(history)
    assert again.step == 3
    assert again.config == state.config
    assert rows(train(again, loader, 8)) == on
    assert len(everything(again)) == len(everything(state)) > 20
    assert all(map(torch.equal, everything(again), everything(state)))


def test_a_loaded_run_goes_on_averaging_bit_for_bit(begin, tmp_path):
    state, loader = begin(ema=0.9)
    list(train(state, loader, 3))
    save(tmp_path / "a.pt", state)
    list(train(state, loader, 8))
    again, _ = load(tmp_path / "a.pt")
    assert again.config.ema == 0.9
    list(train(again, loader, 8))
    assert all(map(torch.equal, everything(again), everything(state)))
    averages = [found.ema_generator.state_dict().values() for found in (again, state)]
    assert all(map(torch.equal, *averages))
    assert not all(map(torch.equal, averages[0], state.generator.state_dict().values()))


@pytest.mark.parametrize("older", [False, True])
def test_falling_learning_rates_go_on_where_they_were(begin, tmp_path, older):
    """Versions before 0.3 saved the rates of the last step, and no rates to begin with."""
    state, loader = begin(decay_start=1, decay_steps=7, g_lr=3e-3, d_lr=1e-3)
    list(train(state, loader, 4))
    save(tmp_path / "a.pt", state)
    if older:
        content = torch.load(tmp_path / "a.pt", weights_only=True)
        for optimizer, rate in zip(content["optimizers"], (3e-3, 1e-3), strict=True):
            (group,) = optimizer["param_groups"]
            del group["initial_lr"]
            group["lr"] = rate * 5 / 7  # of the step from 3 to 4
        torch.save(content, tmp_path / "a.pt")
    again, _ = load(tmp_path / "a.pt")
    assert rows(train(again, loader, 8)) == rows(train(state, loader, 8))
    assert all(map(torch.equal, everything(again), everything(state)))


def test_a_checkpoint_from_before_there_were_averages_loads_without_one(begin, tmp_path):
    state, loader = begin()
    save(tmp_path / "a.pt", state)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content.pop("averaged") is None
    del content["config"]["ema"]
    torch.save(content, tmp_path / "old.pt")
    again, _ = load(tmp_path / "old.pt")
    assert again.ema_generator is None
    assert rows(train(again, loader, 2)) == rows(train(state, loader, 2))


def test_a_checkpoint_that_lacks_the_average_it_should_have_is_refused(begin, tmp_path):
    save(tmp_path / "a.pt", begin(ema=0.9)[0])
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save(content | {"averaged": None}, tmp_path / "b.pt")
    del content["averaged"]
    torch.save(content, tmp_path / "a.pt")
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=rf"{name}\.pt"):
            load(tmp_path / f"{name}.pt")


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_every_architecture_comes_back(begin, tiny_pair, tmp_path, name):
    state = init_state(*tiny_pair(name, latent_dim=6))
    save(tmp_path / "a.pt", state)
    again, history = load(str(tmp_path / "a.pt"))
    assert history == []
    assert again.generator.layers == state.generator.layers
    assert again.discriminator.layers == state.discriminator.layers
    assert again.generator.latent_dim == 6
    assert all(map(torch.equal, everything(again), everything(state)))


LAYOUTS = [torch.contiguous_format, torch.channels_last]


def laid(pair, layout):
    return [network.to(memory_format=layout) for network in pair]


@pytest.mark.parametrize("fused_after", [True, False])
@pytest.mark.parametrize("fused_before", [True, False])
@pytest.mark.parametrize("before", LAYOUTS, ids=str)
@pytest.mark.parametrize("after", LAYOUTS, ids=str)
def test_adam_goes_on_the_same_in_every_layout_fused_or_not(
    tiny_pair, tiny_images, rng, tmp_path, monkeypatch, before, after, fused_before, fused_after
):
    """As from a GPU to a CPU: after the move a step differs by rounding, not by moments of other weights."""
    loader = make_loader(tiny_images, 4, rng=rng(1))
    config = TrainConfig(4, precision="float32", g_lr=1e-2, d_lr=1e-2, fast=False)

    def moved(network):  # what `init_state` does on the device that the run goes on on
        return laid([network], after)[0]

    def begun(layout, fused):
        state = init_state(*laid(tiny_pair(), layout), config)
        for optimizer in (state.g_optimizer, state.d_optimizer):
            optimizer.param_groups[0]["fused"] = fused
        return state

    state, plain = begun(before, fused_before), begun(torch.contiguous_format, False)
    list(train(state, loader, 3))
    list(train(plain, loader, 5))
    save(tmp_path / "a.pt", state)
    made = checkpoint.init_state

    def elsewhere(*pair_and_config):
        state = made(*map(moved, pair_and_config[:2]), pair_and_config[2])
        for optimizer in (state.g_optimizer, state.d_optimizer):
            optimizer.param_groups[0]["fused"] = fused_after
        return state

    monkeypatch.setattr(checkpoint, "init_state", elsewhere)
    again, _ = load(tmp_path / "a.pt")
    assert [optimizer.param_groups[0]["fused"] for optimizer in (again.g_optimizer, again.d_optimizer)] == [
        fused_after
    ] * 2
    for optimizer in (again.g_optimizer, again.d_optimizer):
        for parameter, moments in optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                assert (moments[name].stride(), moments[name].dtype) == (parameter.stride(), torch.float32)
    list(train(again, loader, 5))
    for one, other in zip(everything(again)[1:], everything(plain)[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)  # five steps move up to 5e-2


def test_a_layout_that_is_changed_during_a_run_takes_the_moments_along(begin):
    (state, loader), (other, _) = begin(precision="float32"), begin(precision="float32")
    list(train(state, loader, 3))
    laid((state.generator, state.discriminator), torch.channels_last)
    list(train(state, loader, 5))
    list(train(other, loader, 5))
    for one, same in zip(everything(state)[1:], everything(other)[1:], strict=True):
        torch.testing.assert_close(one, same, rtol=1e-3, atol=2e-5)  # five steps move up to 1e-3


def test_moments_of_other_types_become_those_of_the_weights(forge):
    def edit(content):
        for optimizer in content["optimizers"]:
            for moments in optimizer["state"].values():
                moments.update({name: value.double() for name, value in moments.items()})

    whole, edited = load(forge(lambda content: None))[0], load(forge(edit))[0]
    kinds = {value.dtype for value in everything(edited)}
    assert kinds == {value.dtype for value in everything(whole)}
    assert all(map(torch.equal, everything(edited), everything(whole)))


def test_a_run_goes_on_with_another_number_of_threads(begin, tmp_path):
    state, loader = begin(precision="float32")
    list(train(state, loader, 3))
    save(tmp_path / "a.pt", state)
    on = rows(train(state, loader, 6))
    again, _ = load(tmp_path / "a.pt")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        other = rows(train(again, loader, 6))
    finally:
        torch.set_num_threads(threads)
    for one, row in zip(on, other, strict=True):
        assert row == pytest.approx(one, rel=1e-4)


def test_a_run_that_is_loaded_under_inference_mode_goes_on_as_any_other(begin, tmp_path):
    state, loader = begin("flux-mnist")
    list(train(state, loader, 2))
    save(tmp_path / "a.pt", state)
    with torch.inference_mode():
        again, _ = load(tmp_path / "a.pt")
    assert rows(train(again, loader, 4)) == rows(train(state, loader, 4))


def test_what_was_frozen_is_frozen_when_the_run_goes_on(tiny_pair, begin, tmp_path):
    _, loader = begin()
    generator, discriminator = tiny_pair()
    discriminator.blocks[0][0].weight.requires_grad_(False)
    state = init_state(generator, discriminator, TrainConfig(4, precision="float32"))
    list(train(state, loader, 2))
    save(tmp_path / "a.pt", state)
    again, _ = load(tmp_path / "a.pt")
    frozen = [name for name, value in again.discriminator.named_parameters() if not value.requires_grad]
    assert frozen == ["blocks.0.0.weight"]
    assert all(value.requires_grad for value in again.generator.parameters())
    assert rows(train(again, loader, 4)) == rows(train(state, loader, 4))


def test_a_checkpoint_with_averaged_statistics_in_it_is_read_and_goes_on(begin, tmp_path):
    """Older ones hold them; what is drawn from the average is of its weights alone."""
    state, loader = begin(ema=0.9)
    list(train(state, loader, 3))
    save(tmp_path / "a.pt", state)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    del content["frozen"]
    for name, value in content["averaged"].items():
        if "running" in name:
            value.add_(0.5)
    torch.save(content, tmp_path / "old.pt")
    again, _ = load(tmp_path / "old.pt")
    for steps in (3, 5):
        list(train(again, loader, steps))
        list(train(state, loader, steps))
        pair = again.ema_generator.state_dict().values(), state.ema_generator.state_dict().values()
        assert all(map(torch.equal, *pair))


def test_saving_changes_nothing_in_the_run(begin, tmp_path):
    (state, loader), (other, _) = begin(), begin()
    for _ in train(state, loader, 4):
        save(tmp_path / "a.pt", state)
    list(train(other, loader, 4))
    assert all(map(torch.equal, everything(state), everything(other)))


def test_history_is_kept_whether_records_or_rows(begin, tmp_path):
    state, loader = begin()
    records = list(train(state, loader, 2))
    save(tmp_path / "a.pt", state, [records[0].as_dict(), records[1]])
    assert load(tmp_path / "a.pt")[1] == rows(records)


def test_a_checkpoint_goes_to_the_asked_device(begin, tmp_path):
    save(tmp_path / "a.pt", begin()[0])
    state, _ = load(tmp_path / "a.pt", torch.device("cpu"))
    assert next(state.generator.parameters()).device == torch.device("cpu")


# Crashes


def test_a_save_that_fails_leaves_the_last_checkpoint_whole(begin, tmp_path, monkeypatch):
    state, loader = begin()
    save(tmp_path / "a.pt", state)
    before = (tmp_path / "a.pt").read_bytes()
    list(train(state, loader, 1))

    def full_disk(path, content):
        with open(path, "wb") as file:
            file.write(content[:1000])
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=r"no room for .*a\.pt: [\d,]+ bytes are needed, [\d,]+ are free"):
        save(tmp_path / "a.pt", state)
    assert (tmp_path / "a.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pt"]
    monkeypatch.undo()
    assert load(tmp_path / "a.pt")[0].step == 0


KILLER = """
import os, signal, sys, time
from pathlib import Path
import torch
from dcganlib import train, zoo
from dcganlib.runtime import checkpoint, files
torch.set_num_threads(1)
folder = Path(sys.argv[1])
slow, run = folder / "slow.bin", folder / "run.pt"
state = train.init_state(*zoo.build("dcgan", image_size=16, channels=1, base_channels=32))
checkpoint.save(run, state)

def slowly(file_name):  # as a slow disk would: pieces of 1 kB, 1 ms apart
    with open(file_name, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1000))
            time.sleep(0.001)

def write_one_file():
    files.write_atomically(slow, slowly)

def save_again_and_again():
    while True:
        state.step += 1
        checkpoint.save(run, state)

def half_written():
    return any(path.stat().st_size > 1000 for path in folder.glob("*slow*"))

def saved_once():
    return run.stat().st_ino != inode

for kill in range(5):
    for work, begun in ((write_one_file, half_written), (save_again_and_again, saved_once)):
        inode = run.stat().st_ino
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(1)
        while not begun():
            time.sleep(0.0005)
        time.sleep(0.007 * kill)  # each time at another point of the work
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert slow.read_bytes() == b"the old content"
        assert checkpoint.load(run)[0].step >= (1 if work is save_again_and_again else 0)
        for rest in folder.glob(".*"):
            rest.unlink()
print("survived")
"""


@pytest.mark.posix("no fork")
def test_a_kill_in_the_middle_of_a_save_leaves_the_last_checkpoint_whole(tmp_path):
    (tmp_path / "slow.bin").write_bytes(OLD)
    code = [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path)]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "survived\n"


# Files that are no checkpoints


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"format": 1, "step": bomb}])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, wrap):
    target = tmp_path / "harm"
    torch.save(wrap(Hostile(str(target))), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt is no checkpoint"):
        load(tmp_path / "a.pt")
    assert not target.exists()


def test_the_refusal_of_a_pickle_is_one_line_and_gives_no_dangerous_advice(tmp_path):
    torch.save(Hostile(str(tmp_path / "harm")), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="no checkpoint") as caught:
        load(tmp_path / "a.pt")
    assert len(str(caught.value).splitlines()) == 1
    assert "weights_only" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.pt"):
        load(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.safetensors"):
        load_generator(tmp_path / "none.safetensors")


def test_a_file_of_another_kind_is_refused_by_name(tmp_path):
    (tmp_path / "a.pt").write_text("hello", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.pt is no checkpoint"):
        load(tmp_path / "a.pt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"b\.pt was not written by dcganlib"):
        load(tmp_path / "b.pt")
    torch.save(torch.zeros(3), tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"b\.pt was not written by dcganlib"):
        load(tmp_path / "b.pt")
    torch.save({"format": 99}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c\.pt has format 99.*reads format 1"):
        load(tmp_path / "c.pt")


def test_a_checkpoint_with_a_part_missing_is_refused_by_name(tmp_path):
    torch.save({"format": 1, "step": 3}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt"):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_refused_by_name(begin, tmp_path, share):
    save(tmp_path / "a.pt", begin()[0])
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"a\.pt is no checkpoint, or is damaged"):
        load(tmp_path / "a.pt")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed(begin, tmp_path):
    save(tmp_path / "a.pt", begin()[0])
    flip_a_bit(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / "a.pt")


# A generator alone


def test_a_generator_comes_back_bit_for_bit_with_what_was_said_about_it(tiny_pair, tmp_path, rng):
    generator, _ = tiny_pair()
    generator(sample_z(32, 8, rng=rng()))  # moves the statistics
    save_generator(tmp_path / "g.safetensors", generator, step=7, config={"data": "discs"})
    assert generator.training
    again, about = load_generator(tmp_path / "g.safetensors")
    assert about == {"step": 7, "config": {"data": "discs"}}
    assert not again.training
    assert again.layers == generator.layers
    z = sample_z(5, 8, rng=rng(1))
    assert torch.equal(generate(again, z), generate(generator, z))


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_every_generator_comes_back(tiny_pair, tmp_path, name, rng):
    generator, _ = tiny_pair(name, latent_dim=6)
    save_generator(tmp_path / "g.safetensors", generator)
    again, about = load_generator(str(tmp_path / "g.safetensors"))
    assert about == {}
    z = sample_z(2, 6, rng=rng(1))
    given = (torch.tensor([3, 1]),) if generator.num_classes else ()
    assert torch.equal(generate(again, z, *given), generate(generator, z, *given))


def test_half_precision_halves_the_file_and_moves_no_pixel_by_a_grey_level(tmp_path, rng):
    generator, _ = zoo.build("dcgan-28", base_channels=16, rng=rng())
    with (
        torch.no_grad()
    ):  # a last layer and statistics as after training, for images that use the whole range
        generator.blocks[-1][0].weight.mul_(5)
        for _ in range(40):
            generator(sample_z(16, rng=rng(2)))
    save_generator(tmp_path / "full.safetensors", generator)
    save_generator(tmp_path / "half.safetensors", generator, half=True)
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert 0.5 < half / full < 0.52
    again, _ = load_generator(tmp_path / "half.safetensors")
    assert all(parameter.dtype == torch.float32 for parameter in again.parameters())
    z = sample_z(16, rng=rng(1))
    expected = generate(generator, z)
    assert expected.std() > 0.1
    error = (generate(again, z) - expected).abs().max()
    assert 0 < error < 2 / 255


def test_the_file_can_be_read_without_dcganlib(tiny_pair, tmp_path):
    generator, _ = tiny_pair()
    save_generator(tmp_path / "g.safetensors", generator)
    tensors = load_file(tmp_path / "g.safetensors")
    assert tensors.keys() == generator.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in generator.state_dict().items())


def test_other_safetensors_are_refused_by_name(tiny_pair, tmp_path):
    path = tmp_path / "a.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
        with pytest.raises(ValueError, match=r"a\.safetensors was not written by dcganlib"):
            load_generator(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={"dcganlib": json.dumps({"format": 99})})
    with pytest.raises(ValueError, match=r"has format 99.*reads format 1"):
        load_generator(path)
    save_generator(path, tiny_pair()[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.safetensors is no safetensors file, or is damaged"):
        load_generator(path)
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.safetensors is no safetensors file, or is damaged"):
        load_generator(path)


def test_weights_that_do_not_fit_their_description_are_refused_by_name(tiny_pair, tmp_path):
    generator, _ = tiny_pair()
    description = {"image_size": 16, "channels": 1, "latent_dim": 8}
    description["layers"] = [asdict(layer) for layer in generator.layers]
    header = {"dcganlib": json.dumps({"format": checkpoint.FORMAT, "generator": description, "about": {}})}
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors", metadata=header)
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        load_generator(tmp_path / "a.safetensors")


# Files whose checksum is right and whose content is not


@pytest.fixture
def forge(begin, tmp_path):
    """Write a checkpoint after two steps, its content edited: ``forge(edit)``."""
    state, loader = begin()
    history = list(train(state, loader, 2))
    save(tmp_path / "whole.pt", state, history)

    def write(edit):
        content = torch.load(tmp_path / "whole.pt", weights_only=True)
        edit(content)
        archive = io.BytesIO()
        torch.save(content, archive)
        (tmp_path / "forged.pt").write_bytes(checkpoint._sealed(archive))
        return tmp_path / "forged.pt"

    load(write(lambda content: None))
    return write


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.update(step="2"), "the step is '2'"),
        (lambda c: c.update(step=torch.ones(3)), "the step is tensor"),
        (lambda c: c.update(step=-1), "the step is -1"),
        (lambda c: c.update(history={}), "the history is {}"),
        (lambda c: c["history"].append(3), "a row of the history is 3"),
        (lambda c: c["history"][0].update(d_loss=None), "a row of the history is {'step': 1"),
        (lambda c: c.update(format=torch.ones(3)), "its format is no number"),
        (lambda c: c.update(format=True), "its format is no number"),
        (lambda c: c["config"].update(batch_size=4.5), "batch_size must be a whole number"),
        (lambda c: c["optimizers"][0]["state"].pop(0), r"Adam has moments of \d parameters, not of \d"),
        (
            lambda c: c["optimizers"][0]["state"][0].update(more=torch.ones(1, dtype=torch.complex64)),
            "Adam has moments that it does not use: more",
        ),
        (
            lambda c: c["optimizers"][1]["state"][0].update(exp_avg=torch.ones(3)),
            r"exp_avg has shape \(3,\), not",
        ),
        (lambda c: c["optimizers"][1]["param_groups"][0].update(lr=torch.ones(2)), "Adam's lr is tensor"),
        (lambda c: c["optimizers"][1]["param_groups"][0].update(betas=0.5), "Adam's betas is 0.5"),
        (
            lambda c: c["optimizers"][0]["param_groups"][0].update(differentiable=True),
            "Adam's differentiable is True",
        ),
        (
            lambda c: c["optimizers"][0]["param_groups"][0].update(maximize=torch.ones(2)),
            "Adam's maximize is tensor",
        ),
        (
            lambda c: c["optimizers"][1]["param_groups"][0].update(fused=torch.ones(2)),
            "Adam's fused is tensor",
        ),
        (
            lambda c: c["optimizers"][1]["param_groups"][0].update(decoupled_weight_decay=True),
            "Adam's decoupled_weight_decay is True",
        ),
        (lambda c: c["generator"]["layers"][0].update(channels=2**40), "has shape"),
        (
            lambda c: c["discriminator"]["layers"][0].update(slope=torch.ones(1)),
            "slope must be a number, got",
        ),
        (lambda c: c["generator"]["layers"][0].update(channels=10**30), "incomplete or from another version"),
    ],
)
def test_a_value_of_another_kind_or_size_is_refused_by_name(forge, edit, words):
    path = forge(edit)
    with pytest.raises(ValueError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused(forge, tmp_path):
    archive = io.BytesIO()
    whole = zipfile.ZipFile(forge(lambda content: None))
    with whole, zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
        packed.writestr("archive/data/99", bytes(10**7))
    (tmp_path / "bomb.pt").write_bytes(checkpoint._sealed(archive))
    with pytest.raises(
        checkpoint.DamagedError, match=r"bomb\.pt is no checkpoint, or is damaged \(BadZipFile\)"
    ):
        load(tmp_path / "bomb.pt")


def test_a_header_that_nests_too_deep_or_asks_for_any_memory_is_refused_by_name(tiny_pair, tmp_path):
    path = tmp_path / "a.safetensors"
    save_generator(path, tiny_pair()[0])
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")

    def rewritten(header):
        made = len(header).to_bytes(8, "little") + header + content[8 + length :]
        told = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["dcganlib"])["sha256"]
        made = made.replace(told.encode(), checkpoint.BLANK.encode())
        return made.replace(checkpoint.BLANK.encode(), sha256(made).hexdigest().encode(), 1)

    header = json.loads(content[8 : 8 + length])
    about = json.loads(header["__metadata__"]["dcganlib"])
    about["generator"]["layers"][0]["channels"] = 2**40
    huge = {**header, "__metadata__": {"dcganlib": json.dumps(about)}}
    deep = {**header, "__metadata__": {"dcganlib": "[" * 10**5}}
    for changed, words in ((huge, "has shape"), (deep, "is damaged: maximum recursion")):
        path.write_bytes(rewritten(json.dumps(changed).encode()))
        with pytest.raises(ValueError, match=words) as caught:
            load_generator(path)
        assert str(path) in str(caught.value)
    path.write_bytes(rewritten(b"[" * 10**5))
    with pytest.raises(checkpoint.DamagedError, match=r"a\.safetensors is no safetensors file"):
        load_generator(path)


def test_loading_leaves_torchs_own_randomness_alone(begin, tmp_path):
    state, _ = begin()
    save(tmp_path / "a.pt", state)
    before = torch.get_rng_state()
    load(tmp_path / "a.pt")
    assert torch.equal(torch.get_rng_state(), before)
