"""Command: write a dictionary as a SAELens SAE (``python -m itda_lightning.export --help``)."""

import sys
from typing import Literal

from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.paths import user_path


def export(
    dictionary: str,
    output: str,
    architecture: Literal["itda", "matching_pursuit", "jumprelu", "topk"] = "itda",
    hook_name: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    data_config: str | None = None,
    tokens: int = 131_072,
    nonnegative_view: bool = False,
    pursuit: Literal["mp"] | None = None,
    prompts: bool = True,
) -> None:
    """Write a dictionary to a new directory that SAELens loads, sources included. Nothing is overwritten.

    Local paths do not get into it: of those of a model and documents only the last part is written. Commands that read
    the export of a model on this disk need --data_config.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        output: the directory to write; it must not exist.
        architecture: "itda" keeps every dictionary as it is and shows its codes on an attached model; it needs this
            package to load. "matching_pursuit" loads in SAELens alone; it has no orthogonal pursuit, and a signed
            dictionary becomes its atoms and their negatives. "jumprelu" and "topk" are ordinary SAEs, too: a linear
            encoder imitates the codes of the fit's training activations, from its cache, in some minutes.
        hook_name: which dictionary, where there are several.
        dtype: dtype of the weights. Half precision rounds the atoms, so codes change slightly.
        data_config: a fit config whose data replace those of the dictionary's fit, for "jumprelu" and "topk".
        tokens: how many of the first training tokens "jumprelu" and "topk" imitate, at most.
        nonnegative_view: for "itda": give a signed dictionary two latents per atom with non-negative codes, those of
            negative coefficients last, for programs that count what is above zero.
        pursuit: mp encodes the atoms by plain matching pursuit, unpruned, which "matching_pursuit" needs if the
            dictionary has another one; by how much the error grows on held-out activations is printed.
        prompts: false leaves out the text of all prompts; their hashes stay.
    """
    check_at_least(1, {"--tokens": tokens})
    path, activations = user_path(output, "--output"), None

    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.activations.shuffled import TrainingRows
    from itda_lightning.dictionary.copies import without_prompts
    from itda_lightning.dictionary.facts import without_local_paths
    from itda_lightning.evaluation.data_of import load_with_data, stored_heldout
    from itda_lightning.evaluation.plain_pursuit import growth_on_its_data
    from itda_lightning.fitting.loading import load_dictionary
    from itda_lightning.saelens import save_export

    if architecture in ("itda", "matching_pursuit"):
        loaded = load_dictionary(dictionary, hook_name)
    else:
        loaded, hook, data = load_with_data(dictionary, hook_name, data_config, "auto", joint=True)
        activations = TrainingRows(data, hook).first(tokens)
    growth, heldout = (None, None) if pursuit is None else growth_on_its_data(loaded, data_config)
    if pursuit is None and (architecture != "itda" or nonnegative_view):  # other latents than the fit validated
        heldout = stored_heldout(loaded, data_config)
    loaded.metadata = without_local_paths(loaded.metadata)
    signed, written = not nonnegative_view, loaded if prompts else without_prompts(loaded)
    save_export(written, path, architecture, dtype, activations, signed=signed, pursuit=pursuit, heldout=heldout)
    imports = "import itda_lightning.saelens; " if architecture == "itda" else ""
    sys.stdout.write(
        f"wrote {output}: {loaded.n_atoms} atoms of dimension {loaded.d_in} as a SAELens SAE of architecture "
        f"{architecture} ({dtype})\n"
        f"{'' if growth is None else f'by mp: {growth}' + chr(10)}"
        f"load it with: {imports}from sae_lens import SAE; sae = SAE.load_from_disk({output!r})\n"
    )


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(export, "export", args)


if __name__ == "__main__":
    run_command(main)
