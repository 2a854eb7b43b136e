"""The README of an exported network: what it is, how to load it, and its measured accuracy."""

from __future__ import annotations

from typing import Any

from robustnorm.records.record import Record
from robustnorm.reporting.model_records import NAMES
from robustnorm.reporting.render import to_markdown
from robustnorm.reporting.side_by_side import accuracy_table, name_models, verdict_table
from robustnorm.runs import Run
from robustnorm.system.escaping import for_markdown

_CARD = """\
---
library_name: robustnorm
pipeline_tag: image-classification
tags:
- adversarial-robustness
---

# {network} with {norm}, branch "{branch}"

{training}.
This is one branch, folded into an ordinary network: it maps images (N, {channels}, H, W) in [0, 1]
to logits and normalizes its input itself. `config.json` describes the network,
`model.safetensors` holds its weights.

```python
from pathlib import Path
from robustnorm.exchange.export import load_exported

network = load_exported(Path("."))  # this folder
logits = network(images)
```

{results}"""


def model_card(content: dict[str, Any], run: Run, record: Record | None) -> str:
    """Returns a model card in Markdown.

    Args:
        content: Content of config.json.
        run: The run whose checkpoint was exported.
        record: The checkpoint's evaluation, whose tables the card shows; None without one.
    """
    results = "This checkpoint has not been evaluated, so its accuracy is not known.\n"
    if record is not None:
        models = name_models([record], [run.name])
        results = "\n".join(map(to_markdown, (accuracy_table(models), verdict_table(models))))
    return _CARD.format(
        network=for_markdown(content["network"]),
        norm=for_markdown(NAMES.get(content["trained_norm"], content["trained_norm"])),
        branch=for_markdown(content["branch"]),
        training=for_markdown(_training(content, run)),
        channels=run.dataset["channels"],
        results=results,
    )


def _training(content: dict[str, Any], run: Run) -> str:
    data = f"{run.dataset['name']} ({len(content['classes'])} classes)"
    if run.imported:
        return (
            f"Weights imported from {run.imported['file']} for {data}; how they were trained is "
            "not known"
        )
    config = run.config
    attacks = [
        f"{attack.threat_model.capitalize()} attacks with epsilon {attack.epsilon}"
        + (f" (branch {branch})" if config.branches else "")
        for branch, attack in config.adversarial_branches.items()
    ]
    against = f"with AdvProp against {' and '.join(attacks)}"
    how = against if config.adversarial else "on clean images only"
    return (
        f"Trained {how} on {run.dataset['train_images']:,} images of {data}, "
        f"{run.epoch} of {config.epochs} epochs"
    )
