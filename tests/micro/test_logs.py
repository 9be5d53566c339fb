"""Log lines of a device reach Python's logging."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest

from microddsp.errors import DeviceTimeoutError
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.session import open_board

Maker = Callable[..., CompiledModel]
ONES = np.ones((1, 8), np.float32)
HELPERS = '#include <stdio.h>\n#include "rpc_server.h"'
BODY = """    self->sum = 0.0f;
    y[0] = x[0];
    if (x[0] == 1.0f) {
        rpc_log(RPC_LOG_WARNING, "the battery is low");
        rpc_log(RPC_LOG_DEBUG, "two\\nlines");
    }
    if (x[0] == 2.0f) {
        rpc_log(RPC_LOG_ERROR, "about to hang");
        for (volatile int32_t forever = 1; forever != 0;) {
        }
    }
    if (x[0] == 3.0f) {
        for (int32_t i = 0; i < 3000; ++i) {
            rpc_log(RPC_LOG_INFO, "many");
        }
    }
    if (x[0] == 4.0f) {
        printf("count %d of %s\\n", 42, "plops");
        fflush(stdout);
    }"""
EMULATED = pytest.param("mps2-an386", marks=pytest.mark.qemu)


@pytest.mark.parametrize("board", ["host", EMULATED])
def test_lines_arrive_with_their_level(
    board: str, probe: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "microddsp")
    with open_board(board, probe(BODY, helpers=HELPERS), timeout_s=4.0) as session:
        caplog.clear()
        assert session.run(ONES)[0, 0] == 1.0
        assert [(r.name, r.levelno, r.message) for r in caplog.records] == [
            (f"microddsp.device.{board}", logging.WARNING, "the battery is low"),
            (f"microddsp.device.{board}", logging.DEBUG, "two"),
            (f"microddsp.device.{board}", logging.DEBUG, "lines"),
        ]
        caplog.clear()
        assert session.run(3 * ONES)[0, 0] == 3.0  # more than anybody keeps: no harm
        assert len(caplog.records) > 100
        caplog.clear()
        session.run(4 * ONES)
        session.run(ONES)
        assert (logging.INFO, "count 42 of plops") in [
            (r.levelno, r.message) for r in caplog.records
        ]
        caplog.clear()
        with pytest.raises(DeviceTimeoutError):
            session.run(2 * ONES)
        assert [r.message for r in caplog.records] == ["about to hang"]
