"""The devices on which things are tested: emulated ones everywhere, and a GPU where there is one."""

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


@pytest.fixture(scope="session", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device_kind(request: pytest.FixtureRequest) -> DeviceKind:
    """Return a kind of device, or skip with the reason why none can be opened."""
    return openable(DeviceKind(request.param))


@pytest.fixture(scope="session")
def emulated() -> DeviceKind:
    """Return the emulated kind, or skip where there is no compiler for it."""
    return openable(DeviceKind.EMULATED)


def openable(kind: DeviceKind) -> DeviceKind:
    """Return ``kind``, or skip with the reason why no such device can be opened."""
    try:
        open_device(kind, 0).close()
    except DeviceError as error:
        pytest.skip(str(error))
    return kind
