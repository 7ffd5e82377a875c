"""Every error the gateway raises on purpose, in one tree; the docstring of a class is its message.

GatewayError
├── ConfigurationError          exit code 2: no retry can mend it
├── DecodeError                 one event; becomes a dead letter, never ends a connection
├── ProtocolError               the peer does not speak SignalR
├── HubError                    the account loop connects again
│   ├── ConnectFailed           negotiate, upgrade or handshake did not succeed
│   │   └── Unauthorized        401 or 403: retried slowly, with the key read afresh
│   ├── ConnectionLost          the connection ended or fell silent
│   ├── TooManyDeadLetters      the account waits until the minute is over
│   ├── CallFailed              a completion with an error
│   ├── CallRejected            an envelope whose status is not success
│   └── CallTimedOut            no completion in time
├── BrokerError                 the shard opens its log again
│   ├── Fenced                  a newer claim owns the shard
│   ├── OutcomeUnknown          the commit may or may not have happened
│   ├── TooLarge                one message is above the broker's limit
│   ├── CommitRejected          something in the commit is refused, the broker does not say what
│   ├── Conflict                somebody else has written the record meanwhile
│   └── Unavailable             the broker cannot be reached, or is busy
│       ├── TooManyMessages     it takes less at once
│       ├── StorageFull         somebody must make room in it
│       ├── NotReady            it is there, and may serve by itself after a while
│       └── ActionRequired      somebody must give a permission, a login or a topic back
└── Diverged                    going on could publish the wrong thing
"""

from __future__ import annotations

from collections.abc import Callable


class GatewayError(Exception):
    """Something that the gateway knows by name went wrong."""

    def __str__(self) -> str:
        """Return the message it was raised with, else the class's docstring."""
        return super().__str__() or (self.__doc__ or "").strip()


class ConfigurationError(GatewayError):
    """A setting is wrong, and only a person can mend it."""

    def __init__(self, setting: str, problem: str, remedy: str) -> None:
        """Name the setting, what is wrong with its value, and what would be right."""
        end = "" if problem.endswith(("?", "!", ".")) else "."
        super().__init__(f"{setting}: {problem}{end} {remedy}")
        self.setting = setting
        self.problem = problem
        self.remedy = remedy


class DecodeError(GatewayError):
    """An event cannot be decoded."""

    def __init__(self, reason: str, detail: str) -> None:
        """Take a reason from a closed list (a label) and a detail for people."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ProtocolError(GatewayError):
    """The peer does not speak the SignalR JSON protocol."""


class HubError(GatewayError):
    """The hub, or the way to it, failed."""


class ConnectFailed(HubError):
    """A connection to the hub could not be made."""

    def __init__(self, message: str, *, reason: str, retry_after: float | None = None) -> None:
        """`retry_after` is in seconds where the hub named it.

        `reason` is a label: timeout, unreachable, unauthorized, http-<status>, negotiate, handshake, protocol, proxy.
        """
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class Unauthorized(ConnectFailed):
    """The hub refused the account's key."""


class ConnectionLost(HubError):
    """The connection to the hub ended."""

    def __init__(self, message: str, *, reason: str) -> None:
        """`reason` is a short label for metrics: closed, dropped, silent, protocol, too-large, call, deaf."""
        super().__init__(message)
        self.reason = reason


class TooManyDeadLetters(HubError):
    """An account made more dead letters in a minute than it may."""

    def __init__(self, count: int, most: int, remaining: float) -> None:
        """`remaining` are the seconds until it may go on."""
        super().__init__(
            f"{count} dead letters within a minute, and hub.max_dead_letters_per_minute is {most}: the account goes on "
            f"in {remaining:.0f} s, or when an operator asks for a new connection"
        )
        self.remaining = remaining
        self.unread = 0
        """Bytes of the message that made the last of them which were not read."""


class CallFailed(HubError):
    """The hub answered a call with an error."""

    def __init__(self, method: str, message: str) -> None:
        """Name the method and take the hub's own message."""
        super().__init__(f"{method}: {message}")
        self.method = method
        self.message = message

    def redacted(self, redact: Callable[[str], str]) -> CallFailed:
        """Return the error with the hub's texts as `redact` puts them."""
        return CallFailed(self.method, redact(self.message))


class CallRejected(HubError):
    """The hub answered a call with a status that is not success."""

    def __init__(
        self, method: str, status: str, code: str | None, detail: str | None, fields: tuple[str, ...] = ()
    ) -> None:
        """`status` as it came (a number or a name); the rest from the envelope's error."""
        super().__init__(f"{method}: status {status}, code {code}: {detail}")
        self.method = method
        self.status = status
        self.code = code
        self.detail = detail
        self.fields = fields
        """Names of the arguments that ValidationErrors complains of."""

    def redacted(self, redact: Callable[[str], str]) -> CallRejected:
        """Return the error with the hub's texts as `redact` puts them."""
        code, detail = (None if text is None else redact(text) for text in (self.code, self.detail))
        return CallRejected(self.method, redact(self.status), code, detail, tuple(map(redact, self.fields)))


class CallTimedOut(HubError):
    """The hub did not answer a call in time."""

    def __init__(self, method: str, seconds: float) -> None:
        """Name the method and the limit in seconds."""
        super().__init__(f"{method}: no answer within {seconds:g} s")
        self.method = method


class BrokerError(GatewayError):
    """The broker, or the way to it, failed."""


class Fenced(BrokerError):
    """A newer claim owns the shard; nothing that this writer sends is stored any more."""


class OutcomeUnknown(BrokerError):
    """The commit may or may not have been stored: open the log again and read what is so."""


class TooLarge(BrokerError):
    """One message of the commit is above the broker's limit; nothing of the commit was stored."""

    def __init__(self, index: int, size: int | None = None, limit: int | None = None) -> None:
        """`index` is the message's place in `Commit.messages`; `size` and `limit` are bytes, where known."""
        super().__init__(f"message {index} has {size} bytes, the broker takes at most {limit}")
        self.index = index
        self.size = size
        self.limit = limit


class CommitRejected(BrokerError):
    """The broker refused the commit for something in it; nothing was stored."""


class Conflict(BrokerError):
    """Somebody else has written the record meanwhile; nothing was written."""


class Unavailable(BrokerError):
    """The broker cannot be reached, is busy or has no room; nothing was stored."""


class TooManyMessages(Unavailable):
    """The broker takes less at once; nothing was stored."""


class StorageFull(Unavailable):
    """The broker has no room for the commit until somebody makes some; nothing was stored."""


class NotReady(Unavailable):
    """The broker is there and does not serve yet; nothing was stored."""


class ActionRequired(Unavailable):
    """Nothing can be stored until a person mends something in the broker; nothing was stored."""


class Diverged(GatewayError):
    """The hub's history is not the one that the checkpoint was made from."""


def forget_frames(error: BaseException | None) -> None:
    """Take the tracebacks from an error, from those in it, and from those before it.

    A traceback keeps the frames, and a frame all that its function worked on. Where that refers to the error, as a
    connection does to why it ended, only the garbage collector ends it, which may not look for minutes. The frames
    themselves are left alone: a coroutine that caught the error may go on.
    """
    pending, done = [error], set[int]()
    while pending:
        error = pending.pop()
        if error is not None and id(error) not in done:
            done.add(id(error))
            error.__traceback__ = None
            pending += (error.__context__, error.__cause__)
            if isinstance(error, BaseExceptionGroup):
                pending += error.exceptions
