"""One DynamoDB table, asked and told: the client, its calls, and what repeats them.

Knows boto3: credentials, regions, endpoints. Repeats what was throttled, left unprocessed or lost on the way, so that nothing is left out; what must not
be repeated it raises. Leaves when to try again to `dynamodb_pace`, what an answer that is an error means to `dynamodb_errors`, what an item holds to
`dynamodb_values`, and what is asked for, and when, to the source and the sink.
"""

from __future__ import annotations

import math
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import boto3
import botocore.loaders
import botocore.session
from botocore import exceptions as boto
from botocore.config import Config
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from migrator.adapters.dynamodb_errors import (
    NO_CREDENTIALS,
    THROTTLED,
    InUse,
    NoProfile,
    NoRegion,
    NoTable,
    Throttled,
    no_answer,
    no_credentials,
    sorted_errors,
)
from migrator.adapters.dynamodb_governor import QUARTER, READS, WRITES, Governor, Meter, Permit, provisioned
from migrator.adapters.dynamodb_pace import PATIENCE, Pace, unless
from migrator.adapters.dynamodb_signing import Frozen, Signer, Unlike
from migrator.adapters.dynamodb_wire import Wire
from migrator.errors import ConfigError, StoreError, TransientStoreError
from migrator.model import Address, Record, Shape

THREADS = 4  # requests at once, to hide latency

PLAN_PATIENCE = 3.0  # seconds without any progress after which a call gives up while a person waits for the plan
CONNECT_SECONDS = 5
ANSWER_SECONDS = 30  # after which an answer that does not come is asked for again


_paces: WeakValueDictionary[tuple[str, ...], Pace] = WeakValueDictionary()
_paces_lock = threading.Lock()


def _shared_pace(*name: str) -> Pace:
    """One for all the stores in this process that speak to one table: throttled together, they wait together."""
    with _paces_lock:
        pace = _paces.get(name)
        if pace is None:
            pace = _paces[name] = Pace()
        return pace


class Direct(NamedTuple):
    """What it takes to send batches to a table as boto3 does, without it."""

    url: str
    signer: Signer
    credentials: Callable[[], Frozen]
    tls: ssl.SSLContext | None


_meters: WeakValueDictionary[tuple[str, ...], Meter] = WeakValueDictionary()


def _shared_meter(pace: Pace, *name: str) -> Meter:
    """One for all the stores in this process that speak to one table at one pace."""
    with _paces_lock:
        meter = _meters.get((*name, str(id(pace))))
        if meter is None:
            meter = Meter(Governor(clock=pace.clock, wait=pace.wait), pace.clock)
            _meters[(*name, str(id(pace)))] = meter
        return meter


class Table:
    """One table: a client, the paces of reading and writing, what both may take, and threads. Safe to use from several threads.

    `rates`: read and write units a second, each None for what we take by default, QUARTER of a provisioned table. With a patience of its own,
    a table is asked a few things before a run, and not metered.
    """

    def __init__(
        self,
        address: Address,
        patience: float | None = None,
        pace: Pace | None = None,
        rates: tuple[float | None, float | None] = (None, None),
    ) -> None:
        self.name = address.name
        self.words = address.text
        self._session, self.client = _client(address)
        self._named = address.options.get("profile")
        self._wire = Wire(self.client)
        self.profile: str = self._session.profile_name
        url = urlsplit(self.client.meta.endpoint_url)
        self.endpoint = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"  # never a password
        own = Pace(patience) if patience is not None else pace
        self._read = own or _shared_pace(self.endpoint, self.region, self.name, "read")
        self._write = own or _shared_pace(self.endpoint, self.region, self.name, "write")
        self._is_metered = patience is None
        self._given = rates
        self.reads = _shared_meter(self._read, self.endpoint, self.region, self.name, "read")
        self.writes = _shared_meter(self._write, self.endpoint, self.region, self.name, "write")
        for meter, rate in zip((self.reads, self.writes), rates):
            if rate is not None:
                meter.limit_to(rate)
        self._meters_lock = threading.Lock()
        self._stop = threading.Event()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def region(self) -> str:
        return str(self.client.meta.region_name)

    def credentials(self) -> str:
        """Where they come from, in boto3's words (`env`, `shared-credentials-file`, `iam-role`); never what they are."""
        found = self._session.get_credentials()
        return str(found.method) if found is not None else "nowhere"

    def known_regions(self) -> list[str]:
        """All that this version of boto3 knows; AWS may have newer ones."""
        partitions = self._session.get_available_partitions()
        return [name for each in partitions for name in self._session.get_available_regions("dynamodb", each)]

    @property
    def pool(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "dynamodb")
        return self._pool

    def share(self, part: float) -> None:
        """Take this part of the rates from now on; 0: none of one's own any more."""
        for meter in (self.reads, self.writes):
            meter.governor.share(self, part)

    def close(self) -> None:
        self.share(0)
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown()
        self.client.close()

    # as another client sends it

    def direct(self) -> Direct | None:
        """None where only boto3 knows the way: proxies, endpoint discovery, no credentials, or requests that are not as we know them."""
        url, of_session = (
            self.client.meta.endpoint_url,
            botocore.session.Session(profile=self._named).get_config_variable,
        )
        is_found_out = str(of_session("endpoint_discovery_enabled")).lower() == "true"
        if is_found_out or get_environ_proxies(url).get(urlsplit(url).scheme):
            return None
        try:
            pattern, credentials = self._wire.pattern(self.name), self._session.get_credentials()
            if pattern is None or credentials is None:
                return None
            signer = Signer(pattern, credentials.get_frozen_credentials())
            tls = None
            if pattern.url.startswith("https:"):
                bundle = of_session("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
                tls = ssl.create_default_context(cafile=bundle or get_cert_path(True))
        except (boto.BotoCoreError, boto.ClientError, Unlike, OSError):
            return None  # boto3 itself tells what is wrong
        return Direct(pattern.url, signer, credentials.get_frozen_credentials, tls)

    def leave(self, operation: str, units: float) -> Permit | None:
        """Leave to send one request at once; None if it would have to wait for its turn, as in `batches`."""
        meter = self._meter_of(operation)
        if not self._pace_of(operation).is_clear:
            return None
        return meter.admit_now(units) if meter else Permit(units, time.monotonic(), 0.0)

    def took(self, operation: str, request: dict[str, Any], permit: Permit, answer: dict[str, Any]) -> bool:
        """Hear an answer to a request that had leave; whether anything of it was done."""
        pace = self._pace_of(operation)
        try:
            self._heard(operation, request, permit, answer)
        except TransientStoreError as exc:
            pace.trouble(exc, pace.clock())
            return False
        pace.progress()
        return True

    def lost(self, operation: str, permit: Permit, status: int, code: str) -> None:
        """A request that had leave brought nothing: all pause, if that may pass. `status`: of the answer, 0 if none came; `code`: its name for why."""
        pace, meter = self._pace_of(operation), self._meter_of(operation)
        is_throttled = code in THROTTLED
        if is_throttled and meter:
            meter.throttled(permit)
        if is_throttled or not 400 <= status < 500:
            pace.trouble(TransientStoreError(f"{self.words}: {operation}: {code or 'no answer'}"), pace.clock())
        else:
            pace.progress()  # it was answered

    # as boto3 sends it

    def call(
        self, operation: str, stop: threading.Event | None = None, units: float | None = None, **request: Any
    ) -> dict[str, Any]:
        """One request, repeated until it is answered. `units`: the capacity it will take, if that is known.

        Raises GivenUp when nothing has got through for too long.
        """
        pace = self._pace_of(operation)
        answer = self._sent(pace, operation, request, stop or self._stop, pace.clock(), units)
        pace.progress()
        return answer

    def batches(
        self,
        operation: str,
        request: dict[str, Any],
        stop: threading.Event | None = None,
        units: float | None = None,
    ) -> Iterator[dict[str, Any]]:
        """A batch, repeated with what was left unprocessed until nothing is."""
        pace = self._pace_of(operation)
        begun = pace.clock()
        while request:
            answer = self._sent(pace, operation, {"RequestItems": request}, stop or self._stop, begun, units)
            pace.progress()
            left = answer[_LEFTOVER[operation]]
            yield answer
            if left:
                pace.rest(stop or self._stop)
            units = units and units * _count(left) / _count(request)
            request = left

    def _sent(
        self,
        pace: Pace,
        operation: str,
        request: dict[str, Any],
        stop: threading.Event,
        begun: float,
        units: float | None = None,
    ) -> dict[str, Any]:
        meter = self._meter_of(operation)
        if meter is not None:
            request = request | {"ReturnConsumedCapacity": "TOTAL"}
        while True:
            with pace.turn(stop):  # until it is known what became of it: the next in turn pauses too
                permit = meter.admit(operation, request, units, stop) if meter else None
                unless(stop)
                begun += permit.waited if permit else 0.0
                try:
                    with sorted_errors(self, operation):
                        answer = self._wire.ask(operation, request)
                    self._heard(operation, request, permit, answer)
                    return answer
                except TransientStoreError as exc:
                    if meter and permit and isinstance(exc, Throttled):
                        meter.throttled(permit)
                    pace.trouble(exc, begun)
                except StoreError:
                    pace.progress()  # it was answered
                    raise

    def _heard(self, operation: str, request: dict[str, Any], permit: Permit | None, answer: dict[str, Any]) -> None:
        """Raises TransientStoreError for an answer that brings nothing."""
        needed = _NEEDED.get(operation, "ResponseMetadata")
        if not isinstance(answer.get(needed), list if needed == "Items" else dict):
            raise no_answer(self.words, operation)  # a part of one
        meter = self._meter_of(operation)
        if meter and permit:
            meter.answered(operation, request, permit, answer)
        if (left := _LEFTOVER.get(operation)) and _count(answer[left]) == _count(request["RequestItems"]):
            raise TransientStoreError(f"{self.words}: throttled, all items came back unprocessed")

    def _pace_of(self, operation: str) -> Pace:
        return (
            self._write if operation in ("put_item", "delete_item", "batch_write_item", "create_table") else self._read
        )

    def _meter_of(self, operation: str) -> Meter | None:
        meter = self.writes if operation in WRITES else self.reads if operation in READS else None
        if meter is None or not self._is_metered:
            return None
        if not meter.is_set:
            with self._meters_lock:
                self._limit_by_default()
        return meter

    def rates(self) -> list[tuple[float, str]]:
        """Of reading and of writing: units a second, infinite where nothing limits them, and who decided so."""
        described = self.describe() or {}
        has = provisioned(described) or (math.inf, math.inf)
        words = []
        for given, units in zip(self._given, has):
            if given is not None:
                words.append((given, "as asked for"))
            elif units == math.inf:
                words.append(
                    (units, "no limit: the table is on demand; when it is throttled we are the first to give way")
                )
            else:
                words.append((units * QUARTER, f"a quarter of the {units:,.0f} that the table is provisioned with"))
        return words

    def _limit_by_default(self) -> None:
        """Ask once what the table is provisioned with. Where that cannot be had just now, the request itself will tell why."""
        try:
            with sorted_errors(self, "describe_table"):
                described = self.client.describe_table(TableName=self.name).get("Table")
        except TransientStoreError:
            described = None
        except StoreError:
            described = {}
        if described is None:
            return  # asked again before the next request
        has = provisioned(described)
        for meter, units in zip((self.reads, self.writes), has or (math.inf, math.inf)):
            if not meter.is_set:
                meter.limit_to(units * QUARTER)

    # the table itself

    def describe(self) -> dict[str, Any] | None:
        try:
            described: dict[str, Any] = self.call("describe_table", TableName=self.name)["Table"]
        except NoTable:
            return None
        return described

    def shape(self, described: dict[str, Any], sample: tuple[Record, ...] = ()) -> Shape:
        """Raises ConfigError for a table that cannot be used as it is, or not yet."""
        status = described.get("TableStatus", "ACTIVE")
        if status not in ("ACTIVE", "UPDATING"):
            raise ConfigError(f"{self.words}: the table is {status}; run again when it is ACTIVE")
        key = tuple(filter(None, _key_names(described["KeySchema"])))
        types = {each["AttributeName"]: each["AttributeType"] for each in described["AttributeDefinitions"]}
        for name in key:
            if types.get(name) != "S":
                raise ConfigError(
                    f"{self.words}: the key attribute {name} has type {types.get(name)}, not S (text): choose another table"
                )
        indexes = described.get("GlobalSecondaryIndexes") or []
        index = (indexes[0]["IndexName"], *_key_names(indexes[0]["KeySchema"])) if indexes else None
        words = f"DynamoDB table {self.name} ({shape_words(key, index)}, {self.region})"
        return Shape("dynamodb", words, key=key, index=index, sample=sample)

    def create(self, key: tuple[str, ...], index: tuple[str, ...] | None) -> None:
        """Make it, billed by request and without time-to-live. That another makes it at the same time is fine."""
        names = dict.fromkeys(filter(None, (*key, *(index or ())[1:])))
        request: dict[str, Any] = {
            "TableName": self.name,
            "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": _key_schema(key),
            "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in names],
        }
        if index is not None:
            whole = {"ProjectionType": "ALL"}
            schema = {"IndexName": index[0], "KeySchema": _key_schema(index[1:]), "Projection": whole}
            request["GlobalSecondaryIndexes"] = [schema]
        try:
            self.call("create_table", **request)
        except InUse:
            return

    def wait_until_active(self) -> dict[str, Any]:
        pause, deadline = 0.05, time.monotonic() + PATIENCE
        while True:
            described = self.describe()  # None right after its making: the service catches up
            if described and described.get("TableStatus", "ACTIVE") in ("ACTIVE", "UPDATING"):
                return described
            if time.monotonic() > deadline:
                raise StoreError(f"{self.words}: not ACTIVE after {PATIENCE:.0f} s; run again when it is")
            self._stop.wait(pause)
            pause = min(2 * pause, 5)


_LEFTOVER = {"batch_write_item": "UnprocessedItems", "batch_get_item": "UnprocessedKeys"}
_NEEDED = _LEFTOVER | {
    "scan": "Items",
    "query": "Items",
    "describe_table": "Table",
    "describe_time_to_live": "TimeToLiveDescription",
}


def _count(request_items: dict[str, Any]) -> int:
    return sum(len(each["Keys"] if isinstance(each, dict) else each) for each in request_items.values())


@cache
def _service_models() -> Any:
    """One loader for all clients of the process: to parse DynamoDB's service model again takes a quarter of a second each."""
    return botocore.loaders.Loader()


_sessions: WeakValueDictionary[tuple[object, ...], Any] = WeakValueDictionary()
_sessions_lock = threading.Lock()  # a session makes one client at a time


def _shared_session(profile: str | None) -> Any:
    """One for all the stores that are open under one profile and one environment: to make it takes longer than a client. Gone with the last of them."""
    name = profile, *sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    session = _sessions.get(name)
    if session is None:
        own = botocore.session.Session(profile=profile)
        own.register_component("data_loader", _service_models())
        session = _sessions[name] = boto3.Session(botocore_session=own)
    return session


def _client(address: Address) -> tuple[Any, Any]:
    """Raises ConfigError if the address, the profile or the region do not make one."""
    options = address.options
    config = Config(
        retries={"total_max_attempts": 1},  # `Pace` repeats
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        max_pool_connections=THREADS + 1,
        parameter_validation=False,
        tcp_keepalive=True,
        user_agent="migrator",  # else it is put together anew for each request
    )
    try:
        with _sessions_lock:
            session = _shared_session(options.get("profile"))
            client = session.client(
                "dynamodb", region_name=options.get("region"), endpoint_url=options.get("endpoint"), config=config
            )
    except boto.ProfileNotFound as exc:
        raise NoProfile(f"{address.text}: {exc}; see `aws configure list-profiles`") from exc
    except boto.NoRegionError as exc:
        raise NoRegion(
            f"{address.text}: no AWS region. Add ?region=eu-west-1 to the address, set AWS_DEFAULT_REGION, or give the profile one "
            "(AWS_REGION alone is not read by boto3)"
        ) from exc
    except NO_CREDENTIALS as exc:
        raise no_credentials(address.text, exc) from exc
    except boto.BotoCoreError as exc:
        raise ConfigError(f"{address.text}: {exc}; check the region, the profile and the AWS_* variables") from exc
    except ValueError as exc:
        raise ConfigError(f"{address.text}: the endpoint is no whole URL, such as http://localhost:8000") from exc
    return session, client


def _key_names(schema: list[dict[str, str]]) -> tuple[str, str]:
    names = {each["KeyType"]: each["AttributeName"] for each in schema}
    return names["HASH"], names.get("RANGE", "")


def _key_schema(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"AttributeName": name, "KeyType": sort} for name, sort in zip(names, ("HASH", "RANGE"))]


def shape_words(key: tuple[str, ...], index: tuple[str, ...] | None) -> str:
    named = "/".join(key) if len(key) > 1 else f"{key[0]} without a range"
    return named + (f" with index {index[0]}: {'/'.join(filter(None, index[1:]))}" if index else "")
