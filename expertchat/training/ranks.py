"""Several processes as one run: who this process is, and what all of them know together.

torchrun or srun starts the processes ("ranks"); each takes its share of the dialogues and of every batch, and rank 0 alone writes.
torch is imported only where there is more than this one process.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeVar

from expertchat.config import ConfigError

T = TypeVar("T")
WAIT_SECONDS = 1800.0  # for the slowest of the others; who takes longer is taken for lost
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
# What tells a library that it is one of several. The libraries below train one process's share and must not split it again.
LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
OWN = "EXPERTCHAT_OWN_GPU"  # set where CUDA_VISIBLE_DEVICES is this process's own already
_open: list[Ranks] = []  # a process joins once; the runs of a sweep share it


class RankLost(RuntimeError):
    """Another process ended or hangs, so this one cannot go on."""


class Launched(NamedTuple):
    """What the launcher says: this process's number, how many there are, and its number on this machine."""

    rank: int
    world: int
    local: int


class Ranks:
    """This process among all of a run. What is called here is called by all of them, in the same order; else they wait for each other.

    Objects travel over gloo, also beside GPUs; for another process's word this one waits `wait` at most.
    """

    def __init__(self, rank: int = 0, world: int = 1, wait: timedelta = timedelta(seconds=WAIT_SECONDS)) -> None:
        self.rank, self.world, self.wait = rank, world, wait
        self._group = self.channel() if world > 1 else None

    @classmethod
    def alone(cls) -> Ranks:
        """One process."""
        return cls()

    @classmethod
    def start(
        cls, sharding: Literal["pipeline", "ddp", "fsdp"], command_line: Sequence[str] = (), wait_seconds: float = WAIT_SECONDS
    ) -> Ranks:
        """Join the other processes, if there are any. Raises ConfigError where they do not fit `sharding`, with the right command line."""
        if _open:
            return _open[0] if sharding != "pipeline" else _only(_open[0].world, command_line)
        launched = find_launch(os.environ)
        if sharding == "pipeline":
            return cls.alone() if launched is None else _only(launched.world, command_line)
        if launched is None:
            raise ConfigError(
                f"train.sharding={sharding} runs in several processes, and this one is alone: set train.sharding=pipeline, start it with "
                f"srun in a Slurm job, or so: {launch_line(command_line)}"
            )
        own_gpu()
        wait = timedelta(seconds=wait_seconds)
        _join(launched, wait)
        ranks = cls(launched.rank, launched.world, wait)
        _check_gpus(ranks)
        _open.append(ranks)
        return ranks

    # -- what all know ----------------------------------------------------------------------------------------------

    def mine(self, items: Sequence[T]) -> list[T]:
        """This process's share of items that all have: every `world`-th."""
        return list(items[self.rank :: self.world])

    def gather(self, mine: Sequence[T]) -> list[T]:
        """The items of all processes in their own order: the inverse of `mine`."""
        if self.world == 1:
            return list(mine)
        parts: list[list[T]] = [[] for _ in range(self.world)]
        with self._together("gather what each has"):
            _dist().all_gather_object(parts, list(mine), group=self._group)
        count = sum(map(len, parts))
        return [parts[i % self.world][i // self.world] for i in range(count)]

    def same(self, value: T) -> T:
        """Rank 0's value."""
        if self.world == 1:
            return value
        box = [value]
        with self._together("hear from rank 0"):
            _dist().broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes so."""
        return any(self.gather([wish]))

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Each figure's mean over the processes, which all have the same names."""
        every = self.gather([dict(figures)])
        return {name: sum(one[name] for one in every) / len(every) for name in figures}

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            with self._together("meet"):
                pass

    @contextmanager
    def _together(self, what: str) -> Iterator[None]:
        """Meet, then do something that all do. Raises RankLost where one of them does not come."""
        try:
            _dist().monitored_barrier(self._group, self.wait, wait_all_ranks=True)  # its error says who is missing
            yield
        except RuntimeError as error:
            why = str(error).strip().splitlines()[0]
            raise RankLost(
                f"rank {self.rank} of {self.world} waited for the others to {what}, and one of them has ended or hangs ({why}); "
                "what that one wrote last says why. The run can go on from its last round"
            ) from None

    def channel(self) -> Any:
        """A gloo group of all processes; what is said in one is not mixed up with another's."""
        return _dist().new_group(backend="gloo", timeout=self.wait)

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait until all have come to their end: a launcher may stop the others when the first one ends."""
        self.barrier()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:  # else the others, who wait for this one, shall see it end
            self.close()


# -- how processes are started --------------------------------------------------------------------------------------------


def launch_line(command_line: Sequence[str], count: int | None = None) -> str:
    """The command line that starts `expertchat ARGUMENTS` as `count` processes (None: one for each GPU, 4 without any)."""
    if count is None:
        import torch

        count = torch.cuda.device_count() or 4
    return f"torchrun --standalone --nproc_per_node {count} -m expertchat.cli {shlex.join(command_line[1:]) or 'online_dpo ...'}"


def find_launch(environment: Mapping[str, str]) -> Launched | None:
    """What torchrun or srun says about this process; None if neither started it. Raises ConfigError where they say it wrongly."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_STEP_ID" in environment and all(name in environment for name in SLURM):  # a job script alone has no step
        names = SLURM
    else:
        return None
    try:
        rank, world, local = (int(environment.get(name, "0")) for name in names)
    except ValueError as error:
        raise ConfigError(f"the launcher's variables {', '.join(names)} are no whole numbers ({error}); use torchrun or srun") from None
    if not 0 <= rank < world:
        raise ConfigError(f"{names[0]}={rank} is no process of {names[1]}={world}; use torchrun or srun")
    lacking = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if lacking and world > 1:
        raise ConfigError(
            f"{' and '.join(lacking)} not set, where the {world} processes meet; with srun, put this before it: "
            "export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -1) MASTER_PORT=29500"
        )
    return Launched(rank, world, local)


def _only(world: int, command_line: Sequence[str]) -> Ranks:
    """train.sharding=pipeline: one process, or a ConfigError."""
    if world == 1:
        return Ranks.alone()
    command = " ".join(["expertchat", shlex.join(command_line[1:]) or "online_dpo ..."])
    raise ConfigError(
        f"train.sharding=pipeline is one process over all its GPUs, but {world} were started: start `{command}` without torchrun or "
        "srun, or set train.sharding=ddp or train.sharding=fsdp"
    )


def own_gpu() -> None:
    """Let this process, if it is one of several, see its own GPU only, as its first: then every automatic choice below is right for it.

    To be called before torch is asked for GPUs, which then hears of no change any more.
    """
    launched = find_launch(os.environ)
    if launched is not None and launched.world > 1 and OWN not in os.environ:
        os.environ[OWN] = "1"
        shown = visible(launched, os.environ)
        if shown is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = shown


def visible(launched: Launched, environment: Mapping[str, str]) -> str | None:
    """What CUDA_VISIBLE_DEVICES is to be for this process; None: as it is."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return str(launched.local)
    cards = [card for card in listed.split(",") if card]
    if not cards or (len(cards) == 1 and "RANK" not in environment):  # of Slurm, one card alone is this task's own
        return None
    return cards[launched.local] if launched.local < len(cards) else "-1"  # beyond the list: none, which _check_gpus reports


def _join(launched: Launched, wait: timedelta) -> None:
    """Start torch.distributed. Raises RankLost where the others cannot be met."""
    import torch

    dist = _dist()
    store: dict[str, Any] = {"init_method": "env://"} if launched.world > 1 else {"store": dist.HashStore()}
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, rank=launched.rank, world_size=launched.world, timeout=wait, **store)
    except (RuntimeError, ValueError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise RankLost(
            f"rank {launched.rank} of {launched.world} cannot join the others at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')} ({why}); all of them must be started, and reach that address"
        ) from None
    for name in LAUNCH:
        os.environ.pop(name, None)
    import atexit

    atexit.register(_leave)


def _leave() -> None:
    with suppress(Exception):
        _dist().destroy_process_group()


def _check_gpus(ranks: Ranks) -> None:
    """Either every process has a GPU to itself or none has one. Raises ConfigError."""
    import torch

    seen = ranks.gather([torch.cuda.device_count() if torch.cuda.is_available() else 0])
    if max(seen) > 1 and ranks.world > 1:
        raise RuntimeError("torch was asked for GPUs before ranks.own_gpu(): call that first")
    have = [count > 0 for count in seen]
    if 0 < sum(have) < len(have):
        raise ConfigError(
            f"{ranks.world} processes were started, but only {sum(have)} of them found a GPU for themselves: start one for each GPU "
            f"(--nproc_per_node {sum(have)}), or all on the CPU with CUDA_VISIBLE_DEVICES=-1"
        )


def _dist() -> Any:
    import torch.distributed

    return torch.distributed
