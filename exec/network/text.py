"""The text form of a network: the file that :mod:`exec.network.file` reads, and its digest."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields

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
    Profiled,
    ReLU,
    Sigmoid,
)
from exec.network.network import INPUT, Network


def format_network(network: Network) -> str:
    """Return ``network`` as a TOML file, which reads back as an equal network of the file's name."""
    name = network.name.encode(errors="replace").decode()
    title = json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"# {title}\n{_format_graph(network)}"


def network_digest(network: Network) -> str:
    """Return 16 hexadecimal digits that differ between networks that are not equal.

    What the network is called does not matter; what its layers are called does.
    """
    return hashlib.sha256(_format_graph(network).encode()).hexdigest()[:16]


def kind_of(module: Module) -> str:
    """Return what a network file calls ``module``."""
    match module:
        case Linear():
            return "linear"
        case Conv2d():
            return "conv2d"
        case BatchNorm2d():
            return "batchnorm2d"
        case ReLU():
            return "relu"
        case Sigmoid():
            return "sigmoid"
        case MaxPool():
            return "maxpool"
        case AvgPool():
            return "avgpool"
        case Flatten():
            return "flatten"
        case Add():
            return "add"
        case Profiled():
            return "profiled"


def _format_graph(network: Network) -> str:
    lines = [f"image = [{', '.join(map(str, network.image))}]"]
    for index, node in enumerate(network.nodes):
        lines += ["", "[[layer]]", f'name = "{node.name}"', f'kind = "{kind_of(node.module)}"']
        lines += _format_keys(node.module)
        inputs = [
            '"input"' if value == INPUT else f'"{network.nodes[value].name}"'
            for value in node.inputs
        ]
        if isinstance(node.module, Add):
            lines.append(f"inputs = [{', '.join(inputs)}]")
        elif node.inputs != (index - 1,):
            lines.append(f"input = {inputs[0]}")
    return "\n".join(lines) + "\n"


def _format_keys(module: Module) -> Iterator[str]:
    """Yield a line for each key of ``module`` that is not what the reader would take anyway."""
    match module:
        case Linear(units, has_bias):
            yield f"units = {units}"
            yield from _format_bias(has_bias=has_bias)
        case Conv2d(filters, kernel, stride, padding, has_bias):
            yield f"filters = {filters}"
            yield from _format_window(kernel, stride, padding, usual_stride=(1, 1))
            yield from _format_bias(has_bias=has_bias)
        case MaxPool(kernel, stride, padding) | AvgPool(kernel, stride, padding):
            if kernel is not None:
                yield from _format_window(kernel, stride, padding, usual_stride=kernel)
        case BatchNorm2d():
            usual = BatchNorm2d()
            for each in fields(module):
                value = getattr(module, each.name)
                if value != getattr(usual, each.name):
                    yield f"{each.name} = {float(value)!r}"
        case Profiled(units, num_parameters, forward_ps, backward_ps):
            yield f"units = {units}"
            yield f"parameters = {num_parameters}"
            yield f"forward_ps = {list(forward_ps)}"
            yield f"backward_ps = {list(backward_ps)}"
        case ReLU() | Sigmoid() | Flatten() | Add():
            pass


def _format_window(kernel: Pair, stride: Pair, padding: Pair, usual_stride: Pair) -> Iterator[str]:
    yield f"kernel = {_format_pair(kernel)}"
    if stride != usual_stride:
        yield f"stride = {_format_pair(stride)}"
    if padding != (0, 0):
        yield f"padding = {_format_pair(padding)}"


def _format_pair(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"[{pair[0]}, {pair[1]}]"


def _format_bias(*, has_bias: bool) -> Iterator[str]:
    if not has_bias:
        yield "bias = false"
