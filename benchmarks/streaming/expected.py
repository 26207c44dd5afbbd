"""Compute what a streamed harvest of Llama 3.1 8B, 70B and 405B takes on one consumer GPU.

    python -m benchmarks.streaming.expected

Counts are those of the models' own modules, rates are the assumptions below; nothing is measured here. Writes
results/expected.json and expected.md.
"""

import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from benchmarks.results import Study, describe, write_results
from benchmarks.streaming.llama import SHAPES, config, shapes
from itda_lightning.activations.backends.harvest_plan import PROCESS_BYTES, batch_bytes
from itda_lightning.activations.backends.streamed.slab_pipeline import IN_MEMORY
from itda_lightning.activations.backends.streamed.streamed_backend import LARGEST_SLAB

RESULTS = Path(__file__).parent / "results"
BFLOAT16 = 2  # bytes


@dataclass(frozen=True)
class Machine:
    """The rates that the machine is assumed to reach.

    Args:
        products: floating-point operations per second in bfloat16: an RTX 4090 has 165e12 at its peak, half of which is
            reached.
        read, write: bytes per second of an NVMe disk.
        copy: bytes per second between CPU and GPU from ordinary memory; PCIe 4 x16 gives 25e9 from pinned memory only.
        gpu_memory: bytes.
    """

    products: float = 82.5e12
    read: float = 6e9
    write: float = 4e9
    copy: float = 10e9
    gpu_memory: float = 24e9


@dataclass(frozen=True)
class Expected:
    """Figures of one model: bytes, seconds, operations; ``layer_`` is one layer with all tokens.

    ``weights`` are those that are read: the embeddings and all layers. ``hidden`` is the residual stream of all tokens.
    """

    model: str
    width: int
    layers: int
    parameters: int
    layer_parameters: int
    layer_bytes: int
    weights: int
    hidden: int
    layer_flops: float
    layer_compute: float
    layer_copy: float
    layer_disk: float
    layer_seconds: float
    share_computing: float
    cache_seconds: float
    seconds: float
    spill: int
    cache: int
    cpu_memory: int
    gpu_memory: int
    fits: bool


@cache
def sizes_of(size: str) -> dict[str, int]:
    """Return the number of entries of every tensor of the model, by name."""
    return {name: math.prod(shape) for name, shape in shapes(config(size)).items()}


def expect(size: str, tokens: int, rows: int, context: int, machine: Machine) -> Expected:
    """Compute the harvest of the last layer's activations in bfloat16; a batch has ``rows`` rows of ``context``
    tokens."""
    llama, sizes = config(size), sizes_of(size)
    layer = sum(count for name, count in sizes.items() if name.startswith("model.layers.0."))
    outer = sizes["model.embed_tokens.weight"]
    n_layers, width = llama.num_hidden_layers, llama.hidden_size
    layer_bytes, hidden = BFLOAT16 * layer, BFLOAT16 * tokens * width
    flops = (
        2.0 * layer * tokens + 4.0 * context * width * tokens
    )  # weights; scores and their sums, without a causal saving
    compute = flops / machine.products
    # The weights go up once per layer; hidden states go up and come down once. Products wait for both.
    copy = (layer_bytes + 2 * hidden) / machine.copy
    disk = (layer_bytes + hidden) / machine.read + hidden / machine.write  # meanwhile
    seconds = max(compute + copy, disk)
    cache = hidden / machine.read + hidden / machine.write
    first = BFLOAT16 * outer / machine.read + hidden / machine.copy + hidden / machine.write
    gpu = max(2 * layer_bytes, BFLOAT16 * outer) + batch_bytes(llama, rows, context, BFLOAT16)
    return Expected(
        model=f"Llama 3.1 {size}",
        width=width,
        layers=n_layers,
        parameters=sum(sizes.values()),
        layer_parameters=layer,
        layer_bytes=layer_bytes,
        weights=BFLOAT16 * (outer + n_layers * layer),
        hidden=hidden,
        layer_flops=flops,
        layer_compute=compute,
        layer_copy=copy,
        layer_disk=disk,
        layer_seconds=seconds,
        share_computing=compute / seconds,
        cache_seconds=cache,
        seconds=first + n_layers * seconds + cache,
        spill=hidden + LARGEST_SLAB,
        cache=hidden,
        cpu_memory=PROCESS_BYTES + max(2 * layer_bytes, BFLOAT16 * outer) + IN_MEMORY * LARGEST_SLAB,
        gpu_memory=gpu,
        fits=gpu <= machine.gpu_memory,
    )


def main(
    tokens: int = 1_000_000,
    rows: int = 16,
    context: int = 128,
    machine: Machine = Machine(),
    results: str = str(RESULTS),
) -> None:
    """Write the table and its arithmetic."""
    models = [expect(size, tokens, rows, context, machine) for size in SHAPES]
    study = describe(Study("streaming/expected", model="Llama 3.1", tokens=tokens))
    settings = {"tokens": tokens, "rows": rows, "context": context, "machine": asdict(machine)}
    result = {**study, **settings, "models": [asdict(model) for model in models]}
    write_results(Path(results), "expected", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    machine, tokens = result["machine"], result["tokens"]
    models = [Expected(**model) for model in result["models"]]
    lines = [
        f"{tokens:,} tokens in rows of {result['context']}, {result['rows']} rows a batch; the activations after "
        f"the last layer, in bfloat16. Assumed, not measured: {machine['products'] / 1e12:.1f} TFLOP/s (half of an RTX "
        f"4090's peak in bfloat16), disk {machine['read'] / 1e9:g} GB/s read and {machine['write'] / 1e9:g} GB/s "
        f"written, {machine['copy'] / 1e9:g} GB/s between CPU and GPU, {machine['gpu_memory'] / 1e9:g} GB of GPU "
        "memory.",
        "",
        "| model | weights read GB | PFLOP | minutes | of which products | disk GB: weights, hidden states, cache "
        "| CPU memory GB | GPU memory GB | fits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for it in models:
        lines.append(
            f"| {it.model} | {it.weights / 1e9:.1f} | {it.layers * it.layer_flops / 1e15:.1f} | {it.seconds / 60:.1f} "
            f"| {it.layers * it.layer_compute / it.seconds:.0%} | {it.weights / 1e9:.1f}, {it.spill / 1e9:.1f}, "
            f"{it.cache / 1e9:.1f} | {it.cpu_memory / 1e9:.1f} | {it.gpu_memory / 1e9:.1f} | "
            f"{'yes' if it.fits else 'no'} |"
        )
    for it in models:
        lines += ["", *arithmetic(it, result)]
    return "\n".join(lines) + "\n"


def arithmetic(it: Expected, settings: dict[str, Any]) -> list[str]:
    machine, tokens, context = settings["machine"], settings["tokens"], settings["context"]
    layer, hidden = it.layer_bytes / 1e9, it.hidden / 1e9
    read, write, copy = (machine[name] / 1e9 for name in ("read", "write", "copy"))
    bound = "products and copies" if it.layer_compute + it.layer_copy >= it.layer_disk else "the disk"
    return [
        f"**{it.model}**: {it.layers} layers of {it.layer_parameters / 1e9:.3f} G parameters = {layer:.2f} GB; hidden "
        f"states {tokens:,} x {it.width:,} x 2 B = {hidden:.1f} GB. One layer:",
        f"- products: (2 x {it.layer_parameters / 1e9:.3f} G + 4 x {context} x {it.width:,}) x {tokens:,} = "
        f"{it.layer_flops / 1e15:.3f} PFLOP, / {machine['products'] / 1e12:.1f} TFLOP/s = {it.layer_compute:.1f} s;",
        f"- copies, not overlapped: ({layer:.2f} + 2 x {hidden:.1f}) GB / {copy:g} GB/s = {it.layer_copy:.1f} s;",
        f"- disk, meanwhile: ({layer:.2f} + {hidden:.1f}) GB / {read:g} GB/s + {hidden:.1f} GB / {write:g} GB/s = "
        f"{it.layer_disk:.1f} s;",
        f"- so {it.layer_seconds:.1f} s, bound by {bound}; x {it.layers} = {it.layers * it.layer_seconds / 60:.1f} "
        f"min, then {it.cache_seconds:.0f} s for the cache.",
        f"- GPU memory: two layers {2 * layer:.1f} GB and a batch {(it.gpu_memory / 1e9 - 2 * layer):.1f} GB.",
    ]


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
