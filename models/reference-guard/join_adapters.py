"""Joins LoRA adapters that were trained one on top of the other into one.

    python join_adapters.py ADAPTER ADAPTER ... --rank 64 -o DIR

What the adapters add to a matrix is summed, and the sum is cut to the given rank by its singular value decomposition,
which loses the least of it that this rank can lose (Eckart and Young 1936). Factors are stored in half precision.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FACTORS = (".lora_A.weight", ".lora_B.weight")
#: The model that PEFT loads the joined adapter on; an adapter names the folder that its training read.
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """An adapter's configuration and what it adds to each matrix, by the matrix's name, (outputs, inputs) in fp32."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    factors = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    names = {name.removesuffix(suffix) for name in factors for suffix in FACTORS if name.endswith(suffix)}
    first, second = FACTORS
    return config, {
        name: scale * factors[name + second].float() @ factors[name + first].float() for name in sorted(names)
    }


def cut(change: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rank, inputs) and (outputs, rank), whose product is nearest to the change among those of that rank."""
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def join(folders: list[Path], rank: int, output: Path) -> float:
    """Writes the joined adapter; returns the share of the summed changes that the rank lost, in Frobenius norms."""
    changes: dict[str, torch.Tensor] = {}
    config: dict[str, Any] = {}
    for folder in folders:
        config, added = read(folder)
        for name, change in added.items():
            changes[name] = changes[name] + change if name in changes else change
    factors: dict[str, torch.Tensor] = {}
    lost = whole = 0.0
    for name, change in changes.items():
        pair = [factor.half().contiguous() for factor in cut(change, rank)]
        factors |= {name + suffix: factor for suffix, factor in zip(FACTORS, pair, strict=True)}
        lost += (change - pair[1].float() @ pair[0].float()).square().sum().item()
        whole += change.square().sum().item()
    output.mkdir(parents=True)
    save_file(factors, output / "adapter_model.safetensors", metadata={"format": "pt"})
    config |= {"r": rank, "lora_alpha": rank, "layers_to_transform": None, "base_model_name_or_path": BASE}
    config["target_modules"] = [name.removeprefix("base_model.model.") for name in changes]
    (output / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return math.sqrt(lost / whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", type=Path, nargs="+", help="in the order in which they were trained")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder")
    options = parser.parse_args()
    lost = join(options.adapters, options.rank, options.output)
    print(f"rank {options.rank} loses {lost:.2%} of what the adapters add")


if __name__ == "__main__":
    main()
