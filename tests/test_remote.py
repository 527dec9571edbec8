"""Agents at addresses: clients, listeners, TLS, and peers that speak something else."""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from authorities import Authority

from adapters.address import Address, connect, listen
from adapters.candidate import Candidate, CandidateError, Scheduled
from adapters.client import RemoteCandidate
from adapters.examples.tiny import Tiny
from adapters.listener import Listener
from adapters.registry import open_candidate
from adapters.server import serve
from adapters.tls import TlsFiles
from adapters.worker import Limits, Worker
from reference.geometry import Geometry
from reference.operations import Flag, Kind, Operation
from reference.outcomes import Outcome, Status
from reference.program import Program
from reference.trace import Breakdown, Cause

MISBEHAVING = Path(__file__).with_name("misbehaving.py")
BAD = 0xBAD
MANY_SECONDS = 60.0
PATIENT = Limits(seconds=MANY_SECONDS)
FAR = "192.0.2.1"  # an address for documentation: never ours, and never connected to here
GEOMETRY = Geometry(pages=4, processes=1, devices=1, files=0, keys=0, jobs=0)
OPERATIONS = (
    Operation(Kind.MAP, 0, 0, Flag.READ | Flag.WRITE, page=0, pages=1),
    Operation(Kind.ATTACH, 0, 0, 0, page=0, pages=0),
    Operation(Kind.DWRITE, 0, 0, 0, page=0, pages=0, length=8, value=7),
    Operation(Kind.READ, 0, 0, 0, page=0, pages=0, length=8),
)
ANSWER = Outcome(Status.OK, done=8, data=b"\x07" + bytes(7))


def program(value: int = 7) -> Program:
    write = OPERATIONS[2]._replace(value=value)
    return Program((*OPERATIONS[:2], write, OPERATIONS[3]), GEOMETRY)


Start = Callable[..., Listener]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a listener that serves a number of clients, and checks that it did."""
    with ThreadPoolExecutor(8) as pool, contextlib.ExitStack() as cleanup:

        def start(
            address: str = "tcp:127.0.0.1:0",
            *,
            clients: int = 1,
            make: Callable[[], Candidate | Scheduled] = Tiny,
            tls: TlsFiles | None = None,
        ) -> Listener:
            listener = Listener(address, partial(serve, make=make, name="tiny"), tls)

            def serve_all() -> None:
                for _ in range(clients):
                    listener.serve_one()

            served = pool.submit(serve_all)
            cleanup.callback(served.result, MANY_SECONDS)
            cleanup.callback(listener.close)
            return listener

        yield start


def use(client: RemoteCandidate) -> None:
    """Run a program, in two batches, and leave."""
    client.reset(GEOMETRY)
    assert [outcome.status for outcome in client.run(OPERATIONS[:3])] == [0, 0, 0]
    assert client.run(OPERATIONS[3:]) == [ANSWER]
    client.close()


class TestAgents:
    @pytest.mark.parametrize("kind", ["tcp4", "tcp6", "name", "unix"])
    def test_serve_one_client_after_another(self, kind: str, start: Start, tmp_path: Path) -> None:
        addresses = {
            "tcp4": "tcp:127.0.0.1:0",
            "tcp6": "tcp:[::1]:0",
            "name": "tcp:localhost:0",
            "unix": f"unix:{tmp_path}/agent",
        }
        listener = start(addresses[kind], clients=3)
        for _ in range(2):
            client = RemoteCandidate.connect(listener.address, seconds=MANY_SECONDS)
            assert client.describe().name == "tiny"
            use(client)
        candidate = open_candidate(listener.address)
        assert isinstance(candidate, RemoteCandidate)
        use(candidate)

    def test_a_worker_comes_back_after_a_breakdown(self, start: Start) -> None:
        def make() -> Candidate | Scheduled:
            return open_candidate(f"{MISBEHAVING}:GivesTooFew")

        listener = start(clients=2, make=make)
        with Worker(listener.address, limits=PATIENT) as worker:
            assert worker.run(program()).breakdown is None
            assert worker.run(program(BAD)).breakdown == Breakdown(
                Cause.GARBAGE,
                f"agent at {listener.address}: run gave 3 outcomes for 4 operations",
            )
            assert worker.run(program()).outcomes[-1] == ANSWER

    def test_an_agent_that_cannot_be_found_again(self, start: Start) -> None:
        listener = start(make=lambda: open_candidate(f"{MISBEHAVING}:Raises"))
        with Worker(listener.address, limits=PATIENT) as worker:
            breakdown = worker.run(program(BAD)).breakdown
            assert breakdown is not None
            assert breakdown.cause == Cause.REFUSED
            listener.close()
            with pytest.raises(CandidateError, match=r"no agent at .*: Connection refused"):
                worker.run(program())

    def test_a_candidate_that_cannot_be_made(self, start: Start) -> None:
        def make() -> Candidate | Scheduled:
            raise CandidateError("no device here")

        listener = start(make=make)
        with pytest.raises(CandidateError, match=r"agent at tcp:.*: no device here"):
            Worker(listener.address)


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("tcp:localhost:80", Address("tcp:localhost:80", "localhost", 80)),
            ("tcp:[::1]:80", Address("tcp:[::1]:80", "::1", 80)),
            ("unix:a:b", Address("unix:a:b", path="a:b")),
        ],
    )
    def test_forms(self, text: str, address: Address) -> None:
        assert Address.parse(text) == address

    @pytest.mark.parametrize(
        "text",
        ["tcp:", "tcp:80", "tcp::80", "tcp:host:", "tcp:host:x", "tcp:h:99999", "udp:h:1", "unix:"],
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(
            CandidateError, match=r"an address is tcp:HOST:PORT or|a port is at most"
        ):
            Address.parse(text)

    def test_plain_tcp_stays_on_the_loopback(self) -> None:
        for refuse in (
            lambda: connect(f"tcp:{FAR}:9", None, 0),
            lambda: listen("tcp:0.0.0.0:0", None),
        ):
            with pytest.raises(
                CandidateError, match=r"not a loopback address, .* give certificates"
            ):
                refuse()

    def test_nobody_there(self, tmp_path: Path) -> None:
        with pytest.raises(CandidateError, match=r"no agent at unix:.*: No such file or directory"):
            RemoteCandidate.connect(f"unix:{tmp_path}/nobody")

    def test_a_socket_file_is_for_its_owner(self, start: Start, tmp_path: Path) -> None:
        path = tmp_path / "agent"
        listener = start(f"unix:{path}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        use(RemoteCandidate.connect(listener.address))
        listener.close()
        assert not path.exists()

    def test_a_stale_socket_file_is_replaced(self, start: Start, tmp_path: Path) -> None:
        path = tmp_path / "agent"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        use(RemoteCandidate.connect(start(f"unix:{path}").address))

    def test_a_live_one_and_other_files_are_not(self, tmp_path: Path) -> None:
        path = tmp_path / "agent"
        with socket.socket(socket.AF_UNIX) as live:
            live.bind(str(path))
            live.listen(0)
            # The second attempt meets a queue that the first has filled.
            for _ in range(3):
                with pytest.raises(CandidateError, match="an agent is there already"):
                    listen(f"unix:{path}", None)
        path.unlink()
        path.write_text("precious")
        with pytest.raises(CandidateError, match="there is a file that is no socket"):
            listen(f"unix:{path}", None)
        assert path.read_text() == "precious"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


class TestTls:
    def test_both_sides_show_certificates(self, start: Start, authority: Authority) -> None:
        listener = start(tls=authority.certify("server", "127.0.0.1"))
        tls = authority.certify("client")
        with Worker(listener.address, limits=PATIENT, tls=tls) as worker:
            assert worker.run(program()).outcomes[-1] == ANSWER

    def test_large_answers_pass(self, start: Start, authority: Authority) -> None:
        listener = start(tls=authority.certify("server", "127.0.0.1"))
        client = RemoteCandidate.connect(listener.address, tls=authority.certify("client"))
        client.reset(GEOMETRY._replace(pages=1024))
        read = Operation(Kind.READ, 0, 0, 0, page=0, pages=0, length=1 << 19)
        outcomes = client.run([OPERATIONS[0]._replace(pages=1024), *[read] * 6])
        assert [len(outcome.data) for outcome in outcomes] == [0, *[1 << 19] * 6]
        client.close()

    def refused(
        self, start: Start, server: TlsFiles, client: TlsFiles | None, problem: str
    ) -> None:
        """A client is turned away, for the reason that it is told."""
        listener = start(tls=server)
        with pytest.raises(CandidateError, match=problem):
            RemoteCandidate.connect(listener.address, tls=client, seconds=MANY_SECONDS)

    def test_clients_of_another_authority_are_refused(
        self, start: Start, authority: Authority, stranger: Authority
    ) -> None:
        server = authority.certify("server", "127.0.0.1")
        other = stranger.certify("client")
        client = TlsFiles(other.certificate, other.key, authority.file)
        self.refused(start, server, client, r"agent at tcp:.*: TLS failed: TLSV1_ALERT_UNKNOWN_CA")

    def test_agents_of_another_authority_are_refused(
        self, start: Start, authority: Authority, stranger: Authority
    ) -> None:
        server = stranger.certify("server", "127.0.0.1")
        client = authority.certify("client")
        self.refused(start, server, client, r"agent at tcp:.*: .*certificate")

    def test_agents_with_another_address_are_refused(
        self, start: Start, authority: Authority
    ) -> None:
        server = authority.certify("server", FAR)
        client = authority.certify("client")
        self.refused(start, server, client, r"agent at tcp:.*: IP address mismatch")

    def test_clients_without_tls_are_refused(self, start: Start, authority: Authority) -> None:
        server = authority.certify("server", "127.0.0.1")
        self.refused(start, server, None, r"agent at tcp:.*: ")

    def test_clients_without_a_certificate_are_refused(
        self, start: Start, authority: Authority
    ) -> None:
        listener = start(tls=authority.certify("server", "127.0.0.1"))
        context = ssl.create_default_context(cafile=authority.file)
        place = Address.parse(listener.address)
        with (
            socket.create_connection((place.host, place.port)) as plain,
            context.wrap_socket(plain, server_hostname=place.host) as connection,
            pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
        ):
            connection.recv(1)

    def test_older_versions_of_tls_are_refused(self, start: Start, authority: Authority) -> None:
        listener = start(tls=authority.certify("server", "127.0.0.1"))
        context = authority.certify("client").client_context()
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        place = Address.parse(listener.address)
        with (
            socket.create_connection((place.host, place.port)) as plain,
            pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
        ):
            context.wrap_socket(plain, server_hostname=place.host)

    def test_an_agent_serves_on_after_a_failed_handshake(
        self, start: Start, authority: Authority, capsys: pytest.CaptureFixture[str]
    ) -> None:
        listener = start(clients=2, tls=authority.certify("server", "127.0.0.1"))
        tls = authority.certify("client")
        with pytest.raises(CandidateError):
            RemoteCandidate.connect(listener.address, seconds=MANY_SECONDS)
        use(RemoteCandidate.connect(listener.address, tls=tls, seconds=MANY_SECONDS))
        assert "a client failed to connect" in capsys.readouterr().err

    def test_files_that_cannot_be_used(self, authority: Authority, tmp_path: Path) -> None:
        files = authority.certify("client")
        nothing, junk = tmp_path / "nothing.pem", tmp_path / "junk.pem"
        junk.write_text("junk")
        for tls, problem in (
            (TlsFiles(files.certificate, files.key, nothing), "nothing.pem: No such file"),
            (TlsFiles(files.certificate, files.key, junk), "cannot use .*junk.pem: "),
            (TlsFiles(nothing, files.key, files.authority), "nothing.pem with .*: No such file"),
            (TlsFiles(files.certificate, junk, files.authority), "with .*junk.pem: "),
        ):
            with pytest.raises(CandidateError, match=problem):
                tls.client_context()

    def test_it_is_for_tcp(self, authority: Authority, tmp_path: Path) -> None:
        tls = authority.certify("client")
        for attempt in (
            lambda: connect(f"unix:{tmp_path}/x", tls, 0),
            lambda: listen("unix:x", tls),
        ):
            with pytest.raises(CandidateError, match="TLS is for tcp: addresses"):
                attempt()
