# SPDX-License-Identifier: Apache-2.0
"""Where the instances of a function are: spread over droplets, and off those that are gone. Pure.

Called by mizar.manager.instances. An instance never moves for the sake of a better spread: that would end connections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping


def seats(
    count: int,
    held: Mapping[str, str],
    usable: Collection[str],
    gone: Collection[str],
    load: Mapping[str, int],
    *,
    apart: bool = False,
) -> tuple[list[str], list[str]]:
    """Names of instances that go, and droplets for those that come.

    `held`: droplet by name of instance. `usable`: droplets that a new one may have; `gone`: those that are as good as
    dead, or may have none. `load`: how many instances of any function each has. Where nobody can take the place of one
    that is gone, it stays. `apart`: a droplet has one at most, and one that is well is enough to let those go that are
    gone. Too many go from the newest.
    """
    kept = {name: droplet for name, droplet in held.items() if droplet not in gone}
    on: Counter[str] = Counter(kept.values())
    while len(kept) > count:
        name = max(kept, key=lambda name: (on[kept[name]], len(name), name))
        on[kept.pop(name)] -= 1
    new: list[str] = []
    candidates = sorted(set(usable) - set(gone))
    while len(kept) + len(new) < count:
        free = [one for one in candidates if not (apart and on[one])]
        if not free:
            break
        droplet = min(free, key=lambda one: (on[one], load.get(one, 0), one))
        on[droplet] += 1
        new.append(droplet)
    going = [name for name in held if name not in kept]
    short = 0 if apart and (kept or new) else max(0, count - len(kept) - len(new))
    return going[: max(0, len(going) - short)], new
