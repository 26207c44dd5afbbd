"""Command: write the atoms of a dictionary as Neuronpedia's features (``python -m itda_lightning.neuronpedia --help``)."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.usable import usable
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import add_prompts, check_width, data_for, hook_point
from itda_lightning.evaluation.held_out_codes import codes_of
from itda_lightning.evaluation.logit_effects import Unembedding
from itda_lightning.evaluation.neuronpedia_batches import NO_LOGITS, Place, batch, explanation, feature, logit_tables
from itda_lightning.evaluation.token_text import token_texts
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.machine.atomic_files import new_directory
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.command_line import run_command, run_function

EXPLANATIONS = "explanations"
LAYER = re.compile(r"\.(\d+)(?:\.|$)")


def neuronpedia(
    dictionary: str,
    output: str,
    hook_name: str | None = None,
    data_config: str | None = None,
    device: str = "auto",
    model_id: str | None = None,
    layer: int | None = None,
    sae_set: str = "itda",
    atoms_per_batch: int = 128,
    top: int = 10,
    per_interval: int = 2,
) -> None:
    """Measure a dictionary on held-out documents and write its atoms in the format that SAEDashboard hands to Neuronpedia.

    Writes batch-0.json, batch-1.json, ... with all atoms, and explanations/batch-0.jsonl, ... with the source of each atom
    as its description. Coefficients keep their signs: top activations are those of the largest magnitude. Nothing is
    uploaded and nothing is overwritten.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        output: the directory to write; it must not exist.
        hook_name: which dictionary, where there are several.
        data_config: the fit config whose data section names the model and the documents; by default those of the
            dictionary's own fit.
        device: where the language model runs: auto, cpu, cuda or cuda:N.
        model_id: Neuronpedia's name of the model; by default the last part of the model's name.
        layer: the layer of the hook point; by default the number in its name.
        sae_set: Neuronpedia's name of the set of sources, without the layer.
        atoms_per_batch: atoms in one file.
        top: how many top activations to write of an atom, each with its whole row.
        per_interval: how many examples to write of each of five intervals of an atom's coefficients.
    """
    check_at_least(1, {"--atoms_per_batch": atoms_per_batch})
    check_at_least(0, {"--top": top, "--per_interval": per_interval})
    loaded = load_dictionary(dictionary, hook_name)
    hook = hook_point(loaded, hook_name, dictionary)
    data = data_for(loaded, data_config, hook, device)
    model = model_id or Path(data.model_name.name.rpartition(":")[2]).name
    place = Place(model, _layer(hook) if layer is None else layer, sae_set)
    with new_directory(Path(output).expanduser()) as directory:
        add_prompts(loaded, data)
        codes = codes_of(loaded, _batches(loaded, data, hook))
        rows = data.rows("heldout")
        dataset = data.hparams["dataset"]
        texts = [rows.pieces(row) for row in range(len(rows))]
        unembedding = Unembedding.of(data.language_model, hook)
        vocabulary = token_texts(data.tokenizer, range(unembedding.n_tokens)) if unembedding is not None else []
        with tqdm(total=loaded.n_atoms, desc="Atoms", unit=" atoms") as bar:
            for number, atoms in enumerate(torch.arange(loaded.n_atoms).split(atoms_per_batch)):
                directions = loaded.atoms[atoms.to(loaded.atoms.device)]
                tables = [NO_LOGITS] * len(atoms)
                if unembedding is not None:
                    tables = list(logit_tables(unembedding.logits(directions), vocabulary))
                features = []
                for atom, direction, table in zip(atoms.tolist(), directions.cpu(), tables, strict=True):
                    made = feature(atom, direction, codes, texts, table, dataset, top=top, per_interval=per_interval)
                    features.append(made)
                    bar.update()
                _write(directory, number, place, features, loaded)
    sys.stdout.write(f"wrote {output}: {loaded.n_atoms} atoms of {place.source} for {place.model_id}\n")


def _batches(
    dictionary: Dictionary, data: ActivationsDataModule, hook: str
) -> Iterator[tuple[Float[Tensor, "batch d"], Int[Tensor, "batch 6"]]]:
    for part in tqdm(data.val_dataloader(), desc="Held-out activations", unit=" batches"):
        x = part.activations[hook]
        check_width(dictionary, x.shape[1], data, hook)
        good = usable(x, part.table, hook, "skip")
        yield x[good], part.table[good]


def _write(directory: Path, number: int, place: Place, features: list[dict[str, Any]], dictionary: Dictionary) -> None:
    (directory / f"batch-{number}.json").write_text(_json(batch(place, features)), encoding="utf-8")
    prompts, cosines = dictionary.prompts, dictionary.cosines
    if prompts is not None:
        atoms = [content["feature_index"] for content in features]
        near = [None if cosines is None else float(cosines[atom]) for atom in atoms]
        rows = (explanation(place, atom, prompts[atom], cosine) for atom, cosine in zip(atoms, near, strict=True))
        lines = "".join(f"{_json(row)}\n" for row in rows)
        explanations = directory / EXPLANATIONS
        explanations.mkdir(exist_ok=True)
        (explanations / f"batch-{number}.jsonl").write_text(lines, encoding="utf-8")


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _layer(hook: str) -> int:
    found = LAYER.search(hook)
    if found is None:
        raise InputError(f"the hook point {hook!r} does not say its layer: give --layer")
    return int(found[1])


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(neuronpedia, "neuronpedia", args)


if __name__ == "__main__":
    run_command(main)
