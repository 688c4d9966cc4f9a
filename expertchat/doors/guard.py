"""What goes wrong, told on stderr: wrong config or input as one message, a bug with its traceback. Nothing heavy is imported."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

# Of several processes of torchrun or srun, the one that draws and speaks; a job's script has a SLURM_PROCID too, but is no step.
FIRST = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0") if "SLURM_STEP_ID" in os.environ else "0") == "0"
_RIGHTS = "name another one, or ask its owner for the right to it"
CLOSED = {errno.EACCES: _RIGHTS, errno.EPERM: _RIGHTS, errno.ENAMETOOLONG: "shorten it", errno.ELOOP: "its links lead in a circle"}
LONGEST = 4000  # characters of a problem that are shown


def guarded(run: Callable[[], Any], words: Sequence[str] | None = None) -> int:
    """The exit code of `run`; wrong config or input becomes one message, not a traceback.

    `words`: of the command line, where it is that which is looked at: then a place that nobody may enter is wrong input, too.
    """
    from expertchat.config import ConfigError
    from expertchat.folder.writing import WriteError

    try:
        return int(run())
    except ConfigError as error:
        complain(error.problems)
        return 2
    except WriteError as error:
        complain([str(error)])
        return 1
    except KeyboardInterrupt:
        say("expertchat: stopped")
        return 3
    except SystemExit as error:  # argparse, and a stopped sweep
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BrokenPipeError:
        raise
    except Exception as error:
        if words is not None and (problems := _of_places(error, words)):
            complain(problems)
            return 2
        import traceback

        say(traceback.format_exc().rstrip("\n"))
        return 1


def _of_places(error: Exception, words: Sequence[str]) -> list[str]:
    """What is wrong with a place that somebody has named: its name is too long, it is closed to this user, ~NAME is nobody's home."""
    if isinstance(error, OSError) and error.filename and error.errno in CLOSED:
        return [f"{os.fsdecode(error.filename)}: cannot be used ({error.strerror}); {CLOSED[error.errno]}"]
    if not (isinstance(error, RuntimeError) and "home directory" in str(error)):
        return []
    words = [*words, *(f"{name}={value}" for name, value in os.environ.items() if name.startswith("EXPERTCHAT_"))]
    homes = [word for word in (word[word.find("=~") + 1 :] for word in words) if word.startswith("~") and os.path.expanduser(word) == word]
    return [f"{word}: this machine knows no home folder {word.partition('/')[0]}; write the whole path" for word in homes]


def complain(problems: Sequence[str]) -> None:
    """Tell everything that is wrong."""
    if not FIRST:  # of several processes, one speaks
        return
    lines = [problem if len(problem) <= LONGEST else f"{problem[:LONGEST]}... ({len(problem):,} characters)" for problem in problems]
    text = lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} problems", *(f"  - {line}" for line in lines)])
    say(_fitting(f"expertchat: {text}"))


def _fitting(text: str) -> str:
    """The text with no word broken at a terminal's edge, nor a command in backticks, which is copied; as it is where it goes to a file."""
    if not sys.stderr.isatty():
        return text
    import re
    import shutil
    import textwrap

    kept = "\N{NO-BREAK SPACE}"
    text = re.sub("`[^`]*`", lambda found: found[0].replace(" ", kept), text)

    width, lines = shutil.get_terminal_size().columns, list[str]()
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip(" -")) or 2)
        lines += textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]
    return "\n".join(lines).replace(kept, " ")


def say(text: object) -> None:
    """Tell the user, beside what a view draws: clean, for an error may quote what a file or a model holds, and without secrets."""
    from expertchat.text.redaction import hide
    from expertchat.text.sentences import clean

    print(clean(hide(str(text))), file=sys.stderr, flush=True)
