"""The state of a fit: one dictionary per hook point and its facts, saved in checkpoints and restored from them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.dictionary import REFINEMENT, Dictionary
from itda_lightning.dictionary.facts import FitMetadata, codes_of, fit_metadata, settings
from itda_lightning.dictionary.joint_atoms import SITES
from itda_lightning.dictionary.sites import Sites
from itda_lightning.dictionary.sources import COLUMNS, Prompt, Sources
from itda_lightning.errors import InputError
from itda_lightning.fitting.arguments import check_sizes
from itda_lightning.fitting.checkpoint_io import state_of_a_fit
from itda_lightning.pursuit import check_unit_rows

# Arguments of a fit that decide neither which atoms it finds nor their order.
NOT_OF_ATOMS = ("memory_budget", "least_gain", "l0")


def fit_identity(fit: Mapping[str, Any], data: ActivationsDataModule) -> dict[str, Any]:
    """Return everything that decides the activations, their order, and how atoms are chosen from them.

    Paths and the language model's batch size are left out: a model or a cache may have been moved.
    """
    return {
        **{f"model.{key}": value for key, value in fit.items() if key not in NOT_OF_ATOMS},
        **{f"data.{key}": value for key, value in data.identity._asdict().items()},
        **({"data.joint": True} if data.joint else {}),
        "data.batch_size": data.hparams["batch_size"],
    }


def differences(saved: Mapping[str, Any], current: Mapping[str, Any], prefix: str = "") -> str:
    """Name every value of a fit that is not as saved in its checkpoint; "" if it resumes as if it had never stopped."""
    return "; ".join(
        f"{prefix}{key}: {saved.get(key)!r} there, {value!r} here"
        for key, value in current.items()
        if value != saved.get(key)
    )


class FitState(L.LightningModule):
    """The dictionaries of a fit with the figures that belong to them.

    Attributes:
        hook_names: one per dictionary; empty until the data are known.
        history: validations of all hook points before any refinement.
        thresholds, typical_energies: (hook points,) float64 of the growth rule; thresholds are nan before calibration.
        seen: activations seen in training.
        skipped: (hook points,) activations that could not be used.
        appended_at: (hook points, max_atoms) activations seen when each atom was appended.
        sites: of a joint fit; its one dictionary is of all of them.
    """

    thresholds: Tensor
    typical_energies: Tensor
    seen: Tensor
    skipped: Tensor
    appended_at: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.hook_names: list[str] = []
        self.dictionaries = nn.ModuleList()
        self.history: list[dict[str, float | int | str]] = []
        # hook point -> facts of its refinement, and while that runs the state from which it resumes.
        self.refinements: dict[str, dict[str, Any]] = {}
        self.refinement_states: dict[str, dict[str, Tensor]] = {}
        self.dataset = ""
        self.sites = Sites()
        self._data_settings: dict[str, Any] = {}

    @property
    def full(self) -> bool:
        """True if every dictionary has ``max_atoms`` atoms."""
        return all(dictionary.n_atoms >= self.hparams["max_atoms"] for dictionary in self.dictionaries)

    def dictionary(self, hook_name: str | None = None) -> Dictionary:
        """Return the dictionary of a hook point, or the only one. Raises InputError for no such one, or several."""
        if hook_name is None and len(self.hook_names) == 1:
            hook_name = self.hook_names[0]
        if hook_name not in self.hook_names:
            raise InputError(f"there is no dictionary of {hook_name!r}: choose one of {self.hook_names}")
        dictionary = self.dictionaries[self.hook_names.index(hook_name)]
        assert isinstance(dictionary, Dictionary)
        return dictionary

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add everything that is not a tensor: names, settings, the history of validation."""
        checkpoint["itda"] = {
            "hook_names": self.hook_names,
            "d_in": [self.dictionary(hook).d_in for hook in self.hook_names],
            "dataset": self.dataset,
            **{name: self.hparams[name] for name in ("k", "pursuit", "nonnegative")},
            "least_gains": [self.dictionary(hook).least_gain for hook in self.hook_names],
            "identity": self._identity,
            "data": self._data_settings,
            "history": self.history,
            "refinements": self.refinements,
            "refinement_states": self.refinement_states,
            "metadata": [self.metadata(hook) for hook in self.hook_names],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what ``on_save_checkpoint`` saved. Raises InputError for one of another fit, or a damaged one."""
        saved = checkpoint.get("itda")
        if saved is None:
            raise InputError("the checkpoint is not one of an ITDA fit: give one of a run's checkpoints/ directory")
        with state_of_a_fit("the checkpoint"):
            self._restore(checkpoint, saved)

    def _restore(self, checkpoint: dict[str, Any], saved: dict[str, Any]) -> None:
        if self._trainer is not None:
            if different := differences(saved["identity"], self._identity):
                raise InputError(f"the checkpoint is of another fit ({different}): resume with its own config.yaml")
            if "l0" not in checkpoint["hyper_parameters"]:  # of an earlier version, in which codes were not pruned
                self.hparams["l0"] = None
        else:
            self.dataset, self._data_settings = saved["dataset"], saved["data"]
            self._make_dictionaries(dict(zip(saved["hook_names"], saved["d_in"], strict=True)))
        self.sites = Sites.of(saved["metadata"][0].get(SITES) or []) if saved.get("metadata") else Sites()
        if self._trainer is not None and self.sites:
            self._data().sites = self.sites  # as they were measured when the fit began
        for hook, least_gain in zip(saved["hook_names"], saved.get("least_gains", []), strict=False):
            self.dictionary(hook).least_gain = least_gain
        self.history = saved["history"]
        self.refinements = saved.get("refinements", {})
        self.refinement_states = saved.get("refinement_states", {})
        for hook, facts in self.refinements.items():  # the checkpoint's state has tensors for them
            self.dictionary(hook).keep_grown()
            if "mean_label_cosine" in facts:
                self.dictionary(hook).keep_labels()
        self._check_state(checkpoint["state_dict"])

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError for tensors that cannot be those of this fit; Lightning loads them next."""
        own = self.state_dict()
        for name in sorted(own.keys() | state.keys()):
            mine, theirs = (tuple(each[name].shape) if name in each else None for each in (own, state))
            if mine != theirs:
                raise ValueError(f"{name} should have the shape {mine}, it has {theirs}")
        for index, dictionary in enumerate(self.dictionaries):
            assert isinstance(dictionary, Dictionary)
            count = int(state[f"dictionaries.{index}._count"])
            if not 0 <= count <= dictionary.capacity:
                raise ValueError(f"it has {count} atoms of at most {dictionary.capacity}")
            check_unit_rows(state[f"dictionaries.{index}._atoms"][:count])

    def results(self, hook_name: str) -> dict[str, Any]:
        """Return the figures of the fit of one hook point: size, data seen, threshold, and the last validation.

        For refined atoms, that is the validation after refinement, with the FVU before it as ``fvu_unrefined``.
        """
        metadata = self.metadata(hook_name)
        last: dict[str, Any] = dict(metadata["validation"][-1]) if metadata["validation"] else {}
        refinement = metadata.get(REFINEMENT, {})
        if "validation" in refinement:
            grown = {"fvu_unrefined": last["fvu"]} if last else {}
            cosines = {name: refinement[name] for name in ("mean_cosine", "mean_label_cosine") if name in refinement}
            last = refinement["validation"] | grown | cosines
        return {
            "n_atoms": self.dictionary(hook_name).n_atoms,
            "activations_seen": metadata["activations_seen"],
            "activations_skipped": metadata["activations_skipped"],
            "threshold": metadata["threshold"],
            **{name: value for name, value in last.items() if name not in ("hook_name", "seen", "n_atoms")},
        }

    def finished_dictionary(self, hook_name: str | None = None) -> Dictionary:
        """Return the dictionary of a hook point on the CPU, with the facts of the fit and the prompts of its atoms.

        There are no prompts if the module was loaded from a checkpoint. Raises like ``dictionary``.
        """
        grown = self.dictionary(hook_name)
        table, labels = grown.source_table.cpu(), grown.relabelled
        prompts: tuple[Prompt, ...] | None = None
        if self._trainer is not None:
            rows = self._data().rows("train")
            prompts = rows.prompts(table)
            labels = None if labels is None else labels._replace(prompts=rows.prompts(labels.table))
        return Dictionary(
            grown.atoms.cpu(),
            grown.bias.cpu(),
            Sources(table, self.dataset, prompts),
            k=grown.k,
            pursuit=grown.pursuit,
            nonnegative=grown.nonnegative,
            least_gain=grown.least_gain,
            metadata=self.metadata(hook_name or self.hook_names[0]),
            grown=None if grown.cosines is None else grown.grown_atoms.cpu(),
            labels=labels,
        )

    def metadata(self, hook_name: str) -> FitMetadata:
        """Return the facts of the fit of one hook point: model, data, settings, and the curves of growth and FVU."""
        dictionary, index = self.dictionary(hook_name), self.hook_names.index(hook_name)
        return fit_metadata(
            hook_name,
            data=self._data_settings,
            fit=settings(self.hparams),
            threshold=float(self.thresholds[index]),
            seen=int(self.seen),
            skipped=int(self.skipped[index]),
            appended_at=self.appended_at[index, : dictionary.n_atoms].cpu(),
            history=self.history,
            refinement=self.refinements.get(hook_name),
            typical_energy=float(self.typical_energies[index]),
            codes=codes_of(dictionary),
            sites=self.sites,
        )

    def _make_dictionaries(self, widths: dict[str, int]) -> None:
        check_sizes(self.hparams, widths)
        self.hook_names, hooks = list(widths), len(widths)
        no_sources = Sources(torch.zeros(0, len(COLUMNS), dtype=torch.int64), self.dataset)
        options = {name: self.hparams[name] for name in ("k", "pursuit", "nonnegative", "least_gain", "memory_budget")}
        options["capacity"] = self.hparams["max_atoms"]
        for width in widths.values():
            no_atoms = torch.zeros(0, width, dtype=getattr(torch, self.hparams["atoms_dtype"]))
            self.dictionaries.append(Dictionary(no_atoms, sources=no_sources, **options))
        self.register_buffer("thresholds", torch.full((hooks,), torch.nan, dtype=torch.float64))
        self.register_buffer("typical_energies", torch.ones(hooks, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("skipped", torch.zeros(hooks, dtype=torch.int64))
        self.register_buffer("appended_at", torch.zeros(hooks, self.hparams["max_atoms"], dtype=torch.int64))

    def _data(self) -> ActivationsDataModule:
        data = getattr(self._trainer, "datamodule", None)
        if not isinstance(data, ActivationsDataModule):
            raise InputError(
                "an ITDA is fitted on an ActivationsDataModule: call trainer.fit(module, datamodule=...), or "
                "il.fit_activations(x, ...) for an array"
            )
        return data

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return fit_identity(settings(self.hparams), self._data())
