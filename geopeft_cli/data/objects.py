"""Objects built from parametric solids: one function a class, each drawing its own proportions and parts.

An object is about one unit across and stands on y = 0, y up; a car and an airplane, which flies there, face +x.
"""

from __future__ import annotations

import math

import numpy as np

from geopeft_cli.data.solids import Ellipsoid, Part, Prism, Revolution, beam, block, ring, rod, shell, turn

SIDES = (-1, 1)


def airplane(rng: np.random.Generator) -> list[Part]:
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


def bin_(rng: np.random.Generator) -> list[Part]:
    """A round or square open container, wider at the rim; some have a thick rim, a dome or an open lid."""
    u = rng.uniform
    low, high, tall = u(0.18, 0.3), u(0.28, 0.36), u(0.6, 1.1)
    if rng.random() < 0.6:
        parts = [Part(shell([(low, 0), (high, tall)], 0.02))]
    else:
        depth = u(0.6, 1.0)
        parts = [block((-low, low), (0, 0.03), (-low * depth, low * depth))]
        for side in SIDES:
            foot, rim = side * low, side * high
            parts.append(beam((foot, 0, 0), (rim, tall, 0), 0.02, 2 * high * depth))
            parts.append(beam((0, 0, foot * depth), (0, tall, rim * depth), 2 * high, 0.02))
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


def bottle(rng: np.random.Generator) -> list[Part]:
    """A body, a shoulder and a neck, with a cap on some."""
    u = rng.uniform
    radius, tall, neck = u(0.11, 0.22), u(0.7, 1.0), u(0.03, 0.06)
    shoulder, slope = u(0.4, 0.7) * tall, u(0.08, 0.25) * tall
    waist = radius * (u(0.7, 0.95) if rng.random() < 0.3 else 1)
    profile = [(0, 0), (radius * u(0.8, 1), 0), (radius, 0.05), (waist, shoulder / 2), (radius, shoulder)]
    bend = [(0.5 + 0.5 * math.cos(math.pi * t), t) for t in (0.33, 0.67, 1)]
    profile += [(neck + (radius - neck) * s, shoulder + slope * t) for s, t in bend]
    parts = [Part(Revolution(np.array([*profile, (neck, tall), (0, tall)])))]
    if rng.random() < 0.6:
        parts.append(rod((0, tall - u(0.03, 0.1), 0), (0, tall + 0.01, 0), neck * u(1.15, 1.5)))
    if rng.random() < 0.15:
        parts.append(Part(ring(0.13, 0.02, math.pi), (radius - 0.02, shoulder * 0.7, 0), turn("x", math.pi / 2)))
    return parts


def car(rng: np.random.Generator) -> list[Part]:
    """A body along x with a cabin (sedan, van or pickup) on four wheels."""
    u = rng.uniform
    z, sill, hood, roof, wheel = u(0.18, 0.24), u(0.07, 0.12), u(0.2, 0.27), u(0.34, 0.44), u(0.075, 0.11)
    back, front = ((-0.42, 0.2), (-0.48, 0.3), (-0.05, 0.25))[rng.integers(3)]
    back, front = back + u(-0.03, 0.06), front + u(-0.05, 0.05)
    tail, rake = (front - back) * u(0, 0.25), (front - back) * u(0.1, 0.45)
    lower = [
        (-0.5, sill),
        (-0.5, hood - u(0, 0.03)),
        (-0.45, hood),
        (front, hood),
        (0.5, hood - u(0.01, 0.09)),
        (0.5, sill),
    ]
    upper = [(back, hood - 0.02), (back + tail, roof), (front - rake, roof - 0.01), (front, hood - 0.02)]
    parts = [Part(Prism(np.array(lower), 2 * z)), Part(Prism(np.array(upper), 2 * z * u(0.8, 0.95)))]
    for x in (-0.31 + u(-0.03, 0.03), 0.31 + u(-0.03, 0.03)):
        for side in SIDES:
            parts.append(rod((x, wheel, side * (z - 0.06)), (x, wheel, side * (z + 0.01)), wheel))
    if rng.random() < 0.2:
        parts.append(block((back + tail, front - rake), (roof, roof + 0.03), (-0.7 * z, 0.7 * z)))
    return parts


def guitar(rng: np.random.Generator) -> list[Part]:
    """A waisted body with a neck and a head, upright and facing z."""
    u = rng.uniform
    hip, waist, bust, length = u(0.17, 0.22), u(0.1, 0.15), u(0.13, 0.18), u(0.42, 0.52)
    heights = np.array([0, 0.06, 0.25, 0.5, 0.75, 0.93, 1.0]) * length
    widths = np.array([0.35 * hip, 0.8 * hip, hip, waist, bust, 0.75 * bust, 0.3 * bust])
    outline = np.concatenate([np.stack([widths, heights], 1), np.stack([-widths, heights], 1)[::-1]])
    outline[5, 0] *= u(0.3, 1)  # a cutaway
    depth, top = u(0.04, 0.11), length + u(0.38, 0.46)
    parts = [
        Part(Prism(outline, depth)),
        block((-0.028, 0.028), (length * u(0.5, 0.9), top), (depth / 2 - 0.02, depth / 2 + 0.015)),
    ]
    parts.append(beam((0, top - 0.01, depth / 2), (0, top + u(0.1, 0.15), depth / 2 - u(0, 0.05)), u(0.07, 0.11), 0.02))
    parts.append(block((-0.07, 0.07), (0.2 * length, 0.2 * length + 0.025), (0, depth / 2 + 0.015)))
    return parts


def lamp(rng: np.random.Generator) -> list[Part]:
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


def mug(rng: np.random.Generator) -> list[Part]:
    """A cup with an ear; few have a second one or a saucer."""
    u = rng.uniform
    low, high, tall, wall = u(0.24, 0.38), u(0.3, 0.42), u(0.5, 0.95), u(0.02, 0.045)
    middle = (low + high) / 2 + u(-0.03, 0.06)
    parts = [Part(shell([(low, 0), (middle, tall / 2), (high, tall)], wall))]
    size, tube, at = u(0.14, 0.24) * (0.5 + tall / 2), u(0.025, 0.05), tall * u(0.45, 0.6)
    for side in SIDES if rng.random() < 0.1 else (1,):
        ear = turn("y", 0 if side > 0 else math.pi) @ turn("x", math.pi / 2)
        parts.append(Part(ring(size, tube, math.pi * 1.05, u(1, 1.6)), (side * (middle - wall), at, 0), ear))
    if rng.random() < 0.15:
        parts.append(Part(shell([(0.3, -0.06), (u(0.5, 0.65), 0.03)], 0.03)))
    return parts
