"""The cases that forecasts are checked on: networks and plans that no ladder has."""

from dataclasses import dataclass
from enum import StrEnum

from exec.device.kind import DeviceKind
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.ops import Algorithm
from exec.workload import Workload


@dataclass(frozen=True, slots=True)
class Case:
    """One plan to run and to forecast."""

    net: str
    batch: int
    strategy: Strategy = Strategy.SERIAL
    microbatches: int = 1
    algorithm: Algorithm = Algorithm.LIBRARY
    overlap: bool = False
    sync_batchnorm: bool = False

    @property
    def workload(self) -> Workload:
        """The step it trains."""
        return Workload(parse_net(self.net), self.batch)

    @property
    def options(self) -> PlanOptions:
        """How it uses its ranks."""
        return PlanOptions(self.microbatches, algorithm=self.algorithm, overlap=self.overlap,
                           strategy=self.strategy, sync_batchnorm=self.sync_batchnorm)  # fmt: skip


SERIAL_CASES = (
    Case("128-50-26", 32), Case("128-100-26", 32), Case("128-100-26", 256), Case("128-300-26", 64),
    Case("128-200-100-26", 128), Case("784-300-10", 100), Case("256-1000-50", 500),
    Case("784-512-512-26", 256),
)  # fmt: skip
CONV_SERIAL_CASES = (Case("cnn", 32), Case("cnn", 64), Case("resnet18-small", 16))
_DATA, _PIPE, _TENSOR = Strategy.DATA, Strategy.PIPELINE, Strategy.TENSOR
SHARED_CASES = (
    Case("128-100-26", 256, _DATA), Case("128-300-26", 1024, _DATA, algorithm=Algorithm.RING),
    Case("784-300-10", 200, _DATA, algorithm=Algorithm.RECURSIVE_DOUBLING),
    Case("784-512-512-26", 256, _DATA), Case("784-512-512-26", 256, _DATA, overlap=True),
    Case("128-200-100-26", 128, _PIPE, microbatches=2), Case("784-512-512-26", 256, _PIPE, microbatches=4),
    Case("128-300-26", 64, _TENSOR), Case("784-512-512-26", 256, _TENSOR),
)  # fmt: skip
WINDOW_CASES = tuple(
    Case(net, batch, _DATA, algorithm=Algorithm.SHARED_WINDOW)
    for net, batch in (("128-100-26", 256), ("784-512-512-26", 256))
)
"""What the trainer does on one node of CPUs unless told."""
CONV_SHARED_CASES = (
    Case("cnn", 64, _DATA), Case("cnn", 64, _PIPE, microbatches=4), Case("cnn", 32, _TENSOR),
    Case("cnn", 64, Strategy.KRIZHEVSKY), Case("resnet18-small", 32, _DATA),
    Case("resnet18-small", 32, _DATA, sync_batchnorm=True), Case("resnet18-small", 32, _PIPE, microbatches=2),
    Case("resnet18-small", 16, _TENSOR), Case("resnet18-small", 32, Strategy.KRIZHEVSKY),
)  # fmt: skip
# Networks of a GPU's size; the sizes that PyTorch is compared at are among them.
GPU_SERIAL_CASES = (
    Case("128-50-26", 32), Case("128-50-26", 1024), Case("784-512-512-26", 32), Case("784-512-512-26", 256),
    Case("784-512-512-26", 4096), Case("784-1000-1000-10", 1000), Case("2000-3000-100", 500),
    Case("784-2048-2048-2048-26", 2048), Case("784-4096-4096-4096-26", 8192),
)  # fmt: skip
GPU_CONV_SERIAL_CASES = (
    Case("cnn", 64), Case("cnn", 256), Case("cnn", 1024), Case("svhn-cnn", 128), Case("svhn-cnn", 512),
    Case("resnet18-small", 32), Case("resnet18-small", 128), Case("resnet18", 64),
)  # fmt: skip
EMULATED_SERIAL_CASES = (Case("12-10-4", 8), Case("20-16-8", 4))
EMULATED_CONV_SERIAL_CASES = (Case("cnn:1x8x8:4", 4),)
EMULATED_SHARED_CASES = (Case("20-16-8", 8, _DATA),)


_Cases = tuple[tuple[Case, ...], tuple[Case, ...]]
"""On one rank, and on several."""


class NetKind(StrEnum):
    """Which networks are checked: dense layers only, with convolutions, or both."""

    ALL = "all"
    MLP = "mlp"
    CONV = "conv"


def cases_of(
    kind: NetKind, ranks: int, device: DeviceKind = DeviceKind.CPU
) -> list[tuple[Case, int]]:
    """Return the cases of ``kind`` on ``device``, each with how many ranks it runs on."""
    dense: _Cases
    conv: _Cases
    match device:
        case DeviceKind.CPU:
            dense, conv = (
                (SERIAL_CASES, SHARED_CASES + WINDOW_CASES),
                (CONV_SERIAL_CASES, CONV_SHARED_CASES),
            )
        case DeviceKind.GPU:
            dense, conv = (
                (GPU_SERIAL_CASES, SHARED_CASES),
                (GPU_CONV_SERIAL_CASES, CONV_SHARED_CASES),
            )
        case DeviceKind.EMULATED:
            dense, conv = (
                (EMULATED_SERIAL_CASES, EMULATED_SHARED_CASES),
                (EMULATED_CONV_SERIAL_CASES, ()),
            )
    serial = dense[0] * (kind is not NetKind.CONV) + conv[0] * (kind is not NetKind.MLP)
    shared = dense[1] * (kind is not NetKind.CONV) + conv[1] * (kind is not NetKind.MLP)
    return [(case, 1) for case in serial] + [(case, ranks) for case in shared if ranks > 1]
