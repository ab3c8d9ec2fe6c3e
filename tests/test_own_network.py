"""A network and a loss written in notebook cells: trained, stopped, resumed, used and exported."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
# The cells.
DATA = """
from pathlib import Path
import torch
from torch import nn
from torch.nn import functional as F
from seglib import config, data, evaluation, export, inference, layouts, prepare, runs, training

cfg = config.preset("lung", "smoke", data_root=TREE, work_dir="work", test_split=0, val_split=4,
                    augment={}, epochs=12, batch_size=4, lr=0.01, num_workers=0, device="cpu",
                    precision="fp32")
batches = data.loaders(prepare.build(layouts.scan(cfg), cfg), cfg)
"""
NETWORK = """
class Pyramid(nn.Module):
    def __init__(self, n_classes=1, channels=8, levels=3):
        super().__init__()
        self.levels = levels
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels),
                          nn.ReLU(), nn.Dropout2d(0.1))
            for _ in range(levels)
        )
        self.head = nn.Conv2d(channels * (levels + 1), n_classes, 1)

    def forward(self, image):
        features = self.first(image)
        pyramid = [features]
        for block in self.blocks:
            features = block(F.avg_pool2d(features, 2))
            pyramid.append(F.interpolate(features, size=image.shape[-2:], mode="bilinear"))
        return self.head(torch.cat(pyramid, dim=1))
"""
LOSS = """
def tversky(logits, target, annotated, beta=0.7):
    prob, truth = logits.sigmoid(), (target == 1).float()
    counts = (target != 255).float()
    missed, extra = ((1 - prob) * truth * counts).sum(), (prob * (1 - truth) * counts).sum()
    overlap = (prob * truth).sum()
    return 1 - (overlap + 1) / (overlap + beta * missed + (1 - beta) * extra + 1)
"""
TRAIN = """
def network():
    torch.manual_seed(0)
    return Pyramid()

straight = training.fit(cfg, batches, model=network(), loss=tversky, folder="straight")
assert straight.history["train_loss"].iloc[-1] < straight.history["train_loss"].iloc[0]
"""
STOP = """
stopped, calls = network(), []

def stop_in_the_third_epoch(module, inputs, output):  # an epoch has three steps and one validation
    calls.append(1)
    if len(calls) == 1 + 2 * 4 + 2:
        raise KeyboardInterrupt

stopped.register_forward_hook(stop_in_the_third_epoch)
try:
    training.fit(cfg, batches, model=stopped, loss=tversky, folder="cut")
except KeyboardInterrupt:
    assert len(runs.Run.load("cut").history) == 2
"""
RESUME = """
run = training.fit(cfg, batches, model=Pyramid(), loss=tversky, resume=True, folder="cut")
for name in ("final_model.pth", "best_model.pth"):
    one, other = (torch.load(Path(folder) / name) for folder in ("straight", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one), name
assert run.info["network"] == "Pyramid" and run.info["loss"] == "tversky"
"""
USE = """
image, truth = batches["val"].dataset.pixels(0)
model = inference.Predictor.load(run.best, model=Pyramid())
prediction = model.predict(image)
assert prediction.mask.shape == truth.shape[:2]
report = evaluation.evaluate(run, batches["val"])
again = evaluation.evaluate(runs.Run.load("cut", model=Pyramid()), batches["val"])
assert report.per_image["dice"].mean() == again.per_image["dice"].mean() > 0.5
"""
EXPORT = """
exported = export.to_onnx(run.best, "pyramid.onnx", model=Pyramid())
assert exported.path.is_file() and exported.difference < 1e-4
"""


def test_a_network_and_a_loss_of_a_notebook_cell(lung_tree, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [f"TREE = {str(lung_tree)!r}", DATA, NETWORK, LOSS, TRAIN, STOP, RESUME, USE, EXPORT]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    where = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where)
    client.execute()  # an assertion that fails in a cell fails here
    assert notebook.cells[-1]["execution_count"] == len(cells)
