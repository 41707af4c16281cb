"""Many forecasts at once: the closed form of thousands of points, in arrays.

Points whose plans are of one family (:mod:`sim.grid_family`) are walked together
(:mod:`sim.grid_walk`): they may differ in batch, replicas, nodes, algorithm and all that a Machine
says of links. What they have in common, prices of kernels and of collectives, is asked once. Each
has what :func:`sim.forecast.forecast` says, which answers where points cannot be walked together:
strategies that are no shape of mesh, and pipelines whose messages wait for their receives.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from calibration.machine import Machine
from exec.noise import Noise
from exec.plan.nodes import node_size
from exec.plan.options import PlanOptions
from exec.plan.strategy import SYNCHRONOUS
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Collective, Kernel, Shape
from exec.program.program import Program, Role
from exec.workload import Workload
from sim.costs import Costs
from sim.forecast import Breakdown
from sim.grid_family import Replica, family_of, replica_of
from sim.grid_walk import StageTimes, computed_s, walk
from sim.memory import collective_nbytes
from sim.placement import placed
from sim.priced import collective_s
from sim.waits import Pipeline, meeting_wait_s, pipeline_wait_s


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One forecast to make."""

    machine: Machine
    workload: Workload
    mesh: Mesh
    options: PlanOptions
    ranks_per_node: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a forecast says of a point, in short."""

    nodes: int
    breakdown: Breakdown
    memory_bytes: int
    is_extrapolated: bool


@dataclass(frozen=True, slots=True)
class _Site:
    """What a point's links and neighbours cost; arrays by turn, share of the batch and tp class."""

    nodes: int
    slowdown: float
    collectives: tuple[NDArray[np.float64], ...]  # by stage
    sends: tuple[NDArray[np.float64], ...]  # by stage; latency and transfer come last
    is_extrapolated: bool
    collective_nbytes: int


@dataclass(slots=True)
class Grid:
    """What many points share."""

    _sites: dict[tuple[object, ...], _Site] = field(default_factory=dict)
    _scratch: dict[tuple[object, ...], int] = field(default_factory=dict)
    _prices: dict[tuple[int, int], "_Priced"] = field(default_factory=dict)
    _waits_s: dict[tuple[object, ...], float] = field(default_factory=dict)

    def answers(self, points: Sequence[Point]) -> dict[int, Answer]:
        """Return the answers to those of ``points`` that can be walked together, by their place."""
        groups: dict[tuple[object, ...], list[tuple[int, Point, tuple[Replica, ...]]]] = (
            defaultdict(list)
        )
        for place, point in enumerate(points):
            if not _is_regular(point):
                continue
            options = placed(point.options, point.machine)
            family = family_of(point.workload, point.mesh, options)
            rows, more = divmod(point.workload.global_batch, point.mesh.dp)
            shares = (rows + 1, rows) if more else (rows,)
            replicas = tuple(found for each in shares if (found := replica_of(family, each)))
            if len(replicas) < len(shares) or any(each.structure != replicas[0].structure for each in replicas):  # fmt: skip
                continue
            key = (id(point.machine.compute), family, len(shares), _readings(point))
            groups[key].append((place, point, replicas))
        answers: dict[int, Answer] = {}
        for group in groups.values():
            answers |= self._group(group)
        return answers

    def _group(self, group: list[tuple[int, Point, tuple[Replica, ...]]]) -> dict[int, Answer]:
        """Return the answers to points of one family."""
        first, replicas = group[0][1], group[0][2]
        sites = [self._site(point, own) for _, point, own in group]
        turns = [parts[0].turns for parts in replicas[0].parts]
        slowdown = np.array([site.slowdown for site in sites])
        priced = [self._priced(first, replica) for replica in {id(each): each for _, _, own in group for each in own}.values()]  # fmt: skip
        at = {id(each.replica): place for place, each in enumerate(priced)}
        index = np.array([[at[id(each)] for each in own] for _, _, own in group]).T  # D x P
        times, free = [], []
        for stage in range(len(turns)):
            # replicas x T x turns, then D x P x T x turns, then turns x D x T x P
            computed = np.moveaxis(np.array([each.computed[stage] for each in priced])[index], (3, 0, 2, 1), (0, 1, 2, 3))  # fmt: skip
            computed = computed * slowdown
            collectives = np.stack([site.collectives[stage] for site in sites], axis=-1)
            sends = np.stack([site.sends[stage] for site in sites], axis=-1)
            own = StageTimes(list(computed), list(collectives), list(sends[..., 0, :]), list(sends[..., 1, :]))  # fmt: skip
            times.append(own)
            none = [np.zeros_like(each) for each in own.transfers]
            free.append(StageTimes(own.computed, [np.zeros_like(each) for each in own.collectives], none, none))  # fmt: skip
        busy = computed_s(times)
        readings = _readings(first)
        share = np.array([point.machine.overlap_share for _, point, _ in group])
        if readings == "lanes":
            step = walk(turns, times, one_lane=False)
        else:
            step = walk(turns, times, one_lane=True)
            if readings == "both":
                step = share * walk(turns, times, one_lane=False) + (1.0 - share) * step
        bubble = np.zeros_like(busy)
        if first.mesh.pp > 1:
            bubble = np.maximum(0.0, walk(turns, free, one_lane=False) - busy)
        exposed = np.maximum(0.0, step - busy - bubble)
        found = {}
        for i, (place, point, own_replicas) in enumerate(group):
            site, compute = sites[i], point.machine.compute
            assert compute is not None
            wait_s = self._wait_s(
                point, compute.step_noise, [priced[j] for j in index[:, i]], site.slowdown
            )
            parts = Breakdown(float(busy[i]), float(exposed[i]), float(bubble[i]), wait_s, compute.step_overhead_s)  # fmt: skip
            nbytes = max(part.nbytes for each in own_replicas for stage in each.parts for part in stage)  # fmt: skip
            beyond = site.is_extrapolated or any(not priced[j].is_within for j in index[:, i])
            found[place] = Answer(site.nodes, parts, nbytes + site.collective_nbytes, bool(beyond))  # fmt: skip
        return found

    def _wait_s(self, point: Point, noise: Noise | None, shares: Sequence["_Priced"], slowdown: float) -> float:  # fmt: skip
        """Return what :func:`sim.forecast.forecast` says that a step waits, once for all points alike."""
        if noise is None:
            return 0.0
        key = (noise, point.mesh, point.workload.global_batch % point.mesh.dp, point.options.num_microbatches,
               slowdown, *map(id, shares))  # fmt: skip
        if key not in self._waits_s:
            self._waits_s[key] = _wait_s(point, noise, shares, slowdown)
        return self._waits_s[key]

    def _priced(self, point: Point, replica: Replica) -> "_Priced":
        key = (id(replica), id(point.machine.compute))
        if key not in self._prices:
            self._prices[key] = _priced(Costs(point.machine, Mesh(), 1), replica)
        return self._prices[key]

    def _site(self, point: Point, replicas: tuple[Replica, ...]) -> _Site:
        """Return what the links and neighbours of ``point`` cost, asked once for all points alike."""
        is_library = point.options.algorithm is Algorithm.LIBRARY
        sizes = tuple(
            (part.collectives, part.sent, 0 if is_library else part.nbytes)
            for replica in replicas for stage in replica.parts for part in stage
        )  # fmt: skip
        where = (point.mesh, point.ranks_per_node, point.options.algorithm)
        key = (id(point.machine), *where, point.workload.itemsize, sizes)
        if key not in self._sites:
            scratch = (*where, point.workload.itemsize, sizes)
            if scratch not in self._scratch:
                self._scratch[scratch] = _scratch_nbytes(point, replicas)
            self._sites[key] = _site(point, replicas, self._scratch[scratch])
        return self._sites[key]


@dataclass(frozen=True, slots=True, eq=False)
class _Priced:
    """A replica's times alone on a node: arrays by tp class and turn, for each stage."""

    replica: Replica
    computed: tuple[NDArray[np.float64], ...]
    is_within: bool


def _priced(costs: Costs, replica: Replica) -> _Priced:
    is_within = True
    stages = []
    for parts in replica.parts:
        rows = []
        for part in parts:
            row = []
            for turn in part.computed:
                total_s = 0.0
                for kernel, shape in turn:
                    time_s, within = _alone_s(costs, kernel, shape, part.nbytes)
                    total_s += time_s
                    is_within = is_within and within
                row.append(total_s)
            rows.append(row)
        stages.append(np.array(rows))
    return _Priced(replica, tuple(stages), is_within)


def _wait_s(point: Point, noise: Noise, shares: Sequence[_Priced], slowdown: float) -> float:
    """Return what a step waits for slower ranks: see :mod:`sim.waits`."""
    mesh, count = point.mesh, point.options.num_microbatches
    # By share of the batch, stage and tp class.
    computes_s = [[(stage.sum(axis=1) * slowdown).tolist() for stage in each.computed] for each in shares]  # fmt: skip
    if mesh.pp > 1:
        stages_s = tuple(max(map(max, stage)) / count for stage in zip(*computes_s, strict=True))
        return pipeline_wait_s(noise, Pipeline(stages_s, count), mesh)
    more = point.workload.global_batch % mesh.dp
    ranks: Counter[float] = Counter()
    for each, own, replicas in zip(
        shares, computes_s, (more or mesh.dp, mesh.dp - more), strict=False
    ):
        for part, compute_s in zip(each.replica.parts[0], own[0], strict=True):
            ranks[compute_s] += replicas * len(part.tp)
    return meeting_wait_s(noise, ranks)


def _alone_s(costs: Costs, kernel: Kernel, shape: Shape, held: int) -> tuple[float, bool]:
    (cached_s, inner_s, outer_s), within = costs.parts_s(kernel, shape)
    inner, outer = costs.missed(held)
    return cached_s + inner_s * inner + outer_s * outer, within


def _site(point: Point, replicas: tuple[Replica, ...], scratch_nbytes: int) -> _Site:
    mesh, itemsize = point.mesh, point.workload.itemsize
    costs = Costs(point.machine, mesh, point.ranks_per_node)
    costs.note_groups(point.options.algorithm)
    first = 0, point.workload.global_batch % mesh.dp  # of each share of the batch
    collectives, sends = [], []
    for stage in range(mesh.pp):
        taken, sent = [], []
        for replica, dp in zip(replicas, first, strict=False):
            for part in replica.parts[stage]:
                rank = (dp * mesh.pp + stage) * mesh.tp + part.tp.start
                taken.append([collective_s(costs, _with(op, point), itemsize, rank, part.nbytes) for op in part.collectives])  # fmt: skip
                sent.append([costs.alone(nbytes, rank, rank + (other - stage) * mesh.tp) for nbytes, other in part.sent])  # fmt: skip
        shape = (len(replicas), len(replicas[0].parts[stage]))
        collectives.append(np.array(taken).reshape(*shape, -1).transpose(2, 0, 1))
        sends.append(np.array(sent).reshape(*shape, -1, 2).transpose(2, 0, 1, 3))
    return _Site(costs.fabric.num_nodes, costs.slowdown, tuple(collectives), tuple(sends),
                 bool(costs.extrapolated), scratch_nbytes)  # fmt: skip


def _scratch_nbytes(point: Point, replicas: tuple[Replica, ...]) -> int:
    """Return the scratch of the collectives that are sends and receives."""
    roles = []
    for stage, parts in enumerate(replicas[0].parts):
        for place, part in enumerate(parts):
            ops = {_with(op, point): None for each in replicas for op in each.parts[stage][place].collectives}  # fmt: skip
            roles.append(Role("", range(point.mesh.dp), range(stage, stage + 1), part.tp, tuple(ops)))  # fmt: skip
    program = Program(point.mesh, point.workload.itemsize, tuple(roles))
    return collective_nbytes(program, point.options)


def _with(op: Collective, point: Point) -> Collective:
    """Return ``op`` by the algorithm of ``point``."""
    algorithm = point.options.algorithm
    if algorithm is Algorithm.LIBRARY:
        return op
    size = 1
    if algorithm is Algorithm.HIERARCHICAL:
        size = node_size(point.mesh, op.axis, point.options.ranks_per_node)
    return replace(op, algorithm=algorithm, node_size=size)


def _is_regular(point: Point) -> bool:
    """Say whether the ranks of ``point`` are all alike but for their place in the mesh."""
    machine, options = point.machine, point.options
    is_held = any(link.eager_limit_nbytes is not None for link in machine.links.values())
    return (
        options.strategy in SYNCHRONOUS
        and options.algorithm is not Algorithm.SHARED_WINDOW
        and machine.fabric is None
        and not machine.node_slowness
        and machine.compute is not None
        and not (point.mesh.pp > 1 and is_held)
    )


def _readings(point: Point) -> str:
    """Return which readings of the lanes :func:`sim.forecast.step_times` takes."""
    share = point.machine.overlap_share
    if (point.mesh.pp == 1 and not point.options.overlap) or share == 1.0:
        return "lanes"
    return "turns" if share == 0.0 else "both"
