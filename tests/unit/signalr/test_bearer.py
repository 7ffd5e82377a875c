"""Whose key it is, where the key says so."""

import base64

import pytest

from gateway.signalr.jwt import subject_of


def jwt(claims: str, header: str = '{"alg":"RS256"}') -> str:
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in (header, claims, "signed"))


def test_the_subject_of_a_jwt_is_read() -> None:
    assert subject_of(jwt('{"iss":"x","sub":"user-1","exp":1}')) == "user-1"
    assert subject_of(jwt('{"sub":"Zürich"}')) == "Zürich"


@pytest.mark.parametrize(
    "bearer",
    [
        "",
        "an-opaque-key",
        "a.b",
        "a.b.c",
        "...",
        "a.b.c.d.e",
        jwt("{}"),
        jwt('{"sub":""}'),
        jwt('{"sub":null}'),
        jwt('{"sub":7}'),
        jwt("[]"),
        jwt("not json"),
        jwt('{"sub":"\\ud800"}'),
        jwt('{"sub":' + "[" * 10_000),
        jwt('{"sub":"user"}', header="no header"),
        jwt('{"sub":"user"}').replace(".", ".~", 1),
        "ü.ü.ü",
    ],
)
def test_anything_else_has_no_subject(bearer: str) -> None:
    assert subject_of(bearer) is None
