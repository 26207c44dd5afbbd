"""A harvest that is killed while it writes its second file. Arguments: the DataModule's, as JSON."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from itda_lightning.activations import cache
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.machine.atomic_files import write_file


def write_or_die(path: Path, write: Callable[[Path], object]) -> None:
    def half(temporary: Path) -> None:
        write(temporary)
        os.truncate(temporary, temporary.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    write_file(path, half if path.name.startswith("data-00001") else write)


cache.write_file = write_or_die
ActivationsDataModule(**json.loads(sys.argv[1])).prepare_data()
