"""Check the arguments of a fit before anything is loaded."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

import torch
from humanize import naturalsize

from itda_lightning.activations.batches import BadActivations
from itda_lightning.errors import InputError
from itda_lightning.growth import GROWTH_POLICIES
from itda_lightning.machine.checks import check_at_least, check_between, check_choice, check_wanted_l0
from itda_lightning.machine.memory import total_memory
from itda_lightning.pursuit import PURSUITS, SMALLEST_BUDGET

GrowthPolicy = Literal["sequential", "frozen_batch", "worst_first"]
AtomsDtype = Literal["float32", "bfloat16"]

LEAST = {"max_atoms": 1, "k": 1, "calibration_tokens": 1, "memory_budget": SMALLEST_BUDGET}
CHOICES: dict[str, Collection[str]] = {
    "pursuit": PURSUITS.keys(),  # of the tables as they are then: whoever adds a row may use it
    "growth": GROWTH_POLICIES.keys(),
    "bad_activations": get_args(BadActivations),
    "atoms_dtype": get_args(AtomsDtype),
}

# The command refines, so activations are kept on disk; codes are the ones that measured best with refined atoms
# (``benchmarks/comparison``, layer14.yaml). The class, which does not refine, has defaults for atoms as grown.
COMMAND_DEFAULTS = {
    "model.k": 48,
    "model.l0": "auto",
    "model.pursuit": "gomp",
    "model.nonnegative": True,
    "data.cache_dir": "~/.cache/itda_lightning/activations",
}
# A code of this many times as many atoms as there are dimensions is surely meant otherwise, and takes all memory.
MOST_K_PER_DIMENSION = 16
# Bytes of an atom beside its numbers: its source, its place in the order of growth.
PER_ATOM = 64

REFINE_HELP = "Refine the atoms after growth; null for not at all, for which model.pursuit omp is better."
RESUME_HELP = "Resume from this checkpoint; with 'last', from this run's newest one, or start if it has none yet."


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise InputError unless every argument of ``ITDA`` is in its range."""
    for name, least in LEAST.items():
        check_at_least(least, {f"model.{name}": arguments[name]})
    for name, choices in CHOICES.items():
        check_choice(tuple(choices), {f"model.{name}": arguments[name]})
    check_between(0, 1, {"model.energy_exponent": arguments["energy_exponent"]})
    least_gain, l0 = arguments["least_gain"], arguments["l0"]
    check_between(0, 1, {"model.least_gain": least_gain})
    check_wanted_l0("model.l0", l0, arguments["k"])
    if l0 is not None and least_gain > 0:
        raise InputError(f"give model.l0 or model.least_gain, not both: got {l0:g} and {least_gain:g}")
    threshold, paper_threshold = arguments["threshold"], arguments["paper_threshold"]
    if threshold is not None and paper_threshold is not None:
        raise InputError("give model.threshold or model.paper_threshold, not both")
    if threshold is not None and not 0 < threshold < 1:
        effect = "can never append an atom" if threshold >= 1 else "appends every activation"
        raise InputError(
            f"model.threshold {threshold:g} {effect}: it is the share of energy left unexplained, give a value "
            "between 0 and 1, or none to have it calibrated"
        )
    if paper_threshold is not None and arguments["energy_exponent"] != 1:
        raise InputError(
            "model.paper_threshold belongs to the published rule, which judges every activation by its own energy: set "
            f"model.energy_exponent to 1, got {arguments['energy_exponent']}"
        )


def check_sizes(arguments: Mapping[str, Any], widths: Mapping[str, int]) -> None:
    """Raise InputError for dictionaries of ``widths`` (hook point -> d_in) that nothing holds, or senseless codes."""
    most = MOST_K_PER_DIMENSION * min(widths.values())
    check_between(1, most, {"model.k": arguments["k"]}, f"activations here have {min(widths.values()):,} dimensions")
    if (budget := arguments["memory_budget"]) is not None:
        method = PURSUITS[arguments["pursuit"]]
        for width in widths.values():
            method.check_budget(budget, arguments["max_atoms"], width, arguments["k"])
    itemsize = getattr(torch, arguments["atoms_dtype"]).itemsize
    needed = sum(arguments["max_atoms"] * (width * itemsize + PER_ATOM) for width in widths.values())
    there = total_memory(torch.device("cpu"))
    if needed > there:
        raise InputError(
            f"model.max_atoms {arguments['max_atoms']:,} takes {naturalsize(needed)} at {len(widths)} hook points, but "
            f"there are {naturalsize(there)} of memory: lower it, or set model.atoms_dtype=bfloat16"
        )
