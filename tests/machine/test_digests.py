"""Digests: every flipped bit of a signed file or its companions is noticed, and a file without one is told apart."""

import json
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.digests import (
    BLANK,
    DIGEST,
    DamagedError,
    check_in_place,
    check_signed,
    read_signed_json,
    sign_in_place,
    signed_json,
)
from itda_lightning.machine.schema import check_schema

CONTENT = {
    "nested": {DIGEST: "not this one"},
    "text": 'naïve \x1b "xxh128:" ☃' + 160 * "x",
    "numbers": [1, 1e-7, None],
}


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path]:
    tensors = tmp_path / "tensors"
    tensors.write_bytes(bytes(range(40)))
    write_json(tmp_path / "index.json", CONTENT, [tensors])
    return tmp_path / "index.json", tensors


def flips(raw: bytes) -> list[bytes]:
    number = int.from_bytes(raw, "little")
    return [(number ^ (1 << bit)).to_bytes(len(raw), "little") for bit in range(8 * len(raw))]


def test_every_flip_of_any_bit_is_noticed(signed):
    index, tensors = signed
    whole, of_tensors = index.read_bytes(), tensors.read_bytes()
    assert check_signed(whole, [tensors]) == "whole"
    for flipped in flips(whole):
        with pytest.raises(DamagedError, match=r"^its digest is not|^the entry of its digest is damaged"):
            check_signed(flipped, [tensors])
    for flipped in flips(of_tensors):
        tensors.write_bytes(flipped)
        with pytest.raises(DamagedError, match=r"^its digest is not that of its content$"):
            check_signed(whole, [tensors])


def test_it_is_plain_json_and_the_digest_can_be_computed_by_others(signed):
    index, tensors = signed
    assert read_signed_json(index, "write it again", [tensors]) == CONTENT
    raw = index.read_bytes()
    digits = json.loads(raw)[DIGEST].removeprefix("xxh128:").encode()
    of_tensors = xxhash.xxh3_128_hexdigest(tensors.read_bytes())
    assert xxhash.xxh3_128_hexdigest(raw.replace(digits, b"") + b"tensors" + of_tensors.encode()).encode() == digits


@pytest.mark.parametrize("damage", ["a companion of another", "cut", "no object", "missing", "a missing companion"])
def test_a_damaged_file_is_one_line_with_the_remedy(signed, damage):
    index, tensors = signed
    if damage == "cut":
        index.write_bytes(index.read_bytes()[:-1])
    elif damage == "no object":
        index.write_text("[]")
    elif damage == "missing":
        index.unlink()
    elif damage == "a missing companion":
        tensors.unlink()
    else:
        tensors.write_bytes(b"others")
    with pytest.raises(InputError, match=r"^.*index\.json is damaged[^\n]*write it again$"):
        read_signed_json(index, "write it again", [tensors])


def test_a_file_without_one_is_read_with_one_line_of_warning(signed, caplog):
    index, tensors = signed
    index.write_text(json.dumps(CONTENT))
    assert read_signed_json(index, "write it again", [tensors]) == CONTENT
    assert caplog.messages == [
        f"{index} has no digest (an earlier version or another program wrote it): damage would not show"
    ]


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=4))
def test_any_content_comes_back(content):
    raw = signed_json(content).encode()
    assert check_signed(raw) == "whole"
    assert {name: value for name, value in json.loads(raw).items() if name != DIGEST} == {
        name: value for name, value in content.items() if name != DIGEST
    }


def test_within_a_larger_file(tmp_path):
    path = tmp_path / "file"
    head = json.dumps({"header": json.dumps({"x": 1, DIGEST: BLANK})}).encode()
    path.write_bytes(head + bytes(1000))
    sign_in_place(path, len(head))
    whole = path.read_bytes()
    assert (len(whole), check_in_place(path, len(head))) == (len(head) + 1000, "whole")
    for flipped in flips(whole)[::7]:
        path.write_bytes(flipped)
        with pytest.raises(DamagedError):
            check_in_place(path, len(head))


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (1.5, int, "expected int, got 1.5"),
        (True, int, "expected int, got True"),
        ("x", bool, "expected bool, got 'x'"),
        (None, float, "expected float, got None"),
        ("x", float | None, "expected NoneType or float, got 'x'"),
        ("abc", list[str], "expected a list, got 'abc'"),
        (["abc"], list[tuple[str, str, str]], "expected a list of 3, got 'abc'"),
        ([["a", "b"]], list[tuple[str, str, str]], r"expected a list of 3, got \['a', 'b'\]"),
        ([], dict[str, int], r"expected an object, got \[\]"),
        ({"a": 1.5}, dict[str, int], "expected int, got 1.5"),
    ],
)
def test_a_field_of_another_type_is_told_with_its_value(content, kind, told):
    with pytest.raises(InputError, match=f"^the file: {told}; write it again$"):
        check_schema(content, kind, "the file", "write it again")


def test_what_fits_passes():
    assert check_schema([["a", 1]], list[tuple[str, float]], "the file", "") == [("a", 1.0)]
    assert check_schema(None, float | None, "the file", "") is None
