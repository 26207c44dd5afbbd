"""Model diffing against its definition, and of a model with itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from itda_lightning.across_models.diffing import Side, cosine_distances, diff, unexplained_shares
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import settings
from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from tests.oracle import matching_pursuit
from tests.other_model import other_model_dir, other_run, other_tokens_dir  # noqa: F401  fixtures
from tests.runs import HOOK, OTHER_HOOK, fit_tiny


def side(name: str, run: Path, hook: str = HOOK) -> Side:
    dictionary = load_dictionary(run, hook)
    return Side(name, dictionary, ActivationsDataModule(**dictionary.metadata["data"]), hook)


@pytest.fixture(scope="module")
def base(tiny_run) -> Side:
    return side("base", tiny_run)


@pytest.fixture(scope="module")
def other(other_run) -> Side:  # noqa: F811
    return side("other", other_run)


def activations(data: ActivationsDataModule) -> dict[tuple[int, ...], torch.Tensor]:
    """Return source -> training activation."""
    return {
        tuple(source): x
        for batch in data.train_dataloader()
        for source, x in zip(batch.table.tolist(), batch.activations[data.hook_names[0]], strict=True)
    }


def test_shares_are_the_energy_that_pursuit_leaves(base) -> None:
    x = torch.stack(list(activations(base.data).values())[:50])
    dictionary = base.dictionary
    centred, atoms = (x - dictionary.bias).double().numpy(), dictionary.atoms.double().numpy()
    left = [matching_pursuit(row, atoms, dictionary.k).residual for row in centred]
    expected = [(residual**2).sum() / (row**2).sum() for residual, row in zip(left, centred, strict=True)]
    shares = unexplained_shares(dictionary, x)
    torch.testing.assert_close(shares, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert unexplained_shares(dictionary, dictionary.bias[None]).tolist() == [0.0]
    assert unexplained_shares(dictionary, dictionary.bias + 3 * dictionary.atoms[:5]).tolist() == [0.0] * 5


def test_every_atom_is_read_by_the_other_model_and_its_dictionary(base, other) -> None:
    by_model = {side.name: activations(side.data) for side in (base, other)}
    for result, owner, reader in zip(diff(base, other).directions, (base, other), (other, base), strict=True):
        assert (result.owner, result.reader) == (owner.name, reader.name)
        assert (result.n_atoms, result.n_reader_atoms) == (owner.dictionary.n_atoms, reader.dictionary.n_atoms)
        assert (result.unaligned, result.unusable) == (0, 0)
        assert sorted(atom.atom for atom in result.atoms) == list(range(owner.dictionary.n_atoms))
        excess = [atom.excess for atom in result.atoms]
        assert excess == sorted(excess, reverse=True)
        sources = [owner.dictionary.sources[atom.atom] for atom in result.atoms]
        assert [atom.source for atom in result.atoms] == sources
        assert [atom.prompt for atom in result.atoms] == [owner.dictionary.prompts[atom.atom] for atom in result.atoms]
        pair = (torch.stack([by_model[name][tuple(source)] for source in sources]) for name in ("base", "other"))
        assert [atom.distance for atom in result.atoms] == pytest.approx(cosine_distances(*pair).tolist(), abs=1e-5)
        keys = reader.dictionary.sources.keys()
        assert [atom.common for atom in result.atoms] == [(s.document, s.start, s.end) in keys for s in sources]
        for name, shares in (
            (owner.name, [atom.unexplained_own for atom in result.atoms]),
            (reader.name, [atom.unexplained for atom in result.atoms]),
        ):
            x = torch.stack([by_model[name][tuple(source)] for source in sources])
            expected = unexplained_shares(reader.dictionary, x)
            torch.testing.assert_close(torch.tensor(shares, dtype=torch.float64), expected, atol=1e-5, rtol=1e-4)


def test_distances_are_angles_about_the_means() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]) + 7
    turned = torch.tensor([[0.0, 2.0], [0.0, -2.0]]) - 3
    for y, distance in ((3 * x + 1, 0.0), (turned, 1.0), (-x, 2.0)):
        assert cosine_distances(x, y).tolist() == pytest.approx([distance] * 2, abs=1e-12)


def test_a_model_does_not_differ_from_itself_whatever_its_dictionaries(base) -> None:
    whole = base.dictionary
    fewer = Dictionary(
        whole.atoms[5:25],
        whole.bias + 0.1,
        Sources(whole.source_table[5:25].clone(), whole.dataset),
        k=2,
        metadata=whole.metadata,
    )
    for result in diff(base, replace(base, name="fewer", dictionary=fewer)).directions:
        assert {atom.excess for atom in result.atoms} == {0.0}
        assert len(result.atoms) == result.n_atoms
        assert sum(atom.common for atom in result.atoms) == 20


def test_other_tokens_are_read_at_the_same_characters(base, other_tokens_dir, prose_file, tmp_path) -> None:  # noqa: F811
    other = side("other", fit_tiny(tmp_path / "run", other_tokens_dir, prose_file))
    for result, owner in zip(diff(base, other).directions, (base, other), strict=True):
        assert 0 < len(result.atoms) == owner.dictionary.n_atoms - result.unaligned
        assert result.unaligned + sum(atom.common for atom in result.atoms) > 0
        prompts = owner.dictionary.prompts
        assert [atom.prompt for atom in result.atoms] == [prompts[atom.atom] for atom in result.atoms]


def test_hook_points_of_other_widths_are_ranked_by_the_unexplained_share(base) -> None:
    hook = "blocks.1.mlp.hook_post"
    width = LanguageModel(base.data.model_name, [hook]).widths[hook]
    assert width != base.dictionary.d_in
    atoms = torch.randn(base.dictionary.n_atoms, width, generator=torch.Generator().manual_seed(0))
    unfitted = Dictionary(torch.nn.functional.normalize(atoms, dim=1), sources=base.dictionary.sources, k=4)
    wide = replace(base, name="wide", dictionary=unfitted, hook_name=hook)
    for result in diff(base, wide).directions:
        assert {(atom.unexplained_own, atom.distance) for atom in result.atoms} == {(None, None)}
        shares = [atom.unexplained for atom in result.atoms]
        assert shares == sorted(shares, reverse=True)


def test_dictionaries_of_different_documents_are_refused(base, prose, tmp_path) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("\n\n".join(" ".join(text.split()) for text in prose[::-1]))
    data = ActivationsDataModule(**{**settings(base.data.hparams), "dataset": str(path)})
    rows = data.rows("train")
    table = rows.source_table(*rows.kept.nonzero()[:5].T)
    unfitted = Dictionary(torch.eye(5, 32), sources=Sources(table, rows.dataset), k=2)
    other = Side("other", unfitted, data, HOOK)
    with pytest.raises(InputError, match="the sources come from different datasets"):
        diff(base, other)


def test_a_dictionary_of_another_width_than_its_model_is_refused(base) -> None:
    n = base.dictionary.n_atoms
    wrong = Dictionary(torch.eye(n, 64), sources=base.dictionary.sources, k=2)
    with pytest.raises(InputError, match=r"the dictionary has d_in 64 but .* has 32 dimensions"):
        diff(base, replace(base, dictionary=wrong))


def test_a_dictionary_without_sources_is_refused(base) -> None:
    bare = replace(base, dictionary=Dictionary(torch.eye(32), k=2))
    with pytest.raises(InputError, match="has no sources"):
        diff(bare, base)


def test_two_layers_of_a_model_are_compared_as_two_models_are(tiny_run_of_two) -> None:
    first, second = side("first", tiny_run_of_two, OTHER_HOOK), side("second", tiny_run_of_two, HOOK)
    result, _ = diff(first, second).directions
    assert len(result.atoms) == first.dictionary.n_atoms
    assert result.atoms[0].excess > 0
