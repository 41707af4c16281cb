"""The cropped digits of the Street View House Numbers: 32 x 32 pixels in colour.

Each half is a MATLAB file of two arrays: X, the pixels, row by column by channel by sample, and y,
the digits, where 10 stands for 0.

Source: Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu and A. Y. Ng, "Reading digits in natural
images with unsupervised feature learning", NIPS workshop on deep learning 2011.
"""

from pathlib import Path

import numpy as np

from exec.data.download import PublishedFile
from exec.data.images import ByteImages
from exec.data.mat import ArrayHeader, read_arrays, read_headers
from exec.data.reading import Checksum
from exec.errors import DataError

NUM_CLASSES = 10

_ADDRESS = "http://ufldl.stanford.edu/housenumbers/"
_IMAGE = (32, 32, 3)


def _published(name: str, nbytes: int, md5: str) -> PublishedFile:
    return PublishedFile(name, _ADDRESS + name, nbytes, md5, checksum=Checksum.MD5)


SVHN_FILES = (
    _published("train_32x32.mat", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
    _published("test_32x32.mat", 64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
)


def read_half(path: Path) -> ByteImages:
    """Read one of the two files.

    Raises:
        DataError: it is malformed, or is no file of such digits.
    """
    headers = read_headers(path)
    if set(headers) != {"X", "y"}:
        found = ", ".join(sorted(headers)) or "none"
        raise DataError(f"{path}: expected the variables X, y, got {found}")
    _check_shapes(path, headers["X"], headers["y"])
    arrays = read_arrays(path)
    values = arrays["y"].reshape(-1)
    # The negation also catches NaN, which compares false with everything.
    wrong = np.flatnonzero(~((values >= 1) & (values <= 10) & (values == np.floor(values))))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{path}: y({first + 1}): label must be 1 .. 10, where 10 is the digit 0, "
            f"got {values[first]}"
        )
    return ByteImages(arrays["X"].transpose(3, 2, 0, 1), values.astype(np.int64) % 10)


def _check_shapes(path: Path, images: ArrayHeader, labels: ArrayHeader) -> None:
    *image, num_images = images.dims
    if images.stored != np.uint8 or tuple(image) != _IMAGE or num_images == 0:
        raise DataError(
            f"{path}: byte {images.offset}: X must be 32 x 32 x 3 x n of uint8 with n > 0, "
            f"got {_spelled(images)}"
        )
    if labels.dims != (num_images, 1):
        raise DataError(
            f"{path}: byte {labels.offset}: y must be {num_images} x 1, a label for each image, "
            f"got {_spelled(labels)}"
        )


def _spelled(header: ArrayHeader) -> str:
    return f"{' x '.join(map(str, header.dims))} of {header.stored.name}"
