"""The command ``dcganlib``: a subcommand for each task, from ``data`` and ``train`` to ``doctor``.

Each subcommand is a dataclass. tyro turns the fields into options and the docstrings into help, here and in
``dcganlib.config``. Torch is imported only in ``run``, so that --help answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, subcommand

from dcganlib.config import (
    Checked,
    ConfigError,
    DataConfig,
    EvaluationConfig,
    NonNegativeInt,
    RunConfig,
    SampleConfig,
    Size,
    UpToMillion,
)

MAX_LISTED_CLASSES = 100  # of a dataset; stacked-mnist has 1,000
OUT_OF_MEMORY = "out of memory|DefaultCPUAllocator|ALLOC_FAILED|excessive memory"


@dataclass(frozen=True)
class Data(Checked):
    """Download or draw a dataset, decode it, and show its contents.

    Attributes:
        config: The images.
        split: train, valid, test or all, if the dataset has them. Default: train.
        strict: Stop at the first image that cannot be read.
        root: Folder of the datasets. Default: DCGANLIB_DATA, else ~/.cache/dcganlib.
        out: Picture to write. Default: DATA.png.
        force: Replace a file that is already there.
    """

    config: DataConfig
    split: str | None = None
    strict: bool = False
    root: Path | None = None
    out: Path | None = None
    force: bool = False

    def run(self) -> int:
        """Write the picture and print the contents of the dataset."""
        from dcganlib import datasets
        from dcganlib.datasets import contact_sheet
        from dcganlib.runtime import files

        out = files.expand_user(self.out or f"{datasets.title(self.config.data)}.png")
        _check_picture(out)
        files.check_overwrite(out, self.force, ours=contact_sheet.is_file)
        options = {"root": self.root, "split": self.split, "strict": self.strict}
        found = datasets.load(self.config.data, **self.config.load_options, **options)
        for line in _describe(found):
            print(line)
        print(f"wrote {out}: the mean image, then {_draw_overview(found, out)} of the set")
        return 0


@dataclass(frozen=True)
class Train(Checked):
    """Train on a dataset, into a new folder.

    Attributes:
        config: The run.
        out: Folder of the run. Default: runs/DATA-ARCHITECTURE.
        root: Folder of the datasets. Default: DCGANLIB_DATA, else ~/.cache/dcganlib.
        device: auto, gpu, cpu, cuda, cuda:N or mps.
    """

    config: RunConfig
    out: Path | None = None
    root: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Train, and print where the run is."""
        from dcganlib import runs
        from dcganlib.runtime import cpu_layers

        if self.config.train.fast:
            cpu_layers.keep_memory()
        out = runs.run(self.config, self.out, root=self.root, device=self.device)
        if _is_first():
            print(f"wrote {out}: look at {out / 'samples.gif'}, draw more with `dcganlib sample {out}`")
        return 0


@dataclass(frozen=True)
class Resume(Checked):
    """Resume a run from its last checkpoint.

    Attributes:
        run_folder: Folder of the run.
        steps: New length, counted from the run's start. Default: the run's own.
        data: Where the run's images are now, if they were moved.
        root: Folder of the datasets. Default: DCGANLIB_DATA, else ~/.cache/dcganlib.
        device: auto, gpu, cpu, cuda, cuda:N or mps.
    """

    run_folder: Path
    steps: Size | None = None
    data: str | None = None
    root: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Continue training, and print where the run is."""
        from dcganlib import runs
        from dcganlib.runtime import cpu_layers, distributed

        options = {name: value for name, value in vars(self).items() if name != "run_folder"}
        with distributed.process_group():  # only the first process needs to see the folder
            config = distributed.broadcast_from_rank0(lambda: runs.read_config(self.run_folder))
            if config.train.fast:
                cpu_layers.keep_memory()
            out = runs.resume(self.run_folder, **options)
        if _is_first():
            print(f"wrote {out}")
        return 0


@dataclass(frozen=True)
class Sample(Checked):
    """Generate new images from a run.

    Attributes:
        run_folder: Folder of the run, or the name of a stored one, such as mnist.
        config: The grid of samples.
        out: File to write.
        force: Replace a file that is already there.
    """

    run_folder: Path
    config: SampleConfig = field(default_factory=SampleConfig)
    out: Path = Path("samples.png")
    force: bool = False

    def run(self) -> int:
        """Write the picture."""
        from dcganlib import runs
        from dcganlib.datasets import contact_sheet
        from dcganlib.runtime import files

        out = files.expand_user(self.out)
        files.check_overwrite(out, self.force, ours=contact_sheet.is_file)
        print(f"wrote {runs.save_sample(self.run_folder, out, self.config)}")
        return 0


@dataclass(frozen=True)
class Web(Checked):
    """Write one HTML file in which a run's generator draws in any browser, without a network.

    Attributes:
        run_folder: Folder of the run, or the name of a stored one, such as mnist.
        out: File to write. Default: NAME.html, with the folder's name.
        best: Use the weights that measured best while training, of a run with keep_best.
        force: Replace a file that is already there.
    """

    run_folder: Path
    out: Path | None = None
    best: bool = False
    force: bool = False

    def run(self) -> int:
        """Write the page, and print its size."""
        from dcganlib import runs
        from dcganlib.runtime import files
        from dcganlib.viz import web

        out = files.expand_user(self.out or f"{runs.find(self.run_folder).resolve().name}.html")
        files.check_overwrite(out, self.force, ours=web.is_page)
        runs.save_web_page(self.run_folder, out, best=self.best)
        print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB: open it in a browser")
        return 0


@dataclass(frozen=True)
class Evaluate(Checked):
    """Measure a run's samples against real images, with held-out real images as baseline.

    Attributes:
        run_folder: Folder of the run, or the name of a stored one, such as mnist.
        config: How to measure.
        out: File to write. Default: DIR/evaluation.json; for a stored run evaluation-NAME.json, here.
        force: Replace a file that is already there.
        data: Where the run's images are now, if they were moved.
        root: Folder of the datasets. Default: DCGANLIB_DATA, else ~/.cache/dcganlib.
        device: auto, gpu, cpu, cuda, cuda:N or mps.
    """

    run_folder: Path
    config: EvaluationConfig = field(default_factory=EvaluationConfig)
    out: Path | None = None
    force: bool = False
    data: str | None = None
    root: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Write the measures and print them."""
        from dcganlib.evaluation.evaluate import evaluate, is_our_result, result_file
        from dcganlib.runtime import files

        out = result_file(self.run_folder, self.out)
        files.check_overwrite(out, self.force, ours=is_our_result)
        found = evaluate(
            self.run_folder, self.config, data=self.data, out=out, root=self.root, device=self.device
        )
        print(found.as_table())
        print(f"wrote {found.file}")
        return 0


@dataclass(frozen=True)
class Diagnose(Checked):
    """Say which known failures a run shows, how sure that is, and which numbers say so.

    Attributes:
        run_folder: Folder of the run, or the name of a stored one, such as mnist.
        measurements: Print all measurements too.
        root: Folder of the datasets. Default: DCGANLIB_DATA, else ~/.cache/dcganlib.
    """

    run_folder: Path
    measurements: bool = False
    root: Path | None = None

    def run(self) -> int:
        """Print the findings; return 1 if there are any."""
        from dcganlib.evaluation import diagnosis
        from dcganlib.runs.measurements import measure

        measured = measure(self.run_folder, root=self.root)
        if self.measurements:
            for name, value in measured.items():
                print(f"{name:<22} {value:.4g}")
        found = diagnosis.judge(measured)
        for finding in found:
            print(finding)
        if not found:
            print(f"nothing unusual ({len(measured)} measurements)")
        return int(bool(found))


@dataclass(frozen=True)
class Report(Checked):
    """Write a run as one web page: curves, film, samples, measures, findings, settings.

    Attributes:
        run_folder: Folder of the run, or the name of a stored one, such as mnist.
        out: File to write. Default: DIR/report.html; for a stored run report-NAME.html, here.
        force: Replace a file that is already there.
        data: Where the run's images are now, if they were moved.
        root: Folder of the datasets. Default: DCGANLIB_DATA, else ~/.cache/dcganlib.
    """

    run_folder: Path
    out: Path | None = None
    force: bool = False
    data: str | None = None
    root: Path | None = None

    def run(self) -> int:
        """Write the page."""
        from dcganlib import runs
        from dcganlib.runs import report_page
        from dcganlib.runtime import files

        out = report_page.report_file(self.run_folder, self.out)
        files.check_overwrite(out, self.force, ours=report_page.is_own)
        print(f"wrote {runs.save_report(self.run_folder, out, data=self.data, root=self.root)}")
        return 0


@dataclass(frozen=True)
class Export(Checked):
    """Write a run's generator as ONNX, for other programs, and compare it with PyTorch (extra `onnx`).

    Attributes:
        run_folder: Folder of the run, or the name of a stored one, such as mnist.
        onnx: File to write. Default: NAME.onnx, with the folder's name.
        best: Use the weights that measured best while training, of a run with keep_best.
        force: Replace a file that is already there.
    """

    run_folder: Path
    onnx: Path | None = None
    best: bool = False
    force: bool = False

    def run(self) -> int:
        """Write the file, and print how far its images are from PyTorch's."""
        from dcganlib import runs
        from dcganlib.runtime import files

        out = files.expand_user(self.onnx or f"{runs.find(self.run_folder).resolve().name}.onnx")
        files.check_overwrite(out, self.force, option="--onnx")
        found = runs.export_onnx(self.run_folder, out, best=self.best)
        print(f"wrote {found.file}: pixels differ from PyTorch's by at most {found.difference:.1g}")
        return 0


@dataclass(frozen=True)
class Classifier(Checked):
    """Retrain one of the classifiers in the package, into a new file.

    Attributes:
        name: mnist, fashion-mnist or faces.
        epochs: Length in passes over the images. Default: the stored one's.
        seed: Seed of everything random.
        out: File to write. Default: classifier-NAME.safetensors.
        force: Replace a file that is already there.
        root: Folder of the datasets. Default: DCGANLIB_DATA, else ~/.cache/dcganlib.
        device: auto, gpu, cpu, cuda, cuda:N or mps.
    """

    name: str
    epochs: UpToMillion | None = None
    seed: NonNegativeInt = 0
    out: Path | None = None
    force: bool = False
    root: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Write the classifier and print its accuracy."""
        from dcganlib.evaluation import classifier
        from dcganlib.runtime import files

        classifier.check_name(self.name)
        out = files.expand_user(self.out or f"classifier-{self.name}.safetensors")
        files.check_overwrite(out, self.force)
        about = classifier.retrain(
            self.name, out, epochs=self.epochs, seed=self.seed, root=self.root, device=self.device
        )
        for attribute, share in about.get("test_accuracies", {}).items():
            print(f"{share:>8.2%}  {attribute}")
        share, count = about["test_accuracy"], about["test_images"]
        print(f"wrote {out}: right on {share:.2%} of the {count:,} test images")
        return 0


@dataclass(frozen=True)
class Info(Checked):
    """Describe this machine, or a run.

    Attributes:
        run_folder: Folder of a run, or the name of a stored one. Default: this machine.
    """

    run_folder: Positional[Path | None] = None

    def run(self) -> int:
        """Print the description."""
        for line in _machine() if self.run_folder is None else _run(self.run_folder):
            print(line)
        return 0


@dataclass(frozen=True)
class Doctor(Checked):
    """Check versions, device, data, disk and memory, and try one training step."""

    def run(self) -> int:
        """Print each check; return 1 if one failed."""
        from dcganlib import doctor

        failed = 0
        for finding in doctor.examine():
            print(f"{finding.name:<9} {finding.text}")
            failed += finding.failed
        print(f"{failed} of {len(doctor.CHECKS)} checks failed" if failed else "all is well")
        return int(failed > 0)


Command = (
    Annotated[Data, subcommand("data")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Resume, subcommand("resume")]
    | Annotated[Sample, subcommand("sample")]
    | Annotated[Web, subcommand("web")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Diagnose, subcommand("diagnose")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Classifier, subcommand("classifier")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Doctor, subcommand("doctor")]
)
FLAT = (
    tyro.conf.OmitArgPrefixes,  # --steps, not --config.steps
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.PositionalRequiredArgs,
    tyro.conf.DisallowNone,
)


def parse(arguments: Sequence[str] | None = None) -> Any:
    """Turn the arguments of the command into the dataclass of a subcommand.

    Args:
        arguments: The command's arguments; default: those of the process.

    Raises:
        SystemExit: After ``--help``, or if the arguments are invalid.
        ConfigError: An option is out of range.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                Command,
                prog="dcganlib",
                description="Train DCGANs and draw from them.",
                args=arguments,
                config=FLAT,
            )
    except SystemExit as stopped:
        cause: BaseException | None = stopped
        while cause := cause.__context__ if cause else None:
            if isinstance(cause, ConfigError):
                raise cause from None
        if _is_first() and complaint.getvalue():
            _complain(complaint.getvalue().rstrip("\n"))
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    The exit code is 0 on success, 1 if ``doctor`` or ``diagnose`` found a fault, 2 on bad input or if a run
    cannot continue, 3 if ``--stop-when-collapsed`` stopped a run, 130 after Ctrl-C, 143 after SIGTERM, 129
    after SIGHUP, and 141 if the reader of the output has closed it, as with ``| head -1``.

    Args:
        arguments: As ``parse`` takes them.

    Raises:
        SystemExit: After ``--help``, or if the arguments are invalid.
        RuntimeError: Any torch error except a lack of memory: a bug in the package, with its traceback.
    """
    _prepare_output()
    command = None
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            command = parse(arguments)
            code: int = command.run()
        sys.stdout.flush()  # a full disk or a closed pipe shows here
        return code
    except SystemExit:  # after --help, or a misspelled option
        if _reader_is_gone():
            return 141
        raise
    except KeyboardInterrupt as stopped:  # runs.Stopped knows more
        return _interrupted(stopped, isinstance(command, (Train, Resume)))
    except RuntimeError as error:  # torch's, or joblib's where Linux has killed a process of its pool
        if not re.search(OUT_OF_MEMORY, str(error)):
            raise
        reason = str(error).splitlines()[0]
        _complain(f"dcganlib: error: out of memory: use fewer or smaller images at a time ({reason})")
        return 2
    except (ValueError, OSError, FloatingPointError, MemoryError, ModuleNotFoundError) as error:
        if _reader_is_gone(error):
            return 141
        said = getattr(error, "said", False)  # by another process of the group
        if not (said or (isinstance(error, ConfigError) and not _is_first())):
            _complain(f"dcganlib: error: {str(error) or type(error).__name__}")
        return 2


def _interrupted(stopped: KeyboardInterrupt, trains: bool) -> int:
    message = str(stopped) or "interrupted"
    if message == "interrupted" and trains:
        message = "interrupted; `dcganlib resume DIR` goes on from the last checkpoint"
    if _is_first():
        _complain(f"\ndcganlib: {message}")
    return getattr(stopped, "exit_code", 130)


def _prepare_output() -> None:
    """Keep a closed stream, or a character missing from the console's code page, from ending a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as with >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open to the end)
        elif getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # é becomes \xe9 where there is none


def _reader_is_gone(error: Exception | None = None) -> bool:
    """Whether output cannot be delivered because the other end of a pipe is closed.

    A stream that fails is redirected to the null device, or the interpreter would report it again on exit.
    """
    gone = isinstance(error, BrokenPipeError)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            # Windows answers EINVAL.
            gone |= error.errno == errno.EPIPE or (os.name == "nt" and error.errno == errno.EINVAL)
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return gone


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(text, file=sys.stderr, flush=True)


def _warn(message: Warning | str, *where: object, **more: object) -> None:
    if _is_first():
        _complain(f"dcganlib: warning: {message}")


def _is_first() -> bool:
    """Whether this process is the first of those that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _check_picture(out: Path) -> None:
    """Reject, before any work, a file name whose format Pillow cannot write."""
    from PIL import Image

    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--out must end as a picture does, such as .png, got {str(out)!r}")


def _describe(found: Any) -> list[str]:
    """Lines about an ``ImageDataset``: its size, source, classes, attributes, and what was left out."""
    import torch

    from dcganlib import datasets
    from dcganlib.datasets import image_files

    count, channels, height, width = found.images.shape
    size = f"{channels} x {height} x {width}, {found.images.nbytes:,} bytes"
    lines = [
        f"{found.name}: {count:,} images, {size}",
        f"source   {found.source}",
        f"licence  {found.licence}",
    ]
    if found.labels is not None:
        sizes = torch.bincount(found.labels, minlength=len(found.class_names)).tolist()
        lines.append(f"classes  {len(sizes)}, of {min(sizes):,} to {max(sizes):,} images")
        each = list(enumerate(zip(found.class_names, sizes, strict=True)))
        lines += [f"{label:>7}  {name}: {size:,} images" for label, (name, size) in each[:MAX_LISTED_CLASSES]]
        if len(each) > MAX_LISTED_CLASSES:
            lines.append(f"         and {len(each) - MAX_LISTED_CLASSES:,} more classes")
    if found.attributes is not None:
        shares = found.attributes.float().mean(0).tolist()
        for name, share in sorted(zip(found.attribute_names, shares, strict=True), key=lambda pair: -pair[1]):
            lines.append(f"{share:>7.1%}  {name}")
    lines += [f"left out {name}: {reason}" for name, reason in found.skipped]
    if found.skipped:
        reasons = "; ".join(datasets.count_reasons(found.skipped))
        total = count + len(found.skipped)
        lines.append(f"left out {len(found.skipped):,} of {total:,} images: {reasons}")
    if found.ignored:
        lines.append(f"no image {image_files.describe_ignored(found.ignored)}")
    return lines


def _draw_overview(found: Any, out: Path) -> int:
    """Draw the mean image of an ``ImageDataset`` and some of its images; return how many."""
    import torch

    from dcganlib import datasets
    from dcganlib.datasets import contact_sheet
    from dcganlib.viz import plot

    count = len(found.images)
    total = sum(part.sum(0, dtype=torch.int64) for part in found.images.split(1000))
    mean = total.double().div(count).round().to(torch.uint8)
    chosen = torch.linspace(0, count - 1, min(63, count)).long()
    sheet = plot.grid_image(datasets.to_float(torch.cat([mean[None], found.images[chosen]])))
    contact_sheet.save(sheet, out)
    return len(chosen)


def _run(folder: Path) -> list[str]:
    """Lines about a run: its configuration and its last losses."""
    from dcganlib import runs

    found = runs.read(folder)
    content = asdict(found.config)
    options = content.pop("data") | content.pop("model") | content
    options |= options.pop("train")
    names = [f"{number} {label}" for number, label in enumerate(options["class_names"])]
    options["class_names"] = ", ".join(names) or "none"
    rows: dict[str, object] = {"run": found.folder}
    rows |= {name: value for name, value in options.items() if value is not None}
    last = found.history[-500:]
    rows["steps done"] = f"{found.history[-1]['step']:.0f}"
    for name in ("d_loss", "g_loss", "d_real", "d_fake"):
        mean = sum(row[name] for row in last) / len(last)
        rows[name] = f"{mean:.3f} (mean of the last {len(last)} steps)"
    width = max(map(len, rows))
    return [f"{name:<{width}} {value}" for name, value in rows.items()]


def _machine() -> list[str]:
    """Lines about this machine and the available networks."""
    import platform

    import torch

    import dcganlib
    from dcganlib import datasets, models, runs, zoo
    from dcganlib.runtime.device import pick_device

    width = max(map(len, ("architecture", *zoo.ARCHITECTURES)))
    lines = [
        f"dcganlib {dcganlib.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        f"device   {pick_device()}",
        f"data     {datasets.data_root()} (sets: {', '.join(datasets.names())})",
        f"stored   {', '.join(runs.pretrained()) or 'none'}",
        f"\n{'architecture':<{width}} {'size':>4} {'G params':>11} {'D params':>11}  what it is",
    ]
    for name, known in zoo.ARCHITECTURES.items():
        pair = zoo.build(name, device="meta")  # shapes only, no weights
        counts = [models.count_parameters(network) for network in pair]
        sizes = f"{known.image_size:>4} {counts[0]:>11,} {counts[1]:>11,}"
        lines.append(f"{name:<{width}} {sizes}  {known.summary}")
    return lines
