"""A lock around what a device does is let go of when that is done, not when it is enqueued."""

import threading

import numpy as np
import pytest

from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.device.protocol import zeros
from exec.runtime.device_step import _Held


@pytest.mark.parametrize("seed", range(1, 9))
def test_who_takes_the_lock_next_finds_the_work_done(emulated: DeviceKind, seed: int) -> None:
    device = open_device(emulated, 0, seed=seed)
    working, looking = device.stream(), device.stream()
    shared, seen = zeros(device, 4, np.float64), zeros(device, 4, np.float64)
    lock = _Held(threading.Lock(), working)
    lock.acquire()
    working.bind_fill(shared, 3.0)()
    lock.release()
    lock.acquire()
    looking.bind_copy(shared, seen)()
    looking.synchronize()
    working.bind_fill(shared, 9.0)()
    lock.release()
    assert device.read(seen).tolist() == [3.0] * 4
    device.close()
