"""Checksums of a directory's files: a flipped bit of any line is noticed, and links are not followed."""

import pytest

from itda_lightning.errors import InputError
from itda_lightning.machine.checksums import CHECKSUMS, add_checksums, read_checksums, whole_checksums, write_checksums

SUMS = {"one": "0" * 32, "two": "f" * 32}


def test_lines_are_added_and_half_a_line_is_left_out(tmp_path):
    assert read_checksums(tmp_path) == {}
    for name, checksum in SUMS.items():
        add_checksums(tmp_path, {name: checksum})
    assert read_checksums(tmp_path) == whole_checksums(tmp_path, SUMS) == SUMS
    with (tmp_path / CHECKSUMS).open("a") as file:
        file.write("0123")
    assert read_checksums(tmp_path) == SUMS


def test_every_flip_of_the_lines_is_noticed_or_another_checksum(tmp_path):
    write_checksums(tmp_path, SUMS)
    whole = (tmp_path / CHECKSUMS).read_bytes()
    for bit in range(0, 8 * len(whole), 3):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / CHECKSUMS).write_bytes(flipped)
        try:
            assert whole_checksums(tmp_path, SUMS) != SUMS
        except InputError as error:
            assert "has lost its line" in str(error)  # noqa: PT017  most do, some are another checksum


def test_a_directory_without_any_has_none(tmp_path):
    assert whole_checksums(tmp_path, SUMS) == {}
    write_checksums(tmp_path, {"one": SUMS["one"]})
    with pytest.raises(InputError, match=r"has lost its line, or is damaged \(its checksum is not that in"):
        whole_checksums(tmp_path, SUMS)


def test_a_planted_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("old")
    (tmp_path / CHECKSUMS).symlink_to(tmp_path / "victim")
    for write in (add_checksums, write_checksums):
        with pytest.raises(InputError, match=CHECKSUMS):
            write(tmp_path, SUMS)
    assert (tmp_path / "victim").read_text() == "old"
