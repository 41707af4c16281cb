"""Many forecasts at once: the closed form of thousands of points, in arrays.

Points whose ranks do the same in the same order (:mod:`sim.grid_family`) are walked together
(:mod:`sim.grid_walk`), whatever their batches, nodes, algorithms and Machines. What many of them
share is asked once: a share of a batch is priced once for each processor (:mod:`sim.grid_prices`), a
plan's messages once for all Machines that differ in their links only (:mod:`sim.grid_links`). Each
has what :func:`sim.forecast.forecast` says, which answers where points cannot be walked together:
strategies that are no shape of mesh, and pipelines whose messages wait for their receives.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from calibration.machine import Compute, Machine
from exec.errors import MachineError
from exec.plan.options import PlanOptions
from exec.plan.strategy import SYNCHRONOUS
from exec.plan.window import window_size
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.costs import Costs
from sim.forecast import Breakdown
from sim.grid_family import Family, Share, Shares, family_of
from sim.grid_intervals import interval_shares
from sim.grid_links import Plan, Site, form_of, site_of, stacked
from sim.grid_prices import Priced, priced, wait_s
from sim.grid_steps import Member, Readings, Steps
from sim.placement import placed

_MOST = 4096  # points that are walked at once: what bounds the memory


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
    """What a forecast says of a point, in short; ``interval_s`` if it was asked for."""

    nodes: int
    breakdown: Breakdown
    memory_bytes: int
    is_extrapolated: bool
    interval_s: tuple[float, float] | None = None


def answers(points: Sequence[Point], *, has_interval: bool = False) -> dict[int, Answer]:
    """Return the answers to those of ``points`` that can be walked together, by their place."""
    return dict(_Grid(has_interval).answers(points))


@dataclass(frozen=True, slots=True, eq=False)
class _On:
    """A Machine: its ``row`` among those of its form, and what it makes of lanes."""

    machine: Machine
    compute: Compute
    alone: Costs
    is_held: bool
    readings: Readings
    form: tuple[object, ...]
    row: int


_Sorted = tuple[int, Point, _On, Share, tuple[object, ...]]


@dataclass(slots=True)
class _Grid:
    """What many points share; they are known by their ids, so it lives no longer than they do."""

    has_interval: bool
    _on: dict[int, _On | None] = field(default_factory=dict)
    _alone: dict[int, Costs] = field(default_factory=dict)
    _rows: dict[tuple[object, ...], list[Machine]] = field(default_factory=dict)
    _stacks: dict[tuple[object, ...], Machine] = field(default_factory=dict)
    _families: dict[Family, Shares] = field(default_factory=dict)
    _shares: dict[tuple[object, ...], Shares | None] = field(default_factory=dict)
    _sites: dict[tuple[object, ...], Site | None] = field(default_factory=dict)
    _prices: dict[tuple[int, int], Priced | None] = field(default_factory=dict)
    _waits_s: dict[tuple[int, ...], float] = field(default_factory=dict)

    def answers(self, points: Sequence[Point]) -> Iterator[tuple[int, Answer]]:
        """Yield the answers to those of ``points`` that can be walked together, with their places."""
        for readings, found in self._sorted(points):
            known = [(each, member) for each in found if (member := self._member(each)) is not None]
            for start in range(0, len(known), _MOST):
                yield from self._answered(known[start : start + _MOST], readings)

    def _sorted(self, points: Sequence[Point]) -> list[tuple[Readings, list[_Sorted]]]:
        """Return the points that can be walked together, by how."""
        groups: dict[tuple[object, ...], list[_Sorted]] = defaultdict(list)
        readings_of: dict[tuple[object, ...], Readings] = {}
        for place, point in enumerate(points):
            machine, workload, mesh, options = point.machine, point.workload, point.mesh, point.options  # fmt: skip
            on = self._on[id(machine)] if id(machine) in self._on else self._known(machine)
            if on is None or (on.is_held and mesh.pp > 1) or _has_window(point):
                continue
            plan = (id(options), on.compute.device, id(workload.network), workload.itemsize,
                    workload.has_momentum, mesh.dp > 1, mesh.pp, mesh.tp)  # fmt: skip
            if plan not in self._shares:
                self._shares[plan] = self._shares_of(point)
            shares = self._shares[plan]
            if shares is None:
                continue
            rows, more = divmod(workload.global_batch, mesh.dp)
            share = shares.of(rows, has_more=more > 0)
            if share is None:
                continue
            readings = on.readings if mesh.pp > 1 or options.overlap else Readings.LANES
            key = (id(shares), id(share.structure), readings)
            readings_of[key] = readings
            where = (id(share.traffic), mesh.dp, point.ranks_per_node, id(options),
                     more if mesh.pp > 1 else more > 0, on.form)  # fmt: skip
            groups[key].append((place, point, on, share, where))
        return [(readings_of[key], found) for key, found in groups.items()]

    def _shares_of(self, point: Point) -> Shares | None:
        """Return the shares of the family of ``point``, None if its strategy is no shape of mesh."""
        options = placed(point.options, point.machine)
        if options.strategy not in SYNCHRONOUS:
            return None
        family = family_of(point.workload, point.mesh, options)
        return self._families.setdefault(family, Shares(family))

    def _known(self, machine: Machine) -> _On | None:
        """Return what is known of ``machine``; None if its ranks are not all alike but for their places."""
        found = None
        compute = machine.compute
        if compute is not None and machine.fabric is None and not machine.node_slowness:
            form = form_of(machine)
            rows = self._rows.setdefault(form, [])
            rows.append(machine)
            is_held = any(link.eager_limit_nbytes is not None for link in machine.links.values())
            alone = self._alone.setdefault(id(compute), Costs(machine, Mesh(), 1))
            found = _On(machine, compute, alone, is_held,
                        Readings.of(machine.overlap_share), (id(rows),), len(rows) - 1)  # fmt: skip
            self._rows[found.form] = rows
        self._on[id(machine)] = found
        return found

    def _member(self, found: _Sorted) -> Member | None:
        """Return the point with its site and its prices; None if its Machine lacks something."""
        _, point, on, share, where = found
        if where not in self._sites:
            self._sites[where] = self._site(point, on, share)
        site = self._sites[where]
        key = id(share), id(on.compute)
        if key not in self._prices:
            try:
                self._prices[key] = priced(on.alone, share)
            except MachineError:
                self._prices[key] = None
        price = self._prices[key]
        if site is None or price is None:
            return None
        return Member(site, on.row, price, on.alone, on.machine.overlap_share)

    def _site(self, point: Point, on: _On, share: Share) -> Site | None:
        if on.form not in self._stacks:
            self._stacks[on.form] = stacked(self._rows[on.form])
        more = point.workload.global_batch % point.mesh.dp
        options = placed(point.options, point.machine)
        plan = Plan(point.mesh, point.ranks_per_node, point.workload.itemsize, options, share, more)
        try:
            return site_of(plan, self._stacks[on.form], len(self._rows[on.form]))
        except MachineError:
            return None

    def _answered(self, known: Sequence[tuple[_Sorted, Member]], readings: Readings) -> Iterator[tuple[int, Answer]]:  # fmt: skip
        """Yield the answers to points that are walked together."""
        steps = Steps.of([member for _, member in known], readings)
        waits_s = [self._wait_s(found, member) for found, member in known]
        shares = interval_shares(steps, waits_s) if self.has_interval else None
        parts_s = zip(steps.compute_s.tolist(), steps.exposed_s.tolist(), steps.bubble_s.tolist(), waits_s, strict=True)  # fmt: skip
        is_within = steps.is_within.tolist()
        for i, (((place, point, on, share, _), member), times_s) in enumerate(zip(known, parts_s, strict=True)):  # fmt: skip
            breakdown = Breakdown(*times_s, on.compute.step_overhead_s)
            total_s = breakdown.total_s
            if not 0 < total_s < inf:
                continue  # the forecast says why
            site = member.site
            interval_s = None if shares is None else (shares[0][i] * total_s, shares[1][i] * total_s)  # fmt: skip
            is_beyond = site.is_extrapolated or not is_within[i]
            nodes = -(-point.mesh.world_size // point.ranks_per_node)
            yield place, Answer(nodes, breakdown, share.nbytes + site.scratch_nbytes, is_beyond, interval_s)  # fmt: skip

    def _wait_s(self, found: _Sorted, member: Member) -> float:
        """Return what a step waits for slower ranks, once for all points alike."""
        _, point, on, share, _ = found
        more = point.workload.global_batch % point.mesh.dp
        key = id(member.site), id(share), id(on.compute), more
        if key not in self._waits_s:
            self._waits_s[key] = wait_s(on.compute.step_noise, member.price, point.mesh, more,
                                        point.options.num_microbatches, member.site.costs.slowdown)  # fmt: skip
        return self._waits_s[key]


def _has_window(point: Point) -> bool:
    """Say whether replicas of ``point`` share windows: their ops are others than a family's."""
    if point.options.algorithm is not Algorithm.HIERARCHICAL:
        return point.options.algorithm is Algorithm.SHARED_WINDOW
    return window_size(point.mesh, placed(point.options, point.machine)) > 1
