"""ONNX models as networks: what each node does to shapes, so that their training can be forecast.

Weights are not read, only their shapes. A model must be a classifier of images made of the modules
that Stepcast has; whatever else it holds is refused by name. The format is that of https://onnx.ai.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from exec.errors import UsageError
from exec.network.file import read_bytes
from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Module,
    Pair,
    ReLU,
    Sigmoid,
)
from exec.network.network import Image, Network, build, spell_shape

_UNDERSTOOD = (
    "Conv", "Gemm", "MatMul", "BatchNormalization", "Relu", "Sigmoid", "MaxPool", "AveragePool",
    "GlobalAveragePool", "ReduceMean", "Flatten", "Reshape", "Add", "Identity", "Dropout",
)  # fmt: skip


def read_onnx(path: str) -> Network:
    """Return the network in the ONNX model ``path``, which becomes its name.

    Raises:
        UsageError: no such file, no valid model, no onnx to read it with, or a node that has no
            counterpart here; the message names the node.
    """
    try:
        import onnx  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise UsageError(
            f"net {path} must be read with onnx: pip install 'stepcast[onnx]'"
        ) from error
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - comes with onnx

    try:
        model = onnx.load_model_from_string(read_bytes(path))
    except DecodeError as error:
        raise UsageError(f"net {path} must be an ONNX model, got {error}") from error
    if not model.graph.node:
        raise UsageError(f"net {path} must be an ONNX model with nodes, got none")
    weights = {each.name for each in model.graph.initializer}
    images = [each for each in model.graph.input if each.name not in weights]
    if len(images) != 1 or len(model.graph.output) != 1:
        raise UsageError(f"net {path} must have one input and one output, got {len(images)} and {len(model.graph.output)}")  # fmt: skip
    image = _image(path, images[0])
    # Weights in files of their own may be absent: as inputs they have a shape and no data.
    for each in [each for each in model.graph.initializer if each.data_location]:
        value = onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims)
        model.graph.input.append(value)
        model.graph.initializer.remove(each)
    try:
        onnx.checker.check_model(model, full_check=True)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)  # fmt: skip
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise UsageError(f"net {path} is not valid ONNX: {' '.join(str(error).split())}") from error
    return _Reader(path, model.graph, images[0].name).network(image)


def _image(path: str, value: Any) -> Image:
    """Return the image that ``value``, the model's input, is a batch of; the batch becomes 1."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) not in (2, 4) or any(each.dim_value < 1 for each in dims[1:]):
        found = "x".join(str(each.dim_value or each.dim_param or "?") for each in dims)
        raise UsageError(
            f"net {path}: input {value.name} must be batch x channels x height x width, all but "
            f"the batch given as numbers, or batch x features, got {found or 'no shape'}"
        )
    # For a batch without a number, what a reshape gives is not inferred.
    dims[0].dim_value = max(1, dims[0].dim_value)
    channels, height, width = [each.dim_value for each in dims[1:]] + [1] * (4 - len(dims))
    return channels, height, width


@dataclass(frozen=True, slots=True)
class _Step:
    label: str
    module: Module
    inputs: tuple[str, ...]
    output: str


@dataclass(slots=True)
class _Reader:
    """The nodes between ``images`` and the output of ``graph``, one by one."""

    path: str
    graph: Any
    images: str
    labels: dict[str, str] = field(init=False)  # of the layer that makes each value
    steps: list[_Step] = field(init=False, default_factory=list)
    dims: dict[str, list[int]] = field(init=False)
    makers: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.labels = {self.images: "input"}
        self.makers = {name: node for node in self.graph.node for name in node.output if name}
        self.dims = {each.name: list(each.dims) for each in self.graph.initializer}
        for value in (*self.graph.value_info, *self.graph.input, *self.graph.output):
            shape = value.type.tensor_type.shape
            self.dims.setdefault(value.name, [each.dim_value for each in shape.dim])

    def network(self, image: Image) -> Network:
        """Return the network that the graph computes."""
        output = self.graph.output[0].name
        last = self.makers.get(output)
        while last is not None and last.op_type in ("Softmax", "LogSoftmax", "Identity"):
            output = last.input[0]  # the loss has the softmax
            last = self.makers.get(output)
        needed = self._needed(output)
        for node in self.graph.node:
            if any(name in needed for name in node.output):
                self._read(node, needed)
        network = build(
            self.path, image, [(each.label, each.module, each.inputs) for each in self.steps]
        )
        for step, made in zip(self.steps, network.nodes, strict=True):
            dims = self.dims.get(step.output, [])
            if math.prod(dims[1:]) != math.prod(made.shape):
                raise self._refuse(
                    self.makers[step.output],
                    f"must give {spell_shape(made.shape)}, got {'x'.join(map(str, dims))} in ONNX",
                )
        return network

    def _needed(self, output: str) -> dict[str, int]:
        """Return the values that ``output`` is computed from, and by how many nodes each is used.

        Weights, and the arithmetic on shapes that leads to a reshape, are none of them.
        """
        uses = {output: 0}
        open = [output]
        while open:
            value = open.pop()
            if value == self.images:
                continue
            node = self.makers.get(value)
            if node is None:
                raise UsageError(f"net {self.path}: {value or 'a value'} must be computed from the images, got a constant")  # fmt: skip
            for name in self._data_inputs(node):
                if name not in uses:
                    open.append(name)
                uses[name] = uses.get(name, 0) + 1
        return uses

    def _data_inputs(self, node: Any) -> list[str]:
        if node.op_type not in _UNDERSTOOD or node.domain not in ("", "ai.onnx"):
            raise self._refuse(node, f"must be one of {', '.join(_UNDERSTOOD)}")
        if node.op_type == "Add":
            return [name for name in node.input if not self._is_weight(name)]
        return [node.input[0]]

    def _is_weight(self, name: str) -> bool:
        """Say whether ``name`` is a constant, given as such or under another name."""
        while (node := self.makers.get(name)) is not None and node.op_type == "Identity":
            name = node.input[0]
        return name != self.images and (node is None or node.op_type == "Constant")

    def _read(self, node: Any, needed: dict[str, int]) -> None:
        values = self._data_inputs(node)
        if node.op_type == "Add" and len(values) == 1:
            self._read_bias(node, values[0], needed)
            return
        module = self._module(node)
        inputs = tuple(self.labels[name] for name in values)
        if module is None:
            self.labels[node.output[0]] = inputs[0]
            return
        label = self._label(node)
        self.steps.append(_Step(label, module, inputs, node.output[0]))
        self.labels[node.output[0]] = label

    def _read_bias(self, node: Any, value: str, needed: dict[str, int]) -> None:
        """Give its bias to the linear layer that makes ``value``."""
        found = [index for index, step in enumerate(self.steps) if step.output == value]
        step = self.steps[found[0]] if found else None
        if step is None or step.module != Linear(self.dims[value][-1], has_bias=False) or needed[value] > 1:  # fmt: skip
            raise self._refuse(node, "must add the outputs of two layers, or a bias to a MatMul")
        module = replace(step.module, has_bias=True)
        self.steps[found[0]] = replace(step, module=module, output=node.output[0])
        self.labels[node.output[0]] = step.label

    def _label(self, node: Any) -> str:
        """Return a name for ``node`` of the letters that names may have, and not yet taken."""
        label = re.sub(r"[^\w.-]+", "_", node.name, flags=re.ASCII).lstrip("_.-0123456789")
        label = label or node.op_type.lower()
        taken, number, base = {"input", *(step.label for step in self.steps)}, 1, label
        while label in taken:
            number += 1
            label = f"{base}_{number}"
        return label

    def _module(self, node: Any) -> Module | None:
        """Return what ``node`` does to its input, None where it passes it on."""
        attributes = dict(_attributes(node))
        match node.op_type:
            case "Conv":
                self._must_be(node, attributes, "group", 1)
                dims = self._weight(node, 1, 4)
                kernel, stride, padding = self._window(node, attributes, dims[2:])
                return Conv2d(dims[0], kernel, stride, padding, self._has_bias(node))
            case "Gemm":
                for key, value in (("transA", 0), ("alpha", 1.0), ("beta", 1.0)):
                    self._must_be(node, attributes, key, value)
                units = self._weight(node, 1, 2)[0 if attributes.get("transB") else 1]
                return Linear(units, self._has_bias(node))
            case "MatMul":
                return Linear(self._weight(node, 1, 2)[1], has_bias=False)
            case "BatchNormalization":
                # ONNX keeps this share of the old mean, and its numbers are of single precision.
                momentum = round(1 - attributes.get("momentum", 0.9), 6)
                return BatchNorm2d(float(f"{attributes.get('epsilon', 1e-5):.6g}"), momentum)
            case "Relu":
                return ReLU()
            case "Sigmoid":
                return Sigmoid()
            case "MaxPool":
                self._must_be(node, attributes, "ceil_mode", 0)
                return MaxPool(*self._window(node, attributes, attributes["kernel_shape"]))
            case "AveragePool":
                self._must_be(node, attributes, "ceil_mode", 0)
                window = self._window(node, attributes, attributes["kernel_shape"])
                if any(window[2]):
                    self._must_be(node, {"count_include_pad": 0} | attributes, "count_include_pad", 1)  # fmt: skip
                return AvgPool(*window)
            case "GlobalAveragePool" | "ReduceMean":
                before, after = self.dims[node.input[0]], self.dims.get(node.output[0], [])
                if len(before) != 4 or after not in ([*before[:2], 1, 1], before[:2]):
                    raise self._refuse(node, "must be the mean over height and width")
                return AvgPool()
            case "Flatten" | "Reshape":
                before, after = self.dims[node.input[0]], self.dims.get(node.output[0], [])
                if after != [before[0], math.prod(before[1:])]:
                    found = "x".join(map(str, after)) or "a shape that is not known"
                    raise self._refuse(node, f"must give batch x {math.prod(before[1:])}, got {found}")  # fmt: skip
                return Flatten() if math.prod(before[2:]) > 1 else None
            case "Add":
                return Add()
            case _:
                return None

    def _window(self, node: Any, attributes: dict[str, Any], kernel: list[int]) -> tuple[Pair, Pair, Pair]:  # fmt: skip
        """Return the kernel, the stride and the padding of ``node``."""
        if len(kernel) != 2:
            raise self._refuse(node, f"must have a kernel of 2 numbers, got {len(kernel)}")
        if attributes.get("auto_pad") != "VALID":
            self._must_be(node, attributes, "auto_pad", "NOTSET")
        self._must_be(node, attributes, "dilations", [1, 1])
        top, left, bottom, right = attributes.get("pads", [0] * 4)
        if (top, left) != (bottom, right):
            raise self._refuse(
                node, f"must have pads alike on both sides, got {attributes['pads']}"
            )
        stride = attributes.get("strides", [1, 1])
        return (kernel[0], kernel[1]), (stride[0], stride[1]), (top, left)

    def _must_be(self, node: Any, attributes: dict[str, Any], key: str, value: Any) -> None:
        if (found := attributes.get(key, value)) != value:
            raise self._refuse(node, f"{key} must be {value}, got {found}")

    def _weight(self, node: Any, index: int, rank: int) -> list[int]:
        name = node.input[index]
        if not self._is_weight(name) or len(self.dims.get(name, [])) != rank:
            raise self._refuse(node, f"input {name} must be a weight of {rank} dimensions")
        return self.dims[name]

    def _has_bias(self, node: Any) -> bool:
        return len(node.input) > 2 and bool(node.input[2])

    def _refuse(self, node: Any, message: str) -> UsageError:
        name = node.name or f"number {list(self.graph.node).index(node) + 1}"
        return UsageError(f"net {self.path}: node {name} ({node.op_type}): {message}")


def _attributes(node: Any) -> Iterator[tuple[str, Any]]:
    import onnx  # noqa: PLC0415 - an optional extra

    for each in node.attribute:
        value = onnx.helper.get_attribute_value(each)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        yield each.name, list(value) if each.ints else value
