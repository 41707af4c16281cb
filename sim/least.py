"""The least that a step can take: a bound so cheap that a search may ask it of every plan.

Whatever stages are cut, whatever messages take and however long single ranks compute: a rank
computes its share no faster than an ordinary one, and a microbatch passes all stages there and back.
Let L_s be what stage s computes for a microbatch, W the sum of all L_s, and m the microbatches. Stage
s begins after one forward pass of all stages before it, and they end with one backward pass after
it, so

    T >= max_s (sum_{j < s} L_j + m L_s) >= W / (1 - (1 - 1 / m)^pp)

The last holds for any shares L_s: they are all equal to T at best, so L_s = T / m (1 - 1 / m)^s.

What ranks of a tp group say to each other counts as computing: nothing else goes on then. Some rank
of a stage has at least its share of all parameters, and all-reduces their gradient in the end. Which
group that is nobody knows, so where links differ the group counts whose links are best.
"""

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from calibration.importers.measured import Operation
from calibration.machine import Machine, Tier
from exec.network.modules import Conv2d, Flatten, Linear, Profiled
from exec.network.network import INPUT, Network
from exec.plan.layout import Layout, held_elements, layout_of
from exec.plan.options import PlanOptions
from exec.plan.places import STAGE_INPUT
from exec.plan.schedule import num_slots
from exec.plan.shards import Split
from exec.plan.strategy import SYNCHRONOUS
from exec.plan.window import window_size
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Algorithm, Collective, CollectiveKind, Kernel, Shape
from exec.program.peers import Part, split_size
from exec.workload import Workload, backward_kernels, forward_kernels
from sim.costs import Costs
from sim.same import Same


@dataclass(frozen=True, slots=True)
class _Stage:
    """What a stage takes for a microbatch, what it is given in, and what it does after the last."""

    forward_s: float
    backward_s: float
    tail_s: float
    given_s: float
    slots: int


@dataclass(slots=True)
class _Known:
    """What is known of a workload on ranks that are so busy, whatever their number."""

    nodes_s: dict[tuple[int, int, Hashable], float] = field(default_factory=dict)
    kernels_s: dict[tuple[int, int, int, int, bool, int], tuple[float, float]] = field(
        default_factory=dict
    )
    takers: Counter[int] = field(default_factory=Counter)
    alike: dict[int, int] = field(default_factory=dict)


@lru_cache(maxsize=16)  # the searches of a forecast share it
def _known_of(_: Same[Machine], __: Workload, ___: float) -> _Known:
    return _Known()


@dataclass(slots=True)
class Least:
    """The bounds of plans of one workload, on ranks as busy as ``costs`` says, without factors."""

    costs: Costs
    workload: Workload
    _known: "_Known" = field(init=False)

    def __post_init__(self) -> None:
        on = self.costs
        self._known = _known_of(Same(on.machine), self.workload, on.slowdown)

    def step_s(self, mesh: Mesh, options: PlanOptions) -> float:
        """Return what a step on ``mesh`` takes at least; of strategies that are no mesh nothing is known.

        ``mesh`` must have as many ranks as that of ``costs``.
        """
        if options.strategy not in SYNCHRONOUS:
            return 0.0
        count = options.num_microbatches
        rows = split_size(split_size(self.workload.global_batch, mesh.dp, 0), count, count - 1)
        says = options.algorithm is Algorithm.LIBRARY
        on = replace(self.costs, mesh=mesh) if says and mesh.tp > 1 else None
        where = None if on is None else tuple(on.tiers(Axis.TP)) if on.is_plain else mesh
        key = (mesh.tp, rows, where)
        if key not in self._known.nodes_s:
            self._known.nodes_s[key] = sum(
                times * self._node_s(node, mesh.tp, rows, on)
                for node, times in self._alike().items()
            )
        least_s = self._known.nodes_s[key] / (1.0 - (1.0 - 1.0 / count) ** mesh.pp)
        if not says or options.overlap or mesh.dp == 1:
            return least_s
        nbytes = self.workload.num_parameters * self.workload.itemsize / (mesh.pp * mesh.tp)
        reduced_s = self._reduced_s(mesh, nbytes)
        return least_s + reduced_s if mesh.pp == 1 else max(least_s, reduced_s)

    def _reduced_s(self, mesh: Mesh, nbytes: float) -> float:
        """Return what the all-reduces of gradients of ``nbytes`` take at least, in however many buckets."""
        if Operation.ALLREDUCE in self.costs.machine.collectives:
            return 0.0  # a measured time may fall where another size is summed in another way
        on = replace(self.costs, mesh=mesh)
        parts_s = {}
        for tier, ranks, sharers in on.tiers(Axis.DP):
            segments = on.link(tier).allreduce.segments
            alpha_s = min(each.alpha_s for each in segments)
            beta_s = min(each.beta_s_per_byte for each in segments)
            traffic = 2.0 * (ranks - 1) / ranks * nbytes * sharers
            parts_s[tier] = math.ceil(math.log2(ranks)) * alpha_s, traffic * beta_s
        return on.together_s(parts_s)

    def cut_step_s(self, mesh: Mesh, options: PlanOptions) -> float:
        """Return what :meth:`step_s` does, of the stages that ``options`` cut: closer, and dearer.

        What a rank holds is known then, and so is what its caches miss, and what passes between
        stages. Let F_s and B_s be what stage s computes for a microbatch there and back, with what its
        tp group says meanwhile, X_s the message to the next stage or back, and U_s its all-reduce and
        its update, which begin once its last microbatch is back. That one goes back from s to any stage
        k before it, so

            T >= sum_{j < s} (F_j + X_j) + m p_s (F_s + B_s) + sum_{k <= j < s} (X_j + B_j) + U_k

        Stage s computes p_s times longer in the replica that has its slowest rank; of all other stages
        and ranks no more is known than that they are no faster than ordinary ones. And no more
        microbatches than a stage has slots w_s are on their way from it and back to it at once, so
        m p_s (F_s + B_s) may also be

            ceil(m / w_s) (F_s + B_s + sum_{j >= s} 2 X_j + sum_{j > s} (F_j + B_j))
        """
        if options.strategy not in SYNCHRONOUS:
            return 0.0
        count, stages = options.num_microbatches, self._stages(mesh, options)
        paces = self._paces(mesh)
        beyond_s, trips_s = 0.0, []
        for each in reversed(stages):
            beyond_s += each.forward_s + each.backward_s
            trips_s.append(-(-count // each.slots) * beyond_s)
            beyond_s += 2.0 * each.given_s
        # back_s is the longest of what follows a stage's last microbatch.
        there_s = least_s = back_s = 0.0
        for each, pace, trip_s in zip(stages, paces, reversed(trips_s), strict=True):
            there_s += each.given_s
            back_s = max(each.tail_s, back_s + each.given_s)
            busy_s = max(count * pace * (each.forward_s + each.backward_s), trip_s)
            least_s = max(least_s, there_s + busy_s + back_s)
            there_s += each.forward_s
            back_s += each.backward_s
        return least_s

    def _stages(self, mesh: Mesh, options: PlanOptions) -> list["_Stage"]:
        count, workload = options.num_microbatches, self.workload
        share = split_size(workload.global_batch, mesh.dp, mesh.dp - 1)
        most, rows = split_size(share, count, 0), split_size(share, count, count - 1)
        says = options.algorithm is Algorithm.LIBRARY
        on = replace(self.costs, mesh=mesh)
        found: list[_Stage] = []
        for stage in range(mesh.pp):
            layout = layout_of(workload.network, mesh, stage, 0, options)
            slots = num_slots(options.schedule, stage, mesh.pp, count)
            held = held_elements(layout, workload, slots, most) * workload.itemsize
            forward_s = backward_s = 0.0
            for each in layout.shards:
                learns = layout.learns_before(each.node)
                there_s, back_s = self._kernels_s(each.node, rows, each.num_inputs, each.num_outputs, learns, held)  # fmt: skip
                forward_s, backward_s = forward_s + there_s, backward_s + back_s
            if says and mesh.tp > 1 and not (on.machine.collectives and most != rows):
                there_s, back_s = self._said_s(on, layout, rows)
                forward_s, backward_s = forward_s + there_s, backward_s + back_s
            own = -(-layout.num_parameters // window_size(mesh, options))
            update = Shape(0, int(workload.has_momentum), own)
            tail_s = self.costs.kernel_s(Kernel.UPDATE, update, held)
            if says and not options.overlap and mesh.dp > 1:
                tail_s += self._reduced_s(mesh, layout.num_parameters * workload.itemsize)
            given_s = 0.0
            if stage:
                nbytes = workload.network.width(layout.input) * rows * workload.itemsize
                given_s = self._message_s(on, nbytes)
            found.append(_Stage(forward_s, backward_s, tail_s, given_s, slots))
        return found

    def _said_s(self, on: Costs, layout: Layout, rows: int) -> tuple[float, float]:
        """Return what a tp group says to each other there and back before it computes on."""
        network = self.workload.network
        there_s = back_s = 0.0
        for each in layout.shards:
            elements = network.width(layout.places.home[each.node]) * rows
            if each.split is Split.ROW:
                there_s += self._summed_s(on, elements)
            if each.gathers and (layout.is_last or each is not layout.shards[-1]):
                there_s += self._summed_s(on, elements, CollectiveKind.ALLGATHER)
            for home in layout.places.completed.get(each.node, ()):
                if home != STAGE_INPUT and layout.sums_gradient(home):
                    back_s += self._summed_s(on, network.width(home) * rows)
        return there_s, back_s

    def _message_s(self, on: Costs, nbytes: float) -> float:
        """Return what a message between stages takes, wherever they are."""
        tiers = [Tier.NETWORK] if on.ranks_per_node == 1 and not on.guests else [*on.machine.links]
        return min((sum(on.message(nbytes, tier)) for tier in tiers), default=0.0)

    def _paces(self, mesh: Mesh) -> list[float]:
        """Return how many times longer each stage computes in the replica that has its slowest rank.

        Of a tp group the first rank is counted, so its pace is that which all of them have at least.
        """
        paces, slow = [1.0] * mesh.pp, set(self.costs.slow_ranks())
        for rank in slow:
            group = mesh.group(rank, Axis.TP)
            if slow.issuperset(group):
                stage, least = (
                    mesh.coordinate(rank, Axis.PP),
                    min(map(self.costs.slowness_of, group)),
                )
                paces[stage] = max(paces[stage], least)
        return paces

    def _kernels_s(self, node: int, rows: int, inputs: int, outputs: int, has_grad_input: bool, held: int = 0) -> tuple[float, float]:  # fmt: skip
        """Return what ``node`` computes there and back."""
        key = (node, rows, inputs, outputs, has_grad_input, held)
        if key not in self._known.kernels_s:
            module = self.workload.network.nodes[node].module
            shape = self.workload.shape(node, rows, inputs, outputs)
            ways = forward_kernels(module), backward_kernels(module, has_grad_input=has_grad_input)
            forward_s, backward_s = (
                sum(self.costs.kernel_s(each, shape, held) for each in kernels) for kernels in ways
            )
            self._known.kernels_s[key] = forward_s, backward_s
        return self._known.kernels_s[key]

    def _node_s(self, node: int, tp: int, rows: int, on: Costs | None) -> float:
        """Return the least that the first of ``tp`` ranks computes of ``node``, there and back.

        It has at least as many channels as any other, of the input, the output, or both. With ``on``
        it also sums the output, or the gradient of the input, over the group.
        """
        network = self.workload.network
        each = network.nodes[node]
        inputs, outputs = network.shape(each.inputs[0])[0], each.shape[0]
        # Later stages learn from all that they are given, so no cut makes a gradient needless.
        learns = layout_of(network, Mesh(), 0, 0).learns_before(node)
        own_in, own_out = -(-inputs // tp), -(-outputs // tp)
        if not isinstance(each.module, Linear | Conv2d | Profiled):
            ways = {(own_in, own_out), (inputs, outputs)}
            return min(sum(self._kernels_s(node, rows, *way, learns)) for way in ways)
        by_columns_s = sum(self._kernels_s(node, rows, inputs, own_out, learns))
        by_rows_s = sum(self._kernels_s(node, rows, own_in, outputs, learns))
        if on is not None:
            # Of several layers that take one value, the gradients are summed together.
            sharers = self._takers()[_behind_flattens(network, each.inputs[0])]
            by_columns_s += (
                self._summed_s(on, network.width(each.inputs[0]) * rows) * learns / sharers
            )
            by_rows_s += self._summed_s(on, network.width(node) * rows)
        return min(by_columns_s, by_rows_s)

    def _alike(self) -> dict[int, int]:
        """Return the nodes that no node before them is like, and how many are like each."""
        network = self.workload.network
        if not self._known.alike:
            layout = layout_of(network, Mesh(), 0, 0)
            firsts: dict[Hashable, int] = {}
            for node, each in enumerate(network.nodes):
                value = each.inputs[0]
                sharers = self._takers()[_behind_flattens(network, value)]
                kind = each.module, network.shape(value), each.shape, layout.learns_before(node), sharers  # fmt: skip
                first = firsts.setdefault(kind, node)
                self._known.alike[first] = self._known.alike.get(first, 0) + 1
        return self._known.alike

    def _takers(self) -> Counter[int]:
        """Return how many nodes with weights take each value."""
        network = self.workload.network
        if not self._known.takers:
            self._known.takers.update(
                _behind_flattens(network, each.inputs[0])
                for each in network.nodes
                if isinstance(each.module, Linear | Conv2d | Profiled)
            )
        return self._known.takers

    def _summed_s(
        self, on: Costs, elements: int, kind: CollectiveKind = CollectiveKind.ALLREDUCE
    ) -> float:
        """Return the time of an all-reduce over a tp group, or of a part of one."""
        op = Collective("", kind, Part("", 0, elements), Axis.TP)
        return on.library_s(op, self.workload.itemsize)


def _behind_flattens(network: Network, value: int) -> int:
    """Return the value that ``value`` looks at in another way, or itself."""
    while value != INPUT and isinstance(network.nodes[value].module, Flatten):
        value = network.nodes[value].inputs[0]
    return value
