"""What DynamoDB and boto3 say that is no answer, sorted by what to do next: which troubles pass, and words for those that do not.

Knows boto3's exceptions and the service's codes. Messages name what was asked for, never an item and never a secret. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from migrator.adapters.dynamodb.values import Item
from migrator.adapters.dynamodb.wire import NoAnswer
from migrator.errors import ConfigError, StoreError, TransientStoreError


class Asked(Protocol):
    """The table that was asked, as messages name it."""

    name: str
    words: str
    endpoint: str
    region: str
    client: Any


def no_answer(words: str, operation: str) -> TransientStoreError:
    return TransientStoreError(f"{words}: an answer to {operation} that is not DynamoDB's; check what is between")


class GivenUp(StoreError):
    """Nothing got through for as long as the patience lasts. The cause is the last trouble."""


class NoTable(StoreError):
    """There is no such table."""


class InUse(StoreError):
    """The table is being made or changed."""


class NoCredentials(StoreError):
    """None could be had."""


class NotLetIn(StoreError):
    """AWS does not accept the credentials; `code` is its name for why."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Expired(NotLetIn):
    """They were good once."""


class Denied(StoreError):
    """The credentials are good and may not do this; `action` is the name that a policy has for it."""

    def __init__(self, message: str, action: str) -> None:
        super().__init__(message)
        self.action = action


class Unreachable(TransientStoreError):
    """Nothing answers at the endpoint."""


class NoRegion(ConfigError):
    """No region is configured."""


class NoProfile(ConfigError):
    """There is no profile of that name."""


class Throttled(TransientStoreError):
    """It was too much just now."""


class NoSuchCall(StoreError):
    """The server does not know the operation."""


class Refused(StoreError):
    """The service refuses what the request holds; the message is the service's reason."""


class Taken(StoreError):
    """The condition does not hold; `item` is what is there, where the server says it."""

    def __init__(self, message: str, item: Item | None) -> None:
        super().__init__(message)
        self.item = item


_PASSING = {
    "InternalFailure", "InternalServerError", "LimitExceededException", "ReplicatedWriteConflictException",
    "RequestTimeout", "ServiceUnavailable", "TransactionConflictException", "TransactionInProgressException",
}  # fmt: skip
THROTTLED = {
    "ProvisionedThroughputExceeded", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "Throttling",
    "ThrottlingException",
}  # fmt: skip
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_CREDENTIALS = _EXPIRED | {
    "AuthFailure", "IncompleteSignature", "IncompleteSignatureException", "InvalidAccessKeyId", "InvalidClientTokenId",
    "InvalidSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}  # fmt: skip
_REFUSED = {"ValidationException", "SerializationException", "ItemCollectionSizeLimitExceededException"}
NO_CREDENTIALS = (
    boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.TokenRetrievalError,
    boto.NoAuthTokenError, boto.SSOError, boto.UnauthorizedSSOTokenError,
)  # fmt: skip
_UNREACHABLE = (
    boto.ConnectionError, boto.HTTPClientError, boto.ChecksumError, boto.ResponseStreamingError, boto.IncompleteReadError,
)  # fmt: skip
_CHECK_THE_ENDPOINT = "the endpoint (?endpoint=, AWS_ENDPOINT_URL_DYNAMODB), the region and the network"
_CHECK = {
    boto.ProxyConnectionError: "the proxy (HTTP_PROXY, HTTPS_PROXY; NO_PROXY says what is reached without)",
    boto.SSLError: "whether the endpoint speaks TLS, and the certificates that are believed (AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE)",
}

# Or something else than an answer: botocore's parser says so, or stumbles over it.
_HALF_AN_ANSWER = (NoAnswer, ResponseParserError, AttributeError, KeyError, TypeError, ValueError, RecursionError)


@contextmanager
def sorted_errors(table: Asked, operation: str) -> Iterator[None]:
    words = table.words
    try:
        yield
    except boto.ClientError as exc:
        raise _sorted_answer(exc, table, operation) from exc
    except NO_CREDENTIALS as exc:
        raise no_credentials(words, exc) from exc
    except _UNREACHABLE as exc:
        check = next((words for sort, words in _CHECK.items() if isinstance(exc, sort)), _CHECK_THE_ENDPOINT)
        raise Unreachable(f"{words}: no answer from {table.endpoint} ({type(exc).__name__}); check {check}") from exc
    except boto.BotoCoreError as exc:
        raise StoreError(f"{words}: {operation}: {exc}; mend that and run again") from exc
    except _HALF_AN_ANSWER as exc:
        raise no_answer(words, operation) from exc


def no_credentials(words: str, exc: Exception) -> NoCredentials:
    return NoCredentials(
        f"{words}: no AWS credentials could be had ({type(exc).__name__}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a "
        "profile (?profile=NAME), or log in (`aws sso login`); a local server takes any"
    )


def _sorted_answer(exc: Any, table: Asked, operation: str) -> StoreError:
    """An answer that is an error, by what to do next. Messages name what was asked for and never an item."""
    code, reason = exc.response["Error"].get("Code", ""), exc.response["Error"].get("Message", "")
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    words, action = table.words, table.client.boto.meta.method_to_api_mapping[operation]
    if code in THROTTLED:
        return Throttled(f"{words}: {action}: {code}")
    if code in _PASSING or status >= 500:
        return TransientStoreError(f"{words}: {action}: {code}")
    if status == 400 and code in ("", "400"):  # DynamoDB's own have a name: this is a part of one
        return no_answer(words, action)
    if code == "ConditionalCheckFailedException":
        return Taken(f"{words}: {action}: something is there", exc.response.get("Item"))
    if code == "ResourceNotFoundException":
        return NoTable(
            f"{words}: there is no such table in {table.region} at {table.endpoint}; bring it back, or check its name and the region, and run again"
        )
    if code == "ResourceInUseException":
        return InUse(f"{words}: the table is being made or changed")
    if code == "UnknownOperationException":
        return NoSuchCall(f"{words}: the server does not know {action}")
    if code in _EXPIRED:
        return Expired(f"{words}: the AWS credentials have expired ({code}); log in anew and run again", code)
    if code in _CREDENTIALS:
        return NotLetIn(
            f"{words}: AWS does not accept these credentials ({code}); check the keys or the profile ({table.client.profile}), the region "
            f"({table.region}) and this machine's clock",
            code,
        )
    if code in ("AccessDeniedException", "AccessDenied"):
        need = f"dynamodb:{action} on the table {table.name}"
        return Denied(
            f"{words}: no permission for {need}; allow it in the policy of these credentials", f"dynamodb:{action}"
        )
    if code in _REFUSED:
        return Refused(reason or code)
    return StoreError(
        f"{words}: {action}: {code} (HTTP {status}) {reason[:200]}".rstrip(" .") + "; mend that and run again"
    )


@contextmanager
def planning() -> Iterator[None]:
    """Before anything was touched, every trouble is one with the plan."""
    try:
        yield
    except StoreError as exc:
        message = f"{exc}" if not isinstance(exc, Refused) else f"DynamoDB refuses the request: {exc}"
        raise ConfigError(message) from exc
