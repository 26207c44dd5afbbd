"""The folder of Neuronpedia's import, read as its importer reads it: columns, types, lengths, the batches' numbers.

The columns are those of the classes of SAEDashboard's ``neuronpedia_export.py`` and of Neuronpedia's ``Explanation``.
"""

import gzip
import json
from datetime import datetime
from pathlib import Path

import pytest

from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.neuronpedia import neuronpedia
from tests.evaluation.test_neuronpedia import OF_ONE_LENGTH, check_schema
from tests.runs import CONTEXT, HOOK, LAYER, VALIDATION_ROWS
from tests.tiny_model import WIDTH

NONE = type(None)
RELEASE = {
    "name": str,
    "description": str,
    "creatorName": str,
    "creatorId": str,
    "visibility": str,
    "isNewUi": bool,
    "featured": bool,
    "descriptionShort": str,
    "urls": [str],
    "creatorEmail": NONE,
    "creatorNameShort": str,
    "defaultSourceSetName": NONE,
    "defaultSourceId": NONE,
    "defaultUmapSourceIds": [str],
    "createdAt": str,
}
MODEL = {
    "id": str,
    "instruct": bool,
    "creatorId": str,
    "displayNameShort": str,
    "displayName": str,
    "tlensId": NONE,
    "dimension": int,
    "visibility": str,
    "defaultSourceSetName": NONE,
    "defaultSourceId": NONE,
    "inferenceEnabled": bool,
    "layers": int,
    "neuronsPerLayer": int,
    "createdAt": str,
    "owner": str,
    "updatedAt": str,
    "website": NONE,
}
SOURCE_SET = {
    "modelId": str,
    "name": str,
    "creatorId": str,
    "hasDashboards": bool,
    "visibility": str,
    "description": str,
    "type": str,
    "creatorName": str,
    "urls": [str],
    "creatorEmail": NONE,
    "releaseName": str,
    "defaultOfModelId": NONE,
    "defaultRange": int,
    "defaultShowBreaks": bool,
    "showDfa": bool,
    "showCorrelated": bool,
    "showHeadAttribution": bool,
    "showUmap": bool,
    "createdAt": str,
}
SOURCE = {
    "id": str,
    "modelId": str,
    "setName": str,
    "creatorId": str,
    "hasDashboards": bool,
    "inferenceEnabled": bool,
    "inferenceHosts": [str],
    "saelensConfig": NONE,
    "saelensRelease": NONE,
    "saelensSaeId": NONE,
    "hfRepoId": str,
    "hfFolderId": NONE,
    "visibility": str,
    "defaultOfModelId": NONE,
    "hasUmap": bool,
    "hasUmapLogSparsity": bool,
    "hasUmapClusters": bool,
    "num_prompts": int,
    "num_tokens_in_prompt": int,
    "dataset": str,
    "notes": NONE,
    "createdAt": str,
}
FEATURE = {
    "modelId": str,
    "layer": str,
    "index": str,
    "creatorId": str,
    "createdAt": str,
    "maxActApprox": float,
    "hasVector": bool,
    "vector": [float],
    "vectorLabel": NONE,
    "vectorDefaultSteerStrength": float,
    "hookName": str,
    "topkCosSimIndices": [int],
    "topkCosSimValues": [float],
    "neuron_alignment_indices": [int],
    "neuron_alignment_values": [float],
    "neuron_alignment_l1": [float],
    "correlated_neurons_indices": [int],
    "correlated_neurons_pearson": [float],
    "correlated_neurons_l1": [float],
    "correlated_features_indices": [int],
    "correlated_features_pearson": [float],
    "correlated_features_l1": [float],
    "neg_str": [str],
    "neg_values": [float],
    "pos_str": [str],
    "pos_values": [float],
    "frac_nonzero": float,
    "freq_hist_data_bar_heights": [float],
    "freq_hist_data_bar_values": [float],
    "logits_hist_data_bar_heights": [float],
    "logits_hist_data_bar_values": [float],
    "decoder_weights_dist": [float],
    "sourceSetName": str,
}
ACTIVATION = {
    "id": str,
    "tokens": [str],
    "index": str,
    "layer": str,
    "modelId": str,
    "maxValue": float,
    "maxValueTokenIndex": int,
    "minValue": float,
    "values": [float],
    "creatorId": str,
    "dataSource": NONE,
    "dataIndex": NONE,
    "dfaValues": [float],
    "dfaTargetIndex": NONE,
    "dfaMaxValue": NONE,
    "createdAt": str,
    "lossValues": [float],
    "logitContributions": NONE,
    "binMin": float,
    "binMax": float,
    "binContains": float,
    "qualifyingTokenIndex": int,
    "zIndices": NONE,
    "zValues": NONE,
}
EXPLANATION = {
    "id": str,
    "modelId": str,
    "layer": str,
    "index": str,
    "description": str,
    "authorId": str,
    "embedding": NONE,
    "triggeredById": NONE,
    "typeName": NONE,
    "explanationModelName": NONE,
    "notes": NONE,
    "createdAt": str,
}


def rows_in(path: Path) -> list[dict]:
    """Rows of a file as the importer reads them: a JSON object per line, compressed if the name says so."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def written(tiny_run, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("neuronpedia") / "out"
    of_release = {"release": "my-atoms", "creator": "A team", "creator_id": "c1", "hub_repository": "me/atoms"}
    neuronpedia(str(tiny_run), str(output), device="cpu", atoms_per_batch=40, model_id="tiny-it", top=3, **of_release)
    return output


def test_the_folder_has_the_names_that_the_importer_looks_for(written):
    folder = written / "exports" / "tiny-it" / f"{LAYER}-itda"
    batches = [f"batch-{number}.jsonl.gz" for number in range(len(list(written.glob("batch-*.json"))))]
    assert {path.name for path in folder.iterdir()} == {
        *("release.jsonl", "model.jsonl", "sourceset.jsonl", "source.jsonl", "features", "activations", "explanations")
    }
    for kind in ("features", "activations", "explanations"):
        assert sorted(path.name for path in (folder / kind).iterdir()) == batches


def test_rows_of_release_model_set_and_source(written, prose_file):
    folder = written / "exports" / "tiny-it" / f"{LAYER}-itda"
    found = {}
    for name, schema in {"release": RELEASE, "model": MODEL, "sourceset": SOURCE_SET, "source": SOURCE}.items():
        (found[name],) = rows_in(folder / f"{name}.jsonl")
        check_schema(found[name], schema)
        assert found[name]["creatorId"] == "c1"
        datetime.fromisoformat(found[name]["createdAt"])
    assert found["release"]["name"] == found["sourceset"]["releaseName"] == "my-atoms"
    assert found["model"]["id"] == found["sourceset"]["modelId"] == found["source"]["modelId"] == "tiny-it"
    assert (found["model"]["instruct"], found["model"]["dimension"]) == (True, WIDTH)
    assert found["sourceset"]["name"] == found["source"]["setName"] == "itda"
    source = found["source"]
    assert (source["id"], source["hfRepoId"], source["dataset"]) == (f"{LAYER}-itda", "me/atoms", prose_file.name)
    assert (source["num_prompts"], source["num_tokens_in_prompt"]) == (VALIDATION_ROWS, CONTEXT)


def test_rows_of_atoms_have_the_numbers_of_the_batches(written, tiny_run):
    folder = written / "exports" / "tiny-it" / f"{LAYER}-itda"
    atoms, ids = [], set()
    for batch in sorted(written.glob("batch-*.json")):
        made = json.loads(batch.read_text())["features"]
        features, activations, explanations = (
            rows_in(folder / kind / f"{batch.stem}.jsonl.gz") for kind in ("features", "activations", "explanations")
        )
        assert len(features) == len(made) == len(explanations)
        for row, feature, explanation in zip(features, made, explanations, strict=True):
            check_schema(row, FEATURE)
            check_schema(explanation, EXPLANATION)
            for names in OF_ONE_LENGTH:
                assert len({len(row[name]) for name in names}) == 1, names
            assert {name: row[name] for name in set(FEATURE) & set(feature)} == {
                name: feature[name] for name in set(FEATURE) & set(feature)
            }
            assert len(row["vector"]) == WIDTH
            assert (row["layer"], row["hookName"]) == (f"{LAYER}-itda", HOOK)
            assert row["index"] == explanation["index"] == str(feature["feature_index"])
            assert explanation["authorId"] == "c1"
            own = [activation for activation in activations if activation["index"] == row["index"]]
            assert len(own) == len(feature["activations"])
            assert row["maxActApprox"] == max([0.0, *(activation["maxValue"] for activation in own)])
            for activation, shown in zip(own, feature["activations"], strict=True):
                check_schema(activation, ACTIVATION)
                assert (activation["tokens"], activation["values"]) == (shown["tokens"], shown["values"])
                assert len(activation["values"]) == len(activation["tokens"]) == CONTEXT
                assert activation["values"][activation["maxValueTokenIndex"]] == activation["maxValue"]
                assert min(activation["values"]) == activation["minValue"]
                assert activation["qualifyingTokenIndex"] == shown["qualifying_token_index"]
            atoms.append(int(row["index"]))
            ids |= {activation["id"] for activation in own} | {explanation["id"]}
        assert len(activations) == sum(len(feature["activations"]) for feature in made)
    assert sorted(atoms) == list(range(load_dictionary(tiny_run).n_atoms))
    rows = sum(len(rows_in(path)) for kind in ("activations", "explanations") for path in (folder / kind).iterdir())
    assert len(ids) == rows  # each has an id of its own
    assert {len(one) for one in ids} == {25}


@pytest.mark.parametrize("given", [{}, {"creator": "A"}, {"creator": "A", "creator_id": "c", "release": "a b"}])
def test_a_release_needs_its_author(tiny_run, tmp_path, given):
    with pytest.raises(InputError, match=r"a release needs a name of letters, digits and dashes, --creator and"):
        neuronpedia(str(tiny_run), str(tmp_path / "out"), **({"release": "mine"} | given))
