"""Write atoms in the format in which SAEDashboard hands features to Neuronpedia.

The format is that of the public source of SAEDashboard (github.com/jbloomAus/SAEDashboard): the classes
`NeuronpediaDashboardBatch`, `...Feature` and `...Activation` of `sae_dashboard/neuronpedia/neuronpedia_dashboard.py`,
filled in `neuronpedia_converter.py` and `sequence_data_generator.py` and read in `neuronpedia_export.py`. The rows of
explanations have the columns that Neuronpedia exports and imports (github.com/hijohnnylin/neuronpedia,
`utils/neuronpedia-utils/neuronpedia_utils/export-data.py`). An ITDA differs from the SAEs that the format is made for:

- Coefficients keep their sign in ``values``, in the bins and in the histogram. The top activations are those of the
  largest magnitude, and the intervals divide the range from the smallest coefficient (0 if none is negative) to the
  largest. For non-negative coefficients all this is as for an SAE; Neuronpedia shades only positive values.
- ``frac_nonzero`` counts coefficients that are not zero, of either sign. ``bin_contains`` is the share of tokens whose
  coefficient lies in the interval and is not zero; SAEDashboard also counts zeros in the lowest.
- ``neg_*``, ``pos_*`` and the histogram of logits are those of the atom with a positive coefficient; see
  ``Unembedding``. They are empty if the model gives no unembedding.
- Correlations with neurons and other features are not measured, so they are empty; neurons are the dimensions of the
  residual stream, and only the alignment with them is given.
- Position 0 and special tokens are not encoded; their value is 0.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.sources import Prompt
from itda_lightning.errors import InputError
from itda_lightning.evaluation.held_out_codes import POSITION, ROW, HeldOutCodes, evenly

DECIMALS = 3  # SAEDashboard's
VECTOR_DECIMALS = 6
HISTOGRAM_BINS = 50
ALIGNED_NEURONS = 3
TOKENS = 10
INTERVALS = 5
TOP_BIN = -1.0  # marks the group of top activations, in place of a lower end and of a share
CONTEXT_CHARACTERS = 80
# The fields of logits if the model gives none.
NO_LOGITS: dict[str, list[Any]] = {
    name: []
    for name in (
        *(f"{sign}_{part}" for sign in ("neg", "pos") for part in ("str", "values")),
        *(f"logits_hist_data_bar_{part}" for part in ("heights", "values")),
    )
}


class Place(NamedTuple):
    """The place of features on Neuronpedia: its name of the model, the layer, and the set of sources without it."""

    model_id: str
    layer: int
    sae_set: str

    @property
    def source(self) -> str:
        """The name of the source, as Neuronpedia makes it."""
        return f"{self.layer}-{self.sae_set}"


def batch(place: Place, features: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of one ``batch-N.json``."""
    return {**place._asdict(), "sae_id_suffix": None, "features": features}


def feature(
    atom: int,
    direction: Float[Tensor, " d"],
    codes: HeldOutCodes,
    rows: Sequence[Sequence[str]],
    logits: Mapping[str, list[Any]],
    dataset: str,
    *,
    top: int,
    per_interval: int,
) -> dict[str, Any]:
    """Describe one atom as a feature.

    ``rows`` are the texts of the tokens of the held-out rows, ``logits`` come from ``logit_tables`` or are
    ``NO_LOGITS``. Examples of an interval of coefficients are evenly spread over its tokens.
    """
    _, coefficients = codes.of(atom)
    ((heights, middles),) = _histograms(coefficients[None]) if len(coefficients) else [([], [])]
    alignment = direction.double().topk(min(ALIGNED_NEURONS, len(direction)))
    return {
        "feature_index": atom,
        "neuron_alignment_indices": alignment.indices.tolist(),
        "neuron_alignment_values": _rounded(alignment.values),
        "neuron_alignment_l1": _rounded(alignment.values.abs() / direction.double().abs().sum()),
        **{
            f"correlated_{kind}_{part}": [] for kind in ("neurons", "features") for part in ("indices", "l1", "pearson")
        },
        **logits,
        "frac_nonzero": len(coefficients) / codes.n_tokens,
        "freq_hist_data_bar_heights": heights,
        "freq_hist_data_bar_values": middles,
        "n_prompts_total": len(rows),
        "n_tokens_in_prompt": len(rows[0]),
        "dataset": dataset,
        "decoder_weights_dist": [],
        "activations": _activations(atom, codes, rows, top, per_interval),
        "vector": _rounded(direction, VECTOR_DECIMALS),
    }


def explanation(place: Place, atom: int, prompt: Prompt, cosine: float | None = None) -> dict[str, Any]:
    """Return a row of explanations that describes an atom by its label; the importer gives ids and authors.

    ``cosine``, of a refined atom with the activation of its label, becomes part of the description.
    """
    before, after = prompt.before[-CONTEXT_CHARACTERS:], prompt.after[:CONTEXT_CHARACTERS]
    # Cut off, not rounded: no atom looks nearer to its label than it is.
    refined = "" if cosine is None else f"refined, cosine {math.floor(1000 * cosine + 1e-6) / 1000:.3f} with "
    return {
        "modelId": place.model_id,
        "layer": place.source,
        "index": str(atom),
        "description": f"{refined}the activation of [[{prompt.token}]] in: {before}[[{prompt.token}]]{after}",
        "typeName": None,
        "explanationModelName": None,
    }


def logit_tables(logits: Float[Tensor, "m tokens"], texts: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Make the fields of logits of every atom, from what it adds to the logit of every token and the tokens' texts."""
    count = min(TOKENS, len(texts))
    negative, positive = logits.topk(count, largest=False), logits.topk(count)
    columns = (negative.indices, negative.values, positive.indices, positive.values)
    for neg, neg_by, pos, pos_by, histogram in zip(*columns, _histograms(logits), strict=True):
        yield {
            "neg_str": [texts[token] for token in neg.tolist()],
            "neg_values": _rounded(neg_by),
            "pos_str": [texts[token] for token in pos.tolist()],
            "pos_values": _rounded(pos_by),
            "logits_hist_data_bar_heights": histogram[0],
            "logits_hist_data_bar_values": histogram[1],
        }


def _histograms(values: Float[Tensor, "m n"]) -> Iterator[tuple[list[float], list[float]]]:
    """Count each row's values in equal bins from its smallest to its largest; yield counts and middles of the bins."""
    low, high = values.aminmax(dim=1, keepdim=True)
    width = ((high - low) / HISTOGRAM_BINS).clamp(min=torch.finfo(values.dtype).tiny)
    bins = ((values - low) / width).long().clamp(0, HISTOGRAM_BINS - 1)
    heights = values.new_zeros(len(values), HISTOGRAM_BINS).scatter_add_(1, bins, torch.ones_like(values))
    middles = low + width * (torch.arange(HISTOGRAM_BINS) + 0.5)
    return zip(heights.tolist(), map(_rounded, middles), strict=True)


def _activations(
    atom: int, codes: HeldOutCodes, rows: Sequence[Sequence[str]], top: int, per_interval: int
) -> list[dict[str, Any]]:
    tokens, coefficients = codes.of(atom)
    if not len(tokens):
        return []

    def example(token: Int[Tensor, ""], bin_min: float, bin_max: float, bin_contains: float) -> dict[str, Any]:
        row, position = codes.sources[token, [ROW, POSITION]].tolist()
        return {
            "bin_min": round(bin_min, DECIMALS),
            "bin_max": round(bin_max, DECIMALS),
            "bin_contains": bin_contains,
            "tokens": list(rows[row]),
            "values": _rounded(codes.in_row(atom, row, len(rows[row]))),
            "qualifying_token_index": position,
        }

    largest = coefficients.abs().argsort(descending=True, stable=True)[:top]
    shown = [example(token, TOP_BIN, float(coefficients.abs().max()), TOP_BIN) for token in tokens[largest]]
    low, high = min(0.0, float(coefficients.min())), max(0.0, float(coefficients.max()))
    edges = torch.linspace(low, high, INTERVALS + 1, dtype=torch.float64)
    interval = (torch.searchsorted(edges, coefficients) - 1).clamp(0, INTERVALS - 1)
    for part in reversed(range(INTERVALS)):
        inside = tokens[interval == part]
        share = len(inside) / codes.n_tokens
        for token in inside[evenly(len(inside), per_interval)]:
            shown.append(example(token, float(edges[part]), float(edges[part + 1]), share))
    return shown


def _rounded(values: Float[Tensor, " n"], decimals: int = DECIMALS) -> list[float]:
    return [round(value, decimals) for value in values.tolist()]


def place_of(
    data: ActivationsDataModule, hook_name: str, model_id: str | None, layer: int | None, sae_set: str
) -> Place:
    """Complete a place from the names of the model and the hook point, or raise InputError if that names no layer."""
    if layer is None:
        match = re.search(r"\.(\d+)(?:\.|$)", hook_name)
        if match is None:
            raise InputError(f"the hook point {hook_name!r} does not say its layer: give --layer")
        layer = int(match[1])
    return Place(model_id or Path(data.model_name.name.rpartition(":")[2]).name, layer, sae_set)
