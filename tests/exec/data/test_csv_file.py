"""CSV files: the parser, the choice of a test file, and the scale of the pixels."""

from pathlib import Path

import numpy as np
import pytest

from exec.data.csv_dataset import load_csv
from exec.data.labelled_csv import parse_csv
from exec.errors import DataError

HERE = Path("some/train.csv")


@pytest.mark.parametrize(
    "content",
    [
        b"3,0,1\n0,1,0.5\n",
        b"3,0,1\r\n0,1,0.5\r\n",
        b"3,0,1\n0,1,0.5",
        b"3, 0, 1\n0, 1, .5\n",
        b"3.0e+00,0.0,1.\n0,+1e0,5e-1\n",
    ],
)
def test_the_label_is_first_and_the_pixels_follow(content: bytes) -> None:
    pixels, labels = parse_csv(content, HERE)
    assert labels.tolist() == [3, 0]
    assert labels.dtype == np.int64
    assert pixels.tolist() == [[0, 1], [1, 0.5]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,0", "line 2: expected 3 columns as in line 1, got 2"),
        ("1,0,1,0", "line 2: expected 3 columns as in line 1, got 4"),
        ("", "line 2: expected 3 columns as in line 1, got 1"),
        ("1,,1", "line 2, column 2: expected a number, got ''"),
        ("1,x,1", "line 2, column 2: expected a number, got 'x'"),
        ("1,0x1,1", "line 2, column 2: expected a number, got '0x1'"),
        ("1,1_0,1", "line 2, column 2: expected a number, got '1_0'"),
        ('1,"0",1', "line 2, column 2: expected a number"),
        ("1,0,1 # no", "line 2, column 3: expected a number, got '1 # no'"),
        ("1,0\r,1", r"line 2, column 2: expected a number, got '0\\r'"),
        ("1,nan,1", r"line 2, column 2: pixel must be finite and 0 \.\. 255, got 'nan'"),
        ("1,0,-inf", r"line 2, column 3: pixel must be finite and 0 \.\. 255, got '-inf'"),
        ("1,1e999,1", "line 2, column 2: pixel must be finite"),
        ("1,-1,1", r"line 2, column 2: pixel must be finite and 0 \.\. 255, got '-1'"),
        ("1,0,256", r"line 2, column 3: pixel must be finite and 0 \.\. 255, got '256'"),
        ("-1,0,1", r"line 2, column 1: label must be a whole number 0 \.\. 9999, got '-1'"),
        ("1.5,0,1", "line 2, column 1: label must be a whole number"),
        ("nan,0,1", "line 2, column 1: label must be a whole number"),
        ("inf,0,1", "line 2, column 1: label must be a whole number"),
        ("10000,0,1", "line 2, column 1: label must be a whole number"),
        ("label,0,1", "line 2, column 1: expected a number, got 'label'"),
        ("1,0,é", "line 2: expected ASCII, got byte 0xc3 at 4"),
    ],
)
def test_a_damaged_row_is_named(line: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^some/train.csv: {message}"):
        parse_csv(f"0,1,1\n{line}\n2,1,1\n".encode(), HERE)


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\r\n", b"  \n"])
def test_an_empty_file_is_called_empty(content: bytes) -> None:
    with pytest.raises(DataError, match="empty file"):
        parse_csv(content, HERE)


def test_a_file_of_labels_only_is_refused() -> None:
    with pytest.raises(DataError, match="expected a label, then pixels"):
        parse_csv(b"1\n2\n", HERE)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_without_a_test_file_every_tenth_row_tests(tmp_path: Path) -> None:
    path = write(tmp_path / "all.csv", *[f"{n % 3},{n / 100},0" for n in range(25)])
    data = load_csv(path, None)
    assert data.test_images[:, 0].tolist() == pytest.approx([0.09, 0.19], rel=1e-6)
    assert data.train_images.shape == (23, 2)
    assert data.num_classes == 3
    assert "every 10th row" in data.source


def test_too_few_rows_to_hold_some_out_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 10 rows"):
        load_csv(write(tmp_path / "all.csv", "0,1"), None)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("smallTrain.csv", "smallValidation.csv"),
        ("smallTrain.csv", "smallTest.csv"),
        ("mnist_train.csv", "mnist_test.csv"),
    ],
)
def test_a_sibling_is_found_and_said(tmp_path: Path, train: str, test: str) -> None:
    path = write(tmp_path / train, "0,1,1")
    sibling = write(tmp_path / test, "4,0,1")
    data = load_csv(path, None)
    assert data.num_classes == 5
    assert f"its sibling {sibling}" in data.source


def test_the_test_file_given_wins_over_a_sibling(tmp_path: Path) -> None:
    path = write(tmp_path / "Train.csv", "0,1,1")
    write(tmp_path / "Test.csv", "1,0,1")
    chosen = write(tmp_path / "other.csv", "2,0,1")
    assert load_csv(path, chosen).test_labels.tolist() == [2]


def test_both_files_share_one_scale(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "0,255,0")
    data = load_csv(path, write(tmp_path / "b.csv", "0,1,0"))
    assert data.train_images.tolist() == [[1, 0]]
    assert data.test_images[0, 0] == np.float32(1 / 255)
    assert "pixels / 255" in data.source


def test_both_files_must_have_equally_many_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "0,1,0")
    with pytest.raises(DataError, match=r"b\.csv: line 1: expected 3 columns as in .*, got 2"):
        load_csv(path, write(tmp_path / "b.csv", "0,1"))


def test_the_course_files_are_read_with_their_validation(real_data: Path) -> None:
    path = real_data / "cmu-ocr" / "smallTrain.csv"
    if not path.exists():
        pytest.skip("needs cmu-ocr/smallTrain.csv in the folder of real data")
    data = load_csv(path, None)
    assert data.train_images.shape == (500, 128)
    assert data.test_images.shape == (100, 128)
    assert np.bincount(data.train_labels).tolist() == [50] * 10
    assert "smallValidation.csv" in data.source
