"""Keys, tokens and passwords: found by the name they are given, by the forms that services issue them in, and by the environment's values.

Run folders are kept, copied and shown. What could let somebody in is refused where it is given (`given_secrets`), and hidden wherever a
command line, a change of the code or a message is written (`hide`, `hide_words`).
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

HIDDEN = "[hidden]"
SHORTEST = 6  # characters of an environment's secret: shorter ones would be found in ordinary words
LONGER = 8  # and of one for which a word is refused, not only hidden
_HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET = {"secret", "secrets", "password", "passwd", "passphrase", "passwort", "pwd", "apikey", "credential", "credentials", "cookie",
           "authorization", "auth", "authtoken", "bearer", "pat"}  # fmt: skip
_OF_KEY = {"api", "access", "private", "secret", "auth", "signing", "encryption", "license", "ssh", "account", "service", "deploy",
           "openai", "anthropic", "wandb", "hf", "session", "storage", "shared"}  # fmt: skip
_OF_TOKENS = {"api", "access", "auth", "refresh", "secret", "bearer"}
# A name that ends so is about a secret and holds none: HF_TOKEN_PATH, SSH_AUTH_SOCK, token_count.
_ABOUT = {"path", "file", "dir", "folder", "name", "sock", "limit", "count", "type", "length", "size", "url", "id", "ids", "timeout", "env"}
# A token of a tokenizer.
_OF_MODELS = {"pad", "eos", "bos", "unk", "mask", "sep", "cls", "end", "stop", "image", "special", "per", "max", "new"}

# What services issue, by its own form. No part of these is a word of a language.
_FORMS = re.compile(
    r"""(?<![A-Za-z0-9_])(?:
      hf_[A-Za-z0-9]{16,} | api_org_[A-Za-z0-9]{16,}                         # Hugging Face
    | sk-(?:proj-|svcacct-|admin-|ant-[a-z0-9]+-|or-v1-|lf-)?[A-Za-z0-9_]{16,}[A-Za-z0-9_-]*  # OpenAI, Anthropic and others
    | [srp]k_(?:live|test)_[A-Za-z0-9]{16,}                                   # Stripe
    | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_[A-Za-z0-9_]{20,}              # GitHub
    | glpat-[A-Za-z0-9_-]{16,} | gldt-[A-Za-z0-9_-]{16,}                     # GitLab
    | (?:AKIA|ASIA|AGPA|AIDA|AROA|ABIA|ACCA)[A-Z0-9]{16}                     # AWS
    | AIza[A-Za-z0-9_-]{30,} | ya29\.[A-Za-z0-9_-]{20,}                      # Google
    | xox[abeoprs]-[A-Za-z0-9-]{10,} | xapp-[A-Za-z0-9-]{10,}                # Slack
    | pypi-[A-Za-z0-9_-]{16,} | npm_[A-Za-z0-9]{20,} | dckr_pat_[A-Za-z0-9_-]{16,}
    | gsk_[A-Za-z0-9]{20,} | r8_[A-Za-z0-9]{20,} | nvapi-[A-Za-z0-9_-]{20,} | co_[A-Za-z0-9]{32,} | tvly-[A-Za-z0-9]{16,}
    | eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}          # a JSON web token
    )""",
    re.VERBOSE,
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)", re.DOTALL)
# Of a header of HTTP; "basic" is a common word, and alone counts only before a login in base64 (_login).
_VALUE = r"(?:(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}|[\w.~+/=-]{24,}|[A-Za-z0-9+/]{6,}={1,2})"
_HEADER = re.compile(
    rf"((?:\bauthorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token|apikey|api-key)|\bbearer)\s+){_VALUE}", re.IGNORECASE
)
_LOGIN = re.compile(r"(\bbasic\s+)([A-Za-z0-9+/]{6,}={0,2})(?![\w+/=])", re.IGNORECASE)
_USER = re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/@:'\"]*:[^\s/@'\"]*|(?<=http://)[^\s/@'\"]+|(?<=https://)[^\s/@'\"]+)@", re.IGNORECASE)
_PAIR = re.compile(
    r"(?P<name>[A-Za-z][\w.-]*)(?P<mark>[\"']?\s*(?:=>|[=:])\s*)(?:\"(?P<double>[^\"\n]*)\"|'(?P<single>[^'\n]*)'|(?P<bare>[^\s\"',;&\])}]+))"
)
_ALONE = re.compile(r"[ \t]*(?:#|[\n,}\])\"']|$)")
_CODE = re.compile(r"[(\[{]|^(?:str|int|bool|bytes|float|None|True|False|null|none|true|false|Any|Optional|self|os)\b|^\$")


def is_secret_name(name: str) -> bool:
    """Whether what is called so is a secret: HF_TOKEN, openai.api_key, dbPassword; not max_tokens, pad_token or HF_TOKEN_PATH."""
    words = [word.lower() for word in _HUMP.findall(re.split(r"[.@/]", name)[-1])]
    if not words or words[-1] in _ABOUT:
        return False
    before = dict(zip(words[1:], words, strict=False))
    if _SECRET & set(words):
        return True
    if "token" in words:
        return before.get("token") not in _OF_MODELS
    return before.get("key") in _OF_KEY or before.get("keys") in _OF_KEY or before.get("tokens") in _OF_TOKENS


def hide(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` without the secrets in it: known forms, logins in addresses, values that are named as secrets, the environment's."""
    for value in _of_environment(environment):
        text = text.replace(value, HIDDEN)
    text = _PRIVATE_KEY.sub(HIDDEN, text)
    text = _USER.sub(lambda found: f"{found[1]}{HIDDEN}@", text)
    text = _HEADER.sub(lambda found: f"{found[1]}{HIDDEN}", text)
    text = _LOGIN.sub(_login, text)
    return _PAIR.sub(_pair, _FORMS.sub(HIDDEN, text))


def hide_words(words: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """A command line without the secrets in it: KEY=VALUE and --key VALUE by their names as well, whatever the value looks like."""
    found: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        before = words[len(found) - 1] if found else ""
        if before.startswith("-") and "=" not in before and is_secret_name(before) and not word.startswith("-"):
            found.append(HIDDEN)
        elif equals and value and is_secret_name(name):
            found.append(f"{name}={HIDDEN}")
        else:
            found.append(hide(word, environment))
    return found


def hide_in(plain: Any, environment: Mapping[str, str] | None = None) -> Any:
    """Plain values (of JSON, of YAML) without the secrets in them."""
    if isinstance(plain, str):
        return hide(plain, environment)
    if isinstance(plain, Mapping):
        return {
            key: HIDDEN if isinstance(value, str) and value and is_secret_name(str(key)) else hide_in(value, environment)
            for key, value in plain.items()
        }
    return [hide_in(one, environment) for one in plain] if isinstance(plain, list | tuple) else plain


def _login(found: re.Match[str]) -> str:
    """What stands behind "basic", hidden if it is USER:PASSWORD in base64."""
    try:
        said = base64.b64decode(found[2].rstrip("=") + "=" * (-len(found[2].rstrip("=")) % 4), validate=True).decode()
    except ValueError:
        return found[0]
    return f"{found[1]}{HIDDEN}" if ":" in said and said.isprintable() else found[0]


def _pair(found: re.Match[str]) -> str:
    quote = '"' if found["double"] is not None else "'" if found["single"] is not None else ""
    value = found["double"] or found["single"] or found["bare"] or ""
    if not value or HIDDEN in value or not is_secret_name(found["name"]):
        return found[0]
    if not _is_literal(found["name"], value, bool(quote), found["mark"]):
        return found[0]
    if not quote and ":" in found["mark"] and not _ALONE.match(found.string, found.end()):  # "password: why do people ..." is a sentence
        return found[0]
    return f"{found['name']}{found['mark']}{quote}{HIDDEN}{quote}"


def _is_literal(name: str, value: str, quoted: bool, mark: str) -> bool:
    """Whether a value that is called a secret may be one: not a type, a call or a name of the code."""
    if not quoted and _CODE.search(value):
        return False
    if name.isupper():  # a variable of the environment
        return True
    if "token" not in name.lower() and "auth" not in name.lower():
        return quoted or not ("." in value and value.replace(".", "").replace("_", "").isalpha()) or ("=" in mark and " " not in mark)
    return len(value) >= 8 and (any(c.isdigit() for c in value) or (quoted and " " not in value) or ("=" in mark and " " not in mark))


def _is_issued(name: str, value: str) -> bool:
    """Whether what is called a secret in the middle of a text looks like one: "auth=none" and "the secret=happiness" are words."""
    mixed = value != value.lower() and value[1:] != value[1:].lower()
    return name.isupper() or (len(value) >= SHORTEST and (mixed or any(c.isdigit() for c in value)))


# -- the environment --------------------------------------------------------------------------------------------------------


def _of_environment(environment: Mapping[str, str] | None) -> dict[str, str]:
    """The secrets of the environment, by their values, each with its variable's name; the longest first."""
    return _by_value(tuple((os.environ if environment is None else environment).items()))


@lru_cache(maxsize=8)
def _by_value(items: tuple[tuple[str, str], ...]) -> dict[str, str]:
    found = {value.strip(): name for name, value in items if is_secret_name(name) and _is_telling(value.strip())}
    return {value: found[value] for value in sorted(found, key=len, reverse=True)}


def _is_telling(value: str) -> bool:
    """Whether a variable's value can be hidden wherever it stands: not a switch, a number or a file's path."""
    return len(value) >= SHORTEST and not value.startswith(("/", "~", "./")) and value.lower() not in ("enabled", "disabled", "default")


# -- where they are given ---------------------------------------------------------------------------------------------------


def given_secrets(words: Iterable[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with the words of a command line that hold a secret; the secret itself is not repeated."""
    return [problem for word in words if (problem := _given(word, environment))]


def secret_values(plain: Any, environment: Mapping[str, str] | None = None, place: str = "") -> Iterator[str]:
    """The same of the plain values of a config, by their forms and the environment's values alone."""
    if isinstance(plain, Mapping):
        for key, value in plain.items():
            yield from secret_values(value, environment, f"{place}.{key}".lstrip("."))
    elif isinstance(plain, list | tuple):
        for one in plain:
            yield from secret_values(one, environment, place)
    elif isinstance(plain, str) and (how := _holds(plain, environment)):
        yield _refusal(place, how)


def _given(word: str, environment: Mapping[str, str] | None) -> str | None:
    name, equals, value = word.partition("=")
    if equals and value and " " not in name and is_secret_name(name):
        return _refusal(name.lstrip("+~"), "is called a secret")
    how = _holds(word, environment)
    return _refusal(hide(name.lstrip("+~"), environment) if equals else HIDDEN, how) if how else None


def _holds(text: str, environment: Mapping[str, str] | None) -> str | None:
    """How a text holds a secret; None: it holds none that is known."""
    if _FORMS.search(text) or "PRIVATE KEY-----" in text:
        return "holds a key or token"
    if _USER.search(text):
        return "holds a login (USER:PASSWORD@HOST)"
    given = re.finditer(r"([A-Za-z]\w*)=(?=([^\s,\"'\]]+))", text)  # a value may itself hold one: "x=[token=...]"
    if any(is_secret_name(found[1]) and _is_issued(found[1], found[2]) for found in given):
        return "gives a secret a value"
    names = [name for value, name in _of_environment(environment).items() if len(value) >= LONGER and value in text]
    return f"holds the value of {names[0]}" if names else None


def _refusal(name: str, how: str) -> str:
    return (
        f"{name}: {how}, and command lines and configs are kept in run folders, and shown to every user of this machine; leave it out: "
        "export it in the shell (HF_TOKEN=..., or `hf auth login`), which a run and its jobs inherit"
    )
