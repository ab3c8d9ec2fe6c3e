"""Other Pythons, torches and the versions that hosts bring, each with a smoke training.

The loose ranges of `pyproject.toml` are installed anew beside them.

Slow and large: every environment downloads a torch of its own, and is removed afterwards.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# GB: an environment with torch's CUDA libraries, and the wheels that it is unpacked from.
SPACE = 14
# What hosts bring and keep. Colab: its package list of June 2026. Kaggle: its list holds
# matplotlib, scikit-learn and seaborn back, and that scikit-learn needs a numpy before 2.
COLAB = "torch==2.11.* numpy==2.0.2 pandas==2.2.2 matplotlib==3.10.0 scikit-learn==1.6.1"
COLAB += " scipy==1.16.3 pillow==11.3.0 opencv-python-headless==4.13.0.92 accelerate==1.13.0"
COLAB += " timm==1.0.27 huggingface-hub==1.17.0"
KAGGLE = "torch==2.8.* numpy==1.26.4 pandas==2.2.2 matplotlib==3.7.5 scikit-learn==1.2.2"
KAGGLE += " seaborn==0.12.2"
# The oldest torch of pyproject.toml, the newest for each other Python, and the hosts. Python 3.11
# with the newest torch is the environment of all other tests.
ENVIRONMENTS = {
    "oldest": ("3.11", "torch==2.5.*"),
    "3.12": ("3.12", "torch"),
    "3.13": ("3.13", "torch"),
    "colab": ("3.12", COLAB),
    "kaggle": ("3.11", KAGGLE),
}
# These need no package beside those of the ranges, pytest and hypothesis, and forgive warnings of
# older libraries.
TESTS = [
    f"tests/test_{name}.py"
    for name in "config data hosts inference models phantoms prepare training".split()
]
SMOKE = """
import sys

import seglib
import torch
from seglib import config, data, evaluation, inference, layouts, phantoms, prepare, training

assert "site-packages" in seglib.__file__, seglib.__file__
for name, n in (("lung", 16), ("cardiac", 6)):
    tree = phantoms.write(name, f"trees/{name}", n=n)
    cfg = config.preset(name, "smoke", data_root=str(tree), device="cpu")
    cases = layouts.scan(cfg)
    batches = data.loaders(prepare.build(cases, cfg), cfg)
    run = training.fit(cfg, batches)
    assert run.history["train_loss"].notna().all()
    report = evaluation.evaluate(run, batches["test"])
    assert report.table("dice")["n"].min() > 0
    report.save(f"reports/{name}")
    model = inference.Predictor.load(run.best)
    predict = model.predict_volume if name == "cardiac" else model.predict_file
    mask = predict(cases["image"].iloc[0]).mask
    assert mask.size and mask.max() < cfg.n_classes + 1
print("trained with Python", sys.version.split()[0], "and torch", torch.__version__)
"""


def interpreter(version):
    """A working Python of a version, on the path or kept by pyenv; None where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for path in filter(None, candidates):
        # pyenv puts stand-ins on the path for versions that are not switched on too.
        works = subprocess.run([path, "-c", "import ensurepip, ssl"], capture_output=True)
        if works.returncode == 0:
            return path
    return None


def call(*command, folder):
    """Run a command outside of the repository; its output is part of the message where it fails."""
    names = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_loose_ranges_train(name, tmp_path):
    version, packages = ENVIRONMENTS[name]
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    if shutil.disk_usage(tmp_path).free < SPACE * 1e9:
        pytest.skip(f"less than {SPACE} GB of disk free")
    # Copies, because an installation leaves build/ in its source, and the tests must see the
    # installed package alone.
    source, checks = tmp_path / "source", tmp_path / "checks"
    shutil.copytree(ROOT / "seglib", source / "seglib")
    shutil.copytree(ROOT / "tests", checks / "tests")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copy(ROOT / "pyproject.toml", checks)
    try:
        call(python, "-m", "venv", tmp_path / "venv", folder=tmp_path)
        python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        install = (python, "-m", "pip", "install", "-q", "--no-cache-dir")
        call(*install, source, *packages.split(), "pytest", "hypothesis", folder=checks)
        said = call(python, "-c", SMOKE, folder=checks)
        torch = packages.split()[0].partition("==")[2].rstrip("*")
        assert f"Python {version}." in said and f"torch {torch}" in said
        print(said, call(python, "-m", "pytest", *TESTS, folder=checks))
    finally:
        shutil.rmtree(tmp_path / "venv", ignore_errors=True)
