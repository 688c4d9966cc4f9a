"""What is wrong where a server does not answer as it should: one sentence, and whether it is worth another try."""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from expertchat.text.cleaning import clean
from expertchat.text.redaction import HIDDEN, hide

SHOWN = 240  # characters of what a server says
# What an account has no more of, and what is held against one text: both come with several status codes.
_USED_UP = re.compile(r"insufficient[_ ](?:quota|credit|balance|fund)|(?:credit|balance)s? (?:is|are) too low|\b(?:out of|no) credit", re.I)
_MODERATED = re.compile(r"moderat|flagged|guardrail|content (?:policy|filter)|safety", re.I)
_LENGTH = ("context", "length", "too long", "max_model_len", "tokens")
Kind = Literal["busy", "down", "odd", "refused", "denied"]
"""busy: 429; down: no connection, no answer in time, 5xx, a cut answer; odd: an answer of another shape; refused: this one request; denied:
whatever is asked (a wrong key, model or address)."""


@dataclass(frozen=True)
class Trouble:
    """`wait`: seconds after which the server wants to be asked again, where it says so. `gone`: there was no connection at all;
    `unknown`: there is no such model or address."""

    kind: Kind
    text: str
    wait: float | None = None
    gone: bool = False
    unknown: bool = False


class OddAnswer(ValueError):
    """An answer that is none: another shape, a page for people, a stream that ends in the middle."""


class Failed(Exception):
    """An error that came in the place of an answer, with status 200 or in the middle of a stream."""

    def __init__(self, error: Any) -> None:
        said = error.get("message") if isinstance(error, dict) else error
        super().__init__(said if isinstance(said, str) else json.dumps(error))
        code = error.get("code") or error.get("status") if isinstance(error, dict) else None
        number = int(str(code)) if str(code).isdecimal() else 0
        self.status = number if 400 <= number < 600 else None


class Refused(Exception):
    """A request that gets no answer; the others may."""


class Denied(Exception):
    """Nothing that is asked of this server gets an answer. `unknown`: it has no such model or address."""

    def __init__(self, text: str, unknown: bool = False) -> None:
        super().__init__(text)
        self.unknown = unknown


def trouble_of(error: BaseException, secret: str | None = None) -> Trouble:
    """What an error of the client means. `secret` is hidden in what is said of it. Raises the error again where it is no server's."""
    import openai

    if isinstance(error, Refused):
        return Trouble("refused", told(str(error), secret))
    if isinstance(error, OddAnswer):
        return Trouble("odd", told(str(error), secret))
    if isinstance(error, Failed):
        said = told(str(error), secret)
        return Trouble("odd", f"it answers with an error: {said}") if error.status is None else _of_status(error.status, said, {})
    if isinstance(error, openai.APIStatusError):
        said = told(message_of(error), secret)
        return _of_status(int(error.status_code), said, error.response.headers, str(getattr(error, "code", None)))
    if isinstance(error, asyncio.TimeoutError | TimeoutError | openai.APITimeoutError):
        return Trouble("down", "no whole answer in time")
    causes = list(_causes(error))
    if any(isinstance(one, ssl.SSLError) or "CERTIFICATE" in str(one) or "SSL" in str(one) for one in causes):
        return Trouble("denied", f"its certificate or its TLS is not in order ({told(str(causes[-1]), secret)})")
    if isinstance(error, openai.APIConnectionError) or type(causes[-1]).__module__.split(".")[0].startswith(("http", "h11", "anyio")):
        names = " ".join(type(one).__name__ for one in causes)
        cut = any(name in names for name in ("RemoteProtocol", "ReadError", "IncompleteRead", "WriteError", "Decoding"))
        return Trouble("down", "it cut its answer off" if cut else f"no connection ({_reason(causes)})", gone=not cut)
    if isinstance(error, OSError):
        return Trouble("down", f"no connection ({_reason(causes)})", gone=True)
    raise error


def _of_status(status: int, said: str, headers: Mapping[str, str], code: str = "") -> Trouble:
    words = f"{status}{f': {said}' if said else ''}"
    if status == 402 or (status in (400, 403, 429) and (code == "insufficient_quota" or _USED_UP.search(said))):
        if (wait := retry_after(headers)) is not None and status == 402:
            return Trouble("busy", words, wait)
        return Trouble("denied", f"its quota or credit is used up ({words})")
    if status == 429:
        return Trouble("busy", f"too many requests ({words})", retry_after(headers))
    if 300 <= status < 400:
        place = told(str(headers.get("location", "")))
        return Trouble("denied", f"it sends elsewhere ({status} to {place}), where no request and no key follows; name that address as url")
    if status == 403 and _MODERATED.search(said):
        return Trouble("refused", f"it keeps the answer back ({words})")
    if status in (401, 403):
        return Trouble("denied", f"it does not take the key ({words})")
    if status in (404, 405):
        return Trouble("denied", f"it knows no such model or address ({words})", unknown=True)
    if status in (408, 409, 425) or (status >= 500 and status != 501):
        return Trouble("down", words, retry_after(headers))
    return Trouble("refused", words)


def of_length(text: str) -> bool:
    """Whether a refusal speaks of how long a request is."""
    return any(word in text.lower() for word in _LENGTH)


def message_of(error: Any) -> str:
    """What the server said, in its own words: of JSON the message, of a page nothing but that it is one."""
    try:
        body: Any = json.loads(error.response.text)
    except Exception:  # a stream that was not read, a page
        kind = str(error.response.headers.get("content-type", ""))
        return "a page for people" if "html" in kind else ""
    inner = body.get("error", body) if isinstance(body, dict) else body
    found = inner.get("message") or inner.get("detail") if isinstance(inner, dict) else inner
    return found if isinstance(found, str) else json.dumps(found)[:SHOWN] if found else ""


def told(text: str, secret: str | None = None) -> str:
    """A server's words as they may be shown and kept: one line, no escapes, no key."""
    if secret:
        text = text.replace(secret, HIDDEN)
    line = " ".join(hide(clean(text)).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


def retry_after(headers: Any) -> float | None:
    """Seconds until the server wants to be asked again: a number, or a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        try:
            return max(0.0, float(value) / unit)
        except (TypeError, ValueError):
            if value and (date := email.utils.parsedate_tz(value)) is not None:
                return max(0.0, email.utils.mktime_tz(date) - time.time())
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came of."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _reason(causes: list[BaseException]) -> str:
    found = next((one for one in reversed(causes) if isinstance(one, OSError) and one.strerror), causes[-1])
    return str(getattr(found, "strerror", None) or str(found) or type(found).__name__)
