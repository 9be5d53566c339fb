"""Jobs that turn one frame into one answer: a small network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.device.job import Goal, Job


class Mean(nn.Module):
    """The mean over time."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1)


def conv_net() -> Job:
    """Two convolutions, a mean, a dense layer: of torch's own layers."""
    net = nn.Sequential(
        *(nn.Conv1d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv1d(8, 16, 5, padding=2), nn.ReLU()),
        *(Mean(), nn.Linear(16, 4)),
    ).eval()
    rng = np.random.default_rng(4)
    with torch.no_grad():
        for parameter in net.parameters():
            values = rng.uniform(-1.0, 1.0, parameter.shape) / np.sqrt(parameter[0].numel())
            parameter.copy_(torch.from_numpy(values))
    signal = rng.standard_normal((4, 1, 64)).astype("float32")
    layers = [layer for layer in net if isinstance(layer, nn.Conv1d | nn.Linear)]
    weights = {f"w{i}": layer.weight.detach().numpy() for i, layer in enumerate(layers)}
    biases = {
        f"b{i}": layer.get_parameter("bias").detach().numpy() for i, layer in enumerate(layers)
    }
    return Job(
        key="conv-net",
        title="conv net: 1x64, 8 and 16 channels k5, mean, 4 out",
        kind="conv net",
        signal=signal,
        expected=_reference(weights | biases, signal),
        module=lambda: net,
        parameters={"weights": weights | biases},
        per="frame",
        goal=Goal(66000, text_bytes=6 * 1024, ram_bytes=1536),
        limit=58000,
    )


def _reference(weights: dict[str, np.ndarray], signal: np.ndarray) -> np.ndarray:
    """The same network by numpy in float64."""
    w = {name: np.asarray(values, "float64") for name, values in weights.items()}
    x = signal.astype("float64")
    for i in range(2):
        padded = np.pad(x, ((0, 0), (0, 0), (2, 2)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=-1)
        x = np.einsum("ock,bcnk->bon", w[f"w{i}"], windows) + w[f"b{i}"][:, None]
        x = x.clip(0.0)
    answers: np.ndarray = x.mean(-1) @ w["w2"].T + w["b2"]
    return answers
