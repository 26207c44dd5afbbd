"""Verify files: what is whole, what is damaged, and what has no digest by which damage would show."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from safetensors import SafetensorError, safe_open

from itda_lightning.activations.cache_files import COVERED, STATE, check_facts
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.dictionary_files import INDEX_FILE, TENSORS_FILE, checked_dictionary
from itda_lightning.errors import InputError
from itda_lightning.fitting.checkpoint_io import checked_checkpoint
from itda_lightning.fitting.run_directory import DICTIONARIES, SIGNED
from itda_lightning.machine.checksums import CHECKSUMS, are_whole, read_checksums
from itda_lightning.machine.digests import Signature, check_in_place, check_signed, file_checksum, reason
from itda_lightning.machine.part_files import is_part
from itda_lightning.machine.signed_tensors import read_tensors
from itda_lightning.results.as_json import check_results
from itda_lightning.saelens.export_files import SAE_CFG_FILENAME, SAE_FILES, SAE_WEIGHTS_FILENAME, check_sae_files

# An entry that a comparison made: a directory beside the record of its cost, whose digest covers it.
ENTRY, RECORD = "entry", "cost.json"
PAGE_HEAD_BYTES = 160  # of a page: where its digest stands

State = Literal["whole", "damaged", "no digest", "unfinished"]


class Verdict(NamedTuple):
    """Say of one file if it is whole."""

    path: Path
    state: State
    reason: str = ""


def verify(path: Path) -> list[Verdict]:
    """Verify a file, or all files below a directory: runs, dictionaries, checkpoints, exports, caches, results.

    Raises InputError if there is nothing to verify.
    """
    try:
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from error
    if not files:
        raise InputError(
            f"{path} holds no files: give a run, a dictionary, a checkpoint, an export, a cache or results"
        )
    verdicts = list(_missing(path)) if path.is_dir() else []
    for file in files:
        inside = [file, *list(file.parents)[: len(file.relative_to(path).parts)]]
        verdicts.append(Verdict(file, "unfinished") if any(map(is_part, inside)) else _of_file(file))
    return verdicts


def files_of_entry(directory: Path) -> list[Path]:
    """Return the files of an entry that a comparison made, in a fixed order."""
    return sorted(file for file in (directory / ENTRY).rglob("*") if file.is_file())


def _of_file(file: Path) -> Verdict:
    try:
        signature = _signature(file)
    except InputError as error:
        return Verdict(file, "damaged", " ".join(str(error).split()))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        return Verdict(file, "damaged", reason(error))
    return Verdict(file, "whole" if signature == "whole" else "no digest")


def _signature(file: Path) -> Signature:
    """Verify one file by whatever covers it. Raises InputError and other errors of reading for a damaged one."""
    if file.name in (STATE, *COVERED) and (file.parent / STATE).exists():
        return check_facts(file.parent)
    if file.name == CHECKSUMS:
        _check_checksums(file.parent)
        return "whole"
    if (checksum := read_checksums(file.parent).get(file.name)) is not None:
        if file_checksum(file) != checksum:
            raise InputError(f"its checksum is not that in {CHECKSUMS}")
        return "whole"
    if file.name in (INDEX_FILE, TENSORS_FILE):
        saved, signature = checked_dictionary(file.parent)
        Dictionary(**saved)
        return signature
    if file.name in SAE_FILES:
        signature = check_sae_files(file.parent, warn=False)
        if signature == "none":
            json.loads((file.parent / SAE_CFG_FILENAME).read_bytes())
            safe_open(file.parent / SAE_WEIGHTS_FILENAME, "pt").keys()
        return signature
    if file.suffix == ".ckpt":
        return checked_checkpoint(file)[1]
    if file.suffix == ".json":
        raw = file.read_bytes()
        content = json.loads(raw)
        signature = check_signed(raw, files_of_entry(file.parent) if file.name == RECORD else ())
        check_results(raw.decode(), content)
        return signature
    if file.suffix == ".html":
        signature = check_in_place(file, PAGE_HEAD_BYTES)
        if signature == "none" and not file.read_bytes().rstrip().endswith(b"</html>"):
            raise InputError("the page has no end")
        return signature
    if file.suffix == ".safetensors":
        return read_tensors(file)[2]
    return "none"


def _check_checksums(directory: Path) -> None:
    """Raise InputError if the file of checksums of a run has lost a line or a part of one."""
    if any(directory.glob("*.arrow")):
        return  # of a harvest that goes on, or was killed in the middle of a line
    named = set(read_checksums(directory))
    unnamed = [name for name in SIGNED if (directory / DICTIONARIES).is_dir() and (directory / name).exists()]
    if not are_whole(directory) or not named or set(unnamed) - named:
        raise InputError("it does not name every file that was there, or has a line that is no checksum")


def _missing(directory: Path) -> Iterator[Verdict]:
    """Yield what should stand beside the files of a directory and the directories below it."""
    needed = {INDEX_FILE: [TENSORS_FILE], TENSORS_FILE: [INDEX_FILE]}
    for file in sorted(directory.rglob("*")):
        if any(map(is_part, [file, *file.parents])):
            continue
        names = read_checksums(file.parent) if file.name == CHECKSUMS else needed.get(file.name, ())
        for name in names:
            if not (file.parent / name).exists():
                yield Verdict(file.parent / name, "damaged", f"missing beside {file.name}")
