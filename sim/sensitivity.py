"""Sensitivity: what moves a forecast, and what does nothing to it, and why.

Each input of a forecast is made a tenth worse, and the plan is forecast again: nothing that is worse
may make a step faster, and what changes nothing is named with the reason, for people else tune what
does not matter here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from calibration.machine import Machine, Tier
from exec.plan.options import PlanOptions
from exec.plan.segment import Segment
from exec.plan.strategy import UNORDERED, Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Collective, Op, Repeat, Send
from exec.workload import Workload
from sim.fabric import Fabric
from sim.forecast import EPOCH_SAMPLES, cycle, forecast, num_guests
from sim.knobs import WORSE as WORSE  # noqa: PLC0414  # others know it from here
from sim.knobs import Inputs, Knob, knobs
from sim.placement import fits_memory, placed

_INERT = 1e-9  # relative; sums are rounded


@dataclass(frozen=True, slots=True)
class Effect:
    """``ratio`` is the step's time with ``knob`` a tenth worse over what it is.

    ``why`` says why it does nothing, if so. With a tenth less memory a plan may not fit any more:
    it then ``is_fatal``.
    """

    knob: str
    ratio: float
    why: str = ""
    is_fatal: bool = False

    @property
    def is_inert(self) -> bool:
        """Whether the knob changes nothing."""
        return abs(self.ratio - 1.0) < _INERT and not self.is_fatal


def sensitivity(
    machine: Machine, workload: Workload, mesh: Mesh, options: PlanOptions, ranks_per_node: int,
    *, slow: Sequence[tuple[int, float]] = (), shares_nodes: bool = False,
    checkpoint_every: int | None = None,
) -> list[Effect]:  # fmt: skip
    """Return the effect of every input of a forecast, the largest first.

    The options are those of :func:`sim.forecast.forecast`.
    """
    inputs = Inputs(machine, tuple(slow))
    reasons = _Reasons(inputs, workload, mesh, options, ranks_per_node, shares_nodes, checkpoint_every)  # fmt: skip

    def step_s(changed: Inputs) -> float:
        found = forecast(changed.machine, workload, mesh, options, ranks_per_node=ranks_per_node,
                         slow=changed.slow, shares_nodes=shares_nodes, checkpoint_every=checkpoint_every,
                         has_interval=False)  # fmt: skip
        return found.step_time_s

    as_it_is = forecast(machine, workload, mesh, options, ranks_per_node=ranks_per_node,
                        slow=slow, shares_nodes=shares_nodes, checkpoint_every=checkpoint_every,
                        has_interval=False)  # fmt: skip
    effects = []
    for knob in knobs(inputs):
        if knob.missing or knob.change is None:
            effects.append(Effect(knob.name, 1.0, knob.missing))
            continue
        changed = knob.change(inputs)
        found = Effect(knob.name, step_s(changed) / as_it_is.step_time_s)
        if found.is_inert:
            fits = fits_memory(changed.machine, mesh, as_it_is.memory_bytes, ranks_per_node)
            why = reasons.why(knob) if fits else ""
            found = Effect(knob.name, found.ratio, why, is_fatal=not fits)
        effects.append(found)
    return sorted(effects, key=lambda effect: -abs(effect.ratio - 1.0))


@dataclass(slots=True)
class _Reasons:
    """Why a knob does nothing to a plan, from what the plan does."""

    inputs: Inputs
    workload: Workload
    mesh: Mesh
    options: PlanOptions
    ranks_per_node: int
    shares_nodes: bool
    checkpoint_every: int | None

    def why(self, knob: Knob) -> str:
        """Return why ``knob``, which can be turned, does nothing."""
        name, compute = knob.name, self.inputs.machine.compute
        assert compute is not None
        guests = num_guests(self.options, shares_nodes=self.shares_nodes)
        fabric = Fabric(self.mesh, self.ranks_per_node, guests)
        tiers = {
            fabric.tier(rank, rank + 1)
            for rank in range(min(self.mesh.world_size - 1, guests + 2 * self.ranks_per_node))
        }
        if name == "memory of a node":
            return "the plan fits with a tenth less"
        if name == "cost of a checkpoint":
            return "no checkpoints are asked for" if self.checkpoint_every is None else "the machine states 0"  # fmt: skip
        if name == "slow-down by busy neighbours":
            return "a rank has no neighbours on its node" if fabric.most_on_a_node == 1 else _HIDDEN
        if name == "noise of a rank's steps":
            if not compute.step_noise:
                return "the machine states 0"
            return "ranks do not wait for each other" if self.mesh.world_size > 1 else "one rank waits for nobody"  # fmt: skip
        if name == "overhead of a step":
            return "the machine states 0"
        if name == "slow ranks":
            return "the slow ranks are not in the plan, or none of the others waits for them"
        if self.mesh.world_size == 1:
            return "one rank sends nothing"
        if name.startswith("time of"):
            return "the plan does none of it, or only where others are waited for anyway"
        if name == "share of a transfer that compute hides":
            return "nothing is sent while a rank computes"
        if name == "copies between host and GPU":
            return "messages do not pass through the host"
        return self._why_of_messages(name, tiers)

    def _why_of_messages(self, name: str, tiers: set[Tier]) -> str:
        ops = [op for each in self._segments() for role in each.program.roles for op in role.ops]
        ops += [inner for op in ops if isinstance(op, Repeat) for inner in op.body]
        if (
            self.options.strategy in UNORDERED
            and self.options.strategy is not Strategy.ASYNC_SERVER
        ):
            return "ranks share memory, and send nothing"
        if "tier node" in name and Tier.NODE not in tiers:
            return "no two ranks share a node"
        if "tier node" not in name and Tier.NETWORK not in tiers:
            return "all ranks are on one node"
        if "all-reduce" in name:
            return self._why_of_library(ops)
        if "message" in name and not any(map(_is_sent, ops)):
            return "the library's collectives are all that is sent"
        if name.startswith("burst"):
            return "closed forms leave it out; --engine simulate counts it"
        if "eager limit" in name:
            return "no message is larger than a tenth less and not larger than the limit, or none of those has to wait"  # fmt: skip
        if name == "latency of a hop":
            return "no message takes a longer way, or collectives were measured for themselves"
        if "uplinks" in name:
            return "the uplinks are not the narrowest link of any way that counts"
        if name == "bandwidth of single links":
            return "what these links carry is waited for by nobody"
        if name == "lanes of a node's link":
            return "what is sent at once from a node does not fill its lanes"
        return _HIDDEN

    def _why_of_library(self, ops: Sequence[Op]) -> str:
        own = [op for op in ops if isinstance(op, Collective) and self.mesh.size(op.axis) > 1]
        if not any(op.algorithm is Algorithm.LIBRARY for op in own):
            return "no collective of the plan is the library's"
        if self.inputs.machine.collectives:
            return "collectives were measured for themselves"
        return _HIDDEN

    def _segments(self) -> Sequence[Segment]:
        options = placed(self.options, self.inputs.machine)
        return cycle(self.workload, self.mesh, options, EPOCH_SAMPLES)


_HIDDEN = "the machine states 0, or it is hidden behind what takes longer"


def _is_sent(op: Op) -> bool:
    """Say whether ``op`` becomes messages of ranks to each other."""
    return isinstance(op, Send) or (isinstance(op, Collective) and op.algorithm is not Algorithm.LIBRARY)  # fmt: skip
