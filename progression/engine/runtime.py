"""OpenVINO's runtime, imported without its telemetry.

`import openvino` reports each import to its maker over the network, unless the package `openvino_telemetry` cannot be
found. What handles patients' pictures opens no connection, so it is not found here.
"""

from __future__ import annotations

import sys

from progression.errors import import_extra

_TELEMETRY = "openvino_telemetry"

__all__ = ["op", "ov"]

_found = sys.modules.get(_TELEMETRY)
sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
try:
    import_extra("openvino", feature="engine openvino", extra="fast")
    import openvino as ov
    from openvino import opset13 as op
finally:
    del sys.modules[_TELEMETRY]
    if _found is not None:
        sys.modules[_TELEMETRY] = _found
