"""Plays a script to one connection with the faults of its timing, and tells the ledger how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.sandbox.faults import Faults
from services.sandbox.script import Event, Outcome, Script
from services.sandbox.store import Entry, Ledger

Sleep: TypeAlias = Callable[[float], Awaitable[None]]

_COMMENT: Final = b": ping\n\n"


class Delivery(Response):
    """The answer to one request; needs `hang_up` in the connection's state, which `server.Connection` puts there."""

    def __init__(self, script: Script, *, faults: Faults, ledger: Ledger, entry: Entry, sleep: Sleep) -> None:
        super().__init__(status_code=script.status)
        self._script = script
        self._faults = faults
        self._ledger = ledger
        self._entry = entry
        self._sleep = sleep
        self._ended = False
        self._events_sent = 0
        self._bytes_sent = 0
        self._tokens_sent = 0
        self._reasoning_sent = 0
        self._head_sent = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Play the script; the ledger has its end before the client can ask for it."""
        play = asyncio.create_task(self._play(send, hang_up=scope["state"]["hang_up"]))
        gone = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({play, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not play.done():
                await self._end("client_gone")
            elif play.result() == "cut":
                # uvicorn reports an answer without an end as a defect unless the connection is already closed.
                await gone
        except asyncio.CancelledError:
            await self._end("cut")
            raise
        finally:
            play.cancel()
            gone.cancel()
            await asyncio.gather(play, gone, return_exceptions=True)
            await self._end("error")

    async def _play(self, send: Send, *, hang_up: Callable[[], None]) -> Outcome:
        outcome = await self._send_all(send)
        if outcome == "cut":
            hang_up()
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        await self._end(outcome)
        return outcome

    async def _send_all(self, send: Send) -> Outcome:
        faults, script = self._faults, self._script
        await self._pause(faults.first_byte_delay_seconds)
        if faults.no_answer:
            return "cut"
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in script.headers]
        await send({"type": "http.response.start", "status": script.status, "headers": headers})
        self._count_head()
        if faults.cut_after_bytes == 0:
            return "cut"
        await self._pause(faults.first_event_delay_seconds)
        outcome: Outcome = "completed"
        for event in script.events:
            if self._events_sent:
                # A sleep of no time gives the event loop its turn, without which events would leave in one write.
                await self._sleep(faults.event_delay_seconds or 0.0)
            await self._stall()
            if not await self._send_event(send, event=event):
                return "cut"
            outcome = "error" if event.failed else outcome
        await self._stall()
        return outcome

    async def _send_event(self, send: Send, *, event: Event) -> bool:
        if self._faults.comments and self._script.streamed and not await self._write(send, data=_COMMENT):
            return False
        before = self._bytes_sent
        goes_on = await self._write(send, data=event.data)
        if self._bytes_sent == before + len(event.data):
            self._events_sent += 1
            if self._script.streamed:
                self._tokens_sent += event.tokens
                self._reasoning_sent += event.reasoning
        return goes_on

    async def _write(self, send: Send, *, data: bytes) -> bool:
        cut = self._faults.cut_after_bytes
        room = len(data) if cut is None else min(len(data), cut - self._bytes_sent)
        step = self._faults.write_bytes or max(room, 1)
        for start in range(0, room, step):
            if start:
                await self._sleep(0.0)
            piece = data[start : min(start + step, room)]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._bytes_sent += len(piece)
        return cut is None or self._bytes_sent < cut

    async def _stall(self) -> None:
        if self._events_sent == self._faults.stall_after_events:
            await self._pause(self._faults.stall)

    async def _pause(self, seconds: float) -> None:
        if seconds:
            await self._sleep(seconds)

    def _count_head(self) -> None:
        self._head_sent = True
        if not self._script.streamed:
            # An answer in JSON was generated as a whole before its first byte.
            self._tokens_sent = self._script.usage.completion
            self._reasoning_sent = self._script.usage.reasoning

    async def _end(self, outcome: Outcome) -> None:
        if self._ended:
            return
        self._ended = True
        usage = self._script.usage
        prompt = usage.prompt if self._head_sent else 0
        ended = msgspec.structs.replace(
            self._entry,
            outcome=outcome,
            status=self._script.status if self._head_sent else None,
            events_sent=self._events_sent,
            bytes_sent=self._bytes_sent,
            prompt_tokens=prompt,
            completion_tokens=self._tokens_sent,
            total_tokens=prompt + self._tokens_sent,
            cached_tokens=usage.cached if self._head_sent else 0,
            reasoning_tokens=self._reasoning_sent,
            pages=usage.pages if self._head_sent else 0,
        )
        await self._ledger.end(ended)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
