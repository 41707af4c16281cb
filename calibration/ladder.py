"""The ladder: which networks and batches the kernels are measured in.

Dense and convolutional networks take turns. Widths, images, channels and batches are drawn
log-uniformly from fixed seeds, so that the samples fill the range instead of lining up along it,
and any one feature varies while the others do.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, count, islice

import numpy as np

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
    Sigmoid,
)
from exec.network.network import Network, build, mlp, output_shape
from exec.workload import Workload

_DENSE_SEED, _CONV_SEED = 20_261_121, 20_261_122
_WIDTHS, _CLASSES, _BATCHES = (8, 2560), (2, 128), (1, 2048)
_SIDES, _CHANNELS, _CONV_BATCHES = (4, 64), (4, 512), (1, 256)
_KERNELS, _KERNEL_SHARES = (1, 3, 5, 7), (0.2, 0.5, 0.2, 0.1)
_MAX_STEP_FLOPS = 10**9
_CONV_STEP_FLOPS, _MORE_STEP_FLOPS = (10**6, 4 * 10**9), 2 * 10**8
_MAX_ELEMENTS = 3 * 10**7

HELD_OUT_BATCHES = (8, 16, 32, 64)
"""No convolutional rung has these, so that with them any network is of shapes never measured."""


def ladder(num_rungs: int, itemsize: int = 4) -> list[Workload]:
    """Return ``num_rungs`` workloads; a longer ladder begins with the shorter one."""
    turns = zip(_dense_rungs(itemsize), _conv_rungs(itemsize), strict=True)
    return list(islice(chain.from_iterable(turns), num_rungs))


def _dense_rungs(itemsize: int) -> Iterator[Workload]:
    generator = np.random.Generator(np.random.PCG64(_DENSE_SEED))
    has_momentum = False
    while True:
        hidden = [_draw(generator, _WIDTHS) for _ in range(int(generator.integers(1, 4)))]
        network = mlp(*hidden, _draw(generator, _CLASSES))
        workload = Workload(network, _draw(generator, _BATCHES), itemsize, has_momentum)
        if _flops(workload) * workload.global_batch <= _MAX_STEP_FLOPS:
            yield workload
            has_momentum = not has_momentum


def _conv_rungs(itemsize: int) -> Iterator[Workload]:
    generator = np.random.Generator(np.random.PCG64(_CONV_SEED))
    for index in count():
        yield _conv_rung(generator, index, itemsize)


def _conv_rung(generator: np.random.Generator, index: int, itemsize: int) -> Workload:
    """Return the first draw whose step is neither too small nor too large.

    Later rungs may be larger, so that a short ladder is climbed in a short time.
    """
    low, high = _CONV_STEP_FLOPS
    high = min(high, _MORE_STEP_FLOPS * (index + 1))
    while True:
        network = _conv_network(generator, f"conv-rung-{index}")
        batch = _draw(generator, _CONV_BATCHES)
        workload = Workload(network, batch, itemsize, has_momentum=index % 2 == 1)
        elements = network.num_features + sum(map(network.width, range(len(network.nodes))))
        is_feasible = low <= batch * _flops(workload) <= high and batch * elements <= _MAX_ELEMENTS
        if is_feasible and batch not in HELD_OUT_BATCHES:
            return workload


def _conv_network(generator: np.random.Generator, name: str) -> Network:
    """Return blocks of a convolution and what may follow one, then a dense layer."""
    side = _draw(generator, _SIDES)
    channels = _draw(generator, _CHANNELS) if generator.random() < 0.25 else int(generator.choice((1, 3)))  # fmt: skip
    image = channels, side, side // int(generator.choice((1, 1, 1, 1, 1, 2)))
    steps: list[tuple[str, Module, Sequence[str]]] = []
    shape = image

    def add(module: Module, *inputs: str) -> str:
        steps.append((f"layer{len(steps)}", module, inputs))
        return steps[-1][0]

    for _ in range(int(generator.integers(1, 5))):
        conv = _draw_conv(generator, min(shape[1:]))
        shape = output_shape(conv, [shape], name)
        add(conv)
        if not conv.has_bias:
            add(BatchNorm2d())
        before = add(Sigmoid() if generator.random() < 0.1 else ReLU())
        if generator.random() < 0.4:
            add(Conv2d(conv.filters, (3, 3), padding=(1, 1), has_bias=False))
            add(Add(), add(BatchNorm2d()), before)
            add(ReLU())
        if min(shape[1:]) >= 4 and generator.random() < 0.8:
            pool = _draw_pool(generator)
            shape = output_shape(pool, [shape], name)
            add(pool)
    if generator.random() < 0.5:
        add(AvgPool())
    add(Flatten())
    add(Linear(_draw(generator, _CLASSES)))
    return build(name, image, steps)


def _draw_conv(generator: np.random.Generator, side: int) -> Conv2d:
    """Return a convolution of images of ``side`` at least that leaves two positions of it."""
    filters = _draw(generator, _CHANNELS)
    kernel = min(int(generator.choice(_KERNELS, p=_KERNEL_SHARES)), side)
    stride = 2 if side >= 4 and generator.random() < 0.25 else 1
    padding = 0 if side > 2 * kernel and generator.random() < 0.25 else kernel // 2
    has_bias = bool(generator.random() < 0.4)
    return Conv2d(filters, (kernel, kernel), (stride, stride), (padding, padding), has_bias)


def _draw_pool(generator: np.random.Generator) -> MaxPool | AvgPool:
    kind = MaxPool if generator.random() < 0.7 else AvgPool
    if generator.random() < 0.7:
        return kind((2, 2), (2, 2))
    stride = int(generator.integers(1, 3))
    return kind((3, 3), (stride, stride), (1, 1))


def _flops(workload: Workload) -> int:
    """Return the flops of the nodes with weights, for one sample."""
    nodes = workload.network.nodes
    return sum(
        workload.node_flops(index)
        for index, node in enumerate(nodes)
        if isinstance(node.module, Linear | Conv2d)
    )


def _draw(generator: np.random.Generator, bounds: tuple[int, int]) -> int:
    return round(float(np.exp(generator.uniform(*np.log(bounds)))))
