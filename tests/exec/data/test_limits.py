"""The first samples of a file, and as many as wanted of a drawn set."""

from pathlib import Path

import numpy as np
import pytest

from exec.data.limits import Limits
from exec.data.load import load_dataset
from exec.errors import UsageError
from exec.runtime.source import Source


def test_a_drawn_set_has_its_usual_numbers_unless_told() -> None:
    assert Limits().drawn() == (20_000, 4_000)
    assert Limits(7).drawn() == (7, 4_000)
    assert Limits(None, 7).drawn() == (20_000, 7)


def test_all_of_a_file_needs_no_words() -> None:
    assert Limits().first("mnist", 60, 10) == (60, 10, "")
    assert Limits(60, 10).first("mnist", 60, 10) == (60, 10, "")


def test_less_than_a_file_is_said() -> None:
    words = "; trains on the first 30 of 60; tests on the first 1 of 10"
    assert Limits(30, 1).first("mnist", 60, 10) == (30, 1, words)
    assert Limits(30).first("mnist", 60, 10) == (30, 10, "; trains on the first 30 of 60")
    assert Limits(None, 3).first("mnist", 60, 10) == (60, 3, "; tests on the first 3 of 10")


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(UsageError, match="num_train must be at most the 60 training samples of mn"):
        Limits(61).first("mnist", 60, 10)
    with pytest.raises(UsageError, match=r"num_test must be at most the 10 test samples of .* 11$"):
        Limits(60, 11).first("mnist", 60, 10)


def test_a_csv_file_is_limited_but_scaled_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("0,1\n1,0\n4,255\n")
    (tmp_path / "b.csv").write_text("1,1\n2,0\n")
    data = load_dataset(
        str(tmp_path / "a.csv"), test_file=tmp_path / "b.csv", num_train=2, num_test=1
    )
    assert data.train_images.tolist() == [[np.float32(1 / 255)], [0]]
    assert data.train_labels.tolist() == [0, 1]
    assert data.test_labels.tolist() == [1]
    assert data.num_classes == 5
    assert data.source.endswith("; trains on the first 2 of 3; tests on the first 1 of 2")
    with pytest.raises(UsageError, match="num_train must be at most the 3 training samples of a, "):
        load_dataset(str(tmp_path / "a.csv"), test_file=tmp_path / "b.csv", num_train=4)


@pytest.mark.parametrize("name", ["letters", "mnist"])
def test_the_first_samples_of_a_published_set_are_taken(real_data: Path, name: str) -> None:
    if not (real_data / name).is_dir():
        pytest.skip(f"needs {name}/ in the folder of real data")
    whole = load_dataset(name, data_dir=real_data)
    data = load_dataset(name, data_dir=real_data, num_train=3200, num_test=500)
    assert np.array_equal(data.train_images, whole.train_images[:3200])
    assert np.array_equal(data.train_labels, whole.train_labels[:3200])
    assert np.array_equal(data.test_images, whole.test_images[:500])
    assert f"first 3200 of {len(whole.train_labels)}; tests on the first 500 of" in data.source
    assert data.image_shape == whole.image_shape


@pytest.mark.parametrize(
    ("name", "counts"),
    [("drawn", (20_000, 7)), ("noise", (20_000, 7)), ("mnist", (None, 7)), ("a.csv", (None, 7))],
)
def test_a_source_tells_how_many_samples_are_asked_for(
    name: str, counts: tuple[int | None, int | None]
) -> None:
    assert Source(name, None, None, 0, None, 7, 0).counts == counts
