"""A page for this machine's browser that says when it has changed. The only file that imports
aiohttp.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import web

from momentum_gpt.comparison.report.live import Follower
from momentum_gpt.core.errors import UserError

HOST = "127.0.0.1"
"""Other machines are not answered: a page shows names, paths and texts of whoever trains."""

READ_EVERY = 1.0
"""Seconds between two looks at the run folders."""

ALIVE_EVERY = 15.0
"""Seconds after which an open page is sent an empty line, by which both sides see who is gone."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(follower: Follower, port: int) -> None:
    """Serve the page until the process is stopped.

    Args:
        follower: of the runs.
        port: on this machine; 0 for any that is free.

    Raises:
        UserError: the port is taken.
    """
    asyncio.run(Server(follower).run(port))


class Server:
    """The page at /, and at /changes an event whenever it is another one.

    Args:
        follower: of the runs.
    """

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.version = 0
        self.changed = asyncio.Condition()
        self.busy = asyncio.Lock()
        self.page = ""
        self.page_version = -1

    async def run(self, port: int) -> None:
        """Serve until cancelled."""
        app = web.Application(middlewares=[refuse_other_names])
        app.router.add_get("/", self.answer_page)
        app.router.add_get("/changes", self.answer_changes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await start(runner, port)
            while True:
                await self.look()
                await asyncio.sleep(READ_EVERY)
        finally:
            await runner.cleanup()

    async def look(self) -> None:
        """Read what is new, and wake up the pages if there is anything."""
        async with self.busy:
            is_new = await asyncio.to_thread(self.follower.read)
        if is_new:
            async with self.changed:
                self.version += 1
                self.changed.notify_all()

    async def answer_page(self, request: web.Request) -> web.Response:
        """Answer with the page, made once for each version."""
        async with self.busy:
            if self.page_version != self.version:
                version = self.version
                self.page = await asyncio.to_thread(self.follower.page)
                self.page_version = version
        headers = {"Cache-Control": "no-store"}
        return web.Response(text=self.page, content_type="text/html", headers=headers)

    async def answer_changes(self, request: web.Request) -> web.StreamResponse:
        """Answer with server-sent events, each of them the number of a version."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        told = self.version
        with suppress(ConnectionResetError):  # the page was closed
            while True:
                told = await self._tell(response, told)
        return response

    async def _tell(self, response: web.StreamResponse, told: int) -> int:
        """Wait for another version than the one told, and send its number; return it."""
        try:
            async with asyncio.timeout(ALIVE_EVERY), self.changed:
                await self.changed.wait_for(lambda: self.version != told)
        except TimeoutError:
            await response.write(b":\n\n")
            return told
        version = self.version
        await response.write(f"data: {version}\n\n".encode())
        return version


@web.middleware
async def refuse_other_names(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer only to this machine's own names.

    A page of the web whose name was pointed at 127.0.0.1 could read the answers otherwise.
    """
    name = request.host.rpartition(":")[0] or request.host
    if name not in (HOST, "localhost"):
        raise web.HTTPForbidden(text=f"{request.host!r} is not this machine: use {HOST}")
    return await handler(request)


async def start(runner: web.AppRunner, port: int) -> None:
    """Begin to listen, and print the address."""
    try:
        await web.TCPSite(runner, HOST, port).start()
    except OSError as error:
        raise UserError(
            f"port {port} cannot be used ({error.strerror}): choose another one with port=..., "
            "or any that is free with port=0"
        ) from None
    print(f"dashboard: http://{HOST}:{runner.addresses[0][1]}/ (Ctrl-C ends it)", flush=True)
