"""The folder in which a bundle is built, beside its place: moved there when whole, and gone after any other end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokmarg.scratch import scratch_path

from .manifest import MANIFEST
from .replaceable import Source, check_output

__all__ = ["NewBundle", "new_bundle"]


class NewBundle:
    """A bundle under construction.

    Attributes:
        scratch: a folder for whatever is not part of the bundle; on the same disk.
        folder: the bundle.
    """

    def __init__(self, scratch: Path, out: Path, sources: Sequence[Source], force: bool) -> None:
        self.scratch, self.folder = scratch, scratch / "bundle"
        self._out, self._sources, self._force = out, sources, force

    def finish(self) -> None:
        """Puts the finished folder in the place of what is at ``out``, which is looked at again: time has passed.

        Raises:
            TokmargError: something has come there that is no bundle.
        """
        mode = (self.folder / MANIFEST).stat().st_mode
        for path in self.folder.iterdir():  # some writers make files that only their owner may read
            path.chmod(mode)
        check_output(self._out, self._sources, force=self._force)
        replaced = self.scratch / "replaced"
        try:
            if self._out.exists():
                self._out.rename(replaced)
            self.folder.rename(self._out)
        except BaseException:  # an interrupt between the two would lose the bundle that was there
            if replaced.exists() and not self._out.exists():
                replaced.rename(self._out)
            raise


@contextmanager
def new_bundle(out: Path, sources: Sequence[Source], *, force: bool) -> Iterator[NewBundle]:
    """A scratch folder beside ``out``, and what is built in it; ``out`` has passed :func:`check_output`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_path(out.parent) as scratch:
        scratch.mkdir(0o700)
        yield NewBundle(scratch, out, sources, force)
