import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from tiny_network import tiny
from torch import nn

from robustnorm import evaluate
from robustnorm.evaluation import chunks
from robustnorm.evaluation.checks import CHECKS, run_checks
from robustnorm.evaluation.search import Search
from robustnorm.settings.groups import BranchAttack
from robustnorm.studies.gradients import Group, gradient_diversity

SEARCH = Search(0.5, 0.25, (1, 2))  # so large a radius that Square needs few queries
N = 4


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 2 * N)  # so few images are not padded to 100


def setting():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    images = torch.randint(0, 256, (N, 1, 8, 8), dtype=torch.uint8)
    return model, images, model(images / 255).argmax(1)


def run(search=SEARCH, tier="quick", model=None, **options):
    linear, images, labels = setting()
    model = model or linear
    ids = torch.arange(N)
    return run_checks(model, images, labels, image_ids=ids, search=search, tier=tier, **options)


class Counting(nn.Sequential):
    """Counts in a buffer the images that it has seen, as routers of experts do."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, images):
        self.seen += len(images)
        return super().forward(images)


def test_network_that_counts_is_left_as_it_was():
    linear, images, labels = setting()
    model = Counting(*linear).eval()
    assert run(model=model)[0]
    evaluate(model, images, labels, epsilon=0.1, step_size=0.1, steps=(1,))
    batch = [Group("any", images[:2], labels[:2]), Group("any", images[2:], labels[2:])]
    assert gradient_diversity(model, [batch])
    assert model.seen == 0


def test_full_tier_makes_the_whole_curve_and_the_same_checks():
    checks, curve = run(tier="full")
    assert [p.epsilon for p in curve] == [
        "0",
        *(f"{r}/255" for r in (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)),
    ]
    assert curve[0].correct == N
    assert {p.n for p in curve} == {N}
    assert [check.name for check in checks] == [check.name for check in run()[0]]


def test_radii_of_l2_are_parts_of_epsilon():
    _, curve = run(Search(2.0, 0.5, (2,), "l2"))
    assert [point.epsilon for point in curve] == ["0", "2", "6", "16"]


def test_each_branch_is_checked_in_its_own_ball():
    torch.manual_seed(0)
    branches = ("clean", "linf", "l2")
    model = tiny("auxbn", num_classes=4, in_channels=1, branches=branches).eval()
    own = {
        "linf": BranchAttack("linf", Fraction(1, 10), Fraction(1, 10)),
        "l2": BranchAttack("l2", Fraction(2), Fraction(1)),
    }
    checks, curve = run(Search(0.1, 0.1, (1,), branch_attacks=own), model=model, serving=True)
    radii = {answer: [p.epsilon for p in curve if p.answer == answer] for answer in branches}
    assert radii["l2"] == ["0", "2", "6", "16"]
    assert radii["linf"] == radii["clean"] == ["0", "8/255", "24/255", "64/255"]
    valid = {c.answer: c.verdict for c in checks if c.name == "valid perturbations"}
    assert list(valid) == [*branches, "mean logits", "more confident branch"]
    assert set(valid.values()) == {"reliable"}
    # What is drawn comes from one generator for all branches. All else is as if the ball of l2 were
    # everyone's: the other branches are attacked in it, too, for what transfers.
    drawn = ("random noise", "Square", "binarization test")
    alone, _ = run(Search(2.0, 1.0, (1,), "l2"), model=model, serving=True)
    found, expected = (
        [check for check in made if check.answer == "l2" and check.name not in drawn]
        for made in (checks, alone)
    )
    assert found == expected


def test_checks_are_the_same_a_second_time():
    assert run() == run()


def test_steps_checked_are_the_most():
    checks, _ = run()
    (figure,) = [check.figure for check in checks if check.name == "more steps"]
    assert "that 4 steps break but 2 steps do not" in figure


def test_serving_rules_are_checked_but_for_their_features():
    torch.manual_seed(0)
    model = tiny("auxbn", num_classes=4, in_channels=1).eval()
    checks, curve = run(Search(0.05, 0.05, (1,)), model=model, serving=True)
    names = {}
    for check in checks:
        names.setdefault(check.answer, []).append(check.name)
    assert list(names) == ["clean", "adv", "mean logits", "more confident branch"]
    assert names["adv"] == [name for name in CHECKS if name != "standard accuracy"]
    left_out = {"standard accuracy", "input scale", "binarization test"}  # of rules
    assert names["mean logits"] == [name for name in CHECKS if name not in left_out]
    assert {point.answer for point in curve} == set(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tier": "fast"}, "quick, full"), ({"search": Search(0.0, 0.1, (1,))}, "radius above 0")],
)
def test_unsound_requests_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_documentation_explains_every_check():
    text = (Path(__file__).parents[4] / "docs/checks.md").read_text()
    sections = re.findall(r"^## (.+?)\n\n(.+?)\n(?=\n## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert {name: " ".join(paragraph.split()) for name, paragraph in sections} == CHECKS
