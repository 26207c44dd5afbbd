"""Plan a harvest, check that it fits, and fill the cache by the chosen backend."""

import sys

from itda_lightning.activations.backends.harvest_plan import HarvestSettings, directory_bytes
from itda_lightning.activations.backends.in_memory import InMemoryBackend
from itda_lightning.activations.backends.remote.remote_backend import RemoteBackend
from itda_lightning.activations.backends.streamed.streamed_backend import StreamedBackend
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError
from itda_lightning.machine.processes import n_ranks, rank


def harvest(settings: HarvestSettings, data: ActivationsDataModule) -> int:
    """Harvest what is not cached yet and return the number of tokens; several processes divide the rows.

    The plan is printed, and what cannot be is refused by an InputError, before anything large is read.
    """
    if data.hparams["cache_dir"] is None:
        raise InputError("a harvest is written to disk: set data.cache_dir")
    if settings.backend == "streamed" and n_ranks() > 1:
        raise InputError(
            f"backend=streamed reads each layer once, in one process, not {n_ranks()}: start it without torchrun"
        )
    backend: InMemoryBackend | StreamedBackend | RemoteBackend
    match settings.backend:
        case "in_memory":
            backend = InMemoryBackend(data)
        case "streamed":
            backend = StreamedBackend(data, settings)
        case "remote":
            backend = RemoteBackend(data)
    plan, device = backend.plan(), data.model_name.torch_device()
    plan.check_memory(settings, device)
    cache, spill = settings.directories(data)
    # Files that are there may belong to this harvest, which cannot be known before the whole model is read.
    plan.check_disk(cache, spill, reusable=directory_bytes(cache))
    if rank() == 0:
        sys.stdout.write("".join(f"{line}\n" for line in plan.lines(settings, device)))
        sys.stdout.flush()
    return backend.fill()
