"""Compare scales of sites, and lengths and rates of trainings of SAEs: choices of the study, on two layers.

    python -m benchmarks.joint.choices

Joint ITDAs of layers 4 and 14 whose sites have other scales, and BatchTopK SAEs of both layers by passes, learning rate
and batch, on T, 10 T and 32 T activations. Everything else is as in ``run.py``, whose activations and dictionaries it
shares.
"""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli

from benchmarks.bundled import DATASET
from benchmarks.joint.entries import Entries, Training, joint_itda, joint_sae
from benchmarks.joint.losses import Losses
from benchmarks.joint.measures import HeldOut, kept_sums
from benchmarks.joint.run import LOSS_ROWS, RESULTS
from benchmarks.joint.settings import T, settings
from benchmarks.joint.tables import as_markdown
from benchmarks.results import Study, commit, describe, write_results
from itda_lightning.dictionary.sites import Sites

__all__ = ["as_markdown", "main", "scales"]
TRAININGS = {
    "T": [
        Training(2, 3e-3, 256),
        Training(2, 6e-3, 256),
        Training(8, 3e-3, 512),
        Training(8, 2e-3, 512),
        Training(16, 2e-3, 512),
    ],
    "10 T": [Training(1, 3e-3, 512), Training(1, 2e-3, 512), Training(1, 1e-3, 512), Training(2, 2e-3, 512)],
    "32 T": [Training(1, 2e-3, 1024), Training(1, 1e-3, 1024), Training(1, 2e-3, 512)],
}


def scales(entries: Entries) -> dict[str, Sites]:
    """Return the sites of a setting by how they are scaled."""
    arrays = entries.data(entries.names, "T").arrays
    distances = {site: torch.from_numpy(x - x.mean(0)).double().norm(dim=1) for site, x in arrays.items()}
    last = entries.names[-1]
    found = {"median distance from the mean is 1": entries.sites}
    for name, of in {
        "mean square distance from the mean is 1": {
            site: 1 / float(x.square().mean().sqrt()) for site, x in distances.items()
        },
        "not scaled": dict.fromkeys(arrays, 1.0),
        f"median distance, {last} weighs 1.4 times as much": {
            site.hook_name: site.scale * (1.4 if site.hook_name == last else 1) for site in entries.sites
        },
        f"median distance, {last} weighs twice as much": {
            site.hook_name: site.scale * (2 if site.hook_name == last else 1) for site in entries.sites
        },
    }.items():
        found[name] = Sites(site._replace(scale=of[site.hook_name]) for site in entries.sites)
    return found


def main(directory: Path = Path("runs/joint"), results: Path = RESULTS) -> None:
    """Run what is not there yet."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    setting = settings(directory, "")["two_layers"]
    entries, held_out = Entries(setting), HeldOut(setting, Losses(setting.of, LOSS_ROWS))
    makers: dict[str, Any] = {}
    for number, (name, sites) in enumerate(scales(entries).items()):
        makers[f"joint ITDA: {name}"] = lambda sites=sites, number=number: joint_itda(
            entries.itda(entries.names, False, sites, f"-scale-{number}" if number else "")
        )
    for budget, trainings in TRAININGS.items():
        for training in trainings:
            passes, rate, batch_size = training
            name = f"BatchTopK SAE, {budget}: {passes} passes, rate {rate:g}, batches of {batch_size}"
            makers[name] = lambda budget=budget, training=training: joint_sae(
                entries.sae(entries.names, budget, training), entries.sites
            )
    rows: dict[str, Any] = {}
    ran = commit()
    for name, make in makers.items():
        file = directory / "rows" / "choices" / f"{name}.json"
        rows[name] = held_out.figures(kept_sums(file, held_out, make, ran), None)
        aligned = setting.of.aligned
        model = next(iter(aligned.data.values())).model_name
        study = Study("joint/choices", model.name, model.fingerprint(), list(setting.sites), DATASET, T, 0)
        whole = {
            **describe(study),
            "commit": ran,
            "title": "Scales of sites, and trainings of SAEs, at layers 4 and 14",
            "rows": rows,
        }
        whole["scales"] = {name: [site.scale for site in sites] for name, sites in scales(entries).items()}
        write_results(results, "choices", whole, as_markdown(whole))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
