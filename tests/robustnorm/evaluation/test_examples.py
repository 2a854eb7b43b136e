import base64
import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from robustnorm import bind, evaluate
from robustnorm.attacks import pgd
from robustnorm.evaluation.examples import encode_png, make_examples
from robustnorm.evaluation.search import Search, random_start
from robustnorm.settings.groups import BranchAttack

SEARCH = Search(3 / 16, 3 / 64, (5,))


def decode_png(text):
    """Returns the bytes (H, W, C) of a result of ``encode_png``."""
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
        values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values


@pytest.fixture(scope="module")
def case(trained):
    model, images, labels = trained("auxbn")
    ids = torch.arange(120, 60, -1)  # not from 0, not ascending
    settings = SEARCH._asdict()
    del settings["branch_attacks"]
    verdicts = evaluate(model, images[ids], labels[ids], image_ids=ids, **settings)
    examples = make_examples(
        model, images[ids], labels[ids], verdicts, image_ids=ids, search=SEARCH
    )
    return model, images, labels, ids, verdicts, examples


def test_examples_are_eight_a_branch_correct_when_clean_and_of_many_classes(case):
    model, images, labels, ids, _, examples = case
    assert [e.answer for e in examples] == ["clean"] * 8 + ["adv"] * 8
    for branch in ("clean", "adv"):
        chosen = [e for e in examples if e.answer == branch]
        with torch.no_grad():
            right = bind(model, branch)(images.float() / 255).argmax(1) == labels
        # The first of each class among the images evaluated, by their places in the data set.
        firsts = [
            next(i for i in sorted(ids.tolist()) if labels[i] == label and right[i])
            for label in range(8)
        ]
        assert [e.image_id for e in chosen] == firsts
        assert [e.clean_prediction for e in chosen] == list(range(8))


@pytest.mark.parametrize("count", [0, 3])
def test_fewer_examples_are_the_first_of_each_branch(case, count):
    model, images, labels, ids, verdicts, examples = case
    fewer = make_examples(
        model, images[ids], labels[ids], verdicts, image_ids=ids, search=SEARCH, count=count
    )
    assert fewer == examples[:count] + examples[8 : 8 + count]


def test_examples_show_the_image_and_the_attack_s_result(case):
    model, images, labels, ids, verdicts, examples = case
    scorer = bind(model, "adv")
    (final,) = (
        v.correct
        for v in verdicts
        if (v.attack, v.rule, v.attack_branch, v.score_branch) == ("pgd-5", "final", "adv", "adv")
    )
    for example in examples[8:]:
        place = example.image_id
        image, label = images[[place]], labels[[place]]
        assert np.array_equal(decode_png(example.image), image[0].permute(1, 2, 0).numpy())
        pixels = image.float() / 255
        expected = pgd(
            scorer,
            pixels,
            label,
            epsilon=SEARCH.epsilon,
            step_size=SEARCH.step_size,
            steps=5,
            start=random_start(pixels, torch.tensor([place]), SEARCH),
        )
        shown = decode_png(example.adv_image).astype(int)
        difference = np.abs(shown - (expected[0].permute(1, 2, 0) * 255).numpy())
        # Half a level of rounding; a step's sign may differ where a gradient is 0 to rounding.
        assert (difference <= 0.5 + 1e-3).mean() > 0.95
        correct = final[ids.tolist().index(place)]
        assert (example.adv_prediction == label.item()) == correct
    assert any(e.adv_prediction != e.clean_prediction for e in examples)


def test_examples_of_a_branch_with_its_own_attack_lie_in_its_ball(case):
    model, images, labels, ids, verdicts, _ = case
    own = {"adv": BranchAttack("linf", Fraction(4, 255), Fraction(1, 255))}
    examples = make_examples(
        model,
        images[ids],
        labels[ids],
        verdicts,
        image_ids=ids,
        search=SEARCH._replace(branch_attacks=own),
    )
    largest = {"clean": 0, "adv": 0}
    for example in examples:
        pair = (decode_png(png).astype(int) for png in (example.image, example.adv_image))
        change = np.abs(np.subtract(*pair)).max()
        largest[example.answer] = max(largest[example.answer], change)
    assert largest == {"clean": 48, "adv": 4}  # of 255; the first one's radius is 3/16


def test_branch_that_is_never_right_has_no_examples(case):
    model, images, _, ids, _, _ = case
    with torch.no_grad():
        wrong = (bind(model, "adv")(images[ids].float() / 255).argmax(1) + 1) % 10
        clean = bind(model, "clean")(images[ids].float() / 255).argmax(1)
    verdicts = evaluate(model, images[ids], wrong, image_ids=ids, epsilon=0.1, steps=(1,))
    search = Search(0.1, 0.1, (1,))
    examples = make_examples(model, images[ids], wrong, verdicts, image_ids=ids, search=search)
    assert {e.answer for e in examples} == ({"clean"} if (clean == wrong).any() else set())


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trips(channels):
    values = torch.randint(0, 256, (channels, 5, 7), generator=torch.Generator().manual_seed(0))
    assert np.array_equal(
        decode_png(encode_png(values / 255)), values.permute(1, 2, 0).numpy().astype(np.uint8)
    )


def test_png_rounds_to_the_nearest_level():
    image = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0]).view(1, 2, 2)
    assert decode_png(encode_png(image))[..., 0].tolist() == [[0, 0], [1, 255]]
