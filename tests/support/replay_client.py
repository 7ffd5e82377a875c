"""Replays in the acceptance tests: asked for over the API, and judged by what consumers read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.checker import Found, Truth, judge
from tests.support.control_client import Control, control_of
from tests.support.gateway_process import House, until
from tests.support.kafka_cluster import Place

REPLAY_ID = "ce-replayid"
EVENTS: Final = 3_000
Scene = House | Place
Scenes = Callable[[Path, int], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def at_work(scene: Scene, *, rate: float | None = None, events: int = EVENTS) -> AsyncIterator[Control]:
    """Run a gateway until all of so many events of each account are final."""
    if rate is not None:
        scene.config.write_text(scene.config.read_text() + f"replays: {{events_per_second: {rate}}}\n")
    for account in scene.accounts:
        await scene.ask(f"POST /users/{account}/emit", count=events)
    control = await control_of(await scene.gateway(), scene.http)
    await control.ready()
    await control.live(scene.accounts)
    await scene.settled(events)

    async def is_known() -> bool:
        return all(one.get("observed", {}).get("settled", 0) >= events for one in (await control.accounts()).values())

    await until(is_known, "the API says that all of it is published: what owners report comes a little later")
    yield control


async def again_on_topics(scene: Scene, control: Control) -> int:
    """Publish all order updates of the first account again, among the live events; give how many."""
    account = scene.accounts[0]
    last = max(event.sequence for event in (await scene.truth())[account])

    async def is_known() -> bool:
        observed = (await control.accounts())[account]["observed"] or {}
        return bool(observed.get("settled", 0) >= last)

    await control.ready()
    await until(is_known, "the API says that all of it is published")
    id_ = await asked(control, account, kinds=["order-update"], destination="topics")
    return int((await ended(control, id_))["progress"]["published"])


async def is_exact(scene: Scene) -> dict[str, list[Any]]:
    """Judge what is not replayed, and return the rest by id."""
    live, replayed = apart(await scene.log())
    assert judge(await scene.truth(), live, by_kind=isinstance(scene, Place)).faults == {}
    return replayed


async def asked(control: Control, account: str, key: str | None = None, **wanted: Any) -> str:  # noqa: ANN401 - JSON
    """Ask for a replay, and give its id."""
    headers = {} if key is None else {"Idempotency_Key": key}
    answer = await control.ask(f"POST /v1/accounts/{account}/replays", json=wanted, **headers)
    assert answer.status == 202, answer
    assert answer.headers["Location"] == f"/v1/replays/{answer.body['id']}"
    return str(answer.body["id"])


async def shown(control: Control, id_: str) -> dict[str, Any]:
    """Return what the API says of a replay."""
    answer = await control.ask(f"GET /v1/replays/{id_}")
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.body
    return found


async def ended(control: Control, id_: str, state: str = "completed") -> dict[str, Any]:
    """Wait until a replay has ended, and return what is said of it then."""

    async def is_over() -> bool:
        return (await shown(control, id_))["state"] in {"completed", "failed", "cancelled"}

    await until(is_over, f"replay {id_} ends")
    found = await shown(control, id_)
    assert found["state"] == state, found
    return found


def apart(log: Iterable[Found]) -> tuple[list[Found], dict[str, list[Found]]]:
    """Distinguish what came live from what was replayed, by id."""
    live: list[Found] = []
    replayed: dict[str, list[Found]] = defaultdict(list)
    for message in log:
        id_ = message.headers.get(REPLAY_ID)
        (live if id_ is None else replayed[id_]).append(message)
    return live, replayed


def sequences(messages: Iterable[Found]) -> list[int]:
    """Return the sequences of messages, in their order."""
    return [int(message.headers["ce-sequence"]) for message in messages]


def same_as_live(messages: Iterable[Found], live: Iterable[Found], account: str) -> None:
    """Check that replayed messages say what the live ones said, attribute by attribute."""
    known = {one.headers["ce-sequence"]: one for one in live if one.headers["ce-account"] == account}
    for message in messages:
        first = known[message.headers["ce-sequence"]]
        assert message.value == first.value
        attributes = {name: text for name, text in message.headers.items() if name.startswith("ce-")}
        del attributes[REPLAY_ID]
        assert attributes == {name: text for name, text in first.headers.items() if name.startswith("ce-")}


def of(truth: Iterable[Truth], since: int, until_: int) -> list[int]:
    """Return the sequences of a range, as the hub emitted them."""
    return sorted(event.sequence for event in truth if since < event.sequence <= until_)
