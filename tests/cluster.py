"""A real Slurm on this machine, for the tests: two nodes with four placeholder GPUs, in a network namespace of its own without internet.

`Cluster.start()` needs root, Slurm's daemons, munge and the right to make a network namespace; `lacking()` says what is not there. Several
clusters can run side by side, for each has its own loopback. What runs inside is found by its network namespace and ended by `stop`.

    python -m tests.cluster start DIR        # leaves it running; prints how to run commands in it
    python -m tests.cluster in DIR COMMAND   # sbatch, squeue, expertchat submit ... as on its login node
    python -m tests.cluster stop DIR
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun", "scancel", "unshare", "nsenter", "ip")
ADDRESS = "192.0.2.1"  # of documentation: Slurm's look-up of names wants an address besides 127.0.0.1, and it leads nowhere
HOST = socket.gethostname().partition(".")[0]
SPARE = "spare"  # a second node, the only one of a partition of that name: for a test that takes its node away
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED"}
ACCOUNTS = ("def-test", "def-other")  # those that the stub of a site's job policy admits
MODULES = {"StdEnv": ("2023",), "python": ("3.11",), "cuda": ("12.2", "12.6")}  # labelled stubs

CONF = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/run/munge.sock,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=16817
SrunPortRange=60001-60100
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool-%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd-%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobRequeue=1
MinJobAge=3600
KillWait=5
SlurmdTimeout=10
BatchStartTimeout=10
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={base}/log/jobcomp.txt
PrologFlags=Alloc
Prolog={base}/etc/prolog.sh
Epilog={base}/etc/epilog.sh
TaskProlog={base}/etc/task_prolog.sh
{submit}NodeName={host} NodeAddr=127.0.0.1 Port=16818 CPUs=8 RealMemory=16000 Gres=gpu:v100:4 State=UNKNOWN
NodeName={spare} NodeHostname={host} NodeAddr=127.0.0.1 Port=16819 CPUs=8 RealMemory=16000 Gres=gpu:v100:4 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=7-00:00:00 State=UP
PartitionName=spare Nodes={spare} MaxTime=7-00:00:00 State=UP
"""
PROLOG = "#!/bin/sh\nmkdir -p {base}/localscratch/$SLURM_JOB_USER.$SLURM_JOB_ID.0\n"
EPILOG = "#!/bin/sh\nrm -rf {base}/localscratch/$SLURM_JOB_USER.$SLURM_JOB_ID.0\n"
TASK_PROLOG = PROLOG + "echo export SLURM_TMPDIR={base}/localscratch/$SLURM_JOB_USER.$SLURM_JOB_ID.0\n"
# A site refuses unknown accounts by its accounting database; here a job policy does so, as some sites have it too.
POLICY = """\
local known = {{ {accounts} }}
function slurm_job_submit(job, partitions, uid)
  for _, name in ipairs(known) do if job.account == name then return slurm.SUCCESS end end
  slurm.log_user("(stub policy of a test cluster) account " .. tostring(job.account) .. " is not one of " .. table.concat(known, ", "))
  return slurm.ESLURM_INVALID_ACCOUNT
end
function slurm_job_modify(job, old, partitions, uid) return slurm.SUCCESS end
return slurm.SUCCESS
"""
STUB = 'help([[A labelled stub: it sets a variable and nothing else.]])\nsetenv("STUB_MODULE_{name}", "{version}")\n'


class SlurmProblem(RuntimeError):
    """Slurm cannot be started or a command of it failed."""


def lacking() -> list[str]:
    """What this machine lacks for a cluster; nothing: it can be tried."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    problems = [f"not installed: {', '.join(missing)}"] if missing else []
    if os.geteuid() != 0:
        problems.append("not root")
    if not problems and subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        problems.append("no network namespace can be made here")
    return problems


class Cluster:
    """One Slurm in the folder `base`. Commands run in its network namespace, as on a login node that shares its files."""

    def __init__(self, base: Path | str) -> None:
        self.base = Path(base).resolve()
        self.tmp = self.base / "localscratch"
        self.submitted: list[str] = []  # by this object; others may use the cluster too
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SQUEUE_"))},
            "SLURM_CONF": str(self.base / "etc" / "slurm.conf"),
            "SBATCH_ACCOUNT": ACCOUNTS[0],
            "PATH": f"{ROOT / '.venv' / 'bin'}:{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            "MODULEPATH": str(self.base / "modules"),
            "PYTHONPATH": str(ROOT),
        }

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self, policy: bool = True) -> Cluster:
        """Write the configuration, start the daemons, wait until the node is idle. Raises SlurmProblem."""
        if problems := lacking():
            raise SlurmProblem("; ".join(problems))
        self._write(policy)
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", f"ip link set lo up && ip addr add {ADDRESS}/32 dev lo && exec sleep 1000000000"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        (self.base / "run" / "namespace.pid").write_text(str(holder.pid))
        own = os.stat("/proc/self/ns/net").st_ino
        until(lambda: _namespace(holder.pid) not in (None, own), 10, "a network namespace")
        run = self.base / "run"
        munge = [f"--{name}={run}/munge.{end}" for name, end in (("socket", "sock"), ("pid-file", "pid"), ("seed-file", "seed"))]
        key = f"--key-file={self.base}/etc/munge.key"
        self.run(["munged", key, *munge, f"--log-file={self.base}/log/munge.log"])
        self.run(["slurmctld"])
        for name in (HOST, SPARE):
            self.run(["slurmd", "-N", name])
        until(lambda: self.node_state() == self.node_state(SPARE) == "idle", 30, f"idle nodes (logs: {self.base}/log)")
        return self

    def _write(self, policy: bool) -> None:
        for name in ("etc", "run", "state", "log", "gpu", "localscratch"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        (self.base / "run").chmod(0o755)
        for i in range(4):
            place = self.base / "gpu" / f"nvidia{i}"
            if not place.exists():
                subprocess.run(["mknod", "-m", "666", str(place), "c", "195", str(i)], check=True)
        etc = self.base / "etc"
        lua = policy and any(Path(lib).is_file() for lib in _lua_plugins())
        submit = "JobSubmitPlugins=lua\n" if lua else ""
        (etc / "slurm.conf").write_text(CONF.format(base=self.base, host=HOST, spare=SPARE, submit=submit))
        (etc / "gres.conf").write_text(f"AutoDetect=off\nNodeName={HOST},{SPARE} Name=gpu Type=v100 File={self.base}/gpu/nvidia[0-3]\n")
        (etc / "job_submit.lua").write_text(POLICY.format(accounts=", ".join(f'"{name}"' for name in ACCOUNTS)))
        for name, text in (("prolog.sh", PROLOG), ("epilog.sh", EPILOG), ("task_prolog.sh", TASK_PROLOG)):
            (etc / name).write_text(text.format(base=self.base))
            (etc / name).chmod(0o755)
        key = etc / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        for name, versions in MODULES.items():
            (self.base / "modules" / name).mkdir(parents=True, exist_ok=True)
            for version in versions:
                (self.base / "modules" / name / f"{version}.lua").write_text(STUB.format(name=name.upper(), version=version))

    def stop(self) -> None:
        """End every process of the cluster's network namespace: daemons, jobs, whatever they left."""
        holder = self._holder()
        if holder is None:
            return
        space = _namespace(holder)
        if space is not None and space != os.stat("/proc/self/ns/net").st_ino:
            for number in (signal.SIGTERM, signal.SIGKILL):
                for pid in _members(space):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                with contextlib.suppress(SlurmProblem):
                    until(lambda: not _members(space), 3, "the end of all processes")
        with contextlib.suppress(ChildProcessError):
            os.waitpid(holder, os.WNOHANG)
        (self.base / "run" / "namespace.pid").unlink(missing_ok=True)

    def _holder(self) -> int | None:
        try:
            return int((self.base / "run" / "namespace.pid").read_text())
        except (OSError, ValueError):
            return None

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- commands ---------------------------------------------------------------------------------------------------

    def line(self, command: Sequence[str]) -> list[str]:
        """`command` as it is run inside the namespace."""
        return ["nsenter", f"--net=/proc/{self._holder()}/ns/net", "--", *command]

    def call(
        self, command: Sequence[str], cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; never raises for its exit code."""
        return subprocess.run(
            self.line(command), capture_output=True, text=True, timeout=timeout, cwd=cwd, env={**self.environment, **(env or {})}
        )

    def run(self, command: Sequence[str], **where: Any) -> str:
        """Its output. Raises SlurmProblem where it fails."""
        done = self.call(command, **where)
        if done.returncode:
            raise SlurmProblem(f"{' '.join(command)}: {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def sbatch(self, *arguments: str, **where: Any) -> str:
        """Submit; returns the job id."""
        self.submitted.append(self.run(["sbatch", "--parsable", *arguments], **where).strip().partition(";")[0])
        return self.submitted[-1]

    # -- what is seen -----------------------------------------------------------------------------------------------

    def node_state(self, name: str = HOST) -> str:
        try:
            return self.call(["sinfo", "-h", "-n", name, "-o", "%T"], timeout=5).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Reason, Restarts, ExitCode, ..."""
        text = self.call(["scontrol", "show", "job", job]).stdout
        return dict(part.split("=", 1) for part in text.split() if "=" in part)

    def state(self, job: str) -> str:
        return self.job(job).get("JobState", "")

    def wait(self, job: str, timeout: float = 120, states: set[str] = ENDED) -> str:
        """The job's state once it is one of `states`."""
        wanted = " or ".join(sorted(states))
        until(lambda: self.state(job) in states, timeout, f"job {job} to be {wanted}", lambda: self.state(job), every=0.4)
        return self.state(job)

    def pids(self, job: str, node: str = HOST) -> list[int]:
        """The processes of a job on a node, as Slurm knows them."""
        lines = self.call(["scontrol", "listpids", job, node]).stdout.splitlines()[1:]
        return [int(words[0]) for line in lines if (words := line.split()) and words[0].isdigit()]


def until(
    true: Callable[[], object], timeout: float, what: str, seen: Callable[[], object] | None = None, every: float = 0.1
) -> None:
    """Wait for something, and look `every` so many seconds. Raises SlurmProblem after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not true():
        if time.monotonic() > end:
            raise SlurmProblem(f"waited {timeout:.0f} s in vain for {what}" + (f", seen: {seen()}" if seen else ""))
        time.sleep(every)


def _namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def _members(space: int) -> list[int]:
    """Processes of a network namespace that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _namespace(int(entry.name)) == space:
            with contextlib.suppress(OSError):
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(entry.name))
    return found


def _lua_plugins() -> list[str]:
    return [str(place) for root in ("/usr/lib", "/usr/lib64") for place in Path(root).glob("*/slurm-wlm/job_submit_lua.so")]


def main(arguments: list[str]) -> int:
    """start DIR, in DIR COMMAND..., stop DIR."""
    action, base, *rest = arguments
    made = Cluster(base)
    if action == "start":
        made.start()
        print(json.dumps({"base": str(made.base), "node": made.node_state(), "in": f"python -m tests.cluster in {made.base} squeue"}))
        return 0
    if action == "stop":
        made.stop()
        return 0
    if action == "in" and made._holder() is not None:
        os.execvpe("nsenter", made.line(rest), made.environment)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
