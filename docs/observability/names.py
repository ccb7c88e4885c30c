"""Writes `docs/telemetry-names.md` from the tables of the library: `python -m docs.observability.names`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from resilient_llm.telemetry import _semconv as names
from resilient_llm.telemetry import _semconv_metrics as metrics
from resilient_llm.telemetry._semconv_metrics import Metric

PAGE = Path(__file__).parents[1] / "telemetry-names.md"
HEAD = """\
# Names of spans, attributes, events and metrics

Made from `telemetry/_semconv.py` and `telemetry/_semconv_metrics.py` by `python -m docs.observability.names`; a test
holds that it is up to date. What begins with `gen_ai.` is of OpenTelemetry's
[GenAI conventions](https://github.com/open-telemetry/semantic-conventions-genai) v1.41, `http.`, `url.`, `server.` and
`error.` of its general ones, the rest is ours. How to read and use it: [Traces and metrics](telemetry.md).

A name that is here stays or is announced in the changelog. When the conventions are tagged anew, the default follows in
a minor release, and the names before stay to be had by `Telemetry(conventions="1.41")` for one more.
"""
SPANS = (
    ("`chat {model}`, `embeddings {model}`", "client", "`resilient_llm`", "one call, whatever was tried for it"),
    ("`attempt {provider}/{model}`", "client", "`resilient_llm.attempt`", "one request on the wire, below its call"),
    ("`execute_tool {name}`", "internal", "`resilient_llm`", "`with execute_tool(call):`, beside the call"),
)
ON = {
    "call": "On a call",
    "attempt": "On an attempt",
    "tool": "On a tool",
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _attributes(on: str) -> str:
    rows = ((f"`{one.key}`", one.kind, one.when, f"`{one.example}`") for one in names.NAMES.values() if on in one.on)
    return f"## {ON[on]}\n\n{table(('attribute', 'type', 'when', 'for example'), rows)}"


def _keys(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _metrics(every: Iterable[Metric]) -> str:
    rows = ((f"`{one.name}`", one.instrument, f"`{one.unit}`", one.when, _keys(one.labels)) for one in every)
    return table(("metric", "instrument", "unit", "what", "labels, where they are known"), rows)


def _errors() -> str:
    words: dict[str, list[str]] = {}
    for kind, (word, by_status) in names.ERROR_TYPES.items():
        words.setdefault(f"an HTTP status, else `{word}`" if by_status else f"`{word}`", []).append(kind.__name__)
    rows = [(word, _keys(kinds)) for word, kinds in sorted(words.items(), key=lambda one: one[1])]
    rows += [(f"`{names.CANCELLED}`", "the caller's task was cancelled"), (f"`{names.OTHER}`", "anything else")]
    return table(("`error.type`", "errors"), rows)


def page() -> str:
    """The whole page."""
    events = ((f"`{one.name}`", one.when, _keys(one.attributes)) for one in names.EVENTS)
    labels = (
        (f"`{one.key}`", one.kind, one.when, f"`{one.example}`")
        for one in names.NAMES.values()
        if not set(one.on) & set(ON)
    )
    convention = metrics.CONVENTIONS["1.41"]
    renamed = ((_keys([old.name]), _keys([new.name])) for old, new in _renamed())
    return (
        "\n\n".join(
            (
                HEAD.rstrip(),
                "## Spans\n\n" + table(("name", "kind", "scope", "what"), SPANS),
                *(_attributes(on) for on in ON),
                "## `resilient_llm.outcome`\n\n"
                + table(("word", "when"), ((f"`{a}`", b) for a, b in names.OUTCOMES.items())),
                "## `error.type`\n\nA closed list, on spans and as a label.\n\n" + _errors(),
                f"## Events\n\nAt most {names.MAX_EVENTS} on a call. What is searched for is an attribute as well."
                " A call that fails has an `exception` event with type and message, and no stack.\n\n"
                + table(("event", "when", "attributes"), events),
                "## Metrics\n\n" + _metrics((*convention, *metrics.METRICS)),
                "Buckets, in seconds: "
                + ", ".join(f"{one:g}" for one in metrics.DURATIONS)
                + " (the conventions' own and"
                " one more). Of tokens: powers of 4. `gauge` and `updown` are asked for at a scrape.",
                'With `Telemetry(conventions="dev")`:\n\n' + table(("v1.41", "dev"), renamed),
                "## Only in events, labels and the log\n\n" + table(("key", "type", "what", "for example"), labels),
            )
        )
        + "\n"
    )


def _renamed() -> Iterable[tuple[Metric, Metric]]:
    old, new = metrics.CONVENTIONS["1.41"], metrics.CONVENTIONS["dev"]
    yield old.chat_duration, new.chat_duration
    yield old.embed_duration, new.embed_duration
    yield old.first_chunk, new.first_chunk
    yield old.input_tokens, new.input_tokens
    yield old.output_tokens, new.output_tokens


if __name__ == "__main__":
    PAGE.write_text(page())
