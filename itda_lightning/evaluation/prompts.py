"""The prompts that a command is given: one as an option, or many in a file."""

from pathlib import Path

from itda_lightning.activations.text.documents import load_documents
from itda_lightning.errors import InputError
from itda_lightning.machine.digests import reason
from itda_lightning.machine.paths import user_path


def prompts_of(text: str, file: str | None, names: tuple[str, str]) -> list[str]:
    """Return one text, or those of a file: the lines of a .txt file, or the column "text" of any other.

    Args:
        text, file: one of them; an empty text for a file.
        names: of the two options, for refusals.

    Raises:
        InputError: both or neither, a file that is not there, cannot be read or holds no prompt.
    """
    if file is None:
        if not text:
            raise InputError("the text '' has no tokens: give some")
        return [text]
    if text:
        raise InputError(f"{names[0]} {text[:40]!r} and {names[1]} {file!r} are both given: leave one out")
    path = user_path(file, names[1])
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; give a .txt file with a prompt per line, or jsonl with {{'text': ...}}"
        )
    prompts = _lines(path) if path.suffix == ".txt" else [one for _, one in load_documents(str(path)).in_order()]
    prompts = [prompt for prompt in prompts if prompt.strip()]
    if not prompts:
        raise InputError(f"{path} holds no prompt: write one per line")
    return prompts


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}): write it in UTF-8") from error
