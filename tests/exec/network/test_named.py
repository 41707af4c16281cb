"""The networks that have names, against their papers, and how they are spelled."""

import pytest

from exec.errors import UsageError
from exec.network.modules import Add, AvgPool, BatchNorm2d, Conv2d, Linear
from exec.network.named import NAMES, named_network
from exec.network.parse import parse_net, with_image


def test_resnet18_has_the_parameters_and_shapes_of_the_paper() -> None:
    network = parse_net("resnet18")
    assert network.num_parameters == 11_689_512
    shapes = {node.name: node.shape for node in network.nodes}
    assert shapes["conv1"] == (64, 112, 112)
    assert shapes["maxpool"] == shapes["layer1.1.relu2"] == (64, 56, 56)
    assert shapes["layer2.0.relu1"] == shapes["layer2.1.relu2"] == (128, 28, 28)
    assert shapes["layer3.1.relu2"] == (256, 14, 14)
    assert shapes["layer4.1.relu2"] == (512, 7, 7)
    assert shapes["avgpool"] == (512, 1, 1)
    convolutions = [node.name for node in network.nodes if isinstance(node.module, Conv2d)]
    assert sum("downsample" not in name for name in convolutions) == 17
    assert not any(node.module.has_bias for node in network.nodes if isinstance(node.module, Conv2d))  # fmt: skip


def test_weights_of_resnet18_have_the_names_of_torchvision() -> None:
    weighted = Conv2d | BatchNorm2d | Linear
    names = [node.name for node in named_network("resnet18").nodes if isinstance(node.module, weighted)]  # fmt: skip
    block = ["conv1", "bn1", "conv2", "bn2"]
    projected = [*block, "downsample.0", "downsample.1"]
    expected = ["conv1", "bn1", *(f"layer1.{b}.{name}" for b in range(2) for name in block)]
    for stage in (2, 3, 4):
        expected += [f"layer{stage}.0.{name}" for name in projected]
        expected += [f"layer{stage}.1.{name}" for name in block]
    assert names == [*expected, "fc"]


@pytest.mark.parametrize("name", ["resnet18", "resnet18-small"])
def test_sums_of_a_resnet_begin_with_what_nothing_else_takes(name: str) -> None:
    network = named_network(name)
    sums = [(index, node) for index, node in enumerate(network.nodes) if isinstance(node.module, Add)]  # fmt: skip
    assert len(sums) == 8
    for index, node in sums:
        assert network.nodes[node.inputs[0]].name.endswith(".bn2")
        assert network.consumers[node.inputs[0]] == (index,)


def test_resnet18_for_small_images_keeps_their_size_until_the_second_stage() -> None:
    network = named_network("resnet18-small")
    assert network.num_parameters == 11_173_962  # the CIFAR form that others report as 11.17 M
    assert network.nodes[0].shape == (64, 32, 32)
    pool = next(index for index, node in enumerate(network.nodes) if isinstance(node.module, AvgPool))  # fmt: skip
    assert network.shape(pool - 1) == (512, 4, 4)


def test_small_networks_have_the_parameters_of_their_layers() -> None:
    cnn = 16 * 25 + 16 + 32 * 16 * 25 + 32 + 32 * 7 * 7 * 10 + 10
    assert parse_net("cnn").num_parameters == cnn
    svhn = 6 * 75 + 6 + 16 * 6 * 25 + 16 + 16 * 5 * 5 * 64 + 64 + 64 * 10 + 10
    assert parse_net("svhn-cnn").num_parameters == svhn


@pytest.mark.parametrize("name", NAMES)
def test_spelling_with_images_and_classes_is_canonical(name: str) -> None:
    usual = named_network(name)
    channels, height, width = usual.image
    spelled = f"{name}:{channels}x{height}x0{width}:{usual.num_classes}"
    assert parse_net(spelled) == usual
    assert parse_net(spelled).name == usual.name == name
    other = f"{name}:2x33x34:5"
    assert parse_net(other).name == other
    assert parse_net(other).image == (2, 33, 34)
    assert parse_net(other).num_classes == 5
    assert parse_net(other) != usual


@pytest.mark.parametrize("image", [(1, 16, 8), (1, 7, 5), (4, 4, 4)])
def test_cnn_takes_small_and_odd_images(image: tuple[int, int, int]) -> None:
    assert named_network("cnn", image, 26).num_classes == 26


@pytest.mark.parametrize(
    ("text", "image", "classes", "spelled"),
    [
        ("cnn", (1, 16, 8), 26, "cnn:1x16x8:26"),
        ("cnn:1x16x8:26", (1, 28, 28), 10, "cnn"),
        ("128-100-100-26", (1, 28, 28), 10, "784-100-100-10"),
        ("resnet18", (1, 28, 28), 10, "resnet18:1x28x28:10"),
        ("svhn-cnn", (1, 4, 4), 10, None),  # too small for it
        ("cnn", (1, 16, 8), 1, None),
        ("a/net.toml", (1, 28, 28), 10, None),
        ("net.onnx", (1, 28, 28), 10, None),
        ("nonsense", (1, 28, 28), 10, None),
    ],
)
def test_network_for_other_images_is_spelled(
    text: str, image: tuple[int, int, int], classes: int, spelled: str | None
) -> None:
    assert with_image(text, image, classes) == spelled
    if spelled is not None:
        assert parse_net(spelled).num_classes == classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cnnn", "net must be one of cnn, svhn-cnn, resnet18, resnet18-small, widths such as 128-100-26, a file such as net.toml, got 'cnnn'; did you mean 'cnn'?"),
        ("Resnet18", "got 'Resnet18'; did you mean 'resnet18'?"),
        ("net.tml", "a file such as net.toml, got 'net.tml'"),
        ("cnn:", "net cnn must be cnn, or cnn:CxHxW:CLASSES such as cnn:1x28x28:10, got 'cnn:'"),
        ("cnn:1x28x28", "got 'cnn:1x28x28'"),
        ("cnn:1x28x28:10:2", "got 'cnn:1x28x28:10:2'"),
        ("cnn:1x28x٢:10", "got 'cnn:1x28x٢:10'"),
        ("cnn:1x0x28:10", "net cnn:1x0x28:10 must have images of 1x1x1"),
        ("cnn:1x28x28:1", "net cnn:1x28x28:1 must end in at least 2 classes"),
        ("cnn:1x3x3:10", "net cnn:1x3x3:10: layer pool2 must have a kernel that fits its input"),
        ("cnn:1x99999x99999:10", "to 100 million numbers, got 1x99999x99999"),
        ("", "net must be widths joined by '-', such as 128-100-26, got ''"),
        ("128", "net must be widths joined by '-'"),
        ("²-3", "net must be widths joined by '-'"),
        (f"{'9' * 5000}-2", "net must be widths joined by '-'"),
        ("128-0-26", "net must have widths of 1 to 10 million, got 128-0-26"),
    ],
)  # fmt: skip
def test_net_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_net(text)
    assert message in str(caught.value)
