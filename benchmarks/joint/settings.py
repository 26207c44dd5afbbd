"""The settings of the study: which sites have one code, of which models, on which text."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks.bundled import DATASET, MODEL
from benchmarks.diffing.tuned import plant
from benchmarks.joint.activations import AlignedText, Models
from itda_lightning.activations.bundled import resolve
from itda_lightning.activations.text.split import Split
from itda_lightning.machine.made_once import made_once

T = 16_384  # activations
# With each come some on which pruning is calibrated, and the curves of SAEs are measured.
CALIBRATION = 2048
BUDGETS = {"T": T, "10 T": 10 * T, "32 T": 32 * T}
HELD_OUT = 8192  # tokens
KEPT = 0.98  # of the tokens: neither first of a row nor special
ALIGNED = 0.73  # of these, where tokens of both models end
LAYERS = (4, 9, 14, 19, 24)
PLANTED = ("domain", 8192, range(10, 15), 5e-4, 0)  # change, tokens, blocks, rate, seed: of ``benchmarks/diffing``


@dataclass(frozen=True)
class Setting:
    """Some sites of a text.

    Attributes:
        title: what the sites are.
        sites: name -> (model, hook point).
        of: the text that holds the activations.
        k: atoms per token and site.
    """

    title: str
    sites: dict[str, tuple[str, str]]
    of: "Text"
    k: int = 32


@dataclass(frozen=True)
class Text:
    """A text and the models that read it; settings of one text share whatever is of one site.

    Attributes:
        directory: of what is made of it.
        activations: directory of the activations, which texts of the same documents and tokens share.
        dataset: as of ``ActivationsDataModule``.
        models: the first one's tokens are counted.
        tokens: training tokens.
        context_size: tokens per row.
    """

    directory: Path
    activations: Path
    dataset: str
    models: Models
    tokens: int = round((BUDGETS["32 T"] + CALIBRATION) / KEPT)
    context_size: int = 128

    @cached_property
    def aligned(self) -> AlignedText:
        """The activations."""
        tokens: dict[Split, int] = {"train": self.tokens, "heldout": HELD_OUT}
        return AlignedText(self.activations, self.models, self.dataset, tokens, self.context_size)


def settings(directory: Path, other_model: str) -> dict[str, Setting]:
    """Return the settings by name; that of two tokenizers only if a model is given.

    Args:
        directory: of whatever is made.
        other_model: directory of a GPT-2-style model with another tokenizer.
    """
    hook = "blocks.{}.hook_resid_post".format
    base = MODEL, [hook(layer) for layer in LAYERS]
    tuned = str(fine_tuned(directory / "fine-tune")), [hook(14)]
    of_one = Text(directory / "sotu", directory / "activations", DATASET, {"base": base, "fine-tune": tuned})
    layers = {str(layer): ("base", hook(layer)) for layer in LAYERS}
    found = {
        "two_layers": Setting("Layers 4 and 14", {name: layers[name] for name in ("4", "14")}, of_one),
        "fine_tune": Setting(
            "Layer 14 of the base and of its fine-tune on source code",
            {"base": ("base", hook(14)), "fine-tune": ("fine-tune", hook(14))},
            of_one,
        ),
    }
    if other_model:
        models = {"base": (MODEL, [hook(14)]), "other": (other_model, [hook(4)])}
        place = directory / "two-tokenizers"
        tokens = round(Text.tokens / ALIGNED)
        of_two = Text(place, place / "activations", DATASET, models, tokens)
        found["two_tokenizers"] = Setting(
            "Layer 14 of 30 of SmolLM2 and layer 4 of 8 of a GPT-2-style model with a tokenizer of its own",
            {"SmolLM2": ("base", hook(14)), "GPT-2-style": ("other", hook(4))},
            of_two,
        )
    return found | {"five_layers": Setting("Five layers", layers, of_one, k=16)}


def fine_tuned(place: Path) -> Path:
    """Plant the change "domain" into the bundled model as ``benchmarks/diffing`` does, or find it; return its place."""
    base = Path(resolve(MODEL))

    def make(directory: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(base)
        with torch.enable_grad():
            plant(model, *PLANTED)
        model.save_pretrained(directory)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(base / file, directory)

    return made_once(place, make)
