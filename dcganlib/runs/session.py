"""Training into a folder: a new run, a resumed one, and one that torchrun restarts, through ``open_session``.

Everything about the processes of a group is here: all of them train, and only the first writes.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import torch
from tqdm.auto import tqdm

from dcganlib import datasets, zoo
from dcganlib.config import DEFAULT_EPOCHS, ResolvedRunConfig, RunConfig
from dcganlib.runs import folder as run_folder
from dcganlib.runs import monitor, preflight, report
from dcganlib.runs.context import (
    Collapsed,
    Stopped,
    catch_signals,
    explain_compile_errors,
    rng_for,
    torch_defaults,
)
from dcganlib.runtime import checkpoint, distributed, files
from dcganlib.runtime.device import pick_device, resolve
from dcganlib.runtime.step_metrics import check_finite
from dcganlib.runtime.train_checks import check_length, check_loader
from dcganlib.train import StepMetrics, TrainState, init_state, train

REPORT_EVERY = 20  # steps between two checks of the losses, each of which waits for a GPU


@torch_defaults()
def run(
    config: RunConfig,
    out: str | Path | None = None,
    *,
    root: str | Path | None = None,
    device: str = "auto",
) -> Path:
    """Train from the beginning, into a new folder.

    Under torchrun all processes train and the first one writes; see ``runtime.distributed``. A group that
    torchrun has restarted after a failure resumes its run, if the folder holds one with the same
    configuration.

    After Ctrl-C, SIGTERM or SIGHUP the current step is completed and saved; a second signal interrupts at
    once, and the run can be resumed from its last checkpoint. The losses are checked at each step on the CPU
    and every 20 steps on a GPU. A run whose losses or weights are no longer finite stops and keeps its last
    finite checkpoint. A run that fails before its first step is complete leaves no folder.

    Args:
        config: The run.
        out: The run's folder. Default: ``runs/DATA-ARCHITECTURE``.
        root: Folder of the datasets, as for ``datasets.load``.
        device: As for ``device.pick_device``.

    Returns:
        The run's folder.

    Raises:
        ValueError, FileNotFoundError: The data or the networks are invalid, or the folder
            already holds a run. Raised before any training.
        ValueError: The networks cannot be compiled, for example without a C++ compiler.
        OSError: Nothing can be written there, the disk is too full, or another process is writing there.
        FloatingPointError: A loss or a weight is NaN or infinite; the message names it, the step and
            the likely cause.
        MemoryError: The networks or a step do not fit into the device's memory.
        Stopped: A signal stopped the run.
        Collapsed: The samples have collapsed, and ``config.stop_when_collapsed`` is set.
    """
    with distributed.process_group():
        with distributed.raise_on_all_ranks():
            config = _with_networks(config)
            name = f"{datasets.title(config.data.data)}-{config.model.architecture}"
            folder = files.expand_user(out) if out else Path("runs", name)
        with open_session(Request(folder, config, root, device)) as session:
            session.advance()
    return folder


@torch_defaults()
def resume(
    folder: str | Path,
    *,
    steps: int | None = None,
    data: str | Path | None = None,
    root: str | Path | None = None,
    device: str = "auto",
) -> Path:
    """Resume a run from its last checkpoint, as if it had never stopped; under torchrun with all processes.

    If the last checkpoint is damaged, it is set aside, and the one before is used, with a warning. If the
    dataset has changed since the run began, that is a warning too.

    Args:
        folder: The run's folder.
        steps: New length of the run, counted from its start. Default: the run's own.
        data: Where the run's images are now, if they were moved; kept with the run.
        root: Folder of the datasets, as for ``datasets.load``.
        device: As for ``device.pick_device``.

    Returns:
        The folder.

    Raises:
        ValueError, FileNotFoundError: The folder holds no run that can be resumed, the data are missing,
            or their classes differ from those that the run was trained on.
        OSError, FloatingPointError, MemoryError, Stopped, Collapsed: As ``run`` does.
    """
    folder = files.expand_user(folder)
    with distributed.process_group():
        with distributed.raise_on_all_ranks():
            config = distributed.broadcast_from_rank0(lambda: run_folder.read_config(folder))
            config = run_folder.moved(config, data)
            config = config if steps is None else replace(config, steps=steps)
        with open_session(Request(folder, config, root, device)) as session:
            session.advance()
    return folder


def _with_networks(config: RunConfig) -> RunConfig:
    """Fill in what follows from the options alone: the image size and the networks."""
    data, model = config.data, config.model
    channels, size = datasets.image_shape(data.data, image_size=data.image_size, channels=data.channels)
    small = "paper-mnist-conditional" if model.conditional else "dcgan-28"
    name = model.architecture or (small if (channels, size) == (1, 28) else "dcgan")
    if name not in zoo.ARCHITECTURES:
        raise ValueError(f"no architecture {name!r}; there are {', '.join(zoo.ARCHITECTURES)}")
    conditional = model.conditional or zoo.ARCHITECTURES[name].num_classes > 0
    home = type(data.data)(files.expand_user(data.data))  # a Path stays one
    return replace(
        config,
        data=replace(data, data=home, image_size=size, channels=channels),
        model=replace(model, architecture=name, conditional=conditional),
    )


@dataclass(frozen=True)
class Request:
    """A run to be trained.

    Attributes:
        folder: Its folder.
        config: A ``RunConfig`` starts a run; a ``ResolvedRunConfig``, as read from the folder, resumes it.
        root: Folder of the datasets.
        device: As for ``device.pick_device``.
    """

    folder: Path
    config: RunConfig
    root: str | Path | None
    device: str

    @cached_property
    def device_used(self) -> torch.device:
        """The device on which this process trains."""
        return distributed.local_device(pick_device(self.device))

    @cached_property
    def images(self) -> datasets.ImageDataset:
        """The images, loaded on first access."""
        found: datasets.ImageDataset = distributed.main_process_first(
            lambda: run_folder.load_data(self.config, self.root)
        )
        return found


@contextmanager
def open_session(request: Request) -> Iterator[Session]:
    """Prepare a run for training, in all processes of the group, and lock its folder until the session ends.

    Args:
        request: The run to open.

    Yields:
        The session.

    Raises:
        ValueError, OSError, MemoryError: As ``run`` and ``resume`` do, in all processes of the group.
    """
    with ExitStack() as stack:
        with distributed.raise_on_all_ranks():
            session = _open(request, stack)
        yield session


def _open(request: Request, stack: ExitStack) -> Session:
    folder, writes = request.folder, distributed.rank() == 0
    saved = False
    if isinstance(request.config, ResolvedRunConfig):
        saved = True
        check = _hold(folder, stack)
        state, rows = _saved_state(request, request.config)
    else:
        state, rows = _new_state(request), []
    if writes:
        preflight.check_disk(folder, state)
    loader = _loader(request, state)
    config = _resolved_config(request, state, loader)
    check_loader(loader, state.config, state.generator, state.discriminator)
    evaluator = None
    if writes and config.evaluate_every:
        evaluator = monitor.Evaluator(config, loader)
    begun = saved
    if not saved:
        check = _hold(folder, stack, new=True)
        begun = distributed.is_restart() and distributed.broadcast_from_rank0(
            lambda: run_folder.is_of(folder, config)
        )
        saved = begun and distributed.broadcast_from_rank0(lambda: run_folder.has_checkpoint(folder))
        if saved:
            state, rows = _load_everywhere(folder, request.device_used)
    log = None
    if writes and saved:
        log = run_folder.go_on(folder, config, state.step, rows)
    elif writes:
        if not begun:
            preflight.check_unused(folder)  # as another process may have begun there meanwhile
        stack.enter_context(run_folder.undone_if_failed(folder, state))
        log = run_folder.start(folder, config, loader)
    writer = None
    if log is not None:
        watch = monitor.Watch(folder, config, loader)
        watch.resume(state.step)
        if evaluator is not None:
            evaluator.resume(folder, state.step)
        writer = report.Report(folder, log, check, watch, evaluator)
    return Session(config, state, loader, folder, writer)


State = tuple[TrainState, list[dict[str, float]]]


def _new_state(request: Request) -> TrainState:
    """Check that a run can be trained, and return its state before the first step."""
    config = request.config
    num_classes = len(_class_names(request)) if config.model.conditional else 0
    distributed.per_rank_batch_size(config.train.batch_size)
    restart = distributed.is_restart()
    if distributed.rank() == 0:
        preflight.check_new_folder(request.folder, config.data.data, restart=restart)
    preflight.check_memory(config, num_classes, request.device_used)
    pair = preflight.build(config, num_classes, rng=rng_for(config.train.seed, 0))
    if config.init_from is not None:
        _copy_weights(config.init_from, pair)
    # The same on machines that differ.
    train_config = distributed.broadcast_from_rank0(partial(resolve, config.train, request.device_used))
    return init_state(pair[0].to(request.device_used), pair[1].to(request.device_used), train_config)


def _copy_weights(source: str | Path, pair: preflight.Pair) -> None:
    """Replace new networks' weights by those of another run; the first process reads them for all."""

    def read() -> list[dict[str, torch.Tensor] | None]:
        found = run_folder.read(source)
        preflight.check_same_networks(found, pair)
        if found.discriminator is None:
            warnings.warn(f"{found.folder} kept no discriminator: D starts from new weights", stacklevel=2)
        networks = found.generator, found.discriminator
        return [None if network is None else network.state_dict() for network in networks]

    for network, weights in zip(pair, distributed.broadcast_from_rank0(read), strict=True):
        if weights is not None:
            network.load_state_dict(weights)


def _class_names(request: Request) -> tuple[str, ...]:
    """Names of the dataset's labels; a named dataset need not be loaded for them."""
    data = request.config.data.data
    named = datasets.is_named(data)
    names = datasets.find_entry(data).class_names if named else request.images.class_names
    if not names:
        labelled = [entry.name for entry in datasets.entries() if entry.class_names]
        raise ValueError(
            f"{data} has no labels to draw by; {', '.join(labelled)} have, and a folder with a "
            "sub-folder for each class"
        )
    return names


def _saved_state(request: Request, config: ResolvedRunConfig) -> State:
    """Check that a run can be resumed, and return its state at the last checkpoint."""
    folder = request.folder
    if config.train.sync_batch_norm:
        distributed.check_sync_batch_norm(request.device_used)
    state, rows = _load_everywhere(folder, request.device_used)
    preflight.check_same_run(folder, config, state)
    if config.steps < state.step:
        raise ValueError(
            f"{folder} is at step {state.step} already: --steps must exceed {state.step}, got {config.steps}"
        )
    check_length(state.config, config.steps)
    return state, rows


def _load_everywhere(folder: Path, place: torch.device) -> State:
    """The newest checkpoint; the first process sends it to the others, which may not see the folder."""
    if distributed.rank() == 0:
        found = run_folder.load_newest(folder, place)
    if distributed.world_size() > 1:
        content = distributed.broadcast_from_rank0(lambda: run_folder.newest_checkpoint(folder).read_bytes())
    if distributed.rank() > 0:
        with tempfile.TemporaryDirectory() as aside:
            copy = Path(aside) / "checkpoint.pt"
            copy.write_bytes(content)
            found = checkpoint.load(copy, place)
    return found


def _loader(request: Request, state: TrainState) -> datasets.Loader:
    images, config = request.images, state.config
    labels = images.labels if state.generator.num_classes else None
    rng = rng_for(config.seed, 1)
    loader = datasets.make_loader(
        images.images, config.batch_size, labels=labels, rng=rng, device=request.device_used
    )
    loader.mirror = request.config.data.mirror
    return loader


def _resolved_config(request: Request, state: TrainState, loader: datasets.Loader) -> ResolvedRunConfig:
    """The configuration with every option filled in; warns if the images have changed since the run began."""
    config, images = request.config, request.images
    contents = distributed.broadcast_from_rank0(lambda: describe(images))
    num_classes = state.generator.num_classes
    names = tuple(images.class_names) if num_classes else ()
    if isinstance(config, ResolvedRunConfig):
        if contents == (config.contents or contents):
            return replace(config, contents=contents, class_names=names)  # which older runs do not have
        warnings.warn(
            f"{config.data.data} has changed since {request.folder} began: it was {config.contents}, it is "
            f"{contents}. Going on with what is there now",
            stacklevel=4,
        )
        return config
    batches = (config.epochs or DEFAULT_EPOCHS) * len(loader)
    steps = config.steps or -(-batches // state.config.d_steps)
    check_length(state.config, steps)
    data = replace(config.data, data=run_folder.absolute(config.data.data))
    options = vars(config) | {"data": data, "train": state.config, "steps": steps, "epochs": None}
    options["sample_every"] = config.sample_every or max(1, steps // 60)
    if config.init_from is not None:
        options["init_from"] = str(run_folder.find(config.init_from).resolve())
    return ResolvedRunConfig(**options, num_classes=num_classes, class_names=names, contents=contents)


def describe(images: datasets.ImageDataset) -> str:
    """A line that identifies the contents of a dataset: count, shape and checksum."""
    count, *shape = images.images.shape
    checksum = crc32(images.images.contiguous().numpy().data)
    if images.labels is not None:
        checksum = crc32(images.labels.contiguous().numpy().data, checksum)
    return f"{count:,} images of {'x'.join(map(str, shape))}, crc32 {checksum:08x}"


def _hold(folder: Path, stack: ExitStack, *, new: bool = False) -> Callable[[], None]:
    """Lock a folder, created if new, in the process that writes; return the check of ``files.locked``."""
    if distributed.rank() > 0:
        return lambda: None
    if new:
        stack.enter_context(run_folder.made(folder))
    else:
        preflight.check_old_folder(folder)
    return stack.enter_context(files.locked(folder))


class Due(NamedTuple):
    """What to do after a step; ``stop`` is the number of a signal, or 0."""

    check: bool
    save: bool
    draw: bool
    evaluate: bool
    stop: int


@dataclass
class Session:
    """A run that is ready to train.

    Attributes:
        config: Its configuration.
        state: Its networks and optimisers, at some step.
        loader: Its batches.
        folder: Its folder.
        writer: Writes into the folder; None in processes that do not write.
    """

    config: ResolvedRunConfig
    state: TrainState
    loader: datasets.Loader
    folder: Path
    writer: report.Report | None

    def advance(self) -> None:
        """Train up to ``config.steps``, leaving the folder complete at each checkpoint.

        Raises:
            Stopped: A signal stopped the run.
            Collapsed: The samples have collapsed, and ``config.stop_when_collapsed`` is set.
        """
        unsaved: list[StepMetrics] = []
        with explain_compile_errors(self.config.train), self._on_rank0() as writer:
            if writer:
                writer.begin(self.state)
        with self._progress() as bar, catch_signals() as caught, explain_compile_errors(self.config.train):
            for record in train(self.state, self.loader, self.config.steps):
                unsaved.append(record)
                bar.update(self._images_per_step)
                due = self._due(record.step, caught)
                if due.check or due.save:
                    self._check_finite(unsaved)
                if record.step % REPORT_EVERY == 0:
                    bar.set_postfix_str(
                        f"step={record.step}, d_loss={record.d_loss:.3f}, g_loss={record.g_loss:.3f}"
                    )
                if self.writer and (text := self.writer.watch.see_losses(record)):
                    _warn(bar, text)
                collapsed = (due.draw or due.evaluate) and self._look(due, bar)
                if due.save or collapsed:
                    self._save(unsaved, bar)
                    unsaved.clear()
                if due.stop:
                    raise Stopped(due.stop, self.folder, self.state.step)
                if collapsed:
                    raise Collapsed(self.folder, self.state.step)
        with self._on_rank0() as writer:
            if writer:
                writer.animate()

    @property
    def _images_per_step(self) -> int:
        return self.config.train.batch_size * self.config.train.d_steps

    @property
    def _on_cpu(self) -> bool:
        return self.loader.device.type == "cpu"

    def _check_finite(self, unsaved: list[StepMetrics]) -> None:
        """Stop a run whose losses are no longer finite, with its last losses and the reason in the folder."""
        try:
            check_finite(unsaved[-1 if self._on_cpu else -REPORT_EVERY :])
        except FloatingPointError as error:
            with self._on_rank0() as writer:
                if writer is not None:
                    writer.save_divergence([record.as_dict() for record in unsaved], str(error))
            raise

    def _due(self, step: int, caught: list[int]) -> Due:
        check = self._on_cpu or step % REPORT_EVERY == 0
        signal = caught[0] if caught else 0
        # All stop after the same step.
        stop = distributed.all_reduce_max(signal) if check or distributed.world_size() == 1 else 0
        last = step == self.config.steps
        save = stop > 0 or last or step % self.config.checkpoint_every == 0
        draw = last or step % self.config.sample_every == 0
        every = self.config.evaluate_every
        return Due(check, save, draw, every is not None and (last or step % every == 0), stop)

    def _look(self, due: Due, bar: tqdm[Any]) -> bool:
        """Draw and measure samples; return whether the run is to stop because they have collapsed."""
        collapsed = False
        with self._on_rank0() as writer:
            if writer is not None:
                writer.check()
                if due.draw:
                    texts, collapsed = writer.draw(self.state)
                    for text in texts:
                        _warn(bar, text)
                if due.evaluate and writer.evaluator is not None:
                    bar.write(writer.evaluator.measure(self.state), sys.stderr)
        # All processes stop after the same step.
        return self.config.stop_when_collapsed and distributed.all_reduce_max(int(collapsed)) > 0

    def _save(self, unsaved: list[StepMetrics], bar: tqdm[Any]) -> None:
        with self._on_rank0() as writer:
            if writer is not None:
                writer.check()
                rows = [record.as_dict() for record in unsaved]
                writer.save(self.state, rows)
                bar.write(report.means(rows, bar.format_dict["rate"]), sys.stderr)

    @contextmanager
    def _on_rank0(self) -> Iterator[report.Report | None]:
        """Let the first process write while the others wait, so that a full disk stops all of them."""
        with distributed.raise_on_all_ranks():
            yield self.writer

    def _progress(self) -> tqdm[Any]:
        batch, each_step = self.config.train.batch_size, self._images_per_step
        bar: tqdm[Any] = tqdm(
            total=self.config.steps * each_step,
            initial=self.state.step * each_step,
            unit="img",
            unit_scale=True,
            disable=self.writer is None,
        )
        if self.writer:
            bar.write(report.where_and_how(self.state.config, self.loader.device), sys.stderr)
            if self.writer.evaluator:
                bar.write(self.writer.evaluator.about, sys.stderr)
            if (size := distributed.world_size()) > 1:
                each = f"{size} processes, {self.loader.share} images each, {batch} in a step"
                bar.write(each, sys.stderr)
        return bar


def _warn(bar: tqdm[Any], text: str) -> None:
    """Warn above the progress bar, with no file name and line: the run's own numbers are the place."""
    bar.clear()
    warnings.warn(text, monitor.TrainingWarning, stacklevel=2)
    bar.refresh()
