"""Write single tokens of a vocabulary as text, also those that are only part of a character."""

from collections.abc import Iterable
from typing import Any

# Byte-level tokenizers write each byte as a printable character: itself if it is one, or the next one from 256 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + index): byte for index, byte in enumerate(_OTHERS)}


def token_texts(tokenizer: Any, tokens: Iterable[int]) -> list[str]:
    r"""Return the text of each token id; bytes that are no whole character are written as ``\xe2``."""
    return [_text(tokenizer, token) for token in tokens]


def _text(tokenizer: Any, token: int) -> str:
    text: str = tokenizer.decode([token])
    if "\ufffd" not in text:
        return text
    name: str = tokenizer.convert_ids_to_tokens(token)
    if all(character in _BYTES for character in name):
        return bytes(_BYTES[character] for character in name).decode("utf-8", errors="backslashreplace")
    return name
