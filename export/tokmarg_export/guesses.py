"""What a guard usually says, for its manifest: see :mod:`tokmarg.habits`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokmarg.engine import engine_for
from tokmarg.grammar import UNSAFE
from tokmarg.labels import Role
from tokmarg.marginals import Search
from tokmarg.passes import Job
from tokmarg.prefix import Prefix
from tokmarg.prompt import Prompt
from tokmarg.scoring import Asked
from tokmarg.session import Session
from tokmarg.trie import Node, Trie

__all__ = ["usual_shares"]

_TOLERANCE, _MAX_NODES = 1e-3, 256  # the defaults of scoring, which this is for
_DIGITS = 4


def usual_shares(
    session: Session, prefixes: Mapping[Role, Prefix], tries: Mapping[Asked, Trie], prompts: Sequence[Prompt]
) -> list[list[float]]:
    """Mean shares of verdict tokens over typical prompts, as rows of the manifest's ``guesses``.

    Args:
        session: the graph.
        prefixes, tries: of its policy.
        prompts: typical ones.

    Raises:
        ContentError: the model's logits are not finite.
    """
    searches: list[Search] = []
    jobs: dict[Role, list[Job[Node]]] = {}
    columns = session.graph.columns
    for prompt in prompts:
        search = Search(
            tries[prompt.role, prompt.label],
            tolerance=_TOLERANCE,
            max_nodes=_MAX_NODES,
            thresholds={UNSAFE: 0.5},
            columns=columns,
        )
        searches.append(search)
        jobs.setdefault(prompt.role, []).append(Job(prompt.token_ids, search))
    engine = engine_for(session, prefixes)
    for role, of_role in jobs.items():
        for at in range(0, len(of_role), engine.pack_contents):
            pack = of_role[at : at + engine.pack_contents]
            engine.run(role, pack)
            if errors := [job.error for job in pack if job.error is not None]:
                raise errors[0]
    sums: dict[tuple[int, int, int], tuple[float, int]] = {}
    for search in searches:
        for key, (total, count) in search.habits.means().items():
            before, times = sums.get(key, (0.0, 0))
            sums[key] = (before + total, times + count)
    return [[*key, round(total / count, _DIGITS)] for key, (total, count) in sorted(sums.items())]
