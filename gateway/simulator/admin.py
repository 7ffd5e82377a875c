"""The simulator's admin API: JSON over HTTP under `/simulator`, answered on loopback only.

It shows the hub (status, log, emitted events) and breaks it on demand. A lasting fault is a field of `Faults` and needs
nothing here; a single fault is an action with a route of its own.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from gateway.simulator.admin_models import (
    DropBody,
    EmitBody,
    FailBody,
    InjectBody,
    RefuseBody,
    ResetBody,
    SilenceBody,
    SwapBody,
    UnlistenBody,
    UserBody,
)
from gateway.simulator.connection import ServerConnection
from gateway.simulator.events import CALLBACKS
from gateway.simulator.faults import Failure, FaultScope, Refusal
from gateway.simulator.history import Injection
from gateway.simulator.hub import SimulatedHub
from gateway.simulator.listener import Listener
from gateway.simulator.server import Server
from gateway.simulator.user import Emission, User, emit_in_steps

_CHUNK: Final = 256 * 1024
_Body = TypeVar("_Body")


class RequestError(Exception):
    """A request cannot be done; the text goes to the caller."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        """Take the HTTP status and what would be right."""
        super().__init__(message)
        self.status = status


def application(hub: SimulatedHub, server: Server, door: Listener) -> web.Application:
    """Make the application to mount at `/simulator`."""
    admin = _Admin(hub, server, door)
    app = web.Application(middlewares=[_local_only, _problems])
    app.add_routes(
        [
            web.get("/status", admin.status),
            web.get("/log", admin.log),
            web.get("/faults", admin.faults),
            web.patch("/faults", admin.patch_faults),
            web.delete("/faults", admin.clear_faults),
            web.post("/drop", admin.drop),
            web.post("/silence", admin.silence),
            web.post("/refuse", admin.refuse),
            web.delete("/refuse", admin.admit),
            web.post("/unlisten", admin.unlisten),
            web.post("/swap", admin.swap),
            web.post("/pause", admin.pause),
            web.post("/resume", admin.resume),
            web.get("/users/{name}", admin.user),
            web.put("/users/{name}", admin.put_user),
            web.get("/users/{name}/emitted", admin.emitted),
            web.post("/users/{name}/emit", admin.emit),
            web.post("/users/{name}/inject", admin.inject),
            web.post("/users/{name}/pause", admin.pause),
            web.post("/users/{name}/resume", admin.resume),
            web.post("/users/{name}/fail", admin.fail),
            web.post("/users/{name}/reset", admin.reset),
            web.get("/users/{name}/faults", admin.faults),
            web.patch("/users/{name}/faults", admin.patch_faults),
            web.delete("/users/{name}/faults", admin.clear_faults),
        ]
    )
    return app


class _Admin:
    """What each route does; a route with a user's name concerns that user, one without concerns the hub."""

    def __init__(self, hub: SimulatedHub, server: Server, door: Listener) -> None:
        self._hub = hub
        self._server = server
        self._door = door

    async def status(self, _request: web.Request) -> web.Response:
        """Everything at a glance."""
        users = [_shown(user, self._server) for user in self._hub.users.values()]
        faults = asdict(self._hub.scope.faults)
        return _json({"form": self._hub.form, "seed": self._hub.seed, "faults": faults, "users": users})

    async def log(self, request: web.Request) -> web.Response:
        """What clients did, oldest first; `?since=` takes seconds since 1970."""
        since = _number(request, "since", 0.0)
        return _json([entry for entry in self._server.log if entry.time > since])

    async def user(self, request: web.Request) -> web.Response:
        """One user at a glance."""
        return _json(_shown(self._by_name(request.match_info["name"]), self._server))

    async def put_user(self, request: web.Request) -> web.Response:
        """Make a user, or change its key or its strategies; what the body leaves out stays."""
        body = await _body(request, UserBody)
        name = request.match_info["name"]
        user = self._hub.users.get(name)
        strategies = None if body.strategies is None else tuple(body.strategies)
        if user is None:
            if body.key is None:
                raise RequestError(HTTPStatus.BAD_REQUEST, "a new user needs a key")
            user = self._hub.add(name, body.key, strategies or (1, 2, 3, 4, 5))
        else:
            if body.key is not None:
                self._hub.change_key(user, body.key)
            if strategies is not None:
                user.set_strategies(strategies)
        return _json(_shown(user, self._server))

    async def emitted(self, request: web.Request) -> web.StreamResponse:
        """Return the truth as NDJSON; `?since=`, `?limit=`, `?incarnation=` (0 is the first, default the present)."""
        user = self._by_name(request.match_info["name"])
        since, limit = int(_number(request, "since", 0)), int(_number(request, "limit", -1))
        try:
            lines = user.emitted(int(_number(request, "incarnation", -1)), since, None if limit < 0 else limit)
        except IndexError as error:
            raise RequestError(HTTPStatus.NOT_FOUND, "no such incarnation") from error
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        chunk = bytearray()
        for line in lines:
            chunk += line
            if len(chunk) > _CHUNK:
                await response.write(bytes(chunk))
                chunk.clear()
        await response.write(bytes(chunk))
        return response

    async def emit(self, request: web.Request) -> web.Response:
        """Emit events at once, or at a rate from now on."""
        user = self._by_name(request.match_info["name"])
        body = await _body(request, EmitBody)
        if unknown := set(body.kinds or ()) - set(CALLBACKS):
            raise RequestError(HTTPStatus.BAD_REQUEST, f"unknown kinds: {', '.join(sorted(unknown))}")
        callbacks = None if not body.kinds else tuple(CALLBACKS.index(kind) for kind in body.kinds)
        if body.rate is not None:
            user.begin(Emission(body.rate, body.count, callbacks))
        else:
            await emit_in_steps(user, body.count or 1, callbacks)
        return _json(_shown(user, self._server))

    async def inject(self, request: web.Request) -> web.Response:
        """Say raw bytes; the answer has the number that they have in the hub's order, if any."""
        user = self._by_name(request.match_info["name"])
        body = await _body(request, InjectBody)
        if (body.text is None) == (body.base64 is None):
            raise RequestError(HTTPStatus.BAD_REQUEST, "give the bytes as text or in base64")
        try:
            raw = (body.text or "").encode() if body.base64 is None else base64.b64decode(body.base64, validate=True)
        except binascii.Error as error:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"base64: {error}") from error
        injection = Injection(
            raw,
            body.callback,
            is_record=body.what == "record",
            push=body.push,
            history=body.history,
            sequence=body.sequence if isinstance(body.sequence, int) else None,
            numbered=body.sequence != "none",
        )
        return _json({"sequence": user.inject(injection), **_shown(user, self._server)})

    async def swap(self, request: web.Request) -> web.Response:
        """Return each of two users the other's key."""
        one, other = map(self._by_name, (await _body(request, SwapBody)).users)
        self._hub.swap_keys(one, other)
        return _json({"swapped": [one.name, other.name]})

    async def unlisten(self, request: web.Request) -> web.Response:
        """Refuse connections at TCP for a while: this API's, too."""
        body = await _body(request, UnlistenBody)
        await self._door.shut(body.seconds)
        connections = self._server.of(None) if body.cut else []
        self._server.drop(connections, "cut")
        return _json({"seconds": body.seconds, "dropped": len(connections)})

    async def pause(self, request: web.Request) -> web.Response:
        """Let emission at a rate rest."""
        return self._set_paused(request, paused=True)

    async def resume(self, request: web.Request) -> web.Response:
        """Let emission at a rate go on, where it stopped."""
        return self._set_paused(request, paused=False)

    async def reset(self, request: web.Request) -> web.Response:
        """Begin a new incarnation: another history under the same key."""
        user = self._by_name(request.match_info["name"])
        user.reset((await _body(request, ResetBody)).first)
        return _json(_shown(user, self._server))

    async def fail(self, request: web.Request) -> web.Response:
        """Let the next calls of a method fail."""
        user = self._by_name(request.match_info["name"])
        user.failures.append(Failure(**msgspec.structs.asdict(await _body(request, FailBody))))
        return _json(_shown(user, self._server))

    async def drop(self, request: web.Request) -> web.Response:
        """End connections."""
        body = await _body(request, DropBody)
        chosen = self._chosen(body.user, body.connection)
        self._server.drop(chosen, body.how, error=body.error, allow_reconnect=body.allow_reconnect)
        return _json({"dropped": len(chosen)})

    async def silence(self, request: web.Request) -> web.Response:
        """Keep connections silent; those made later speak (the fault `silent` takes them in too)."""
        body = await _body(request, SilenceBody)
        chosen = self._chosen(body.user, body.connection)
        for connection in chosen:
            connection.silent = body.silent
            connection.wake()
        return _json({"connections": len(chosen)})

    async def refuse(self, request: web.Request) -> web.Response:
        """Refuse connects."""
        body = await _body(request, RefuseBody)
        until = None if body.seconds is None else time.monotonic() + body.seconds
        refusals = self._hub.refusals if body.user is None else self._by_name(body.user).refusals
        refusals.append(Refusal(body.status, body.retry_after, body.count, until, body.at))
        return _json({"refusals": len(refusals)})

    async def admit(self, _request: web.Request) -> web.Response:
        """Take back every refusal."""
        for refusals in (self._hub.refusals, *(user.refusals for user in self._hub.users.values())):
            refusals.clear()
        return _json({"refusals": 0})

    async def faults(self, request: web.Request) -> web.Response:
        """Return the faults that hold."""
        return _json(self._scope(request).faults)

    async def patch_faults(self, request: web.Request) -> web.Response:
        """Set the named faults; null takes one back."""
        changes = await _body(request, dict[str, object])
        try:
            faults = self._scope(request).patch(changes)
        except ValueError as error:
            raise RequestError(HTTPStatus.BAD_REQUEST, str(error)) from error
        self._server.wake()
        return _json(faults)

    async def clear_faults(self, request: web.Request) -> web.Response:
        """Take back every fault that was set at this place."""
        faults = self._scope(request).clear()
        self._server.wake()
        return _json(faults)

    def _scope(self, request: web.Request) -> FaultScope:
        return self._by_name(request.match_info["name"]).scope if "name" in request.match_info else self._hub.scope

    def _set_paused(self, request: web.Request, *, paused: bool) -> web.Response:
        users = (
            [self._by_name(request.match_info["name"])]
            if "name" in request.match_info
            else list(self._hub.users.values())
        )
        for user in users:
            user.paused = paused
        return _json({"paused": paused, "users": len(users)})

    def _by_name(self, name: str) -> User:
        if user := self._hub.users.get(name):
            return user
        raise RequestError(HTTPStatus.NOT_FOUND, f"no user is named {name!r}")

    def _chosen(self, user: str | None, connection: str | None) -> list[ServerConnection]:
        of_user = self._server.of(None if user is None else self._by_name(user))
        return [item for item in of_user if connection in (None, item.id)]


def _shown(user: User, server: Server) -> dict[str, object]:
    history = user.history
    return {
        "name": user.name,
        "strategies": user.strategies,
        "emitted": len(history),
        "latest": history.sequences[-1] if history else 0,
        "incarnation": len(user.incarnations) - 1,
        "paused": user.paused,
        "emitting": sum(emission.rate for emission in user.emissions),
        "counts": user.counts,
        "faults": user.faults,
        "connections": [
            {
                "id": connection.id,
                "strategies": sorted(connection.listener.strategies),
                "seconds": time.monotonic() - connection.began,
                "waiting": connection.waiting,
                "silent": connection.silent,
                "half_open": connection.half_open,
            }
            for connection in server.of(user)
        ],
    }


async def _body(request: web.Request, model: type[_Body]) -> _Body:
    raw = await request.read()
    try:
        return msgspec.json.decode(raw or b"{}", type=model)
    except msgspec.MsgspecError as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, str(error)) from error


def _number(request: web.Request, name: str, default: float) -> float:
    try:
        return float(request.query.get(name, default))
    except ValueError as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, f"{name} must be a number") from error


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _local_only(request: web.Request, handler: _Handler) -> web.StreamResponse:
    if not request.remote or not ipaddress.ip_address(request.remote).is_loopback:
        raise web.HTTPForbidden(text="the admin API answers on loopback only")
    return await handler(request)


@web.middleware
async def _problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RequestError as problem:
        return web.json_response({"error": str(problem)}, status=problem.status)
