"""The documents name the fields of certificates and descriptions, and show files that load."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from conformance.certificate import Certificate, FailureRecord, Identity, Lengths, Searched
from conformance.expect import Expectation, load_expectations
from conformance.pct import PctPromise
from conformance.verdicts import RuleResult, Verdict
from reference.description import Description
from reference.syncmodels import Sync

DOCS = Path(__file__).parents[1] / "docs"
STRUCTS = (
    Description,
    Certificate,
    Identity,
    RuleResult,
    FailureRecord,
    Lengths,
    Searched,
    PctPromise,
    Expectation,
)
TEXT = "".join((DOCS / name).read_text("utf-8") for name in ("candidates.md", "certificates.md"))


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_is_in_its_table(struct: type[msgspec.Struct]) -> None:
    (rows,) = re.findall(rf"^<!-- fields: {struct.__name__} -->\n\n((?:\|.*\n)+)", TEXT, re.M)
    named = re.findall(r"^\| `(\w+)` \| \S", rows, re.M)
    assert named == [field.encode_name for field in msgspec.structs.fields(struct)]


def test_every_table_of_fields_is_checked() -> None:
    named = re.findall(r"<!-- fields: (\w+) -->", TEXT)
    assert sorted(named) == sorted(struct.__name__ for struct in STRUCTS)


def example(tmp_path: Path) -> Path:
    path = tmp_path / "expect.toml"
    (text,) = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("model", "rules"), [(Sync.FAULTING, ["I12", "R2"]), (Sync.REGISTRATION, ["R2"])]
)
def test_the_file_of_expected_failures_loads(tmp_path: Path, model: Sync, rules: list[str]) -> None:
    assert [each.rule for each in load_expectations(example(tmp_path), model)] == rules


def test_verdicts_are_those_of_the_code() -> None:
    documented = (DOCS / "certificates.md").read_text("utf-8")
    for verdict in Verdict:
        assert f"`{verdict}`" in documented
