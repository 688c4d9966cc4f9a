"""Requests to a server, or to several that serve the same: as many at once as they bear, each tried until it is answered or hopeless.

One thread of the process holds the event loop of all servers. Keys come from the environment, go nowhere but into the header of a request
to the address that the config names, and are hidden in whatever comes back. No redirect is followed.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from expertchat.backends.served.address import is_folder, urls_of, wait_for_urls
from expertchat.backends.served.config import ServerConfig
from expertchat.backends.served.level import MOST, Gate, Level, Turns
from expertchat.backends.served.pieces import Pieces, events
from expertchat.backends.served.terms import Terms
from expertchat.backends.served.trouble import Denied, Failed, OddAnswer, Refused, Trouble, of_length, trouble_of
from expertchat.config import ConfigError
from expertchat.folder.run import Halted
from expertchat.text.redaction import HIDDEN

T = TypeVar("T")
ODD_TRIES = 3  # of a request that is answered with something of another shape
LEFT_OUT = 60.0  # seconds for which one of several servers is asked nothing after its connection was lost
PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before the second try, doubled with each
CONNECT = 10.0
KEY = 16  # characters of a key that is looked for in what a model says: a shorter one ("none", "test") may be a word of it
IN_A_ROW = 20  # refusals with no answer between them, after which it is not these requests that are wrong


class Bounds(NamedTuple):
    """How often and for how many seconds a request is tried."""

    tries: int
    seconds: float


class Answered(NamedTuple, Generic[T]):
    """What was read from an answer, the requests and seconds that it took, and whose it was."""

    value: T
    tries: int
    seconds: float
    server: str


@dataclass(eq=False)
class Address:
    """One server of those that serve the same."""

    url: str
    openai: Any
    out: int = 0
    back: float = 0.0  # when it may be asked again

    @property
    def root(self) -> str:
        """Where a server has what is none of OpenAI's."""
        return self.url.removesuffix("/v1")


class Client:
    """What several models behind one address share.

    `urls`: addresses, or folders of servers (see address.py), which are waited for. Raises ConfigError where none comes.
    """

    def __init__(self, urls: Sequence[str], secret: str | None, terms: Terms) -> None:
        self.terms, self.settings = terms, terms.settings
        self.secret, self.words = secret, list(urls)
        self.addresses = [self._at(url) for url in wait_for_urls(urls, self.settings.wait)]
        self.gate = Gate(Level(self.settings.concurrency or MOST))
        self.turns: Turns | None = None  # of its models, where those may not be asked at once
        self.sent = self.refused = self._in_a_row = 0
        self.leaving = False  # nothing more is to be sent
        self.wake = threading.Event()  # set when any answer of its models is there
        self._said: set[str] = set()
        self._headers = _headers(self.secret)

    @property
    def name(self) -> str:
        return self.addresses[0].url.partition("://")[2]

    def _at(self, url: str) -> Address:
        return Address(url.rstrip("/"), _openai(url, self.secret, self.settings))

    def _look_again(self) -> None:
        """Servers of a folder may stand elsewhere by now: one that was requeued, or more tasks of an array."""
        known = {one.url: one for one in self.addresses}
        found = urls_of(self.words) if any(map(is_folder, self.words)) else []
        if found and set(found) != set(known):
            self.addresses = [known.get(url) or self._at(url) for url in found]
            self.terms.say(f"the servers of {', '.join(self.words)} stand at {', '.join(found)} now")

    async def ask(
        self,
        route: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        on_text: Callable[[str], None] | None = None,
        bounds: Bounds | None = None,
    ) -> Answered[T]:
        """What `read` makes of the answer to one request; whatever it raises means that it has another shape. Without a `body` it is a GET.

        `bounds`: of the tries, in the place of the config's; what is beyond them is refused. Raises Refused where this one gets no answer,
        Halted where the run has to stop, and Denied where nothing gets any.
        """
        began, tries, failed = time.monotonic(), 0, 0  # a lost connection and "too many" are no failures of this request
        while True:
            turns = await self._turn(str(body.get("model")))
            address = self._free()
            address.out += 1
            tries += 1
            try:
                self._stay()
                self._spend()
                found = await asyncio.wait_for(self._send(address, route, body, on_text), self.settings.timeout)
                value = _read(read, found)
            except (Halted, asyncio.CancelledError):
                raise
            except Exception as error:
                trouble = trouble_of(error, self.secret)
                failed += trouble.kind == "odd" or (trouble.kind == "down" and not trouble.gone)
            else:
                self.gate.level.answered(self.gate.out)
                self._in_a_row = 0
                return Answered(value, tries, time.monotonic() - began, address.url)
            finally:
                address.out -= 1
                self.gate.leave()
                if turns is not None:
                    turns.leave()
            await self._pause(self._after(trouble, address, (tries, failed), time.monotonic() - began, bounds))

    async def _turn(self, model: str) -> Turns | None:
        """Wait until one more may be sent, to this model."""
        turns = self.turns
        if turns is not None:
            await turns.enter(model)
        try:
            await self.gate.enter()
        except asyncio.CancelledError:
            if turns is not None:
                turns.leave()
            raise
        return turns

    async def tell(self, route: str, body: Mapping[str, Any]) -> None:
        """Send something that nothing is read from to every address. Raises Refused or Denied."""
        for address in self.addresses:
            for tries in range(1, ODD_TRIES + 1):
                try:
                    await asyncio.wait_for(self._sent(address, route, body), self.settings.timeout)
                    break
                except Exception as error:
                    trouble = trouble_of(error, self.secret)
                    if trouble.kind == "denied":
                        raise Denied(f"server {address.url}: {trouble.text}", trouble.unknown) from None
                    if trouble.kind == "refused" or tries == ODD_TRIES:
                        raise Refused(f"server {address.url}: {trouble.text}") from None
                await asyncio.sleep(PAUSE)

    def _after(self, trouble: Trouble, address: Address, counts: tuple[int, int], seconds: float, bounds: Bounds | None) -> float:
        """Seconds until the next try; `counts`: the tries, and those that failed. Raises what ends the request."""
        tries, failed = counts
        said = f"server {address.url}: {trouble.text}"
        if trouble.kind == "denied":
            raise Denied(said, trouble.unknown)
        if trouble.kind == "refused" or (trouble.kind == "odd" and failed >= ODD_TRIES):
            self._refuse(said, bounds is not None or of_length(said))
        if trouble.gone:
            self._look_again()
        others = [one for one in self.addresses if one is not address and one.back <= time.monotonic()]
        if trouble.kind == "down" and others:
            address.back = time.monotonic() + LEFT_OUT
            self._once(f"{said}: left out for {LEFT_OUT:.0f} s, the others go on")
            return 0.0
        most, patience = bounds or (self.settings.attempts, self.settings.patience)
        if trouble.kind == "busy":  # nobody waits longer than there is patience, nor do the others for this one
            self.gate.level.too_many(trouble.wait if (trouble.wait or 0.0) <= patience else None)
        pause = max(trouble.wait or 0.0, min(LONGEST_PAUSE, PAUSE * 2 ** (tries - 1)))
        often = trouble.kind == "down" and not trouble.gone and failed >= most
        if often or seconds + pause > patience:
            if bounds is not None:
                raise Denied(said) if trouble.gone else Refused(said)
            return self._give_up(f"{said}, {tries} times in {seconds:.0f} s")
        if bounds is None:
            self._once(f"{said}: tried again, for {patience:.0f} s at most")
        return pause

    async def _pause(self, seconds: float) -> None:
        """Wait before the next try, as long as anybody waits for it."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._stay()
            await asyncio.sleep(min(left, 0.1))

    def _stay(self) -> None:
        """Break off where the run ends: what is sent is still waited for, nothing more is sent."""
        if self.leaving:
            raise asyncio.CancelledError

    def _give_up(self, said: str) -> float:
        if self.settings.failing == "null":
            self._refuse(said, True)
        raise Halted(f"{said}; the same command goes on where this one stops (server.failing=null goes on without such answers)")

    def _refuse(self, said: str, alone: bool) -> NoReturn:
        """This request gets no answer. Where so many in a row get none, none will; but those that stand `alone` do not count."""
        self.refused += 1
        self._in_a_row += not alone
        if self._in_a_row >= IN_A_ROW and self.settings.failing != "null":
            raise Halted(f"{said}; and so for {self._in_a_row} requests in a row, with no answer between (server.failing=null goes on)")
        raise Refused(said)

    def _once(self, text: str) -> None:
        """Tell what is told once of a kind: numbers in it aside."""
        kind = "".join(letter for letter in text if not letter.isdigit())
        if kind not in self._said:
            self._said.add(kind)
            self.terms.say(text)

    def _spend(self) -> None:
        """Count a request that is about to be sent. Raises Halted where the budget has none left."""
        requests, cost = self.terms.ledger.spent
        if self.terms.before is None:
            self.terms.before = requests
        most, dearest = self.settings.max_requests, self.settings.max_cost
        if most is not None and self.terms.before + self.terms.sent >= most:
            raise Halted(f"server.max_requests={most} are sent; with more the same command goes on")
        if dearest is not None and cost >= dearest:
            raise Halted(f"server.max_cost={dearest:g} is spent ({cost:.4f}); with more the same command goes on")
        self.sent += 1
        self.terms.sent += 1

    def _free(self) -> Address:
        """The least loaded of the addresses that are there."""
        now = time.monotonic()
        return min(self.addresses, key=lambda one: (one.back > now, one.out))

    async def _send(self, address: Address, route: str, body: Mapping[str, Any], on_text: Callable[[str], None] | None) -> Any:
        if on_text is not None:
            return await self._streamed(address, body, on_text)
        return self._json(await self._sent(address, route, body))

    async def _sent(self, address: Address, route: str, body: Mapping[str, Any]) -> str:
        """What an address answers; a route that begins with ^ stands beside OpenAI's."""
        where, options = f"{address.root}{route[1:]}" if route.startswith("^/") else route, {"headers": self._headers}
        if not body:
            return str(await address.openai.get(where, cast_to=str, options=options))
        return str(await address.openai.post(where, cast_to=str, body=dict(body), options=options))

    async def _streamed(self, address: Address, body: Mapping[str, Any], on_text: Callable[[str], None]) -> Any:
        """A chat completion that comes in pieces, as one that came whole."""
        found = Pieces(on_text)
        create = address.openai.chat.completions.with_streaming_response.create
        named = {"model": body["model"], "messages": body["messages"], "extra_headers": self._headers}
        async with create(**named, extra_body={**body, "stream": True}) as answer:
            async for event in events(answer.iter_bytes()):
                _read(found.take, self._json(event))
        return found.whole()

    def _json(self, text: str) -> Any:
        if self.secret and len(self.secret) >= KEY:
            text = text.replace(self.secret, HIDDEN)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            what = "a page for people" if text.lstrip()[:1] == "<" else "no JSON" if text else "nothing"
            raise OddAnswer(f"it answers with {what}") from None
        if isinstance(found, dict) and found.get("error") and not found.get("choices"):
            raise Failed(found["error"])
        return found


def _read(read: Callable[[Any], T], found: Any) -> T:
    """Raises OddAnswer where an answer has not what is read."""
    try:
        return read(found)
    except (Failed, OddAnswer, Refused):
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise OddAnswer(f"it answers in another shape ({type(error).__name__}: {error})") from None


# -- the loop ---------------------------------------------------------------------------------------------------------------

_loop: tuple[int, asyncio.AbstractEventLoop] | None = None
_starting = threading.Lock()


def loop() -> asyncio.AbstractEventLoop:
    """The event loop of all servers, in a thread of its own, which ends with the process; a child that was forked gets its own."""
    global _loop
    with _starting:
        if _loop is None or _loop[0] != os.getpid():
            _loop = os.getpid(), asyncio.new_event_loop()
            threading.Thread(target=_loop[1].run_forever, name="servers", daemon=True).start()
        return _loop[1]


def start(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Begin `work` in the loop's thread."""
    return asyncio.run_coroutine_threadsafe(work, loop())


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Do `work` in the loop's thread, and wait for it here; what interrupts the waiting ends it."""
    future = start(work)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


# -- one for each address -----------------------------------------------------------------------------------------------------


def client_of(urls: Sequence[str], key_from: str | None, terms: Terms) -> Client:
    """The client for these addresses on these terms; models behind the same share it, and with it the level. Raises ConfigError."""
    name = (*urls, key_from)
    if name not in terms.clients:
        terms.clients[name] = Client(urls, secret_of(key_from), terms)
    return terms.clients[name]


def secret_of(key_from: str | None) -> str | None:
    """The key in an environment variable. Raises ConfigError where it is not set."""
    if key_from is None:
        return None
    found = os.environ.get(key_from, "").strip()
    if not found:
        raise ConfigError(f"key_from={key_from}: the environment variable is not set; export it")
    return found


def _openai(url: str, secret: str | None, settings: ServerConfig) -> Any:
    """OpenAI's client for one address."""
    import openai

    timeout = openai.Timeout(settings.timeout, connect=CONNECT)
    plain = openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=timeout, verify=_trusted())
    return openai.AsyncOpenAI(api_key=secret or "none", base_url=url, max_retries=0, timeout=timeout, http_client=plain)


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted; to read them takes 30 ms."""
    return ssl.create_default_context()


def _headers(secret: str | None) -> dict[str, Any]:
    """What the client finds in the environment for another server (organisation, project, key) is not sent."""
    import openai

    names = ["OpenAI-Organization", "OpenAI-Project", *([] if secret else ["Authorization"])]
    return {name: openai.Omit() for name in names}
