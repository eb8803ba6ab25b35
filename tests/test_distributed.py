"""Several processes train one pair of networks: what they learn, what they write, and how they end."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dcganlib import datasets, models, runs, train, zoo
from dcganlib.__main__ import main
from dcganlib.config import TrainConfig
from dcganlib.runtime import checkpoint, distributed, files
from dcganlib.runtime.device import pick_device
from dcganlib.runtime.randomness import fork_rng

ROOT = Path(__file__).parent.parent
LOCAL = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
LOCAL["RES_OPTIONS"] = "attempts:1 timeout:1"  # where hosts have no name, nobody waits for one
LOCAL["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = (
    "1"  # else a restarted group may read its forerunner's addresses
)
NAMED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")

pytestmark = [
    pytest.mark.usefixtures("quick_curves"),
    pytest.mark.skipif(sys.platform != "linux", reason="forks processes, and reads Linux's tables of them"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # of a process that may have threads
]


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """This process is in no group, whatever started it."""
    for name in NAMED:
        monkeypatch.delenv(name, raising=False)


@dataclass
class Answer:
    """How one process of a group ended: exit code, what its work gave back, what it said."""

    code: int
    found: Any
    out: str
    err: str


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _live(work, folder, variables):
    os.environ.update(variables)
    rank = variables["RANK"]
    with (
        open(folder / f"{rank}.out", "w", encoding="utf-8") as sys.stdout,
        open(folder / f"{rank}.err", "w", encoding="utf-8") as sys.stderr,
    ):
        os.dup2(sys.stderr.fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            torch.save(work(), folder / f"{rank}.pt")
        except BaseException:
            traceback.print_exc()
            os._exit(1)


@pytest.fixture
def together(tmp_path_factory):
    """Let forks of this process do something as a group: ``together(work, size=2)``, an answer from each."""

    def start(work, size=2, local=None, **variables):
        folder, port = tmp_path_factory.mktemp("group"), free_port()
        told = LOCAL | {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        processes = []
        for rank in range(size):
            own = {"RANK": str(rank), "LOCAL_RANK": str((local or range(size))[rank])}
            process = multiprocessing.get_context("fork").Process(
                target=_live, args=(work, folder, told | own | variables)
            )
            process.start()
            processes.append(process)
        answers = []
        for rank, process in enumerate(processes):
            process.join(300)  # on a busy machine; else it takes seconds
            stuck = process.is_alive()
            if stuck:
                process.kill()
                process.join()
            out, err, found = (folder / f"{rank}.{end}" for end in ("out", "err", "pt"))
            assert not stuck, f"process {rank} hangs; it said {err.read_text(encoding='utf-8')}"
            result = torch.load(found, weights_only=True) if found.exists() else None
            answers.append(
                Answer(
                    process.exitcode, result, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
                )
            )
        return answers

    return start


def joined(work):
    """The same work, as part of the group."""

    def inside():
        with distributed.process_group():
            return work()

    return inside


def found_by(answers):
    assert [answer.code for answer in answers] == [0] * len(answers), answers[0].err + answers[-1].err
    return [answer.found for answer in answers]


def command(folder, out, *more, steps=8, batch=4):
    words = ["train", str(folder), "--image-size", "16", "--channels", "1", "--base-channels", "4"]
    words += ["--batch-size", str(batch), "--steps", str(steps), "--checkpoint-every", "4"]
    return [*words, "--sample-every", "3", "--device", "cpu", "--out", str(out), *more]


# What is learned


def networks(norm, num_classes=0):
    """A pair for grey 16-pixel images, with batch norm or with none."""
    pair = zoo.build("dcgan", image_size=16, channels=1, base_channels=2, latent_dim=8)
    if not norm:
        g_layers, d_layers = ([replace(layer, norm=None) for layer in network.layers] for network in pair)
        pair = (
            models.Generator(16, 1, 2, 8, layers=g_layers, num_classes=num_classes),
            models.Discriminator(16, 1, 2, layers=d_layers, num_classes=num_classes),
        )
    for number, network in enumerate(pair):
        models.init_weights(network, torch.Generator().manual_seed(number))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(5)  # so that no gradient is tiny
    return pair


def after(steps, images, *, norm=True, labels=None, adam=False, **options):
    """Train on this process's part of each batch of 8: records, then gradients and weights."""
    torch.manual_seed(0)
    state = train.init_state(
        *networks(norm, 0 if labels is None else 2),
        TrainConfig(batch_size=8, seed=2, precision="float32", **options),
    )
    if not adam:  # whose first steps turn on the sign of a gradient, so on its last bit where that is 0
        state.g_optimizer = torch.optim.SGD(state.generator.parameters(), 0.1)
        state.d_optimizer = torch.optim.SGD(state.discriminator.parameters(), 0.1)
    loader = datasets.make_loader(images, 8, labels=labels, rng=torch.Generator().manual_seed(1))
    rows = [list(record.as_dict().values()) for record in train.train(state, loader, steps)]
    weights = [*state.generator.parameters(), *state.discriminator.parameters()]
    return torch.tensor(rows), [w.grad.clone() for w in weights], [w.detach().clone() for w in weights]


def apart(first, second):
    """The largest difference, over the largest value."""
    pairs = list(zip(first, second, strict=True))
    return max(float((a - b).abs().max()) for a, b in pairs) / max(float(a.abs().max()) for a, _ in pairs)


@pytest.mark.parametrize("by_class", [False, True])
def test_two_processes_take_the_gradients_of_one(together, tiny_images, by_class):
    labels = torch.arange(20) % 2 if by_class else None
    rows, gradients, weights = after(3, tiny_images, norm=False, labels=labels)
    assert min(float(gradient.abs().max()) for gradient in gradients) > 1e-5  # both networks learn
    answers = together(joined(lambda: after(3, tiny_images, norm=False, labels=labels)))
    for other_rows, other_gradients, other_weights in found_by(answers):
        assert apart(gradients, other_gradients) < 1e-6
        assert apart(weights, other_weights) < 1e-6
        assert torch.allclose(rows, other_rows, rtol=0, atol=1e-6)


def test_two_processes_take_the_gradients_of_one_with_penalties_pairs_and_several_steps_of_d(
    together, tiny_images
):
    options = {"norm": False, "loss": "relativistic", "r1": 0.1, "r2": 0.2, "d_steps": 2}
    rows, gradients, weights = after(2, tiny_images, **options)
    answers = together(joined(lambda: after(2, tiny_images, **options)))
    for other_rows, other_gradients, other_weights in found_by(answers):
        assert apart(gradients, other_gradients) < 1e-5
        assert apart(weights, other_weights) < 1e-5
        assert torch.allclose(rows, other_rows, rtol=0, atol=1e-5)


def test_with_batch_norm_they_do_not(together, tiny_images):
    """Each process takes mean and variance of its own share: of 4 images here, in place of all 8."""
    _, gradients, _ = after(1, tiny_images)
    (_, first, _), (_, second, _) = found_by(together(joined(lambda: after(1, tiny_images))))
    assert apart(gradients, first) > 1e-3
    assert apart(first, second) == 0  # and yet they agree with each other


def test_all_processes_keep_the_same_weights_and_see_the_same_losses(together, tiny_images):
    first, second = found_by(together(joined(lambda: after(6, tiny_images, adam=True))))
    assert torch.equal(first[0], second[0])
    assert all(map(torch.equal, first[2], second[2]))


def test_each_process_drops_other_units_and_the_first_the_same_as_alone(together):
    def draw():
        with fork_rng(torch.Generator().manual_seed(3), torch.device("cpu")):
            return torch.rand(4)

    first, second = found_by(together(joined(draw)))
    assert torch.equal(first, draw())
    assert not torch.equal(first, second)


def test_a_process_by_itself_trains_the_networks_as_they_are(tiny_pair):
    state = train.init_state(*tiny_pair())
    assert state.ddp_modules == (state.generator, state.discriminator)
    assert (
        distributed.rank(),
        distributed.world_size(),
        distributed.per_rank_batch_size(5),
        distributed.all_reduce_max(7),
    ) == (0, 1, 5, 7)


# What is read


def shards(images, epochs=2, start=1):
    labels = torch.arange(len(images))
    loader = datasets.make_loader(images, 6, labels=labels, rng=torch.Generator().manual_seed(4))
    return [[chosen for _, chosen in loader.epoch(epoch, start=start)] for epoch in range(epochs)]


def test_the_shards_are_disjoint_and_together_the_order_of_one_process(together, tiny_images):
    answers = found_by(together(joined(lambda: shards(tiny_images)), size=3))
    whole = shards(tiny_images)
    assert [len(epoch) for epoch in whole] == [2, 2]
    for epoch, batches in enumerate(whole):
        for number, batch in enumerate(batches):
            parts = [answer[epoch][number] for answer in answers]
            assert [len(part) for part in parts] == [2, 2, 2]
            assert torch.equal(torch.cat(parts), batch)


def test_a_mapped_set_is_not_copied_and_only_the_share_is_read(together, image_folder, monkeypatch):
    found = datasets.load(image_folder, image_size=16, channels=1)
    read = []
    plain = datasets.to_float
    noting = lambda images: read.append(len(images)) or plain(images)  # noqa: E731
    monkeypatch.setattr("dcganlib.datasets.loader.to_float", noting)

    def work():
        loader = datasets.make_loader(found.images, 8)
        return loader.images.data_ptr() == found.images.data_ptr(), len(list(loader)), read

    assert found_by(together(joined(work))) == [(True, 2, [4, 4])] * 2


def test_a_set_too_large_for_the_device_stays_where_it_is(tiny_images, monkeypatch):
    labels = torch.arange(20)
    assert datasets.make_loader(tiny_images, 4, labels=labels, device="meta").images.device.type == "meta"
    monkeypatch.setattr("dcganlib.datasets.loader._has_room", lambda device, size: False)
    loader = datasets.make_loader(tiny_images, 4, labels=labels, device="meta")
    assert (loader.images.device.type, loader.labels.device.type) == ("cpu", "cpu")
    assert [(real.device.type, label.device.type) for real, label in loader] == [("meta", "meta")] * 5


def test_a_last_batch_that_is_smaller_is_refused(together, tiny_images):
    def work():
        with pytest.raises(ValueError, match="the last batch, of 2 images, would weigh as much"):
            datasets.make_loader(tiny_images, 6, drop_last=False)
        return len(datasets.make_loader(tiny_images, 4, drop_last=False))

    assert found_by(together(joined(work))) == [5, 5]


def test_the_first_process_loads_then_one_a_machine_then_the_rest(together, tmp_path):
    def work():
        def load():
            time.sleep(0.1 * (distributed.rank() == 0))
            with open(tmp_path / "log", "a", encoding="utf-8") as log:
                log.write(f"{distributed.rank()}")
            return distributed.rank()

        return distributed.main_process_first(load)

    assert found_by(together(joined(work), size=4, local=[0, 1, 0, 1])) == [0, 1, 2, 3]
    order = (tmp_path / "log").read_text(encoding="utf-8")
    assert (order[:2], sorted(order[2:])) == ("02", ["1", "3"])


# Errors


def told(answers):
    return [line for answer in answers for line in answer.err.splitlines() if "error:" in line]


def test_a_batch_that_does_not_divide_is_refused_by_all_and_told_once(together, image_folder, tmp_path):
    answers = together(lambda: main(command(image_folder, tmp_path / "run", batch=5)))
    assert found_by(answers) == [2, 2]
    said = "batch_size 5 cannot be shared evenly by 2 processes: use a multiple of 2, such as 4 or 6"
    assert told(answers) == [f"dcganlib: error: {said}"]
    assert not (tmp_path / "run").exists()


def test_a_setting_out_of_range_is_told_once(together, image_folder, tmp_path):
    answers = together(lambda: main(command(image_folder, tmp_path / "run", "--beta1", "2")))
    assert found_by(answers) == [2, 2]
    assert told(answers) == ["dcganlib: error: beta1 must be from 0 to below 1, got 2.0"]


def test_a_used_folder_ends_all_though_only_the_first_looks(together, image_folder, tmp_path):
    (tmp_path / "mine.txt").write_text("", encoding="utf-8")
    answers = together(lambda: main(command(image_folder, tmp_path)))
    assert found_by(answers) == [2, 2]
    assert len(told(answers)) == 1
    assert "is there already" in told(answers)[0]


def test_data_that_one_machine_lacks_end_all(together, image_folder, tmp_path):
    def work():
        own = image_folder if os.environ["RANK"] == "0" else tmp_path / "nothing"
        return main(command(own, tmp_path / "run"))

    answers = together(work)
    assert found_by(answers) == [2, 2]
    assert told(answers)[0].endswith(f"the datasets are {', '.join(datasets.names())}")
    assert len(told(answers)) == 1
    assert told(answers[1:])  # by the one that lacks them
    assert not (tmp_path / "run").exists()


def test_an_error_is_heard_wherever_the_others_are(together):
    """One fails early, another is already where the first process shares what it found."""

    def work():
        try:
            with distributed.raise_on_all_ranks():
                if distributed.rank() == 2:
                    raise FileNotFoundError("a file")
                distributed.main_process_first(lambda: None)
                with distributed.raise_on_all_ranks():
                    distributed.broadcast_from_rank0(lambda: 1)
        except OSError as error:
            return type(error).__name__, str(error)

    heard = ("OtherRankError", "process 2 of 3 has failed: FileNotFoundError: a file")
    assert found_by(together(joined(work), size=3)) == [heard, heard, ("FileNotFoundError", "a file")]


def test_a_disk_that_fills_up_ends_all(together, image_folder, tmp_path, monkeypatch):
    plain = checkpoint.save

    def save(path, state, *rest, **options):
        if state.step:
            raise files.no_room(Path(path), "1,000")
        plain(path, state, *rest, **options)

    monkeypatch.setattr(checkpoint, "save", save)
    answers = together(lambda: main(command(image_folder, tmp_path / "run")))
    assert found_by(answers) == [2, 2]
    assert len(told(answers)) == 1
    assert "no room for" in told(answers)[0]


def test_batch_norm_cannot_be_synchronised_on_the_cpu(together, image_folder, tmp_path):
    answers = together(lambda: main(command(image_folder, tmp_path / "run", "--sync-batch-norm")))
    assert found_by(answers) == [2, 2]
    assert [line for line in told(answers) if "sync_batch_norm needs GPUs" in line] == told(answers)[:1]


def test_a_run_with_synchronised_batch_norm_goes_on_on_the_cpu_in_one_process_alone(
    together, image_folder, tmp_path
):
    out = tmp_path / "run"
    assert main(command(image_folder, out, "--sync-batch-norm", steps=1)) == 0
    words = ["resume", str(out), "--steps", "2", "--device", "cpu"]
    answers = together(lambda: main(words))
    assert found_by(answers) == [2, 2]
    assert told(answers)[0].startswith("dcganlib: error: sync_batch_norm needs GPUs")
    assert main(words) == 0


def test_a_process_by_itself_need_not_synchronise_batch_norm(tiny_pair):
    generator, discriminator = tiny_pair()
    kinds = {type(module) for module in generator.modules()}
    train.init_state(generator, discriminator, TrainConfig(sync_batch_norm=True, fast=False))
    assert {type(module) for module in generator.modules()} == kinds


def refusals(*names):
    """What a group is told that asks for each of these devices in turn."""

    def work():
        told = []
        for name in names:
            with pytest.raises(ValueError, match=" ") as caught:
                distributed.local_device(torch.device(name))
            told.append(str(caught.value))
        return told

    return joined(work)


def test_each_process_takes_the_gpu_of_its_number(together, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)

    def work():
        return [str(distributed.local_device(torch.device("cuda"))), *taken]

    assert found_by(together(joined(work))) == [["cuda:0", 0], ["cuda:1", 1]]


def test_devices_that_a_group_cannot_train_on_are_refused_by_all(together, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    told = found_by(together(refusals("cuda:0", "mps", "cuda")))
    for rank, (first, second, none) in enumerate(told):
        assert first.startswith("device must be cpu or cuda in a group")
        assert (first[-10:], second[-7:]) == ("got cuda:0", "got mps")
        assert none.startswith(f"process {rank} of this machine has no GPU of its own, there are 0")


def test_machines_of_two_kinds_are_refused(together):
    def work():
        with pytest.raises(ValueError, match="some processes have cpu and others cuda: pass device cpu"):
            distributed.local_device(torch.device(("cpu", "cuda")[distributed.rank()]))

    found_by(together(joined(work)))


def test_a_group_on_machines_with_mps_alone_trains_on_the_cpu_where_nothing_was_asked_for(
    together, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert str(pick_device("auto")) == "mps"
    work = joined(lambda: str(distributed.local_device(pick_device("auto"))))
    assert found_by(together(work)) == ["cpu", "cpu"]


def test_batch_norm_becomes_the_synchronised_one_in_place(together, tiny_pair, monkeypatch):
    """The same weights and names, so the same files; the average is drawn by one process and has none."""
    monkeypatch.setattr(distributed, "check_sync_batch_norm", lambda device: None)  # which refuses the CPU

    def work():
        generator, discriminator = tiny_pair()
        names = list(generator.state_dict())
        weights = {name: id(parameter) for name, parameter in generator.named_parameters()}
        config = TrainConfig(sync_batch_norm=True, precision="float32", fast=False, ema=0.9)
        state = train.init_state(generator, discriminator, config)
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in generator.modules())
        assert not any(type(module) is torch.nn.BatchNorm2d for module in discriminator.modules())
        assert list(generator.state_dict()) == names == list(state.ema_generator.state_dict())
        assert {name: id(parameter) for name, parameter in generator.named_parameters()} == weights

    found_by(together(joined(work)))


# A run


@pytest.fixture
def seen(monkeypatch):
    """Which images each batch of a run had, in order, as lists of their sums: ``seen()`` afterwards."""
    batches, plain = [], datasets.to_float

    def noting(images):
        batches.append(images.long().mul(torch.arange(1, 257).view(1, 16, 16)).sum((1, 2, 3)).tolist())
        return plain(images)

    monkeypatch.setattr("dcganlib.datasets.loader.to_float", noting)

    def take():
        found = [batch for batch in batches if len(batch) < 20]  # not the sheet of real images
        batches.clear()
        return found

    return take


def merged(parts):
    return [sum(batches, []) for batches in zip(*parts, strict=True)]


def test_only_the_first_process_writes_and_speaks(together, image_folder, tmp_path, monkeypatch):
    writers, plain = tmp_path / "writers", files.write_atomically

    def write(path, *rest, **options):
        with open(writers, "a", encoding="utf-8") as log:
            log.write(f"{distributed.rank()} {Path(path).name}\n")
        plain(path, *rest, **options)

    monkeypatch.setattr(files, "write_atomically", write)
    out = tmp_path / "run"
    answers = together(lambda: main(command(image_folder, out, "--ema", "0.5")))
    assert found_by(answers) == [0, 0]
    assert {line.split()[0] for line in writers.read_text(encoding="utf-8").splitlines()} == {"0"}
    assert "2 processes, 2 images each, 4 in a step" in answers[0].err
    assert answers[0].out.startswith(f"wrote {out}")
    assert (answers[1].out, answers[1].err) == ("", "")
    found = runs.read(out)
    assert [row["step"] for row in found.history] == list(range(1, 9))
    assert not (out / files.LOCK).exists()
    assert (out / "ema.gif").is_file()
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["train"]["batch_size"] == 4


@pytest.mark.parametrize(("before", "afterwards"), [(1, 2), (2, 1), (2, 4)])
def test_a_run_goes_on_with_another_number_of_processes(
    together, image_folder, tmp_path, seen, before, afterwards
):
    """In the middle of an epoch of 5 batches: the images come in the order of a run of one process."""

    def in_group(size, words):
        def work():
            code = main(words)
            return code, seen()

        found = found_by(together(work, size=size))
        assert {code for code, _ in found} == {0}
        return merged([batches for _, batches in found])

    assert main(command(image_folder, tmp_path / "whole")) == 0
    whole = seen()
    assert len(whole) == 8
    out = tmp_path / "parts"
    parts = in_group(before, command(image_folder, out, steps=3))
    parts += in_group(afterwards, ["resume", str(out), "--steps", "8", "--device", "cpu"])
    assert parts == whole
    assert checkpoint.load(out / "checkpoint.pt")[0].step == 8


def test_the_others_need_not_see_the_folder_to_go_on(together, image_folder, tmp_path):
    """As on machines that share no disk."""
    out = tmp_path / "run"
    assert main(command(image_folder, out, steps=3)) == 0

    def work():
        own = out if os.environ["RANK"] == "0" else tmp_path / "nowhere"
        return main(["resume", str(own), "--steps", "5", "--device", "cpu"])

    answers = together(work)
    assert found_by(answers) == [0, 0]


def in_step(step, event):
    """Let something happen in the middle of a step of process 1."""
    counted = []
    plain = train.discriminator_step

    def discriminator_step(*rest, **options):
        counted.append(1)
        if len(counted) == step and distributed.rank() == 1:
            event()
        return plain(*rest, **options)

    return discriminator_step


def test_a_signal_to_one_process_stops_all_after_the_same_step(together, image_folder, tmp_path, monkeypatch):
    event = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    monkeypatch.setattr(train, "discriminator_step", in_step(6, event))
    out = tmp_path / "run"
    answers = together(lambda: main(command(image_folder, out)))
    assert found_by(answers) == [143, 143]
    assert answers[0].err.count("stopped after step 6, all saved") == 1
    assert answers[1].err == ""
    assert checkpoint.load(out / "checkpoint.pt")[0].step == 6
    monkeypatch.undo()
    assert runs.resume(out, device="cpu") == out


def test_a_killed_process_ends_the_others_with_the_last_checkpoint_whole(
    together, image_folder, tmp_path, monkeypatch
):
    event = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    monkeypatch.setattr(train, "discriminator_step", in_step(7, event))
    out = tmp_path / "run"
    begun = time.monotonic()
    first, second = together(lambda: main(command(image_folder, out)))
    assert time.monotonic() - begun < 60
    assert second.code == -signal.SIGKILL
    assert first.found == 2
    assert "error: process 0 of 2 has lost the others" in first.err
    assert (checkpoint.load(out / "checkpoint.pt")[0].step, len(runs.read(out).history)) == (4, 4)
    assert not (out / files.LOCK).exists()


def test_a_group_that_is_started_again_goes_on_with_its_run(together, image_folder, tmp_path, monkeypatch):
    event = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    words = command(image_folder, tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(train, "discriminator_step", in_step(7, event))
        assert together(lambda: main(words))[1].code == -signal.SIGKILL
    assert found_by(together(lambda: main(words))) == [2, 2]  # by hand: the folder is used
    assert found_by(together(lambda: main(words), TORCHELASTIC_RESTART_COUNT="1")) == [0, 0]
    whole = tmp_path / "whole"
    assert found_by(together(lambda: main(command(image_folder, whole)))) == [0, 0]
    for name in ("history.csv", "generator.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def test_a_group_that_is_started_again_begins_anew_where_nothing_was_saved(together, image_folder, tmp_path):
    words = command(image_folder, tmp_path / "run", steps=1)
    assert found_by(together(lambda: main(words))) == [0, 0]
    (tmp_path / "run" / "checkpoint.pt").unlink()
    (tmp_path / "run" / "checkpoint-previous.pt").unlink()
    assert found_by(together(lambda: main(words), TORCHELASTIC_RESTART_COUNT="1")) == [0, 0]
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")[0].step == 1


def test_a_group_that_is_started_again_leaves_other_runs_alone(together, image_folder, tmp_path):
    out = tmp_path / "run"
    assert found_by(together(lambda: main(command(image_folder, out, steps=1)))) == [0, 0]
    before = (out / "checkpoint.pt").read_bytes()
    words = command(image_folder, out, "--seed", "1", steps=1)
    answers = together(lambda: main(words), TORCHELASTIC_RESTART_COUNT="1")
    assert found_by(answers) == [2, 2]
    assert "is there already" in told(answers)[0]
    assert (out / "checkpoint.pt").read_bytes() == before


def test_a_restart_on_one_machine_is_known_to_all(together):
    """torchrun counts it only where the process failed."""

    def work():
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(distributed.rank())
        return distributed.is_restart()

    assert found_by(together(joined(work))) == [True, True]


# torchrun


def torchrun(*words):
    return [sys.executable, "-m", "torch.distributed.run", *words]


@contextmanager
def started(words, log, **options):
    """A command that is ended with all that it started, whatever happens."""
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=os.environ | LOCAL | options,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun ends its own
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(event, log, seconds=300):
    end = time.monotonic() + seconds
    while not event():
        assert time.monotonic() < end, log.read_text(encoding="utf-8")
        time.sleep(0.05)


def holder(out):
    """The process that writes into a folder."""
    try:
        return int((out / files.LOCK).read_text(encoding="utf-8").split()[1])
    except (FileNotFoundError, IndexError):
        return 0


def begun(out, steps):
    def look():
        try:
            return len((out / "history.csv").read_text(encoding="utf-8").splitlines()) > steps
        except FileNotFoundError:
            return False

    return look


def test_torchrun_starts_a_killed_group_again_and_passes_a_signal_on(image_folder, tmp_path):
    """Killed at some step, the run goes on from its checkpoint; stopped, from where it stands."""
    out, log = tmp_path / "run", tmp_path / "log"
    words = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m", "dcganlib"]
    with started(torchrun(*words, *command(image_folder, out, steps=100_000)), log) as process:
        wait_for(begun(out, 4), log)
        first, kept = holder(out), checkpoint.load(out / "checkpoint.pt")[0].step
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: holder(out) not in (0, first) and begun(out, kept + 5)(), log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) != 0
    said = log.read_text(encoding="utf-8")
    state, _ = checkpoint.load(out / "checkpoint.pt")
    assert f"stopped after step {state.step}, all saved" in said
    assert said.count("2 processes, 2 images each, 4 in a step") == 2
    assert "is there already" not in said
    assert state.step > kept
    assert [row["step"] for row in runs.read(out).history] == list(range(1, state.step + 1))
    runs.resume(out, steps=state.step + 1, device="cpu")


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)


@pytest.fixture
def two_hosts():
    """Two network namespaces with a cable between them: names and addresses."""
    if shutil.which("ip") is None:
        pytest.skip("two hosts need the command ip (iproute2)")
    names = [f"dcgan{os.getpid()}{side}" for side in "ab"]
    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        made = ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "eth0", "netns", names[1])
        if made.returncode:
            pytest.skip(f"no cable can be laid between two namespaces here: {made.stderr.strip()}")
        for number, name in enumerate(names, start=1):
            for words in (
                ("addr", "add", f"10.77.0.{number}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
            ):
                done = ip("-n", name, *words)
                assert done.returncode == 0, done.stderr
        yield [(name, f"10.77.0.{number}") for number, name in enumerate(names, start=1)]
    finally:
        for name in names:
            ip("netns", "del", name)


def test_two_hosts_train_together(two_hosts, image_folder, tmp_path):
    """Through torchrun's rendezvous, and a cable of which nothing else is told."""
    out, address = tmp_path / "run", two_hosts[0][1]
    logs = [tmp_path / f"log{number}" for number in (0, 1)]
    words = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "x"]
    words += ["--rdzv-endpoint", f"{address}:29400"]
    run = ["-m", "dcganlib", *command(image_folder, out, steps=4)]
    launches = [
        [*("ip", "netns", "exec", name), *torchrun(*words, "--rdzv-conf", conf, "--local-addr", own, *run)]
        for (name, own), conf in zip(two_hosts, ("is_host=1", "is_host=0"), strict=True)
    ]
    with (
        started(launches[0], logs[0], GLOO_SOCKET_IFNAME="eth0") as first,
        started(launches[1], logs[1], GLOO_SOCKET_IFNAME="eth0") as second,
    ):
        codes = first.wait(300), second.wait(300)
    said = logs[0].read_text(encoding="utf-8") + logs[1].read_text(encoding="utf-8")
    assert codes == (0, 0), said
    assert said.count("2 processes, 2 images each, 4 in a step") == 1
    assert [row["step"] for row in runs.read(out).history] == list(range(1, 5))
