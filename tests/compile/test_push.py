"""`push` takes samples as they come: any chunks give what whole blocks give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import microddsp
from microddsp import dsp
from microddsp.errors import ParameterError
from microddsp.micro.package.model import CompiledModel
from tests.device_program import run_on_device, run_on_host

BLOCK, BLOCKS = 16, 40
SAMPLES = BLOCK * BLOCKS
Runner = Callable[[Path, list[CompiledModel], str, bytes], bytes]

# Two instances take the same signal in chunks of other sizes, one sample to two and a half blocks.
MAIN = """
#include <string.h>
#include "{name}.h"
static {name}_t one, two;
static {ctype} signal[{channels} * {samples}];
static {ctype} chunk[{channels} * {block} * 3];
static float answers[2][{blocks}][{elements}];
static int feed({name}_t *self, float (*answer)[{elements}], unsigned seed)
{{
    uint32_t at = 0u, ready = 0u;
    while (at < {samples}u) {{
        uint32_t taken = 0u, n;
        {name}_status_t status;
        seed = seed * 1664525u + 1013904223u;
        n = ((seed >> 16) % 5u == 0u) ? 0u : ((seed >> 20) % {block}u * 5u / 2u) + 1u;
        n = (n > {samples}u - at) ? {samples}u - at : n;
        if ((seed >> 28) == 3u) {{ n = {block}u < {samples}u - at ? {block}u : n; }}
        for (uint32_t c = 0u; c < {channels}u; ++c) {{
            for (uint32_t i = 0u; i < n; ++i) {{
                chunk[{chunk_at}] = signal[{signal_at}];
            }}
        }}
        while ((status = {name}_push(self, chunk, n, &taken, answer[ready]))
               == {NAME}_BLOCK_READY) {{
            if (++ready > {blocks}u) {{ return 10; }}
        }}
        if (status != {NAME}_OK || taken != n) {{ return 11; }}
        at += n;
    }}
    return (ready == {blocks}u) ? 0 : 12;
}}
int main(void)
{{
    uint32_t taken = 0u;
    float *y = answers[0][0];
    int status;
    READ(signal);
    if ({name}_push(&one, signal, 1u, &taken, y) != {NAME}_ERR_NOT_READY) {{ return 1; }}
    if ({name}_init(&one, 0, 0u) != {NAME}_OK) {{ return 2; }}
    if ({name}_init(&two, 0, 0u) != {NAME}_OK) {{ return 2; }}
    if ({name}_push(&one, signal, 1u, 0, y) != {NAME}_ERR_NULL) {{ return 3; }}
    if ({name}_push(&one, signal, 5u, &taken, y) != {NAME}_OK || taken != 5u) {{ return 4; }}
    {name}_reset(&one);
    status = feed(&one, answers[0], 1u);
    if (status != 0) {{ return status; }}
    status = feed(&two, answers[1], 7u);
    WRITE(answers);
    return status;
}}
"""


def chain() -> torch.nn.Module:
    return torch.nn.Sequential(
        dsp.Lowpass(900.0, 2, sample_rate_hz=8000), dsp.Envelope(0.01, 0.05, sample_rate_hz=8000)
    )


def check(run: Runner, folder: Path, channels: int, raw: bool) -> None:
    name = f"push{channels}{'raw' if raw else ''}"
    given = microddsp.Input(dtype="s16", interleaved=True) if raw else microddsp.Input()
    model = microddsp.compile(
        chain(), torch.zeros(channels, BLOCK), name=name, input=given, push=True
    )
    x = np.random.default_rng(channels).standard_normal((channels, SAMPLES)) * 0.1
    signal = np.round(x * 32767).astype("int16").T if raw else x.astype("float32")
    main = MAIN.format(
        name=name,
        NAME=name.upper(),
        ctype="int16_t" if raw else "float",
        channels=channels,
        samples=SAMPLES,
        block=BLOCK,
        blocks=BLOCKS,
        elements=channels * BLOCK,
        chunk_at=f"i * {channels}u + c" if raw else "c * n + i",
        signal_at=f"(at + i) * {channels}u + c" if raw else f"c * {SAMPLES}u + at + i",
    )
    said = run(folder, [model], main, np.ascontiguousarray(signal).tobytes())
    answers = np.frombuffer(said, "float32").reshape(2, BLOCKS, channels, BLOCK)
    whole = model.run(signal.T if raw else signal).reshape(channels, BLOCKS, BLOCK)
    for answer in answers:
        np.testing.assert_allclose(answer.transpose(1, 0, 2), whole, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("channels", "raw"), [(1, False), (3, False), (2, True)])
def test_any_chunks_give_what_whole_blocks_give(tmp_path: Path, channels: int, raw: bool) -> None:
    check(run_on_host, tmp_path, channels, raw)


@pytest.mark.qemu
def test_any_chunks_give_what_whole_blocks_give_on_a_device(tmp_path: Path) -> None:
    check(run_on_device, tmp_path, 2, False)


def test_who_does_not_ask_for_push_pays_nothing() -> None:
    plain = microddsp.compile(chain(), torch.zeros(1, BLOCK), name="plain")
    assert "push" not in plain.sources["plain.h"] + plain.sources["plain.c"]
    more = microddsp.compile(chain(), torch.zeros(1, BLOCK), name="plain", push=True)
    extra = more.signature.state_bytes - plain.signature.state_bytes
    assert extra == 4 + 4 * BLOCK
    assert (
        more.memory.symbols["plain_process_unchecked"]
        == (plain.memory.symbols["plain_process_unchecked"])
    )


def test_push_is_refused_where_it_makes_no_sense() -> None:
    with pytest.raises(ParameterError, match="do not last"):
        microddsp.compile(chain(), torch.zeros(1, 16), push=True, io_in_arena=True)
    with pytest.raises(ParameterError, match="channels, samples"):
        microddsp.compile(torch.nn.Linear(4, 2), torch.zeros(4), push=True)


class Named(torch.nn.Module):
    """One output, called as the variables of `push` might be."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self.name: x * 2.0}


@pytest.mark.parametrize("name", ["count", "status", "row", "from"])
def test_names_of_tensors_do_not_meet_those_of_push(tmp_path: Path, name: str) -> None:
    model = microddsp.compile(Named(name), torch.zeros(2, 8), target="host", push=True)
    x = np.ones((2, 8), "float32")
    np.testing.assert_array_equal(model.run(x)[name], 2 * x)


@pytest.mark.parametrize("name", ["samples", "taken", "push_count"])
def test_a_name_that_push_needs_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match=f"called '{name}'"):
        microddsp.compile(Named(name), torch.zeros(1, 8), push=True)
