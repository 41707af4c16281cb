"""A network: a static graph of modules, in an order in which each comes after its inputs."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from exec.errors import UsageError
from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Module,
    Profiled,
    Sigmoid,
)

INPUT = -1
"""The index that stands for the images."""

Image = tuple[int, int, int]
"""Channels, height and width; a flat value of u units is (u, 1, 1)."""

MAX_PARAMETERS = 10**11
MAX_OUTPUT = 10**9
"""How many numbers a layer may give for each sample."""


@dataclass(frozen=True, slots=True)
class Node:
    """``module`` applied to the outputs of the nodes ``inputs``; ``shape`` is that of its output."""

    name: str
    module: Module
    inputs: tuple[int, ...]
    shape: Image


@dataclass(frozen=True)
class Network:
    """``nodes`` in order, the first fed with ``image``; the last gives a logit for each class.

    ``name`` is how the command line spells it. Two networks are equal if they compute the same.
    """

    name: str = field(compare=False)
    image: Image
    nodes: tuple[Node, ...]

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type["Network"], tuple[str, Image, tuple[Node, ...]]]:
        # What is cached stays behind: another process hashes names otherwise.
        return Network, (self.name, self.image, self.nodes)

    @cached_property
    def _hash(self) -> int:
        return hash((self.image, self.nodes))

    @property
    def num_classes(self) -> int:
        """How many classes it tells apart."""
        return self.nodes[-1].shape[0]

    @cached_property
    def num_features(self) -> int:
        """How many numbers an image has."""
        return math.prod(self.image)

    @cached_property
    def num_parameters(self) -> int:
        """All weights and biases, scales and shifts."""
        return sum(self.parameters(node) for node in range(len(self.nodes)))

    def shape(self, value: int) -> Image:
        """Return the shape of the output of node ``value``, or of the images."""
        return self.image if value == INPUT else self.nodes[value].shape

    def width(self, value: int) -> int:
        """Return how many numbers a sample has in the output of node ``value``."""
        return math.prod(self.shape(value))

    def pixels(self, value: int) -> int:
        """Return at how many positions each channel of ``value`` is."""
        _, height, width = self.shape(value)
        return height * width

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """The nodes that take each node's output; last of all, those that take the images."""
        found: list[list[int]] = [[] for _ in range(len(self.nodes) + 1)]
        for index, node in enumerate(self.nodes):
            for value in node.inputs:
                found[value].append(index)
        return tuple(map(tuple, found))

    @cached_property
    def takes_rows(self) -> bool:
        """Whether only dense layers take the images, which can then stay as they come."""
        values = [INPUT]
        for value in values:
            for node in self.consumers[value]:
                module = self.nodes[node].module
                if isinstance(module, Flatten):
                    values.append(node)
                elif not isinstance(module, Linear):
                    return False
        return True

    def is_image(self, value: int) -> bool:
        """Say whether ``value`` is made of images, if perhaps flattened, and not by dense layers."""
        while value != INPUT:
            if isinstance(self.nodes[value].module, Linear):
                return False
            value = self.nodes[value].inputs[0]
        return not self.takes_rows

    @cached_property
    def admits_channels_last(self) -> bool:
        """Whether images may have their channels innermost.

        Not if an image is added to what dense layers give, whose samples are; nor if anything but a
        dense layer, the loss for one, reads a flattened image, whose units are in another order then.
        """
        return not self.is_image(len(self.nodes) - 1) and not any(
            len({*map(self.is_image, node.inputs)}) > 1
            or (self.is_flattened(node) and not isinstance(node.module, Linear | Flatten))
            for node in self.nodes
        )

    def is_flattened(self, node: Node) -> bool:
        """Say whether ``node`` reads an image of several pixels that has been flattened.

        Where :attr:`admits_channels_last`, only dense layers do.
        """
        return any(
            value != INPUT
            and isinstance(self.nodes[value].module, Flatten)
            and (
                self.pixels(self.nodes[value].inputs[0]) > 1 or self.is_flattened(self.nodes[value])
            )
            for value in node.inputs
        )

    def parameters(self, node: int) -> int:
        """Return how many parameters ``node`` has."""
        module, (channels, *_) = self.nodes[node].module, self.shape(self.nodes[node].inputs[0])
        match module:
            case Linear(units, has_bias):
                return units * (channels + has_bias)
            case Conv2d(filters, (height, width), has_bias=has_bias):
                return filters * (channels * height * width + has_bias)
            case BatchNorm2d():
                return 2 * channels
            case Profiled(num_parameters=count):
                return count
            case _:
                return 0

    @cached_property
    def seed_index(self) -> tuple[int, ...]:
        """How many nodes with weights come before each node: what its weights are drawn from."""
        found, count = [], 0
        for node in self.nodes:
            found.append(count)
            count += isinstance(node.module, Linear | Conv2d)
        return tuple(found)

    @cached_property
    def stage_starts(self) -> tuple[int, ...]:
        """The nodes at which a pipeline stage may begin.

        A node with weights such that all that it and later nodes take from before it is one value;
        for the first stage, which has all that comes before, the first node with weights.
        """
        starts: list[int] = []
        for first, node in enumerate(self.nodes):
            if isinstance(node.module, Linear | Conv2d | Profiled):
                values = {
                    value for each in self.nodes[first:] for value in each.inputs if value < first
                }
                if len(values) == 1 or not starts:
                    starts.append(first)
        return tuple(starts)


def pooling_window(network: Network, node: int) -> tuple[int, int]:
    """Return the window of a pooling ``node``: its kernel, or the whole image."""
    module = network.nodes[node].module
    assert isinstance(module, MaxPool | AvgPool)
    return module.kernel or network.shape(network.nodes[node].inputs[0])[1:]


def output_shape(module: Module, shapes: Sequence[Image], where: str) -> Image:
    """Return the shape of the output of ``module`` for inputs of ``shapes``.

    Raises:
        UsageError: the module does not take such inputs; the message begins with ``where``.
    """
    expected = 2 if isinstance(module, Add) else 1
    if len(shapes) != expected:
        raise UsageError(
            f"{where} must have {expected} input{'s' * (expected > 1)}, got {len(shapes)}"
        )
    first = shapes[0]
    channels, height, width = first
    match module:
        case Linear(units):
            if (height, width) != (1, 1):
                raise UsageError(
                    f"{where} must have a flat input, got {spell_shape(first)}; put a flatten before it"
                )
            _at_least(where, "units", units, 1)
            return units, 1, 1
        case Conv2d(filters, kernel, stride, padding):
            _at_least(where, "filters", filters, 1)
            return filters, *_positions(where, first, kernel, stride, padding)
        case MaxPool(kernel, stride, padding):
            if padding[0] * 2 > kernel[0] or padding[1] * 2 > kernel[1]:
                raise UsageError(f"{where} must have a padding of at most half its kernel, got {padding[0]}x{padding[1]}")  # fmt: skip
            return channels, *_positions(where, first, kernel, stride, padding)
        case AvgPool(None, stride, padding):
            if (stride, padding) != ((1, 1), (0, 0)):
                raise UsageError(f"{where} must have a kernel for its stride and padding, got none")
            return channels, 1, 1
        case BatchNorm2d(eps, momentum):
            if not (0 < eps <= 1 and 0 <= momentum <= 1):
                raise UsageError(f"{where} must have eps and momentum of 0 to 1, and eps not 0, got {eps} and {momentum}")  # fmt: skip
            return first
        case AvgPool(kernel, stride, padding) if kernel is not None:
            return channels, *_positions(where, first, kernel, stride, padding)
        case Flatten():
            return channels * height * width, 1, 1
        case Profiled(units):
            return units, 1, 1
        case Add():
            if shapes[0] != shapes[1]:
                raise UsageError(
                    f"{where} must have two inputs of one shape, got {' and '.join(map(spell_shape, shapes))}"
                )
            return first
        case _:
            return first


def _positions(where: str, shape: Image, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> tuple[int, int]:  # fmt: skip
    """Return the height and width of what a window makes of ``shape``."""
    found = []
    for size, window, step, border in zip(shape[1:], kernel, stride, padding, strict=True):
        _at_least(where, "kernel", window, 1)
        _at_least(where, "stride", step, 1)
        _at_least(where, "padding", border, 0)
        if size + 2 * border < window:
            raise UsageError(
                f"{where} must have a kernel that fits its input with padding, got kernel "
                f"{kernel[0]}x{kernel[1]} and padding {padding[0]}x{padding[1]} for {'x'.join(map(str, shape))}"
            )
        found.append((size + 2 * border - window) // step + 1)
    return found[0], found[1]


def _at_least(where: str, what: str, value: int, least: int) -> None:
    if not least <= value <= 10**7:
        raise UsageError(f"{where} must have {what} of {least} to 10 million, got {value}")


def spell_shape(shape: Image) -> str:
    """Return ``shape`` as messages spell it: ``3x32x32``, or ``120 units`` if flat."""
    channels, height, width = shape
    return f"{channels} units" if height == width == 1 else f"{channels}x{height}x{width}"


def build(name: str, image: Image, steps: Iterable[tuple[str, Module, Sequence[str]]]) -> Network:
    """Return the network of ``(name, module, names of its inputs)``, shapes inferred and checked.

    ``input`` names the images, and no inputs the node before. Nodes may come in any order in which
    each is after its inputs.

    Raises:
        UsageError: a name is unfit, unknown or taken, shapes do not fit, an output is used by
            nobody, or the last node gives no logits.
    """
    if min(image) < 1 or math.prod(image) > 10**8:
        raise UsageError(f"net {name} must have images of 1x1x1 to 100 million numbers, got {'x'.join(map(str, image))}")  # fmt: skip
    known = {"input": INPUT}
    nodes: list[Node] = []
    for label, module, inputs in steps:
        where = f"net {name}: layer {label}"
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", label, re.ASCII):
            raise UsageError(f"net {name}: layer {label!r} must have a name of letters, digits and _ . -, the first a letter or _")  # fmt: skip
        if label in known:
            taken = "that of the images" if label == "input" else "one that is taken"
            raise UsageError(f"{where} must have a name of its own, got {taken}")
        if unknown := [each for each in inputs if each not in known]:
            raise UsageError(f"{where} must take outputs of layers before it, got {unknown[0]!r}")
        values = tuple(known[each] for each in inputs) or (len(nodes) - 1,)
        shapes = [image if value == INPUT else nodes[value].shape for value in values]
        shape = output_shape(module, shapes, where)
        if len(set(values)) < len(values):
            raise UsageError(f"{where} must have two different inputs, got one twice")
        if math.prod(shape) > MAX_OUTPUT:
            raise UsageError(f"{where} must give at most a billion numbers a sample, got {spell_shape(shape)}")  # fmt: skip
        nodes.append(Node(label, module, values, shape))
        known[label] = len(nodes) - 1
    network = Network(name, image, tuple(nodes))
    _check(network)
    return network


def _check(network: Network) -> None:
    if not network.nodes:
        raise UsageError(f"net {network.name} must have a layer, got none")
    for index, node in enumerate(network.nodes[:-1]):
        if not network.consumers[index]:
            raise UsageError(
                f"net {network.name}: layer {node.name} must be used by another, got nobody; "
                f"the output is the last layer, {network.nodes[-1].name}"
            )
    last, index = network.nodes[-1], len(network.nodes) - 1
    while index != INPUT and isinstance(network.nodes[index].module, Flatten):
        index = network.nodes[index].inputs[0]
    # The loss writes over the logits, so their maker must not need them again.
    makes_logits = index != INPUT and isinstance(
        network.nodes[index].module, Linear | Conv2d | AvgPool | Add
    )
    if not makes_logits or last.shape[1:] != (1, 1):
        raise UsageError(
            f"net {network.name}: layer {last.name}, the last, must give one number for each class, "
            f"got {spell_shape(last.shape)} of {type(last.module).__name__}; end in a linear layer"
        )
    if last.shape[0] < 2:
        raise UsageError(f"net {network.name} must end in at least 2 classes, got {last.shape[0]}")
    if not any(isinstance(node.module, Linear | Conv2d) for node in network.nodes):
        raise UsageError(f"net {network.name} must have a layer with weights, got none")
    if network.num_parameters > MAX_PARAMETERS:
        raise UsageError(
            f"net {network.name} must have at most {MAX_PARAMETERS} parameters, got {network.num_parameters}"
        )


def mlp(*widths: int) -> Network:
    """Return the network of dense layers of ``widths``; all but the last end in a sigmoid.

    >>> mlp(128, 100, 26).num_parameters
    15526
    """
    name = "-".join(map(str, widths))
    if len(widths) < 2:
        raise UsageError(f"net must have an input and an output width, got {name}")
    if min(widths) < 1 or max(widths) > 10**7:
        raise UsageError(f"net must have widths of 1 to 10 million, got {name}")
    if widths[-1] < 2:
        raise UsageError(f"net must end in at least 2 classes, got {name}")
    steps: list[tuple[str, Module, Sequence[str]]] = []
    for layer, units in enumerate(widths[1:]):
        steps.append((f"linear{layer}", Linear(units), ()))
        if layer < len(widths) - 2:
            steps.append((f"sigmoid{layer}", Sigmoid(), ()))
    return build(name, (widths[0], 1, 1), steps)
