"""A user's folder "attacks", which many projects in this field have."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import sys
sys.path[:0] = {path}
import torch
import robustnorm
from robustnorm.attacks import pgd
model = robustnorm.resnet18(norm="bn", width=2).eval()
robustnorm.evaluate(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), steps=(1,))
print("attacks" in sys.modules)
from attacks import mine
print(mine.__module__)
"""


def test_it_neither_breaks_nor_is_replaced_by_ours(tmp_path):
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "__init__.py").write_text("def mine(): ...\n")
    code = CODE.format(path=[str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "attacks"]


def test_ours_is_found_where_nothing_else_has_the_name():
    from attacks import pgd

    assert pgd.__module__.startswith("robustnorm.attacks.")
