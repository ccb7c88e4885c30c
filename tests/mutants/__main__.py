"""`python -m tests.mutants`, the second half of `make mutants`: the score of each file, and who survived.

A survivor is a change to the code that no test notices. `survivors.toml` lists those that are known, by file and line,
each with its reason. Everybody else is printed as a change, and so is a file whose score is below 90 %: then it fails.
Functions with a decorator (properties, context managers) and constants are not changed by mutmut.
"""

from __future__ import annotations

import ast
import difflib
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MADE = ROOT / "mutants" / "src" / "resilient_llm"
LEAST = 0.9
ALIVE = {0: "survived", 33: "no test calls it"}  # mutmut's exit codes; every other one is a test that noticed


def change(functions: dict[str, str], mutant: str) -> tuple[str, str]:
    """What a mutant changed: the line that was, and the line that is."""
    original = mutant.rpartition("__mutmut_")[0] + "__mutmut_orig"
    before, after = (functions[name].splitlines()[1:] for name in (original, mutant))
    lines = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:3] not in ("---", "+++")]
    was, now = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return was or "a default", now or "another one"


def alive(meta: Path) -> tuple[int, list[tuple[str, str, str]]]:
    """How many mutants of a file there are, and those that no test noticed."""
    source = meta.with_suffix("").read_text(encoding="utf-8")
    functions = {
        node.name: ast.get_source_segment(source, node) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
    if None in codes.values():
        raise SystemExit(f"{meta.stem}: not all of its mutants were tried; run `make mutants` again, it goes on there")
    found = [
        (ALIVE[code], *change(functions, name.rpartition(".")[2])) for name, code in codes.items() if code in ALIVE
    ]
    return len(codes), found


def files() -> Iterator[tuple[str, int, list[tuple[str, str, str]]]]:
    """Every file that has mutants, how many, and who is alive."""
    for meta in sorted(MADE.rglob("*.meta")):
        total, found = alive(meta)
        if total:
            yield meta.relative_to(MADE).with_suffix("").as_posix(), total, found


def main() -> int:
    """Prints the scores, and whoever is not known."""
    known = tomllib.loads(Path(__file__).with_name("survivors.toml").read_text(encoding="utf-8"))
    wrong, everyone, killed = 0, 0, 0
    for name, total, found in files():
        reasons = known.get(name, {})
        unknown = [one for one in found if one[2] not in reasons]
        score = 1 - len(found) / total
        print(f"{name:28} {total:4} mutants, {score:6.1%} noticed, {len(found) - len(unknown):2} known to survive")
        for how, was, now in unknown:
            print(f"    {how}:\n      - {was}\n      + {now}")
        wrong += len(unknown) + (score < LEAST)
        everyone, killed = everyone + total, killed + total - len(found)
    print(f"{'all':28} {everyone:4} mutants, {killed / max(everyone, 1):6.1%} noticed")
    return 1 if wrong or not everyone else 0


if __name__ == "__main__":
    sys.exit(main())
