"""SAEs trained by SAELens on the same activations that an ITDA is fitted on, to compare with."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE, JumpReLUSAE
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainingSAE
from sae_lens.training.sae_trainer import SAETrainer
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.shuffled import TrainingRows, shuffled_batches
from itda_lightning.dictionary.reconstruction_error import ReconstructionSums
from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import new_directory
from itda_lightning.machine.memory import PeakMemory
from itda_lightning.machine.paths import user_path
from itda_lightning.saelens.export_files import check_sae_files
from itda_lightning.saelens.held_decoder import HeldDecoder
from itda_lightning.saelens.sae_metadata import site_metadata
from itda_lightning.saelens.training_configs import sae_config, trainer_config
from itda_lightning.saelens.training_settings import TrainingSettings

# Points of a curve: most at equal ratios of the steps, for drawing; the others evenly over the last fifth before the
# learning rate decays, where a loss that still falls is told from one that has settled.
CURVE_POINTS, LAST_POINTS, LAST_SHARE = 15, 5, 0.2
CURVE_ACTIVATIONS = 4096
CURVE_CHUNK = 512


@dataclass(frozen=True)
class TrainedSAE:
    """A finished training.

    Attributes:
        path: directory with the SAE for inference in SAELens's format.
        seconds: wall time of the training and its reading from disk, without the harvest and measuring the curve.
        activations_seen: number of activations in all steps, repetitions included.
        activations_read: number of distinct activations among them.
        peak_bytes: largest memory of the process during the training (see ``PeakMemory``).
        curve: (activations seen, FVU on up to 4,096 held-out activations); the last point is of the finished training.
    """

    path: Path
    seconds: float
    activations_seen: int
    activations_read: int
    peak_bytes: int
    curve: tuple[tuple[int, float], ...]


def train_sae(
    settings: TrainingSettings, data: ActivationsDataModule, hook_name: str, output: str | Path
) -> TrainedSAE:
    """Train an SAE on the cached training activations and save it for inference, complete or not at all.

    It sees the activations that an ITDA of the same ``data`` is fitted on. Its decoder bias, which is trained like the
    rest, starts at the mean that the ITDA subtracts. Activations are scaled to a mean norm of sqrt(d) in training; the
    scale is folded into the weights, so the saved SAE takes unscaled activations. A batchtopk SAE is saved as SAELens
    does, as a jumprelu SAE with the threshold that gives k latents on average.

    Raises:
        InputError: ``output`` exists or cannot be written, as ``TrainingRows`` and ``shuffled_batches``, a ``start``
            that is not an SAE of this kind, or a training that diverged.
    """
    output = user_path(output)
    start = None if settings.start is None else _loaded(settings.start)  # refused before anything is harvested
    with new_directory(output) as directory:
        # SAELens's own runner loads the language model, excludes tokens by their id only (so not padding), does not
        # stop after the first rows, and cannot read bfloat16 caches.
        rows = TrainingRows(data, hook_name, settings.tokens)
        batches = shuffled_batches(rows, settings.batch_size, settings.seed, settings.buffer_bytes)
        device = data.model_name.torch_device()
        heldout = _heldout(data, hook_name).to(device)
        trainer = _trainer(settings, rows, site_metadata(data, hook_name), device, start)
        with PeakMemory() as peak:
            seconds, curve = _train(trainer, batches, settings, heldout)
        seen = trainer.n_training_samples
        trained = TrainedSAE(output, seconds, seen, min(seen, rows.n_kept), peak.bytes, curve)
        sae = _finished(trainer)
        facts = {name: value for name, value in asdict(trained).items() if name != "path"}
        sae.cfg.metadata["training"] = {"settings": asdict(settings), **facts}
        sae.save_inference_model(directory)
    return trained


def _trainer(
    settings: TrainingSettings,
    rows: TrainingRows,
    metadata: dict[str, Any],
    device: torch.device,
    start: SAE[Any] | None = None,
) -> SAETrainer[Any, Any]:
    """Return SAELens's trainer with new weights, or those of ``start``, and with the scale of the activations."""
    config = sae_config(settings, rows.d_in, rows.hook_name, metadata, device)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        sae: TrainingSAE[Any] = get_sae_training_class(settings.architecture)[0](config)
    trainer: SAETrainer[Any, Any] = SAETrainer(trainer_config(settings, device), sae, iter(()))
    sample = rows.sample().double()
    scale = rows.d_in**0.5 / float(sample.norm(dim=1).mean())
    trainer.activation_scaler.scaling_factor = scale
    # Starting at zero, Adam would spend a short training on the mean, which an ITDA need not learn.
    sae.b_dec.data.copy_(sample.mean(0) * scale)
    if start is not None:
        _start_from(sae, start, scale)
    return trainer


def _loaded(place: str) -> SAE[Any]:
    try:
        sae = SAE.load_from_disk(user_path(place))
        check_sae_files(user_path(place))
        return sae
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"training.start {place} is not an SAE that SAELens loads ({error}): export a dictionary or train one"
        ) from error


@torch.no_grad()
def _start_from(sae: TrainingSAE[Any], start: SAE[Any], scale: float) -> None:
    """Give an SAE the weights of another, of unscaled activations. Raises InputError unless they fit."""
    wanted, got = ((one.cfg.architecture(), one.cfg.d_in, one.cfg.d_sae) for one in (sae, start))
    if got != wanted or start.cfg.normalize_activations != "none":
        raise InputError(
            f"training.start is a {got[0]} SAE of {got[1]} dimensions and {got[2]:,} latents, the training is "
            f"of a {wanted[0]} SAE of {wanted[1]} and {wanted[2]:,}, of activations as they are: set training.n_latents"
        )
    # Latents and biases are in units of the activations, weights are not.
    sae.W_enc.copy_(start.W_enc)
    sae.W_dec.copy_(start.W_dec)
    sae.b_enc.copy_(start.b_enc * scale)
    sae.b_dec.copy_(start.b_dec * scale)
    if isinstance(start, JumpReLUSAE):
        sae.threshold.copy_(start.threshold * scale)


def _train(
    trainer: SAETrainer[Any, Any], batches: Iterator[Tensor], settings: TrainingSettings, heldout: Float[Tensor, "m d"]
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Run the public steps of ``SAETrainer.fit``, for a curve without W&B; return the seconds and the curve."""
    steps, measured_at = settings.steps, _steps_of_curve(settings)
    decoder = HeldDecoder(trainer.sae, settings.seed) if settings.decoder == "frozen" else None
    curve: list[tuple[int, float]] = []
    start, measuring = time.perf_counter(), 0.0
    name = f"Train {trainer.sae.cfg.architecture()} of {trainer.sae.cfg.d_sae:,}"
    with tqdm(total=trainer.cfg.total_training_samples, unit=" activations", unit_scale=True, desc=name) as bar:
        while trainer.n_training_steps < steps:
            trainer.maybe_reset_sparsity()
            trainer.step(next(batches))
            if decoder is not None:
                decoder.hold()
            trainer.n_training_steps += 1
            bar.update(trainer.n_training_samples - bar.n)
            if trainer.n_training_steps in measured_at:
                before = time.perf_counter()
                curve.append((trainer.n_training_samples, _fvu(trainer, heldout)))
                bar.set_postfix(fvu=f"{curve[-1][1]:.3f}")
                measuring += time.perf_counter() - before
    return time.perf_counter() - start - measuring, tuple(curve)


def _steps_of_curve(settings: TrainingSettings) -> set[int]:
    steps, ratios = settings.steps, CURVE_POINTS - LAST_POINTS
    last = (1 - settings.decay - LAST_SHARE * point / (LAST_POINTS - 1) for point in range(LAST_POINTS))
    measured_at = {round(steps ** (point / (ratios - 1))) for point in range(ratios)}
    return measured_at | {max(1, round(steps * share)) for share in last}


def _finished(trainer: SAETrainer[Any, Any]) -> TrainingSAE[Any]:
    """Return the SAE of unscaled activations. Raises InputError if the training diverged."""
    sae: TrainingSAE[Any] = trainer.sae
    if not all(bool(torch.isfinite(parameter).all()) for parameter in sae.parameters()):
        raise InputError(
            f"the training of the {sae.cfg.architecture()} SAE diverged: lower training.learning_rate "
            f"({trainer.cfg.lr}) or give it a training.warm_up"
        )
    sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
    trainer.set_final_sae_metadata()
    return sae.to("cpu")


@torch.no_grad()
def _fvu(trainer: SAETrainer[Any, Any], heldout: Float[Tensor, "m d"]) -> float:
    """Compute the share of variance that the SAE, as it is in training, leaves unexplained; the scale cancels."""
    x = trainer.activation_scaler(heldout)
    mean = x.double().mean(0)
    trainer.sae.eval()
    sums = ReconstructionSums(x.shape[1])
    for part in x.split(CURVE_CHUNK):
        error = (trainer.sae.decode(trainer.sae.encode(part)) - part).double()
        sums.update(part.double() - mean, error.square().sum(1))
    return sums.compute().fvu


def _heldout(data: ActivationsDataModule, hook_name: str) -> Float[Tensor, "m d"]:
    """Return up to ``CURVE_ACTIVATIONS`` usable held-out activations, always the same ones."""
    parts: list[Tensor] = []
    for batch in data.heldout_batches(hook_name):
        parts.append(batch.x)
        if sum(map(len, parts)) >= CURVE_ACTIVATIONS:
            break
    return torch.cat(parts)[:CURVE_ACTIVATIONS]
