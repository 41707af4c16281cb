"""The sum of two branches, whose gradient goes to both."""

from dataclasses import dataclass

from exec.nn.backend import Array, xp


@dataclass(slots=True)
class Add:
    """``output = a + b``, over ``a`` where there is no ``output``.

    ``destinations`` are the places of the inputs' gradients, each with whether it is added to. In
    place, the gradient of ``a`` is ``gb`` itself and has no destination.
    """

    output: Array | None = None
    destinations: tuple[tuple[Array, bool], ...] = ()

    def forward(self, a: Array, b: Array) -> Array:
        """Return the sum."""
        output = a if self.output is None else self.output
        xp.add(a, b, out=output)
        return output

    def backward(self, gb: Array) -> Array:
        """Pass ``gb`` on to the destinations; return it."""
        for place, adds in self.destinations:
            if adds:
                xp.add(place, gb, out=place)
            else:
                xp.copyto(place, gb)
        return gb
