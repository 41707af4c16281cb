"""The network from scratch: modules, loss and optimiser over preallocated arrays.

Activations are feature-major, (units, samples), so that a rank's units are one contiguous block
and reductions over classes run along rows. The net never sees a rank.
"""
