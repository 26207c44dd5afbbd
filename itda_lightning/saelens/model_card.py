"""The model card of exported dictionaries, and their upload to the hub with it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.training.upload_saes_to_huggingface import upload_saes_to_huggingface

from itda_lightning.machine.bundled_names import in_words
from itda_lightning.saelens.architecture import ARCHITECTURE

PACKAGE, IMPORT = "itda-lightning", "import itda_lightning.saelens"


def needs(architecture: str) -> dict[str, Any]:
    """Return the metadata that say what must be installed and imported before an SAE of this architecture is loaded."""
    return {"needs": {"package": PACKAGE, "import": IMPORT}} if architecture == ARCHITECTURE else {}


def upload(saes: Mapping[str, SAE[Any] | Path | str], repo_id: str, revision: str = "main") -> None:
    """Upload SAEs to a repository of the Hugging Face hub by SAELens, with a model card that says how to load them.

    SAELens's own card leaves out the import that the architecture ``itda`` needs.

    Args:
        saes: name in the repository -> the SAE, or the directory of an export.
        repo_id: such as "owner/name"; created if there is none. A README.md that is there already stays.
        revision: branch to upload to.
    """
    upload_saes_to_huggingface(dict(saes), repo_id, revision, add_default_readme=False)
    hub = HfApi()
    if not hub.file_exists(repo_id, "README.md", revision=revision):
        configs = {
            name: sae.cfg.to_dict() if isinstance(sae, SAE) else json.loads((Path(sae) / SAE_CFG_FILENAME).read_text())
            for name, sae in saes.items()
        }
        hub.upload_file(
            path_or_fileobj=model_card(configs, f'SAE.from_pretrained("{repo_id}", "{next(iter(saes))}")').encode(),
            path_in_repo="README.md",
            repo_id=repo_id,
            revision=revision,
            commit_message="Add README.md",
        )


def model_card(configs: Mapping[str, Mapping[str, Any]], loading: str) -> str:
    """Return the text of README.md: what there is, what it needs, how it is used.

    Args:
        configs: name -> contents of cfg.json.
        loading: the expression that loads one of them.
    """
    lines = [
        "---",
        "library_name: saelens",
        "---",
        "",
        "# Dictionaries of activations (ITDA) as SAEs for SAELens",
        "",
    ]
    for name, config in configs.items():
        metadata = config["metadata"]
        lines.append(
            f"- `{name}`: architecture `{config['architecture']}`, {config['d_sae']:,} latents of dimension "
            f"{config['d_in']} at `{metadata.get('hook_name')}` of {_named(metadata.get('model_name'))}"
        )
    own = ARCHITECTURE in (config["architecture"] for config in configs.values())
    if own:
        lines += [
            "",
            f"The architecture `{ARCHITECTURE}` comes with the package `{PACKAGE}`: without the import below, "
            f"loading it raises `KeyError: '{ARCHITECTURE}'`.",
        ]
    signed = any(
        config["architecture"] == ARCHITECTURE and not config["nonnegative"] and not config["mirrored"]
        for config in configs.values()
    )
    if signed:
        lines += ["", "Codes are signed: count `codes != 0`, and rank by `codes.abs()`."]
    lines += ["", "```bash", f"pip install {PACKAGE if own else 'sae-lens'}", "```", "", "```python"]
    lines += [f"{IMPORT}  # registers the architecture"] if own else []
    lines += [
        "from sae_lens import SAE",
        "",
        f"sae = {loading}",
        "codes = sae.encode(activations)  # (..., d_in) -> (..., d_sae)",
        "reconstructions = sae.decode(codes)",
        "```",
        "",
    ]
    return "\n".join(lines)


def _named(model: str | None) -> str:
    words = in_words(str(model))
    return f"`{model}`" if words == model else f"{words} (`{model}`)"
