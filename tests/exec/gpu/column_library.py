"""A library of convolutions for devices that have none: columns and products, in room of its own."""

from dataclasses import dataclass, field

import numpy as np

from exec.device.array import DeviceArray
from exec.device.convolutions import Geometry
from exec.device.protocol import Call, Stream
from exec.gpu.column_convolution import ColumnConvolution
from exec.gpu.images import Images, Order
from exec.network.gpu_scratch import gpu_column_scratch
from exec.network.scratch import Convolution


@dataclass(slots=True)
class ColumnLibrary:
    """Sets results, channels last, as libraries do; it has no convolutions with ``refused`` strides."""

    refused: int = 0
    passes: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        """The library's version."""
        return "columns"

    def bind_forward(
        self, stream: Stream, image: DeviceArray, weight: DeviceArray, output: DeviceArray,
        geometry: Geometry,
    ) -> Call | None:  # fmt: skip
        if (found := self._columns(stream, geometry, "forward")) is None:
            return None
        columns, before, after = found
        return columns.forward(before(image), weight, after(output))

    def bind_backward_weight(
        self, stream: Stream, image: DeviceArray, grad_output: DeviceArray,
        grad_weight: DeviceArray, geometry: Geometry,
    ) -> Call | None:  # fmt: skip
        if (found := self._columns(stream, geometry, "backward_weight")) is None:
            return None
        columns, before, after = found
        return columns.backward_weight(before(image), after(grad_output), grad_weight, adds=False)

    def bind_backward_input(
        self, stream: Stream, weight: DeviceArray, grad_output: DeviceArray,
        grad_image: DeviceArray, geometry: Geometry,
    ) -> Call | None:  # fmt: skip
        if (found := self._columns(stream, geometry, "backward_input")) is None:
            return None
        columns, before, after = found
        return columns.backward_input(weight, after(grad_output), before(grad_image), adds=False)

    def close(self) -> None:
        """Give nothing back."""

    def _columns(self, stream: Stream, geometry: Geometry, name: str):
        """Return the way, and what makes images of the arrays before and after it."""
        if geometry.stride[0] == self.refused:
            return None
        self.passes.append(name)
        of = Convolution(
            geometry.samples, geometry.channels, geometry.height, geometry.width, geometry.filters,
            geometry.kernel, geometry.stride, geometry.padding,
        )  # fmt: skip
        work = stream.device.empty(gpu_column_scratch(of, is_channels_last=True), np.float64)
        last = Order.CHANNELS_LAST
        return (
            ColumnConvolution(stream, of, last, work),
            lambda array: Images(array, of.channels, of.height, of.width, of.samples, last),
            lambda array: Images(
                array, of.filters, of.output_height, of.output_width, of.samples, last
            ),
        )
