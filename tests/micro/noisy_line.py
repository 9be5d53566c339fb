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
    doubled or delayed, each as often as the others)."""

    def __init__(self, *command: str | Path, rate: float, seed: int) -> None:
        device = map(str, command)
        self.relay = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, str(rate), str(seed), *device],
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
    def __init__(self, rate: float, seed: int, command: list[str]) -> None:
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
                to = device.stdin.fileno() if fd == self.master else self.master
                os.write(to, self.harm(os.read(fd, 4096)))
        device.kill()
        device.wait()
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
    relay = Relay(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    signal.signal(signal.SIGUSR1, lambda *_: setattr(relay, "reset", True))
    signal.signal(signal.SIGTERM, lambda *_: setattr(relay, "stopped", True))
    relay.run()


if __name__ == "__main__":
    main()
