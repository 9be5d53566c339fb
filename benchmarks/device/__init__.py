"""What jobs cost on a device: ours and other libraries' in one harness."""
