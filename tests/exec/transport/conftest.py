"""The devices on which transports are tested: emulated ones everywhere, a GPU where there is one."""

import pytest

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError


@pytest.fixture(scope="session", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device_kind(request: pytest.FixtureRequest) -> DeviceKind:
    """Return a kind of device, or skip with the reason why none can be opened."""
    kind = DeviceKind(request.param)
    try:
        open_device(kind, 0).close()
    except DeviceError as error:
        pytest.skip(str(error))
    return kind
