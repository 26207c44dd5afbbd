"""Transcoders: code at an MLP's input, decode its output by the same sources' outputs, beside an affine map.

    python -m benchmarks.transcoders.run [--layers [4, 14, 25]] [--rows [affine]] [--most_passes 5]
    python -m benchmarks.transcoders.run --tokens 16384 --n_atoms 2048 --batch_size 128 --times_more 10 --name small

A dictionary is grown on the inputs of an MLP. Its atoms' outputs are those of their sources, as they are ("outputs of
the sources") or by one ridge regression of the outputs on the codes ("ridge"). Controls are the mean output, an affine
map by ridge regression and the one of rank k nearest to it; the peer is SAELens's transcoder with TopK, trained by a
plain loop (SAELens has no trainer for it). Rows "affine + ..." explain what the affine map leaves. For each layer: FVU
of the MLP's output on held-out documents, and the increase of CE and the KL if its output is replaced, with standard
errors over documents. What is made is kept in ``directory``, finished rows in results/mlps.json, so the study may be
stopped and started again.
"""

import json
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import auto_cli
from torch import Tensor
from transformers import AutoModelForCausalLM

import itda_lightning as il
from benchmarks.results import Study, commit, describe, write_results
from benchmarks.transcoders.losses import MLPLosses
from benchmarks.transcoders.maps import Linear, ridge_regression, sparse, train_transcoder
from benchmarks.transcoders.tables import CONTROL, MEASURES, as_markdown, parts
from itda_lightning.activations.arrays import ArrayActivations
from itda_lightning.activations.bundled import resolve
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.comparison.bootstrap import DocumentSums
from itda_lightning.dictionary.reconstruction_error import variance
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.machine.made_once import made_once

RESULTS = Path(__file__).parent / "results"
MODEL, DATASET = "bundled:smollm2-135m", "bundled:sotu"
K, HELD_OUT = 32, 0.1
ROW, POSITION, DOCUMENT = (COLUMNS.index(name) for name in ("row", "position", "document"))
GROWN = {"k": K, "pursuit": "omp", "nonnegative": False, "l0": None}
REFINED = {"k": K * 3 // 2, "l0": K}


class Sizes(NamedTuple):
    """Training tokens T, most atoms or latents, activations per step of a transcoder, most passes, tokens over T."""

    tokens: int
    n_atoms: int
    batch_size: int
    most_passes: int
    times_more: int


class Row(NamedTuple):
    """A map of inputs to outputs and to the number of atoms that it uses, and the seconds that it took to make."""

    explain: Callable[[Tensor], tuple[Tensor, Tensor]]
    seconds: float


class Layer:
    """The MLP of a layer: its activations and what is made of them."""

    def __init__(self, data: il.ActivationsDataModule, layer: int, directory: Path, sizes: Sizes) -> None:
        self.data, self.number, self.directory, self.sizes = data, layer, directory / str(layer), sizes
        self.x_hook, self.y_hook = f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out"

    @cached_property
    def train(self) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of the training tokens."""
        return self.first(self.sizes.tokens)

    def first(self, tokens: int) -> tuple[Tensor, Tensor]:
        x, y = (TrainingRows(self.data, hook).first(tokens) for hook in (self.x_hook, self.y_hook))
        assert x.shape == y.shape
        return x, y

    @torch.no_grad()
    def check_mlp(self, model: Any) -> None:
        """Check that the MLP, run on the inputs, gives the outputs."""
        x, y = (side[:1024] for side in self.train)
        torch.testing.assert_close(model.model.layers[self.number].mlp(x), y, rtol=1e-3, atol=1e-3)

    @cached_property
    def not_grown_on(self) -> Tensor:
        """True for the training tokens that dictionaries hold out."""
        x, _ = self.train
        held = torch.zeros(len(x), dtype=torch.bool)
        held[ArrayActivations(x, holdout_fraction=HELD_OUT).rows("heldout").document[:, 0]] = True
        return held

    def dictionary(self, joint: bool, refined: bool) -> il.Dictionary:
        """Fit a dictionary on the inputs, or on inputs and outputs together, or read it."""
        x, y = self.train

        def make(directory: Path) -> None:
            start = time.perf_counter()
            dictionary = il.fit_activations(
                {self.x_hook: x, self.y_hook: y} if joint else x,
                max_atoms=self.sizes.n_atoms,
                refine={"relabel": False} if refined else None,
                holdout_fraction=HELD_OUT,
                progress=False,
                **(REFINED if refined else GROWN),
            )
            dictionary.metadata["seconds"] = time.perf_counter() - start
            dictionary.save(directory / "dictionary")

        name = f"{'joint' if joint else 'input'}{'-refined' if refined else ''}"
        return il.Dictionary.load(made_once(self.directory / name, make) / "dictionary")

    def rows(self) -> dict[str, Callable[[], Row]]:
        """Return for each row what makes it."""
        rows: dict[str, Callable[[], Row]] = {CONTROL: self.affine_row, "mean output": self.mean}
        rows[f"affine map of rank {K}"] = self.low_rank
        for rest in (False, True):
            word = "affine + " if rest else ""
            rows[f"{word}ITDA, outputs of the sources"] = partial(self.sources, rest)
            rows[f"{word}ITDA, ridge"] = partial(self.ridge, rest, False)
            rows[f"{word}ITDA, refined, ridge"] = partial(self.ridge, rest, True)
            for passes, times in sorted({(1, 1), (self.sizes.most_passes, 1), (1, self.sizes.times_more)}):
                each = "1 pass" if passes == 1 else f"{passes} passes"
                name = f"{word}TopK transcoder, {each} of {'T' if times == 1 else f'{times} T'}"
                rows[name] = partial(self.transcoder, rest, passes, times)
        rows["joint ITDA of input and output, code of the input"] = self.joint
        return rows

    @cached_property
    def affine(self) -> tuple[Linear, float]:
        """The affine map, and its seconds."""
        start = time.perf_counter()
        found = ridge_regression(*self.train, self.not_grown_on)
        return found, time.perf_counter() - start

    def mean(self) -> Row:
        mean = self.train[1].double().mean(0)
        return Row(lambda x: (mean.expand(len(x), -1), _none(x)), 0.0)

    def affine_row(self) -> Row:
        return Row(lambda x: (self.affine[0](x), _none(x)), self.affine[1])

    def low_rank(self) -> Row:
        found = self.affine[0].of_rank(K, self.train[0])
        return Row(lambda x: (found(x), _none(x)), self.affine[1])

    def sources(self, rest: bool) -> Row:
        """Decode by what the sources' outputs, less their mean, are for atoms of norm 1."""
        dictionary, (x, _) = self.dictionary(False, False), self.train
        y, before, seconds = self._left(rest, *self.train)
        assert dictionary.sources is not None
        rows = torch.tensor([source.document for source in dictionary.sources])
        norms = dictionary.centre(x[rows]).double().norm(dim=1, keepdim=True)
        mean = y.mean(0)
        decoder = Linear((y[rows] - mean) / norms, mean, 0.0)
        return self._of_codes(dictionary, decoder, before, seconds)

    def ridge(self, rest: bool, refined: bool) -> Row:
        dictionary, (x, _) = self.dictionary(False, refined), self.train
        y, before, seconds = self._left(rest, *self.train)
        start = time.perf_counter()
        decoder = ridge_regression(sparse(dictionary.encode(x), dictionary.n_atoms), y, self.not_grown_on)
        return self._of_codes(dictionary, decoder, before, seconds + time.perf_counter() - start)

    def joint(self) -> Row:
        dictionary = self.dictionary(True, False)

        def explain(x: Tensor) -> tuple[Tensor, Tensor]:
            code = dictionary.encode({self.x_hook: x})
            return dictionary.decode(code, self.y_hook), code.l0()

        return Row(explain, dictionary.metadata["seconds"])

    def transcoder(self, rest: bool, passes: int, times: int) -> Row:
        x, y = self.first(times * self.sizes.tokens)
        y, before, seconds = self._left(rest, x, y)
        start = time.perf_counter()
        made = train_transcoder(x, y.float(), self.sizes.n_atoms, passes, self.sizes.batch_size)
        seconds += time.perf_counter() - start
        return Row(lambda x: (before(x) + made(x), (made.encode(x) != 0).sum(1)), seconds)

    def _left(self, rest: bool, x: Tensor, y: Tensor) -> tuple[Tensor, Callable[[Tensor], Any], float]:
        """Return the outputs that are to be explained, what explains the others, and its seconds."""
        if not rest:
            return y.double(), lambda _: 0.0, 0.0
        return y.double() - self.affine[0](x), *self.affine

    def _of_codes(self, dictionary: il.Dictionary, decoder: Linear, before: Any, seconds: float) -> Row:
        def explain(x: Tensor) -> tuple[Tensor, Tensor]:
            code = dictionary.encode(x)
            return before(x) + decoder(sparse(code, dictionary.n_atoms)), code.l0()

        return Row(explain, dictionary.metadata["seconds"] + seconds)


def _none(x: Tensor) -> Tensor:
    return torch.zeros(len(x))


@torch.no_grad()
def measure(layer: Layer, meter: MLPLosses, row: Row) -> dict[str, Any]:
    """Return the figures of a row at a layer."""
    rows = layer.data.rows("heldout")
    sums = DocumentSums(rows.document[rows.kept])
    kept = torch.zeros(len(meter.rows), rows.context_size, layer.train[1].shape[1])
    used = 0.0
    for batch in layer.data.val_dataloader():
        x, y = batch.activations[layer.x_hook], batch.activations[layer.y_hook].double()
        found, l0 = row.explain(x)
        used += float(l0.double().sum())
        inside = batch.table[:, ROW] < len(meter.rows)
        kept[batch.table[inside, ROW], batch.table[inside, POSITION]] = found[inside].float()
        moments = {"tokens": torch.ones(len(y)), "x": y, "squares": y.square().sum(1)}
        moments["spread"] = (y - layer.train[1].double().mean(0)).square().sum(1)
        sums.update(batch.table[:, DOCUMENT], errors=(y - found.double()).square().sum(1), **moments)
    fvu = sums.estimate(lambda errors, *moments: errors / variance(*moments), "errors", "squares", "x", "tokens")
    losses = meter.measure(kept)
    estimates = zip(MEASURES, (fvu, *losses), strict=True)
    figures: dict[str, Any] = {name: [estimate.value, estimate.error] for name, estimate in estimates}
    # FVU about the mean of the training tokens, which is a ratio of sums over documents.
    summed = (sums.ratio(sums.sums["errors"], sums.sums["spread"]), *losses)
    figures["documents"] = {name: parts(of) for name, of in zip(MEASURES, summed, strict=True)}
    return {**figures, "l0": used / int(rows.kept.sum()), "seconds": row.seconds, "commit": commit()}


def main(
    layers: list[int] | None = None,
    rows: list[str] | None = None,
    most_passes: int = 1,
    tokens: int = 65_536,
    n_atoms: int = 4096,
    batch_size: int = 512,
    times_more: int = 1,
    name: str = "mlps",
    directory: Path = Path("runs/transcoders"),
    cache_dir: str = "~/.cache/itda_lightning/activations",
    loss_tokens: int = 8192,
    results: Path = RESULTS,
) -> None:
    """Run what is not there yet.

    Args:
        layers: whose MLPs; 4, 14 and 25 by default.
        rows: names, or beginnings of names; null for all.
        most_passes: train transcoders for one pass and, if it is larger, for this many, too.
        tokens: T, on which dictionaries are fitted.
        n_atoms: most atoms of a dictionary, and latents of a transcoder.
        batch_size: activations per step of a transcoder.
        times_more: train transcoders on so many times T, too.
        name: of the results.
        directory: of what is made.
        cache_dir: of activations.
        loss_tokens: held-out tokens of CE and KL.
        results: where results are.
    """
    torch.set_num_threads(1)
    hooks = [hook for layer in (4, 14, 25) for hook in (f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out")]
    data = il.ActivationsDataModule(
        MODEL, hooks, DATASET, training_tokens=times_more * tokens, validation_tokens=16_384, cache_dir=cache_dir
    )
    data.prepare_data()
    heldout = data.rows("heldout")
    first = heldout.select(torch.arange(loss_tokens // heldout.context_size))
    sizes = Sizes(tokens, n_atoms, batch_size, most_passes, times_more)
    file = results / f"{name}.json"
    known: dict[str, Any] = json.loads(file.read_text())["layers"] if file.exists() else {}
    for number in layers or (4, 14, 25):
        layer, meter = Layer(data, number, directory / name, sizes), None
        measured = known.setdefault(f"layer {number}", {})
        for row, make in layer.rows().items():
            if row in measured or not any(row.startswith(beginning) for beginning in rows or [""]):
                continue
            made = make()
            if meter is None:
                model = AutoModelForCausalLM.from_pretrained(resolve(MODEL)).eval()
                layer.check_mlp(model)
                meter = MLPLosses(model, first, number)
            measured[row] = measure(layer, meter, made)
            study = Study("transcoders", MODEL, data.model_name.fingerprint(), hooks, DATASET, tokens, 0)
            whole = {**describe(study), "heldout": heldout.n_kept, "loss_tokens": loss_tokens, "k": K, "atoms": n_atoms}
            whole["layers"] = known
            write_results(results, name, whole, as_markdown(whole))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
