"""Measure how well a dictionary tells text like its own from other text: AUROC of scores of single tokens.

    python -m benchmarks.quality.novelty --dictionary RUN --others '{code: code.jsonl, French: fr.jsonl}'

Scores: the share of an activation's energy that its code leaves unexplained (``Dictionary.novelty``), and 1 - the
largest cosine with an atom (1 - the largest ``Dictionary.detect``). Beside them two that know no atoms: the distance
from the mean of the training activations in units of their covariance (Mahalanobis), and the norm. Familiar are
held-out documents of the dictionary's own data. Means of 16 tokens of a row tell how much a longer text gives.
"""

import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.quality.detection import area_of, as_table
from benchmarks.results import Study, describe, environment, write_results
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.evaluation.data_of import load_with_data

RESULTS = Path(__file__).parent / "results"
ROW = COLUMNS.index("row")
WINDOWS = 1, 16
RIDGE = 0.01


def scores(
    dictionary: Dictionary, x: Float[Tensor, "tokens d"], training: Float[Tensor, "m d"]
) -> dict[str, Float[Tensor, " tokens"]]:
    """Return each score of the activations; larger is stranger."""
    centred, own = dictionary.centre(x), dictionary.centre(training)
    energy = centred.double().square().sum(1).clamp(min=1e-30)
    values, vectors = torch.linalg.eigh(own.T.double() @ own.double() / len(own))
    white = centred.double() @ (vectors / (values + RIDGE * values.mean()).sqrt())
    return {
        "share unexplained": dictionary.novelty(x).double(),
        "1 - largest cosine": 1 - dictionary.detect(x).amax(1).double(),
        "Mahalanobis distance": white.norm(dim=1),
        "norm": energy.sqrt(),
    }


def windows(score: Float[Tensor, " tokens"], rows: Tensor, length: int) -> Float[Tensor, " windows"]:
    """Return means of ``length`` successive tokens of a row; what is left over at its end is left out."""
    parts = [part.mean() for row in rows.unique() for part in score[rows == row].split(length) if len(part) == length]
    return torch.stack(parts) if parts else score[:0]


def run(
    dictionary: str,
    others: dict[str, str],
    hook_name: str | None = None,
    tokens: int = 8192,
    results: str = str(RESULTS),
) -> None:
    """Measure and write the table.

    Args:
        dictionary: a run directory.
        others: name -> text file (jsonl) of another kind.
        hook_name: which of several.
        tokens: read of each.
        results: directory for novelty.json and novelty.md.
    """
    start = time.perf_counter()
    loaded, hook, data = load_with_data(dictionary, hook_name, None, "cpu")
    settings = {"validation_tokens": tokens, "cache_dir": None}
    training = data.calibration_batch(16 * tokens).usable(hook).x
    read = {"own, held out": data.with_settings(**settings)}
    for name, path in others.items():
        read[name] = data.with_settings(dataset=path, holdout_fraction=0.999, training_tokens=128, **settings)
    scored, rows = {}, {}
    for name, text in read.items():
        x, places = read_all(text, hook)
        scored[name], rows[name] = scores(loaded, x, training), places[:, ROW]
        print(name, len(x), {score: round(float(values.mean()), 3) for score, values in scored[name].items()})
    found: list[dict[str, Any]] = []
    familiar = scored.pop("own, held out")
    own_rows = rows["own, held out"]
    for score, values in familiar.items():
        for length in WINDOWS if score != "norm" else WINDOWS[:1]:
            row: dict[str, Any] = {"score": score, "tokens": length}
            known = windows(values, own_rows, length)
            for name, other in scored.items():
                strange = windows(other[score], rows[name], length)
                both, is_strange = torch.cat([known, strange]), torch.arange(len(known) + len(strange)) >= len(known)
                row[name] = area_of(both, is_strange)
            found.append(row)
            print(row, flush=True)
    model = data.model_name
    study = Study("quality/novelty", model.name, model.fingerprint(), hook, data.hparams["dataset"], len(training), 0)
    result = {
        **describe(study),
        "atoms": loaded.n_atoms,
        "others": {name: Path(path).name for name, path in others.items()},
        "read": tokens,
        "seconds": time.perf_counter() - start,
        "rows": found,
    }
    write_results(Path(results), "novelty", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table."""
    sizes = f"{result['atoms']:,} atoms, {result['read']:,} tokens each"
    title = f"# Telling other text from the dictionary's own: AUROC ({sizes})"
    return "\n".join([title, "", environment(result), "", *as_table(result["rows"])]) + "\n"


def read_all(data: ActivationsDataModule, hook: str) -> tuple[Float[Tensor, "m d"], Tensor]:
    """Return the usable held-out activations and their sources."""
    parts = list(data.heldout_batches(hook, description="Activations"))
    return torch.cat([part.x for part in parts]), torch.cat([part.table for part in parts])


if __name__ == "__main__":
    auto_cli(run, as_positional=False)
