"""What a bridge tells of itself: from any descriptor, and to nobody."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess

from microddsp.micro.rpc.link import bridge_command
from microddsp.micro.rpc.status import StatusLines


def test_a_program_with_many_descriptors_reads_it() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    low, there = os.pipe()
    high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1500)
    try:
        os.write(there, b"started 1\n")
        assert StatusLines(high).first(5.0) == "started 1"
    finally:
        for fd in (low, there, high):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_bridge_whose_client_is_gone_ends_and_says_nothing() -> None:
    for device in ("cat", "no-such-program"):
        nobody, status = os.pipe()
        os.close(nobody)
        requests, replies = os.pipe(), os.pipe()
        given = (status, requests[0], replies[1])
        try:
            ended = subprocess.run(
                [*bridge_command(status, 1.0), "spawn", device, *map(str, given[1:])],
                pass_fds=given,
                capture_output=True,
                timeout=60,
                check=False,
            )
        finally:
            for fd in (status, *requests, *replies):
                os.close(fd)
        assert (ended.returncode, ended.stderr) == (0, b"")
