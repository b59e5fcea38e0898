"""Every way in which a query can fail, by type, HTTP status and runbook heading.

A failure that a caller can act on is a `GatewayError`. Any other exception is a
bug: it is logged with its traceback and answered as 500. Messages say what was
seen and what would be accepted; they never hold the query's text.
"""

from typing import ClassVar


class ModelError(Exception):
    """A model folder that cannot be served; the message says which file and why."""


class GatewayError(Exception):
    """An answer other than the one asked for. Subclasses fix the vocabulary."""

    code: ClassVar[int] = 500
    status: ClassVar[str] = "INTERNAL"
    error_type: ClassVar[str] = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        details: tuple[str, ...] = (),
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.headers = headers


class ValidationError(GatewayError):
    """The request cannot be read as a query; sending it again will not help."""

    code = 400
    status = "INVALID_ARGUMENT"
    error_type = "ValidationError"


class MethodNotAllowed(ValidationError):
    """The path exists, but not for this method."""

    code = 405


class UnsupportedMediaType(ValidationError):
    """The body is not declared as plain JSON."""

    code = 415


class Unauthenticated(GatewayError):
    """A key is needed, and the one given (if any) is not known."""

    code = 401
    status = "UNAUTHENTICATED"
    error_type = "Unauthenticated"


class NotFound(GatewayError):
    """There is nothing at this path."""

    code = 404
    status = "NOT_FOUND"
    error_type = "NotFound"


class PayloadTooLarge(GatewayError):
    """The body is over `MAX_BODY_BYTES`; it was not read to its end."""

    code = 413
    status = "INVALID_ARGUMENT"
    error_type = "PayloadTooLarge"


class Overloaded(GatewayError):
    """The queue is full; the same request may succeed in a moment."""

    code = 429
    status = "RESOURCE_EXHAUSTED"
    error_type = "Overloaded"


class ModelNotReady(GatewayError):
    """No model is loaded; the message says what was looked for and where."""

    code = 503
    status = "UNAVAILABLE"
    error_type = "ModelNotReady"


class DeadlineExceeded(GatewayError):
    """The query's time ran out before its answer was ready."""

    code = 504
    status = "DEADLINE_EXCEEDED"
    error_type = "TimeoutError"


class CallerGone(GatewayError):
    """The caller hung up; nobody is left to be answered."""

    code = 499
    status = "CANCELLED"
    error_type = "CallerGone"


class InternalError(GatewayError):
    """A bug or a broken machine, told to the caller without its innards."""


class OutOfMemory(InternalError):
    """The machine had no memory left for this query. Keeps the name that on-call looks for."""

    error_type = "MemoryError"


def from_bug(exc: BaseException) -> InternalError:
    """Wrap an exception that nobody planned for into what a caller may see."""
    if isinstance(exc, MemoryError):
        return OutOfMemory("the gateway ran out of memory for this query")
    return InternalError("the gateway failed on this query; its log has the request id")


ERRORS: tuple[type[GatewayError], ...] = (
    ValidationError,
    MethodNotAllowed,
    UnsupportedMediaType,
    Unauthenticated,
    NotFound,
    PayloadTooLarge,
    Overloaded,
    ModelNotReady,
    DeadlineExceeded,
    InternalError,
    OutOfMemory,
)
