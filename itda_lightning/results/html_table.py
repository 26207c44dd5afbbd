"""Tables for notebooks, in which text from data is escaped."""

import html
from collections.abc import Iterable, Sequence

SPACES = "white-space: pre-wrap; text-align: left"


def html_table(heads: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """Return a table; every cell is text, whose spaces and line breaks are kept."""
    lines = [f"<tr>{_cells('th', heads)}</tr>", *(f"<tr>{_cells('td', row)}</tr>" for row in rows)]
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{above}{''.join(lines)}</table>"


def _cells(tag: str, values: Sequence[object]) -> str:
    return "".join(f'<{tag} style="{SPACES}">{html.escape(str(value))}</{tag}>' for value in values)
