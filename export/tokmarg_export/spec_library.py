"""Specs as the repository keeps them (TOML), resolved for one model into what a bundle's manifest holds.

Beyond the resolved form (see ``tokmarg.prompt.spec``) a TOML spec may say:

    models = ["*Llama-Guard-3-8B*"]     model ids it is meant for, so that --spec can be left out
    template.chat = [{role, text}, ...] in place of template.text: turns for the model's own chat template
    verdict.terminators: "{{end_of_turn}}" stands for whatever ends a turn of this model
"""

from __future__ import annotations

from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokmarg.documents import Fields, read_document
from tokmarg.errors import SpecError
from tokmarg.grammar.grammar import UNSAFE
from tokmarg.prompt.labels import Label
from tokmarg.prompt.policy import Policy, apply_policy
from tokmarg.prompt.spec import Spec

from .errors import ExportError

if TYPE_CHECKING:  # loading pulls in torch, which listing specs does not need
    from tokmarg_export.model.loaded_model import LoadedModel

__all__ = ["DEFAULT_SPEC", "choose_spec", "list_specs", "resolve_spec", "spec_title"]

DEFAULT_SPEC = "instruct"
#: Names no spec: it lists models that cannot be scored, with the reason.
_REFUSED = "reasoning-first"
END_OF_TURN = "{{end_of_turn}}"


def _folder() -> Path:
    """Where the specs are: inside the installed package, or in the source tree of an editable install."""
    installed = Path(__file__).parent / "specs_data"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "models" / "specs"


def list_specs() -> list[str]:
    """Names of the specs that come with tokmarg."""
    return sorted(path.stem for path in _folder().glob("*.toml") if path.stem != _REFUSED)


def spec_title(name: str) -> str:
    """One line about the spec called ``name``."""
    document = read_document(_folder() / f"{name}.toml", ExportError, format="toml")
    return str(document.get("title", ""))


def choose_spec(name: str | None, model_id: str) -> tuple[dict[str, Any], str]:
    """The spec called ``name`` (or in the file ``name``), else the one whose ``models`` match, else the general one.

    Returns:
        the parsed TOML and the name of its document for messages.

    Raises:
        ExportError: no such spec; lists those there are. Or the model's verdict stands behind free reasoning.
    """
    if name is None:
        _check_scorable(model_id)
        for known in list_specs():
            data = read_document(_folder() / f"{known}.toml", ExportError, format="toml")
            patterns = data.get("models", [])
            if any(fnmatchcase(model_id.lower(), str(pattern).lower()) for pattern in patterns):
                return data, f"{known}.toml"
        name = DEFAULT_SPEC
    if name in list_specs():
        return read_document(_folder() / f"{name}.toml", ExportError, format="toml"), f"{name}.toml"
    if Path(name).is_file():
        return read_document(Path(name), ExportError, format="toml"), name
    raise ExportError(f"no spec {name!r}: give a TOML file or one of {', '.join(list_specs())}")


def _check_scorable(model_id: str) -> None:
    """Refuses a model whose verdict stands behind free reasoning."""
    path = _folder() / f"{_REFUSED}.toml"
    for entry in Fields(read_document(path, ExportError, format="toml"), path.name, SpecError).tables("refused"):
        if any(fnmatchcase(model_id.lower(), pattern.lower()) for pattern in entry.strings("models")):
            raise ExportError(
                f"{model_id}: its verdict stands behind free reasoning, so that no sum over verdicts gives its "
                f"probability: {entry.get('reason', str)}. --spec FILE takes a spec of your own"
            )


def resolve_spec(data: dict[str, Any], where: str, loaded: LoadedModel, policy: Policy | None = None) -> dict[str, Any]:
    """Fills in what depends on the model: the chat template and the end of turn; replaces the policy.

    Args:
        data: parsed TOML spec.
        where: its document name.
        loaded: the model it is resolved for.
        policy: labels in place of the spec's, see ``tokmarg.prompt.policy``.

    Returns:
        the resolved spec, which ``tokmarg.prompt.spec.Spec.parse`` accepts.

    Raises:
        ExportError: the spec is malformed, or the model lacks what it needs.
    """
    resolved = {key: value for key, value in data.items() if key != "models"}
    try:
        fields = Fields(data, where, SpecError)
        template = dict(fields.get("template", dict))
        if "chat" in template:
            if "text" in template:
                raise fields.fail("template.chat", "excludes template.text")
            turns = [
                {"role": turn.get("role", str), "content": turn.get("text", str)}
                for turn in fields.table("template").tables("chat")
            ]
            del template["chat"]
            template["text"] = _render(loaded, turns)
        resolved["template"] = template
        verdict = dict(fields.get("verdict", dict))
        terminators = fields.table("verdict").strings("terminators")
        verdict["terminators"] = [
            text for t in terminators for text in (_end_of_turn(loaded) if t == END_OF_TURN else [t])
        ]
        resolved["verdict"] = verdict
        spec = Spec.parse(resolved, where)
        if policy is not None:
            spec = apply_policy(spec, policy)
            labels = [_label_table(label) for label in spec.labels]
            resolved["policy"] = {"labels": labels, "aggregate": spec.aggregate}
            resolved.pop("openai", None)
            if spec.openai is not None:
                resolved["openai"] = {label: list(names) for label, names in spec.openai.items()}
        _check_events(spec, where)
    except SpecError as error:
        raise ExportError(str(error)) from None
    return resolved


def _label_table(label: Label) -> dict[str, object]:
    """A label as a manifest lists it; JSON has no tuples, and a label without a code has no such field."""
    table = {**asdict(label), "roles": list(label.roles)}
    return {key: value for key, value in table.items() if value is not None}


def _check_events(spec: Spec, where: str) -> None:
    """Refuses a grammar in which what must be scored cannot happen: it would be certain never to."""
    for role in spec.roles:
        grammar = spec.grammar(role, where)
        reachable = grammar.names(grammar.reachable(grammar.start))
        for event in [UNSAFE, *(label.id for label in grammar.labels)]:
            if event not in reachable:
                raise SpecError(f"{where}: verdict.grammar: {event!r} is in no verdict on {role} messages")


def _render(loaded: LoadedModel, turns: list[dict[str, str]]) -> str:
    """The chat template around the turns. Templates without a system turn get it in front of the user's."""
    try:
        text = loaded.render_chat(turns)
    except ExportError:
        if len(turns) < 2 or turns[0]["role"] != "system":
            raise
        merged = {"role": turns[1]["role"], "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
        turns = [merged, *turns[2:]]
        text = loaded.render_chat(turns)
    for turn in turns:
        if turn["content"] not in text:
            raise ExportError(
                f"the chat template of {loaded.model_id} changes or drops the {turn['role']} turn; "
                "use a spec with template.text"
            )
    return text


def _end_of_turn(loaded: LoadedModel) -> list[str]:
    texts = [str(loaded.tokenizer.convert_ids_to_tokens(i)) for i in loaded.eos_token_ids]
    if not texts:
        raise ExportError(f"{loaded.model_id} names no end-of-turn token; list verdict.terminators in the spec")
    return texts
