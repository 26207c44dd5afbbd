"""ITDA, the LightningModule: its training step encodes a batch and appends the activations that are explained worst."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import torch
from torch import Tensor, nn

from itda_lightning.activations.bad import BadActivations, usable
from itda_lightning.activations.batches import ActivationBatch
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.checkpoints import read_checkpoint
from itda_lightning.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.growth import GROWTH_POLICIES, GrowthRule
from itda_lightning.pursuit import PursuitName
from itda_lightning.sources import COLUMNS, Source, Sources
from itda_lightning.thresholds import find_threshold
from itda_lightning.validation import ValidationSums

GrowthPolicy = Literal["sequential", "frozen_batch"]
# What SAELens calls the loaders; the bridge has the hook names of a HookedTransformer.
MODEL_CLASSES = {
    "bridge": "HookedTransformer",
    "hooked_transformer": "HookedTransformer",
    "huggingface": "AutoModelForCausalLM",
}


class ITDA(L.LightningModule):
    """Inference-time decomposition of activations (arXiv 2505.17769): one growing dictionary a hook point.

    There is no optimiser and no gradient. Without ``threshold`` and ``paper_threshold`` the threshold is calibrated on a
    sample so that the dictionary reaches ``max_atoms`` about when the token budget ends.

    Args:
        max_atoms: the dictionary stops growing at this many atoms.
        k: sparsity, the number of pursuit steps, so the largest L0.
        pursuit: mp (matching pursuit, as published) or omp (orthogonal matching pursuit: better, slower).
        nonnegative: allow non-negative coefficients only.
        growth: sequential (each activation is judged after all before it were appended: Algorithm 1 of the paper) or
            frozen_batch (a batch is judged by the dictionary before it: the paper's released code).
        threshold: an activation becomes an atom if this share of its energy |x - bias|^2 is left unexplained; in (0, 1).
        paper_threshold: the threshold in the form of the paper's released code (mean squared difference of unit
            vectors, e.g. 4e-4); converted to ``threshold`` and logged.
        center: subtract the mean activation before encoding and keep it as the decoder's bias.
        calibration_tokens: activations of the sample that gives the mean and the threshold.
        bad_activations: what to do with activations that are not finite or all zero: skip (and count) or refuse.

    Raises:
        InputError: an argument out of range, or a threshold that can never append anything or appends everything.
    """

    thresholds: Tensor
    seen: Tensor
    skipped: Tensor
    appended_at: Tensor

    def __init__(
        self,
        max_atoms: int = 4096,
        k: int = 32,
        pursuit: PursuitName = "mp",
        nonnegative: bool = False,
        growth: GrowthPolicy = "sequential",
        threshold: float | None = None,
        paper_threshold: float | None = None,
        center: bool = True,
        calibration_tokens: int = 8192,
        bad_activations: BadActivations = "skip",
    ) -> None:
        super().__init__()
        for name, value in {"max_atoms": max_atoms, "k": k, "calibration_tokens": calibration_tokens}.items():
            if value < 1:
                raise InputError(f"model.{name} must be at least 1, got {value}")
        for name, chosen, choices in (
            ("pursuit", pursuit, get_args(PursuitName)),
            ("growth", growth, get_args(GrowthPolicy)),
            ("bad_activations", bad_activations, get_args(BadActivations)),
        ):
            if chosen not in choices:
                raise InputError(f"model.{name} must be one of {choices}, got {chosen!r}")
        if threshold is not None and paper_threshold is not None:
            raise InputError("give model.threshold or model.paper_threshold, not both")
        if threshold is not None and not 0 < threshold < 1:
            effect = "can never append an atom" if threshold >= 1 else "appends every activation"
            raise InputError(
                f"model.threshold {threshold:g} {effect}: it is the share of energy left unexplained, give a value "
                "between 0 and 1, or none to have it calibrated"
            )
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.hook_names: list[str] = []
        self.dictionaries = nn.ModuleList()
        self.history: list[dict[str, float | int | str]] = []
        self.dataset = ""
        self.growth_seconds = 0.0
        self._sums: list[ValidationSums] = []

    @property
    def full(self) -> bool:
        """Whether every dictionary has ``max_atoms`` atoms."""
        return all(dictionary.n_atoms >= self.hparams["max_atoms"] for dictionary in self.dictionaries)

    def dictionary(self, hook_name: str | None = None) -> Dictionary:
        """The dictionary of a hook point; without a name that of the only one.

        Raises:
            InputError: no such hook point, or several and no name.
        """
        if hook_name is None and len(self.hook_names) == 1:
            hook_name = self.hook_names[0]
        if hook_name not in self.hook_names:
            raise InputError(f"there is no dictionary of {hook_name!r}: choose one of {self.hook_names}")
        dictionary = self.dictionaries[self.hook_names.index(hook_name)]
        assert isinstance(dictionary, Dictionary)
        return dictionary

    def setup(self, stage: str) -> None:
        """Make the empty dictionaries, once the widths of the hook points are known."""
        if self.hook_names:
            return
        data = self._data()
        self.dataset = data.documents.fingerprint
        self._make_dictionaries({hook: data.widths[hook] for hook in data.hook_names})

    def configure_optimizers(self) -> None:
        """There is nothing to optimise: atoms are chosen, not learned."""

    def on_fit_start(self) -> None:
        """Measure the mean and find the threshold, unless a checkpoint brought them."""
        if not bool(self.thresholds.isnan().any()):
            return
        batch = self._data().calibration_batch(self.hparams["calibration_tokens"])
        for index, hook in enumerate(self.hook_names):
            x = batch.activations[hook].to(self.device)
            x = x[usable(x, batch.table, hook, self.hparams["bad_activations"])]
            if not len(x):
                raise InputError(f"all {len(batch)} calibration activations at {hook} are zero or not finite")
            dictionary = self.dictionary(hook)
            if self.hparams["center"]:
                dictionary.bias.copy_(x.double().mean(0))
            self.thresholds[index] = find_threshold(
                dictionary.centre(x),
                self._rule(index),
                hook,
                max_atoms=self.hparams["max_atoms"],
                budget=self._data().rows("train").n_kept,
                threshold=self.hparams["threshold"],
                paper_threshold=self.hparams["paper_threshold"],
            )

    def training_step(self, batch: ActivationBatch, batch_idx: int) -> None:
        """Encode the batch with the current dictionaries and append what they explain worse than the threshold."""
        start = time.perf_counter()
        self.seen += len(batch)
        for index, hook in enumerate(self.hook_names):
            dictionary = self.dictionary(hook)
            n = dictionary.n_atoms
            good = usable(batch.activations[hook], batch.table, hook, self.hparams["bad_activations"])
            self.skipped[index] += (~good).sum()
            if n >= dictionary.capacity or not bool(good.any()):
                continue
            x, table = dictionary.centre(batch.activations[hook][good]), batch.table[good]
            atoms, gram = dictionary.buffers_for_growth()
            grown = GROWTH_POLICIES[self.hparams["growth"]](x, atoms, gram, n, self._rule(index))
            dictionary.append(grown.atoms, table[grown.accepted])
            self.appended_at[index, n : dictionary.n_atoms] = self.seen
            energy, residual = x.double().square().sum(), grown.residual_energy.double().sum()
            self._log("growth/n_atoms", dictionary.n_atoms, hook, prog_bar=True)
            self._log("growth/atoms_per_1k_activations", 1000 * len(grown.accepted) / len(x), hook)
            self._log("growth/unexplained", residual / energy, hook)
        self._log("details/n_training_samples", int(self.seen))
        self.growth_seconds += time.perf_counter() - start
        # Without an optimiser Lightning counts no steps, and its loggers and checkpoints go by that count.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def on_validation_epoch_start(self) -> None:
        """Start new sums."""
        self._sums = [ValidationSums.empty(self.dictionary(hook)) for hook in self.hook_names]

    def validation_step(self, batch: ActivationBatch, batch_idx: int) -> None:
        """Add a batch of held-out activations to the sums."""
        for index, hook in enumerate(self.hook_names):
            x = batch.activations[hook]
            self._sums[index].add(self.dictionary(hook), x[torch.isfinite(x).all(-1)])

    def on_validation_epoch_end(self) -> None:
        """Log FVU, L0, dead atoms and the rate of growth; names are SAELens's where the quantity is the same."""
        for index, hook in enumerate(self.hook_names):
            metrics = self._sums[index].metrics()
            n_atoms, seen = self.dictionary(hook).n_atoms, int(self.seen)
            earlier = [entry for entry in self.history if entry["hook_name"] == hook]
            last_seen = int(earlier[-1]["seen"]) if earlier else 0
            last_n = int(earlier[-1]["n_atoms"]) if earlier else 0
            if seen > last_seen:
                rate = 1000 * (n_atoms - last_n) / (seen - last_seen)
                self._log("growth/validation_atoms_per_1k_activations", rate, hook)
            self._log("metrics/fvu", metrics["fvu"], hook, prog_bar=True)
            self._log("metrics/explained_variance", 1 - metrics["fvu"], hook)
            self._log("metrics/l0", metrics["l0"], hook)
            self._log("sparsity/dead_features", metrics["dead_atoms"], hook)
            if not self.trainer.sanity_checking:
                self.history.append({"hook_name": hook, "seen": seen, "n_atoms": n_atoms, **metrics})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put what is not a tensor beside the state: names, settings, the history of validation."""
        checkpoint["itda"] = {
            "hook_names": self.hook_names,
            "dataset": self.dataset,
            "rows": self._data().rows("train").fingerprint(),
            "k": self.hparams["k"],
            "pursuit": self.hparams["pursuit"],
            "nonnegative": self.hparams["nonnegative"],
            "history": self.history,
            "metadata": [self.metadata(hook) for hook in self.hook_names],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history back and refuse a checkpoint of another fit.

        Raises:
            InputError: other settings, hook points or data than this fit's, each named.
        """
        saved = checkpoint.get("itda")
        if saved is None:
            raise InputError("the checkpoint is not one of an ITDA fit: give one of a run's checkpoints/ directory")
        if not self.hook_names:
            shapes = [
                checkpoint["state_dict"][f"dictionaries.{i}._atoms"].shape for i in range(len(saved["hook_names"]))
            ]
            self._make_dictionaries({hook: shape[1] for hook, shape in zip(saved["hook_names"], shapes, strict=True)})
            self.dataset = saved["dataset"]
        mine: dict[str, Any] = {"hook_names": self.hook_names, "dataset": self.dataset, **_settings(self.hparams)}
        theirs = {
            **checkpoint.get("hyper_parameters", {}),
            "hook_names": saved["hook_names"],
            "dataset": saved["dataset"],
        }
        if self._trainer is not None:
            mine["rows"], theirs["rows"] = self._data().rows("train").fingerprint(), saved["rows"]
            mine["d_in"] = [dictionary.d_in for dictionary in self.dictionaries]
            theirs["d_in"] = [
                checkpoint["state_dict"][f"dictionaries.{i}._atoms"].shape[1] for i in range(len(saved["hook_names"]))
            ]
        different = [
            f"{key}: {theirs[key]!r} there, {mine[key]!r} here" for key in mine if mine[key] != theirs.get(key)
        ]
        if different:
            raise InputError(
                f"the checkpoint is of another fit ({'; '.join(different)}): resume with its own config.yaml"
            )
        self.history = saved["history"]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **_: Any) -> "ITDA":  # type: ignore[override]
        """The module as it was saved, on the CPU. Raises InputError for a truncated or foreign checkpoint."""
        checkpoint = read_checkpoint(checkpoint_path)
        module = cls(**_settings(checkpoint.get("hyper_parameters", {})))
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"])
        return module

    def results(self, hook_name: str) -> dict[str, float | int]:
        """The figures of the fit of one hook point: size, data seen, and the last validation."""
        index = self.hook_names.index(hook_name)
        validation = [entry for entry in self.history if entry["hook_name"] == hook_name]
        last = {
            key: value for key, value in (validation[-1] if validation else {}).items() if not isinstance(value, str)
        }
        return {
            "n_atoms": self.dictionary(hook_name).n_atoms,
            "activations_seen": int(self.seen),
            "activations_skipped": int(self.skipped[index]),
            "threshold": float(self.thresholds[index]),
            **{key: value for key, value in last.items() if key not in ("seen", "n_atoms")},
        }

    def finished_dictionary(self, hook_name: str | None = None) -> Dictionary:
        """The dictionary of a hook point on the CPU with exactly its atoms, their prompts and the facts of the fit.

        Raises:
            InputError: no such hook point, or several and no name.
        """
        grown = self.dictionary(hook_name)
        hook_name = hook_name or self.hook_names[0]
        rows = self._data().rows("train")
        table = grown.source_table.cpu()
        prompts = tuple(rows.prompt(Source(*row)) for row in table.tolist())
        return Dictionary(
            grown.atoms.cpu(),
            grown.bias.cpu(),
            Sources(table.clone(), self.dataset, prompts),
            k=grown.k,
            pursuit=grown.pursuit,
            nonnegative=grown.nonnegative,
            metadata=self.metadata(hook_name),
        )

    def metadata(self, hook_name: str) -> dict[str, Any]:
        """JSON facts of the fit of one hook point: model, data, settings, and the curves of growth and FVU."""
        index, n = self.hook_names.index(hook_name), self.dictionary(hook_name).n_atoms
        data = _settings(self._data().hparams) if self._trainer is not None else {}
        when = self.appended_at[index, :n].cpu().unique(return_counts=True) if n else ((), ())
        growth, total = [], 0
        for seen, count in zip(*(part.tolist() if isinstance(part, Tensor) else part for part in when), strict=True):
            total += count
            growth.append([seen, total])
        return {
            "hook_name": hook_name,
            # The next six stand under the names that SAELens's tools read.
            "model_name": data.get("model"),
            "model_class_name": MODEL_CLASSES[data.get("loader", "bridge")],
            "dataset_path": data.get("dataset"),
            "context_size": data.get("context_size"),
            "prepend_bos": data.get("prepend_bos"),
            "exclude_special_tokens": data.get("exclude_special_tokens"),
            "data": data,
            "fit": _settings(self.hparams),
            "threshold": None if bool(self.thresholds[index].isnan()) else float(self.thresholds[index]),
            "activations_seen": int(self.seen),
            "activations_skipped": int(self.skipped[index]),
            "growth": growth,
            "validation": [entry for entry in self.history if entry["hook_name"] == hook_name],
        }

    def _make_dictionaries(self, widths: dict[str, int]) -> None:
        hp = self.hparams
        self.hook_names = list(widths)
        for width in widths.values():
            self.dictionaries.append(
                Dictionary(
                    torch.zeros(0, width),
                    sources=Sources(torch.zeros(0, len(COLUMNS), dtype=torch.int64), self.dataset),
                    k=hp["k"],
                    pursuit=hp["pursuit"],
                    nonnegative=hp["nonnegative"],
                    capacity=hp["max_atoms"],
                )
            )
        hooks = len(widths)
        self.register_buffer("thresholds", torch.full((hooks,), torch.nan, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("skipped", torch.zeros(hooks, dtype=torch.int64))
        self.register_buffer("appended_at", torch.zeros(hooks, hp["max_atoms"], dtype=torch.int64))

    def _data(self) -> ActivationsDataModule:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ActivationsDataModule):
            raise InputError("an ITDA is fitted on an ActivationsDataModule: call trainer.fit(module, datamodule=...)")
        return data

    def _rule(self, index: int) -> GrowthRule:
        hp = self.hparams
        return GrowthRule(hp["k"], hp["pursuit"], hp["nonnegative"], float(self.thresholds[index]))

    def _log(self, name: str, value: float | Tensor, hook: str | None = None, prog_bar: bool = False) -> None:
        full_name = name if hook is None or len(self.hook_names) == 1 else f"{name}/{hook}"
        self.log(full_name, torch.as_tensor(value, dtype=torch.float32), prog_bar=prog_bar, batch_size=1)


def _settings(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments without what LightningCLI adds to them."""
    return {key: value for key, value in hyper_parameters.items() if not key.startswith("_")}
