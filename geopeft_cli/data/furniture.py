"""Furniture built from parametric solids: one function a class, each drawing its own proportions, style and parts.

A piece is about one unit across, stands on y = 0, y up, and faces +z.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from geopeft_cli.data.solids import Ellipsoid, Part, beam, block, ring, rod, turn

SIDES = (-1, 1)


def bed(rng: np.random.Generator) -> list[Part]:
    """A mattress on a frame along z with a headboard, pillows, and a footboard or posts if any."""
    u = rng.uniform
    x, z, base, thick = u(0.25, 0.5), u(0.5, 0.6), u(0.08, 0.28), u(0.07, 0.16)
    head, foot = base + thick + u(0.05, 0.4), base + thick + u(-0.1, 0.15)
    rail = u(0.04, 0.08)
    parts = [block((-x, x), (base - rail, base), (-z, z))]
    parts.append(block((0.02 - x, x - 0.02), (base - 0.01, base + thick), (0.02 - z, z - 0.02)))
    parts.append(block((-x, x), (rng.choice([0, base]), head), (-z - 0.04, -z)))
    if rng.random() < 0.4:
        parts.append(block((-x, x), (0, foot), (z, z + 0.04)))
    if rng.random() < 0.3:
        parts.append(block((0.01 - x, x - 0.01), (0, base), (0.01 - z, z - 0.01)))
    else:
        post = u(0.9, 1.1) if rng.random() < 0.2 else base
        parts += legs(rng, "post", x - 0.03, z - 0.03, post)
    count = rng.integers(0, 3)
    for at in (np.arange(count) - (count - 1) / 2) * x:
        size = 0.42 * x * u(0.8, 1.1), u(0.04, 0.07), u(0.1, 0.15)
        parts.append(Part(Ellipsoid(size), (at, base + thick + 0.03, 0.16 - z), turn("y", u(-0.2, 0.2))))
    return parts


def bookshelf(rng: np.random.Generator) -> list[Part]:
    """Uprights and shelves, most with a back panel, some with rows of books."""
    u = rng.uniform
    x, tall, z, wall = u(0.2, 0.5), u(0.6, 1.2), u(0.1, 0.18), u(0.015, 0.035)
    shelves, filled = int(rng.integers(2, 6)), rng.random() * (rng.random() < 0.6)
    parts = [block((side * x - wall / 2, side * x + wall / 2), (0, tall), (-z, z)) for side in SIDES]
    if rng.random() < 0.7:
        parts.append(block((-x, x), (0, tall), (-z, 0.015 - z)))
    if rng.random() < 0.3:
        parts.append(block((-wall / 2, wall / 2), (0, tall), (-z, z)))
    levels = np.linspace(u(0.02, 0.1), tall - wall / 2, shelves + 1)
    for level, gap in zip(levels, [*np.diff(levels), 0], strict=True):
        parts.append(block((-x, x), (level - wall / 2, level + wall / 2), (-z, z)))
        if gap and rng.random() < filled:
            start, stop = sorted(u(-x, x, 2))
            parts.append(block((start, stop), (level, level + gap * u(0.5, 0.9)), (-0.8 * z, z * u(0.3, 0.9))))
    return parts


def chair(rng: np.random.Generator) -> list[Part]:
    """A seat on legs with a tilted back (panel, slats or rungs), some with arm rests."""
    u = rng.uniform
    x, z, seat, thick = u(0.2, 0.27), u(0.2, 0.27), u(0.35, 0.5), u(0.03, 0.09)
    parts = [seat_top(rng, x, z, seat, thick, round_share=0.2)]
    parts += legs(
        rng, str(rng.choice(["post", "rod", "splay", "sled", "pedestal"])), x - 0.03, z - 0.03, seat - thick / 2
    )
    tall, lean = u(0.3, 0.6), u(0, 0.2)
    foot, head = (seat - 0.01, 0.02 - z), (seat + tall, 0.02 - z - lean * tall)

    def along(t: float, at: float) -> tuple[float, float, float]:
        return at, foot[0] + t * (head[0] - foot[0]), foot[1] + t * (head[1] - foot[1])

    style, slim = rng.integers(3), u(0.025, 0.045)
    if style == 0:
        parts.append(beam(along(u(0, 0.4), 0), along(1, 0), 2 * x * u(0.8, 1), u(0.02, 0.07)))
    else:
        rails = (0.93,) if style == 1 else tuple(np.linspace(0.93, u(0.2, 0.5), rng.integers(2, 5)))
        parts += [beam(along(t - 0.07, 0), along(t + 0.05, 0), 2 * x - slim, 0.02) for t in rails]
    if style == 1:
        parts += [rod(along(0, at), along(0.9, at), 0.012) for at in np.linspace(-0.7 * x, 0.7 * x, rng.integers(3, 7))]
    if style != 0 or rng.random() < 0.6:
        parts += [beam(along(0, side * (x - slim / 2)), along(1, side * (x - slim / 2)), slim, slim) for side in SIDES]
    if rng.random() < 0.35:
        arm, front = seat + u(0.16, 0.26), z * u(0.3, 0.9)
        for at in (-x, x):
            parts.append(block((at - 0.025, at + 0.025), (arm - 0.03, arm), (-z, front)))
            parts.append(rod((at, seat - thick / 2, front - 0.04), (at, arm - 0.01, front - 0.03), 0.018))
    return parts


def desk(rng: np.random.Generator) -> list[Part]:
    """A rectangular top with drawers, side panels or legs, a modesty panel, some with a screen or a hutch."""
    u = rng.uniform
    x, z, tall, thick = u(0.42, 0.6), u(0.22, 0.32), u(0.5, 0.65), u(0.02, 0.045)
    parts = [block((-x, x), (tall - thick, tall), (-z, z))]
    under, deep = tall - thick / 2, z - 0.02
    left, right = rng.choice(4, 2, p=[0.4, 0.25, 0.2, 0.15])
    for side, style in ((-1, max(left, right) % 3), (1, min(left, right))):
        edge = side * (x - 0.02)
        inner = edge - side * (u(0.2, 0.3) if style == 0 else 0.03)
        if style < 2:
            low = rng.choice([0, 0.08]) if style == 0 else 0
            parts.append(block((min(edge, inner), max(edge, inner)), (low, under), (-deep, deep)))
        else:
            parts += [rod((edge, 0, at), (edge, under, at), 0.022) for at in (-deep, deep)]
    if rng.random() < 0.7:
        parts.append(block((-x + 0.03, x - 0.03), (tall * u(0.2, 0.6), under), (-deep, 0.02 - deep)))
    extra = rng.random()
    if extra < 0.3:
        at, wide = u(-0.2, 0.2), u(0.13, 0.22)
        parts.append(beam((at, tall + 0.08, -0.1), (at, tall + u(0.28, 0.36), -0.12), 2 * wide, 0.03))
        parts += [
            rod((at, tall, -0.12), (at, tall + 0.1, -0.12), 0.02),
            rod((at, tall, -0.12), (at, tall + 0.02, -0.12), 0.09),
        ]
    elif extra < 0.5:
        high = tall + u(0.2, 0.45)
        parts += [block((at - 0.015, at + 0.015), (under, high), (-z, -0.2 * z)) for at in (0.015 - x, x - 0.015)]
        parts += [block((-x, x), (high - 0.02, high), (-z, -0.2 * z)), block((-x, x), (under, high), (-z, 0.02 - z))]
    return parts


def sofa(rng: np.random.Generator) -> list[Part]:
    """One to three seat cushions on a base, with a back and arms."""
    u = rng.uniform
    seats = int(rng.integers(1, 4))
    x, z, base, seat = 0.1 + 0.14 * seats + u(0, 0.08), u(0.22, 0.3), u(0.12, 0.2), u(0.25, 0.34)
    high, deep, arm, lift = seat + u(0.16, 0.32), u(0.08, 0.14), u(0.05, 0.12), u(0, 0.1)
    parts = [block((-x, x), (lift, base), (-z, z))]
    parts.append(beam((0, base - 0.02, deep / 2 - z), (0, high, deep / 2 - z - u(0, 0.06)), 2 * x, deep))
    edges = np.linspace(-x, x, seats + 1)
    front = z + u(-0.02, 0.03)
    parts += [block((a + 0.004, b - 0.004), (base, seat), (-z, front)) for a, b in itertools.pairwise(edges)]
    if rng.random() < 0.9:
        top = seat + u(0.05, 0.18)
        for side in SIDES:
            inner, outer = sorted((side * x, side * (x + arm)))
            parts.append(block((inner, outer), (lift, top), (-z, z)))
            if rng.random() < 0.3:
                parts.append(rod(((inner + outer) / 2, top, -z), ((inner + outer) / 2, top, z), arm * 0.65))
    if rng.random() < 0.4:
        at = u(0.1 - x, x - 0.1)
        parts.append(Part(Ellipsoid((0.12, 0.1, 0.05)), (at, seat + 0.09, deep - z + 0.05), turn("x", -0.3)))
    return parts + (legs(rng, "rod", x - 0.04, z - 0.04, lift + 0.02) if lift > 0.03 else [])


def stool(rng: np.random.Generator) -> list[Part]:
    """A seat on legs or a pedestal, low or bar height; few have a low back."""
    u = rng.uniform
    x, seat, thick = u(0.16, 0.25), u(0.35, 0.85), u(0.03, 0.1)
    z = x * u(0.8, 1.1)
    parts = [seat_top(rng, x, z, seat, thick, round_share=0.6)]
    style = str(rng.choice(["post", "splay", "rod", "pedestal", "pedestal"]))
    parts += legs(rng, style, 0.7 * x, 0.7 * z, seat - thick / 2)
    if style != "pedestal" and rng.random() < 0.5:
        parts.append(Part(ring(0.85 * x, 0.012), (0, seat * u(0.25, 0.45), 0)))
    if rng.random() < 0.15:
        parts.append(block((-0.8 * x, 0.8 * x), (seat - 0.01, seat + u(0.06, 0.14)), (-0.9 * z, 0.03 - 0.9 * z)))
    return parts


def table(rng: np.random.Generator) -> list[Part]:
    """A rectangular or round top on legs, sleds or a pedestal; some have an apron or a lower shelf."""
    u = rng.uniform
    x, z, tall, thick = u(0.35, 0.6), u(0.25, 0.42), u(0.25, 0.65), u(0.02, 0.06)
    disc = rng.random() < 0.3
    parts = [seat_top(rng, x, z, tall, thick, round_share=float(disc))]
    inset = 0.62 if disc else 0.92
    x, z = inset * x, inset * (x if disc else z)
    style = str(rng.choice(["post", "rod", "splay", "sled", "pedestal"], p=[0.3, 0.2, 0.15, 0.15, 0.2]))
    parts += legs(rng, style, x, z, tall - thick / 2)
    if style == "post" and rng.random() < 0.5:
        drop = tall - thick - u(0.03, 0.08)
        parts += [block((-x, x), (drop, tall - thick / 2), (at - 0.01, at + 0.01)) for at in (-z, z)]
        parts += [block((at - 0.01, at + 0.01), (drop, tall - thick / 2), (-z, z)) for at in (-x, x)]
    if style in ("post", "rod") and rng.random() < 0.25:
        shelf = tall * u(0.2, 0.4)
        parts.append(block((-x, x), (shelf, shelf + 0.02), (-z, z)))
    return parts


def seat_top(rng: np.random.Generator, x: float, z: float, top: float, thick: float, round_share: float) -> Part:
    """A slab with its upper face at ``top``: a disc of radius ``x``, or 2 ``x`` by 2 ``z``."""
    if rng.random() < round_share:
        return rod((0, top - thick, 0), (0, top, 0), x * rng.uniform(0.85, 1), x)
    return block((-x, x), (top - thick, top), (-z, z))


def legs(rng: np.random.Generator, style: str, x: float, z: float, top: float) -> list[Part]:
    """Support from the floor to ``top`` at (±x, ±z): ``post``, ``rod``, ``splay``, ``sled`` or ``pedestal``."""
    slim = rng.uniform(0.015, 0.035)
    corners = [(a * x, b * z) for a in SIDES for b in SIDES]
    if style == "pedestal":
        foot = max(x, z) * rng.uniform(0.7, 1.1)
        parts = [rod((0, 0, 0), (0, top, 0), slim * 1.2)]
        if rng.random() < 0.5:
            return [*parts, rod((0, 0, 0), (0, 0.03, 0), foot, foot * rng.uniform(0.3, 1))]
        angles = np.arange(5) * 2 * math.pi / 5 + rng.uniform(0, 1)
        return parts + [rod((0, 0.06, 0), (foot * math.cos(a), 0.02, foot * math.sin(a)), 0.02) for a in angles]
    if style == "post":
        return [block((a - slim, a + slim), (0, top), (b - slim, b + slim)) for a, b in corners]
    if style == "sled":
        parts = [beam((a, 0, b), (a, top, b), slim, slim) for a, b in corners]
        return parts + [beam((a, slim / 2, -z), (a, slim / 2, z), slim, slim) for a in (-x, x)]
    spread = rng.uniform(1.1, 1.35) if style == "splay" else 1.0
    taper = slim * rng.uniform(0.5, 1)
    return [rod((spread * a, 0, spread * b), (0.9 * a, top, 0.9 * b), taper, slim) for a, b in corners]
