"""What the launchers' variables say, without MPI."""

import pytest

from exec.launch import launched_rank, launched_ranks


@pytest.mark.parametrize(
    ("environ", "ranks", "rank"),
    [
        ({}, 1, 0),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, 4, 3),
        ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1"}, 3, 1),
        # srun inside an allocation; then a plain process in the same allocation, or in a batch script.
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_PROCID": "5"}, 8, 5),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, 1, 0),
        ({"PMI_SIZE": "many"}, 1, 0),
    ],
)  # fmt: skip
def test_launcher_is_read_from_its_variables(
    environ: dict[str, str], ranks: int, rank: int
) -> None:
    assert launched_ranks(environ) == ranks
    assert launched_rank(environ) == rank
