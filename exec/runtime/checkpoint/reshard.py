"""Shards put together to the network, and shared out again for another mesh.

Every weight lies in the shards of one (stage, tp_rank), once for each replica that counts. Replicas
that differ, as those of strategies that let them drift do, are averaged with equal weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from exec.errors import ModelFileError
from exec.nn.backend import DTYPES, Array
from exec.plan.layout import Layout, check_mesh, layout_of
from exec.runtime.checkpoint.manifest import Manifest, PlanRecord, Role
from exec.runtime.checkpoint.shard import Held, read_shard
from exec.runtime.weights import Weights, empty_weights
from exec.workload import Workload


@dataclass(frozen=True, slots=True)
class Network:
    """The whole network; ``velocity`` is laid out as the weights are, None without momentum."""

    parameters: Weights
    velocity: Weights | None


def restore(
    folder: Path, manifest: Manifest, workload: Workload, plan: PlanRecord, rank: int, held: Held
) -> None:
    """Fill the arrays of ``held``, which ``rank`` of ``plan`` holds, from a checkpoint.

    Where strategy, mesh and range are those of the shard the rank itself wrote, its bits come
    back; else it gets its share of the whole network.

    Raises:
        ModelFileError: a shard is missing or damaged.
    """
    if owns_shard(manifest, plan, rank, held):
        found = read_shard(folder, manifest, rank).tensors
    elif held.parameters.size:
        network = read_network(folder, manifest, workload)
        layout = layout_of(workload.widths, plan.mesh, *plan.mesh.coordinates(rank)[1:])
        found = {"parameters": share_of(layout, network.parameters)[held.start : held.stop]}
        if network.velocity is not None:
            found["velocity"] = share_of(layout, network.velocity)[held.start : held.stop]
    else:
        return
    for name, array in held.tensors.items():
        array[...] = found[name]


def owns_shard(manifest: Manifest, plan: PlanRecord, rank: int, held: Held) -> bool:
    """Say whether the shard of ``rank`` is just what it holds under ``plan``."""
    written = manifest.plan
    if (written.strategy, written.mesh) != (plan.strategy, plan.mesh) or rank >= len(manifest.shards):  # fmt: skip
        return False
    record = manifest.shards[rank]
    return (record.role, record.start, record.stop) == (held.role, held.start, held.stop)


def read_network(folder: Path, manifest: Manifest, workload: Workload) -> Network:
    """Return the whole network that the shards hold.

    Raises:
        ModelFileError: a shard is missing or damaged.
    """
    _, parameters = empty_weights(workload, manifest.dtype)
    _, velocity = empty_weights(workload, manifest.dtype)
    for layout, ranks in _places(manifest, workload):
        shards = [read_shard(folder, manifest, rank) for rank in ranks]
        pieces = [(shard.start, shard.parameters) for shard in shards]
        _put_together(layout, parameters, pieces)
        if manifest.has_momentum:
            pieces = [(held.start, held.velocity) for held in shards if held.velocity is not None]
            _put_together(layout, velocity, pieces)
    return Network(parameters, velocity if manifest.has_momentum else None)


def share_of(layout: Layout, weights: Weights) -> Array:
    """Return the flat range that ``layout`` lists of the whole network's ``weights``."""
    flat = np.empty(layout.num_parameters, weights[0][0].dtype)
    for own, place in _places_of(layout, flat, weights):
        own[...] = place
    return flat


def check_coverage(manifest: Manifest, workload: Workload) -> None:
    """Raise :class:`ModelFileError` unless the shards that count hold every weight."""
    for layout, ranks in _places(manifest, workload):
        records = sorted((manifest.shards[rank] for rank in ranks), key=lambda each: each.start)
        reached = 0
        for record in records:
            if record.start > reached:
                break
            reached = max(reached, record.stop)
        if reached != layout.num_parameters:
            raise ModelFileError(
                f"the shards of stage {layout.stage}, tp_rank {layout.tp_rank} must hold "
                f"{layout.num_parameters} parameters, got them up to {reached}"
            )


def _places(manifest: Manifest, workload: Workload) -> Iterator[tuple[Layout, list[int]]]:
    """Yield the layout of each (stage, tp_rank), and the ranks whose shards of it count."""
    mesh = manifest.plan.mesh
    check_mesh(Workload(workload.widths, mesh.dp), mesh, 1)
    for stage, tp_rank in product(range(mesh.pp), range(mesh.tp)):
        ranks = [
            rank
            for rank, record in enumerate(manifest.shards)
            if (record.stage, record.tp_rank, record.role) == (stage, tp_rank, Role.REPLICA)
        ]
        yield layout_of(workload.widths, mesh, stage, tp_rank), ranks


def _places_of(layout: Layout, flat: Array, weights: Weights) -> Iterator[tuple[Array, Array]]:
    """Yield each piece of a rank's ``flat`` range beside its place in the whole network."""
    for shard in layout.shards:
        weight, bias = weights[shard.layer]
        units = slice(shard.out_start, shard.out_stop)
        start = layout.offset(shard.layer)
        middle = start + shard.num_units * shard.num_inputs
        own = flat[start:middle].reshape(shard.num_units, shard.num_inputs)
        yield own, weight[units, shard.in_start : shard.in_stop]
        if shard.has_bias:
            yield flat[middle : middle + shard.num_units], bias[units]


def _put_together(layout: Layout, weights: Weights, pieces: list[tuple[int, Array]]) -> None:
    """Set a layout's share of ``weights`` from ``pieces`` of its flat range."""
    dtype = weights[0][0].dtype.name
    for own, place in _places_of(layout, _mean(layout.num_parameters, dtype, pieces), weights):
        place[...] = own


def _mean(size: int, dtype: str, pieces: list[tuple[int, Array]]) -> Array:
    """Return the mean in float64 of the ``pieces`` of each element; equal ones keep their bits."""
    first = np.zeros(size, DTYPES[dtype])
    total, count, differs = np.zeros(size), np.zeros(size, int), np.zeros(size, bool)
    for start, array in pieces:
        part = slice(start, start + array.size)
        first[part] = np.where(count[part] > 0, first[part], array)
        differs[part] |= first[part] != array
        total[part] += array
        count[part] += 1
    first[differs] = total[differs] / count[differs]
    return first
