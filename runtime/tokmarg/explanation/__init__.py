"""Explanation: the verdict tree and the occlusion effects of one content, and their HTML page."""

from .explain import explain
from .explanation import Effect, Explanation, Occlusion, Segment, VerdictTree
from .html_page import html_page
from .verdict_tree import CompleteVerdict, VerdictNode

__all__ = [
    "CompleteVerdict",
    "Effect",
    "Explanation",
    "Occlusion",
    "Segment",
    "VerdictNode",
    "VerdictTree",
    "explain",
    "html_page",
]
