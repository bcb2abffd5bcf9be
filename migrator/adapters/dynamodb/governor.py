"""How fast one table may be read or written, in capacity units a second: a permit before each request, the bill behind it.

`Governor` knows rates and time, `Meter` what a request will take and what an answer says it took. Nothing here knows boto3 or sends anything:
who sends asks for a permit and tells what became of it. Leaves when to try again to `Pace`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from migrator.adapters.dynamodb.values import item_size

BURST = 1.0
"""Seconds of the rate that may be taken at once, after a time in which less was taken."""

QUARTER = 0.25
"""What we take by default of the capacity that a table is provisioned with: the rest is the application's."""

WRITES = frozenset({"put_item", "update_item", "delete_item", "batch_write_item"})
READS = frozenset({"get_item", "batch_get_item", "query", "scan"})

_STEPS = 20  # seconds from nothing back to the limit, or to what was too much
_LEAST_STEP = 10.0  # units a second more each second, where there is no limit to measure by
_LOOK = 1.0  # seconds after which a waiting request looks anew: the rate may have risen
_FIRST = 0.5  # units for a key or a row of which nothing is known yet: 4 KB, eventually consistent
_MOST = {"scan": 256.0, "query": 256.0}  # units for the 1 MB that one answer holds at the most


class Governor:
    """A rate, shared by all threads that ask: permits in the order of asking, with a burst of at most BURST seconds.

    `limit` is in units a second, infinite by default. Throttled, the rate is halved, and comes back little by little (additive increase,
    multiplicative decrease); without a limit, from half of what got through. Units are earned as time goes by, and a request waits until its own are.
    """

    def __init__(
        self,
        limit: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self.limit = limit
        self._clock, self._wait = clock, wait
        self._lock = threading.Lock()
        self._parts: dict[int, float] = {}
        self._asked = self._earned = 0.0
        self._at = self._since = clock()
        self._slowed, self._step, self._slowed_at = math.inf, 0.0, -math.inf
        self._counted = self._last_second = 0.0

    @property
    def ceiling(self) -> float:
        """The most units a second here: of the limit those parts that were given to this process, all of it if none were."""
        if self.limit == math.inf:
            return math.inf
        parts = list(self._parts.values())
        return self.limit * sum(parts) if parts else self.limit

    @property
    def rate(self) -> float:
        """Units a second just now."""
        with self._lock:
            self._tick()
            return self._rate

    def share(self, holder: object, part: float) -> None:
        """Of the limit `holder` has this part now (0: none any more), and others, perhaps in other processes, have the rest."""
        with self._lock:
            self._tick()
            if part:
                self._parts[id(holder)] = part
            else:
                self._parts.pop(id(holder), None)

    def admit(self, units: float, stop: threading.Event) -> float:
        """Wait until so many units may be taken; the seconds that took. Returns early, with nothing taken, if `stop` is set."""
        begun = self._clock()
        with self._lock:
            self._tick()
            self._asked += units
            ticket = self._asked
        while True:
            with self._lock:
                self._tick()
                short = ticket - self._earned
                if short <= 1e-6 or self._rate == math.inf:
                    break
                pause = min(short / self._rate, _LOOK)
            self._wait(stop, pause)
            if stop.is_set():
                self.settle(units, 0.0)
                break
        return self._clock() - begun

    def admit_now(self, units: float) -> bool:
        """Take so many units if they may be taken at once; False, with nothing taken, if one would have to wait."""
        with self._lock:
            self._tick()
            if self._rate != math.inf and self._asked + units > self._earned + 1e-6:
                return False
            self._asked += units
            return True

    def settle(self, admitted: float, taken: float) -> None:
        """So many units were taken with a permit for `admitted`: the difference is given back, or owed by whoever waits."""
        with self._lock:
            self._tick()
            self._earned += admitted - taken
            self._counted += taken

    def throttled(self, sent: float) -> None:
        """A request sent at this time was too much, wholly or in part. What was sent before the last slowing says nothing new."""
        with self._lock:
            self._tick()
            if sent < self._slowed_at:
                return
            before = self._rate
            if self.ceiling == math.inf:
                before = min(before, max(self._last_second, self._counted))
                self._step = max(before / _STEPS, _LEAST_STEP)
                least = 1.0
            else:
                self._step = self.ceiling / _STEPS
                least = max(self.ceiling / 50, min(1.0, self.ceiling))
            self._slowed, self._slowed_at = max(before / 2, least), self._at

    @property
    def _rate(self) -> float:
        return self._slowed if self.limit == math.inf else min(self.ceiling, self._slowed)

    def _tick(self) -> None:
        """What has been earned up to now, and how far the rate has come back."""
        now = self._clock()
        passed, self._at = max(0.0, now - self._at), now
        if now - self._since >= 1:
            self._last_second, self._counted, self._since = self._counted / (now - self._since), 0.0, now
        rate = self._rate
        if rate == math.inf:
            self._earned = self._asked
            return
        self._earned = min(self._earned + rate * passed, self._asked + rate * BURST)
        self._slowed += self._step * passed
        if self._slowed >= self.ceiling:
            self._slowed = math.inf


class Permit(NamedTuple):
    """Leave to send one request: for so many units, given at `sent` after `waited` seconds."""

    units: float
    sent: float
    waited: float


class Meter:
    """One direction of one table: what requests will take by what such requests took, and what answers say.

    The server's own count (ReturnConsumedCapacity, indexes included) goes before ours; where it tells none, sizes of items do.
    """

    def __init__(self, governor: Governor, clock: Callable[[], float] = time.monotonic) -> None:
        self.governor = governor
        self.is_set = False
        """Whether somebody has said what the limit is."""
        self._clock = clock
        self._each: dict[str, float] = {}

    def limit_to(self, units_a_second: float) -> None:
        self.governor.limit, self.is_set = units_a_second, True

    @property
    def burst(self) -> float:
        """The most units that one request should ask for."""
        return self.governor.ceiling * BURST

    def fitting(self, operation: str, most: int) -> int:
        """How many rows or keys to ask for at once, `most` at the most, that the answer is no larger than a burst; at least one."""
        return (
            most if self.burst == math.inf else max(1, min(most, int(self.burst / self._each.get(operation, _FIRST))))
        )

    def admit(self, operation: str, request: dict[str, Any], units: float | None, stop: threading.Event) -> Permit:
        """Before a request is sent: waits for its turn. `units`: what it will take, if who asks knows."""
        if units is None:
            units = min(self._each.get(operation, _FIRST) * _asked(request), _MOST.get(operation, math.inf))
        waited = self.governor.admit(units, stop)
        return Permit(units, self._clock(), waited)

    def admit_now(self, units: float) -> Permit | None:
        """The same for a request that will take so many units, if it need not wait."""
        return Permit(units, self._clock(), 0.0) if self.governor.admit_now(units) else None

    def answered(self, operation: str, request: dict[str, Any], permit: Permit, answer: dict[str, Any]) -> None:
        """Behind an answer: what it took, and whether a part of it was throttled."""
        try:
            unprocessed = _unprocessed(answer)
            asked, left = _asked(request), _asked({"RequestItems": unprocessed}) if unprocessed else 0
            taken = consumed(answer)
            if taken is None:
                taken = permit.units * (1 - left / asked) if operation in WRITES else read_units(request, answer)
            count = int(answer.get("ScannedCount", answer.get("Count", 0))) if operation == "scan" else asked - left
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):  # broken: whoever reads it says so
            taken, left, count = permit.units, 0, 0
        self.governor.settle(permit.units, taken)
        if count > 0:
            self._each[operation] = taken / count
        if left:
            self.governor.throttled(permit.sent)

    def throttled(self, permit: Permit) -> None:
        """The whole request was refused as too much: it took nothing."""
        self.governor.settle(permit.units, 0.0)
        self.governor.throttled(permit.sent)


# What answers say ------------------------------------------------------------------------------------------------------


def consumed(answer: dict[str, Any]) -> float | None:
    """The units that an answer says it took, indexes included; None where the server does not say."""
    told = answer.get("ConsumedCapacity")
    each = told if isinstance(told, list) else [told] if told else []
    units = [one["CapacityUnits"] for one in each if "CapacityUnits" in one]
    return float(sum(units)) if units else None


def read_units(request: dict[str, Any], answer: dict[str, Any]) -> float:
    """The same by the sizes of what was read: 4 KB a unit, half of it where it is eventually consistent.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html: a Scan or Query rounds its sum up, the others each item.
    """
    keys = [each for each in request.get("RequestItems", {}).values() if isinstance(each, dict)]
    consistent = request.get("ConsistentRead", False) or any(each.get("ConsistentRead") for each in keys)
    if "Items" in answer:
        units = max(1, math.ceil(sum(map(item_size, answer["Items"])) / 4096))
    else:
        items = [item for held in answer.get("Responses", {}).values() for item in held]
        items += [answer["Item"]] if "Item" in answer else []
        missed = max(0, _asked(request) - _asked({"RequestItems": _unprocessed(answer)}) - len(items))
        units = missed + sum(max(1, math.ceil(item_size(item) / 4096)) for item in items)
    return units if consistent else units / 2


def _asked(request: dict[str, Any]) -> int:
    """How many rows, keys or items a request is for; 1 where it does not say."""
    if "RequestItems" in request:
        return counted(request["RequestItems"])
    return int(request.get("Limit", 1))


def counted(items: dict[str, Any]) -> int:
    """How many keys or items there are in a request's RequestItems, or in what is left of them."""
    return sum([len(each["Keys"] if isinstance(each, dict) else each) for each in items.values()])


def _unprocessed(answer: dict[str, Any]) -> dict[str, Any]:
    left: dict[str, Any] = answer.get("UnprocessedItems") or answer.get("UnprocessedKeys") or {}
    return left


def provisioned(described: dict[str, Any]) -> tuple[float, float] | None:
    """From DescribeTable: read and write units a second that a table is provisioned with, or its index with fewer; None if it is on demand."""
    indexes = described.get("GlobalSecondaryIndexes") or []
    told = [each.get("ProvisionedThroughput") or {} for each in (described, *indexes)]
    reads, writes = ([each.get(name, 0) for each in told] for name in ("ReadCapacityUnits", "WriteCapacityUnits"))
    if not reads[0] or not writes[0]:
        return None  # on demand they are 0
    return float(min(filter(None, reads))), float(min(filter(None, writes)))
