"""Measure all atoms of a dictionary and write them for Neuronpedia: batches of SAEDashboard, and rows of its import."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import without_local_paths
from itda_lightning.evaluation.held_out_codes import codes_of
from itda_lightning.evaluation.logit_effects import Unembedding, token_texts
from itda_lightning.evaluation.neuronpedia_batches import NO_LOGITS, Place, batch, explanation, feature, logit_tables
from itda_lightning.evaluation.neuronpedia_export import Release, Site, write_batch, write_metadata
from itda_lightning.machine.choices import Strength

EXPORTS = "exports"  # beside the batches: MODEL/LAYER-SET as the importer reads it


def write_features(
    directory: Path,
    place: Place,
    dictionary: Dictionary,
    data: ActivationsDataModule,
    hook_name: str,
    atoms_per_batch: int,
    *,
    top: int,
    per_interval: int,
    strength: Strength,
    release: Release | None = None,
) -> None:
    """Measure all atoms on the held-out activations and write their features, and explanations if prompts are known.

    With a release the folder that Neuronpedia imports is written, too.

    Raises:
        InputError: activations of another width than the atoms, or none that can be used.
    """
    batches = data.heldout_batches(hook_name, d_in=dictionary.d_in, description="Held-out activations")
    codes = codes_of(dictionary, batches, strength)
    rows, dataset = data.rows("heldout"), without_local_paths(data.hparams["dataset"])
    texts = [rows.pieces(row) for row in range(len(rows))]
    unembedding = Unembedding.of(data.language_model, hook_name)
    vocabulary = token_texts(data.tokenizer, range(unembedding.n_tokens)) if unembedding is not None else []
    n_layers = getattr(getattr(data.language_model.model, "cfg", None), "n_layers", 0)
    site = Site(hook_name, dataset, len(rows), rows.context_size, dictionary.d_in, n_layers)
    exported = directory / EXPORTS / place.model_id / place.source
    if release is not None:
        write_metadata(exported, place, release, site)
    with tqdm(total=dictionary.n_atoms, desc="Atoms", unit=" atoms") as bar:
        for number, atoms in enumerate(torch.arange(dictionary.n_atoms).split(atoms_per_batch)):
            directions = dictionary.atoms[atoms.to(dictionary.atoms.device)]
            tables = [NO_LOGITS] * len(atoms)
            if unembedding is not None:
                tables = list(logit_tables(unembedding.logits(directions), vocabulary))
            features = []
            for atom, direction, table in zip(atoms.tolist(), directions.cpu(), tables, strict=True):
                features.append(
                    feature(atom, direction, codes, texts, table, dataset, top=top, per_interval=per_interval)
                )
                bar.update()
            name, explanations = f"batch-{number}", explanations_of(place, dictionary, atoms.tolist())
            (directory / f"{name}.json").write_text(_json(batch(place, features)), encoding="utf-8")
            if explanations:
                (directory / "explanations").mkdir(exist_ok=True)
                lines = "".join(f"{_json(row)}\n" for row in explanations)
                (directory / "explanations" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
            if release is not None:
                write_batch(exported, name, place, release, site, features, explanations)


def explanations_of(place: Place, dictionary: Dictionary, atoms: list[int]) -> list[dict[str, Any]]:
    """Return the rows that describe atoms by their labels; none if there is no text."""
    prompts, cosines = dictionary.label_prompts, dictionary.label_cosines
    if prompts is None:
        return []
    return [
        explanation(place, atom, prompts[atom], None if cosines is None else float(cosines[atom])) for atom in atoms
    ]


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
