"""Slabs on their way through a layer: while one computes, the next is read from disk and the one before is written."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from jaxtyping import Float
from torch import Tensor

from itda_lightning.activations.slabs import Slab, SlabFiles

# That is read, that computes, that is written.
IN_MEMORY = 3


class SlabPipeline:
    """Reads slabs ahead and writes them behind; within ``with``, at whose end all is written.

    Args:
        files: of the slabs.
        rows: of the largest slab.
        keep: whether all slabs stay in memory, which is then the place they are read from. They are written all the same,
            for a run that is killed. Else memory holds three, in memory that is used again and again.
    """

    def __init__(self, files: SlabFiles, rows: int, keep: bool) -> None:
        self._files, self._rows, self._keep = files, rows, keep
        self._threads = ThreadPoolExecutor(2)
        self._in_memory: dict[Slab, Tensor] = {}
        self._spare: list[Tensor] = []
        self._writing: tuple[Slab, Future[None]] | None = None

    def __enter__(self) -> "SlabPipeline":
        return self

    def __exit__(self, error: type[BaseException] | None, *rest: object) -> None:
        self._threads.shutdown()
        if error is None:
            self._finish_writing()

    def memory(self, slab: Slab) -> Float[Tensor, "rows context d"]:
        """Memory for the hidden states of a slab, until it is written."""
        n_rows = slab.stop - slab.start
        if slab not in self._in_memory:
            fresh = n_rows if self._keep else self._rows
            self._in_memory[slab] = self._spare.pop() if self._spare else self._files.empty(fresh)
        return self._in_memory[slab][:n_rows]

    def write(self, slab: Slab, level: int) -> None:
        """Begin to write the slab's memory at a level, once the slab before is written.

        Raises:
            InputError: the slab before could not be written, as ``SlabFiles.write``.
        """
        self._finish_writing()
        self._writing = slab, self._threads.submit(self._files.write, slab, level, self.memory(slab))

    def advance(self, slabs: list[Slab], level: int, forward: Callable[[Slab, Tensor], None]) -> None:
        """Bring slabs from a level to the next by ``forward``, which changes hidden states in place.

        Raises:
            InputError: a slab that could not be written, or is not what was written.
        """
        coming = self._begin_reading(slabs[0], level) if slabs else None
        for slab, following in zip(slabs, [*slabs[1:], None], strict=True):
            assert coming is not None
            hidden = coming.result()
            coming = self._begin_reading(following, level) if following is not None else None
            forward(slab, hidden)
            self.write(slab, level + 1)

    def _begin_reading(self, slab: Slab, level: int) -> Future[Tensor]:
        if self._writing is not None and self._writing[0] == slab:
            self._finish_writing()
        return self._threads.submit(self._read, slab, level)

    def _read(self, slab: Slab, level: int) -> Tensor:
        kept, hidden = slab in self._in_memory, self.memory(slab)
        if not kept:
            self._files.read(slab, level, hidden)
        return hidden

    def _finish_writing(self) -> None:
        if self._writing is None:
            return
        (slab, written), self._writing = self._writing, None
        written.result()
        if not self._keep:
            self._spare.append(self._in_memory.pop(slab))
