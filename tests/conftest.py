"""Fixtures that any folder may need: command lines, here or as processes, and ranks of mpiexec."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from cyclopts import App
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

from tests.command_lines import Finished, run_line

# The same examples in every run, however busy the machine is: what passed here passes there.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

ROOT = Path(__file__).parents[1]
# The launcher of a surrounding job must not leak into the processes that tests start.
LAUNCHER_PREFIXES = ("PMI_", "PMIX_", "OMPI_", "SLURM_", "HYDI_", "MPI_")

# Folders and files of long tests, the longest first; within each as they are collected.
LONGEST = (
    "paper/",
    "exec/runtime/",
    "calibration/",
    "sim/",
    "benchmarks/",
    "exec/test_",
    "exec/plan/",
)

__all__ = ["Finished"]
Launch = Callable[..., Finished]
LaunchEach = Callable[..., list[list[Finished]]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tell pytest-xdist what one worker runs: a file, for its fixtures, and all that starts ranks.

    Ranks of MPI wait by asking again and again, so that two jobs at once only slow each other down.
    What takes long starts first, so that no worker has nothing to do while another ends it.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group("alone" if is_alone(item) else str(item.path)))
    if hasattr(config, "workerinput"):  # pytest-xdist's
        items.sort(key=turn)


def is_alone(item: pytest.Item) -> bool:
    """Say whether ``item`` starts ranks."""
    return any(item.get_closest_marker(name) for name in ("mpi", "rig", "gpu"))


def turn(item: pytest.Item) -> int:
    """Return when ``item`` is to start: all that starts ranks, then folders of long files, the rest."""
    if is_alone(item):
        return 0
    path = item.path.relative_to(ROOT / "tests").as_posix()
    found = (place for place, start in enumerate(LONGEST, start=1) if path.startswith(start))
    return next(found, len(LONGEST) + 1)


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this environment without a launcher's variables, and with ``extra``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_PREFIXES)}
    # Compiled once, and not anew in each of some hundred processes.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    # A warning in a child is an error too, as it is here.
    own = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    # Ranks of MPICH that wait let others go on: there are more of them than cores.
    return kept | own | {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"} | extra


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


def run_here(app: App, arguments: Sequence[object]) -> Finished:
    """Run a command line to its end in this process, which a new one takes a second of CPU to start.

    What :func:`exec.cli.run_app` does not report is raised.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - clean_environment().keys():
            patch.delenv(name)
        return run_line(app, [str(word) for word in arguments])


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread() -> Iterator[None]:
    """Let BLAS work in one thread, as the programs do: more would wait for each other, awake."""
    with threadpool_limits(1):
        yield


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


@pytest.fixture
def launch_each(launch: Launch, tmp_path: Path) -> LaunchEach:
    """Return a function that runs command lines of ``module`` one after another on ``ranks`` ranks.

    They share one launch. It returns how each ended on each rank.
    """

    def start(ranks: int, module: str, lines: Sequence[Sequence[object]]) -> list[list[Finished]]:
        path = tmp_path / "lines.json"
        path.write_text(json.dumps([[str(word) for word in line] for line in lines]))
        ended = launch(ranks, "tests.command_lines", module, str(path), timeout_s=120)
        assert (ended.returncode, ended.stderr) == (0, "")
        found: list[list[list[object]]] = json.loads(ended.stdout)
        assert len(found) == len(lines)
        return [[Finished(*each) for each in on_ranks] for on_ranks in found]  # type: ignore[arg-type]  # its fields

    return start


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data, or skip where there is none."""
    named = os.environ.get("STEPCAST_DATA_DIR")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs real data: set STEPCAST_DATA_DIR")
    return folder
