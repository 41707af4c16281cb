"""Shards put together to the network, and shared out again for another mesh.

Every weight lies in the shards of one (stage, tp_rank), once for each replica that counts. Replicas
that differ, as those of strategies that let them drift do, are averaged with equal weights. So are
the running statistics of all that train.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from exec.errors import ModelFileError
from exec.network.network import Network
from exec.nn.backend import Array, Indices
from exec.nn.weights import Weights, empty_weights
from exec.plan.layout import Layout, check_mesh, layout_of
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.runtime.checkpoint.manifest import Manifest, PlanRecord, Role, ShardRecord
from exec.runtime.checkpoint.shard import Held, read_shard
from exec.runtime.pieces import Pairs, mean_of, parameter_pairs, share_of, stat_positions
from exec.workload import Workload


@dataclass(frozen=True, slots=True)
class Whole:
    """The whole network; ``velocity`` is laid out as the weights are, None without momentum."""

    weights: Weights
    velocity: Weights | None


def restore(
    folder: Path, manifest: Manifest, workload: Workload, plan: PlanRecord, rank: int, held: Held
) -> None:
    """Fill the arrays of ``held``, which ``rank`` of ``plan`` holds, from a checkpoint.

    Where strategy, mesh, stages and range are those of the shard the rank itself wrote, its bits
    come back; else it gets its share of the whole network.

    Raises:
        ModelFileError: a shard is missing or damaged.
    """
    found: dict[str, Array] = {}
    if owns_shard(manifest, plan, rank, held):
        found |= read_shard(folder, manifest, rank).tensors
    elif owns_stats(manifest, plan, rank, held):
        found["stats"] = read_shard(folder, manifest, rank).tensors["stats"]
    wanted = {name: array for name, array in held.tensors.items() if array.size}
    if wanted.keys() - found.keys():
        whole = read_network(folder, manifest, workload)
        layout = _layout(workload.network, plan, *plan.mesh.coordinates(rank)[1:])
        parameters, stats = share_of(layout, whole.weights)
        shares = {"parameters": parameters[held.start : held.stop], "stats": stats}
        if whole.velocity is not None:
            shares["velocity"] = share_of(layout, whole.velocity)[0][held.start : held.stop]
        found = shares | found
    for name, array in wanted.items():
        array[...] = found[name]


def owns_shard(manifest: Manifest, plan: PlanRecord, rank: int, held: Held) -> bool:
    """Say whether the shard of ``rank`` is just what it holds under ``plan``."""
    if not _is_same_place(manifest, plan, rank):
        return False
    record = manifest.shards[rank]
    return (record.role, record.start, record.stop, record.num_stats) == (
        held.role,
        held.start,
        held.stop,
        held.num_stats,
    )


def owns_stats(manifest: Manifest, plan: PlanRecord, rank: int, held: Held) -> bool:
    """Say whether the running statistics in the shard of ``rank`` are its own under ``plan``."""
    return (
        held.num_stats > 0
        and _is_same_place(manifest, plan, rank)
        and manifest.shards[rank].num_stats == held.num_stats
    )


def _is_same_place(manifest: Manifest, plan: PlanRecord, rank: int) -> bool:
    """Say whether ``rank`` had the same place in the training that wrote the checkpoint."""
    old, new = ((p.strategy, p.mesh, p.stages) for p in (manifest.plan, plan))
    return old == new and rank < len(manifest.shards)


def read_network(folder: Path, manifest: Manifest, workload: Workload) -> Whole:
    """Return the whole network that the shards hold.

    Raises:
        ModelFileError: a shard is missing or damaged.
    """
    weights = empty_weights(workload.network, manifest.dtype)
    velocity = empty_weights(workload.network, manifest.dtype)
    stats: list[tuple[Indices | slice, Array]] = []
    for layout, ranks in _places(manifest, workload):
        counted = [rank for rank in ranks if _counts(manifest.shards[rank])]
        shards = [read_shard(folder, manifest, rank) for rank in counted]
        kept = [shard for shard in shards if shard.role is Role.REPLICA]
        for array, place in ("parameters", weights), ("velocity", velocity):
            parts = [(slice(each.start, each.stop), each.tensors[array]) for each in kept if array in each.tensors]  # fmt: skip
            flat = mean_of(layout.num_parameters, manifest.dtype, parts)
            _put(parameter_pairs(layout, flat, place))
        positions = stat_positions(layout)
        stats += [(positions, each.stats) for each in shards if each.stats is not None]
    weights.stats[...] = mean_of(weights.stats.size, manifest.dtype, stats)
    return Whole(weights, velocity if manifest.has_momentum else None)


def check_coverage(manifest: Manifest, workload: Workload) -> None:
    """Raise :class:`ModelFileError` unless the shards that count hold every weight."""
    for layout, ranks in _places(manifest, workload):
        records = [manifest.shards[rank] for rank in ranks]
        reached = 0
        kept = [record for record in records if record.role is Role.REPLICA]
        for record in sorted(kept, key=lambda each: each.start):
            if record.start > reached:
                break
            reached = max(reached, record.stop)
        place = f"the shards of stage {layout.stage}, tp_rank {layout.tp_rank}"
        if reached != layout.num_parameters:
            raise ModelFileError(
                f"{place} must hold {layout.num_parameters} parameters, got them up to {reached}"
            )
        counts = {record.num_stats for record in records if record.num_stats}
        if counts != ({layout.num_stats} if layout.num_stats else set()):
            raise ModelFileError(
                f"{place} must hold {layout.num_stats} running statistics, got "
                f"{' and '.join(map(str, sorted(counts))) or 'none'}"
            )


def _places(manifest: Manifest, workload: Workload) -> Iterator[tuple[Layout, list[int]]]:
    """Yield the layout of each (stage, tp_rank), and the ranks that were there."""
    plan, mesh, network = manifest.plan, manifest.plan.mesh, workload.network
    check_mesh(Workload(network, mesh.dp), mesh, _options(plan))
    for stage, tp_rank in product(range(mesh.pp), range(mesh.tp)):
        ranks = [
            rank
            for rank, record in enumerate(manifest.shards)
            if (record.stage, record.tp_rank) == (stage, tp_rank)
        ]
        yield _layout(network, plan, stage, tp_rank), ranks


def _layout(network: Network, plan: PlanRecord, stage: int, tp_rank: int) -> Layout:
    return layout_of(network, plan.mesh, stage, tp_rank, _options(plan))


def _options(plan: PlanRecord) -> PlanOptions:
    """Return all that a layout asks of options: where stages begin, and whether the batch is exchanged."""
    strategy = Strategy.KRIZHEVSKY if plan.strategy == Strategy.KRIZHEVSKY else Strategy.HYBRID
    return PlanOptions(strategy=strategy, stages=plan.stages)


def _counts(record: ShardRecord) -> bool:
    """Say whether there is anything of the network in a shard."""
    return record.role is Role.REPLICA or record.num_stats > 0


def _put(pairs: Pairs) -> None:
    """Set the whole network's arrays from a rank's."""
    for _, own, place in pairs:
        place[...] = own
