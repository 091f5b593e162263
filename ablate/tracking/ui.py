"""MLflow's own interface, opened on the right store. Imports no mlflow."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from ablate.tracking.store import is_remote, sqlite_file, tracking_uri, ui_address, ui_command, ui_environment
from ablate.tracking.views import studies_in, view_url


def serve(root: Path, port: int) -> int:
    """Open MLflow's own interface on this machine until Ctrl-C; a server of somebody's is only named.

    Args:
        port: 0, or one that is taken: a free one.
    """
    if is_remote(root):
        print(f"MLflow runs at {ui_address(root)}")
        return 0
    path = sqlite_file(tracking_uri(root))
    if path is not None and not path.exists():
        print(f"{path}: there is no MLflow store yet. Run a study first, or `ablate sync STUDY` for one that has run.", file=sys.stderr)
        return 2
    chosen = _free_port(port)
    address = f"http://127.0.0.1:{chosen}"
    print(f"MLflow: {address}  (end with Ctrl-C)")
    for study, experiment in studies_in(path).items() if path is not None else ():
        print(f"  {study}: {view_url(address, experiment, 'arms')}")
    return _become(ui_command(root, chosen), root)


def _become(command: list[str], directory: Path) -> NoReturn:
    """Run the command in place of this process, so that its end is the server's end."""
    sys.stdout.flush()
    os.chdir(directory)
    os.execve(command[0], command, ui_environment())


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise OSError("127.0.0.1: no free port")
