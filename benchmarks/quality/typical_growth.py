"""Do the typical failures of a window make better labelled atoms than the oddest? Atoms as grown, by several rules.

    python -m benchmarks.quality.typical_growth --dictionary RUN

As many atoms as the run's dictionary has are taken from the activations of its fit, by sequential growth (the run's
own, before refinement), from the oddest or the most typical failures of each of 16 windows (`synthetic/growths.py`), by
residuals of plain or pruned codes, and at random. Labels are sources; measures are those of ``detection.py``.
"""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from torch import Tensor

from benchmarks.quality.detection import POSITION, ROW, figures, strengths
from benchmarks.results import Study, commit, describe, environment, table, write_results
from benchmarks.synthetic.atoms import PRUNED
from benchmarks.synthetic.growths import grow_in_windows
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.evaluation.data_of import load_with_data

RESULTS = Path(__file__).parent / "results"
WANTED = ("coefficients", "coefficients, k 8", "cosine")
COLUMNS = ("label rate by cosine", "label rate by coefficients, k 8", "AUROC by cosine", "EV")


def chosen_by(dictionary: Dictionary, x: Tensor) -> dict[str, Tensor]:
    """Return for each rule which of the centred activations become atoms."""
    n, gain = dictionary.n_atoms, PRUNED / dictionary.d_in
    codes = (dictionary.k, dictionary.pursuit, dictionary.nonnegative)
    return {
        "the oddest of each window": grow_in_windows(x, n, *codes, "oddest"),
        "the most typical of each window": grow_in_windows(x, n, *codes, "typical"),
        "the most typical, by pruned residuals": grow_in_windows(x, n, *codes, "typical", gain),
        "random activations": torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n],
    }


def run(dictionary: str, results: str = str(RESULTS)) -> None:
    """Measure and write the table.

    Args:
        dictionary: a run directory.
        results: directory for typical_growth.json and typical_growth.md.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    loaded, hook, data = load_with_data(dictionary, None, None, "cpu")
    data.prepare_data()
    batches = [batch.usable(hook) for batch in data.train_dataloader()]
    training, sources = torch.cat([part.x for part in batches]), torch.cat([part.table for part in batches])
    parts = list(data.heldout_batches(hook, d_in=loaded.d_in, description="Held-out activations"))
    x, places = torch.cat([part.x for part in parts]), torch.cat([part.table for part in parts])
    tokens = data.rows("heldout").tokens[places[:, ROW], places[:, POSITION]]
    options: dict[str, Any] = {name: getattr(loaded, name) for name in ("k", "pursuit", "nonnegative")}
    grown = {"sequential growth": (loaded.grown_atoms, loaded.source_table)}
    for name, chosen in chosen_by(loaded, loaded.centre(training)).items():
        grown[name] = torch.nn.functional.normalize(loaded.centre(training[chosen]), dim=1), sources[chosen]
    rows = []
    for name, (atoms, named) in grown.items():
        labels = data.rows("train").tokens[named[:, ROW], named[:, POSITION]]
        found: dict[str, Any] = {}
        for strength, _, explained, values in strengths(Dictionary(atoms, loaded.bias, **options), x):
            if strength in WANTED:
                rate, area, count = figures(values, tokens, labels)
                found |= {f"label rate by {strength}": rate, f"AUROC by {strength}": area, "atoms in AUROC": count}
                found |= {"EV": explained} if strength == "coefficients" else {}
        rows.append({"atoms": name, **found, "commit": commit()})
        print(rows[-1], flush=True)
    model = data.model_name
    study = Study(
        "quality/typical_growth", model.name, model.fingerprint(), hook, data.hparams["dataset"], len(training), 0
    )
    result = {**describe(study), "atoms": loaded.n_atoms, "heldout": len(x), "rows": rows}
    write_results(Path(results), "typical_growth", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table."""
    head = ["atoms as grown", "label rate by cosine", "by coefficients, k 8", "AUROC by cosine", "EV"]
    lines = [[row["atoms"], *(f"{row[column]:.3f}" for column in COLUMNS)] for row in result["rows"]]
    what = f"{result['hook_name']} of {result['model']}, {result['atoms']:,} atoms, {result['heldout']:,} held-out"
    return "\n".join([f"{what} activations: {environment(result)}", "", *table(head, lines), ""])


if __name__ == "__main__":
    auto_cli(run, as_positional=False)
