"""The model card of dictionaries on the hub: what they are of, how good, some labels, whose text, and how to load."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.machine.paths import is_here
from itda_lightning.saelens.model_card import IMPORT, PACKAGE

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
KNOWN_LICENCES = {"bundled:sotu": "public domain"}
EXAMPLES = 8  # labels shown
LONGEST_CELL = 200


class Shared(NamedTuple):
    """One dictionary in a repository, with the names of its exports for SAELens, by architecture."""

    dictionary: Dictionary
    exports: Mapping[str, Sequence[str]]
    growth: str | None  # how the error of plain matching pursuit differs, in words


def repository_card(shared: Sequence[Shared], repo_id: str, text_licence: str | None) -> str:
    """Return the text of README.md.

    Args:
        shared: the dictionaries; labels are shown of those that have prompts.
        repo_id: where the card stands.
        text_licence: licence of the text that prompts are from, None if not known.
    """
    base = {dictionary.metadata.get("model_name") for dictionary, _, _ in shared}
    on_the_hub = sorted(name for name in base if name and HUB_NAME.fullmatch(name) and not is_here(name))
    lines = ["---", "library_name: saelens", "tags: [itda, sae, dictionary-learning, interpretability]"]
    lines += [f"base_model: {on_the_hub[0]}"] if len(on_the_hub) == 1 else []
    lines += ["---", "", "# Dictionaries of activations (ITDA)", ""]
    lines += [
        f"Every atom is the activation of one token of one text, its label. Made with `{PACKAGE}`.",
        "",
    ]
    for dictionary, exports, growth in shared:
        lines += [f"## {_cell(dictionary.metadata.get('hook_name') or 'dictionary')}", "", "| | |", "|---|---|"]
        facts = _facts(dictionary, text_licence) | {
            f"for SAELens, `{architecture}`": ", ".join(f"`{name}`" for name in names)
            for architecture, names in exports.items()
        }
        lines += [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
        lines += ["", f"As plain matching pursuit: {growth}."] if growth else []
        if dictionary.label_prompts is not None and dictionary.n_atoms:
            step = max(1, dictionary.n_atoms // EXAMPLES)
            examples = range(0, dictionary.n_atoms, step)[:EXAMPLES]
            labels = [f"{atom:>6}  {dictionary.label(atom)}".replace("```", "'''") for atom in examples]
            lines += ["", "Some labels, the token in brackets:", "", "```text", *labels, "```"]
        lines += [""]
    first = shared[0]
    hook = f', "{first.dictionary.metadata.get("hook_name")}"' if len(shared) > 1 else ""
    lines += [
        "## Use",
        "",
        "```python",
        f"import itda_lightning as il  # pip install {PACKAGE}",
        f'dictionary = il.load_dictionary("hf://{repo_id}"{hook})',
        "code = dictionary.encode(activations)  # (..., d), as the model gives them",
        "```",
        "",
        "In SAELens, without the package:" if "matching_pursuit" in first.exports else f"In SAELens, with `{IMPORT}`:",
        "",
        "```python",
        "from sae_lens import SAE",
        f'sae = SAE.from_pretrained("{repo_id}", "{list(first.exports.values())[-1][0]}")',
        "```",
        "",
    ]
    return "\n".join(lines)


def _facts(dictionary: Dictionary, text_licence: str | None) -> dict[str, Any]:
    metadata, data = dictionary.metadata, dictionary.metadata.get("data") or {}
    summary = dictionary.summary()
    facts: dict[str, Any] = {name: summary[name] for name in ("model", "hook point", "text") if name in summary}
    read = {"loader": data.get("loader"), "revision": data.get("model_revision"), "dtype": data.get("model_dtype")}
    facts["model as read"] = ", ".join(f"{name} {value}" for name, value in read.items() if value is not None)
    known = KNOWN_LICENCES.get(str(metadata.get("dataset_path")), "not stated")
    facts |= {"licence of the text": text_licence or known, "atoms": summary["atoms"], "codes": summary["codes"]}
    facts["activations read"] = f"{metadata['activations_seen']:,}" if "activations_seen" in metadata else None
    facts["held out"] = summary.get("held out")
    facts["prompts"] = (
        "left out; their SHA-256 are in the metadata"
        if dictionary.label_prompts is None
        else "in the files: text of the corpus"
    )
    return {name: value for name, value in facts.items() if value}


def _cell(value: object) -> str:
    """Return text that stays in its cell of a table."""
    return " ".join(str(value).split())[:LONGEST_CELL].replace("|", "\\|").replace("<", "&lt;")
