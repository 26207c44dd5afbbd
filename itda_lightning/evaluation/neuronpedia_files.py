"""Write all atoms of a dictionary to files in Neuronpedia's format."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.held_out_codes import codes_of
from itda_lightning.evaluation.logit_effects import Unembedding
from itda_lightning.evaluation.neuronpedia_batches import NO_LOGITS, Place, batch, explanation, feature, logit_tables
from itda_lightning.evaluation.token_text import token_texts

EXPLANATIONS = "explanations"
LAYER = re.compile(r"\.(\d+)(?:\.|$)")


def place_of(
    data: ActivationsDataModule, hook_name: str, model_id: str | None, layer: int | None, sae_set: str
) -> Place:
    """Complete the place of features on Neuronpedia from the names of the model and the hook point.

    Raises:
        InputError: no ``layer``, and a hook point that does not name one.
    """
    if layer is None:
        match = LAYER.search(hook_name)
        if match is None:
            raise InputError(f"the hook point {hook_name!r} does not say its layer: give --layer")
        layer = int(match[1])
    return Place(model_id or Path(data.model_name.name.rpartition(":")[2]).name, layer, sae_set)


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
) -> None:
    """Measure all atoms on the held-out activations and write their features, and explanations if prompts are known.

    Args:
        directory: an existing directory.
        place: where the features belong on Neuronpedia.
        dictionary: the dictionary.
        data: reads the held-out activations.
        hook_name: the hook point.
        atoms_per_batch: number of atoms per file.
        top, per_interval: numbers of examples, as ``feature`` takes them.

    Raises:
        InputError: activations of another width than the atoms, or none that can be used.
    """
    batches = data.heldout_batches(hook_name, d_in=dictionary.d_in, description="Held-out activations")
    codes = codes_of(dictionary, batches)
    rows, dataset = data.rows("heldout"), data.hparams["dataset"]
    texts = [rows.pieces(row) for row in range(len(rows))]
    unembedding = Unembedding.of(data.language_model, hook_name)
    vocabulary = token_texts(data.tokenizer, range(unembedding.n_tokens)) if unembedding is not None else []
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
            (directory / f"batch-{number}.json").write_text(_json(batch(place, features)), encoding="utf-8")
            _write_explanations(directory / EXPLANATIONS / f"batch-{number}.jsonl", place, dictionary, atoms.tolist())


def _write_explanations(path: Path, place: Place, dictionary: Dictionary, atoms: list[int]) -> None:
    prompts, cosines = dictionary.prompts, dictionary.cosines
    if prompts is None:
        return
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for atom in atoms:
            cosine = None if cosines is None else float(cosines[atom])
            file.write(f"{_json(explanation(place, atom, prompts[atom], cosine))}\n")


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
