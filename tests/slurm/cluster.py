"""A real Slurm of two nodes on this machine: plain processes on loopback, in a folder of its own, ended by their ids.

Needs root and Debian's packages munge, slurmctld, slurmd, slurm-client, slurmdbd and mariadb-server. Ports are chosen by the system.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from accounting import Accounting

NEEDED = {
    "munge": ("munged", "munge"),
    "slurmctld": ("slurmctld",),
    "slurmd": ("slurmd",),
    "slurm-client": ("sbatch", "squeue", "scontrol", "sacct"),
    "slurmdbd": ("slurmdbd",),
    "mariadb-server": ("mariadbd", "mariadb-install-db"),
}
"""Programs by Debian's package."""
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
NODES = ("n1", "n2")

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.%n.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd.%n.log
SlurmdSpoolDir={at}/spool.%n
StateSaveLocation={at}/state
AuthType=auth/munge
AuthInfo=socket={at}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
KillWait=3
MinJobAge=300
ReturnToService=2
MessageTimeout=20
JobAcctGatherType=jobacct_gather/linux
{accounting}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=300 DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=5 State=UP
PartitionName=high Nodes=ALL MaxTime=300 DefaultTime=10 PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing() -> str | None:
    """Why no cluster can be brought up here; None: it can."""
    lacking = [package for package, names in NEEDED.items() if any(shutil.which(name, path=PATH) is None for name in names)]
    if lacking:
        return f"no Slurm on this machine: packages {', '.join(lacking)} are missing"
    return None if os.geteuid() == 0 else "needs root: slurmd starts jobs"


class Cluster:
    """Up inside the context; `environment` is what its commands need."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(at / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = free_ports(5)
        self._accounting = Accounting(at, *self._ports[3:])
        self._closing = ExitStack()

    def __enter__(self) -> Cluster:
        with ExitStack() as undo:
            undo.callback(self._end)
            self._lay_out()
            self._start("munged", *self._munge())
            socket_ = f"--socket={self.at}/munge.socket"
            until(lambda: self._works("munge", "-n", socket_), 20)
            self._start("mariadb", *self._accounting.database())
            self.account()
            until(lambda: self._works("sacctmgr", "-i", "add", "cluster", "test"), 20)
            self._start("slurmctld", "slurmctld", "-D")
            until(lambda: self._works("scontrol", "ping"), 40)
            for node in NODES:
                self._start(node, "slurmd", "-D", "-N", node)
            until(self._all_idle, 60)
            self._closing = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def account(self) -> None:
        """Start slurmdbd, and wait until it answers."""
        until(lambda: self._listens(self._accounting.port), 40)
        self._start("slurmdbd", "slurmdbd", "-D")
        until(lambda: self._works("sacctmgr", "-n", "show", "cluster"), 40)

    def run(self, *command: str) -> str:
        """What one of its commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, encoding="utf-8", timeout=60, check=False)
        return done.stdout

    def answers(self, *command: str, within_s: float) -> bool:
        """Whether a command succeeds in time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(command, env=self.environment, capture_output=True, timeout=within_s, check=False)
            return done.returncode == 0
        return False

    def jobs(self) -> list[str]:
        """Numbers of the jobs that wait or run."""
        return self.run("squeue", "-h", "-o", "%i").split()

    def quiet(self) -> None:
        """No job, and all nodes idle again."""
        if self.jobs():
            self.run("scancel", *self.jobs())
        for node in NODES:
            self.run("scontrol", "update", f"nodename={node}", "state=resume")
        until(lambda: not self.jobs() and self._all_idle(), 40)

    def _all_idle(self) -> bool:
        return self.run("sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N").split() == list(NODES)

    def _lay_out(self) -> None:
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.at / name).mkdir(parents=True)
        self.at.chmod(0o755)
        key = self.at / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        (self.at / "slurm.conf").write_text(CONF.format(at=self.at, host=host, ports=self._ports, accounting=self._accounting.conf))
        self._accounting.lay_out(host)

    def _munge(self) -> Sequence[str]:
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munged.seed"}
        logs = {"log-file": "munged.log"}
        return ["munged", "--foreground", "--force", *(f"--{key}={self.at / file}" for key, file in (files | logs).items())]

    def _start(self, name: str, *command: str) -> None:
        program = shutil.which(command[0], path=PATH)
        assert program is not None
        with (self.at / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [program, *command[1:]], env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    @staticmethod
    def _listens(port: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
        return False

    def _works(self, *command: str) -> bool:
        return self.answers(*command, within_s=10)

    def _end(self) -> None:
        for daemon in self.daemons.values():
            daemon.send_signal(signal.SIGCONT)
        if "slurmctld" in self.daemons:
            numbers = self.jobs()
            if numbers:
                self.run("scancel", "--signal=KILL", "--full", *numbers)
                self.run("scancel", *numbers)
                waited = time.monotonic() + 15
                while self.jobs() and time.monotonic() < waited:
                    time.sleep(0.1)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def until(holds: Callable[[], object], seconds: float) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
