"""The facts that every page shows of what was measured on what, and by what."""

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.machine.bundled_names import described
from itda_lightning.machine.versions import versions_and_hardware


def data_facts(data: ActivationsDataModule, hook_name: str) -> dict[str, str]:
    """Describe the activations at a hook point: name -> text, in the order shown."""
    rows, settings, name = data.rows("heldout"), data.hparams, data.model_name
    return {
        "model": described(name.name) + (f" at {name.revision}" if name.revision else ""),
        "model fingerprint": short(name.fingerprint()),
        "hook point": hook_name,
        "dataset": described(str(settings["dataset"])),
        "dataset fingerprint": short(data.documents.fingerprint),
        "training tokens": f"{settings['training_tokens']:,}",
        "held-out activations": f"{rows.n_kept:,} of {len(rows.document[rows.kept].unique()):,} documents",
        "context": f"{rows.context_size} tokens, prepend_bos {settings['prepend_bos']}",
        "seed": str(settings["seed"]),
    }


def machine_facts() -> dict[str, str]:
    """Describe the packages and the machine that measure: name -> text."""
    facts, packages = versions_and_hardware(), ("itda-lightning", "torch", "sae-lens", "transformers", "python")
    return {
        "versions": ", ".join(f"{package} {facts[package]}" for package in packages),
        "hardware": ", ".join([f"{facts['cpus']} CPU cores", f"{facts['memory_gb']:.0f} GB", *facts["gpus"]]),
    }


def short(fingerprint: str) -> str:
    """Shorten a fingerprint to the first digits of its hash, without the hub name that stands before a commit."""
    return fingerprint.rpartition("@")[2][:12]
