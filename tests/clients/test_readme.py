"""The excerpts in the README are what stands in the programs."""

import re
import textwrap
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
EXCERPTS = re.findall(
    r"^From `(\S+)`:\n```\w+\n(.*?)^```$",
    (FOLDER / "README.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize(("name", "excerpt"), EXCERPTS)
def test_excerpts_are_taken_from_the_programs(name, excerpt):
    source = (FOLDER / name).read_text()
    first_line = re.escape(excerpt.partition("\n")[0])
    indents = re.findall(rf"^([ \t]*){first_line}$", source, re.MULTILINE)
    assert any(textwrap.indent(excerpt, indent) in source for indent in indents)


def test_the_readme_shows_every_language():
    assert {name.partition("/")[0] for name, _ in EXCERPTS} == {"go", "node", "java"}
