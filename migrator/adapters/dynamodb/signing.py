"""AWS's signature of requests that are like one of boto3's in all but body, moment and credentials, in a few microseconds each.

By https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html. Whether boto3 does the same is not believed but seen:
where our signature of a request of boto3's is not the very one that boto3 gave it, or where it holds what we do not know, nothing is signed here.
"""

from __future__ import annotations

import hmac
import re
import time
from hashlib import sha256
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from migrator.adapters.dynamodb.http import UNPACKED, lines_of, server_of


class Pattern(NamedTuple):
    """A request as boto3 makes and signs it."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes


class Frozen(Protocol):
    """Credentials of one moment, by botocore's names."""

    access_key: str
    secret_key: str
    token: str | None


class Unlike(Exception):
    """boto3's requests are not as we would make them; the message says in what."""


_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\S+?)/(\d{8})/([^/]+/[^/]+)/aws4_request, SignedHeaders=(\S+), Signature=(\w+)"
)
_KEPT = {"content-type", "host", "user-agent", "x-amz-target"}
_RENEWED = {"authorization", "x-amz-date", "x-amz-security-token"}
_LEFT_OUT = {
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "content-length",
    "x-amzn-trace-id",
}  # of one request; AWS needs none


class Signer:
    """Headers for the requests of one thread. Raises Unlike if what boto3 sends is not what we know."""

    def __init__(self, pattern: Pattern, credentials: Frozen) -> None:
        given = {name.lower(): " ".join(value.split()) for name, value in pattern.headers.items()}
        if "@" in urlsplit(pattern.url).netloc:
            raise Unlike("a password in the endpoint")
        if unknown := given.keys() - _KEPT - _RENEWED - _LEFT_OUT:
            raise Unlike(f"headers: {', '.join(sorted(unknown))}")
        match = _AUTHORIZATION.fullmatch(given.get("authorization", ""))
        if match is None or pattern.method != "POST" or "x-amz-date" not in given:
            raise Unlike("another signature")
        access_key, day, self._where, names, signature = match.groups()
        self._path = urlsplit(pattern.url).path or "/"
        signed = {
            name: server_of(pattern.url).named if name == "host" else given.get(name, "") for name in names.split(";")
        }
        head = _head(self._path, signed)
        key = _key(credentials.secret_key, day, self._where)
        if (
            access_key != credentials.access_key
            or _signature(head, pattern.body, key, given["x-amz-date"], self._where) != signature
        ):
            raise Unlike("another signature")
        self._kept = {name: value for name, value in given.items() if name in _KEPT} | {
            "host": server_of(pattern.url).named
        }
        self._signed = {name: value for name, value in signed.items() if name in _KEPT}
        self._second = -1
        self._credentials: Frozen | None = None

    def lines(self, body: bytes, credentials: Frozen) -> bytes:
        """All headers of a request with this body, sent now, as they stand in it; but for its length."""
        second = int(time.time())
        if second != self._second or credentials != self._credentials:
            self._renew(second, credentials)
        signature = _signature(self._head, body, self._key, self._moment, self._where)
        return b"%b%b\r\n" % (self._lines, signature.encode())

    def _renew(self, second: int, credentials: Frozen) -> None:
        self._moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        renewed = {"x-amz-date": self._moment}
        if credentials.token:
            renewed["x-amz-security-token"] = credentials.token
        signed = self._signed | renewed
        self._head = _head(self._path, signed)
        day = self._moment[:8]
        self._key = _key(credentials.secret_key, day, self._where)
        named = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{day}/{self._where}/aws4_request, "
            f"SignedHeaders={';'.join(sorted(signed))}, Signature="
        )
        self._lines = lines_of(self._kept | renewed | UNPACKED | {"authorization": named}).removesuffix(b"\r\n")
        self._second, self._credentials = second, credentials


def _head(path: str, signed: dict[str, str]) -> bytes:
    """The canonical request up to the digest of its body."""
    headers = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    return f"POST\n{path}\n\n{headers}\n{';'.join(sorted(signed))}\n".encode()


def _key(secret: str, day: str, where: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, *where.split("/"), "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _signature(head: bytes, body: bytes, key: bytes, moment: str, where: str) -> str:
    canonical = sha256(head + sha256(body).hexdigest().encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{moment}\n{moment[:8]}/{where}/aws4_request\n{canonical}"
    return hmac.digest(key, text.encode(), "sha256").hex()
