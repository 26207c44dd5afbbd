"""A joint fit: one dictionary of several hook points, as for one; the views of its sites in commands."""

import signal
from typing import Any

import pytest
import torch

from itda_lightning import ActivationsDataModule, InputError, fit_activations, load_dictionary
from itda_lightning.evaluation.atom_meanings import atom_meanings
from itda_lightning.evaluation.data_of import load_with_data
from itda_lightning.fit import main
from tests.fits import data_settings, fit_arguments, fit_in_child, fitted

HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
JOINT = "blocks.0+1.hook_resid_post"

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


@pytest.fixture(scope="module")
def module(tiny_model_dir, prose_file):
    data = ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, hook_names=HOOKS, joint=True))
    return fitted(data)


def activations_at(data: ActivationsDataModule, table: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the activations that atoms were grown from, by hook point, as the model gives them."""
    separate = data.with_settings(joint=False)
    found = {hook: torch.zeros(len(table), width) for hook, width in separate.widths.items()}
    places = {tuple(place): index for index, place in enumerate(table[:, 1:3].tolist())}
    for batch in separate.train_dataloader():
        for row, place in enumerate(batch.table[:, 1:3].tolist()):
            if tuple(place) in places:
                for hook in HOOKS:
                    found[hook][places[tuple(place)]] = batch.activations[hook][row]
    return found


def test_atoms_are_the_scaled_activations_of_their_sources_side_by_side(module) -> None:
    data, dictionary = module.trainer.datamodule, module.finished_dictionary()
    assert module.hook_names == [JOINT]
    assert dictionary.sites.hook_names == HOOKS
    assert 10 < dictionary.n_atoms < 150
    found = activations_at(data, dictionary.source_table)
    x = dictionary.centre(dictionary.sites.join(found))
    torch.testing.assert_close(torch.nn.functional.normalize(x, dim=1), dictionary.atoms, rtol=1e-4, atol=1e-5)


def test_each_site_is_scaled_to_a_median_distance_of_one(module) -> None:
    data = module.trainer.datamodule
    x = data.calibration_batch(8192).activations[JOINT].double()
    for columns in (slice(0, x.shape[1] // 2), slice(x.shape[1] // 2, None)):
        part = x[:, columns]
        assert float((part - part.mean(0)).norm(dim=1).median()) == pytest.approx(1, rel=1e-5)


def test_with_and_without_a_cache_the_activations_are_the_same(module, tmp_path) -> None:
    data = module.trainer.datamodule
    cached = data.with_settings(cache_dir=str(tmp_path))
    cached.prepare_data()
    assert cached.sites == data.sites
    for one, other in zip(data.train_dataloader(), cached.train_dataloader(), strict=True):
        assert torch.equal(one.activations[JOINT], other.activations[JOINT])
    separate = cached.with_settings(joint=False)
    assert separate.cache("train").complete  # one harvest serves both


def test_a_killed_joint_run_ends_as_if_it_had_not_been_and_is_read_site_by_site(
    tiny_model_dir, prose_file, tmp_path
) -> None:
    changes: dict[str, Any] = {"data.hook_names": str(HOOKS).replace("'", ""), "data.joint": "true", "refine": None}
    changes |= {"refine.passes": 1, "refine.batch_size": 256, "data.cache_dir": str(tmp_path / "cache")}
    arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path, **{"model.max_atoms": 60, **changes})
    main([*arguments, "--run.directory", str(tmp_path / "whole")])
    killed = [*arguments, "--run.directory", str(tmp_path / "run")]
    assert fit_in_child(killed, tmp_path / "output", 8, signal.SIGKILL) == -signal.SIGKILL
    main([*killed, "--ckpt_path", "last"])
    whole, resumed = load_dictionary(tmp_path / "whole"), load_dictionary(tmp_path / "run-resumed-001")
    assert whole.sites.hook_names == HOOKS
    assert torch.equal(whole.atoms, resumed.atoms)
    assert whole.sites == resumed.sites
    view, hook, data = load_with_data(str(tmp_path / "whole"), HOOKS[1], None, "cpu")
    assert (hook, view.metadata["view_of"], view.n_atoms) == (HOOKS[1], JOINT, whole.n_atoms)
    assert next(data.heldout_batches(hook, d_in=view.d_in)).x.shape[1] == view.d_in
    assert dict(atom_meanings(view, data, hook)[3].sites) == pytest.approx(
        dict(zip(HOOKS, whole.site_shares[3].tolist(), strict=True))
    )
    with pytest.raises(InputError, match=r"the dictionary is joint, of .*: name one of them by --hook_name"):
        load_with_data(str(tmp_path / "whole"), None, None, "cpu")
    with pytest.raises(InputError, match=r"is joint, of .*: take dictionary.view\(hook_name\) of one of them"):
        whole.decompose("the Congress")
    joint, name, both = load_with_data(str(tmp_path / "whole"), None, None, "cpu", joint=True)
    assert (name, both.sites) == (JOINT, whole.sites)
    assert next(both.heldout_batches(name, d_in=joint.d_in)).x.shape[1] == joint.d_in


def test_one_hook_point_is_not_joined(tiny_model_dir, prose_file) -> None:
    with pytest.raises(InputError, match=r"data.joint joins several hook points, but data.hook_names has one"):
        ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, joint=True))


def test_arrays_of_the_same_rows_get_one_dictionary() -> None:
    generator = torch.Generator().manual_seed(0)
    meaning = torch.randn(600, 12, generator=generator).where(torch.rand(600, 12, generator=generator) < 0.2, 0)
    a, b = (meaning @ torch.randn(12, width, generator=generator) * width for width in (9, 7))
    arrays = {"a": a, "b": b.numpy()}
    dictionary = fit_activations(arrays, max_atoms=40, k=6, refine=None, progress=False)
    assert [site[:2] for site in dictionary.sites] == [("a", 9), ("b", 7)]
    atom = 5
    row = dictionary.sources[atom].document
    joined = dictionary.sites.join({"a": a[[row]], "b": b[[row]]})
    torch.testing.assert_close(
        torch.nn.functional.normalize(dictionary.centre(joined), dim=1)[0], dictionary.atoms[atom], rtol=1e-4, atol=1e-5
    )
    translated = dictionary.decode(dictionary.encode({"a": a}), "b")  # one model's activations read in another
    assert (translated - b).square().sum() < 0.5 * (b - b.mean(0)).square().sum()
    with pytest.raises(
        InputError, match=r"must have the same rows, such as the same tokens, but they have \{'a': 600, 'b': 599\}"
    ):
        fit_activations({"a": a, "b": b[1:]})
    with pytest.raises(InputError, match=r"joint arrays are at least two, by name, got \['a'\]"):
        fit_activations({"a": a})
    dead = {**arrays, "b": torch.full((600, 7), 0.1)}  # whose mean rounds
    with pytest.raises(
        InputError, match=r"activations at b are the same in the sample .*: a dead site cannot be joined"
    ):
        fit_activations(dead, progress=False)
