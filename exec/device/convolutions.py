"""Convolutions by a library, where there is one; elsewhere columns and a matrix product do them."""

from typing import Protocol

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream

Pair = tuple[int, int]


class Geometry(Protocol):
    """The shape of a convolution: ``kernel``, ``stride`` and ``padding`` are (height, width)."""

    @property
    def samples(self) -> int:
        """The images."""
        ...

    @property
    def channels(self) -> int:
        """Of an image."""
        ...

    @property
    def height(self) -> int:
        """Of an image."""
        ...

    @property
    def width(self) -> int:
        """Of an image."""
        ...

    @property
    def filters(self) -> int:
        """The channels of an output."""
        ...

    @property
    def kernel(self) -> Pair:
        """The window."""
        ...

    @property
    def stride(self) -> Pair:
        """From window to window."""
        ...

    @property
    def padding(self) -> Pair:
        """The zeros on each side."""
        ...


class Convolutions(Protocol):
    """What binds convolutions to a stream; None: this one is not offered, use another way.

    Images and outputs are NHWC; weights are filters x kernel height x kernel width x channels. Each
    call sets its result, and adds to nothing.
    """

    @property
    def version(self) -> str:
        """The library's version."""
        ...

    def bind_forward(
        self, stream: Stream, image: DeviceArray, weight: DeviceArray, output: DeviceArray,
        geometry: Geometry,
    ) -> Call | None:  # fmt: skip
        """Return a call that enqueues: ``output`` is ``image`` correlated with ``weight``."""
        ...

    def bind_backward_weight(
        self, stream: Stream, image: DeviceArray, grad_output: DeviceArray,
        grad_weight: DeviceArray, geometry: Geometry,
    ) -> Call | None:  # fmt: skip
        """Return a call that enqueues: ``grad_weight`` is the loss's gradient by the weight."""
        ...

    def bind_backward_input(
        self, stream: Stream, weight: DeviceArray, grad_output: DeviceArray,
        grad_image: DeviceArray, geometry: Geometry,
    ) -> Call | None:  # fmt: skip
        """Return a call that enqueues: ``grad_image`` is the loss's gradient by the image."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
