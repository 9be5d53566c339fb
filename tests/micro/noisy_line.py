"""A serial line that drops, flips, doubles and delays bytes, between a pseudo-terminal and a
process that is the device, or an emulator that has it.

It is a program of its own: TVM holds Python's lock while it waits for an answer.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
import tty
from pathlib import Path


class NoisyLine:
    """`port` is what a program opens. `rate`: the probability that a byte is harmed (lost, flipped,
    doubled or delayed, each as often as the others). What the host and what the device sent is in
    the files `record`.host and `record`.device, if that is given, once the line is closed."""

    def __init__(
        self, *command: str | Path, rate: float, seed: int, record: Path | None = None
    ) -> None:
        arguments = [str(rate), str(seed), str(record or ""), *map(str, command)]
        self.relay = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.relay.stdout
        self.port = self.relay.stdout.readline().strip()

    def reset_device(self) -> None:
        """What pressing a board's reset button does; returns when it was done."""
        self.relay.send_signal(signal.SIGUSR1)
        assert self.relay.stdout
        assert self.relay.stdout.readline() == "reset\n"

    def close(self) -> int:
        """End it; how many bytes it harmed."""
        if self.relay.poll() is not None:
            return 0
        self.relay.send_signal(signal.SIGTERM)
        return int(self.relay.communicate()[0].split()[-1])


class Relay:
    def __init__(self, rate: float, seed: int, record: str, command: list[str]) -> None:
        self.record = record
        self.said = {"host": bytearray(), "device": bytearray()}
        self.command, self.rate = command, rate
        self.random = random.Random(seed)
        self.harmed = 0
        self.stopped = self.reset = False
        self.master, slave = os.openpty()  # ours stays open: the master never hangs up
        tty.setraw(slave)
        print(os.ttyname(slave), flush=True)

    def run(self) -> None:
        device = self.start()
        while not self.stopped:
            if self.reset:
                device.kill()
                device.wait()
                device = self.start()
                self.reset = False
                print("reset", flush=True)
            assert device.stdin and device.stdout
            there = [self.master, device.stdout.fileno()]
            for fd in select.select(there, [], [], 0.05)[0]:
                of_host = fd == self.master
                data = os.read(fd, 4096)
                self.said["host" if of_host else "device"] += data
                os.write(device.stdin.fileno() if of_host else self.master, self.harm(data))
        device.kill()
        device.wait()
        for who, said in self.said.items():
            if self.record:
                Path(f"{self.record}.{who}").write_bytes(said)
        print(self.harmed, flush=True)

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def harm(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            dice = self.random.random()
            self.harmed += dice < self.rate
            if dice < 0.25 * self.rate:
                continue
            if dice < 0.5 * self.rate:
                byte ^= 1 << self.random.randrange(8)
            elif dice < 0.75 * self.rate:
                out.append(byte)
            elif dice < self.rate:
                time.sleep(0.001)
            out.append(byte)
        return bytes(out)


def main() -> None:
    relay = Relay(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
    signal.signal(signal.SIGUSR1, lambda *_: setattr(relay, "reset", True))
    signal.signal(signal.SIGTERM, lambda *_: setattr(relay, "stopped", True))
    relay.run()


if __name__ == "__main__":
    main()
