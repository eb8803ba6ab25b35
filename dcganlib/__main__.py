"""The command ``dcganlib``: data, train, resume, sample, evaluate, classifier, info, doctor."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Everything that needs torch is imported by the command that uses it, so that --help answers at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    The exit code is 0 when all went well, 1 where ``doctor`` found something, 2 on bad input or a run that
    cannot go on, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP and 141 where nobody reads the output
    any more, as with ``| head -1``.

    Raises:
        SystemExit: After ``--help``, or where the arguments are none of the command's.
        RuntimeError: Anything of torch's but a lack of memory: a fault of the package, with its traceback.
    """
    _prepare_output()
    command = None
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            options = _parser().parse_args(arguments)
            command = options.command
            code: int = command(options)
        sys.stdout.flush()  # a full disk or a closed pipe shows here
        return code
    except SystemExit:  # after --help, or a misspelled option
        if _reader_is_gone():
            return 141
        raise
    except KeyboardInterrupt as stopped:  # runs.Stopped knows more
        said = str(stopped) or "interrupted"
        if said == "interrupted" and command in (_train, _resume):
            said = "interrupted; `dcganlib resume DIR` goes on from the last checkpoint"
        if _is_first():
            _complain(f"\ndcganlib: {said}")
        return getattr(stopped, "exit_code", 130)
    except RuntimeError as error:  # torch's, or joblib's where Linux has killed a process of its pool
        if not re.search("out of memory|DefaultCPUAllocator|ALLOC_FAILED|excessive memory", str(error)):
            raise
        reason = str(error).splitlines()[0]
        _complain(f"dcganlib: error: out of memory: use fewer or smaller images at a time ({reason})")
        return 2
    except (ValueError, OSError, FloatingPointError, MemoryError, ModuleNotFoundError) as error:
        if _reader_is_gone(error):
            return 141
        if not getattr(error, "said", False):  # by another process of the group
            _complain(f"dcganlib: error: {str(error) or type(error).__name__}")
        return 2


def _prepare_output() -> None:
    """Let no character that the console's code page lacks, and no closed stream, end a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as with >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open to the end)
        elif getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # é becomes \xe9 where there is none


def _reader_is_gone(error: Exception | None = None) -> bool:
    """Whether what was written cannot be delivered, since the other end of a pipe is closed.

    A stream that fails is pointed at nothing, or the interpreter would complain once more at its end.
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
    """Whether this process speaks for all that torchrun started, or was started by itself."""
    return os.environ.get("RANK", "0") == "0"


def _data(options: argparse.Namespace) -> int:
    import torch

    from dcganlib import datasets
    from dcganlib.datasets import contact_sheet, image_files
    from dcganlib.runtime import files
    from dcganlib.viz import plot

    out = files.expand_user(options.out or f"{datasets.title(options.data)}.png")
    _check_picture(out)
    files.check_overwrite(out, options.force, ours=contact_sheet.is_file)
    found = datasets.load(
        options.data,
        root=options.root,
        split=options.split,
        image_size=options.image_size,
        channels=options.channels,
        center_crop=options.center_crop,
        max_images=options.max_images,
        strict=options.strict,
    )
    count, channels, height, width = found.images.shape
    print(f"{found.name}: {count:,} images, {channels} x {height} x {width}, {found.images.nbytes:,} bytes")
    print(f"source   {found.source}\nlicence  {found.licence}")
    if found.labels is not None:
        sizes = torch.bincount(found.labels, minlength=len(found.class_names)).tolist()
        print(f"classes  {len(sizes)}, of {min(sizes):,} to {max(sizes):,} images")
        for label, (name, size) in enumerate(zip(found.class_names, sizes, strict=True)):
            print(f"{label:>7}  {name}: {size:,} images")
    if found.attributes is not None:
        shares = found.attributes.float().mean(0).tolist()
        for name, share in sorted(zip(found.attribute_names, shares, strict=True), key=lambda pair: -pair[1]):
            print(f"{share:>7.1%}  {name}")
    for name, reason in found.skipped:
        print(f"left out {name}: {reason}")
    if found.skipped:
        reasons = "; ".join(datasets.count_reasons(found.skipped))
        print(f"left out {len(found.skipped):,} of {count + len(found.skipped):,} images: {reasons}")
    if found.ignored:
        print(f"no image {image_files.describe_ignored(found.ignored)}")
    total = sum(part.sum(0, dtype=torch.int64) for part in found.images.split(1000))
    mean = total.double().div(count).round().to(torch.uint8)
    chosen = torch.linspace(0, count - 1, min(63, count)).long()
    sheet = plot.grid_image(datasets.to_float(torch.cat([mean[None], found.images[chosen]])))
    contact_sheet.save(sheet, out)
    print(f"wrote {out}: the mean image, then {len(chosen)} of the set")
    return 0


def _check_picture(out: Path) -> None:
    """Refuse a file name of which Pillow cannot tell the format to write, before any work."""
    from PIL import Image

    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--out must end as a picture does, such as .png, got {str(out)!r}")


def _train(options: argparse.Namespace) -> int:
    from dcganlib import runs
    from dcganlib.config import TrainConfig
    from dcganlib.runtime import cpu_layers, distributed

    if options.fast is not False:
        cpu_layers.keep_memory()
    names: tuple[str, ...] = ("batch_size", "g_lr", "d_lr", "beta1", "beta2", "prior", "seed", "precision")
    names += ("ema", "weight_decay", "decay_start", "decay_steps", "fast", "compile", "sync_batch_norm")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    with distributed.process_group():
        with distributed.raise_on_all_ranks():
            config = TrainConfig(**given)
        out = runs.run(
            options.data,
            options.out,
            architecture=options.architecture,
            steps=options.steps,
            epochs=options.epochs,
            image_size=options.image_size,
            channels=options.channels,
            base_channels=options.base_channels,
            center_crop=options.center_crop,
            max_images=options.max_images,
            conditional=options.conditional,
            checkpoint_every=options.checkpoint_every,
            sample_every=options.sample_every,
            root=options.root,
            device=options.device,
            config=config,
        )
    if _is_first():
        print(f"wrote {out}: look at {out / 'samples.gif'}, draw more with `dcganlib sample {out}`")
    return 0


def _resume(options: argparse.Namespace) -> int:
    from dcganlib import runs
    from dcganlib.runtime import cpu_layers

    cpu_layers.keep_memory()
    out = runs.resume(
        options.run, steps=options.steps, data=options.data, root=options.root, device=options.device
    )
    if _is_first():
        print(f"wrote {out}")
    return 0


def _sample(options: argparse.Namespace) -> int:
    from dcganlib import runs
    from dcganlib.datasets import contact_sheet
    from dcganlib.runtime import files

    out = files.expand_user(options.out)
    files.check_overwrite(out, options.force, ours=contact_sheet.is_file)
    wanted = {"seed": options.seed, "columns": options.columns, "label": options.label}
    print(f"wrote {runs.save_sample(options.run, out, options.n, **wanted)}")
    return 0


def _classifier(options: argparse.Namespace) -> int:
    from dataclasses import replace

    import torch
    from tqdm.auto import tqdm

    import dcganlib
    from dcganlib import datasets
    from dcganlib.evaluation import classifier
    from dcganlib.runtime import files
    from dcganlib.runtime.device import pick_device

    name, seed, epochs = options.name, options.seed, options.epochs
    _check_numbers(epochs=(epochs, 10**6), seed=(seed, LARGEST_SEED))
    if name not in classifier.CONFIGS:
        raise ValueError(f"there is no classifier {name}; the stored ones are {', '.join(classifier.NAMES)}")
    out = files.expand_user(options.out or f"classifier-{name}.safetensors")
    files.check_overwrite(out, options.force)
    config, place = replace(classifier.CONFIGS[name], seed=seed), pick_device(options.device)
    config = config if epochs is None else replace(config, epochs=epochs)
    train, test = (datasets.load(name, root=options.root, split=split) for split in ("train", "test"))
    network = classifier.build(train, widths=config.widths, rng=torch.Generator().manual_seed(seed)).to(place)
    with tqdm(classifier.fit(network, train, config), total=config.epochs, unit="epoch") as bar:
        for record in bar:
            said = f"epoch {record.epoch}: loss {record.loss:.4f}, right {record.accuracy:.2%}"
            bar.write(said, sys.stderr)
    network.half().float()  # as the file will have the weights, so that the accuracy is that of the file
    right = torch.as_tensor(classifier.accuracy(network, test))
    mean = right.mean().item()
    each = dict(zip(network.names, right.tolist(), strict=True)) if network.multilabel else {}
    classifier.save(
        out,
        network,
        description=f"Tells the {'attributes' if each else 'classes'} of {name}; trained on its train split",
        data=train.name,
        command=f"dcganlib classifier {name} --epochs {config.epochs} --seed {seed}",
        seed=seed,
        epochs=config.epochs,
        test_accuracy=mean,
        **({"test_accuracies": each} if each else {}),
        train_images=len(train),
        test_images=len(test),
        version=dcganlib.__version__,
    )
    for attribute, share in each.items():
        print(f"{share:>8.2%}  {attribute}")
    print(f"wrote {out}: right on {mean:.2%} of the {len(test):,} test images")
    return 0


LARGEST_SEED = 2**62 - 1


def _check_numbers(**numbers: tuple[int | None, int]) -> None:
    """Refuse numbers beyond what can be worked with: of each its value, and the most that it may be."""
    for name, (value, most) in numbers.items():
        least = int(name != "seed")
        if value is not None and not least <= value <= most:
            raise ValueError(f"{name} must be from {least} to {most:,}, got {value}")


def _evaluate(options: argparse.Namespace) -> int:
    from dcganlib.config import EvaluationConfig
    from dcganlib.evaluation.evaluate import evaluate, is_our_result, result_file
    from dcganlib.runtime import files

    _check_numbers(repeats=(options.repeats, 10**6), seed=(options.seed, LARGEST_SEED))
    out = result_file(options.run, options.out)
    files.check_overwrite(out, options.force, ours=is_our_result)
    settings = {name: getattr(options, name) for name in ("samples", "repeats", "seed", "ema", "inception")}
    config = EvaluationConfig(**settings)
    found = evaluate(
        options.run, config, data=options.data, out=out, root=options.root, device=options.device
    )
    print(found.as_table())
    print(f"wrote {found.file}")
    return 0


def _info(options: argparse.Namespace) -> int:
    from dcganlib import runs

    if options.run is None:
        return _info_machine()
    found = runs.read(options.run)
    print(f"run           {found.folder}")
    names = runs.read_config(options.run).class_names  # known also for older runs on the sets with names
    for name, value in (found.config | ({"class_names": names} if names else {})).items():
        if name == "class_names":
            value = ", ".join(f"{number} {label}" for number, label in enumerate(names)) or "none"
        print(f"{name:<13} {value}")
    print(f"steps done    {found.history[-1]['step']:.0f}")
    last = found.history[-500:]
    for name in ("d_loss", "g_loss", "d_real", "d_fake"):
        mean = sum(row[name] for row in last) / len(last)
        print(f"{name:<13} {mean:.3f} (mean of the last {len(last)} steps)")
    return 0


def _info_machine() -> int:
    import platform

    import torch

    import dcganlib
    from dcganlib import datasets, models, runs, zoo
    from dcganlib.runtime.device import pick_device

    print(f"dcganlib {dcganlib.__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"device   {pick_device()}")
    print(f"data     {datasets.data_root()} (sets: {', '.join(datasets.names())})")
    print(f"stored   {', '.join(runs.pretrained()) or 'none'}")
    print(f"\n{'architecture':<13} {'size':>4} {'G params':>11} {'D params':>11}  what it is")
    for name, known in zoo.ARCHITECTURES.items():
        pair = zoo.build(name, device="meta")  # shapes alone, no weights
        counts = [models.count_parameters(network) for network in pair]
        print(f"{name:<13} {known.image_size:>4} {counts[0]:>11,} {counts[1]:>11,}  {known.summary}")
    return 0


GIGABYTE = 1e9


def _doctor(options: argparse.Namespace) -> int:
    """Go through what a run needs; where something fails, say what to do and look at the rest."""
    checks = {
        "versions": (_check_versions, "install dcganlib again, with the line in README.md"),
        "device": (_check_device, "use --device cpu, or repair the GPU's driver"),
        "data": (_check_data, "point DCGANLIB_DATA at a folder that you may write into"),
        "disk": (_check_disk, "free some space, or work in another folder"),
        "memory": (_check_memory, "close other programs, or use a smaller --batch-size"),
        "caches": (_check_caches, "set TMPDIR to a folder that you may write into, with some space"),
        "compiler": (_check_compiler, "leave out --compile"),
        "one step": (_check_step, "try --device cpu; if that fails too, install torch anew"),
    }
    failed = 0
    for name, (check, advice) in checks.items():
        try:
            said = check()
        except Exception as error:  # whatever it is, it is what the reader wants to know
            failed += 1
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            said = f"FAILS: {type(error).__name__}: {reason}\n{'':<9} what to do: {advice}"
        print(f"{name:<9} {said}")
    print(f"{failed} of {len(checks)} checks failed" if failed else "all is well")
    return int(failed > 0)


def _check_versions() -> str:
    import platform
    from importlib.metadata import version

    import dcganlib

    names = ("torch", "torchvision", "numpy", "pillow", "safetensors", "matplotlib")
    found = [f"{name} {version(name)}" for name in names]
    return ", ".join([f"dcganlib {dcganlib.__version__}", f"Python {platform.python_version()}", *found])


def _check_device() -> str:
    import torch

    from dcganlib.config import TrainConfig
    from dcganlib.datasets import decode_cache
    from dcganlib.runtime.device import pick_device, resolve

    device, threads, processors = pick_device(), torch.get_num_threads(), decode_cache.processors()
    torch.ones(2, device=device).sum().item()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} threads"
    precision = resolve(TrainConfig(), device).precision
    fast = "faster layers and fused Adam" if device.type == "cpu" else "channels-last images and fused Adam"
    said = f"{device} ({name}): trains in {precision}, with {fast}"
    if device.type == "cpu" and threads > processors:
        said += f"; only {processors} processors are there to be used: set OMP_NUM_THREADS={processors}"
    return said


def _check_data() -> str:
    import shutil

    from dcganlib import datasets
    from dcganlib.runtime import files

    root = datasets.data_root()
    if not files.writable(root):
        raise PermissionError(f"nothing can be written into {root}")
    free = shutil.disk_usage(root).free / GIGABYTE
    has = ", ".join(datasets.downloaded()) or "no dataset yet"
    return f"{root} has {has}, {free:.0f} GB free; mnist-mini comes with the package"


def _check_disk() -> str:
    import shutil

    from dcganlib.runtime import files

    here = Path.cwd()
    free = shutil.disk_usage(here).free
    if not files.writable(here):
        raise PermissionError(f"nothing can be written into {here}")
    if free < GIGABYTE:
        raise OSError(
            f"only {free / GIGABYTE:.2f} GB are free in {here}; the checkpoints of a run take up to 1"
        )
    return f"{free / GIGABYTE:.0f} GB free in {here}"


def _check_memory() -> str:
    import torch

    from dcganlib.runtime import memory

    free = memory.available_memory()
    if free is not None and free < GIGABYTE:
        raise MemoryError(f"only {free / GIGABYTE:.2f} GB are free; a batch of 128 takes about 1")
    said = "not known on this system" if free is None else f"{free / GIGABYTE:.0f} GB free"
    if torch.cuda.is_available():
        said += f", {torch.cuda.mem_get_info()[0] / GIGABYTE:.0f} GB on the GPU"
    return said


def _check_caches() -> str:
    import shutil
    import tempfile

    from dcganlib.runtime import files

    aside, cache = tempfile.gettempdir(), files.cache_dir()
    free = shutil.disk_usage(aside).free / GIGABYTE
    if free < 0.1:
        raise OSError(f"only {free:.2f} GB are free in {aside}, the folder of temporary files")
    kept = "can be written" if files.writable(cache) else "cannot be written, so less is kept between starts"
    return f"{cache} {kept}; {free:.0f} GB free in {aside}"


def _check_compiler() -> str:
    import shutil

    names = (os.environ.get("CXX"), "g++", "clang++", "cl")  # as torch.compile looks for one
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    return f"{found}, for --compile" if found else "none, which --compile alone needs"


def _check_step() -> str:
    import torch

    from dcganlib import datasets, zoo
    from dcganlib.config import TrainConfig
    from dcganlib.runtime.device import pick_device
    from dcganlib.runtime.step_metrics import check_finite
    from dcganlib.train import init_state, train

    device, rng = pick_device(), torch.Generator().manual_seed(0)
    generator, discriminator = zoo.build("dcgan-28", base_channels=8, rng=rng)
    images = torch.randint(256, (16, 1, 28, 28), dtype=torch.uint8, generator=rng)
    loader = datasets.make_loader(images, 16, rng=rng, device=device)
    state = init_state(generator.to(device), discriminator.to(device), TrainConfig(batch_size=16))
    records = list(train(state, loader, 1))
    check_finite(records)
    return f"a small dcgan-28 on {device}: D's loss {records[0].d_loss:.2f}, G's loss {records[0].g_loss:.2f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dcganlib", description="Train DCGANs and draw from them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    show = commands.add_parser(
        "data",
        help="prepare a set and show what is in it",
        description="Fetch or draw a set, decode it, and show what is in it.",
    )
    show.set_defaults(command=_data)
    _add_data(show)
    show.add_argument("--split", help="train, valid, test or all, where the set has them (train)")
    show.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    show.add_argument("--root", help="folder of the sets (DCGANLIB_DATA, else ~/.cache/dcganlib)")
    show.add_argument("--out", help="picture to write (SET.png)")
    _add_force(show)

    train = commands.add_parser(
        "train", help="train on a set, into a new folder", description="Train on a set, into a new folder."
    )
    train.set_defaults(command=_train)
    _add_data(train)
    length = train.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="length in steps")
    length.add_argument("--epochs", type=int, help="length in passes over the set (25)")
    train.add_argument("--batch-size", type=int, help="images in a step (128)")
    train.add_argument(
        "--architecture", help="networks, as `dcganlib info` lists them (dcgan-28 or dcgan, by the images)"
    )
    train.add_argument("--base-channels", type=int, help="width of the networks (the architecture's own)")
    train.add_argument("--g-lr", type=float, help="learning rate of the generator (0.0002)")
    train.add_argument("--d-lr", type=float, help="learning rate of the discriminator (0.0002)")
    train.add_argument("--beta1", type=float, help="decay of Adam's first moment (0.5)")
    train.add_argument("--beta2", type=float, help="decay of Adam's second moment (0.999)")
    train.add_argument("--prior", help="normal or uniform (normal)")
    train.add_argument("--precision", help="float32, bfloat16 or float16 (what the device is fastest with)")
    train.add_argument(
        "--fast",
        action=argparse.BooleanOptionalAction,
        help="take faster ways that differ in rounding alone (yes)",
    )
    train.add_argument(
        "--compile", action="store_true", default=None, help="let torch.compile write the networks anew"
    )
    train.add_argument(
        "--ema", type=float, help="decay of an average of the generator's weights, kept beside it (none)"
    )
    train.add_argument(
        "--weight-decay", type=float, help="share of each weight that joins its gradient (none)"
    )
    train.add_argument(
        "--decay-start", type=int, help="step from which the learning rates fall to 0 (the first)"
    )
    train.add_argument("--decay-steps", type=int, help="steps in which they do (never)")
    train.add_argument(
        "--sync-batch-norm",
        action="store_true",
        default=None,
        help="under torchrun, on GPUs: let batch norm see the whole batch, not each process its share",
    )
    train.add_argument(
        "--conditional", action="store_true", help="tell both networks the class of each image"
    )
    train.add_argument("--seed", type=int, help="of everything random (0)")
    train.add_argument(
        "--checkpoint-every", type=int, default=500, help="steps between two checkpoints (%(default)s)"
    )
    train.add_argument("--sample-every", type=int, help="steps between two sample grids (about 60 in all)")
    train.add_argument("--out", help="folder of the run (runs/SET-ARCHITECTURE)")
    _add_place(train)

    resume = commands.add_parser(
        "resume", help="go on with a run", description="Go on from a run's last checkpoint."
    )
    resume.set_defaults(command=_resume)
    resume.add_argument("run", metavar="DIR", help="folder of the run")
    resume.add_argument("--steps", type=int, help="new length, counted from the run's start (the run's own)")
    _add_moved(resume)
    _add_place(resume)

    sample = commands.add_parser("sample", help="draw new images", description="Draw new images from a run.")
    sample.set_defaults(command=_sample)
    sample.add_argument(
        "run", metavar="DIR", help="folder of the run, or the name of a stored one, such as mnist"
    )
    sample.add_argument("--n", type=int, default=64, help="number of images (%(default)s)")
    sample.add_argument("--seed", type=int, default=0, help="of the latents (%(default)s)")
    sample.add_argument("--columns", type=int, default=8, help="images in a row (%(default)s)")
    sample.add_argument(
        "--label",
        help="class of all images, of a conditional run: its name, or its number as `dcganlib info DIR` "
        "lists them; where both fit, the name counts (each class in turn)",
    )
    sample.add_argument("--out", default="samples.png", help="file to write (%(default)s)")
    _add_force(sample)

    classifier = commands.add_parser(
        "classifier",
        help="train a classifier, as measures of quality use",
        description="Train one of the classifiers that come with the package again, into a new file.",
    )
    classifier.set_defaults(command=_classifier)
    classifier.add_argument("name", help="mnist, fashion-mnist or faces")
    classifier.add_argument("--epochs", type=int, help="length in passes over the set (the stored one's)")
    classifier.add_argument("--seed", type=int, default=0, help="of everything random (%(default)s)")
    classifier.add_argument("--out", help="file to write (classifier-NAME.safetensors)")
    _add_force(classifier)
    _add_place(classifier)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a run's samples against real images",
        description="Measure samples of a run against real images, beside other real images.",
    )
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument(
        "run", metavar="DIR", help="folder of the run, or the name of a stored one, such as mnist"
    )
    evaluate.add_argument("--samples", type=int, default=10_000, help="images in a draw (%(default)s)")
    evaluate.add_argument("--repeats", type=int, default=3, help="how often to measure (%(default)s)")
    evaluate.add_argument("--seed", type=int, default=0, help="of the first draw (%(default)s)")
    evaluate.add_argument(
        "--no-ema",
        dest="ema",
        action="store_false",
        help="take the last step's weights, not the averaged ones",
    )
    evaluate.add_argument(
        "--inception", action="store_true", help="also the FID, of colour images, which needs torch-fidelity"
    )
    evaluate.add_argument(
        "--out", help="file to write (DIR/evaluation.json; for a stored run evaluation-NAME.json, here)"
    )
    _add_force(evaluate)
    _add_moved(evaluate)
    _add_place(evaluate)

    info = commands.add_parser(
        "info", help="say what is here, or what a run is", description="Say what is here, or what a run is."
    )
    info.set_defaults(command=_info)
    info.add_argument("run", metavar="DIR", nargs="?", help="folder of a run, or the name of a stored one")

    doctor = commands.add_parser(
        "doctor",
        help="check what a run needs",
        description="Check versions, device, data, disk and memory, and try one training step.",
    )
    doctor.set_defaults(command=_doctor)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    from dcganlib import datasets

    parser.add_argument("data", help=f"{', '.join(datasets.names())}, or a folder or zip of images")
    parser.add_argument(
        "--image-size", type=int, help="resize to this many pixels (28 for digits and clothes, else 64)"
    )
    parser.add_argument("--channels", type=int, help="1 for grey, 3 for RGB (the set's own)")
    parser.add_argument(
        "--center-crop", type=int, help="side of the centre square that is kept (the largest)"
    )
    parser.add_argument(
        "--max-images", type=int, help="use N images, a random sample (all; faces: draw N, 20000)"
    )


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace a file that is already there")


def _add_moved(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="where the run's images are now, if they were moved")


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", help="folder of the downloaded sets (DCGANLIB_DATA, else ~/.cache/dcganlib)"
    )
    parser.add_argument("--device", default="auto", help="auto, gpu, cpu, cuda, cuda:N or mps (%(default)s)")


if __name__ == "__main__":
    sys.exit(main())
