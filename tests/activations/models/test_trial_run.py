"""Before anything is harvested, a trial run shows what hook points hold, and if it is the model's own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer

from itda_lightning.activations.harvesting import harvest
from itda_lightning.activations.models import own_activations
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.models.own_activations import OwnModel
from itda_lightning.errors import InputError
from tests.activations.conftest import HOOK, MakeData
from tests.activations.models.architectures import save_model


@pytest.fixture
def model_of(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., LanguageModel]:
    """Save a tiny model of an architecture beside the tiny tokenizer and load it."""

    def make(architecture: str, hook_names: list[str], loader: Any = "bridge", **settings: Any) -> LanguageModel:
        for file in tiny_model_dir.glob("tokenizer*"):
            shutil.copy(file, tmp_path)
        save_model(architecture, tmp_path, **settings)
        return LanguageModel(LanguageModelName(str(tmp_path), loader, device="cpu"), hook_names)

    return make


@pytest.mark.parametrize(
    ("architecture", "hook"),
    [("GPT2", "transformer.wpe"), ("Llama", "model.rotary_emb"), ("Mixtral", "model.layers.0.mlp.gate")],
)
def test_a_module_without_an_axis_of_rows_is_refused(model_of: Any, architecture: str, hook: str) -> None:
    with pytest.raises(
        InputError, match=rf"'{hook}' .* does not hold one activation per token: 2 rows of 61 tokens give"
    ):
        model_of(architecture, [hook], "huggingface")


@pytest.mark.parametrize("hook", ["model", "model.layers"])
def test_a_module_without_a_tensor_is_refused(tiny_model_dir: Path, hook: str) -> None:
    name = LanguageModelName(str(tiny_model_dir), "huggingface", device="cpu")
    with pytest.raises(InputError, match=rf"the module '{hook}' .* gives no tensor, or is never called; name a module"):
        LanguageModel(name, [hook])


@pytest.mark.parametrize("hook", [HOOK, "blocks.1.attn.hook_z"])
def test_the_shape_of_every_batch_is_checked(make_data: MakeData, monkeypatch: pytest.MonkeyPatch, hook: str) -> None:
    data = make_data(hook_names=[hook])
    model = data.language_model
    if model.plain is not None:
        read = model.plain.read
        monkeypatch.setattr(model.plain, "read", lambda tokens: {hook: read(tokens)[hook][:1]})
    run = model.model.run_with_cache
    monkeypatch.setattr(
        model.model, "run_with_cache", lambda *args, **options: (None, {hook: run(*args, **options)[1][hook][:1]})
    )
    with pytest.raises(InputError, match=r"does not hold one activation per token: 8 rows of 15 positions give the sh"):
        next(harvest(model, data.rows("train"), 8))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_before_the_harvest(
    tiny_model_dir: Path, prose: list[str], tmp_path: Path, make_data: MakeData
) -> None:
    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens([AddedToken("States", normalized=False)])
    tokenizer.save_pretrained(path)
    data = make_data(model=str(path))
    for split in ("train", "heldout"):
        data.rows(split)
    with pytest.raises(
        InputError, match=r"gives the token 384, but the model has embeddings of the tokens 0 to 383 on"
    ):
        _ = data.widths
    data = make_data(model=str(path))
    _ = data.language_model
    with pytest.raises(InputError, match=r"gives the token 384, .*: give it its own tokenizer, or resize its"):
        data.rows("train")


def test_a_model_that_cannot_be_run_is_refused(model_of: Any) -> None:
    with pytest.raises(
        InputError, match=r"cannot be run with loader 'bridge': RuntimeError: .*; check its config.json"
    ):
        model_of("GPT2", ["blocks.0.hook_resid_post"], num_key_value_heads=1)  # which the model does not heed


HOOKS = [
    "hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid", "blocks.1.hook_in",
    "blocks.1.hook_attn_out", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out", "blocks.1.mlp.hook_post",
    "blocks.1.ln1.hook_normalized", "blocks.1.hook_resid_post", "ln_final.hook_out",
]  # fmt: skip


@pytest.mark.parametrize("architecture", ["GPT2", "Gemma2", "Mixtral", "Qwen3"])
def test_a_bridge_that_gives_the_own_activations_is_accepted(model_of: Any, architecture: str) -> None:
    hooks = [hook for hook in HOOKS if architecture != "Mixtral" or hook != "blocks.1.mlp.hook_post"]
    assert set(model_of(architecture, hooks).widths) == set(hooks)


def test_a_bridge_that_gives_other_activations_is_refused(model_of: Any, tmp_path: Path) -> None:
    """Cohere's rotary pairs are not TransformerLens's; what lies before the first attention is right."""
    loaded = model_of("Cohere", ["hook_embed", "blocks.0.hook_resid_pre", "blocks.0.attn.hook_q"])
    name = loaded.name
    for hook in ("blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.ln1.hook_normalized"):
        with pytest.raises(InputError, match=rf"does not give the activations of .* at '{hook}': .*; set loader=hugg"):
            LanguageModel(name, [hook])
    with pytest.raises(InputError, match=r"'blocks.1.attn.hook_rot_q'.*\(at blocks.1.attn.hook_out, which depends on"):
        LanguageModel(name, ["blocks.1.attn.hook_rot_q"])
    own = LanguageModelName(str(tmp_path), "huggingface", device="cpu")
    assert LanguageModel(own, ["model.layers.1"]).widths == {"model.layers.1": 16}


@pytest.fixture
def at_hub(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LanguageModel]:
    """Put a tiny model into an empty hub cache under a name that TransformerLens knows, and load it as it does."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def make(hook_names: list[str], **settings: Any) -> LanguageModel:
        repository = tmp_path / "models--EleutherAI--pythia-14m"
        for file in tiny_model_dir.glob("tokenizer*"):
            (repository / "snapshots" / "0").mkdir(parents=True, exist_ok=True)
            shutil.copy(file, repository / "snapshots" / "0")
        save_model("GPTNeoX", repository / "snapshots" / "0", **settings)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text("0")
        return LanguageModel(LanguageModelName("EleutherAI/pythia-14m", "hooked_transformer", device="cpu"), hook_names)

    return make


OF_LAYERS = ["hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.attn.hook_z"]


@pytest.mark.filterwarnings("ignore")
def test_a_hooked_transformer_is_compared_with_the_model_whose_weights_it_takes(at_hub: Any) -> None:
    assert set(at_hub([*OF_LAYERS, "ln_final.hook_normalized"]).widths.values()) == {16}
    # HookedTransformer takes 10,000 whatever the configuration says.
    other = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}}
    assert at_hub(["blocks.0.hook_resid_pre"], **other).widths == {"blocks.0.hook_resid_pre": 16}
    for hook, at in [
        ("blocks.1.hook_resid_pre", r"by [\d.]+ of their norm; set"),
        ("blocks.0.attn.hook_z", r"\(at blo"),
    ]:
        with pytest.raises(
            InputError,
            match=rf"^loader=hooked_transformer does not give the activations of '.*' at '{hook}': .*{at}",
        ):
            at_hub([hook], **other)


def test_a_difference_that_only_later_tokens_show_is_seen(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short row is run: seven tokens would not show a window of attention."""
    model_of("Mistral", ["blocks.1.hook_resid_post"], sliding_window=32)
    record = OwnModel.record

    def without_window(self: OwnModel, model: Any) -> None:
        model.config.sliding_window = None
        record(self, model)
        model.config.sliding_window = 32

    monkeypatch.setattr(OwnModel, "record", without_window)
    with pytest.raises(InputError, match="bridge does not give the activations"):
        model_of("Mistral", ["blocks.1.hook_resid_post"], sliding_window=32)


def test_activations_that_are_not_finite_are_no_difference(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = own_activations._first
    monkeypatch.setattr(
        own_activations, "_first", lambda values: None if (x := first(values)) is None else x * torch.nan
    )
    assert model_of("Llama", ["blocks.0.hook_resid_post"]).widths == {"blocks.0.hook_resid_post": 16}
