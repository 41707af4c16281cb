"""The network from scratch: modules, loss and optimiser over preallocated arrays.

Activations are feature-major, samples last: (units, samples), and images (channels, height,
width, samples), so that a rank's units or channels are one contiguous block, flattening is free
and reductions over classes run along rows. The net never sees a rank.
"""
