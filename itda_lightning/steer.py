"""Command: continue prompts while atoms are added or taken out (``python -m itda_lightning.steer --help``)."""

import sys
from typing import Any

from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.output_files import check_output
from itda_lightning.machine.paths import user_path


def steer_texts(
    dictionary: str,
    prompt: str = "",
    add: dict[int, float] | None = None,
    clamp: dict[int, float] | None = None,
    ablate: list[int] | int | None = None,
    swap: dict[int, int] | None = None,
    units: str = "typical",
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    skip_first: bool = True,
    hook_name: str | None = None,
    device: str = "auto",
    data_config: str | None = None,
    prompts: str | None = None,
    output: str | None = None,
) -> None:
    """Continue a prompt as the language model does and steered by atoms; print both, the change of loss and the KL.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        prompt: the text to continue.
        add: strength to add to every activation, by atom, as in "{174: 2.0}"; negative ones steer away from the label.
        clamp: strength that an atom's coefficient is set to in every activation, by atom.
        ablate: atoms to take out of the codes that use them, one as in 12 or several as in "[12,90]".
        swap: the atom that takes the place of another, as in "{12: 90}".
        units: typical (a strength of 1 is the atom's median coefficient on held-out text) or coefficient.
        max_new_tokens: tokens to write, at most.
        temperature: 0 for the likeliest token each time, higher to draw.
        seed: of the draws.
        skip_first: leave the first token alone, whose activation dwarfs all others.
        hook_name: the hook point of the dictionary; needed if there are several.
        device: device of the language model: auto, cpu, cuda or cuda:N.
        data_config: the fit config whose data section names the model; by default that of the dictionary's own fit.
        prompts: a file of prompts instead of one: the lines of a .txt file, or jsonl with {"text": ...} per line.
        output: JSON file to write as well.
    """
    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.dictionary.atoms_with_model import READ_BY
    from itda_lightning.evaluation.atom_edits import AtomEdits
    from itda_lightning.evaluation.data_of import load_with_data
    from itda_lightning.evaluation.prompts import prompts_of
    from itda_lightning.evaluation.reading import load_model
    from itda_lightning.evaluation.steered_texts import steered_text
    from itda_lightning.report.words.excerpt import visible

    texts, path = prompts_of(prompt, prompts, ("--prompt", "--prompts")), None
    if output is not None:
        check_output(path := user_path(output, "--output"))
    loaded, hook, data = load_with_data(dictionary, hook_name, data_config, device)
    taken_out = [ablate] if isinstance(ablate, int) else ablate or []
    edits: dict[str, Any] = {"clamp": clamp or {}, "ablate": taken_out, "swap": swap or {}, "skip_first": skip_first}
    AtomEdits(loaded, add or {}, **edits, units="coefficient")  # refuses what is wrong before a model is loaded
    edits |= {"units": units, "hook_name": hook}
    writing: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    READ_BY[loaded] = None, data
    model, shown = load_model(loaded), []
    for text in texts:
        result = steered_text(model, loaded, text, add, **edits, **writing)
        sys.stdout.write("\n".join(map(visible, repr(result).split("\n"))) + "\n\n")
        shown.append(result.as_dict())
    if path is not None:
        write_json(path, {"hook_name": hook, "texts": shown})
        sys.stdout.write(f"steered texts: {path}\n")


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(steer_texts, "steer", args)


if __name__ == "__main__":
    run_command(main)
else:  # il.steer is this module
    from itda_lightning.evaluation.steering import SteeringModule

    sys.modules[__name__].__class__ = SteeringModule
    __doc__ = f"{__doc__}\n\nAs a function, il.steer(model, dictionary, ...):\n\n{SteeringModule.__call__.__doc__}"
