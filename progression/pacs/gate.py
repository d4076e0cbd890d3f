"""The door: who calls is known, and what comes is measured, before any of it reaches the DICOM library.

The library reads a whole PDU of whatever length its header claims, shakes hands in its accept loop, and gives each
connection two threads that poll. So it gets no connection from outside: here one thread takes them all, reads the
association request, and hands on a local socket, through which it passes whole PDUs of lengths that may be.

    accepted -> TLS -> A-ASSOCIATE-RQ whole, of a known peer -> a place -> PDUs both ways
       '------ in REQUEST_S, with PENDING others ------'

(PDUs: PS3.8, 9.3.)
"""

import asyncio
import gc
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from threading import Thread
from time import monotonic
from typing import Any

from progression.pacs.peers import Peer
from progression.pacs.trouble import trouble

REQUEST_S = 10.0
"""From the connection to the whole association request, with TLS and the wait for a place."""
REQUEST_BYTES = 1 << 16
"""Largest association request; one of all 128 contexts that there can be takes about 20 kB."""
CONTEXTS = 128
PDU_BYTES = 1 << 16
"""Largest PDU of data, which is also what we tell the peer to keep to (PS3.8, D.1)."""
CONTROL_BYTES = 1 << 10
"""Largest PDU that is none of data; those of the standard hold 4 bytes."""
COMMAND_BYTES = 1 << 20
"""What a message may hold beside its object."""
PATIENCE_S = 60.0
RATE_BYTES_S = 1 << 14
"""A message has PATIENCE_S and a second for each so many bytes of it; and as long may a line rest between two."""
ANSWER_S = 600.0
"""Longest that we may take to answer a message."""
PENDING, PENDING_AN_ADDRESS = 512, 384
"""Connections without a request, each of a few kB; the oldest goes when another one comes. The DICOM library cannot
use file descriptors from 1024 on."""
GARBAGE = 64
"""Connections that may have ended before their memory is looked for; with TLS each may have half a megabyte."""
ASSOCIATIONS = 4
"""At once, and at least one more than there are peers; each may hold one object in memory."""
STALE_S = 5.0
"""After which an association that rests, or drips, has to leave its place to a peer that waits for one."""
TELL_S = 10.0
"""Between two lines of the same kind: a flood does not fill the log."""

_REQUEST, _REJECT, _DATA, _ABORT = 1, 3, 4, 7
_OF_AN_ASSOCIATION = (_DATA, 5, 6, _ABORT)
_CALLER_UNKNOWN, _CALLED_UNKNOWN, _NO_PLACE = (1, 1, 3), (1, 1, 7), (2, 3, 2)
"""Result, source and reason of a rejection (PS3.8, 9.3.4)."""
_FIXED_BYTES, _CONTEXT_ITEM = 68, 0x20
_BY_US = bytes((_ABORT, 0, 0, 0, 0, 4, 0, 0, 2, 0))
_CLOSING_S, _LAST_READS = 1.0, 16

Address = tuple[str, int] | tuple[str, int, int, int]
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Refused(Exception):
    """Something that no peer would send; says what, in words of ours."""


class _Phase(Enum):
    """Where a message is."""

    BETWEEN = "none is on its way"
    UNDERWAY = "a fragment of it has come"
    COMMANDED = "its command has come; an object may follow"
    WHOLE = "its object has come; an answer is due"


@dataclass(eq=False)
class _Association:
    """A peer's line that has a place; `since` our last answer `count` bytes came."""

    peer: Peer
    host: str
    task: "asyncio.Task[None]"
    since: float = field(default_factory=monotonic)
    count: int = 0
    phase: _Phase = _Phase.BETWEEN
    ended: str = ""

    def overdue(self) -> bool:
        """Whether its time is over."""
        allowed = ANSWER_S if self.phase is _Phase.WHOLE else PATIENCE_S + self.count / RATE_BYTES_S
        return monotonic() - self.since > allowed

    def stale(self) -> bool:
        """Whether it rests or drips."""
        waited = monotonic() - self.since
        return self.phase is not _Phase.WHOLE and waited > STALE_S and self.count < waited * RATE_BYTES_S

    def end(self, reason: str) -> None:
        """Close it."""
        self.ended = self.ended or reason
        self.task.cancel()

    def answered(self) -> None:
        """We have said something: what comes now is of the next message."""
        if self.phase is not _Phase.UNDERWAY:
            self.since, self.count, self.phase = monotonic(), 0, _Phase.BETWEEN

    def fragments(self, values: bytes) -> None:
        """Follow the message through the fragments that a PDU brings (PS3.8, E.2); one at a time, as was agreed."""
        at = 0
        while at < len(values):
            length = int.from_bytes(values[at : at + 4])
            if length < 2 or at + 4 + length > len(values):
                raise _Refused("sent damaged data")
            control, last = values[at + 5], bool(values[at + 5] & 2)
            if self.phase is _Phase.WHOLE or (self.phase is _Phase.COMMANDED and control & 1):
                raise _Refused("sent a message before the last one was answered")
            if control & 1:
                self.phase = _Phase.COMMANDED if last else _Phase.UNDERWAY
            else:
                self.phase = _Phase.WHOLE if last else _Phase.UNDERWAY
            at += 4 + length


class Gate:
    """Listens on a socket in a thread of its own, until `stop`.

    Parameters
    ----------
    listening : socket that is bound.
    title : AE title by which we are called.
    peers : that may call.
    tls : None for an open line.
    object_bytes : largest object of a message.
    hand_over : gets a local socket on which an association request of a known peer lies ready, and the peer's address.
    tell : gets a line for each thing that happens, of one kind at most one in `TELL_S`.
    """

    def __init__(
        self,
        listening: socket.socket,
        *,
        title: str,
        peers: Sequence[Peer],
        tls: ssl.SSLContext | None,
        object_bytes: int,
        hand_over: Callable[[socket.socket, Address], None],
        tell: Callable[[str], None],
    ) -> None:
        self._listening, self._title, self._peers, self._tls = listening, title, tuple(peers), tls
        self._message_bytes, self._hand_over, self._tell = object_bytes + COMMAND_BYTES, hand_over, tell
        self._places = max(ASSOCIATIONS, len(self._peers) + 1)
        self._pending_most = min(PENDING, _file_descriptors() // 2)
        self._pending: dict[asyncio.Task[None], str] = {}
        self._associations: set[_Association] = set()
        self._told: dict[str, tuple[float, int]] = {}
        self._done = 0
        listening.setblocking(False)
        listening.listen(PENDING)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._unexpected)
        self._main = self._loop.create_task(self._run())
        self._thread = Thread(target=self._work, name="gate", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close all connections and listen no more."""
        with suppress(RuntimeError):  # it has stopped
            self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(2 * _CLOSING_S)

    def _work(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._main)
        self._loop.close()

    async def _run(self) -> None:
        watching = asyncio.create_task(self._watch())
        try:
            while True:
                try:
                    await self._accept()
                except Exception as error:  # the next connection may be better
                    self._say(f"took no connection: unexpected {type(error).__name__}")
                    await asyncio.sleep(0.25)
        finally:
            tasks = [watching, *self._pending, *(one.task for one in self._associations)]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CLOSING_S)

    async def _watch(self) -> None:
        """End what takes too long."""
        while True:
            await asyncio.sleep(0.25)
            for association in tuple(self._associations):
                if association.overdue():
                    association.end("was too slow, or rested")

    async def _accept(self) -> None:
        try:
            line, address = await asyncio.get_running_loop().sock_accept(self._listening)
        except OSError as error:
            if reason := trouble(error):  # no file descriptor is left, as a rule
                self._say(f"took no connection: {reason}")
                self._leave(tuple(self._pending)[: len(self._pending) // 2 + 1])
                await asyncio.sleep(0.25)
            return
        host = str(address[0])
        if not any(peer.calls_from(host) for peer in self._peers):
            line.close()
            self._say("rejected a connection from {}, which is no peer's address", host)
            return
        same = [task for task, other in self._pending.items() if other == host]
        self._leave(same[: len(same) + 1 - PENDING_AN_ADDRESS] if len(same) >= PENDING_AN_ADDRESS else ())
        while len(self._pending) >= self._pending_most:
            ((most, _),) = Counter(self._pending.values()).most_common(1)
            self._leave([next(task for task, other in self._pending.items() if other == most)])
        task = asyncio.create_task(self._serve(line, address))
        self._pending[task] = host

        def done(task: "asyncio.Task[None]") -> None:
            self._pending.pop(task, None)
            self._associations -= {one for one in self._associations if one.task is task}
            line.close()  # even if it was cancelled before it began
            self._done += 1
            if self._done % GARBAGE == 0:  # the buffers of TLS hang in cycles
                gc.collect()

        task.add_done_callback(done)

    def _leave(self, tasks: Sequence["asyncio.Task[None]"]) -> None:
        for task in tasks:
            self._say(
                "closed a connection from {} that had sent no request, as others came",
                self._pending.pop(task),
            )
            task.cancel()

    async def _serve(self, line: socket.socket, address: Address) -> None:
        """A connection, from its acceptance to its end; whatever goes wrong with it is its own end alone."""
        host, outside = str(address[0]), None
        try:
            async with asyncio.timeout(REQUEST_S):
                outside = await self._opened(line)
                request = await _request(outside[0])
                association = await self._placed(request, host, outside[1])
            if association is not None:
                await self._associate(association, request, address, outside)
        except TimeoutError:
            self._say("closed a connection from {} that sent no request in time", host)
        except _Refused as error:
            self._say(f"closed a connection from {{}} that {error}", host)
        except (OSError, EOFError) as error:
            if isinstance(error, ssl.SSLError):
                self._say("closed a connection from {}, as TLS failed", host)
        except Exception as error:  # the others go on
            self._say(f"closed a connection from {{}} after an unexpected {type(error).__name__}", host)
        finally:
            if outside is not None:
                outside[1].transport.abort()

    async def _opened(self, line: socket.socket) -> _Streams:
        connect = self._loop.connect_accepted_socket
        if self._tls is None:
            return await _streams(line, connect)
        return await _streams(
            line,
            partial(connect, ssl=self._tls, ssl_handshake_timeout=REQUEST_S, ssl_shutdown_timeout=_CLOSING_S),
        )

    async def _placed(self, request: bytes, host: str, answer: asyncio.StreamWriter) -> _Association | None:
        """A place for who asks; None after a rejection."""
        called, calling = (request[at : at + 16].decode("ascii", "replace").strip() for at in (10, 26))
        peer = next((peer for peer in self._peers if peer.is_it(calling, host)), None)
        if peer is None or called != self._title:
            await _reject(answer, _CALLER_UNKNOWN if peer is None else _CALLED_UNKNOWN)
            self._say("rejected an association from {}", host)
            return None
        end = monotonic() + 1.5 * STALE_S
        while not self._is_room(peer, host):
            stale = [one for one in self._associations if one.stale()]
            if stale:
                oldest = min(stale, key=lambda one: (one.peer != peer, one.since))
                self._associations.discard(oldest)
                oldest.end("rested or dripped, as its place was needed")
            elif monotonic() > end:
                await _reject(answer, _NO_PLACE)
                self._say("rejected an association from {}, as all places are taken", host)
                return None
            else:
                await asyncio.sleep(0.05)
        task = asyncio.current_task()
        assert task is not None
        association = _Association(peer, host, task)
        self._associations.add(association)
        self._pending.pop(task, None)
        return association

    def _is_room(self, peer: Peer, host: str) -> bool:
        """Each peer has a place of its own; and of a network's addresses none takes them all."""
        at_work = {one.peer for one in self._associations}
        kept = sum(other not in at_work and other != peer for other in set(self._peers))
        if self._places - len(self._associations) <= kept:
            return False
        same = sum(one.host == host for one in self._associations)
        return peer.network.num_addresses == 1 or same < self._places - 1

    async def _associate(
        self,
        association: _Association,
        request: bytes,
        address: Address,
        outside: _Streams,
    ) -> None:
        """Pass PDUs on until either side closes."""
        ours, given = socket.socketpair()
        inside = None
        try:
            self._hand_over(given, address)
            inside = await _streams(ours, self._loop.connect_accepted_socket)
            inside[1].write(request)
            inward = asyncio.create_task(self._inward(association, outside[0], inside[1]))
            outward = asyncio.create_task(self._outward(association, inside[0], outside[1]))
            try:
                await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
            finally:
                inward.cancel()
                outward.cancel()
                results = await asyncio.gather(inward, outward, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result
            outside[1].close()  # what is left to send still goes
            with suppress(OSError):
                async with asyncio.timeout(_CLOSING_S):
                    await outside[1].wait_closed()
        except asyncio.CancelledError:
            if not association.ended:
                raise  # we stop
            await self._aborted(association.ended, association.host, outside)
        except _Refused as error:
            await self._aborted(str(error), association.host, outside)
        except RuntimeError:  # no thread is to be had
            await self._aborted("came when no thread was to be had", association.host, outside)
        finally:
            if inside is not None:
                inside[1].close()
            else:
                ours.close()
                given.close()

    async def _aborted(self, why: str, host: str, outside: _Streams) -> None:
        """Say so, and let the peer hear it: a little of what it still sends goes nowhere."""
        self._say(f"closed an association from {{}} that {why}", host)
        with suppress(OSError, RuntimeError):
            async with asyncio.timeout(_CLOSING_S):
                outside[1].write(_BY_US)
                for _ in range(_LAST_READS):
                    if not await outside[0].read(PDU_BYTES):
                        break

    async def _inward(
        self, association: _Association, outside: asyncio.StreamReader, inside: asyncio.StreamWriter
    ) -> None:
        while True:
            header = await outside.readexactly(6)
            kind, length = header[0], int.from_bytes(header[2:])
            if kind not in _OF_AN_ASSOCIATION or length > (PDU_BYTES if kind == _DATA else CONTROL_BYTES):
                raise _Refused("sent a PDU that is none, or over the limit")
            association.count += len(header) + length
            if association.count > self._message_bytes:
                raise _Refused("sent an object over the limit")
            body = await outside.readexactly(length)
            if kind == _DATA:
                association.fragments(body)
            inside.write(header + body)
            await inside.drain()

    async def _outward(
        self, association: _Association, inside: asyncio.StreamReader, outside: asyncio.StreamWriter
    ) -> None:
        while data := await inside.read(PDU_BYTES):
            association.answered()
            outside.write(data)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await outside.drain()
            except TimeoutError as error:
                raise _Refused("took no answer") from error

    def _say(self, what: str, host: str = "") -> None:
        """Tell at once what was not told for a while; else count it. The host takes the place of {}."""
        due, untold = self._told.get(what, (0.0, 0))
        if monotonic() < due:
            self._told[what] = due, untold + 1
            return
        self._told[what] = monotonic() + TELL_S, 0
        self._tell(what.format(host) + (f"; {untold} more since the last such line" if untold else ""))

    def _unexpected(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        kind = type(context.get("exception")).__name__
        self._say(f"a connection ended with an unexpected {kind}")


async def _request(outside: asyncio.StreamReader) -> bytes:
    """The association request, whole; nothing is read that could not be one."""
    header = await outside.readexactly(6)
    length = int.from_bytes(header[2:])
    if header[0] != _REQUEST or not _FIXED_BYTES <= length <= REQUEST_BYTES:
        raise _Refused("sent no association request, or one over the limit")
    body = await outside.readexactly(length)
    at, contexts = _FIXED_BYTES, 0
    while at < length:
        contexts += body[at] == _CONTEXT_ITEM
        at += 4 + int.from_bytes(body[at + 2 : at + 4])
    if at != length or contexts > CONTEXTS:
        raise _Refused("sent a damaged association request")
    return header + body


async def _streams(line: socket.socket, connect: Callable[..., Awaitable[tuple[Any, Any]]]) -> _Streams:
    """Reader and writer of a connected socket, by one of the loop's own functions."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(PDU_BYTES, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await connect(lambda: protocol, line)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _reject(answer: asyncio.StreamWriter, reason: tuple[int, int, int]) -> None:
    answer.write(bytes((_REJECT, 0, 0, 0, 0, 4, 0, *reason)))
    answer.close()
    with suppress(OSError):
        async with asyncio.timeout(_CLOSING_S):
            await answer.wait_closed()


def _file_descriptors() -> int:
    """Most that this process may have."""
    if sys.platform == "win32":
        return 2 * PENDING
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
