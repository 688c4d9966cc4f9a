"""The app in a browser, by textual-serve: each page that is opened starts the command again, in a process of its own.

What is typed in a page runs on this machine, so a page of another site must not reach it: whoever asks by another name than the server's
own (a name that was made to point here), or from a page of another origin, is refused. textual-serve checks neither.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.server import Server

LOCAL = ("localhost", "127.0.0.1", "::1")
# The page takes its font from another site, which would hear of every visitor; the same one lies here.
_FONT = re.compile(r'<link[^>]*href="https://fonts\.[^>]*>')
_OWN_FONT = '<style>@font-face {font-family: "Roboto Mono"; src: url("/static/fonts/RobotoMono-VariableFont_wght.ttf");}</style>'
# Keys go to the terminal once it is there, not only after a click.
_FOCUS = """<script>
const wait = setInterval(() => {
  const keys = document.querySelector(".xterm-helper-textarea");
  if (keys) { keys.focus(); if (document.body.classList.contains("-first-byte")) clearInterval(wait); }
}, 200);
</script></body>"""
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pages(Server):
    """Serves `command`, which must open the app. `say` hears where it is."""

    def __init__(self, command: str, host: str, port: int, title: str, say: Callable[[str], None]) -> None:
        super().__init__(f"exec {command}", host=host, port=port, title=title)  # no shell between: an app sees that its server is gone
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._say = say

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._own_pages_only)
        return app

    async def on_startup(self, app: web.Application) -> None:
        self._say(f"{self.address}   (Ctrl+C ends it)")

    def initialize_logging(self) -> None:
        logging.basicConfig(level="WARNING", format="%(message)s")

    @web.middleware
    async def _own_pages_only(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        here = urlsplit(f"//{request.host}")
        origin = request.headers.get("Origin")
        strange = self.host in LOCAL and here.hostname not in LOCAL
        if strange or (origin is not None and urlsplit(origin).netloc != request.host):
            raise web.HTTPForbidden(text="This page does not belong to the server that it asks.")
        if request.path == "/":
            self.public_url = f"{request.scheme}://{request.host}"  # as the browser calls it, be it through a tunnel
        found = await handler(request)
        if request.path == "/" and isinstance(found, web.Response) and found.text:
            found.text = _FONT.sub(_OWN_FONT, found.text).replace("</body>", _FOCUS)
        return found
