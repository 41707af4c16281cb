"""Oracles: what plans make of the weights, told plainly, without programs or messages.

Weights are one flat array, and running statistics another: those of :class:`Weights`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from exec.data.dataset import Dataset
from exec.nn.initial import initial_node
from exec.plan.epoch import num_trainers
from exec.plan.strategy import ROUNDS
from exec.program.peers import split_size, split_start
from exec.runtime.training_plan import TrainingPlan
from tests.exec.runtime.plain_network import Blur, Flat, PlainNetwork, exactly

Indices = NDArray[np.int64]
Learnt = tuple[Flat, Flat]
"""Weights and running statistics."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a training comes to: the loss of each epoch, the weights, the running statistics."""

    losses: list[float]
    weights: Flat
    stats: Flat


@dataclass(slots=True)
class Oracle:
    """Trains as ``plan`` says, on ``dataset``; ``blur`` rounds all that is computed."""

    plan: TrainingPlan
    dataset: Dataset
    blur: Blur = exactly

    def gradient(
        self, flat: Flat, stats: Flat, groups: Sequence[Indices]
    ) -> tuple[float, Flat, Flat]:
        """Return the sums over samples of the loss and of its gradient, and the statistics then.

        Each of ``groups``, one after the other, is normalised by its own statistics; of no samples
        there are none.
        """
        total, found = 0.0, np.zeros_like(flat)
        for group in groups:
            network = PlainNetwork(self.plan.workload.network, flat, stats, self.blur)
            images, labels = self.dataset.train_images[group], self.dataset.train_labels[group]
            loss, gradient = network.gradient(images, labels)
            total, found, stats = total + loss, found + gradient, network.stats
        return total, self.blur(found), stats

    def groups(self, batch: Indices) -> list[list[Indices]]:
        """Return, for each that has statistics of its own, the samples that it normalises together."""
        options, mesh = self.plan.options, self.plan.mesh
        sharers = mesh.tp if options.is_exchanged else 1
        found = []
        for share in _parts(batch, num_trainers(mesh, options)):
            microbatches = _parts(share, options.num_microbatches)
            found += list(zip(*(_parts(each, sharers) for each in microbatches), strict=True))
        if options.sync_batchnorm:
            return [[np.concatenate(each) for each in zip(*found, strict=True)]]
        return [list(each) for each in found]

    def train(self, orders: Sequence[Indices], starts: Sequence[Learnt] = ()) -> Told:
        """Return what epochs that take samples in ``orders`` come to.

        Replicas that train on their own may begin differently: with ``starts``, one of each.
        """
        starts = starts or [start_of(self.plan)]
        if self.plan.options.strategy in ROUNDS:
            return self._train_in_rounds(orders, starts)
        return self._train_in_step(orders, *starts[0])

    def _move(self, w: Flat, v: Flat, g: Flat) -> tuple[Flat, Flat]:
        v = self.plan.momentum * v + g
        return self.blur(w - self.plan.learning_rate * v), v

    def _train_in_step(self, orders: Sequence[Indices], w: Flat, start: Flat) -> Told:
        v, losses = np.zeros_like(w), []
        stats = [start for _ in self.groups(orders[0])]
        for order in orders:
            losses.append(0.0)
            for batch in _batches(order, self.plan.workload.global_batch):
                g = np.zeros_like(w)
                for i, groups in enumerate(self.groups(batch)):
                    loss, own, stats[i] = self.gradient(w, stats[i], groups)
                    g += own / len(batch)
                    losses[-1] += loss / len(order)
                w, v = self._move(w, v, g)
        return Told(losses, w, np.mean(stats, axis=0))

    def _train_in_rounds(self, orders: Sequence[Indices], starts: Sequence[Learnt]) -> Told:
        """Let replicas train on their own, and average their weights every H steps."""
        plan, losses = self.plan, []
        replicas = range(num_trainers(plan.mesh, plan.options))
        w = [starts[i % len(starts)][0] for i in replicas]
        stats = [starts[i % len(starts)][1] for i in replicas]
        v, seen = [np.zeros_like(each) for each in w], [0 for _ in replicas]
        for order in orders:
            batches = _batches(order, plan.workload.global_batch)
            losses.append(0.0)
            for number, batch in enumerate(batches, 1):
                for i, groups in enumerate(self.groups(batch)):
                    count = sum(map(len, groups))
                    loss, g, stats[i] = self.gradient(w[i], stats[i], groups)
                    w[i], v[i] = self._move(w[i], v[i], g / max(1, count))
                    seen[i] += count
                    losses[-1] += loss / len(order)
                every = plan.options.average_every or len(batches)
                if number % every == 0 or number == len(batches):
                    mean = sum(w[i] * (seen[i] / sum(seen)) for i in replicas)
                    w, seen = [self.blur(mean) for _ in replicas], [0 for _ in replicas]
        return Told(losses, w[0], np.mean(stats, axis=0))


def start_of(plan: TrainingPlan, start: int = 0) -> Learnt:
    """Return what replica ``start`` begins with; of replicas that begin alike, 0."""
    network = plan.workload.network
    flat, stats = [], [np.zeros(0)]
    for node in range(len(network.nodes)):
        if network.parameters(node):
            own = initial_node(network, node, plan.seed, np.float64, start)
            flat += [each.ravel() for each in (own.weight, own.bias) if each is not None]
            stats += [each for each in (own.mean, own.variance) if each is not None]
    return np.concatenate(flat), np.concatenate(stats)


def _parts(samples: Indices, count: int) -> list[Indices]:
    """Return ``samples`` cut into parts, the first ones larger by one if need be."""
    starts = [split_start(len(samples), count, i) for i in range(count)]
    sizes = [split_size(len(samples), count, i) for i in range(count)]
    return [samples[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def _batches(order: Indices, size: int) -> list[Indices]:
    return [order[i : i + size] for i in range(0, len(order), size)]


@dataclass(slots=True)
class Served:
    """What came of asynchronous servers; ``taken`` are the samples in the order of tickets' starts.

    ``staleness`` has, for each server, how old each gradient was.
    """

    weights: Flat
    stats: Flat
    losses: list[float] = field(default_factory=list)
    taken: list[list[int]] = field(default_factory=list)
    staleness: list[list[int]] = field(default_factory=list)


@dataclass(slots=True)
class _Worker:
    """A worker: the weights it pulled last, as of which updates, and its gradient under way."""

    place: int
    pulled: Flat
    versions: list[int]
    gradient: Flat
    stats: Flat
    unanswered: set[int] = field(default_factory=set)
    stretch: int = 0  # of the epoch's tickets
    ticket: int = -1


Stretch = tuple[int, list[Indices]]
"""By what gradients are divided, and the samples of each ticket."""


def tickets_of(order: Indices, batch: int, num_workers: int) -> list[Stretch]:
    """Return the tickets of an epoch: shares of whole batches, then of the last, smaller one."""
    found: list[Stretch] = []
    whole = len(order) // batch * batch
    for samples, divisor in ((order[:whole], batch), (order[whole:], len(order) - whole)):
        share = -(-divisor // num_workers) or 1
        tickets = [samples[i : i + share] for i in range(0, len(samples), share)]
        even = [each for each in tickets if len(each) == share]
        odd = [each for each in tickets if len(each) != share]
        found += [(divisor, each) for each in (even, odd) if each]
    return found


def serve(
    oracle: Oracle,
    orders: Sequence[Indices],
    arrivals: Sequence[Sequence[int]],
    start: Learnt | None = None,
) -> Served:
    """Re-enact asynchronous servers that took the messages of ``arrivals`` in that order."""
    plan = oracle.plan
    servers, num_workers = len(arrivals), plan.mesh.dp - len(arrivals)
    w, stats = start or start_of(plan)
    w = w.copy()
    v = np.zeros_like(w)
    pieces = [slice(split_start(w.size, servers, s), split_start(w.size, servers, s + 1)) for s in range(servers)]  # fmt: skip
    found = Served(w, stats, staleness=[[] for _ in arrivals])
    workers = {servers + place: _Worker(place, w.copy(), [0] * servers, v, stats) for place in range(num_workers)}  # fmt: skip
    updates = [0] * servers

    def begin(worker: _Worker, stretches: list[Stretch], ticket: int) -> None:
        while worker.stretch < len(stretches):
            divisor, tickets = stretches[worker.stretch]
            if 0 <= ticket < len(tickets):
                samples = tickets[ticket]
                loss, g, worker.stats = oracle.gradient(worker.pulled, worker.stats, [samples])
                worker.gradient, worker.unanswered = g / divisor, set(range(servers))
                found.losses[-1] += loss / len(oracle.dataset.train_labels)
                found.taken[-1] += samples.tolist()
                return
            worker.stretch += 1
            ticket = worker.place

    for order in orders:
        found.losses.append(0.0)
        found.taken.append([])
        stretches = tickets_of(order, plan.workload.global_batch, num_workers)
        grants = [
            ticket if ticket < len(tickets) else -1
            for _, tickets in stretches
            for ticket in range(num_workers, num_workers + len(tickets))
        ]
        ends = [len(each) // len(orders) * len(found.losses) for each in arrivals]
        for worker in workers.values():
            worker.stretch = 0
            begin(worker, stretches, worker.place)
        while updates != ends:
            ready = [s for s in range(servers) if updates[s] < ends[s] and s in workers[arrivals[s][updates[s]]].unanswered]  # fmt: skip
            assert ready, "these arrivals cannot have been"
            for s in ready:
                worker, piece = workers[arrivals[s][updates[s]]], pieces[s]
                found.staleness[s].append(updates[s] - worker.versions[s])
                v[piece] = plan.momentum * v[piece] + worker.gradient[piece]
                w[piece] = oracle.blur(w[piece] - plan.learning_rate * v[piece])
                updates[s] += 1
                worker.pulled[piece], worker.versions[s] = w[piece], updates[s]
                worker.unanswered.remove(s)
                if s == servers - 1:
                    worker.ticket = grants.pop(0)
            for worker in {arrivals[s][updates[s] - 1]: workers[arrivals[s][updates[s] - 1]] for s in ready}.values():  # fmt: skip
                if not worker.unanswered:
                    begin(worker, stretches, worker.ticket)
        assert not any(worker.unanswered for worker in workers.values())
    found.stats = np.mean([worker.stats for worker in workers.values()], axis=0)
    return found
