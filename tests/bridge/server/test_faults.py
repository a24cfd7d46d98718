"""Connections that break at bad moments, and clients that break the rules."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import music
from support.bridge_server import config
from support.server_calls import (
    RATE,
    Audio,
    error_code,
    frame,
    get,
    hello,
    offline,
    request,
    run,
    websocket_to,
)

pytest.importorskip("websockets")
pytest.importorskip("msgspec")

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stemwire.bridge.client.async_separator import AsyncSeparator
from stemwire.bridge.protocol.messages import (
    HEADER,
    Control,
    Error,
    Goodbye,
    Resume,
    State,
    Stats,
    Welcome,
    decode,
    encode,
)
from stemwire.bridge.server.server import Server

BLOCK = np.zeros((2, 512), np.float32)


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def errors(server: Server, code: str) -> int:
    return server.counters.errors[code]


def resume(welcome: Welcome, position: int = 0, **changes: Any) -> Resume:
    fields = {"session": welcome.session, "key": welcome.key, "stream": 0, "position": position}
    return Resume(**{**fields, **changes})


async def stems(websocket: ClientConnection, end: int) -> Audio:
    """Stems received up to a position."""
    parts, position = [], -1
    while position < end:
        data = await websocket.recv()
        if isinstance(data, bytes):
            _, _, _, _, at, count, _ = HEADER.unpack_from(data)
            samples = np.frombuffer(data, np.float32, offset=HEADER.size)
            parts.append(samples.reshape(2, 2, count))
            position = at + count
    return np.concatenate(parts, 2)


def hold_open(server: Server) -> None:
    """Make closing the current connection slow, so that messages may still arrive on it."""

    async def close(*_: object) -> None:
        await asyncio.sleep(1)

    (connection,) = server._connections
    connection.websocket.close = close  # type: ignore[method-assign]


# --- connections that break at bad moments


def test_a_client_that_leaves_before_the_welcome_leaves_nothing_behind() -> None:
    async def work() -> None:
        async with Server(config()) as server:
            for pause in (0.0, 0.001, 0.003, 0.01):
                async with websocket_to(server) as websocket:
                    await websocket.send(encode(hello()))
                    await asyncio.sleep(pause)
                    websocket.transport.abort()
            await until(lambda: not server._connections)
            waiting = [
                session for session in server.sessions.values() if session.connection is None
            ]
            assert len(waiting) == len(server.sessions)  # for a while, if it has been welcomed
            before = server.counters.sessions_ended + len(server.sessions)
            assert before == 4
            assert server.counters.sessions_ended >= 1

    run(work())


def test_messages_of_a_replaced_connection_are_not_processed_twice() -> None:
    song = 0.3 * music(4 * 4096, RATE)
    first, second = song[:, :4096], song[:, 4096:8192]

    async def work() -> Audio:
        async with Server(config()) as server, websocket_to(server) as old:
            welcome = await request(old, hello())
            await old.send(frame(0, first))
            one = await stems(old, 4096)
            hold_open(server)
            async with websocket_to(server) as new:
                again = await request(new, hello(resume=resume(welcome, 4096)))
                assert again.position == 4096
                await old.send(frame(4096, second, 1))
                await asyncio.sleep(0.3)
                await new.send(frame(4096, second))
                await new.send(frame(8192, song[:, 8192:], 1))
                return np.concatenate((one, await stems(new, song.shape[1])), 2)

    np.testing.assert_array_equal(run(work()), offline(song)[..., : song.shape[1]])


@pytest.mark.parametrize("says_goodbye", [False, True])
def test_an_orderly_close_of_a_replaced_connection_ends_nothing(says_goodbye: bool) -> None:
    async def work() -> Any:
        async with Server(config()) as server, websocket_to(server) as old:
            welcome = await request(old, hello())
            hold_open(server)
            async with websocket_to(server) as new:
                await request(new, hello(resume=resume(welcome)))
                if says_goodbye:
                    await old.send(encode(Goodbye()))
                await old.close()
                await asyncio.sleep(0.1)
                await new.send(frame(0, BLOCK))
                return await stems(new, 512)

    assert run(work()).shape == (2, 2, 512)


def test_a_key_of_any_characters_is_wrong() -> None:
    async def work() -> tuple[str, int]:
        async with Server(config()) as server, websocket_to(server) as one:
            welcome = await request(one, hello())
            async with websocket_to(server) as other:
                wrong = resume(welcome, key="ключ" * 5)
                code = await error_code(other, hello(resume=wrong))
            await request(one, Control(id=3))
            return code, errors(server, "resume")

    assert run(work()) == ("resume", 1)


# --- what is too large, too many, or no websocket's


@pytest.mark.parametrize("samples", [1000, 50_000])
def test_a_message_beyond_the_limit_ends_its_session_and_is_counted(samples: int) -> None:
    async def work() -> tuple[int, int, Any]:
        async with Server(config(message_bytes=4096)) as server, websocket_to(server) as websocket:
            await request(websocket, hello())
            with contextlib.suppress(ConnectionClosed):
                await websocket.send(frame(0, np.zeros((2, samples), np.float32)))
            message = None
            with contextlib.suppress(ConnectionClosed):
                while True:
                    message = decode(await websocket.recv(), from_client=False)
            assert websocket.close_code == 1009 and websocket.close_reason
            await until(lambda: not server._connections)
            return len(server.sessions), errors(server, "too_large"), message

    sessions, counted, message = run(work())
    assert (sessions, counted) == (0, 1)
    assert samples > 10_000 or (isinstance(message, Error) and "4096" in message.text)


def test_invalid_websocket_bytes_end_their_session_and_are_counted() -> None:
    async def work() -> tuple[int, int, int | None]:
        async with Server(config()) as server, websocket_to(server) as websocket:
            await request(websocket, hello())
            websocket.transport.write(b"\xff" * 64)
            with contextlib.suppress(ConnectionClosed):
                await websocket.recv()
            await until(lambda: not server._connections)
            return len(server.sessions), errors(server, "malformed"), websocket.close_code

    assert run(work()) == (0, 1, 1002)


def test_simultaneous_clients_do_not_exceed_the_limit() -> None:
    async def work() -> list[Any]:
        async with Server(config(sessions=2)) as server, contextlib.AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(websocket_to(server)) for _ in range(8)]
            return list(await asyncio.gather(*(request(socket, hello()) for socket in sockets)))

    answers = run(work())
    assert sum(isinstance(answer, Welcome) for answer in answers) == 2
    assert {answer.code for answer in answers if isinstance(answer, Error)} == {"too_many"}


def test_silent_connections_do_not_use_up_file_descriptors() -> None:
    async def work() -> tuple[int, int]:
        async with Server(config(sessions=2)) as server, contextlib.AsyncExitStack() as stack:
            for _ in range(2 * 2 + 64):
                await stack.enter_async_context(websocket_to(server))
            with pytest.raises(InvalidStatus) as refused:
                await stack.enter_async_context(websocket_to(server))
            loop = asyncio.get_running_loop()
            health = await loop.run_in_executor(None, get, server, "/healthz")
            assert health[0] == 200
            return refused.value.response.status_code, errors(server, "too_many")

    assert run(work()) == (503, 1)


def test_a_silent_client_that_does_not_read_is_counted_once() -> None:
    async def work() -> tuple[int, int]:
        async with Server(config(idle=1.0)) as server, websocket_to(server) as websocket:
            await request(websocket, hello(stats=0.05))
            websocket.transport.pause_reading()
            await until(lambda: not server._connections)
            return errors(server, "too_slow"), len(server.sessions)

    assert run(work()) == (1, 1)  # the session waits for another connection


def test_a_block_too_large_for_a_message() -> None:
    async def work() -> list[Any]:
        async with Server(config(message_bytes=4096)) as server:
            async with websocket_to(server) as websocket:
                code = await error_code(websocket, hello(block=512))
            async with websocket_to(server) as websocket:
                return [code, await request(websocket, hello(block=256))]

    code, welcome = run(work())
    assert code == "config" and isinstance(welcome, Welcome)


# --- presets and effects


def test_presets_change_in_the_order_of_their_controls() -> None:
    song = 0.3 * music(5 * RATE, RATE)

    async def work() -> tuple[Audio, list[State]]:
        async with Server(config()) as server, websocket_to(server) as websocket:
            await request(websocket, hello(block=512))
            states: list[State] = []
            parts: list[Audio] = []
            at = position = sequence = 0
            while position < song.shape[1] // 512 * 512:
                if position == at and at + 512 <= song.shape[1]:
                    if at == 20_480:
                        for number, preset in enumerate(("low", "standard", "low"), 1):
                            await websocket.send(encode(Control(id=number, preset=preset)))
                        await websocket.send(encode(Control(id=4, vocals=-6.0)))
                        await websocket.send(encode(Control(id=5, preset="standard")))
                    await websocket.send(frame(at, song[:, at : at + 512], sequence))
                    at, sequence = at + 512, sequence + 1
                data = await websocket.recv()
                if isinstance(data, bytes):
                    count = HEADER.unpack_from(data)[5]
                    samples = np.frombuffer(data, np.float32, offset=HEADER.size)
                    parts.append(samples.reshape(2, 2, count))
                    position += count
                elif isinstance(message := decode(data, from_client=False), State):
                    states.append(message)
            return np.concatenate(parts, 2), states

    found, states = run(work())
    preset_states = [state for state in states if state.id in (1, 2, 3, 5)]
    assert [(state.id, state.preset) for state in preset_states] == [
        (1, "low"), (2, "standard"), (3, "low"), (5, "standard"),
    ]  # fmt: skip
    # The reported latencies hold for every sample: stems sum to the mixture delayed by them.
    ends = [*(state.position for state in preset_states), found.shape[2]]
    latency, begin = 512, 0
    for end, state in zip(ends, [*preset_states, None], strict=True):
        dry = np.pad(song, ((0, 0), (latency, 0)))
        late = begin + round(0.025 * RATE) if begin else 0
        np.testing.assert_allclose(found.sum(0)[:, late:end], dry[:, late:end], atol=1e-5)
        begin = end
        latency = state.latency if state is not None else 0
    for state in states:
        if state.id == 4:  # a level while presets load: names the preset at that position
            before = [each for each in preset_states if each.position <= state.position]
            assert state.preset == (before[-1].preset if before else "standard")


def test_too_many_presets_at_once() -> None:
    async def work() -> str:
        async with Server(config()) as server, websocket_to(server) as websocket:
            await request(websocket, hello())
            await websocket.send(frame(0, BLOCK))
            controls = [Control(preset=("low", "standard")[k % 2]) for k in range(200)]
            return await error_code(websocket, *controls)

    assert run(work()) == "too_fast"


def test_a_client_that_resumes_learns_where_another_preset_comes_in() -> None:
    song = 0.3 * music(3 * RATE, RATE)

    async def work() -> tuple[list[Any], State, Audio]:
        async with Server(config(ahead=5.0)) as server:
            async with websocket_to(server) as old:
                welcome = await request(old, hello(block=512))
                await old.send(frame(0, song[:, :10_240]))
                await stems(old, 10_240)
                await old.send(encode(Control(id=1, preset="low")))
                session = server.sessions[welcome.session]
                await until(lambda: len(session._stages) == 2)
                position = session._stages[1][0]
                old.transport.abort()
            async with websocket_to(server) as new:
                again = await request(new, hello(block=512, resume=resume(welcome, 10_240)))
                state = decode(await new.recv(), from_client=False)
                assert isinstance(state, State) and state.position == position
                end = song.shape[1] // 512 * 512
                await new.send(frame(10_240, song[:, 10_240:end]))
                return [welcome, again], state, await stems(new, end)

    (welcome, again), state, found = run(work())
    assert welcome.latency == again.latency == 512 and state.latency == 256
    at = state.position - 10_240
    dry = song[:, 10_240 - 512 :][:, :at]
    np.testing.assert_allclose(found.sum(0)[:, :at], dry, atol=1e-5)
    late = at + round(0.025 * RATE)
    dry = song[:, 10_240 - 256 :][:, late : found.shape[2]]
    np.testing.assert_allclose(found.sum(0)[:, late:], dry, atol=1e-5)


# --- what watches it


def test_counters_are_exact_and_health_reports_dead_workers() -> None:
    async def work() -> tuple[str, tuple[int, str, Any]]:
        async with Server(config()) as server:
            server.pool.scheduler.steps = 123_456_789
            loop = asyncio.get_running_loop()
            metrics = await loop.run_in_executor(None, get, server, "/metrics")
            server.pool.scheduler.close()
            return metrics[1], await loop.run_in_executor(None, get, server, "/healthz")

    metrics, health = run(work())
    assert 'stemwire_steps_total{worker="0"} 123456789\n' in metrics
    assert health[:2] == (503, "the worker threads have stopped\n")


def test_statistics_end_with_their_connection() -> None:
    async def work() -> int:
        async with Server(config()) as server:
            async with websocket_to(server) as websocket:
                await request(websocket, hello(stats=0.05))
                assert isinstance(decode(await websocket.recv(), from_client=False), Stats)
            await until(lambda: not server.sessions)
            await asyncio.sleep(0.2)
            return len(server._tasks)

    assert run(work()) == 1  # the one that looks for sessions to end


def test_sessions_of_vanished_clients_make_room() -> None:
    """Sessions of clients that vanished make room again."""

    async def work() -> None:
        async with Server(config(sessions=2, grace=0.1)) as server:
            for _ in range(6):
                async with websocket_to(server) as websocket:
                    await websocket.send(encode(hello()))
                    websocket.transport.abort()
                await until(lambda: not server._connections)
            await until(lambda: not server.sessions)
            async with await AsyncSeparator.open(f"ws://127.0.0.1:{server.port}") as separator:
                assert (await separator.push(BLOCK)).shape == (2, 2, 512)

    run(work())
