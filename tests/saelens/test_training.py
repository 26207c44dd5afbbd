import json
import multiprocessing
import os
import shutil
import signal
import time
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer

from itda_lightning import ActivationsDataModule
from itda_lightning.activations.arrays import ArrayActivations
from itda_lightning.activations.shuffled import TrainingRows, shuffled_batches
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.saelens_evals import evaluate_sae
from itda_lightning.machine.memory import PeakMemory
from itda_lightning.saelens import amortised, save_export, training
from itda_lightning.saelens.sae_metadata import EXPECTED_METADATA
from itda_lightning.saelens.training_configs import sae_config, trainer_config
from itda_lightning.saelens.training_settings import TrainingSettings
from tests.fits import HOOK, data_settings

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "standard": {"sparsity_coefficient": 0.5},
    "topk": {"k": 4},
    "abstopk": {"k": 4},
    "batchtopk": {"k": 4},
    "matryoshka_batchtopk": {"k": 4},
    "jumprelu": {"sparsity_coefficient": 0.5},
    "matching_pursuit": {"k": 4},
}


def settings_of(architecture, **changes):
    small = {"n_latents": 96, "samples": 12_000, "batch_size": 128, "learning_rate": 3e-3}
    return TrainingSettings(architecture, **(small | ARCHITECTURES[architecture] | changes))


@pytest.fixture(scope="module")
def arguments(tiny_model_dir, prose_file, tmp_path_factory):
    """Arguments of a DataModule whose activations are on disk already."""
    arguments = data_settings(tiny_model_dir, prose_file, cache_dir=str(tmp_path_factory.mktemp("cache")))
    ActivationsDataModule(**arguments).prepare_data()
    return arguments


@pytest.fixture
def data(arguments):
    return ActivationsDataModule(**arguments)


def heldout(data):
    return torch.cat([batch.activations[HOOK] for batch in data.val_dataloader()])


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_a_training_goes_on_from_an_exported_dictionary(data, tmp_path, architecture, monkeypatch):
    monkeypatch.setattr(amortised, "STEPS", 100)
    atoms, x = torch.nn.functional.normalize(torch.randn(24, 32), dim=1), heldout(data)
    dictionary = Dictionary(atoms, x.mean(0), k=4, nonnegative=True, metadata={"hook_name": HOOK})
    before = save_export(dictionary, tmp_path / "start", architecture, activations=x)
    changes = {"n_latents": 24, "samples": 128, "learning_rate": 1e-12, "start": str(tmp_path / "start")}
    trained = training.train_sae(settings_of(architecture, **changes), data, HOOK, tmp_path / "sae")
    after = SAE.load_from_disk(trained.path)
    torch.testing.assert_close(after.decode(after.encode(x)), before.decode(before.encode(x)), rtol=1e-4, atol=1e-3)
    changes |= {"samples": 5_000, "learning_rate": 3e-3}
    trained = training.train_sae(settings_of(architecture, **changes), data, HOOK, tmp_path / "longer")
    assert fvu_and_l0(SAE.load_from_disk(trained.path), x)[0] < fvu_and_l0(before, x)[0]


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_a_frozen_decoder_stays_at_its_random_directions_and_the_encoder_learns(data, tmp_path, architecture):
    frozen, free = (
        training.train_sae(
            settings_of(architecture, samples=6000, decoder=decoder, seed=3), data, HOOK, tmp_path / decoder
        )
        for decoder in ("frozen", "trained")
    )
    directions, learned = (torch.nn.functional.normalize(SAE.load_from_disk(one.path).W_dec) for one in (frozen, free))
    random = torch.randn(96, 32, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(directions, torch.nn.functional.normalize(random))
    assert float((learned * directions).sum(1).detach().max()) < 0.95
    fvus = [one.curve[-1][1] for one in (frozen, free)]
    assert fvus[1] < fvus[0] < 0.9 * frozen.curve[0][1]


@pytest.mark.parametrize(
    ("architecture", "others", "reason"),
    [
        ("matching_pursuit", {}, "it encodes by its decoder"),
        ("topk", {"start": "x"}, "training.start gives the decoder"),
    ],
)
def test_a_decoder_that_cannot_be_frozen_is_refused(architecture, others, reason):
    with pytest.raises(InputError, match=rf"decoder of a {architecture} SAE cannot be frozen at random, {reason}"):
        settings_of(architecture, decoder="frozen", **others)


def test_a_start_that_does_not_fit(data, tmp_path):
    with pytest.raises(InputError, match=r"with a training\.start must be one of .* got 'standard'"):
        settings_of("standard", start="anywhere")
    with pytest.raises(InputError, match="nowhere is not an SAE that SAELens loads"):
        training.train_sae(settings_of("topk", start=str(tmp_path / "nowhere")), data, HOOK, tmp_path / "sae")
    training.train_sae(settings_of("topk", samples=128), data, HOOK, tmp_path / "start")
    damaged = shutil.copytree(tmp_path / "start", tmp_path / "damaged")
    weights = damaged / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged is not an SAE that SAELens loads"):
        training.train_sae(settings_of("topk", start=str(damaged)), data, HOOK, tmp_path / "sae")
    narrower = settings_of("topk", n_latents=90, start=str(tmp_path / "start"))
    with pytest.raises(InputError, match="is a topk SAE of 32 dimensions and 96 latents, the training is of a topk"):
        training.train_sae(narrower, data, HOOK, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


@torch.no_grad()
def fvu_and_l0(sae, x):
    codes = sae.encode(x)
    errors = (sae.decode(codes) - x).double().square().sum()
    return float(errors / (x.double() - x.double().mean(0)).square().sum()), float((codes != 0).sum(1).float().mean())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_sae_is_trained_and_saved_for_raw_activations(data, tmp_path, architecture):
    trained = training.train_sae(settings_of(architecture), data, HOOK, tmp_path / "sae")
    steps = 12_000 // 128
    assert trained.activations_seen == steps * 128
    assert trained.activations_read == data.rows("train").n_kept
    assert trained.seconds > 0
    assert trained.peak_bytes > 0
    seen, fvus = zip(*trained.curve, strict=True)
    assert 8 <= len(seen) <= 15
    assert list(seen) == sorted(set(seen))
    assert (seen[0], seen[-1]) == (128, trained.activations_seen)
    assert fvus[-1] < 0.7 * fvus[0]

    sae = SAE.load_from_disk(trained.path)
    assert sae.cfg.architecture() == ("jumprelu" if "batchtopk" in architecture else architecture)
    assert sae.cfg.normalize_activations == "none"
    fvu, l0 = fvu_and_l0(sae, heldout(data))
    # The threshold of batchtopk stands for the codes that it had in training.
    assert fvu == pytest.approx(fvus[-1], rel=0.1 if "batchtopk" in architecture else 1e-3)
    if architecture in ("topk", "abstopk", "matching_pursuit"):
        assert l0 <= 4
    elif "batchtopk" in architecture:
        assert l0 == pytest.approx(4, rel=0.2)

    metadata = sae.cfg.metadata.to_dict()
    assert set(EXPECTED_METADATA) <= set(metadata)
    assert metadata["hook_name"] == HOOK
    assert metadata["model_name"] == data.hparams["model"]
    assert metadata["dataset_path"] == data.hparams["dataset"]
    assert (metadata["context_size"], metadata["prepend_bos"]) == (32, True)
    assert metadata["training"]["settings"]["architecture"] == architecture
    assert metadata["training"]["activations_seen"] == trained.activations_seen
    assert metadata["training_architecture"] == architecture


@pytest.mark.parametrize("architecture", ["batchtopk", "matching_pursuit"])
def test_a_trained_sae_is_evaluated_like_any_other(data, tmp_path, architecture):
    trained = training.train_sae(settings_of(architecture, samples=5000), data, HOOK, tmp_path / "sae")
    sae = SAE.load_from_disk(trained.path)
    metrics, _ = evaluate_sae(sae, data.language_model, data.rows("heldout"), progress=False)
    assert 0 < metrics["fvu"] < 1


def test_the_loop_is_that_of_saelens(data, tmp_path):
    """Bit for bit the weights of ``SAETrainer.fit`` on the same batches from the same start."""
    settings = settings_of("topk", samples=3000, warm_up=0.2)
    rows = TrainingRows(data, HOOK)
    cpu = torch.device("cpu")
    start = training._trainer(settings, rows, {}, cpu)
    sae = get_sae_training_class("topk")[0](sae_config(settings, rows.d_in, HOOK, {}, cpu))
    sae.load_state_dict(start.sae.state_dict())
    batches = shuffled_batches(rows, settings.batch_size, settings.seed, settings.buffer_bytes)
    trainer = SAETrainer(trainer_config(settings, cpu), sae, batches)
    trainer.activation_scaler.scaling_factor = start.activation_scaler.scaling_factor
    trainer.fit().save_inference_model(tmp_path / "theirs")
    ours = training.train_sae(settings, data, HOOK, tmp_path / "ours")
    expected, found = (SAE.load_from_disk(path).state_dict() for path in (tmp_path / "theirs", ours.path))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_the_seed_decides_everything(data, tmp_path):
    random_state = torch.get_rng_state()
    first, again, other = (
        training.train_sae(settings_of("batchtopk", samples=2000, seed=seed), data, HOOK, tmp_path / name)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    weights = [SAE.load_from_disk(trained.path).state_dict() for trained in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["W_dec"], weights[2]["W_dec"])
    assert first.curve == again.curve
    assert torch.equal(torch.get_rng_state(), random_state)


def test_only_kept_activations_of_the_first_tokens_are_seen(arguments, tmp_path, monkeypatch):
    data = ActivationsDataModule(**(arguments | {"cache_dir": str(tmp_path / "cache")}))
    data.rows("train").kept[3:5, 7:] = False
    seen = []
    step = SAETrainer.step
    monkeypatch.setattr(SAETrainer, "step", lambda self, batch: (seen.append(batch.clone()), step(self, batch))[1])
    trained = training.train_sae(settings_of("topk", samples=4000, tokens=640), data, HOOK, tmp_path / "sae")
    kept = 20 * 31 - 2 * 25  # position 0 is left out as well
    assert trained.activations_read == kept
    expected = torch.cat([batch.activations[HOOK] for batch in data.train_dataloader()])[:kept]
    assert set(map(tuple, torch.cat(seen).tolist())) == set(map(tuple, expected.tolist()))


def test_no_model_is_loaded_where_the_activations_are_cached(data, tmp_path, monkeypatch):
    monkeypatch.setattr("itda_lightning.activations.model_and_rows.LanguageModel", pytest.fail)
    training.train_sae(settings_of("topk", samples=500), data, HOOK, tmp_path / "sae")


def test_an_sae_is_trained_on_arrays_side_by_side(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 8, generator=generator)
    data = ArrayActivations({"one": x[:, :5] + 1, "other": 3 * x[:, 5:]})
    settings = settings_of("batchtopk", samples=2000, n_latents=16)
    trained = training.train_sae(settings, data, data.hook_names[0], tmp_path / "sae")
    sae = SAE.load_from_disk(trained.path)
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name) == ("one+other", None)
    joined = data.sites.join({name: torch.as_tensor(of) for name, of in data.arrays.items()})
    left = (sae(joined) - joined).square().sum() / (joined - joined.mean(0)).square().sum()
    assert float(left.detach()) < trained.curve[0][1]


def test_attention_heads_are_flattened_and_given_back(tiny_model_dir, prose_file, tmp_path):
    hook = "blocks.1.attn.hook_z"
    data = ActivationsDataModule(
        **data_settings(tiny_model_dir, prose_file, hook_names=[hook], cache_dir=str(tmp_path / "cache"))
    )
    trained = training.train_sae(settings_of("standard", samples=500), data, hook, tmp_path / "sae")
    sae = SAE.load_from_disk(trained.path)
    assert sae.cfg.d_in == 32
    assert sae(torch.randn(3, 5, 4, 8)).shape == (3, 5, 4, 8)


@pytest.mark.parametrize("settings", [{"samples": 128}, {"samples": 256, "warm_up": 0.5, "decay": 0.5}, {"decay": 0.0}])
def test_schedules_of_any_length_work(data, tmp_path, settings):
    trained = training.train_sae(settings_of("topk", **({"samples": 1000} | settings)), data, HOOK, tmp_path / "sae")
    assert trained.curve[-1][0] == trained.activations_seen


def test_what_exists_is_refused_before_anything_is_read(data, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "prepare_data", pytest.fail)
    with pytest.raises(InputError, match="exists already"):
        training.train_sae(settings_of("topk"), data, HOOK, tmp_path)


def test_a_training_that_diverges_says_so_and_leaves_nothing(data, tmp_path):
    settings = settings_of("standard", learning_rate=1e30, samples=2000)
    with pytest.raises(InputError, match=r"standard SAE diverged: lower training\.learning_rate \(1e\+30\)"):
        training.train_sae(settings, data, HOOK, tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []


def _train_and_send(arguments, output, signal_number):
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have what they start in the background ignore it
    step = SAETrainer.step

    def killed(self, batch):
        if self.n_training_steps == 5:
            os.kill(os.getpid(), signal_number)
        return step(self, batch)

    SAETrainer.step = killed
    training.train_sae(settings_of("topk"), ActivationsDataModule(**arguments), HOOK, output)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_training_leaves_nothing_that_looks_finished(arguments, data, tmp_path, signal_number):
    output = tmp_path / "sae"
    process = multiprocessing.get_context("fork").Process(
        target=_train_and_send, args=(arguments, output, signal_number)
    )
    process.start()
    process.join(60)
    assert process.exitcode not in (0, None)
    assert not output.exists()
    assert not list(tmp_path.rglob("*.safetensors"))
    training.train_sae(settings_of("topk", samples=500), data, HOOK, output)
    assert json.loads((output / "cfg.json").read_text())["architecture"] == "topk"


def test_the_peak_of_memory_is_seen():
    with PeakMemory() as before:
        pass
    with PeakMemory() as peak:
        large, deadline = torch.ones(50_000_000), time.monotonic() + 60
        while peak.bytes <= before.bytes + 150_000_000 and time.monotonic() < deadline:
            time.sleep(0.01)  # it is looked at every 50 ms, on a busy machine later
        del large
    assert 150_000_000 < peak.bytes - before.bytes < 400_000_000
