"""Bounds for programs without a closed form: ranks that wait for a server or a lock in any order.

The ranks are customers of a closed network: each computes for a while, and then visits stations
that serve one at a time. Whatever the order, no station serves faster than it can, and no visit
waits for more than all other customers once. Bounds hold for times that do not vary, and for
their means in the long run where they do.

Source: E. D. Lazowska, J. Zahorjan, G. S. Graham and K. C. Sevcik, "Quantitative System
Performance", Prentice-Hall 1984, chapter 5 (asymptotic bounds); P. J. Denning and J. P. Buzen,
"The operational analysis of queueing network models", ACM Comput. Surv. 10 (1978) 225-261.
"""

from dataclasses import dataclass

from calibration.machine import Tier
from exec.program.ops import Acquire, Compute, Op, Receive, Release, Send
from exec.program.peers import AnyRank, Sender
from exec.program.program import Program, Role
from sim.costs import Costs
from sim.result import StepTimes
from sim.work import has_lock


def is_asynchronous(program: Program) -> bool:
    """Say whether ranks of ``program`` take turns in an order that only the run can tell."""
    return program.tickets > 0 or any(has_lock(role.ops) for role in program.roles)


def bounds(program: Program, costs: Costs) -> StepTimes:
    """Return the least and the most time of ``program``, which must be asynchronous."""
    return _served(program, costs) if program.tickets else _locked(program, costs)


@dataclass(frozen=True, slots=True)
class _Visit:
    """What one gradient of one worker costs at one server, nobody else being there."""

    update_s: float
    latency_s: float
    push_s: float
    pull_s: float
    tier: Tier
    is_held: bool  # until its receive is posted

    @property
    def busy_s(self) -> float:
        """How long it holds the server, its answer included."""
        return self.update_s + self.latency_s + self.pull_s


def _served(program: Program, costs: Costs) -> StepTimes:
    """Return the bounds of a run of N tickets by W workers and their servers.

        T >= max(N max_s min_w busy_ws, N / sum_w 1 / c_w)
        T <= (N + W) / sum_w 1 / u_w + max_w u_w

    ``c_w`` is a worker's cycle when nobody else is there, to the last server at least; ``u_w`` one
    in which every message and every update waits for the longest of all other workers.
    """
    workers = [(role, rank) for role in program.roles if role.until for rank in program.ranks_of(role)]  # fmt: skip
    servers = [role for role in program.roles if _serves(role)]
    visits = [[_visit(program, server, rank, costs) for server in servers] for _, rank in workers]
    compute_s = [_compute_s(role.ops, role, rank, costs) for role, rank in workers]
    alone_s, crowded_s = [], 0.0
    is_plain = costs.fabric.num_nodes == 1 or costs.is_plain
    for own, took_s in zip(visits, compute_s, strict=True):
        last = own[-1]
        # Pushes share the worker's own link, if it has one lane; where links differ it need not be
        # the narrowest.
        is_shared = is_plain and costs.lanes(last.tier) == 1
        pushes_s = sum(each.push_s for each in own if each is last or (is_shared and each.tier is last.tier))  # fmt: skip
        alone_s.append(took_s + last.latency_s + pushes_s + last.busy_s)
    for each in zip(*visits, strict=True):  # of one server, by worker
        push_s, update_s = max(v.push_s for v in each), max(v.update_s for v in each)
        latency_s = max(v.latency_s for v in each)
        pulls_s = max(sum(v.pull_s for v in own) for own in visits)
        crowded_s += latency_s + len(workers) * (push_s + update_s + latency_s + pulls_s)
        if any(v.is_held for v in each):  # latencies of pushes pass in turn too
            crowded_s += len(workers) * latency_s
    if len(servers) > 1 and any(v.is_held for own in visits for v in own):
        # A server waits for a worker to come from another one, where it may wait for all others.
        crowded_s *= len(workers)
    tickets = program.tickets
    alone = tickets / sum(1.0 / each for each in alone_s)
    busiest = max(min(v.busy_s for v in each) for each in zip(*visits, strict=True))
    crowded = [each + crowded_s for each in compute_s]
    upper_s = (tickets + len(workers)) / sum(1.0 / each for each in crowded) + max(crowded)
    mean_compute_s = tickets / sum(1.0 / each for each in compute_s)
    return StepTimes(max(alone, tickets * busiest), mean_compute_s, upper_s=upper_s)


def _serves(role: Role) -> bool:
    return any(isinstance(op, Receive) and isinstance(op.peer, AnyRank) for op in role.ops)


def _visit(program: Program, server: Role, worker: int, costs: Costs) -> _Visit:
    rank = next(iter(program.ranks_of(server)))
    tier = costs.fabric.tier(rank, worker)
    push_s = pull_s = latency_s = 0.0
    is_held = False
    for op in server.ops:
        if isinstance(op, Receive | Send):
            nbytes = op.part.size * program.itemsize
            is_held = is_held or costs.waits_for_receive(nbytes, worker, rank)
            if isinstance(op, Receive):
                latency_s, push_s = costs.alone(nbytes, worker, rank)
            else:
                assert isinstance(op.peer, Sender)
                latency_s, pull_s = costs.alone(nbytes, rank, worker)
    update_s = _compute_s(server.ops, server, rank, costs)
    return _Visit(update_s, latency_s, push_s, pull_s, tier, is_held)


def _locked(program: Program, costs: Costs) -> StepTimes:
    """Return the bounds of one step, of many, of ranks that update under a lock.

        T >= max(max_w (c_w + s_w), sum_w s_w)
        T <= max_w c_w + sum_w s_w

    ``c_w`` is what a rank does outside the lock, ``s_w`` inside it.
    """
    outside, inside = [], []
    for role in program.roles:
        start = next(i for i, op in enumerate(role.ops) if isinstance(op, Acquire))
        stop = next(i for i, op in enumerate(role.ops) if isinstance(op, Release))
        for rank in program.ranks_of(role):
            inside.append(_compute_s(role.ops[start:stop], role, rank, costs))
            outside.append(_compute_s(role.ops, role, rank, costs) - inside[-1])
    both = [c + s for c, s in zip(outside, inside, strict=True)]
    return StepTimes(max(*both, sum(inside)), max(both), upper_s=max(outside) + sum(inside))


def _compute_s(ops: tuple[Op, ...], role: Role, rank: int, costs: Costs) -> float:
    total_s = sum(costs.compute_s(op, role.nbytes) for op in ops if isinstance(op, Compute))
    return total_s * costs.slowness_of(rank)
