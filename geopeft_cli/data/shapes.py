"""The embedded data set ``shapes``: parametric everyday objects, made on the fly from a seed.

Two domains: ``clean`` has complete surfaces, as sets of CAD models do; ``scan`` is what a depth sensor gets of an
object in a room. Units are those of a toy box, every object about one across; y is up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geopeft_cli.data.clouds import NO_PARTS, Cloud, Splits
from geopeft_cli.data.furniture import bed, bookshelf, chair, desk, sofa, stool, table
from geopeft_cli.data.keys import keyed_generator
from geopeft_cli.data.objects import airplane, bin_, bottle, car, guitar, lamp, mug
from geopeft_cli.data.solids import Mask, Part, Points, collect, turn
from geopeft_cli.errors import UsageError

MAKERS: Final[dict[str, Callable[[np.random.Generator], list[Part]]]] = {
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
CLASSES: Final[tuple[str, ...]] = tuple(MAKERS)
DOMAINS: Final[tuple[str, ...]] = ("clean", "scan")


class Shapes:
    """One part of the set: ``per_class`` clouds of each class, in class order.

    Each cloud is drawn from a stream of its own, keyed by seed, domain, part, class and index: it depends neither on
    the order of access nor on the size of the set, and no two parts share a shape.

    Args:
        domain: ``clean`` or ``scan``.
        part: ``train``, ``validation`` or ``test``.
        per_class: how many clouds of each class.
        seed: of the whole set, 0 or more.
        points: in each cloud.

    Raises:
        UsageError: ``domain`` is unknown.
    """

    classes = CLASSES
    part_names: tuple[str, ...] = ()
    parts = NO_PARTS

    def __init__(self, domain: str, part: str, per_class: int, seed: int, points: int) -> None:
        if domain not in DOMAINS:
            raise UsageError(f"shapes: unknown domain '{domain}'", f"Use one of: {', '.join(DOMAINS)}.")
        self._key = seed, "shapes", domain, part
        self._make = clean if domain == "clean" else scan
        self._per_class = per_class
        self._points = points

    def __len__(self) -> int:
        return len(CLASSES) * self._per_class

    def __getitem__(self, index: int) -> Cloud:
        """The cloud number ``index``: float32 (points, 3), in random order."""
        if not 0 <= index < len(self):
            raise IndexError(f"shapes: cloud {index} of {len(self)}")
        label, number = divmod(int(index), self._per_class)
        rng = keyed_generator(*self._key, CLASSES[label], number)
        points = self._make(label, self._points, rng)
        return Cloud(points.astype(np.float32), label, f"{CLASSES[label]}_{number:04d}")

    def labels(self) -> NDArray[np.int64]:
        """The class of every cloud, int64 (len,), without making any."""
        return np.repeat(np.arange(len(CLASSES), dtype=np.int64), self._per_class)


def shapes_splits(
    domain: str, train_per_class: int, validation_per_class: int, test_per_class: int, seed: int, points: int
) -> Splits:
    """The embedded set, in three parts; no validation part if ``validation_per_class`` is 0.

    Raises:
        UsageError: ``domain`` is neither ``clean`` nor ``scan``.
    """

    def part(name: str, per_class: int) -> Shapes:
        return Shapes(domain, name, per_class, seed, points)

    validation = part("validation", validation_per_class) if validation_per_class else None
    return Splits(part("train", train_per_class), validation, part("test", test_per_class))


def clean(label: int, count: int, rng: np.random.Generator) -> Points:
    """A complete object in its canonical pose, give or take a few degrees, (count, 3)."""
    yaw, pitch, roll = rng.normal(0, (0.1, 0.03, 0.03))
    pose = turn("y", yaw) @ turn("x", pitch) @ turn("z", roll)
    points: Points = sample_surface(MAKERS[CLASSES[label]](rng), count, rng) @ pose.T
    return points


def sample_surface(parts: Sequence[Part], count: int, rng: np.random.Generator) -> Points:
    """Draw points uniform by area on the outer surface of the union of ``parts``, in random order, (count, 3)."""

    def propose(number: int) -> Points:
        clouds = _scatter(parts, number, rng)
        points, owner = np.concatenate(clouds), np.repeat(np.arange(len(parts)), [len(cloud) for cloud in clouds])
        for index, part in enumerate(parts):
            keep = ~part.contains(points) | (owner == index)
            points, owner = points[keep], owner[keep]
        return rng.permutation(points)

    return collect(propose, count, 0.8)


def scan(label: int, count: int, rng: np.random.Generator) -> Points:
    """An object on the floor beside a piece of another, as one depth image shows them, (count, 3).

    Random turn about y and random camera; holes, noise that grows with the distance, uneven density. The object
    keeps 60 to 90 % of the points.
    """
    parts, dense = MAKERS[CLASSES[label]](rng), 6 * max(count, 1024)
    clouds = _scatter(parts, dense, rng)
    thing = np.concatenate(clouds)
    low, high = thing.min(axis=0), thing.max(axis=0)
    middle, size = (low + high) / 2, float((high - low).max())
    around, above = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.9)
    toward = np.array([math.cos(around) * math.cos(above), math.sin(above), math.sin(around) * math.cos(above)])
    eye = middle + rng.uniform(1.5, 3) * size * toward

    # A little nearer to the camera, a point on a far side is inside its own solid.
    far = [part.contains(cloud + 0.004 * (eye - cloud)) for part, cloud in zip(parts, clouds, strict=True)]
    thing = thing[~np.concatenate(far)]
    scene = np.concatenate([thing, _beside(thing, dense // 4, rng), _floor(low, high, dense // 4, rng)])
    is_thing = np.arange(len(scene)) < len(thing)
    seen = visible(scene, eye, middle, size / (0.9 * math.sqrt(max(count, 1024))))

    half = (seen & is_thing).sum() / 2
    for _ in range(rng.integers(1, 4)):
        hole, radius = thing[rng.integers(len(thing))], rng.uniform(0.05, 0.16) * size
        left = seen & (((scene - hole) ** 2).sum(axis=1) > radius**2)
        seen = left if (left & is_thing).sum() > half else seen

    # Weighted sampling without replacement: the smallest of exponential variates whose rates are the weights.
    slope = rng.normal(size=3) * rng.uniform(0, 1.5) / size
    wait = rng.exponential(size=len(scene)) * np.exp(-(scene - middle) @ slope)
    share = rng.uniform(0.6, 0.9) if (seen & ~is_thing).any() else 1.0
    on_thing = round(count * share)
    chosen = [_first(wait, seen & is_thing, on_thing), _first(wait, seen & ~is_thing, count - on_thing)]
    points = scene[rng.permutation(np.concatenate(chosen))]
    ray = points - eye
    distance = np.sqrt((ray**2).sum(axis=1, keepdims=True))
    along = rng.normal(0, rng.uniform(0.001, 0.003), (count, 1)) * distance**2 / size
    points = points + ray / distance * along + rng.normal(0, 0.002 * size, (count, 3))
    turned: Points = (points - (0, low[1], 0)) @ turn("y", rng.uniform(0, 2 * math.pi)).T
    return turned


def visible(points: Points, eye: Points, target: Points, cell: float) -> Mask:
    """Which of ``points`` (n, 3) a camera at ``eye`` that looks at ``target`` sees, by a depth buffer, (n,).

    ``cell`` is the width of a pixel at the distance of ``target``, in units of the points; they should be dense
    enough to put several on each.
    """
    forward = target - eye
    reach = math.sqrt(float(forward @ forward))
    forward = forward / reach
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= math.sqrt(float(right @ right))
    x, y, depth = np.stack([right, np.cross(right, forward), forward]) @ (points - eye).T
    column, row = np.floor(np.stack([x, y]) / depth * (reach / cell)).astype(np.int64)
    column -= column.min()
    row -= row.min()
    pixel = row * (column.max() + 1) + column
    nearest = np.full(pixel.max() + 1, np.inf)
    np.minimum.at(nearest, pixel, depth)
    # As much as a surface may slope within a pixel; one at a grazing angle is thinned, as sensors do.
    mask: Mask = depth < nearest[pixel] + 1.2 * cell
    return mask


def _scatter(parts: Sequence[Part], count: int, rng: np.random.Generator) -> list[Points]:
    """Draw ``count`` points uniform on the surfaces of all parts, those inside another part included."""
    areas = np.array([part.area for part in parts])
    shares = rng.multinomial(count, areas / areas.sum())
    return [part.sample(int(share), rng) for part, share in zip(parts, shares, strict=True)]


def _beside(thing: Points, count: int, rng: np.random.Generator) -> Points:
    """A piece of another object that touches ``thing`` in a random direction: what lies in a box a little larger."""
    low, high = thing.min(axis=0), thing.max(axis=0)
    clouds = _scatter(MAKERS[CLASSES[rng.integers(len(CLASSES))]](rng), count, rng)
    other = np.concatenate(clouds) @ turn("y", rng.uniform(0, 2 * math.pi)).T
    toward = turn("y", rng.uniform(0, 2 * math.pi))[0]
    other += ((thing @ toward).max() - (other @ toward).min() + 0.02) * toward
    other[:, 1] += low[1] - other[:, 1].min()
    margin = rng.uniform(0.1, 0.3) * (high - low).max()
    piece: Points = other[((other > low - margin) & (other < high + margin)).all(axis=1)]
    return piece


def _floor(low: Points, high: Points, count: int, rng: np.random.Generator) -> Points:
    """The floor below the box from ``low`` to ``high`` (3,) and a little around it."""
    margin = rng.uniform(0.02, 0.2) * (high - low).max()
    points: Points = rng.uniform(low - margin, high + margin, (count, 3))
    points[:, 1] = low[1]
    return points


def _first(wait: Points, mask: Mask, count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` smallest of ``wait`` within ``mask``, repeated where there are fewer."""
    index = np.flatnonzero(mask)
    if len(index) <= count:
        return np.resize(index, count)
    chosen: NDArray[np.intp] = index[np.argpartition(wait[index], count)[:count]]
    return chosen
