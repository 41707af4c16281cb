"""Both forecasting readers on one plan."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from calibration.machine import Machine
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Accumulate, Algorithm, Collective, Compute, Send
from exec.program.program import Program
from exec.workload import Workload
from sim.choices import factorisations
from sim.costs import Costs
from sim.simulate import simulate
from sim.solve import solve
from tests.agreement.hand_made import machine

# The engines add the same times in another order: a few thousand roundings of 1.1e-16 each.
SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Plan:
    """A workload, and one way to share it."""

    workload: Workload
    mesh: Mesh
    options: PlanOptions = field(default_factory=PlanOptions)
    one_lane: bool = False

    @property
    def program(self) -> Program:
        """The program, its collectives not expanded."""
        return plan_step(self.workload, self.mesh, self.options)

    def costs(self, on: Machine, *, is_comm_free: bool = False) -> Costs:
        """Return the costs of one rank on each node."""
        return Costs(on, self.mesh, 1, is_comm_free)

    def solved_s(self, on: Machine) -> float:
        """Return the step time in closed form."""
        return solve(self.program, self.costs(on), one_lane=self.one_lane).step_time_s

    def simulated_s(self, on: Machine) -> float:
        """Return the step time by events."""
        return simulate(expand(self.program), self.costs(on), one_lane=self.one_lane).step_time_s

    def compute_alone_s(self, on: Machine) -> float:
        """Return the solved step time if no message took any time."""
        free = self.costs(on, is_comm_free=True)
        return solve(self.program, free, one_lane=False).step_time_s

    def busy_s(self, on: Machine) -> list[float]:
        """Return what each rank computes for its step."""
        costs, program = self.costs(on), self.program
        return [
            sum(
                costs.compute_s(op, program.role_of(rank).nbytes)
                for op in program.ops(rank)
                if isinstance(op, Compute)
            )
            for rank in range(self.mesh.world_size)
        ]

    def one_after_another_s(self, on: Machine) -> float:
        """Return what all ops of all ranks take if never two of them go on at once."""
        costs, program = self.costs(on), expand(self.program)
        total_s = sum(self.busy_s(on))
        for rank in range(self.mesh.world_size):
            held = program.role_of(rank).nbytes
            for op in program.ops(rank):
                match op:
                    case Send(_, part, peer):
                        nbytes = (part.stop - part.start) * program.itemsize
                        total_s += sum(costs.message(nbytes, costs.fabric.tier(rank, peer.rank)))
                    case Accumulate(into):
                        total_s += costs.accumulate_s(into.stop - into.start, held)
                    case Collective():
                        total_s += costs.library_s(op, program.itemsize)
        return total_s


ROUND = machine()


def even_widths(mesh: Mesh, num_layers: int) -> tuple[int, ...]:
    """Return widths that the shards divide, and whose gradients the replicas divide."""
    unit = mesh.tp * mesh.dp
    return (*(unit * (2 if i % 2 else 4) for i in range(num_layers)), 2 * unit)


@st.composite
def even_plans(draw: st.DrawFn, algorithms: tuple[Algorithm, ...], ranks: tuple[int, ...]) -> Plan:
    """Draw a plan of equal parts: all shards, chunks, replicas and microbatches are of one size."""
    mesh = draw(
        st.sampled_from([mesh for count in ranks for mesh in factorisations(count) if mesh.pp <= 4])
    )
    microbatches = draw(st.integers(1, 4))
    widths = even_widths(mesh, draw(st.integers(mesh.pp, 5)))
    batch = mesh.dp * microbatches * draw(st.integers(1, 3))
    options = PlanOptions(
        microbatches, draw(st.sampled_from(Schedule)), draw(st.sampled_from([1, 1 << 20])),
        draw(st.booleans()), draw(st.sampled_from(algorithms)),
    )  # fmt: skip
    return Plan(Workload(mlp(*widths), batch, 8), mesh, options, draw(st.booleans()))
