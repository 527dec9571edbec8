"""The random backend: fresh, repeatable examples for whatever a test draws."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS
from hypothesis.strategies import SearchStrategy

from conformance.backend import NAME, RandomProvider
from conformance.generate import Plan, near_copies, programs
from conformance.shards import plan_for, run_shard, shards
from reference.description import Description
from reference.operations import Kind
from reference.program import Program

EVERYTHING = Plan.for_candidate(
    Description(
        name="everything",
        operations=frozenset(kind.name.lower() for kind in Kind),
        processes=3,
        devices=2,
        files=4,
        keys=4,
        jobs=2,
    )
)
QUICK = settings(
    backend=NAME,
    database=None,
    deadline=None,
    max_examples=100,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def examples(strategy: SearchStrategy[Any], number: int = 1, chosen: settings = QUICK) -> list[Any]:
    found = []

    @seed(number)
    @settings(chosen)
    @given(strategy)
    def run(value: Any) -> None:
        found.append(value)

    run()
    return found


def test_importing_the_module_registers_the_backend() -> None:
    assert AVAILABLE_PROVIDERS[NAME] == f"{RandomProvider.__module__}.RandomProvider"
    assert settings(backend=NAME).backend == NAME


def test_examples_follow_from_the_seed() -> None:
    strategy = st.tuples(st.integers(), st.binary(), st.text(), st.floats(allow_nan=False))
    assert examples(strategy) == examples(strategy)
    assert examples(strategy) != examples(strategy, 2)


def test_derandomized_examples_are_the_same_each_time() -> None:
    found: list[int] = []

    @settings(QUICK, derandomize=True)
    @given(st.integers(0, 2**64))
    def run(value: int) -> None:
        found.append(value)

    run()
    first = found.copy()
    found.clear()
    run()
    assert found == first


def test_no_program_comes_twice_or_nearly() -> None:
    found = examples(programs(EVERYTHING), chosen=settings(QUICK, max_examples=200))
    assert len({program.operations for program in found}) == len(found)
    assert near_copies(found) == 0.0


def test_hypothesis_own_examples_are_often_near_copies() -> None:
    """What the backend is there for; should this fail one day, it has had its day."""
    chosen = settings(QUICK, max_examples=200, backend="hypothesis")
    found = examples(programs(EVERYTHING), chosen=chosen)
    assert near_copies(found) > 0.3


@pytest.mark.parametrize(
    ("strategy", "holds"),
    [
        (st.integers(), lambda value: isinstance(value, int)),
        (st.integers(min_value=7), lambda value: value >= 7),
        (st.integers(max_value=-7), lambda value: value <= -7),
        (st.integers(-3, 3), lambda value: -3 <= value <= 3),
        (st.booleans(), lambda value: isinstance(value, bool)),
        (st.floats(), lambda value: isinstance(value, float)),
        (st.floats(1.5, 2.5), lambda value: 1.5 <= value <= 2.5),
        (st.floats(allow_nan=False, allow_infinity=False), math.isfinite),
        (
            st.floats(0, 1, allow_subnormal=False),
            lambda value: value == 0 or 2.2250738585072014e-308 <= value <= 1,
        ),
        (st.text("ab", min_size=2, max_size=5), lambda v: 2 <= len(v) <= 5 and set(v) <= set("ab")),
        (st.text(max_size=0), lambda value: value == ""),
        (st.binary(min_size=4, max_size=4), lambda value: len(value) == 4),
        (st.lists(st.integers(0, 9), min_size=1, unique=True), lambda v: len(set(v)) == len(v)),
        (st.sampled_from("xyz").filter(lambda letter: letter != "y"), lambda v: v in "xz"),
    ],
    ids=lambda value: None if callable(value) else repr(value),  # no addresses in names
)
def test_draws_keep_their_bounds(
    strategy: SearchStrategy[Any], holds: Callable[[Any], bool]
) -> None:
    assert all(map(holds, examples(strategy)))


def test_integers_are_spread_over_their_whole_range() -> None:
    values = examples(st.integers(0, 2**64 - 1))
    assert sum(value >= 2**63 for value in values) >= 30
    assert min(examples(st.integers())) < -(2**32)


def test_weighted_integers_follow_their_weights() -> None:
    """As a state machine or a sampler may ask for; no public strategy does."""

    class Data:
        _random = Random(1)

    provider = RandomProvider(Data())
    drawn = [provider.draw_integer(0, 9, weights={3: 0.5, 4: 0.3}) for _ in range(1000)]
    assert 420 <= drawn.count(3) <= 620
    assert 220 <= drawn.count(4) <= 420
    assert set(drawn) == set(range(10))


def test_failures_are_replayed_and_shrunk() -> None:
    failing: list[int] = []

    @seed(1)
    @settings(QUICK, phases=[Phase.generate, Phase.shrink])
    @given(st.integers(0, 10**6))
    def run(value: int) -> None:
        if value >= 1000:
            failing.append(value)
            raise AssertionError("too much")

    with pytest.raises(AssertionError, match="too much"):
        run()
    assert failing[-1] == 1000


def test_a_failing_program_shrinks_to_few_operations() -> None:
    lengths: list[int] = []

    @seed(1)
    @settings(QUICK, phases=[Phase.generate, Phase.shrink])
    @given(programs(EVERYTHING))
    def run(program: Any) -> None:
        if any(operation.key for operation in program.operations):
            lengths.append(len(program))
            raise AssertionError("a key")

    with pytest.raises(AssertionError, match="a key"):
        run()
    assert lengths[-1] <= 8


def test_programs_do_not_depend_on_what_else_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hypothesis draws constants that it finds in modules which are not installed."""
    description = EVERYTHING.description
    shard = next(shards(description, 1))
    plan = plan_for(description, description.model, shard)

    def programs() -> list[Program]:
        made: list[Program] = []

        def collect(program: Program, length: int) -> bool:
            made.append(program)
            return True

        run_shard(plan, shard, collect)
        return made

    before = programs()
    constants = [bytes([k] * 9) for k in range(200)]
    (tmp_path / "local_constants.py").write_text(f"A = {constants!r}\nB = {list(range(40, 60))}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(providers, "is_local_module_file", lambda _: True, raising=False)
    importlib.import_module("local_constants")
    assert programs() == before
