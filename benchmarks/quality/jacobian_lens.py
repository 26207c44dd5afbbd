"""Measure whether what an atom does by the layers above says more of the next token than its direct effect; no judge.

    python -m benchmarks.quality.jacobian_lens --dictionaries "[RUN, RUN]"

The direct effect of an atom ``a`` on the logits is ``W_U a``, with the final norm's weights, as pages show it. The
Jacobian lens carries the atom up first: ``W_U J a``, where J is the mean Jacobian of the final residual stream with
respect to that of the layer, over tokens of the training text. ``J`` is taken at the same position, or summed over that
position and all later ones of the row. It is estimated by products with random signs per token, whose cross terms have
mean zero: one backward pass per dimension of the stream.

For each atom the ``TOP`` held-out tokens that it is detected most in (``Dictionary.detect``), and the token that
follows each. Figures: the share of these next tokens among the 10 and the 50 that the effect promotes most, and the
mean of the logarithm of their rank, over all uses of all atoms; the standard error is over resampled held-out
documents, of differences to the direct effect too. ``specific`` effects have the mean effect of all atoms taken out,
which every atom shares. By chance: the effects of another atom.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from jsonargparse import auto_cli
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.bundled import DATASET, MODEL
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.bundled import resolve
from itda_lightning.activations.text.rows import Rows
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.evaluation.data_of import load_with_data
from itda_lightning.evaluation.logit_effects import Unembedding

RESULTS = Path(__file__).parent / "results"
DOCUMENT, ROW, POSITION = (COLUMNS.index(name) for name in ("document", "row", "position"))
TOP, RESAMPLES = 20, 500
DIMENSIONS_AT_ONCE, ATOMS_AT_ONCE = 16, 256
FIGURES = ("top 10", "top 50", "log2 rank")


class Uses(NamedTuple):
    """Detections of atoms and the token that follows each."""

    atom: Int[Tensor, " uses"]
    next_token: Int[Tensor, " uses"]
    document: Int[Tensor, " uses"]


def mean_jacobians(
    model: Any, layer: int, tokens: Int[Tensor, "rows context"], seed: int = 0
) -> tuple[Float[Tensor, "d d"], Float[Tensor, "d d"]]:
    """Estimate the mean Jacobian of the final residual stream at the same position, and summed over later ones too."""
    kept: dict[str, Tensor] = {}

    def cut(_module: Any, _inputs: Any, output: Any) -> Any:
        kept["below"] = (output[0] if isinstance(output, tuple) else output).detach().requires_grad_()
        return (kept["below"], *output[1:]) if isinstance(output, tuple) else kept["below"]

    def keep(_module: Any, inputs: Any) -> None:
        kept["final"] = inputs[0]

    handles = [model.model.layers[layer].register_forward_hook(cut), model.model.norm.register_forward_pre_hook(keep)]
    try:
        with torch.enable_grad():
            model(tokens)
            below, final = kept["below"], kept["final"]
            d, generator = final.shape[-1], torch.Generator().manual_seed(seed)
            same, later = torch.zeros(d, d), torch.zeros(d, d)
            for start in range(0, d, DIMENSIONS_AT_ONCE):
                dims = torch.arange(start, min(start + DIMENSIONS_AT_ONCE, d))
                signs = torch.randint(0, 2, (len(dims), *tokens.shape), generator=generator) * 2.0 - 1
                for ones, total in ((signs, same), (torch.ones_like(signs), later)):
                    cotangent = torch.zeros(len(dims), *final.shape)
                    cotangent[torch.arange(len(dims)), ..., dims] = ones
                    (grad,) = torch.autograd.grad(final, below, cotangent, retain_graph=True, is_grads_batched=True)
                    total[dims] = (grad * ones[..., None]).mean((1, 2))
    finally:
        for handle in handles:
            handle.remove()
    return same, later


def uses_of(
    directions: Float[Tensor, "n d"], centred: Float[Tensor, "tokens d"], sources: Int[Tensor, "tokens 6"], rows: Rows
) -> Uses:
    """Find the tokens that each atom is detected most in, by the cosine, of those with a next one in their row."""
    inside = sources[:, POSITION] + 1 < rows.context_size
    x, sources = torch.nn.functional.normalize(centred[inside], dim=1), sources[inside]
    found = [(part @ x.T).topk(min(TOP, len(x)), dim=1) for part in directions.split(ATOMS_AT_ONCE)]
    strength, token = (torch.cat(parts) for parts in zip(*found, strict=True))
    atom, place = (strength > 0).nonzero().T
    used = sources[token[atom, place]]
    return Uses(atom, rows.tokens[used[:, ROW], used[:, POSITION] + 1], used[:, DOCUMENT])


def measured(effects: Float[Tensor, "n vocabulary"], uses: Uses) -> Float[Tensor, "uses 3"]:
    """Return for each use if its next token is among the 10 and the 50 most promoted, and log2 of its rank from 1."""
    parts = []
    for atom, token in zip(uses.atom.split(512), uses.next_token.split(512), strict=True):
        own = effects[atom]
        rank = 1 + (own > own.gather(1, token[:, None])).sum(1)
        parts.append(torch.stack([(rank <= 10).float(), (rank <= 50).float(), rank.float().log2()], dim=1))
    return torch.cat(parts)


def with_error(values: Float[Tensor, "uses 3"], document: Int[Tensor, " uses"]) -> list[tuple[float, float]]:
    """Return the mean of each figure and its standard error over resampled documents."""
    ids, place = document.unique(return_inverse=True)
    sums = torch.zeros(len(ids), values.shape[1]).index_add_(0, place, values)
    counts = torch.bincount(place, minlength=len(ids)).float()
    drawn = torch.randint(len(ids), (RESAMPLES, len(ids)), generator=torch.Generator().manual_seed(0))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)[:, None]
    return list(zip(values.mean(0).tolist(), means.std(0).tolist(), strict=True))


def compared(effects: dict[str, Float[Tensor, "n vocabulary"]], uses: Uses) -> list[dict[str, Any]]:
    """Return a row per kind of effect: its figures, and their differences to the direct effect of the same form."""
    rows = []
    other = torch.randperm(len(next(iter(effects.values()))), generator=torch.Generator().manual_seed(0))
    for form in ("as it is", "specific"):
        direct: Tensor | None = None
        for name, effect in effects.items():
            shown = effect - effect.mean(0) if form == "specific" else effect
            values, chance = measured(shown, uses), measured(shown[other], uses)
            direct = values if direct is None else direct
            row: dict[str, Any] = {"effect": name, "form": form}
            found = with_error(values, uses.document)
            differences = with_error(values - direct, uses.document)
            for figure, one, more, by_chance in zip(FIGURES, found, differences, chance.mean(0).tolist(), strict=True):
                row |= {figure: one[0], f"{figure} ±": one[1], f"{figure} more": more[0], f"{figure} more ±": more[1]}
                row[f"{figure} by chance"] = by_chance
            rows.append(row)
            print(row, flush=True)
    return rows


def run(
    dictionaries: list[str], rows: int = 2, context: int = 48, atoms: int = 1024, results: str = str(RESULTS)
) -> None:
    """Estimate and measure for dictionaries of the bundled model's residual stream; write the table after each.

    Args:
        dictionaries: runs, or saved dictionaries, whose names of hook points have the layer.
        rows, context: of the training text, over which the Jacobian is averaged.
        atoms: how many of each dictionary are drawn at random.
        results: directory for jacobian_lens.json and jacobian_lens.md.
    """
    model = AutoModelForCausalLM.from_pretrained(resolve(MODEL), attn_implementation="eager").eval()
    model.requires_grad_(requires_grad=False)
    layers: list[dict[str, Any]] = []
    for path in dictionaries:
        dictionary, hook, data = load_with_data(path, None, None, "cpu")
        layer = int(hook.split(".")[1])
        parts = list(data.heldout_batches(hook, d_in=dictionary.d_in))
        x, sources = torch.cat([part.x for part in parts]), torch.cat([part.table for part in parts])
        drawn = torch.randperm(dictionary.n_atoms, generator=torch.Generator().manual_seed(0))[:atoms]
        directions = dictionary.atoms[drawn].float()
        uses = uses_of(directions, dictionary.centre(x).float(), sources, data.rows("heldout"))
        start = time.perf_counter(), time.process_time()
        same, later = mean_jacobians(model, layer, data.rows("train").tokens[:rows, :context])
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        unembedding = Unembedding.of(data.language_model, hook)
        assert unembedding is not None
        effects = {
            "direct": unembedding.logits(directions),
            "Jacobian, same position": unembedding.logits(directions @ same.T),
            "Jacobian, all later positions": unembedding.logits(directions @ later.T),
        }
        layers.append(
            {
                "layer": layer,
                "atoms": dictionary.n_atoms,
                "drawn": len(directions),
                "uses": len(uses.atom),
                "heldout tokens": len(x),
                "documents": len(uses.document.unique()),
                "seconds of the Jacobians": seconds[0],
                "processor seconds of the Jacobians": seconds[1],
                "rows": compared(effects, uses),
            }
        )
        tokens, name = data.rows("train").n_kept, data.model_name
        study = Study("quality/jacobian_lens", name.name, name.fingerprint(), hook, DATASET, tokens, 0)
        result = {**describe(study), "jacobian_tokens": rows * context, "layers": layers}
        write_results(Path(results), "jacobian_lens", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    """Return a table per layer."""
    lines = ["# Next tokens by direct effects and by the Jacobian lens", "", environment(result)]
    for layer in result["layers"]:
        head = f"Layer {layer['layer']}: {layer['uses']:,} uses of {layer['drawn']:,} atoms"
        lines += [
            "",
            f"{head}, Jacobians of {result['jacobian_tokens']} tokens",
        ]
        heads = [part for figure in FIGURES for part in (figure, "more than direct", "by chance")]
        cells = [
            [row["effect"], row["form"]]
            + [
                cell
                for figure in FIGURES
                for cell in (
                    f"{row[figure]:.3f} ± {row[f'{figure} ±']:.3f}",
                    f"{row[f'{figure} more']:+.3f} ± {row[f'{figure} more ±']:.3f}",
                    f"{row[f'{figure} by chance']:.3f}",
                )
            ]
            for row in layer["rows"]
        ]
        lines += ["", *table(["effect", "form", *heads], cells)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(run, as_positional=False)
