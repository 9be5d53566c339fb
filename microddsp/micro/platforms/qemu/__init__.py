"""Bare-metal firmware for QEMU's boards."""
