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
    update: Call = field(init=False)
    """Take one step."""

    def __post_init__(self) -> None:
        velocity = self.velocity
        if velocity is None:
            self.update = adder(-self.learning_rate, self.gradient, self.parameters)
            return
        add_gradient = adder(1.0, self.gradient, velocity)
        descend = adder(-self.learning_rate, velocity, self.parameters)
        multiply, momentum = xp.multiply, xp.array(self.momentum, velocity.dtype)

        def update() -> None:
            multiply(velocity, momentum, velocity)
            add_gradient()
            descend()

        self.update = update
