"""The fastest of the plans that fit, by solving: pipelines cut where the machine balances them."""

from collections.abc import Sequence

from calibration.machine import Machine
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.balance import calibrated
from sim.choices import Choice, best
from sim.costs import Costs
from sim.forecast import EPOCH_SAMPLES, num_guests, solved_step_s
from sim.least import Least


def fastest(
    machine: Machine, workload: Workload, options: PlanOptions, meshes: Sequence[Choice],
    ranks_per_node: int, epoch_samples: int = EPOCH_SAMPLES, *,
    slow: Sequence[tuple[int, float]] = (), shares_nodes: bool = False,
) -> tuple[Mesh, PlanOptions] | None:  # fmt: skip
    """Return the mesh and the options, cuts included, with the shortest step of ``meshes``.

    All of them must have as many ranks; ``slow`` and ``shares_nodes`` are those of
    :func:`sim.forecast.forecast`. A slow rank stays where it is: what it is in a plan, a replica or
    some stage, is for its number and the mesh to say, and stages are cut to its pace. None if none fits into a node's memory.
    """
    if not meshes:
        return None
    known: dict[tuple[Mesh, PlanOptions], PlanOptions] = {}
    guests = num_guests(options, shares_nodes=shares_nodes)

    def costs_of(mesh: Mesh) -> Costs:
        return Costs(machine, mesh, ranks_per_node, slowness=dict(slow), guests=guests)

    least = Least(costs_of(meshes[0].mesh), workload)

    def cut(mesh: Mesh, tried: PlanOptions) -> PlanOptions:
        key = (mesh, tried)
        if key not in known:
            known[key] = calibrated(costs_of(mesh), workload, tried)
        return known[key]

    def closer_s(mesh: Mesh, tried: PlanOptions) -> float:
        return least.cut_step_s(mesh, cut(mesh, tried))

    def solved_s(mesh: Mesh, tried: PlanOptions) -> float:
        return solved_step_s(machine, workload, mesh, cut(mesh, tried), ranks_per_node, epoch_samples,
                             slow=slow, shares_nodes=shares_nodes)  # fmt: skip

    found = best(options, meshes, solved_s, least.step_s, closer_s)
    return None if found is None else (found[0], cut(*found))
