"""Scoring as a service: many callers at the same time share one guard's passes, in Python and over HTTP."""
