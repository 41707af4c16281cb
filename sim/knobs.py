"""Knobs: every input of a forecast, each with what makes it a tenth worse.

What a Machine does not state is a knob too, that cannot be turned: the reason says so.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from calibration.fabric import FabricKind, FabricModel, LinkSpeed
from calibration.importers.measured import Operation
from calibration.machine import Curve, Machine, Tier
from exec.program.ops import Kernel

WORSE = 1.1
"""By which factor a cost is made larger."""

_PRODUCTS = frozenset({
    Kernel.LINEAR, Kernel.LINEAR_BACKWARD, Kernel.LINEAR_BACKWARD_FIRST,
    Kernel.CONV, Kernel.CONV_BACKWARD, Kernel.CONV_BACKWARD_FIRST,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a forecast is made of beside the plan; ``slow`` as in :func:`sim.forecast.forecast`."""

    machine: Machine
    slow: tuple[tuple[int, float], ...] = ()


Change = Callable[[Inputs], Inputs]


@dataclass(frozen=True, slots=True)
class Knob:
    """An input by its ``name``, and what makes it worse; or why there is nothing to make worse."""

    name: str
    change: Change | None = None
    missing: str = ""


def knobs(inputs: Inputs) -> Iterator[Knob]:
    """Yield every input that a forecast may lean on."""
    machine = inputs.machine
    yield Knob("time of matrix products and convolutions", _kernels(_PRODUCTS))
    yield Knob("time of all other kernels", _kernels(frozenset(Kernel) - _PRODUCTS))
    yield Knob("overhead of a step", _of_compute("step_overhead_s", WORSE))
    yield Knob("slow-down by busy neighbours", _of_compute("busy_slowdown", WORSE))
    yield Knob("noise of a rank's steps", _noisier)
    yield Knob("memory of a node", _less_memory)
    is_slow = bool(inputs.slow or machine.node_slowness)
    yield Knob("slow ranks", _slower, "" if is_slow else "none is told to be slow")
    for tier in Tier:
        if tier not in machine.links:
            yield Knob(f"link of tier {tier}", None, "the machine states none")
            continue
        for name in ("message", "allreduce"):
            what = f"{'all-reduce' if name == 'allreduce' else name} of tier {tier}"
            yield Knob(f"latency of the {what}", _of_link(tier, name, alpha=WORSE))
            yield Knob(f"transfer time of the {what}", _of_link(tier, name, beta=WORSE))
        has_limit = machine.links[tier].eager_limit_nbytes is not None
        yield Knob(f"eager limit of tier {tier}", _lower_limit(tier), "" if has_limit else "none is stated, so all messages leave at once")  # fmt: skip
    if Tier.NETWORK in machine.links:
        one = machine.links[Tier.NETWORK].lanes == 1
        yield Knob("lanes of a node's link", _fewer_lanes, "one lane is the least" if one else "")
        bursts = machine.links[Tier.NETWORK].burst_nbytes > 0
        yield Knob(
            "burst of nodes' links after a rest", _smaller_burst, "" if bursts else "none was found"
        )
    yield from _of_fabric(machine)
    for operation in machine.collectives:
        yield Knob(f"time of {operation} as it was measured", _of_collective(operation))
    if not machine.collectives:
        yield Knob("measured collectives", None, "the machine states none")
    yield Knob("copies between host and GPU", _of_copies, "" if machine.copies else "the machine states none")  # fmt: skip
    yield Knob("share of a transfer that compute hides", _less_overlap, "" if machine.overlap_share else "the machine states 0")  # fmt: skip
    yield Knob("cost of a checkpoint", _of_storage, "" if machine.storage else "the machine states none")  # fmt: skip


def _of_fabric(machine: Machine) -> Iterator[Knob]:
    fabric = machine.fabric
    kind = FabricKind.STAR if fabric is None else fabric.kind
    no_racks = f"a {kind} has no uplinks"
    for name, key, factor in (
        ("bandwidth of uplinks", "uplink_bytes_per_s", 1.0 / WORSE),
        ("oversubscription of uplinks", "oversubscription", WORSE),
    ):
        stated = fabric is not None and getattr(fabric, key) is not None
        missing = no_racks if kind is not FabricKind.TREE else "uplinks are stated in the other way"
        yield Knob(name, _of_model(key, factor), "" if stated else missing)
    hops = fabric is not None and fabric.hop_latency_s > 0
    yield Knob("latency of a hop", _of_model("hop_latency_s", WORSE), "" if hops else "the fabric states 0")  # fmt: skip
    told = fabric is not None and bool(fabric.links)
    yield Knob("bandwidth of single links", _slower_links, "" if told else "none is unlike the others")  # fmt: skip


def _on_machine(change: Callable[[Machine], dict[str, object]]) -> Change:
    """Return the change that replaces these parts of the Machine."""
    return lambda inputs: replace(
        inputs, machine=inputs.machine.model_copy(update=change(inputs.machine))
    )


def _kernels(chosen: frozenset[Kernel]) -> Change:
    def change(machine: Machine) -> dict[str, object]:
        assert machine.compute is not None
        kernels = {
            kernel: model.model_copy(update={
                "coefficients_s": {name: each * WORSE for name, each in model.coefficients_s.items()}
            }) if kernel in chosen else model
            for kernel, model in machine.compute.kernels.items()
        }  # fmt: skip
        return {"compute": machine.compute.model_copy(update={"kernels": kernels})}

    return _on_machine(change)


def _of_compute(name: str, factor: float) -> Change:
    def change(machine: Machine) -> dict[str, object]:
        assert machine.compute is not None
        update = {name: getattr(machine.compute, name) * factor}
        return {"compute": machine.compute.model_copy(update=update)}

    return _on_machine(change)


def _worse_curve(curve: Curve, alpha: float, beta: float) -> Curve:
    segments = tuple(
        each.model_copy(update={
            "alpha_s": each.alpha_s * alpha, "beta_s_per_byte": each.beta_s_per_byte * beta,
        })
        for each in curve.segments
    )  # fmt: skip
    return curve.model_copy(update={"segments": segments})


def _of_link(tier: Tier, name: str, alpha: float = 1.0, beta: float = 1.0) -> Change:
    """Return the change of a curve; bandwidths stated of single links are of the same wires.

    Else a network of slower messages would be less shared, and its all-reduces faster.
    """

    def change(machine: Machine) -> dict[str, object]:
        link = machine.links[tier]
        worse = link.model_copy(update={name: _worse_curve(getattr(link, name), alpha, beta)})
        changed: dict[str, object] = {"links": {**machine.links, tier: worse}}
        if tier is Tier.NETWORK and name == "message" and machine.fabric is not None:
            changed["fabric"] = _narrower(machine.fabric, beta)
        return changed

    return _on_machine(change)


def _narrower(fabric: FabricModel, factor: float) -> FabricModel:
    uplink = fabric.uplink_bytes_per_s
    links = {
        name: speed if speed.bytes_per_s is None else LinkSpeed(bytes_per_s=speed.bytes_per_s / factor)
        for name, speed in fabric.links.items()
    }  # fmt: skip
    return fabric.model_copy(
        update={"links": links, "uplink_bytes_per_s": uplink and uplink / factor}
    )


def _lower_limit(tier: Tier) -> Change:
    def change(machine: Machine) -> dict[str, object]:
        link = machine.links[tier]
        assert link.eager_limit_nbytes is not None
        lower = link.model_copy(update={"eager_limit_nbytes": link.eager_limit_nbytes / WORSE})
        return {"links": {**machine.links, tier: lower}}

    return _on_machine(change)


@_on_machine
def _fewer_lanes(machine: Machine) -> dict[str, object]:
    """Take one lane away. The all-reduce of ranks that drive them all has one less to drive too."""
    link = machine.links[Tier.NETWORK]
    fewer = link.lanes / (link.lanes - 1)
    worse = link.model_copy(update={
        "lanes": link.lanes - 1, "allreduce": _worse_curve(link.allreduce, 1.0, fewer),
    })  # fmt: skip
    collectives = {name: model.slower(fewer) for name, model in machine.collectives.items()}
    return {"links": {**machine.links, Tier.NETWORK: worse}, "collectives": collectives}


def _of_model(key: str, factor: float) -> Change:
    def change(machine: Machine) -> dict[str, object]:
        assert machine.fabric is not None
        update = {key: getattr(machine.fabric, key) * factor}
        return {"fabric": machine.fabric.model_copy(update=update)}

    return _on_machine(change)


@_on_machine
def _slower_links(machine: Machine) -> dict[str, object]:
    assert machine.fabric is not None
    slower = {
        name: LinkSpeed(share=speed.share / WORSE)
        if speed.share is not None
        else LinkSpeed(bytes_per_s=(speed.bytes_per_s or 0.0) / WORSE)
        for name, speed in machine.fabric.links.items()
    }
    return {"fabric": machine.fabric.model_copy(update={"links": slower})}


def _of_collective(operation: Operation) -> Change:
    return _on_machine(
        lambda machine: {
            "collectives": {
                **machine.collectives,
                operation: machine.collectives[operation].slower(WORSE),
            }
        }
    )


@_on_machine
def _of_copies(machine: Machine) -> dict[str, object]:
    return {"copies": {way: _worse_curve(each, WORSE, WORSE) for way, each in machine.copies.items()}}  # fmt: skip


@_on_machine
def _smaller_burst(machine: Machine) -> dict[str, object]:
    link = machine.links[Tier.NETWORK]
    smaller = link.model_copy(update={"burst_nbytes": link.burst_nbytes / WORSE})
    return {"links": {**machine.links, Tier.NETWORK: smaller}}


@_on_machine
def _less_overlap(machine: Machine) -> dict[str, object]:
    return {"overlap_share": machine.overlap_share / WORSE}


@_on_machine
def _of_storage(machine: Machine) -> dict[str, object]:
    storage = machine.storage
    assert storage is not None
    update = {"fixed_s": storage.fixed_s * WORSE, "s_per_byte": storage.s_per_byte * WORSE}
    return {"storage": storage.model_copy(update=update)}


@_on_machine
def _noisier(machine: Machine) -> dict[str, object]:
    assert machine.compute is not None
    noise = machine.compute.step_noise
    return {"compute": machine.compute.with_noise(None if noise is None else noise.scaled(WORSE))}


@_on_machine
def _less_memory(machine: Machine) -> dict[str, object]:
    assert machine.compute is not None
    less = int(machine.compute.memory_nbytes / WORSE)
    return {"compute": machine.compute.model_copy(update={"memory_nbytes": less})}


def _slower(inputs: Inputs) -> Inputs:
    """Let all who compute longer than others compute a tenth longer still."""
    nodes = {
        node: factor * (WORSE if factor > 1 else 1.0)
        for node, factor in inputs.machine.node_slowness.items()
    }
    slow = tuple((rank, factor * (WORSE if factor > 1 else 1.0)) for rank, factor in inputs.slow)
    return Inputs(inputs.machine.model_copy(update={"node_slowness": nodes}), slow)
