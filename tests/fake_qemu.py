"""Takes the place of QEMU: the sockets and the log of a machine, and no machine behind them.

The agent serves the candidate that FAKE_CANDIDATE names.  FAKE_CONTROL says what the machine
answers when it is asked whether it is ready, or what it does instead.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

BOOTED = "booted the kernel\n"
RESTORED = "went on from a saved state\n"


def main() -> None:
    line = " ".join(sys.argv[1:])
    files = {name: int(number) for name, number in re.findall(r"id=(\w+),fd=(\d+)", line)}
    log = re.search(r"path=(/dev/fd/\d+)", line)
    assert log is not None
    incoming = re.search(r"-incoming fd:(\d+)", line)
    os.environ["FAKE_LOG"] = f"/proc/{os.getpid()}/fd/{log[1].rpartition('/')[2]}"
    state = os.read(int(incoming[1]), 100).decode() if incoming else ""
    if state == "harmed":
        sys.exit("not a state")
    say(f"{RESTORED}{state}\n" if incoming else BOOTED)
    candidate = os.environ["FAKE_CANDIDATE"]
    serve = [sys.executable, "-P", "-m", "adapters.server", "--fd", str(files["agent"]), candidate]
    agent = subprocess.Popen(serve, pass_fds=[files["agent"]])
    os.close(files["agent"])
    if os.fork():
        watch(socket.socket(fileno=files["monitor"]), agent)
    lines: Any = socket.socket(fileno=files["control"]).makefile("rwb", buffering=0)
    control(lines)


def say(text: str) -> None:
    """What the kernel prints."""
    with Path(os.environ["FAKE_LOG"]).open("a", encoding="utf-8") as log:
        log.write(text)


def control(lines: IO[bytes]) -> None:
    while line := lines.readline():
        word, _, size = line.decode().strip().partition(" ")
        if word == "ready?":
            answer_ready(lines)
        elif word == "swap-module":
            module = b""
            while len(module) < int(size):
                module += lines.read(int(size) - len(module))
            say(f"a module of {len(module)} bytes\n")
            lines.write(b"ok\n" if module.startswith(b"\x7fELF") else b"error: no module\n")


def answer_ready(lines: IO[bytes]) -> None:
    how = os.environ.get("FAKE_CONTROL", "ready")
    if how == "silence":
        time.sleep(1000)
    while how == "flood":
        lines.write(b"x" * 65536)
    lines.write(f"{how}\n".encode())


def watch(monitor: socket.socket, agent: subprocess.Popen[bytes]) -> None:
    """The monitor, which saves the state, and ends with QEMU."""
    stream: Any = monitor.makefile("rw", buffering=1)
    stream.write(json.dumps({"QMP": {}}) + "\n")
    while line := stream.readline():
        command = json.loads(line)
        if command["execute"] == "migrate":
            uri = command["arguments"]["uri"]
            subprocess.run(["sh", "-c", uri.removeprefix("exec:")], input=b"a state", check=True)
        done = {"status": "completed"} if command["execute"] == "query-migrate" else {}
        stream.write(json.dumps({"event": "STOP"}) + "\n" + json.dumps({"return": done}) + "\n")
    agent.wait()


if __name__ == "__main__":
    main()
