"""Accounting of the test cluster: MariaDB and slurmdbd, also plain processes on loopback in the cluster's folder."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={at}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
LogFile={at}/slurmdbd.log
PidFile={at}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={port}
StorageUser=slurm
StoragePass={password}
StorageLoc=accounting
"""


@dataclass(frozen=True)
class Accounting:
    """Its files and commands."""

    at: Path
    port: int
    """MariaDB's."""
    dbd_port: int

    @property
    def conf(self) -> str:
        """What slurm.conf says of it."""
        said = {"Type": "accounting_storage/slurmdbd", "Host": "127.0.0.1", "Port": self.dbd_port, "Pass": f"{self.at}/munge.socket"}
        return "\n".join(f"AccountingStorage{key}={value}" for key, value in said.items())

    def lay_out(self, host: str) -> None:
        """Write the configuration and an empty database with the one user that it needs."""
        password = secrets.token_hex(16)
        conf = self.at / "slurmdbd.conf"
        conf.write_text(DBD_CONF.format(at=self.at, host=host, port=self.port, dbd_port=self.dbd_port, password=password))
        conf.chmod(0o600)  # slurmdbd wants it so
        data, scratch = self.at / "mysql", self.at / "mysql.tmp"
        data.mkdir()
        scratch.mkdir()  # of its own: a MariaDB that starts clears away the temporary tables of others in a folder that they share
        make = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db", "--skip-name-resolve"]
        with (self.at / "mariadb-install.out").open("wb") as out:
            environment = {**os.environ, "TMPDIR": str(scratch)}
            make += [f"--tmpdir={scratch}", "--auth-root-authentication-method=normal"]
            subprocess.run(make, env=environment, stdout=out, stderr=out, timeout=120, check=True)
        who = "'slurm'@'127.0.0.1'"
        statements = [
            "create database if not exists accounting;",
            f"create user if not exists {who} identified by '{password}';",
            f"grant all on accounting.* to {who};",
            "drop user if exists 'root'@'127.0.0.1', 'root'@'::1';",
        ]
        (self.at / "init.sql").write_text("\n".join(statements))
        (self.at / "init.sql").chmod(0o600)

    def database(self) -> Sequence[str]:
        """MariaDB's command: small, and as fast as a test may have it."""
        places = {"datadir": "mysql", "socket": "mysql.socket", "pid-file": "mysql.pid", "init-file": "init.sql", "tmpdir": "mysql.tmp"}
        said = {"bind-address": "127.0.0.1", "port": self.port, "innodb-buffer-pool-size": "64M", "innodb-flush-log-at-trx-commit": 0}
        settings = [f"--{key}={value}" for key, value in said.items()] + [f"--{key}={self.at / file}" for key, file in places.items()]
        return ["mariadbd", "--no-defaults", "--user=root", "--skip-name-resolve", "--skip-log-bin", *settings]
