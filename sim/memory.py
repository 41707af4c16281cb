"""Memory: what the bytes of the rank that holds most are for."""

from dataclasses import dataclass

from exec.plan.collectives import expand, scratch_elements
from exec.plan.layout import layout_of
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule, num_slots
from exec.program.ops import Algorithm, Compute, Kernel
from exec.program.program import Program, Role
from exec.workload import Workload


@dataclass(frozen=True, slots=True)
class Memory:
    """The bytes that a rank allocates, by what they are for.

    ``parameters_bytes`` has the running statistics of normalisations. ``activations_bytes`` and a
    stage's own gradients are there ``num_slots`` times, once for each microbatch under way; the
    rest of ``activation_gradients_bytes`` once. ``scratch_bytes`` is the kernels' room, and
    ``collective_bytes`` that of messages.
    """

    parameters_bytes: int = 0
    gradients_bytes: int = 0
    velocity_bytes: int = 0
    activations_bytes: int = 0
    activation_gradients_bytes: int = 0
    scratch_bytes: int = 0
    collective_bytes: int = 0
    num_slots: int = 1

    @property
    def total_bytes(self) -> int:
        """All of it."""
        own = self.parameters_bytes + self.gradients_bytes + self.velocity_bytes
        passed = self.activations_bytes + self.activation_gradients_bytes
        return own + passed + self.scratch_bytes + self.collective_bytes


def memory_of(program: Program, workload: Workload, options: PlanOptions) -> Memory:
    """Return what the rank of ``program`` that holds most holds."""
    role = max(program.roles, key=lambda each: each.nbytes)
    held = {part.buffer: part.size for part in role.holds}
    slot, shared = _elements(program, role, workload, options)
    activations = sum(size for name, size in slot.items() if not name.startswith("g"))
    gradients = role.slots * (sum(slot.values()) - activations)
    gradients += sum(size for name, size in shared.items() if name != "work")
    itemsize = program.itemsize
    parts = {
        "parameters_bytes": held.get("param", 0) + held.get("stat", 0),
        "gradients_bytes": held.get("grad", 0),
        "velocity_bytes": held.get("velocity", 0),
        "activations_bytes": role.slots * activations,
        "activation_gradients_bytes": gradients,
        "scratch_bytes": shared.get("work", 0),
    }
    known = {name: itemsize * size for name, size in parts.items()}
    messages = role.nbytes - sum(known.values()) + collective_nbytes(program, options)
    return Memory(**known, collective_bytes=messages, num_slots=role.slots)


def memory_nbytes(program: Program, options: PlanOptions) -> int:
    """Return what the rank that holds most allocates: its role's buffers and the scratch."""
    return max(role.nbytes for role in program.roles) + collective_nbytes(program, options)


def collective_nbytes(program: Program, options: PlanOptions) -> int:
    """Return the scratch of collectives that are sends and receives; a library has its own."""
    if options.algorithm is Algorithm.LIBRARY:
        return 0
    return scratch_elements(expand(program)) * program.itemsize


def memory_by_schedule(program: Program, workload: Workload, options: PlanOptions) -> dict[Schedule, int]:  # fmt: skip
    """Return what the rank that holds most would hold under each schedule, all else being equal."""
    common, pp, count = collective_nbytes(program, options), program.mesh.pp, options.num_microbatches  # fmt: skip
    found = {}
    for schedule in Schedule:
        each = []
        for role in program.roles:
            slot = sum(_elements(program, role, workload, options)[0].values())
            more = num_slots(schedule, role.pp.start, pp, count) - role.slots
            each.append(role.nbytes + more * slot * program.itemsize)
        found[schedule] = max(each) + common
    return found


def _elements(
    program: Program, role: Role, workload: Workload, options: PlanOptions
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the buffers of one slot and those that slots share, none on ranks that do not train."""
    rows = max((op.shape.n for op in role.ops if isinstance(op, Compute) and op.kernel is not Kernel.UPDATE), default=0)  # fmt: skip
    if not rows:
        return {}, {}
    layout = layout_of(
        workload.network, program.mesh, role.pp.start, role.tp.start, options
    )  # fmt: skip
    return layout.slot_elements(rows), layout.shared_elements(rows)
