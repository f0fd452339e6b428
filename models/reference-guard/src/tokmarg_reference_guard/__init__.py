"""The reference guard: this folder is a bundle of tokmarg, found by the entry point ``reference-guard``."""
