"""Command: upload dictionaries to the Hugging Face hub (``python -m itda_lightning.push --help``)."""

import sys

from itda_lightning.machine.command_line import run_command, run_function


def push(
    dictionary: str,
    repository: str,
    private: bool = True,
    prompts: bool = True,
    text_licence: str | None = None,
    hook_name: str | None = None,
) -> None:
    """Upload a dictionary, or all of a run, with exports for SAELens and a model card. Local paths are left out.

    Others load it by il.load_dictionary("hf://owner/name"), or by SAELens's SAE.from_pretrained.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        repository: such as owner/name; made if there is none. Log in first, by `hf auth login`.
        private: who may read it: false for all. A repository that is there already must be so.
        prompts: false leaves out the text of all prompts, which is text of your corpus; of each its SHA-256 stays.
        text_licence: licence of that text, for the card.
        hook_name: one of several hook points; by default all.
    """
    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.evaluation import publishing
    from itda_lightning.fitting.loading import load_all

    loaded = load_all(dictionary, hook_name)
    address = publishing.push_to_hub(loaded, repository, private, prompts, text_licence)
    text = "with the prompts of all atoms, text of your corpus" if prompts else "without prompts"
    what = "1 dictionary" if len(loaded) == 1 else f"{len(loaded)} dictionaries"
    sys.stdout.write(
        f"pushed {what} {text}: {address} ({'private' if private else 'public'})\n"
        f'load with: import itda_lightning as il; il.load_dictionary("hf://{repository}")\n'
    )


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(push, "push", args)


if __name__ == "__main__":
    run_command(main)
