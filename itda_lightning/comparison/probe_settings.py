"""Settings of probes on datasets of sae-probes."""

from dataclasses import dataclass

from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.paths import user_path

# Short texts of many kinds on which a probe of a small model's activations succeeds: sentiment, spam, clickbait, topic,
# collocation, reasoning, names.
DATASETS = (
    "92_glue_sst2",
    "96_spam_is",
    "105_click_bait",
    "22_headline_isobama",
    "65_high-school",
    "133_context_type_Causality",
    "5_hist_fig_ismale",
    "155_athlete_sport_basketball",
)


@dataclass(frozen=True)
class ProbeSettings:
    """The probes to train, and their data.

    Cost: the model reads the examples of all draws once for all entries, about 160,000 tokens with the defaults and six
    million with all 113 datasets (two minutes and over an hour at 1,350 tokens per second, the bundled model's speed to
    layer 14 on two idle CPU cores). Each entry then encodes them and takes seconds of fitting per draw of each dataset,
    a tenth of that without ``references``.

    Attributes:
        datasets: names of datasets of sae-probes; null for all 113.
        ks: sizes of the sparse probes; each gives ``probing/k=...``.
        seeds: draws of examples per dataset, those of sae-probes with its ``seed`` 0, 1, ....
        train_examples: training examples per probe, half of them of either class.
        test_examples: test examples per probe, half of them of either class.
        detected: also probe what is detected (``probing/detected k=...``): the cosines of an activation less the bias
            with the atoms (``Dictionary.detect``), or with an SAE's decoder rows.
        references: also probe all latents (``probing/all``) and the activation itself (``probing/dense``).
        max_tokens: number of tokens read at the end of a text, BOS included (sae-probes itself: 1,024).
        cache_dir: directory of the cached activations; null for this package's cache.

    Raises:
        InputError: a number too small to train or to test a probe.
    """

    datasets: tuple[str, ...] | None = DATASETS
    ks: tuple[int, ...] = (1, 2, 5, 16)
    seeds: int = 3
    train_examples: int = 256
    test_examples: int = 256
    references: bool = True
    max_tokens: int = 128
    cache_dir: str | None = None
    detected: bool = False

    def __post_init__(self) -> None:
        if self.datasets is not None and (not self.datasets or len(set(self.datasets)) < len(self.datasets)):
            raise InputError(f"probes.datasets must name at least one dataset, and none twice, got {self.datasets}")
        if not self.ks or min(self.ks) < 1:
            raise InputError(f"probes have at least one latent each, got ks={self.ks}")
        if self.cache_dir is not None:
            user_path(self.cache_dir, "probes.cache_dir")
        check_at_least(1, {"probes.seeds": self.seeds})
        check_at_least(4, {"probes.train_examples": self.train_examples})
        check_at_least(2, {"probes.test_examples": self.test_examples, "probes.max_tokens": self.max_tokens})
