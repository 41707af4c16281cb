"""A light start: the first import of commands that forecast and are over in a second.

What they allocate lives to their end, nearly all of it while they start, and Python would look through
all of it for garbage again and again: a sixth of the time that the imports take. A forecast multiplies
no matrices: starting threads for that takes NumPy's import a third of its time. And pydantic would look
through all installed packages for plugins, of which a Machine needs none.
"""

import gc
import os

gc.set_threshold(50_000, 20, 50)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
