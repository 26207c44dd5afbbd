"""What makes a page one file that needs nothing else: inline style, script and data, and a policy that allows only them."""

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from itda_lightning.report.words.excerpt import pieces, visible
from itda_lightning.report.words.wording import describe_metric, show_coefficient, show_cosine, show_number, show_share


def environment() -> Environment:
    """Templates of this folder, with all text escaped, an error for names that are missing, and words for numbers."""
    made = Environment(
        loader=PackageLoader("itda_lightning.report.pages", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        number=show_number,
        coefficient=show_coefficient,
        cosine=show_cosine,
        share=show_share,
        visible=visible,
        metric=describe_metric,
        pieces=pieces,
    )
    return made


def assets(*names: str) -> Markup:
    """Styles or scripts of this folder, one after the other, to stand in one element."""
    folder = files("itda_lightning.report.pages")
    return Markup("\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names))


def policy(style: str, script: str) -> str:
    """The content security policy that allows this style and this script, and forbids every request."""
    return (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src {_digest(style)}; script-src {_digest(script)}"
    )


def json_for_html(content: Any) -> Markup:
    """JSON that may stand in a script element: no character that could end the element or open a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _digest(text: str) -> str:
    """What a content security policy calls an inline style or script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
