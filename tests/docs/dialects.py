"""Writes the table of dialects into `docs/dialects.md`: `python -m tests.docs.dialects`."""

from __future__ import annotations

import re
from pathlib import Path

from resilient_llm.dialects import PROFILES, Profile

PAGE = Path(__file__).parents[2] / "docs" / "dialects.md"
_TABLE = re.compile(r"(?s)(<!-- table: .*? -->\n).*?(<!-- end -->)")


def table() -> str:
    """A row for each row of `PROFILES`."""
    lines = ["| server | models | reasoning | what else differs |", "|---|---|---|---|"]
    for providers, models, profile in PROFILES:
        which = f"`{models}`" if models else "all others"
        cells = [providers.replace("|", ", "), which, _reasoning(profile), _others(profile) or "nothing"]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _reasoning(profile: Profile) -> str:
    """The fields that say it, and the levels that are not said by their own name, or not at all."""
    levels = profile.reasoning
    names = sorted({name for fields in levels.values() for name in fields or ()})
    lacking = [level for level, fields in levels.items() if fields is None]
    efforts = {level: (fields or {}).get("reasoning_effort", level) for level, fields in levels.items()}
    words = [" ".join(f"`{name}`" for name in names) or "cannot be asked for"]
    words += [f"{level} is `{effort}`" for level, effort in efforts.items() if effort != level]
    words += [f"no {' or '.join(lacking)}"] if lacking and names else []
    return ", ".join(words)


def _others(profile: Profile) -> str:
    different = {name: value for name, value in profile.differences().items() if name != "reasoning"}
    return ", ".join(_word(name, value) for name, value in different.items())


def _word(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"`{name}`" if value else f"no `{name}`"
    if isinstance(value, frozenset):
        return f"`{name}` {', '.join(f'`{one}`' for one in sorted(value))}"
    return f"`{name}={value}`"


def page() -> str:
    """The page with the table as it should be."""
    return _TABLE.sub(lambda found: found[1] + table() + found[2], PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
