"""The kernels on a GPU: compiled by NVRTC when first bound, loaded when bound, launched by the driver.

A launch goes straight to ``cuLaunchKernel`` with arguments that were laid out when it was bound:
CuPy's own kernel objects lay them out anew at each call, which costs more than the launch.
"""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from exec.device.array import DeviceArray
from exec.device.protocol import Argument, Call
from exec.errors import DeviceError

REALS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
_DEFINITION = re.compile(r"^\s*(?:SYNC_)?KERNEL\(\s*(\w+)\s*,([^)]*)\)", re.MULTILINE)
_INCLUDE = re.compile(r'^\s*#include "([^"]+)"\s*$', re.MULTILINE)
_ONCE = re.compile(r"^\s*#pragma once\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Definition:
    """Where a kernel is defined, and the declarations of its parameters."""

    source: Path
    parameters: tuple[str, ...]


def definitions_of(sources: Path | Sequence[Path]) -> dict[str, Definition]:
    """Return the kernels of a folder's .cu files, or of those given.

    Raises:
        ValueError: two have the same name.
    """
    files = sorted(sources.glob("*.cu")) if isinstance(sources, Path) else sources
    found: dict[str, Definition] = {}
    for file in files:
        for name, parameters in _DEFINITION.findall(file.read_text("utf-8")):
            if name in found:
                raise ValueError(
                    f"kernel {name} must be in one file, got {found[name].source} and {file}"
                )
            found[name] = Definition(file, tuple(each.strip() for each in parameters.split(",")))
    return found


def text_of(source: Path, included: set[Path] | None = None) -> str:
    """Return a source with its headers in the places of its ``#include``s.

    CuPy keeps compiled kernels by their text and options, so the text must be all there is: with a
    search path, a kernel would outlive a change of a header.
    """
    included = set() if included is None else included

    def insert(match: re.Match[str]) -> str:
        header = source.parent / match[1]
        if not header.exists():  # behind an #ifdef that NVRTC does not take
            return match[0]
        if header in included:
            return ""
        included.add(header)
        return text_of(header, included)

    text = _ONCE.sub("", source.read_text("utf-8"))
    return _INCLUDE.sub(insert, text)


def options_of(dtype: DTypeLike) -> tuple[str, ...]:
    """Return the compiler's options; CuPy adds the architecture, and -ftz=true.

    Raises:
        ValueError: ``dtype`` is neither float32 nor float64.
    """
    real = REALS.get(np.dtype(dtype))
    if real is None:
        raise ValueError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    return ("-std=c++17", f"-DREAL={real}")


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels of one GPU, and CuPy, which compiles and loads them."""

    cupy: Any
    definitions: dict[str, Definition]
    _modules: dict[tuple[Path, Any], Any] = field(default_factory=dict)

    def bind(
        self, stream: int, name: str, dtype: DTypeLike, grid: Sequence[int], block: Sequence[int],
        arguments: Sequence[Argument],
    ) -> Call:  # fmt: skip
        """Return a call that launches the kernel ``name`` on the stream at address ``stream``.

        Raises:
            ValueError: no kernel has that name, or the arguments are not those of its parameters.
            DeviceError: NVRTC cannot compile it.
        """
        definition = self.definitions.get(name)
        if definition is None:
            raise ValueError(f"kernel must be one of {', '.join(self.definitions)}, got {name!r}")
        values = lay_out(name, definition.parameters, np.dtype(dtype), arguments)
        sizes = (*_extent(grid), *_extent(block))
        if 0 in sizes[:3]:
            return do_nothing
        if not 0 < sizes[3] * sizes[4] * sizes[5] <= 1024:
            raise ValueError(f"block must have 1 to 1024 threads, got {tuple(block)}")
        # Loading a kernel may wait for the whole GPU (CUDA programming guide, Lazy Loading), so it
        # happens here, not at the first launch: get_function loads it.
        function = self._module(definition.source, np.dtype(dtype)).get_function(name)
        # kernelParams of cuLaunchKernel: the address of each argument. The driver copies the values
        # before it returns, also into a graph.
        addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        launch, given = self.cupy.cuda.driver.launchKernel, ctypes.addressof(addresses)
        handle, kept = function.ptr, (function, addresses, values, tuple(arguments))
        gx, gy, gz, bx, by, bz = sizes

        def call(_kept: object = kept) -> None:
            launch(handle, gx, gy, gz, bx, by, bz, 0, stream, given, 0)

        return call

    def _module(self, source: Path, dtype: "np.dtype[Any]") -> Any:
        module = self._modules.get((source, dtype))
        if module is None:
            raw = self.cupy.RawModule(code=text_of(source), options=options_of(dtype))
            try:
                module = raw.module  # compiled now, or found in CuPy's cache on disk
            except self.cupy.cuda.compiler.CompileException as error:
                raise DeviceError(f"{source.name} must be compiled by NVRTC:\n{error}") from error
            self._modules[source, dtype] = module
        return module


def do_nothing() -> None:
    """Enqueue nothing."""


def lay_out(
    name: str, parameters: Sequence[str], dtype: "np.dtype[Any]", arguments: Sequence[Argument]
) -> list[Any]:
    """Return each argument as the C value that the kernel expects.

    Raises:
        ValueError: the arguments are not those of the parameters, or a whole number is too large.
    """
    if len(arguments) != len(parameters):
        raise ValueError(f"{name} must get {len(parameters)} arguments, got {len(arguments)}")
    return [
        _value(f"argument {index} of {name}", parameter, dtype, argument)
        for index, (parameter, argument) in enumerate(zip(parameters, arguments, strict=True))
    ]


def _value(where: str, parameter: str, dtype: "np.dtype[Any]", argument: Argument) -> Any:
    is_pointer, is_int = "*" in parameter, re.match(r"(const )?int\b", parameter) is not None
    match argument:
        case DeviceArray() | None if is_pointer:
            return ctypes.c_void_p(None if argument is None else argument.pointer)
        case bool():
            pass
        case int() if is_int and not is_pointer:
            if not -(2**31) <= argument < 2**31:
                raise ValueError(f"{where} must fit into 32 bits, got {argument}")
            return ctypes.c_int32(argument)
        case float() if not is_int and not is_pointer:
            return (ctypes.c_float if dtype == np.float32 else ctypes.c_double)(argument)
        case _:
            pass
    raise ValueError(f"{where} must be {parameter!r}, got {argument!r}")


def _extent(lengths: Sequence[int]) -> tuple[int, int, int]:
    if not 1 <= len(lengths) <= 3 or min(lengths) < 0:
        raise ValueError(f"grid and block must be 1 to 3 lengths, got {tuple(lengths)}")
    x, y, z = (*lengths, 1, 1)[:3]
    return int(x), int(y), int(z)
