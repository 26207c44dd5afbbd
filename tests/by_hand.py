"""Compute the metrics of the evals with `transformers` alone: a forward pass, a hook on a layer, plain sums."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

Reconstruct = Callable[[Tensor], Tensor]


def activations(model_dir: Path, layer: int, tokens: Tensor) -> Tensor:
    """Return the (rows, context, d) output of a layer to the residual stream."""
    outputs: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        outputs.append(x)
        return x

    _logits(model_dir, layer, tokens, keep)
    return outputs[0]


@torch.no_grad()
def evaluation(
    model_dir: Path, layer: int, tokens: Tensor, special: list[int], encode: Reconstruct, decode: Reconstruct
) -> dict[str, float]:
    """Return metrics under SAELens's names, over the tokens that are not special."""
    mask = ~torch.isin(tokens, torch.tensor(special))

    def replace(x: Tensor) -> Tensor:
        return torch.where(mask[..., None], decode(encode(x)), x)

    alone = _logits(model_dir, layer, tokens, lambda x: x)
    reconstructed = _logits(model_dir, layer, tokens, replace)
    ablated = _logits(model_dir, layer, tokens, torch.zeros_like)
    ce = {
        name: _mean_loss(logits, tokens, mask)
        for name, logits in {"without_sae": alone, "with_sae": reconstructed, "with_ablation": ablated}.items()
    }
    kl = {
        name: float(_divergence(alone, logits)[mask].mean())
        for name, logits in {"with_sae": reconstructed, "with_ablation": ablated}.items()
    }
    x = activations(model_dir, layer, tokens)[mask].double()
    code = encode(x.float())
    x_hat = decode(code).double()
    residual, variance = (x - x_hat).square().sum(), (x - x.mean(0)).square().sum()
    return {
        **{f"ce_loss_{name}": value for name, value in ce.items()},
        **{f"kl_div_{name}": value for name, value in kl.items()},
        "ce_loss_score": (ce["with_ablation"] - ce["with_sae"]) / (ce["with_ablation"] - ce["without_sae"]),
        "kl_div_score": 1 - kl["with_sae"] / kl["with_ablation"],
        "fvu": float(residual / variance),
        "explained_variance": float(1 - residual / variance),
        "mse": float(residual / len(x)),
        "cossim": float(functional.cosine_similarity(x, x_hat, dim=-1).mean()),
        "l0": float((code != 0).sum(-1).double().mean()),
        "l1": float(code.abs().sum(-1).double().mean()),
        "l2_norm_in": float(x.norm(dim=-1).mean()),
        "l2_norm_out": float(x_hat.norm(dim=-1).mean()),
        "l2_ratio": float((x_hat.norm(dim=-1) / x.norm(dim=-1)).mean()),
    }


@torch.no_grad()
def _logits(model_dir: Path, layer: int, tokens: Tensor, change: Reconstruct) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)

    def hook(_: object, __: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

    model.model.layers[layer].register_forward_hook(hook)
    return model(tokens).logits


def _mean_loss(logits: Tensor, tokens: Tensor, mask: Tensor) -> float:
    """Return the mean next-token cross-entropy of the predictions at the tokens of the mask."""
    losses = functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return float(losses.view_as(tokens[:, 1:])[mask[:, :-1]].mean())


def _divergence(true: Tensor, other: Tensor) -> Tensor:
    true_log, other_log = true.log_softmax(-1), other.log_softmax(-1)
    return (true_log.exp() * (true_log - other_log)).sum(-1)
