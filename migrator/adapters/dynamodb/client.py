"""boto3's client for an address: credentials, regions, profiles and endpoints are its own affair, and this module's alone.

One client is shared by all that is open at one endpoint. What a request asks for, and when it is repeated, `requests` knows.
"""

from __future__ import annotations

import gzip
import os
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakValueDictionary, finalize

import boto3
import botocore.loaders
import botocore.session
import orjson
from botocore import exceptions as boto
from botocore.config import Config
from botocore.httpsession import get_cert_path

from migrator.adapters.dynamodb.errors import NO_CREDENTIALS, NoProfile, NoRegion, no_credentials
from migrator.adapters.dynamodb.signing import Frozen, Signer, Unlike
from migrator.adapters.dynamodb.transport import Transport, is_direct
from migrator.adapters.dynamodb.wire import Wire
from migrator.errors import ConfigError
from migrator.model import Address

CONNECT_SECONDS = 5
ANSWER_SECONDS = 30
"""After which an answer that does not come is asked for again."""

_CONNECTIONS = 32
"""Kept open at most: those of several tables and workers together. More are opened, and closed again, where they are needed."""


class Direct(NamedTuple):
    """What it takes to send batches to a table as boto3 does, without it."""

    url: str
    signer: Signer
    credentials: Callable[[], Frozen]
    tls: ssl.SSLContext | None


class Client:
    """One of boto3's, `boto`, and what writes and reads by it. Safe to use from several threads; closed when nobody holds it any more."""

    def __init__(self, address: Address) -> None:
        """Raises ConfigError if the address, the profile or the region do not make one."""
        self._named = address.options.get("profile")
        self.session, self.boto = _made(address)
        transport = Transport(partial(_believed, self._named), CONNECT_SECONDS, ANSWER_SECONDS)
        self.wire = Wire(self.boto, transport.send)
        finalize(self, _close, self.boto, transport)

    @property
    def profile(self) -> str:
        return str(self.session.profile_name)

    @property
    def region(self) -> str:
        return str(self.boto.meta.region_name)

    @property
    def endpoint(self) -> str:
        """Without a password."""
        url = urlsplit(self.boto.meta.endpoint_url)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"

    def credentials(self) -> str:
        """Where they come from, in boto3's words (`env`, `shared-credentials-file`, `iam-role`); never what they are."""
        found = self.session.get_credentials()
        return str(found.method) if found is not None else "nowhere"

    def known_regions(self) -> list[str]:
        """All that this version of boto3 knows; AWS may have newer ones."""
        partitions = self.session.get_available_partitions()
        return [name for each in partitions for name in self.session.get_available_regions("dynamodb", each)]

    def direct(self, table: str) -> Direct | None:
        """None where only boto3 knows the way: proxies, endpoint discovery, no credentials, or requests that are not as we know them."""
        url = self.boto.meta.endpoint_url
        of_session = botocore.session.Session(profile=self._named).get_config_variable
        is_found_out = str(of_session("endpoint_discovery_enabled")).lower() == "true"
        if is_found_out or not is_direct(url):
            return None
        try:
            pattern, credentials = self.wire.pattern(table), self.session.get_credentials()
            if pattern is None or credentials is None:
                return None
            signer = Signer(pattern, credentials.get_frozen_credentials())
            tls = None
            if pattern.url.startswith("https:"):
                tls = _believed(self._named)
        except (boto.BotoCoreError, boto.ClientError, Unlike, OSError):
            return None  # boto3 itself tells what is wrong
        return Direct(pattern.url, signer, credentials.get_frozen_credentials, tls)


def _close(client: Any, transport: Transport) -> None:
    client.close()
    transport.close()


def _believed(profile: str | None) -> ssl.SSLContext:
    """What boto3 believes of a server's certificate. Raises OSError where the bundle is none."""
    bundle = botocore.session.Session(profile=profile).get_config_variable("ca_bundle")
    return ssl.create_default_context(cafile=bundle or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(True))


_clients: WeakValueDictionary[tuple[object, ...], Client] = WeakValueDictionary()
_sessions: WeakValueDictionary[tuple[object, ...], Any] = WeakValueDictionary()
_lock = threading.Lock()  # a session makes one client at a time
# Whoever is forked opens connections of its own, or would hear what others are told.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_clients.clear)
_ENVIRONMENT = ("AWS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE")


def client_of(address: Address) -> Client:
    """One for all the stores that are open at one endpoint, under one profile and one environment: to make it takes as long as a hundred records.

    Gone with the last of them, so that who logs in anew between two runs of one process is let in. Raises ConfigError, see Client.
    """
    options = address.options
    with _lock:
        name = options.get("region"), options.get("endpoint"), *_whoever(options.get("profile"))
        client = _clients.get(name)
        if client is None:
            client = _clients[name] = Client(address)
        return client


def _whoever(profile: str | None) -> tuple[object, ...]:
    return profile, *sorted(each for each in os.environ.items() if each[0].upper().startswith(_ENVIRONMENT))


class _Models(botocore.loaders.JSONFileLoader):  # type: ignore[misc]
    """Reads what botocore knows of its services, in half the time: a command that moves little does little else."""

    def load_file(self, file_path: str) -> Any:
        for suffix, opened in ((".json", open), (".json.gz", gzip.open)):
            with suppress(OSError, ValueError), opened(file_path + suffix, "rb") as file:
                return orjson.loads(file.read())
        return super().load_file(file_path)  # none, or a file of another kind or of somebody's own


@cache
def _service_models() -> Any:
    """One loader for all clients of the process: to parse DynamoDB's service model again takes as long as half a client."""
    return botocore.loaders.Loader(file_loader=_Models())


def _shared_session(profile: str | None) -> Any:
    """One for all clients under one profile and one environment: to make it takes longer than a client."""
    name = _whoever(profile)
    session = _sessions.get(name)
    if session is None:
        own = botocore.session.Session(profile=profile)
        own.register_component("data_loader", _service_models())
        session = _sessions[name] = boto3.Session(botocore_session=own)
    return session


def _made(address: Address) -> tuple[Any, Any]:
    """A session and a client of boto3's."""
    options = address.options
    config = Config(
        retries={"total_max_attempts": 1},  # `Pace` repeats
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        max_pool_connections=_CONNECTIONS,
        parameter_validation=False,
        tcp_keepalive=True,
        user_agent="migrator",  # else it is put together anew for each request
    )
    try:
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
