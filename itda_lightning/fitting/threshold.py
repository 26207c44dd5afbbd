"""The threshold of a fit: given, converted from the paper's form, or calibrated; logged with its forecast."""

import logging

from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.errors import InputError
from itda_lightning.growth import Forecast, GrowthRule, calibrate_threshold, forecast, unexplained_threshold
from itda_lightning.machine.progress import bars_are_hidden

logger = logging.getLogger(__name__)

# Below this share a warning is logged: of the token budget after which the dictionary is full (most data is not seen),
# or of the atoms it ends with.
TOO_LITTLE = 0.1


def typical_energy(x: Float[Tensor, "sample d"]) -> float:
    """Return the median ``|x|^2`` of the centred activations that are not zero; 1 if all are zero."""
    energy = x.double().square().sum(1)
    return float(energy[energy > 0].median()) if bool(energy.any()) else 1.0


def find_threshold(
    x: Float[Tensor, "sample d"],
    rule: GrowthRule,
    hook_name: str,
    *,
    max_atoms: int,
    budget: int,
    batch_size: int | None,
    threshold: float | None,
    paper_threshold: float | None,
) -> float:
    """Return the share of unexplained energy above which an activation becomes an atom.

    Args:
        x: centred activations drawn from the whole budget.
        rule: the growth rule; its threshold is not used.
        budget: activations of the whole fit.
        batch_size: of frozen batches; None for growth that judges one activation after another.
        threshold, paper_threshold: as given; without either the threshold is calibrated.

    Raises:
        InputError: a paper threshold out of range for this d, or a budget too small for ``max_atoms``.
    """
    how = "given"
    if paper_threshold is not None:
        try:
            threshold = unexplained_threshold(paper_threshold, x.shape[1])
        except ValueError as error:
            raise InputError(f"model.paper_threshold: {error}") from error
        how = f"the paper's {paper_threshold:g} at d_in {x.shape[1]}"
    if threshold is None:
        threshold, expected = _calibrate(x, rule, hook_name, max_atoms, budget, batch_size)
        how = "calibrated"
    else:
        expected = forecast(x, rule._replace(threshold=threshold), max_atoms, budget, batch_size)
    if expected.fills_after > budget:
        size = f"{min(expected.n_atoms, max_atoms):,.0f} of {max_atoms:,} atoms after all {budget:,}"
    else:
        size = f"{max_atoms:,} atoms after {expected.fills_after:,.0f} of {budget:,}"
    logger.info(
        "threshold at %s: %.4f of the energy left unexplained (%s); a sample of %d activations forecasts %s",
        hook_name,
        threshold,
        how,
        len(x),
        size,
    )
    if expected.fills_after < TOO_LITTLE * budget:
        logger.warning(
            "threshold %.4f at %s fills %d atoms after about %d of %d activations: most of the data would not be "
            "seen; raise the threshold, raise max_atoms, or leave the threshold out to have it calibrated",
            threshold,
            hook_name,
            max_atoms,
            expected.fills_after,
            budget,
        )
    elif expected.n_atoms < TOO_LITTLE * max_atoms:
        logger.warning(
            "threshold %.4f at %s appends only about %d of %d atoms in %d activations: lower it, or leave it out to "
            "have it calibrated",
            threshold,
            hook_name,
            expected.n_atoms,
            max_atoms,
            budget,
        )
    return threshold


def _calibrate(
    x: Tensor, rule: GrowthRule, hook_name: str, max_atoms: int, budget: int, batch_size: int | None
) -> tuple[float, Forecast]:
    with tqdm(desc=f"Calibrate {hook_name}", unit=" steps", disable=bars_are_hidden()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            return calibrate_threshold(x, rule, max_atoms, budget, progress, batch_size)
        except ValueError as error:
            raise InputError(f"cannot calibrate a threshold at {hook_name}: {error}") from error
