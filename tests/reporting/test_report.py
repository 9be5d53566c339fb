"""The report: its figures are those of the model, its page holds nothing that is not ours."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.cli.app import main
from microddsp.errors import BudgetError
from microddsp.reporting import Report
from microddsp.reporting.curves import WIDTH, magnitude_picture
from microddsp.reporting.marks import length
from microddsp.reporting.pictures import memory_picture

RATE = 8000
NASTY = "<script>alert(1)<x>&amp;'" + "_and_a_name_that_never_ends" * 4
FACTORY = """
from microddsp import dsp

def soft():
    return dsp.Lowpass(500.0, 2, sample_rate_hz=8000)
"""


class Listener(torch.nn.Module):
    """Filters, frames, layers that became equal kernels, a branch, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module(NASTY, dsp.Bandpass(100.0, 900.0, 4, sample_rate_hz=RATE))
        self.line = dsp.FIR([1 / 32] * 32, sample_rate_hz=RATE)
        self.frames = dsp.Frames(64, 32)
        self.net = torch.nn.Sequential(
            *(torch.nn.Linear(64, 8), torch.nn.ReLU()),
            *(torch.nn.Linear(8, 8), torch.nn.ReLU()),
            *(torch.nn.Linear(8, 8), torch.nn.ReLU()),
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        band = self.get_submodule(NASTY)(x)
        return {"scores": self.net(self.frames(self.line(band).abs())), "band": band}


@pytest.fixture(scope="module")
def pipeline() -> torch.nn.Module:
    torch.manual_seed(0)
    return Listener().eval()


@pytest.fixture(scope="module")
def model(pipeline):
    return microddsp.compile(pipeline, torch.zeros(1, 64), name="listener")


@pytest.fixture(scope="module")
def whole(model, pipeline) -> Report:
    x = 0.1 * torch.randn(1, 64 * 12, generator=torch.Generator().manual_seed(0))
    budget = {"ram": "64K", "flash": "1K", "load": "50%@64MHz"}
    return microddsp.report(model, pipeline, x, "mps2-an386", budget=budget)


def test_sizes_are_those_of_the_model(whole, model) -> None:
    told, memory = whole.data["memory"], model.memory
    for name in ("flash_bytes", "state_bytes", "arena_bytes", "ram_bytes", "stack_bytes"):
        assert told[name] == getattr(memory, name)
    assert [tuple(b.values()) for b in told["buffers"]] == list(memory.buffers)
    assert {row["name"]: row["nbytes"] for row in told["symbols"]} == memory.symbols
    of_text = sum(r["nbytes"] for r in told["symbols"] if r["section"].startswith(".text"))
    assert 0 < of_text <= sum(n for s, n in told["sections"].items() if ".text" in s)
    ends = [field["offset"] + field["nbytes"] for field in told["states"]]
    assert [f["offset"] for f in told["states"][1:]] == ends[:-1]
    assert ends[-1] == told["state_bytes"]


@pytest.mark.qemu
def test_times_of_kernels_sum_up_to_a_block_and_the_worst_block_is_named(whole, model) -> None:
    time = whole.data["time"]
    assert time["unit"] == "instructions" and len(time["blocks"]) == 12
    assert sum(k["median"] for k in time["kernels"]) == pytest.approx(time["median"], rel=0.01)
    assert sum(k["share"] for k in time["kernels"]) == pytest.approx(1.0)
    assert time["blocks"][time["worst"]["index"]] == max(time["blocks"]) == time["maximum"]
    calls = [model.outline.calls[k["call"]].kernel for k in time["kernels"][:-1]]
    named = [k["name"] for k in time["kernels"][:-1]]
    for kernel, name in zip(calls, named, strict=True):
        assert not kernel or kernel.removeprefix("listener_") == name.split(" #")[0]
    assert 0 < time["stack_used_bytes"] <= whole.data["memory"]["stack_bytes"] + 64


@pytest.mark.qemu
def test_load_and_budget_are_shown_and_refused_as_compile_does(whole, model) -> None:
    load = whole.data["load"]
    share = model.load.share(model.signature, 64e6)
    assert load["share"] == share and load["clock_hz"] == 64e6
    assert load["worst_share"] >= share
    used = {row["key"]: row["used"] for row in whole.data["budget"]}
    assert used["load"] == pytest.approx(share / 0.5)
    assert used["flash"] == model.memory.flash_bytes / 1024 > 1
    with pytest.raises(BudgetError, match="over budget: flash"):
        whole.check_budget()


@pytest.mark.qemu
def test_errors_are_those_on_the_board(whole) -> None:
    checked = whole.data["verification"]
    assert checked["passed"] and checked["board"] == "mps2-an386" and checked["blocks"] == 12
    assert [o["name"] for o in checked["outputs"]] == ["scores", "band"]
    assert all(0 <= o["max_rel_error"] <= o["tolerance"] for o in checked["outputs"])


def test_every_unit_is_in_the_kernels_that_compute_it(model) -> None:
    outline = model.outline
    kernels = {
        unit.path: [outline.calls[c].kernel for c in outline.calls_of(i)]
        for i, unit in enumerate(outline.units)
    }
    assert all(call.units for call in outline.calls if call.kernel)
    assert kernels["x"] == []
    assert [len(kernels[f"net.{i}"]) for i in range(6)] == [1] * 6
    for first in (0, 2, 4):  # a layer and its rectifier are one kernel
        assert kernels[f"net.{first}"] == kernels[f"net.{first + 1}"]
    # two layers of one shape share a kernel: they are two calls of it
    at = {unit.path: i for i, unit in enumerate(outline.units)}
    assert kernels["net.2"] == kernels["net.4"]
    assert outline.calls_of(at["net.2"]) != outline.calls_of(at["net.4"])
    assert "fir" in " ".join(kernels["line"]) and "frames" in " ".join(kernels["frames"])
    for unit in outline.units:  # what writes the state of a unit computes it
        for state in unit.states:
            users = [c for c in outline.calls if f"state.{state}" in c.places and c.kernel]
            assert users and all(at[unit.path] in call.units for call in users)


def test_latency_of_known_pipelines() -> None:
    def samples(pipeline: torch.nn.Module, block: int) -> tuple[float, float]:
        model = microddsp.compile(pipeline, torch.zeros(1, block), target="host")
        late = microddsp.report(model, pipeline).data["latency"]
        return late["signal_samples"], late["samples"]

    line = dsp.FIR([1.0 * i for i in [*range(16), *reversed(range(16))]])
    assert samples(line, 8) == (15.5, 22.5)
    chain = torch.nn.Sequential(line, dsp.Decimate(4), dsp.FIR([1.0] * 5), dsp.Frames(8, 4))
    assert samples(chain, 16) == (15.5 + 4 * 2 + 4 * 3.5, 15.5 + 4 * 2 + 4 * 3.5 + 15)

    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.long, self.short = dsp.Delay(30), dsp.Delay(7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.long(x) + self.short(x)

    assert samples(Branches(), 4) == (30.0, 33.0)


def test_responses_are_shown_at_the_rate_of_their_filter() -> None:
    pipeline = torch.nn.Sequential(
        dsp.Lowpass(1000.0, 4, sample_rate_hz=RATE),
        dsp.Decimate(2),
        dsp.Lowpass(500.0, 2, sample_rate_hz=RATE / 2),
        dsp.Envelope(0.01, 0.05, sample_rate_hz=RATE / 2),
    )
    model = microddsp.compile(pipeline, torch.zeros(1, 16), target="host")
    report = microddsp.report(model, pipeline)
    shown = {r["path"]: r["channels"][0] for r in report.data["responses"]}
    assert shown.keys() == {"0", "2"}
    assert shown["0"]["band"] == pytest.approx([0.0, 1000.0], rel=0.01)
    assert shown["2"]["band"] == pytest.approx([0.0, 500.0], rel=0.01)
    late = report.data["latency"]
    assert late["not_counted"] == ["3"]
    assert late["signal_samples"] == shown["0"]["delay"] + 2 * shown["2"]["delay"]
    assert [u["rate_hz"] for u in report.data["graph"]["units"]] == [8e3, 8e3, 4e3, 4e3, 4e3]
    page = report.html()
    assert "<h3><code>2</code> Lowpass</h3>" in page


def test_an_archive_without_pipeline_tells_what_it_knows(model, whole, tmp_path: Path) -> None:
    model.save(tmp_path / "listener.tar")
    report = microddsp.report(microddsp.load(tmp_path / "listener.tar"))
    assert report.data["graph"] == whole.data["graph"]
    assert report.data["memory"] == whole.data["memory"]
    assert report.data["verification"] is None and report.data["time"] is None
    page = report.html()
    assert "no PyTorch pipeline given" in page and "Latency" not in page


def test_an_archive_of_an_older_version_has_no_outline(tmp_path: Path) -> None:
    model = microddsp.compile(dsp.Gain(2.0), torch.zeros(1, 4), target="host", name="old")
    model.outline = None
    model.save(tmp_path / "old.tar")
    old = microddsp.load(tmp_path / "old.tar")
    assert old.outline is None
    report = microddsp.report(old, dsp.Gain(2.0))
    assert report.data["graph"] is None and report.data["latency"] is None
    assert "compile it again" in report.html()


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.asked: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.asked += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_needs_nothing_else_and_escapes_names(whole) -> None:
    page, links = whole.html(), _Links()
    links.feed(page)
    assert not links.tags & {"script", "iframe", "object", "x", "img"}
    assert links.asked == ["data:,"]
    addresses = re.findall(r"https?://[^\s\"'<]+", page)
    assert set(addresses) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!#)", page)
    assert any(NASTY in words for words in links.words)


def test_json_has_the_content_of_the_page(whole, tmp_path: Path) -> None:
    whole.save_json(tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["model"] == "listener"
    assert told["memory"] == whole.data["memory"]
    assert told["time"]["blocks"] == whole.data["time"]["blocks"]
    assert {unit["path"] for unit in told["graph"]["units"]} >= {NASTY, "line", "frames", "net.0"}


def _command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, words)])
    return int(ended.value.code or 0)


def test_the_command_compiles_reports_and_refuses(tmp_path: Path, capsys) -> None:
    (tmp_path / "soft.py").write_text(FACTORY)
    page, data = tmp_path / "soft.html", tmp_path / "soft.json"
    factory = f"{tmp_path / 'soft.py'}:soft"
    budget = ("--block", 16, "--budget", "flash=100")
    assert _command(factory, "-o", page, "--json", data, *budget) == 1
    assert "over budget: flash" in capsys.readouterr().err
    assert "<h1>soft</h1>" in page.read_text()
    assert json.loads(data.read_text())["signature"]["block"] == 16


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["none.tar"], 2, "there is no file"),
        (["none"], 2, "there is no file"),
        (["{bad}"], 1, "is no tar or is damaged"),
        (["{bad}", "--board", "mps2-an3860"], 2, "unknown board"),
        (["{bad}", "--block", "64"], 2, "compiled already"),
        (["{bad}", "--budget", "rom=1K"], 2, "unknown 'rom'"),
        (["{bad}", "-i", "none.wav"], 2, "there is no file"),
        (["{bad}", "-o", "none/page.html"], 2, "there is no folder"),
        (["{bad}", "--json", "."], 2, "is a folder"),
        (["{bad}", "--board", "rpc://127.0.0.1:1/k"], 2, "rpc://"),
        (["{good}", "-i", "x.wav", "--column", "1"], 1, "only a CSV file has columns"),
        (["x.py"], 2, "write file.py:factory"),
        (["{bad}", "--pipeline", "nothing"], 2, "names no factory"),
        (["x.py:f", "--pipeline", "y.py:g"], 2, "is for an archive"),
        (["{good}", "--board", "microbit"], 3, "microbit"),
    ],
)
def test_mistakes_are_said(
    words: list[str], status: int, message: str, model, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.tar").write_bytes(b"no archive" * 100)
    (tmp_path / "x.wav").touch()
    model.save(tmp_path / "good.tar")
    given = [w.format(bad="bad.tar", good="good.tar") for w in words]
    assert _command(*given) == status
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert message in shown


def test_a_convolution_that_became_products_and_a_sum_is_told_from_its_neighbours() -> None:
    mixer = torch.nn.Sequential(
        dsp.Lowpass([300.0, 600.0, 900.0], 2, sample_rate_hz=RATE),
        dsp.CausalConv1d(3, 1, 1),
        dsp.Envelope(0.01, 0.05, sample_rate_hz=RATE),
    )
    outline = microddsp.compile(mixer, torch.zeros(3, 16), target="host").outline
    assert outline is not None
    assert [unit.kind for unit in outline.units[1:]] == ["Lowpass", "CausalConv1d", "Envelope"]
    assert all(outline.calls_of(i) for i in (1, 2, 3))
    assert all(call.units for call in outline.calls if call.kernel)


def test_the_documentation_names_every_field(whole: Report) -> None:
    docs = (Path(__file__).resolve().parents[2] / "docs/report.md").read_text()
    sentence, *rows = docs.partition("## JSON\n")[2].strip().split("\n| `")
    named = re.findall(r"`(\w+)`", sentence) + [row.partition("`")[0] for row in rows]
    assert sorted(named) == sorted(whole.data)


def test_labels_lie_inside_a_picture_and_above_what_they_name() -> None:
    channel = {"magnitude_db": [0.0, -3.0], "group_delay": [1.0, 1.0]}
    response = {"path": "low", "rate_hz": 2000.0, "frequencies": [1.0, 1000.0]}
    drawn = str(magnitude_picture({**response, "channels": [channel]}))
    label = re.search(r'x="([\d.]+)"[^>]*>1 kHz<', drawn)
    assert label
    assert float(label[1]) + length("1 kHz", 11) / 2 <= WIDTH
    buffers = [
        {"name": name, "nbytes": 64, "offset": 0, "first": 0, "last": 1} for name in ("t0", "t1")
    ]
    arena = str(memory_picture({"buffers": buffers, "arena_bytes": 64}, [], "m"))
    assert arena.rindex("<rect") < arena.index(">t0  64 B<")
