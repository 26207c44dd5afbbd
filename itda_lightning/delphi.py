"""Command: write codes as a cache of latents of delphi (``python -m itda_lightning.delphi --help``)."""

import sys

from itda_lightning.machine.atomic_files import new_directory
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.choices import Strength
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.paths import user_path


def delphi(
    dictionary: str,
    output: str,
    hook_name: str | None = None,
    data_config: str | None = None,
    texts: str | None = None,
    device: str = "auto",
    splits: int = 5,
    strength: Strength = "coefficient",
    nonnegative_view: bool = False,
) -> None:
    """Encode held-out documents, or other texts, and write which token uses which atom, as delphi caches latents.

    Writes OUTPUT/HOOK/0_819.safetensors and so on for ranges of atoms, and OUTPUT/HOOK/config.json. Read it by
    delphi's LatentDataset(OUTPUT, ..., modules=[HOOK]). Nothing is overwritten.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        output: the directory to write; it must not exist.
        hook_name: the hook point of the dictionary; needed if there are several.
        data_config: the fit config whose data section names the model and the documents; by default those of the
            dictionary's own fit.
        texts: a file of texts to encode instead of the held-out documents.
        device: device of the language model: auto, cpu, cuda or cuda:N.
        splits: number of files, each with a range of atoms.
        strength: what activations are: "coefficient" in the codes, or "cosine" with the atom, of the k atoms that each
            token is most like.
        nonnegative_view: give a signed dictionary two latents per atom with non-negative activations, those of negative
            coefficients last: delphi ranks by the largest activation.
    """
    check_at_least(1, {"--splits": splits})
    path = user_path(output, "--output")

    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.evaluation.data_of import load_with_data
    from itda_lightning.evaluation.delphi_cache import config_of, write_config, write_latent_cache
    from itda_lightning.evaluation.reading import activations_of_rows, rows_of_texts

    loaded, hook, data = load_with_data(dictionary, hook_name, data_config, device)
    signed = not nonnegative_view or loaded.nonnegative
    with new_directory(path) as directory:
        if texts is None:
            rows = data.rows("heldout")
            batches = data.heldout_batches(hook, d_in=loaded.d_in, description="Held-out activations")
        else:
            rows = rows_of_texts(user_path(texts, "--texts"), data)
            data.check_width(hook, loaded.d_in)
            batches = activations_of_rows(rows, data, hook)
        place = directory / hook
        place.mkdir()
        uses = write_latent_cache(place, loaded, batches, rows.tokens, splits=splits, strength=strength, signed=signed)
        write_config(place, config_of(data, rows.tokens, splits))
    sys.stdout.write(
        f"wrote {output}: {uses:,} uses of {loaded.n_atoms:,} atoms by {rows.n_kept:,} tokens, for delphi\n"
    )


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(delphi, "delphi", args)


if __name__ == "__main__":
    run_command(main)
