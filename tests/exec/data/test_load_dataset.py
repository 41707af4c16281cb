"""Loading by name, and what a Dataset holds true."""

import struct
from pathlib import Path

import numpy as np
import pytest

from exec.data.dataset import Dataset
from exec.data.load import DATASETS, load_dataset
from exec.errors import DataError, UsageError


def test_drawn_letters_differ_between_train_and_test() -> None:
    data = load_dataset("drawn", num_train=520, num_test=260)
    assert data.train_images.shape == (520, 128)
    assert data.test_images.shape == (260, 128)
    assert data.num_features == 128
    assert data.num_classes == 26
    assert "seed 0" in data.source
    assert not np.array_equal(data.train_images[:260], data.test_images)


def test_the_seed_makes_the_drawn_set() -> None:
    first, again, other = (
        load_dataset("drawn", seed=seed, num_train=52, num_test=26) for seed in (5, 5, 6)
    )
    assert np.array_equal(first.train_images, again.train_images)
    assert not np.array_equal(first.train_images, other.train_images)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"drawn, letters, mnist.*did you mean 'letters'"):
        load_dataset("leters")


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"fold": 10}, r"fold must be 0 \.\. 9, got 10"),
        ({"fold": -1}, r"fold must be 0 \.\. 9, got -1"),
        ({"num_train": 0}, "num_train must be positive, got 0"),
        ({"num_test": -3}, "num_test must be positive, got -3"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_an_option_that_cannot_work_is_named(
    name: str, option: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_dataset(name, **option)


def test_a_test_file_goes_with_a_csv_file_only() -> None:
    with pytest.raises(UsageError, match="test_file must go with a CSV file, got data 'drawn'"):
        load_dataset("drawn", test_file=Path("test.csv"))


def test_a_csv_file_is_found_as_named_or_in_the_data_dir(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("0,1\n1,0\n")
    (tmp_path / "other.CSV").write_text("1,1\n")
    for name, folder in [(str(tmp_path / "train.csv"), None), ("train.csv", tmp_path)]:
        data = load_dataset(name, data_dir=folder, test_file=tmp_path / "other.CSV")
        assert data.name == "train"
        assert data.num_classes == 2


@pytest.mark.parametrize("name", ["absent.csv", "a\0b.csv", "x" * 300 + ".csv"])
def test_an_absent_csv_file_is_a_data_error(tmp_path: Path, name: str) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            load_dataset(name, data_dir=folder)


@pytest.mark.parametrize(
    ("name", "file"),
    [("letters", "letter.data"), ("mnist", "train-images"), ("svhn", "train_32x32.mat in")],
)
def test_an_empty_folder_is_answered_with_what_it_needs(
    tmp_path: Path, name: str, file: str
) -> None:
    with pytest.raises(DataError, match=f"{name} needs {file}.*found (it in )?neither"):
        load_dataset(name, data_dir=tmp_path)


def test_a_directory_in_a_files_place_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "letter.data.gz").mkdir()
    with pytest.raises(DataError, match="expected a file, found a directory"):
        load_dataset("letters", data_dir=tmp_path)


LETTER = "\t".join(["1", "q", "-1", "1", "0", "{fold}", *"01" * 64]) + "\t\n"


def test_a_letters_file_of_ones_own_is_read_and_said_to_be(tmp_path: Path) -> None:
    lines = "".join(LETTER.format(fold=n % 3) for n in range(52_152))
    (tmp_path / "letter.data").write_text(lines)
    data = load_dataset("letters", data_dir=tmp_path, fold=2)
    assert len(data.test_labels) == 52_152 // 3
    assert "not the official file" in data.source
    with pytest.raises(DataError, match="fold 3 must have some of the 52152 rows, got 0"):
        load_dataset("letters", data_dir=tmp_path, fold=3)


def write_mnist(folder: Path, half: str, count: int, height: int, width: int) -> None:
    header = b"\0\0\x08\x03" + struct.pack(">3I", count, height, width)
    images = header + bytes(range(count * height * width))
    (folder / f"{half}-images-idx3-ubyte").write_bytes(images)
    labels = b"\0\0\x08\x01" + struct.pack(">I", count) + bytes(count)
    (folder / f"{half}-labels-idx1-ubyte").write_bytes(labels)


def test_uncompressed_idx_files_are_read(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 5, 4, 3)
    write_mnist(tmp_path, "t10k", 2, 4, 3)
    data = load_dataset("mnist", data_dir=tmp_path)
    assert data.image_shape == (1, 4, 3)
    expected = (np.arange(60).reshape(5, 12) / 255).astype(np.float32)
    assert np.array_equal(data.train_images, expected)
    assert data.num_classes == 10


@pytest.mark.parametrize(("height", "width"), [(3, 3), (2, 8), (8, 2)])
def test_both_halves_of_mnist_must_have_images_of_one_size(
    tmp_path: Path, height: int, width: int
) -> None:
    write_mnist(tmp_path, "train", 5, 4, 4)
    write_mnist(tmp_path, "t10k", 2, height, width)
    message = rf"byte 8: expected images of 4 x 4 pixels as in .*, got {height} x {width}"
    with pytest.raises(DataError, match=message):
        load_dataset("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "num_train", "num_test", "num_features"),
    [("letters", 52152 - 5375, 5375, 128), ("mnist", 60000, 10000, 784)],
)
def test_the_published_sets_load(
    real_data: Path, name: str, num_train: int, num_test: int, num_features: int
) -> None:
    if not (real_data / name).is_dir():
        pytest.skip(f"needs {name}/ in the folder of real data")
    data = load_dataset(name, data_dir=real_data, fold=1)
    assert data.train_images.shape == (num_train, num_features)
    assert data.test_images.shape == (num_test, num_features)
    assert "(official)" in data.source
    assert "not the official file" not in data.source


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 3), np.float32), np.zeros(3, np.int64)),
        (np.zeros((0, 3), np.float32), np.zeros(0, np.int64)),
        (np.zeros((2, 3), np.float64), np.zeros(2, np.int64)),
        (np.full((2, 3), 1.1, np.float32), np.zeros(2, np.int64)),
        (np.full((2, 3), np.nan, np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 3), np.float32), np.full(2, 10)),
        (np.zeros((2, 3), np.float32), np.full(2, -1)),
        (np.zeros((2, 4), np.float32), np.zeros(2, np.int64)),
    ],
)
def test_a_dataset_refuses_what_does_not_fit(images: np.ndarray, labels: np.ndarray) -> None:
    sound = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="must"):
        Dataset("bad", *sound, images, labels, 10, "a test")
