"""Command: list the commands of this package, or run one of them (``itda fit --config ...``)."""

import runpy
import sys

from itda_lightning.errors import InputError
from itda_lightning.machine.command_line import run_command
from itda_lightning.machine.first_imports import pause_collection

COMMANDS = {
    "demo": "fit, evaluate, export and show a first dictionary on the bundled model",
    "fit": "fit an ITDA and write a run directory",
    "harvest": "write the activations that fits read into a cache",
    "evaluate": "run SAELens's evals for an ITDA or an SAE on held-out documents",
    "compare": "compare ITDAs, SAEs and controls on the same held-out tokens",
    "export": "write a dictionary as a SAELens SAE",
    "push": "upload a dictionary to the Hugging Face hub",
    "decompose": "print the activations of a text as sums of atoms",
    "steer": "continue a prompt while atoms are added or taken out",
    "page": "write an HTML page about a dictionary",
    "neuronpedia": "write the atoms of a dictionary in Neuronpedia's format",
    "delphi": "write which token uses which atom, as delphi caches latents",
    "transfer": "rebuild a dictionary of one model in another",
    "diff": "rank the atoms of two models' dictionaries by what the other does not explain",
    "similarity": "compare models layer by layer on the same tokens",
    "verify": "verify that files are as they were written",
    "doctor": "say what is installed, which devices and engines are used, and what is missing",
}


def main(args: list[str] | None = None) -> None:
    """Run the command that the first argument names, with the others; list all commands if there is none."""
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        lines = (f"  {command:<12} {text}\n" for command, text in COMMANDS.items())
        sys.stdout.write(
            "usage: itda COMMAND ... or python -m itda_lightning.COMMAND ...\n\n"
            f"{''.join(lines)}\nitda COMMAND --help explains the options of a command.\n"
        )
    elif name in COMMANDS:
        sys.argv = [sys.argv[0], *rest]
        # The module ends its command itself; this is for what its imports raise.
        run_command(lambda: _run_module(name))
    else:
        run_command(lambda: _refuse(name))


def _run_module(name: str) -> None:
    pause_collection()
    runpy.run_module(f"itda_lightning.{name}", run_name="__main__", alter_sys=True)


def _refuse(name: str) -> None:
    raise InputError(f"there is no command {name!r}: choose one of {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
