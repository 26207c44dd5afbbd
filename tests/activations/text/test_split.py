"""Training and held-out rows come from different documents, whatever the seed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from itda_lightning.errors import InputError
from tests.activations.conftest import MakeData


def written(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def read_texts(make_data: MakeData) -> Callable[..., tuple[set[str], set[str]]]:
    """The texts of which training rows and held-out rows hold something."""

    def read(**settings) -> tuple[set[str], set[str]]:
        data = make_data(**settings)
        rows = data.rows("train"), data.rows("heldout")
        train, heldout = ({part.texts[i] for i in set(part.document.flatten().tolist()) - {-1}} for part in rows)
        return train, heldout

    return read


def test_no_text_is_in_both_and_the_hold_out_does_not_depend_on_the_seed(read_texts, prose: list[str]) -> None:
    # Few enough tokens for all seeds to draw other documents, many enough to read most of them.
    trains, heldouts = zip(
        *(
            read_texts(seed=seed, training_tokens=8000, validation_tokens=2000, shuffle=shuffle)
            for seed in range(4)
            for shuffle in (True, False)
        ),
        strict=True,
    )
    assert set.union(*trains).isdisjoint(set.union(*heldouts))
    assert len(set.union(*trains)) > 40
    assert len(set.union(*heldouts)) >= 2
    assert trains[0] != trains[2]
    assert set.union(*trains, *heldouts) <= set(prose)


def test_the_hold_out_does_not_depend_on_order_or_company(read_texts, prose: list[str], tmp_path: Path) -> None:
    train, heldout = read_texts(training_tokens=8000, validation_tokens=2000)
    other = written(tmp_path / "other.jsonl", ["Something else. " * 100, *prose[::-1]])
    other_train, other_heldout = read_texts(dataset=other, training_tokens=8000, validation_tokens=2000)
    assert train.isdisjoint(other_heldout)
    assert heldout.isdisjoint(other_train)


def test_duplicates_of_a_text_are_all_on_one_side(read_texts, prose: list[str], tmp_path: Path) -> None:
    twice = written(tmp_path / "twice.jsonl", prose + prose)
    train, heldout = read_texts(dataset=twice, training_tokens=8000, validation_tokens=2000, holdout_fraction=0.3)
    assert train.isdisjoint(heldout)


def test_the_fraction_is_about_the_share_of_documents(read_texts, tmp_path: Path) -> None:
    texts = [f"Document number {i} has these few words." for i in range(2000)]
    data = written(tmp_path / "many.jsonl", texts)
    _, heldout = read_texts(
        dataset=data, holdout_fraction=0.3, packing="one_per_document", shuffle=False, validation_tokens=16 * 550
    )
    assert len(heldout) == 550
    with pytest.raises(InputError, match="validation_tokens"):
        read_texts(
            dataset=data, holdout_fraction=0.3, packing="one_per_document", shuffle=False, validation_tokens=16 * 650
        )


def test_too_little_text_names_the_numbers(make_data: MakeData) -> None:
    data = make_data(training_tokens=1_000_000, validation_tokens=100_000)
    with pytest.raises(
        InputError,
        match=r"data.training_tokens asks for 1,000,000 tokens but the train documents of .*prose.jsonl give [\d,]+: "
        r"lower data.training_tokens, change data.holdout_fraction, or give more text",
    ):
        data.rows("train")
    with pytest.raises(
        InputError, match=r"data.validation_tokens asks for 100,000 tokens but the heldout documents of .* give [\d,]+:"
    ):
        data.rows("heldout")


def test_the_numbers_named_are_what_there_is(make_data: MakeData) -> None:
    with pytest.raises(InputError) as refused:
        make_data(training_tokens=1_000_000).rows("train")
    there = int(str(refused.value).split(" give ")[1].split(":")[0].replace(",", ""))
    assert make_data(training_tokens=there).rows("train").tokens.numel() == there
    with pytest.raises(InputError, match="training_tokens"):
        make_data(training_tokens=there + 16).rows("train")


def test_rows_without_anything_to_keep_are_refused(make_data: MakeData, tmp_path: Path) -> None:
    # Documents of separators alone.
    data = make_data(dataset=written(tmp_path / "special.jsonl", ["<s></s>" * 500 + "</s>" * i for i in range(40)]))
    with pytest.raises(InputError, match="no activation of the train rows is left after special tokens are excluded"):
        data.rows("train")


def test_rows_are_drawn_from_many_documents_and_depend_on_the_seed_alone(make_data: MakeData) -> None:
    one, same, other = (make_data(seed=seed).rows("train") for seed in (1, 1, 2))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert len(set(one.document.flatten().tolist())) > 10
    in_order = make_data(shuffle=False).rows("train").document.flatten()
    assert in_order.equal(in_order.sort().values)
    assert make_data(shuffle=False, seed=1).rows("train").document.flatten().equal(in_order)
