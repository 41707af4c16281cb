"""The loss: softmax with cross-entropy and its gradient, in one pass over the logits."""

import math
from dataclasses import dataclass, field

from exec.nn.backend import Array, Call, adder, dot_of, outer_adder, peak_of, xp

_SAFE = 40.0
"""Logits up to this size are not shifted: their exponentials, and sums of them, are far from the
ends of float32's range, 1e-38 and 3e38."""

_KEPT = 16
"""Sums of exponentials are kept for so many batches, and their logarithms taken together."""


@dataclass(slots=True)
class SoftmaxCrossEntropy:
    """The loss ``-scale * sum log p[label]`` and, in place of the logits, its gradient.

    ``targets`` is (classes, samples): ``scale`` where the label is, else zero. ``total`` grows by
    the loss of every batch until it is set; it does not depend on when it is looked at.
    """

    scale: float
    targets: Array
    _total: float = field(init=False, default=0.0)
    _label_logits: list[float] = field(init=False, default_factory=list)
    _sums: Array = field(init=False)
    _logs: Array = field(init=False)

    def __post_init__(self) -> None:
        samples, dtype = self.targets.shape[1], self.targets.dtype
        self._sums, self._logs = (xp.empty((_KEPT, samples), dtype) for _ in range(2))

    @property
    def total(self) -> float:
        """The sum of the losses of all batches since it was set."""
        self._settle()
        return self._total

    @total.setter
    def total(self, total: float) -> None:
        self._label_logits.clear()
        self._total = total

    def _settle(self) -> None:
        """Add the losses of the batches that are kept, one after the other."""
        count, samples = len(self._label_logits), self.targets.shape[1]
        if not count:
            return
        logs = xp.log(self._sums[:count], self._logs[:count])
        offset = samples * math.log(self.scale)
        for row, label_logits in zip(logs, self._label_logits, strict=True):
            self._total += self.scale * (float(row.sum()) + offset) - label_logits
        self._label_logits.clear()

    def forward_backward(self, logits: Array) -> Array:
        """Return the gradient ``scale * (softmax(logits) - onehot)`` in the place of ``logits``."""
        self.bind(logits)()
        return logits

    def bind(self, logits: Array) -> Call:
        """Return a call that does this for ``logits``, whose place is fixed."""
        if not logits.size:
            return lambda: None
        dtype, classes, flat = logits.dtype, len(logits), logits.reshape(-1)
        rows, kept, settle, shift = list(self._sums), self._label_logits, self._settle, xp.empty_like(self._sums[0])  # fmt: skip
        subtract_shift = outer_adder(-1.0, xp.ones(classes, dtype), shift, logits)
        subtract_targets = adder(-1.0, self.targets, logits)
        # Sums of exponentials are taken in units of the scale, which spares a pass that applies it.
        add_up = xp.full(classes, 1.0 / self.scale, dtype).dot
        peak, label_logits = peak_of(flat), dot_of(flat, self.targets.reshape(-1))
        largest, exp, divide = xp.maximum.reduce, xp.exp, xp.divide

        def forward_backward() -> None:
            if not peak() <= _SAFE:
                largest(logits, 0, None, shift)
                subtract_shift()
            if len(kept) == _KEPT:
                settle()
            row = rows[len(kept)]
            kept.append(label_logits())
            exp(logits, logits)
            add_up(logits, row)
            divide(logits, row, logits)
            subtract_targets()

        return forward_backward
