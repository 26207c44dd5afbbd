"""Amortise a dictionary: a linear encoder with thresholds, regressed on its codes, in a stock SAELens architecture.

A pursuit is slow beside one product and unknown to most tools. Its codes are a supervised target: with the decoder
fixed to the atoms, each latent's encoder is a regression on the coefficients of its atom. If the atom is used the
pre-activation shall be the coefficient; if not, it only has to stay below a share of the atom's typical coefficient.
The threshold of a latent is the one at which its firing agrees best (F1) with the pursuit's.

On worlds of known features (``benchmarks/synthetic``) such an encoder has an F1 of .81 if its pursuit has .87.
"""

import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import xxhash
from jaxtyping import Float
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, TopKSAE, TopKSAEConfig
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.machine.signed_tensors import read_tensors, write_tensors
from itda_lightning.pursuit import SparseCode

logger = logging.getLogger(__name__)

AmortisedArchitecture = Literal["topk", "jumprelu"]

LEAST_PER_DIMENSION = 4  # activations per dimension: with fewer a regression fits noise
RIDGE = 1e-2
STEPS, BATCH, RATE = 1600, 1024, 3e-3
MARGIN = 0.25  # share of an atom's typical coefficient below which it counts as not used
THRESHOLD_ACTIVATIONS, THRESHOLD_LATENTS = 32768, 128
SAVE_EVERY = 100  # steps


class LinearEncoder(NamedTuple):
    """Pre-activations ``x @ weight + bias`` of centred activations, and the thresholds that they must exceed."""

    weight: Float[Tensor, "d n"]
    bias: Float[Tensor, " n"]
    threshold: Float[Tensor, " n"]
    l0: float  # mean L0 of the codes that it imitates


def amortised_sae(
    dictionary: Dictionary,
    activations: Float[Tensor, "tokens d"] | None,
    architecture: AmortisedArchitecture,
    options: dict[str, Any],
    unfinished: Path | None = None,
) -> SAE[Any]:
    """Return the SAE whose decoder is the dictionary's and whose encoder imitates its codes of the activations.

    Args:
        dictionary: a signed one gets two latents per atom, those of negative coefficients last.
        activations: what it is to encode, not centred; rows that are not finite are left out.
        architecture: "jumprelu" keeps the thresholds, "topk" the mean L0, rounded.
        options: of the SAE's configuration: d_in, dtype, device, metadata, reshape_activations.
        unfinished: file that keeps the regression every ``SAVE_EVERY`` steps, from which it goes on if it was killed;
            the caller removes it. None to keep nothing.

    Raises:
        InputError: no activations, or too few of them.
    """
    if activations is None:
        raise InputError(
            f"architecture {architecture!r} needs activations, on whose codes its encoder is regressed: give "
            "activations=, a (tokens, d_in) tensor such as those of the fit"
        )
    x = activations[torch.isfinite(activations).all(1)].to(dictionary.bias.device)
    if len(x) < LEAST_PER_DIMENSION * dictionary.d_in:
        raise InputError(
            f"{len(x):,} activations are too few for an encoder of {dictionary.d_in} dimensions: give at least "
            f"{LEAST_PER_DIMENSION * dictionary.d_in:,}"
        )
    atoms = dictionary.atoms.detach().float()
    atoms = atoms if dictionary.nonnegative else torch.cat([atoms, -atoms])
    inputs, code = dictionary.centre(x).float(), dictionary.encode(x)
    encoder = regress(inputs, code, len(atoms), dictionary.nonnegative, unfinished)
    weights = {"W_enc": encoder.weight, "b_enc": encoder.bias, "W_dec": atoms.clone(), "b_dec": dictionary.bias.float()}
    sae: SAE[Any]
    options = {**options, "d_sae": len(atoms), "dtype": "float32"}
    if architecture == "jumprelu":
        sae, weights["threshold"] = JumpReLUSAE(JumpReLUSAEConfig(**options)), encoder.threshold
    else:
        sae = TopKSAE(TopKSAEConfig(**options, k=max(1, round(encoder.l0))))
    sae.load_state_dict(weights, assign=True)
    return sae.to(device=atoms.device)


def regress(
    x: Float[Tensor, "tokens d"], code: SparseCode, n: int, nonnegative: bool, unfinished: Path | None = None
) -> LinearEncoder:
    """Regress a linear encoder on codes: ridge regression, then gradient steps on the loss of the docstring above.

    The same for the same arguments, however often it was killed and went on from ``unfinished``; ``n`` is the number of
    latents, twice that of the atoms for signed codes.
    """
    identity = _digest(x, *code)
    scale = float(x.norm(dim=1).mean().clamp(min=1e-30))
    inputs = torch.cat([x / scale, x.new_ones(len(x), 1)], dim=1)
    code = code._replace(coefficients=code.coefficients.float() / scale)

    def targets(rows: slice | Tensor) -> Float[Tensor, "batch n"]:
        part = SparseCode(*(values[rows] for values in code)).to_dense(n if nonnegative else n // 2)
        return part.relu() if nonnegative else torch.cat([part.relu(), (-part).relu()], dim=1)

    blocks = [slice(start, start + BATCH) for start in range(0, len(x), BATCH)]
    square, product = inputs.T @ inputs, inputs.new_zeros(inputs.shape[1], n)
    sums, uses = inputs.new_zeros(n), inputs.new_zeros(n)
    for block in blocks:
        target = targets(block)
        product += inputs[block].T @ target
        sums += target.sum(0)
        uses += (target > 0).sum(0)
    if dead := int((uses == 0).sum()):
        logger.warning("%d of %d latents are never used by the %d activations: they will not fire", dead, n, len(x))
    typical = sums / uses.clamp(min=1)
    square.diagonal().mul_(1 + RIDGE)
    weight = torch.linalg.solve(square, product).requires_grad_()
    optimizer, begun = torch.optim.Adam([weight], RATE), 0
    if unfinished is not None and (kept := _read(unfinished, identity)):
        begun = int(kept["step"])
        weight.data.copy_(kept.pop("weight"))
        optimizer.state[weight] = {name: value.to(x.device if value.ndim else "cpu") for name, value in kept.items()}
        logger.info("going on after %d of %d steps, from %s", begun, STEPS, unfinished)
    with torch.enable_grad():
        for step in tqdm(range(begun, STEPS), "Regress the encoder", STEPS, False, unit=" steps", initial=begun):
            if unfinished is not None and step > begun and step % SAVE_EVERY == 0:
                _keep(unfinished, identity, {"weight": weight.detach(), **optimizer.state[weight]})
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            generator = torch.Generator().manual_seed(step)
            rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator).to(x.device)
            target = targets(rows)
            before = inputs[rows] @ weight
            error = torch.where(target > 0, before - target, (before - MARGIN * typical).relu())
            optimizer.zero_grad()
            error.square().sum(1).mean().backward()
            optimizer.step()
    weight = torch.where(uses > 0, weight.detach(), 0.0)
    threshold = _thresholds(inputs[:THRESHOLD_ACTIVATIONS], weight, targets(slice(THRESHOLD_ACTIVATIONS)) > 0)
    bias, threshold = scale * weight[-1], torch.where(uses > 0, scale * threshold, 1.0)
    return LinearEncoder(weight[:-1].contiguous(), bias, threshold, float(uses.sum()) / len(x))


def _digest(*tensors: Tensor) -> str:
    """Return hex digits that stand for the values of tensors."""
    digest = xxhash.xxh3_128()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _keep(place: Path, identity: str, state: dict[str, Tensor]) -> None:
    write_tensors(place, state, identity=identity)


def _read(place: Path, identity: str) -> dict[str, Tensor]:
    """Return what a regression with the same identity kept; nothing if there is none."""
    if not place.exists():
        return {}
    try:
        tensors, facts, signature = read_tensors(place)
        if facts.get("identity") == identity and signature == "whole":
            return tensors
    except (SafetensorError, ValueError, OSError) as error:
        logger.warning("%s cannot be read (%s)", place, error)
    logger.warning("%s is of another regression: this one starts anew", place)
    return {}


def _thresholds(
    inputs: Float[Tensor, "tokens d"], weight: Float[Tensor, "d n"], used: Float[Tensor, "tokens n"] | Tensor
) -> Float[Tensor, " n"]:
    """Return for each latent the non-negative threshold at which firing agrees best with use: the largest F1."""
    found = []
    count = torch.arange(1, len(inputs) + 1, device=inputs.device)[:, None]
    for start in range(0, weight.shape[1], THRESHOLD_LATENTS):
        part = slice(start, start + THRESHOLD_LATENTS)
        values, order = (inputs @ weight[:, part]).sort(dim=0, descending=True)
        true = used[:, part].gather(0, order).cumsum(0)
        best = (2 * true / (count + true[-1])).argmax(dim=0)
        # Halfway to the next lower value, so that rounding moves nothing over the threshold.
        below = values.gather(0, (best + 1).clamp(max=len(values) - 1)[None])[0]
        found.append(((values.gather(0, best[None])[0] + below) / 2).clamp(min=0))
    return torch.cat(found)
