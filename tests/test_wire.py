"""The wire protocol: frames, payloads, streams, and its description in the docs."""

from __future__ import annotations

import itertools
import math
import os
import random
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import wire
from adapters.client import BATCH_DATA, batches, refusal
from adapters.wire import (
    MAX_PAYLOAD,
    ClosedError,
    CrashedError,
    DeadlineError,
    Frame,
    FrameDecoder,
    FrameType,
    HeavyError,
    RefusedError,
    Stream,
    WireError,
)
from reference.description import Description
from reference.geometry import Geometry
from reference.operations import Flag, Kind, Operation
from reference.outcomes import Outcome, Status

EXAMPLE = Description(name="example", operations=frozenset({"map", "read"}))
DESCRIPTION = b'{"name":"tiny","operations":["map","read","write"]}'
DOCS = Path(__file__).parents[1] / "docs" / "wire.md"

fixed = settings(derandomize=True, database=None, deadline=None)
frames = st.builds(Frame, st.sampled_from(FrameType), st.binary(max_size=64))
operations = st.builds(
    Operation,
    st.sampled_from(Kind).map(int),
    *[
        st.integers(0, 2**bits - 1)
        for bits in (8, 8, 8, 16, 16, 32, 32, 16, 8, 8, 8, 8, 16, 64, 64)
    ],
)
outcomes = st.builds(
    Outcome,
    st.sampled_from(Status).map(int),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=40),
)


def pieces_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[start:end] for start, end in itertools.pairwise(places))


class TestFrameDecoder:
    @fixed
    @given(st.lists(frames), st.lists(st.integers(0, 10**6)))
    def test_gives_the_same_frames_however_the_stream_is_cut(
        self, sent: list[Frame], cuts: list[int]
    ) -> None:
        stream = b"".join(wire.encode_frame(*frame) for frame in sent)
        decoder = FrameDecoder()
        assert [frame for piece in pieces_of(stream, cuts) for frame in decoder.feed(piece)] == sent
        assert not decoder.partial

    @fixed
    @given(st.lists(frames), st.binary(max_size=200), st.lists(st.integers(0, 10**6)))
    def test_raises_nothing_but_wire_errors(
        self, good: list[Frame], rest: bytes, cuts: list[int]
    ) -> None:
        stream = b"".join(wire.encode_frame(*frame) for frame in good) + rest
        decoder = FrameDecoder()
        found: list[Frame] = []
        try:
            for piece in pieces_of(stream, cuts):
                found += decoder.feed(piece)
            found += decoder.feed(b"")
        except WireError:
            assert len(rest) >= 5
        assert found[: len(good)] == good
        assert sum(5 + len(frame.payload) for frame in found) <= len(stream)

    def test_takes_no_memory_for_bytes_that_have_not_come(self) -> None:
        decoder = FrameDecoder()
        header = MAX_PAYLOAD.to_bytes(4, "little") + bytes([FrameType.RUN])
        tracemalloc.start()
        try:
            assert decoder.feed(header + b"abc") == []
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 100_000
        assert decoder.partial

    @pytest.mark.parametrize(
        ("header", "problem"),
        [
            ((MAX_PAYLOAD + 1).to_bytes(4, "little") + b"\x01", "a frame of 67108865 bytes"),
            (b"\xff\xff\xff\xff\x08", "a frame of 4294967295 bytes"),
            (b"\0\0\0\0\0", "unknown type 0"),
            (b"\0\0\0\0\x0c", "unknown type 12"),
        ],
    )
    def test_refuses_a_header_before_its_payload(self, header: bytes, problem: str) -> None:
        with pytest.raises(WireError, match=problem):
            FrameDecoder().feed(header)

    def test_gives_out_good_frames_before_the_error_behind_them(self) -> None:
        decoder = FrameDecoder()
        assert decoder.feed(wire.encode_frame(FrameType.READY) + b"\0\0\0\0\0") == [
            (FrameType.READY, b"")
        ]
        for _ in range(2):
            with pytest.raises(WireError, match="unknown type 0"):
                decoder.feed(b"")

    def test_no_frame_is_sent_that_would_be_refused(self) -> None:
        with pytest.raises(WireError, match="too long"):
            wire.encode_frame(FrameType.RESULT, bytes(MAX_PAYLOAD + 1))


class TestPayloads:
    @fixed
    @given(st.lists(operations, max_size=20))
    def test_operations_come_back(self, sent: list[Operation]) -> None:
        assert wire.decode_run(wire.encode_run(sent)) == sent

    @fixed
    @given(st.lists(outcomes, max_size=20))
    def test_outcomes_come_back(self, sent: list[Outcome]) -> None:
        assert wire.decode_result(wire.encode_result(sent), len(sent)) == sent

    def test_geometry_and_description_come_back(self) -> None:
        geometry = Geometry(page_size=65536, pages=3, processes=1, jobs=0)
        assert wire.decode_geometry(wire.encode_geometry(geometry)) == geometry
        assert wire.decode_description(wire.encode_description(EXAMPLE)) == EXAMPLE

    @pytest.mark.parametrize(
        "decode",
        [
            wire.check_hello,
            wire.decode_geometry,
            wire.decode_description,
            wire.decode_run,
            lambda payload: wire.decode_result(payload, 2),
        ],
        ids=["hello", "geometry", "description", "run", "result"],
    )
    def test_decoders_raise_nothing_but_wire_errors(
        self, decode: Callable[[bytes], object]
    ) -> None:
        @fixed
        @given(st.binary(max_size=100) | st.binary(max_size=100).map(b"\x02\0\0\0".__add__))
        def check(payload: bytes) -> None:
            try:
                decode(payload)
            except WireError as error:
                assert str(error)  # noqa: PT017 (most payloads are refused, not all)

        check()

    @pytest.mark.parametrize(
        ("payload", "problem"),
        [
            (b"LWRT\x07\0", "speaks version 7, this is version 1"),
            (b"LWRT\x07\0" + bytes(100), "speaks version 7, this is version 1"),
            (b"LWRT\x01\0\x28\0\x10\0\0", "other record sizes: 28 00 10 00 00"),
            (b"LWRT\x01\0\x30\0\x10\0\0\0", "other record sizes: 30 00 10 00 00 00"),
            (b"LWRT\x01", "does not greet"),
            (b"HTTP/1.1 400", "does not greet"),
            (b"", "does not greet"),
        ],
    )
    def test_hello(self, payload: bytes, problem: str) -> None:
        wire.check_hello(wire.encode_hello())
        with pytest.raises(WireError, match=problem):
            wire.check_hello(payload)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"operations": ["fly"]}, "no such operation: fly"),
            ({"operations": "map"}, "Expected `array`"),
            ({"processes": 9}, "processes: 9"),
            ({"surprise": 1}, "unknown field `surprise`"),
            ({"page_sizes": []}, "page_sizes: empty"),
            ({"write_unit": 4}, "write_unit: 4 is no part of a page slot"),
            ({"write_unit": 8192}, "write_unit: 8192 is no part of a page slot"),
            ({"atomicity": 4}, "atomicity: 4 is neither 1 nor 8"),
            ({"name": "\x1b[2J"}, "unprintable characters"),
            ({"notes": ["a\nb"]}, "unprintable characters"),
            ({"left_out": {"map": "\x07"}}, "unprintable characters"),
        ],
    )
    def test_bad_descriptions(self, change: dict[str, object], problem: str) -> None:
        fields = msgspec.json.decode(wire.encode_description(EXAMPLE)) | change
        with pytest.raises(WireError, match=problem):
            wire.decode_description(msgspec.json.encode(fields))

    @pytest.mark.parametrize(
        ("payload", "problem"),
        [
            (b"{", "bad description"),
            (b"\xff\xfe", "bad description"),
            (b" " * (1 << 20) + b"{}", "more than 1048576"),
        ],
    )
    def test_descriptions_that_are_no_json(self, payload: bytes, problem: str) -> None:
        with pytest.raises(WireError, match=problem):
            wire.decode_description(payload)

    def test_counts_must_fit_their_payload(self) -> None:
        with pytest.raises(WireError, match="4294967295 operations do not fill"):
            wire.decode_run(b"\xff" * 4 + bytes(40))
        with pytest.raises(WireError, match="holds no count"):
            wire.decode_run(b"\0\0")
        with pytest.raises(WireError, match="1 outcomes for 2 operations"):
            wire.decode_result(wire.encode_result([Outcome(0)]), 2)
        with pytest.raises(WireError, match="2 outcomes do not fit"):
            wire.decode_result(b"\x02\0\0\0" + bytes(16), 2)
        with pytest.raises(WireError, match="outcome 0: data 0\\+9 lies outside"):
            wire.decode_result(wire.encode_result([Outcome(0, data=bytes(9))])[:-1], 1)

    def test_outcomes_cannot_share_data_to_make_much_of_little(self) -> None:
        count, data = 2000, bytes(1 << 16)
        record = bytes(12) + len(data).to_bytes(4, "little")
        payload = count.to_bytes(4, "little") + record * count + data
        with pytest.raises(WireError, match="131072000 bytes of data in a side buffer of 65536"):
            wire.decode_result(payload, count)

    def test_many_outcomes_with_much_data_are_no_offence(self) -> None:
        sent = [Outcome(0, done=1 << 16, data=bytes(1 << 16))] * 40
        assert wire.decode_result(wire.encode_result(sent), 40) == sent

    def test_error_texts_are_safe_to_show(self) -> None:
        assert (
            wire.decode_error("grün\n\x1b[2J\xff".encode("latin-1")) == "gr\ufffdn\n\ufffd[2J\ufffd"
        )
        assert wire.decode_error(wire.encode_error("grün")) == "grün"
        assert wire.decode_error(b"") == "no reason given"
        assert len(wire.encode_error("x" * 10**6)) == 64 << 10


class TestBatches:
    @staticmethod
    def read(length: int, job: int = 0) -> Operation:
        return Operation(Kind.DREAD, 0, 0, 0, 0, 0, length=length, job=job)

    def test_a_small_program_is_one_batch(self) -> None:
        assert list(batches([self.read(8)] * 100)) == [100]
        assert list(batches([])) == []

    def test_data_is_bounded(self) -> None:
        reads = [self.read(1 << 20)] * 40
        assert list(batches(reads)) == [16, 16, 8]

    def test_writes_give_no_data(self) -> None:
        writes = [self.read(1 << 20)._replace(kind=Kind.DWRITE)] * 40
        assert list(batches(writes)) == [40]

    def test_data_of_a_job_comes_with_its_wait(self) -> None:
        job = [self.read(4 << 20, job=1)] * 4
        submit = Operation(Kind.SUBMIT, 0, 0, 0, 0, 0, job=1)
        wait = submit._replace(kind=Kind.WAIT)
        # 16 MiB and four records are too much to have anything beside them.
        assert list(batches([*job, submit, self.read(8), wait, self.read(8)])) == [6, 1, 1]

    def test_a_single_operation_may_need_more(self) -> None:
        assert list(batches([self.read(BATCH_DATA + 8)] * 2)) == [1, 1]

    @fixed
    @given(st.lists(st.integers(1, 1 << 19).map(lambda words: 8 * words)))
    def test_nothing_is_lost(self, lengths: list[int]) -> None:
        reads = [self.read(length) for length in lengths]
        found = list(batches(reads))
        assert sum(found) == len(reads)
        assert 0 not in found


def socket_pair() -> tuple[Stream, Stream]:
    ours, theirs = socket.socketpair()
    return Stream.of_socket(ours), Stream.of_socket(theirs)


def pipe_pair() -> tuple[Stream, Stream]:
    (from_ours, to_theirs), (from_theirs, to_ours) = os.pipe(), os.pipe()
    return Stream.of_files(from_theirs, to_theirs), Stream.of_files(from_ours, to_ours)


@pytest.fixture(params=[socket_pair, pipe_pair], ids=["socket", "pipes"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Stream, Stream]]:
    ours, theirs = request.param()
    yield ours, theirs
    ours.close()
    theirs.close()


class TestStream:
    def test_frames_arrive_in_order(self, pair: tuple[Stream, Stream]) -> None:
        ours, theirs = pair
        ours.send(FrameType.RESET, b"first")
        ours.send(FrameType.BYE)
        assert theirs.receive() == (FrameType.RESET, b"first")
        assert theirs.unread
        assert theirs.receive() == (FrameType.BYE, b"")
        assert not theirs.unread

    def test_a_deadline_ends_waiting(self, pair: tuple[Stream, Stream]) -> None:
        ours, _ = pair
        with pytest.raises(DeadlineError):
            ours.receive(deadline=time.monotonic() + 0.001)
        with pytest.raises(DeadlineError):
            ours.send(FrameType.RUN, bytes(8 << 20), deadline=time.monotonic() + 0.001)

    def test_a_trickle_does_not_put_off_the_deadline(self) -> None:
        data = iter(wire.encode_frame(FrameType.READY, bytes(100)))
        stream = Stream(lambda _: bytes([next(data)]), len, (-1, -1), lambda: None)
        with pytest.raises(DeadlineError):
            stream.receive(deadline=-math.inf)
        assert next(data) == 0
        slow = Stream(lambda _: b"", lambda _: 1, (-1, -1), lambda: None)
        with pytest.raises(DeadlineError):
            slow.send(FrameType.READY, deadline=-math.inf)

    def test_what_has_come_is_received_after_the_deadline(
        self, pair: tuple[Stream, Stream]
    ) -> None:
        ours, theirs = pair
        ours.send(FrameType.READY)
        assert theirs.receive(deadline=-math.inf).type == FrameType.READY

    def test_the_peer_hangs_up(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.send(wire.encode_frame(FrameType.READY) + b"\x09\0\0\0\x07abc")
        stream = Stream.of_socket(ours)
        assert stream.receive().type == FrameType.READY
        with pytest.raises(ClosedError, match="hung up within a frame"):
            stream.receive()
        with pytest.raises(ClosedError, match="hung up: Broken pipe"):
            stream.send(FrameType.BYE)
        stream.close()

    def test_large_frames_pass_through_small_buffers(self, pair: tuple[Stream, Stream]) -> None:
        ours, theirs = pair
        payload = random.Random(1).randbytes(3 << 20)
        with ThreadPoolExecutor(1) as pool:
            received = pool.submit(theirs.receive)
            ours.send(FrameType.RUN, payload)
            assert received.result() == (FrameType.RUN, payload)

    def test_idle_is_called_while_waiting_and_may_end_it(self, pair: tuple[Stream, Stream]) -> None:
        ours, theirs = pair
        turns = iter(range(4))

        def idle() -> None:
            if next(turns) == 1:
                theirs.send(FrameType.READY)

        ours.idle = idle
        assert ours.receive().type == FrameType.READY
        with pytest.raises(StopIteration):
            ours.receive()


def hexdump(data: bytes) -> Iterator[str]:
    for at in range(0, len(data), 16):
        yield f"    {at:04x}  {data[at : at + 16].hex(' ')}"


def example_conversation() -> str:
    """The frames of a conversation in which a word is written and read back."""
    geometry = Geometry(pages=4, processes=1, devices=1, files=0, keys=0, jobs=0)
    asked = [
        Operation(Kind.MAP, 0, 0, Flag.READ | Flag.WRITE, page=1, pages=2),
        Operation(Kind.WRITE, 0, 0, 0, page=1, pages=0, offset=16, length=8, value=0x1234),
        Operation(Kind.READ, 0, 0, 0, page=1, pages=0, offset=16, length=8),
    ]
    answer = [Outcome(Status.OK), Outcome(0, done=8), Outcome(0, 0, 8, b"\x34\x12" + bytes(6))]
    conversation = [
        ("client", FrameType.HELLO, wire.encode_hello()),
        ("agent", FrameType.HELLO, wire.encode_hello()),
        ("client", FrameType.DESCRIBE, b""),
        ("agent", FrameType.DESCRIPTION, DESCRIPTION),
        ("client", FrameType.RESET, wire.encode_geometry(geometry)),
        ("agent", FrameType.READY, b""),
        ("client", FrameType.RUN, wire.encode_run(asked)),
        ("agent", FrameType.RESULT, wire.encode_result(answer)),
        ("client", FrameType.BYE, b""),
    ]
    lines = []
    for who, kind, payload in conversation:
        lines += [f"{who} {kind.name}", *hexdump(wire.encode_frame(kind, payload))]
    return "\n".join(lines) + "\n"


class TestDocs:
    def test_the_description_in_the_example_is_one(self) -> None:
        assert wire.decode_description(DESCRIPTION).name == "tiny"

    def test_the_example_is_what_is_sent(self) -> None:
        assert f"```text\n{example_conversation()}```\n" in DOCS.read_text()

    def test_the_error_of_a_crash_is_what_is_sent(self) -> None:
        error = wire.encode_frame(
            FrameType.ERROR, wire.encode_error("crash: was killed by SIGSEGV")
        )
        dump = "\n".join(["agent ERROR", *hexdump(error)])
        assert f"```text\n{dump}\n```\n" in DOCS.read_text()

    @pytest.mark.parametrize(
        ("cause", "kind"),
        [("garbage", WireError), ("crash", CrashedError), ("memory", HeavyError)],
    )
    def test_every_word_for_what_befell_a_candidate_is_known(
        self, cause: str, kind: type[WireError]
    ) -> None:
        assert f"| `{cause}: ` |" in DOCS.read_text()
        error = refusal(Frame(FrameType.ERROR, wire.encode_error(f"{cause}: how: it was")))
        assert (type(error), str(error)) == (kind, "how: it was")
        for other in (f"{cause} how", "hang: x", "nothing"):
            plain = refusal(Frame(FrameType.ERROR, wire.encode_error(other)))
            assert (type(plain), str(plain)) == (RefusedError, other)

    def test_every_frame_type_has_its_row(self) -> None:
        text = DOCS.read_text()
        assert [f"| {kind.value} | {kind.name} |" in text for kind in FrameType] == [True] * 11
