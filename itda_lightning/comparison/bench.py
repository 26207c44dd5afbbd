"""The bench of a comparison: all measures of an entry, on the same held-out tokens for every entry."""

import dataclasses
import time
from collections import deque
from functools import cached_property

import torch

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import harvest
from itda_lightning.comparison.candidates import Candidate, encoding_of, without_later_defaults
from itda_lightning.comparison.comparison_settings import ComparisonSettings
from itda_lightning.comparison.losses import LossMeter
from itda_lightning.comparison.probing import measure_probing
from itda_lightning.comparison.reconstruction import encoding_rate, measure_reconstruction
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.made_once import hash_of
from itda_lightning.machine.versions import versions_and_hardware
from itda_lightning.results.comparison import MEASURES, Row

# Increased when a measure changes its meaning or what is kept of it, so that earlier rows are measured again: version 3
# keeps sums by document and scores by draw.
FORMULAS = 3
# Rows that the speed of a harvest is measured on: a few seconds on the bundled model.
TIMED_ROWS = 32


class Bench:
    """The held-out tokens of a comparison, the model and the measures.

    The model is loaded for the first entry that needs it, so never if all rows are taken over.

    Raises:
        InputError: several hook points, or too few held-out tokens for the losses or for an error.
    """

    def __init__(self, data: ActivationsDataModule, settings: ComparisonSettings) -> None:
        self.data, self.settings = data, settings
        if data.joint:
            raise InputError(
                f"a comparison is of one hook point, not of {data.read_points} joined: leave out data.joint and name "
                "one of them, at which joint runs can be loaded"
            )
        if len(data.hook_names) != 1:
            raise InputError(f"a comparison is of one hook point: give one of data.hook_names, got {data.hook_names}")
        self.hook_name = data.hook_names[0]
        rows = data.rows("heldout")
        size = rows.context_size
        check_at_least(size, {"loss_tokens": settings.loss_tokens}, "that is one row")
        self.loss_rows = rows.select(torch.arange(min(len(rows), settings.loss_tokens // size)))
        for name, part in (("data.validation_tokens", rows), ("loss_tokens", self.loss_rows)):
            documents = len(part.document[part.kept].unique())
            if documents < 2:
                raise InputError(
                    f"{name} gives tokens of {documents} document only, so no standard error can be computed: raise it"
                )

    @cached_property
    def tokens_hash(self) -> str:
        """The hash of the held-out token ids, their documents and masks, and of the number of rows for the losses."""
        return hash_of([self.data.rows("heldout").fingerprint(), len(self.loss_rows)])

    def identity(self, candidate_identity: str) -> str:
        """Return the hash of all that decides the figures of a row."""
        versions, probes = versions_and_hardware(), self.settings.probes
        return hash_of(
            {
                "entry": candidate_identity,
                "tokens": self.tokens_hash,
                "activations": self.data.identity.without_text(),
                "hook_name": self.hook_name,
                "probes": None if probes is None else dataclasses.asdict(probes, dict_factory=without_later_defaults),
                "formulas": FORMULAS,
                "versions": [versions[name] for name in ("itda-lightning", "torch", "sae-lens", "transformers")],
                "hardware": [versions[name] for name in ("machine", "cpus", "gpus")],
            }
        )

    def measure(self, name: str, candidate: Candidate, identity: str) -> Row:
        """Measure an entry. Raises whatever its encoder, the model or a probe raises."""
        start = time.perf_counter()
        entry = candidate.entry
        device = self.data.model_name.torch_device()
        entry.sae.to(device)
        if entry.dictionary is not None:  # it encodes in place of the SAE, so it must be on the same device
            entry.dictionary.to(device)
        measures, densities = measure_reconstruction(entry, self.data, self.hook_name)
        if candidate.kind == "pca":  # the two signs of a component are latents of their own, never used together
            densities = densities.view(2, -1).sum(0)
        measures |= self._losses.measure(entry.sae)
        measures = {key: measures[key] for key in MEASURES}
        if self.settings.probes is not None:
            measures |= measure_probing(entry.sae, self.data.language_model, self.hook_name, self.settings.probes)
        read = candidate.cost.activations_read
        cost = dataclasses.replace(
            candidate.cost,
            harvest_seconds=None if read is None else read * self._harvest_seconds_each,
            encoded_per_second=encoding_rate(entry, self.data, self.hook_name),
        )
        return Row(
            name=name,
            kind=candidate.kind,
            # The architecture in training: SAELens saves a batchtopk SAE for inference as a jumprelu one.
            architecture=candidate.settings.get("architecture", entry.sae.cfg.architecture()),
            width=len(densities),
            settings=candidate.settings,
            tokens_hash=self.tokens_hash,
            identity=identity,
            measures=measures,
            cost=cost,
            densities=tuple(densities.tolist()),
            curve=candidate.curve,
            decay_from=candidate.decay_from,
            measured_seconds=time.perf_counter() - start,
            encoding=encoding_of(entry.dictionary),
        )

    @cached_property
    def _losses(self) -> LossMeter:
        return LossMeter(self.data.language_model, self.loss_rows, self.hook_name, self.settings.model_batch_size)

    @cached_property
    def _harvest_seconds_each(self) -> float:
        """The seconds per activation of a harvest, measured now: a cache does not record them."""
        rows, batch = self.data.rows("heldout"), self.data.hparams["model_batch_size"]
        stop = min(TIMED_ROWS, len(rows))
        # The first pass of a model is slower than later ones. No part is kept.
        deque(harvest(self.data.language_model, rows, batch, 0, min(batch, stop)), maxlen=0)
        start = time.perf_counter()
        deque(harvest(self.data.language_model, rows, batch, 0, stop), maxlen=0)
        return (time.perf_counter() - start) / int(rows.kept[:stop].sum())
