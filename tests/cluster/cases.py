"""The campaign's cases: what is trained on which rig. None of the networks is in a calibration."""

from collections.abc import Iterator
from dataclasses import dataclass

from exec.plan.strategy import Strategy
from tests.cluster.padded import Case
from tests.cluster.spec import Spec

HOSTS = 8
_NETS = (("784-600-400-26", 512), ("300-900-26", 256), ("1024-256-256-26", 384))
# A server's link carries each worker's state both ways: smaller networks, or a step takes seconds.
_SERVED = (("300-900-26", 252), ("1024-256-256-26", 378), ("512-200-100-26", 420))
_DEEP = (("256-320-320-320-320-320-320-320-26", 256), ("500-420-420-420-300-300-300-300-26", 512))


@dataclass(frozen=True, slots=True)
class Variant:
    """A rig by name, and what is trained on it."""

    name: str
    spec: Spec
    cases: tuple[Case, ...]


def variants(bits_per_s: int) -> tuple[Variant, ...]:
    """Return all rigs, with links of ``bits_per_s``, and their cases."""
    plain = Spec(HOSTS, bits_per_s)
    slow_link = Spec(HOSTS, bits_per_s, slow_links=((3, bits_per_s // 4),))
    racks = Spec(HOSTS, bits_per_s, racks=2, uplink_bits_per_s=2 * bits_per_s)
    tiers = Spec(HOSTS // 2, bits_per_s, ranks_per_host=2)
    return (
        Variant("homogeneous", plain, tuple(_homogeneous())),
        Variant("slow node", plain, tuple(_slow_node())),
        Variant("noise", plain, tuple(_noise())),
        Variant("slow link", slow_link, tuple(_mixed("slow link"))),
        Variant("two racks", racks, tuple(_mixed("two racks"))),
        Variant("two tiers", tiers, tuple(_tiers())),
    )


def _homogeneous() -> Iterator[Case]:
    for net, batch in _NETS:
        yield Case(f"data ring {net}", net, batch, HOSTS, {"algorithm": "ring"})
        yield Case(f"tensor ring {net}", net, batch, HOSTS, {"algorithm": "ring"}, Strategy.TENSOR)
        for every in (4, 10):
            options: dict[str, str | int | bool] = {"algorithm": "ring", "average-every": every}
            yield Case(f"averaging every {every} {net}", net, batch, HOSTS, options, Strategy.AVERAGING)  # fmt: skip
    for net, batch in _SERVED:
        for servers in (1, 2):
            yield Case(f"server {servers} {net}", net, batch, HOSTS, {"servers": servers}, Strategy.SERVER)  # fmt: skip
    net, batch = _NETS[0]
    for algorithm in ("library", "recursive_doubling", "halving_doubling", "binomial_tree"):
        yield Case(f"data {algorithm} {net}", net, batch, HOSTS, {"algorithm": algorithm})
    for net, batch in _DEEP:
        for schedule in ("1f1b", "gpipe"):
            options = {"microbatches": 8, "schedule": schedule}
            yield Case(f"pipeline {schedule} {net}", net, batch, HOSTS, options, Strategy.PIPELINE)
        for dp, pp, tp in ((2, 4, 1), (4, 2, 1), (2, 2, 2), (4, 1, 2)):
            microbatches = 4 if pp > 1 else 1
            options = {"dp": dp, "pp": pp, "tp": tp, "microbatches": microbatches, "algorithm": "ring"}  # fmt: skip
            yield Case(f"hybrid {dp}x{pp}x{tp} {net}", net, batch, HOSTS, options, Strategy.HYBRID)


def _mixed(what: str) -> Iterator[Case]:
    """Yield one case of each way to share the work."""
    net, batch = _NETS[0]
    ring: dict[str, str | int | bool] = {"algorithm": "ring"}
    yield Case(f"{what}: data ring", net, batch, HOSTS, ring)
    yield Case(f"{what}: data recursive_doubling", net, batch, HOSTS, {"algorithm": "recursive_doubling"})  # fmt: skip
    yield Case(f"{what}: averaging", net, batch, HOSTS, ring | {"average-every": 4}, Strategy.AVERAGING)  # fmt: skip
    net, batch = _SERVED[0]
    yield Case(f"{what}: server", net, batch, HOSTS, {"servers": 1}, Strategy.SERVER)
    net, batch = _DEEP[0]
    yield Case(f"{what}: pipeline", net, batch, HOSTS, {"microbatches": 8}, Strategy.PIPELINE)
    options = ring | {"dp": 2, "pp": 4, "tp": 1, "microbatches": 4}
    yield Case(f"{what}: hybrid 2x4x1", net, batch, HOSTS, options, Strategy.HYBRID)


def _slow_node() -> Iterator[Case]:
    slow = ((3, 2.0),)
    for case in _mixed("slow node"):
        yield _with(case, slow=slow)
    net, batch = _SERVED[0]
    yield Case("slow node: async_server", net, batch, HOSTS, {"servers": 1}, Strategy.ASYNC_SERVER, slow)  # fmt: skip


def _noise() -> Iterator[Case]:
    for noise in ("lognormal:0.1", "lognormal:0.3", "exponential:0.2"):
        for case in _mixed(f"noise {noise}"):
            if case.strategy in (Strategy.DATA, Strategy.PIPELINE, Strategy.AVERAGING):
                yield _with(case, noise=noise)


def _tiers() -> Iterator[Case]:
    yield from _mixed("two tiers")
    net, batch = _NETS[0]
    options: dict[str, str | int | bool] = {"algorithm": "hierarchical", "ranks-per-node": 2}
    yield Case("two tiers: data hierarchical", net, batch, HOSTS, options)


def _with(case: Case, slow: tuple[tuple[int, float], ...] = (), noise: str | None = None) -> Case:
    return Case(case.name, case.net, case.batch, case.ranks, case.options, case.strategy, slow, noise)  # fmt: skip
