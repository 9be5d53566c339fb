"""torch.export to Relax: capture, state lifting, guards."""

from microddsp.frontend.capture import Capture, StateSpec, capture

__all__ = ["Capture", "StateSpec", "capture"]
