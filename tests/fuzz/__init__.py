"""Fuzzing of everything that reads what somebody else wrote. ``python -m tests.fuzz --cases N`` runs more of it.

A case is a valid document with a few places changed, by hostile values, or bytes, by damage. A parser must read it or
refuse it with a TokmargError of one line, soon. Cases are made from their number alone, so a failure says how to see it
again. A parser is one entry in :data:`tests.fuzz.parsers.PARSERS`.
"""
