"""The similarity study: compare models with each other, from their settings to plain results."""

import hashlib
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from itda_lightning.across_models.alignment import (
    AlignedActivations,
    AlignedTokens,
    Unit,
    align,
    common_sources,
    unit_of_alignment,
)
from itda_lightning.across_models.compared_models import ComparedModel, add_dictionaries, check_widths, open_models
from itda_lightning.across_models.dictionary_comparison import NO_DICTIONARIES, compare_dictionaries
from itda_lightning.across_models.regrowth import check_regrowable
from itda_lightning.across_models.representation_comparison import RepresentationComparison, check_tokens
from itda_lightning.across_models.similarity_settings import SimilaritySettings, short_labels, summary_of
from itda_lightning.across_models.site_matrix import SiteMatrix, matching_accuracy
from itda_lightning.comparison.bootstrap import standard_error
from itda_lightning.errors import InputError
from itda_lightning.evaluation.facts_strip import machine_facts, short
from itda_lightning.fitting.module import ITDA
from itda_lightning.machine.atomic_files import explained
from itda_lightning.machine.bundled_names import described
from itda_lightning.machine.output_files import make_writable_directory
from itda_lightning.machine.paths import user_path
from itda_lightning.results.model_similarity import MeasuredSites, ModelSimilarity, Site

logger = logging.getLogger(__name__)

# Warn if the tokens in common are a smaller share of a model's held-out tokens.
FEW_IN_COMMON = 0.5


class Study(NamedTuple):
    """The subject of one study."""

    settings: SimilaritySettings
    models: list[ComparedModel]
    unit: Unit  # that their tokens are aligned by
    tokens: AlignedTokens  # held-out ones that all models have
    shares: dict[str, float]  # model -> share of its held-out tokens that all models have


def compare_models(settings: SimilaritySettings, data: Mapping[str, Any], fit: Mapping[str, Any]) -> ModelSimilarity:
    """Open and check the models, harvest and fit what is missing, one model after another, and measure.

    ``data`` are arguments of ``ActivationsDataModule`` that all models share, ``fit`` those of ``ITDA`` for models that
    are not given as a run. Raises InputError for models that cannot be compared, before any of them runs.
    """
    ITDA(**fit)
    models = open_models(settings.models, data, bool(settings.of_sources))
    heldout = [model.data.rows("heldout") for model in models]
    unit = unit_of_alignment(settings.alignment, heldout)
    tokens = align(heldout, unit)
    shares = {model.name: len(tokens.spans) / rows.n_kept for model, rows in zip(models, heldout, strict=True)}
    study = Study(settings, models, unit, tokens, shares)
    _check(study)
    directory = user_path(settings.directory)
    with explained(directory, "writing into"):
        make_writable_directory(directory)
    for model in models:
        logger.info("%s: %s", model.name, model.data.model_name.name)
        model.data.prepare_data()
        if settings.of_sources and not model.is_run:
            add_dictionaries(model, fit, directory / "made")
        model.data.release_model()
    return _measure(study)


def _check(study: Study) -> None:
    """Check what can be checked before a model runs."""
    settings, models = study.settings, study.models
    if settings.resamples and len(study.tokens.spans[:, 0].unique()) < 2:
        raise InputError(
            "the held-out tokens in common are of one document, so no standard error can be computed: raise "
            "data.validation_tokens, or set resamples to 0"
        )
    if settings.of_sources:
        common_sources([model.data.rows("train") for model in models], study.unit)
        for model in models if settings.orders else ():
            for hook, dictionary in model.dictionaries.items():
                check_regrowable(f"{model.name} at {hook}", dictionary)
    check_tokens(len(study.tokens.spans), check_widths(models), settings)
    for name, share in study.shares.items():
        if share < FEW_IN_COMMON:
            logger.warning(
                "only %.0f%% of the held-out tokens of %s have a counterpart in all models", 100 * share, name
            )


def _measure(study: Study) -> ModelSimilarity:
    settings, models = study.settings, study.models
    start = time.perf_counter()
    activations = AlignedActivations([(model.data, model.hook_names) for model in models], study.tokens)
    dictionaries = NO_DICTIONARIES
    if settings.of_sources:
        dictionaries = compare_dictionaries(models, study.unit, activations, settings)
    sites = tuple(
        Site(model.name, hook, label)
        for model in models
        for hook, label in zip(model.hook_names, short_labels(model.hook_names), strict=True)
    )
    matrices, shared = RepresentationComparison(activations, settings).measure(len(sites))
    matrices |= dictionaries.matrices
    ends = itertools.accumulate((len(model.hook_names) for model in models), initial=0)
    of_models = [range(first, last) for first, last in itertools.pairwise(ends)]
    return ModelSimilarity(
        title=settings.title or f"{', '.join(model.name for model in models)}: similarity of layers",
        facts=_facts(study, activations)
        | {
            "seconds of the sums that measures of moments share": f"{shared:.1f}",
            "seconds of all measuring": f"{time.perf_counter() - start:.1f}",
        },
        sites=sites,
        atoms=dictionaries.atoms,
        universe=dictionaries.universe,
        chance=dictionaries.chance,
        measured=tuple(_plain(name, matrices[name], of_models) for name in settings.measures),
        whole_models=dictionaries.whole_models,
        reordered=dictionaries.reordered,
    )


def _plain(name: str, matrix: SiteMatrix, of_models: Sequence[range]) -> MeasuredSites:
    accuracies = [matching_accuracy(values, of_models) for values in matrix.resampled]
    matrices = (matrix.values, standard_error(matrix.resampled), matrix.null, matrix.excess)
    values, errors, nulls, excesses = (tuple(map(tuple, x.tolist())) for x in matrices)
    return MeasuredSites(
        name,
        values,
        errors,
        nulls,
        excesses,
        matrix.seconds,
        matching_accuracy(matrix.values, of_models),
        float(standard_error(torch.tensor(accuracies, dtype=torch.float64))),
        matching_accuracy(matrix.values, of_models, self_pairs=True),
    )


def _facts(study: Study, activations: AlignedActivations) -> dict[str, str]:
    first, settings = study.models[0].data, study.settings
    facts = {}
    for model in study.models:
        name = model.data.model_name
        revision = name.revision or short(name.fingerprint())
        facts[f"model {model.name}"] = f"{described(name.name)} ({revision}, {name.loader}, {name.dtype})"
        facts[f"hook points of {model.name}"] = summary_of(model.hook_names)
        if settings.of_sources:
            facts[f"training tokens of {model.name}"] = f"{model.data.rows('train').n_kept:,} activations"
    return facts | {
        "dataset": f"{first.documents.name} ({short(first.documents.fingerprint)})",
        "held-out tokens": f"{len(activations):,} of {len(activations.documents.unique()):,} documents",
        "tokens left out": f"{activations.left_out:,}, not finite or zero in some model",
        "held-out tokens' hash": hashlib.sha256(study.tokens.spans.numpy().tobytes()).hexdigest()[:16],
        "aligned by": f"{study.unit} ({', '.join(f'{share:.1%} of {name}' for name, share in study.shares.items())})",
        "seed of the data": str(first.hparams["seed"]),
        "errors": f"standard errors, documents resampled {settings.resamples} times in groups"
        if settings.resamples
        else "none, as documents were not resampled",
        **machine_facts(),
    }
