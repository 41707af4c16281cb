"""Batch normalisation in two phases each way, with room for an all-reduce of ``sums`` between them.

Passes go over a few channels at a time, so that each reads what the one before left in the cache.

Source: S. Ioffe and C. Szegedy, "Batch normalization: accelerating deep network training by
reducing internal covariate shift", ICML 2015.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from exec.network.scratch import BLOCK, normalisation_scratch
from exec.nn.backend import Array, xp

Piece = tuple[slice, slice]


@dataclass(slots=True)
class BatchNorm2d:
    """``b = gamma xhat + beta`` with ``xhat = (a - mean) / sqrt(var + eps)``, channel by channel.

    A step calls, in this order, ``forward_sums``, ``forward``, ``backward_sums``, ``backward``;
    where ranks share the statistics, ``sums`` is all-reduced after each of the two sums.
    ``output`` is (channels, height, width, samples), ``sums`` and ``saved`` (2, channels), the
    others (channels,). ``count`` is the number of samples times pixels over all these ranks.
    ``saved`` is the mean and ``1 / sqrt(var + eps)`` of the last batch. The gradients of gamma
    and beta are those of the rank's own samples. ``work`` has at least ``normalisation_scratch``
    elements. Unless sums are shared (``is_shared``) they are about the samples' own mean, and lose no digits.
    """

    gamma: Array
    beta: Array
    grad_gamma: Array
    grad_beta: Array
    running_mean: Array
    running_var: Array
    output: Array
    sums: Array
    saved: Array
    work: Array
    count: int
    eps: float = 1e-5
    momentum: float = 0.1
    grad_input: Array | None = None
    adds: bool = False
    adds_input: bool = False
    is_shared: bool = True
    _input: Array = field(init=False)
    _reference: Array = field(init=False)

    def __post_init__(self) -> None:
        channels, height, width, samples = self.output.shape
        assert self.work.size >= normalisation_scratch(samples, channels, height, width)
        self._reference = xp.empty_like(self.running_mean)

    def forward_sums(self, a: Array) -> None:
        """Set ``sums`` to those of ``a - r`` and its square.

        If they are shared r is the running mean, which all ranks have alike: squares are summed about
        the samples' own mean, then moved to r, lest they cancel. Else r is that mean.
        """
        self._input = a
        flat = a.reshape(len(a), -1)
        own = flat.shape[1]
        first, second = self.sums
        self._reference[...] = self.running_mean
        second.fill(0)
        if not own:
            first.fill(0)
            return
        xp.add.reduce(flat, axis=1, out=first)
        xp.divide(first, own, out=first)
        for rows, columns in _pieces(flat):
            centred = self._room(rows, columns)
            xp.subtract(flat[rows, columns], first[rows, None], out=centred)
            second[rows] += xp.vecdot(centred, centred)
        if not self.is_shared:
            self._reference[...] = first
            first.fill(0)
            return
        first -= self._reference
        second += own * first * first
        first *= own

    def forward(self, a: Array) -> Array:
        """Return ``b`` by the statistics in ``sums``, which move the running ones too.

        No samples have no statistics, and move nothing.
        """
        count = self.count
        if not count:
            return self.output
        mean, inverse = self.saved
        shift = self.sums[0] / count
        variance = xp.maximum(self.sums[1] / count - shift * shift, 0)
        xp.add(self._reference, shift, out=mean)
        inverse[...] = 1 / xp.sqrt(variance + self.eps)
        self.running_mean *= 1 - self.momentum
        self.running_mean += self.momentum * mean
        self.running_var *= 1 - self.momentum
        self.running_var += self.momentum * count / max(1, count - 1) * variance
        _scale(a, mean, self.gamma * inverse, self.beta, self.output)
        return self.output

    def backward_sums(self, gb: Array) -> None:
        """Set ``sums`` to those of ``gb`` and ``gb xhat``; set, or add to, the gradients by them."""
        flat, gradient = (x.reshape(len(x), -1) for x in (self._input, gb))
        mean, inverse = self.saved
        first, second = self.sums
        xp.add.reduce(gradient, axis=1, out=first)
        second.fill(0)
        for rows, columns in _pieces(flat):
            centred = self._room(rows, columns)
            xp.subtract(flat[rows, columns], mean[rows, None], out=centred)
            second[rows] += xp.vecdot(centred, gradient[rows, columns])
        second *= inverse
        if self.adds:
            self.grad_beta += first
            self.grad_gamma += second
        else:
            self.grad_beta[...] = first
            self.grad_gamma[...] = second

    def backward(self, gb: Array) -> Array | None:
        """Return ``ga`` by the sums in ``sums``, if there is room for it.

        ga = gamma (gb - mean(gb) - xhat mean(gb xhat)) / sqrt(var + eps)
        """
        if self.grad_input is None:
            return None
        flat, gradient, found = (x.reshape(len(x), -1) for x in (self._input, gb, self.grad_input))
        mean, inverse = self.saved
        first, second = self.sums / max(1, self.count)
        slope, scale = second * inverse, self.gamma * inverse
        for rows, columns in _pieces(flat):
            share, place = self._room(rows, columns), found[rows, columns]
            xp.subtract(flat[rows, columns], mean[rows, None], out=share)
            xp.multiply(share, slope[rows, None], out=share)
            xp.add(share, first[rows, None], out=share)
            xp.subtract(gradient[rows, columns], share, out=share)
            if self.adds_input:
                xp.multiply(share, scale[rows, None], out=share)
                xp.add(place, share, out=place)
            else:
                xp.multiply(share, scale[rows, None], out=place)
        return self.grad_input

    def _room(self, rows: slice, columns: slice) -> Array:
        """Return scratch of the shape of a piece."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        return self.work[: shape[0] * shape[1]].reshape(shape)


def normalise(
    a: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float, out: Array
) -> Array:
    """Return ``b``, in ``out``, by given statistics: what a trained network does."""
    _scale(a, mean, gamma / xp.sqrt(var + eps), beta, out)
    return out


def _scale(a: Array, mean: Array, scale: Array, beta: Array, out: Array) -> None:
    """Set ``out`` to ``scale (a - mean) + beta``; centring first keeps the digits of large means."""
    flat, place = a.reshape(len(a), -1), out.reshape(len(out), -1)
    for rows, columns in _pieces(flat):
        piece = place[rows, columns]
        xp.subtract(flat[rows, columns], mean[rows, None], out=piece)
        xp.multiply(piece, scale[rows, None], out=piece)
        xp.add(piece, beta[rows, None], out=piece)


def _pieces(flat: Array) -> Iterator[Piece]:
    """Yield pieces of at most ``BLOCK`` elements: whole channels if they fit."""
    channels, length = flat.shape
    if not length:
        return
    step = max(1, BLOCK // length)
    for row in range(0, channels, step):
        for column in range(0, length, BLOCK):
            yield slice(row, min(row + step, channels)), slice(column, min(column + BLOCK, length))
