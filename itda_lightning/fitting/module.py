"""ITDA, the LightningModule: its training step encodes a batch and appends the activations it explains worst."""

import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from itda_lightning.activations.batches import NONE_USABLE, ActivationBatch, BadActivations
from itda_lightning.dictionary.facts import settings
from itda_lightning.errors import InputError
from itda_lightning.fitting.arguments import AtomsDtype, GrowthPolicy, check_arguments
from itda_lightning.fitting.checkpoint_io import read_checkpoint
from itda_lightning.fitting.fit_state import FitState
from itda_lightning.fitting.strategy import check_strategy
from itda_lightning.fitting.threshold import find_threshold, typical_energy
from itda_lightning.fitting.trainer_options import check_sees_data
from itda_lightning.fitting.validation import ValidationSums, named_metrics
from itda_lightning.growth import GrowthRule, Step, grow_among_ranks
from itda_lightning.machine.processes import n_ranks, rank
from itda_lightning.pursuit import PursuitName, judging


class ITDA(FitState):
    """Inference-time decomposition of activations (arXiv 2505.17769): one growing dictionary per hook point.

    There is no optimiser and no gradient. Without ``threshold`` and ``paper_threshold`` the threshold is calibrated on
    a sample so that the dictionary is full about when the token budget ends. The defaults come from the study in
    ``benchmarks/quality``; ``configs/paper.yaml`` has the published rule.

    Args:
        max_atoms: the dictionary stops growing at this many atoms.
        k: sparsity: the number of pursuit steps and so the largest L0.
        pursuit: how codes are made: omp (orthogonal matching pursuit), mp (faster, worse) or gomp (generalised: several
            atoms per step, a larger error, codes that probes read better; growth is judged by omp).
        nonnegative: allow non-negative coefficients only.
        growth: sequential (each activation is judged after all before it were appended: Algorithm 1 of the paper),
            frozen_batch (a batch is judged by the dictionary before it: the paper's released code; faster, and shared
            by several processes, but the first batch is taken whole) or worst_first (the worst of a batch is appended
            first: the fewest atoms, up to 3 encodes per activation).
        threshold: an activation becomes an atom if this share of its energy |x - bias|^2 is unexplained; in (0, 1).
        paper_threshold: the threshold in the form of the paper's released code (mean squared difference of unit
            vectors, e.g. 4e-4); converted to ``threshold`` and logged.
        energy_exponent: p of ``energy^p typical_energy^(1 - p)``, of which the threshold is a share: below 1, which is
            the published value, activations of large norm must be explained better, so more of them become atoms.
            None for .85, or for 1 if a threshold is given.
        center: subtract the mean activation before encoding and keep it as the decoder's bias.
        calibration_tokens: activations of the sample that gives the mean and the threshold.
        bad_activations: what to do with activations that are not finite or all zero: skip (and count) or refuse.
        memory_budget: bytes that pursuits may take beyond the atoms, None for half of the machine's memory.
        atoms_dtype: float32, or bfloat16 for half the memory; either way codes are computed in single precision.
        least_gain: prune codes of atoms that explain less than this share of an activation's energy (``il.prune``), so
            k is a maximum; 0 for not at all. Growth and refinement see codes as they are.
        l0: prune such that held-out codes have this many atoms on average, instead of giving ``least_gain``; "auto" for
            two thirds of k unless ``least_gain`` is given.

    Raises:
        InputError: an argument out of range, or a threshold that appends nothing or everything.

    Example:
        >>> from itda_lightning import ITDA
        >>> module = ITDA(max_atoms=512, k=16)
        >>> module.hparams["pursuit"]
        'omp'
        >>> # lightning.Trainer(max_epochs=1).fit(module, datamodule=ActivationsDataModule(...))
    """

    def __init__(
        self,
        max_atoms: int = 4096,
        k: int = 32,
        pursuit: PursuitName = "omp",
        nonnegative: bool = False,
        growth: GrowthPolicy = "sequential",
        threshold: float | None = None,
        paper_threshold: float | None = None,
        energy_exponent: float | None = None,
        center: bool = True,
        calibration_tokens: int = 8192,
        bad_activations: BadActivations = "skip",
        memory_budget: int | None = None,
        atoms_dtype: AtomsDtype = "float32",
        least_gain: float = 0.0,
        l0: float | Literal["auto"] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if energy_exponent is None:
            # With 1 calibration leaves it to chance if enormous activations become atoms (``benchmarks/quality``).
            self.hparams["energy_exponent"] = 0.85 if threshold is None and paper_threshold is None else 1.0
        if l0 == "auto":
            self.hparams["l0"] = k * 2 / 3 if least_gain == 0 else None
        check_arguments(self.hparams)
        self.automatic_optimization = False
        self.growth_seconds, self.growth_activations = 0.0, 0  # in this process: a resumed fit begins anew
        self._sums: list[ValidationSums] = []

    def fit(self, *_: Any, **__: Any) -> None:
        """Raise InputError: functions and a Trainer fit, the module does not."""
        raise InputError(
            "call il.fit_activations(x, ...) for an array, il.fit(model, hook_name, texts, ...) for texts, or "
            "lightning.Trainer(max_epochs=1).fit(module, datamodule=il.ActivationsDataModule(...))"
        )

    def setup(self, stage: str) -> None:
        """Make the empty dictionaries, now that the widths are known, or check that the data are those of before."""
        check_strategy(self.trainer)
        data = self._data()
        if stage == "fit":
            check_sees_data(self.trainer, data)
        self.__dict__.pop("_identity", None)
        if not self.hook_names:
            self.dataset = data.dataset_fingerprint
            self._data_settings = settings(data.hparams)
            self._make_dictionaries({hook: data.widths[hook] for hook in data.hook_names})
            self.sites = data.sites
        elif (self.hook_names, self.dataset) != (data.hook_names, data.dataset_fingerprint):
            raise InputError(
                f"the dictionaries are of {self.hook_names} on documents {self.dataset}, the data are of "
                f"{data.hook_names} on {data.dataset_fingerprint}: make a new ITDA for other data"
            )

    def configure_optimizers(self) -> None:
        """Return no optimiser: atoms are chosen, not learned."""

    def on_fit_start(self) -> None:
        """Measure the mean and find the threshold, unless they came with a checkpoint."""
        if not bool(self.thresholds.isnan().any()):
            return
        hp, data = self.hparams, self._data()
        batch = data.calibration_batch(hp["calibration_tokens"])
        options = {name: hp[name] for name in ("max_atoms", "threshold", "paper_threshold")}
        options["budget"] = data.rows("train").n_kept
        options["batch_size"] = data.hparams["batch_size"] if hp["growth"] == "frozen_batch" else None
        for index, hook in enumerate(self.hook_names):
            dictionary, x = self.dictionary(hook), batch.usable(hook, hp["bad_activations"]).x.to(self.device)
            if not len(x):
                raise InputError(
                    f"all {len(batch)} calibration activations at {hook} are zero or not finite: {NONE_USABLE}"
                )
            if hp["center"]:
                dictionary.bias.copy_(x.double().mean(0))
            x = dictionary.centre(x)
            self.typical_energies[index] = typical_energy(x)
            self.thresholds[index] = find_threshold(x, self._rule(index), hook, **options)

    def training_step(self, batch: ActivationBatch, batch_idx: int) -> None:
        """Encode the batch with the current dictionaries and append those explained worse than the threshold."""
        start = time.perf_counter()
        self.seen += len(batch)
        self.growth_activations += len(batch)
        steps, tables = {}, {}
        for index, hook in enumerate(self.hook_names):
            dictionary = self.dictionary(hook)
            x, table = batch.usable(hook, self.hparams["bad_activations"])
            self.skipped[index] += len(batch) - len(x)
            if len(x) and dictionary.n_atoms < dictionary.capacity:
                steps[hook] = Step(dictionary.centre(x), dictionary.prepared(), self._rule(index))
                tables[hook] = table
        for hook, grown in zip(steps, grow_among_ranks(self.hparams["growth"], list(steps.values())), strict=True):
            dictionary, x, n = self.dictionary(hook), steps[hook].x, self.dictionary(hook).n_atoms
            dictionary.append(grown.atoms, tables[hook][grown.accepted])
            self.appended_at[self.hook_names.index(hook), n : dictionary.n_atoms] = self.seen
            energy, residual = x.double().square().sum(), grown.residual_energy.double().sum()
            self._log("growth/n_atoms", dictionary.n_atoms, hook, prog_bar=True)
            self._log("growth/atoms_per_1k_activations", 1000 * len(grown.accepted) / len(x), hook)
            self._log("growth/unexplained", residual / energy if energy > 0 else 0.0, hook)
        self._log("details/n_training_samples", int(self.seen))
        self.growth_seconds += time.perf_counter() - start
        # Without an optimiser Lightning counts no steps, which its loggers and checkpoints go by.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def on_validation_epoch_start(self) -> None:
        """Start new sums."""
        self._sums = [ValidationSums(self.dictionary(hook)) for hook in self.hook_names]

    def validation_step(self, batch: ActivationBatch, batch_idx: int) -> None:
        """Add a batch of held-out activations to the sums; the processes take turns."""
        if batch_idx % n_ranks() == rank():
            for hook, sums in zip(self.hook_names, self._sums, strict=True):
                sums.update(batch.usable(hook, self.hparams["bad_activations"]).x)

    def on_validation_epoch_end(self) -> None:
        """Log FVU, L0, dead atoms and the rate of growth."""
        for hook, sums in zip(self.hook_names, self._sums, strict=True):
            metrics = sums.compute()
            n_atoms, seen = self.dictionary(hook).n_atoms, int(self.seen)
            earlier = [entry for entry in self.history if entry["hook_name"] == hook]
            for name, value in named_metrics(metrics, seen, n_atoms, earlier[-1] if earlier else None).items():
                self._log(name, value, hook, prog_bar=name == "metrics/fvu")
            if not self.trainer.sanity_checking:
                entry: dict[str, float | int | str] = {"hook_name": hook, "seen": seen, "n_atoms": n_atoms, **metrics}
                if hook in self.refinements:
                    self.refinements[hook]["validation"] = entry
                else:
                    self.history.append(entry)

    def calibrate_l0(self) -> None:
        """Set every dictionary's ``least_gain`` for the wanted mean L0 on held-out activations, if one is wanted."""
        data = self._data()
        for hook in self.hook_names if self.hparams["l0"] is not None else []:
            dictionary, rows = self.dictionary(hook), []
            for batch in data.val_dataloader():
                rows.append(batch.usable(hook, self.hparams["bad_activations"]).x)
                if sum(map(len, rows)) >= self.hparams["calibration_tokens"]:
                    break
            if dictionary.n_atoms and rows:
                dictionary.calibrate_l0(torch.cat(rows).to(dictionary.bias.device), self.hparams["l0"])

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **_: Any) -> "ITDA":  # type: ignore[override]
        """Load the module as it was saved, on the CPU. Raises InputError for a truncated or foreign checkpoint."""
        checkpoint = read_checkpoint(checkpoint_path)
        if "itda" not in checkpoint:
            raise InputError(f"{checkpoint_path} is not a checkpoint of an ITDA fit: give one of a run's checkpoints/")
        module = cls(**settings(checkpoint["hyper_parameters"]))
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"])
        return module

    def _rule(self, index: int) -> GrowthRule:
        hp, pursuit = self.hparams, judging(self.hparams["pursuit"])
        threshold, energy = float(self.thresholds[index]), float(self.typical_energies[index])
        return GrowthRule(hp["k"], pursuit, hp["nonnegative"], threshold, hp["energy_exponent"], energy)

    def _log(self, name: str, value: float | int | Tensor, hook: str | None = None, prog_bar: bool = False) -> None:
        full_name = name if hook is None or len(self.hook_names) == 1 else f"{name}/{hook}"
        self.log(full_name, torch.as_tensor(value, dtype=torch.float32), prog_bar=prog_bar, batch_size=1)
