"""ONNX models: those that are understood become the same network, the others are refused by name."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exec.errors import UsageError
from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    ReLU,
    Sigmoid,
)
from exec.network.named import named_network
from exec.network.network import Network
from exec.network.parse import parse_net

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402 - only where there is onnx

Node = Any
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a model and returns its path; weights are given by shape."""

    def start(
        nodes: list[Node],
        weights: dict[str, tuple[int, ...]],
        image: tuple[int | str, ...] = ("batch", 2, 8, 8),
        classes: int | str = 3,
        constants: dict[str, list[int]] | None = None,
    ) -> str:
        tensors = [
            helper.make_tensor(name, TensorProto.FLOAT, shape, bytes(4 * _size(shape)), raw=True)
            for name, shape in weights.items()
        ]
        tensors += [
            helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
            for name, values in (constants or {}).items()
        ]
        graph = helper.make_graph(
            nodes, "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (image[0], classes))],
            tensors,
        )  # fmt: skip
        path = tmp_path / "net.onnx"
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        path.write_bytes(model.SerializeToString())
        return str(path)

    return start


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size


def _batchnorm(name: str, value: str, output: str) -> Node:
    return helper.make_node("BatchNormalization", [value, *(f"bn.{k}" for k in "abcd")], [output], name=name)  # fmt: skip


BN = {f"bn.{key}": (4,) for key in "abcd"}
HEAD = [
    helper.make_node("GlobalAveragePool", ["h"], ["p"]),
    helper.make_node("Flatten", ["p"], ["f"]),
    helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
]
HEAD_WEIGHTS = {"w": (3, 4), "b": (3,)}


def test_small_residual_model_becomes_the_same_graph(write: Write) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "c1"], ["c"], name="/stem/Conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        _batchnorm("/stem/Norm", "c", "n"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["m"], name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["m", "c2", "cb"], ["c2o"], name="7", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        _batchnorm("", "c2o", "n2"),
        helper.make_node("Add", ["n2", "m"], ["a"], name="input"),
        helper.make_node("Sigmoid", ["a"], ["s"], name="relu"),
        helper.make_node("AveragePool", ["s"], ["h"], kernel_shape=[2, 2]),
        *HEAD[:2],
        helper.make_node("Dropout", ["f"], ["d"]),
        helper.make_node("Gemm", ["d", "w", "b"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["y"]),
    ]  # fmt: skip
    weights = {"c1": (4, 2, 3, 3), "c2": (4, 4, 3, 3), "cb": (4,), **BN, **HEAD_WEIGHTS}
    path = write(nodes, weights)
    network = parse_net(path)
    assert (network.name, network.image, network.num_classes) == (path, (2, 8, 8), 3)
    assert [(node.name, node.module, node.inputs) for node in network.nodes] == [
        ("stem_Conv", Conv2d(4, (3, 3), (2, 2), (1, 1), has_bias=False), (-1,)),
        ("stem_Norm", BatchNorm2d(), (0,)),
        ("relu", ReLU(), (1,)),
        ("pool", MaxPool((3, 3), (2, 2), (1, 1)), (2,)),
        ("conv", Conv2d(4, (3, 3), (1, 1), (1, 1)), (3,)),
        ("batchnormalization", BatchNorm2d(), (4,)),
        ("input_2", Add(), (5, 3)),
        ("relu_2", Sigmoid(), (6,)),
        ("averagepool", AvgPool((2, 2), (1, 1)), (7,)),
        ("globalaveragepool", AvgPool(), (8,)),
        ("gemm", Linear(3), (9,)),
    ]


@pytest.mark.parametrize("batch", ["batch", 1, 8, None])
@pytest.mark.parametrize("shape", [[0, -1], [-1, 128], None, "computed"])
def test_reshape_to_a_row_a_sample_is_a_flatten(write: Write, batch: Any, shape: Any) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["f"])]
    if shape is None:
        nodes = [helper.make_node("Flatten", ["x"], ["f"], axis=-3)]
    elif shape == "computed":
        nodes = [
            helper.make_node("Shape", ["x"], ["all"]),
            helper.make_node("Gather", ["all", "zero"], ["n"]),
            helper.make_node("Concat", ["n", "rest"], ["shape"], axis=0),
            *nodes,
        ]
    nodes += [
        helper.make_node("Identity", ["w"], ["w2"]),
        helper.make_node("MatMul", ["f", "w2"], ["g"], name="fc"),
        helper.make_node("Add", ["b", "g"], ["y"]),
    ]
    constants = {"zero": [0], "rest": [-1]} | ({"shape": shape} if isinstance(shape, list) else {})
    network = parse_net(write(nodes, {"w": (128, 3), "b": (3,)}, (batch, 2, 8, 8), constants=constants))  # fmt: skip
    assert [node.module for node in network.nodes] == [Flatten(), Linear(3)]
    assert network.nodes[1].name == "fc"


def test_rows_of_features_are_flat_images(write: Write) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v"], ["y"]),
    ]
    network = parse_net(write(nodes, {"w": (5, 4), "v": (4, 3)}, ("n", 5)))
    assert network.image == (5, 1, 1)
    assert network.num_parameters == 5 * 4 + 4 * 3


def test_settings_of_batchnorm_and_means_are_read(write: Write) -> None:
    nodes = [
        helper.make_node("BatchNormalization", ["x", *"abcd"], ["n"], epsilon=1e-3, momentum=0.99),
        helper.make_node("AveragePool", ["n"], ["p"], kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
        helper.make_node("ReduceMean", ["p", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "w"], ["y"]),
    ]  # fmt: skip
    network = parse_net(write(nodes, {"w": (2, 3)} | dict.fromkeys("abcd", (2,)), constants={"axes": [2, 3]}))  # fmt: skip
    assert [node.module for node in network.nodes] == [
        BatchNorm2d(eps=1e-3, momentum=0.01),
        AvgPool((2, 2), (2, 2), (1, 1)),
        AvgPool(),
        Linear(3, has_bias=False),
    ]


def test_resnet18_is_the_one_that_has_a_name(write: Write) -> None:
    expected = named_network("resnet18", (3, 64, 64), 10)
    nodes, weights = _as_onnx(expected)
    assert parse_net(write(nodes, weights, ("n", 3, 64, 64), 10)) == expected


def _as_onnx(network: Network) -> tuple[list[Node], dict[str, tuple[int, ...]]]:
    """Return the nodes and the weights of a model of ``network``, a ResNet."""
    nodes: list[Node] = []
    weights: dict[str, tuple[int, ...]] = {}
    for index, node in enumerate(network.nodes):
        inputs = ["x" if value < 0 else f"v{value}" for value in node.inputs]
        output = "y" if index == len(network.nodes) - 1 else f"v{index}"
        channels = network.shape(node.inputs[0])[0]
        match node.module:
            case Conv2d(filters, kernel, stride, padding):
                weights[node.name] = (filters, channels, *kernel)
                nodes.append(helper.make_node("Conv", [*inputs, node.name], [output], name=node.name, strides=stride, pads=padding * 2))  # fmt: skip
            case BatchNorm2d():
                names = [f"{node.name}.{key}" for key in "abcd"]
                weights |= dict.fromkeys(names, (channels,))
                nodes.append(helper.make_node("BatchNormalization", [*inputs, *names], [output], name=node.name))  # fmt: skip
            case MaxPool(kernel, stride, padding):
                nodes.append(helper.make_node("MaxPool", inputs, [output], name=node.name, kernel_shape=kernel, strides=stride, pads=padding * 2))  # fmt: skip
            case Linear(units):
                weights |= {"fc.w": (units, channels), "fc.b": (units,)}
                nodes.append(helper.make_node("Flatten", inputs, ["flat"]))
                nodes.append(helper.make_node("Gemm", ["flat", "fc.w", "fc.b"], [output], name=node.name, transB=1))  # fmt: skip
            case module:
                kind = {ReLU: "Relu", Add: "Add", AvgPool: "GlobalAveragePool"}[type(module)]
                nodes.append(helper.make_node(kind, inputs, [output], name=node.name))
    return nodes, weights


def _with(node: Node, **weights: tuple[int, ...]) -> tuple[list[Node], dict[str, tuple[int, ...]]]:
    return [node, *HEAD], HEAD_WEIGHTS | weights


@pytest.mark.parametrize(
    ("nodes_and_weights", "message"),
    [
        (_with(helper.make_node("Conv", ["x", "c"], ["h"], name="deep", group=2), c=(4, 1, 3, 3)), "node deep (Conv): group must be 1, got 2"),
        (_with(helper.make_node("Conv", ["x", "c"], ["h"], dilations=[2, 2]), c=(4, 2, 3, 3)), "node number 1 (Conv): dilations must be [1, 1], got [2, 2]"),
        (_with(helper.make_node("Conv", ["x", "c"], ["h"], auto_pad="SAME_UPPER"), c=(4, 2, 3, 3)), "auto_pad must be NOTSET, got SAME_UPPER"),
        (_with(helper.make_node("Conv", ["x", "c"], ["h"], pads=[0, 0, 1, 1]), c=(4, 2, 3, 3)), "must have pads alike on both sides, got [0, 0, 1, 1]"),
        (_with(helper.make_node("ConvTranspose", ["x", "c"], ["h"]), c=(2, 4, 3, 3)), "node number 1 (ConvTranspose): must be one of Conv, Gemm,"),
        (_with(helper.make_node("Concat", ["x", "x"], ["h"], axis=1, name="join")), "node join (Concat): must be one of Conv, Gemm,"),
        (([helper.make_node("MaxPool", ["x"], ["h"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), *HEAD], {"w": (3, 2), "b": (3,)}), "(MaxPool): ceil_mode must be 0, got 1"),
        (([helper.make_node("AveragePool", ["x"], ["h"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), *HEAD], {"w": (3, 2), "b": (3,)}), "(AveragePool): count_include_pad must be 1, got 0"),
        (([helper.make_node("Relu", ["x"], ["h"]), *HEAD[:2], helper.make_node("Gemm", ["f", "w"], ["y"], alpha=0.5)], {"w": (2, 3)}), "(Gemm): alpha must be 1.0, got 0.5"),
        (([helper.make_node("Add", ["x", "c"], ["h"]), *HEAD], {"w": (3, 2), "b": (3,), "c": (2, 8, 8)}), "(Add): must add the outputs of two layers, or a bias to a MatMul"),
        (([helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["g"]), helper.make_node("Add", ["g", "b"], ["a"], name="twice"), helper.make_node("Add", ["a", "g"], ["y"])], {"w": (2, 3), "b": (3,)}), "node twice (Add): must add the outputs of two layers, or a bias to a MatMul"),
        (([helper.make_node("Add", ["x", "x"], ["h"]), *HEAD], {"w": (3, 2), "b": (3,)}), "layer add must have two different inputs, got one twice"),
        (([helper.make_node("ReduceMean", ["x"], ["h"]), helper.make_node("Identity", ["h"], ["y"])], {}), "is not valid ONNX: "),
        (([helper.make_node("Identity", ["c"], ["y"])], {"c": (1, 3)}), "c must be computed from the images, got a constant"),
        (([helper.make_node("Relu", ["x"], ["h"]), *HEAD], {"w": (3, 9), "b": (3,)}), "is not valid ONNX: "),
        (([helper.make_node("Relu", ["nowhere"], ["h"]), *HEAD], {"w": (3, 2), "b": (3,)}), "is not valid ONNX: "),
    ],
)  # fmt: skip
def test_model_that_is_not_understood_is_refused_by_node(write: Write, nodes_and_weights: Any, message: str) -> None:  # fmt: skip
    path = write(*nodes_and_weights)
    with pytest.raises(UsageError) as caught:
        parse_net(path)
    assert str(caught.value).startswith(f"net {path}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_product_over_the_last_axis_alone_is_refused(write: Write) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="each"),
        helper.make_node("Flatten", ["h"], ["y"]),
    ]
    with pytest.raises(
        UsageError, match=r"node each \(MatMul\): must give 3 units, got 1x4x1x3 in ONNX"
    ):
        parse_net(write(nodes, {"w": (1, 3)}, ("n", 4, 1, 1), 12))


def test_weights_in_another_file_are_not_needed(write: Write, tmp_path: Path) -> None:
    nodes, weights = _with(helper.make_node("Conv", ["x", "c"], ["h"]), c=(4, 2, 3, 3))
    path = write(nodes, weights)
    inside = parse_net(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "w").unlink()
    assert parse_net(path) == inside


@pytest.mark.parametrize("image", [("n", "c", 8, 8), (1, 2, 8), ("n", 2, 0, 8)])
def test_image_that_is_not_known_is_refused(write: Write, image: Any) -> None:
    nodes, weights = _with(helper.make_node("Relu", ["x"], ["h"]))
    with pytest.raises(UsageError, match="input x must be batch x channels x height x width, all"):
        parse_net(write(nodes, weights, image))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(UsageError, match=r"cannot be read: No such file or directory"):
        parse_net(str(path))
    for data, message in ((b"", "must be an ONNX model with nodes, got none"), (b"\xff" * 99, "must be an ONNX model, got")):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(UsageError, match=message):
            parse_net(str(path))


def test_without_onnx_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as Python does for what cannot be imported
    with pytest.raises(UsageError, match=r"net a.onnx must be read with onnx: pip install 'stepcast\[onnx\]'"):  # fmt: skip
        parse_net("a.onnx")
