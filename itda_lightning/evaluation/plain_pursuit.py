"""Tell by how much the error grows if a dictionary is encoded by plain matching pursuit, which SAELens alone can do."""

from collections.abc import Iterable, Iterator

from jaxtyping import Float
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.copies import as_matching_pursuit
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.fitting.validation import ValidationSums


def growth_of_error(dictionary: Dictionary, data: ActivationsDataModule, hook_name: str) -> str:
    """Measure a dictionary's own codes and those of matching pursuit on held-out activations, and say it in words.

    Raises InputError without held-out activations.
    """
    return compared(dictionary, (x for x, _ in data.heldout_batches(hook_name, d_in=dictionary.d_in)))


def growth_on_its_data(
    dictionary: Dictionary, config: str | None
) -> tuple[str, Iterator[Float[Tensor, "batch d"]] | None]:
    """Say by how much the error grows, or why that is not known; return the activations that tell it, too.

    They are the held-out ones of the dictionary's data, or of a fit config's.
    """
    hook = dictionary.metadata.get("hook_name") or ""
    try:
        data = data_for(dictionary, config, hook)
        return growth_of_error(dictionary, data, hook), (x for x, _ in data.heldout_batches(hook))
    except InputError as error:
        return f"by how much the error grows is not known: {error}", None


def compared(dictionary: Dictionary, batches: Iterable[Float[Tensor, "batch d"]]) -> str:
    """Say how the errors of both codes compare on activations."""
    sums = [ValidationSums(one) for one in (dictionary, as_matching_pursuit(dictionary))]
    n = 0
    for x in batches:
        n += len(x)
        for one in sums:
            one.update(x.to(dictionary.bias.device))
    own, plain = (one.compute() for one in sums)
    more = 100 * (float(plain["fvu"]) / float(own["fvu"]) - 1) if float(own["fvu"]) > 0 else float("nan")
    mine = f"FVU {own['fvu']:.4f} with {own['l0']:.1f} atoms by {dictionary.pursuit}"
    other = f"{plain['fvu']:.4f} ({more:+.1f}%) with {plain['l0']:.1f} by mp"
    return f"{mine}, {other}, on {n:,} held-out activations"
