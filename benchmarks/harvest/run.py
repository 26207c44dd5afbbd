"""Compare the harvest with what the machine multiplies in each dtype, and with other ways to run the same layers.

    python -m benchmarks.harvest.run                                    # the bundled model, to layer 14
    python -m benchmarks.streaming.make_model --directory DIRECTORY --size 1B --layers 16
    python -m benchmarks.harvest.run --model DIRECTORY --layer 8 --name one_billion --n_rows 16 --rounds 3

"Products alone" are what the linear layers up to the hook point multiply, and nothing else: what a harvest would reach
if all else were free. They are timed in turn with every way, on the same tokens in the same process; tokens per second
are medians over rounds. Operators are those of one profiled pass of `transformers`. Writes results/NAME.json and
NAME.md.
"""

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

import itda_lightning as il
from benchmarks.bundled import DATASET, MODEL
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.harvesting import harvest
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import DTYPES, LanguageModelName
from itda_lightning.activations.text.rows import Rows

RESULTS = Path(__file__).parent / "results"
CONTEXT = 128
OTHER_BATCHES = (4, 8, 64)
COMPARED = ("float32", "bfloat16")
# What is timed: it reads all rows once.
Way = Callable[[], object]


def main(
    model: str = MODEL,
    layer: int = 14,
    name: str = "bundled",
    n_rows: int = 64,
    batch_size: int = 16,
    rounds: int = 5,
    results: str = str(RESULTS),
) -> None:
    """Time every way in both dtypes; ``n_rows`` rows of 128 tokens are read, ``batch_size`` at a time."""
    hook = f"blocks.{layer}.hook_resid_post"
    data = il.ActivationsDataModule(
        model, [hook], DATASET, training_tokens=n_rows * CONTEXT, context_size=CONTEXT, cache_dir=None
    )
    rows = data.rows("train")
    timed: list[dict[str, Any]] = []
    harvested: dict[str, Tensor] = {}
    flops = 0
    operators: dict[str, dict[str, float]] = {}
    for dtype in COMPARED:
        weights = [weight.clone() for weight in linear_weights(truncated(data, layer, dtype))]
        flops = 2 * sum(weight.numel() for weight in weights)
        for way, make in ways(data, rows, layer, dtype, batch_size).items():
            seconds = in_turn(partial(multiply, weights, rows, batch_size), make(), rounds)
            rates = {part: [rows.tokens.numel() / one for one in spent] for part, spent in seconds.items()}
            timed.append({"way": way, "dtype": dtype, **rates})
            gc.collect()
        plain = truncated(data, layer, dtype)
        operators[dtype] = shares_of_operators(partial(plain, rows.tokens[:batch_size], use_cache=False))
        once = harvest(load(data.model_name.name, [hook], dtype), rows, batch_size)
        harvested[dtype] = torch.cat([part.activations[hook].float() for part in once])
    study = Study(
        "harvest/run",
        model if model.startswith("bundled:") else Path(model).name,
        data.model_name.fingerprint(),
        hook,
        DATASET,
    )
    result = {
        **describe(study),
        "tokens": rows.tokens.numel(),
        "batch_size": batch_size,
        "rounds": rounds,
        "flops_per_token": flops,
        "ways": timed,
        "operators": operators,
        "bfloat16_error": rounding_error(harvested["float32"], harvested["bfloat16"]),
    }
    write_results(Path(results), name, result, as_markdown(result))


def in_turn(products: Way, run: Way, rounds: int) -> dict[str, list[float]]:
    """Time the products and a way once per round, after one round that does not count."""
    seconds: dict[str, list[float]] = {"products_per_second": [], "tokens_per_second": []}
    with torch.no_grad():
        for number in range(rounds + 1):
            for part, one in zip(seconds.values(), (products, run), strict=True):
                start = time.perf_counter()
                one()
                if number:
                    part.append(time.perf_counter() - start)
    return seconds


@torch.no_grad()
def shares_of_operators(run: Way) -> dict[str, float]:
    """Return the shares of processor time of torch's operators in one run after another, the largest first."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    spent = {one.key.removeprefix("aten::"): one.self_cpu_time_total for one in profiled.key_averages()}
    total = sum(spent.values())
    return {name: time / total for name, time in sorted(spent.items(), key=lambda one: -one[1]) if time > 0.005 * total}


def multiply(weights: list[Tensor], rows: Rows, batch_size: int) -> None:
    """Multiply what the linear layers multiply, for every batch."""
    inputs = {
        weight.shape[1]: torch.ones(batch_size * CONTEXT, weight.shape[1], dtype=weight.dtype) for weight in weights
    }
    for _ in rows.tokens.split(batch_size):
        for weight in weights:
            functional.linear(inputs[weight.shape[1]], weight)


def linear_weights(model: nn.Module) -> list[Tensor]:
    """Return the weights of a model's linear layers."""
    return [module.weight.detach() for module in model.modules() if isinstance(module, nn.Linear)]


def truncated(data: il.ActivationsDataModule, layer: int, dtype: str, attention: str = "sdpa") -> Any:
    """Load the model as `transformers` has it, without the layers after ``layer`` and without its last norm."""
    path = data.model_name.path_or_hub_name()
    whole = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype], attn_implementation=attention)
    model = whole.model.eval()
    model.layers, model.norm = model.layers[: layer + 1], nn.Identity()
    return model


def ways(
    data: il.ActivationsDataModule, rows: Rows, layer: int, dtype: str, batch_size: int
) -> dict[str, Callable[[], Way]]:
    """Return, by name, what makes each way: models are loaded one at a time."""
    name, hook = data.model_name.name, f"blocks.{layer}.hook_resid_post"
    several = [f"blocks.{number}.hook_resid_post" for number in sorted({0, layer // 2, layer})]

    def plain(model: Any) -> Way:
        return lambda: [model(tokens, use_cache=False) for tokens in rows.tokens.split(batch_size)]

    def harvested(hooks: list[str], size: int = batch_size, loader: str = "bridge") -> Way:
        model = load(name, hooks, dtype, loader)
        return lambda: [None for _ in harvest(model, rows, size)]

    made: dict[str, Callable[[], Way]] = {
        "the harvest": lambda: harvested([hook]),
        f"the harvest, {len(several)} hook points": lambda: harvested(several),
        "the harvest, of heads too": lambda: harvested([hook, f"blocks.{layer}.attn.hook_z"]),
        "the harvest, loader huggingface": lambda: harvested([f"model.layers.{layer}"], loader="huggingface"),
        "transformers, plainly": lambda: plain(truncated(data, layer, dtype)),
        "transformers, attention spelled out": lambda: plain(truncated(data, layer, dtype, "eager")),
        "transformers, compiled": lambda: plain(torch.compile(truncated(data, layer, dtype))),
    }
    return made | {
        f"the harvest, {size} rows per batch": partial(harvested, [hook], size)
        for size in OTHER_BATCHES
        if size <= len(rows)
    }


def load(model: str, hooks: list[str], dtype: str, loader: Any = "bridge") -> LanguageModel:
    """Load a model for a harvest on the CPU."""
    return LanguageModel(LanguageModelName(model, loader, dtype=dtype, device="cpu"), hooks)


def rounding_error(exact: Tensor, rounded: Tensor) -> dict[str, float]:
    """Return what bfloat16 costs: its share of the variance, and the median and .99 quantile of relative errors."""
    exact, rounded = exact.flatten(0, 1).double(), rounded.flatten(0, 1).double()
    squares = (rounded - exact).square().sum(1)
    relative = (squares / exact.square().sum(1)).sqrt()
    variance = (exact - exact.mean(0)).square().sum()
    return {
        "share_of_variance": float(squares.sum() / variance),
        "median_relative": float(relative.median()),
        "relative_99": float(relative.quantile(0.99)),
    }


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table of a result: tokens per second in each dtype, and their share of the products alone."""
    timed = {(one["way"], one["dtype"]): one for one in result["ways"]}
    medians = {key: statistics.median(one["tokens_per_second"]) for key, one in timed.items()}
    lines = []
    for way in dict.fromkeys(one["way"] for one in result["ways"]):
        cells = [way]
        for dtype in COMPARED:
            rates, products = timed[way, dtype]["tokens_per_second"], timed[way, dtype]["products_per_second"]
            cells.append(f"{medians[way, dtype]:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")
            cells.append(f"{medians[way, dtype] / statistics.median(products):.2f}")
        lines.append([*cells, f"{medians[way, 'bfloat16'] / medians[way, 'float32']:.2f}"])
    flops, error = result["flops_per_token"], result["bfloat16_error"]
    speeds = []
    for dtype in COMPARED:
        all_rounds = [rate for one in result["ways"] if one["dtype"] == dtype for rate in one["products_per_second"]]
        median = statistics.median(all_rounds)
        speeds.append(f"{median:,.0f} tokens per second or {median * flops / 1e9:,.0f} GFLOP/s in {dtype}")
    head = ["tokens per second", "float32", "of products", "bfloat16", "of products", "bfloat16 over float32"]
    return "\n".join(
        [
            f"{result['model']}, {result['hook_name']}, {result['tokens']:,} tokens of {result['dataset']} in rows of "
            f"{CONTEXT}, {result['batch_size']} per batch, medians (and range) of {result['rounds']} rounds. Linear "
            f"layers take {flops / 1e6:,.0f} MFLOP per token; alone: {', '.join(speeds)}. {environment(result)}",
            "",
            *table(head, lines),
            "",
            f"Activations in bfloat16 against float32: squared errors are {error['share_of_variance']:.2%} of the "
            f"variance, relative errors {error['median_relative']:.2%} in the median and {error['relative_99']:.2%} at "
            "the .99 quantile of tokens.",
            "",
            *(
                line
                for dtype, shares in result.get("operators", {}).items()
                for line in (operators_in(dtype, shares), "")
            ),
        ]
    )


def operators_in(dtype: str, shares: dict[str, float]) -> str:
    """Return a sentence on the operators that a pass takes its time for."""
    named = ", ".join(f"{name.lstrip('_')} {share:.3f}" for name, share in shares.items())
    return f"Operators of one pass of `transformers` in {dtype}, shares of processor time: {named}."


if __name__ == "__main__":
    auto_cli(main)
