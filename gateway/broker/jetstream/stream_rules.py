"""What about a stream would break a promise, whichever of the gateway's streams it is. It asks no server."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_HARMS: Final = {
    "deny_purge": "{what} could not be replaced",
    "deny_delete": "{what} could not be taken back",
    "sealed": "nothing could be stored",
    "no_ack": "nobody would say what was stored",
    "mirror": "nothing of ours could be stored",
    "subject_transform": "{what} would be stored where they are not looked for",
    "sources": "what others wrote would be among the {what}",
    "allow_msg_counter": "nothing but counters could be stored",
    "discard_new_per_subject": "{what} could not be replaced",
    "subject_delete_marker_ttl": "{what} that ended would seem to be there",
}
"""What each setting does to what the stream holds."""
_ALWAYS: Final = ("sealed", "no_ack", "mirror", "subject_transform", "sources", "allow_msg_counter")
"""Those that no stream may have."""


@dataclass(frozen=True, slots=True)
class StreamRules:
    """What one stream must be like."""

    what: str
    """Names in words what it holds and must not lose, such as `checkpoints`."""
    subjects: Collection[str]
    """What it must store."""
    replicas: int
    largest: int
    """Bytes of headers and payload of the largest message that it must take."""
    also_without: Collection[str] = ()
    """Settings with a harm that this stream may not have, besides those that none may have."""
    may_be_lost: bool = False
    """Whether a restart of the server may forget all of it."""

    def broken_by(self, config: Mapping[str, Any]) -> Iterator[str]:
        """Yield, in words, what of a stream's configuration breaks the rules."""
        for setting in (*_ALWAYS, *self.also_without):
            if config.get(setting):
                yield f"{setting} is set: {_HARMS[setting].format(what=self.what)}"
        if config.get("retention") != "limits":
            yield f"retention is {config.get('retention')}: a consumer's acknowledgement would delete {self.what}"
        if not self.may_be_lost:
            yield from _forgetful(config)
        if config.get("num_replicas", 1) < self.replicas:
            yield f"num_replicas is {config.get('num_replicas', 1)}, not {self.replicas}: too few servers may fail"
        absent = [subject for subject in self.subjects if not _covered(subject, config.get("subjects") or [])]
        if absent:
            yield f"subjects lack {', '.join(absent)}"
        if 0 < config.get("max_msg_size", -1) < self.largest:
            yield f"max_msg_size is {config['max_msg_size']}: {self.what} need {self.largest}"


def _forgetful(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("storage") != "file":
        yield f"storage is {config.get('storage')}: a restart of the server would forget everything"
    if config.get("persist_mode") == "async":
        yield "persist_mode is async: what was acknowledged could be lost"


def _covered(subject: str, patterns: Collection[str]) -> bool:
    return any(_covers(pattern.split("."), subject.split(".")) for pattern in patterns)


def _covers(pattern: list[str], subject: list[str]) -> bool:
    """Return whether each subject that `subject` stands for is under `pattern`."""
    if pattern[-1] == ">":
        if len(subject) < len(pattern):
            return False  # `>` stands for one token at least
        subject = subject[: len(pattern) - 1]
        pattern = pattern[:-1]
    return len(pattern) == len(subject) and all(
        wanted == given or (wanted == "*" and given != ">") for wanted, given in zip(pattern, subject, strict=True)
    )
