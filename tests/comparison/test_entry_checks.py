"""The problems of an entry that is of other activations than those compared."""

import shutil

import pytest
import torch
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning import ActivationsDataModule
from itda_lightning.comparison.entry_checks import differences
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.evaluation.entries import Entry
from itda_lightning.saelens import to_sae
from tests.fits import HOOK, data_settings
from tests.tiny_model import WIDTH, save_weights

OTHER_HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def data(tiny_model_dir, prose_file):
    return ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, device="cpu"))


def sae_entry(d_in: int = WIDTH, normalize: str = "none", **metadata: object) -> Entry:
    sae = TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=20, k=3, normalize_activations=normalize))
    for name, value in ({"hook_name": HOOK} | metadata).items():
        sae.cfg.metadata[name] = value
    return Entry("an SAE", sae, None)


def itda_entry(data: dict, **metadata: object) -> Entry:
    """An ITDA with the settings of its fit."""
    facts = {"hook_name": HOOK, "model_name": data["model"], "data": data} | metadata
    atoms = torch.nn.functional.normalize(torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    dictionary = Dictionary(atoms, k=2, metadata=facts)
    return Entry("an ITDA", to_sae(dictionary), dictionary)


def problems_of(entry: Entry, data: ActivationsDataModule, **others: bool) -> list[str]:
    return differences(entry, data, HOOK, WIDTH, **others)


def test_what_says_nothing_against_it_is_accepted(data, tiny_model_dir):
    model = str(tiny_model_dir)
    for entry in (
        sae_entry(),
        sae_entry(model_name=model, prepend_bos=True),
        sae_entry(model_from_pretrained_kwargs={"center_writing_weights": False, "device_map": "auto"}),
        sae_entry(model_name=model, normalize="layer_norm"),
        itda_entry({"model": model, "prepend_bos": True}),
    ):
        assert problems_of(entry, data) == []


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (sae_entry(hook_name=OTHER_HOOK), f"its hook point is '{OTHER_HOOK}', not '{HOOK}'"),
        (sae_entry(d_in=48), f"it has d_in 48, the activations at {HOOK} have {WIDTH} dimensions"),
        (sae_entry(prepend_bos=False), "its prepend_bos is False, that of the data is True"),
        (
            sae_entry(model_from_pretrained_kwargs={"fold_ln": True, "center_writing_weights": True, "dtype": "f"}),
            "its activations are of a model with center_writing_weights, fold_ln, not of one as data.loader bridge "
            "loads it",
        ),
        (
            sae_entry(normalize="expected_average_only_in"),
            "it expects scaled activations: fold the scaling with fold_activation_norm_scaling_factor",
        ),
    ],
    ids=["hook point", "width", "prepend_bos", "processing", "scaling"],
)
def test_each_difference_is_a_sentence(data, entry, text):
    assert problems_of(entry, data) == [text]


def test_all_differences_are_listed(data):
    entry = sae_entry(d_in=48, hook_name=OTHER_HOOK, prepend_bos=False, model_name="gpt2-small")
    assert len(problems_of(entry, data)) == 4


@pytest.fixture
def copy(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "copy")


def entries_of(model: object) -> list[Entry]:
    return [sae_entry(model_name=str(model)), itda_entry({"model": str(model)})]


def test_the_same_files_under_another_name_are_the_same_model(data, copy):
    for entry in entries_of(copy):
        assert problems_of(entry, data) == []


def test_another_model_is_a_problem_unless_the_user_knows_better(data, copy, tiny_model_dir):
    save_weights(copy, seed=1)
    for model in (copy, copy / "nowhere", "no-such-model"):
        for entry in entries_of(model):
            expected = (
                f"it is of the model '{model}', not '{tiny_model_dir}' (if they are the same, set same_model: true)"
            )
            assert problems_of(entry, data) == [expected]
            assert problems_of(entry, data, same_model=True) == []


def test_the_name_of_the_fit_counts_where_the_model_has_several(data, copy, tiny_model_dir):
    """SAELens's tools may be told an official name; the fit's own settings say what was loaded."""
    assert problems_of(itda_entry({"model": str(tiny_model_dir)}, model_name="an alias"), data) == []


@pytest.mark.parametrize("kind", ["itda", "trained"])
def test_revisions_of_one_name_are_different_models(kind, tiny_model_dir, prose_file, monkeypatch):
    """Where nothing but names is to be had: neither of the two is in the hub's cache."""

    def of(revision):
        settings = {"model": "someone/model", "model_revision": revision}
        if kind == "itda":
            return itda_entry(settings)
        return sae_entry(model_name="someone/model", data=settings)

    data = ActivationsDataModule(**data_settings("someone/model", prose_file, device="cpu", model_revision="step3000"))
    assert problems_of(of("step3000"), data) == []
    (text,) = problems_of(of("step1000"), data)
    assert text.startswith("it is of the model 'someone/model' at step1000, not 'someone/model' at step3000")
