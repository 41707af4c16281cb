"""The four files of MNIST, and of every set that goes by the same names.

Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
recognition", Proc. IEEE 86 (1998) 2278-2324.
"""

from pathlib import Path

import numpy as np

from exec.data.download import PublishedFile
from exec.data.idx import read_idx
from exec.data.images import ByteImages
from exec.errors import DataError

NUM_CLASSES = 10

_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"


def _published(name: str, nbytes: int, digest: str, digest_inflated: str) -> PublishedFile:
    return PublishedFile(name, _MIRROR + name, nbytes, digest, digest_inflated)


MNIST_FILES = (
    _published(
        "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    _published(
        "train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    _published(
        "t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    _published(
        "t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)


def read_half(images_path: Path, labels_path: Path) -> ByteImages:
    """Read the images, which have one channel and the size that their header says, and labels.

    Raises:
        DataError: a file is malformed, or the two do not belong together.
    """
    labels = read_idx(labels_path, 1)
    wrong = np.flatnonzero(labels >= NUM_CLASSES)
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{labels_path}: byte {8 + first}: label must be 0 .. {NUM_CLASSES - 1}, "
            f"got {labels[first]}"
        )
    pixels = read_idx(images_path, 3)
    if len(pixels) != len(labels):
        raise DataError(
            f"{images_path}: byte 4: expected {len(labels)} images, one for each label in "
            f"{labels_path}, got {len(pixels)}"
        )
    return ByteImages(pixels[:, None], labels.astype(np.int64))
