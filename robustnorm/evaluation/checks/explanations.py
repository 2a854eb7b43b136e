"""Explanations of the checks, for docs/checks.md and the report's page."""

# By name: what is compared, why it must hold, the limit, what to do, and the source.
CHECKS: dict[str, str] = {
    "valid perturbations": (
        "Every image that PGD, its longer run and its restarts scored must lie within epsilon of "
        "the test image and in [0, 1]. A single image outside makes the branch unreliable: an "
        "attack that breaks the rules says nothing about robustness. Repair the attack's "
        "projection; the usual cause is input normalization outside the model. Source: Carlini et "
        "al., arXiv:1902.06705."
    ),
    "repeated forward": (
        "The same batch is scored twice. A logit that changes by more than rounding (1,000 times "
        "the precision of its type, relative to the largest logit) makes the branch unreliable: "
        "the gradients then come from a different random draw than the predictions. Attack and "
        "score the expectation over many draws. Source: Athalye et al., arXiv:1802.00420."
    ),
    "companions": (
        "Images are scored again in another order and in a larger batch, beside other images. A "
        "logit that changes by more than rounding makes the branch unreliable: its predictions "
        "depend on the batch, and its accuracy on batch size and order. The usual cause is a "
        "layer that uses batch statistics at test time; use running statistics. Source: Croce et "
        "al., RobustBench, arXiv:2010.09670, which excludes such defences."
    ),
    "searching copy": (
        "PGD follows the gradients of a folded copy of the network, optionally compiled or in "
        "bfloat16. Its logits must equal the network's, on clean and on attacked images: a logit "
        "that differs by more than rounding (0.5 % of the largest logit, 5 % in bfloat16) makes "
        "the branch unreliable, since PGD then attacks a different function from the one that is "
        "scored. The figure is zero where no copy could be used. Look for a forward that checks "
        "types, for hooks, and for layers that only some images reach. Source: Carlini et al., "
        "arXiv:1902.06705."
    ),
    "probabilities": (
        "Outputs that lie in [0, 1] for every image, as after a softmax or a sigmoid. They make "
        "the branch unreliable: the cross-entropy applies a softmax again, so its gradients "
        "hardly distinguish classes and robust accuracy is too high. Remove the last layer. "
        "Source: Carlini & Wagner, arXiv:1608.04644, on losses and the scale of logits."
    ),
    "zero gradients": (
        "Of the images classified correctly, those whose loss has a gradient that is zero at "
        "every pixel or not finite, in the network itself or in the copy that gives PGD's "
        "gradients. None is expected: any one warns, and more than 1 % makes the branch "
        "unreliable, since PGD then never leaves its start. Causes are rounding of the inputs, "
        "logits so large that the softmax saturates, and a forward interrupted by detach() or "
        "no_grad(). The attack worst searches such images without gradients, which finds less; "
        "better attack a differentiable approximation (BPDA) or a loss that does not saturate. "
        "Source: Athalye et al., arXiv:1802.00420; Croce & Hein, arXiv:2003.01690."
    ),
    "loss": (
        "Images that are broken by PGD on the margin of the logits (the largest wrong one minus "
        "the label's) but not by PGD on the cross-entropy with the same number of steps. The "
        "cross-entropy depends on the scale of the logits and the margin does not: more than 1 "
        "point warns, more than 5 makes the branch unreliable, and robust accuracies under PGD "
        "are then not comparable between networks. Report the worst case over losses. Source: "
        "Carlini & Wagner, arXiv:1608.04644; Croce & Hein, arXiv:2003.01690."
    ),
    "FGSM": (
        "Images that FGSM's single step breaks but no iterate of PGD does. More than 1 % makes "
        "the branch unreliable: PGD contains FGSM's step and must not be weaker. Give PGD more "
        "steps or a larger step size, and look for masked gradients. Source: Carlini et al., "
        "arXiv:1902.06705."
    ),
    "more steps": (
        "Images that twice as many steps break but the reported number does not. For a converged "
        "attack this is at most half a point; more than 1 point warns, more than 5 makes the "
        "branch unreliable. Report more steps. Source: Carlini et al., arXiv:1902.06705."
    ),
    "more restarts": (
        "Images that five random starts break but the first alone does not. One start is enough "
        "if this is at most half a point of accuracy; more than 1 point warns, more than 5 makes "
        "the branch unreliable. Report the worst case over restarts, or run AutoAttack. Source: "
        "Carlini et al., arXiv:1902.06705; Mosbach et al., arXiv:1810.12042."
    ),
    "epsilon 0": (
        "With epsilon 0 the attack cannot change anything, so every verdict must equal that of "
        "the clean image. A single difference makes the branch unreliable: clean and robust "
        "accuracy are then not measured on the same network. Look for randomness, or for a mode "
        "or branch that differs between the two. Source: Carlini et al., arXiv:1902.06705."
    ),
    "larger epsilon": (
        "The accuracy under PGD over growing radii, up to 64/255, with step sizes in proportion. "
        "A larger ball contains the smaller one, so accuracy must not rise; a significant rise "
        "(exact McNemar test on the same images, 1 % level) makes the branch unreliable. The "
        "attack then fails at large radii: use more steps, restarts or another loss. Source: "
        "Carlini et al., arXiv:1902.06705."
    ),
    "unbounded attack": (
        "With a radius that reaches every image, PGD must reduce the accuracy to guessing, 1 / "
        "classes; more, beyond chance, makes the branch unreliable. If even an unbounded attack "
        "fails, its gradients are useless. Source: Athalye et al., arXiv:1802.00420; Carlini et "
        "al., arXiv:1902.06705."
    ),
    "random noise": (
        "Images that a few random points on the surface of the ball break but PGD, its longer "
        "run, its restarts and PGD on the margin of the logits do not. None is expected: any one "
        "warns, and more than 1 % makes the branch unreliable. An attack worse than random "
        "guessing has no useful gradient. Source: Athalye et al., arXiv:1802.00420."
    ),
    "Square": (
        "Images that Square, which uses no gradient, breaks but PGD, its longer run, its restarts "
        "and PGD on the margin of the logits do not. More than 0.2 % makes the branch unreliable: "
        "its gradients are masked, and its robust accuracy is at best that of AutoAttack. Images "
        "that only the cross-entropy misses count under loss. The quick tier uses 100 queries "
        "with torchattacks' code, the full tier 5,000 with AutoAttack's. Source: Andriushchenko "
        "et al., arXiv:1912.00049; Croce & Hein, arXiv:2003.01690."
    ),
    "input scale": (
        "The mean square of the first norm layer's input, per channel, compared with its running "
        "statistics from training. A factor of more than 4 makes the branch unreliable: images "
        "then reach the network on a different scale than in training, for example because mean "
        "and std are applied twice or not at all, or bytes are used as numbers in [0, 1]. Source: "
        "ours, from the definition of the running statistics."
    ),
    "standard accuracy": (
        "The accuracy on clean images compared with that on validation images when the weights "
        "were saved. A drop of more than 10 points, beyond chance (exact binomial test, 1 % "
        "level), makes the branch unreliable: data, class order, normalization or weights differ "
        "from training. Omitted if the training recorded no accuracy. Source: Carlini et al., "
        "arXiv:1902.06705, on reporting clean accuracy."
    ),
    "transfer": (
        "Images that are broken, through this branch, by attacks on the other branches in this "
        "branch's ball, but not by PGD on this branch, its longer run and its restarts. More than "
        "0.2 % makes the branch unreliable: a transferred attack must not beat one with access to "
        "the branch. Count an image as robust only if it withstands both. Source: Athalye et al., "
        "arXiv:1802.00420; Carlini et al., arXiv:1902.06705."
    ),
    "own branch": (
        "The accuracy of this branch under attacks on it, minus that under attacks on another "
        "branch in the same ball. A difference above 0 beyond chance (exact McNemar test, 1 % "
        "level) makes the branch unreliable: its gradients are less useful than another branch's, "
        "for example because it is detached or attacked through the wrong route. Source: Carlini "
        "et al., arXiv:1902.06705, for transfer in general."
    ),
    "binarization test": (
        "For each of a few images, the last linear layer is replaced by one that separates points "
        "within 0.95 epsilon of the image from a point at epsilon, using the features before it. "
        "An adversarial example exists by construction, and PGD must find one. Missing more than "
        "5 % makes the branch unreliable: the attack does not work on these features, whatever "
        "accuracy it reports. The success rate of random points is also given; if it is high, the "
        "test was easy. Adapt the attack to the defence until it passes. Source: Zimmermann et "
        "al., arXiv:2206.13991."
    ),
}
