"""Render two models compared by their dictionaries as one HTML file that needs no network and no server."""

from pathlib import Path
from typing import Any

from itda_lightning.machine.atomic_files import write_text
from itda_lightning.report.pages.inline import render
from itda_lightning.report.words.excerpt import excerpt
from itda_lightning.report.words.model_words import ranking_summary
from itda_lightning.results.difference import AtomDifference, Difference, Direction

# Characters of a prompt before and after its token.
WINDOW = (160, 50)


def write_difference_page(difference: Difference, path: str | Path, shown: int) -> None:
    """Write ``render_difference(difference, shown)`` to ``path`` in one step.

    Raises:
        InputError: the file cannot be written.
    """
    write_text(Path(path), render_difference(difference, shown))


def render_difference(difference: Difference, shown: int) -> str:
    """Render the difference as one self-contained HTML page with a sortable table for each direction.

    Styles and script are inline, and a content security policy forbids everything else.

    Args:
        difference: of two models.
        shown: rows from either end of each ranking.
    """
    return render(
        "difference.html",
        ["page.css", "difference.css"],
        ["sorting.js"],
        difference=difference,
        directions=[_direction(direction, shown) for direction in difference.directions],
    )


def _direction(direction: Direction, shown: int) -> dict[str, Any]:
    ranked = list(enumerate(direction.atoms, start=1))
    rows = ranked if len(ranked) <= 2 * shown else ranked[:shown] + ranked[-shown:]
    return {
        "owner": direction.owner,
        "reader": direction.reader,
        "summary": ranking_summary(direction),
        "left_out": len(ranked) - len(rows),
        "one_width": all(atom.unexplained_own is not None for atom in direction.atoms),
        "rows": [_row(rank, atom) for rank, atom in rows],
    }


def _row(rank: int, atom: AtomDifference) -> dict[str, Any]:
    return {"rank": rank, "atom": atom, "prompt": excerpt(atom.prompt, *WINDOW)}
