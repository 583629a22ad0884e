"""Each distribution declares what it imports: an image holds one service and its own needs."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
OWNERS = packages_distributions()
PROJECTS = sorted([*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")])


def imported_names(folder):
    """Returns the top-level packages that the code below a folder imports."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def owners(name):
    """Returns the distributions that may bring a top-level package."""
    if name == "caravan":
        return {"caravan-protos"}
    if name.startswith("caravan_"):
        return {canonicalize_name(name)}
    return {canonicalize_name(owner) for owner in OWNERS.get(name, [name])}


def declared_in(metadata):
    """Returns the distributions that a project needs, or can use where they are installed."""
    extras = metadata.get("optional-dependencies", {}).values()
    texts = [*metadata["dependencies"], *(text for extra in extras for text in extra)]
    return {canonicalize_name(Requirement(text).name) for text in texts}


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_what_is_imported_is_declared(project):
    metadata = tomllib.loads(project.read_text())["project"]
    declared = declared_in(metadata)
    declared.add(canonicalize_name(metadata["name"]))
    imported = set(imported_names(project.parent / "src")) - set(sys.stdlib_module_names)

    undeclared = {name for name in imported if not owners(name) & declared}

    assert undeclared == set()


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_what_is_declared_is_imported(project):
    metadata = tomllib.loads(project.read_text())["project"]
    declared = declared_in(metadata)
    imported = set(imported_names(project.parent / "src"))

    used = {owner for name in imported for owner in owners(name)}

    assert declared - used == set()
