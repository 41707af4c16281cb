"""Batch normalisation in two phases each way, with room for an all-reduce of ``sums`` between them.

Source: S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by
reducing internal covariate shift", ICML 2015.
"""

from dataclasses import dataclass, field

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu.calls import in_turn
from exec.gpu.grids import arrivals, channel_sums, check_work, elements, parts, strides
from exec.gpu.images import Images
from exec.network.gpu_scratch import gpu_normalisation_scratch

_THREADS = 256


@dataclass(frozen=True, slots=True)
class BatchNorm2d:
    """``b = gamma xhat + beta`` with ``xhat = (a - mean) / sqrt(var + eps)``, channel by channel.

    A step calls, in this order, ``forward_sums``, ``forward``, ``backward_sums``, ``backward``;
    where ranks share the statistics (``is_shared``), ``sums`` is all-reduced after each of the two
    sums. The images are in one order; ``sums`` and ``saved`` are (2, channels), the other vectors
    (channels,). ``count`` is the number of samples times pixels over all these ranks. ``saved`` is
    the mean and ``1 / sqrt(var + eps)`` of the batch from ``forward`` on, and must be left alone
    from ``forward_sums`` on. ``work`` has at least ``gpu_normalisation_scratch`` elements.

    Shared sums are about the running mean, which all ranks have alike. Others are about the batch's
    own, and ``forward_sums`` moves the running statistics at once, which ``forward`` does otherwise.
    """

    stream: Stream
    gamma: DeviceArray
    beta: DeviceArray
    grad_gamma: DeviceArray
    grad_beta: DeviceArray
    running_mean: DeviceArray
    running_var: DeviceArray
    a: Images
    output: Images
    gb: Images
    grad_input: Images | None
    sums: DeviceArray
    saved: DeviceArray
    work: DeviceArray
    count: int
    eps: float = 1e-5
    momentum: float = 0.1
    adds: bool = False
    adds_input: bool = False
    is_shared: bool = False
    forward_sums: Call = field(init=False)
    forward: Call = field(init=False)
    backward_sums: Call = field(init=False)
    backward: Call = field(init=False)

    def __post_init__(self) -> None:
        check_work(self.work, gpu_normalisation_scratch(channel_sums(self.a)))
        object.__setattr__(self, "forward_sums", self._forward_sums())
        object.__setattr__(self, "forward", self._forward())
        object.__setattr__(self, "backward_sums", self._backward_sums())
        object.__setattr__(self, "backward", self._backward())

    def _forward_sums(self) -> Call:
        sums, dtype = channel_sums(self.a), self.a.array.dtype
        return self.stream.bind_kernel(
            "bn_forward_sums", dtype, *parts(sums), self.a.array, self.work, self.sums, self.saved,
            self.running_mean, self.running_var, arrivals(self.stream, sums), sums.channels,
            sums.positions, sums.length, *strides(self.a), self.count, float(self.eps), float(self.momentum),
            int(self.is_shared),
        )  # fmt: skip

    def _forward(self) -> Call:
        if not self.count:
            return in_turn()
        sums, dtype = channel_sums(self.a), self.a.array.dtype
        normalise = self.stream.bind_kernel(
            "bn_forward", dtype, *elements(sums), self.a.array, self.output.array,
            self.gamma, self.beta, self.saved, sums.channels, sums.positions, *strides(self.a),
        )  # fmt: skip
        if not self.is_shared:
            return normalise
        blocks = -(-sums.channels // _THREADS)
        statistics = self.stream.bind_kernel(
            "bn_statistics", dtype, (blocks,), (_THREADS,), self.sums, self.saved,
            self.running_mean, self.running_var, sums.channels, self.count, float(self.eps), float(self.momentum),
        )  # fmt: skip
        return in_turn(statistics, normalise)

    def _backward_sums(self) -> Call:
        sums, dtype = channel_sums(self.a), self.a.array.dtype
        return self.stream.bind_kernel(
            "bn_backward_sums", dtype, *parts(sums), self.a.array, self.gb.array, self.saved, self.work,
            self.sums, self.grad_gamma, self.grad_beta, arrivals(self.stream, sums), sums.channels,
            sums.positions, sums.length, *strides(self.a), int(self.adds),
        )  # fmt: skip

    def _backward(self) -> Call:
        if self.grad_input is None:
            return in_turn()
        sums = channel_sums(self.a)
        return self.stream.bind_kernel(
            "bn_backward", self.a.array.dtype, *elements(sums), self.a.array, self.gb.array,
            self.grad_input.array, self.gamma, self.saved, self.sums, sums.channels, sums.positions,
            self.count, *strides(self.a), int(self.adds_input),
        )  # fmt: skip


def normalise(
    stream: Stream, a: Images, output: Images, gamma: DeviceArray, beta: DeviceArray, mean: DeviceArray,
    var: DeviceArray, eps: float,
) -> Call:  # fmt: skip
    """Return a call that sets ``output`` by given statistics: what a trained network does."""
    sums = channel_sums(a)
    return stream.bind_kernel(
        "bn_normalise", a.array.dtype, *elements(sums), a.array, output.array, gamma, beta, mean,
        var, float(eps), sums.channels, sums.positions, *strides(a),
    )  # fmt: skip
