"""Anchored refinement of a fit's dictionaries: a few passes over the cached activations after growth, resumable."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.shuffled import TrainingRows, shuffled_batches
from itda_lightning.errors import InputError
from itda_lightning.fitting.fit_state import differences
from itda_lightning.fitting.module import ITDA
from itda_lightning.growth import (
    RefinementRule,
    RefinementState,
    descent,
    project_on_cones,
    refinement_step,
    unmix,
    unmixing_steps,
)
from itda_lightning.machine.checks import check_at_least, check_between, check_seed
from itda_lightning.machine.progress import bars_are_hidden
from itda_lightning.pursuit import pursue_among_ranks

logger = logging.getLogger(__name__)

# Settings that a checkpoint of an earlier version lacks, with what was done then.
LATER_SETTINGS: dict[str, Any] = {"unmix": None, "relabel": False}


@dataclass(frozen=True)
class RefinementSettings:
    """Settings of the refinement of a fit's atoms after growth, for its pursuit; not for comparisons across models.

    Every atom keeps a cosine of at least ``anchor`` with its source's activation, which is saved too. The higher it is
    the better the source's text labels the atom; without a bound, atoms go where the data's features are and get new
    labels. The defaults are what measured best in ``benchmarks/comparison`` (meaning.yaml, layer14.yaml).

    Args:
        anchor: the least cosine of an atom with its source's activation, from 0 to 1, which leaves the atoms as they
            are; null for no bound.
        passes: number of passes over all training activations.
        batch_size: activations in one step; all of them if there are fewer.
        rate: about how far an atom moves in the first step, in radians; falls linearly to 0 over all steps.
        seed: of the order of activations.
        buffer_bytes: memory for activations; those that do not fit are read again in each pass.
        unmix: the largest cosine, above 0 and below 1, that an atom keeps with atoms used more often: some thirty times
            on the way, what exceeds it is subtracted (``growth.unmix``). Atoms then stand for single features instead
            of pairs that occur together; the bound of ``anchor`` comes first. Null for not at all.
        relabel: at the end, name each atom by the training activation that it is most like among its typical uses:
            those of the token that is most frequent among the 50 with the largest cosine (``fitting.relabelling``). Its
            first source is kept and stays what models are compared by.
    """

    anchor: float | None = None
    passes: int = 3
    batch_size: int = 1024
    rate: float = 0.1
    seed: int = 0
    buffer_bytes: int = 2**30
    unmix: float | None = None
    relabel: bool = True

    def check(self, data: ActivationsDataModule) -> None:
        """Raise InputError for settings out of range and for data that cannot be read more than once."""
        check_between(0, 1, {"refine.anchor": self.anchor}, "it is a cosine with the source; null for no bound")
        positive = ("passes", "batch_size", "buffer_bytes")
        check_at_least(1, {f"refine.{name}": getattr(self, name) for name in positive})
        if not 0 < self.rate <= 1:
            raise InputError(f"refine.rate must be above 0 and at most 1 radian, got {self.rate}")
        if self.unmix is not None and not 0 < self.unmix < 1:
            raise InputError(f"refine.unmix must be a cosine above 0 and below 1, got {self.unmix}: null for none")
        check_seed({"refine.seed": self.seed})
        if not data.rereadable:
            raise InputError(
                "refinement reads the activations more than once, so they must be on disk: set data.cache_dir, or "
                "refine to null for atoms as grown"
            )


def refine(
    module: ITDA,
    data: ActivationsDataModule,
    settings: RefinementSettings,
    save: Callable[[], None] | None = None,
    save_every: int = 50,
) -> float:
    """Refine every dictionary of a grown module in place, resuming if it has begun; return the seconds.

    The result is the same to the bit for the same settings, data and number of threads, on any number of processes and
    however often it was killed and resumed.

    Args:
        module: after its fit, or loaded from a checkpoint.
        data: those of the fit, with a ``cache_dir``.
        save: called every ``save_every`` steps; writes a checkpoint of the module.

    Raises:
        InputError: as ``RefinementSettings.check``, ``TrainingRows`` and ``shuffled_batches``, or settings other than
            those it began with.
    """
    settings.check(data)
    start = time.perf_counter()
    for hook in module.hook_names:
        if module.dictionary(hook).n_atoms == 0:
            continue  # nothing grew: there is no mean cosine
        facts = module.refinements.setdefault(hook, asdict(settings) | {"unexplained": []})
        earlier = {name: value for name, value in LATER_SETTINGS.items() if name not in facts}
        facts |= earlier
        if different := differences(facts, asdict(settings) | earlier, "refine."):
            raise InputError(f"the refinement began with other settings ({different}): resume with its own config.yaml")
        if "mean_cosine" not in facts:
            _Run(module, data, replace(settings, **earlier), hook).go(save, save_every)
    return time.perf_counter() - start


class _Run:
    """The refinement of one hook point's dictionary."""

    def __init__(self, module: ITDA, data: ActivationsDataModule, settings: RefinementSettings, hook: str) -> None:
        self.rows = TrainingRows(data, hook)
        # A step has each activation once at most.
        settings = replace(settings, batch_size=min(settings.batch_size, self.rows.n_kept))
        self.module, self.settings, self.hook = module, settings, hook
        self.facts, self.dictionary = module.refinements[hook], module.dictionary(hook)
        self.per_pass = max(1, self.rows.n_kept // settings.batch_size)
        grown, device, steps = self.dictionary, data.model_name.torch_device(), settings.passes * self.per_pass
        self.rule = RefinementRule(
            grown.k, grown.pursuit, grown.nonnegative, settings.anchor, settings.rate, steps, grown.memory_budget
        )
        grown.keep_grown()
        self.sources, self.bias = grown.grown_atoms.to(device), grown.bias.to(device)
        self.state = RefinementState.start(grown.atoms.to(device))
        self.pass_sums = torch.zeros(2, dtype=torch.float64)  # in this pass: sum of unexplained shares, activations
        self.unmixed_after = unmixing_steps(steps) if settings.unmix is not None else frozenset()
        self.uses = torch.zeros(grown.n_atoms, dtype=torch.int64, device=device)  # since the last unmixing: of codes
        self.shares: list[float] = list(self.facts["unexplained"])  # mean unexplained share of each earlier pass
        if (saved := module.refinement_states.get(hook)) is not None:
            moments = {name: saved[name].to(device) for name in ("first", "second")}
            self.state = self.state._replace(**moments, step=saved["step"])
            self.pass_sums = saved["pass_sums"].clone()
            self.uses = saved.get("uses", self.uses).to(device, copy=True)

    def go(self, save: Callable[[], None] | None, save_every: int) -> None:
        start, begun = time.perf_counter(), int(self.state.step)
        name = f"Refine {self.hook}"
        with tqdm(total=self.rule.steps, initial=begun, unit=" steps", desc=name, disable=bars_are_hidden()) as bar:
            for done, x in enumerate(self._batches(begun), begun + 1):
                self._step(x)
                bar.update()
                if save is not None and done % save_every == 0 and done < self.rule.steps:
                    self._publish()
                    moments = {"first": self.state.first, "second": self.state.second, "step": self.state.step}
                    sums = {"pass_sums": self.pass_sums.clone(), "uses": self.uses.clone()}
                    self.module.refinement_states[self.hook] = moments | sums
                    save()
                if self.shares:
                    bar.set_postfix(unexplained=f"{self.shares[-1]:.4f}")
        self._publish()
        self.module.refinement_states.pop(self.hook, None)
        cosines = self.dictionary.cosines
        assert cosines is not None
        self.facts |= {"mean_cosine": float(cosines.mean()), "least_cosine": float(cosines.min())}
        logger.info(
            "refined %d atoms at %s in %.1f s (%d steps of %d activations): mean cosine with the sources %.4f, "
            "mean unexplained share in each pass %s",
            self.dictionary.n_atoms,
            self.hook,
            time.perf_counter() - start,
            int(self.state.step) - begun,
            self.settings.batch_size,
            self.facts["mean_cosine"],
            ", ".join(f"{share:.4f}" for share in self.facts["unexplained"]),
        )

    def _batches(self, done: int) -> Iterator[Float[Tensor, "batch d"]]:
        """Yield the batches from step ``done`` on; every pass has its own order, so earlier passes are not read."""
        settings = self.settings
        for number in range(done // self.per_pass, settings.passes):
            # Far apart, so that runs with neighbouring seeds share no order.
            seed = settings.seed * 2**16 + number
            batches = shuffled_batches(self.rows, settings.batch_size, seed, settings.buffer_bytes)
            yield from islice(batches, max(0, done - number * self.per_pass), self.per_pass)

    def _step(self, x: Float[Tensor, "batch d"]) -> None:
        sums = descent(x.to(self.bias.device) - self.bias, self.state.atoms, self.rule, pursue_among_ranks)
        self.state = refinement_step(self.state, sums, self.sources, self.rule)
        self.pass_sums += torch.stack([sums.unexplained.cpu(), sums.activations.cpu().double()])
        self.uses += sums.uses
        if int(self.state.step) in self.unmixed_after:
            self._unmix()
        if int(self.state.step) % self.per_pass == 0:
            self.shares.append(float(self.pass_sums[0] / self.pass_sums[1]))
            self.pass_sums.zero_()

    def _unmix(self) -> None:
        assert self.settings.unmix is not None
        atoms, changed = unmix(self.state.atoms, self.uses, self.settings.unmix)
        inside = project_on_cones(atoms, self.sources, self.rule.anchor)
        self.state = self.state._replace(atoms=torch.where(changed[:, None], inside, self.state.atoms))
        self.uses.zero_()
        logger.debug("unmixed %d of %d atoms at %s", int(changed.sum()), len(atoms), self.hook)

    def _publish(self) -> None:
        """Put the atoms so far and the shares into the module, whose checkpoints contain them."""
        self.dictionary.refine(self.state.atoms)
        self.facts["unexplained"] = list(self.shares)
