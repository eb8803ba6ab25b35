"""How fast is training, against the loop that the well-known tutorials publish?

Three pairs of networks: flux-mnist (28 pixels, batches of 128), dcgan-64 (64 pixels, batches of 64), and
those of TensorFlow's tutorial (28 pixels, batches of 256). Four ways to train each, from the same
weights:

tutorial    a DataLoader that transforms picture by picture; real, then fake through D; fakes keep G's graph;
            D's gradients are computed in G's step and thrown away; plain Adam; losses read at each step
resident    the same with the whole set in memory as bytes
float32     ours, as ``dcganlib train`` runs it, in float32
bfloat16    ours in mixed precision

Each way is a fresh process, timed from its start. When all are ready they take turns, so that what else
the machine does hits all alike. In every round there are new processes. A round's end-to-end time is that
of an epoch of 60,000 images from process start, of which so much is measured and the rest is in
proportion:

    epoch = (start to ready, of which 3 steps are a part) + (60,000 / batch - 3) * (median step of the turns)

Ratios are taken within a round, the tutorial's time over ours: above 1 is faster. Medians and ranges are
over the rounds. The share of the peak is a step's FLOPs as counted (a layer by DFT computes fewer than
the layer that it stands for) over its seconds, over the fastest square matrix product in that precision,
which is measured between the turns. "load" holds the import of torchvision where the way needs it.

At 28 pixels the set is mnist, or mnist-mini where that is absent; at 64 it is 500 JPEG files of noise,
178 x 218 pixels like CelebA's, seen over and over. The tutorial decodes, resizes and crops a picture each
time. Ours does so once, before its first epoch ever; what that takes is told as "cold", and not a part of
the end-to-end time, which is that of any later start, from the cache.

Then each trick's own ratio: it is added to the plain step (the tutorial's with resident data) and nothing
else is, but where the row names another base; the two processes take turns. And the seconds of the
imports.

What the processor lacks is left out, with a line that says so: without instructions for bfloat16 a step in
it takes many times as long as one in float32.

On two cores with AVX-512, TensorFlow's own tutorial, run side by side, did 400 to 424 images/s where
plain torch on its networks did 340: 1.18 to 1.25 times the row "resident" of "tensorflow". By these two
ratios ours is held against it; TensorFlow itself is neither needed nor run.

python benchmarks/speed.py                      all of it: half an hour on two cores
python benchmarks/speed.py --quick              28 and 64 pixels, no tricks: under 4 minutes on any machine,
                                                as what is not done by then is left out, with a line that
                                                says so; the last line has the ratios end to end
python benchmarks/speed.py --compile            torch.compile alone: one to three minutes a start
python benchmarks/speed.py --store              keep the results with the package
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _timing import Child, count_flops, machine, peak, serve, spread, synchronise, timed
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from dcganlib import datasets, models, zoo
from dcganlib.config import TrainConfig
from dcganlib.models import Discriminator, Generator, Layer
from dcganlib.runtime import files
from dcganlib.runtime.device import pick_device
from dcganlib.train import init_state, train, train_step

EPOCH_IMAGES = 60_000
WARMUP_STEPS = 3  # before a process reports that it is ready
PICTURE_COUNT = 500  # made for the networks of 64 pixels
QUICK_SECONDS = 220  # --quick skips what it has not measured by then; start and end take 20 more
TENSORFLOW = 400 / 340, 424 / 340  # its own tutorial's images/s over plain torch's on its networks, see above
ADAM = {"plain": {}, "fused": {"fused": True}, "foreach": {"foreach": True}}


@dataclass(frozen=True)
class Networks:
    """A pair to train: its name, its batch, and its layers where ``zoo.build`` does not know it."""

    architecture: str
    batch: int
    size: int
    layers: tuple[list[Layer], list[Layer]] | None = None

    def build(self) -> tuple[Generator, Discriminator]:
        """The plain pair, always with the same weights."""
        rng = torch.Generator().manual_seed(0)
        if self.layers is None:
            return zoo.build(self.architecture, rng=rng)
        pair = Generator(28, 1, layers=self.layers[0]), Discriminator(28, 1, layers=self.layers[1])
        return tuple(models.init_weights(network, rng) for network in pair)


def _tensorflow() -> tuple[list[Layer], list[Layer]]:
    """TensorFlow's DCGAN tutorial: 5 by 5 kernels, leaky ReLU 0.3, dropout and no batch norm in D."""
    five: dict[str, Any] = {"kernel": 5, "padding": 2, "activation": "leaky_relu", "slope": 0.3}
    grown = {**five, "output_padding": 1}
    judged = {**five, "norm": None, "bias": True, "dropout": 0.3}
    return [
        Layer(256, kernel=7, stride=1, padding=0, norm="batch1d", activation="leaky_relu", slope=0.3),
        Layer(128, stride=1, **five),
        Layer(64, **grown),
        Layer(1, **{**grown, "norm": None, "activation": "tanh"}),
    ], [
        Layer(64, **judged),
        Layer(128, **judged),
        Layer(1, kernel=7, stride=1, padding=0, norm=None, activation=None, bias=True),
    ]


NETWORKS = {
    "28px": Networks("flux-mnist", 128, 28),
    "64px": Networks("dcgan-64", 64, 64),
    "tensorflow": Networks("tensorflow", 256, 28, _tensorflow()),
}


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        ours: By ``train.train``; else by ``plain_steps``.
        resident: The set is in memory as bytes; else it comes from a DataLoader that transforms each picture.
        precision: "float32" or "bfloat16".
        keep_memory: The process keeps its memory, see ``cpu_layers.keep_memory``.
        config: Of ``TrainConfig``, for ours.
        step: Fields of ``StepVariant``, for the others.
        optimized: CPU-optimised layers for the others: "dropout", "dft" (transposed convolutions with
            stride 1), "dense" (convolutions from and to a single pixel), "strided" (those with stride 2).
        channels_last: Memory format of the networks, for the others.
        workers: Processes of the DataLoader.
    """

    ours: bool = False
    resident: bool = True
    precision: str = "float32"
    keep_memory: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    optimized: tuple[str, ...] = ()
    channels_last: bool = False
    workers: int = 0


PLAIN, BFLOAT16 = Way(), Way(precision="bfloat16")
OURS = Way(ours=True, keep_memory=True)
WAYS = {
    "tutorial": Way(resident=False),
    "resident": PLAIN,
    "float32": OURS,
    "bfloat16": replace(OURS, precision="bfloat16"),
}
OURS_BF16 = WAYS["bfloat16"]

TRICKS: dict[str, tuple[Way, Way]] = {  # without and with
    "fakes generated twice per step": (PLAIN, replace(PLAIN, step={"twice": True})),
    "D frozen in G's step": (PLAIN, replace(PLAIN, step={"frozen": True})),
    "real and fake joined through D": (PLAIN, replace(PLAIN, step={"joined": True})),
    "dropout from cheap random bits": (PLAIN, replace(PLAIN, optimized=("dropout",))),
    "5 × 5 layer by DFT": (PLAIN, replace(PLAIN, optimized=("dft",))),
    "single-pixel layers as matrix products": (PLAIN, replace(PLAIN, optimized=("dense",))),
    "strided layers as matrix products, in bfloat16": (BFLOAT16, replace(BFLOAT16, optimized=("strided",))),
    "freed memory kept for reuse": (PLAIN, replace(PLAIN, keep_memory=True)),
    "bfloat16": (PLAIN, BFLOAT16),
    "channels-last": (PLAIN, replace(PLAIN, channels_last=True)),
    "channels-last, in bfloat16": (BFLOAT16, replace(BFLOAT16, channels_last=True)),
    "images in memory": (WAYS["tutorial"], PLAIN),
    "images in memory, in the library": (replace(OURS, resident=False), OURS),
    "images in memory, in the library with bfloat16": (replace(OURS_BF16, resident=False), OURS_BF16),
    "fused Adam": (PLAIN, replace(PLAIN, step={"adam": "fused"})),
    "foreach Adam": (PLAIN, replace(PLAIN, step={"adam": "foreach"})),
}
ONLY = {  # the networks that have such layers
    "dropout from cheap random bits": "28px",
    "5 × 5 layer by DFT": "28px",
    "strided layers as matrix products, in bfloat16": "64px",
}
EAGER = replace(OURS_BF16, config={"fast": False, "compile": False})
COMPILED = {
    "torch.compile": (replace(OURS, config={"compile": False}), replace(OURS, config={"compile": True})),
    "torch.compile, in bfloat16": (
        replace(OURS_BF16, config={"compile": False}),
        replace(OURS_BF16, config={"compile": True}),
    ),
    "all of ours over the same step run eagerly": (EAGER, replace(EAGER, config={"compile": True})),
}


@dataclass(frozen=True)
class StepVariant:
    """How a step differs from that of the tutorials.

    Attributes:
        adam: A key of ``ADAM``.
        twice: Generate new fakes for G's step, instead of reusing those of D's step.
        frozen: Compute no gradients of D in G's step.
        joined: Pass real and fake images through D as one batch.
    """

    adam: str = "plain"
    twice: bool = False
    frozen: bool = False
    joined: bool = False


def plain_steps(
    generator: Generator,
    discriminator: Discriminator,
    batches: Iterable[Tensor],
    *,
    noise: Callable[[int], Tensor] | None = None,
    precision: str = "float32",
    variant: StepVariant = StepVariant(),
) -> Iterator[tuple[float, float]]:
    """Train as the tutorials do, one step per batch.

    Args:
        generator, discriminator: Changed in place.
        batches: Real images in [-1, 1], on any device.
        noise: Draws the given number of latents; by default from N(0, 1) on the networks' device.
        precision: "bfloat16" for autocast.
        variant: How the step differs from the tutorials'.

    Yields:
        D's loss, of both halves, and G's.
    """
    device = next(generator.parameters()).device
    noise = noise or (lambda n: torch.randn(n, generator.latent_dim, device=device))
    criterion, options = nn.BCEWithLogitsLoss(), {"lr": 2e-4, "betas": (0.5, 0.999), **ADAM[variant.adam]}
    g_optimizer = torch.optim.Adam(generator.parameters(), **options)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), **options)
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def judge(images: Tensor) -> Tensor:
        with mixed:
            return discriminator(images).float()

    def draw(n: int) -> Tensor:
        with mixed:
            return generator(noise(n))

    for batch in batches:
        real = batch.to(device)
        ones, zeros = torch.ones(len(real), device=device), torch.zeros(len(real), device=device)
        discriminator.zero_grad()
        if variant.joined:
            fake = draw(len(real))
            d_loss = 2 * criterion(judge(torch.cat([real, fake.detach()])), torch.cat([ones, zeros]))
            d_loss.backward()
        else:
            real_loss = criterion(judge(real), ones)
            real_loss.backward()
            fake = draw(len(real))
            fake_loss = criterion(judge(fake.detach()), zeros)
            fake_loss.backward()
            d_loss = real_loss + fake_loss
        d_optimizer.step()

        generator.zero_grad()
        if variant.twice:
            fake = draw(len(real))
        discriminator.requires_grad_(not variant.frozen)
        g_loss = criterion(judge(fake), ones)
        g_loss.backward()
        discriminator.requires_grad_(True)
        g_optimizer.step()
        yield d_loss.item(), g_loss.item()


class Digits(Dataset):
    """Images in memory, accessed one at a time as pictures, like torchvision's MNIST."""

    def __init__(self, images: Tensor, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index, 0].numpy())), 0


def load(size: int, root: str | None, pictures: str) -> datasets.ImageDataset:
    """The dataset for images of this size."""
    if size != 28:
        return datasets.load(pictures, image_size=size)
    try:
        return datasets.load("mnist", root=root, download=False)
    except FileNotFoundError:
        return datasets.load("mnist-mini")


def picture_batches(size: int, batch: int, root: str | None, pictures: str, workers: int) -> Iterator[Tensor]:
    """Endless batches from a DataLoader whose dataset transforms each picture on access."""
    from torchvision import datasets, transforms  # here, as it is a part of this way's start

    to_range = [transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    if size == 28:
        found = Digits(load(size, root, pictures).images, transforms.Compose(to_range))
    else:
        cut = [transforms.Resize(size), transforms.CenterCrop(size)]
        found = datasets.ImageFolder(pictures, transforms.Compose(cut + to_range), allow_empty=True)
    found = Subset(found, [index % len(found) for index in range(EPOCH_IMAGES)])
    loader = DataLoader(found, batch, shuffle=True, drop_last=True, num_workers=workers)
    return (images for _ in itertools.count() for images, _ in loader)


def prepare(
    network: str, way: Way, device: torch.device, root: str | None, pictures: str
) -> tuple[dict[str, float], Callable[..., dict[str, float]]]:
    """Prepare a training in this way, for ``serve``."""
    if way.keep_memory:
        from dcganlib.runtime import cpu_layers

        cpu_layers.keep_memory()
    known, begin = NETWORKS[network], time.perf_counter()
    if way.resident:
        rng = torch.Generator().manual_seed(0)
        images = load(known.size, root, pictures).images
        batches = loader = datasets.make_loader(images, known.batch, rng=rng, device=device)
    else:
        batches = picture_batches(known.size, known.batch, root, pictures, way.workers)
    loaded = time.perf_counter() - begin
    generator, discriminator = (each.to(device) for each in known.build())
    if way.ours:
        config = TrainConfig(batch_size=known.batch, precision=way.precision, **way.config)
        state = init_state(generator, discriminator, config)
        if way.resident:
            steps = train(state, loader)
        else:
            steps = (train_step(state, real.to(device)) for real in batches)
    else:
        _change(generator, discriminator, way)
        endless = (batch for _ in itertools.count() for batch in batches)
        steps = plain_steps(
            generator, discriminator, endless, precision=way.precision, variant=StepVariant(**way.step)
        )

    def run(n: int) -> None:
        for _ in range(n):
            next(steps)

    def handle(n: int = 0, flops: bool = False) -> dict[str, float]:
        return (
            {"flops": count_flops(lambda: next(steps))}
            if flops
            else {"seconds": timed(lambda: run(n), device)}
        )

    run(WARMUP_STEPS - 1)
    synchronise(device)
    return {"load": loaded, "step": timed(lambda: run(1), device)}, handle


def _change(generator: Generator, discriminator: Discriminator, way: Way) -> None:
    """Apply a single trick to the layers of plain networks."""
    if way.channels_last:
        for layers in (generator.blocks[1:], discriminator):  # what projects z would be slower
            layers.to(memory_format=torch.channels_last)
    if way.optimized:
        from dcganlib.runtime import cpu_layers

        for module in (*generator.modules(), *discriminator.modules()):
            optimized = getattr(cpu_layers, type(module).__name__, None)
            if optimized is not None and _kind(module) in way.optimized:
                module.__class__ = optimized


def _kind(module: nn.Module) -> str | None:
    """Which of the optimised layers replaces a layer."""
    if isinstance(module, nn.Dropout):
        return "dropout"
    if isinstance(module, nn.ConvTranspose2d) and module.stride == (1, 1) and module.padding != (0, 0):
        return "dft"
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.stride == (1, 1):
        return "dense"
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.stride == (2, 2):
        return "strided"
    return None


def take_turns(
    children: dict[str, Child], turns: int, seconds: float, between: Callable[[], object]
) -> dict[str, list[float]]:
    """Let processes work in turn, each for about so many seconds at a time.

    Returns:
        Seconds a step, of each turn of each process.
    """
    found: dict[str, list[float]] = {name: [] for name in children}
    for _ in range(turns):
        for name, child in children.items():
            n = max(2, round(seconds / child.ready["step"]))
            found[name].append(child.ask(n=n)["seconds"] / n)
        between()
    return found


class Bench:
    """What all measurements share: where they take place, and how to start a process.

    Args:
        options: Of the command line.
        pictures: Folder of pictures.
        deadline: When a process that has not answered is given up, by ``time.perf_counter``.

    Attributes:
        precisions: Those that the device has instructions for.
    """

    def __init__(self, options: argparse.Namespace, pictures: Path, deadline: float = math.inf) -> None:
        from dcganlib.runtime import cpu_layers  # here, as the start of those that do without it is timed

        self.device = pick_device(options.device)
        self.options, self.pictures, self.deadline = options, pictures, deadline
        half = self.device.type != "cpu" or cpu_layers.has_bfloat16()
        self.precisions = ("float32", "bfloat16") if half else ("float32",)

    def start(self, network: str, way: Way) -> Child:
        """A process that trains in this way.

        Raises:
            TimeoutError: It was not ready by the deadline.
        """
        place = {"device": str(self.device), "root": self.options.root, "pictures": str(self.pictures)}
        return Child(__file__, {"network": network, "way": asdict(way), **place}, self.deadline)

    def round(self, network: str, ways: dict[str, Way], index: int) -> list[dict[str, Any]]:
        """One row for each way: fresh processes, which take turns.

        Raises:
            TimeoutError: A process had not answered by the deadline.
        """
        batch, peaks = NETWORKS[network].batch, {precision: [] for precision in self.precisions}

        def look() -> None:
            for precision, values in peaks.items():
                values.append(peak(precision, self.device))

        with ExitStack() as stack:
            children = {name: stack.enter_context(self.start(network, way)) for name, way in ways.items()}
            turns = take_turns(children, 2 if self.options.quick else 3, self.options.turn, look)
            # Counted once, after the clocks: a count slows its step down.
            flops = {name: child.ask(flops=True)["flops"] for name, child in children.items() if index == 0}
        rows = []
        for name, way in ways.items():
            child, step = children[name], median(turns[name])
            epoch = child.seconds + (EPOCH_IMAGES / batch - WARMUP_STEPS) * step
            rows.append(
                {"network": network, "way": name, "start_s": child.seconds, "load_s": child.ready["load"]}
            )
            rows[-1] |= {"step_ms": 1e3 * step, "images_s": batch / step, "epoch_s": epoch}
            rows[-1] |= {"peak_gflops": max(peaks[way.precision]) / 1e9, "flops": flops.get(name)}
            print(f"{network:>10} {name:<9} round {index + 1}: {1e3 * step:7.1f} ms a step", file=sys.stderr)
        return rows

    def trick(self, network: str, name: str, without: Way, with_it: Way) -> dict[str, Any]:
        """What a trick alone is worth: seconds a step without it over those with it, turn by turn."""
        with self.start(network, without) as base, self.start(network, with_it) as changed:
            pair = {"without": base, "with": changed}
            turns = take_turns(pair, self.options.rounds, self.options.turn, lambda: None)
        ratios = [a / b for a, b in zip(turns["without"], turns["with"], strict=True)]
        print(f"{network:>10} {name}: {median(ratios):.2f}", file=sys.stderr)
        row = {"network": network, "trick": name, "ratio": spread(ratios)}
        return row | {"start_s": [round(child.seconds, 1) for child in pair.values()]}


def summary(rounds: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Medians and ranges over the rounds; each round's first row is what the ratios are against."""
    found = []
    for rows in zip(*rounds, strict=True):
        firsts, flops = [rows_of_round[0] for rows_of_round in rounds], rows[0]["flops"]
        columns = {
            name: [row[name] for row in rows]
            for name in ("start_s", "load_s", "step_ms", "images_s", "epoch_s", "peak_gflops")
        }
        columns["share"] = [flops / 1e6 / row["step_ms"] / row["peak_gflops"] for row in rows]
        for ratio, of in (("step_ratio", "step_ms"), ("ratio", "epoch_s")):
            columns[ratio] = [first[of] / row[of] for first, row in zip(firsts, rows, strict=True)]
        about = {"network": rows[0]["network"], "way": rows[0]["way"], "rounds": len(rows)}
        about["gflop_a_step"] = round(flops / 1e9, 2)
        found.append(about | {name: spread(values) for name, values in columns.items()})
    return found


def over_tensorflow(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Images/s of ours over those of TensorFlow's tutorial: the least and the most it may be."""
    rates = {row["way"]: row["images_s"]["median"] for row in rows if row["network"] == "tensorflow"}
    plain = rates.get("resident")
    return {
        way: [round(rate / plain / known, 2) for known in sorted(TENSORFLOW, reverse=True)]
        for way, rate in rates.items()
        if way in ("float32", "bfloat16")
    }


def make_pictures(folder: Path, count: int = PICTURE_COUNT) -> Path:
    """Pictures of noise, as smooth and as large as those of CelebA, in the layout of ImageFolder."""
    rng = torch.Generator().manual_seed(0)
    (folder / "all").mkdir(parents=True)
    for index in range(count):
        coarse = torch.randint(256, (14, 11, 3), dtype=torch.uint8, generator=rng)
        picture = Image.fromarray(coarse.numpy()).resize((178, 218), Image.Resampling.BICUBIC)
        picture.save(folder / "all" / f"{index:06}.jpg", quality=90)
    return folder


def cold_and_warm(folder: Path) -> dict[str, float]:
    """Seconds that 60,000 pictures take to decode, in proportion, and to open from the cache."""
    seconds = [timed(lambda: datasets.load(folder, image_size=64), torch.device("cpu")) for _ in range(2)]
    return {
        "cold_60000_s": round(seconds[0] * EPOCH_IMAGES / PICTURE_COUNT, 1),
        "cache_s": round(seconds[1], 3),
    }


def imports(times: int) -> dict[str, Any]:
    """Least seconds of the imports, each after those before it, and of the command's help."""
    lines = ("import torch", "import dcganlib", "from dcganlib import datasets, models, train")
    lines += ("from dcganlib import runs", "import torchvision")
    clock = "import json, time\ntimes = [time.perf_counter()]\n"
    code = clock + "".join(f"{line}\ntimes.append(time.perf_counter())\n" for line in lines)
    found, helped = [], []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", code + "print(json.dumps(times))"], stdout=subprocess.PIPE, check=True
        )
        ends = json.loads(done.stdout)
        found.append([b - a for a, b in itertools.pairwise(ends)])
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dcganlib", "--help"], stdout=subprocess.PIPE, check=True)
        helped.append(time.perf_counter() - begin)
    least = {
        line: round(min(column), 3) for line, column in zip(lines, zip(*found, strict=True), strict=True)
    }
    return least | {"dcganlib --help": round(min(helped), 3)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Medians, with the ranges of the ratios."""
    head = f"{'network':<11}{'way':<10}{'start s':>8}{'load s':>8}{'ms a step':>11}{'images/s':>10}"
    lines = [f"{head}{'epoch s':>9}{'of peak':>9}{'step ratio':>12}   end to end"]
    for row in rows:
        mid = {name: value["median"] for name, value in row.items() if isinstance(value, dict)}
        lines.append(
            f"{row['network']:<11}{row['way']:<10}{mid['start_s']:>8.1f}{mid['load_s']:>8.2f}"
            f"{mid['step_ms']:>11.1f}{mid['images_s']:>10.0f}{mid['epoch_s']:>9.1f}{mid['share']:>9.0%}"
            f"{mid['step_ratio']:>12.2f}   {_range(row['ratio'])}"
        )
    return "\n".join(lines)


def _range(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['low']:.2f} - {values['high']:.2f})"


def last_line(rows: Sequence[dict[str, Any]]) -> str:
    """The ratios end to end, ours over the tutorials' loop; those that were measured."""
    short, parts = {"float32": "fp32", "bfloat16": "bf16"}, []
    for size in ("28px", "64px"):
        found = {row["way"]: row["ratio"]["median"] for row in rows if row["network"] == size}
        named = [f"{name} {found[way]:.2f}" for way, name in short.items() if way in found]
        parts += [size, *named] if named else []
    return " ".join(["ratio", *parts])


def main() -> None:
    """Measure, print, and store the results on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often all is measured (%(default)s)")
    parser.add_argument("--turn", type=float, default=1.5, help="seconds of a process's turn (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="three rounds at most, no tricks")
    parser.add_argument("--compile", action="store_true", help="torch.compile alone, in place of the rest")
    parser.add_argument("--workers", type=int, help="processes of the DataLoader (2 with a GPU, else 0)")
    parser.add_argument("--store", action="store_true", help="keep the results with the package")
    parser.add_argument("--root", help="folder of the sets (DCGANLIB_DATA, else ~/.cache/dcganlib)")
    parser.add_argument("--device", default="auto", help="as for dcganlib train (%(default)s)")
    options, begin = parser.parse_args(), time.perf_counter()
    if options.quick and options.compile:
        parser.error("--quick has no form with --compile")
    if options.store and (options.quick or options.rounds < 5):
        parser.error("only five rounds or more of the whole are stored, not --quick")
    with tempfile.TemporaryDirectory() as folder:
        deadline = begin + QUICK_SECONDS if options.quick else math.inf
        bench = Bench(options, make_pictures(Path(folder)), deadline)
        print(json.dumps(about := machine(bench.device)))
        if "bfloat16" not in bench.precisions:
            print("bfloat16 is left out: this processor has no instructions for it")
        found = {"rows": tricks(bench, COMPILED)} if options.compile else measure(bench)
    if options.store:
        from dcganlib import runs

        asked = ["--compile"] * options.compile
        for name in ("rounds", "turn"):
            value = getattr(options, name)
            asked += [f"--{name} {value}"] * (value != parser.get_default(name))
        command = " ".join(["python benchmarks/speed.py", *asked, "--store"])
        file = runs.PRETRAINED / "results" / ("compile.json" if options.compile else "speed.json")
        files.write_text(file, json.dumps({"command": command, "machine": about, **found}, indent=1) + "\n")
        print(f"wrote {file}")
    if not options.compile:
        print(last_line(found["rows"]))


def tricks(bench: Bench, chosen: dict[str, tuple[Way, Way]]) -> list[dict[str, Any]]:
    """Each trick's own ratio for both pairs of networks, those aside that have no such layers; printed.

    Left out as well: what is in a precision that the device lacks.
    """
    rows = [
        bench.trick(network, name, *pair)
        for network in ("28px", "64px")
        for name, pair in chosen.items()
        if ONLY.get(name, network) == network and {way.precision for way in pair} <= {*bench.precisions}
    ]
    for row in rows:
        started = " and ".join(f"{seconds:.0f} s" for seconds in row["start_s"])
        print(f"{row['network']:<6}{row['trick']:<46}{_range(row['ratio'])}   ready after {started}")
    return rows


def all_rounds(bench: Bench, networks: Sequence[str], ways: dict[str, Way]) -> dict[str, list[Any]]:
    """The rounds of each pair of networks, as many as requested or as end by the deadline.

    Returns:
        For each pair, in the order given, ``Bench.round`` of each round. A pair whose first round was not
        over in time is left out, with a line that says so.

    Raises:
        SystemExit: There was not time for a single one.
    """
    quick = bench.options.quick
    rounds: dict[str, list[Any]] = {}
    for index in range(3 if quick else bench.options.rounds):
        began = time.perf_counter()
        try:
            for network in networks:
                rounds.setdefault(network, []).append(bench.round(network, ways, index))
        except TimeoutError:
            break
        now = time.perf_counter()
        if now + (now - began) > bench.deadline:
            break
    missing = [network for network in networks if not rounds.get(network)]
    for network in missing:
        print(f"{network} is left out: it was not measured within {QUICK_SECONDS} seconds")
    if len(missing) == len(networks):
        sys.exit("this machine is too slow for --quick: run it without")
    return {network: rounds[network] for network in networks if network not in missing}


def measure(bench: Bench) -> dict[str, Any]:
    """The ways end to end, the tricks one by one, and the start; printed."""
    options, device = bench.options, bench.device
    start = {"pictures": cold_and_warm(bench.pictures), "imports": imports(2 if options.quick else 5)}
    # The tutorials have 2. Where all share the processors, they would work while others have their turn.
    workers = (2 if device.type == "cuda" else 0) if options.workers is None else options.workers
    ways = WAYS | {"tutorial": replace(WAYS["tutorial"], workers=workers)}
    ways = {name: way for name, way in ways.items() if way.precision in bench.precisions}
    networks = list(NETWORKS)
    if options.quick:
        networks.remove("tensorflow")
        del ways["resident"]
    rounds = all_rounds(bench, networks, ways)
    rows = [row for measured in rounds.values() for row in summary(measured)]
    ratios = over_tensorflow(rows)
    print("start: " + json.dumps(start))
    print(table(rows))
    for way, (low, high) in ratios.items():
        print(f"{way}: {low:.2f} to {high:.2f} times TensorFlow's tutorial, by the ratios known of it")
    chosen = {} if options.quick else TRICKS | (COMPILED if device.type == "cuda" else {})
    about = {"epoch": EPOCH_IMAGES, "start": start, "rows": rows, "tricks": tricks(bench, chosen)}
    return about | {"over_tensorflow": ratios}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        spec = json.loads(sys.argv[2])
        chosen = Way(**spec["way"] | {"optimized": tuple(spec["way"]["optimized"])})
        place = torch.device(spec["device"])
        serve(lambda: prepare(spec["network"], chosen, place, spec["root"], spec["pictures"]))
    else:
        main()
