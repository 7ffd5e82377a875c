"""The state that the control plane shows, and the store that it writes to: also while the broker is unavailable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.broker.control_view import View
from gateway.broker.ports import ControlStore
from gateway.control.auditing import Auditing
from gateway.control.problems import Problem, ProblemType, unknown
from gateway.settings.sections import ReplaysSettings

_SOON: Final = 2
"""Seconds after which the broker may be there."""


@dataclass(slots=True)
class DeploymentView:
    """The replicas of one broker and prefix, as this one receives their reports."""

    shards: int = 16
    """Slices that the accounts are dealt into."""
    topics: Mapping[str, str] = field(default_factory=dict)
    """By kind: the topic, or the subject filter for all accounts."""
    replays: ReplaysSettings = field(default_factory=ReplaysSettings)
    view: View | None = None
    """None until the broker is there for the first time."""
    store: ControlStore | None = None
    """Likewise."""
    auditing: Auditing = field(default_factory=Auditing)
    """Where changes are recorded."""

    def synced_view(self) -> View:
        """Return the view of the accounts; raises Problem where nothing was received yet."""
        if self.view is None or not self.view.has_synced.is_set():
            raise Problem(
                ProblemType.NOT_READY,
                "The gateway has not heard from the broker since it began. Ask again, or ask another replica.",
                retry_after=_SOON,
            )
        return self.view

    def writable_store(self) -> ControlStore:
        """Return the store of desired state; raises Problem where there is none yet, or too much is not audited."""
        self.synced_view()
        self.auditing.check_room()
        assert self.store is not None  # noqa: S101 - it comes with the view
        return self.store

    def view_of(self, account: str) -> View:
        """Return the view of the accounts, one of which is `account`; raises Problem with the nearest name."""
        view = self.synced_view()
        if account not in view.observed and account not in view.desired:
            raise unknown(ProblemType.UNKNOWN_ACCOUNT, "account", account, view.observed.keys() | view.desired.keys())
        return view
