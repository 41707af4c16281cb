"""The kernels' language on the CPU: barriers, shared memory, orders of threads, and misuse."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from exec.device.emulated import open_emulated
from exec.errors import DeviceError
from tests.conftest import run_process

HEAD = '#include "common.cuh"\n'
TRANSPOSE = """
SYNC_KERNEL(transpose, const real* a, real* b, int rows, int columns) {
  SHARED(real, tile, 8 * 9);
  int x = blockIdx.x * 8 + threadIdx.x, y = blockIdx.y * 8 + threadIdx.y;
  if (x < columns && y < rows) tile[threadIdx.y * 9 + threadIdx.x] = a[y * columns + x];
  barrier();
  x = blockIdx.y * 8 + threadIdx.x, y = blockIdx.x * 8 + threadIdx.y;
  if (x < rows && y < columns) b[y * rows + x] = tile[threadIdx.x * 9 + threadIdx.y];
}
"""
SUM = """
SYNC_KERNEL(sum, const real* a, real* total, int n) {
  SHARED(real, part, 64);
  part[threadIdx.x] = 0;
  FOR_EACH(i, n) part[threadIdx.x] += a[i];
  for (unsigned half = 32; half > 0; half /= 2) {
    barrier();
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
  }
  if (threadIdx.x == 0) add_atomic(total, part[0]);
}
"""
RACE = """
SYNC_KERNEL(shift, real* a) {
  SHARED(real, kept, 64);
  kept[threadIdx.x] = a[threadIdx.x];
  a[threadIdx.x] = kept[(threadIdx.x + 63) % 64];
}
"""
LEFT_OVER = """
SYNC_KERNEL(left_over, real* a) {
  SHARED(real, kept, 1);
  barrier();
  a[blockIdx.x] = kept[0];
  barrier();
  kept[0] = 1;
}
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPCAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "tried.cu"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_threads_meet_at_barriers_and_share_memory(source: Path, seed: int) -> None:
    source.write_text(HEAD + TRANSPOSE + SUM)
    device = open_emulated([source], seed=seed)
    stream = device.stream()
    a = np.arange(13 * 19, dtype=np.float32)
    given, turned = device.upload(a), device.empty(a.size, np.float32)
    total = device.upload(np.zeros(1, np.float32))
    stream.bind_kernel("transpose", np.float32, (3, 2), (8, 8), given, turned, 13, 19)()
    stream.bind_kernel("sum", np.float32, (3,), (64,), given, total, a.size)()
    np.testing.assert_array_equal(device.read(turned), a.reshape(13, 19).T.ravel())
    assert device.read(total)[0] == a.sum()


def test_a_race_between_threads_shows_under_some_seed(source: Path) -> None:
    source.write_text(HEAD + RACE)
    a = np.arange(64, dtype=np.float64)
    right = 0
    for seed in range(4):
        device = open_emulated([source], seed=seed)
        array = device.upload(a)
        device.stream().bind_kernel("shift", np.float64, (1,), (64,), array)()
        right += np.array_equal(device.read(array), np.roll(a, 1))
    assert right < 4


def test_shared_memory_keeps_nothing_from_block_to_block(source: Path) -> None:
    source.write_text(HEAD + LEFT_OVER)
    device = open_emulated([source])
    array = device.upload(np.zeros(3, np.float64))
    device.stream().bind_kernel("left_over", np.float64, (3,), (5,), array)()
    assert np.isnan(device.read(array)).all()


@pytest.mark.parametrize(
    "body, complaint",
    [
        ("SYNC_KERNEL(bad, int n) { if (threadIdx.x < 3) barrier(); }", "must reach each barrier"),
        (
            "SYNC_KERNEL(bad, int n) {\n if (threadIdx.x) barrier();\n else\n barrier();\n}",
            "must reach the same barrier",
        ),
        ("KERNEL(bad, int n) { barrier(); }", "must be in a SYNC_KERNEL"),
    ],
)
def test_threads_that_disagree_on_a_barrier_are_an_error(
    source: Path, body: str, complaint: str
) -> None:
    source.write_text(HEAD + SUM + body)
    device = open_emulated([source])
    stream = device.stream()

    def run() -> None:
        stream.bind_kernel("bad", np.float32, (2,), (8,), 1)()
        stream.synchronize()

    with pytest.raises(ValueError, match=complaint):
        run()
    # The threads left behind do not disturb what comes next.
    device = open_emulated([source])
    total = device.upload(np.zeros(1, np.float32))
    a = device.upload(np.ones(100, np.float32))
    device.stream().bind_kernel("sum", np.float32, (1,), (64,), a, total, 100)()
    assert device.read(total)[0] == 100


def test_arguments_that_do_not_fit_are_refused_when_bound(source: Path) -> None:
    source.write_text(HEAD + SUM)
    device = open_emulated([source])
    stream = device.stream()
    a, n = device.empty(4, np.float64), device.empty(4, np.int32)
    for arguments in [(a, a), (a, n, 4), (a, a, 4.0), (a, a, 2**31), (a, 4, 4), (a, a, None)]:
        with pytest.raises(ValueError, match="sum must"):
            stream.bind_kernel("sum", np.float64, (1,), (64,), *arguments)
    with pytest.raises(ValueError, match="must be of type"):
        stream.bind_kernel("sum", np.float32, (1,), (64,), a, a, 4)
    with pytest.raises(ValueError, match="1 to 1024 threads"):
        stream.bind_kernel("sum", np.float64, (1,), (2000,), a, a, 4)


def test_two_files_may_not_define_one_kernel(source: Path) -> None:
    source.write_text(HEAD + SUM)
    other = source.with_name("other.cu")
    other.write_text(HEAD + SUM)
    with pytest.raises(ValueError, match="kernel sum must be in one file"):
        open_emulated([source, other])


def test_a_source_that_does_not_compile_says_where(source: Path) -> None:
    source.write_text(HEAD + "KERNEL(bad, int n) { oops; }")
    stream = open_emulated([source]).stream()
    with pytest.raises(
        DeviceError, match=re.compile(r"tried\.cu must be compiled.*oops", re.DOTALL)
    ):
        stream.bind_kernel("bad", np.float32, (1,), (1,), 1)


def test_kernels_that_were_damaged_on_the_disk_are_made_again(
    emulated: object, tmp_path: Path
) -> None:
    code = (
        "from exec.device.kind import DeviceKind; from exec.device.opening import open_device; "
        "d = open_device(DeviceKind.EMULATED, 0); a = d.empty(4, 'float32'); s = d.stream(); "
        "s.bind_kernel('fill', 'float32', (1,), (4,), a, 4, 2.0)(); print(d.read(a).sum())"
    )
    for _ in range(2):
        ended = run_process([sys.executable, "-c", code], STEPCAST_CACHE=str(tmp_path))
        assert (ended.returncode, ended.stdout) == (0, "8.0\n"), ended.stderr
        libraries = list(tmp_path.glob("emulated/*.so"))
        assert libraries
        for library in libraries:
            library.write_bytes(b"")


def test_a_cache_that_cannot_be_written_is_one_line(emulated: object, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    ended = run_process(
        [sys.executable, "-m", "exec.train", "--device", "emulated"], STEPCAST_CACHE=str(blocked)
    )
    assert ended.returncode == 2, ended.stderr
    assert "set STEPCAST_CACHE to a folder" in ended.stderr
    assert "Traceback" not in ended.stderr
