"""Op costs: what one op of a program takes on a Machine. All that both engines share."""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache

from calibration.collective_model import Estimate
from calibration.collective_tiers import collective_estimate
from calibration.fabric import FabricModel
from calibration.features import missed
from calibration.importers.measured import Operation
from calibration.machine import Compute as ComputeSection
from calibration.machine import CopyDirection, Curve, Link, Machine, Tier
from calibration.window_model import node_barrier_s, window_sum
from exec.errors import MachineError
from exec.program.mesh import Axis, Mesh
from exec.program.ops import Algorithm, Collective, CollectiveKind, Compute, Kernel, Save, Shape
from exec.program.program import Program
from sim.collectives import larger, library_parts_s, pipelined_allreduce_s, smaller
from sim.fabric import Fabric, Pattern
from sim.network import Transfer
from sim.same import Same
from sim.steps import Step, steps
from sim.topology import Topology
from sim.work import Tally


@dataclass(slots=True)
class Costs:
    """The cost of every op on ``machine`` with ``ranks_per_node`` ranks on a node.

    ``extrapolated`` collects what was asked beyond the ranges that were measured, and
    ``collective_sigma`` the largest uncertainty of a collective that was measured for itself. With
    ``is_comm_free`` messages and collectives take no time, as on a machine of one perfect node.
    ``slowness`` says how many times longer a rank computes, in place of what the Machine says of its
    node; the first ``guests`` ranks share the nodes of the others. ``kernel_factors`` multiply what
    kernels take.
    """

    machine: Machine
    mesh: Mesh
    ranks_per_node: int
    is_comm_free: bool = False
    slowness: dict[int, float] = field(default_factory=dict)
    guests: int = 0
    kernel_factors: dict[Kernel, float] = field(default_factory=dict)
    extrapolated: set[str] = field(default_factory=set)
    collective_sigma: float = 0.0
    fabric: Fabric = field(init=False)
    _topology: Topology | None = field(init=False, default=None)
    _transfers: dict[tuple[float, int, int], Transfer] = field(init=False, default_factory=dict)
    _steps: dict[tuple[Axis, int, Pattern, int], dict[int, Step]] = field(
        init=False, default_factory=dict
    )
    _compute: ComputeSection = field(init=False)
    _slowdown: float = field(init=False)
    _known: dict[tuple[Kernel, Shape], "_Price"] = field(default_factory=dict)
    _prices: dict[tuple[Kernel, Shape], "_Price"] = field(init=False)
    _missed: dict[int, tuple[float, float]] = field(default_factory=dict)
    _estimates: dict[tuple[Operation, int, int, int], Estimate | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fabric = Fabric(self.mesh, self.ranks_per_node, self.guests)
        if self.machine.compute is None:
            raise MachineError(
                f"machine {self.machine.name} says nothing of compute; combine it with one that "
                f"does, such as local+{self.machine.name}"
            )
        self._compute = self.machine.compute
        self._prices = _prices_on(Same(self._compute))
        self._slowdown = self._busy_slowdown(self.fabric.most_on_a_node)

    def _busy_slowdown(self, busy: int) -> float:
        """Return how much slower a rank is with ``busy`` ranks on its node than alone."""
        cores = self._compute.cores_per_node
        full = self._compute.busy_slowdown
        if busy > cores:
            what = "GPUs" if self._compute.device.has_streams else "cores"
            self.extrapolated.add(f"oversubscribed: {busy} ranks on {cores} {what}")
            return full * busy / cores
        return 1.0 + (full - 1.0) * (busy - 1) / max(cores - 1, 1)

    def slowness_of(self, rank: int) -> float:
        """Return how many times longer ``rank`` computes than a rank of an ordinary node."""
        if not self.machine.node_slowness:
            return self.slowness.get(rank, 1.0)
        of_node = self.machine.node_slowness.get(self.fabric.node(rank), 1.0)
        return self.slowness.get(rank, of_node)

    @property
    def slowdown(self) -> float:
        """How many times longer a rank computes beside the others of the fullest node than alone."""
        return self._slowdown

    @property
    def step_overhead_s(self) -> float:
        """What a step costs beside its ops."""
        return self._compute.step_overhead_s

    def compute_s(self, op: Compute, held_nbytes: int) -> float:
        """Return the time of ``op`` on a rank that holds ``held_nbytes``."""
        return self.kernel_s(op.kernel, op.shape, held_nbytes)

    def kernel_s(self, kernel: Kernel, shape: Shape, held_nbytes: int) -> float:
        """Return the time of ``kernel`` on ``shape`` on a rank that holds ``held_nbytes``.

        A time is linear in the shares that the two caches miss, of which alone ``held_nbytes``
        tells: so it takes three numbers of each shape, whatever a rank holds.
        """
        alone_s = self._plain_s(kernel, shape, held_nbytes)
        return alone_s * self.kernel_factors.get(kernel, 1.0)

    def _plain_s(self, kernel: Kernel, shape: Shape, held_nbytes: int) -> float:
        key = (kernel, shape)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._prices.get(key) or self._price(kernel, shape)
            if not known.is_within:
                self.extrapolated.add(f"{kernel}: {shape}")
        inner, outer = self.missed(held_nbytes)
        if inner or outer:
            if not known.is_whole:
                known = self._known[key] = self._price(kernel, shape, is_whole=True)
            alone = known.cached_s + known.inner_s * inner + known.outer_s * outer
        else:
            alone = known.cached_s
        return alone * self._slowdown

    def plain_s(self, tally: Tally, held_nbytes: int) -> dict[Kernel, float]:
        """Return the time of each kernel of ``tally``, whatever its factor."""
        found: dict[Kernel, float] = {}
        for kernel, shape, count in tally:
            time_s = count * self._plain_s(kernel, shape, held_nbytes)
            found[kernel] = found.get(kernel, 0.0) + time_s
        return found

    def kernels_s(self, tally: Tally, held_nbytes: int) -> dict[Kernel, float]:
        """Return the time of each kernel of ``tally`` on a rank that holds ``held_nbytes``."""
        plain_s, factors = self.plain_s(tally, held_nbytes), self.kernel_factors
        return {each: time_s * factors.get(each, 1.0) for each, time_s in plain_s.items()} if factors else plain_s  # fmt: skip

    def work_s(self, tally: Tally, held_nbytes: int) -> float:
        """Return the time of ``tally`` on a rank that holds ``held_nbytes``."""
        return sum(self.kernels_s(tally, held_nbytes).values())

    def computes_as(self, other: "Costs") -> bool:
        """Say whether kernels take as long as for ``other``, but for their factors."""
        return self.machine.compute is other.machine.compute and self.slowdown == other.slowdown

    def missed(self, held_nbytes: int) -> tuple[float, float]:
        """Return the shares that the inner and the outer cache miss of what a rank holds."""
        shares = self._missed.get(held_nbytes)
        if shares is None:
            shares = missed(held_nbytes, self._compute.cache_nbytes)
            self._missed[held_nbytes] = shares
        return shares

    def parts_s(self, kernel: Kernel, shape: Shape) -> tuple[tuple[float, float, float], bool]:
        """Return the time of ``kernel`` on ``shape`` alone on a node, and whether it is within what was measured.

        That is its time if all is cached, and what it takes more if the inner or the outer cache
        misses everything.
        """
        found = self._prices.get((kernel, shape))
        if found is None or not found.is_whole:
            found = self._price(kernel, shape, is_whole=True)
        return (found.cached_s, found.inner_s, found.outer_s), found.is_within

    def _price(self, kernel: Kernel, shape: Shape, *, is_whole: bool = False) -> "_Price":
        """Return the price of ``kernel`` on ``shape``; unless it ``is_whole`` only where nothing is missed."""
        model, compute = self.machine.kernel_model(kernel), self._compute

        def time_s(inner: float, outer: float) -> float:
            shares = inner, outer
            return model.time_missing_s(
                kernel, shape, shares, compute.cache_nbytes, compute.processor
            )

        cached_s = time_s(0.0, 0.0)
        inner_s = outer_s = 0.0
        if is_whole:
            inner_s = time_s(1.0, 0.0) - cached_s
            # Behind a GPU's second level is its memory, which misses nothing.
            outer_s = 0.0 if compute.device.has_streams else time_s(0.0, 1.0) - cached_s
        found = _Price(cached_s, inner_s, outer_s, model.is_within(shape), is_whole)
        self._prices[kernel, shape] = found
        return found

    def accumulate_s(self, num_elements: int, held_nbytes: int) -> float:
        """Return the time to add ``num_elements`` received numbers."""
        if self.is_comm_free:
            return 0.0
        return self.kernel_s(Kernel.ACCUMULATE, Shape(0, 0, num_elements), held_nbytes)

    def window_s(self, num_elements: int, itemsize: int, held_nbytes: int) -> float:
        """Return the time to add ``num_elements`` numbers of another rank's window of shared memory.

        Assumes that all ranks of the node do the same at once, as those that it was measured on did. On
        a Machine that knows nothing of windows it is that of a sum in the rank's own memory.
        """
        if self.is_comm_free:
            return 0.0
        link = self.machine.links.get(Tier.NODE)
        nbytes, ranks = num_elements * itemsize, self.fabric.most_on_a_node
        found = None if link is None else window_sum(link, nbytes, ranks)
        if found is None:
            self.extrapolated.add("shared windows: not measured, taken as a rank's own memory")
            return self.accumulate_s(num_elements, held_nbytes)
        if not found.is_within:
            self.extrapolated.add(f"sum of a shared window: {nbytes} bytes")
        if ranks > found.most_ranks:
            self.extrapolated.add(f"shared windows among {ranks} ranks, measured among {found.most_ranks}")  # fmt: skip
        self.collective_sigma = max(self.collective_sigma, found.rel_sigma)
        return found.time_s

    def save_s(self, nbytes: int, num_savers: int) -> float:
        """Return the time to save ``nbytes`` while as many ranks of the node do the same.

        Assumes that a node's ranks share the bandwidth of one disk, and that the fixed costs of
        their writes pass beside each other.
        """
        storage = self.machine.storage
        if storage is None:
            raise MachineError(
                f"machine {self.machine.name} says nothing of storage, so checkpoints have no cost; "
                f"measure it with python -m calibration --storage-dir DIR, or leave "
                f"checkpoint-every out"
            )
        if not storage.nbytes.holds(nbytes * num_savers):
            self.extrapolated.add(f"checkpoint: {nbytes * num_savers} bytes a node")
        return storage.time_s(nbytes * num_savers)

    def num_savers(self, program: Program) -> int:
        """Return how many ranks save on the node that has most of them."""
        savers = Counter(
            self.fabric.node(rank)
            for role in program.roles
            if any(isinstance(op, Save) for op in role.ops)
            for rank in program.ranks_of(role)
        )
        return max(savers.values(), default=0)

    def message(self, nbytes: float, tier: Tier, sharers: float = 1.0) -> tuple[float, float]:
        """Return ``(latency_s, transfer_s)`` of a message of ``nbytes``.

        It shares its narrowest link with ``sharers`` equal ones, itself included, that begin with
        it; of a link of half the bandwidth one is as good as two. Let the curve say
        ``alpha + beta n`` for its size, and ``beta_wire`` for large ones, of which a link carries
        ``1 / beta_wire`` bytes/s. Then a message waits ``alpha``, and is a flow of n bytes that
        is never faster than ``1 / beta``: alone it takes ``alpha + beta n`` as measured, and the
        link has room for others beside it, up to n bytes every ``beta_wire n``. Where small
        messages are faster than large ones, they count as so many bytes less. So it takes

            alpha + max(beta n, min(beta, beta_wire) n sharers)

        A node's link of k lanes carries ``k / beta_wire`` bytes/s, of which ``sharers / k`` takes
        the place of ``sharers``. Inside a node a rank's link is its own copying, which nothing
        passes beside: there ``beta`` takes the place of ``beta_wire``. What a GPU's message is
        copied to the host and back for is part of ``alpha``.

        The curve is fitted to exchanges, so its ``beta`` is that of one direction of a link while
        the other is as busy: links are full duplex here, and nothing is charged for it again.
        """
        if self.is_comm_free:
            return 0.0, 0.0
        link = self.link(tier)
        self._note(link.message, nbytes, f"message ({tier}): {nbytes:.0f} bytes")
        alpha_s, beta_s_per_byte = link.message.at(nbytes)
        on_wire = beta_s_per_byte
        if tier is Tier.NETWORK:
            on_wire = smaller(on_wire, link.message.wire_s_per_byte)
        transfer_s = larger(beta_s_per_byte, on_wire * self.sharing(tier, sharers)) * nbytes
        return alpha_s + self._staging_s(link, nbytes), transfer_s

    def lanes(self, tier: Tier) -> int:
        """Return how many messages a node's link carries at once, each at its full speed."""
        is_known = tier is Tier.NETWORK and tier in self.machine.links
        return self.machine.links[tier].lanes if is_known else 1

    def sharing(self, tier: Tier, sharers: float) -> float:
        """Return how many times longer large messages take where ``sharers`` share a node's link."""
        return max(1.0, sharers / self.lanes(tier))

    def transfer(self, nbytes: float, source: int, dest: int) -> Transfer:
        """Return what a message of ``nbytes`` from rank ``source`` to another asks of the network."""
        known = self._transfers.get((nbytes, source, dest))
        if known is None:
            known = self._transfers[nbytes, source, dest] = self._transfer(nbytes, source, dest)
        return known

    def _transfer(self, nbytes: float, source: int, dest: int) -> Transfer:
        channel = (source, dest)
        if self.is_comm_free:
            return Transfer((), 0.0, channel=channel)
        tier = self.fabric.tier(source, dest)
        link = self.link(tier)
        curve = link.message
        self._note(curve, nbytes, f"message ({tier}): {nbytes:.0f} bytes")
        alpha_s, beta = curve.at(nbytes)
        alpha_s += self._staging_s(link, nbytes)
        wire = curve.wire_s_per_byte
        route: tuple[str, ...] = (f"rank{source}.out", f"rank{dest}.in")
        if tier is Tier.NETWORK:
            hops = self.topology.route(self.fabric.node(source), self.fabric.node(dest))
            route, alpha_s = hops.links, alpha_s + hops.more_latency_s
        slowest = max(beta, wire)
        if not slowest:
            return Transfer(route, 0.0, alpha_s, channel=channel)
        if tier is Tier.NODE and wire:
            return Transfer(route, nbytes * (beta / wire), alpha_s, 1.0 / wire, channel)
        return Transfer(route, nbytes * min(1.0, beta / wire) if wire else nbytes, alpha_s,
                        1.0 / slowest, channel)  # fmt: skip

    def alone(self, nbytes: float, source: int, dest: int) -> tuple[float, float]:
        """Return ``(latency_s, transfer_s)`` of a message that meets no other on its way."""
        tier = self.fabric.tier(source, dest)
        if tier is Tier.NODE or self.is_comm_free or self.is_plain:
            return self.message(nbytes, tier)
        transfer = self.transfer(nbytes, source, dest)
        narrowest = min(map(self.capacity, transfer.route))
        return transfer.latency_s, transfer.nbytes / min(narrowest, transfer.bytes_per_s)

    def waits_for_receive(self, nbytes: float, source: int, dest: int) -> bool:
        """Say whether a message does not leave before its receive is posted."""
        if self.is_comm_free:
            return False
        limit = self.link(self.fabric.tier(source, dest)).eager_limit_nbytes
        return limit is not None and nbytes > limit

    @property
    def has_limits(self) -> bool:
        """Whether some messages may wait for their receives."""
        return any(link.eager_limit_nbytes is not None for link in self.machine.links.values())

    @property
    def is_plain(self) -> bool:
        """Whether nodes are joined by a star of equal links, or nothing says otherwise."""
        return self.machine.fabric is None or self.topology.is_plain

    @property
    def topology(self) -> Topology:
        """The links between nodes."""
        if self._topology is None:
            wire = self.link(Tier.NETWORK).message.wire_s_per_byte
            model = self.machine.fabric or FabricModel()
            of_node = self.lanes(Tier.NETWORK) / wire if wire else math.inf
            found = Topology(model, self.fabric.num_nodes, of_node)
            if not (wire or found.is_plain):
                raise MachineError(
                    f"machine {self.machine.name} has a fabric, so a byte of its large messages must "
                    f"take some time, got 0 s; measure it again with python -m calibration"
                )
            self._topology = found
        return self._topology

    def capacity(self, link: str) -> float:
        """Return what ``link`` carries, in bytes/s."""
        if not link.startswith("rank"):
            return self.topology.capacity(link)
        wire = self.link(Tier.NODE).message.wire_s_per_byte
        return 1.0 / wire if wire else math.inf

    @property
    def has_bursts(self) -> bool:
        """Whether links between nodes let more pass after a rest."""
        link = self.machine.links.get(Tier.NETWORK)
        is_used = self.fabric.num_nodes > 1 and not self.is_comm_free
        return is_used and link is not None and link.burst_nbytes > 0

    def burst_nbytes(self, link: str) -> float:
        """Return how many bytes ``link`` lets pass at once after a rest."""
        return 0.0 if link.startswith("rank") else self.link(Tier.NETWORK).burst_nbytes

    def unlike_ranks(self) -> list[int]:
        """Return the ranks that compute or reach others unlike those beside them."""
        if self.fabric.num_nodes == 1 or self.is_comm_free or self.is_plain:
            return self.slow_ranks()
        # Stages talk over links of their own, and so do the groups along an axis if there are several.
        num_axes = sum(self.mesh.size(axis) > 1 for axis in Axis)
        if (self.mesh.pp > 1 or num_axes > 1) and self.mesh.world_size <= _MAX_APART:
            return list(range(self.mesh.world_size))
        return sorted({*self.slow_ranks(), *self._ranks_on(self.topology.unlike_nodes())})

    def slow_ranks(self) -> list[int]:
        """Return the ranks of which something is said of how long they compute."""
        return sorted({*self.slowness, *self._ranks_on(self.machine.node_slowness)})

    def _ranks_on(self, nodes: Collection[int]) -> list[int]:
        if not nodes:
            return []
        return [rank for rank in range(self.mesh.world_size) if self.fabric.node(rank) in nodes]

    def step(self, rank: int, axis: Axis, distance: int, pattern: Pattern, block: int = 0) -> Step:
        """Return how the group of ``rank`` sends when all ranks send by ``distance`` along ``axis``.

        With ``block`` the axis is cut into blocks of so many, and the step goes round each.
        """
        fabric = self.fabric
        if self.is_comm_free or fabric.group_tier(axis) is Tier.NODE or self.is_plain:
            hop = fabric.inner_hop(axis, block) if block else fabric.hop(axis, distance, pattern)
            return Step(*hop)
        own = self.mesh.coordinate(rank, axis) * self.mesh.stride(axis)
        return self._groups_steps(axis, distance, pattern, block)[rank - own]

    def _groups_steps(
        self, axis: Axis, distance: int, pattern: Pattern, block: int = 0
    ) -> dict[int, Step]:
        """Return the step of every group along ``axis``, by its first rank."""
        key = (axis, distance, pattern, block)
        if key not in self._steps:
            self._steps[key] = steps(self.fabric, self.topology, *key)
        return self._steps[key]

    def ring(self, axis: Axis, rank: int | None) -> Step:
        """Return the step of the ring over the group of ``rank``; without ``rank`` the least of all.

        The least is that of no group in particular: what no group can do without.
        """
        if rank is not None:
            return self.step(rank, axis, 1, Pattern.SHIFT)
        found = self._groups_steps(axis, 1, Pattern.SHIFT).values()
        tier = Tier.NETWORK if all(each.tier is Tier.NETWORK for each in found) else Tier.NODE
        return Step(tier, min(each.sharers for each in found), min(each.more_latency_s for each in found))  # fmt: skip

    def library_s(self, op: Collective, itemsize: int, rank: int | None = None) -> float:
        """Return the time of a collective that the library does, once all ranks are there.

        Inside a node first, then between nodes, as libraries do, or both at once where it is one of
        GPUs; groups that share a node share its network link. Where links are unequal or shared by
        nodes, the narrowest that a ring over the group of ``rank`` takes counts, and what its longest
        way adds in each of the library's steps; without ``rank`` it is what no group can do without.
        """
        if self.is_comm_free:
            return 0.0
        nbytes = (op.part.stop - op.part.start) * itemsize
        if (measured := self._measured(op, nbytes, rank)) is not None:
            return measured
        if (barrier_s := self._barrier_s(op, rank)) is not None:
            return barrier_s
        parts_s: dict[Tier, tuple[float, float]] = {}
        staging_s = 0.0
        for tier, count, sharers in self._tiers_of(op, rank):
            link = self.link(tier)
            self._note(link.allreduce, nbytes, f"{op.kind} ({tier}): {nbytes} bytes")
            latency_s, transfer_s = library_parts_s(nbytes, count, link.allreduce, sharers)
            if tier is Tier.NETWORK and not self.is_plain:
                latency_s += math.ceil(math.log2(count)) * self.ring(op.axis, rank).more_latency_s
            parts_s[tier] = latency_s, transfer_s
            staging_s = max(staging_s, self._staging_s(link, nbytes))
        return _SHARES[op.kind] * self.together_s(parts_s) + staging_s

    def _barrier_s(self, op: Collective, rank: int | None) -> float | None:
        """Return the time of a barrier inside a node, if that was measured."""
        tiers = self._tiers_of(op, rank)
        if op.kind is not CollectiveKind.BARRIER or [tier for tier, _, _ in tiers] != [Tier.NODE]:
            return None
        return node_barrier_s(self.link(Tier.NODE), tiers[0][1])

    def _measured(self, op: Collective, nbytes: int, rank: int | None) -> float | None:
        """Return the time of a collective as it was measured for itself, or None if it was not.

        Where other groups use a node's link too, its transfers take so many times longer.
        """
        operation = _OPERATIONS[op.kind]
        if operation not in self.machine.collectives:
            return None
        tiers = self._tiers_of(op, rank)
        nodes = next((count for tier, count, _ in tiers if tier is Tier.NETWORK), 1)
        ranks = math.prod(count for _, count, _ in tiers)
        if ranks == 1:
            return None
        found = self._estimate(operation, ranks, nodes, nbytes)
        if found is None:
            return None
        self.collective_sigma = max(self.collective_sigma, found.rel_sigma)
        if found.is_extrapolated:
            self.extrapolated.add(f"{op.kind} of {ranks} ranks on {nodes} nodes: {nbytes} bytes")
        sharers = max(sharers for _, _, sharers in tiers)
        staging_s = max(
            self._staging_s(self.machine.links[tier], nbytes) if tier in self.machine.links else 0.0
            for tier, _, _ in tiers
        )
        return found.latency_s + found.transfer_s * sharers + staging_s

    def _estimate(
        self, operation: Operation, ranks: int, nodes: int, nbytes: int
    ) -> Estimate | None:
        key = (operation, ranks, nodes, nbytes)
        if key not in self._estimates:
            self._estimates[key] = collective_estimate(
                self.machine, operation, ranks, nodes, nbytes
            )
        return self._estimates[key]

    def together_s(self, parts_s: dict[Tier, tuple[float, float]]) -> float:
        """Return the time of a library's all-reduce of such latencies and transfers on the tiers."""
        if len(parts_s) == 2 and all(self.link(tier).from_device for tier in parts_s):
            return pipelined_allreduce_s(*parts_s.values())
        return sum(map(sum, parts_s.values()))

    def tiers(self, axis: Axis, rank: int | None = None) -> list[tuple[Tier, int, float]]:
        """Return where a group along ``axis`` spans more than one rank, over how many, and how shared.

        Where other groups use a node's links too, each transfer takes so many times longer, and so
        it does where too few ranks of the node take part to drive all lanes. Where links are not all
        alike the narrowest link of a ring counts: that over the group of ``rank``, or the least narrow.
        """
        on_node, nodes, groups = self.fabric.group_nodes(axis)
        found: list[tuple[Tier, int, float]] = []
        if on_node > 1:
            found.append((Tier.NODE, on_node, 1.0))
        if nodes > 1:
            sharers: float = groups
            if not self.is_plain:
                sharers = self.ring(axis, rank).sharers
            lanes = self.lanes(Tier.NETWORK)
            found.append((Tier.NETWORK, nodes, max(sharers, lanes / min(lanes, on_node))))
        return found

    def _tiers_of(self, op: Collective, rank: int | None) -> list[tuple[Tier, int, float]]:
        """Return :meth:`tiers` of those that do ``op``: a part of the axis that is on one node, or all."""
        if op.block:
            return [(Tier.NODE, op.block, 1.0)] if op.block > 1 else []
        return self.tiers(op.axis, rank)

    def _staging_s(self, link: Link, nbytes: float) -> float:
        """Return what copies to the host and back add, if a GPU's message goes over ``link``."""
        if link.from_device or not nbytes or not self._compute.device.has_streams:
            return 0.0
        total_s = 0.0
        for direction in CopyDirection:
            if direction not in self.machine.copies:
                raise MachineError(
                    f"machine {self.machine.name} has a link between hosts and nothing of copies "
                    f"between host and GPU; measure them with python -m calibration --device gpu"
                )
            curve = self.machine.copies[direction]
            self._note(curve, nbytes, f"copy ({direction}): {nbytes:.0f} bytes")
            alpha_s, beta_s_per_byte = curve.at(nbytes)
            total_s += alpha_s + beta_s_per_byte * nbytes
        return total_s

    def note_groups(self, algorithm: Algorithm, *, has_more: bool) -> None:
        """Note the groups of ranks of sizes that were not measured, or that no closed form fits.

        Some replicas may have more samples than others (``has_more``), and come later to what they send.
        """
        for axis in (Axis.DP, Axis.TP):
            size = self.mesh.size(axis)
            on_node, nodes, _ = self.fabric.group_nodes(axis)
            for tier, count in ((Tier.NODE, on_node), (Tier.NETWORK, nodes)):
                if count > 1 and not self.link(tier).allreduce_ranks.holds(count):
                    self.extrapolated.add(f"ranks ({tier}): {count}")
            if algorithm in _DOUBLING and size & (size - 1):
                self.extrapolated.add(f"{algorithm} by an approximate closed form: {size} ranks")
        is_meeting = algorithm in (Algorithm.LIBRARY, Algorithm.SHARED_WINDOW)
        if not is_meeting and self.mesh.dp > 1 and (has_more or self.slow_ranks()):
            self.extrapolated.add(f"{algorithm} by an approximate closed form: unequal replicas")

    def link(self, tier: Tier) -> Link:
        """Return the link of ``tier``."""
        if tier not in self.machine.links:
            between = "the ranks of a node" if tier is Tier.NODE else "nodes"
            raise MachineError(
                f"machine {self.machine.name} has no link between {between}; measure it (mpiexec "
                f"-n 2 python -m calibration) or add a machine that has one, such as "
                f"{self.machine.name}+ethernet-cluster"
            )
        return self.machine.links[tier]

    def _note(self, curve: Curve, nbytes: float, what: str) -> None:
        if nbytes and not curve.nbytes.holds(nbytes):
            self.extrapolated.add(what)


@dataclass(frozen=True, slots=True)
class _Price:
    """The time of a kernel on a shape if all is cached, and what misses of either cache add."""

    cached_s: float
    inner_s: float
    outer_s: float
    is_within: bool
    is_whole: bool  # or nobody has asked yet what misses add


@lru_cache(maxsize=8)
def _prices_on(_: Same[ComputeSection]) -> dict[tuple[Kernel, Shape], _Price]:
    """Return the prices known on a machine, which all plans of a search share."""
    return {}


_MAX_APART = 512
_DOUBLING = (Algorithm.RECURSIVE_DOUBLING, Algorithm.HALVING_DOUBLING, Algorithm.BINOMIAL_TREE)
"""Exact for powers of two only."""

# An all-reduce is a reduce-scatter and an all-gather; each of these is half of one.
_SHARES = {
    CollectiveKind.ALLREDUCE: 1.0,
    CollectiveKind.ALLGATHER: 0.5,
    CollectiveKind.REDUCE_SCATTER: 0.5,
    CollectiveKind.BROADCAST: 0.5,
    CollectiveKind.REDUCE: 0.5,
    CollectiveKind.BARRIER: 1.0,
}

_OPERATIONS = {
    CollectiveKind.ALLREDUCE: Operation.ALLREDUCE,
    CollectiveKind.ALLGATHER: Operation.ALLGATHER,
    CollectiveKind.REDUCE_SCATTER: Operation.REDUCE_SCATTER,
    CollectiveKind.BROADCAST: Operation.BROADCAST,
    CollectiveKind.REDUCE: Operation.REDUCE,
    CollectiveKind.BARRIER: Operation.BARRIER,
}
