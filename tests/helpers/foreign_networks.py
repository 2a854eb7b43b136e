"""Small networks with the module names, normalizations and outputs of public code.

Each class or function is a factory as its users write it: it takes what it needs and knows nothing
of norms with branches.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

MEAN, STD = (0.45, 0.5, 0.4), (0.25, 0.2, 0.3)


class Wide(nn.Module):
    """TRADES' WideResNet: a block ``sub_block1`` is trained by nothing and used by nothing."""

    class Block(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
            self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
            self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
            self.convShortcut = nn.Conv2d(before, after, 1, bias=False)

        def forward(self, features):
            active = F.relu(self.bn1(features))
            output = self.conv2(F.relu(self.bn2(self.conv1(active))))
            return output + self.convShortcut(active)

    class Group(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.layer = nn.Sequential(Wide.Block(before, after))

        def forward(self, features):
            return self.layer(features)

    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 2, 3, padding=1, bias=False)
        self.block1, self.sub_block1 = Wide.Group(2, 4), Wide.Group(2, 4)
        self.bn1, self.fc = nn.BatchNorm2d(4), nn.Linear(4, num_classes)

    def forward(self, images):
        return self.fc(F.relu(self.bn1(self.block1(self.conv1(images)))).mean((2, 3)))


class ResNet(nn.Module):
    """The CIFAR ResNet of most code: ``shortcut.0``, ``linear``; with ``mu`` and ``sigma`` inside
    in RobustBench's."""

    class Block(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.conv1, self.bn1 = (
                nn.Conv2d(before, after, 3, 1, 1, bias=False),
                nn.BatchNorm2d(after),
            )
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after)
            )

        def forward(self, features):
            return F.relu(self.bn1(self.conv1(features)) + self.shortcut(features))

    def __init__(self, num_classes, in_channels=3, normalized=False):
        super().__init__()
        if normalized:
            self.register_buffer("mu", torch.tensor(MEAN).view(1, 3, 1, 1))
            self.register_buffer("sigma", torch.tensor(STD).view(1, 3, 1, 1))
        self.conv1, self.bn1 = nn.Conv2d(in_channels, 2, 3, 1, 1, bias=False), nn.BatchNorm2d(2)
        self.layer1 = nn.Sequential(ResNet.Block(2, 4))
        self.linear = nn.Linear(4, num_classes)

    def forward(self, images):
        if hasattr(self, "mu"):
            images = (images - self.mu) / self.sigma
        features = self.layer1(F.relu(self.bn1(self.conv1(images))))
        return self.linear(features.mean((2, 3)))


class InputNormalize(nn.Module):
    """MadryLab's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("new_mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("new_std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, images):
        return (images.clamp(0, 1) - self.new_mean) / self.new_std


class AttackerModel(nn.Module):
    """MadryLab's: holds the network twice and gives the images back beside the logits."""

    class Attacker(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.normalize, self.model = InputNormalize(), model

    def __init__(self, num_classes):
        super().__init__()
        self.normalizer, self.model = InputNormalize(), ResNet(num_classes)
        self.attacker = AttackerModel.Attacker(self.model)

    def forward(self, images):
        return self.model(self.normalizer(images)), images


class DeepMindWide(nn.Module):
    """DeepMind's WideResNet, as in RobustBench: ``mean`` and ``std`` are buffers of the network."""

    class Block(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.batchnorm_0 = nn.BatchNorm2d(before)
            self.conv_0 = nn.Conv2d(before, after, 3, 2, bias=False)
            self.shortcut = nn.Conv2d(before, after, 1, 2, bias=False)

        def forward(self, features):
            active = F.silu(self.batchnorm_0(features))
            return self.conv_0(F.pad(active, (0, 1, 0, 1))) + self.shortcut(active)

    class Group(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.block = nn.Sequential(DeepMindWide.Block(before, after))

        def forward(self, features):
            return self.block(features)

    def __init__(self, num_classes):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))
        self.init_conv = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        self.layer = nn.Sequential(DeepMindWide.Group(2, 4))
        self.batchnorm, self.logits = nn.BatchNorm2d(4), nn.Linear(4, num_classes)

    def forward(self, images):
        features = self.layer(self.init_conv((images - self.mean) / self.std))
        return self.logits(F.silu(self.batchnorm(features)).mean((2, 3)))


class NormalizeByChannelMeanStd(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))

    def forward(self, images):
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


def normalizer_first(num_classes):
    return nn.Sequential(NormalizeByChannelMeanStd(), ResNet(num_classes))


def normalized_by_name(num_classes):
    """RobustBench's ``normalize_model``."""
    parts = OrderedDict(normalize=NormalizeByChannelMeanStd(), model=ResNet(num_classes))
    return nn.Sequential(parts)


class SmallCNN(nn.Module):
    """TRADES' network for MNIST: no norm layer at all."""

    def __init__(self, num_classes, in_channels=1):
        super().__init__()
        convolution = nn.Conv2d(in_channels, 4, 3, 2)
        self.feature_extractor = nn.Sequential(OrderedDict(conv1=convolution, relu1=nn.ReLU()))
        self.classifier = nn.Sequential(OrderedDict(fc1=nn.Linear(4, num_classes)))

    def forward(self, images):
        return self.classifier(self.feature_extractor(images).amax((2, 3)))


class MobileNet(nn.Module):
    """Named as timm's MobileNets and EfficientNets."""

    def __init__(self, num_classes=1000):
        super().__init__()
        self.conv_stem, self.bn1 = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        block = OrderedDict(conv_dw=nn.Conv2d(4, 4, 3, 1, 1, groups=4, bias=False))
        block |= {"bn1": nn.BatchNorm2d(4), "act": nn.Hardswish()}
        self.blocks = nn.Sequential(nn.Sequential(nn.Sequential(block)))
        self.classifier = nn.Linear(4, num_classes)

    def forward(self, images):
        features = self.blocks(F.hardswish(self.bn1(self.conv_stem(images))))
        return self.classifier(features.mean((2, 3)))


class VisionTransformer(nn.Module):
    """Named as timm's: a class token, positions, layer norms; images of 8 x 8."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.mlp = nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4), nn.GELU())
            self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)

        def forward(self, tokens):
            query, key, value = self.qkv(self.norm1(tokens)).chunk(3, dim=-1)
            weights = (query @ key.transpose(1, 2) / 2).softmax(-1)
            return tokens + self.proj(weights @ value) + self.mlp(tokens)

    def __init__(self, num_classes):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 4))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, 4, 4, 4)))
        self.blocks, self.norm = nn.Sequential(VisionTransformer.Block()), nn.LayerNorm(4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images):
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), 1, 4), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


@dataclass
class ImageClassifierOutput:
    """As of Hugging Face's networks."""

    loss: torch.Tensor | None
    logits: torch.Tensor
    hidden_states: torch.Tensor


class HuggingFace(nn.Module):
    """Named as Hugging Face's ResNets; ``pixel_values`` to an object with ``logits``."""

    def __init__(self, num_labels):
        super().__init__()
        layer = OrderedDict(convolution=nn.Conv2d(3, 4, 3, 2, bias=False))
        layer["normalization"] = nn.BatchNorm2d(4)
        embedder = nn.Sequential(OrderedDict(embedder=nn.Sequential(layer)))
        self.resnet = nn.Sequential(OrderedDict(embedder=embedder))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, num_labels))

    def forward(self, pixel_values, labels=None):
        features = F.relu(self.resnet(pixel_values)).mean((2, 3))
        return ImageClassifierOutput(None, self.classifier(features), features)


class Dictionary(ResNet):
    """Gives {"logits": ..., "features": ...}, like much code for several tasks."""

    def forward(self, images):
        return {"features": images.flatten(1), "logits": super().forward(images)}


class TwoHeads(ResNet):
    """Gives the logits of two heads: nobody can tell which are meant."""

    def forward(self, images):
        logits = super().forward(images)
        return logits, -logits


class Perceptron(nn.Module):
    """For 8 x 6 pixels; BatchNorm1d."""

    def __init__(self, num_classes):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 8 * 6, 4), nn.BatchNorm1d(4), nn.ReLU(),
            nn.Linear(4, num_classes),
        )  # fmt: skip

    def forward(self, images):
        return self.net(images)
