"""`expertchat submit COMMAND overrides...`: checks, writes the script and the frozen config into the run folder, submits, and returns."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from expertchat.command.check_models import device_problems
from expertchat.command.compose import load
from expertchat.command.frozen import freeze
from expertchat.command.launch import load_whole, without_secrets
from expertchat.command.overrides import mended
from expertchat.command.table import COMMANDS, find
from expertchat.config import ConfigError, near
from expertchat.folder.embedded import others
from expertchat.folder.reader import RunReader, read_config
from expertchat.folder.run import run_folder
from expertchat.folder.run_folder import differences_from_begun
from expertchat.folder.submission import read_submission
from expertchat.serving.config import ServeConfig
from expertchat.slurm.array import Array, overrides, parse, task_folder
from expertchat.slurm.beside import beside_problems, check_server, of_the_run, served_by
from expertchat.slurm.checks import check_all, duration
from expertchat.slurm.config import ClusterConfig
from expertchat.slurm.loads import devices_of
from expertchat.slurm.queue import states
from expertchat.slurm.sbatch import submit
from expertchat.slurm.submission import Wanted, book, write_submission

T = TypeVar("T")
Show = Callable[[dict[str, Any]], None]


def run_submit(arguments: Sequence[str], show: Show) -> int:
    """Check, write, submit, show the job. Returns 0; raises ConfigError with everything that is wrong."""
    arguments = without_secrets([mended(word) for word in arguments])
    options = parser().parse_intermixed_args(arguments)
    if options.multirun:
        raise ConfigError("submit takes one run: --array N spreads it; a sweep goes through `COMMAND -m hydra/launcher=submitit_slurm ...`")
    wanted = _wanted(options, ["expertchat", "submit", *arguments])
    _check(wanted, options.force)
    write_submission(wanted)
    job = None
    if not options.dry_run:
        job = submit(wanted)
        book(wanted, job)
    show(_told(wanted, job))
    return 0


def parser() -> argparse.ArgumentParser:
    """The flags of submit."""
    about = "Submit a run as a job that goes on by itself; prints its id and returns."
    usage = "expertchat submit COMMAND [KEY=VALUE ...] [--array N[%%M]] [--spread topics|seeds] [--after JOB] [--serve WORDS]"
    usage += " [--dry-run] [--force]"
    found = argparse.ArgumentParser("expertchat submit", usage=usage, description=about)
    found.add_argument("command", metavar="COMMAND", help=" or ".join(_jobs()))
    found.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the command's config, and cluster=NAME or cluster.KEY=VALUE")
    found.add_argument("--dry-run", action="store_true", help="only write the script and the config into the run folder")
    found.add_argument("--array", metavar="N[%M]", help="spread the run over N tasks, at most M at once".replace("%", "%%"))
    found.add_argument("--spread", choices=("topics", "seeds"), help="what the tasks share out (default: converse topics, else seeds)")
    found.add_argument("--after", metavar="JOB", help="begin when that job has ended well")
    found.add_argument("--serve", metavar="WORDS", help="a server in the same job, as told to expertchat serve: 'MODEL server.gpus=2'")
    found.add_argument("--force", action="store_true", help="submit in spite of doubts about memory and time")
    found.add_argument("-m", "--multirun", action="store_true", help=argparse.SUPPRESS)
    return found


def _jobs() -> list[str]:
    """The commands that may be submitted."""
    return [name for name, entry in COMMANDS.items() if entry.jobs]


# -- what is wanted -----------------------------------------------------------------------------------------------------


def _wanted(options: argparse.Namespace, command_line: list[str]) -> Wanted:
    """Everything typed and checked. Raises ConfigError with the problems of the command's config and of the cluster's."""
    command = options.command
    if command not in _jobs():
        raise ConfigError(f"submit {command}: cannot be submitted{near(command, _jobs()) or ';'} there are {', '.join(_jobs())}")
    ours = [word for word in options.overrides if word.lstrip("+~").startswith(("cluster=", "cluster."))]
    theirs = [word for word in options.overrides if word not in ours]
    if (place := COMMANDS[command].overrides) is not None:
        theirs = find(place)(theirs)
    problems: list[str] = []
    config = _tried(lambda: load_whole(command, [*theirs, "view=plain"], here=False), problems)
    cluster = _tried(lambda: load("submit", ours).cluster, problems)
    array = _tried(lambda: parse(options.array, options.spread, command) if options.array else None, problems)
    if options.spread and not options.array:
        problems.append("--spread needs --array N")
    if options.after is not None and not options.after.replace("_", "").isdigit():
        problems.append(f"--after {options.after}: is no job id; write the number that submit or sbatch printed")
    if config is None or cluster is None or problems:
        raise ConfigError(problems)
    folder = Path(os.path.abspath(run_folder(config.run.dir, command)))
    configs = _configs(command, config, theirs, folder, array)
    served = served_by(options.serve, folder) if options.serve is not None else None
    return Wanted(command, command_line, config, configs, cluster, folder, array, options.after, served)


def _tried(make: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return make()
    except ConfigError as error:
        problems += error.problems
        return None


def _configs(command: str, config: Any, theirs: list[str], folder: Path, array: Array | None) -> list[Any]:
    """The configs to freeze, with the folders that they run in."""
    if array is None:
        return [_in(config, folder)]
    tasks = range(array.tasks)
    return [_in(load(command, [*theirs, "view=plain", *overrides(array, n, config)]), task_folder(folder, n)) for n in tasks]


def _in(config: Any, folder: Path) -> Any:
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": str(folder)})})


# -- checks -------------------------------------------------------------------------------------------------------------


def _check(wanted: Wanted, force: bool) -> None:
    """Raise ConfigError for what would fail; fill `checked`."""
    problems = [*_folder_problems(wanted), *_launch_problems(wanted)]
    try:
        cluster = of_the_run(wanted.cluster, wanted.served)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    problems += _device_problems(wanted, cluster)
    share = 1 / wanted.array.tasks if wanted.array is not None and wanted.array.spread == "topics" else 1.0
    wanted.checked = check_all(wanted.command, wanted.config, cluster, wanted.ranks, wanted.folder.parent, share)
    if wanted.served is not None:
        problems += beside_problems(wanted.config, wanted.served, wanted.ranks, wanted.array)
        wanted.checked.add(check_server(wanted.served, wanted.cluster, beside=True))
    elif isinstance(wanted.config, ServeConfig):
        wanted.checked.add(check_server(wanted.config, wanted.cluster, beside=False))
    problems += wanted.checked.problems
    if force:
        wanted.checked.notes += [f"in spite of: {doubt}" for doubt in wanted.checked.doubts]
    else:
        problems += [f"{doubt} (--force submits all the same)" for doubt in wanted.checked.doubts]
    if problems:
        raise ConfigError(problems)


def _launch_problems(wanted: Wanted) -> list[str]:
    """Whether nodes and processes fit together."""
    cluster, train, problems = wanted.cluster, getattr(wanted.config, "train", None), list[str]()
    if cluster.scheduler == "local":
        if wanted.after:
            problems.append("--after needs Slurm; cluster.scheduler=local has no queue")
        if wanted.ranks > 1:
            problems.append("train.sharding=ddp|fsdp is started by srun, which cluster.scheduler=local has not; use torchrun by hand")
    if cluster.nodes > 1 and wanted.ranks == 1:
        problems.append(f"cluster.nodes={cluster.nodes}: one process runs on one node; set cluster.nodes=1, or train.sharding=ddp or fsdp")
    elif train is not None and train.sharding != "pipeline" and wanted.ranks == 1:
        problems.append(f"train.sharding={train.sharding} with one process: ask for GPUs (cluster.gpus) or set cluster.processes")
    return problems


def _device_problems(wanted: Wanted, cluster: ClusterConfig) -> list[str]:
    """Devices that the config names and the job will not have."""
    devices = devices_of(wanted.config)
    if wanted.cluster.scheduler == "local":
        return list(device_problems(devices))
    gpus, found = cluster.gpus, list[str]()
    for key, device in devices.items():
        number = 0 if device in ("cuda", "balanced") else int(device[5:]) if device.startswith("cuda:") else -1
        if number >= gpus:
            beside = f", {wanted.cluster.gpus - gpus} more are the server's" if wanted.served is not None else ""
            there = f"{gpus} GPUs (cluster.gpus={wanted.cluster.gpus}){beside}"
            found.append(f"{key}={device}: a node of the job has {there}; ask for more, or set {key}=auto")
    return found


def _folder_problems(wanted: Wanted) -> list[str]:
    """A folder may be new, or hold this very run: then it is submitted again and goes on."""
    folder, array = wanted.folder, wanted.array
    if re.search(r'["\\\x00-\x1f\x7f]', str(folder)):
        return [f"run.dir: {str(folder)!r} has a character that a job's script cannot hold (quote, backslash, end of line); name another"]
    if not folder.is_dir():  # new, or nothing that can be a run, which is told already
        return []
    run = RunReader(folder)
    if run.failure is not None:
        return [f"run.dir: {folder} is at its end, and failed ({run.failure}): name another folder for a new run"]
    if run.done or wanted.left() == []:
        return [f"run.dir: {folder} is done already: nothing is left to do"]
    if problem := others(folder):
        return [f"run.dir: {folder} {problem}"]
    before = read_submission(folder)
    if before is None:  # a run that was begun by hand goes on as a job, if it is the same
        strange = {path.name for path in folder.iterdir()}
        if strange and (array is not None or "config.yaml" not in strange):
            return [f"run.dir: {folder} is there already and no run was submitted in it; name a new folder"]
        return _differing(folder / "config.yaml", wanted.configs[0]) if strange else []
    alive = [job for job, seen in states([job for job, _ in before.jobs]).items() if seen.alive]
    if alive:
        return [f"run.dir: {folder} is submitted already: job {', '.join(alive)} waits or runs; follow it with `expertchat watch {folder}`"]
    if (before.tasks, before.spread) != ((array.tasks, array.spread) if array else (None, None)):
        was = f"with --array {before.tasks} --spread {before.spread}" if before.tasks else "without --array"
        return [f"run.dir: {folder} was submitted {was}: give the same --array and --spread, or name a new folder"]
    return [found for name, config in zip(wanted.names(), wanted.configs, strict=True) for found in _differing(wanted.place / name, config)]


def _differing(path: Path, config: Any) -> list[str]:
    """How the config of an earlier submission differs."""
    try:
        found = differences_from_begun(read_config(path, ""), yaml.safe_load(freeze(config)))
    except ConfigError:
        return []
    if not found:
        return []
    remedy = "give its values again or name another folder; these differ:"
    return [f"run.dir: {path.parent} holds a run of another config; {remedy}", *found]


# -- what is said -------------------------------------------------------------------------------------------------------


def _told(wanted: Wanted, job: str | None) -> dict[str, Any]:
    """What the view shows; without a job how to submit by hand."""
    cluster, array = wanted.cluster, wanted.array
    gpus = f"{cluster.gpus * cluster.nodes} x {cluster.gpu_type or 'GPU'}" if cluster.gpus else "no GPU"
    local = cluster.scheduler == "local"
    memory = cluster.memory if cluster.bytes else "all memory of a node"
    merges = array is not None and "experts" in type(wanted.config).model_fields  # dialogues, which can be put together
    start = "on this machine" if local else f"{duration(cluster.seconds)} a start, at most {cluster.requeues} requeues"
    about = [f"{wanted.command} with {gpus}, {cluster.cpus} cores, {memory}, {start}"]
    if array is not None:
        at_once = f", {array.at_once} at once at most" if array.at_once else ""
        about.append(f"{len(wanted.left() or [])} tasks over {array.spread}{at_once}")
    if wanted.ranks > 1:
        about.append(f"{wanted.ranks} processes")
    if wanted.served is not None:
        gpus_of_it = cluster.gpus - of_the_run(cluster, wanted.served).gpus
        about.append(f"beside it a server of {wanted.served.name} on {f'the last {gpus_of_it} GPUs' if gpus_of_it else 'the CPU'}")
    shown = Path(os.path.relpath(wanted.folder)) if wanted.folder.is_relative_to(Path.cwd()) else wanted.folder
    script = shown / wanted.place.name / wanted.script.name
    typed, again = shlex.quote(str(shown)), shlex.quote(str(script))  # as a shell takes them
    return {
        "job": job,
        "about": "; ".join(about),
        "run": str(shown),
        "script": str(script),
        "submit": None if job else f"{'bash' if local else 'sbatch'} {again}",
        "watch": f"expertchat watch {typed}" if job else None,
        "merge": f"expertchat merge_runs {typed} (when all tasks are done)" if merges else None,
        "notes": wanted.checked.notes,
    }
