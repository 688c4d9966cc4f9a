"""One door: `expertchat COMMAND [overrides...]`. Hydra composes conf/, pydantic validates, a run starts.

Nothing heavy is imported before the command line has been looked at, so that `--help` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expertchat import __version__
from expertchat.command.usage import COMMANDS, HYDRA, USAGE, help_text

if TYPE_CHECKING:
    from expertchat.command.launch import Job
    from expertchat.talk.config import ConverseConfig

# Of several processes of torchrun or srun, the one that draws and speaks; a job's script has a SLURM_PROCID too, but is no step.
_FIRST = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0") if "SLURM_STEP_ID" in os.environ else "0") == "0"

ACTIONS = ("build", "check")
LONGEST = 4000  # characters of a problem that are shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    atexit.register(gc.freeze)  # else the end looks through every object that torch and its like have made: 1.4 s
    try:
        code = _quick(arguments)
        return _guarded(lambda: _start(arguments)) if code is None else code
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
        print(USAGE, flush=True)
        return 0
    if command not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(command, COMMANDS, n=1)
        problem = f"there is no command '{command}'" + (f"; did you mean {close[0]}?" if close else "") if command else "name a command"
        _complain([f"{problem} (expertchat --help shows the commands)"])
        return 2
    if command in (*HYDRA, "submit") and ("--help" in arguments or "-h" in arguments):
        print(help_text(command), flush=True)
        return 0
    return None


def _start(arguments: list[str]) -> int:
    command, rest = arguments[0], arguments[1:]
    # No telemetry, and no warning about threads from tokenizers; whoever sets these keeps their value.
    for name, value in {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that nothing here uses
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")  # of names that TRL and peft still use
    if command == "watch":
        return _watch(rest)
    if command == "arms":
        from expertchat.runs.arms import run_arms
        from expertchat.views.arms import markdown, print_arms

        return run_arms(rest, print_arms, markdown)
    if command == "runs":
        from expertchat.runs.listing import run_runs
        from expertchat.views.runs import print_runs

        return run_runs(rest, print_runs)
    if command == "merge_runs":
        from expertchat.runs.merge_runs import run_merge_runs
        from expertchat.views.merge_runs import print_merged_runs

        return run_merge_runs(rest, print_merged_runs)
    if command == "submit":
        return _submit(rest)
    from expertchat.command.launch import run

    if command == "world":
        action = _take_action(rest)
        return run(command, rest, lambda job: _guarded(lambda: _world(action, job)))
    if command == "plan":
        return run(command, rest, lambda job: _guarded(lambda: _plan(job)))
    if command == "models":
        return run(command, _verify(rest), lambda job: _guarded(lambda: _models(job)))
    if command == "bench":
        return run(command, rest, lambda job: _guarded(lambda: _bench(job)))
    if command == "online_dpo":
        return run(command, rest, lambda job: _guarded(lambda: _online_dpo(job)), _elsewhere, _show_arms)
    if command == "merge":
        return run(command, rest, lambda job: _guarded(lambda: _merge(job)))
    return run(command, rest, lambda job: _guarded(lambda: _converse(job)), _elsewhere)


def _submit(arguments: list[str]) -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"  # the nodes have no network either
    from expertchat.slurm.submit import run_submit
    from expertchat.views.submit import print_submitted

    return run_submit(arguments, print_submitted)


def _prepare(job: Job) -> None:
    """Say which job of a sweep begins; without a model of the hub, nothing asks the network."""
    if job.jobs > 1:
        from expertchat.text.redaction import hide_words

        _say(f"[{job.number + 1}/{job.jobs}] {' '.join(hide_words(job.overrides))}")
    if not job.hub:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _elsewhere(command: str, overrides: Sequence[str], launcher: str) -> tuple[list[Job], list[int]]:
    """Run a sweep with one of submitit's launchers."""
    from expertchat.cli import main  # by this name a job finds it, also where this module was started as a script
    from expertchat.slurm.sweep import launch

    return launch(main, _say, command, overrides, launcher)


def _show_arms(jobs: Sequence[Job]) -> None:
    """The runs of a sweep in one table, kept beside them as arms.md."""
    folders = [Path(job.config.run.dir).expanduser() for job in jobs if job.config.run.dir]
    folders = [folder for folder in folders if (folder / "config.yaml").is_file()]  # a job may have failed before it began
    if len(folders) > 1:
        from expertchat.runs.arms import run_arms
        from expertchat.views.arms import markdown, print_arms

        run_arms([*map(str, folders), "--out", str(Path(os.path.commonpath(folders)) / "arms.md")], print_arms, markdown)


def _merge(job: Job) -> int:
    _prepare(job)
    from expertchat.training.merge import run_merge
    from expertchat.views.merge import print_merged, print_step

    print_merged(run_merge(job.config, print_step))
    return 0


def _online_dpo(job: Job) -> int:
    _prepare(job)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from expertchat.training.ranks import own_gpu

    own_gpu()  # before anything below asks torch for GPUs
    from expertchat.training.online_dpo import run_online_dpo
    from expertchat.views.open import open_view

    view = open_view(job.config.view if _FIRST else "none", show_thinking=job.config.show_thinking)
    return run_online_dpo(job.config, ["expertchat", "online_dpo", *job.overrides], view)


def _converse(job: Job) -> int:
    _prepare(job)
    from expertchat.talk.converse import run_converse
    from expertchat.views.open import open_view

    config: ConverseConfig = job.config
    return run_converse(config, ["expertchat", "converse", *job.overrides], open_view(config.view, show_thinking=config.show_thinking))


def _bench(job: Job) -> int:
    if not job.hub:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from expertchat.bench.run import run_bench
    from expertchat.views.bench import BenchView

    view = BenchView()
    try:
        return run_bench(job.config, ["expertchat", "bench", *job.overrides], view)
    finally:
        view.close()


def _plan(job: Job) -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from expertchat.plan.run import run_plan
    from expertchat.views.plan import print_measured, print_plan

    return run_plan(job.config, print_plan, print_measured)


def _models(job: Job) -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from expertchat.plan.models import run_models
    from expertchat.views.models import print_models

    return run_models(job.config, print_models)


def _verify(rest: list[str]) -> list[str]:
    """`verify NAME ...` as overrides; other words stay as they are, for Hydra to refuse."""
    words = [word for word in rest if "=" not in word and not word.startswith("-")]
    if "verify" not in words[:1]:
        return rest
    names = ",".join(f"'{word}'" for word in words[1:])
    others = [word for word in rest if word not in words]
    return [*others, "verify=true", *([f"names=[{names}]"] if names else [])]


def _world(action: str | None, job: Job) -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if action == "build":
        from expertchat.folder.writing import saving
        from expertchat.world.recipe import MODELS, build

        with saving(job.config.out or MODELS):
            build(job.config, partial(print, flush=True))
        return 0
    from expertchat.views.tables import print_check
    from expertchat.world.check import check

    rows = check(job.config)
    print_check(rows)
    return 0 if all(row.met is not False for row in rows) else 1


def _take_action(rest: list[str]) -> str | None:
    """Remove and return build or check; flags that only show something need none."""
    from expertchat.config import ConfigError, near

    words = [word for word in rest if "=" not in word and not word.startswith("-")]
    action = next((word for word in words if word in ACTIONS), None)
    if action is not None:
        rest.remove(action)
    elif not any(word.startswith(("--cfg", "-c", "--info", "-i", "--hydra-help")) for word in rest):
        said = f"'{words[0]}' is neither{near(words[0], ACTIONS)}" if words else "it says neither"
        raise ConfigError(f"world wants build or check, and {said} (expertchat world --help)")
    return action


def _watch(arguments: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser("expertchat watch", description="Follow a running run live, or replay a finished one.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("--speed", type=_positive, metavar="X", help="replay from the beginning, X times as fast as it was")
    parser.add_argument("--conversation", metavar="ID", help="show this conversation, e.g. c0001")
    parser.add_argument("--view", choices=("live", "plain"), default="live", help="drawn, or plain lines (default: live)")
    parser.add_argument("--thinking", action="store_true", help="show what the experts thought, not only how many words")
    parser.add_argument("--once", action="store_true", help="show what there is and leave, though the run goes on")
    options = parser.parse_args(arguments)
    from expertchat.views.watch import watch

    def queue(jobs: Sequence[str]) -> Any:
        from expertchat.slurm.queue import states

        return states(jobs)

    return watch(options.run, options.speed, options.conversation, options.view, not options.once, queue, options.thinking)


def _positive(text: str) -> float:
    import argparse

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, but is '{text}'")
    return value


def _guarded(run: Callable[[], Any]) -> int:
    """The exit code of `run`; wrong config or input becomes one message, not a traceback."""
    from expertchat.config import ConfigError
    from expertchat.folder.writing import WriteError

    try:
        return int(run())
    except ConfigError as error:
        _complain(error.problems)
        return 2
    except WriteError as error:
        _complain([str(error)])
        return 1
    except KeyboardInterrupt:
        return 3
    except SystemExit as error:  # argparse, and a stopped sweep
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BrokenPipeError:
        raise
    except Exception:
        import traceback

        _say(traceback.format_exc().rstrip("\n"))
        return 1


def _complain(problems: list[str]) -> None:
    if not _FIRST:  # of several processes, one speaks
        return
    lines = [problem if len(problem) <= LONGEST else f"{problem[:LONGEST]}... ({len(problem):,} characters)" for problem in problems]
    text = lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} problems", *(f"  - {line}" for line in lines)])
    _say(f"expertchat: {text}")


def _say(text: object) -> None:
    """Tell the user, beside what a view draws: clean, for an error may quote what a file or a model holds, and without secrets."""
    from expertchat.text.redaction import hide
    from expertchat.text.sentences import clean

    print(clean(hide(str(text))), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
