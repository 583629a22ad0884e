"""The excerpts in the READMEs are what stands in the programs."""

import re
import textwrap
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
TOP = FOLDER.parent.parent
EXCERPT = re.compile(r"^From `(\S+)`:\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXCERPTS = EXCERPT.findall((FOLDER / "README.md").read_text())
TOP_EXCERPTS = EXCERPT.findall((TOP / "README.md").read_text())


@pytest.mark.parametrize(
    ("path", "excerpt"),
    [
        *((FOLDER / name, excerpt) for name, excerpt in EXCERPTS),
        *((TOP / name, excerpt) for name, excerpt in TOP_EXCERPTS),
    ],
)
def test_excerpts_are_taken_from_the_programs(path, excerpt):
    source = path.read_text()
    first_line = re.escape(excerpt.partition("\n")[0])
    indents = re.findall(rf"^([ \t]*){first_line}$", source, re.MULTILINE)
    assert any(textwrap.indent(excerpt, indent) in source for indent in indents)


def test_the_readme_shows_every_language():
    assert {name.partition("/")[0] for name, _ in EXCERPTS} == {"go", "node", "java"}
    assert TOP_EXCERPTS
