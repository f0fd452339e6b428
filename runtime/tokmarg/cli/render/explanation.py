"""An explanation as text for people: fits 80 columns, and reads the same without colours.

Each line of the tree has the probability of everything up to there. The effect of a part is signed; it is ≈0 where the
bounds do not exclude that there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from tokmarg.explanation.explanation import Effect, Explanation, Occlusion, Segment, VerdictTree
from tokmarg.explanation.verdict_tree import VerdictNode

from .terminal import fit, pad, printable

__all__ = ["ExplanationRenderer"]

_TEXT, _PART, _NAME = 76, 30, 60  # cells
_COLUMN, _COLUMNS = 9, 4
_BAR = 10
_ROWS = 24
_HESITATIONS = 3
_EIGHTHS = " ▏▎▍▌▋▊▉"


class ExplanationRenderer:
    """Renders explanations.

    Args:
        colour: whether the output understands ANSI colours.
    """

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def render(self, explanation: Explanation) -> str:
        """The whole text, with its last newline."""
        lines = [
            self._style(fit(printable(explanation.text.strip()), _TEXT), bold=True),
            *self._summary(explanation),
            "",
        ]
        lines.append("What the guard would say, and how likely")
        for tree in explanation.trees:
            lines += self._tree(tree, explanation)
        lines += self._hesitations(explanation)
        lines += ["", *self._occlusion(explanation, explanation.occlusion, "")]
        return "\n".join(lines) + "\n"

    def _summary(self, explanation: Explanation) -> Iterator[str]:
        bounds = explanation.probabilities["unsafe"]
        coverage = "unknown"
        if explanation.coverage is not None:  # low ones matter by their order of magnitude
            coverage = f"{explanation.coverage:.3f}" if explanation.coverage >= 0.001 else f"{explanation.coverage:.0e}"
        parts = [f"unsafe {bounds.middle:.3f} [{bounds.lower:.3f}, {bounds.upper:.3f}]", f"coverage {coverage}"]
        if not explanation.converged:
            parts.append("not converged")
        if explanation.calibrated is None:
            yield "   ".join(parts)
            return
        marginal = explanation.calibrated["unsafe"]
        yield f"calibrated: unsafe {marginal.probability:.3f} [{marginal.lower:.3f}, {marginal.upper:.3f}]" + "".join(
            f"   {fit(printable(event), _COLUMN - 1)} {explanation.calibrated[event].probability:.3f}"
            for event in explanation.leading_events(_COLUMNS)[1:]
            if event in explanation.calibrated
        )
        yield f"raw: {'   '.join(parts)}"
        yield "All below is raw: what the guard itself says, before calibration."

    # The tree

    def _tree(self, tree: VerdictTree, explanation: Explanation) -> Iterator[str]:
        if tree.label is not None:
            yield f"  {printable(tree.label)}  {printable(explanation.titles.get(tree.label, ''))}".rstrip()
        if tree.root.text:
            yield from self._node(tree.root, "", "", explanation)
        else:
            yield from self._children(tree.root, None, explanation)

    def _node(self, node: VerdictNode, connector: str, below: str | None, explanation: Explanation) -> Iterator[str]:
        line = f"  {node.probability:.3f}  {connector}{self._name(node, explanation)}"
        if node.hesitates:
            line = self._style(f"{line}   ? {_bits(node)}", fg="yellow")
        yield line
        yield from self._children(node, below, explanation)

    def _children(self, node: VerdictNode, below: str | None, explanation: Explanation) -> Iterator[str]:
        """The lines under a node; ``below`` is the indentation before their connectors (None: no connectors)."""
        rest = node.other >= 0.0005  # else it would read 0.000
        if not rest and [child.text for child in node.children] == [""]:
            return  # it all but certainly ends here
        for i, child in enumerate(node.children):
            last = i == len(node.children) - 1 and not rest
            if below is None:
                yield from self._node(child, "", "", explanation)
            else:
                yield from self._node(
                    child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), explanation
                )
        if rest:
            what = "other"
            if node.unexplored >= node.other * 0.995:
                what = "not looked into"
            elif node.unexplored >= 0.0005:
                what = f"other, {node.unexplored:.3f} of it not looked into"
            yield self._style(f"  {node.other:.3f}  {'' if below is None else below + '└─ '}{what}", dim=True)

    def _name(self, node: VerdictNode, explanation: Explanation) -> str:
        said = verdict_text(node.text)
        titles = [explanation.titles[event] for event in node.events if event in explanation.titles]
        new = [title for title in titles if title.lower() not in said.lower()]
        return fit(printable("  ".join([said, *new])), _NAME)

    def _hesitations(self, explanation: Explanation) -> Iterator[str]:
        hesitations = explanation.hesitations()
        for label, text, node in hesitations[:_HESITATIONS]:
            where = f'after "{fit(printable(verdict_text(text)), 30)}"' if text.strip() else "at the start"
            about = "" if label is None else f"on {printable(label)}, "
            options = [f"{fit(printable(verdict_text(c.text)), 20)} {c.share:.2f}" for c in node.children[:3]]
            said = ", ".join(options) or "many things, none of them likely"
            yield self._style(f"  hesitates {about}{where}: {said} ({_bits(node)})", fg="yellow")
        if len(hesitations) > _HESITATIONS:
            yield self._style(f"  and at {len(hesitations) - _HESITATIONS} more places, marked ?", fg="yellow")

    # The parts of the text

    def _occlusion(self, explanation: Explanation, occlusion: Occlusion, inside: str) -> Iterator[str]:
        events = explanation.leading_events(_COLUMNS)
        joined = f" in groups of {occlusion.per_segment}" if occlusion.per_segment > 1 else ""
        parts = f"{occlusion.parts:,} {occlusion.unit_name}{joined}"
        yield f'Inside "{inside}": {parts}' if inside else f"What drives it: P(text) - P(text without a part), {parts}"
        if all(segment.effects is None for segment in occlusion.segments):
            yield "  without its only part nothing is left to judge"
            return
        width = min(_PART, max(len(printable(segment.text.strip())) for segment in occlusion.segments))
        yield f"  {'':{width}}" + "".join(f"{fit(printable(event), _COLUMN - 1):>{_COLUMN}}" for event in events)
        shown = _most_influential(occlusion.segments, events, _ROWS)
        for segment in shown:
            yield self._row(segment, events, width)
        if left := len(occlusion.segments) - len(shown):
            rest = [s.influence for s in occlusion.segments if s not in shown]
            yield f"  and {left} more, none with an effect above {max(rest):.3f}"
        for segment in occlusion.segments:
            if segment.inner is not None:
                yield ""
                yield from self._occlusion(explanation, segment.inner, fit(printable(segment.text.strip()), _PART))

    def _row(self, segment: Segment, events: Sequence[str], width: int) -> str:
        name = pad(printable(segment.text.strip()), width)
        if segment.effects is None:
            return f"  {name}  what is left cannot be scored"
        cells = "".join(self._cell(segment.effects[event]) for event in events)
        return f"  {name}{cells}  {self._bar(segment.effects[events[0]])}".rstrip()

    def _cell(self, effect: Effect) -> str:
        if effect.is_zero:
            return self._style(f"{'≈0':>{_COLUMN}}", dim=True)
        return self._style(f"{effect.change:>+{_COLUMN}.3f}", fg=_hue(effect))

    def _bar(self, effect: Effect) -> str:
        if effect.is_zero:
            return ""
        eighths = round(abs(effect.change) * _BAR * 8)
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        return self._style(bar, fg=_hue(effect)) if bar else ""

    def _style(self, text: str, fg: str | None = None, bold: bool | None = None, dim: bool | None = None) -> str:
        return click.style(text, fg=fg, bold=bold, dim=dim) if self._colour else text


def verdict_text(text: str) -> str:
    """A piece of a verdict on one line; ``end`` for the end of the verdict.

    >>> verdict_text("\\nCategories: PII\\nRefusal: No"), verdict_text("")
    ('Categories: PII / Refusal: No', 'end')
    """
    return " / ".join(line.strip() for line in text.split("\n") if line.strip()) or "end"


def _bits(node: VerdictNode) -> str:
    return f"{node.entropy or 0.0:.1f} bits"


def _hue(effect: Effect) -> str:
    return "red" if effect.change > 0 else "blue"


def _most_influential(segments: Sequence[Segment], events: Sequence[str], most: int) -> list[Segment]:
    """The segments with the largest effects on some events, in the order of the text."""

    def weight(segment: Segment) -> float:
        if segment.effects is None:
            return 0.0
        return max(abs(segment.effects[event].change) for event in events)

    kept = set(sorted(range(len(segments)), key=lambda i: -weight(segments[i]))[:most])
    return [segment for i, segment in enumerate(segments) if i in kept]
