"""Draws the house: ``python -m tests.draw_imports`` prints its rooms by floors, and whom each imports.

A room stands one floor above the highest room of its house that it imports. What the house does not allow is listed
last: rooms that are not in the plan (``tests/house.py``), circles, and arrows that run upward.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from house import HOUSES, arrows, may_import, modules, name_of, room_of


def floors(house: str) -> dict[str, int]:
    """The floor of each room; rooms on a circle, and above one, have none."""
    below = {
        room: {other for where, other in drawn if where == house}
        for (where, room), drawn in arrows().items()
        if where == house
    }
    found: dict[str, int] = {}
    while ready := [room for room in below if room not in found and below[room] <= found.keys()]:
        found |= {room: 1 + max((found[other] for other in below[room]), default=0) for room in ready}
    return found


def faults() -> list[str]:
    """What the house does not allow, in words."""
    wrong = []
    for (house, room), drawn in arrows().items():
        if room not in HOUSES[house]:
            wrong.append(f"{house}.{room} is in no room of the plan")
            continue
        allowed = may_import(house, room)
        for (where, other), files in drawn.items():
            if where != house and house == "membench":
                continue  # the instrument stands on the layers
            if where != house or other not in allowed:
                wrong += [f"arrow that the plan does not have: {file}" for file in files]
    for house in HOUSES:
        on_circles = {room for where, room in arrows() if where == house} - floors(house).keys()
        if on_circles:
            wrong.append(f"circle in {house}, on or above it: {', '.join(sorted(on_circles))}")
    return wrong


def drawing() -> str:
    """The picture as text, the highest floor first."""
    lines = []
    for house in HOUSES:
        found, drawn = floors(house), {room: to for (where, room), to in arrows().items() if where == house}
        sizes = dict.fromkeys(drawn, 0)
        for path in modules("layers" if house == "membench.layers" else "membench"):
            sizes[room_of(name_of(path))[1]] += len(path.read_text().splitlines())
        inside = sum(where == house for to in drawn.values() for where, _ in to)
        lines.append(f"{house}: {len(drawn)} rooms, {max(found.values())} floors, {inside} arrows")
        for room in sorted(drawn, key=lambda room: (-found.get(room, 99), room)):
            onto = sorted((where, other) for where, other in drawn[room])
            own = ", ".join(other for where, other in onto if where == house)
            others = ", ".join(f"layers.{other}" for where, other in onto if where != house)
            to = "; ".join(filter(None, [own, others]))
            line = f"  floor {found.get(room, '?'):>2}  {room:<12} {sizes[room]:>6} lines"
            lines.append(f"{line} -> {to}" if to else line)
        lines.append("")
    wrong = faults()
    lines += wrong or ["No circle, no arrow upward, no module outside a room."]
    return "\n".join(lines)


if __name__ == "__main__":
    print(drawing())
    sys.exit(1 if faults() else 0)
