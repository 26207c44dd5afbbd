"""One code for several sites: joint ITDAs beside ITDAs of each site, and SAEs trained on all sites or on each.

    python -m benchmarks.joint.run [--chosen [two_layers, fine_tune]] [--budgets [T, "10 T"]]
    python -m benchmarks.joint.run --chosen [two_tokenizers] --other_model MODEL

All entries explain the same held-out activations at the same number of atoms per token and site: joint codes have as
many times the atoms as there are sites. For each site: FVU, and the increase of CE and the KL if it alone is replaced,
with standard errors over documents. SAEs are BatchTopK, trained by SAELens on the activations side by side, scaled as
for the joint ITDA, or on each site alone. What is made is kept in ``directory``, so the study may be stopped and
started again; results/<setting>.json has the rows that are finished.
"""

import json
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from benchmarks.bundled import DATASET
from benchmarks.joint.entries import ATOMS, TRAININGS, Entries
from benchmarks.joint.losses import Losses
from benchmarks.joint.measures import HeldOut, kept_sums
from benchmarks.joint.settings import T, settings
from benchmarks.joint.tables import REFERENCE, as_markdown
from benchmarks.results import Study, commit, describe, write_results

__all__ = ["as_markdown", "main", "write"]
RESULTS = Path(__file__).parent / "results"
REFINED, REST = "refined", "rest"
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
    found = {name: one for name, one in settings(directory, other_model).items() if chosen is None or name in chosen}
    losses = {id(one.of): Losses(one.of, LOSS_ROWS) for one in found.values()}
    ran = commit()  # of this code, whatever is committed meanwhile
    held_out = {name: HeldOut(one, losses[id(one.of)]) for name, one in found.items()}
    for stage in [REFINED, *(budgets or TRAININGS), REST]:
        for name, setting in found.items():
            run(name, Entries(setting), stage, held_out[name], directory, results, ran)


def run(name: str, entries: Entries, stage: str, held_out: HeldOut, directory: Path, results: Path, ran: str) -> None:
    """Make and measure the rows of a stage and write them with those of earlier ones.

    Stages are the refined ITDAs, the SAEs of a budget, and the other ITDAs.
    """
    makers = entries.makers(list(TRAININGS))
    files = {row: directory / "rows" / name / f"{row}.json" for row in makers}
    for row, make in makers.items():
        of_stage = " SAE " not in row if stage == REST else f", {stage}" in row
        if of_stage:
            kept_sums(files[row], held_out, make, ran)
    rows = {row: json.loads(file.read_text()) for row, file in files.items() if file.exists()}
    write(name, entries, held_out, rows, results, ran)


def write(name: str, entries: Entries, held_out: HeldOut, rows: dict[str, Any], results: Path, ran: str) -> None:
    """Write the results of the rows so far."""
    setting, text = entries.setting, entries.setting.of
    model, revision = next((one.model_name.name, one.model_name.fingerprint()) for one in text.aligned.data.values())
    study = Study("joint", model, revision, list(setting.sites), DATASET, T, 0)
    reference = rows[REFERENCE]
    result = {
        **describe(study),
        "commit": ran,
        "title": setting.title,
        "k per site": setting.k,
        "max_atoms": ATOMS,
        "models": {name: data.model_name.fingerprint() for name, data in text.aligned.data.items()},
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
