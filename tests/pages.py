"""What a page holds for its script."""

import base64
import gzip
import json
import re
from typing import Any

DATA = re.compile(r'<script type="application/octet-stream" id="data">([A-Za-z0-9+/=]*)</script>')


def data_in(page: str) -> Any:
    """The data of a page, opened as its script opens them."""
    match = DATA.search(page)
    assert match is not None
    return json.loads(gzip.decompress(base64.b64decode(match[1])))
