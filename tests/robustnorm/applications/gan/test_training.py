"""A GAN's training: steps computed by hand, and kills that change no bit."""

import copy
import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from gan_cases import CONFIG, CPU, start

from robustnorm import route
from robustnorm.applications.gan.losses import discriminator_loss, generator_loss
from robustnorm.applications.gan.measures import Measures, balanced_labels, generate
from robustnorm.applications.gan.record import GanRecord
from robustnorm.applications.gan.run import GanRun, folder_of, train_gan
from robustnorm.applications.gan.train import train, window_means
from robustnorm.data.dataset import Split
from robustnorm.data.digits import load_digits
from robustnorm.runs.checkpoint import load_checkpoint
from robustnorm.settings.gan import GanSettings
from robustnorm.system.errors import UsageError
from robustnorm.system.stopping import Stopped, never


def in_folder(folder, **changes):
    values = {"output": str(folder / "checkpoints"), "reports": str(folder / "reports")}
    return GanSettings(**{**vars(CONFIG), **values, **changes})


def advance(state, digits, first, last, config=CONFIG):
    steps = train(state, digits.train, config, seed=3, num_classes=10, first=first)
    for step in itertools.takewhile(lambda step: step < last, steps):
        assert step > first


def test_step_is_the_hinge_losses_and_two_adams(digits):
    config = GanSettings(**{**vars(CONFIG), "discriminator_steps": 1, "steps": 1, "keep_steps": ()})
    state = start(config)
    generator, discriminator = (copy.deepcopy(p) for p in (state.generator, state.discriminator))
    seen = []
    hook = state.generator.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    routed = []
    norm = state.generator.block1.norm1
    norm.register_forward_pre_hook(
        lambda layer, inputs: routed.append(layer.selection(len(*inputs)))
    )
    real = []
    state.discriminator.register_forward_pre_hook(lambda _m, inputs: real.append(inputs))
    advance(state, digits, 0, 2, config)
    hook.remove()

    adam = partial(torch.optim.Adam, lr=config.learning_rate, betas=config.betas)
    for_generator, for_discriminator = (
        adam(generator.parameters()),
        adam(discriminator.parameters()),
    )
    with torch.no_grad(), route(generator, routed[0]):
        fakes = generator(seen[0])
    images, labels = real[0]
    half = config.batch_size
    assert torch.equal(labels[half:], routed[0])
    torch.testing.assert_close(images[half:], fakes)
    scores = discriminator(images, labels)
    loss = discriminator_loss(scores[:half], scores[half:])
    assert loss.item() == pytest.approx(state.losses[1, 0].item(), abs=1e-6)
    loss.backward()
    for_discriminator.step()
    with route(generator, routed[1]):
        loss = generator_loss(discriminator(generator(seen[1]), routed[1]))
    assert loss.item() == pytest.approx(state.losses[0, 0].item(), abs=1e-6)
    loss.backward()
    for_generator.step()
    for own, expected in ((state.generator, generator), (state.discriminator, discriminator)):
        for name, value in own.named_parameters():
            # A step of Adam is at most 2e-4 long, whatever the gradient: a small one may round.
            torch.testing.assert_close(
                value, expected.get_parameter(name), atol=2e-6, rtol=0, msg=name
            )


def test_batches_are_of_the_sizes_asked_for_and_labels_of_fakes_uniform(digits):
    state, sizes, labels = start(), [], []
    state.generator.register_forward_pre_hook(lambda _m, inputs: sizes.append(len(inputs[0])))
    state.discriminator.register_forward_pre_hook(lambda _m, inputs: labels.append(inputs[1]))
    advance(state, digits, 0, CONFIG.steps + 1)
    assert sizes == [8, 8, 10] * CONFIG.steps
    counts = torch.bincount(torch.cat(labels), minlength=10)
    assert counts.min() > 0


def test_every_real_image_is_seen_once_in_an_epoch(digits):
    config = GanSettings(**{**vars(CONFIG), "steps": 10})  # two batches of 8 of 160 a step
    state, seen = start(config), []
    state.discriminator.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    advance(state, digits, 0, 11, config)
    real = torch.cat([images[:8] for images in seen if len(images) == 16])
    pixels = ((real + 1) / 2 * 255).round().to(torch.uint8)
    rows = sorted(map(tuple, pixels.flatten(1).tolist()))
    assert rows == sorted(map(tuple, digits.train.images.flatten(1).tolist()))


def test_state_restored_after_any_step_goes_on_to_the_same_bits(digits):
    whole, part = start(), start()
    advance(whole, digits, 0, CONFIG.steps + 1)
    advance(part, digits, 0, 4)
    torch.manual_seed(123)  # the global state has no part in it
    resumed = start()
    assert not torch.equal(resumed.losses, part.losses)
    resumed.load_state_dict(copy.deepcopy(part.state_dict()))
    done = int((part.losses[0] != 0).sum())
    advance(resumed, digits, done, CONFIG.steps + 1)
    expected = whole.state_dict()
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("network", ["sngan", "biggan", "autogan"])
def test_stopped_run_continues_to_the_same_bits(digits, measures, tmp_path, network):
    run = GanRun(network, "sabn", 1)
    asked = itertools.count(1)
    records, weights = [], []
    for name in ("whole", "stopped"):
        config = in_folder(tmp_path / name)
        arguments = (config, run, digits, lambda: measures, CPU)
        if name == "stopped":
            with pytest.raises(Stopped, match="after step 2 of 6"):
                train_gan(*arguments, lambda _seconds: next(asked) == 2)
        records.append(train_gan(*arguments, never).record)
        weights.append(load_checkpoint(folder_of(config, run), "last").tensors)
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    # The time is not part of the result, but the file holds it, too.
    assert replace(records[0], seconds=0.0, sha256="") == replace(
        records[1], seconds=0.0, sha256=""
    )
    assert [entry["step"] for entry in records[0].measured] == [3, 6]


def test_killed_run_goes_on_from_what_was_saved_to_the_same_bits(digits, measures, tmp_path):
    run, weights = GanRun("sngan", "ccbn", 1), []
    asked = itertools.count(1)

    def killed(_seconds):
        if next(asked) == 5:  # of 6 steps, measured and saved after the third, kept the fourth
            raise KeyboardInterrupt
        return False

    for name in ("whole", "killed"):
        config = in_folder(tmp_path / name)
        arguments = (config, run, digits, lambda: measures, CPU)
        if name == "killed":
            with pytest.raises(KeyboardInterrupt):
                train_gan(*arguments, killed)
            assert load_checkpoint(folder_of(config, run), "last").manifest["step"] == 3
        train_gan(*arguments, never)
        tags = ("last", "best", "step4")
        weights.append({tag: load_checkpoint(folder_of(config, run), tag).tensors for tag in tags})
    for tag, tensors in weights[0].items():
        for name, value in tensors.items():
            assert torch.equal(value, weights[1][tag][name]), (tag, name)


def test_record_holds_what_the_table_and_the_figures_need(digits, measures, tmp_path):
    config = in_folder(tmp_path)
    finished = train_gan(config, GanRun("sngan", "ccbn", 0), digits, lambda: measures, CPU, never)
    record = finished.record
    assert record.at("last")["step"] == config.steps
    assert record.best in (3, 6)
    assert set(record.features) >= {"accuracy", "sha256"}
    assert len(record.losses) == config.steps
    stages = ["linear", "block1", "block2", "block3", "output"]
    assert [(g.step, g.reading, [s.stage for s in g.stages]) for g in record.gradients] == [
        (4, "single samples", stages),
        (4, "class batches", stages),
    ]
    assert finished.images.shape == (6, 10, 1, 8, 8)
    assert finished.images.dtype == torch.uint8
    record.save(tmp_path / "record.json")
    assert GanRecord.load(tmp_path / "record.json") == record
    best = load_checkpoint(folder_of(config, GanRun("sngan", "ccbn", 0)), "best")
    assert best.manifest["step"] == record.best


def test_run_whose_gradients_cannot_be_compared_is_recorded(digits, measures, tmp_path, caplog):
    # Of one class, so that there is nothing to compare.
    train_part, test = (
        Split(split.images, torch.zeros_like(split.labels)) for split in (digits.train, digits.test)
    )
    one = replace(digits, classes=("0",), train=train_part, test=test)
    of_one = Measures(measures.features, one, images=40, latent_dim=CONFIG.latent_dim)
    run = GanRun("sngan", "ccbn", 0)
    with caplog.at_level("WARNING", logger="robustnorm"):
        record = train_gan(in_folder(tmp_path), run, one, lambda: of_one, CPU, never).record
    assert record.gradients == []
    assert record.at("last")["step"] == 6
    assert "sngan-ccbn-seed0 is left out of Figure 2: at step 4 (single samples)" in caplog.text


def test_folder_of_a_run_with_other_settings_is_refused(digits, measures, tmp_path):
    run = GanRun("sngan", "ccbn", 0)
    arguments = (run, digits, lambda: measures, CPU, never)
    train_gan(in_folder(tmp_path, steps=1, keep_steps=()), *arguments)
    with pytest.raises(UsageError, match=r"other settings .*latent_dim 6 there"):
        train_gan(in_folder(tmp_path, steps=1, keep_steps=(), latent_dim=7), *arguments)


def test_running_mean_by_hand():
    state = start()
    parameter, mean = next(state.generator.parameters()), next(state.average.parameters())
    with torch.no_grad():
        parameter.fill_(1.0)
        mean.fill_(0.0)
    for _ in range(3):
        state.update_average(0.9)
    assert mean.flatten()[0].item() == pytest.approx(1 - 0.9**3, abs=1e-6)
    norm = state.generator.block1.norm1
    norm.running_mean.fill_(7.0)
    state.update_average(0.9)  # running statistics are copied
    assert state.average.block1.norm1.running_mean[0] == 7
    state.update_average(0.0)
    assert torch.equal(mean, parameter)
    assert not state.average.training
    assert not any(p.requires_grad for p in state.average.parameters())


def test_running_mean_is_the_generator_before_its_first_step(digits):
    config = GanSettings(**{**vars(CONFIG), "average": 0.999, "average_from": 4})
    state = start(config)
    steps = train(state, digits.train, config, seed=0, num_classes=10)

    def alike():
        pairs = zip(state.average.parameters(), state.generator.parameters(), strict=True)
        return all(torch.equal(*pair) for pair in pairs)

    assert [alike() for _ in steps] == [True] * 4 + [False] * 2


def test_loss_that_is_not_finite_ends_the_training(digits):
    state = start()
    with torch.no_grad():
        next(state.generator.parameters()).fill_(float("nan"))
    with pytest.raises(UsageError, match="not finite at step 1"):
        advance(state, digits, 0, 2)


def test_window_means_by_hand():
    losses = torch.tensor([[1.0, 3, 5, 7, 0], [2.0, 2, 4, 4, 0]])
    assert window_means(losses, 4, windows=3) == [
        {"step": 2, "generator": 2, "discriminator": 2},
        {"step": 4, "generator": 6, "discriminator": 4},
    ]


@pytest.mark.slow
def test_conditional_generator_learns_its_labels():
    dataset = load_digits()
    config = GanSettings(
        data="digits",
        image_size=8,
        width=16,
        discriminator_width=32,
        latent_dim=16,
        steps=200,
        discriminator_steps=1,
        batch_size=64,
        generator_batch=64,
        learning_rate=2e-3,
        average=0.9,
    )
    state = start(config)
    for _ in train(state, dataset.train, config, seed=0, num_classes=10):
        pass
    labels = balanced_labels(500, 10, 0)
    latents = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    images = generate(state.average, latents, labels)
    # Judged by the nearest mean image of a class, which is right for 9 of 10 real digits.
    real, classes = dataset.train.images.float().flatten(1), dataset.train.labels
    means = torch.stack([real[classes == label].mean(0) for label in range(10)])
    judged = torch.cdist(dataset.test.images.float().flatten(1), means).argmin(1)
    assert (judged == dataset.test.labels).float().mean() > 0.85
    correct = (torch.cdist(images.float().flatten(1), means).argmin(1) == labels).float().mean()
    # Chance is 0.1, five standard errors above it 0.17; two seeds gave 0.62 and 0.93.
    assert correct > 0.2
