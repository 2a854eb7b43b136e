import copy
import io
import itertools
from dataclasses import asdict, replace
from fractions import Fraction

import pytest
import torch
from tiny_network import tiny
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from robustnorm import bind, route
from robustnorm.attacks import pgd
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.search import Search
from robustnorm.norms import NORMS
from robustnorm.norms.routing import routed_layers
from robustnorm.settings.config import Config
from robustnorm.system.stopping import WITHIN
from robustnorm.training import advprop
from robustnorm.training.advprop import train, validate
from robustnorm.training.losses import AdvProp
from robustnorm.training.progress import NonFiniteLossError, Position, TrainingStopped

CONFIG = Config(
    name="test",
    norm="saauxbn",
    width=4,
    epochs=2,
    batch_size=16,
    epsilon=Fraction("0.1"),
    step_size=Fraction("0.05"),
    train_steps=3,
    validation_steps=2,
    channels_last=False,
)
SEARCH = Search.of(CONFIG, (CONFIG.validation_steps,))


def make_model(norm="saauxbn", seed=0):
    torch.manual_seed(seed)
    return tiny(norm, num_classes=3, in_channels=1)


def make_split(n=40):
    generator = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % 3
    images = torch.randint(0, 100, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images[torch.arange(n), 0, labels] += 100  # row k is bright in class k
    return Split(images, labels)


def make_batch():
    split = make_split(16)
    return split.images / 255, split.labels


def make_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)


def run(model, config=CONFIG, optimizer=None, padding=1, **options):
    return list(
        train(
            model,
            make_split(),
            make_split(12),
            config=config,
            augmentation=Augmentation(padding=padding),
            optimizer=optimizer or make_optimizer(model),
            **options,
        )
    )


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("norm", "threat_model"), [*((norm, "linf") for norm in NORMS), ("saauxbn", "l2")]
)
def test_losses_are_those_of_one_forward_a_branch(norm, threat_model):
    """Written out: attack through adv in train mode, then two forwards of two batches."""
    images, labels = make_batch()
    model, reference = make_model(norm), make_model(norm)
    config = replace(CONFIG, threat_model=threat_model)
    clean_loss, adv_loss = AdvProp(model, config).losses(images, labels, seeded())
    adv_images = pgd(
        bind(reference, "adv"),
        images,
        labels,
        epsilon=0.1,
        step_size=0.05,
        steps=3,
        threat_model=threat_model,
        generator=seeded(),
    )
    expected_clean = F.cross_entropy(bind(reference, "clean")(images), labels)
    expected_adv = F.cross_entropy(bind(reference, "adv")(adv_images), labels)
    assert torch.equal(clean_loss, expected_clean)
    assert torch.equal(adv_loss, expected_adv)
    (clean_loss + adv_loss).backward()
    (expected_clean + expected_adv).backward()
    for mine, its in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine.grad, its.grad)
    state = reference.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("mode", "adv_batches"), [("batch", 1), ("eval", 1), ("batch-update", 1 + 3)]
)
def test_attack_norm_mode_moves_the_running_statistics_it_should(mode, adv_batches):
    model = make_model()
    config = replace(CONFIG, attack_norm_mode=mode)
    AdvProp(model, config).losses(*make_batch(), seeded())
    for layer in routed_layers(model):
        assert layer.num_batches_tracked.tolist() == [1, adv_batches]


@pytest.mark.parametrize(
    ("mode", "expected"), [("batch", True), ("batch-update", True), ("eval", False)]
)
def test_attack_norm_mode_sets_the_mode_of_the_attack_only(mode, expected):
    model = make_model()
    model[5].eval()  # frozen by the caller: must be found so afterwards
    modes = [module.training for module in model.modules()]
    seen = []
    model[1].register_forward_pre_hook(lambda *_: seen.append(model[2].training))
    config = replace(CONFIG, attack_norm_mode=mode)
    AdvProp(model, config).losses(*make_batch(), seeded())
    assert seen == [expected] * 3 + [True, True]
    assert [module.training for module in model.modules()] == modes


def test_control_sees_clean_images_on_the_clean_branch_only():
    model = make_model()
    config = replace(CONFIG, adversarial=False)
    images, labels = make_batch()
    expected = F.cross_entropy(bind(copy.deepcopy(model), "clean")(images), labels)
    clean_loss, adv_loss = AdvProp(model, config).losses(images, labels)
    assert adv_loss is None
    assert torch.equal(clean_loss, expected)
    assert all(layer.num_batches_tracked.tolist() == [1, 0] for layer in routed_layers(model))


def test_bf16_losses_are_near_those_of_fp32():
    images, labels = make_batch()
    config = replace(CONFIG, precision="bf16")
    low = AdvProp(make_model(), config).losses(images, labels, seeded())
    high = AdvProp(make_model(), CONFIG).losses(images, labels, seeded())
    for mine, its in zip(low, high, strict=True):
        assert mine.dtype == torch.float32
        assert not torch.equal(mine, its)
        torch.testing.assert_close(mine, its, rtol=0.05, atol=0)  # 2^-8 a layer, some 20 layers


@pytest.mark.parametrize("norm", NORMS)
def test_training_learns(norm):
    config = replace(CONFIG, norm=norm, epochs=12, learning_rate=0.05)
    records = run(make_model(norm), config, padding=0)  # a row moved is a class changed
    assert [record.epoch for record in records] == list(range(1, 13))
    assert records[-1].clean_loss < 0.3 * records[0].clean_loss
    assert records[-1].adv_loss < 0.6 * records[0].adv_loss
    assert set(records[0].validation) == (
        {"single"} if norm in ("bn", "modenorm") else {"clean", "adv"}
    )


def test_training_is_reproducible_and_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    models = [make_model(), make_model()]
    torch.set_rng_state(before)
    for model in models:
        run(model)
    assert torch.equal(torch.get_rng_state(), before)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_continued_training_equals_uninterrupted_training():
    config = replace(CONFIG, epochs=3)
    whole = make_model()
    records = run(whole, config)

    model = make_model()
    optimizer = make_optimizer(model)
    epochs = train(
        model,
        make_split(),
        make_split(12),
        config=config,
        augmentation=Augmentation(padding=1),
        optimizer=optimizer,
    )
    next(epochs)
    later = run(model, config, optimizer, position=Position(epoch=1))
    assert [record.clean_loss for record in later] == [r.clean_loss for r in records[1:]]
    assert [record.validation for record in later] == [r.validation for r in records[1:]]
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def stopping_at(step):
    """Returns True at the given call between two steps, counted from 1."""
    asked = itertools.count(1)
    return lambda seconds: seconds >= 0 and next(asked) == step


def test_stopped_training_tells_its_position_and_reads_the_losses_so_far():
    losses, config = [], replace(CONFIG, epsilon=Fraction("0.02"), step_size=Fraction("0.01"))
    for step in (1, 3):  # two steps an epoch
        with pytest.raises(TrainingStopped, match="after step 1") as stop:
            run(make_model(), config, should_stop=stopping_at(step))
        position = stop.value.position
        assert (position.epoch, position.step) == ((step - 1) // 2, 1)
        assert position.seconds > 0
        losses.append(position.losses[0])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx([1.1, 1.1], abs=0.7)  # log 3, before anything is learned


def test_validation_is_announced_by_the_seconds_that_the_last_one_took():
    announced = []
    run(make_model(), should_stop=lambda seconds: announced.append(seconds))
    announced = [seconds for seconds in announced if seconds != WITHIN]
    assert announced[:3] == [0.0, 0.0, 0.0]  # none has been measured before the second epoch's
    assert announced[3] > 0


def test_loss_that_is_not_finite_is_not_taken_for_a_position():
    model = make_model()
    model[-1].register_forward_pre_hook(lambda _, inputs: (inputs[0] * torch.nan,))
    with pytest.raises(NonFiniteLossError, match="from step 1 of epoch 1 on"):
        run(model, should_stop=stopping_at(1))


def test_followed_test_images_are_measured_and_change_nothing():
    plain, followed = make_model(), make_model()
    without = run(plain)
    with_test = list(
        train(
            followed,
            make_split(),
            make_split(12),
            config=CONFIG,
            augmentation=Augmentation(padding=1),
            optimizer=make_optimizer(followed),
            test=make_split(12),
        )
    )
    for record, other in zip(with_test, without, strict=True):
        assert record.test == record.validation == other.validation  # the same images
        assert other.test == {}
    state = plain.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in followed.state_dict().items())


def test_mean_loss_gives_half_the_gradient_of_the_sum():
    gradients = {}
    for loss in ("sum", "mean"):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        config = replace(CONFIG, loss=loss, epochs=1, batch_size=40)
        run(model, config, optimizer)
        gradients[loss] = [parameter.grad for parameter in model.parameters()]
    for total, mean in zip(gradients["sum"], gradients["mean"], strict=True):
        torch.testing.assert_close(mean, total / 2, rtol=1e-5, atol=1e-8)  # one rounding


def test_gradient_clipping_bounds_the_norm():
    model = make_model()
    run(model, replace(CONFIG, epochs=1, batch_size=40, gradient_clipping=0.01))
    norm = nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
    assert norm <= 0.01 * (1 + 1e-5)  # float32


def test_compiled_training_equals_eager_training(monkeypatch):
    compile_eagerly = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_eagerly(model, backend="eager"))
    config = replace(CONFIG, epochs=1, batch_size=20)
    eager, compiled = make_model(), make_model()
    run(eager, config)
    run(compiled, replace(config, compile=True))
    state = eager.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in compiled.state_dict().items())


def test_non_finite_loss_names_epoch_and_step():
    model = make_model()
    calls = []

    def poison(module, inputs):
        calls.append(1)
        # A step is three forwards of the attack and two of the losses: the tenth is step two's.
        return (inputs[0] * torch.nan,) if len(calls) >= 10 else None

    model[-1].register_forward_pre_hook(poison)
    with pytest.raises(NonFiniteLossError, match="from step 2 of epoch 1 on"):
        run(model)


def test_bar_counts_images_and_shows_losses():
    with tqdm(total=64, disable=False, file=io.StringIO()) as bar:
        run(make_model(), bar=bar)
        assert bar.n == 64
        assert bar.desc.startswith("epoch 2/2")
        assert bar.postfix.startswith("clean ")


def test_validation_equals_a_plain_attack():
    model = make_model().eval()
    split = make_split(12)
    found = validate(model, split, SEARCH)
    images = split.images / 255
    for branch in ("clean", "adv"):
        with torch.no_grad(), route(model, branch):
            logits = model(images)
        assert found[branch].sa == pytest.approx(
            (logits.argmax(1) == split.labels).float().mean().item()
        )
        assert found[branch].clean_loss == pytest.approx(
            F.cross_entropy(logits, split.labels).item(), rel=1e-5
        )
        assert found[branch].adv_loss > found[branch].clean_loss
        assert found[branch].ra <= found[branch].sa


def test_validation_of_several_chunks_at_once_equals_one_by_one(monkeypatch):
    model, split = make_model().eval(), make_split(250)
    expected = validate(model, split, SEARCH)
    sizes = []

    def watched(attacked, images, *arguments):
        sizes.append(len(images))
        return attack_chunk(attacked, images, *arguments)

    monkeypatch.setattr(advprop, "attack_chunk", watched)
    monkeypatch.setattr(advprop, "images_at_once", lambda *_: 200)
    found = validate(model, split, SEARCH)
    assert sizes == [200, 50]
    for branch, values in expected.items():
        # Kernels for other sizes may round otherwise, and so change one verdict of 250.
        assert asdict(found[branch]) == pytest.approx(asdict(values), rel=1e-3, abs=0.005)
