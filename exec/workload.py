"""The workload: what one training step of a network costs, as counts of flops and bytes.

All of it is derived from the network's graph. Nothing here depends on how the work is split; the
plans ask for the cost of each op they make.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

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
    ReLU,
    Sigmoid,
)
from exec.network.network import Network, pooling_window
from exec.program.ops import Compute, Kernel, Shape


@dataclass(frozen=True, slots=True)
class Workload:
    """``network`` trained on ``global_batch`` samples a step, with softmax cross-entropy.

    ``itemsize`` is that of one number, in bytes.
    """

    network: Network
    global_batch: int
    itemsize: int = 4
    has_momentum: bool = False

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise UsageError(f"batch must be at least 1, got {self.global_batch}")

    @property
    def net(self) -> str:
        """The network as the command line spells it, such as ``128-100-26`` or ``resnet18``."""
        return self.network.name

    @property
    def num_parameters(self) -> int:
        """All weights and biases, scales and shifts."""
        return self.network.num_parameters

    def shape(self, node: int, samples: int, inputs: int, outputs: int) -> Shape:
        """Return what the kernels of ``node`` work on, of ``inputs`` channels to ``outputs``."""
        network, each = self.network, self.network.nodes[node]
        after, before = network.pixels(node), network.pixels(each.inputs[0])
        match each.module:
            case Conv2d(_, (height, width)):
                window = height * width
                return Shape(samples, inputs * window, outputs, after, before, window)
            case MaxPool() | AvgPool():
                height, width = pooling_window(network, node)
                return Shape(samples, height * width, outputs, after, before, height * width)
            case BatchNorm2d():
                return Shape(samples, 0, outputs, after, after)
            case Linear():
                return Shape(samples, inputs, outputs)
            case Profiled() as module:
                whole = network.shape(each.inputs[0])[0] * each.shape[0]
                return profiled_shape(module, samples, inputs * outputs / whole)
            case _:
                return Shape(samples, 0, outputs * after)

    def node_flops(self, node: int) -> int:
        """Return the flops of ``node``, forward and backward, for one sample."""
        network, each = self.network, self.network.nodes[node]
        if isinstance(
            each.module, Profiled
        ):  # nobody knows; times are as good to compare layers by
            return each.module.forward_ps[1] + each.module.backward_ps[1]
        value = each.inputs[0]
        shape = self.shape(node, 1, network.shape(value)[0], each.shape[0])
        backward = backward_kernels(each.module, has_grad_input=value >= 0)
        return sum(
            kernel_flops(kernel, shape) for kernel in (*forward_kernels(each.module), *backward)
        )

    def compute_node(
        self, kernel: Kernel, node: int, microbatch: int, samples: int, inputs: int, outputs: int
    ) -> Compute:
        """Return the op that runs ``kernel`` of ``node`` from ``inputs`` channels to ``outputs``."""
        return _node_op(
            self.network, self.itemsize, kernel, node, microbatch, samples, inputs, outputs
        )

    def compute(self, kernel: Kernel, layer: int, microbatch: int, shape: Shape) -> Compute:
        """Return the op that runs ``kernel`` on ``shape``, with its counts."""
        nbytes = kernel_elements(kernel, shape) * self.itemsize
        return Compute(kernel, layer, microbatch, shape, kernel_flops(kernel, shape), nbytes)


def profiled_shape(module: Profiled, samples: int, share: float) -> Shape:
    """Return what stands for the times of a ``share`` of ``module``: picoseconds.

    ``m`` are those of the forward pass, ``k`` those of the backward pass of all samples. What is
    fixed does not shrink with the share.
    """
    (fixed, each), (fixed_back, each_back) = module.forward_ps, module.backward_ps
    return Shape(
        1, fixed_back + round(each_back * samples * share), fixed + round(each * samples * share)
    )


@lru_cache(maxsize=1 << 17)
def _node_op(
    network: Network, itemsize: int, kernel: Kernel, node: int, microbatch: int, samples: int, inputs: int, outputs: int
) -> Compute:  # fmt: skip
    # A search asks for the same ops of many plans; they are values, so all may share them.
    first = _first_op(network, itemsize, kernel, node, samples, inputs, outputs)
    return Compute(kernel, node, microbatch, first.shape, first.flops, first.nbytes)


@lru_cache(maxsize=1 << 16)
def _first_op(
    network: Network, itemsize: int, kernel: Kernel, node: int, samples: int, inputs: int, outputs: int
) -> Compute:  # fmt: skip
    # The ops of all microbatches have the very same shape, by which their readers know them.
    workload = Workload(network, max(samples, 1), itemsize)
    shape = workload.shape(node, samples, inputs, outputs)
    return workload.compute(kernel, node, 0, shape)


def forward_kernels(module: Module) -> tuple[Kernel, ...]:
    """Return the kernels of the forward pass of ``module``, in order; a flatten has none."""
    match module:
        case Linear() | Profiled():
            return (Kernel.LINEAR,)
        case Conv2d():
            return (Kernel.CONV,)
        case BatchNorm2d():
            return Kernel.BATCHNORM_SUMS, Kernel.BATCHNORM
        case ReLU():
            return (Kernel.RELU,)
        case Sigmoid():
            return (Kernel.SIGMOID,)
        case MaxPool():
            return (Kernel.MAXPOOL,)
        case AvgPool():
            return (Kernel.AVGPOOL,)
        case Add():
            return (Kernel.ADD,)
        case Flatten():
            return ()


def backward_kernels(module: Module, *, has_grad_input: bool) -> tuple[Kernel, ...]:
    """Return the kernels of the backward pass of ``module``, in order.

    Without ``has_grad_input`` nothing before it learns, so only its own gradients are needed.
    """
    match module:
        case Linear():
            return (Kernel.LINEAR_BACKWARD if has_grad_input else Kernel.LINEAR_BACKWARD_FIRST,)
        case Profiled():
            return (Kernel.LINEAR_BACKWARD,)
        case Conv2d():
            return (Kernel.CONV_BACKWARD if has_grad_input else Kernel.CONV_BACKWARD_FIRST,)
        case BatchNorm2d():
            return (Kernel.BATCHNORM_BACKWARD_SUMS, *(Kernel.BATCHNORM_BACKWARD,) * has_grad_input)
        case ReLU():
            return (Kernel.RELU_BACKWARD,) * has_grad_input
        case Sigmoid():
            return (Kernel.SIGMOID_BACKWARD,) * has_grad_input
        case MaxPool():
            return (Kernel.MAXPOOL_BACKWARD,) * has_grad_input
        case AvgPool():
            return (Kernel.AVGPOOL_BACKWARD,) * has_grad_input
        case Add():
            return (Kernel.ADD_BACKWARD,) * has_grad_input
        case Flatten():
            return ()


def kernel_flops(kernel: Kernel, shape: Shape) -> int:
    """Return the floating point operations of ``kernel`` on ``shape``.

    A multiply-add counts as two; an exponential, a logarithm, a comparison or a division as one.
    """
    k, outputs = shape.k, shape.n * shape.m * shape.p
    match kernel:
        case Kernel.LOAD | Kernel.TRANSPOSE | Kernel.TRANSPOSE_BACKWARD:
            return 0
        case (
            Kernel.LINEAR | Kernel.LINEAR_BACKWARD_FIRST | Kernel.CONV | Kernel.CONV_BACKWARD_FIRST
        ):
            return outputs * (2 * k + 1)
        case Kernel.LINEAR_BACKWARD | Kernel.CONV_BACKWARD:
            return outputs * (4 * k + 1)
        case Kernel.SIGMOID:
            return 4 * outputs
        case Kernel.SIGMOID_BACKWARD:
            return 3 * outputs
        case Kernel.RELU | Kernel.RELU_BACKWARD | Kernel.ADD | Kernel.ADD_BACKWARD:
            return outputs
        case Kernel.BATCHNORM_SUMS | Kernel.BATCHNORM_BACKWARD_SUMS:
            return 4 * outputs
        case Kernel.BATCHNORM:
            return 2 * outputs
        case Kernel.BATCHNORM_BACKWARD:
            return 5 * outputs
        case Kernel.MAXPOOL | Kernel.AVGPOOL | Kernel.AVGPOOL_BACKWARD:
            return outputs * shape.w
        case Kernel.MAXPOOL_BACKWARD:
            return 2 * outputs * shape.w
        case Kernel.LOSS:
            return 7 * outputs
        case Kernel.UPDATE:
            return (4 if k else 2) * shape.m
        case Kernel.ACCUMULATE:
            return shape.m


def kernel_elements(kernel: Kernel, shape: Shape) -> int:
    """Return how many numbers ``kernel`` on ``shape`` must at least read and write."""
    n, k, m = shape.n, shape.k, shape.m
    outputs = n * m * shape.p
    match kernel:
        case Kernel.LOAD:
            return 2 * n * (k + m)
        case (
            Kernel.LINEAR | Kernel.LINEAR_BACKWARD_FIRST | Kernel.CONV | Kernel.CONV_BACKWARD_FIRST
        ):
            return n * k // shape.w * shape.q + k * m + outputs
        case Kernel.LINEAR_BACKWARD | Kernel.CONV_BACKWARD:
            return 2 * (n * k // shape.w * shape.q + k * m + outputs)
        case Kernel.BATCHNORM_SUMS:
            return outputs
        case (
            Kernel.SIGMOID
            | Kernel.RELU
            | Kernel.LOSS
            | Kernel.BATCHNORM
            | Kernel.BATCHNORM_BACKWARD_SUMS
            | Kernel.ADD_BACKWARD
            | Kernel.TRANSPOSE
            | Kernel.TRANSPOSE_BACKWARD
        ):
            return 2 * outputs
        case (
            Kernel.SIGMOID_BACKWARD | Kernel.RELU_BACKWARD | Kernel.BATCHNORM_BACKWARD | Kernel.ADD
        ):
            return 3 * outputs
        case Kernel.MAXPOOL | Kernel.AVGPOOL | Kernel.AVGPOOL_BACKWARD:
            return outputs + n * m * shape.q
        case Kernel.MAXPOOL_BACKWARD:
            return 2 * (outputs + n * m * shape.q)
        case Kernel.UPDATE:
            return (6 if k else 3) * m
        case Kernel.ACCUMULATE:
            return 3 * m


def positive(name: str, value: float, *, or_zero: bool = False) -> None:
    """Raise :class:`UsageError` unless ``value`` is finite and positive (or zero)."""
    if not math.isfinite(value) or value < 0 or (value == 0 and not or_zero):
        least = "at least 0" if or_zero else "greater than 0"
        raise UsageError(f"{name} must be a finite number {least}, got {value}")
