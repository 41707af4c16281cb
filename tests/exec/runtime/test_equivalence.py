"""Any mesh, batch, network and schedule gives the one-rank run's gradients, weights and losses."""

import pytest
from hypothesis import given, settings

from exec.plan.nodes import is_two_level
from exec.program.ops import Algorithm
from exec.transport.threads import run_threads
from tests.conftest import Launch
from tests.exec.random_plans import Case, cases, seeded_cases
from tests.exec.runtime.equivalence import compare, fixed_cases, two_level_cases


@settings(derandomize=True, deadline=None, max_examples=80)
@given(cases())
def test_any_mesh_on_threads_trains_as_one_rank(case: Case) -> None:
    run_threads(case.mesh.world_size, lambda wire: compare(case, wire))


@pytest.mark.parametrize("ranks", [4, 6])
def test_two_levels_on_threads_train_as_one_rank(ranks: int) -> None:
    for case in two_level_cases(ranks):
        assert is_two_level(case.mesh, case.options.ranks_per_node)
        run_threads(ranks, lambda wire, case=case: compare(case, wire))


@pytest.mark.mpi
@pytest.mark.parametrize("ranks, count", [(2, 40), (3, 40), (4, 40), (6, 0)])
def test_any_mesh_on_mpi_trains_as_one_rank(launch: Launch, ranks: int, count: int) -> None:
    fixed = len(fixed_cases(ranks))
    ended = launch(ranks, "tests.exec.runtime.equivalence", str(count), timeout_s=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout == f"{count + fixed} cases agree on {ranks} ranks\n"


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_cases_for_mpi_cover_every_axis_and_algorithm(ranks: int) -> None:
    drawn = seeded_cases(40, ranks, seed=ranks)
    assert {case.options.algorithm for case in drawn} == set(Algorithm)
    for axis in ("dp", "pp", "tp"):
        assert any(getattr(case.mesh, axis) == ranks for case in drawn)
