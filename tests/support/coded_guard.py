"""A spec whose guard names labels by codes of one token, in the policy's order: as the reference guard does."""

from __future__ import annotations

from typing import Any

__all__ = ["CODED_SPEC", "CODES"]

NAMES = {
    "violence": "Violent Crimes",
    "crime": "Non-Violent Crimes",
    "rape": "Sex Crimes",
    "child": "Child Exploitation",
    "reputation": "Defamation",
    "advice": "Specialized Advice",
    "privacy": "Privacy",
    "copyright": "Intellectual Property",
    "weapons": "Indiscriminate Weapons",
    "hate": "Hate",
    "suicide": "Self-Harm",
    "porn": "Sexual Content",
    "election": "Elections",
    "code": "Code Interpreter Abuse",
}
#: Code of S1, S2, ... S14.
CODES = tuple(NAMES)
CODED_SPEC: dict[str, Any] = {
    "name": "coded",
    "title": "Labels by codes, in the policy's order",
    "template": {
        "text": "<|im_start|>system\nIs the last {{role}} message unsafe? Categories:\n{{policy}}<|im_end|>\n"
        "{{conversation}}",
        "policy_item": "{{code}}: {{name}}\n",
        "strip": True,
        "roles": {"user": "user", "assistant": "assistant"},
        "messages": {
            "user": "<|im_start|>user\n{{content}}<|im_end|>\n",
            "assistant": "<|im_start|>assistant\n{{content}}<|im_end|>\n",
        },
    },
    "policy": {
        "labels": [{"id": f"S{i}", "name": name, "code": code} for i, (code, name) in enumerate(NAMES.items(), 1)]
    },
    "verdict": {
        "terminators": ["<|im_end|>"],
        "grammar": [
            {
                "choice": [
                    {"text": " safe"},
                    {
                        "text": " unsafe",
                        "event": "unsafe",
                        "then": [" ", {"labels": "code", "separators": [" "], "order": "policy"}],
                    },
                ]
            }
        ],
    },
}
