"""At the same plan, a resumed training is bit-equal to one that was never stopped."""

from pathlib import Path

import pytest

from exec.program.mesh import Mesh
from exec.transport.threads import run_threads
from tests.conftest import Launch
from tests.exec.random_plans import Case
from tests.exec.runtime.checkpoint.resumed import stop_and_go_on


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(dp=3), Mesh(1, 2, 2), Mesh(2, 2, 1)], ids=str)
def test_a_resumed_training_is_bit_equal_to_one_that_was_never_stopped(
    tmp_path: Path, mesh: Mesh
) -> None:
    case = Case.of("6-5-4-3", 8, mesh, num_microbatches=2)
    run_threads(mesh.world_size, lambda wire: stop_and_go_on(case, tmp_path, wire))


@pytest.mark.mpi
def test_a_resumed_training_is_bit_equal_over_mpi(tmp_path: Path, launch: Launch) -> None:
    done = launch(2, "tests.exec.runtime.checkpoint.resumed", str(tmp_path))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "the same bits on 2 ranks\n")
