"""Answers hold memory until they are read."""

import asyncio

import pytest
from starlette.types import Message

from lit_od.serving.intake import CountedAnswer, Intake
from lit_od.serving.limits import Limits, Refused

KIB = 1024


async def nothing() -> Message:
    raise AssertionError("an answer reads no body")


def answer(intake: Intake, size: int) -> CountedAnswer:
    return CountedAnswer(bytes(range(256)) * (size // 256), intake, media_type="x/y", headers={"x": "y"})


def test_answers_that_nobody_reads_leave_no_room_for_others() -> None:
    async def both() -> None:
        intake, read, sent = Intake(Limits(memory=300 * KIB)), asyncio.Event(), list[Message]()

        async def reader(message: Message) -> None:
            sent.append(message)

        async def slow_reader(message: Message) -> None:
            await read.wait()

        slow = asyncio.create_task(answer(intake, 200 * KIB)({"type": "http"}, nothing, slow_reader))
        await asyncio.sleep(0)
        assert intake.held == 200 * KIB
        with pytest.raises(Refused, match="the server is full: try again") as refusal:
            await answer(intake, 200 * KIB)({"type": "http"}, nothing, reader)
        assert (refusal.value.status, sent) == (503, [])
        read.set()
        await slow
        await answer(intake, 200 * KIB)({"type": "http"}, nothing, reader)
        assert intake.held == 0
        assert sent[0]["status"] == 200
        assert {len(message["body"]) <= 64 * KIB for message in sent[1:]} == {True}
        assert [message["more_body"] for message in sent[1:]] == [True] * 4 + [False]
        assert b"".join(message["body"] for message in sent[1:]) == answer(intake, 200 * KIB).body

    asyncio.run(both())


def test_the_room_of_a_client_that_leaves_is_given_back() -> None:
    async def left() -> None:
        intake = Intake(Limits())

        async def gone(message: Message) -> None:
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await answer(intake, KIB)({"type": "http"}, nothing, gone)
        assert intake.held == 0

    asyncio.run(left())
