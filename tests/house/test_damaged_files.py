"""Damaged files: cut, a bit flipped, swapped with another, fields of another type. What is loaded is never wrong.

Every file that a run, an export, a harvest or a comparison writes is either refused in one line or gives the very same
content, and ``verify`` finds it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.errors import InputError
from itda_lightning.evaluation.verification import verify
from itda_lightning.fitting.checkpoint_io import read_checkpoint
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.digests import DIGEST
from itda_lightning.report.pages.comparison_page import write_dashboard
from itda_lightning.results.as_json import read_results, write_results
from itda_lightning.results.comparison import Comparison
from itda_lightning.saelens import save_export
from itda_lightning.verify import main
from tests.results.test_run_results import COMPARISON
from tests.runs import HOOK, fit_tiny

Load = Callable[[], Any]


class Written:
    """A run with its cache, an export in either architecture, results; ``loaders``: file -> how it is loaded."""

    def __init__(self, root: Path, model: Path, prose: Path) -> None:
        self.root = root
        self.contents: dict[Load, Any] = {}
        self.run = fit_tiny(root / "run", model, prose, cache_dir=root / "cache")
        for architecture in ("itda", "matching_pursuit"):
            save_export(load_dictionary(self.run), root / architecture, architecture)
        write_results(root / "comparison.json", COMPARISON)
        write_dashboard(COMPARISON, root / "comparison.html")
        data = load_dictionary(self.run).metadata["data"]
        loaders: dict[str, Load] = {
            "run/dictionaries": lambda: load_dictionary(self.run),
            "run/checkpoints/last.ckpt": lambda: [
                read_checkpoint(self.run / "checkpoints" / "last.ckpt"),
                load_dictionary(self.run / "checkpoints" / "last.ckpt"),
            ],
            "itda": lambda: load_dictionary(root / "itda"),
            "matching_pursuit": lambda: load_dictionary(root / "matching_pursuit"),
            "comparison.json": lambda: read_results(root / "comparison.json", Comparison),
            "cache": lambda: [list(load()) for load in loaders_of(ActivationsDataModule(**data))],
        }
        files = [file for file in sorted(root.rglob("*")) if file.is_file() and file.suffix != ".md"]
        self.files = [file for file in files if "wandb" not in file.parts]
        self.loaders = {
            file: next((load for name, load in loaders.items() if (root / name) in (file, *file.parents)), None)
            for file in self.files
        }


def loaders_of(data: ActivationsDataModule) -> list[Load]:
    data.prepare_data()
    assert data.harvested_tokens == 0, "a damaged cache was filled again"
    return [data.train_dataloader, data.val_dataloader]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, prose_file: Path) -> Written:
    return Written(tmp_path_factory.mktemp("written"), tiny_model_dir, prose_file)


def plain(value: Any) -> Any:
    """Everything that was loaded, as something that can be compared."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, torch.nn.Module):
        names = ("k", "pursuit", "nonnegative", "least_gain", "metadata", "dataset", "prompts", "label_prompts")
        return plain(dict(value.state_dict())), plain({name: getattr(value, name) for name in names})
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return plain(vars(value)) if hasattr(value, "__dict__") else value


def damages(whole: bytes) -> st.SearchStrategy[bytes]:
    """The content of a file with one bit flipped or cut off."""
    flipped = st.integers(0, 8 * len(whole) - 1).map(
        lambda bit: whole[: bit // 8] + bytes([whole[bit // 8] ^ (1 << bit % 8)]) + whole[bit // 8 + 1 :]
    )
    return flipped | st.integers(0, len(whole) - 1).map(lambda length: whole[:length])


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(choice=st.data())
def test_a_damaged_file_is_refused_in_one_line_or_read_as_it_was(written: Written, choice: st.DataObject) -> None:
    file = choice.draw(st.sampled_from(written.files))
    # A checkpoint or a result in the place of another is still a whole one.
    alone = file.suffix == ".ckpt" or file.name == "comparison.json"
    alike = [] if alone else [other for other in written.files if other.suffix == file.suffix and other != file]
    whole, others = file.read_bytes(), [other.read_bytes() for other in alike]
    damage = damages(whole)
    damaged = choice.draw(damage | st.sampled_from(others) if others else damage)
    load = written.loaders[file]
    if load and load not in written.contents:
        written.contents[load] = plain(load())
    refusal = ""
    try:
        file.write_bytes(damaged)
        if damaged not in others:
            assert "damaged" in {verdict.state for verdict in verify(file.parent)}, file
        if load:
            try:
                assert plain(load()) == written.contents[load]
            except InputError as error:
                refusal = str(error)
    finally:
        file.write_bytes(whole)
    assert len(refusal.splitlines()) <= 1


WRONG = [None, True, -1, 1.5, "x", [], ["x"], {}, {"x": None}]


def test_fields_of_another_type_are_refused_in_one_line(written: Written) -> None:
    directory = written.run / "dictionaries" / HOOK
    file, tensors = directory / "dictionary.json", directory / "dictionary.safetensors"
    whole = file.read_bytes()
    content = {name: value for name, value in json.loads(whole).items() if name != DIGEST}
    fields = [(content, name) for name in content] + [(content["metadata"], name) for name in ("data", "growth")]
    try:
        for place, name in fields:
            right = place[name]
            for wrong in (value for value in WRONG if value != right and not fits(name, value)):
                place[name] = wrong
                write_json(file, content, [tensors])  # so that the digest fits
                with pytest.raises(InputError) as caught:
                    load_dictionary(written.run)
                assert len(str(caught.value).splitlines()) == 1
            place[name] = right
    finally:
        file.write_bytes(whole)


def fits(name: str, value: Any) -> bool:
    """Tell if a field may have that value, which then is another dictionary's."""
    allowed: dict[str, list[Any]] = {
        "nonnegative": [True],
        "dataset": [None, "x"],
        "prompts": [None],
        "metadata": [{}, {"x": None}],
        "data": [None, {}, {"x": None}],
        "growth": [[]],
    }
    return any(type(value) is type(one) and value == one for one in allowed.get(name, []))


def test_every_file_is_whole_or_has_no_digest(written: Written, capsys: pytest.CaptureFixture) -> None:
    assert main([str(written.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    unsigned = {line.rsplit("/", 1)[1] for line in lines if line.startswith("no digest: ")}
    assert unsigned == {"README.md"}
    assert lines[-1] == f"{len(lines) - 3} whole, 0 damaged, 2 no digest"


@pytest.mark.parametrize("missing", ["dictionary.safetensors", "data-00000-of-00002.arrow", "metrics.json"])
def test_a_missing_file_is_damage(written: Written, missing: str, capsys: pytest.CaptureFixture) -> None:
    file = next(file for file in written.files if file.name == missing)
    moved = file.rename(written.root / "moved")
    try:
        assert main([str(file.parent)]) == 1
        assert f"damaged: {file} (missing beside" in capsys.readouterr().out
    finally:
        moved.rename(file)


def test_what_a_kill_left_is_unfinished_and_there_must_be_something(written: Written, tmp_path: Path) -> None:
    (tmp_path / ".x.00000000-1-0000000000000000.part").mkdir()
    with pytest.raises(InputError, match="holds no files: give a run, a dictionary"):
        verify(tmp_path)
    (tmp_path / ".x.00000000-1-0000000000000000.part" / "dictionary.json").write_text("{")
    assert [verdict.state for verdict in verify(tmp_path)] == ["unfinished"]
    with pytest.raises(InputError, match="nowhere holds no files"):
        verify(tmp_path / "nowhere")
