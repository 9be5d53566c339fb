"""Two local processes train as one does: started by torchrun, the script unchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from microddsp.errors import ParameterError
from microddsp.training.processes import Processes
from microddsp.training.windows import Windows

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import atexit, json, pathlib, sys

def threads_at_the_end():
    names = [task.read_text().strip() for task in pathlib.Path("/proc/self/task").glob("*/comm")]
    left = pathlib.Path(sys.argv[1]) / "threads.txt"
    with left.open("a") as file:
        print(*(name for name in names if "gloo" in name), file=file)

atexit.register(threads_at_the_end)  # first, so that it is called last

import torch
from microddsp import dsp
from microddsp.training import Batch, Checkpoint, CsvRecorder, EarlyStop
from microddsp.training import compare, losses, rows, train

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
x = torch.randn(8, 1, 120, generator=generator)
with torch.no_grad():
    y = dsp.Biquad.lowpass(200.0, 2.0, sample_rate_hz=1000.0)(3 * x)
module = torch.nn.Sequential(dsp.Gain(), dsp.Biquad.lowpass(100.0, 1.0, sample_rate_hz=1000.0))
folder = sys.argv[1]
result = train(
    module, rows(Batch(x, y), 5), compare(losses.l2), steps=12,
    stop=EarlyStop(below=1e-9),
    checkpoint=Checkpoint(f"{folder}/c.pt", every=5),
    recorders=[CsvRecorder(f"{folder}/log.csv")],
)
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else "alone"
values = [p.item() for p in module.parameters()]
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump({"values": values, "loss": result.loss}, file)
"""


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    script = tmp_path / "learn.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", "0", "--standalone"]
    for folder, launch in (("one", [sys.executable]), ("two", launcher)):
        (tmp_path / folder).mkdir()
        done = subprocess.run(
            [*launch, str(script), str(tmp_path / folder)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-8000:]
    alone = json.loads((tmp_path / "one/alone.json").read_text())
    first, second = (json.loads((tmp_path / f"two/{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["values"] == pytest.approx(alone["values"], rel=1e-4)
    assert first["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    logs = [(tmp_path / f"{folder}/log.csv").read_text().splitlines() for folder in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 13
    assert (tmp_path / "two/c.pt").is_file()
    # one that lives when Python ends may abort the process
    assert (tmp_path / "two/threads.txt").read_text() == "\n\n"


def test_every_row_goes_to_one_process() -> None:
    counts = torch.arange(5.0)
    windows = Windows(torch.zeros(5, 1, 3), torch.ones(5, 3, dtype=torch.bool), counts)
    shares = [Processes(rank, 2).share(windows) for rank in range(2)]
    assert sorted(c for part, _ in shares for c in part.counts.tolist()) == counts.tolist()
    assert [share for _, share in shares] == [0.6, 0.4]
    with pytest.raises(ParameterError, match="5 rows of a batch cannot be shared by 6"):
        Processes(0, 6).share(windows)
