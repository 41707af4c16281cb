"""The device on which kernels are tested: emulated everywhere, and a GPU where there is one."""

from collections.abc import Iterator

import pytest

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.device.protocol import Device, Stream
from exec.errors import DeviceError

# Not 0: threads in another order than ascending, so that races show.
SEED = 7


@pytest.fixture(scope="session", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """Yield the accelerator, or skip with the reason why it cannot be opened."""
    try:
        opened = open_device(DeviceKind(request.param), 0, seed=SEED)
    except DeviceError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.fixture
def stream(device: Device) -> Stream:
    """Return a new stream."""
    return device.stream()
