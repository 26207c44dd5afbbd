"""Render one dictionary as one HTML file that needs no network and no server."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from itda_lightning.dictionary.sources import COLUMNS, Prompt
from itda_lightning.report.figures.densities import density_plot
from itda_lightning.report.figures.plots import curve, l0_plot, unexplained_plot
from itda_lightning.report.pages.inline import packed, render, write_html
from itda_lightning.report.pages.latent_data import cut, filled_bins
from itda_lightning.report.words.excerpt import excerpt, shown_token, visible
from itda_lightning.results.run_results import AtomMeaning, AtomUsage, RunResults, TokenCode, TokenDecomposition

# Characters of a prompt before and after its token.
PROMPT_WINDOW = (280, 100)  # of a token that is decomposed
SOURCE_WINDOW = (160, 60)
TERM_WINDOW = (80, 30)
EXAMPLE_WINDOW = (100, 40)
# The largest terms of a decomposition; the others are folded.
SHOWN_TERMS = 12
# The facts above the page; the others are folded.
FIRST_FACTS = ("model", "hook point", "dataset", "activations read", "held-out activations")
DIGITS = 5  # of numbers in the data of the page's script


def write_page(results: RunResults, path: str | Path, cosines: Sequence[float] | None = None) -> None:
    """Write ``render_page(results, cosines)`` to ``path`` in one step."""
    write_html(path, render_page(results, cosines))


def render_page(results: RunResults, cosines: Sequence[float] | None = None) -> str:
    """Render the results as one self-contained HTML page; the part of each atom is drawn on demand by its script.

    Each cosine, of a refined atom with its label's activation, is shown beside every name of the atom.
    """
    usage = results.usage
    return render(
        "page.html",
        ["page.css", "reading.css"],
        ["drawing.js", "atom_list.js", "marks.js", "reading.js", "page.js"],
        results=results,
        first_facts={name: value for name, value in results.facts.items() if name in FIRST_FACTS},
        other_facts={name: value for name, value in results.facts.items() if name not in FIRST_FACTS},
        usage=usage,
        data=packed(_data(results, cosines)),
        growth=curve(results.growth, "atoms", "Atoms:"),
        fvu=curve(results.fvu_curve, "FVU", "FVU"),
        # Codes that all have as many atoms tell nothing by their plot.
        l0=l0_plot(usage.l0_histogram) if sum(map(bool, usage.l0_histogram)) > 1 else None,
        unexplained=unexplained_plot(usage.unexplained) if any(usage.unexplained) else None,
        density=density_plot(usage.densities),
        refined=cosines is not None,
        decompositions=[_decomposition(decomposition, cosines) for decomposition in results.decompositions],
        worst=[_decomposition(decomposition, cosines, EXAMPLE_WINDOW) for decomposition in results.worst],
    )


def _data(results: RunResults, cosines: Sequence[float] | None) -> dict[str, Any]:
    """Return what the page's script reads."""
    usage = results.usage
    used = [
        example.prompt
        for atom in usage.atoms
        for examples in (atom.top, *(part.examples for part in atom.ranges))
        for example in examples
    ]
    contexts = Contexts([*used, *(found.prompt for atom in usage.atoms for found in atom.detected)])
    meanings = results.meanings or (None,) * len(usage.atoms)
    return {
        "title": results.title,
        "signed": results.signed,
        "tokens": usage.n_tokens,
        "columns": COLUMNS,
        "atoms": [
            _atom(atom, contexts, None if cosines is None else cosines[atom.atom]) | _meaning(meaning)
            for atom, meaning in zip(usage.atoms, meanings, strict=True)
        ],
        "contexts": contexts.shown,
        "reading": [
            {
                "pieces": [visible(piece) for piece in row.pieces],
                "codes": [None if code is None else _code(code) for code in row.codes],
            }
            for row in results.reading
        ],
    }


class Contexts:
    """Each prompt once, those of one text side by side in its order, which compresses best; atoms refer to them."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        ordered = sorted(set(prompts), key=lambda prompt: (prompt.before[:80], len(prompt.before), prompt.token))
        self._places = {prompt: place for place, prompt in enumerate(ordered)}
        self.shown = [excerpt(prompt, *EXAMPLE_WINDOW) for prompt in ordered]

    def refer(self, examples: Iterable[tuple[float, Prompt]]) -> list[list[float | int]]:
        """Return (value, place of the prompt) of examples."""
        return [[_short(value), self._places[prompt]] for value, prompt in examples]


def _code(code: TokenCode) -> list[Any]:
    return [_short(code.unexplained), _short(code.norm), code.atoms, [_short(value, 4) for value in code.coefficients]]


def _meaning(meaning: AtomMeaning | None) -> dict[str, Any]:
    if meaning is None:
        return {"nearest": [], "promoted": [], "suppressed": [], "sites": []}
    return {
        "nearest": [[atom, _short(cosine)] for atom, cosine in meaning.nearest],
        "promoted": [shown_token(token) for token in meaning.promoted],
        "suppressed": [shown_token(token) for token in meaning.suppressed],
        "sites": [f"{visible(site)} {share:.0%}" for site, share in meaning.sites],
    }


def _short(value: float, digits: int = DIGITS) -> float | int:
    """Round to significant digits, and to an integer if it is one: fewer characters of JSON."""
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _decomposition(
    decomposition: TokenDecomposition, cosines: Sequence[float] | None, window: tuple[int, int] = PROMPT_WINDOW
) -> dict[str, Any]:
    largest = max((abs(term.coefficient) for term in decomposition.terms), default=1.0) or 1.0
    terms = [
        {
            "atom": term.atom,
            "coefficient": term.coefficient,
            "cosine": None if cosines is None else cosines[term.atom],
            "share": round(100 * abs(term.coefficient) / largest, 2),
            "prompt": cut(term.prompt, TERM_WINDOW),
        }
        for term in decomposition.terms
    ]
    return {
        "prompt": excerpt(decomposition.prompt, *window),
        "unexplained": decomposition.unexplained,
        "norm": decomposition.norm,
        "distance": decomposition.distance,
        "terms": terms[:SHOWN_TERMS],
        "more_terms": terms[SHOWN_TERMS:],
    }


def _atom(usage: AtomUsage, contexts: Contexts, cosine: float | None) -> dict[str, Any]:
    """Return what the page's script reads of one atom."""
    low, width, counts = filled_bins(usage.histogram, usage.histogram_limit)
    return {
        "atom": usage.atom,
        "source": usage.source,
        "prompt": cut(usage.prompt, SOURCE_WINDOW),
        "count": usage.count,
        "density": _short(usage.density),
        "histogram": {"low": low, "width": width, "counts": counts},
        "top": contexts.refer((example.coefficient, example.prompt) for example in usage.top),
        "ranges": [
            {
                "low": _short(part.low),
                "high": _short(part.high),
                "count": part.count,
                "examples": contexts.refer((example.coefficient, example.prompt) for example in part.examples),
            }
            for part in usage.ranges
        ],
        "cosine": None if cosine is None else _short(cosine, 8),  # or it could be shown as larger than it is
        "detected": contexts.refer((found.cosine, found.prompt) for found in usage.detected),
    }
