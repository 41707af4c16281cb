"""What a launcher (mpiexec, srun) says of this process, read from the environment, without MPI."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
_SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")


def launched_ranks(environ: Mapping[str, str]) -> int:
    """Return how many ranks the launcher says it started; 1 without a launcher."""
    sizes = [int(environ[name]) for name in _SIZE_VARIABLES if environ.get(name, "").isdigit()]
    if "SLURM_JOB_ID" in environ and "SLURM_STEP_ID" not in environ:
        sizes = [int(environ[n]) for n in _SIZE_VARIABLES[:2] if environ.get(n, "").isdigit()]
    return max(sizes, default=1)


def launched_rank(environ: Mapping[str, str]) -> int:
    """Return the rank the launcher gave this process; 0 without a launcher."""
    return next((int(environ[n]) for n in _RANK_VARIABLES if environ.get(n, "").isdigit()), 0)


def find_mpiexec() -> str | None:
    """Return the mpiexec beside this Python, whose MPI it is, else the one on PATH, else None."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")
