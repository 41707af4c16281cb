"""The letters file: what is read, and how each kind of damage is reported."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exec.data.letters import parse_letters, read_letters
from exec.errors import DataError

HERE = Path("some/letter.data")
PIXELS = ["0", "1"] * 64


def row(letter: str = "c", fold: str = "3", pixels: list[str] = PIXELS) -> str:
    return "\t".join(["12", letter, "-1", "4", "7", fold, *pixels]) + "\t\n"


def test_rows_become_pixels_labels_and_folds() -> None:
    rows = parse_letters((row("a", "0") + row("z", "9", ["1"] * 128)).encode(), HERE)
    assert rows.labels.tolist() == [0, 25]
    assert rows.folds.tolist() == [0, 9]
    assert rows.images.shape == (2, 128)
    assert rows.images[0].tolist() == [0, 1] * 64
    assert rows.images[1].all()


def test_the_last_newline_may_be_missing() -> None:
    assert len(parse_letters(row().rstrip("\n").encode(), HERE).labels) == 1


def edit(column: int, text: str) -> Callable[[str], str]:
    def change(line: str) -> str:
        fields = line.split("\t")
        fields[column] = text
        return "\t".join(fields)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(0, "x"), "line 2, column 1: id must be a number, got 'x'"),
        (edit(0, ""), "line 2, column 1: id must be a number, got ''"),
        (edit(1, "C"), "line 2, column 2: letter must be a letter a-z, got 'C'"),
        (edit(1, "ab"), "line 2, column 2: letter must be a letter a-z, got 'ab'"),
        (edit(2, "-2"), "line 2, column 3: next_id must be a number or -1, got '-2'"),
        (edit(3, "1.5"), "line 2, column 4: word_id must be a number, got '1.5'"),
        (edit(4, "-1"), "line 2, column 5: position must be a number, got '-1'"),
        (edit(5, "10"), "line 2, column 6: fold must be a digit 0-9, got '10'"),
        (edit(6, "2"), "line 2, column 7: pixel 0 must be 0 or 1, got '2'"),
        (edit(133, "/"), "line 2, column 134: pixel 127 must be 0 or 1, got '/'"),
        (edit(50, "01"), "line 2, column 51: pixel 44 must be 0 or 1, got '01'"),
        (edit(50, "1\t0"), "line 2: expected 134 columns, each with a tab after it, got 135"),
        (lambda line: "\n", "line 2: expected 134 columns, each with a tab after it, got 0"),
        (lambda line: line[:100] + "\n", "line 2: expected 134 columns"),
        (lambda line: line[:-2] + "\n", "got 134 and no tab at the end"),
        (lambda line: line.replace("\t\n", "\t\r\n"), "got 135 and no tab at the end"),
        (lambda line: line.replace("\t", ","), "got 1 and no tab at the end"),
        (edit(1, "é"), "line 2: expected ASCII, got byte 0xc3 at 3"),
    ],
)
def test_a_damaged_row_is_named(change: Callable[[str], str], message: str) -> None:
    content = (row() + change(row()) + row()).encode()
    with pytest.raises(DataError) as raised:
        parse_letters(content, HERE)
    assert f"{HERE}: " in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_file_is_called_empty(content: bytes) -> None:
    with pytest.raises(DataError, match="empty file"):
        parse_letters(content, HERE)


def test_the_number_of_rows_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "letter.data"
    path.write_text(row() * 3)
    with pytest.raises(DataError, match="expected 52152 rows, got 3"):
        read_letters(path)
    assert len(read_letters(path, num_rows=3).labels) == 3


def test_gzip_that_inflates_without_end_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "letter.data.gz"
    path.write_bytes(gzip.compress(bytes(40_000_000), 1))
    with pytest.raises(DataError, match="at most 29114498 bytes uncompressed"):
        read_letters(path)


def test_damaged_gzip_is_called_so(tmp_path: Path) -> None:
    sound = gzip.compress(row().encode())
    path = tmp_path / "letter.data.gz"
    for content, message in [
        (sound[:-9], "truncated gzip"),
        (sound[:5], "truncated gzip"),
        (sound + b"more", "trailing bytes after the gzip data"),
        (sound[:-8] + bytes(4) + sound[-4:], "damaged gzip: CRC check failed"),
        (sound[:12] + b"\xff\xff\xff" + sound[15:], "gzip"),
        (row().encode(), r"byte 0: expected gzip \(1f 8b\), got 31 32; rename it to letter.data"),
        (b"", "empty file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as raised:
            read_letters(path, num_rows=1)
        assert str(path) in str(raised.value)


def test_what_is_not_a_readable_file_is_a_data_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, message in [
        (tmp_path, "expected a file, found a directory"),
        (tmp_path / "absent", "No such file"),
        (Path("/dev/null"), "found neither file nor directory"),
        (loop, "cannot be read"),
        (Path("a\0b"), "cannot be read"),
    ]:
        with pytest.raises(DataError, match=message):
            read_letters(path)


def test_the_official_file_has_its_published_folds(real_data: Path) -> None:
    path = real_data / "letters" / "letter.data.gz"
    if not path.exists():
        pytest.skip("needs letters/letter.data.gz in the folder of real data")
    rows = read_letters(path)
    assert rows.images.shape == (52152, 128)
    folds = [4617, 5375, 5110, 5353, 5270, 5001, 5583, 5370, 5331, 5142]
    assert np.bincount(rows.folds).tolist() == folds
    assert np.bincount(rows.labels)[[0, 9, 25]].tolist() == [4034, 189, 1094]
    assert rows.images.mean() == pytest.approx(0.21968, rel=1e-4)
