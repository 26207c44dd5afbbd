"""ITDA, the module: its atoms are the activations of their sources, and nothing but the data decides which."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from itda_lightning import ITDA, ActivationsDataModule, InputError
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO
from itda_lightning.fitting.trainer import StopWhenDone
from itda_lightning.growth import GROWTH_POLICIES, GrowthRule
from itda_lightning.pursuit import PreparedAtoms, pursue
from tests.fits import HOOK, data_settings, fitted, sharing_models, trainer

OTHER = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def fresh_data(tiny_model_dir: Path, prose_file: Path):
    return lambda **others: ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, **others), device="cpu")


@pytest.fixture(scope="module")
def data_of(fresh_data):
    """Make data of given settings whose language model is loaded once for all of them."""
    return sharing_models(fresh_data)


@pytest.fixture(scope="module")
def usual(data_of):
    """Return a fit of the usual data with arguments of the module. Tests share it and leave it as it is."""
    made: dict[tuple, ITDA] = {}

    def fit(**others: Any) -> ITDA:
        key = tuple(sorted(others.items()))
        if key not in made:
            made[key] = fitted(data_of(), **others)
        return made[key]

    return fit


def assert_same(a: Dictionary, b: Dictionary) -> None:
    assert torch.equal(a.atoms, b.atoms)
    assert torch.equal(a.bias, b.bias)
    assert torch.equal(a.source_table, b.source_table)


@pytest.fixture(scope="module")
def activations(fresh_data) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations for training, their sources, and those for calibration, of the model and the rows once more."""
    data = fresh_data()
    batches = list(data.train_dataloader())
    x, table = torch.cat([b.activations[HOOK] for b in batches]), torch.cat([b.table for b in batches])
    return x, table, data.calibration_batch(512).activations[HOOK]


@pytest.mark.parametrize(
    ("growth", "center"),
    [("sequential", True), ("frozen_batch", True), ("worst_first", True), ("sequential", False)],
)
def test_atoms_are_the_activations_of_their_sources(usual, activations, growth, center):
    changed = {} if center else {"center": False}
    dictionary = usual(growth=growth, threshold=0.6, **changed).finished_dictionary()
    assert 20 < dictionary.n_atoms < 150
    x, table, calibration = activations
    place = {tuple(row): index for index, row in enumerate(table.tolist())}
    own = x[[place[tuple(row)] for row in dictionary.source_table.tolist()]]
    torch.testing.assert_close(dictionary.atoms, torch.nn.functional.normalize(own - dictionary.bias, dim=1))
    torch.testing.assert_close(torch.linalg.vector_norm(dictionary.atoms, dim=1), torch.ones(dictionary.n_atoms))
    expected = calibration.double().mean(0).float() if center else torch.zeros(32)
    torch.testing.assert_close(dictionary.bias, expected, rtol=1e-5, atol=1e-6)
    order = [place[tuple(row)] for row in dictionary.source_table.tolist()]
    assert len(set(order)) == len(order)
    if growth != "worst_first":  # which takes a batch in another order
        assert order == sorted(order)


def test_prompts_end_in_the_token_of_the_source(usual, prose):
    dictionary = usual().finished_dictionary()
    assert dictionary.prompts is not None
    for prompt, source in zip(dictionary.prompts, dictionary.sources, strict=True):
        assert prompt.token == prose[source.document][source.start : source.end] != ""


@pytest.mark.parametrize("growth", ["sequential", "worst_first"])
def test_norms_count_as_the_exponent_says(data_of, activations, growth):
    """The typical energy is the median of the centred calibration activations, and growth goes by it."""
    module = fitted(data_of(), growth=growth, energy_exponent=0.5, threshold=0.7)
    x, table, calibration = activations
    bias = module.dictionary().bias
    energies = (calibration - bias).double().square().sum(1)
    typical = float(energies.sort().values[(len(energies) - 1) // 2])
    assert float(module.typical_energies[0]) == pytest.approx(typical, rel=1e-4)
    assert float(calibration.double().square().sum(1).median()) > 1.1 * typical, "before centring it is another"
    rule, accepted = GrowthRule(4, "omp", False, 0.7, 0.5, typical), []
    prepared = PreparedAtoms(torch.zeros(150, x.shape[1]), 0)
    for part, sources in zip((x - bias).split(128), table.split(128), strict=True):
        grown = GROWTH_POLICIES[growth](part, prepared, rule)
        prepared.place(prepared.n, grown.atoms)
        accepted += sources[grown.accepted].tolist()
    assert module.dictionary().source_table.tolist() == accepted


def test_the_growth_curve_counts_the_activations_up_to_the_end_of_each_batch(data_of, usual):
    module, seen = usual(), 0
    expected: dict[tuple, int] = {}
    for batch in data_of().train_dataloader():
        seen += len(batch)
        expected |= dict.fromkeys(map(tuple, batch.table.tolist()), seen)
    n = module.dictionary().n_atoms
    ends = [expected[tuple(row)] for row in module.dictionary().source_table.tolist()]
    assert module.appended_at[0, :n].tolist() == ends
    curve = {end: count for count, end in enumerate(ends, 1)}
    assert [tuple(point) for point in module.metadata(HOOK)["growth"]] == list(curve.items())


def test_a_fit_of_several_hook_points_is_full_when_each_is(data_of):
    together = ITDA(max_atoms=18, k=4, threshold=0.75, calibration_tokens=512)
    trainer(callbacks=[StopWhenDone()]).fit(together, datamodule=data_of(hook_names=[OTHER, HOOK]))
    sizes = [together.dictionary(hook).n_atoms for hook in (OTHER, HOOK)]
    filled_at = [int(together.appended_at[i, size - 1]) for i, size in enumerate(sizes)]
    assert sizes == [18, 18]
    assert together.full
    assert filled_at[0] != filled_at[1]
    assert int(together.seen) == max(filled_at)
    together.dictionaries[0] = Dictionary(torch.eye(32)[:17], k=4)
    assert not together.full


def test_several_hook_points_in_one_pass_give_the_dictionaries_of_single_fits(data_of, usual):
    together = fitted(data_of(hook_names=[OTHER, HOOK]))
    for hook, alone in ((OTHER, fitted(data_of(hook_names=[OTHER]))), (HOOK, usual())):
        assert_same(together.finished_dictionary(hook), alone.finished_dictionary())
        assert together.results(hook) == alone.results(hook)
    assert together.dictionary(OTHER).n_atoms != together.dictionary(HOOK).n_atoms
    with pytest.raises(InputError, match=r"there is no dictionary of None: choose one of \['blocks.0"):
        together.dictionary()
    with pytest.raises(InputError, match=r"there is no dictionary of 'blocks.9': choose one of"):
        together.finished_dictionary("blocks.9")


@pytest.mark.parametrize("growth", ["sequential", "frozen_batch", "worst_first"])
def test_no_more_atoms_than_asked_for(data_of, usual, growth):
    many = usual(growth=growth, threshold=0.6).finished_dictionary()
    few = fitted(data_of(), growth=growth, max_atoms=13, threshold=0.6).finished_dictionary()
    assert few.n_atoms == 13 < many.n_atoms
    assert torch.equal(few.atoms, many.atoms[:13])
    assert torch.equal(few.source_table, many.source_table[:13])


def test_the_same_seed_and_data_give_the_same_bits(fresh_data, data_of, usual):
    calibrated: dict[str, Any] = {"threshold": None, "max_atoms": 60, "calibration_tokens": 100}
    first, second = (fitted(fresh_data(), **calibrated) for _ in range(2))
    assert_same(first.finished_dictionary(), second.finished_dictionary())
    assert first.history == second.history
    assert float(first.thresholds[0]) == float(second.thresholds[0])
    other = fitted(data_of(seed=1)).finished_dictionary()
    assert not torch.equal(other.source_table, usual().finished_dictionary().source_table)


# The generalised pursuit grows as the orthogonal one does; the model's batches reach no pursuit.
@pytest.mark.parametrize(
    ("pursuit", "others"),
    [
        ("mp", {"batch_size": 4096}),
        ("omp", {"batch_size": 37, "model_batch_size": 3}),
    ],
)
def test_no_batch_size_changes_a_sequential_dictionary(data_of, usual, pursuit, others):
    changed = {} if pursuit == "omp" else {"pursuit": pursuit}
    expected = usual(**changed).finished_dictionary()
    other = fitted(data_of(**others), pursuit=pursuit).finished_dictionary()
    assert torch.equal(expected.source_table, other.source_table)
    torch.testing.assert_close(expected.atoms, other.atoms)


def test_growth_for_the_generalised_pursuit_is_judged_by_the_orthogonal_one(data_of, usual):
    judged, judge = fitted(data_of(), pursuit="gomp").finished_dictionary(), usual().finished_dictionary()
    assert torch.equal(judged.source_table, judge.source_table)
    assert torch.equal(judged.atoms, judge.atoms)
    x = 3 * judged.atoms + judged.bias
    assert torch.equal(judged.encode(x).support, pursue("gomp", x - judged.bias, judged.prepared(), 4).support)


def test_the_batch_size_does_change_a_frozen_batch_dictionary(data_of, usual):
    other = fitted(data_of(batch_size=37), growth="frozen_batch")
    assert usual(growth="frozen_batch").dictionary().n_atoms != other.dictionary().n_atoms


def test_what_is_known_of_a_fit(data_of, usual):
    module = usual()
    n_kept = data_of().rows("train").n_kept
    metadata = module.finished_dictionary().metadata
    assert metadata["growth"][-1] == [metadata["growth"][-1][0], module.dictionary().n_atoms]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(metadata["growth"]))
    assert metadata["activations_seen"] == n_kept == int(module.seen)
    assert (metadata["hook_name"], metadata["model_class_name"]) == (HOOK, "HookedTransformer")
    assert metadata["context_size"] == metadata["data"]["context_size"] == 32
    assert metadata["fit"]["k"] == 4
    assert metadata["threshold"] == 0.75
    assert module.results(HOOK)["n_atoms"] == module.dictionary().n_atoms
    assert [entry["seen"] for entry in module.history] == [n_kept]


def test_a_plain_trainer_with_its_own_checkpoints(data_of, tmp_path):
    data = data_of()
    module = ITDA(max_atoms=150, k=4, threshold=0.75, calibration_tokens=512)
    plain = trainer(
        enable_checkpointing=True,
        default_root_dir=tmp_path,
        plugins=[SafetensorsCheckpointIO()],
        callbacks=[StopWhenDone()],
    )
    plain.fit(module, datamodule=data)
    path = tmp_path / "saved.ckpt"
    plain.save_checkpoint(path)
    loaded = ITDA.load_from_checkpoint(path)
    assert_same(loaded.dictionary(), module.dictionary())
    assert loaded.history == module.history
    assert loaded.hparams == module.hparams
    assert loaded.metadata(HOOK) == module.metadata(HOOK)
    finished = loaded.finished_dictionary()
    assert_same(finished, module.finished_dictionary())
    assert finished.prompts is None
    assert (finished.dataset, finished.metadata) == (module.dataset, module.metadata(HOOK))
    trainer().validate(loaded, datamodule=data, verbose=False)
    assert loaded.history[-1]["fvu"] == module.history[-1]["fvu"]
    assert loaded.finished_dictionary().prompts == module.finished_dictionary().prompts


def test_a_checkpoint_of_another_module(tmp_path):
    SafetensorsCheckpointIO().save_checkpoint({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"other.ckpt is not a checkpoint of an ITDA fit: give one of a run's"):
        ITDA.load_from_checkpoint(tmp_path / "other.ckpt")


def test_other_data_need_a_new_module(data_of, prose_file, tmp_path):
    module = fitted(data_of())
    with pytest.raises(
        InputError, match=r"the dictionaries are of \['blocks.1.*the data are of \['blocks.0.*make a new"
    ):
        trainer().fit(module, datamodule=data_of(hook_names=[OTHER]))
    other = tmp_path / "other.jsonl"
    other.write_text("".join(reversed(prose_file.read_text().splitlines(keepends=True))))
    with pytest.raises(InputError, match=r"make a new ITDA for other data"):
        trainer().fit(module, datamodule=data_of(dataset=str(other)))


def test_a_fit_without_the_datamodule():
    loader: Any = torch.utils.data.DataLoader(torch.zeros(3, 2))
    with pytest.raises(InputError, match=r"fitted on an ActivationsDataModule: call trainer.fit\(module, datamodule="):
        trainer().fit(ITDA(), loader)
    with pytest.raises(InputError, match=r"there is no dictionary of None: choose one of \[\]"):
        ITDA().dictionary()


def test_a_state_dict_goes_into_a_module_of_the_same_fit(data_of, usual):
    data = data_of()
    module = usual()
    empty = ITDA(max_atoms=150, k=4, threshold=0.75)
    trainer().validate(empty, datamodule=data, verbose=False)
    assert empty.dictionary().n_atoms == 0
    assert float(empty.history[-1]["fvu"]) > 1
    empty.load_state_dict(module.state_dict())
    assert_same(empty.dictionary(), module.dictionary())
    assert int(empty.seen) == int(module.seen)
    assert empty.metadata(HOOK)["growth"] == module.metadata(HOOK)["growth"]


def test_other_dtypes_encode_alike(data_of):
    data = data_of()
    module = fitted(data)
    x = next(iter(data.val_dataloader())).activations[HOOK]
    before = module.dictionary()(x)
    fvu = module.history[-1]["fvu"]
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 0.05)):
        module.to(dtype)
        assert module.dictionary().atoms.dtype == dtype
        assert module.dictionary().source_table.dtype == torch.int64
        assert module.dictionary().prepared().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        difference = torch.linalg.vector_norm(module.dictionary()(x.to(dtype)).double() - before.double())
        assert difference < tolerance * torch.linalg.vector_norm(before.double())
        trainer().validate(module, datamodule=data, verbose=False)
        assert module.history[-1]["fvu"] == pytest.approx(fvu, rel=2 * tolerance)


def test_a_module_in_half_precision_goes_on_growing(data_of):
    data = data_of()
    module = fitted(data, max_atoms=150)
    n = module.dictionary().n_atoms
    module.to(torch.bfloat16)
    module.thresholds.fill_(0.5)
    trainer().fit(module, datamodule=data)
    assert n < module.dictionary().n_atoms <= 150
    assert module.dictionary().atoms.dtype == torch.bfloat16


def test_atoms_may_be_kept_in_half_precision_from_the_start(data_of, usual):
    half = fitted(data_of(), atoms_dtype="bfloat16")
    assert half.dictionary().atoms.dtype == half.finished_dictionary().atoms.dtype == torch.bfloat16
    assert half.dictionary().bias.dtype == torch.float32
    assert half.history[-1]["fvu"] == pytest.approx(usual().history[-1]["fvu"], rel=0.1)


def test_a_checkpoint_of_before_pruning_has_codes_that_are_not_pruned(usual):
    module = usual()
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    checkpoint["state_dict"] = module.state_dict()
    assert checkpoint["itda"].pop("least_gains") == [0.0]
    restored = ITDA(**module.hparams)
    restored.on_load_checkpoint(checkpoint)
    restored.load_state_dict(checkpoint["state_dict"])
    assert restored.dictionary().least_gain == 0.0
    assert_same(restored.dictionary(), module.dictionary())
