"""The kernels are compiled as a GPU gets them: where NVIDIA's compiler is, without a GPU."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from exec.device.cuda_kernels import Definition, definitions_of, lay_out, options_of, text_of
from exec.device.opening import KERNELS

ARCHITECTURES = ("sm_80", "sm_90")
DTYPES = [np.float32, np.float64]
PROPERTIES = re.compile(
    r"Function properties for (\w+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores"
)


def whole() -> str:
    """Return all sources as one, each in a namespace: compilers take long to start."""
    files = sorted(KERNELS.glob("*.cu"))
    return "\n".join(f"namespace {file.stem} {{\n{text_of(file)}\n}}" for file in files)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nvcc_compiles_all_kernels_and_keeps_their_numbers_in_registers(
    tmp_path: Path, dtype: type
) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    source = tmp_path / "kernels.cu"
    source.write_text(whole(), "utf-8")
    targets = [f"-gencode=arch={a.replace('sm', 'compute')},code={a}" for a in ARCHITECTURES]
    # 177: not every source uses every function of the headers.
    strict = ("-Werror", "all-warnings", "-diag-suppress", "177")
    command = [nvcc, "-fatbin", *targets, *options_of(dtype), "-Xptxas", "-v", *strict]
    made = subprocess.run(
        [*command, str(source), "-o", str(tmp_path / "kernels.fatbin")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    found = PROPERTIES.findall(made.stderr)
    assert {name for name, *_ in found} == set(definitions_of(KERNELS))
    assert len(found) == len(ARCHITECTURES) * len(definitions_of(KERNELS))
    assert [name for name, stack, spilt in found if int(stack) or int(spilt)] == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_nvrtc_compiles_each_source(dtype: type) -> None:
    cupy = pytest.importorskip(
        "cupy", reason="CuPy, through which NVRTC is found, is not installed"
    )
    nvrtc = cupy.cuda.nvrtc
    try:
        nvrtc.getVersion()
    except RuntimeError as error:
        pytest.skip(f"there is no NVRTC: {error}")
    # What CuPy adds to our options, and the architecture, which it asks the GPU for.
    options = [
        *options_of(dtype),
        "-arch=sm_90",
        "--device-as-default-execution-space",
        "-ftz=true",
    ]
    for file in sorted(KERNELS.glob("*.cu")):
        program = nvrtc.createProgram(text_of(file), file.name, (), ())
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError:
            pytest.fail(f"{file.name}: {nvrtc.getProgramLog(program)}")
        names = [name for name, each in definitions_of(KERNELS).items() if each.source == file]
        cubin = nvrtc.getCUBIN(program)
        assert names
        assert [name for name in names if name.encode() not in cubin] == []
        nvrtc.destroyProgram(program)


def test_headers_are_inserted_once_and_their_changes_change_the_text(tmp_path: Path) -> None:
    (tmp_path / "inner.cuh").write_text("#pragma once\ntypedef int inner;\n")
    (tmp_path / "outer.cuh").write_text('#pragma once\n#include "inner.cuh"\ntypedef int outer;\n')
    source = tmp_path / "a.cu"
    source.write_text('#include "inner.cuh"\n#include "outer.cuh"\nKERNEL(one, int n) {}\n')
    text = text_of(source)
    assert (text.count("inner;"), text.count("outer;"), text.count("#")) == (1, 1, 0)
    (tmp_path / "inner.cuh").write_text("#pragma once\ntypedef long inner;\n")
    assert text_of(source) != text


def test_definitions_say_where_kernels_are_and_what_they_take(tmp_path: Path) -> None:
    file = tmp_path / "a.cu"
    file.write_text("SYNC_KERNEL(one, real* a,\n            const int* b, int n, real x) {}\n")
    parameters = ("real* a", "const int* b", "int n", "real x")
    assert definitions_of(tmp_path) == {"one": Definition(file, parameters)}
    (tmp_path / "b.cu").write_text("KERNEL(one, int n) {}\n")
    with pytest.raises(ValueError, match="kernel one must be in one file"):
        definitions_of(tmp_path)


@pytest.mark.parametrize(("dtype", "nbytes"), [(np.float32, 4), (np.float64, 8)])
def test_arguments_are_laid_out_as_the_kernel_declares_them(dtype: type, nbytes: int) -> None:
    number, whole_number, pointer = lay_out(
        "k", ("real x", "int n", "const int* p"), np.dtype(dtype), (1.5, -3, None)
    )
    assert bytes(number) == np.array(1.5, dtype).tobytes()
    assert len(bytes(number)) == nbytes
    assert bytes(whole_number) == np.array(-3, np.int32).tobytes()
    assert bytes(pointer) == bytes(8)
    for wrong in ((1, 1, None), (1.5, 1.5, None), (1.5, 2**31, None), (1.5, True, None), (1.5, 1)):
        with pytest.raises(ValueError):
            lay_out("k", ("real x", "int n", "const int* p"), np.dtype(dtype), wrong)
