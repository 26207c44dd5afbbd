"""Check that joint dictionaries of a base model and a fine-tune find planted changes, four kinds of them.

    python -m benchmarks.diffing.joint [--changes [domain, style]] [--seeds [0, 1, 2]]

For each change and seed the MLPs of some blocks are fine-tuned briefly (``changes.py``, ``tuned.py``), and one ITDA is
grown on the activations of both models side by side, on passages of which half are of what was planted. Its atoms are
ranked by how differently the two models use them, and a ranking is scored by whether atoms with sources in what was
planted come first (AUROC, errors from resampling passages, as in ``run.py``). Controls rank the same atoms by what
needs no dictionary, or by two dictionaries; a delta dictionary is of the difference of the activations. Two nulls
are of the base and itself: activations rounded to bfloat16, and noise in the weights. Activations are kept in ``work``,
finished cells in results/joint.json.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from jsonargparse import auto_cli
from torch import Tensor

import itda_lightning as il
from benchmarks.diffing.changes import CHANGES
from benchmarks.diffing.planted import BASE, CONTEXT
from benchmarks.diffing.run import score
from benchmarks.diffing.tuned import Both, both, disturbed, tokenizer
from benchmarks.results import Study, commit, describe, environment, table, write_results
from itda_lightning.activations.models.model_name import LanguageModelName

RESULTS = Path(__file__).parent / "results"
CHOSEN = "uses"  # by the cell of the domain, seed 0, of which other cells are independent
NULLS_OF = 0  # the seed whose cells have nulls
SHOWN = 10  # atoms whose contexts are kept
SHOWN_TOKENS = 12
TINY = 1e-12
GROWN: dict[str, Any] = {"pursuit": "omp", "nonnegative": False, "l0": None, "refine": None, "progress": False}
RANKINGS = {
    "uses": "joint: mean log distance of the two activations over the uses of the atom",
    "uses_over_noise": "joint: the same, less the log distance that noise in the weights makes",
    "coefficients": "joint: difference of its two parts, each with coefficients of its own, over their energies",
    "parts": "joint: difference of its two parts over their energies",
    "shares": "joint: how far its energy's share at the fine-tune is from that of the base",
    "prediction": "joint: what its code of the base's activations leaves of the fine-tune's, less of the base's own",
    "excess": "control: unexplained by the fine-tune's own dictionary, less that of the fine-tune's activation by it",
    "distance": "control: distance of the two activations at the source",
    "relative_distance": "control: distance of the two activations at the source over the base's norm, centred",
    "cosine_distance": "control: 1 - cosine of the two activations at the source, centred",
}


def main(
    changes: list[str] | None = None,
    seeds: list[int] | None = None,
    work: str = "~/.cache/itda_lightning/diffing",
    per_class: int = 64,
    max_atoms: int = 600,
    k: int = 16,
    layer: int = 14,
    layers: tuple[int, int] = (10, 15),
    tokens: int = 8192,
    learning_rate: float = 5e-4,
    name: str = "joint",
) -> None:
    """Run the cells that are not there yet; write results/NAME.json and results/NAME.md.

    Args:
        changes: names of planted changes; null for all.
        seeds: of the fine-tune's rows, of the passages and of the dictionaries' order; 0, 1 and 2 by default.
        work: where activations are kept.
        per_class: passages of what was planted, and others.
        max_atoms, k: of the dictionaries.
        layer: after whose block activations are read.
        layers: blocks whose MLPs are trained, from the first up to, not including, the second.
        tokens, learning_rate: of the fine-tune.
        name: of the results.
    """
    torch.set_num_threads(1)
    file, place = RESULTS / f"{name}.json", Path(work).expanduser() / "joint"
    cells: dict[str, Any] = json.loads(file.read_text())["cells"] if file.exists() else {}
    revision = LanguageModelName(BASE).fingerprint()
    for seed in seeds or (0, 1, 2):
        for change in changes or CHANGES:
            if (cell := f"{change}, seed {seed}") in cells:
                continue
            start = time.perf_counter()
            found = both(place, change, per_class, tokens, range(*layers), learning_rate, layer, seed)
            noise = disturbed(found.rows, range(*layers), layer, seed)
            cells[cell] = {**found.facts, **ranked(found, noise, max_atoms, k, seed), "commit": commit()}
            if seed == NULLS_OF:
                twice = {
                    "rounded to bfloat16": found.base.bfloat16().float(),
                    "with other noise": disturbed(found.rows, range(*layers), layer, seed + 1),
                }
                nulls = {name: found._replace(tuned=x) for name, x in twice.items()}
                cells[cell]["nulls"] = {name: ranked(of, noise, max_atoms, k, seed) for name, of in nulls.items()}
            cells[cell]["seconds"] = time.perf_counter() - start
            hook = f"blocks.{layer}.hook_resid_post"
            study = Study("diffing/joint", BASE, revision, hook, "planted changes, see changes.py", tokens, seed)
            result = {**describe(study), "k": k, "max_atoms": max_atoms, "layers": list(layers), "cells": cells}
            write_results(RESULTS, name, result, as_markdown(result))


def ranked(found: Both, noise: Float[Tensor, "rows context d"], max_atoms: int, k: int, seed: int) -> dict[str, Any]:
    """Grow the dictionaries of a cell and score the rankings of the joint one's atoms."""
    x = {side: getattr(found, side).flatten(0, 1) for side in ("base", "tuned")}
    planted = found.rows.planted[:, 1:].flatten()
    passage = torch.arange(len(planted)) // (CONTEXT - 1)
    options = {**GROWN, "max_atoms": max_atoms, "k": k, "seed": seed}
    joint = il.fit_activations(x, **options)
    own = il.fit_activations(x["tuned"], **options)
    index = sources_of(joint)
    scores = rankings(joint, x, index, noise.flatten(0, 1)) | controls(own, x, index)
    delta = x["tuned"] - x["base"]
    of_delta = il.fit_activations(delta, **options)
    energy = {"excess": uses_of(of_delta, delta).square().sum(0)}
    at = sources_of(of_delta)
    best = scores[CHOSEN].argsort(descending=True)[:SHOWN]
    return {
        "atoms": joint.n_atoms,
        "planted share": float(planted[index].double().mean()),
        "rankings": score(scores, planted[index], passage[index]),
        "delta dictionary": score(energy, planted[at], passage[at])["excess"]["auroc"],
        "planted of the first ten": int(planted[index[best]].sum()),
        "first ten": [context(found, int(row)) for row in index[best]],
    }


def sources_of(dictionary: il.Dictionary) -> Int[Tensor, " n"]:
    """Return the rows of the activations that the atoms are of."""
    assert dictionary.sources is not None
    return torch.tensor([source.document for source in dictionary.sources])


@torch.no_grad()
def uses_of(dictionary: il.Dictionary, x: Any) -> Float[Tensor, "tokens n"]:
    """Return the coefficients of all activations, dense, in float64."""
    return dictionary.encode(x).to_dense(dictionary.n_atoms).double()


@torch.no_grad()
def rankings(
    joint: il.Dictionary,
    x: dict[str, Float[Tensor, "tokens d"]],
    index: Int[Tensor, " n"],
    noise: Float[Tensor, "tokens d"],
) -> dict[str, Float[Tensor, " n"]]:
    """Score the atoms of a joint dictionary, larger for those that the two models use more differently.

    ``noise`` has the base's activations with noise in its weights.
    """
    code = joint.encode(x)
    squares = code.to_dense(joint.n_atoms).double().square()
    moved = _log_norms(x["tuned"] - x["base"])
    both = joint.centre(joint.sites.join(x)).double()
    energy = both.square().sum(1) / 2
    from_base = joint.encode({"base": x["base"]})
    left = {side: joint.sites.scale(side) * (x[side] - joint.decode(from_base, side)).double() for side in x}
    unpredicted = (left["tuned"].square().sum(1) - left["base"].square().sum(1)) / energy
    parts = [joint.atoms[:, joint.sites.columns(side)].double() for side in x]
    energies = [part.square().sum(1) for part in parts]
    product = (parts[0] * parts[1]).sum(1)
    # An atom explains its own source exactly, in both models.
    others = squares.clone()
    others[index, torch.arange(len(index))] = 0
    own = [joint.own_coefficients(code, side, x[side]).to_dense(joint.n_atoms).double() * (others > 0) for side in x]
    used = [side.square().sum(0) * of for side, of in zip(own, energies, strict=True)]
    crossed = (own[0] * own[1]).sum(0) * product
    return {
        "uses": _over_uses(squares, moved),
        "uses_over_noise": _over_uses(squares, moved - _log_norms(noise - x["base"])),
        "coefficients": 1 - 2 * crossed / (used[0] + used[1]).clamp(min=TINY),
        "parts": 1 - 2 * product / (energies[0] + energies[1]),
        "shares": (joint.site_shares[:, 1] - 0.5).abs().double(),
        "prediction": _over_uses(others, unpredicted),
    }


def _log_norms(x: Float[Tensor, "tokens d"]) -> Float[Tensor, " tokens"]:
    return x.double().square().sum(1).clamp(min=TINY).log() / 2


def _over_uses(squares: Float[Tensor, "tokens n"], values: Float[Tensor, " tokens"]) -> Float[Tensor, " n"]:
    """Return means over the uses of each atom, weighted by its share of a code's squared coefficients.

    An atom without uses gets the mean of the others.
    """
    weights = squares / squares.sum(1, keepdim=True).clamp(min=TINY)
    total = weights.sum(0)
    means = (weights * values[:, None]).sum(0) / total.clamp(min=TINY)
    return torch.where(total > 0, means, means[total > 0].mean())


@torch.no_grad()
def controls(
    own: il.Dictionary, x: dict[str, Float[Tensor, "tokens d"]], index: Int[Tensor, " n"]
) -> dict[str, Float[Tensor, " n"]]:
    """Score the same atoms without the joint dictionary: by their sources' activations, and what ``own`` leaves."""
    one, other = (x[side][index].double() for side in ("base", "tuned"))
    distance = (one - other).norm(dim=1)
    one, other = one - one.mean(0), other - other.mean(0)
    return {
        "excess": (own.novelty(x["base"][index]) - own.novelty(x["tuned"][index])).double(),
        "distance": distance,
        "relative_distance": (one - other).norm(dim=1) / one.norm(dim=1),
        "cosine_distance": 1 - torch.nn.functional.cosine_similarity(one, other, dim=1),
    }


def context(found: Both, row: int) -> dict[str, Any]:
    """Return the token of an activation in its passage, with what stands before it."""
    passage, position = divmod(row, CONTEXT - 1)
    tokens = found.rows.tokens[passage, max(1, position + 2 - SHOWN_TOKENS) : position + 2]
    planted: Bool[Tensor, ""] = found.rows.planted[passage, position + 1]
    return {"text": tokenizer().decode(tokens), "planted": bool(planted)}


def as_markdown(result: dict[str, Any]) -> str:
    """Return the tables: how well each change took, AUROC of each ranking, and the atoms that come first."""
    cells, (first, stop) = result["cells"], result["layers"]
    lines = [
        f"{result['model']} and fine-tunes of the MLPs of its blocks {first} to {stop - 1}; "
        f"joint dictionaries at {result['hook_name']}, k = {result['k']}, at most {result['max_atoms']:,} atoms. "
        f"{environment(result)}",
        "",
    ]
    head = ["cell", "loss of planted, before", "after", "of other, before", "after", "planted of the first ten"]
    told = [
        [cell, *(f"{of['loss_' + when][side]:.2f}" for side in (0, 1) for when in ("before", "after"))]
        for cell, of in cells.items()
    ]
    counts = [str(of["planted of the first ten"]) for of in cells.values()]
    lines += [*table(head, ([*row, count] for row, count in zip(told, counts, strict=True))), ""]
    lines += table(["AUROC by", *cells], ([text, *_aurocs(cells, name)] for name, text in RANKINGS.items()))
    delta = (f"{of['delta dictionary'][0]:.3f} ± {of['delta dictionary'][1]:.3f}" for of in cells.values())
    lines.append(f"| delta dictionary: energy that its own atoms explain | {' | '.join(delta)} |")
    names = dict.fromkeys(null for of in cells.values() for null in of.get("nulls", ()))
    for null in names:
        nulls = {cell: of["nulls"][null] for cell, of in cells.items() if "nulls" in of}
        lines += ["", f"The base beside itself {null}:", ""]
        lines += table(["AUROC by", *nulls], ([text, *_aurocs(nulls, name)] for name, text in RANKINGS.items()))
    for cell, of in cells.items():
        lines += ["", f"**{cell}**, first ten by `{CHOSEN}`:", ""]
        lines += [f"- {json.dumps(atom['text'], ensure_ascii=False)}" for atom in of["first ten"]]
    return "\n".join(lines) + "\n"


def _aurocs(cells: dict[str, Any], name: str) -> list[str]:
    found = (of["rankings"][name]["auroc"] for of in cells.values())
    return [f"{value:.3f} ± {error:.3f}" for value, error in found]


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
