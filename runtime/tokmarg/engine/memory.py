"""Memory that is free again, given back to the system.

glibc's heap ends with the last block in use: whatever is free below it stays the process's. After a pack of contents
that is half as much again as all that a guard has loaded, in pieces between blocks that stay.
"""

from __future__ import annotations

__all__ = []
