"""The questions that a dashboard and its alerts ask, as Prometheus is asked; the files are written from here.

`python -m docs.observability.queries` writes `grafana.json` and `alerts.yml`. The names are those that OpenTelemetry's
Prometheus exporter makes: dots become underscores, units are spelt out, counters end in `_total`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DURATION = "gen_ai_client_operation_duration_seconds"
FIRST = "gen_ai_client_operation_time_to_first_chunk_seconds"
TOKENS = "gen_ai_client_token_usage"
BY = "gen_ai_provider_name, gen_ai_request_model"
FAILED = 'error_type!="", error_type!="cancelled"'


def rate(metric: str, labels: str = "", window: str = "$__rate_interval") -> str:
    """How often, or how much, a second."""
    return f"rate({metric}{{{labels}}}[{window}])" if labels else f"rate({metric}[{window}])"


def share(part: str, whole: str, by: str = "") -> str:
    """One sum as a part of another; nothing where there is nothing of either."""
    over = f" by ({by})" if by else ""
    return f"sum{over} ({part}) / sum{over} ({whole})"


def percentile(point: float, metric: str, by: str) -> str:
    """Of a histogram."""
    return f"histogram_quantile({point}, sum by (le, {by}) ({rate(f'{metric}_bucket')}))"


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph of the dashboard.

    Attributes:
        legend: what a line is called.
        help: what it is good for.
    """

    title: str
    unit: str
    query: str
    legend: str
    help: str


MODEL = "{{gen_ai_provider_name}} {{gen_ai_request_model}}"
PANELS = (
    Panel("Calls", "reqps", f"sum by ({BY}) ({rate(f'{DURATION}_count')})", MODEL, "By the model that served."),
    Panel(
        "Calls that failed",
        "percentunit",
        share(rate(f"{DURATION}_count", FAILED), rate(f"{DURATION}_count")),
        "failed",
        "What the application saw: a call that a repeat or another route rescued is none.",
    ),
    Panel(
        "Length of calls, 95 of 100",
        "s",
        percentile(0.95, DURATION, BY),
        MODEL,
        "Retries, queue and fallbacks included.",
    ),
    Panel("First token, 95 of 100", "s", percentile(0.95, FIRST, BY), MODEL, "Of streams, since the call began."),
    Panel(
        "Tokens",
        "short",
        f"sum by ({BY}, gen_ai_token_type) ({rate(f'{TOKENS}_sum')})",
        MODEL + " {{gen_ai_token_type}}",
        "A second, of calls that were served.",
    ),
    Panel(
        "Tokens for nothing",
        "short",
        f"sum by (resilient_llm_route) ({rate('resilient_llm_discarded_tokens_total')})",
        "{{resilient_llm_route}}",
        "Of attempts that did not serve, as far as servers counted them.",
    ),
    Panel(
        "Attempts that failed",
        "reqps",
        "sum by (resilient_llm_route, error_type) ("
        + rate("resilient_llm_attempt_duration_seconds_count", 'resilient_llm_attempt_outcome="failed"')
        + ")",
        "{{resilient_llm_route}} {{error_type}}",
        "What was tried below the calls.",
    ),
    Panel(
        "Repeats for each call",
        "percentunit",
        share(rate("resilient_llm_retries_total"), rate(f"{DURATION}_count")),
        "retries",
        "The budget allows a tenth in the long run.",
    ),
    Panel(
        "Fallbacks for each call",
        "percentunit",
        share(rate("resilient_llm_fallbacks_total"), rate(f"{DURATION}_count")),
        "fallbacks",
        "How much of the traffic the first route does not carry.",
    ),
    Panel(
        "Breakers that are not closed",
        "short",
        "max by (resilient_llm_circuit_breaker_name, resilient_llm_circuit_breaker_state)"
        ' (resilient_llm_circuit_breaker_state{resilient_llm_circuit_breaker_state!="closed"} == 1)',
        "{{resilient_llm_circuit_breaker_name}} {{resilient_llm_circuit_breaker_state}}",
        "A line is there while it is so.",
    ),
    Panel(
        "In the queue",
        "short",
        "sum by (resilient_llm_limiter) (resilient_llm_queue_size)",
        "{{resilient_llm_limiter}}",
        "Attempts that wait for a slot, by server.",
    ),
    Panel(
        "Wait for a slot, 95 of 100",
        "s",
        percentile(0.95, "resilient_llm_queue_duration_seconds", "resilient_llm_limiter"),
        "{{resilient_llm_limiter}}",
        "Of those that had to wait.",
    ),
    Panel(
        "On the wire",
        "short",
        "sum by (resilient_llm_route) (resilient_llm_active_requests)",
        "{{resilient_llm_route}}",
        "Attempts in flight.",
    ),
    Panel(
        "Refused here",
        "reqps",
        f"sum by (resilient_llm_route, resilient_llm_reason) ({rate('resilient_llm_rejections_total')})",
        "{{resilient_llm_route}} {{resilient_llm_reason}}",
        "Nothing was sent: breaker, queue, deadline, zone.",
    ),
    Panel(
        "Answers that are less than asked for",
        "reqps",
        f"sum by (resilient_llm_route, resilient_llm_reason) ({rate('resilient_llm_degradations_total')})",
        "{{resilient_llm_route}} {{resilient_llm_reason}}",
        "Cut at the token limit, prompts that the server cut, models on the CPU: no error tells of these.",
    ),
    Panel(
        "What the library adds",
        "s",
        percentile(0.5, "resilient_llm_overhead_duration_seconds", "gen_ai_operation_name"),
        "{{gen_ai_operation_name}}",
        "The length of a call less attempts and waits; of one call in 16.",
    ),
)


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule.

    Attributes:
        lasts: how long it must be so.
        says: what has happened, and what to look at.
    """

    name: str
    query: str
    lasts: str
    severity: str
    says: str


def _lately(metric: str, labels: str = "") -> str:
    return rate(metric, labels, "5m")


ALERTS = (
    Alert(
        "LLMCallsFail",
        f"{share(_lately(f'{DURATION}_count', FAILED), _lately(f'{DURATION}_count'))} > 0.05",
        "5m",
        "page",
        "More than 5 % of the calls fail, after all repeats and fallbacks. The error.type of the spans says why.",
    ),
    Alert(
        "LLMFirstTokenSlow",
        f"histogram_quantile(0.95, sum by (le, gen_ai_request_model) ({_lately(f'{FIRST}_bucket')})) > 10",
        "10m",
        "ticket",
        "The first token takes longer than 10 s for one stream in 20: is the server queueing, loading, on the CPU?",
    ),
    Alert(
        "LLMBreakerOpen",
        "max by (resilient_llm_circuit_breaker_name)"
        ' (resilient_llm_circuit_breaker_state{resilient_llm_circuit_breaker_state="open"}) == 1',
        "2m",
        "ticket",
        "The breaker of this route is open: its server fails or hangs. Calls go on to the later routes.",
    ),
    Alert(
        "LLMFallbacks",
        f"{share(_lately('resilient_llm_fallbacks_total'), _lately(f'{DURATION}_count'))} > 0.2",
        "10m",
        "ticket",
        "More than a fifth of the calls leave their first route: that may cost money.",
    ),
    Alert(
        "LLMRetries",
        f"{share(_lately('resilient_llm_retries_total'), _lately(f'{DURATION}_count'))} > 0.15",
        "10m",
        "ticket",
        "The retry budgets are used up: a server is overloaded or throttles.",
    ),
    Alert(
        "LLMPromptsCut",
        "sum by (resilient_llm_route) ("
        + _lately("resilient_llm_degradations_total", 'resilient_llm_reason=~"prompt_truncated|context_shifted"')
        + ") > 0",
        "1m",
        "ticket",
        "This server cuts prompts without a word: its window is smaller than the prompts. Set num_ctx, or a guard.",
    ),
    Alert(
        "LLMQueueLong",
        "sum by (resilient_llm_limiter) (resilient_llm_queue_size) > 10",
        "5m",
        "ticket",
        "More than 10 attempts wait for a slot of this server.",
    ),
)


def dashboard() -> str:
    """A dashboard to be imported into Grafana; it asks for the Prometheus to be used."""
    source = {"type": "prometheus", "uid": "${source}"}
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "description": panel.help,
            "datasource": source,
            "gridPos": {"h": 8, "w": 8, "x": 8 * (number % 3), "y": 8 * (number // 3)},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [{"refId": "A", "datasource": source, "expr": panel.query, "legendFormat": panel.legend}],
        }
        for number, panel in enumerate(PANELS)
    ]
    whole: dict[str, Any] = {
        "title": "resilient_llm",
        "uid": "resilient-llm",
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "tags": ["llm"],
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": panels,
    }
    return json.dumps(whole, indent=2) + "\n"


def alerts() -> str:
    """A file of rules for Prometheus."""
    rules = [
        f"      - alert: {one.name}\n        expr: {json.dumps(one.query)}\n        for: {one.lasts}\n"
        f"        labels: {{severity: {one.severity}}}\n        annotations: {{summary: {json.dumps(one.says)}}}\n"
        for one in ALERTS
    ]
    return "groups:\n  - name: resilient_llm\n    rules:\n" + "".join(rules)


if __name__ == "__main__":
    (HERE / "grafana.json").write_text(dashboard())
    (HERE / "alerts.yml").write_text(alerts())
