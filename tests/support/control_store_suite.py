"""An operator with accounts and users, by nkeys and JWTs: what nsc makes, made by hand.

The form is that of https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt.
"""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import nkeys

_UNLIMITED = {"wildcards": True} | dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
_JETSTREAM = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)


def seed_of(kind: int) -> str:
    """Return a new seed of a user, an account or an operator (`nkeys.PREFIX_BYTE_…`)."""
    return bytes(nkeys.encode_seed(os.urandom(32), kind)).decode()


def public_of(seed: str) -> str:
    """Return the public key of a seed."""
    return bytes(nkeys.from_seed(bytearray(seed.encode())).public_key).decode()


def user_seed() -> str:
    """Return a new seed of a user."""
    return seed_of(nkeys.PREFIX_BYTE_USER)


class Operator:
    """Signs accounts, an account signs users; `config` makes a server trust them."""

    def __init__(self) -> None:
        self.seed = seed_of(nkeys.PREFIX_BYTE_OPERATOR)
        self._system, self._account = seed_of(nkeys.PREFIX_BYTE_ACCOUNT), seed_of(nkeys.PREFIX_BYTE_ACCOUNT)

    def config(self, *, jetstream: bool = True, revoked: str | None = None) -> dict[str, Any]:
        """Return the server's configuration; `revoked` is the seed of a user who is one no longer."""
        claims: dict[str, Any] = {"type": "account", "limits": _UNLIMITED | (_JETSTREAM if jetstream else {})}
        if revoked is not None:
            claims["revocations"] = {public_of(revoked): int(time.time()) + 1}
        return {
            "operator": _jwt(self.seed, self.seed, {"type": "operator"}),
            "system_account": public_of(self._system),
            "resolver": "MEMORY",
            "resolver_preload": {
                public_of(self._account): _jwt(self.seed, self._account, claims),
                public_of(self._system): _jwt(self.seed, self._system, {"type": "account", "limits": _UNLIMITED}),
            },
        }

    def credentials(self, seed: str, *, expires: int | None = None, named: str | None = None) -> str:
        """Return the `.creds` file of the user with `seed`; `named` is the seed of whom its JWT is for, if another."""
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1}
        jwt = _jwt(self._account, named or seed, claims, expires)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )


def _jwt(issuer: str, subject: str, nats: dict[str, Any], expires: int | None = None) -> str:
    claims = {
        "jti": base64.b32encode(os.urandom(20)).decode(),
        "iat": int(time.time()),
        "iss": public_of(issuer),
        "sub": public_of(subject),
        "name": "test",
        "nats": {**nats, "version": 2},
    }
    if expires is not None:
        claims["exp"] = expires
    signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(claims)}"
    signature = nkeys.from_seed(bytearray(issuer.encode())).sign(signed.encode())
    return f"{signed}.{_encoded(signature)}"


def _part(value: dict[str, Any]) -> str:
    return _encoded(json.dumps(value).encode())


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
