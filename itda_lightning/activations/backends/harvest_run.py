"""Plan a harvest, check that it fits, and fill the cache by the chosen backend."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from itda_lightning.activations.backends.harvest_plan import Limits, directory_bytes
from itda_lightning.activations.backends.in_memory import InMemoryBackend
from itda_lightning.activations.backends.remote.remote_backend import RemoteBackend
from itda_lightning.activations.backends.streamed.streamed_backend import StreamedBackend
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError
from itda_lightning.machine.processes import n_ranks, rank


@dataclass(frozen=True)
class HarvestSettings:
    """Settings of a harvest.

    Args:
        backend: in_memory (the whole model is loaded, as by a fit), streamed (the model stays on disk and is read layer
            by layer, once, whatever the number of tokens) or remote (NDIF runs the model; needs the extra ``remote``
            and nnsight's key, e.g. in NDIF_API_KEY). Weights quantised with bitsandbytes stay packed (extra
            ``quantised``); others are not quantised.
        memory: bytes of CPU memory that the process may use; null for half of the machine's or container's.
        gpu_memory: bytes of GPU memory that may be used if data.device is a GPU; null for half of the GPU's.
        spill_dir: directory for the hidden states of the streamed backend; null for data.cache_dir.
    """

    backend: Literal["in_memory", "streamed", "remote"] = "in_memory"
    memory: int | None = None
    gpu_memory: int | None = None
    spill_dir: str | None = None


def harvest(settings: HarvestSettings, data: ActivationsDataModule) -> int:
    """Harvest what is not cached yet and return the number of tokens; several processes divide the rows.

    The plan is printed before anything large is read.

    Raises:
        InputError: no cache directory; a model, hook point or architecture that the backend cannot give; too little
            memory or disk; a server that cannot be reached or refuses.
    """
    if data.hparams["cache_dir"] is None:
        raise InputError("a harvest is written to disk: set data.cache_dir")
    if settings.backend == "streamed" and n_ranks() > 1:
        raise InputError(
            f"backend=streamed reads each layer once, in one process, not {n_ranks()}: start it without torchrun"
        )
    limits = Limits(settings.memory, settings.gpu_memory)
    cache = Path(data.hparams["cache_dir"]).expanduser()
    spill = Path(settings.spill_dir).expanduser() if settings.spill_dir is not None else cache
    backend: InMemoryBackend | StreamedBackend | RemoteBackend
    match settings.backend:
        case "in_memory":
            backend = InMemoryBackend(data)
        case "streamed":
            backend = StreamedBackend(data, limits, spill)
        case "remote":
            backend = RemoteBackend(data)
    plan, device = backend.plan(), data.model_name.torch_device()
    plan.check_memory(limits, device)
    # Files that are there may belong to this harvest, which cannot be known before the whole model is read.
    plan.check_disk(cache, spill, reusable=directory_bytes(cache))
    if rank() == 0:
        for line in plan.lines(limits, device):
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return backend.fill()
