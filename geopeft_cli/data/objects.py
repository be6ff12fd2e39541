"""Everyday objects built from parametric solids: one function a class, each drawing its own proportions and parts.

The units are those of a toy box: every object is about one unit across. It stands on y = 0, y is up, and its front
faces +z (cars and airplanes face +x).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from geopeft_cli.data.solids import Ellipsoid, Part, Prism, Revolution, beam, block, ring, rod, shell, turn

Rng: TypeAlias = np.random.Generator
SIDES: Final = (-1, 1)


def airplane(rng: Rng) -> list[Part]:
    """A fuselage along x with swept wings, a tail, and up to four engines."""
    u = rng.uniform
    radius, span, nose, sweep = u(0.045, 0.085), u(0.35, 0.6), u(0.1, 0.2), u(-0.1, 0.6)
    hull = [(0, -0.5), (u(0.2, 0.5) * radius, -0.5), (radius, u(-0.25, -0.1)), (radius, 0.5 - nose)]
    bow = [(radius * math.cos(a), 0.5 - nose + nose * math.sin(a)) for a in (0.5, 1.0, math.pi / 2)]
    parts = [Part(Revolution(np.array(hull + bow)), rotation=turn("z", -math.pi / 2))]

    def wing(x: float, y: float, chord: float, length: float, back: float, tilt: float) -> Part:
        outline = [(x, 0), (x - back, length), (x - back - 0.5 * chord, length), (x - chord, 0)]
        return Part(Prism(np.array(outline), 0.01 + 0.04 * chord), (0, y, 0), turn("x", tilt))

    x, y, chord, dihedral = u(0.05, 0.2), radius * u(-0.6, 0.9), u(0.13, 0.26), u(-0.02, 0.15)
    fin, tail, tail_y = radius + u(0.1, 0.2), u(0.13, 0.22), radius * u(0, 1)
    engines, size = rng.integers(0, 3), u(0.022, 0.035)
    parts.append(wing(-0.33, 0, 0.16, fin, 0.1, 0))
    for side in SIDES:
        tilt = side * (math.pi / 2 - dihedral)
        parts += [wing(x, y, chord, span, sweep * span, tilt), wing(-0.36, tail_y, 0.12, tail, 0.06, tilt)]
        for out in np.arange(1, engines + 1) * 0.3 * span:
            front = x + 0.05 - sweep * out
            parts.append(rod((front - 0.13, y - 0.03, side * out), (front, y - 0.03, side * out), size))
    return parts


def bed(rng: Rng) -> list[Part]:
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


def bin_(rng: Rng) -> list[Part]:
    """A round or square open container, wider at the rim; some have a lid, a foot rim, or a swing top."""
    u = rng.uniform
    low, high, tall = u(0.18, 0.3), u(0.28, 0.36), u(0.6, 1.1)
    if rng.random() < 0.6:
        parts = [Part(shell([(low, 0), (high, tall)], 0.02))]
    else:
        depth = u(0.6, 1.0)
        corners = {s: [(s * low, 0, s * low * depth), (s * high, tall, s * high * depth)] for s in SIDES}
        parts = [block((-low, low), (0, 0.03), (-low * depth, low * depth))]
        for side in SIDES:
            (x0, y0, z0), (x1, y1, z1) = corners[side]
            parts.append(beam((x0, y0, 0), (x1, y1, 0), 0.02, 2 * high * depth))
            parts.append(beam((0, y0, z0), (0, y1, z1), 2 * high, 0.02))
    if rng.random() < 0.3:
        parts.append(Part(ring(high, 0.025), (0, tall, 0)))
    style = rng.random()
    if style < 0.2:
        parts.append(Part(Ellipsoid((high, u(0.05, 0.3), high)), (0, tall, 0)))
    elif style < 0.35:
        lift = u(0.6, 1.5)
        center = (0, tall + high * math.sin(lift), -high + high * math.cos(lift))
        lid = Revolution(np.array([(0, -0.015), (high, -0.015), (high, 0.015), (0, 0.015)]))
        parts.append(Part(lid, center, turn("x", -lift)))
    return parts


def bookshelf(rng: Rng) -> list[Part]:
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


def bottle(rng: Rng) -> list[Part]:
    """A body, a shoulder and a neck, with a cap on some."""
    u = rng.uniform
    radius, tall, neck = u(0.11, 0.22), u(0.7, 1.0), u(0.03, 0.06)
    shoulder, slope = u(0.4, 0.7) * tall, u(0.08, 0.25) * tall
    waist = radius * (u(0.7, 0.95) if rng.random() < 0.3 else 1)
    profile = [(0, 0), (radius * u(0.8, 1), 0), (radius, 0.05), (waist, shoulder / 2), (radius, shoulder)]
    profile += [(neck + (radius - neck) * (0.5 + 0.5 * math.cos(a)), shoulder + slope * a / 3.14) for a in (1, 2, 3.14)]
    parts = [Part(Revolution(np.array([*profile, (neck, tall), (0, tall)])))]
    if rng.random() < 0.6:
        parts.append(rod((0, tall - u(0.03, 0.1), 0), (0, tall + 0.01, 0), neck * u(1.15, 1.5)))
    if rng.random() < 0.15:
        parts.append(Part(ring(0.13, 0.02, math.pi), (radius - 0.02, shoulder * 0.7, 0), turn("x", math.pi / 2)))
    return parts


def car(rng: Rng) -> list[Part]:
    """A body along x with a cabin (sedan, van or pickup) on four wheels."""
    u = rng.uniform
    z, sill, hood, roof, wheel = u(0.18, 0.24), u(0.07, 0.12), u(0.2, 0.27), u(0.34, 0.44), u(0.075, 0.11)
    back, front = {0: (-0.42, 0.2), 1: (-0.48, 0.3), 2: (-0.05, 0.25)}[int(rng.integers(3))]
    back, front, rake = back + u(-0.03, 0.06), front + u(-0.05, 0.05), u(0.03, 0.2)
    lower = [
        (-0.5, sill),
        (-0.5, hood - u(0, 0.03)),
        (-0.45, hood),
        (front, hood),
        (0.5, hood - u(0.01, 0.09)),
        (0.5, sill),
    ]
    upper = [(back, hood - 0.02), (back + u(0.0, 0.12), roof), (front - rake, roof - 0.01), (front, hood - 0.02)]
    parts = [Part(Prism(np.array(lower), 2 * z)), Part(Prism(np.array(upper), 2 * z * u(0.8, 0.95)))]
    for x in (-0.31 + u(-0.03, 0.03), 0.31 + u(-0.03, 0.03)):
        for side in SIDES:
            parts.append(rod((x, wheel, side * (z - 0.06)), (x, wheel, side * (z + 0.01)), wheel))
    if rng.random() < 0.2:
        parts.append(block((back + 0.12, front - rake), (roof, roof + 0.03), (-0.7 * z, 0.7 * z)))
    return parts


def chair(rng: Rng) -> list[Part]:
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


def desk(rng: Rng) -> list[Part]:
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


def guitar(rng: Rng) -> list[Part]:
    """A waisted body with a neck and a head, upright and facing z."""
    u = rng.uniform
    hip, waist, bust, length = u(0.17, 0.22), u(0.1, 0.15), u(0.13, 0.18), u(0.42, 0.52)
    heights = np.array([0, 0.06, 0.25, 0.5, 0.75, 0.93, 1.0]) * length
    widths = np.array([0.35 * hip, 0.8 * hip, hip, waist, bust, 0.75 * bust, 0.3 * bust])
    outline = np.concatenate([np.stack([widths, heights], 1), np.stack([-widths, heights], 1)[::-1]])
    outline[len(widths) // 2 + 1, 0] *= u(0.5, 1)
    depth, top = u(0.04, 0.11), length + u(0.38, 0.46)
    parts = [
        Part(Prism(outline, depth)),
        block((-0.028, 0.028), (length * u(0.5, 0.9), top), (depth / 2 - 0.02, depth / 2 + 0.015)),
    ]
    parts.append(beam((0, top - 0.01, depth / 2), (0, top + u(0.1, 0.15), depth / 2 - u(0, 0.05)), u(0.07, 0.11), 0.02))
    parts.append(block((-0.07, 0.07), (0.2 * length, 0.2 * length + 0.025), (0, depth / 2 + 0.015)))
    return parts


def lamp(rng: Rng) -> list[Part]:
    """A foot, a straight, leaning or bent pole, and an open shade or a globe."""
    u = rng.uniform
    tall, pole, foot = u(0.5, 1.1), u(0.01, 0.025), u(0.1, 0.2)
    parts = [rod((0, 0, 0), (0, u(0.02, 0.06), 0), foot, foot * u(0.4, 1))]
    if rng.random() < 0.4:
        elbow, reach = (-u(0, 0.2), tall * u(0.4, 0.7), 0.0), u(0.1, 0.35)
        head, drop = (reach, tall, 0.0), turn("z", u(0, 0.8))
        parts += [rod((0, 0, 0), elbow, pole), rod(elbow, head, pole)]
    else:
        head, drop = (0.0, tall, 0.0), turn("z", u(-0.1, 0.1))
        parts.append(rod((0, 0, 0), head, pole))
        if rng.random() < 0.3:
            parts.append(Part(Ellipsoid((u(0.06, 0.15), tall * 0.25, u(0.06, 0.15))), (0, tall * 0.27, 0)))
    wide, narrow, high = u(0.14, 0.28), u(0.05, 0.14), u(0.12, 0.3)
    if rng.random() < 0.2:
        parts.append(Part(Ellipsoid((wide * 0.7, wide * 0.7, wide * 0.7)), head))
    else:
        rim = [(wide, -high / 2), (narrow, high / 2), (narrow - 0.015, high / 2), (wide - 0.015, -high / 2)]
        parts.append(Part(Revolution(np.array(rim)), head, drop))
    return parts


def mug(rng: Rng) -> list[Part]:
    """A cup with an ear; few have a second one or a saucer."""
    u = rng.uniform
    low, high, tall, wall = u(0.24, 0.38), u(0.3, 0.42), u(0.5, 0.95), u(0.02, 0.045)
    middle = (low + high) / 2 + u(-0.03, 0.06)
    parts = [Part(shell([(low, 0), (middle, tall / 2), (high, tall)], wall))]
    size, tube, at = u(0.14, 0.24) * (0.5 + tall / 2), u(0.025, 0.05), tall * u(0.45, 0.6)
    for side in (1, -1)[: 1 + (rng.random() < 0.1)]:
        ear = turn("y", 0 if side > 0 else math.pi) @ turn("x", math.pi / 2)
        parts.append(Part(ring(size, tube, math.pi * 1.05, u(1, 1.6)), (side * (middle - wall), at, 0), ear))
    if rng.random() < 0.15:
        parts.append(Part(shell([(0.3, -0.06), (u(0.5, 0.65), 0.03)], 0.03)))
    return parts


def sofa(rng: Rng) -> list[Part]:
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


def stool(rng: Rng) -> list[Part]:
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


def table(rng: Rng) -> list[Part]:
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


def seat_top(rng: Rng, x: float, z: float, top: float, thick: float, round_share: float) -> Part:
    """A slab with its upper face at ``top``: a disc of radius ``x``, or 2 ``x`` by 2 ``z``."""
    if rng.random() < round_share:
        return rod((0, top - thick, 0), (0, top, 0), x * rng.uniform(0.85, 1), x)
    return block((-x, x), (top - thick, top), (-z, z))


def legs(rng: Rng, style: str, x: float, z: float, top: float) -> list[Part]:
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


MAKERS: Final[dict[str, Callable[[Rng], list[Part]]]] = {
    "airplane": airplane,
    "bed": bed,
    "bin": bin_,
    "bookshelf": bookshelf,
    "bottle": bottle,
    "car": car,
    "chair": chair,
    "desk": desk,
    "guitar": guitar,
    "lamp": lamp,
    "mug": mug,
    "sofa": sofa,
    "stool": stool,
    "table": table,
}
