"""Scores as OpenAI's moderation response: https://platform.openai.com/docs/api-reference/moderations/object

The format has a number for every category and no place for an error. A label that does not exist in the role mode is
false with score 0.0 and applies to no input type.

Scores of other methods than ``exact`` are cut to [0, 1]. Label scores that are conditional on ``unsafe`` (the methods
with an uncertainty) are multiplied by its probability.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from .documents import Fields, read_document
from .errors import TokmargError
from .results import MethodResult, Result, Thresholds

__all__ = [
    "OPENAI_CATEGORIES",
    "OpenAITable",
    "flagged_labels",
    "moderation_response",
    "openai_table",
    "parse_openai",
    "read_openai_table",
]

#: All categories that OpenAI's clients require.
OPENAI_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
#: Label id -> those of OpenAI's categories that it counts for.
OpenAITable = Mapping[str, Sequence[str]]
#: A label without a threshold of its own applies from here on where ``unsafe`` flags the content at a higher one.
_LIKELY = 0.5


def parse_openai(f: Fields) -> dict[str, tuple[str, ...]]:
    """Reads a table: label ids with lists of OpenAI's categories.

    Raises:
        TokmargError: a value is none; names the label.
    """
    table = {label: f.strings(label) for label in f.data}
    for label, names in table.items():
        for name in names:
            if name not in OPENAI_CATEGORIES:
                raise f.fail(label, f"{name!r:.60} is none of OpenAI's categories: {', '.join(OPENAI_CATEGORIES)}")
    return table


def openai_table(
    categories: str, own: OpenAITable | None, labels: Sequence[str], where: str | os.PathLike[str]
) -> OpenAITable | None:
    """The table of a guard for the value of ``--categories``: ``native``, ``openai``, or a TOML or JSON file.

    Args:
        categories: the value.
        own: the table of the guard's spec.
        labels: the guard's.
        where: its folder, for messages.

    Raises:
        TokmargError: the spec has no table, or the file cannot be read or names an unknown label or category.
    """
    if categories == "native":
        return None
    if categories != "openai":
        return read_openai_table(categories, labels)
    if own is None:
        raise TokmargError(
            f"{where}: its spec says nothing of OpenAI's categories: --categories FILE gives a table (S1 = "
            '["violence"]), --categories native has label ids'
        )
    return own


def read_openai_table(path: str, labels: Sequence[str]) -> OpenAITable:
    """Reads a table of categories from a TOML or JSON file.

    Args:
        path: the file.
        labels: that may be in it.

    Raises:
        TokmargError: the file cannot be read, or names an unknown label or category.
    """
    fields = Fields(read_document(path, TokmargError), path, TokmargError)
    fields.only(labels)
    return parse_openai(fields)


def moderation_response(
    results: Sequence[Result | MethodResult],
    *,
    id: str,
    thresholds: Thresholds,
    table: OpenAITable | None = None,
    details: bool = False,
) -> dict[str, object]:
    """One response for several results, at least one.

    ``flagged`` is the result's own, and the categories agree with it: none is true where it is false, and where it is
    true, those are that reached their own threshold, or that are likely where ``unsafe`` reached its; at least the most
    probable label. With a table, the categories that this label counts for; there may be none.

    Args:
        results: of one guard.
        id: of the response.
        thresholds: that flagged the results.
        table: for OpenAI's categories, those that no label counts for false and 0.0; None for label ids.
        details: the result's own JSON (:meth:`tokmarg.Result.to_dict`) stands beside, under ``tokmarg``.

    Returns:
        plain types for JSON.
    """
    return {
        "id": id,
        "model": results[0].model,
        "results": [
            {**_categories(result, thresholds, table), **({"tokmarg": result.to_dict()} if details else {})}
            for result in results
        ],
    }


def _categories(result: Result | MethodResult, thresholds: Thresholds, table: OpenAITable | None) -> dict[str, object]:
    scores = _probabilities(result)
    applying = flagged_labels(result, thresholds)
    if table is None:
        labels = {label: [label] for label in scores}
    else:
        labels = {name: [x for x in scores if name in table.get(x, ())] for name in OPENAI_CATEGORIES}
    known = {name: [x for x in of_name if scores[x] is not None] for name, of_name in labels.items()}
    return {
        "flagged": result.flagged,
        "categories": {name: any(x in applying for x in of_name) for name, of_name in known.items()},
        "category_scores": {
            name: max((scores[x] or 0.0 for x in of_name), default=0.0) for name, of_name in known.items()
        },
        "category_applied_input_types": {name: ["text"] if of_name else [] for name, of_name in known.items()},
    }


def flagged_labels(result: Result | MethodResult, thresholds: Thresholds) -> set[str]:
    """The labels that a flagged content is said to have; none of others."""
    scores = _probabilities(result)
    if not result.flagged:
        return set()
    limits = thresholds.labels
    if isinstance(result, Result) and result.calibrated:  # decided on raw probabilities
        unsafe = result.unsafe.flagged
        own = {label: m is not None and m.flagged for label, m in result.labels.items() if label in limits}
    elif isinstance(result, Result):
        unsafe = result.unsafe.probability >= thresholds.unsafe
        own = {
            label: m is not None and m.probability >= limits[label]
            for label, m in result.labels.items()
            if label in limits
        }
    else:
        unsafe = (result.scores["unsafe"] or 0.0) >= thresholds.unsafe
        of_labels = limits if result.uncertainty is None else {}  # conditional on unsafe, they flag nothing
        own = {label: (result.scores[label] or 0.0) >= limit for label, limit in of_labels.items()}
    likely = min(thresholds.unsafe, _LIKELY)
    known = {label: score for label, score in scores.items() if score is not None}
    applying = {label for label, score in known.items() if own.get(label, unsafe and score >= likely)}
    highest = max(known.values(), default=0.0)
    return applying or {label for label, score in known.items() if score == highest}


def _probabilities(result: Result | MethodResult) -> dict[str, float | None]:
    """Label -> its probability, or what the format shows for it; None where it does not exist in the role mode."""
    if isinstance(result, Result):
        return {label: None if m is None else m.probability for label, m in result.labels.items()}
    unsafe = result.scores["unsafe"]
    factor = 1.0 if result.uncertainty is None or unsafe is None else unsafe
    labels = {label: p for label, p in result.scores.items() if label != "unsafe"}
    return {label: None if p is None else min(1.0, p * factor) for label, p in labels.items()}
