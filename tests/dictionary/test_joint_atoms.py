"""Joint dictionaries: one code for several sites, or from some of them, against what the definition says."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning import Dictionary, InputError, to_sae
from itda_lightning.dictionary.dictionary_files import FORMAT_VERSION, INDEX_FILE
from itda_lightning.dictionary.sites import Site, Sites, joint_name

A, B, C = "blocks.0.hook_resid_post", "blocks.2.hook_resid_post", "blocks.2.hook_mlp_out"
SITES = Sites([Site(A, 6, 0.5), Site(B, 4, 2.0), Site(C, 5, 0.1)])


def joint(pursuit: str = "omp", nonnegative: bool = False, seed: int = 0, **others) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(40, SITES.width, generator=generator), dim=1)
    bias = torch.randn(SITES.width, generator=generator)
    metadata = {"sites": [list(site) for site in SITES], "hook_name": SITES.name, "data": {"hook_names": [A, B, C]}}
    return Dictionary(atoms, bias, k=4, pursuit=pursuit, nonnegative=nonnegative, metadata=metadata, **others)


def at_sites(count: int = 9, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {site.hook_name: torch.randn(count, site.width, generator=generator) * 10 for site in SITES}


def test_join_and_split_are_inverse() -> None:
    parts = at_sites()
    for hook, x in SITES.split(SITES.join(parts)).items():
        torch.testing.assert_close(x, parts[hook])


@pytest.mark.parametrize(("pursuit", "nonnegative"), [("mp", False), ("omp", True), ("gomp", True)])
def test_all_sites_are_encoded_as_one_activation(pursuit, nonnegative) -> None:
    dictionary, parts = joint(pursuit, nonnegative), at_sites()
    code, whole = dictionary.encode(parts), dictionary.encode(SITES.join(parts))
    assert torch.equal(code.support, whole.support)
    assert torch.equal(code.coefficients, whole.coefficients)
    for hook, x in SITES.split(dictionary.decode(code)).items():
        torch.testing.assert_close(dictionary.decode(code, hook), x)


@given(seed=st.integers(0, 50), chosen=st.sampled_from([(A,), (B,), (A, C), (B, A)]))
def test_some_sites_are_encoded_by_their_parts_and_decoded_everywhere(seed: int, chosen: tuple[str, ...]) -> None:
    dictionary, parts = joint(seed=seed), {hook: at_sites(seed=seed)[hook] for hook in chosen}
    code, some = dictionary.encode(parts), dictionary.view(*chosen)
    own = some.encode(parts if len(chosen) > 1 else parts[chosen[0]])
    assert torch.equal(code.support, own.support)
    for hook in chosen:
        wanted = some.decode(own) if len(chosen) == 1 else some.decode(own, hook)
        torch.testing.assert_close(dictionary.decode(code, hook), wanted, rtol=1e-4, atol=1e-4)
    scaled = torch.cat(
        [(parts[site.hook_name] - dictionary.decode(code, site.hook_name)) * site.scale for site in SITES.some(chosen)],
        dim=1,
    )
    torch.testing.assert_close(code.residual_energy, scaled.square().sum(1), rtol=1e-3, atol=1e-3)
    # The other site by the definition: coefficients times the parts of the same atoms.
    other = next(hook for hook in SITES.hook_names if hook not in chosen)
    by_hand = (code.coefficients[:, :, None] * dictionary.parts(other)[code.support]).sum(1)
    bias = SITES.split(dictionary.bias[None])[other]
    torch.testing.assert_close(dictionary.decode(code, other), by_hand + bias, rtol=1e-4, atol=1e-4)


def test_own_coefficients_are_the_least_squares_of_each_site() -> None:
    dictionary, parts = joint(), at_sites()
    code = dictionary.encode(parts)
    for hook, x in parts.items():
        own = dictionary.own_coefficients(code, hook, x)
        bias = SITES.split(dictionary.bias[None])[hook]
        for row in range(len(x)):
            design = dictionary.parts(hook)[code.support[row]].double().numpy().T
            centred = (x[row] - bias[0]).double().numpy()
            solved, *_ = np.linalg.lstsq(design, centred, rcond=None)
            np.testing.assert_allclose(own.coefficients[row], solved, rtol=1e-3, atol=1e-3)
        shared = ((x - dictionary.decode(code, hook)) * SITES.scale(hook)).square().sum(1)
        assert (own.residual_energy <= shared + 1e-4).all()


def test_a_code_with_fewer_atoms_keeps_its_gaps() -> None:
    dictionary, parts = joint(), at_sites()
    code = dictionary.encode(parts)
    code.support[:, 2:], code.coefficients[:, 2:] = -1, 0.0
    own = dictionary.own_coefficients(code, A, parts[A])
    assert (own.coefficients[:, 2:] == 0).all()


def test_shares_of_sites_are_shares_of_energy() -> None:
    shares = joint().site_shares
    assert shares.shape == (40, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(40))
    torch.testing.assert_close(shares[:, 1], joint().atoms[:, 6:10].square().sum(1))


def test_files_keep_the_sites_and_a_view_is_a_plain_dictionary(tmp_path) -> None:
    dictionary = joint()
    dictionary.save(tmp_path / "joint")
    assert json.loads((tmp_path / "joint" / INDEX_FILE).read_text())["version"] == FORMAT_VERSION
    loaded = Dictionary.load(tmp_path / "joint")
    assert loaded.sites == SITES
    view = loaded.view(B)
    view.save(tmp_path / "view")
    assert json.loads((tmp_path / "view" / INDEX_FILE).read_text())["version"] < FORMAT_VERSION
    assert (view.d_in, view.sites, view.metadata["hook_name"]) == (4, (), B)
    assert view.metadata["data"]["joint"] is False
    x = at_sites()[B]
    torch.testing.assert_close(to_sae(view)(x), view(x), rtol=1e-4, atol=1e-4)


def test_a_view_of_refined_atoms_knows_how_far_they_are_from_their_sources_there() -> None:
    dictionary = joint()
    grown = dictionary.atoms.clone()
    turned = torch.nn.functional.normalize(grown + 0.1 * torch.randn(grown.shape, generator=torch.Generator()), dim=1)
    dictionary.refine(turned)
    view = dictionary.view(B)
    wanted = torch.nn.functional.cosine_similarity(turned[:, 6:10].double(), grown[:, 6:10].double())
    torch.testing.assert_close(view.cosines, wanted, rtol=1e-5, atol=1e-5)


def test_what_is_wrong_is_said() -> None:
    dictionary, parts = joint(), at_sites()
    with pytest.raises(InputError, match=r"'blocks.9.hook_resid_post' is none of the sites"):
        dictionary.view("blocks.9.hook_resid_post")
    with pytest.raises(InputError, match="name at least one of the sites"):
        dictionary.encode({})
    with pytest.raises(InputError, match=r"must be of the same tokens, got the shapes \[\(8,\), \(9,\)\]"):
        dictionary.encode({**parts, A: parts[A][1:]})
    with pytest.raises(InputError, match=rf"at {A} must have the shape \(..., 6\), got \(9, 5\)"):
        dictionary.encode({**parts, A: parts[A][:, 1:]})
    with pytest.raises(InputError, match="9 codes need as many activations of width 4"):
        dictionary.own_coefficients(dictionary.encode(parts), B, parts[B][1:])
    atoms = dictionary.atoms.clone()
    atoms[3, :6] = 0
    atoms[3] /= atoms[3].norm()
    without = Dictionary(atoms, k=2, metadata=dictionary.metadata)
    with pytest.raises(InputError, match=f"atom 3 has no part at {A}"):
        without.view(A)
    with pytest.raises(InputError, match="none of the sites"):
        Dictionary(torch.eye(4), k=1).view(A)


def test_arrays_and_doubles_are_taken_by_hook_point() -> None:
    dictionary, parts = joint(), at_sites()
    arrays = {hook: x.double().numpy() for hook, x in parts.items()}
    for chosen in ((A, B, C), (A,), (B, C)):
        of_arrays, of_tensors = (
            dictionary.decode(dictionary.encode({hook: x[hook] for hook in chosen})) for x in (arrays, parts)
        )
        torch.testing.assert_close(of_arrays.double(), of_tensors.double(), rtol=1e-4, atol=1e-4)
    assert SITES.join({hook: x.double() for hook, x in parts.items()}).dtype == torch.float64
    with pytest.raises(InputError, match=rf"of one hook point: give its activations as they are, not by \['{A}'\]"):
        Dictionary(torch.eye(4), k=1).encode({A: torch.ones(1, 4)})


def test_long_names_are_refused() -> None:
    names = [f"model.layers.{layer}.mlp.down_proj" for layer in range(3)]
    assert joint_name(names) == "model.layers.0+1+2.mlp.down_proj"
    with pytest.raises(InputError, match="join fewer"):
        joint_name([f"blocks.{layer}.hook_{kind}" for layer in range(9) for kind in ("mlp_out", "resid_post")])
