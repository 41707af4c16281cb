"""The cases of ``gpu.py``: networks and batches, in groups that fit into one sitting each."""

from dataclasses import dataclass
from enum import StrEnum

from exec.network.parse import parse_net
from exec.workload import Workload

BATCHES = (32, 128, 512, 2048, 4096)
RESNET18 = "resnet18:3x224x224:1000"


class Group(StrEnum):
    """What is measured together."""

    MLP = "mlp"
    LARGE = "large"
    CONV = "conv"
    RESNET = "resnet"
    PRODUCTS = "products"
    REPLAY = "replay"


class Rounding(StrEnum):
    """Whether factors of products are rounded to TF32."""

    OFF = "off"
    ON = "on"
    BOTH = "both"

    @property
    def choices(self) -> tuple[bool, ...]:
        """What to measure, in turn."""
        return {Rounding.OFF: (False,), Rounding.ON: (True,), Rounding.BOTH: (False, True)}[self]


@dataclass(frozen=True, slots=True)
class Case:
    """One network at one batch."""

    net: str
    batch: int
    group: Group

    @property
    def workload(self) -> Workload:
        """The step it trains."""
        return Workload(parse_net(self.net), self.batch)

    @property
    def flops(self) -> int:
        """Of a step."""
        workload = self.workload
        nodes = range(len(workload.network.nodes))
        return self.batch * sum(workload.node_flops(node) for node in nodes)


CASES = (
    *(Case(net, batch, Group.MLP) for net in ("128-50-26", "784-512-512-26") for batch in BATCHES),
    Case("784-4096-4096-4096-26", 8192, Group.LARGE),
    *(Case(net, batch, Group.CONV) for net in ("cnn", "svhn-cnn") for batch in (64, 512)),
    *(Case("resnet18-small", batch, Group.RESNET) for batch in (32, 256)),
    *(Case(RESNET18, batch, Group.RESNET) for batch in (64, 256)),
)
QUICK_CASES = (Case("16-8-4", 8, Group.MLP), Case("cnn:1x8x8:4", 2, Group.CONV))
REPLAYED = (("128-50-26", 32), ("784-512-512-26", 32), ("784-512-512-26", 2048), ("cnn", 64), ("resnet18-small", 32))  # fmt: skip
QUICK_REPLAYED = (("16-8-4", 8),)


def cases_of(groups: tuple[Group, ...], *, is_quick: bool) -> list[Case]:
    """Return the cases of ``groups``, of all if there are none."""
    cases = QUICK_CASES if is_quick else CASES
    return [case for case in cases if not groups or case.group in groups]
