"""Stands between a worker and a command: passes signals on, and ends all that the command started when the worker is gone.

`python -I -S keeper.py FD ARGUMENT...`, run as a file so that it starts in milliseconds: the standard library only, none of ours. FD is
one end of a socket pair. A byte from the worker is the number of a signal for the command (for all, with the top bit set; SIGKILL is
always for all). The socket's end means that the worker is gone. The last word to the worker is `{"status": N}` or `{"problem": text}`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading

TO_ALL = 0x80
_PR_SET_CHILD_SUBREAPER = 36


def descendants() -> list[int]:
    """All that this process started and what those started, also what they detached; empty where there is no /proc."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as stat:
                parents[int(name)] = int(stat.read().rpartition(b")")[2].split()[1])
    found = {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return list(found - {os.getpid()})
        found |= more


def send(number: int) -> None:
    """Send a signal to all of them."""
    for pid in descendants():
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def end_all() -> None:
    """Kill until nothing is left: what dies may have started another meanwhile."""
    for _ in range(20):
        send(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not descendants():
            return
        threading.Event().wait(0.01)


def listen(lifeline: int, child: subprocess.Popen[bytes]) -> None:
    """Do what the worker says, until it says nothing more for ever."""
    while word := os.read(lifeline, 1):
        number = word[0] & ~TO_ALL
        if word[0] & TO_ALL or number == signal.SIGKILL:
            send(number)
        else:
            child.send_signal(number)
    end_all()
    os._exit(1)


def main(lifeline: int, arguments: list[str]) -> None:
    # Not ignored, or the command would inherit that: it is the worker who decides.
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), lambda *_: None)
    with contextlib.suppress(OSError, AttributeError):  # Linux: what a child detaches becomes ours, so that it can be found
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
    except OSError as error:
        last: dict[str, object] = {"problem": f"cannot start {arguments[0]}: {error.strerror}"}
    else:
        threading.Thread(target=listen, args=(lifeline, child), daemon=True).start()
        last = {"status": child.wait()}
        end_all()
    with contextlib.suppress(OSError):
        os.write(lifeline, json.dumps(last).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
