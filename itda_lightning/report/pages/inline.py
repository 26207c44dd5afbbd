"""Render pages as one file each: inline style, script and data, and a policy that allows nothing else."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

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


def json_for_html(content: Any) -> Markup:
    """Return JSON for a script element: without characters that could end the element or open a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _joined(names: Sequence[str]) -> Markup:
    return Markup("\n".join(files(FOLDER).joinpath(name).read_text(encoding="utf-8") for name in names))


def _digest(text: str) -> str:
    """Return the name of an inline style or script in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
