"""Garbage is looked for less often: the first import of commands that are over in a second.

What they allocate lives to their end, nearly all of it while they start, and Python would look through
all of it again and again: a sixth of the time that the imports take.
"""

import gc

gc.set_threshold(50_000, 20, 50)
