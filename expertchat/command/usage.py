"""What the command line says of itself: the commands, their groups, keys and flags. Nothing heavy is imported: --help answers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expertchat import __version__
from expertchat.command.table import COMMANDS, Command

if TYPE_CHECKING:
    from pathlib import Path

WIDTH = max(map(len, COMMANDS)) + 2  # of the column of names

EXAMPLES = """  expertchat converse                                     a few conversations of the embedded models, live
  expertchat converse conversation.turns=4 view=plain     any key of the config as KEY=VALUE
  expertchat converse model@experts.b=mixtral_8x7b        another option of a group
  expertchat converse +experiment=llama3_vs_mixtral       an experiment of conf/experiment
  expertchat converse --config RUN/config.yaml            a whole config as it was, without conf/
  expertchat COMMAND --help                               the keys, groups and options of a command"""

FLAGS = """flags:
  --cfg job        show the composed config instead of running (--resolve fills in ${...}, -p KEY shows a part)
  --config FILE    run a whole config (RUN/config.yaml, or what submit has frozen) without conf/; KEY=VALUE changes keys that it has
  -m, --multirun   run every combination: -m conversation.turns=4,8 run.seed=0,1
  --info           how the config was composed
  --hydra-help     Hydra's own help"""

SWEEPS = """sweeps on Slurm (-m hydra/launcher=submitit_slurm; pip install "expertchat[slurm]"): each combination is a task of one array
  cluster=narval                                what a job asks for, from conf/cluster; EXPERTCHAT_CLUSTER=narval says it once for all
  cluster.account=def-you cluster.time=3:00:00  any key of it; the modules and the Python are those of this shell
  hydra.launcher.array_parallelism=2            so many at once; without a cluster, these say what a job asks for:
  hydra.launcher.account=def-you hydra.launcher.timeout_min=180 hydra.launcher.cpus_per_task=4 hydra.launcher.mem_gb=8
  hydra.launcher.gpus_per_node=1                a type of GPU: '+hydra.launcher.additional_parameters={gpus-per-node: "a100:1"}'
  This command waits for the jobs. At the time limit a run stops in order, is requeued (hydra.launcher.max_num_timeout=20 times) and goes
  on in its folder. hydra/launcher=submitit_local runs all combinations at once on this machine (hydra.launcher.gpus_per_node: of each)."""


# Of a command that runs another one.
SUBMIT_FLAGS = """flags:
  --dry-run        only write the script and the config into the run folder
  --array N[%M]    spread the run over N tasks, at most M at once; then: expertchat merge_runs RUN
  --spread WHAT    what the tasks share out: topics ({parts}) or seeds (also {others})
  --after JOB      begin when that job has ended well
  --force          submit in spite of doubts about memory and time

expertchat submit study NAME SIZE [WORD=VALUE ...] [--dry-run] [--force] submits a whole study as a chain of jobs."""


def usage() -> str:
    """What `expertchat --help` says."""
    return f"""ExpertChat {__version__}: language models talk as experts, rate each other and learn from it.

usage: expertchat COMMAND [KEY=VALUE ...]

commands:
{chr(10).join(f"  {command.name:<{WIDTH}}{command.help}" for command in COMMANDS.values())}

{EXAMPLES}

exit codes: 0 done, 2 the config or input is wrong, 3 stopped early and resumable, 1 anything else"""


def help_text(name: str) -> str:
    """Usage, groups with their options, and the command's own documented YAML file."""
    from expertchat.config import conf_dir

    conf, command = conf_dir(), COMMANDS[name]
    words = f" {command.words}" if command.words else ""
    groups = _slots(conf, command)
    parts = [f"{command.help}\n\nusage: expertchat {name}{words} [KEY=VALUE ...] [flags]"]
    parts += ["groups (choose with GROUP=OPTION):"] if groups else []
    for slots, group in groups:
        comments = {path.stem: _first_comment(path) for path in sorted((conf / group).glob("*.yaml"))}
        if group == "experiment":  # each says for which command it is
            comments = {option: text.removeprefix(f"{name}: ") for option, text in comments.items() if text.startswith(f"{name}:")}
        options = [f"      {option:<20}{text}" for option, text in comments.items()]
        parts.append("\n".join([f"  {', '.join(slots)}", *options]))
    if not command.composed:
        return "\n\n".join([*parts, f"keys (as cluster.KEY=VALUE):\n{_keys(conf / 'cluster' / 'generic.yaml')}", *_of_jobs()])
    parts.append(f"keys (those of the groups: --cfg job):\n{_keys(conf / f'{command.root}.yaml', after_defaults=True)}")
    return "\n\n".join([*parts, FLAGS, *([SWEEPS] if command.jobs else [])])


def _of_jobs() -> list[str]:
    """Which commands may run as jobs, and submit's flags."""
    jobs = [command for command in COMMANDS.values() if command.jobs]
    names = " or ".join(command.name for command in jobs)
    parts, others = (", ".join(command.name for command in jobs if command.parts is wanted) for wanted in (True, False))
    about = f"COMMAND: {names}, with any of its keys, groups and options (expertchat COMMAND --help)"
    return [about, SUBMIT_FLAGS.format(parts=parts, others=others)]


def _keys(path: Path, after_defaults: bool = False) -> str:
    """A YAML file's keys with their comments, indented."""
    text = path.read_text("utf-8")
    keys = text.split("\n\n", 1)[1] if after_defaults else text.partition("\n")[2]
    return "\n".join(f"  {line}" if line else "" for line in keys.rstrip().splitlines())


def _slots(conf: Path, command: Command) -> list[tuple[list[str], str]]:
    """Each group with the names under which an override chooses in it."""
    import yaml

    def defaults(path: Path) -> list[str]:
        entries = yaml.safe_load(path.read_text("utf-8")).get("defaults", [])
        return [next(iter(entry)) for entry in entries if isinstance(entry, dict)]

    found: dict[str, list[str]] = {}
    for name in defaults(conf / f"{command.root}.yaml"):
        group, _, place = name.partition("@")
        found.setdefault(group, []).append(name)
        if group == "model":
            for inner in defaults(conf / "model" / "auto.yaml"):
                group, _, inside = inner.lstrip("/").partition("@")
                found.setdefault(group, []).append(f"{group}@{place}.{inside}")
    for name in command.added:
        found.setdefault(name.partition("@")[0], []).append(f"+{name}")
    return [(slots, group) for group, slots in found.items()]


def _first_comment(path: Path) -> str:
    lines = path.read_text("utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#") and not line.startswith("# @package")), "")
