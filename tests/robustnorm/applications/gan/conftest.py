"""Shared by the tests of the GANs: few digits, and measures of them."""

import pytest
import torch
from gan_cases import CONFIG, CPU

from robustnorm.applications.gan.features import trained_classifier
from robustnorm.applications.gan.measures import Measures
from robustnorm.data.dataset import Dataset
from robustnorm.data.digits import load_digits


@pytest.fixture(scope="module")
def digits():
    dataset = load_digits()
    train_part = dataset.train.take(torch.arange(20 * CONFIG.batch_size))
    return Dataset(
        dataset.name,
        dataset.classes,
        train_part,
        dataset.test.take(torch.arange(50)),
        dataset.augmentation,
        dataset.sha256,
    )


@pytest.fixture(scope="module")
def measures(digits, tmp_path_factory):
    features = trained_classifier(digits, CONFIG, CPU, tmp_path_factory.mktemp("classifier"))
    return Measures(features, digits, images=CONFIG.eval_images, latent_dim=CONFIG.latent_dim)
