"""Model diffing: rank the atoms of one model's dictionary by how badly another model's explains them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.across_models.source_activations import SourceActivations, at_sources, check_sources
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Source, Sources
from itda_lightning.evaluation.data_of import load_with_data
from itda_lightning.evaluation.facts_strip import machine_facts
from itda_lightning.machine.bundled_names import in_words
from itda_lightning.machine.paths import is_directory
from itda_lightning.results.difference import AtomDifference, Difference, Direction

# Share that codes in single precision leave unexplained of an activation that is an atom.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Side:
    """One of the two models."""

    name: str
    dictionary: Dictionary  # with sources
    data: ActivationsDataModule  # of the dictionary's fit, which name the model
    hook_name: str

    @classmethod
    def load(cls, name: str, path: str, hook_name: str | None, device: str) -> "Side":
        """Load a dictionary with the data of its fit. Raises InputError as ``load_with_data``."""
        dictionary, hook, data = load_with_data(path, hook_name, None, device)
        return cls(name, dictionary, data, hook)

    @property
    def sources(self) -> Sources:
        """The sources of the dictionary. Raises InputError as ``check_sources``."""
        return check_sources(self.dictionary.sources, self.data)

    @property
    def heading(self) -> str:
        """The model (the last part of a directory) and the hook point, as in a heading."""
        name = self.data.model_name.name
        return f"{Path(name).name if is_directory(name) else in_words(name)} at {self.hook_name}"


def check_sides(base: Side, other: Side) -> None:
    """Raise InputError unless both pass ``check_sources`` and are of the same dataset; loads no model."""
    base.sources.intersection(other.sources)


def diff(base: Side, other: Side) -> Difference:
    """Rank the atoms of each dictionary by how much worse the other model's dictionary explains them at their sources.

    The score of an atom of A is (share of A's activation at its source that B's dictionary leaves unexplained) - (share
    of B's own activation there that B's dictionary leaves unexplained).

    Each model reads the prompts of all sources; the two are loaded one after the other. They may differ in tokenizer,
    hook point and width. If widths differ, the score is the second share alone. Raises InputError as ``check_sides``
    and ``at_sources``, and for a dictionary of another width than its model.
    """
    check_sides(base, other)
    sides = (base, other)
    read = [_read_sources(reader, sides) for reader in sides]
    return Difference(
        title=f"{base.heading} and {other.heading}",
        facts=_facts(sides),
        directions=(
            direction(base, other, own=read[0][0], theirs=read[1][0]),
            direction(other, base, own=read[1][1], theirs=read[0][1]),
        ),
    )


def unexplained_shares(dictionary: Dictionary, x: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """Return the share of ``|x - bias|^2`` that the dictionary's codes leave, float64; 0 if x is the bias."""
    x = x.to(dictionary.bias.device)
    energy = dictionary.centre(x).double().square().sum(1)
    shares = torch.where(energy > 0, dictionary.encode(x).residual_energy.double() / energy, 0.0)
    return torch.where(shares > ROUNDING, shares, 0.0).cpu()


def cosine_distances(x: Float[Tensor, "m d"], y: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """Return 1 - cosine of the rows of x and y, each about the mean of its rows; float64."""
    x, y = x.double(), y.double()
    return 1 - torch.nn.functional.cosine_similarity(x - x.mean(0), y - y.mean(0))


def _read_sources(reader: Side, owners: Sequence[Side]) -> list[SourceActivations]:
    """Return the activations of one side's model at the sources of each owner's dictionary."""
    language_model = LanguageModel(reader.data.model_name, [reader.hook_name])
    hook_name, d_in = reader.hook_name, reader.dictionary.d_in
    reader.data.check_width(hook_name, d_in, language_model.widths[hook_name])
    batch_size = reader.data.hparams["model_batch_size"]
    return [at_sources(owner.sources, owner.data, language_model, batch_size) for owner in owners]


def direction(owner: Side, reader: Side, own: SourceActivations, theirs: SourceActivations) -> Direction:
    """Rank the owner's atoms, given the activations of both models at the owner's sources."""
    both = torch.isin(theirs.index, own.index)
    index = theirs.index[both]
    x = theirs.x[reader.hook_name][both]
    own_x = own.x[owner.hook_name][torch.searchsorted(own.index, index)]
    unexplained = unexplained_shares(reader.dictionary, x).tolist()
    unexplained_own = distances = [None] * len(index)
    if own_x.shape[1] == reader.dictionary.d_in:
        unexplained_own = unexplained_shares(reader.dictionary, own_x).tolist()
        distances = cosine_distances(own_x, x).tolist()
    sources, prompts = owner.sources, dict(zip(own.index.tolist(), own.prompts, strict=True))
    common = sources.intersection(reader.sources)
    atoms = []
    for atom, left, own_left, distance in zip(index.tolist(), unexplained, unexplained_own, distances, strict=True):
        source = Source(*sources.table[atom].tolist())
        key = (source.document, source.start, source.end)
        atoms.append(AtomDifference(atom, source, prompts[atom], key in common, left, own_left, distance))
    return Direction(
        owner.name,
        reader.name,
        owner.dictionary.n_atoms,
        reader.dictionary.n_atoms,
        theirs.unaligned,
        owner.dictionary.n_atoms - theirs.unaligned - len(atoms),
        tuple(sorted(atoms, key=lambda atom: -atom.excess)),
    )


def _facts(sides: Sequence[Side]) -> dict[str, str]:
    facts = {}
    for side in sides:
        model, dictionary = side.data.model_name, side.dictionary
        facts[side.name] = model.name if model.revision is None else f"{model.name} at {model.revision}"
        facts[f"{side.name}: hook point"] = side.hook_name
        facts[f"{side.name}: dictionary"] = f"{dictionary.n_atoms:,} atoms, {dictionary.pursuit}, k = {dictionary.k}"
    return facts | {"documents": str(sides[0].data.hparams["dataset"])} | machine_facts()
