"""Where does a training step spend its time? Layer by layer, against the peak.

The pairs are those of speed.py: flux-mnist (28 pixels, batches of 128) and dcgan-64 (64 pixels, batches of
64). A layer is taken alone, forward and backward, as the library runs it and as PyTorch does, in float32 and,
where the processor has it, in bfloat16. In a step each layer of G is used once and each of D three times: on
real and on generated images for D's own loss, and once more for G's, which needs the images' gradient alone.

    share = FLOPs of the plain layer's products / seconds / fastest square matrix product in that precision

Products with the zeros around the maps do not count. A share above 1 is possible: a layer by DFT computes
fewer products than the layer that it stands for. Times are the shortest of several; the product is timed in
turn with each layer. What follows a convolution (bias, batch norm, activation, dropout) is timed with it and
listed apart.

python benchmarks/layers.py             # three minutes on two quiet cores
python benchmarks/layers.py --store     # keep the table with the package
python benchmarks/layers.py --table     # print the stored one
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from _timing import machine, peak
from torch import Tensor, nn

from dcganlib import runs, zoo
from dcganlib.config import TrainConfig
from dcganlib.runtime import cpu_layers, files
from dcganlib.runtime.device import autocast, prepare_network

RESULTS = runs.PRETRAINED / "results" / "layers.json"
PAIRS = {"28px": ("flux-mnist", 28, 128), "64px": ("dcgan-64", 64, 64)}
PASSES = {"G": (1, 1, 1), "D": (3, 2, 3)}  # forward, gradient of the weights, gradient of the maps
CPU = torch.device("cpu")
REPEATS = 7


def shortest(work: Callable[[], object]) -> float:
    """Seconds of the shortest of several calls, after one that is not timed."""
    work()
    found = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return min(found)


def passes(module: nn.Module, maps: Tensor, precision: str, *, inner: bool) -> tuple[float, float, float]:
    """Seconds of a forward pass, and of a backward pass for weights (and maps), and for the maps alone.

    Args:
        module: A layer with parameters.
        maps: Its input, without a gradient.
        precision: "float32" or "bfloat16".
        inner: Whether its own player's loss needs the gradient of the maps: in every layer but the first.
    """

    def forward(weights: bool, of_maps: bool) -> tuple[list[Tensor], Tensor]:
        given = maps.detach().requires_grad_(of_maps)
        with autocast(precision, CPU):
            found = module(given)
        wanted = [parameter for parameter in module.parameters() if weights] + ([given] if of_maps else [])
        return wanted, found

    def both(weights: bool, of_maps: bool) -> float:
        def work() -> None:
            wanted, found = forward(weights, of_maps)
            torch.autograd.grad(found, wanted, torch.ones_like(found))

        return shortest(work)

    ahead = shortest(lambda: forward(True, inner))
    return ahead, max(both(True, inner) - ahead, 0.0), max(both(False, True) - ahead, 0.0)


def useful_products(convolution: nn.Conv2d | nn.ConvTranspose2d, size: int, result: int) -> int:
    """Multiplications for one image, without those of the zeros around the maps.

    Args:
        convolution: With square kernel, stride and padding.
        size, result: Side of the maps before and after it.
    """
    (kernel, _), (stride, _), padding = convolution.kernel_size, convolution.stride, convolution.padding[0]
    small, large = sorted((size, result))
    met = sum(0 <= i * stride + k - padding < large for i in range(small) for k in range(kernel))
    return met**2 * convolution.in_channels * convolution.out_channels


def of_a_step(player: str, seconds: tuple[float, float, float]) -> float:
    """Seconds of a layer in a step of training, from those of its passes."""
    ahead, back, maps_alone = seconds
    forwards, for_weights, for_maps = PASSES[player]
    return forwards * ahead + for_weights * back + (for_maps - for_weights) * maps_alone


def measure(pair: str, precision: str, *, fast: bool) -> list[dict[str, Any]]:
    """A row for each layer of a pair, in the order of the data."""
    name, size, batch = PAIRS[pair]
    config = TrainConfig(fast=fast)
    rows = []
    for player, network in zip("GD", zoo.build(name, rng=torch.Generator().manual_seed(0)), strict=True):
        prepare_network(network, config, size)
        noise = torch.randn(batch, 100, 1, 1)
        maps = noise if player == "G" else images_for(network, batch)
        for place, block in enumerate(network.blocks):
            convolution, own_peak = block[0], peak(precision, CPU)
            with torch.no_grad(), autocast(precision, CPU):
                found = block(maps)
            inner = place > 0
            alone, whole = (passes(part, maps, precision, inner=inner) for part in (convolution, block))
            own_peak = max(own_peak, peak(precision, CPU))
            products = 2 * batch * useful_products(convolution, maps.shape[-1], found.shape[-1])
            forwards, for_weights, for_maps = PASSES[player]
            if not inner:  # nobody asks for the gradient of z; that of the images is for G alone
                for_maps = 0 if player == "G" else 1
            flops = products * (forwards + for_weights + for_maps)
            seconds = of_a_step(player, alone)
            rows.append(
                {
                    "pair": pair,
                    "precision": precision,
                    "way": "ours" if fast else "plain",
                    "layer": f"{player}{place + 1}",
                    "from": list(maps.shape[1:]),
                    "to": list(found.shape[1:]),
                    "ms": round(1e3 * seconds, 2),
                    "rest_ms": round(1e3 * max(of_a_step(player, whole) - seconds, 0), 2),
                    "gflop": round(flops / 1e9, 3),
                    "share": round(flops / seconds / own_peak, 3),
                }
            )
            maps = found.float() if precision == "float32" else found
    return rows


def images_for(network: nn.Module, batch: int) -> Tensor:
    """Images for a discriminator, (N, channels, size, size), in the order of its weights in memory."""
    images = torch.randn(batch, network.channels, network.image_size, network.image_size)
    weight = network.blocks[0][0].weight
    if weight.is_contiguous():
        return images
    return images.contiguous(memory_format=torch.channels_last)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text, and how much of all the time each layer takes."""
    lines = []
    for kind in dict.fromkeys((row["pair"], row["precision"], row["way"]) for row in rows):
        chosen = [row for row in rows if (row["pair"], row["precision"], row["way"]) == kind]
        total = sum(row["ms"] + row["rest_ms"] for row in chosen)
        lines.append(f"{' '.join(kind)}: {total:.0f} ms")
        for row in chosen:
            shape = " -> ".join("x".join(map(str, row[end])) for end in ("from", "to"))
            part = (row["ms"] + row["rest_ms"]) / total
            lines.append(
                f"  {row['layer']}  {shape:26}{row['ms']:8.1f} ms{row['gflop']:7.1f} GFLOP{row['share']:7.0%}"
                f" of the peak   rest {row['rest_ms']:6.1f} ms{part:7.0%} of all"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure and print, or print what is stored."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", action="store_true", help="keep the table with the package")
    parser.add_argument("--table", action="store_true", help="print the stored table")
    parser.add_argument("--pair", choices=sorted(PAIRS), help="this pair alone")
    options = parser.parse_args()
    if options.table:
        print(table(runs.results("layers")["rows"]))
        return
    cpu_layers.keep_memory()
    precisions = ["float32", "bfloat16"] if cpu_layers.has_bfloat16() else ["float32"]
    rows = []
    for pair in [options.pair] if options.pair else PAIRS:
        for precision in precisions:
            for fast in (False, True):
                found = measure(pair, precision, fast=fast)
                rows += found
                print(table(found), flush=True)
    if options.store:
        stored = {"command": "python benchmarks/layers.py --store", "machine": machine(CPU), "rows": rows}
        files.write_text(RESULTS, json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
