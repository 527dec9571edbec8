"""Arbitrary schedules."""

from hypothesis import strategies as st

from reference.schedule import ACTORS, PLAIN, SITES, STRATEGIES, Injection, Schedule, Switch
from reference.schema import U16, U32, U64

actors = st.sampled_from(sorted(ACTORS.values()))
numbers = st.integers(0, 50) | st.integers(0, U32.maximum)
switches = st.builds(Switch, actors, numbers, numbers, actors)
injections = st.builds(Injection, st.sampled_from(SITES), numbers)
schedules = st.just(PLAIN) | st.builds(
    Schedule,
    st.lists(switches, max_size=4).map(tuple),
    st.sampled_from(STRATEGIES),
    st.integers(0, U64.maximum),
    st.integers(0, U16.maximum),
    st.lists(injections, max_size=3).map(tuple),
)
