"""Settings of the training of an SAE by SAELens."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least, check_between, check_choice, check_seed

TrainedArchitecture = Literal[
    "standard", "topk", "abstopk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "matching_pursuit"
]
# SAELens's Matryoshka SAEs take the widths of their nested parts; these are shares of all latents.
NESTED = (1 / 32, 1 / 8, 1 / 2, 1)
Decoder = Literal["trained", "frozen"]
STARTED = ("topk", "jumprelu")  # what dictionaries are exported as
# The norm, and the share of the training in which its coefficient rises, by SAELens's documentation: 5% of a standard
# SAE's training; for the tanh loss of JumpReLU all of it, as Anthropic does.
PENALTIES = {"standard": ("l1", 0.05), "jumprelu": ("l0", 1.0)}
# SAELens's settings for JumpReLU with the tanh loss, "a bit easier to train" than others and good in short trainings.
JUMPRELU = {
    "jumprelu_sparsity_loss_mode": "tanh",
    "jumprelu_tanh_scale": 4.0,
    "jumprelu_bandwidth": 2.0,
    "jumprelu_init_threshold": 0.1,
    "pre_act_loss_coefficient": 3e-6,
}


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one training; everything else has SAELens's defaults or recommendations.

    Attributes:
        architecture: standard (ReLU with an L1 penalty), topk, abstopk (signed codes), batchtopk, matryoshka_batchtopk
            (whose first 1/32, 1/8 and 1/2 of the latents reconstruct, too), jumprelu (with the tanh penalty) or
            matching_pursuit (SAELens's trained atoms, non-negative codes).
        n_latents: width of the SAE.
        k: sparsity of topk, abstopk, batchtopk and matryoshka_batchtopk (on average) and matching_pursuit.
        sparsity_coefficient: weight of the penalty of standard and jumprelu; SAELens's examples take 5. Activations are
            scaled to a mean norm of sqrt(d) in training, so one value suits many models.
        samples: number of activations in all steps, repetitions included; rounded down to whole batches.
        tokens: train on this many training tokens, from the first on, in several epochs if samples are more; null for
            all.
        learning_rate: learning rate of Adam. SAELens's default, 3e-4, is meant for 1e8 samples and more and leaves an
            SAE unfinished in short trainings. With fewer than about 200,000 samples 3e-3 does even better.
        batch_size: activations per step. SAELens's default is 4096; short trainings gain by more steps.
        warm_up: share of the training in which the learning rate rises from zero.
        decay: share of the training, at its end, in which the learning rate falls to zero.
        sparsity_warm_up: share of the training in which the sparsity coefficient rises from zero; null for SAELens's
            recommendation (standard 0.05, jumprelu 1).
        seed: seed of the initial weights and of the order of activations.
        buffer_bytes: memory for activations, in bytes; those that do not fit are read again in each epoch.
        start: directory of a topk or jumprelu SAE of this architecture and width to train on, such as the export of a
            dictionary (``itda_lightning.export --architecture topk``); null for new weights.
        decoder: trained, or frozen at random directions, a control: what it reaches needs no learned latents
            (arXiv 2602.14111).

    Raises:
        InputError: a value out of range, or a sparsity that the architecture does not have or lacks.
    """

    architecture: TrainedArchitecture
    n_latents: int
    k: int | None = None
    sparsity_coefficient: float | None = None
    samples: int = 2_000_000
    tokens: int | None = None
    learning_rate: float = 1e-3
    batch_size: int = 2048
    warm_up: float = 0.0
    decay: float = 0.2
    sparsity_warm_up: float | None = None
    seed: int = 0
    buffer_bytes: int = 2**30
    start: str | None = None
    decoder: Decoder = "trained"

    def __post_init__(self) -> None:
        check_choice(get_args(TrainedArchitecture), {"training.architecture": self.architecture})
        positive = {f"training.{name}": getattr(self, name) for name in ("n_latents", "batch_size", "buffer_bytes")}
        check_at_least(1, positive)
        check_at_least(self.batch_size, {"training.samples": self.samples}, "that is one batch")
        check_at_least(1, {"training.tokens": self.tokens})
        check_seed({"training.seed": self.seed})
        if self.start is not None:
            check_choice(STARTED, {"training.architecture, with a training.start": self.architecture})
        check_choice(get_args(Decoder), {"training.decoder": self.decoder})
        if self.decoder == "frozen" and (self.start is not None or self.architecture == "matching_pursuit"):
            reason = "it encodes by its decoder" if self.start is None else "training.start gives the decoder"
            raise InputError(
                f"training.decoder of a {self.architecture} SAE cannot be frozen at random, {reason}: leave one out"
            )
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"training.learning_rate must be positive, got {self.learning_rate}")
        shares = {f"training.{name}": getattr(self, name) for name in ("warm_up", "decay", "sparsity_warm_up")}
        check_between(0, 1, shares, "it is a share of the training")
        if self.warm_up + self.decay > 1:
            raise InputError(
                f"training.warm_up {self.warm_up} and training.decay {self.decay} are more than the whole training: "
                "lower one of them"
            )
        penalised = self.architecture in PENALTIES
        names = ("sparsity_coefficient", "k") if penalised else ("k", "sparsity_coefficient")
        wanted, other = (getattr(self, name) for name in names)
        if wanted is None or other is not None:
            remedy = "SAELens's examples take 5" if penalised else "give k, the L0"
            raise InputError(
                f"the sparsity of a {self.architecture} SAE is set by training.{names[0]}, not {names[1]} (got "
                f"{names[0]}={wanted}, {names[1]}={other}): {remedy}"
            )
        check_between(1, self.n_latents, {"training.k": self.k}, "a code uses at most n_latents")
        if self.sparsity_coefficient is not None and not 0 <= self.sparsity_coefficient < float("inf"):
            raise InputError(f"training.sparsity_coefficient must not be negative, got {self.sparsity_coefficient}")

    @property
    def steps(self) -> int:
        """The number of optimiser steps."""
        return self.samples // self.batch_size

    def sparsity_options(self) -> dict[str, Any]:
        """Return SAELens's options that decide the sparsity of this architecture."""
        options: dict[str, Any] = {}
        if self.architecture in PENALTIES:
            norm, share = PENALTIES[self.architecture]
            warm_up = round((share if self.sparsity_warm_up is None else self.sparsity_warm_up) * self.steps)
            options = {f"{norm}_coefficient": self.sparsity_coefficient, f"{norm}_warm_up_steps": warm_up}
        if self.architecture == "jumprelu":
            options |= JUMPRELU
        elif self.architecture in ("topk", "abstopk"):
            options = {"k": self.k}
        elif self.architecture in ("batchtopk", "matryoshka_batchtopk"):
            # The threshold for inference is a running mean that starts at zero: in a short training SAELens's rate of
            # 0.01 would leave it too low, and far more than k latents active.
            options = {"k": float(self.k or 0), "topk_threshold_lr": max(0.01, min(1.0, 10 / self.steps))}
            if self.architecture == "matryoshka_batchtopk":
                options["matryoshka_widths"] = sorted({max(1, round(share * self.n_latents)) for share in NESTED})
        elif self.architecture == "matching_pursuit":
            options = {"max_iterations": self.k, "residual_threshold": 0.0, "stop_on_duplicate_support": False}
            options["decoder_init_norm"] = 1.0
        return options
