"""Put numbers and metrics into words for readers."""

import math
import re
from collections.abc import Sequence

from itda_lightning.results.run_results import TokenDecomposition

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
# This many names are listed, the others counted.
NAMED = 3
NEGATIVE = "negative coefficient: the activation points away from the atom"

# Metric -> (name, meaning). Others are shown under their own name.
METRICS = {
    "n_atoms": ("Atoms", "activations kept in the dictionary"),
    "activations_seen": ("Activations read", "by the fit"),
    "activations_skipped": ("Activations skipped", "by the fit, zero or not finite"),
    "threshold": ("Threshold", "tokens with a larger error became atoms"),
    "validation_activations": ("Held-out activations", "for FVU, L0 and dead atoms"),
    "tokens_evaluated": ("Tokens", "for variance and sparsity"),
    "loss_tokens_evaluated": ("Tokens, CE loss and KL", "for the losses"),
    "fvu": ("FVU", "fraction of variance unexplained"),
    "fvu_random": ("FVU, random atoms", "activations drawn at random as atoms"),
    "unexplained": ("Unexplained", "mean over tokens of the share left over"),
    "unexplained_random": ("Unexplained, random", "the same for random atoms"),
    "fvu_unrefined": ("FVU, unrefined", "of the atoms before refinement"),
    "mean_cosine": ("Cosine with sources", "mean over the refined atoms"),
    "mean_label_cosine": ("Cosine with labels", "mean over the relabelled atoms"),
    "explained_variance": ("Explained variance", f"1 {MINUS} FVU"),
    "l0": ("L0", "mean number of distinct atoms in a code"),
    "l1": ("L1", "mean sum of absolute coefficients"),
    "dead_atoms": ("Dead atoms", "never used by a held-out token"),
    "label_rate": ("Label rate", "detections that are the label's token"),
    "mse": ("Squared error", "mean over tokens, summed over dimensions"),
    "cossim": ("Cosine", "mean, of activation and reconstruction"),
    "l2_norm_in": ("Norm in", "mean norm of activations"),
    "l2_norm_out": ("Norm out", "mean norm of reconstructions"),
    "l2_ratio": ("Norm ratio", "mean of norm out over norm in"),
    "relative_reconstruction_bias": ("Reconstruction bias", "1: scale is kept (arXiv 2404.16014)"),
    "ce_loss_without_sae": ("CE loss, model alone", "next-token cross-entropy in nats"),
    "ce_loss_with_sae": ("CE loss, reconstruction", "activations replaced by reconstructions"),
    "ce_loss_increase": ("CE loss increase", "reconstruction minus model alone"),
    "ce_loss_with_ablation": ("CE loss, ablation", "activations replaced by zeros"),
    "ce_loss_score": ("CE loss recovered", "share of the ablation's damage avoided"),
    "ce_loss_recovered": ("CE loss recovered", "share of the ablation's damage avoided"),
    "kl_div_with_sae": ("KL, reconstruction", "from the model's own predictions, in nats"),
    "kl_div_with_ablation": ("KL, ablation", "from the model's own predictions, in nats"),
    "kl_div_score": ("KL recovered", "share of the ablation's KL avoided"),
    "norm_ratio": ("Norm ratio", "sum of norms out over sum of norms in"),
    "dead_share": ("Dead", "share of latents used by no token"),
    "dense_share": ("Dense", "share used by over 10% of the tokens"),
}
# Scores of probes that read the k best latents of a code or by cosine, the whole code, or the activation itself.
PROBE = re.compile(r"probing(?P<auc>_auc)?/(?P<detected>detected )?(?P<read>k=\d+|all|dense)")


def describe_metric(key: str) -> tuple[str, str]:
    """Return the name and the meaning ("" if unknown) of a metric; a path such as ``a/b/fvu`` counts as ``fvu``."""
    probe = PROBE.fullmatch(key)
    if probe is None:
        return METRICS.get(key.rsplit("/", 1)[-1], (key.replace("_", " "), ""))
    name, score = ("Probe AUC", "AUC") if probe["auc"] else ("Probe", "accuracy")
    if probe["read"] == "all":
        return f"{name}, all latents", f"{score} of a probe on the whole code"
    if probe["read"] == "dense":
        return f"{name}, activation", f"{score} of a probe without any dictionary"
    k = int(probe["read"].removeprefix("k="))
    latents = "latent" if k == 1 else "latents"
    name, by = (f"{name}, {k} detected", " by cosine") if probe["detected"] else (f"{name}, {k} {latents}", "")
    return name, f"{score} of a probe on the {f'{k} ' if k > 1 else ''}best {latents}{by}"


def from_mean(decomposition: TokenDecomposition) -> str:
    """Say how far an activation is from the mean that the dictionary subtracts, the scale of its coefficients."""
    if decomposition.distance is None:
        return ""
    return f" ({show_number(decomposition.distance)} from the dictionary's mean)"


def show_number(value: float | int) -> str:
    """Format a number: thousands separated, four significant digits, a real minus sign."""
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if not math.isfinite(value):
        return "not measured"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", MINUS)


def show_estimate(value: float | int, error: float | None = None) -> str:
    """Format a number and its standard error, both to the error's first two significant digits: ``0.1723 ± 0.0021``.

    Without an error, or with one below the resolution of float32, integers keep all digits and other numbers four.
    """
    if not math.isfinite(value) or error is None or not math.isfinite(error):
        return show_number(value)
    if error <= 1e-6 * abs(value):
        return f"{show_number(value)} ± 0"
    decimals = 1 - int(f"{error:.1e}".partition("e")[2])
    # Adding zero takes the sign off a zero.
    value, error = round(value, decimals) + 0.0, round(error, decimals)
    places = max(0, decimals)
    return f"{value:,.{places}f} ± {error:,.{places}f}".replace("-", MINUS)


def show_known(value: float | int, error: float | None = None) -> str:
    """Format like ``show_estimate``; a dash if there is no finite number."""
    return show_estimate(value, error) if math.isfinite(value) else DASH


def show_seconds(seconds: float | int) -> str:
    """Format a time in seconds, minutes, hours or days, to at most three significant digits."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def show_bytes(size: float | int) -> str:
    """Format a size in binary units, to three significant digits."""
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size >= 1000 * 1024 ** (power - 1):
            return f"{size / 1024**power:.3g} {unit}"
    return f"{size:.0f} B"


def show_magnitude(value: float | int) -> str:
    """Format a large number to three significant digits: 4,718,592 is 4.72M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def show_coefficient(value: float) -> str:
    """Format a number to three significant digits, trailing zeros included, so that the numbers of a column align."""
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")).replace("-", MINUS)


def show_cosine(value: float) -> str:
    """Format a cosine to three decimals, rounded down: none looks larger than it is."""
    return f"{math.floor(1000 * value + 1e-6) / 1000:.3f}".replace("-", MINUS)


def show_amount(value: float | int) -> str:
    """Format a number for an axis: 1,200,000 is 1.2M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}".replace("-", MINUS)


def show_share(share: float) -> str:
    """Format a percentage to two significant digits, trailing zeros included; only 0 is 0%."""
    if not share:
        return "0%"
    return f"{100 * share:#.2g}".rstrip(".") + "%" if 100 * share < 99.5 else f"{100 * share:.0f}%"


def listed(names: Sequence[str]) -> str:
    """Return at least one name for a sentence: ``a, b, c and 2 more``."""
    shown = [*names[:NAMED], *([f"{len(names) - NAMED} more"] if len(names) > NAMED else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
