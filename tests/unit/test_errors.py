"""What the errors of the gateway do besides saying what is wrong."""

from __future__ import annotations

import asyncio

from gateway.errors import forget_frames


def _raise() -> None:
    raise ValueError("first")


async def test_forgetting_frames_leaves_a_coroutine_alone_that_caught_the_error() -> None:
    caught: list[BaseException] = []
    go_on = asyncio.Event()

    async def lives() -> str:
        try:
            _raise()
        except ValueError as error:
            caught.append(error)
        await go_on.wait()
        return "still here"

    living = asyncio.create_task(lives())
    await asyncio.sleep(0)
    assert caught[0].__traceback__ is not None
    forget_frames(caught[0])
    go_on.set()

    assert await living == "still here"
    assert caught[0].__traceback__ is None


def test_frames_are_forgotten_of_all_errors_in_a_group_and_before_them() -> None:
    errors: list[BaseException] = []
    for _ in range(2):
        try:
            try:
                _raise()
            except ValueError as error:
                errors.append(error)
                raise KeyError("second") from error
        except KeyError as error:
            errors.append(error)
    group = BaseExceptionGroup("both", [errors[1], errors[3]])
    forget_frames(group)

    assert [error.__traceback__ for error in (*errors, group)] == [None] * 5
    assert errors[1].__cause__ is errors[0], "what is said stays"
