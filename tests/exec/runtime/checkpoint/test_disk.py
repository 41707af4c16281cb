"""A disk that is full, read-only or barred: one message, and the last good checkpoint is still there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exec.errors import StepcastError
from exec.transport.threads import run_threads
from tests.conftest import Finished, run_process
from tests.exec.runtime.checkpoint.drawn_state import Training

PROGRAM = [sys.executable, "-m", "tests.exec.runtime.checkpoint.spoilt_disk"]


def assert_goes_on(done: Finished, message: str) -> None:
    """Raise unless the write failed with ``message``, and the training went on from step 2."""
    assert (done.returncode, done.stderr) == (0, "")
    outcome = json.loads(done.stdout)
    assert message in outcome["last"]
    assert "\n" not in outcome["last"]
    assert (outcome["step"], outcome["is_right"], outcome["refused"]) == (2, True, [])
    assert {Path(n).parts[0] for n in outcome["next_names"]} == {"step-000000002", "step-000000003"}


@pytest.mark.parametrize(
    "how, message",
    [("barred", "cannot be written: Permission denied"), ("limited", "File too large")],
)
def test_a_write_that_is_refused_is_one_message(tmp_path: Path, how: str, message: str) -> None:
    assert_goes_on(run_process([*PROGRAM, how, str(tmp_path)]), message)


@pytest.mark.parametrize(
    "how, message",
    [("full", "No space left on device"), ("read-only", "Read-only file system")],
)
def test_a_file_system_that_refuses_is_one_message(tmp_path: Path, how: str, message: str) -> None:
    mount = f"mount -t tmpfs -o size=64k,nr_inodes=100 tmpfs {tmp_path}"
    unshare = ["unshare", "--mount", "--user", "--map-root-user", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount], capture_output=True, check=False).returncode:  # fmt: skip
        pytest.skip("needs the right to mount a file system in a namespace of its own")
    program = " ".join([*PROGRAM, how, str(tmp_path)])
    assert_goes_on(run_process([*unshare, f"{mount} && exec {program}"]), message)


def test_a_file_where_a_folder_should_be_is_one_message(tmp_path: Path) -> None:
    training, file = Training(), tmp_path / "checkpoints"
    file.write_text("not a folder")
    with pytest.raises(StepcastError, match=r"^[^\n]*checkpoints cannot be written: File exists$"):
        training.write_steps(file, [1])
    with pytest.raises(StepcastError, match=r"^[^\n]*folder[^\n]*checkpoints: Not a directory$"):
        run_threads(2, lambda wire: training.resume(file, wire))
    (tmp_path / "step-000000001").write_text("not a folder")
    with pytest.raises(
        StepcastError, match=r"^[^\n]*step-000000001 cannot be written: File exists$"
    ):
        training.write_steps(tmp_path, [1])
