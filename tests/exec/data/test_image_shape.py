"""What shape the images of a row have, from each source."""

from pathlib import Path

import numpy as np
import pytest

from exec.data.dataset import Dataset, Shape, spelled
from exec.data.load import load_dataset
from exec.data.noise import noise_dataset


def dataset(*shape: Shape) -> Dataset:
    images, labels = np.zeros((2, 12), np.float32), np.zeros(2, np.int64)
    return Dataset("twelve", images, labels, images, labels, 1, "a test", *shape)


def test_a_row_is_flat_unless_told() -> None:
    assert dataset().image_shape == (1, 1, 12)
    assert dataset((3, 2, 2)).image_shape == (3, 2, 2)


@pytest.mark.parametrize("shape", [(1, 3, 3), (1, 1, 0), (-1, -3, 4), (0, 1, 12)])
def test_a_shape_that_makes_no_row_is_refused(shape: Shape) -> None:
    with pytest.raises(ValueError, match="image_shape must make the 12 pixels of a row, got"):
        dataset(shape)


def test_a_shape_is_spelled_as_height_and_width() -> None:
    assert spelled((3, 32, 24)) == "3 channels of 32 x 24 pixels (height x width)"


def test_drawn_letters_are_higher_than_wide() -> None:
    assert load_dataset("drawn", num_train=26, num_test=26).image_shape == (1, 16, 8)


@pytest.mark.parametrize(("name", "shape"), [("letters", (1, 16, 8)), ("mnist", (1, 28, 28))])
def test_published_sets_have_their_shapes(real_data: Path, name: str, shape: Shape) -> None:
    if not (real_data / name).is_dir():
        pytest.skip(f"needs {name}/ in the folder of real data")
    assert load_dataset(name, data_dir=real_data).image_shape == shape


def test_a_csv_file_is_flat(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("0,1,0,1\n1,0,1,1\n")
    assert load_dataset(str(tmp_path / "a.csv"), test_file=tmp_path / "a.csv").image_shape == (
        1,
        1,
        3,
    )


def test_noise_has_the_same_bits_in_any_shape() -> None:
    flat, images = noise_dataset(24, 5, 6, 2, seed=1), noise_dataset((2, 3, 4), 5, 6, 2, seed=1)
    assert flat.image_shape == (1, 1, 24)
    assert images.image_shape == (2, 3, 4)
    assert np.array_equal(flat.train_images, images.train_images)
    assert np.array_equal(flat.train_labels, images.train_labels)
