"""Firmware in a flat folder with a Makefile: bare metal, or a process that is the device."""
