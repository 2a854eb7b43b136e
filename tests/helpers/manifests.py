"""Changes manifests of checkpoints as if they had been written that way."""

import json
from pathlib import Path

from robustnorm.runs.checkpoint import manifest_bytes


def rewrite_manifest(path: Path, **changes):
    """Replaces keys of a manifest and updates its hash."""
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    path.write_bytes(manifest_bytes(content | changes))
