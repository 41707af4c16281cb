"""The optimiser against its recurrence, written out."""

import numpy as np
import pytest

from exec.nn.optimiser import Sgd

GRADIENTS = np.random.Generator(np.random.PCG64(0)).standard_normal((6, 5))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_sgd_follows_its_recurrence(momentum: float) -> None:
    w = np.linspace(-1, 1, 5)
    v = np.zeros(5)
    parameters, gradient = w.copy(), np.empty(5)
    sgd = Sgd(parameters, gradient, np.zeros(5) if momentum else None, 0.1, momentum)
    for g in GRADIENTS:
        v = momentum * v + g
        w = w - 0.1 * v
        gradient[...] = g
        sgd.update()
        # At most 6 steps of 3 roundings (a fused multiply-add makes fewer) of numbers below 8.
        np.testing.assert_allclose(parameters, w, rtol=0, atol=6 * 3 * 8 * 1.1e-16)


def test_unit_rate_without_momentum_subtracts_the_gradient() -> None:
    parameters = np.zeros(5)
    Sgd(parameters, GRADIENTS[0].copy(), None, 1.0).update()
    np.testing.assert_array_equal(parameters, -GRADIENTS[0])


def test_sgd_keeps_float32() -> None:
    arrays = [np.ones(3, np.float32) for _ in range(3)]
    sgd = Sgd(*arrays, 0.5, 0.9)
    sgd.update()
    assert {array.dtype for array in (sgd.parameters, sgd.gradient, sgd.velocity)} == {
        np.dtype(np.float32)
    }  # type: ignore[union-attr]  # given
