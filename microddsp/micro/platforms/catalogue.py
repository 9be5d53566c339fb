"""Which platforms there are."""

from __future__ import annotations

from microddsp.errors import BoardError, nearest
from microddsp.micro.platforms.bare.platform import HOST, QEMU, SERIAL
from microddsp.micro.platforms.platform import Platform
from microddsp.micro.platforms.standalone.platform import STANDALONE
from microddsp.micro.platforms.zephyr.platform import ZEPHYR

PLATFORMS: dict[str, Platform] = {
    platform.name: platform for platform in (QEMU, HOST, SERIAL, ZEPHYR, STANDALONE)
}


def find_platform(name: str) -> Platform:
    """The platform of that name.

    Raises:
        BoardError: There is none; the hint names the nearest.
    """
    if name == "template":
        raise BoardError(
            "a template is found by its folder",
            hint="--template-dir DIR, platform=Template(folder)",
        )
    if name not in PLATFORMS:
        raise BoardError(f"unknown platform {name!r}", hint=nearest(name, [*PLATFORMS, "template"]))
    return PLATFORMS[name]
