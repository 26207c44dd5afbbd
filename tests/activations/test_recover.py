"""An activation's source and the documents give its prompt and its token."""

import pytest

from itda_lightning.activations.text.documents import load_documents
from itda_lightning.dictionary.sources import Sources
from tests.activations.conftest import MakeData


@pytest.mark.parametrize("prepend_bos", [True, False])
def test_the_document_before_the_token_is_the_prompt(make_data: MakeData, prose_file, prepend_bos: bool) -> None:
    data = make_data(packing="one_per_document", training_tokens=40 * 16, prepend_bos=prepend_bos)
    rows, documents = data.rows("train"), load_documents(str(prose_file))
    texts = dict(documents.in_order())
    n = 0
    for batch in data.train_dataloader():
        sources = Sources(batch.table, rows.dataset)
        assert sources.dataset == documents.fingerprint
        for index, source in enumerate(sources):
            recovered, prompt = sources.recover(index, texts), rows.prompt(source)
            assert prompt.before == "<s>" * prepend_bos + recovered.before
            assert prompt.token == recovered.token
            assert recovered.after.startswith(prompt.after)
            assert data.tokenizer.decode([source.token]) == recovered.token
            n += 1
    assert n == rows.n_kept > 300


def test_rows_cut_from_the_middle_end_as_the_document_does_there(make_data: MakeData) -> None:
    data = make_data(training_tokens=4000)
    rows, texts = data.rows("train"), dict(data.documents.in_order())
    n_across = 0
    for batch in data.train_dataloader():
        sources = Sources(batch.table, rows.dataset)
        for index, source in enumerate(sources):
            recovered, prompt = sources.recover(index, texts), rows.prompt(source)
            same_document = prompt.before.removeprefix("<s>").split("</s>")[-1]
            n_across += "</s>" in prompt.before
            assert recovered.before.endswith(same_document)
            assert prompt.token == recovered.token
            assert data.tokenizer.decode(rows.tokens[source.row, : source.position + 1].tolist()) == (
                prompt.before + prompt.token
            )
            # Fingerprint and index are all that is needed: no row, no model.
            assert texts[source.document][source.start : source.end] == prompt.token
    assert n_across > 0
