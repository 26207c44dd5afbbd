"""How fast this machine reads and writes files and multiplies matrices, by measurements of a fraction of a second."""

import os
import tempfile
import time
from pathlib import Path

import torch

from itda_lightning.machine.atomic_files import explained

MEASURED_BYTES, PIECE = 2**27, 2**24
MEASURED_ROWS, MEASURED_SECONDS = 512, 0.2


def disk_read_rate(file: Path) -> float:
    """Bytes a second from the beginning of a file, which the operating system is asked to drop from its cache before."""
    done = 0
    with file.open("rb", buffering=0) as stream:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, MEASURED_BYTES, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        while done < MEASURED_BYTES and (piece := stream.read(PIECE)):
            done += len(piece)
        return done / (time.perf_counter() - start)


def disk_write_rate(directory: Path) -> float:
    """Bytes a second to a new file in the directory, forced out. Raises InputError where it cannot be written to."""
    piece = bytes(PIECE)
    with explained(directory, "measuring the disk of"), tempfile.TemporaryFile(dir=directory) as stream:
        start = time.perf_counter()
        for _ in range(MEASURED_BYTES // PIECE):
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
        return MEASURED_BYTES / (time.perf_counter() - start)


@torch.no_grad()
def product_rate(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """Floating-point operations a second of products of 512 rows by a square matrix of this width."""
    rows = torch.ones((MEASURED_ROWS, width), dtype=dtype, device=device)
    matrix = torch.ones((width, width), dtype=dtype, device=device)
    float((rows @ matrix)[0, 0])  # the first product also sets things up
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < MEASURED_SECONDS:
        float((rows @ matrix)[0, 0])  # reading a number waits for the device
        count += 1
    return 2 * MEASURED_ROWS * width * width * count / seconds
