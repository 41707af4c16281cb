"""Stochastic gradient descent with momentum, on one flat buffer."""

from dataclasses import dataclass, field

from exec.nn.backend import Array, Call, adder, xp


@dataclass(slots=True)
class Sgd:
    """``v = momentum v + g;  w = w - learning_rate v``, with ``v = g`` where momentum is zero.

    ``velocity`` is None where momentum is zero.

    Source: I. Sutskever et al., "On the importance of initialization and momentum in deep
    learning", ICML 2013, in the form with the rate outside the velocity.
    """

    parameters: Array
    gradient: Array
    velocity: Array | None
    learning_rate: float
    momentum: float = 0.0
    _add_gradient: Call | None = field(init=False, default=None)
    _descend: Call = field(init=False)

    def __post_init__(self) -> None:
        direction = self.gradient
        if self.velocity is not None:
            direction = self.velocity
            self._add_gradient = adder(1.0, self.gradient, self.velocity)
        self._descend = adder(-self.learning_rate, direction, self.parameters)

    def update(self) -> None:
        """Take one step."""
        if self.velocity is not None and self._add_gradient is not None:
            xp.multiply(self.velocity, self.momentum, out=self.velocity)
            self._add_gradient()
        self._descend()
