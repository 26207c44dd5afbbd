"""Do two fits find the same atoms? Order-free and sequential growth beside SAEs of two seeds.

    python -m benchmarks.order.reproducibility [--directory runs/reproducibility]

The bundled text is cut into two halves by documents. Of each, dictionaries are grown on T tokens, in another order,
with another rounding (float64 in plain torch, as another machine would round otherwise) and on the other half; TopK
SAEs are trained by SAELens on ten times as many, of two seeds and on the other half. Two dictionaries are compared by
PW-MCC (arXiv 2505.20254: the mean cosine of atoms that are matched one to one), by the share of atoms with a cosine of
at least .9 to one of the other, and, grown on the same tokens, by the share of sources that both have. Writes
results/reproducibility.json and .md.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from jsonargparse import auto_cli
from sae_lens import SAE
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

import itda_lightning as il
from benchmarks.bundled import DATASET, MODEL
from benchmarks.order.run import NEAR, grow, near, orders_of, threshold_for
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.bundled import resolve
from itda_lightning.fitting.threshold import typical_energy
from itda_lightning.growth import GrowthRule
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.saelens.training import train_sae
from itda_lightning.saelens.training_settings import TrainingSettings

RESULTS = Path(__file__).parent / "results"
TOKENS, MORE, EPOCHS = 16_384, 10, 3
ATOMS, K, EXPONENT = 1024, 32, 0.85
POLICIES = (("worst_first", 0, "order-free growth"), ("sequential", 1024, "sequential growth"))
LEARNING_RATE = 2e-3


def half_of(directory: Path, number: int) -> Path:
    """Write every second document of the bundled text."""
    path = directory / f"half-{number}.jsonl"
    lines = Path(resolve(DATASET)).read_text(encoding="utf-8").splitlines(keepends=True)
    write_text(path, "".join(lines[number::2]))
    return path


def pw_mcc(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Return the mean cosine of the atoms of two dictionaries, matched one to one."""
    cosines = normalize(a, dim=1) @ normalize(b, dim=1).T
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return float(cosines[rows, columns].mean())


def row_of(name: str, pair: str, a: Tensor, b: Tensor, seconds: float, shared: float | None = None) -> dict[str, Any]:
    row = {
        "dictionaries": name,
        "pair": pair,
        "atoms": [len(a), len(b)],
        "pw_mcc": pw_mcc(a, b),
        "near": near(normalize(a, dim=1), normalize(b, dim=1)),
        "shared_sources": shared,
        "seconds": seconds,
    }
    print(row, flush=True)
    return row


def grown(x: Tensor, policy: str, window: int, threshold: float | None) -> tuple[Int[Tensor, " n"], float]:
    """Return the activations that become atoms, and the threshold, which is found unless it is given."""
    rule = GrowthRule(K, "omp", False, 0.5, EXPONENT, typical_energy(x))
    threshold = threshold_for(policy, x, window, rule, ATOMS) if threshold is None else threshold
    return torch.tensor(grow(policy, x, window, rule._replace(threshold=threshold), 2 * ATOMS)), threshold


def of_growth(halves: list[Float[Tensor, "tokens d"]]) -> list[dict[str, Any]]:
    """Return the rows of both growth policies, and of random activations."""
    rows = []
    x, other = halves
    order = orders_of(torch.zeros(len(x)), 1, "tokens", 0)[0]
    for policy, window, name in POLICIES:
        start = time.perf_counter()
        first, threshold = grown(x, policy, window, None)
        seconds = time.perf_counter() - start
        again = order[grown(x[order], policy, window, threshold)[0]]
        rounded = grown(x.double(), policy, window, threshold)[0]
        for pair, second in (("another order", again), ("another rounding", rounded)):
            shared = 2 * int(torch.isin(first, second).sum()) / (len(first) + len(second))
            rows.append(row_of(name, pair, x[first], x[second], seconds, shared))
        rows.append(
            row_of(name, "the other half", x[first], other[grown(other, policy, window, threshold)[0]], seconds)
        )
    rows.append(row_of("random activations", "the other half", x[:ATOMS], other[:ATOMS], 0.0))
    return rows


def of_saes(data: list[il.ActivationsDataModule], hook_name: str, directory: Path) -> list[dict[str, Any]]:
    """Return the rows of TopK SAEs, which are trained unless the directory has them."""
    decoders: dict[tuple[int, int], Tensor] = {}
    samples = EPOCHS * MORE * TOKENS
    for half, seed in ((0, 0), (0, 1), (1, 0)):
        place = directory / f"sae-{half}-{seed}"
        if not place.exists():
            settings = TrainingSettings(
                "topk", ATOMS, K, samples=samples, tokens=MORE * TOKENS, learning_rate=LEARNING_RATE, seed=seed
            )
            train_sae(settings, data[half], hook_name, place)
        sae = SAE.load_from_disk(place)
        decoders[half, seed] = sae.W_dec.detach().float()
        seconds = sae.cfg.metadata["training"]["seconds"]
    pairs = (("another seed", (0, 1)), ("the other half", (1, 0)))
    return [row_of("TopK SAE, 10 T", pair, decoders[0, 0], decoders[other], seconds) for pair, other in pairs]


def main(
    directory: Path = Path("runs/reproducibility"),
    hook_name: str = "blocks.14.hook_resid_post",
    cache_dir: str = "~/.cache/itda_lightning/activations",
    results: Path = RESULTS,
) -> None:
    """Grow, train, compare and write."""
    torch.set_num_threads(1)
    directory.mkdir(parents=True, exist_ok=True)
    data, halves = [], []
    for number in range(2):
        one = il.ActivationsDataModule(
            MODEL,
            [hook_name],
            str(half_of(directory, number)),
            training_tokens=MORE * TOKENS,
            validation_tokens=4096,
            cache_dir=cache_dir,
        )
        one.prepare_data()
        first = one.with_settings(first_tokens=TOKENS)
        x = torch.cat([batch.activations[hook_name] for batch in first.train_dataloader()]).float()
        data.append(one)
        halves.append(x - x.mean(0))
    study = Study(
        "order/reproducibility", MODEL, data[0].model_name.fingerprint(), hook_name, f"{DATASET}, two halves", TOKENS, 0
    )
    rows = [*of_growth(halves), *of_saes(data, hook_name, directory)]
    content = {**describe(study), "k": K, "activations": [len(x) for x in halves], "rows": rows}
    write_results(results, "reproducibility", json.loads(json.dumps(content)), as_markdown(content))


def as_markdown(content: dict[str, Any]) -> str:
    """Return one row per pair of dictionaries."""
    cells = [
        (
            row["dictionaries"],
            row["pair"],
            " and ".join(f"{n:,}" for n in row["atoms"]),
            "" if row["shared_sources"] is None else f"{row['shared_sources']:.3f}",
            f"{row['pw_mcc']:.3f}",
            f"{row['near']:.3f}",
            f"{row['seconds']:.0f}",
        )
        for row in content["rows"]
    ]
    head = ["dictionaries", "a second one of", "atoms", "shared sources", "PW-MCC", f"cosine {NEAR:g}", "seconds"]
    lines = [
        f"{content['model']}, {content['hook_name']}, T = {content['tokens']:,} tokens of each half of the text, k = "
        f"{content['k']}. {environment(content)}",
        "",
        *table(head, cells),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
