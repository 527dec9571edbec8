"""The documents say what the code does."""

import doctest
import re
from pathlib import Path
from types import ModuleType

import pytest

import reference.rules
import reference.text
from reference import tables
from reference.mirrors import MIRRORS
from reference.model import judge
from reference.operations import Kind
from reference.outcomes import Status
from reference.rules import RULES, family
from reference.tables import DOCS, FAMILIES, TABLES, refresh
from reference.text import ParseError, dump, parse
from reference.trace import Trace

PAGES = sorted(DOCS.glob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def fenced(page: str, language: str) -> list[str]:
    """The code blocks of a document in one language."""
    text = (DOCS / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def by_hand(page: str) -> str:
    """A document without its generated blocks."""
    text = (DOCS / page).read_text("utf-8")
    return re.sub(r"<!-- begin.*?<!-- end generated -->", "", text, flags=re.DOTALL)


@every_page
def test_generated_blocks_are_up_to_date(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.count("<!-- begin generated: ") == text.count("<!-- end generated -->")
    assert refresh(text) == text, "run: python -m reference.tables"


def test_every_table_stands_somewhere() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    for name in TABLES:
        assert f"<!-- begin generated: {name} -->" in text


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_well_formed(name: str) -> None:
    heights = []
    for block in re.findall(r"(?:^\|.*\n?)+", TABLES[name](), re.MULTILINE):
        rows = block.splitlines()
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {rows[0].count("|")}
        assert set(rows[1]) == set("| -")
        heights.append(len(rows))
    assert heights
    assert min(heights) > 2


def test_bars_in_cells_are_escaped() -> None:
    assert tables.table(["a"], [["x|y"]]).splitlines()[2] == "| x\\|y |"


def test_a_block_that_was_changed_is_made_anew() -> None:
    good = refresh("before\n<!-- begin generated: flags -->\n<!-- end generated -->\nbehind\n")
    assert good.startswith("before\n")
    assert good.endswith("behind\n")
    assert "| 32 | `NONBLOCK` |" in good
    assert refresh(good.replace("32", "33")) == good


def test_a_block_of_an_unknown_table_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^no such table: 'flag', only operations, .*$"):
        refresh("<!-- begin generated: flag -->\n<!-- end generated -->\n")


def test_the_command_writes_what_is_out_of_date_and_only_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- begin generated: events -->\nold\n<!-- end generated -->\n", "utf-8")
    (tmp_path / "plain.md").write_text("Nothing generated.\n", "utf-8")
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    tables.main()
    assert capsys.readouterr().out == f"{page}\n"
    assert "| 3 | `PROTECTION_PAGE` |" in page.read_text("utf-8")
    tables.main()
    assert capsys.readouterr().out == ""


def test_families_have_titles_in_the_order_of_the_rules() -> None:
    assert list(FAMILIES) == list(dict.fromkeys(map(family, RULES)))


def test_every_rule_is_in_the_contract_once() -> None:
    rows = re.findall(r"^\| \*\*(\S+)\*\* \|", TABLES["rules"](), re.MULTILINE)
    assert rows == list(RULES)


def test_rules_that_the_contract_cites_exist() -> None:
    text = by_hand("contract.md") + by_hand("operations.md")
    cited = set(re.findall(r"\b([A-Z][0-9]{1,2})\b", text))
    assert cited
    assert cited <= set(RULES)


def test_every_operation_and_status_is_explained() -> None:
    text = by_hand("operations.md")
    for kind in Kind:
        assert re.search(rf"[`\s]{kind.name.lower()}\b", text), kind
    for status in Status:
        assert f"\n| {status.name} | " in text


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")
    ):
        other = page.parent / target if target else page
        assert other.is_file(), target
        heads = re.findall(r"^#+ (.*)$", other.read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
        assert not anchor or anchor in anchors


def test_the_example_is_a_program_as_it_is_printed() -> None:
    examples = fenced("program-format.md", "lastwriter")
    assert len(examples) == 3
    for example in examples:
        assert dump(parse(example)) == example


def test_the_example_does_what_its_comments_say() -> None:
    program = parse(fenced("program-format.md", "lastwriter")[0])
    mirror = MIRRORS["faulting"]()
    mirror.reset(program.geometry)
    outcomes = tuple(mirror.run(program.operations))
    assert judge(Trace(program, outcomes)).violation is None
    first, second = (comment.index for comment in program.comments if comment.inline)
    assert outcomes[first].data == b"".join(
        value.to_bytes(8, "little") for value in (0x100000, 0x100001)
    )
    assert outcomes[second].status == Status.FAULT


def test_what_is_left_out_has_the_default_that_the_document_states() -> None:
    example = parse(fenced("program-format.md", "lastwriter")[0])
    bare = parse("lastwriter 1\n")
    assert (bare.geometry, bare.model, bare.seed) == (example.geometry, example.model, 0)


def test_the_error_message_is_the_one_that_comes() -> None:
    lines = fenced("program-format.md", "lastwriter")[0].split("\n")
    lines[11] = lines[11].partition(" length=")[0]
    with pytest.raises(ParseError) as caught:
        parse("\n".join(lines), "moved.lw")
    assert f"{caught.value}\n" in fenced("program-format.md", "text")


def test_the_packed_example_is_what_the_text_packs_to() -> None:
    packed = parse(fenced("program-format.md", "lastwriter")[-1]).to_bytes()
    (dumped,) = fenced("program-format.md", "hexdump")
    rows = [row.split("  ", 1) for row in dumped.splitlines()]
    assert [int(offset, 16) for offset, _ in rows] == list(range(0, len(packed), 16))
    assert bytes.fromhex(" ".join(row for _, row in rows)) == packed


@pytest.mark.parametrize("module", [reference.rules, reference.text])
def test_examples_in_docstrings(module: ModuleType) -> None:
    failed, attempted = doctest.testmod(module)
    assert attempted > 0
    assert failed == 0
