"""The fastest of the plans that fit, by solving: pipelines cut where the machine balances them."""

from collections.abc import Sequence

from calibration.machine import Machine
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.balance import calibrated
from sim.choices import Choice, best
from sim.costs import Costs
from sim.forecast import EPOCH_SAMPLES, solved_step_s
from sim.least import Least


def fastest(
    machine: Machine, workload: Workload, options: PlanOptions, meshes: Sequence[Choice],
    ranks_per_node: int, epoch_samples: int = EPOCH_SAMPLES,
) -> tuple[Mesh, PlanOptions] | None:  # fmt: skip
    """Return the mesh and the options, cuts included, with the shortest step of ``meshes``.

    All of them must have as many ranks. None if none fits into a node's memory.
    """
    if not meshes:
        return None
    known: dict[tuple[Mesh, PlanOptions], PlanOptions] = {}
    least = Least(Costs(machine, meshes[0].mesh, ranks_per_node), workload)

    known: dict[tuple[Mesh, PlanOptions], PlanOptions] = {}
    least = Least(Costs(machine, meshes[0].mesh, ranks_per_node), workload)

    def cut(mesh: Mesh, tried: PlanOptions) -> PlanOptions:
        key = (mesh, tried)
        if key not in known:
            known[key] = calibrated(Costs(machine, mesh, ranks_per_node), workload, tried)
        return known[key]

    def closer_s(mesh: Mesh, tried: PlanOptions) -> float:
        return least.cut_step_s(mesh, cut(mesh, tried))

    def solved_s(mesh: Mesh, tried: PlanOptions) -> float:
        return solved_step_s(machine, workload, mesh, cut(mesh, tried), ranks_per_node, epoch_samples)  # fmt: skip

    found = best(options, meshes, solved_s, least.step_s, closer_s)
    return None if found is None else (found[0], cut(*found))
