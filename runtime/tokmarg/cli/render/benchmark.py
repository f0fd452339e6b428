"""The figures of a benchmark as text for people."""

from __future__ import annotations

from typing import Any

__all__ = ["describe"]


def describe(figures: dict[str, Any]) -> list[str]:
    """The lines."""
    bundle, packed, matrix, memory = figures["bundle"], figures["packed"], figures["matrix"], figures["memory"]
    count = figures["threads"]
    threads = "one thread per core" if count is None else f"{count} thread{'s' if count > 1 else ''}"
    size = bundle["bytes"]
    known = [
        f"{name} {memory[key] / 1e6:,.0f} MB, {memory[key] / size:.1f} x the bundle"
        for name, key in (("resident", "resident_bytes"), ("peak", "peak_bytes"), ("on the GPU", "gpu_bytes"))
        if memory[key] is not None
    ]
    return [
        _row("machine", f"{figures['processor']}, {figures['cores']} cores"),
        _row("run on", f"{figures['gpu'] or figures['device']}, {threads}, onnxruntime {figures['onnxruntime']}"),
        _row("bundle", f"{bundle['model']}, {bundle['precision']}, {bundle['labels']} labels, {size / 1e6:,.0f} MB"),
        "",
        _row("one message, all labels", _latency(figures["all_labels"])),
        _row("one message, P(unsafe)", _latency(figures["unsafe"])),
        _row("packed", f"{packed['messages_per_second']:,.1f} messages/s, {packed['tokens_per_second']:,.0f} tokens/s"),
        _row("cold start", _cold_start(figures["cold_start"]["median_s"])),
        _row("memory", "; ".join(known) or "unknown on this system"),
        _row("matrix peak", f"{matrix['peak_operations_per_second'] / 1e9:,.0f} GOP/s in {matrix['operator']}"),
        _row(
            "packed scoring reaches",
            f"{matrix['packed_operations_per_second'] / 1e9:,.0f} GOP/s, {matrix['share']:.1%} of the peak",
        ),
    ]


def _row(name: str, value: str) -> str:
    return f"{name:<24}{value}"


def _cold_start(seconds: float | None) -> str:
    if seconds is None:
        return "cannot be measured in a frozen application: there is no interpreter to start anew"
    return f"{seconds:.2f} s to the first result"


def _latency(figures: dict[str, float]) -> str:
    times = f"p50 {figures['p50_ms']:,.1f} ms, p99 {figures['p99_ms']:,.1f} ms  ({figures['runs']:,} runs)"
    return f"{times}; {figures['passes']:.1f} passes, {figures['tokens']:.0f} new tokens"
