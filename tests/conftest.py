"""Fixtures that any folder may need: processes started here, and ranks started with mpiexec."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, however busy the machine is: what passed here passes there.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

ROOT = Path(__file__).parents[1]
# The launcher of a surrounding job must not leak into the processes that tests start.
LAUNCHER_PREFIXES = ("PMI_", "PMIX_", "OMPI_", "SLURM_", "HYDI_", "MPI_")

Finished = subprocess.CompletedProcess[str]
Launch = Callable[..., Finished]


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this environment without a launcher's variables, and with ``extra``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_PREFIXES)}
    # A warning in a child is an error too, as it is here.
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"} | extra


def run_process(
    arguments: list[str], *, timeout_s: float = 60, interrupt_at: str | None = None, **extra: str
) -> Finished:
    """Run ``arguments`` in the repository root to their end; kill the whole group after ``timeout_s``.

    With ``interrupt_at``, a Ctrl-C (SIGINT to the group, as from a terminal) follows the first line
    of standard output that holds that text.
    """
    with subprocess.Popen(
        arguments,
        # A shell's background job ignores SIGINT, and so would its children's children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads yet
        cwd=ROOT,
        env=clean_environment(**extra),
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        head = ""
        if interrupt_at is not None:
            assert process.stdout is not None
            for line in process.stdout:
                head += line
                if interrupt_at in line:
                    os.killpg(process.pid, signal.SIGINT)
                    break
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"{arguments} ran longer than {timeout_s} s\n{head}{out}\n{err}")
    return Finished(arguments, process.returncode, head + out, err)


@pytest.fixture(scope="session")
def mpiexec() -> str:
    """Return the launcher beside this Python, else the one on PATH; skip where there is none."""
    if find_spec("mpi4py") is None:
        pytest.skip("needs mpi4py: pip install 'stepcast[mpi]'")
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("needs mpiexec beside this Python or on PATH")
    return found


@pytest.fixture(scope="session")
def launch(mpiexec: str) -> Launch:
    """Return a function that runs ``python -m module`` on ``ranks`` ranks to its end."""

    def start(
        ranks: int,
        module: str,
        *arguments: str,
        timeout_s: float = 60,
        interrupt_at: str | None = None,
    ) -> Finished:
        command = [mpiexec, "-n", str(ranks), sys.executable, "-m", module, *arguments]
        return run_process(command, timeout_s=timeout_s, interrupt_at=interrupt_at)

    return start


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data, or skip where there is none."""
    named = os.environ.get("STEPCAST_DATA_DIR")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs real data: set STEPCAST_DATA_DIR")
    return folder
