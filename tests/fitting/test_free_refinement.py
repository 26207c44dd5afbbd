"""Refinement that may leave the sources: unmixing on the way, and anchors down to none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from itda_lightning import ITDA, ActivationsDataModule
from itda_lightning.evaluation import page_results
from itda_lightning.fitting import refinement
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO
from itda_lightning.fitting.refinement import RefinementSettings, refine
from tests.fits import HOOK, copies, data_settings, fitted


@pytest.fixture(scope="module")
def data(tiny_model_dir, prose_file, tmp_path_factory) -> ActivationsDataModule:
    cache = str(tmp_path_factory.mktemp("cache"))
    return ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, cache_dir=cache))


@pytest.fixture(scope="module")
def grown(data, tmp_path_factory) -> Callable[[], ITDA]:
    """A fit of those data; every call returns another module of it."""
    return copies(fitted(data), tmp_path_factory.mktemp("grown") / "grown.ckpt")


def test_unmixing_resumes_bit_for_bit_and_keeps_the_anchor(data, grown, tmp_path, monkeypatch):
    settings = RefinementSettings(anchor=0.6, passes=4, batch_size=128, unmix=0.4)
    whole, killed, plain = grown(), fitted(data), grown()
    refine(whole, data, settings)
    refine(plain, data, replace(settings, unmix=None))
    step, path = refinement.refinement_step, tmp_path / "killed.ckpt"
    killed.trainer.strategy.checkpoint_io = SafetensorsCheckpointIO()

    def failing(state: Any, *others: Any) -> Any:
        if int(state.step) == 27:  # saved then: between the unmixings after 26 and after 28 of the 56 steps
            raise KeyboardInterrupt
        return step(state, *others)

    monkeypatch.setattr(refinement, "refinement_step", failing)
    with pytest.raises(KeyboardInterrupt):
        refine(killed, data, settings, lambda: killed.trainer.save_checkpoint(path), 27)
    monkeypatch.undo()
    resumed = ITDA.load_from_checkpoint(path)
    saved = {name: value.clone() for name, value in resumed.refinement_states[HOOK].items()}
    assert int(saved["uses"].sum()) > 0
    restored = refinement._Run(resumed, data, settings, HOOK)
    moments = {name: getattr(restored.state, name) for name in ("first", "second", "step")}
    for name, value in ({"uses": restored.uses, "pass_sums": restored.pass_sums} | moments).items():
        assert torch.equal(value, saved[name]), name
    refine(resumed, data, settings)
    dictionary = resumed.finished_dictionary()
    assert torch.equal(dictionary.atoms, whole.dictionary().atoms)
    assert dictionary.metadata["refinement"] == whole.refinements[HOOK]
    assert float(dictionary.cosines.min()) >= 0.6

    def coherence(module: ITDA) -> float:
        atoms = module.dictionary().atoms
        return float((atoms @ atoms.T).tril(-1).amax(1).mean())

    assert coherence(whole) < coherence(plain) - 0.02


@pytest.mark.parametrize("anchor", [0.0, None])
def test_atoms_may_go_anywhere(data, grown, anchor):
    module = grown()
    refine(module, data, RefinementSettings(anchor=anchor, passes=2, batch_size=64, rate=1.0))
    assert float(module.dictionary().cosines.min()) < 0.5
    assert page_results._refinement(module.refinements[HOOK]).startswith(
        "2 passes, cosine with the source not bounded, " if anchor is None else "2 passes, cosine with the source at le"
    )
