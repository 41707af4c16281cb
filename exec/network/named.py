"""Networks that have a name: small ones for digits and letters, and ResNet-18."""

from collections.abc import Callable, Sequence

from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Module,
    ReLU,
)
from exec.network.network import Image, Network, build

Step = tuple[str, Module, Sequence[str]]


def _cnn(classes: int) -> list[Step]:
    """Two padded convolutions, each pooled: for handwritten digits and letters."""
    return [
        ("conv1", Conv2d(16, (5, 5), padding=(2, 2)), ()),
        ("relu1", ReLU(), ()),
        ("pool1", MaxPool((2, 2), (2, 2)), ()),
        ("conv2", Conv2d(32, (5, 5), padding=(2, 2)), ()),
        ("relu2", ReLU(), ()),
        ("pool2", MaxPool((2, 2), (2, 2)), ()),
        ("flatten", Flatten(), ()),
        ("fc", Linear(classes), ()),
    ]


def _svhn_cnn(classes: int) -> list[Step]:
    """Two convolutions, then two dense layers: a small one for house numbers.

    In the manner of P. Sermanet, S. Chintala and Y. LeCun, "Convolutional neural networks applied
    to house numbers digit classification", ICPR 2012, with fewer filters and plain max pooling.
    """
    return [
        ("conv1", Conv2d(6, (5, 5)), ()),
        ("relu1", ReLU(), ()),
        ("pool1", MaxPool((2, 2), (2, 2)), ()),
        ("conv2", Conv2d(16, (5, 5)), ()),
        ("relu2", ReLU(), ()),
        ("pool2", MaxPool((2, 2), (2, 2)), ()),
        ("flatten", Flatten(), ()),
        ("fc1", Linear(64), ()),
        ("relu3", ReLU(), ()),
        ("fc2", Linear(classes), ()),
    ]


def _resnet18(classes: int) -> list[Step]:
    """Residual blocks of two convolutions, 18 layers with weights besides the projections.

    Names are those of torchvision's, so that its weights map by name.

    Source: table 1 of K. He, X. Zhang, S. Ren and J. Sun, "Deep residual learning for image
    recognition", CVPR 2016.
    """
    stem: list[Step] = [
        ("conv1", Conv2d(64, (7, 7), (2, 2), (3, 3), has_bias=False), ()),
        ("bn1", BatchNorm2d(), ()),
        ("relu", ReLU(), ()),
        ("maxpool", MaxPool((3, 3), (2, 2), (1, 1)), ()),
    ]
    return [*stem, *_residual_stages("maxpool", classes)]


def _resnet18_small(classes: int) -> list[Step]:
    """ResNet-18 for images of about 32x32: its stem neither strides nor pools."""
    stem: list[Step] = [
        ("conv1", Conv2d(64, (3, 3), padding=(1, 1), has_bias=False), ()),
        ("bn1", BatchNorm2d(), ()),
        ("relu", ReLU(), ()),
    ]
    return [*stem, *_residual_stages("relu", classes)]


def _residual_stages(before: str, classes: int) -> list[Step]:
    """Four stages of two basic blocks, the mean over all positions, and a dense layer."""
    steps: list[Step] = []
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            label = f"layer{stage}.{block}"
            halves = stage > 1 and block == 0
            steps += _basic_block(label, before, filters, halves=halves)
            before = f"{label}.relu2"
    return [*steps, ("avgpool", AvgPool(), ()), ("fc", Linear(classes), ())]


def _basic_block(label: str, before: str, filters: int, *, halves: bool) -> list[Step]:
    """Two convolutions whose result is added to their input; ``halves`` height and width."""
    stride = (2, 2) if halves else (1, 1)
    shortcut = before
    steps: list[Step] = [
        (f"{label}.conv1", Conv2d(filters, (3, 3), stride, (1, 1), has_bias=False), (before,)),
        (f"{label}.bn1", BatchNorm2d(), ()),
        (f"{label}.relu1", ReLU(), ()),
        (f"{label}.conv2", Conv2d(filters, (3, 3), padding=(1, 1), has_bias=False), ()),
        (f"{label}.bn2", BatchNorm2d(), ()),
    ]
    if halves:
        projection, shortcut = f"{label}.downsample.0", f"{label}.downsample.1"
        steps += [
            (projection, Conv2d(filters, (1, 1), stride, has_bias=False), (before,)),
            (shortcut, BatchNorm2d(), ()),
        ]
    # The sum is written over its first input: no other node needs that of bn2.
    return [
        *steps,
        (f"{label}.add", Add(), (f"{label}.bn2", shortcut)),
        (f"{label}.relu2", ReLU(), ()),
    ]


_NAMED: dict[str, tuple[Image, int, Callable[[int], list[Step]]]] = {
    "cnn": ((1, 28, 28), 10, _cnn),
    "svhn-cnn": ((3, 32, 32), 10, _svhn_cnn),
    "resnet18": ((3, 224, 224), 1000, _resnet18),
    "resnet18-small": ((3, 32, 32), 10, _resnet18_small),
}
NAMES = tuple(_NAMED)


def named_network(name: str, image: Image | None = None, classes: int | None = None) -> Network:
    """Return the network ``name``, one of ``NAMES``, for its usual images and classes or these.

    Raises:
        UsageError: it does not fit such images.

    >>> named_network("resnet18").num_parameters
    11689512
    >>> named_network("cnn", (1, 16, 8), 26).name
    'cnn:1x16x8:26'
    """
    usual_image, usual_classes, steps = _NAMED[name]
    image, classes = image or usual_image, usual_classes if classes is None else classes
    spelling = name
    if (image, classes) != (usual_image, usual_classes):
        spelling = f"{name}:{'x'.join(map(str, image))}:{classes}"
    return build(spelling, image, steps(classes))
