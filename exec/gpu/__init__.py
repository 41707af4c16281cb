"""The network on a GPU: functions that bind kernels and products to device arrays.

Each returns a call that enqueues on a stream. Dense activations are (units, samples); images are in
one of two orders (``images.py``). The sources of the kernels are in ``kernels/``.
"""
