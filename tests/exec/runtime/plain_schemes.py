"""Oracles: what schemes make of the weights, told plainly, without programs or messages.

Weights are one flat array: of each layer the (units, inputs) weights and the biases.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from exec.data.dataset import Dataset
from exec.nn.initial import initial_weights
from exec.program.peers import split_size, split_start
from exec.runtime.session import TrainingPlan

Flat = NDArray[np.float64]
Indices = NDArray[np.int64]


def start_of(plan: TrainingPlan, start: int = 0) -> Flat:
    """Return the weights that replica ``start`` begins with; of replicas that begin alike, 0."""
    pairs = enumerate(pairwise(plan.workload.widths))
    arrays = [
        (initial_weights(plan.seed, layer, k, m, np.float64, start).ravel(), np.zeros(m))
        for layer, (k, m) in pairs
    ]
    return np.concatenate([np.concatenate(pair) for pair in arrays])


def gradient(
    plan: TrainingPlan, flat: Flat, dataset: Dataset, indices: Indices
) -> tuple[float, Flat]:
    """Return the sum over the samples ``indices`` of the loss, and of its gradient."""
    widths, place, weights = plan.workload.widths, 0, []
    for k, m in pairwise(widths):
        weights.append((flat[place : place + k * m].reshape(m, k), flat[place + k * m :][:m]))
        place += k * m + m
    outputs = [dataset.train_images[indices].T.astype(np.float64)]
    for w, b in weights[:-1]:
        outputs.append(1 / (1 + np.exp(-(w @ outputs[-1] + b[:, None]))))
    w, b = weights[-1]
    logits = w @ outputs[-1] + b[:, None]
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    labels, columns = dataset.train_labels[indices], np.arange(len(indices))
    loss = -np.log(p[labels, columns]).sum()
    p[labels, columns] -= 1
    found: list[Flat] = []
    for (w, _), a in zip(reversed(weights), reversed(outputs), strict=True):
        found = [(p @ a.T).ravel(), p.sum(axis=1), *found]
        p = (w.T @ p) * a * (1 - a)
    return float(loss), np.concatenate(found)


def train_locally(
    plan: TrainingPlan, dataset: Dataset, orders: Sequence[Indices], num_replicas: int
) -> tuple[list[float], Flat]:
    """Return the losses of epochs and the weights of replicas averaged every H steps."""
    replicas = range(num_replicas)
    starts = [i if plan.has_independent_starts else 0 for i in replicas]
    w = [start_of(plan, start) for start in starts]
    v = [np.zeros_like(each) for each in w]
    seen, losses, size = [0] * num_replicas, [], plan.workload.global_batch
    for order in orders:
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        losses.append(0.0)
        for number, batch in enumerate(batches, 1):
            for i in replicas:
                first, count = (cut(len(batch), num_replicas, i) for cut in (split_start, split_size))  # fmt: skip
                loss, g = gradient(plan, w[i], dataset, batch[first : first + count])
                v[i] = plan.momentum * v[i] + g / max(1, count)
                w[i] = w[i] - plan.learning_rate * v[i]
                seen[i] += count
                losses[-1] += loss / len(order)
            every = plan.options.average_every or len(batches)
            if number % every == 0 or number == len(batches):
                mean = sum(w[i] * (seen[i] / sum(seen)) for i in replicas)
                w, seen = [mean for _ in replicas], [0] * num_replicas
    return losses, w[0]


@dataclass(slots=True)
class Served:
    """What came of asynchronous servers; ``taken`` are the samples in the order of tickets' starts.

    ``staleness`` has, for each server, how old each gradient was.
    """

    weights: Flat
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
    plan: TrainingPlan,
    dataset: Dataset,
    orders: Sequence[Indices],
    arrivals: Sequence[Sequence[int]],
) -> Served:
    """Re-enact asynchronous servers that took the messages of ``arrivals`` in that order."""
    servers, num_workers = len(arrivals), plan.mesh.dp - len(arrivals)
    w = start_of(plan)
    v = np.zeros_like(w)
    pieces = [slice(split_start(w.size, servers, s), split_start(w.size, servers, s + 1)) for s in range(servers)]  # fmt: skip
    found = Served(w, staleness=[[] for _ in arrivals])
    workers = {servers + place: _Worker(place, w.copy(), [0] * servers, v) for place in range(num_workers)}  # fmt: skip
    updates = [0] * servers

    def begin(worker: _Worker, stretches: list[Stretch], ticket: int) -> None:
        while worker.stretch < len(stretches):
            divisor, tickets = stretches[worker.stretch]
            if 0 <= ticket < len(tickets):
                samples = tickets[ticket]
                loss, g = gradient(plan, worker.pulled, dataset, samples)
                worker.gradient, worker.unanswered = g / divisor, set(range(servers))
                found.losses[-1] += loss / len(dataset.train_labels)
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
                w[piece] -= plan.learning_rate * v[piece]
                updates[s] += 1
                worker.pulled[piece], worker.versions[s] = w[piece], updates[s]
                worker.unanswered.remove(s)
                if s == servers - 1:
                    worker.ticket = grants.pop(0)
            for worker in {arrivals[s][updates[s] - 1]: workers[arrivals[s][updates[s] - 1]] for s in ready}.values():  # fmt: skip
                if not worker.unanswered:
                    begin(worker, stretches, worker.ticket)
        assert not any(worker.unanswered for worker in workers.values())
    return found
