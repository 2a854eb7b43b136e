"""Inception's features from torch-fidelity; the published weights are too large for a test."""

import hashlib
import subprocess
import sys

import pytest
import torch

from robustnorm.applications.gan import inception
from robustnorm.applications.gan.inception import InceptionFeatures
from robustnorm.system.errors import RefusedFileError, UsageError

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the packages themselves, as they are imported
def test_features_are_those_of_torch_fidelity(tmp_path, monkeypatch, torchvision_library):
    extractor = inception._extractor()
    module = sys.modules[extractor.__module__]
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_a, **_k: {})
        patch.setattr(extractor, "load_state_dict", lambda *_a: None)
        theirs = extractor("inception", ["2048", "logits_unbiased"])
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(RefusedFileError, match=f"SHA-256 {digest[:8]}.*have 6726825d"):
        InceptionFeatures(path, CPU)
    monkeypatch.setattr(inception, "SHA256", digest[:8])
    own = InceptionFeatures(path, CPU)
    images = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    seen = own(images)
    features, logits = theirs(images.expand(-1, 3, -1, -1))
    assert torch.equal(seen.features, features)
    assert torch.equal(seen.logits, logits)
    assert own.description["sha256"] == digest


def test_file_that_is_missing_or_holds_more_than_weights_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"cannot be read .*--inception_weights"):
        InceptionFeatures(tmp_path / "none.pth", CPU)
    path = tmp_path / "code.pth"
    torch.save({"code": subprocess.run}, path)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    with pytest.raises(RefusedFileError, match="contains more than weights"):
        InceptionFeatures(path, CPU)


@pytest.mark.slow
def test_import_beside_a_torch_for_the_cpu_takes_no_help():
    """In a separate process, since torchvision's first import decides."""
    code = "from robustnorm.applications.gan.inception import _extractor; print(_extractor())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert "FeatureExtractorInceptionV3" in done.stdout
