"""Single activations as tables of atoms."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Prompt
from itda_lightning.errors import InputError
from itda_lightning.results.run_results import Term, TokenDecomposition


def decompose(
    dictionary: Dictionary, x: Float[Tensor, "batch d"], prompts: Sequence[Prompt]
) -> list[TokenDecomposition]:
    """What each activation is made of: its atoms by falling ``|coefficient|``, re-picks summed.

    Args:
        dictionary: what encodes; its prompts name the terms.
        x: (batch, d) activations, any floating dtype.
        prompts: one ``Prompt`` an activation, cut at its token.

    Raises:
        InputError: another number of prompts than of activations.
        ValueError: x of another width or with non-finite rows.
    """
    if len(prompts) != len(x):
        raise InputError(f"{len(prompts)} prompts for {len(x)} activations: give one prompt an activation")
    x = x.to(dictionary.bias.device)
    code = dictionary.encode(x).distinct()
    energy = dictionary.centre(x).double().square().sum(-1)
    unexplained = torch.where(energy > 0, code.residual_energy.double() / energy, 0.0)
    order = code.coefficients.abs().argsort(dim=1, descending=True, stable=True)
    support = code.support.gather(1, order).tolist()
    coefficients = code.coefficients.gather(1, order).tolist()
    names = dictionary.prompts
    return [
        TokenDecomposition(
            prompt,
            share,
            norm,
            tuple(
                Term(atom, coefficient, names[atom] if names is not None else None)
                for atom, coefficient in zip(atoms, row, strict=True)
                if atom >= 0
            ),
        )
        for prompt, share, norm, atoms, row in zip(
            prompts, unexplained.tolist(), energy.sqrt().tolist(), support, coefficients, strict=True
        )
    ]
