"""Render pages as one file each: inline style, script and data, and a policy that allows nothing else."""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from itda_lightning.machine.atomic_files import write_file
from itda_lightning.machine.digests import BLANK, DIGEST, sign_in_place
from itda_lightning.report.words.columns import measure_words
from itda_lightning.report.words.excerpt import pieces, visible
from itda_lightning.report.words.model_words import show_overlap
from itda_lightning.report.words.wording import (
    describe_metric,
    show_coefficient,
    show_cosine,
    show_known,
    show_number,
    show_share,
)

FOLDER = "itda_lightning.report.pages"
# The second line of a page, by which damage shows; a page that is cut has the digest of the whole one.
SIGNATURE = f'<!-- "{DIGEST}": "{BLANK}" -->'
HEAD_BYTES = 160  # the first two lines, at least
FILTERS = {
    "number": show_number,
    "coefficient": show_coefficient,
    "cosine": show_cosine,
    "share": show_share,
    "visible": visible,
    "metric": describe_metric,
    "measure": measure_words,
    "overlap": show_overlap,
    "known": show_known,
    "pieces": pieces,
}
ENVIRONMENT = Environment(
    loader=PackageLoader(FOLDER, ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters.update(FILTERS)


def render(template: str, styles: Sequence[str], scripts: Sequence[str] = (), **values: Any) -> str:
    """Render a template of this folder with all text escaped; a missing value is an error.

    Styles and scripts are files of this folder, inlined one after the other. The content security policy allows them
    and forbids every request.
    """
    style, script = _joined(styles), _joined(scripts)
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src {_digest(style)}; script-src {_digest(script)}"
    )
    return ENVIRONMENT.get_template(template).render(style=style, script=script, policy=policy, **values)


def write_html(path: str | Path, page: str) -> None:
    """Write a page in one step, with its digest behind the document type. Raises like ``write_file``."""
    kind, rest = page.split("\n", 1)

    def write(temporary: Path) -> None:
        temporary.write_text(f"{kind}\n{SIGNATURE}\n{rest}", encoding="utf-8")
        sign_in_place(temporary, HEAD_BYTES)

    write_file(Path(path), write)


def packed(content: Any) -> Markup:
    """Return JSON compressed for a script element: gzip in base64, which the page's script opens (``drawing.js``)."""
    return _compressed(_json(content))


def packed_lines(contents: Iterable[Any]) -> Markup:
    """Return lines of JSON, each parsed by itself, compressed like ``packed``."""
    return _compressed("\n".join(map(_json, contents)))


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _compressed(text: str) -> Markup:
    # A lone half of a surrogate pair, which a damaged text can hold, has no UTF-8.
    compressed = gzip.compress(text.encode("utf-8", errors="replace"), mtime=0)
    return Markup(base64.b64encode(compressed).decode())


def _joined(names: Sequence[str]) -> Markup:
    return Markup("\n".join(files(FOLDER).joinpath(name).read_text(encoding="utf-8") for name in names))


def _digest(text: str) -> str:
    """Return the name of an inline style or script in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
