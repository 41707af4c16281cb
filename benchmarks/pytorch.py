"""PyTorch eager: the yardstick, any network as its users write it.

A chain of modules becomes ``torch.nn.Sequential``, another graph a module that drops each value
after its last use. What torchvision does in place is done in place here: a ReLU and a sum whose
first input nobody needs again.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exec.data.dataset import Dataset
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
from exec.network.network import INPUT, Network
from exec.nn.weights import Weights

Indices = NDArray[np.integer[Any]]
Step = Callable[[torch.Tensor], None]
"""Train on the samples with these indices."""


class Graph(torch.nn.Module):
    """The nodes of a network, each applied to the values it names."""

    def __init__(self, nodes: list[torch.nn.Module], inputs: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.nodes = torch.nn.ModuleList(nodes)
        last = {value: node for node, values in enumerate(inputs) for value in values}
        self._inputs = inputs
        self._over = [tuple(v for v in set(values) if last[v] == i) for i, values in enumerate(inputs)]  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        values, output = {INPUT: images}, images
        del images
        for i, node in enumerate(self.nodes):
            output = node(*(values[value] for value in self._inputs[i]))
            for value in self._over[i]:
                del values[value]
            values[i] = output
        return output


class Sum(torch.nn.Module):
    """The sum of two values, perhaps in place of the first; one may be flat."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return their sum."""
        if a.dim() != b.dim():
            a, b = a.flatten(1), b.flatten(1)
        return a.add_(b) if self.in_place else a + b


def torch_network(weights: Weights, *, is_channels_last: bool = False) -> torch.nn.Module:
    """Return the network of ``weights`` in PyTorch, with a copy of them, in training mode.

    It takes what :func:`torch_images` makes of rows.
    """
    network = weights.network
    dtype = torch.from_numpy(weights.parameters).dtype
    modules = [_module(network, node).to(dtype) for node in range(len(network.nodes))]
    with torch.no_grad():
        for node, each in weights.nodes():
            _copy(modules[node], each)
    wrapped = [_fitted(network, node, module) for node, module in enumerate(modules)]
    inputs = [node.inputs for node in network.nodes]
    is_chain = inputs == [(node - 1,) for node in range(len(inputs))]
    net = torch.nn.Sequential(*wrapped) if is_chain else Graph(wrapped, inputs)
    return net.to(memory_format=torch.channels_last) if is_channels_last else net


def _copy(module: torch.nn.Module, each: Any) -> None:
    weight = each.weight.transpose(0, 3, 1, 2) if each.weight.ndim == 4 else each.weight
    arrays = {"weight": weight, "bias": each.bias, "running_mean": each.mean, "running_var": each.variance}  # fmt: skip
    for name, array in arrays.items():
        if array is not None:
            getattr(module, name).copy_(torch.from_numpy(array))


def _module(network: Network, node: int) -> torch.nn.Module:
    each = network.nodes[node]
    channels = network.shape(each.inputs[0])[0]
    match each.module:
        case Linear(units, has_bias):
            return torch.nn.Linear(channels, units, has_bias)
        case Conv2d(filters, kernel, stride, padding, has_bias):
            return torch.nn.Conv2d(channels, filters, kernel, stride, padding, bias=has_bias)
        case BatchNorm2d(eps, momentum):
            return torch.nn.BatchNorm2d(channels, eps, momentum)
        case ReLU():
            return torch.nn.ReLU(inplace=_may_overwrite(network, each.inputs[0]))
        case Sigmoid():
            return torch.nn.Sigmoid()
        case MaxPool(kernel, stride, padding):
            return torch.nn.MaxPool2d(kernel, stride, padding)
        case AvgPool(None):
            return torch.nn.AdaptiveAvgPool2d(1)
        case AvgPool(kernel, stride, padding):
            return torch.nn.AvgPool2d(kernel, stride, padding)
        case Flatten():
            return torch.nn.Flatten()
        case Add():
            return Sum(in_place=_may_overwrite(network, each.inputs[0]))


def _may_overwrite(network: Network, value: int) -> bool:
    """Say whether ``value`` has one taker, and its maker's backward pass does not need it."""
    if value == INPUT or len(network.consumers[value]) > 1:
        return False
    return isinstance(network.nodes[value].module, Conv2d | BatchNorm2d | Linear | Add)


def has_rows(network: Network) -> bool:
    """Say whether the images stay rows: all that take them are dense."""
    takers = network.consumers[INPUT]
    return all(isinstance(network.nodes[node].module, Linear | Flatten) for node in takers)


def _is_flat(network: Network, value: int) -> bool:
    """Say whether PyTorch's ``value`` is of shape (n, units)."""
    if value == INPUT:
        return has_rows(network)
    match network.nodes[value].module:
        case Linear() | Flatten():
            return True
        case ReLU() | Sigmoid():
            return _is_flat(network, network.nodes[value].inputs[0])
        case Add():
            return any(_is_flat(network, each) for each in network.nodes[value].inputs)
        case _:
            return False


def _fitted(network: Network, node: int, module: torch.nn.Module) -> torch.nn.Module:
    """Return ``module`` with what its input must be turned into before it."""
    value = network.nodes[node].inputs[0]
    is_flat = _is_flat(network, value)
    if isinstance(module, torch.nn.Linear) and not is_flat:
        return torch.nn.Sequential(torch.nn.Flatten(), module)
    takes_images = isinstance(network.nodes[node].module, Conv2d | BatchNorm2d | MaxPool | AvgPool)
    if takes_images and is_flat:
        return torch.nn.Sequential(torch.nn.Unflatten(1, network.shape(value)), module)
    return module


def torch_images(
    network: Network, rows: NDArray[np.float32], *, is_channels_last: bool = False
) -> torch.Tensor:
    """Return the images of ``rows`` as the network takes them: (n, features), or (n, c, h, w)."""
    if has_rows(network):
        return torch.from_numpy(rows)
    images = torch.from_numpy(rows).view(-1, *network.image)
    return images.contiguous(memory_format=torch.channels_last) if is_channels_last else images


def torch_step(
    net: torch.nn.Module, images: torch.Tensor, dataset: Dataset, learning_rate: float, *,
    is_fused: bool = False,
) -> Step:  # fmt: skip
    """Return PyTorch's training step on the samples with the given indices.

    The batch keeps the memory format of ``images``, without a pass of its own.
    """
    labels = torch.from_numpy(dataset.train_labels)
    loss_of = torch.nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(net.parameters(), learning_rate, fused=is_fused or None)
    is_channels_last = images.dim() == 4 and not images.is_contiguous()
    stored = images.permute(0, 2, 3, 1) if is_channels_last else images

    def step(indices: torch.Tensor) -> None:
        inputs, targets = stored.index_select(0, indices), labels.index_select(0, indices)
        if is_channels_last:
            inputs = inputs.permute(0, 3, 1, 2)
        optimiser.zero_grad(set_to_none=True)
        loss_of(net(inputs), targets).backward()
        optimiser.step()

    return step


def torch_turn(step: Step, batches: list[Indices]) -> float:
    """Take a turn with PyTorch; its indices are tensors before the clock starts."""
    tensors = [torch.from_numpy(indices) for indices in batches]
    step(tensors[0])
    start_s = perf_counter()
    for indices in tensors[1:]:
        step(indices)
    return perf_counter() - start_s
