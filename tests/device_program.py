"""A `main` of one's own with models, run on QEMU: files in, files out, a status back."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import jinja2

import microddsp.micro.cycles.load as load
from microddsp.micro.boards import find_board
from microddsp.micro.package.model import CompiledModel
from microddsp.micro.package.objects import compile_c
from microddsp.micro.rpc.start import qemu_command

_FRAME = r"""
#include <stdint.h>
extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];
int main(void);
void reset_handler(void);
uint32_t device_call(uint32_t operation, const uint32_t *arguments);
void device_move(uint32_t operation, const char *path, void *data, uint32_t nbytes);
static void leave(uint32_t status)
{
    const uint32_t arguments[2] = {0x20026u, status};
    (void)device_call(0x20u, arguments);
    for (;;) { }
}
static void fault(void) { leave(99u); }
__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, (void *)reset_handler, (void *)fault, (void *)fault,
    (void *)fault, (void *)fault, (void *)fault, (void *)fault};
uint32_t device_call(uint32_t operation, const uint32_t *arguments)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const uint32_t *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
void device_move(uint32_t operation, const char *path, void *data, uint32_t nbytes)
{
    uint32_t length = 0u;
    while (path[length] != 0) { ++length; }
    const uint32_t open[3] = {(uint32_t)path, (operation == 6u) ? 1u : 5u, length};
    const uint32_t file = device_call(1u, open);
    const uint32_t move[3] = {file, (uint32_t)data, nbytes};
    if ((file == UINT32_MAX) || (device_call(operation, move) != 0u)) { leave(98u); }
}
__attribute__((noipa)) static void run(void) { leave((uint32_t)main()); }
void reset_handler(void)
{
    const uint32_t *from = data_load;
    *(volatile uint32_t *)0xe000ed88u |= 0xf00000u;
    __asm__ volatile("dsb\n\tisb");
    for (uint32_t *to = data_start; to < data_end; ++to) { *(volatile uint32_t *)to = *from++; }
    for (uint32_t *to = bss_start; to < bss_end; ++to) { *(volatile uint32_t *)to = 0u; }
    run();
}
"""
_READ = """
void device_move(unsigned long operation, const char *path, void *data, unsigned long nbytes);
#define READ(data) device_move(6u, "in.bin", data, sizeof(data))
#define WRITE(data) device_move(5u, "out.bin", data, sizeof(data))
"""
_HOST = """
#include <stdio.h>
#include <stdlib.h>
#define READ(data) if (fread(data, 1, sizeof(data), fopen("in.bin", "rb")) != sizeof(data)) exit(98)
#define WRITE(data) do { FILE *f = fopen("out.bin", "wb"); \\
    fwrite(data, 1, sizeof(data), f); fclose(f); } while (0)
"""


def _write(folder: Path, models: Sequence[CompiledModel], main: str, head: str) -> list[Path]:
    for model in models:
        for name, text in model.sources.items():
            (folder / name).write_text(text)
    (folder / "main.c").write_text(head + main)
    return [folder / "main.c", *(folder / f"{model.name}.c" for model in models)]


def run_on_device(folder: Path, models: Sequence[CompiledModel], main: str, given: bytes) -> bytes:
    """Run `main`, which reads `given` with READ(array) and answers with WRITE(array)."""
    board = find_board("mps2-an386")
    (folder / "in.bin").write_bytes(given)
    (folder / "frame.c").write_text(_FRAME)
    script = Path(load.__file__).with_name("link.ld.j2").read_text()
    (folder / "link.ld").write_text(jinja2.Template(script).render(board=board))
    image = compile_c(
        models[0].target,
        [*_write(folder, models, main, _READ), folder / "frame.c"],
        folder / "device.elf",
        ["-std=gnu11", "-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections", "-w"]
        + [f"-T{folder / 'link.ld'}", "-Wl,--no-warn-rwx-segments"],
        ["-lm"],
    )
    command = qemu_command(board, image)
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, timeout=300, check=False)
    assert done.returncode == 0
    return (folder / "out.bin").read_bytes()


def run_on_host(folder: Path, models: Sequence[CompiledModel], main: str, given: bytes) -> bytes:
    """The same on this computer, with the sanitisers."""
    (folder / "in.bin").write_bytes(given)
    files = _write(folder, models, main, _HOST)
    flags = "-std=c99 -O1 -ffp-contract=off -fsanitize=address,undefined".split()
    build = ["gcc", *flags, *map(str, files), "-o", "main", "-lm"]
    subprocess.run(build, cwd=folder, check=True)
    done = subprocess.run([folder / "main"], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "out.bin").read_bytes()
