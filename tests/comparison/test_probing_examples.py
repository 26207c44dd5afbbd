"""The examples of a probe, and which latents it sees."""

import numpy as np
import pytest
import torch

from itda_lightning.comparison import probing
from itda_lightning.comparison.probe_settings import ProbeSettings
from itda_lightning.comparison.probing_data import load_datasets
from itda_lightning.errors import InputError


def test_a_dataset_with_too_few_examples():
    with pytest.raises(
        InputError, match=r"96_spam_is has 747 examples of its smaller class, but 1400 .* need 751: lower"
    ):
        load_datasets(ProbeSettings(("96_spam_is",), train_examples=1400, test_examples=101))
    (dataset,) = load_datasets(ProbeSettings(("96_spam_is",), train_examples=1392, test_examples=101, seeds=1))
    assert int(dataset.labels.sum()) == 747 or int((1 - dataset.labels).sum()) == 747  # all of them


def test_a_probe_of_all_latents_sees_those_that_any_training_example_has():
    codes, train = torch.zeros(6, 4), np.arange(4)
    codes[:, 0] = torch.arange(1.0, 7)  # of all
    codes[1, 1], codes[5, 2] = 1.0, 1.0  # of one to learn from, of one to be judged by; and one of none
    features = dict(probing._features(codes, torch.ones(6, 2), np.arange(6) % 2, train, (1,)))
    assert features["all"].tolist() == codes[:, :2].tolist()
    assert features["dense"].shape == (6, 2)
    assert list(features) == ["k=1", "all", "dense"]
