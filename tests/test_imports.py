"""The torch-free part of the house: a wrong recipe answers before torch could even be imported."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = (
    "config", "stage", "artifacts", "samples", "shard_index", "tar_writer", "order", "errors", "randomness",
    "training_config", "train_loop", "schedule", "runner", "stage_run", "tracking",
)  # fmt: skip
HEAVY = ("torch", "transformers", "wandb", "accelerate", "deepspeed", "webdataset")


def torch_free_modules() -> list[str]:
    """Every module that must not import torch, found by its place in the house."""
    files = [*ROOT.glob("data_prep/**/*.py"), *ROOT.glob("stages/**/stage.py"), *ROOT.glob("stages/**/config.py")]
    files += [
        *ROOT.glob("launchers/**/*.py"),
        *ROOT.glob("tessera/*.py"),
        *(ROOT / f"pipeline/{n}.py" for n in PIPELINE),
    ]
    names = [str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in files]
    return sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))


def test_the_torch_free_part_imports_nothing_heavy() -> None:
    modules = torch_free_modules()
    assert "launchers.cli" in modules and "stages.vqvae.stage" in modules and len(modules) > 20
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [h for h in {HEAVY!r} if h in sys.modules]\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_help_answers_in_a_second_and_a_wrong_recipe_in_two(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("shards: {source: birds}\nvqvae: {levles: [8, 4]}\n")
    for words, code, seconds in ((["shard", "--help"], 0, 1.0), (["run", "mine.yaml"], 2, 2.0)):
        taken = []
        for _ in range(3):  # the fastest of three: another process may be busy on the same cores
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "launchers.cli", *words], cwd=tmp_path, capture_output=True, check=False
            )
            taken.append(time.monotonic() - began)
        assert done.returncode == code, done.stderr
        assert min(taken) < seconds
