"""Firmware projects: a folder with models in it that a person can read and usual tools build."""

from microddsp.micro.platforms.catalogue import PLATFORMS, find_platform
from microddsp.micro.platforms.platform import (
    BuiltIn,
    Option,
    Platform,
    Project,
    check_options,
)
from microddsp.micro.platforms.project import (
    build_project,
    create_project,
    flash_project,
    platform_of,
    read_project,
    with_options,
)
from microddsp.micro.platforms.template import TEMPLATE, Template

__all__ = [
    "PLATFORMS",
    "TEMPLATE",
    "BuiltIn",
    "Option",
    "Platform",
    "Project",
    "Template",
    "build_project",
    "check_options",
    "create_project",
    "find_platform",
    "flash_project",
    "platform_of",
    "read_project",
    "with_options",
]
