"""Laws of the closed form."""

import sys
from collections.abc import Callable
from types import FrameType

import pytest
from hypothesis import given, settings

from calibration.machine import Machine
from exec.network.network import mlp
from exec.plan.collectives import expand
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.costs import Costs
from sim.solve import solve
from tests.agreement.hand_made import machines
from tests.agreement.readers import ROUND
from tests.exec.random_plans import Case, cases

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60)


def num_calls(function: Callable[[], object]) -> int:
    """Return how many calls ``function`` makes, itself included."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        # How often what is remembered is compared depends on what else is.
        calls += event in ("call", "c_call") and frame.f_code.co_name != "__eq__"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


OWN = mlp(38, 22, 10)
"""No other test's: what is remembered of an equal network is found by more calls than of the same."""


@pytest.mark.parametrize("algorithm", [Algorithm.LIBRARY, Algorithm.RING, Algorithm.HIERARCHICAL])
@pytest.mark.parametrize("pp, tp", [(1, 1), (2, 2)])
def test_65536_ranks_cost_no_more_calls_than_64(algorithm: Algorithm, pp: int, tp: int) -> None:
    workload, options = Workload(OWN, 1 << 17), PlanOptions(2, algorithm=algorithm, ranks_per_node=8)  # fmt: skip

    def solved(ranks: int) -> Callable[[], object]:
        mesh = Mesh(ranks // pp // tp, pp, tp)
        # The same batch for both, which is what a replica's share depends on.
        return lambda: solve(plan_step(workload, mesh, options), Costs(ROUND, mesh, 1), one_lane=False)  # fmt: skip

    solved(64)()  # layouts are remembered between plans, and this test is not about that
    solved(65_536)()
    # Chunks of more ranks may be of fewer sizes, each priced once.
    # A collection of garbage may call something amid a count, so the least of three is taken.
    many, few = (min(num_calls(solved(ranks)) for _ in range(3)) for ranks in (65_536, 64))
    assert many <= few


@pytest.mark.parametrize(
    "algorithm", [Algorithm.RECURSIVE_DOUBLING, Algorithm.HALVING_DOUBLING, Algorithm.BINOMIAL_TREE]
)
def test_the_doubling_algorithms_cost_calls_in_the_logarithm_of_ranks(algorithm: Algorithm) -> None:
    def solved(ranks: int) -> Callable[[], object]:
        mesh, options = Mesh(ranks), PlanOptions(algorithm=algorithm)
        return lambda: solve(plan_step(Workload(mlp(32, 16), 1 << 17), mesh, options), Costs(ROUND, mesh, 1), one_lane=False)  # fmt: skip

    calls = [num_calls(solved(1 << power)) for power in (4, 4, 8, 16)][1:]
    # Each doubling of ranks adds one step of the algorithm, and a rank adds nothing: 8 doublings cost
    # twice what 4 do, and a little for the sizes that are new.
    assert calls[2] - calls[1] <= 2.5 * (calls[1] - calls[0])


@SETTINGS
@given(case=cases(), on=machines())
def test_the_same_input_gives_the_same_time(case: Case, on: Machine) -> None:
    one, two = (solve(case.program, Costs(on, case.mesh, 1), one_lane=False) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("algorithm", [Algorithm.RING, Algorithm.RECURSIVE_DOUBLING])
def test_a_solved_program_must_not_be_expanded(algorithm: Algorithm) -> None:
    program = expand(plan_step(Workload(mlp(4, 4), 8), Mesh(4), PlanOptions(algorithm=algorithm)))
    with pytest.raises(ValueError, match="before its collectives are expanded"):
        solve(program, Costs(ROUND, program.mesh, 1), one_lane=False)
