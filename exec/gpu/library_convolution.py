"""Convolution by the device's library, which takes images with the channels last, and never adds.

Other images are put in that order first, and what is to be added is found in ``work`` before.
"""

from dataclasses import dataclass

from exec.device.array import DeviceArray
from exec.device.convolutions import Convolutions
from exec.device.protocol import Call, Stream
from exec.gpu.calls import in_turn
from exec.gpu.elementwise import accumulate
from exec.gpu.grids import check_work
from exec.gpu.images import Images, Order
from exec.gpu.transposed import reorder
from exec.network.gpu_scratch import aligned, gpu_library_scratch
from exec.network.scratch import Convolution


@dataclass(frozen=True, slots=True)
class LibraryConvolution:
    """The three passes of a convolution of images in ``order``; arrays as in ``convolution.py``.

    Each is None where the library does not offer it.
    """

    stream: Stream
    library: Convolutions
    of: Convolution
    order: Order
    work: DeviceArray

    def __post_init__(self) -> None:
        is_last = self.order is Order.CHANNELS_LAST
        check_work(self.work, gpu_library_scratch(self.of, is_channels_last=is_last))

    def forward(self, a: Images, weight: DeviceArray, output: Images) -> Call | None:
        """Return a call that sets ``output``."""
        given, start = self._turned(a, 0)
        found, _ = self._turned(output, start)
        call = self.library.bind_forward(
            self.stream, given.array, weight, found.array, self.of
        )  # fmt: skip
        if call is None or given is a:
            return call
        return in_turn(reorder(self.stream, a, given), call, reorder(self.stream, found, output))

    def backward_weight(
        self, a: Images, gb: Images, grad_weight: DeviceArray, *, adds: bool
    ) -> Call | None:
        """Return a call that sets, or adds to, ``grad_weight``."""
        given, start = self._turned(a, 0)
        gradient, start = self._turned(gb, start)
        found = grad_weight
        if adds:
            found = self.work[start : start + grad_weight.size].reshape(*grad_weight.shape)
        call = self.library.bind_backward_weight(
            self.stream, given.array, gradient.array, found, self.of
        )
        if call is None:
            return None
        calls = [call]
        if given is not a:
            calls[:0] = reorder(self.stream, a, given), reorder(self.stream, gb, gradient)
        if adds:
            calls.append(accumulate(self.stream, grad_weight, found))
        return in_turn(*calls)

    def backward_input(
        self, weight: DeviceArray, gb: Images, grad_input: Images, *, adds: bool
    ) -> Call | None:
        """Return a call that sets, or adds to, ``grad_input``."""
        gradient, start = self._turned(gb, 0)
        found, _ = self._turned(grad_input, start, is_apart=adds)
        call = self.library.bind_backward_input(
            self.stream, weight, gradient.array, found.array, self.of
        )
        if call is None:
            return None
        calls = [call]
        if gradient is not gb:
            calls.insert(0, reorder(self.stream, gb, gradient))
        if found is not grad_input:
            calls.append(reorder(self.stream, found, grad_input, adds=adds))
        return in_turn(*calls)

    def _turned(self, images: Images, start: int, *, is_apart: bool = False) -> tuple[Images, int]:
        """Return ``images`` if the library takes them, else room for them in ``work``.

        It begins at element ``start``, or is needed anyway (``is_apart``); the second value is
        where it ends.
        """
        if self.order is Order.CHANNELS_LAST and not is_apart:
            return images, start
        size = images.array.size
        room = Images(
            self.work[start : start + size], images.channels, images.height, images.width,
            images.samples, Order.CHANNELS_LAST,
        )  # fmt: skip
        return room, start + aligned(size)
