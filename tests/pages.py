"""What a page holds for its script."""

import base64
import gzip
import json
import re
from typing import Any

PACKED = r'<script type="application/octet-stream" id="{}">([A-Za-z0-9+/=]*)</script>'


def packed_in(page: str, name: str) -> str:
    """Return a packed text of a page, opened as its script opens it."""
    match = re.search(PACKED.format(name), page)
    assert match is not None
    return gzip.decompress(base64.b64decode(match[1])).decode()


def data_in(page: str) -> Any:
    """The data of a page."""
    return json.loads(packed_in(page, "data"))
