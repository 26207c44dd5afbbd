"""Write features as Neuronpedia's import reads them: the folder that its converter makes of SAEDashboard's batches.

The layout and the columns are those of SAEDashboard's ``sae_dashboard/neuronpedia/neuronpedia_export.py`` (commit
3ea1249, the successor of ``convert-saedashboard-to-neuronpedia-export.py`` of github.com/hijohnnylin/neuronpedia), and
of explanations of ``neuronpedia_utils/db_models/explanation.py``, which Neuronpedia imports beside them:

    MODEL/LAYER-SET/release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl
    MODEL/LAYER-SET/features/batch-N.jsonl.gz, activations/batch-N.jsonl.gz, explanations/batch-N.jsonl.gz

Numbers are those of the batches. Ids of activations and explanations are made from what they name, so that two exports
of one dictionary agree; Neuronpedia skips rows whose id it has.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from itda_lightning.evaluation.neuronpedia_batches import Place

ID_LETTERS = 24  # after the first, as in a cuid
LEVEL = 5  # of gzip
STEER_STRENGTH = 10.0  # Neuronpedia's own default, of a feature that nothing activates


class Release(NamedTuple):
    """Who publishes features under which name, and where the weights are.

    Attributes:
        name: Neuronpedia's id of the release, which is part of its address.
        creator: name of the author or the team.
        creator_id: Neuronpedia's id of the account that imports.
        url: address of the paper or repository; "" for none.
        repository, folder: of the weights on the Hugging Face hub; "" for none.
        at: time of the export, in ISO format.
    """

    name: str
    creator: str
    creator_id: str
    url: str = ""
    repository: str = ""
    folder: str = ""
    at: str = ""


class Site(NamedTuple):
    """Facts about the activations that the rows of a source tell."""

    hook_name: str
    dataset: str
    rows: int
    context_size: int
    d_in: int
    n_layers: int


def write_metadata(directory: Path, place: Place, release: Release, site: Site) -> None:
    """Write the four files of one row each."""
    of_release = {
        "name": release.name,
        "description": release.name,
        "creatorName": release.creator,
        "creatorId": release.creator_id,
        "visibility": "PUBLIC",
        "isNewUi": False,
        "featured": False,
        "descriptionShort": release.name,
        "urls": [release.url] if release.url else [],
        "creatorEmail": None,
        "creatorNameShort": release.creator,
        "defaultSourceSetName": None,
        "defaultSourceId": None,
        "defaultUmapSourceIds": [],
        "createdAt": release.at,
    }
    of_model = {
        "id": place.model_id,
        "instruct": place.model_id.endswith("-it") or "instruct" in place.model_id.lower(),
        "creatorId": release.creator_id,
        "displayNameShort": place.model_id,
        "displayName": place.model_id,
        "tlensId": None,
        "dimension": site.d_in,
        "visibility": "PUBLIC",
        "defaultSourceSetName": None,
        "defaultSourceId": None,
        "inferenceEnabled": False,
        "layers": site.n_layers,
        "neuronsPerLayer": 0,
        "createdAt": release.at,
        "owner": "",
        "updatedAt": release.at,
        "website": None,
    }
    of_set = {
        "modelId": place.model_id,
        "name": place.sae_set,
        "creatorId": release.creator_id,
        "hasDashboards": True,
        "visibility": "PUBLIC",
        "description": f"ITDA at {site.hook_name}",
        "type": "",
        "creatorName": release.creator,
        "urls": [release.url] if release.url else [],
        "creatorEmail": None,
        "releaseName": release.name,
        "defaultOfModelId": None,
        "defaultRange": 1,
        "defaultShowBreaks": True,
        "showDfa": False,
        "showCorrelated": False,
        "showHeadAttribution": False,
        "showUmap": False,
        "createdAt": release.at,
    }
    of_source = {
        "id": place.source,
        "modelId": place.model_id,
        "setName": place.sae_set,
        "creatorId": release.creator_id,
        "hasDashboards": True,
        "inferenceEnabled": False,
        "inferenceHosts": [],
        "saelensConfig": None,
        "saelensRelease": None,
        "saelensSaeId": None,
        "hfRepoId": release.repository or None,
        "hfFolderId": release.folder or None,
        "visibility": "PUBLIC",
        "defaultOfModelId": None,
        "hasUmap": False,
        "hasUmapLogSparsity": False,
        "hasUmapClusters": False,
        "num_prompts": site.rows,
        "num_tokens_in_prompt": site.context_size,
        "dataset": site.dataset,
        "notes": None,
        "createdAt": release.at,
    }
    directory.mkdir(parents=True)
    files = {"release": of_release, "model": of_model, "sourceset": of_set, "source": of_source}
    for name, row in files.items():
        (directory / f"{name}.jsonl").write_text(f"{_json(row)}\n", encoding="utf-8")


def feature_row(place: Place, release: Release, site: Site, feature: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of an atom from its feature in a batch."""
    largest = max([0.0, *(max(activation["values"]) for activation in feature["activations"])])
    same = (
        *(f"neuron_alignment_{part}" for part in ("indices", "values", "l1")),
        *(f"correlated_{of}_{part}" for of in ("neurons", "features") for part in ("indices", "pearson", "l1")),
        *(f"{sign}_{part}" for sign in ("neg", "pos") for part in ("str", "values")),
        "frac_nonzero",
        *(f"{of}_hist_data_bar_{part}" for of in ("freq", "logits") for part in ("heights", "values")),
        "decoder_weights_dist",
    )
    return {
        "modelId": place.model_id,
        "layer": place.source,
        "index": str(feature["feature_index"]),
        "creatorId": release.creator_id,
        "createdAt": release.at,
        "maxActApprox": largest,
        "hasVector": True,
        "vector": feature["vector"],
        "vectorLabel": None,
        "vectorDefaultSteerStrength": largest or STEER_STRENGTH,
        "hookName": site.hook_name,
        "topkCosSimIndices": [],
        "topkCosSimValues": [],
        **{name: feature[name] for name in same},
        "sourceSetName": place.sae_set,
    }


def activation_rows(place: Place, release: Release, feature: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per example of an atom."""
    index = str(feature["feature_index"])
    return [
        {
            "id": _id("activation", *place, index, number),
            "tokens": activation["tokens"],
            "index": index,
            "layer": place.source,
            "modelId": place.model_id,
            "maxValue": max(activation["values"]),
            "maxValueTokenIndex": activation["values"].index(max(activation["values"])),
            "minValue": min(activation["values"]),
            "values": activation["values"],
            "creatorId": release.creator_id,
            "dataSource": None,
            "dataIndex": None,
            "dfaValues": [],
            "dfaTargetIndex": None,
            "dfaMaxValue": None,
            "createdAt": release.at,
            "lossValues": [],
            "logitContributions": None,
            "binMin": activation["bin_min"],
            "binMax": activation["bin_max"],
            "binContains": activation["bin_contains"],
            "qualifyingTokenIndex": activation["qualifying_token_index"],
            "zIndices": None,
            "zValues": None,
        }
        for number, activation in enumerate(feature["activations"])
    ]


def explanation_row(release: Release, explanation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of an explanation of a batch, with what the importer needs beside."""
    return {
        "id": _id("explanation", *explanation.values()),
        **explanation,
        "authorId": release.creator_id,
        "embedding": None,
        "triggeredById": None,
        "notes": None,
        "createdAt": release.at,
    }


def write_batch(
    directory: Path,
    name: str,
    place: Place,
    release: Release,
    site: Site,
    features: Iterable[Mapping[str, Any]],
    explanations: Iterable[Mapping[str, Any]],
) -> None:
    """Write the compressed rows of one batch, of explanations if there are some."""
    features = list(features)
    rows = {
        "features": [feature_row(place, release, site, feature) for feature in features],
        "activations": [row for feature in features for row in activation_rows(place, release, feature)],
        "explanations": [explanation_row(release, explanation) for explanation in explanations],
    }
    for kind, content in rows.items():
        if content or kind != "explanations":
            (directory / kind).mkdir(exist_ok=True)
            text = "".join(f"{_json(row)}\n" for row in content)
            compressed = gzip.compress(text.encode("utf-8", errors="replace"), LEVEL, mtime=0)
            (directory / kind / f"{name}.jsonl.gz").write_bytes(compressed)


def _id(*parts: object) -> str:
    return f"c{hashlib.sha256(repr(parts).encode()).hexdigest()[:ID_LETTERS]}"


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
