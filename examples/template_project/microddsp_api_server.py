"""A template: firmware that is a process on this computer, built with a Makefile of its own.

Instead of a process there may be a board: `build`, `flash` and the transport are all that changes.
"""

import shutil
import subprocess
from pathlib import Path

from microddsp.micro.project_api.server import (
    ProjectOption,
    ProjectServer,
    ServerInfo,
    TransportInfo,
    extract_sources,
    main,
    read_descriptor,
    write_descriptor,
)

HERE = Path(__file__).resolve().parent
# Of the runtime: the RPC server, and the port to a process.
RUNTIME = ("app.c", "rpc_*", "port.h", "port_buffer.*", "port_internal.h", "port_p*.c")

OPTIONS = (
    ProjectOption(
        "optimise", "-O of the compiler", "int", (0, 1, 2, 3), default=2, optional=("build",)
    ),
    ProjectOption(
        "heap", "bytes for tensors", "int", default=1 << 20, optional=("generate_project",)
    ),
    ProjectOption("verbose", "show the compiler's commands", "bool", optional=("build",)),
)
BOARD = {"name": "a-process", "target": "host", "clock_hz": 1_000_000_000}
BOARD_H = """#define BOARD_STACK_BYTES 1048576u
#define BOARD_HEAP_BYTES {heap}u
#define BOARD_LINK_IN 0
#define BOARD_LINK_OUT 1
"""


class Server(ProjectServer):
    device = None

    def server_info(self):
        is_template = not (HERE / "model.tar").is_file()
        return ServerInfo("example", is_template, "model.tar", OPTIONS, "firmware", BOARD)

    def generate_project(self, archive, runtime_dir, project_dir, options):
        for pattern in RUNTIME:
            for path in runtime_dir.glob(pattern):
                shutil.copy(path, project_dir)
        for name in (Path(__file__).name, "Makefile"):
            shutil.copy(HERE / name, project_dir)
        (project_dir / "board.h").write_text(BOARD_H.format(heap=options["heap"]))
        extract_sources(archive, project_dir)
        shutil.copy(archive, project_dir / "model.tar")

    def build(self, options):
        quiet = [] if options.get("verbose") else ["-s"]
        subprocess.run(["make", *quiet, f"OPT=-O{options['optimise']}"], cwd=HERE, check=True)

    def flash(self, options):
        pass

    def open_transport(self, options):
        self.device = subprocess.Popen(
            [HERE / "firmware"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        return TransportInfo()

    def close_transport(self):
        self.device.kill()
        self.device.communicate()

    def read_transport(self, n, timeout):
        return read_descriptor(self.device.stdout.fileno(), n, timeout)

    def write_transport(self, data, timeout):
        write_descriptor(self.device.stdin.fileno(), data, timeout)


if __name__ == "__main__":
    main(Server())
