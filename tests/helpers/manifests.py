"""Manifests of checkpoints, changed by a test as if they had been written so."""

import json
from pathlib import Path

from robustnorm.runs.checkpoint import manifest_bytes


def rewrite_manifest(path: Path, **changes):
    """Replaces keys of a manifest; its own hash fits the new content."""
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    path.write_bytes(manifest_bytes(content | changes))
