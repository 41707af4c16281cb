"""Stochastic gradient descent with momentum, on one flat buffer."""

from dataclasses import dataclass

from exec.nn.backend import Array, xp


@dataclass(slots=True)
class Sgd:
    """``v = momentum v + g;  w = w - learning_rate v``, with ``v = g`` where momentum is zero.

    The gradient's buffer is used up. ``velocity`` is None where momentum is zero.

    Source: I. Sutskever et al., "On the importance of initialization and momentum in deep
    learning", ICML 2013, in the form with the rate outside the velocity.
    """

    parameters: Array
    gradient: Array
    velocity: Array | None
    learning_rate: float
    momentum: float = 0.0

    def update(self) -> None:
        """Take one step."""
        direction = self.gradient
        if self.velocity is not None:
            xp.multiply(self.velocity, self.momentum, out=self.velocity)
            xp.add(self.velocity, self.gradient, out=self.velocity)
            direction = self.velocity
        xp.multiply(direction, self.learning_rate, out=self.gradient)
        xp.subtract(self.parameters, self.gradient, out=self.parameters)
