"""Continue prompts with and without steering, and measure what steering does to the loss and the predictions."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from sae_lens.load_model import HookedProxyLM
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from itda_lightning.activations.models.editing import edited
from itda_lightning.activations.text.tokenizer import special_tokens
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.atom_edits import AtomEdits
from itda_lightning.evaluation.steering import hook_of, unused
from itda_lightning.machine.checks import check_at_least
from itda_lightning.results.steered_text import SteeredText


def steered_text(
    model: Any,
    dictionary: Dictionary,
    prompt: str,
    add: Mapping[int, float | None] | None = None,
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
    tokenizer: Any = None,
    clamp: Mapping[int, float] | None = None,
    ablate: Iterable[int] = (),
    swap: Mapping[int, int] | None = None,
    units: str = "typical",
    skip_first: bool = True,
    hook_name: str | None = None,
) -> SteeredText:
    """Continue a prompt twice, as the model does and steered, and compare the two.

    Args:
        model, dictionary, add: as of ``il.steer``.
        prompt: any text. Both texts begin with BOS if the fit's did.
        max_new_tokens: tokens to write, at most.
        temperature: 0 for the likeliest token each time.
        seed: of the draws, at other temperatures; the same for both texts.
        tokenizer: that of a model of `transformers` that has none as its attribute ``tokenizer``.
        clamp, ablate, swap, units, skip_first, hook_name: as of ``il.steer``.

    Returns:
        Both texts, the loss and the KL divergence. It prints side by side, shows itself in a notebook, and has
        ``to_json()``.

    Raises:
        InputError: a prompt without tokens, too long a text, no tokenizer, or as ``il.steer``.

    Example:
        >>> import itda_lightning as il
        >>> # il.steered_text(il.load_model(dictionary), dictionary, "The treaty", {174: 2.0})
    """
    model = model.model if isinstance(model, HookedProxyLM) else model
    tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
    if tokenizer is None:
        raise InputError(f"the {type(model).__name__} has no tokenizer: give it as tokenizer=...")
    check_at_least(1, {"max_new_tokens": max_new_tokens})
    if not 0 <= temperature < torch.inf:
        raise InputError(f"the temperature must be 0 or more, got {temperature}")
    bos = dictionary.metadata.get("prepend_bos")
    tokens = _tokens(model, tokenizer, prompt, bos is None or bool(bos), max_new_tokens)
    edits = AtomEdits(dictionary, add or {}, clamp or {}, ablate, swap or {}, units, skip_first)
    hook, settings = hook_of(dictionary, hook_name), (max_new_tokens, temperature, seed, tokenizer)
    with edited(model, hook, edits, dictionary.d_in):
        pass  # says what cannot be done before the model runs
    with torch.no_grad():
        before = _continued(model, tokens, *settings)
        logits = _logits(model, before)
        with edited(model, hook, edits, dictionary.d_in):
            after = _continued(model, tokens, *settings)
            fired, n_tokens = dict(edits.fired), edits.tokens
            lines = tuple(unused(edits, atom) for atom in edits.never_fired())
            steered_logits = _logits(model, before)
    losses = [functional.cross_entropy(part[0, :-1], before[0, 1:]).item() for part in (logits, steered_logits)]
    one, other = (functional.log_softmax(part[0], dim=-1) for part in (logits, steered_logits))
    kl = functional.kl_div(other, one, log_target=True, reduction="none").sum(1).mean().item()
    one_text, other_text = (tokenizer.decode(part[0, tokens.shape[1] :].tolist()) for part in (before, after))
    described = tuple(edits.describe())
    return SteeredText(prompt, one_text, other_text, losses[0], losses[1], kl, described, fired, n_tokens, lines)


def _tokens(model: Any, tokenizer: Any, prompt: str, bos: bool, max_new_tokens: int) -> Int[Tensor, "1 tokens"]:
    """Return the tokens of a prompt. Raises InputError for none, or more than the model reads with what follows."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError(f"the prompt {prompt!r} has no tokens: give some text")
    ids = [special_tokens(tokenizer).bos, *ids] if bos else ids
    config = model.config if isinstance(model, PreTrainedModel) else model.cfg
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "n_ctx", None)
    if longest is not None and len(ids) + max_new_tokens > longest:
        raise InputError(
            f"the prompt has {len(ids)} tokens and {max_new_tokens} are to follow, but the model reads at most "
            f"{longest}: give a shorter one, or lower max_new_tokens"
        )
    return torch.tensor([ids], device=next(model.parameters()).device)


def _continued(
    model: Any, tokens: Int[Tensor, "1 tokens"], max_new_tokens: int, temperature: float, seed: int, tokenizer: Any
) -> Int[Tensor, "1 more"]:
    """Return the tokens with those that the model writes after them."""
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
    if temperature > 0:
        options["temperature"] = temperature
    if isinstance(model, PreTrainedModel):
        options |= {"attention_mask": torch.ones_like(tokens), "pad_token_id": special_tokens(tokenizer).eos}
    else:
        options |= {"return_type": "tokens", "verbose": False}
    devices = [tokens.device] if tokens.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        continued: Tensor = model.generate(tokens, **options)
    return continued


def _logits(model: Any, tokens: Int[Tensor, "1 tokens"]) -> Float[Tensor, "1 tokens vocabulary"]:
    output = model(tokens)
    logits: Tensor = output.logits if isinstance(model, PreTrainedModel) else output
    return logits.float()
