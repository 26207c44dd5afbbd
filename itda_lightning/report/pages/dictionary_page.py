"""Render one dictionary as one HTML file that needs no network and no server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.report.figures.densities import density_plot
from itda_lightning.report.figures.plots import curve, l0_plot
from itda_lightning.report.pages.inline import json_for_html, render, write_html
from itda_lightning.report.pages.latent_data import cut, filled_bins
from itda_lightning.report.words.excerpt import excerpt
from itda_lightning.results.run_results import AtomUsage, Example, RunResults, TokenDecomposition

# Characters of a prompt before and after its token. Examples are many, so theirs decide the size of the page.
SOURCE_WINDOW = (280, 100)
TERM_WINDOW = (80, 30)
EXAMPLE_WINDOW = (100, 40)
# The largest terms of a decomposition; the others are folded.
SHOWN_TERMS = 12


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
        ["page.css"],
        ["drawing.js", "atom_list.js", "page.js"],
        results=results,
        usage=usage,
        data=json_for_html(
            {
                "tokens": usage.n_tokens,
                "columns": COLUMNS,
                "atoms": [_atom(atom, None if cosines is None else cosines[atom.atom]) for atom in usage.atoms],
            }
        ),
        growth=curve(results.growth, "atoms", "Atoms:"),
        fvu=curve(results.fvu_curve, "FVU", "FVU"),
        l0=l0_plot(usage.l0_histogram),
        density=density_plot(usage.densities),
        refined=cosines is not None,
        decompositions=[_decomposition(decomposition, cosines) for decomposition in results.decompositions],
    )


def _decomposition(decomposition: TokenDecomposition, cosines: Sequence[float] | None) -> dict[str, Any]:
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
        "prompt": excerpt(decomposition.prompt, *SOURCE_WINDOW),
        "unexplained": decomposition.unexplained,
        "norm": decomposition.norm,
        "terms": terms[:SHOWN_TERMS],
        "more_terms": terms[SHOWN_TERMS:],
    }


def _atom(usage: AtomUsage, cosine: float | None) -> dict[str, Any]:
    """Return what the page's script reads of one atom."""
    low, width, counts = filled_bins(usage.histogram, usage.histogram_limit)
    return {
        "atom": usage.atom,
        "source": usage.source,
        "prompt": cut(usage.prompt, SOURCE_WINDOW),
        "count": usage.count,
        "density": usage.density,
        "histogram": {"low": low, "width": width, "counts": counts},
        "top": _examples(usage.top),
        "ranges": [
            {"low": part.low, "high": part.high, "count": part.count, "examples": _examples(part.examples)}
            for part in usage.ranges
        ],
        "cosine": cosine,
        "detected": [[found.cosine, excerpt(found.prompt, *EXAMPLE_WINDOW)] for found in usage.detected],
    }


def _examples(examples: Sequence[Example]) -> list[list[Any]]:
    return [[example.coefficient, excerpt(example.prompt, *EXAMPLE_WINDOW)] for example in examples]
