"""Virtual time, and a loop on which a start of the daemon runs: plain asyncio, without threads, selectors or waiting.

What happens in the world (octets arrive, a file is dropped, an operator calls) is on the `Agenda`; what the daemon
waits for is on its own loop.  Time jumps to whichever comes first.  What is due at one time happens in the order in
which it was asked for, so a run depends on nothing but what is asked for.

A daemon is killed by `kill_at`: between two steps of its loop nothing more runs.  The world goes on.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol

from tests.simulation.facts import Broken

STORM = 400_000  # steps without a second passing
MOST_FINALLYS = 20  # in which one coroutine awaits something
_RESOLUTION = 1e-9
_NEVER = float("inf")


class Killed(Exception):
    """The daemon was killed: not by itself, and not told."""


class Agenda:
    """What will happen in the world, by time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = itertools.count()

    @property
    def next(self) -> float:
        """When the next thing happens."""
        return self._heap[0][0] if self._heap else _NEVER

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Do something then, or now if that is past."""
        heapq.heappush(self._heap, (max(when, self.now), next(self._number), call, arguments))

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Do something in a while."""
        self.at(self.now + seconds, call, *arguments)

    def run_due(self) -> None:
        """Do what is due now."""
        heap = self._heap
        while heap and heap[0][0] <= self.now:
            _, _, call, arguments = heapq.heappop(heap)
            call(*arguments)

    def run_until(self, when: float) -> None:
        """Let the world go on without a daemon."""
        while self.next <= when:
            self.now = max(self.now, self.next)
            self.run_due()
        self.now = max(self.now, when)


class Sockets(Protocol):
    """Where sockets lead: network.py."""

    async def dial(self, sock: Any, address: tuple[str, int]) -> None: ...

    def attach(self, sock: Any, protocol: asyncio.Protocol) -> asyncio.Transport: ...

    def watch(self, descriptor: int, call: Callable[[], None] | None) -> None: ...


class SimulatedLoop(asyncio.BaseEventLoop):
    """See the module.  `steps` counts what ran; the step with the number `kill_at` does not."""

    def __init__(self, agenda: Agenda, sockets: Sockets, kill_at: int | None = None) -> None:
        super().__init__()
        self.steps = 0
        self.kill_at = kill_at
        self.unhandled: list[str] = []
        self._agenda = agenda
        self._sockets = sockets
        self._second, self._second_began = -1, 0
        self.set_exception_handler(self._note)

    def time(self) -> float:
        """The world's time."""
        return self._agenda.now

    # what BaseEventLoop leaves to its children

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
        agenda = self._agenda
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            at = min(agenda.next, scheduled[0].when() if scheduled else _NEVER)
            if at == _NEVER:
                raise Broken("nothing will ever happen: the daemon waits without a timer")
            agenda.now = max(agenda.now, at)
        agenda.run_due()
        due = agenda.now + _RESOLUTION
        while scheduled and scheduled[0].when() <= due:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            self.steps += 1
            if self.steps == self.kill_at:
                raise Killed
            handle._run()
        self._look_for_storm()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers go when they come to the front, or all at once when there are many."""
        self._cancelled_timers = getattr(self, "_cancelled_timers", 0) + 1
        scheduled = self._scheduled  # type: ignore[attr-defined]
        if self._cancelled_timers > 100 and self._cancelled_timers * 2 > len(scheduled):
            kept = [each for each in scheduled if not each._cancelled]
            for each in scheduled:
                each._scheduled = not each._cancelled
            scheduled[:] = kept
            heapq.heapify(scheduled)
            self._cancelled_timers = 0

    def _write_to_self(self) -> None:
        """There is nobody to be woken."""

    def _look_for_storm(self) -> None:
        second = int(self._agenda.now)
        if second != self._second:
            self._second, self._second_began = second, self.steps
        elif self.steps - self._second_began > STORM:
            raise Broken(f"a storm: {STORM} steps, and the time is still {self._agenda.now:.3f}")

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.unhandled.append(f"{context.get('message')}: {context.get('exception')!r}")

    # threads and sockets

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call it in a step of its own: a kill may fall before it, and between it and whoever asked."""
        future = self.create_future()
        self.call_soon(_call, future, func, args)
        return future

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connect over the simulated network."""
        await self._sockets.dial(sock, address)

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], *args: Any, sock: Any = None, **kwargs: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Make a transport of a socket that is connected."""
        protocol = protocol_factory()
        transport = self._sockets.attach(sock, protocol)
        protocol.connection_made(transport)
        return transport, protocol

    async def start_tls(self, *args: Any, **kwargs: Any) -> asyncio.Transport | None:
        """No server here gets through a handshake."""
        await asyncio.sleep(0.05)
        raise ConnectionResetError("the handshake failed")

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """Call when there is something to read."""

        def call() -> None:
            self.call_soon(callback, *args)

        self._sockets.watch(fd, call)

    def remove_reader(self, fd: Any) -> bool:
        """Call no more."""
        self._sockets.watch(fd, None)
        return True

    # its death

    def abandon(self) -> None:
        """Drop all that ran, as a kill does.  Their `finally` runs, but whatever they hold is dead (start.py)."""
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        self.set_exception_handler(lambda loop, context: None)
        closed: set[asyncio.Task[Any]] = set()
        asyncio._set_running_loop(self)  # for tasks that are made in a `finally`; they are closed as well
        try:
            while tasks := asyncio.all_tasks(self) - closed:
                closed |= tasks
                for task in sorted(tasks, key=lambda task: (len(task.get_name()), task.get_name())):
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close(task.get_coro())
        finally:
            asyncio._set_running_loop(None)
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """What nobody iterates any more is dropped."""


def _call(future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = func(*args)
    except Exception as error:
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


def _close(coroutine: Any) -> None:
    """Let a coroutine end where it is, what it awaits before it; one that has not begun takes those with it that it was
    to await."""
    if inspect.iscoroutine(coroutine.cr_await):
        _close(coroutine.cr_await)
    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        for given in coroutine.cr_frame.f_locals.values():
            for each in given if isinstance(given, tuple) else (given,):
                if inspect.iscoroutine(each):
                    _close(each)
    for _ in range(MOST_FINALLYS):
        try:
            coroutine.close()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED:
            return  # else it awaited something in a `finally`: nobody is there any more


def run_on(loop: SimulatedLoop, story: Any) -> None:
    """Run a story to its end, or to the loop's death.

    Raises:
        Killed: by `kill_at`.
    """
    asyncio.set_event_loop(None)
    hooks = sys.get_asyncgen_hooks()
    try:
        loop.run_until_complete(story)
    finally:
        sys.set_asyncgen_hooks(*hooks)
