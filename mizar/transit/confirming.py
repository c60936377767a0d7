# SPDX-License-Identifier: Apache-2.0
"""When what was learned for the direct path is to be asked for again.

Called by `direct`. Pure. An entry may be wrong without anybody noticing: its host still has the endpoint, but another
one is to serve it now, and the daemon there is dead. So the bouncer is asked again for whatever is in use: soon after
it was learned, then every few seconds. It must never let one VPC's entries keep another's waiting.
"""

FIRST_S, AGAIN_S = 2.0, 10.0
"""After an entry was learned, and after it was asked for."""
TICK_S, MOST_PER_TICK = 0.5, 64
"""How often, and how many at a time: where more are in use, each waits longer."""

Key = tuple[int, bytes]
_Queue = dict[int, dict[bytes, float]]


class Confirming:
    """Entries by VPC and address, and when (loop time) each is due. Those of one queue wait equally long."""

    def __init__(self) -> None:
        self._first: _Queue = {}
        self._again: _Queue = {}

    def learned(self, key: Key, now: float) -> None:
        """An entry has come, or says something else."""
        self.forget(key)
        self._first.setdefault(key[0], {})[key[1]] = now + FIRST_S

    def asked(self, key: Key, now: float) -> None:
        """It was looked at."""
        self.forget(key)
        self._again.setdefault(key[0], {})[key[1]] = now + AGAIN_S

    def forget(self, key: Key) -> None:
        """It has gone; one that is not there is skipped."""
        vni, address = key
        for queue in (self._first, self._again):
            if vni in queue and queue[vni].pop(address, None) is not None and not queue[vni]:
                del queue[vni]

    def due(self, now: float) -> list[Key]:
        """Those whose time has come, of each VPC alike; they wait no more until they are put again."""
        found: list[Key] = []
        for queue in (self._first, self._again):
            share = max(1, (MOST_PER_TICK - len(found)) // max(1, len(queue)))
            for vni in list(queue):
                if len(found) >= MOST_PER_TICK:
                    break
                mine = queue.pop(vni)  # to the end: with many VPCs, others come first the next time
                for address in list(mine)[:share]:
                    if mine[address] > now:
                        break
                    del mine[address]
                    found.append((vni, address))
                if mine:
                    queue[vni] = mine
        return found
