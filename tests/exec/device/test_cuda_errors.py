"""What ``--device gpu`` says where it cannot work: one message that names what is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exec.device.cuda import open_cuda
from exec.device.cudnn_graphs import open_convolutions
from exec.device.opening import KERNELS
from exec.errors import DeviceError

ROOT = Path(__file__).parents[3]


def test_modules_of_the_gpu_are_imported_without_cupy() -> None:
    # A None in sys.modules makes an import fail as if nothing were installed.
    missing = ("cupy", "cupyx", "nvmath", "cudnn", "cuda")
    modules = sorted(file.stem for file in (ROOT / "exec" / "device").glob("*.py"))
    code = "\n".join([
        "import sys, importlib",
        f"sys.modules.update(dict.fromkeys({missing}))",
        f"for name in {modules}: importlib.import_module(f'exec.device.{{name}}')",
    ])  # fmt: skip
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_without_cupy_it_is_named_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError) as raised:
        open_cuda(0, KERNELS, is_tf32=False)
    message = str(raised.value)
    assert "CuPy" in message
    assert "pip install 'stepcast[gpu]'" in message
    assert "--device cpu" in message
    assert "\n" not in message


def test_without_a_driver_it_is_named() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if cupy.cuda.runtime.driverGetVersion():
        pytest.skip("there is a driver")
    with pytest.raises(DeviceError, match="needs NVIDIA's driver, found none"):
        open_cuda(0, KERNELS, is_tf32=False)


def test_without_cudnn_there_are_no_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert open_convolutions(None) is None


def test_streams_get_as_many_queues_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    for before, after in ((None, "32"), ("8", "8")):
        monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS", raising=False)
        if before:
            monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", before)
        with pytest.raises(DeviceError):
            open_cuda(0, KERNELS, is_tf32=False)
        assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == after
