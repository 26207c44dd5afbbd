"""Measure the peak memory of this process while something runs."""

import threading

import psutil

INTERVAL = 0.05


class PeakMemory:
    """``with PeakMemory() as peak: ...``, then ``peak.bytes``: the largest resident memory, sampled every 50 ms.

    Pages of mapped files (shared libraries, the cache of activations) are not counted if the system reports them
    separately, since they are freed when other processes need memory.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        memory = self._process.memory_info()
        self.bytes = max(self.bytes, memory.rss - getattr(memory, "shared", 0))
