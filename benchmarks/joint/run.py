"""One code for several sites: joint ITDAs beside ITDAs of each site, and SAEs trained on all sites or on each.

    python -m benchmarks.joint.run [--chosen [two_layers, fine_tune]] [--budgets [T, "10 T"]]
    python -m benchmarks.joint.run --chosen [two_tokenizers] --other_model MODEL

All entries explain the same held-out activations at the same number of atoms per token and site: joint codes have as
many times the atoms as there are sites. For each site: FVU, and the increase of CE and the KL if it alone is replaced,
with standard errors over documents. SAEs are BatchTopK, trained by SAELens on the activations side by side, scaled as
for the joint ITDA, or on each site alone. What is made is kept in ``directory``, so the study may be stopped and
started again; results/<setting>.json has the rows that are finished.
"""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from benchmarks.bundled import DATASET
from benchmarks.joint.entries import ATOMS, TRAININGS, Entries, K
from benchmarks.joint.measures import HeldOut, kept_sums
from benchmarks.joint.settings import Setting, T, settings
from benchmarks.joint.tables import REFERENCE, as_markdown
from benchmarks.results import Study, commit, describe, write_results

__all__ = ["as_markdown", "main", "write"]
RESULTS = Path(__file__).parent / "results"
LOSS_ROWS = 24  # held-out rows of CE and KL


def main(
    chosen: list[str] | None = None,
    budgets: list[str] | None = None,
    other_model: str = "",
    directory: Path = Path("runs/joint"),
    results: Path = RESULTS,
) -> None:
    """Run what is not there yet.

    Args:
        chosen: names of settings; null for all.
        budgets: of SAEs; null for all.
        other_model: directory of a model with another tokenizer (``layer_matching/train.py``).
        directory: of whatever is made.
        results: where results are.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name, setting in settings(directory, other_model).items():
        if chosen is None or name in chosen:
            run(name, setting, budgets or list(TRAININGS), directory, results)


def run(name: str, setting: Setting, budgets: list[str], directory: Path, results: Path) -> None:
    """Make and measure the rows of a setting, those of earlier calls included."""
    entries = Entries(setting)
    held_out = HeldOut(setting, LOSS_ROWS)
    makers = entries.makers(list(TRAININGS))
    rows: dict[str, Any] = {}
    for row, make in makers.items():
        file = directory / "rows" / name / f"{row}.json"
        if file.exists() or " SAE " not in row or row.split(", ")[1] in budgets:
            rows[row] = kept_sums(file, held_out, make, commit())
            write(name, setting, entries, held_out, rows, results)


def write(
    name: str, setting: Setting, entries: Entries, held_out: HeldOut, rows: dict[str, Any], results: Path
) -> None:
    """Write the results of the rows so far."""
    text = setting.of
    model, revision = next((one.model_name.name, one.model_name.fingerprint()) for one in text.aligned.data.values())
    study = Study("joint", model, revision, list(setting.sites), DATASET, T, 0)
    reference = rows[REFERENCE]
    result = {
        **describe(study),
        "title": setting.title,
        "k per site": K,
        "max_atoms": ATOMS,
        "sites": {site: hook for site, (_, hook) in setting.sites.items()},
        "scales": [list(site) for site in entries.sites],
        "heldout": len(text.aligned.documents),
        "loss_rows": LOSS_ROWS,
        "documents": len(text.aligned.documents.unique()),
        "trainings": {budget: list(training) for budget, training in TRAININGS.items()},
        "harvest": text.aligned.harvests(),
        "rows": {row: held_out.figures(of, None if row == REFERENCE else reference) for row, of in rows.items()},
    }
    write_results(results, name, result, as_markdown(result))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
