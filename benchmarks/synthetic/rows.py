"""The rows of the study: dictionaries, SAEs and controls, by name and in the order of the table."""

import time
from dataclasses import dataclass, replace
from typing import Any, Literal

from sae_lens import SAE
from torch.nn.functional import normalize

from benchmarks.synthetic.atoms import PRUNED, Atoms, Start, dictionary_of
from benchmarks.synthetic.trained import Training, sae_of
from benchmarks.synthetic.worlds import World
from itda_lightning import Dictionary, to_sae
from itda_lightning.pursuit import PursuitName
from itda_lightning.saelens.amortised import AmortisedArchitecture
from itda_lightning.saelens.training_settings import TrainedArchitecture

# Cosines of random directions have a standard deviation of 1 / sqrt(d); atoms are unmixed above this many of them.
UNMIXED = 3.5
# Codes may have half as many atoms again as those that the atoms are made for: pruned, they have fewer on average. The
# defaults of `fit` do so, too: their mean L0 is two thirds of k.
MOST = 1.5
PURSUITS: dict[str, PursuitName] = {"MP": "mp", "OMP": "omp", "generalised": "gomp"}
# Quoted, not run: the 16k world at 200 M samples and L0 25 (arXiv 2602.14687).
PUBLISHED = {
    "L1": {"f1": 0.5562, "mcc": 0.6039, "uniqueness": 0.8976, "ev": 0.7654},
    "MatchPursuit": {"f1": 0.4464, "mcc": 0.6930, "uniqueness": 0.8281, "ev": 0.8351},
    "JumpReLU": {"f1": 0.7317, "mcc": 0.7527, "uniqueness": 0.9885, "ev": 0.7951},
    "BatchTopK": {"f1": 0.7316, "mcc": 0.7574, "uniqueness": 0.9837, "ev": 0.7923},
    "Matryoshka": {"f1": 0.8793, "mcc": 0.7927, "uniqueness": 0.9987, "ev": 0.7792},
}


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        made: the atoms or the training.
        least_gain: codes of a dictionary are pruned of atoms that explain a smaller share; 0 for none. If it is not, an
            SAE's decoder is read by a pursuit with such codes instead of its encoder.
        most: atoms in a code, before it is pruned; None for as many as the atoms were made for.
        times: training samples, as a multiple of those of the dictionaries.
        architecture: of the SAE that a dictionary becomes: "itda", or a stock one with an encoder regressed on its
            codes of the training samples.
    """

    made: Atoms | Training
    least_gain: float = 0.0
    most: int | None = None
    times: int = 1
    architecture: Literal["itda", "topk", "jumprelu"] = "itda"

    def sae(self, world: World, samples: int, seed: int) -> tuple[SAE[Any], float]:
        """Make what the row scores, and return it with the seconds that it took."""
        if isinstance(self.made, Training):
            sae = sae_of(world, self.made, self.times * samples, seed)
            return self._read_by_pursuit(sae) if self.least_gain else sae, sae.cfg.metadata["seconds"]
        dictionary = dictionary_of(world, self.made, self.times * samples, seed)
        dictionary.k, dictionary.least_gain = self.most or dictionary.k, self.least_gain
        start = time.perf_counter() - dictionary.metadata["seconds"]
        activations = None if self.architecture == "itda" else world.training(self.times * samples)
        return to_sae(dictionary, self.architecture, activations=activations), time.perf_counter() - start

    def _read_by_pursuit(self, sae: SAE[Any]) -> SAE[Any]:
        atoms, bias = normalize(sae.W_dec.detach(), dim=1), sae.b_dec.detach()
        k = self.most or sae.cfg.k
        return to_sae(Dictionary(atoms, bias, k=k, pursuit="gomp", nonnegative=True, least_gain=self.least_gain))


def _dictionaries(width: int) -> dict[str, Atoms]:
    refined = Atoms(anchor=None)
    made = {"random activations": Atoms("random"), "random activations, OMP, signed": _signed(Atoms("random"), "omp")}
    made |= {"grown": Atoms(), "grown, OMP, signed": _signed(Atoms(), "omp")}
    made |= {f"refined, anchor {anchor}": Atoms(anchor=anchor) for anchor in (0.9, 0.8)} | {"refined": refined}
    for name, pursuit in PURSUITS.items():
        if pursuit != "gomp":
            made[f"refined, {name}"] = replace(refined, pursuit=pursuit)
        made[f"refined, {name}, signed"] = _signed(refined, pursuit)
    unmixed = replace(refined, unmix=round(UNMIXED / width**0.5, 3))
    windows: tuple[Start, ...] = ("oddest", "typical", "oddest, pruned", "typical, pruned")
    for start in windows:
        name = start.replace("pruned", "by pruned residuals")
        made |= {f"grown in windows: {name}": Atoms(start), f"unmixed, from {name}": replace(unmixed, start=start)}
    made |= {"unmixed": unmixed, "unmixed above .35": replace(refined, unmix=0.35)}
    made["unmixed, from random activations"] = replace(unmixed, start="random")
    made["unmixed, not centred"] = replace(unmixed, center=False)
    made["unmixed, anchor 0.8"] = replace(unmixed, anchor=0.8)
    made["unmixed, OMP"] = replace(unmixed, pursuit="omp")
    made["k-means, L0 1"] = Atoms("k-means", "mp", k=1)
    return made | {"true features": Atoms("true features")}


def _signed(atoms: Atoms, pursuit: PursuitName) -> Atoms:
    return replace(atoms, pursuit=pursuit, nonnegative=False)


def _trainings(k: int, least_gain: float, most: int) -> dict[str, Row]:
    architectures: dict[str, TrainedArchitecture] = {
        "TopK": "topk",
        "BatchTopK": "batchtopk",
        "Matryoshka BatchTopK": "matryoshka_batchtopk",
        "AbsTopK": "abstopk",
        "matching pursuit SAE": "matching_pursuit",
    }
    made: dict[str, Row] = {}
    for times, name in ((1, "T, 8 passes"), (10, "10 T"), (32, "32 T")):
        passes = 8 if times == 1 else 1
        made |= {f"{sae}, {name}": Row(Training(a, passes=passes), times=times) for sae, a in architectures.items()}
    for name in ("TopK", "BatchTopK", "Matryoshka BatchTopK"):  # near the L0 of pruned codes
        made[f"{name}, 10 T, L0 {k // 2 + 1}"] = Row(Training(architectures[name], k // 2 + 1), times=10)
    for name in ("TopK, T, 8 passes", "TopK, 10 T"):
        read = replace(made[name], least_gain=least_gain)
        made[f"{name}, its decoder read by a pruned pursuit"] = read
        made[f"{name}, its decoder read by a pruned pursuit, at most {most}"] = replace(read, most=most)
    for rate in ("1e-3", "1e-2"):
        made[f"TopK, 10 T, rate {rate}"] = Row(Training("topk", rate=float(rate)), times=10)
    for name, held in (("frozen at random", 1.0), ("within cosine .8 of random", 0.8)):
        made[f"TopK, 10 T, decoder {name}"] = Row(Training("topk", held=held), times=10)
    return made


def rows_of(world: World) -> dict[str, Row]:
    """Return all rows by name; each dictionary has one as it is and one with pruned codes."""
    rows: dict[str, Row] = {}
    dictionaries, k = _dictionaries(world.size.width), world.size.k
    pruned, most = round(PRUNED / world.size.width, 4), round(MOST * k)
    for name, atoms in dictionaries.items():
        rows[name] = Row(atoms)
        if atoms.k != 1:
            rows[f"{name}, pruned"] = Row(atoms, pruned)
    for name in ("unmixed", "unmixed, not centred", "true features"):
        rows[f"{name}, pruned, at most {most}"] = Row(dictionaries[name], pruned, most)
    unmixed = dictionaries["unmixed"]
    for gain in (0.01, 0.04):
        rows[f"unmixed, pruned at {gain}"] = Row(unmixed, gain)
    longest = Atoms("random", center=False, anchor=None, unmix=unmixed.unmix, passes=2, batch_size=256)
    longer = replace(longest, unmix=0.25, passes=3)
    for name, atoms in {"unmixed": longest, "unmixed above .25, 3 passes": longer}.items():
        rows[f"{name}, not centred, 10 T"] = Row(atoms, times=10)
        for gain in (0.0025, 0.005, 0.01, 0.02):
            rows[f"{name}, not centred, 10 T, pruned at {gain}"] = Row(atoms, gain, times=10)
        for gain in (0.005, 0.01):
            rows[f"{name}, not centred, 10 T, pruned at {gain}, at most {most}"] = Row(atoms, gain, most, times=10)
    amortised: dict[str, AmortisedArchitecture] = {"JumpReLU": "jumprelu", "TopK": "topk"}
    for name, architecture in amortised.items():
        rows[f"unmixed, pruned, amortised as {name}"] = Row(unmixed, pruned, architecture=architecture)
        for gain, upto, of in ((0.01, None, ""), (pruned, most, f", at most {most}")):
            row = Row(longest, gain, upto, 10, architecture)
            rows[f"unmixed, not centred, 10 T, pruned at {gain}{of}, amortised as {name}"] = row
    return rows | _trainings(k, pruned, most)
