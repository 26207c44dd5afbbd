"""How entries come about: made once and then read from disk, whole or not at all, with what they cost."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from itda_lightning import ActivationsDataModule
from itda_lightning.activations import model_and_rows
from itda_lightning.comparison import candidates
from itda_lightning.comparison.candidates import Candidate, identity_of, make_candidate
from itda_lightning.comparison.comparison_settings import (
    EntrySettings,
    FitSettings,
    KMeansSettings,
    PCASettings,
    RandomSettings,
)
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.fitting.refinement import RefinementSettings
from itda_lightning.saelens.controls import random_dictionary
from itda_lightning.saelens.training_settings import TrainingSettings
from tests.fits import HOOK, data_settings, fitted
from tests.tiny_model import WIDTH

FIT = FitSettings(max_atoms=30, k=3, threshold=0.7)
TRAIN = TrainingSettings("topk", 24, k=3, samples=1024, batch_size=256)
MADE = {
    "fit": EntrySettings("a fit", fit=FIT),
    "train": EntrySettings("a training", train=TRAIN),
    "random": EntrySettings("a draw", random=RandomSettings(20, k=3)),
    "kmeans": EntrySettings("centroids", kmeans=KMeansSettings(20, k=3, passes=1)),
    "pca": EntrySettings("components", pca=PCASettings(5)),
}
KINDS = {"fit": "itda", "train": "sae", "random": "random", "kmeans": "kmeans", "pca": "pca"}


@pytest.fixture(scope="module")
def arguments(tiny_model_dir, prose_file, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    arguments = data_settings(tiny_model_dir, prose_file, device="cpu", cache_dir=cache)
    ActivationsDataModule(**arguments).prepare_data()
    return arguments


@pytest.fixture(scope="module")
def data(arguments):
    return ActivationsDataModule(**arguments)


def make(entry: EntrySettings, data: ActivationsDataModule, place: Path) -> Candidate:
    return make_candidate(entry, data, HOOK, place, identity_of(entry, data))


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """A directory for each way to make an entry."""
    return {way: tmp_path_factory.mktemp(way) for way in MADE}


@pytest.fixture(scope="module")
def made(data, places) -> dict[str, Candidate]:
    """An entry made in each way, without a language model, as the activations are cached."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("itda_lightning.activations.model_and_rows.LanguageModel", pytest.fail)
        return {way: make(entry, data, places[way]) for way, entry in MADE.items()}


@pytest.mark.parametrize("way", MADE)
def test_what_is_made_is_made_once(way, made, data, places, monkeypatch):
    first = made[way]
    monkeypatch.setattr(candidates, "_make", pytest.fail)
    again = make(dataclasses.replace(MADE[way], name="another name"), data, places[way])
    x = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.entry.sae(x), first.entry.sae(x))
    assert again[1:] == first[1:]
    assert (first.entry.name, again.entry.name) == (MADE[way].name, "another name")
    assert first.kind == KINDS[way]
    assert [path.name for path in places[way].iterdir()] == [identity_of(MADE[way], data)]


@pytest.mark.parametrize("way", MADE)
def test_its_cost_is_recorded(way, made, data, places):
    candidate = made[way]
    n_kept = data.rows("train").n_kept
    seen = {"train": 1024, "random": 20, "kmeans": n_kept, "pca": n_kept}.get(way)
    if way == "fit":  # until the dictionary is full
        seen = candidate.entry.dictionary.metadata["activations_seen"]
        assert 0 < seen < n_kept
    cost = candidate.cost
    assert (cost.activations_seen, cost.activations_read) == (seen, seen)
    assert cost.seconds > 0
    assert cost.peak_bytes > 1e7
    assert cost.harvest_seconds is cost.encoded_per_second is None
    place = next(places[way].iterdir())
    assert cost.disk_bytes == sum(path.stat().st_size for path in (place / "entry").rglob("*"))
    n = (
        len(candidate.entry.dictionary.atoms)
        if way == "fit"
        else {"train": 24, "random": 20, "kmeans": 20, "pca": 10}[way]
    )
    own = {"train": 2 * 24 * WIDTH + 24 + WIDTH, "pca": 2 * 10 * WIDTH + 10 + WIDTH}
    assert cost.parameters == own.get(way, n * WIDTH + WIDTH)
    assert (len(candidate.curve) > 3) == (way == "train")
    assert candidate.settings["k"] == ("5" if way == "pca" else "3")
    if way in ("fit", "random", "kmeans"):
        assert candidate.settings["centred"] == "True"
        assert candidate.settings["pursuit"] == "omp"


def test_a_fit_is_that_of_the_fit_command(data, made):
    dictionary = made["fit"].entry.dictionary
    expected = fitted(data, max_atoms=30, k=3, threshold=0.7, calibration_tokens=8192).finished_dictionary()
    assert torch.equal(dictionary.atoms, expected.atoms)
    assert torch.equal(dictionary.bias, expected.bias)
    assert dictionary.prompts == expected.prompts


@pytest.mark.parametrize("way", MADE)
def test_tokens_and_the_first_tokens_of_the_data_bound_what_is_read(way, arguments, data, made, tmp_path):
    of_entry = dataclasses.replace(MADE[way], **{way: dataclasses.replace(MADE[way].chosen, tokens=640)})
    of_data = ActivationsDataModule(**(arguments | {"first_tokens": 640}))
    one, other = make(of_entry, data, tmp_path / "one"), make(MADE[way], of_data, tmp_path / "other")
    x = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one.entry.sae(x), other.entry.sae(x))
    assert one.cost.activations_read == other.cost.activations_read <= of_data.rows("train").n_kept
    assert not torch.equal(one.entry.sae(x), made[way].entry.sae(x))


def test_a_fit_may_be_refined(data, made, tmp_path):
    refined = EntrySettings("refined", fit=dataclasses.replace(FIT, refine=RefinementSettings(0.9, 1, 64)))
    dictionary = make(refined, data, tmp_path).entry.dictionary
    assert dictionary.cosines is not None
    assert 0.9 - 1e-6 <= float(dictionary.cosines.min()) < 1
    assert torch.equal(dictionary.grown_atoms, made["fit"].entry.dictionary.atoms)
    assert dictionary.metadata["refinement"]["anchor"] == 0.9


def test_the_control_is_of_the_same_mean_or_of_none(data, tmp_path):
    for center in (True, False):
        entry = EntrySettings("r", random=RandomSettings(20, 3, "omp", True, center, seed=4))
        drawn = make(entry, data, tmp_path).entry.dictionary
        bias = None if center else torch.zeros(WIDTH)
        expected = random_dictionary(data, HOOK, 20, 3, "omp", bias, 4, nonnegative=True)
        assert torch.equal(drawn.atoms, expected.atoms)
        assert torch.equal(drawn.bias, expected.bias)
        assert (drawn.pursuit, drawn.nonnegative, bool(drawn.bias.any())) == ("omp", True, center)


def test_seconds_are_those_of_the_fit_alone(arguments, tmp_path, monkeypatch):
    """Not of reading and tokenising documents, which a training's seconds do not hold either."""
    clock = SimpleNamespace(now=0.0)
    split = model_and_rows.split_rows

    def slow(*args):
        clock.now += 1000.0
        return split(*args)

    monkeypatch.setattr(model_and_rows, "split_rows", slow)
    monkeypatch.setattr(candidates, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    for way in ("fit", "random", "kmeans", "pca"):
        data = ActivationsDataModule(**arguments)
        data.prepare_data()
        assert make(MADE[way], data, tmp_path).cost.seconds == 0
    assert clock.now > 0


class KilledError(Exception):
    pass


def test_an_sae_with_a_frozen_decoder_is_a_control(data, made, tmp_path):
    entry = EntrySettings("frozen", train=dataclasses.replace(TRAIN, decoder="frozen"))
    candidate = make(entry, data, tmp_path)
    assert (candidate.kind, candidate.settings["decoder"], candidate.decay_from) == ("frozen", "frozen", 0.8)
    assert not torch.equal(candidate.entry.sae.W_dec, made["train"].entry.sae.W_dec)
    loaded = make(EntrySettings("loaded", load=str(next(tmp_path.iterdir()) / "entry")), data, tmp_path)
    assert loaded.kind == "frozen"


@pytest.mark.parametrize("way", ["random", "kmeans", "pca"])
def test_a_control_that_is_loaded_is_one(way, made, data, places):
    place = next(places[way].iterdir()) / "entry"
    assert make(EntrySettings("loaded", load=str(place)), data, places[way]).kind == way


def test_later_settings_do_not_change_the_identity_of_what_was_made_before(data, monkeypatch):
    now = identity_of(MADE["train"], data)
    fields = {name: value for name, value in dataclasses.asdict(TRAIN).items() if name not in ("decoder", "start")}
    monkeypatch.setattr(dataclasses, "asdict", lambda *_, **__: fields)
    assert identity_of(MADE["train"], data) == now


@pytest.mark.parametrize("way", MADE)
def test_what_was_stopped_in_the_middle_is_made_again(way, data, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:

        def stopped(*_):
            raise KilledError

        # The entry itself is on disk by then, what it cost is not.
        patched.setattr(candidates, "write_json", stopped)
        with pytest.raises(KilledError):
            make(MADE[way], data, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert make(MADE[way], data, tmp_path).kind == KINDS[way]


def test_what_a_killed_process_left_is_not_taken_for_finished(data, tmp_path):
    identity = identity_of(MADE["pca"], data)
    left = tmp_path / f".{identity}.1234.part" / "entry"
    left.mkdir(parents=True)
    (left / "cfg.json").write_text("{}")
    assert make(MADE["pca"], data, tmp_path).entry.sae.cfg.d_sae == 10
    assert (tmp_path / identity / "cost.json").is_file()


CHANGES = [
    {"training_tokens": 1024},
    {"first_tokens": 1024},
    {"seed": 1},
    {"shuffle": False},
    {"context_size": 16},
    {"prepend_bos": False},
    {"exclude_special_tokens": False},
    {"batch_size": 64},
    {"hook_names": ["blocks.0.hook_resid_post"]},
    {"model_dtype": "bfloat16"},
    {"cache_dtype": "bfloat16"},
    {"loader": "huggingface"},
]


def test_the_identity_is_of_all_that_decides_what_is_made(arguments, data):
    entry = MADE["fit"]
    identities = [identity_of(other, data) for other in MADE.values()]
    for field, value in {"max_atoms": 31, "k": 4, "pursuit": "mp", "tokens": 640, "center": False}.items():
        identities.append(identity_of(EntrySettings("a fit", fit=dataclasses.replace(FIT, **{field: value})), data))
    identities.append(identity_of(EntrySettings("t", train=dataclasses.replace(TRAIN, seed=1)), data))
    identities += [identity_of(entry, ActivationsDataModule(**(arguments | changes))) for changes in CHANGES]
    assert len(set(identities)) == len(identities) == len(MADE) + 6 + len(CHANGES)


@pytest.mark.parametrize(
    "changes", [{"validation_tokens": 256}, {"model_batch_size": 3}, {"cache_dir": "elsewhere"}, {"device": "auto"}]
)
def test_the_identity_is_of_nothing_else(arguments, data, changes):
    other = ActivationsDataModule(**(arguments | changes))
    for entry in MADE.values():
        renamed = dataclasses.replace(entry, name="another name", same_model=True)
        assert identity_of(renamed, other) == identity_of(entry, data)


def test_a_model_under_another_name_is_the_same(arguments, data, tiny_model_dir, tmp_path):
    copy = shutil.copytree(tiny_model_dir, tmp_path / "copy")
    moved = ActivationsDataModule(**(arguments | {"model": str(copy)}))
    assert identity_of(MADE["fit"], moved) == identity_of(MADE["fit"], data)


def test_more_atoms_than_activations_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"n_atoms must lie between 1 and .*, got 1,000,000"):
        make(EntrySettings("a", random=RandomSettings(10**6)), data, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_entry_is_an_itda_with_sources(data, made):
    dictionary = made["random"].entry.dictionary
    assert isinstance(dictionary, Dictionary)
    assert dictionary.dataset == data.documents.fingerprint
    assert len(dictionary.prompts) == 20
