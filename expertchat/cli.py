"""One door: `expertchat COMMAND [overrides...]`. What it leads to stands in command/table.py, a file of doors/ each.

Nothing heavy is imported before the command line has been looked at, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from expertchat import __version__
from expertchat.command.table import COMMANDS
from expertchat.command.usage import help_text, usage
from expertchat.doors.entry import enter
from expertchat.doors.guard import complain


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _quick(arguments)
        return enter(arguments) if code is None else code
    except BrokenPipeError:  # the reader of our output has gone, as in `expertchat --help | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _quick(arguments: list[str]) -> int | None:
    """Answer what needs no config: help, version, a wrong command. None: go on."""
    command = arguments[0] if arguments else ""
    if "--version" in arguments:
        print(f"expertchat {__version__}", flush=True)
        return 0
    if command in ("--help", "-h", "help"):
        print(usage(), flush=True)
        return 0
    if command not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(command, COMMANDS, n=1)
        problem = f"there is no command '{command}'" + (f"; did you mean {close[0]}?" if close else "") if command else "name a command"
        complain([f"{problem} (expertchat --help shows the commands)"])
        return 2
    if COMMANDS[command].root is not None and ("--help" in arguments or "-h" in arguments):
        print(help_text(command), flush=True)
        return 0
    return None


if __name__ == "__main__":
    sys.exit(main())
