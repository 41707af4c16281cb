"""What a training would hold after a step, drawn from a seed, and checkpoints of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from exec.network.network import mlp
from exec.nn.backend import Array
from exec.nn.weights import Weights, empty_weights
from exec.plan.layout import layout_of
from exec.plan.options import PlanOptions
from exec.plan.stages import stage_nodes
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.peers import Part
from exec.runtime.buffers import Buffers
from exec.runtime.checkpoint.find import Found, newest_good
from exec.runtime.checkpoint.manifest import PlanRecord, Progress
from exec.runtime.checkpoint.reshard import restore
from exec.runtime.checkpoint.shard import Held
from exec.runtime.checkpoint.store import Store, begin, resume
from exec.runtime.weights import gather_weights, scatter_weights
from exec.transport.protocol import Transport
from exec.transport.threads import run_threads
from exec.workload import Workload

SEED = 7


@dataclass(frozen=True, slots=True)
class Training:
    """A pretended training of a small network; ``cuts`` are the first nodes of later stages."""

    mesh: Mesh = field(default_factory=lambda: Mesh(dp=2))
    workload: Workload = field(default_factory=lambda: Workload(mlp(6, 5, 4, 3), 8, 4, True))
    strategy: str = "hybrid"
    cuts: tuple[int, ...] = ()

    @property
    def dtype(self) -> str:
        """The type of its numbers."""
        return {4: "float32", 8: "float64"}[self.workload.itemsize]

    @property
    def plan(self) -> PlanRecord:
        """How it is shared."""
        mesh, stages = self.mesh, stage_nodes(self.workload.network, self.mesh.pp, self.cuts)
        return PlanRecord(strategy=self.strategy, dp=mesh.dp, pp=mesh.pp, tp=mesh.tp,
                          stages=tuple(stage.start for stage in stages[1:]))  # fmt: skip

    def begin(self, directory: Path, wire: Transport, **options: object) -> Store:
        """Return a new store."""
        return begin(directory, self.workload, self.dtype, self.plan, wire, **options)  # type: ignore[arg-type]  # by name

    def resume(self, directory: Path, wire: Transport, **options: object) -> tuple[Store, Found]:
        """Return the store and checkpoint to go on from."""
        return resume(directory, self.workload, self.dtype, self.plan, wire, **options)  # type: ignore[arg-type]  # by name

    def find(self, directory: Path, ranks: int = 1) -> Found:
        """Return the newest good checkpoint, found by so many ranks."""
        return run_threads(ranks, lambda wire: newest_good(directory, self.workload, self.dtype, wire))[0]  # fmt: skip

    def weights(self, step: int) -> tuple[Weights, Weights]:
        """Return the weights and velocities after ``step``; the latter have no statistics."""
        generator = np.random.Generator(np.random.PCG64([SEED, step]))
        drawn = [empty_weights(self.workload.network, self.dtype) for _ in range(2)]
        for each in drawn:
            each.parameters[...] = generator.standard_normal(each.parameters.size)
        drawn[0].stats[...] = generator.standard_normal(drawn[0].stats.size)
        return drawn[0], drawn[1]

    def buffers(self, rank: int, step: int | None = None) -> Buffers:
        """Return what ``rank`` holds after ``step``, or zeros."""
        network, place = self.workload.network, self.mesh.coordinates(rank)[1:]
        options = PlanOptions(stages=self.cuts)
        layout = layout_of(network, self.mesh, *place, options)
        role = plan_step(self.workload, self.mesh, options).role_of(rank)
        buffers = Buffers(self.workload, layout, role, 1, 0, self.dtype)
        if step is not None:
            weights, velocity = self.weights(step)
            if buffers.velocity is not None:
                scatter_weights(buffers, velocity)
                buffers.velocity[...] = buffers.parameters
            scatter_weights(buffers, weights)
        return buffers

    def write(self, store: Store, step: int) -> None:
        """Write what this rank holds after ``step``."""
        held = held_by(self.buffers(store.transport.rank, step))
        store.write(progress_at(step), held, {"loss_sums": [step / 3]})

    def write_steps(self, directory: Path, steps: Sequence[int], **options: object) -> None:
        """Write a checkpoint after each of ``steps``, on ranks that are threads."""

        def body(wire: Transport) -> None:
            store = self.begin(directory, wire, **options)
            for step in steps:
                self.write(store, step)

        run_threads(self.mesh.world_size, body)

    def restored(self, found: Found, wire: Transport) -> Buffers:
        """Return what this rank of this training gets from the checkpoint ``found``."""
        buffers = self.buffers(wire.rank)
        restore(found.folder, found.manifest, self.workload, self.plan, wire.rank, held_by(buffers))  # fmt: skip
        return buffers

    def loaded(self, found: Found) -> tuple[list[Array], list[Array]]:
        """Return the whole weights and velocities that the ranks get from ``found``, and gather.

        Where there is no momentum, the second are the first again.
        """

        def body(wire: Transport) -> tuple[list[Array], list[Array]]:
            buffers = self.restored(found, wire)
            is_owner = self.mesh.coordinates(wire.rank)[0] == self.mesh.dp - 1
            owned = Part("param", 0, buffers.layout.num_parameters) if is_owner else None
            weights = gather_weights(buffers, wire, owned)
            if buffers.velocity is not None:
                buffers.parameters[...] = buffers.velocity
            return arrays(weights), arrays(gather_weights(buffers, wire, owned))

        return run_threads(self.mesh.world_size, body)[0]

    def is_right(self, found: Found) -> bool:
        """Say whether ``found`` gives every bit that was held after the step it is of."""
        weights, velocity = self.weights(found.manifest.progress.num_steps)
        expected = weights, velocity if self.workload.has_momentum else weights
        loaded = self.loaded(found)
        parameters = [got[0].tobytes() for got in loaded]
        return parameters == [each.parameters.tobytes() for each in expected] and all(
            got[1].tobytes() == weights.stats.tobytes() for got in loaded
        )


def arrays(weights: Weights) -> list[Array]:
    """Return all numbers of ``weights``."""
    return [weights.parameters, weights.stats]


def progress_at(step: int) -> Progress:
    """Return a progress of ``step`` steps, eight of which are an epoch."""
    epoch, epoch_step = divmod(step, 8)
    return Progress(
        num_steps=step, epoch=epoch + 1, epoch_step=epoch_step, epoch_samples=8 * epoch_step, seed=SEED,
        random_state={"state": [2**64 - 1, 0]}, epochs=[{"epoch": e + 1, "loss": 1 / 3} for e in range(epoch)],
    )  # fmt: skip


def held_by(buffers: Buffers) -> Held:
    """Return all the parameters, velocities and statistics in ``buffers``."""
    stats = buffers.stats if buffers.stats.size else None
    return Held(buffers.parameters, buffers.velocity, stats=stats)
