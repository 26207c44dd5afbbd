"""Make the entries of a setting, which explain its sites: joint ITDAs and SAEs, and those of each site alone.

Seconds are those of the processor, of one thread, as other work may run at the same time.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sae_lens import SAE
from torch import Tensor

import itda_lightning as il
from benchmarks.joint.settings import BUDGETS, CALIBRATION, Setting
from itda_lightning.activations.arrays import ArrayActivations
from itda_lightning.dictionary.sites import Sites
from itda_lightning.fitting.refinement import RefinementSettings, refine
from itda_lightning.fitting.trainer import fit_in_memory
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.made_once import made_once
from itda_lightning.saelens.training import train_sae
from itda_lightning.saelens.training_settings import TrainingSettings

ATOMS = 2048
USUAL_K = 32  # which names of directories leave out


class Training(NamedTuple):
    """A training: passes over the activations, learning rate, activations per step."""

    passes: int
    rate: float
    batch_size: int


# Those that did least harm of the ones that choices.py compares.
TRAININGS = {"T": Training(16, 2e-3, 512), "10 T": Training(2, 2e-3, 512), "32 T": Training(1, 2e-3, 512)}
SECONDS = "seconds.json"
AtSites = dict[str, Tensor]


class Entry(NamedTuple):
    """A map of activations by site to their explanations and to atoms per token and site; and the seconds it took."""

    explain: Callable[[AtSites], tuple[AtSites, Tensor]]
    seconds: float


@dataclass
class Entries:
    """The entries of a setting, each made once; those of one site are shared by all settings of the text."""

    setting: Setting

    @property
    def names(self) -> list[str]:
        return list(self.setting.sites)

    @cached_property
    def sites(self) -> Sites:
        """The sites of joint entries, scaled by T activations."""
        return self.data(self.names, "T").sites

    def data(self, names: Sequence[str], budget: str) -> ArrayActivations:
        """Return the activations of one or several sites; those on which nothing is trained come on top."""
        n = BUDGETS[budget] + CALIBRATION
        arrays = {}
        for name in names:
            model, hook = self.setting.sites[name]
            arrays[name] = self.setting.of.aligned.arrays(model, "train", n)[hook]
        self.setting.of.aligned.release_models()
        return ArrayActivations(arrays if len(names) > 1 else arrays[names[0]], holdout_fraction=CALIBRATION / n)

    def itda(self, names: Sequence[str], refined: bool, sites: Sites | None = None, kind: str = "") -> il.Dictionary:
        """Fit an ITDA on T activations, or read it. ``kind`` names one whose sites have other scales."""
        k = self.setting.k * len(names)
        options: dict[str, Any] = {"k": k, "pursuit": "omp", "max_atoms": ATOMS}
        if refined:
            options = {"k": k * 3 // 2, "pursuit": "gomp", "nonnegative": True, "max_atoms": ATOMS, "l0": float(k)}

        def make(directory: Path) -> None:
            data = self.data(names, "T")
            if len(names) > 1:
                data.sites = sites or self.sites
            start = time.process_time()
            module = il.ITDA(**options)
            with torch.enable_grad():
                fit_in_memory(module, data)
            if refined:
                refine(module, data, RefinementSettings(passes=3, relabel=False))
                module.calibrate_l0()
            dictionary = module.finished_dictionary(module.hook_names[0])
            dictionary.metadata["seconds"] = time.process_time() - start
            dictionary.save(directory / "dictionary")

        place = self._place(names, f"itda{'-refined' if refined else ''}{kind}")
        return il.Dictionary.load(made_once(place, make) / "dictionary")

    def sae(self, names: Sequence[str], budget: str, training: Training | None = None) -> SAE[Any]:
        """Train a BatchTopK SAE, or read it; its mean L0 is that of the pruned codes, on the same activations."""
        passes, rate, batch_size = training or TRAININGS[budget]
        settings = TrainingSettings(
            "batchtopk",
            ATOMS,
            self.setting.k * len(names),
            samples=passes * BUDGETS[budget],
            learning_rate=rate,
            batch_size=batch_size,
        )

        def make(directory: Path) -> None:
            data = self.data(names, budget)
            if len(names) > 1:
                data.sites = self.sites
            start = time.process_time()
            with torch.enable_grad():
                train_sae(settings, data, data.hook_names[0], directory / "sae")
            write_json(directory / SECONDS, {"seconds": time.process_time() - start})

        place = self._place(names, f"sae-{budget.replace(' ', '')}-{passes}-{rate:g}-{batch_size}")
        sae = SAE.load_from_disk(made_once(place, make) / "sae")
        sae.cfg.metadata["seconds"] = json.loads((place / SECONDS).read_text())["seconds"]
        data = self.data(names, budget)
        if len(names) > 1:
            data.sites = self.sites
        numbers = torch.arange(CALIBRATION)
        (x,) = data.stored("heldout").read_at(numbers).values()
        return at_mean_l0(sae, x, self.setting.k * len(names))

    def makers(self, budgets: Sequence[str]) -> dict[str, Callable[[], Entry]]:
        """Return for each row, of ITDAs and of SAEs of some budgets, what makes its entry."""
        rows: dict[str, Callable[[], Entry]] = {}
        for refined, word in ((True, ", refined"), (False, "")):
            rows[f"joint ITDA{word}"] = partial(self._joint_itda, refined)
            rows[f"joint ITDA{word}, own coefficients"] = partial(self._joint_itda, refined, own=True)
            rows[f"ITDA of each site{word}"] = partial(self._itdas, refined)
        for budget in budgets:
            rows[f"BatchTopK SAE of all sites, {budget}"] = partial(self._joint_sae, budget)
            rows[f"BatchTopK SAE of each site, {budget}"] = partial(self._saes, budget)
        return rows

    def _joint_itda(self, refined: bool, own: bool = False) -> Entry:
        return joint_itda(self.itda(self.names, refined), own)

    def _itdas(self, refined: bool) -> Entry:
        return separate_itdas({name: self.itda([name], refined) for name in self.names})

    def _joint_sae(self, budget: str) -> Entry:
        return joint_sae(self.sae(self.names, budget), self.sites)

    def _saes(self, budget: str) -> Entry:
        return separate_saes({name: self.sae([name], budget) for name in self.names})

    def _place(self, names: Sequence[str], kind: str) -> Path:
        name = "+".join(names) if len(names) > 1 else "-".join(self.setting.sites[names[0]])
        of_k = "" if self.setting.k == USUAL_K else f"-k{self.setting.k}"
        return self.setting.of.directory / "made" / f"{name}-{kind}{of_k}"


def at_mean_l0(sae: SAE[Any], x: Tensor, k: int) -> SAE[Any]:
    """Return an SAE with thresholds scaled such that k latents per activation are above them; changes it.

    A batchtopk SAE is one of thresholds when its training is over, and more latents may be above them on text that is
    new to it.
    """
    thresholds = sae.threshold.detach().clone()
    sae.threshold.data.zero_()
    shares = (sae.encode(x) / thresholds).flatten()
    sae.threshold.data = thresholds * shares.topk(k * len(x) + 1).values[-1]
    return sae


def joint_itda(dictionary: il.Dictionary, own: bool = False) -> Entry:
    """Return the entry of one code, with the same coefficients at all sites or with those that are best at each."""

    def explain(x: AtSites) -> tuple[AtSites, Tensor]:
        code = dictionary.encode(x)
        codes = {site: dictionary.own_coefficients(code, site, x[site]) if own else code for site in x}
        return {site: dictionary.decode(codes[site], site) for site in x}, code.l0() / len(x)

    return Entry(explain, dictionary.metadata["seconds"])


def separate_itdas(dictionaries: dict[str, il.Dictionary]) -> Entry:
    """Return the entry of one dictionary per site."""

    def explain(x: AtSites) -> tuple[AtSites, Tensor]:
        codes = {site: dictionaries[site].encode(x[site]) for site in x}
        found = {site: dictionaries[site].decode(codes[site]) for site in x}
        return found, torch.stack([code.l0().double() for code in codes.values()]).mean(0)

    return Entry(explain, sum(one.metadata["seconds"] for one in dictionaries.values()))


def joint_sae(sae: SAE[Any], sites: Sites) -> Entry:
    """Return the entry of an SAE of the activations side by side, scaled."""

    def explain(x: AtSites) -> tuple[AtSites, Tensor]:
        latents = sae.encode(sites.join(x))
        return sites.split(sae.decode(latents)), (latents != 0).sum(1) / len(x)

    return Entry(explain, sae.cfg.metadata["seconds"])


def separate_saes(saes: dict[str, SAE[Any]]) -> Entry:
    """Return the entry of one SAE per site."""

    def explain(x: AtSites) -> tuple[AtSites, Tensor]:
        latents = {site: saes[site].encode(x[site]) for site in x}
        found = {site: saes[site].decode(latents[site]) for site in x}
        return found, torch.stack([(one != 0).sum(1).double() for one in latents.values()]).mean(0)

    return Entry(explain, sum(sae.cfg.metadata["seconds"] for sae in saes.values()))
