"""Labels that keep out of each other's way: rectangles are placed around anchors, in pixels."""

import math
from dataclasses import dataclass

DISTANCES = (14, 24, 36, 54, 76, 104, 140, 184)
ANGLES = tuple(math.radians(degrees) for degrees in (0, 30, 330, 180, 150, 210, 60, 300, 120, 240, 90, 270))


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other, margin=0.0):
        return (
            self.x0 < other.x1 + margin
            and other.x0 < self.x1 + margin
            and self.y0 < other.y1 + margin
            and other.y0 < self.y1 + margin
        )

    def contains(self, x, y, margin=0.0):
        return self.x0 - margin < x < self.x1 + margin and self.y0 - margin < y < self.y1 + margin

    def inside(self, other):
        return self.x0 >= other.x0 and self.x1 <= other.x1 and self.y0 >= other.y0 and self.y1 <= other.y1

    def moved_into(self, other):
        """The rectangle, moved as little as puts it inside another one; it sticks out where it is larger."""
        right = max(0.0, other.x0 - self.x0) + min(0.0, other.x1 - self.x1)
        up = max(0.0, other.y0 - self.y0) + min(0.0, other.y1 - self.y1)
        return Box(self.x0 + right, self.y0 + up, self.x1 + right, self.y1 + up)

    def nearest(self, x, y):
        """The point of the rectangle that is nearest to (x, y)."""
        return min(max(x, self.x0), self.x1), min(max(y, self.y0), self.y1)


@dataclass(frozen=True)
class Placement:
    """Where a label went: its rectangle and the anchor it points to; ``clean`` says that it overlaps no other label."""

    box: Box
    anchor: tuple
    clean: bool


def place(wanted, area, obstacles=(), points=(), segments=()):
    """Place labels one after the other, each at its cheapest position.

    ``wanted`` lists (width, height, [anchor, ...]) in pixels; a label may point to any of its anchors. No label leaves
    ``area`` or covers an obstacle or another label where any position allows that; covering ``points`` or lines
    (``segments`` of ((x, y), (x, y))), long leaders and leaders across points cost. Returns one Placement for each, in
    order.
    """
    taken = list(obstacles)
    result = []
    leaders = []
    for width, height, anchors in wanted:
        best = None
        for box, anchor, distance in _candidates(width, height, anchors):
            box = box.moved_into(area)
            if not box.inside(area) or box.contains(*anchor, 4):
                continue
            collisions = sum(box.overlaps(other, 2) for other in taken)
            tip = box.nearest(*anchor)
            cost = 1000 * collisions + 0.3 * distance
            if best is not None and cost >= best[0]:
                continue
            cost += (
                40 * sum(box.contains(x, y, 4) for x, y in points)
                + 40 * sum(crosses_box(line, box) for line in segments)
                + 80 * sum(crosses_box(line, box) for line in leaders)
                + 16 * _passed(anchor, tip, points)
                + 60 * sum(_cross(anchor, tip, *line) for line in leaders)
                + 60 * sum(crosses_box((anchor, tip), other) for other in taken)
            )
            if best is None or cost < best[0]:
                best = (cost, box, anchor, collisions == 0)
        if best is None:
            x, y = anchors[0]
            best = (0, Box(x, y, x + width, y + height), anchors[0], False)
        _, box, anchor, clean = best
        taken.append(box)
        leaders.append((anchor, box.nearest(*anchor)))
        result.append(Placement(box, anchor, clean))
    return result


def _passed(anchor, tip, points, near=6):
    """How many points other than its own a leader touches."""
    low_x, high_x = sorted((anchor[0], tip[0]))
    low_y, high_y = sorted((anchor[1], tip[1]))
    reach = Box(low_x, low_y, high_x, high_y)
    return sum(
        math.dist(anchor, point) > 2 * near
        and crosses_box((anchor, tip), Box(point[0] - near, point[1] - near, point[0] + near, point[1] + near))
        for point in points
        if reach.contains(*point, near)
    )


def _candidates(width, height, anchors):
    for x, y in anchors:
        for distance in DISTANCES:
            for angle in ANGLES:
                cx, cy = x + distance * math.cos(angle), y + distance * math.sin(angle)
                x0 = cx - width / 2 + math.cos(angle) * width / 2
                y0 = cy - height / 2 + math.sin(angle) * height / 2
                yield Box(x0, y0, x0 + width, y0 + height), (x, y), distance


def crosses_box(segment, box):
    """Whether a line segment has a part inside a rectangle (Liang-Barsky clipping)."""
    (x0, y0), (x1, y1) = segment
    low, high = 0.0, 1.0
    for delta, start, lower, upper in ((x1 - x0, x0, box.x0, box.x1), (y1 - y0, y0, box.y0, box.y1)):
        if delta == 0:
            if not lower < start < upper:
                return False
            continue
        near, far = sorted(((lower - start) / delta, (upper - start) / delta))
        low, high = max(low, near), min(high, far)
        if low >= high:
            return False
    return True


def _cross(a, b, c, d):
    def side(p, q, r):
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
