"""Command: write atoms as features of Neuronpedia (``python -m itda_lightning.neuronpedia --help``)."""

import re
import sys
from datetime import UTC, datetime

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import new_directory
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.choices import Strength
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.paths import user_path


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
    strength: Strength = "coefficient",
    release: str | None = None,
    creator: str = "",
    creator_id: str = "",
    url: str = "",
    hub_repository: str = "",
    hub_folder: str = "",
) -> None:
    """Measure a dictionary on held-out documents and write its atoms in the format of SAEDashboard for Neuronpedia.

    Writes batch-0.json, batch-1.json, ... with all atoms, which Neuronpedia's converter reads, and
    explanations/batch-0.jsonl, ... with the source of each atom as its description; with --release, what the converter
    makes of them, too: exports/MODEL/LAYER-SET, the folder of Neuronpedia's import. Coefficients keep their signs: top
    activations are those of the largest magnitude. Nothing is uploaded and nothing is overwritten.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        output: the directory to write; it must not exist.
        hook_name: the hook point of the dictionary; needed if there are several.
        data_config: the fit config whose data section names the model and the documents; by default those of the
            dictionary's own fit.
        device: device of the language model: auto, cpu, cuda or cuda:N.
        model_id: Neuronpedia's name of the model; by default the last part of the model's name.
        layer: the layer of the hook point; by default the number in its name.
        sae_set: Neuronpedia's name of the set of sources, without the layer.
        atoms_per_batch: number of atoms per file.
        top: number of top activations to write per atom, each with its whole row.
        per_interval: number of examples to write per interval; an atom's coefficients have five intervals.
        strength: what activations are: "coefficient" in the codes, or "cosine" with the atom, of the k atoms that each
            token is most like. By the cosine an atom's label is found far better (``Dictionary.detect``).
        release: Neuronpedia's name of the release, to write the folder of its import, too.
        creator: name of the author or the team, for the release.
        creator_id: Neuronpedia's id of the account that imports, for the release.
        url: address of the paper or repository, for the release.
        hub_repository: owner/name of the weights on the Hugging Face hub, for the release.
        hub_folder: the folder of the weights in it.
    """
    if release is not None and not (re.fullmatch(r"[\w.-]+", release) and creator and creator_id):
        raise InputError(
            f"a release needs a name of letters, digits and dashes, --creator and --creator_id, got {release!r}, "
            f"{creator!r} and {creator_id!r}"
        )
    check_at_least(1, {"--atoms_per_batch": atoms_per_batch})
    check_at_least(0, {"--top": top, "--per_interval": per_interval})
    path = user_path(output, "--output")

    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.evaluation.data_of import add_prompts, load_with_data
    from itda_lightning.evaluation.neuronpedia_batches import place_of
    from itda_lightning.evaluation.neuronpedia_export import Release
    from itda_lightning.evaluation.neuronpedia_files import write_features

    loaded, hook, data = load_with_data(dictionary, hook_name, data_config, device)
    place = place_of(data, hook, model_id, layer, sae_set)
    with new_directory(path) as directory:
        add_prompts(loaded, data)
        shown, published = {"top": top, "per_interval": per_interval}, None
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if release is not None:
            published = Release(release, creator, creator_id, url, hub_repository, hub_folder, now)
        write_features(
            directory, place, loaded, data, hook, atoms_per_batch, strength=strength, release=published, **shown
        )
    sys.stdout.write(f"wrote {output}: {loaded.n_atoms} atoms of {place.source} for {place.model_id}\n")


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(neuronpedia, "neuronpedia", args)


if __name__ == "__main__":
    run_command(main)
