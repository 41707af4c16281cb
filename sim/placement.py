"""Where a plan's arrays are on a Machine: how they are laid out, and whether they fit."""

from dataclasses import replace

from calibration.machine import Machine
from exec.device.kind import DeviceKind
from exec.plan.options import PlanOptions
from exec.plan.window import chosen_algorithm
from exec.program.mesh import Mesh


def placed(options: PlanOptions, machine: Machine) -> PlanOptions:
    """Return ``options`` for the device that ``machine`` computes on: arrays are laid out for it."""
    device = machine.compute.device if machine.compute is not None else DeviceKind.CPU
    return options if options.device is device else replace(options, device=device)


def reduced(options: PlanOptions, machine: Machine, mesh: Mesh, ranks_per_node: int) -> PlanOptions:
    """Return ``options`` with the algorithm that the trainer would choose on ``machine``."""
    algorithm = chosen_algorithm(mesh, placed(options, machine), ranks_per_node)
    return options if algorithm is options.algorithm else replace(options, algorithm=algorithm)


def fits_memory(machine: Machine, mesh: Mesh, nbytes: int, ranks_per_node: int) -> bool:
    """Say whether a node's ranks, of ``nbytes`` each, fit into its memory, or each GPU's into its own."""
    compute = machine.compute
    assert compute is not None
    ranks = min(ranks_per_node, mesh.world_size)
    if compute.device.has_streams:
        return nbytes * -(-ranks // compute.cores_per_node) <= compute.memory_nbytes_per_core
    return nbytes * ranks <= compute.memory_nbytes
