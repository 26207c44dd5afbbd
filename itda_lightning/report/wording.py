"""How numbers and metrics are worded for a reader."""

import math

MINUS = "\N{MINUS SIGN}"

# Metric -> (name, what it is). Others are shown under their own name.
METRICS = {
    "n_atoms": ("Atoms", "activations kept in the dictionary"),
    "tokens_seen": ("Tokens seen", "activations read by the fit"),
    "fvu": ("FVU", "fraction of variance unexplained, lower is better"),
    "explained_variance": ("Explained variance", f"1 {MINUS} FVU"),
    "l0": ("L0", "mean number of distinct atoms in a code"),
    "dead_atoms": ("Dead atoms", "never used by a held-out token"),
    "mse": ("MSE", "mean squared error of the reconstruction"),
    "cosine_similarity": ("Cosine", "mean cosine of activation and reconstruction"),
    "cossim": ("Cosine", "mean cosine of activation and reconstruction"),
    "l2_ratio": ("Norm ratio", "mean norm of the reconstruction over that of the activation"),
    "ce_loss_without_sae": ("CE loss, model alone", "next-token cross-entropy in nats"),
    "ce_loss_with_sae": ("CE loss, reconstruction", "with activations replaced by their reconstructions"),
    "ce_loss_with_ablation": ("CE loss, ablation", "with activations replaced by zeros"),
    "ce_loss_score": ("CE loss recovered", "share of the ablation's damage that the reconstruction avoids"),
    "ce_loss_recovered": ("CE loss recovered", "share of the ablation's damage that the reconstruction avoids"),
    "kl_div_with_sae": ("KL, reconstruction", "divergence from the model's own predictions, in nats"),
    "kl_div_with_ablation": ("KL, ablation", "the same with activations replaced by zeros"),
    "kl_div_score": ("KL recovered", "share of the ablation's divergence that the reconstruction avoids"),
}


def describe_metric(key: str) -> tuple[str, str]:
    """The name of a metric and what it is, "" where that is not known; a path such as ``a/b/fvu`` counts as ``fvu``."""
    return METRICS.get(key.rsplit("/", 1)[-1], (key.replace("_", " "), ""))


def show_number(value: float | int) -> str:
    """A number for reading: thousands separated, four significant digits, a real minus sign."""
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if not math.isfinite(value):
        return "not measured"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", MINUS)


def show_coefficient(value: float) -> str:
    """Three significant digits, trailing zeros included, so that the numbers of a column look alike."""
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")).replace("-", MINUS)


def show_amount(value: float | int) -> str:
    """A short form for axes: 1,200,000 is 1.2M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}".replace("-", MINUS)


def show_share(share: float) -> str:
    """A percentage with two significant digits."""
    return f"{100 * share:.2g}%" if 100 * share < 99.5 else f"{100 * share:.0f}%"
