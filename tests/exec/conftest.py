"""The device on which kernels are tested: emulated everywhere, and a GPU where there is one."""

from collections.abc import Iterator

import pytest

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.device.protocol import Device, Stream
from exec.errors import DeviceError

# Not 0: threads in another order than ascending, so that races show.
SEED = 7


@pytest.fixture(scope="session")
def gpu() -> Iterator[Device]:
    """Yield the GPU, or skip with the reason why it cannot be opened."""
    try:
        opened = open_device(DeviceKind.GPU, 0)
    except DeviceError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.fixture
def emulated() -> Iterator[Device]:
    """Yield an emulated device, or skip with the reason why it cannot be opened."""
    try:
        opened = open_device(DeviceKind.EMULATED, 0, seed=SEED)
    except DeviceError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Device:
    """Return the accelerator: each test has its own emulated one."""
    opened: Device = request.getfixturevalue(request.param)
    return opened


@pytest.fixture
def stream(device: Device) -> Stream:
    """Return a new stream."""
    return device.stream()
