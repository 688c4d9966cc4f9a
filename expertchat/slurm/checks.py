"""What can be known before a job waits for hours in a queue: models and wheels that are not there, memory, and time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expertchat.command.table import COMMANDS, find
from expertchat.command.work import Work
from expertchat.config import ConfigError, ModelConfig
from expertchat.folder.reader import RunReader
from expertchat.folder.summary import seconds_of
from expertchat.plan.memory import GIB
from expertchat.reward_models.config import RewardModelTraining
from expertchat.serving.config import ServeConfig
from expertchat.slurm.config import ClusterConfig
from expertchat.slurm.loads import models_of, named_by, pace_of

if TYPE_CHECKING:
    from expertchat.plan.planner import Plan


@dataclass
class Checked:
    """`problems` end the submission, `doubts` do so unless the user insists, `notes` are told; `stage`: archives to unpack on the node."""

    problems: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stage: list[str] = field(default_factory=list)
    plan: Plan | None = None  # of memory, on the GPUs that are asked for
    seconds: float | None = None  # of work, where an earlier run or the plan tells
    known: str | None = None  # how

    def add(self, other: Checked) -> None:
        """What was found of something else that runs in the same job."""
        self.problems += [problem for problem in other.problems if problem not in self.problems]
        self.doubts += other.doubts
        self.notes += other.notes
        self.stage += [name for name in other.stage if name not in self.stage]


def check_all(command: str, config: Any, cluster: ClusterConfig, ranks: int, runs: Path, share: float = 1.0) -> Checked:
    """Everything. `runs`: the folder where earlier runs show how fast it goes; `share`: of the work, for one task of an array."""
    checked = Checked()
    find_models(config, cluster, checked)
    _environment(cluster, checked)
    _gpu_memory(config, cluster, ranks, checked)
    _main_memory(command, config, cluster, ranks, checked)
    _time(command, config, cluster, runs, share, checked)
    return checked


# -- files --------------------------------------------------------------------------------------------------------------


def find_models(config: Any, cluster: ClusterConfig, checked: Checked) -> None:
    """Every model must be a whole folder that the node can see, or an archive that is unpacked there: nodes have no internet."""
    from expertchat.backends.folders import embedder_problem, find_folder, is_hub_id
    from expertchat.backends.reward_folders import any_reward_model_problem

    checks = {"embedder": embedder_problem, "reward_model": any_reward_model_problem}

    if cluster.archives and not Path(cluster.archives).expanduser().is_dir():
        checked.problems.append(f"cluster.archives={cluster.archives}: no such folder; correct it, or set it to null")
    for key, path, revision, models_dir, kind in named_by(config):
        name = path.rstrip("/").rpartition("/")[2]
        if is_hub_id(path) and cluster.archives and any(_archive(cluster.archives, name)):
            if name not in checked.stage:
                checked.stage.append(name)
                checked.problems += _archive_problems(cluster.archives, name)
            continue
        try:
            find_folder(path, revision, checks.get(kind), models_dir)
        except ConfigError as error:
            checked.problems += [_absent(key, path, models_dir, cluster, problem) for problem in error.problems]


def _absent(key: str, path: str, models_dir: str | None, cluster: ClusterConfig, problem: str) -> str:
    """What is wrong with a model, and how it gets to the nodes."""
    archives = f", or pack it into {cluster.archives} (jobs/pack_models.sh)" if cluster.archives else ""
    if "not in the cache" not in problem:  # it is there and not whole, or a folder
        short = problem.removeprefix(f"model path {path}: ").removeprefix(f"model folder {path}: ")
        return f"{key}={path}: {short}; the nodes have no internet: mend it here{archives}"
    looked = [f"in {models_dir}" if models_dir else "in a models_dir (EXPERTCHAT_MODELS, not set)", "in the hub's cache"]
    looked += [f"packed in {cluster.archives}"] if cluster.archives else []
    return (
        f"{key}={path}: is neither {' nor '.join(looked)}, and the nodes have no internet: get it here with `hf download {path}` "
        f"(`expertchat models` shows how), name its folder{archives}"
    )


def _archive(folder: str, name: str) -> list[Path]:
    return [place for end in (".tar", ".zip") if (place := Path(folder).expanduser() / f"{name}{end}").is_file()]


def _archive_problems(folder: str, name: str) -> list[str]:
    return [
        f"{place}: its checksum {place.name}.sha256 is not there; pack it again with jobs/pack_models.sh"
        for place in _archive(folder, name)[:1]
        if not place.with_name(f"{place.name}.sha256").is_file()
    ]


def _environment(cluster: ClusterConfig, checked: Checked) -> None:
    """The wheels or the environment that a job starts from."""
    if cluster.scheduler == "local":
        for key, there in (("wheelhouse", cluster.wheelhouse), ("archives", cluster.archives)):
            if there:
                why = "is unpacked on a node's own disk (SLURM_TMPDIR), which a job without Slurm has not"
                checked.problems.append(f"cluster.{key}={there}: {why}; set cluster.{key}=null")
    elif cluster.wheelhouse:
        place = Path(cluster.wheelhouse).expanduser()
        if not list(place.glob("expertchat-*.whl")):
            fill = f"fill it with `make wheelhouse WHEELHOUSE={place}`"
            checked.problems.append(f"cluster.wheelhouse={place}: holds no wheel of expertchat; {fill}")
    if cluster.venv and not (Path(cluster.venv).expanduser() / "bin" / "python").exists():
        checked.problems.append(f"cluster.venv={cluster.venv}: is no environment (it has no bin/python); correct it, or set it to null")


# -- memory -------------------------------------------------------------------------------------------------------------


def _gpu_memory(config: Any, cluster: ClusterConfig, ranks: int, checked: Checked) -> None:
    """The memory plan on the GPUs that are asked for."""
    from expertchat.plan.job import Gpu
    from expertchat.plan.planner import Trained, check

    real = any(named_by(config))
    if not cluster.gpus or cluster.gpu_gib is None:
        if real:
            checked.notes.append("no GPU is asked for, so the models run on the CPU (cluster.gpus, gpu_type and gpu_gib ask for some)")
        return
    train = getattr(config, "train", None)
    if train is not None and train.sharding == "fsdp":
        checked.notes.append("the memory plan was not checked: it does not count train.sharding=fsdp")
        return
    if isinstance(config, ServeConfig):  # expertchat.slurm.beside
        return
    if isinstance(config, RewardModelTraining):
        return _reward_model_memory(config, cluster, real, checked)
    if not hasattr(config, "experts") and (train is None or not isinstance(getattr(config, "model", None), ModelConfig)):
        return _gpu_weights(config, cluster, checked)
    from expertchat.training.room import plan_one, room_for

    trained: Sequence[Trained] = ()
    alone = not hasattr(config, "experts")
    if train is not None and not alone:
        trained = room_for(config)
    count = 1 if ranks > 1 else cluster.gpus
    kind = cluster.gpu_type or "GPU"
    try:
        gpus = [Gpu(int(cluster.gpu_gib * GIB), kind)] * count
        plan = plan_one(config, config.model, gpus) if alone else check(config, gpus, trained)
    except ConfigError as error:
        checked.doubts += [f"memory plan on {count} x {kind} of {cluster.gpu_gib:g} GiB: {problem}" for problem in error.problems]
        return
    checked.plan = plan
    if plan is not None and real:
        fullest = max(range(count), key=lambda i: plan.loads[i].need / plan.gpus[i].capacity)
        load, gpu = plan.loads[fullest], plan.gpus[fullest]
        checked.notes.append(
            f"memory plan: fits on {count} x {kind} of {cluster.gpu_gib:g} GiB; GPU {fullest} is the fullest, "
            f"{load.need / GIB:.1f} of {gpu.capacity / GIB:.1f} GiB"
        )


def _reward_model_memory(config: RewardModelTraining, cluster: ClusterConfig, real: bool, checked: Checked) -> None:
    """Of a reward model that is trained, all of which stands on one GPU; how long its rows are is known when it runs."""
    from expertchat.plan.job import Gpu
    from expertchat.reward_models.room import SHORT, fitting_tokens, room_problems

    assert cluster.gpu_gib is not None
    gpu, most = Gpu(int(cluster.gpu_gib * GIB)), config.train.max_tokens
    named = f"memory plan on one {cluster.gpu_type or 'GPU'} of {cluster.gpu_gib:g} GiB"
    checked.doubts += [f"{named}: {problem}" for problem in room_problems(config, most or SHORT, gpu)]
    fitting = fitting_tokens(config, gpu)
    if real and fitting is not None and fitting >= (most or SHORT):
        more = "" if most else f"; longer ones end the run before its first step, unless train.max_tokens={fitting} cuts them"
        checked.notes.append(f"{named}: rows of up to {fitting} tokens fit{more}")


def _gpu_weights(config: Any, cluster: ClusterConfig, checked: Checked) -> None:
    """Of a command without a memory plan: the weights alone, against the GPUs of a node."""
    assert cluster.gpu_gib is not None
    weights, there = sum(weights_of(config)), cluster.gpus * cluster.gpu_gib * GIB
    said = f"the weights take {weights / GIB:.1f} GiB, the GPUs of a node have {there / GIB:.0f}"
    if weights > there:
        checked.doubts.append(f"cluster.gpus={cluster.gpus}: {said}; ask for more or larger ones")
    elif weights:
        checked.notes.append(f"{said}; what else is needed on them was not planned")


def _main_memory(command: str, config: Any, cluster: ClusterConfig, ranks: int, checked: Checked) -> None:
    """The program itself, and on a node without GPUs the weights."""
    each = COMMANDS[command].gib * GIB
    if not cluster.gpus:
        each += sum(weights_of(config))
    need = each * max(1, ranks // cluster.nodes)
    if 0 < cluster.bytes < need:  # 0: all of a node's, as sbatch has it
        parted = f" in {ranks} processes" if ranks > 1 else ""
        checked.doubts.append(
            f"cluster.memory={cluster.memory}: {command} needs about {need / GIB:.1f} GiB of main memory{parted}, and the job would be "
            f"killed; ask for more: cluster.memory={int(need / GIB * 1.5) + 1}G"
        )


def weights_of(config: Any) -> Iterator[int]:
    """Bytes of the weight files of each model that is here."""
    from expertchat.backends.folders import resolve_path
    from expertchat.backends.loading import weight_files

    for one in named_by(config):
        with contextlib.suppress(ConfigError, OSError):
            place = resolve_path(one.path, one.models_dir)
            if isinstance(place, Path):
                yield sum(file.stat().st_size for file in weight_files(place))


# -- time ---------------------------------------------------------------------------------------------------------------


def _time(command: str, config: Any, cluster: ClusterConfig, runs: Path, share: float, checked: Checked) -> None:
    """The time limit against the signal before it, and against how fast the last run of such models was."""
    if cluster.scheduler == "slurm" and cluster.seconds <= cluster.signal_seconds + 15:
        checked.problems.append(
            f"cluster.time={cluster.time}: of {cluster.seconds} s nothing is left when the run is told to stop {cluster.signal_seconds} s "
            "before the end; ask for more time, or lower cluster.signal_seconds"
        )
        return
    if isinstance(config, ServeConfig):
        checked.notes.append(f"it serves until it is stopped (scancel), for {cluster.requeues + 1} starts at most, or as server.idle says")
        return
    found = work_of(command, config, cluster, runs, checked.plan)
    if found is None:
        checked.notes.append(f"how long it takes is not known: there is no earlier run of these models in {runs}")
        return
    checked.seconds, checked.known = found[0] * share, found[1]
    told = f"about {duration(checked.seconds)} of work {checked.known}"
    starts = cluster.requeues + 1
    usable = cluster.seconds - cluster.signal_seconds
    if cluster.scheduler == "local" or checked.seconds <= usable:
        checked.notes.append(told)
    elif checked.seconds <= usable * starts:
        times = int(checked.seconds // usable)
        checked.notes.append(f"{told}: more than one start of {duration(cluster.seconds)}, so it will be requeued about {times} times")
    else:
        checked.doubts.append(
            f"cluster.time={cluster.time}: {told}, but {starts} starts (cluster.requeues={cluster.requeues}) give "
            f"{duration(usable * starts)}; raise one of them"
        )


def work_of(command: str, config: Any, cluster: ClusterConfig, runs: Path, plan: Plan | None = None) -> tuple[float, str] | None:
    """Seconds of work and how they are known: by the speed of an earlier run in `runs`, else by arithmetic on the plan; None: not known."""
    pace = last_pace(runs, command, config)
    if pace is not None:
        seconds = pace.seconds * pace.work.wanted(config)
        return seconds, f"by the speed of {pace.run.name} ({pace.seconds:.2g} s {pace.work.unit}, on {pace.host})"
    if plan is None or not hasattr(config, "rounds") or not hasattr(config, "experts"):
        return None
    if any(model.url is not None for model in models_of(config).values()):
        return None  # how fast a server is stands in no plan
    from expertchat.plan.pace import seconds_of as by_plan

    planned = by_plan(config, plan, cluster.gpu_type)
    how = f"by the plan (every reply as long as it may be, weights read at a {cluster.gpu_type}'s speed)"
    return None if planned is None else (planned, how)


@dataclass(frozen=True)
class Pace:
    """How fast a run was: seconds for each unit of its work."""

    run: Path
    seconds: float
    work: Work
    host: str


def last_pace(runs: Path, command: str, config: Any) -> Pace | None:
    """That of the newest run of the same command and models which got anywhere; None where there is none."""
    place = COMMANDS[command].work
    if place is None:
        return None
    work: Work = find(place)
    wanted = pace_of(config.model_dump(mode="json"))
    folders = [*runs.glob("*/provenance.json"), *runs.glob("*/task-*/provenance.json")]
    for provenance in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        run = RunReader(provenance.parent)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ConfigError):
            if "merged" in run.provenance or run.kind != command or pace_of(run.config) != wanted:
                continue
            done = work.done(run)
            if done and (seconds := seconds_of(run.folder)) > 0:
                return Pace(run.folder, seconds / done, work, str(run.provenance.get("host", "an unknown machine")))
    return None


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
