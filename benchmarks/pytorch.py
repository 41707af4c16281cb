"""PyTorch eager: the yardstick, written as its own examples are."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exec.data.dataset import Dataset
from exec.runtime.weights import Weights

Indices = NDArray[np.integer[Any]]
Step = Callable[[torch.Tensor], None]
"""Train on the samples with these indices."""


def network(weights: Weights) -> torch.nn.Sequential:
    """Return the network of ``weights`` in PyTorch, with a copy of them."""
    modules: list[torch.nn.Module] = []
    for weight, bias in weights:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.copy_(torch.from_numpy(bias))
        modules += [linear, torch.nn.Sigmoid()]
    return torch.nn.Sequential(*modules[:-1])


def torch_step(
    net: torch.nn.Sequential, dataset: Dataset, learning_rate: float, *, is_fused: bool
) -> Step:
    """Return PyTorch's training step on the samples with the given indices."""
    images, labels = map(torch.from_numpy, (dataset.train_images, dataset.train_labels))
    loss_of = torch.nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(net.parameters(), learning_rate, fused=is_fused or None)

    def step(indices: torch.Tensor) -> None:
        inputs, targets = images.index_select(0, indices), labels.index_select(0, indices)
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
