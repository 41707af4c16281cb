"""The GPU's kernels on the CPU: a C++ compiler makes a shared object of each source.

A compiled source is kept in the cache, by the hash of all it was made from.
"""

import ctypes
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from exec.cache import cache_root
from exec.errors import DeviceError

KERNELS = Path(__file__).parents[1] / "gpu" / "kernels"
"""The package's sources, and the headers that make them run on the CPU."""

FLAGS = (
    *("-x", "c++", "-std=c++17", "-O2", "-fPIC", "-shared", "-DEMULATED"),
    "-U_FORTIFY_SOURCE",  # fibers change by longjmp, which the fortified one forbids
)
REALS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
DEFINITION = re.compile(r"^\s*(?:SYNC_)?KERNEL\(\s*(\w+)", re.MULTILINE)

KernelFunction = Callable[..., bytes | None]


def sources_of(sources: Path | Sequence[Path]) -> tuple[Path, ...]:
    """Return the .cu files of a folder, or those given."""
    return tuple(sorted(sources.glob("*.cu"))) if isinstance(sources, Path) else tuple(sources)


def kernels_of(sources: Sequence[Path]) -> dict[str, Path]:
    """Return which file defines each kernel.

    Raises:
        ValueError: two define the same.
    """
    found: dict[str, Path] = {}
    for source in sources:
        for name in DEFINITION.findall(source.read_text("utf-8")):
            if name in found:
                raise ValueError(
                    f"kernel {name} must be in one file, got {found[name]} and {source}"
                )
            found[name] = source
    return found


@cache
def find_compiler() -> tuple[tuple[str, ...], str]:
    """Return the command of a C++ compiler, and its version.

    Raises:
        DeviceError: there is none.
    """
    named = os.environ.get("CXX")
    candidates = [named] if named else ["c++", "g++", "clang++"]
    for candidate in candidates:
        command = tuple(shlex.split(candidate))
        if not command or shutil.which(command[0]) is None:
            continue
        asked = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            return command, asked.stdout.splitlines()[0]
    raise DeviceError(
        f"device emulated must have a C++ compiler, found none of {', '.join(candidates)}; "
        "install g++ or clang++, or set CXX"
    )


@cache
def load_kernels(source: Path, dtype: "np.dtype[Any]") -> ctypes.CDLL:
    """Return the kernels of ``source``, with ``real`` being ``dtype``; compile what is not cached.

    Raises:
        DeviceError: there is no compiler, or it refuses the source.
    """
    command, version = find_compiler()
    flags = (*FLAGS, f"-DREAL={REALS[dtype]}")
    headers = sorted({*source.parent.glob("*.cuh"), *KERNELS.glob("*.cuh")})
    made_from = hashlib.sha256(repr((command, version, flags)).encode())
    for file in (*headers, source):
        made_from.update(file.read_bytes())
    library = cache_root() / "emulated" / f"{source.stem}-{made_from.hexdigest()[:32]}.so"
    if library.exists():
        try:
            return ctypes.CDLL(str(library))
        except OSError:
            library.unlink(missing_ok=True)  # damaged: it is made anew below
    try:
        with _turn(source):
            if not library.exists():
                _compile(source, [*command, *flags, f"-I{KERNELS}"], library)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise DeviceError(
            f"device emulated must keep its kernels in {library.parent}, which fails: {error}; set "
            f"STEPCAST_CACHE to a folder with room that can be written"
        ) from error


@contextmanager
def _turn(source: Path) -> Iterator[None]:
    """Let one rank at a time compile ``source``, so that the others find what it made."""
    with source.open("rb") as file:
        with suppress(OSError):  # a file system without locks: many compile, and the last one stays
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(source: Path, command: Sequence[str], library: Path) -> None:
    """Compile ``source`` to ``library``, which appears whole or not at all."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as own:
        made = Path(own) / library.name
        asked = subprocess.run(
            [*command, str(source), "-o", str(made)], capture_output=True, text=True, check=False
        )
        if asked.returncode != 0:
            lines = asked.stderr.strip().splitlines() or ["no message"]
            told = next((line for line in lines if "error" in line.lower()), lines[-1])
            raise DeviceError(f"{source.name} must be compiled by {command[0]}, got: {told}")
        made.replace(library)


def find_kernel(source: Path, name: str, dtype: "np.dtype[Any]") -> tuple[KernelFunction, str]:
    """Return the function that runs the kernel ``name``, and the codes of its parameters."""
    library = load_kernels(source, dtype)
    function, signature = library[f"kernel_{name}"], library[f"signature_{name}"]
    function.restype = signature.restype = ctypes.c_char_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint]
    return function, signature().decode()
