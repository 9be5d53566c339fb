"""Firmware projects: a folder with a model in it that a person can read and `make` can build."""

from microddsp.micro.platforms.flash import flash_project
from microddsp.micro.platforms.platform import (
    PLATFORMS,
    Platform,
    check_options,
    find_platform,
)
from microddsp.micro.platforms.project import (
    Project,
    build_project,
    create_project,
    generate_project,
    read_project,
)
from microddsp.micro.platforms.self_test import ProjectReport, run_project

__all__ = [
    "PLATFORMS",
    "Platform",
    "Project",
    "ProjectReport",
    "build_project",
    "check_options",
    "create_project",
    "find_platform",
    "flash_project",
    "generate_project",
    "read_project",
    "run_project",
]
