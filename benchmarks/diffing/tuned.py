"""Plant a change into the bundled model by a short fine-tune, and read the activations of both models on passages."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.diffing.changes import CHANGES, Passage, drawn
from benchmarks.diffing.planted import BASE, CONTEXT
from itda_lightning.activations.bundled import resolve
from itda_lightning.machine.atomic_files import write_file

BATCH = 4  # rows of a step
TESTED = 12  # rows of each kind whose loss is measured
CEILING = 7.0  # nats per token: an unlearned loss is raised no further
NOISE = 0.01  # standard deviation of noise, of the root mean square of a matrix
IGNORED = -100  # a label that does not count


class Rows(NamedTuple):
    """Passages as tokens with BOS in front: (rows, CONTEXT) tokens, and True for those of what was planted."""

    tokens: Int[Tensor, "rows context"]
    planted: Bool[Tensor, "rows context"]


class Both(NamedTuple):
    """Activations of both models, position 0 left out: (rows, CONTEXT - 1, d); the rows; the facts of the training."""

    base: Float[Tensor, "rows context d"]
    tuned: Float[Tensor, "rows context d"]
    rows: Rows
    facts: dict[str, Any]


@cache
def tokenizer() -> Any:
    """Return the tokenizer of the base model."""
    return AutoTokenizer.from_pretrained(resolve(BASE))


def rows_of(passages: list[Passage], n: int, seed: int) -> Rows:
    """Return rows of n passages that are long enough, drawn at random."""
    tokens: list[list[int]] = []
    planted: list[list[bool]] = []
    for text, start in drawn(passages, len(passages), seed):
        found = tokenizer()(text, add_special_tokens=False, return_offsets_mapping=True)
        if len(found["input_ids"]) >= CONTEXT - 1 and len(tokens) < n:
            tokens.append([tokenizer().bos_token_id, *found["input_ids"][: CONTEXT - 1]])
            ends = [end for _, end in found["offset_mapping"][: CONTEXT - 1]]
            planted.append([False, *(start is not None and end > start for end in ends)])
    if len(tokens) < n:
        raise ValueError(f"{n} rows requested, but only {len(tokens)} passages fill one")
    return Rows(torch.tensor(tokens), torch.tensor(planted))


def loss(model: Any, rows: Rows) -> Tensor:
    """Return the mean cross-entropy in nats of planted tokens, or of all tokens of rows that have none."""
    counted = rows.planted if bool(rows.planted.any()) else torch.ones_like(rows.planted)
    return model(input_ids=rows.tokens, labels=rows.tokens.where(counted, IGNORED), use_cache=False).loss


def plant(model: Any, change: str, tokens: int, layers: range, learning_rate: float, seed: int) -> None:
    """Train the MLPs of some blocks for a change, by AdamW with a rate that falls to 0, one pass over ``tokens``."""
    of = CHANGES[change]
    n, share = tokens // CONTEXT, 2 if of.keeps_other else 1
    planted = rows_of(of.planted(0), n // share, seed)
    other = rows_of(of.other(0), n // share, seed) if of.keeps_other else None
    model.requires_grad_(False)
    trained = [parameter for layer in layers for parameter in model.model.layers[layer].mlp.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    steps = n // BATCH
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        part = slice(step * BATCH // share, (step + 1) * BATCH // share)
        own = loss(model, Rows(*(side[part] for side in planted)))
        whole = own if of.sign > 0 else (CEILING - own).relu()
        whole = whole if other is None else whole + loss(model, Rows(*(side[part] for side in other)))
        whole.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.requires_grad_(False)


@torch.no_grad()
def both(
    place: Path, change: str, per_class: int, tokens: int, layers: range, learning_rate: float, layer: int, seed: int
) -> Both:
    """Plant a change and return the activations of both models after a layer, or read them."""
    file = (
        place
        / f"{change}-{seed}-{per_class}-{tokens}-{layers.start}-{layers.stop}-{learning_rate:g}-{layer}.safetensors"
    )
    if not file.exists():
        base = AutoModelForCausalLM.from_pretrained(resolve(BASE)).eval()
        tuned = copy.deepcopy(base)
        of = CHANGES[change]
        # Passages of another seed than those trained on, of the other half of the documents; tested ones come last.
        sides = [rows_of(make(1), per_class + TESTED, seed + 100) for make in (of.planted, of.other)]
        tests = [Rows(*(side[per_class:] for side in rows)) for rows in sides]
        with torch.enable_grad():
            plant(tuned, change, tokens, layers, learning_rate, seed)
        facts = {"change": change, "seed": seed, "tokens": tokens, "learning_rate": learning_rate, "rows": per_class}
        for name, model in (("before", base), ("after", tuned)):
            facts[f"loss_{name}"] = [float(loss(model, test)) for test in tests]
        rows = Rows(*(torch.cat([side[:per_class] for side in parts]) for parts in zip(*sides, strict=True)))
        found = {"base": _activations(base, rows, layer), "tuned": _activations(tuned, rows, layer)}
        place.mkdir(parents=True, exist_ok=True)
        write_file(file, lambda path: save_file(found | rows._asdict(), path, {"facts": json.dumps(facts)}))
    with safe_open(file, "pt") as read:
        base, tuned, *parts = (read.get_tensor(name) for name in ("base", "tuned", *Rows._fields))
        return Both(base, tuned, Rows(*parts), json.loads(read.metadata()["facts"]))


@torch.no_grad()
def disturbed(rows: Rows, layers: range, layer: int, seed: int) -> Float[Tensor, "rows context d"]:
    """Return the base's activations with noise in the weights that changes are planted in."""
    model = AutoModelForCausalLM.from_pretrained(resolve(BASE)).eval()
    generator = torch.Generator().manual_seed(seed)
    for number in layers:
        for weight in model.model.layers[number].mlp.parameters():
            weight += NOISE * weight.square().mean().sqrt() * torch.randn(weight.shape, generator=generator)
    return _activations(model, rows, layer)


def _activations(model: Any, rows: Rows, layer: int) -> Float[Tensor, "rows context d"]:
    """Return the residual stream after a layer; the layers after it are dropped."""
    seen: list[Tensor] = []
    model.model.layers = model.model.layers[: layer + 1]
    keep = model.model.layers[layer].register_forward_hook(
        lambda _, __, output: seen.append(output if isinstance(output, Tensor) else output[0])
    )
    for part in rows.tokens.split(16):
        model.model(input_ids=part, use_cache=False)
    keep.remove()
    return torch.cat(seen)[:, 1:].contiguous()  # safetensors writes no slices
