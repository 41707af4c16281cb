"""The ladder: which networks and batches the kernels are measured in.

Dense and convolutional networks take turns. Widths, images, channels and batches are drawn
log-uniformly from fixed seeds, so that the samples fill the range instead of lining up along it,
and any one feature varies while the others do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

import numpy as np

from exec.device.kind import DeviceKind
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
_KERNELS, _KERNEL_SHARES = (1, 3, 5, 7), (0.2, 0.5, 0.2, 0.1)

HELD_OUT_BATCHES = (8, 16, 32, 64)
"""No convolutional rung has these, so that with them any network is of shapes never measured."""
GPU_HELD_OUT_BATCHES = (*HELD_OUT_BATCHES, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Bounds:
    """From where to where a ladder goes.

    Steps are of ``max_step_flops``, convolutional ones of ``conv_step_flops``; later rungs of those
    may be larger by ``more_step_flops`` each, so that a short ladder is climbed in a short time. A
    step holds at most ``max_elements``, and ``max_images`` of images. Every second dense rung is of
    ``large_widths`` and ``large_batches``, if they are given.
    """

    widths: tuple[int, int] = (8, 2560)
    classes: tuple[int, int] = (2, 128)
    batches: tuple[int, int] = (1, 2048)
    max_step_flops: int = 10**9
    sides: tuple[int, int] = (4, 64)
    channels: tuple[int, int] = (4, 512)
    conv_batches: tuple[int, int] = (1, 256)
    conv_step_flops: tuple[int, int] = (10**6, 4 * 10**9)
    more_step_flops: int = 2 * 10**8
    max_elements: int = 3 * 10**7
    max_images: int = 3 * 10**7
    held_out: tuple[int, ...] = HELD_OUT_BATCHES
    large_widths: tuple[int, int] | None = None
    large_batches: tuple[int, int] | None = None


CPU_BOUNDS = Bounds()
GPU_BOUNDS = Bounds(
    widths=(16, 8192), batches=(8, 8192), max_step_flops=10**13,
    sides=(4, 224), conv_batches=(4, 2048), conv_step_flops=(10**8, 10**13),
    more_step_flops=4 * 10**11, max_elements=10**9, max_images=2 * 10**7,
    held_out=GPU_HELD_OUT_BATCHES, large_widths=(512, 8192), large_batches=(512, 8192),
)  # fmt: skip
EMULATED_BOUNDS = Bounds(
    widths=(2, 24), classes=(2, 8), batches=(1, 12), max_step_flops=10**6,
    sides=(8, 12), channels=(1, 6), conv_batches=(1, 4), conv_step_flops=(10**3, 10**6),
    max_elements=10**5, held_out=(),
)  # fmt: skip


def bounds_for(device: DeviceKind) -> Bounds:
    """Return the bounds of a ladder that ``device`` climbs in a few minutes at most."""
    match device:
        case DeviceKind.CPU:
            return CPU_BOUNDS
        case DeviceKind.GPU:
            return GPU_BOUNDS
        case DeviceKind.EMULATED:
            return EMULATED_BOUNDS


def ladder(num_rungs: int, itemsize: int = 4, bounds: Bounds = CPU_BOUNDS) -> list[Workload]:
    """Return ``num_rungs`` workloads; a longer ladder begins with the shorter one."""
    turns = zip(_dense_rungs(itemsize, bounds), _conv_rungs(itemsize, bounds), strict=True)
    return list(islice(chain.from_iterable(turns), num_rungs))


def _dense_rungs(itemsize: int, bounds: Bounds) -> Iterator[Workload]:
    generator = np.random.Generator(np.random.PCG64(_DENSE_SEED))
    index = 0
    while True:
        is_large = index % 4 >= 2  # with and without momentum
        widths = bounds.large_widths if is_large and bounds.large_widths else bounds.widths
        batches = bounds.large_batches if is_large and bounds.large_batches else bounds.batches
        hidden = [_draw(generator, widths) for _ in range(int(generator.integers(1, 4)))]
        network = mlp(*hidden, _draw(generator, bounds.classes))
        workload = Workload(network, _draw(generator, batches), itemsize, index % 2 == 1)
        flops, images = _flops(workload), network.num_features
        if (
            flops * workload.global_batch <= bounds.max_step_flops
            and images * workload.global_batch <= bounds.max_images
        ):
            yield workload
            index += 1


def _conv_rungs(itemsize: int, bounds: Bounds) -> Iterator[Workload]:
    generator = np.random.Generator(np.random.PCG64(_CONV_SEED))
    for index in count():
        yield _conv_rung(generator, index, itemsize, bounds)


def _conv_rung(
    generator: np.random.Generator, index: int, itemsize: int, bounds: Bounds
) -> Workload:
    """Return the first draw whose step is neither too small nor too large."""
    low, high = bounds.conv_step_flops
    high = min(high, max(low, bounds.more_step_flops * (index + 1)))
    while True:
        network = _conv_network(generator, f"conv-rung-{index}", bounds)
        batch = _draw(generator, bounds.conv_batches)
        workload = Workload(network, batch, itemsize, has_momentum=index % 2 == 1)
        elements = network.num_features + sum(map(network.width, range(len(network.nodes))))
        is_feasible = (
            low <= batch * _flops(workload) <= high
            and batch * elements <= bounds.max_elements
            and batch * network.num_features <= bounds.max_images
        )
        if is_feasible and batch not in bounds.held_out:
            return workload


def _conv_network(generator: np.random.Generator, name: str, bounds: Bounds) -> Network:
    """Return blocks of a convolution and what may follow one, then a dense layer."""
    side = _draw(generator, bounds.sides)
    channels = _draw(generator, bounds.channels) if generator.random() < 0.25 else int(generator.choice((1, 3)))  # fmt: skip
    image = channels, side, side // int(generator.choice((1, 1, 1, 1, 1, 2)))
    steps: list[tuple[str, Module, Sequence[str]]] = []
    shape = image

    def add(module: Module, *inputs: str) -> str:
        steps.append((f"layer{len(steps)}", module, inputs))
        return steps[-1][0]

    for _ in range(int(generator.integers(1, 5))):
        conv = _draw_conv(generator, min(shape[1:]), bounds)
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
    add(Linear(_draw(generator, bounds.classes)))
    return build(name, image, steps)


def _draw_conv(generator: np.random.Generator, side: int, bounds: Bounds) -> Conv2d:
    """Return a convolution of images of ``side`` at least that leaves two positions of it."""
    filters = _draw(generator, bounds.channels)
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
