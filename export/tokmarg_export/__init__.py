"""Builds tokmarg bundles: an instruction-tuned guard model in, a folder the runtime can score with out."""
