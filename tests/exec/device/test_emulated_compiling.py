"""Kernels are compiled once, by whoever comes first; and where there is no compiler that is said."""

import subprocess
import sys
from pathlib import Path

import pytest

from exec.device.emulated_kernels import KERNELS
from tests.conftest import ROOT, clean_environment

USE = """
import numpy as np
from pathlib import Path
from exec.device.emulated import open_emulated

device = open_emulated([Path({source!r})])
array = device.empty(3, np.float64)
device.stream().bind_kernel("fill", np.float64, (1,), (3,), array, 3, 2.0)()
assert device.read(array).tolist() == [2, 2, 2]
"""


def start(cache: Path, **extra: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", USE.format(source=str(KERNELS / "elementwise.cu"))]
    return subprocess.Popen(
        command,
        cwd=ROOT,  # whose packages it imports
        env=clean_environment(STEPCAST_CACHE=str(cache), **extra),
        text=True,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    with process:
        _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_of_processes_that_come_at_once_one_compiles_and_the_others_use_it(tmp_path: Path) -> None:
    cache, asked, counting = (tmp_path / name for name in ("cache", "asked", "c++"))
    counting.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo >> {asked}\nexec c++ "$@"\n')
    counting.chmod(0o700)
    at_once = [start(cache, CXX=str(counting)) for _ in range(3)]
    assert [end(each) for each in at_once] == [(0, "")] * 3
    assert asked.read_text() == "\n"
    (made,) = (cache / "emulated").iterdir()
    assert made.suffix == ".so"
    # What is there is used by those who come later, too.
    assert end(start(cache, CXX=str(counting))) == (0, "")
    assert asked.read_text() == "\n"


@pytest.mark.parametrize("named", ["no-such-compiler", "false"])
def test_no_compiler_is_said_in_one_message(tmp_path: Path, named: str) -> None:
    status, said = end(start(tmp_path, CXX=named))
    assert status == 1
    assert said.splitlines()[-1] == (
        "exec.errors.DeviceError: device emulated must have a C++ compiler, found none of "
        f"{named}; install g++ or clang++, or set CXX"
    )
