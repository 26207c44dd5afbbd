"""Codes of varying length: k atoms on average, ended at the same share of unexplained energy, wherever a dictionary goes."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itda_lightning.dictionary import INDEX_FILE, Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.comparison_settings import FitSettings
from itda_lightning.evaluation.transfer import rivals
from itda_lightning.fit import main
from itda_lightning.loading import load_dictionary
from itda_lightning.pursuit import PursuitName, orthogonal_matching_pursuit
from itda_lightning.run_directory import METRICS
from itda_lightning.saelens import from_sae, load_export, save_export, to_sae
from itda_lightning.variable_k import MOST, average_k, vary_k
from tests.fits import HOOK, fit_arguments
from tests.test_dictionary import sources_of, unit_rows

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


def dictionary_of(k: int = 3, pursuit: PursuitName = "omp", seed: int = 0) -> Dictionary:
    return Dictionary(unit_rows(40, 24, seed), torch.arange(24.0), sources_of(40), k=k, pursuit=pursuit)


def activations(n: int, seed: int = 1) -> torch.Tensor:
    """Of very different kinds: near an atom, of a few, and of none."""
    generator = torch.Generator().manual_seed(seed)
    atoms = dictionary_of().atoms
    weights = torch.randn(n, 40, generator=generator) * (torch.rand(n, 40, generator=generator) < torch.rand(n, 1) / 4)
    return weights @ atoms + 0.1 * torch.randn(n, 24, generator=generator) + torch.arange(24.0)


@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 6), pursuit=st.sampled_from(["mp", "omp"]), seed=st.integers(0, 50))
def test_codes_have_k_atoms_on_average_and_end_where_the_threshold_is_reached(k, pursuit, seed):
    dictionary, x = dictionary_of(k, pursuit), activations(64, seed)
    l0 = vary_k(dictionary, x)
    code = dictionary.encode(x)
    assert dictionary.k == MOST * k
    assert l0 == pytest.approx(float(code.l0().double().mean()))
    assert l0 <= k
    energy = dictionary.centre(x).double().square().sum(1)
    steps = (code.support >= 0).sum(1)
    reached = code.residual_energy.double() <= dictionary.error_threshold * energy * (1 + 1e-5)
    assert bool((reached | (steps == dictionary.k) | (code.residual_energy < 1e-8 * energy)).all())
    for row in (steps > 1).nonzero()[:8, 0].tolist():
        shorter = Dictionary(dictionary.atoms, dictionary.bias, k=int(steps[row]) - 1, pursuit=pursuit)
        left = float(shorter.encode(x[row : row + 1]).residual_energy)
        assert left > dictionary.error_threshold * float(energy[row]) * (1 - 1e-5), "it could have ended earlier"


def test_a_lower_threshold_would_take_more_than_k_atoms():
    dictionary, x = dictionary_of(4), activations(512)
    vary_k(dictionary, x)
    lower = dictionary.encode(x, dictionary.error_threshold - 2**-11)
    assert float(lower.l0().double().mean()) > 4


def test_saving_exporting_and_copying_keep_the_codes(tmp_path):
    dictionary, x = dictionary_of(), activations(100)
    vary_k(dictionary, x)
    expected = orthogonal_matching_pursuit(
        x - dictionary.bias, dictionary.atoms, dictionary.k, error_threshold=dictionary.error_threshold
    )
    dictionary.save(tmp_path / "saved")
    save_export(dictionary, tmp_path / "export")
    copies = [
        Dictionary.load(tmp_path / "saved"),
        load_export(tmp_path / "export"),
        from_sae(to_sae(dictionary)),
        dictionary.unrefined(),
    ]
    for one in (dictionary, *copies):
        assert one.encoding == dictionary.encoding
        code = one.encode(x)
        assert torch.equal(code.support, expected.support)
        assert torch.allclose(code.coefficients, expected.coefficients, rtol=1e-5, atol=1e-5)
    dense = to_sae(dictionary).encode(x)
    assert torch.allclose(dense, expected.to_dense(40), rtol=1e-5, atol=1e-5)
    assert len(set((dense != 0).sum(1).tolist())) > 2, "codes differ in length"


def test_what_older_versions_would_read_with_other_codes_they_refuse(tmp_path):
    dictionary_of().save(tmp_path / "plain")
    dictionary = dictionary_of()
    vary_k(dictionary, activations(50))
    dictionary.save(tmp_path / "varied")
    versions = [json.loads((tmp_path / name / INDEX_FILE).read_text())["version"] for name in ("plain", "varied")]
    assert versions == [1, 3]
    mp = dictionary_of(pursuit="mp")
    vary_k(mp, activations(50))
    with pytest.raises(
        InputError, match=r"end at an error threshold \(0\.\d+ of .* cannot be exported as 'matching_pursuit'"
    ):
        to_sae(mp, "matching_pursuit")


def test_what_cannot_vary_is_refused():
    dictionary = dictionary_of()
    with pytest.raises(InputError, match="no activations to find an error threshold on"):
        vary_k(dictionary, torch.zeros(0, 24))
    vary_k(dictionary, activations(50))
    with pytest.raises(InputError, match=r"codes vary already, with the error threshold 0\.\d+"):
        vary_k(dictionary, activations(50))
    with pytest.raises(ValueError, match=r"error_threshold must be a fraction of \|x\|\^2 in \[0, 1\], got 1.5"):
        Dictionary(unit_rows(3, 4), k=1, error_threshold=1.5)


def test_a_fit_with_variable_k(tiny_model_dir: Path, prose_file: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    runs = [
        main(
            fit_arguments(
                tiny_model_dir, prose_file, tmp_path / name, data__cache_dir=cache, variable_k=name == "varied"
            )
        )
        for name in ("plain", "varied")
    ]
    plain, varied = (json.loads((run / METRICS).read_text())["hook_points"][HOOK] for run in runs)
    dictionary = load_dictionary(runs[1])
    assert dictionary.k == 8
    assert 0 < dictionary.error_threshold < 1
    assert torch.equal(dictionary.atoms, load_dictionary(runs[0]).atoms)
    assert plain["l0"] == pytest.approx(4, abs=0.1)
    assert varied["l0"] == pytest.approx(4, rel=0.15), "held-out activations are not those it was found on"


def test_what_is_made_to_compare_with_has_the_average_k():
    dictionary = dictionary_of(4)
    dictionary.metadata["fit"] = {"k": 4}
    assert average_k(dictionary) == 4
    vary_k(dictionary, activations(50))
    assert (dictionary.k, average_k(dictionary)) == (8, 4)
    assert [(entry.chosen.k, entry.chosen.pursuit) for entry in rivals(dictionary, 40)] == [(4, "omp"), (4, "omp")]
    dictionary.metadata.clear()
    assert average_k(dictionary) == 8, "all that is known"


def test_an_entry_of_a_comparison_may_have_variable_k():
    assert FitSettings(variable_k=True).module().hparams["k"] == FitSettings().module().hparams["k"]
