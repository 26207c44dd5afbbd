"""Run SAEBench 0.6.0's sparse_probing, absorption and autointerp on an ITDA or an SAE, in its own environment.

    python -m benchmarks.saebench.run --dictionary runs/demo --evals [absorption] --output results/demo

See README.md beside this file for the environment and for what needs the hub. Every eval's result file is the one that
SAEBench writes; `summary.json` holds the numbers of all of them.
"""

import os

# SAEBench's annotations admit TransformerLens's HookedTransformer only, which loads official names only; the model here
# is a TransformerBridge with the same methods. Read when jaxtyping is first imported.
os.environ["JAXTYPING_DISABLE"] = "1"

import contextlib
import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from string import ascii_lowercase
from types import SimpleNamespace
from typing import Any, Literal, get_args
from unittest import mock

from jsonargparse import auto_cli
from lightning import seed_everything

from benchmarks.saebench.judge import Judge
from itda_lightning.activations.bundled import resolve
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry, load_entry
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.choices import Loader
from itda_lightning.machine.command_line import run_command
from itda_lightning.saelens.saebench import for_saebench

Eval = Literal["sparse_probing", "absorption", "autointerp"]
ABSORPTION = "sae_bench.evals.absorption"
SEED_OF_WORDS = 0
TOO_FEW_WORDS, ENOUGH_WORDS = 800, 6000  # tried with SmolLM2-135M-Instruct at layer 14


def saebench(
    dictionary: str,
    output: str,
    evals: list[Eval] | None = None,
    model: str | None = None,
    loader: Loader = "bridge",
    hook_name: str | None = None,
    device: str = "auto",
    datasets_directory: str | None = None,
    text: str = "monology/pile-uncopyrighted",
    tokens: int = 2_000_000,
    latents: int = 1000,
    words: int | None = None,
    settings: dict[str, Any] | None = None,
    judge: Judge | None = None,
) -> None:
    """Run evals of SAEBench and write their results under ``output``.

    Args:
        dictionary: a run directory, a saved or exported dictionary, a SAELens SAE on disk, or release:sae_id.
        output: directory of results and of SAEBench's artifacts (tens of GB for sparse_probing of large models).
        evals: which ones; by default all three.
        model: name or directory of the language model; by default that of the dictionary's fit.
        loader: how it is loaded.
        hook_name: which dictionary, where there are several.
        device: where everything runs.
        datasets_directory: where sparse_probing finds copies of its hub datasets, such as
            ``fancyzhx/ag_news/train.jsonl``.
        text: what autointerp takes examples from: a hub dataset, or a directory of jsonl files with a ``text`` column.
        tokens: tokens of it.
        latents: latents that autointerp explains, drawn among those that are not dead.
        words: absorption: number of words drawn from the vocabulary with a fixed seed; by default all. Figures
            of fewer words are not comparable with published ones.
        settings: further fields of the evals' configs, such as ``{"dataset_names": ["fancyzhx/ag_news"]}``.
        judge: the language model that explains and scores; only autointerp needs one.
    """
    chosen = list(evals or get_args(Eval))
    if "autointerp" in chosen and judge is None:
        raise InputError(
            "autointerp needs a judge: give --judge.base_url and --judge.model, or leave it out of --evals"
        )
    if words is not None and "absorption" in chosen:
        check_words(words, settings or {})
    key = judge.key() if judge is not None else ""
    modules = {name: _eval_module(name) for name in chosen}
    entry = load_entry(dictionary, hook_name)
    name = LanguageModelName(_model_of(entry, model), loader=loader, device=device)
    language_model = LanguageModel(name, [entry.sae.cfg.metadata.hook_name])
    # A plain word, since SAEBench makes directories of it; artifacts of another model are never taken for this one's.
    model_name = f"{Path(resolve(name.name)).name}-{name.fingerprint()[-8:]}"
    on = str(name.torch_device())
    sae = for_saebench(entry.sae, model_name).to(device=on)
    folder = Path(output).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    common = {"llm_dtype": name.dtype, "llm_batch_size": 16} | (settings or {})
    artifacts = str(folder / "artifacts")
    if "autointerp" in modules:
        check_text(modules["autointerp"], _local(text), tokens, settings or {}, language_model.model.tokenizer)
    summary: dict[str, Any] = {}
    for eval_name, module in modules.items():
        extra: dict[str, Any] = {}
        run: dict[str, Any] = {"artifacts_path": artifacts}
        place = folder
        filed = model_name
        if eval_name == "sparse_probing":
            place = Path(datasets_directory).expanduser() if datasets_directory else folder
        elif eval_name == "absorption":
            run = {}  # it writes below the working directory, and its probes into its own package
            # Probes are found again by this name: those of other words are never taken for these.
            filed = model_name if words is None else f"{model_name}-{words}-words"
        else:
            assert judge is not None
            extra = {
                "dataset_name": _local(text),
                "total_tokens": tokens,
                "n_latents": latents,
            }
            run |= {"api_key": key}
        config = _config(module, common | {"model_name": filed} | extra)
        language_model.model.cfg.model_name = filed
        seed_everything(config.random_seed, verbose=False)  # absorption has the field and does not read it
        start = time.perf_counter()
        narrowed = contextlib.nullcontext() if eval_name != "absorption" else _absorption(language_model.model, words)
        with contextlib.chdir(place), _given(module, language_model.model, judge), narrowed:
            found = module.run_eval(config, [("entry", sae)], on, output_path=str(folder), force_rerun=True, **run)
        if not found:
            raise InputError(f"SAEBench gives no {eval_name} for {model_name}: see what it printed above")
        (result,) = found.values()
        summary[eval_name] = {"metrics": result["eval_result_metrics"], "seconds": time.perf_counter() - start}
        (folder / "entry_custom_sae_eval_results.json").rename(folder / f"{eval_name}.json")
        write_json(folder / "summary.json", summary)
        print(eval_name, json.dumps(summary[eval_name]))


def check_words(words: int, settings: dict[str, Any]) -> None:
    """Raise InputError if absorption cannot come to a result, which SAEBench would say after minutes.

    It wants first-letter probes with an F1 above .6 for 20 letters; settings of its own for that are taken as they are.
    """
    if words < 1:
        raise InputError(f"absorption takes at least one word, got words {words}")
    if words <= TOO_FEW_WORDS and not {"min_feats_for_eval", "min_GT_probe_f1"} & set(settings):
        raise InputError(
            f"absorption wants good first-letter probes of 20 letters, for which {TOO_FEW_WORDS} words are too few, "
            f"got words {words}: {ENOUGH_WORDS:,} gave 22 letters on SmolLM2-135M-Instruct; or set min_feats_for_eval"
        )


def check_text(module: Any, text: str, tokens: int, settings: dict[str, Any], tokenizer: Any) -> None:
    """Raise InputError if a text gives SAEBench fewer tokens than it asks for, which it only asserts."""
    length = _config(module, settings | {"model_name": ""}).llm_context_size
    try:
        module.dataset_utils.load_and_tokenize_dataset(text, length, tokens, tokenizer)
    except AssertionError as error:
        raise InputError(
            f"{text} gives autointerp fewer than the {tokens:,} tokens of --tokens: SAEBench reads {5 * tokens:,} "
            "characters of documents longer than 100, so text of over 5 characters per token falls short; "
            "give more or other text, or fewer --tokens"
        ) from error


def _local(text: str) -> str:
    place = Path(text).expanduser()
    return str(place.resolve()) if place.is_dir() else text


def _eval_module(name: str) -> Any:
    try:
        return importlib.import_module(f"sae_bench.evals.{name}.main")
    except ImportError as error:
        raise InputError(f"SAEBench cannot be imported ({error}): make its environment, see README.md here") from error


def _model_of(entry: Entry, model: str | None) -> str:
    of_fit = entry.dictionary.metadata.get("data", {}).get("model") if entry.dictionary is not None else None
    if model is None and of_fit is None:
        raise InputError(f"{entry.name} does not say which language model it is of: give --model")
    return str(model or of_fit)


def _config(module: Any, fields: dict[str, Any]) -> Any:
    """Return the eval's config with those of the fields that it has."""
    (kind,) = (value for name, value in vars(module).items() if name.endswith("EvalConfig"))
    return kind(**{name: value for name, value in fields.items() if name in kind.__dataclass_fields__})


@contextlib.contextmanager
def _given(module: Any, model: Any, judge: Judge | None) -> Iterator[None]:
    """Give one eval the loaded model instead of loading one, and the judge instead of a client; nothing else."""
    with contextlib.ExitStack() as stack:
        given = SimpleNamespace(from_pretrained_no_processing=lambda *_, **__: model)
        stack.enter_context(mock.patch.object(module, "HookedTransformer", given))
        if judge is not None and hasattr(module, "OpenAI"):
            stack.enter_context(mock.patch.object(module, "OpenAI", _client(judge, module.OpenAI)))
        yield


@contextlib.contextmanager
def _absorption(model: Any, words: int | None) -> Iterator[None]:
    """Limit absorption to a number of words, and run the model only up to the layer it reads."""
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(f"{ABSORPTION}.") and "get_alpha_tokens" in vars(module)
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(model, "run_with_cache", _stopping(model.run_with_cache)))
        for module in modules:
            stack.enter_context(mock.patch.object(module, "get_alpha_tokens", _drawn(module.get_alpha_tokens, words)))
        yield


def _stopping(run_with_cache: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``run_with_cache`` without the layers after the last one that is read: the same activations."""

    def run(*args: Any, names_filter: list[str], **options: Any) -> Any:
        last = max(int(name.split(".")[1]) for name in names_filter)
        return run_with_cache(*args, names_filter=names_filter, stop_at_layer=last + 1, **options)

    return run


def _drawn(all_words: Callable[..., list[str]], words: int | None) -> Callable[..., list[str]]:
    """Return a vocabulary function that draws from ``all_words`` in a fixed order."""

    def draw(*args: Any, **options: Any) -> list[str]:
        found = sorted(all_words(*args, **options))
        drawn = found if words is None else random.Random(SEED_OF_WORDS).sample(found, min(words, len(found)))
        missing = sorted(set(ascii_lowercase) - {word.strip()[0].lower() for word in drawn})
        if missing:
            raise InputError(
                f"no word of {len(drawn)} begins with {', '.join(missing)}, but SAEBench trains a probe of every "
                f"letter: give more of the vocabulary's {len(found)} --words"
            )
        return drawn

    return draw


def _client(judge: Judge, openai: Any) -> Callable[..., Any]:
    """Return a client class of the judge; SAEBench hard-codes OpenAI's server and model."""

    def make(api_key: str) -> Any:
        completions = openai(api_key=api_key, base_url=judge.base_url).chat.completions

        def create(**request: Any) -> Any:
            return completions.create(**(request | {"model": judge.model}))

        return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))

    return make


if __name__ == "__main__":
    run_command(lambda: auto_cli(saebench, as_positional=False))
