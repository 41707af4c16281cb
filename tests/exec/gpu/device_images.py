"""Images to a device and back, in either order; on the host they are (channels, h, w, samples)."""

import numpy as np
from numpy.typing import DTypeLike, NDArray

from exec.device.array import DeviceArray
from exec.device.protocol import Device
from exec.gpu.images import Images, Order

Host = NDArray[np.float64]

AXES = {Order.SAMPLES_LAST: (0, 1, 2, 3), Order.CHANNELS_LAST: (3, 1, 2, 0)}


def images_of(device: Device, host: Host, order: Order) -> Images:
    """Return a copy of ``host`` on ``device``."""
    turned = np.ascontiguousarray(host.transpose(AXES[order]))
    return Images(device.upload(turned.reshape(-1)), *host.shape, order)


def numbers_of(device: Device, images: Images) -> Host:
    """Return a copy of ``images``."""
    lengths = images.channels, images.height, images.width, images.samples
    shape = tuple(lengths[axis] for axis in AXES[images.order])
    return device.read(images.array).reshape(shape).transpose(AXES[images.order])


def room(device: Device, size: int, dtype: DTypeLike = np.float64) -> DeviceArray:
    """Return ``size`` numbers of no value."""
    return device.upload(np.full(size, np.nan, dtype))
