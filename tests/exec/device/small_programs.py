"""Small programs over device arrays, done at once by NumPy or by streams with the waits they need."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from exec.device.array import DeviceArray
from exec.device.protocol import Device, Event, Stream

NUM_ARRAYS, NUM_STREAMS, LENGTH = 3, 3, 5


@dataclass(frozen=True, slots=True)
class Step:
    """On ``stream``: fill ``into`` with ``value``, or add ``source`` to it."""

    stream: int
    into: int
    source: int | None
    value: int

    def touches(self) -> set[int]:
        return {self.into} if self.source is None else {self.into, self.source}


steps = st.lists(
    st.builds(
        Step,
        st.integers(0, NUM_STREAMS - 1),
        st.integers(0, NUM_ARRAYS - 1),
        st.none() | st.integers(0, NUM_ARRAYS - 1),
        st.integers(-3, 3),
    ),
    max_size=12,
)


def start() -> list[np.ndarray]:
    return [np.arange(LENGTH, dtype=np.float64) + index for index in range(NUM_ARRAYS)]


def expect(program: list[Step]) -> list[np.ndarray]:
    arrays = start()
    for step in program:
        if step.source is None:
            arrays[step.into][:] = step.value
        else:
            arrays[step.into] += arrays[step.source]
    return arrays


def calls(
    program: list[Step], streams: list[Stream], arrays: list[DeviceArray]
) -> Iterator[tuple[Step, Callable[[], object]]]:
    for step in program:
        stream, into = streams[step.stream], arrays[step.into]
        if step.source is None:
            yield step, stream.bind_fill(into, step.value)
        else:
            yield (
                step,
                stream.bind_kernel(
                    "accumulate", np.float64, (2,), (4,), into, arrays[step.source], LENGTH
                ),
            )


def enqueue(
    bound: list[tuple[Step, Callable[[], object]]], streams: list[Stream], dropped: int = -1
) -> int:
    """Enqueue all with the waits they need but number ``dropped``; return how many those are."""
    last: dict[tuple[int, int], Event] = {}  # by array and stream
    waits = 0
    for step, call in bound:
        for (array, stream), event in last.items():
            if stream != step.stream and array in step.touches():
                if waits != dropped:
                    streams[step.stream].wait(event)
                waits += 1
        call()
        for array in step.touches():
            last[array, step.stream] = streams[step.stream].record()
    return waits


def upload(device: Device) -> list[DeviceArray]:
    return [device.upload(each) for each in start()]


def check(device: Device, arrays: list[DeviceArray], program: list[Step]) -> None:
    for array, expected in zip(arrays, expect(program), strict=True):
        np.testing.assert_array_equal(device.read(array), expected)
