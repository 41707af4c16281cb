"""Letters drawn on the spot: the dataset that needs no file.

A letter is a glyph of ``strokes.py`` put through the variation of a hand (slant, scale, rotation,
shift, a smooth warp, the pen's thickness) and scanned to 16 x 8 black and white pixels.

The bits depend on the seed alone, not on the platform: randomness is the raw stream of PCG64, which
numpy promises never to change, and the arithmetic is add, multiply, divide and compare, one ufunc
at a time, with neither a reduction whose order could vary nor a function whose rounding could.
"""

import functools
import string

import numpy as np
from numpy.typing import NDArray

from exec.data.strokes import GLYPHS, trace

ROWS, COLUMNS = 16, 8
ALPHABET = string.ascii_lowercase

_POINTS = 64  # Pen positions in one letter.
_BOX = (6.4, 14.4)  # The glyph's box in pixels, before the hand's variation.
_LETTERS_AT_A_TIME = 512  # So that their pixels stay in the cache.

# How far a hand strays; each draw has a triangular density on [-1, 1], times one of these.
_SCALE_X, _SCALE_Y = 0.22, 0.22
_SLANT = 0.35  # Rightward pixels per pixel of height.
_ROTATION = 0.10  # Tangent of half the angle.
_SHIFT_X, _SHIFT_Y = 0.9, 1.3  # Pixels.
_WARP_X, _WARP_Y = 1.5, 2.3  # Pixels, at each of the nine knots.
_RADIUS, _RADIUS_SPREAD = 0.63, 0.15  # Pixels.
_NUM_KNOTS = 9
_NUM_TRAITS = 7 + 2 * _NUM_KNOTS


def draw_letters(
    num_letters: int, seed: int, stream: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw letters from one stream of a seed; a longer set begins with the shorter one.

    Returns the images, ``(num_letters, 128)`` of 0 and 1, and the labels, a = 0 to z = 25. Every
    26 consecutive letters are the whole alphabet in some order.
    """
    labels = _shuffled_alphabets(num_letters, seed, stream)
    uniform = _uniform(seed, (stream, 1), num_letters, 1 + 2 * _NUM_TRAITS)
    traits = (uniform[:, 1::2] + uniform[:, 2::2] - 1.0).T  # (num_traits, num_letters)
    images = np.empty((num_letters, ROWS * COLUMNS), np.float32)
    for label, letter in enumerate(ALPHABET):
        hands = len(GLYPHS[letter])
        for hand in range(hands):
            chosen = (labels == label) & (np.floor(uniform[:, 0] * hands) == hand)
            where = np.flatnonzero(chosen)
            for start in range(0, len(where), _LETTERS_AT_A_TIME):
                part = where[start : start + _LETTERS_AT_A_TIME]
                images[part] = _scan(*_write(letter, hand, traits[:, part])).T
    return images, labels


def _shuffled_alphabets(num_letters: int, seed: int, stream: int) -> NDArray[np.int64]:
    num_alphabets = -(-num_letters // len(ALPHABET))
    keys = _uniform(seed, (stream, 0), num_alphabets, len(ALPHABET))
    order = np.argsort(keys, axis=1, kind="stable")
    return order.reshape(-1)[:num_letters].astype(np.int64)


def _uniform(seed: int, key: tuple[int, ...], rows: int, columns: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1), the upper 53 bits of the raw stream, row after row."""
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))
    raw = bits.random_raw(rows * columns).reshape(rows, columns)
    uniform: NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


@functools.cache
def _template(letter: str, hand: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a glyph's points about the centre, ``(2, points, 1)``, and their warp weights.

    The weights, ``(knots, points, 1)``, are products of the quadratic Bernstein polynomials in x
    and y: nine knots on a 3 x 3 grid move, and the plane follows smoothly.
    """
    width, height = _BOX
    points = np.array(trace(GLYPHS[letter][hand], _POINTS, width, height)).T
    u, v = points[0] / width, points[1] / height
    across = ((1 - u) * (1 - u), 2 * u * (1 - u), u * u)
    down = ((1 - v) * (1 - v), 2 * v * (1 - v), v * v)
    weights = np.array([a * b for a in across for b in down])
    centred = np.array([points[0] - width / 2, points[1] - height / 2])
    return centred[:, :, None], weights[:, :, None]


def _write(
    letter: str, hand: int, traits: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the pen's x and y, each ``(points, letters)``, and radius, ``(letters,)``."""
    scale_x, scale_y, slant, rotation, shift_x, shift_y, thickness = traits[:7]
    warp = traits[7:]
    (x0, y0), weights = _template(letter, hand)
    x = x0 + np.zeros_like(scale_x)
    y = y0 + np.zeros_like(scale_y)
    for knot in range(_NUM_KNOTS):
        x += weights[knot] * (_WARP_X * warp[2 * knot])
        y += weights[knot] * (_WARP_Y * warp[2 * knot + 1])
    x = x * (1 + _SCALE_X * scale_x) - _SLANT * slant * y
    y = y * (1 + _SCALE_Y * scale_y)
    half = _ROTATION * rotation  # cos and sin of an angle from the tangent of its half.
    cos = (1 - half * half) / (1 + half * half)
    sin = 2 * half / (1 + half * half)
    x, y = cos * x - sin * y, sin * x + cos * y
    x += COLUMNS / 2 + _SHIFT_X * shift_x
    y += ROWS / 2 + _SHIFT_Y * shift_y
    return x, y, _RADIUS + _RADIUS_SPREAD * thickness


def _scan(
    x: NDArray[np.float64], y: NDArray[np.float64], radius: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which pixels are black, ``(128, letters)``.

    A pen of radius r at distance d from a pixel's centre covers about r + 1/2 - d of the pixel,
    between none and all of it. Black is a pixel at least half covered: d <= r.
    """
    num_letters = len(radius)
    columns = (np.arange(COLUMNS) + 0.5)[:, None]
    rows = (np.arange(ROWS) + 0.5)[:, None]
    from_column = np.square(x[:, None, :] - columns).astype(np.float32)  # (points, 8, letters)
    from_row = np.square(y[:, None, :] - rows).astype(np.float32)  # (points, 16, letters)
    nearest = np.full((ROWS, COLUMNS, num_letters), np.inf, np.float32)
    distance = np.empty_like(nearest)
    for point in range(_POINTS):
        np.add(from_row[point, :, None], from_column[point], out=distance)
        np.minimum(nearest, distance, out=nearest)
    black: NDArray[np.bool_] = nearest <= (radius * radius).astype(np.float32)
    return black.reshape(ROWS * COLUMNS, num_letters)
