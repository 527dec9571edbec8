"""The agent in C: that it speaks the protocol, and what it says to clients that do not."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.client import RemoteCandidate
from adapters.process import Child
from adapters.wire import (
    ClosedError,
    Frame,
    FrameType,
    RefusedError,
    Stream,
    decode_description,
    encode_frame,
    encode_geometry,
    encode_hello,
    encode_run,
)
from reference.cheader import HEADER
from reference.geometry import Geometry
from reference.operations import Flag, Kind, Operation
from reference.outcomes import Outcome, Status

COMPILER = shutil.which("gcc") or shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")

ROOT = Path(__file__).parent.parent
AGENT = ROOT / "adapters" / "agent" / "agent.c"
EXAMPLES = ROOT / "adapters" / "examples"
STRICT = ["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SECONDS = 30.0
RW = Flag.READ | Flag.WRITE
GEOMETRY = Geometry(pages=4, processes=1, devices=1, files=1, keys=0, jobs=1)
HELLO = encode_frame(FrameType.HELLO, encode_hello())
RESET = encode_frame(FrameType.RESET, encode_geometry(GEOMETRY))


def build(folder: Path, mirror: Path, *options: str) -> Path:
    """The agent with a mirror linked in, in the folder."""
    program = folder / f"{mirror.stem}_agent"
    include = [f"-I{HEADER.parent}", f"-I{EXAMPLES}"]
    command = [str(COMPILER), *STRICT, *include, *options, str(AGENT), str(mirror)]
    subprocess.run([*command, "-o", str(program)], check=True)
    return program


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent with the worked example, under the sanitizers."""
    folder = tmp_path_factory.mktemp("agent")
    return build(folder, EXAMPLES / "mirror.c", *SANITIZERS)


@pytest.fixture
def child(program: Path) -> Iterator[Child]:
    child = Child(lambda file: [str(program), "--fd", str(file)], dict(os.environ))
    child.socket.settimeout(SECONDS)
    yield child
    child.end()


@pytest.fixture
def client(child: Child) -> RemoteCandidate:
    return RemoteCandidate(Stream.of_socket(child.socket))


def operation(kind: Kind, **fields: int) -> Operation:
    return Operation(*[0] * 6)._replace(kind=kind, **fields)


MAP = operation(Kind.MAP, flags=RW, pages=4)


def read_words(count: int) -> Operation:
    return operation(Kind.READ, length=8 * count)


def test_serves_a_client_until_it_says_goodbye(child: Child, client: RemoteCandidate) -> None:
    assert client.describe().name == "example mirror in C"
    client.reset(GEOMETRY)
    write = operation(Kind.WRITE, page=1, length=16, value=5)
    read = operation(Kind.READ, page=1, length=16)
    words = (5).to_bytes(8, "little") + (6).to_bytes(8, "little")
    outcomes = [Outcome(Status.OK), Outcome(Status.OK, 0, 16), Outcome(Status.OK, 0, 16, words)]
    assert client.run([MAP, write, read]) == outcomes
    assert client.run([]) == []
    client.reset(GEOMETRY)
    assert client.run([read])[0].status == Status.FAULT
    client.close()
    assert child.death(SECONDS) == "exited with status 0"
    assert child.output.tail() == ""


def test_a_client_that_just_leaves_is_no_error(child: Child) -> None:
    child.socket.sendall(HELLO + RESET)
    child.socket.shutdown(socket.SHUT_WR)
    assert child.death(SECONDS) == "exited with status 0"


def test_data_of_many_outcomes_is_put_together(client: RemoteCandidate) -> None:
    geometry = GEOMETRY._replace(page_size=65536)
    client.reset(geometry)
    writes = [operation(Kind.WRITE, page=i, length=65536, value=i << 32) for i in range(4)]
    reads = [operation(Kind.READ, page=i % 4, length=65536 - 8 * i) for i in range(40)]
    outcomes = client.run([MAP, *writes, *reads])[5:]
    for i, outcome in enumerate(outcomes):
        first = (i % 4) << 32
        words = struct.pack(f"<{8192 - i}Q", *range(first, first + 8192 - i))
        assert outcome == Outcome(Status.OK, 0, len(words), words)


# ---- Clients that do it wrong ----


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IB", len(payload), kind) + payload


def hello(magic: bytes = b"LWRT", *numbers: int) -> bytes:
    return frame(1, magic + struct.pack(f"<{len(numbers)}H", *numbers))


def geometry(**fields: int) -> bytes:
    return frame(4, encode_geometry(GEOMETRY._replace(**fields)))


def run(**fields: int) -> bytes:
    return frame(6, encode_run([Operation(*[0] * 6)._replace(**fields)]))


MALFORMED = {
    "no hello": (frame(2), "expected a hello first"),
    "other magic": (hello(b"LWRX", 1, 40, 16, 0), "expected a hello first"),
    "empty hello": (frame(1), "expected a hello first"),
    "newer version": (hello(b"LWRT", 2, 40, 16, 0, 7), "protocol version 2, this is 1"),
    "longer records": (hello(b"LWRT", 1, 48, 16, 0), "other record sizes than 40 and 16"),
    "long hello": (hello(b"LWRT", 1, 40, 16, 0, 0), "other record sizes than 40 and 16"),
    "second hello": (HELLO + HELLO, "unexpected frame type 1"),
    "answer": (HELLO + frame(7), "unexpected frame type 7"),
    "unknown type": (HELLO + frame(77), "unknown frame type 77"),
    "long frame": (
        HELLO + struct.pack("<IB", (64 << 20) + 1, 6),
        "a frame of 67108865 bytes is longer than 67108864",
    ),
    "endless frame": (
        HELLO + struct.pack("<IB", 0xFFFFFFFF, 6),
        "a frame of 4294967295 bytes is longer than 67108864",
    ),
    "cut header": (HELLO + b"\x04\0", "the stream ends inside a frame header"),
    "cut frame": (HELLO + RESET[:-1], "the stream ends inside a frame of 16 bytes"),
    "short reset": (HELLO + frame(4, bytes(15)), "a reset of 15 bytes, expected 16"),
    "page size": (HELLO + geometry(page_size=8192), "a geometry outside its limits"),
    "no pages": (HELLO + geometry(pages=0), "a geometry outside its limits"),
    "many pages": (HELLO + geometry(pages=1025), "a geometry outside its limits"),
    "many processes": (HELLO + geometry(processes=4), "a geometry outside its limits"),
    "early run": (HELLO + frame(6, bytes(4)), "a run before the first reset"),
    "no count": (HELLO + RESET + frame(6, bytes(3)), "a run of 0 operations in 3 bytes"),
    "wrong count": (HELLO + RESET + frame(6, b"\2\0\0\0" + bytes(40)), "a run of 2 operations in"),
    "huge count": (HELLO + RESET + frame(6, b"\xff" * 4), "a run of 4294967295 operations in 4"),
}
FIELDS: dict[str, tuple[dict[str, int], str]] = {
    "kind 0": ({"kind": 0}, "kind"),
    "kind between": ({"kind": 15}, "kind"),
    "kind 255": ({"kind": 255}, "kind"),
    "process": ({"kind": Kind.EXIT, "process": 1}, "process"),
    "device": ({"kind": Kind.DETACH, "device": 1}, "device"),
    "file": ({"kind": Kind.TRUNCATE, "file": 1}, "file"),
    "mapped file": ({"kind": Kind.MAP, "flags": Flag.FILE, "pages": 1, "file": 1}, "file"),
    "key": ({"kind": Kind.DREAD, "length": 8, "key": 1}, "key"),
    "no key": ({"kind": Kind.UNREGISTER}, "key"),
    "job": ({"kind": Kind.SUBMIT, "job": 2}, "job"),
    "no job": ({"kind": Kind.WAIT}, "job"),
    "child": ({"kind": Kind.FORK, "target": 1}, "target"),
    "file size": ({"kind": Kind.TRUNCATE, "pages": 5}, "pages"),
    "no range": ({"kind": Kind.UNMAP}, "pages"),
    "range": ({"kind": Kind.UNMAP, "page": 3, "pages": 2}, "pages"),
    "destination": ({"kind": Kind.REMAP, "pages": 2, "target": 3}, "target"),
    "offset": ({"kind": Kind.READ, "offset": 4, "length": 8}, "offset"),
    "far offset": ({"kind": Kind.READ, "offset": 4096, "length": 8}, "offset"),
    "no length": ({"kind": Kind.WRITE}, "length"),
    "odd length": ({"kind": Kind.WRITE, "length": 12}, "length"),
    "long access": ({"kind": Kind.WRITE, "page": 3, "length": 4104}, "length"),
}
MALFORMED |= {
    name: (HELLO + RESET + run(**fields), f"operation 0 of kind {fields['kind']:d}: bad {word}")
    for name, (fields, word) in FIELDS.items()
}


@pytest.mark.parametrize(("sent", "text"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused(child: Child, sent: bytes, text: str) -> None:
    child.socket.sendall(sent)
    child.socket.shutdown(socket.SHUT_WR)
    stream = Stream.of_socket(child.socket)
    frames: list[Frame] = []
    while not frames or frames[-1].type != FrameType.ERROR:
        frames.append(stream.receive())
    assert frames[-1].payload.decode().startswith(text)
    with pytest.raises(ClosedError):
        stream.receive()
    assert child.death(SECONDS) == "exited with status 1"
    assert child.output.tail() == f"agent: refused a client: {frames[-1].payload.decode()}"


def test_more_data_than_a_frame_holds_is_refused(child: Child) -> None:
    stream = Stream.of_socket(child.socket)
    client = RemoteCandidate(stream)
    client.reset(GEOMETRY._replace(page_size=2 << 20, pages=2))
    reads = [operation(Kind.READ, length=4 << 20)] * 16
    stream.send(FrameType.RUN, encode_run([operation(Kind.MAP, flags=RW, pages=2), *reads]))
    answer = stream.receive()
    assert answer.type == FrameType.ERROR
    assert answer.payload == b"the outcomes of 17 operations do not fit in 67108864 bytes"


# ---- Ways to reach it ----


def test_speaks_over_two_pipes(program: Path) -> None:
    requests, answers = os.pipe(), os.pipe()
    with subprocess.Popen(
        [program, "--fds", f"{requests[0]},{answers[1]}"], pass_fds=[requests[0], answers[1]]
    ) as process:
        os.close(requests[0])
        os.close(answers[1])
        client = RemoteCandidate(Stream.of_files(answers[0], requests[1]))
        client.reset(GEOMETRY)
        assert client.run([MAP, read_words(1)])[1].data == bytes(8)
        client.close()
        assert process.wait(SECONDS) == 0


@pytest.fixture(params=["tcp:127.0.0.1:0", "tcp:127.0.0.2:0", "unix:SOCKET"])
def address(request: pytest.FixtureRequest, program: Path, tmp_path: Path) -> Iterator[str]:
    """Where an agent listens."""
    where = request.param.replace("SOCKET", str(tmp_path / "socket"))
    with subprocess.Popen(
        [program, "--listen", where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"listening on {where.removesuffix('0')}")
        yield line.split()[-1]
        process.kill()


def test_listens_to_one_client_after_another(address: str) -> None:
    for value in range(3):
        client = RemoteCandidate.connect(address, seconds=SECONDS)
        client.reset(GEOMETRY)
        write = operation(Kind.WRITE, length=8, value=value)
        outcomes = client.run([MAP, read_words(1), write, read_words(1)])
        assert [outcome.data[:1] for outcome in outcomes] == [b"", b"\0", b"", bytes([value])]
        client.close()


def test_goes_on_after_a_client_that_it_refused(address: str) -> None:
    client = RemoteCandidate.connect(address, seconds=SECONDS)
    with pytest.raises(RefusedError, match="a geometry outside its limits"):
        client.reset(GEOMETRY._replace(pages=2000))
    client.stream.close()
    RemoteCandidate.connect(address, seconds=SECONDS).close()


def test_a_socket_is_for_its_owner_only(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with subprocess.Popen(
        [program, "--listen", f"unix:{path}"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert path.stat().st_mode & 0o077 == 0
        process.kill()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --fd N, --fds IN,OUT, --listen WHERE or --probe"),
        (["--fd"], "expected --fd N, --fds IN,OUT, --listen WHERE or --probe"),
        (["--fds", "3"], "expected --fd N, --fds IN,OUT, --listen WHERE or --probe"),
        (["--fd", "x"], "x: expected a file descriptor"),
        (["--fd", "-1"], "-1: expected a file descriptor"),
        (["--listen", "3"], "3: expected unix:PATH or tcp:127.0.0.1:PORT"),
        (["--listen", "unix:"], "unix:: the path is empty or too long"),
        (["--listen", "unix:" + "x" * 200], f"unix:{'x' * 200}: the path is empty or too long"),
        (["--listen", "tcp:localhost:1"], "tcp:localhost:1: expected 127.0.0.1:PORT"),
        (["--listen", "tcp:127.0.0.1"], "tcp:127.0.0.1: expected 127.0.0.1:PORT"),
        (["--listen", "tcp:127.0.0.1:65536"], "tcp:127.0.0.1:65536: expected 127.0.0.1:PORT"),
        (["--listen", "tcp:127.0.0.1:1x"], "tcp:127.0.0.1:1x: expected 127.0.0.1:PORT"),
        *[
            (
                ["--listen", f"tcp:{host}:0"],
                f"tcp:{host}:0: not a loopback address, and there is no encryption here",
            )
            for host in ("0.0.0.0", "192.0.2.1", "128.0.0.1", "127.0.0.256")  # noqa: S104
        ],
    ],
)
def test_wrong_arguments_are_named(program: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"agent: {message}\n")


def test_an_address_in_use_is_named(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.touch()
    done = subprocess.run(
        [program, "--listen", f"unix:{path}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, f"agent: unix:{path}: Address already in use\n")


# ---- Mirrors that do it wrong ----

STUB = """#include "lastwriter.h"
uint32_t lw_abi_version(void) {{ return {version}; }}
const char *lw_describe(void) {{ return "{description}"; }}
void *lw_open(const lw_geometry *geometry) {{ return (void *)geometry; }}
void lw_close(void *mirror) {{ (void)mirror; }}
uint32_t lw_run(void *mirror, const lw_operation *operations, uint32_t count,
                lw_outcome *outcomes, uint8_t *data, uint32_t capacity)
{{
    (void)mirror, (void)operations, (void)data, (void)capacity;
    for (uint32_t i = 0; i < count; i++)
        outcomes[i] = (lw_outcome){{.size = {size}}};
    return {count};
}}
"""


def build_stub(folder: Path, **values: str) -> Path:
    defaults = {"version": "1", "description": "{{}}", "size": "0", "count": "count"}
    source = folder / "stub.c"
    source.write_text(STUB.format(**defaults | values))
    return build(folder, source)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"description": "unavailable: on strike"}, "unavailable: on strike"),
        ({"version": "7"}, "agent: the mirror is of version 7, this is 1"),
    ],
)
def test_mirrors_that_cannot_work_are_named(
    tmp_path: Path, values: dict[str, str], message: str
) -> None:
    stub = build_stub(tmp_path, **values)
    done = subprocess.run([stub, "--probe"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"{message}\n")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "capacity + 1"}, "the mirror answered outside its buffers"),
        ({"count": "count + 1"}, "the mirror answered outside its buffers"),
        ({"count": "0"}, "the outcomes of 1 operations do not fit in 67108864 bytes"),
    ],
)
def test_mirrors_that_answer_nonsense_are_stopped(
    tmp_path: Path, values: dict[str, str], message: str
) -> None:
    stub = build_stub(tmp_path, **values)
    child = Child(lambda file: [str(stub), "--fd", str(file)], dict(os.environ))
    client = RemoteCandidate(Stream.of_socket(child.socket))
    client.reset(GEOMETRY)
    with pytest.raises(RefusedError, match=message):
        client.run([read_words(1)])
    assert child.death(SECONDS) == "exited with status 1"
    child.end()


def test_probe_prints_the_description(program: Path) -> None:
    done = subprocess.run([program, "--probe"], capture_output=True, check=True)
    assert decode_description(done.stdout).name == "example mirror in C"
