"""The devices on which transports are tested: emulated ones everywhere, a GPU where there is one."""

import pytest

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError


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
