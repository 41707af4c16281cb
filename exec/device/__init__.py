"""The accelerator: one Protocol; CUDA through CuPy, and an emulator that runs the same kernels here."""
