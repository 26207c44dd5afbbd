"""Write a model with the layer shapes of Llama-3.1-70B and random weights: 7 layers in bfloat16 are 13.6 GB.

    python -m benchmarks.streaming.make_model --directory DIRECTORY [--layers 7]

Vocabulary and tokenizer are those of the bundled model, so that real text can be read. Weights are written shard by
shard, one per layer, so memory holds one layer.
"""

import math
import shutil
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from benchmarks.streaming.llama import config, shapes
from itda_lightning.activations.bundled import resolve
from itda_lightning.machine.atomic_files import new_directory, write_json

# Of a bfloat16 number: the sign and the mantissa are random, the exponent is -6, so magnitudes lie between 1/64 and
# 1/32.
RANDOM_BITS, EXPONENT_BITS = 0x807F, (127 - 6) << 7


def main(directory: str, layers: int = 7, size: str = "70B", hidden_size: int | None = None, seed: int = 0) -> None:
    """Write the model; ``hidden_size`` makes a small one of the same architecture for trials."""
    source = Path(resolve("bundled:smollm2-135m"))
    of_tokenizer = AutoConfig.from_pretrained(source)
    names = ("vocab_size", "bos_token_id", "eos_token_id")
    changes = {name: getattr(of_tokenizer, name) for name in names} | {"num_hidden_layers": layers}
    if hidden_size is not None:
        changes |= {"hidden_size": hidden_size, "intermediate_size": 3 * hidden_size, "num_attention_heads": 8}
    llama = config(size, **changes)
    generator = np.random.Generator(np.random.SFC64(seed))
    with new_directory(Path(directory)) as target:
        llama.save_pretrained(target)
        for file in source.glob("tokenizer*"):
            shutil.copy(file, target)
        # Tensors come in the order of the model: embeddings, layer after layer, what follows them.
        shards = [
            list(of_shard) for _, of_shard in groupby(shapes(llama).items(), key=lambda entry: shard_of(entry[0]))
        ]
        weight_map: dict[str, str] = {}
        total = 0
        for number, shard in enumerate(shards, 1):
            shard_file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tensors = {name: random_weights(shape, generator) for name, shape in shard}
            save_file(tensors, target / shard_file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, shard_file)
            total += sum(tensor.nbytes for tensor in tensors.values())
            sys.stdout.write(f"{shard_file}: {total / 1e9:.2f} GB so far\n")
        write_json(
            target / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )


def shard_of(name: str) -> str:
    """Return the file of a tensor: a layer, or the part before or after the layers."""
    return name.split(".")[2] if ".layers." in name else name.split(".")[1]


def random_weights(shape: tuple[int, ...], generator: np.random.Generator) -> Tensor:
    if len(shape) == 1:  # norms
        return torch.ones(shape, dtype=torch.bfloat16)
    whole = -(-math.prod(shape) // 4)
    bits = generator.integers(0, 2**64, whole, dtype=np.uint64).view(np.uint16)
    bits &= RANDOM_BITS
    bits |= EXPONENT_BITS
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)[: math.prod(shape)].reshape(shape)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
