"""Keeps the machine's settings switched on for as long as anybody needs them.

Every user holds a lock on a file of its own.  Whoever comes first switches the settings on, whoever
leaves last puts them back.  A process of its own, the keeper, waits until all users are gone,
however they ended, and puts back what they could not; it stays out of the way of Ctrl-C.  If it is
killed too, the next user begins with that.

    python -m adapters.linux.keeper FOLDER ROOT
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..candidate import CandidateError
from .settings import Settings

__all__ = ["FOLDER", "Held", "hold"]

FOLDER = Path("/run/lastwriter")
"""Where users, keepers and what is to be undone are known; gone with the settings at a reboot."""
ROOT = Path("/")
_SECONDS = 60.0


class Held:
    """The settings are on until this is released, or its process ends."""

    def __init__(self, places: _Places, user: int, problems: list[str]) -> None:
        self.problems = problems
        """What could not be switched on, and why."""
        self.ksm = places.settings.ksm
        """Whether KSM is on for its users alone."""
        self._places = places
        self._user = user

    def release(self) -> None:
        """Put the settings back if nobody else needs them; twice is once."""
        user, self._user = self._user, -1
        if user < 0:
            return
        with self._places.gate():
            os.close(user)
            if not self._places.users():
                self._places.settings.put_back()


def hold(folder: Path = FOLDER, root: Path = ROOT) -> Held:
    """Have the settings switched on; `CandidateError` if what was left cannot be put back."""
    places = _Places(folder, root)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with places.gate():
            return _enter(places)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CandidateError(f"the machine's settings: {error}") from None


class _Places:
    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self.settings = Settings(folder / "undo.json", root)

    def open(self, name: str) -> int:
        return os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def gate(self) -> Iterator[None]:
        """One at a time comes and goes."""
        file = self.open("gate")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def add_user(self) -> int:
        """A locked file for whoever asks; the file's number."""
        user = self.open(f"user-{uuid.uuid4().hex}")
        fcntl.flock(user, fcntl.LOCK_EX)
        return user

    def users(self) -> list[Path]:
        """The files of those that live; the others' are removed."""
        alive = []
        for path in self.folder.glob("user-*"):
            if self.is_locked(path.name):
                alive.append(path)
            else:
                path.unlink()
        return alive

    def is_locked(self, name: str) -> bool:
        file = self.open(name)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(file)


def _enter(places: _Places) -> Held:
    user = places.add_user()
    try:
        return Held(places, user, _ensure(places))
    except BaseException:
        os.close(user)
        raise


def _ensure(places: _Places) -> list[str]:
    """See to it that a keeper lives and that the settings are on; within the gate.

    A keeper that has its lock will come to the gate once more and find the new user.  It is not to
    be waited for: it may be waiting for the gate.
    """
    problems = places.folder / "problems"
    if not places.is_locked("keeper"):
        places.settings.put_back()  # what a keeper left that was killed
        _start_keeper(places)
    if not places.settings.changed:
        problems.write_text("\n".join(places.settings.switch_on()), "utf-8")
    return problems.read_text("utf-8").splitlines()


def _start_keeper(places: _Places) -> None:
    source = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", __name__, str(places.folder), str(places.root)],
        env={**os.environ, "PYTHONPATH": source},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        start_new_session=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["the keeper did not start"]
        raise OSError(lines[-1])


# ---- The keeper's process ----


def _main(folder: str, root: str) -> None:
    places = _Places(Path(folder), Path(root))
    keeper = places.open("keeper")
    fcntl.flock(keeper, fcntl.LOCK_EX)  # kept over the fork below
    if child := os.fork():
        os.pwrite(keeper, f"{child}\n".encode(), 0)  # for whoever looks
        return  # and who waits for this one goes on
    null = os.open(os.devnull, os.O_RDWR)
    for file in range(3):
        os.dup2(null, file)
    _keep(places, keeper)


def _keep(places: _Places, keeper: int) -> None:
    """Wait for one user after the other, until there is none; then give up the keeper's lock.

    That is done within the gate, so that whoever finds it locked there has a keeper.
    """
    while True:
        with places.gate():
            users = places.users()
            if not users:
                try:
                    places.settings.put_back()  # if it fails, it is the next user's to try again
                finally:
                    os.close(keeper)
                return
        file = places.open(users[0].name)
        fcntl.flock(file, fcntl.LOCK_SH)
        os.close(file)


if __name__ == "__main__":
    _main(*sys.argv[1:])
