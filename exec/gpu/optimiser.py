"""Stochastic gradient descent with momentum, on one flat buffer, in one kernel."""

from exec.device.array import DeviceArray
from exec.device.protocol import Call, Stream
from exec.gpu.launch import BLOCK, fours, fours_grid


def sgd(
    stream: Stream, parameters: DeviceArray, gradient: DeviceArray, velocity: DeviceArray | None,
    learning_rate: float, momentum: float = 0.0,
) -> Call:  # fmt: skip
    """Return the call of ``v = momentum v + g;  w = w - learning_rate v``.

    Without a ``velocity``, whose momentum is zero, ``v`` is ``g``. See ``exec/nn/optimiser.py``.
    """
    arrays = [parameters, gradient] + ([] if velocity is None else [velocity])
    return stream.bind_kernel(
        "sgd", parameters.dtype, fours_grid(stream, *arrays), (BLOCK,),
        parameters, gradient, velocity, parameters.size, fours(*arrays),
        float(learning_rate), float(momentum),
    )  # fmt: skip
