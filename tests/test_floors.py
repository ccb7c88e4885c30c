"""The floors of the house: a file imports only from its own floor or one below, and only `http.py` knows HTTP."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilient_llm

SOURCE = Path(resilient_llm.__file__).parent
PACKAGE = "resilient_llm"

# A folder stands for every file in it that has no row of its own. Within a floor files may use each other, but not in
# circles: the next test sees to that.
FLOORS: dict[str, int] = {
    "_errors": 0,
    "_messages": 0,
    "_types": 0,
    "_records": 0,
    "_replies": 0,
    "_deadline": 0,
    "_loops": 0,
    "_fork": 0,
    "_numbers": 0,
    "_warnings": 0,
    "_portal": 0,
    "_needs": 0,
    "_quotes": 0,
    "_models": 0,
    "_zones": 0,
    "_detached": 0,
    "_events": 0,
    "events": 0,
    "errors": 0,
    "wire": 1,
    "policies": 1,
    "sentinels": 1,
    "dialects": 1,
    "_watch": 2,  # the clock of an attempt: above the limits that it keeps, below the backends that tell it the phase
    "_canary": 2,
    "backends": 2,
    "_route": 3,
    "_leg": 3,
    "_catalog": 3,
    "_call": 3,
    "_gathered": 3,
    "_fitting": 3,
    "_ending": 3,
    "_run": 3,
    "_explain": 3,
    "_answer": 3,
    "_stream": 3,
    "_verdict": 3,
    "_tools": 3,
    "_typed": 3,
    "_options": 3,
    "serving": 3,
    "_log": 3,
    "_hub": 3,
    "telemetry": 3,
    "telemetry._semconv": 0,  # a table of names
    "_engine": 4,
    "_health": 4,
    "_client": 5,
    "_sync_stream": 5,
    "_sync": 5,
    "": 6,  # the package itself
    "testing": 6,
}
HTTP_LIBRARIES = {"httpx", "httpx2", "httpcore", "httpcore2", "h11"}
MAY_KNOW_HTTP = {
    "backends.http",
    "testing._http",  # the other end of the wire: a server
    "testing._host.transport",  # the same end without a wire
}


PICTURE = Path(__file__).parents[1] / "docs" / "architecture.md"


def test_the_picture_in_the_docs_shows_every_file_on_its_floor() -> None:
    shown = {
        name.removesuffix(".py").removesuffix("/"): int(floor)
        for floor, row in re.findall(r"^\| (\d) \| (.*?) \|", PICTURE.read_text(encoding="utf-8"), re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row)
    }
    shown[""] = shown.pop("__init__")
    assert shown == {name: floor for name, floor in FLOORS.items() if "." not in name}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(name: str) -> int:
    return FLOORS[name] if name in FLOORS else FLOORS[name.partition(".")[0]]


def imports(path: Path, *, runtime: bool = False) -> Iterator[str]:
    """The modules that a file imports, whatever depth the import stands at; for `runtime` none that only types need."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    if runtime:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                skipped |= {one for child in node.body for one in ast.walk(child)}
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                skipped |= {one for child in node.body for one in ast.walk(child)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the floor"
            assert node.module is not None
            whole = (
                node.module == PACKAGE or (SOURCE / node.module.removeprefix(f"{PACKAGE}.").replace(".", "/")).is_dir()
            )
            if whole and node.module.startswith(PACKAGE):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if is_module(inner) else node.module
            else:
                yield node.module


def is_module(name: str) -> bool:
    place = SOURCE.joinpath(*name.split(".")[1:])
    return place.is_dir() or place.with_suffix(".py").is_file()


def inner(path: Path, *, runtime: bool = False) -> set[str]:
    names = {one for one in imports(path, runtime=runtime) if one.partition(".")[0] == PACKAGE}
    return {one.removeprefix(PACKAGE).removeprefix(".") for one in names}


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_a_file_imports_only_downward(path: Path) -> None:
    floor = floor_of(name_of(path))
    typing_only = inner(path) - inner(path, runtime=True)
    above = {one for one in inner(path) - typing_only if floor_of(one) > floor}
    assert not above, f"floor {floor} imports from above: {sorted(above)}"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name_of(path): inner(path, runtime=True) - {name_of(path)} for path in files()}
    left = dict(graph)
    while left:
        free = [name for name, uses in left.items() if not uses & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        for name in free:
            del left[name]


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_only_one_file_knows_an_http_library(path: Path) -> None:
    used = {one.partition(".")[0] for one in imports(path)} & HTTP_LIBRARIES
    assert not used or name_of(path) in MAY_KNOW_HTTP, f"{name_of(path)} imports {used}"


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_no_file_is_crowded(path: Path) -> None:
    source = path.read_text()
    allowed = 375 if path.name == "_errors.py" else 305  # the error tree is one table with its own words
    assert source.count("\n") <= allowed
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 55, f"{node.name} has {length} lines"


# What is not an argument: instants, chance, and the wait for either. A clock may be the default of an argument.
CLOCKS = {"time", "random", "datetime", "secrets", "uuid"}
DECIDES = ("wire", "policies", "sentinels", "_engine", "_run", "_watch", "_stream", "_leg", "_call", "_deadline")
DEFAULTS = {
    "policies.breaker": {"time.monotonic"},  # of a breaker that is used alone
    "_deadline": {"time.monotonic"},  # of a block that knows no client
    "wire._hints": {"time.time"},  # a date in a header is one of the calendar
}
MAKES_ITS_OWN = {"policies._shared": {"random.Random"}}  # processes must not look at a file in step
MAY_WAIT = {"policies.bulkhead", "policies._slots"}  # the queue


def decides(path: Path) -> bool:
    return name_of(path).partition(".")[0] in DECIDES


def of_clocks(nodes: Iterator[ast.AST]) -> set[str]:
    """What is used of the modules that know the time or chance, such as `time.monotonic`."""
    attributes = (one for one in nodes if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name))
    return {ast.unparse(one) for one in attributes if one.value.id in CLOCKS}  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", [path for path in files() if decides(path)], ids=name_of)
def test_where_decisions_are_made_time_and_chance_are_arguments(path: Path) -> None:
    tree, name = ast.parse(path.read_text()), name_of(path)
    hidden = {alias.name for one in ast.walk(tree) if isinstance(one, ast.ImportFrom) and one.module in CLOCKS
              for alias in one.names}  # fmt: skip
    assert hidden <= {"UTC", "datetime"}, "as attributes of their modules they can be seen"
    called = of_clocks(one.func for one in ast.walk(tree) if isinstance(one, ast.Call))
    assert called - {"datetime.fromisoformat", "datetime.fromtimestamp"} <= MAKES_ITS_OWN.get(name, set())
    used = of_clocks(ast.walk(tree)) - called
    assert used - {"random.Random", "datetime.fromisoformat", "datetime.datetime"} <= DEFAULTS.get(name, set())


@pytest.mark.parametrize("path", [path for path in files() if decides(path)], ids=name_of)
def test_nothing_pure_waits_but_the_queue(path: Path) -> None:
    waiting = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    waits = any(isinstance(one, waiting) for one in ast.walk(ast.parse(path.read_text())))
    if name_of(path) not in ("_engine", "_run", "_stream"):
        assert waits == (name_of(path) in MAY_WAIT)
