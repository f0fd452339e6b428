"""HTML page of an explanation: one file, no script, nothing fetched, whatever the content holds.

Every text is escaped, and characters that would turn or hide what stands beside them are spelt out. A content security
policy in the page forbids scripts and anything from outside, so that an error here could not load or run a thing.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterator

from tokmarg.results import LOW_COVERAGE, Marginal
from tokmarg.scoring.exact import Bounds

from .explanation import Effect, Explanation, Occlusion, Segment, VerdictTree
from .verdict_tree import VerdictNode

__all__ = ["html_page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #667085; --line: #d5d9e0; --back: #fff; --box: #f5f6f8;
  --bar: #5b7cfa; --up: 214, 62, 44; --down: 36, 107, 206; --warn: #a15c00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #9aa3b2; --line: #3a4150; --back: #15181e;
  --box: #1e232c; --bar: #7d97ff; --up: 240, 100, 80; --down: 90, 160, 255; --warn: #f0b35a; } }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 60rem;
  margin: 2rem auto; padding: 0 1.2rem; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.soft { color: var(--soft); } .warn { color: var(--warn); } .number { font-variant-numeric: tabular-nums; }
.message { background: var(--box); border-radius: .5rem; padding: .6rem .9rem; margin: .4rem 0; white-space: pre-wrap;
  unicode-bidi: isolate; }
.message b { display: block; font-size: .75rem; color: var(--soft); }
table { border-collapse: collapse; } td, th { padding: .1rem .9rem .1rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; } td.number, th.number { text-align: right; }
.track { display: inline-block; width: 8rem; height: .7rem; background: var(--box); border-radius: .2rem; }
.track i { display: block; height: 100%; background: var(--bar); border-radius: .2rem; }
ul.tree, ul.tree ul { list-style: none; margin: 0; padding-left: 1.3rem; border-left: 1px solid var(--line); }
ul.tree { padding-left: 0; border: 0; } ul.tree li { padding: .05rem 0 .05rem .4rem; }
.said { unicode-bidi: isolate; } .node { display: flex; gap: .7rem; align-items: baseline; }
.node .track { width: 5rem; flex: none; }
details { border-top: 1px solid var(--line); padding: .4rem 0; } summary { cursor: pointer; font-weight: 600; }
.heat { background: var(--box); border-radius: .5rem; padding: .7rem .9rem; margin: .5rem 0; line-height: 2.1;
  white-space: pre-wrap; unicode-bidi: isolate; }
.heat span { border-radius: .25rem; padding: .15rem 0; unicode-bidi: isolate; }
.heat sub { font-size: .65rem; opacity: .75; line-height: 1; padding: 0 .2rem; }
"""
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
"""


def html_page(explanation: Explanation) -> str:
    """The explanation as an HTML page. It can be encoded in UTF-8, whatever the explanation holds."""
    body = [
        "<header><h1>What the guard makes of it</h1>",
        f'<div class="soft">{_text(explanation.model)}{_identity(explanation)}</div></header>',
        *(f'<div class="message"><b>{m.role}</b>{_text(m.content)}</div>' for m in explanation.messages),
        "<section><h2>Probabilities</h2>",
        *_probabilities(explanation),
        "</section><section><h2>What it would say, and how likely</h2>",
        '<p class="soft">Each line has the probability that the verdict begins like this. Where the guard hesitates, '
        "what follows is as open as a choice at odds of 3 to 1 or more.</p>",
        *(line for tree in explanation.trees for line in _tree(tree, explanation)),
        "</section><section><h2>What drives it</h2>",
        '<p class="soft">A part\'s effect is the probability of the text as it is, less that of the text without the '
        "part. Red parts raise it, blue ones lower it; where the bounds leave open whether there is an effect, "
        "there is no colour.</p>",
        *_occlusion(explanation, explanation.occlusion),
        "</section>",
    ]
    title = f"<title>tokmarg: {_text(' '.join(explanation.text[:200].split())[:60])}</title>"
    return f"{_HEAD}{title}\n<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"


def _text(text: str) -> str:
    return html.escape("".join(_visible(character) for character in text), quote=True)


def _visible(character: str) -> str:
    """Characters that steer, hide or reorder text are spelt out; joiners and newlines are needed to read it."""
    kind = unicodedata.category(character)
    if character in "\n\t\u200c\u200d" or kind not in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return character
    return character.encode("unicode_escape").decode("ascii")


def _identity(explanation: Explanation) -> str:
    return "" if explanation.id is None else f", record {_text(str(explanation.id))}"


def _probabilities(explanation: Explanation) -> Iterator[str]:
    coverage = (
        "unknown (the bundle has the verdict head)" if explanation.coverage is None else f"{explanation.coverage:.3g}"
    )
    low = explanation.coverage is not None and explanation.coverage < LOW_COVERAGE
    yield f'<p class="{"warn" if low else "soft"}">coverage {coverage}'
    yield "" if explanation.converged else "; not converged: the bounds are wider than the tolerance"
    yield "</p>"
    if explanation.calibrated is not None:
        yield '<p class="soft">The last two columns are calibrated. All else on this page is raw: what the guard says, '
        yield "before calibration.</p>"
    yield "<table>"
    if explanation.calibrated is not None:
        yield '<thead><tr><th></th><th></th><th></th><th class="number">raw</th><th></th>'
        yield '<th class="number">calibrated</th><th></th></tr></thead>'
    yield "<tbody>"
    for event, bounds in explanation.probabilities.items():
        title = explanation.titles.get(event, "")
        yield f"<tr><th>{_text(event)}</th><td>{_text(title)}</td><td>{_bar(bounds.middle)}</td>"
        yield f'<td class="number">{bounds.middle:.3f}</td><td class="number soft">{_interval(bounds)}</td>'
        if explanation.calibrated is not None:
            mapped = explanation.calibrated.get(event)
            shown = ("", "") if mapped is None else (f"{mapped.probability:.3f}", _interval(mapped))
            yield f'<td class="number">{shown[0]}</td><td class="number soft">{shown[1]}</td>'
        yield "</tr>"
    yield "</tbody></table>"


def _interval(bounds: Bounds | Marginal) -> str:
    return f"[{bounds.lower:.3f}, {bounds.upper:.3f}]"


def _bar(share: float) -> str:
    return f'<span class="track"><i style="width:{100 * min(1.0, share):.1f}%"></i></span>'


def _tree(tree: VerdictTree, explanation: Explanation) -> Iterator[str]:
    if tree.label is not None:
        title = explanation.titles.get(tree.label, "")
        yield f"<h3>{_text(tree.label)} <span class='soft'>{_text(title)}</span></h3>"
    yield '<ul class="tree">'
    yield from _node(tree.root, explanation) if tree.root.text else _below(tree.root, explanation)
    yield "</ul>"


def _node(node: VerdictNode, explanation: Explanation) -> Iterator[str]:
    titles = [explanation.titles[event] for event in node.events if event in explanation.titles]
    said = " / ".join(line.strip() for line in node.text.split("\n") if line.strip())
    name = f'<span class="said">{_text(said)}</span>' if said else '<span class="soft">end</span>'
    yield f'<li><div class="node"><span class="number">{node.probability:.3f}</span>{_bar(node.probability)}<span>'
    yield name
    yield "".join(f' <span class="soft">{_text(t)}</span>' for t in titles if t.lower() not in said.lower())
    if node.hesitates:
        yield f' <span class="warn">hesitates: {node.entropy or 0.0:.2f} bits</span>'
    yield "</span></div>"
    if node.other >= 0.0005 or [child.text for child in node.children] not in ([], [""]):
        yield "<ul>"
        yield from _below(node, explanation)
        yield "</ul>"
    yield "</li>"


def _below(node: VerdictNode, explanation: Explanation) -> Iterator[str]:
    for child in node.children:
        yield from _node(child, explanation)
    if node.other >= 0.0005:
        unseen = f" ({node.unexplored:.3f} of it not looked into)" if node.unexplored >= 0.0005 else ""
        yield f'<li><div class="node soft"><span class="number">{node.other:.3f}</span>{_bar(node.other)}'
        yield f"<span>other{unseen}</span></div></li>"


def _occlusion(explanation: Explanation, occlusion: Occlusion) -> Iterator[str]:
    joined = f", in groups of {occlusion.per_segment}" if occlusion.per_segment > 1 else ""
    yield f'<p class="soft">{occlusion.parts:,} {occlusion.unit_name}{joined}</p>'
    if all(segment.effects is None for segment in occlusion.segments):
        yield "<p>Without its only part nothing is left to judge.</p>"
        return
    first = explanation.leading_events(4)
    for event in [*first, *(event for event in explanation.probabilities if event not in first)]:
        title, largest = explanation.titles.get(event, ""), occlusion.largest(event)
        note = _text(title) if largest else f"{_text(title)} ≈0"
        yield f"<details{' open' if event in first else ''}><summary>{_text(event)}"
        yield f' {explanation.probabilities[event].middle:.3f} <span class="soft">{note}</span></summary>'
        heat = "".join(_segment(segment, event) for segment in occlusion.segments)
        yield f'<div class="heat">{heat}</div></details>'  # one string: white space is shown as it is in there
    for segment in occlusion.segments:
        if segment.inner is not None:
            yield f"<h3>Inside <q>{_text(segment.text.strip()[:200])}</q></h3>"
            yield from _occlusion(explanation, segment.inner)


def _segment(segment: Segment, event: str) -> str:
    if segment.effects is None:
        return f'<span title="{_text(segment.unscored or "")}">{_text(segment.text)}</span>'
    effect = segment.effects[event]
    exact = f"{effect.change:+.4f} [{effect.lower:+.4f}, {effect.upper:+.4f}]"
    if effect.is_zero:
        return f'<span title="{exact}: ≈0">{_text(segment.text)}</span>'
    text, space = segment.text.rstrip(), segment.text[len(segment.text.rstrip()) :]
    return f'<span title="{exact}"{_heat(effect)}>{_text(text)}<sub>{effect.change:+.3f}</sub></span>{_text(space)}'


def _heat(effect: Effect) -> str:
    """The same effect has the same colour everywhere; the root lets small ones be seen."""
    hue = "--up" if effect.change > 0 else "--down"
    return f' style="background:rgba(var({hue}),{0.06 + 0.54 * math.sqrt(abs(effect.change)):.2f})"'
