"""Pass slabs through a layer: while one is computed, its finished rows are written and the next slab is read."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from jaxtyping import Float
from torch import Tensor

from itda_lightning.activations.backends.streamed.slabs import Slab, SlabFiles

# Slabs in memory: one is computed and written, the next is read.
IN_MEMORY = 2


class SlabPipeline:
    """Reads slabs ahead and writes them part by part as they are computed; a context manager.

    A slab is on disk before the next one is computed, so that a killed run computes at most one again. Two slabs are in
    memory, in buffers of ``rows`` rows that are reused, or with ``keep`` all, which are read from there and still
    written, for a run that is killed.
    """

    def __init__(self, files: SlabFiles, rows: int, keep: bool) -> None:
        self._files, self._rows, self._keep = files, rows, keep
        self._threads = ThreadPoolExecutor(2)
        self._in_memory: dict[Slab, Tensor] = {}
        self._spare: list[Tensor] = []

    def __enter__(self) -> "SlabPipeline":
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown()

    def memory(self, slab: Slab) -> Float[Tensor, "rows context d"]:
        """Return memory for the hidden states of a slab, until it is written."""
        n_rows = slab.stop - slab.start
        if slab not in self._in_memory:
            fresh = n_rows if self._keep else self._rows
            self._in_memory[slab] = self._spare.pop() if self._spare else self._files.empty(fresh)
        return self._in_memory[slab][:n_rows]

    def write(self, slab: Slab, level: int, parts: Iterator[Float[Tensor, "rows context d"]]) -> None:
        """Write a slab at a level: the parts of its memory, in order, each while the next one is computed."""
        computed: SimpleQueue[Tensor | BaseException | None] = SimpleQueue()
        writing = self._threads.submit(self._files.write, slab, level, _parts_of(computed))
        try:
            for part in parts:
                if writing.done():  # it has failed
                    break
                computed.put(part)
            computed.put(None)
        except BaseException as error:
            computed.put(error)
            raise
        writing.result()
        if not self._keep:
            self._spare.append(self._in_memory.pop(slab))

    def advance(self, slabs: list[Slab], level: int, forward: Callable[[Slab, Tensor], Iterator[Tensor]]) -> None:
        """Bring slabs from a level to the next; ``forward`` works in place and yields the finished rows in order."""
        reading = [self._threads.submit(self._read, slab, level) for slab in slabs[:1]]
        for index, slab in enumerate(slabs):
            hidden = reading.pop().result()
            reading += [self._threads.submit(self._read, after, level) for after in slabs[index + 1 : index + 2]]
            self.write(slab, level + 1, forward(slab, hidden))

    def _read(self, slab: Slab, level: int) -> Tensor:
        in_memory, hidden = slab in self._in_memory, self.memory(slab)
        if not in_memory:
            self._files.read(slab, level, hidden)
        return hidden


def _parts_of(computed: SimpleQueue[Tensor | BaseException | None]) -> Iterator[Tensor]:
    while (part := computed.get()) is not None:
        if isinstance(part, BaseException):
            raise part
        yield part
