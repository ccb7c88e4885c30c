"""What the package shows: sorted, honest, small, and the same at run time as in the sources."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import resilient_llm
import resilient_llm.errors
import resilient_llm.telemetry
import resilient_llm.testing

PUBLIC = [resilient_llm, resilient_llm.errors, resilient_llm.testing, resilient_llm.telemetry]


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_all_is_sorted_and_every_name_exists(module: ModuleType) -> None:
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_nothing_public_is_left_out_of_all(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())
    names = [
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("resilient_llm")
        for alias in node.names
    ]
    assert {name for name in names if not name.startswith("_")} == set(module.__all__)


def test_the_package_shows_at_most_sixty_names() -> None:
    assert len(resilient_llm.__all__) <= 60


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_everything_public_is_documented(module: ModuleType) -> None:
    bare = []
    for name in module.__all__:
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if not inspect.getdoc(thing) or (thing.__doc__ or "").startswith(f"{name}("):  # what a dataclass makes itself
            bare.append(name)
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not member.startswith("_") and inspect.isfunction(value) and not inspect.getdoc(value):
                bare.append(f"{name}.{member}")
    assert not bare


def test_every_error_is_exported_from_errors() -> None:
    from resilient_llm import _errors

    classes = {
        name for name, value in vars(_errors).items() if inspect.isclass(value) and value.__module__ == _errors.__name__
    }
    assert classes == set(resilient_llm.errors.__all__)
