"""Transposed copies of matrices, block by block."""

from exec.nn.backend import Array, xp

_PAGE = 1024
_GAP = 16
_BLOCK = 256


def copy_transposed(source: Array, target: Array) -> None:
    """Copy ``source`` (m, n) into ``target`` (n, m), in blocks that stay in the cache.

    Rows a power of two apart compete for the same few places of the cache: such blocks go by way
    of a small one whose rows are not.
    """
    m, n = source.shape
    spare = None
    if m and source.strides[0] % _PAGE == 0:
        spare = xp.empty((min(m, _BLOCK // 2), min(n, _BLOCK) + _GAP), source.dtype)
    step = _BLOCK if spare is None else len(spare)
    for row in range(0, m, step):
        for column in range(0, n, _BLOCK):
            block = source[row : row + step, column : column + _BLOCK]
            if spare is not None:
                copy = spare[: block.shape[0], : block.shape[1]]
                xp.copyto(copy, block)
                block = copy
            xp.copyto(target[column : column + _BLOCK, row : row + step], block.T)
