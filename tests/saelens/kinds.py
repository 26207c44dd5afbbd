"""The kinds of SAE that a dictionary becomes, for the tests that hold for all of them."""

from typing import Any

import pytest

from itda_lightning.saelens import to_sae

ITDAS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    f"{pursuit}-{form}": ({"pursuit": pursuit, "nonnegative": form == "nonnegative"}, {"signed": form != "view"})
    for pursuit in ("mp", "omp", "gomp")
    for form in ("signed", "nonnegative", "view")
}
ITDAS["omp-pruned"] = {"pursuit": "omp", "least_gain": 0.02}, {}
KINDS = ITDAS | {"matching_pursuit": ({"pursuit": "mp"}, {"architecture": "matching_pursuit"})}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_itda = pytest.mark.parametrize("kind", ITDAS)


def make_sae(make_dictionary: Any, kind: str, **settings: Any) -> Any:
    """Return an SAE of that kind, of a dictionary with these settings."""
    of_dictionary, of_sae = KINDS[kind]
    return to_sae(make_dictionary(**of_dictionary, **settings), **of_sae)
