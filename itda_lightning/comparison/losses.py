"""Losses of the model when reconstructions replace its activations: CE and KL by document, as in SAELens's evals."""

from collections.abc import Callable
from itertools import count
from typing import Any

import psutil
import torch
from jaxtyping import Float
from sae_lens import SAE
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.text.rows import Rows
from itda_lightning.comparison.bootstrap import DocumentSums
from itda_lightning.errors import InputError
from itda_lightning.results.comparison import Estimate

# Predictions of which probabilities are computed at a time: 64 MB in single precision.
PREDICTED_ENTRIES = 2**24
# The model's own predictions are kept for all entries if they take no more than this share of the machine's memory.
KEPT_SHARE = 1 / 8


class LossMeter:
    """Losses of a model on the same rows, with its activations at a hook point unchanged, replaced, or ablated.

    Activations that are not kept (position 0, special tokens) are not replaced, and their predictions do not count.
    Beside the logits of two batches it takes less than 300 MB: of a vocabulary of 262,144 tokens in float32, a batch of
    four rows of 128 has logits of 537 MB.
    Raises InputError for rows of a single document.
    """

    def __init__(self, language_model: LanguageModel, rows: Rows, hook_name: str, batch_size: int = 4) -> None:
        self.language_model, self.rows, self.hook_name, self.batch_size = language_model, rows, hook_name, batch_size
        self._parts = [slice(start, start + batch_size) for start in range(0, len(rows), batch_size)]
        self._device = next(language_model.model.parameters()).device
        self._own: list[Float[Tensor, "batch context vocabulary"]] = []
        self._baseline = self._measure_baseline()

    def measure(self, sae: SAE[Any]) -> dict[str, Estimate]:
        """Compute losses in nats per token and their scores, under SAELens's names.

        A score is the share of the ablation's damage that is avoided. Zeros are a bad replacement for a residual
        stream, which makes scores flattering, so the raw losses are returned, too.

        Raises:
            InputError: reconstructions that are not finite.
        """
        sums = self._new_sums()
        for part in tqdm(self._parts, desc="Losses", unit=" batches", leave=False):
            mask = self.rows.kept[part].to(self._device)

            def replaced(activations: Tensor, hook: Any, mask: Tensor = mask) -> Tensor:  # noqa: ARG001
                x_hat = sae.decode(sae.encode(activations.to(sae.device))).to(activations)
                return torch.where(mask.view(*mask.shape, *[1] * (activations.ndim - 2)), x_hat, activations)

            self._add(sums, part, "with_sae", self._logits(part, replaced), self._own_logits(part))
        sums.sums |= self._baseline.sums
        own, with_sae, ablated = (sums.sums[f"ce_{name}"] for name in ("without_sae", "with_sae", "with_ablation"))
        kl, kl_ablated = sums.sums["kl_with_sae"], sums.sums["kl_with_ablation"]
        predictions, tokens = sums.sums["predictions"], sums.sums["tokens"]
        measures = {
            "ce_loss_without_sae": sums.ratio(own, predictions),
            "ce_loss_with_sae": sums.ratio(with_sae, predictions),
            # Documents differ far more than entries do, so the difference within each document is the precise figure.
            "ce_loss_increase": sums.ratio(with_sae - own, predictions),
            "ce_loss_with_ablation": sums.ratio(ablated, predictions),
            "ce_loss_score": sums.ratio(ablated - with_sae, ablated - own),
            "kl_div_with_sae": sums.ratio(kl, tokens),
            "kl_div_with_ablation": sums.ratio(kl_ablated, tokens),
            "kl_div_score": sums.ratio(kl_ablated - kl, kl_ablated),
        }
        if not all(torch.isfinite(torch.tensor(estimate.value)) for estimate in measures.values()):
            raise InputError("its reconstructions make the model's loss infinite or undefined: check its weights")
        return measures

    def _measure_baseline(self) -> DocumentSums:
        sums = self._new_sums()
        for part in tqdm(self._parts, desc="Losses of the model", unit=" batches"):
            own = self._logits(part, None)
            # By rows: the last batch may be short, and all batches are kept or none.
            memory = own[0].numel() * own.itemsize * len(self.rows)
            if memory <= KEPT_SHARE * psutil.virtual_memory().total:
                self._own.append(own.cpu())
            ablated = self._logits(part, lambda activations, hook: torch.zeros_like(activations))  # noqa: ARG005
            self._add(sums, part, "with_ablation", ablated, own)
            self._add(sums, part, "without_sae", own, own)
        kept, document = self.rows.kept, self.rows.document
        sums.update(document[kept], tokens=torch.ones(int(kept.sum())))
        predicting = kept[:, :-1]
        sums.update(document[:, :-1][predicting], predictions=torch.ones(int(predicting.sum())))
        return sums

    def _new_sums(self) -> DocumentSums:
        return DocumentSums(self.rows.document[self.rows.kept])

    def _own_logits(self, part: slice) -> Tensor:
        return self._own[part.start // self.batch_size].to(self._device) if self._own else self._logits(part, None)

    @torch.no_grad()
    def _logits(self, part: slice, replace: Callable[..., Tensor] | None) -> Float[Tensor, "batch context vocabulary"]:
        tokens = self.rows.tokens[part].to(self._device)
        hooks = [] if replace is None else [(self.hook_name, replace)]
        logits: Tensor = self.language_model.model.run_with_hooks(
            tokens, return_type="logits", fwd_hooks=hooks, prepend_bos=False
        )
        return logits

    def _add(self, sums: DocumentSums, part: slice, name: str, logits: Tensor, own: Tensor) -> None:
        """Add CE to the sums ``ce_NAME`` and the divergence from the model's own predictions to ``kl_NAME``."""
        mask, document = self.rows.kept[part], self.rows.document[part]
        targets = self.rows.tokens[part].roll(-1, dims=1).to(logits.device)  # those of last positions do not count
        positions = max(1, PREDICTED_ENTRIES // logits.shape[-1])
        parts = zip(
            *(of_all.flatten(0, 1).split(positions) for of_all in (logits, own, targets[..., None])), strict=True
        )
        ce, kl = torch.empty(mask.numel()), torch.empty(mask.numel())
        for start, (predicting, expecting, target) in zip(count(0, positions), parts, strict=False):
            predicted, places = torch.log_softmax(predicting.float(), dim=-1), slice(start, start + positions)
            ce[places] = -predicted.gather(-1, target)[:, 0].cpu()
            if own is not logits:
                expected = torch.log_softmax(expecting.float(), dim=-1)
                kl[places] = functional.kl_div(predicted, expected, reduction="none", log_target=True).sum(-1).cpu()
        predicts = mask[:, :-1]
        sums.update(document[:, :-1][predicts], **{f"ce_{name}": ce.view(mask.shape)[:, :-1][predicts]})
        if own is not logits:
            sums.update(document[mask], **{f"kl_{name}": kl.view(mask.shape)[mask]})
