"""Taking programs apart without torch's detour gives what the detour gives."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from microddsp import dsp
from microddsp.frontend import decomposing
from microddsp.frontend.aten import decompositions
from microddsp.frontend.decomposing import decompose


class Many(nn.Module):
    """Composite operators of each kind: torch's own, one with rules in Python, one that torch
    keeps, one whose rule is ours."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.norm = nn.LayerNorm(4)
        self.filter = dsp.Lowpass(100.0, 4, sample_rate_hz=1000.0)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.norm(self.linear(self.filter(x)))
        wide = F.interpolate(x[None, None], scale_factor=2, mode="nearest")
        return (
            torch.matmul(y, y.mT),
            wide,
            torch.stack([x, x]),
            F.scaled_dot_product_attention(y[None], y[None], y[None]),
        )


def _rows(program: torch.export.ExportedProgram) -> list[tuple[object, ...]]:
    return [
        (n.op, n.name, str(n.target), str(n.args), str(n.kwargs), n.meta.get("stack_trace"))
        for n in program.graph.nodes
    ]


def test_the_graph_is_the_one_of_run_decompositions() -> None:
    with torch.no_grad():
        program = torch.export.export(Many().eval(), (torch.randn(3, 8),), strict=False)
        expected = program.run_decompositions(decompositions())
        found = decompose(program)
    assert _rows(found) == _rows(expected)
    assert str(found.graph_signature) == str(expected.graph_signature)
    targets = {row[2] for row in _rows(found)}
    assert {"aten.upsample_nearest2d.vec", "aten.addmm.default"} <= targets
    assert "aten.linear.default" not in targets


def test_a_composite_operator_that_is_registered_later_is_taken_apart_too() -> None:
    decompose(torch.export.export(nn.Identity(), (torch.zeros(2),), strict=False))
    library = torch.library.Library("microddsp_later", "DEF")
    try:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x + x, "CompositeImplicitAutograd")

        class Later(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.ops.microddsp_later.twice(x)

        program = torch.export.export(Later(), (torch.zeros(2),), strict=False)
        assert "aten.add.Tensor" in {row[2] for row in _rows(decompose(program))}
    finally:
        library._destroy()


def test_a_torch_with_another_interface_takes_the_detour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decomposing, "_OPTIONS", {"of_another_version"})
    with torch.no_grad():
        program = torch.export.export(Many().eval(), (torch.randn(3, 8),), strict=False)
        assert _rows(decompose(program)) == _rows(program.run_decompositions(decompositions()))
