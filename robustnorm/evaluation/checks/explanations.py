"""Explanations of the checks, for docs/checks.md and the report's page."""

# By name: what is compared, why it must hold, the limit, what to do, and the source.
CHECKS: dict[str, str] = {
    "valid perturbations": (
        "Every image that PGD, its longer run and its restarts had scored lies within epsilon of "
        "the test image and in [0, 1]. A single one outside makes the branch unreliable: an attack "
        "that cheats says nothing of robustness. Repair the attack's projection; an input "
        "normalization outside the model is the usual cause. Source: Carlini et al., "
        "arXiv:1902.06705."
    ),
    "repeated forward": (
        "The same batch is scored twice. A logit that changes by more than rounding (1,000 times "
        "the precision of its type, relative to the largest logit) makes the branch unreliable: "
        "gradients of one draw attack a network that answers with another. Attack the expectation "
        "over many draws, and score it likewise. Source: Athalye et al., arXiv:1802.00420."
    ),
    "companions": (
        "Images are scored again in another order, in a larger batch, among other images. A logit "
        "that changes by more than rounding makes the branch unreliable: its answer belongs to the "
        "batch, and batch size and order decide the accuracy. A layer that uses the statistics of "
        "the batch at test time is the usual cause; use running statistics. Source: Croce et al., "
        "RobustBench, arXiv:2010.09670, which excludes such defences."
    ),
    "searching copy": (
        "PGD follows the gradients of a folded copy of the network, compiled or in bfloat16 if "
        "asked for. Its logits must be the network's, on clean and on attacked images: a logit "
        "that differs by more than rounding (0.5 % of the largest logit, 5 % in bfloat16) makes "
        "the branch unreliable, since PGD then climbs another function than it is scored by. Zero "
        "where no copy could be used. Look for a forward that asks for types, for hooks, and for "
        "layers that only some images reach. Source: Carlini et al., arXiv:1902.06705."
    ),
    "probabilities": (
        "Outputs that lie in [0, 1] on every image, as after a softmax or a sigmoid. They make the "
        "branch unreliable: the cross-entropy takes a softmax of its own, so that its gradients "
        "hardly tell classes apart and robust accuracy comes out too high. Leave the last layer "
        "out. Source: Carlini & Wagner, arXiv:1608.04644, on losses and the scale of logits."
    ),
    "zero gradients": (
        "Of the images classified correctly, those whose loss has a gradient that is zero at every "
        "pixel or not finite, in the network itself or in the copy that PGD searches with. None is "
        "expected: any warns, and more than 1 % makes the branch unreliable, since PGD then stays "
        "where it starts. Rounding of the inputs, logits so large that the softmax saturates, and "
        "a forward cut off by detach() or no_grad() do this. Attack a differentiable approximation "
        "(BPDA) or a loss that does not saturate. Source: Athalye et al., arXiv:1802.00420; "
        "Croce & Hein, arXiv:2003.01690."
    ),
    "loss": (
        "Images that PGD on the margin of the logits, the largest wrong one less the label's, "
        "breaks and PGD on the cross-entropy, of as many steps, does not. The cross-entropy "
        "depends on the scale of the logits and the margin does not: more than 1 point warns, more "
        "than 5 makes the branch unreliable, and robust accuracies under PGD are then no measure "
        "to compare networks by. Report the worst case over losses. Source: Carlini & Wagner, "
        "arXiv:1608.04644; Croce & Hein, arXiv:2003.01690."
    ),
    "FGSM": (
        "Images that the single step of FGSM breaks and PGD does not, on the way or at the end. "
        "More than 1 % makes the branch unreliable: PGD contains FGSM's step and must not be "
        "weaker. Give PGD more steps or a larger step size, and look for masked gradients. Source: "
        "Carlini et al., arXiv:1902.06705."
    ),
    "more steps": (
        "Images that twice as many steps break and the reported number does not. A converged "
        "attack changes by at most half a point; more than 1 point warns, more than 5 makes the "
        "branch unreliable. Report more steps. Source: Carlini et al., arXiv:1902.06705."
    ),
    "more restarts": (
        "Images that five random starts break and the first does not. One start is enough where "
        "this changes the accuracy by at most half a point; more than 1 point warns, more than 5 "
        "makes the branch unreliable. Report the worst case over restarts, or run AutoAttack. "
        "Source: Carlini et al., arXiv:1902.06705; Mosbach et al., arXiv:1810.12042."
    ),
    "epsilon 0": (
        "With epsilon 0 the attack can change nothing and every verdict must equal that of the "
        "clean image. A single difference makes the branch unreliable: clean and robust accuracy "
        "are then not measured on the same network. Look for randomness or for a mode or a branch "
        "that differs between the two. Source: Carlini et al., arXiv:1902.06705."
    ),
    "larger epsilon": (
        "The accuracy under PGD over growing radii, up to 64/255, the step size growing with them. "
        "A larger ball holds the smaller one, so accuracy must not rise; a rise that the exact "
        "McNemar test on the same images tells from chance (1 % level) makes the branch "
        "unreliable. The attack then loses its way at large radii: more steps, restarts, another "
        "loss. Source: Carlini et al., arXiv:1902.06705."
    ),
    "unbounded attack": (
        "With a radius that reaches every image, PGD must bring the accuracy down to that of "
        "guessing, 1 / classes; more, beyond chance, makes the branch unreliable. Where even an "
        "attack without a bound fails its gradients lead nowhere. Source: Athalye et al., "
        "arXiv:1802.00420; Carlini et al., arXiv:1902.06705."
    ),
    "random noise": (
        "Images that a few random points on the surface of the ball break and PGD, its longer run "
        "and its restarts do not. None is expected: any warns, and more than 1 % makes the branch "
        "unreliable. A search worse than blind luck has no useful gradient. Source: Athalye et "
        "al., arXiv:1802.00420."
    ),
    "Square": (
        "Images that Square, which sees no gradient, breaks and PGD, its longer run and its "
        "restarts do not. More than 0.2 % makes the branch unreliable: its gradients are masked, "
        "and its robust accuracy is that of AutoAttack at best. The quick tier asks 100 queries "
        "of torchattacks, the full one 5,000 of AutoAttack's own code. Source: Andriushchenko et "
        "al., arXiv:1912.00049; Croce & Hein, arXiv:2003.01690."
    ),
    "input scale": (
        "The mean square of what the first norm layer is given, channel by channel, against what "
        "its running statistics remember from training. More than 4 times as much or as little "
        "makes the branch unreliable: images then reach the network on another scale than in "
        "training, as when mean and std are applied twice or not at all, or bytes are taken for "
        "numbers in [0, 1]. Source: ours, by the definition of the running statistics."
    ),
    "standard accuracy": (
        "The accuracy on clean images against that on validation images when the weights were "
        "saved. More than 10 points less, beyond chance (exact binomial test, 1 % level), makes "
        "the branch unreliable: data, class order, normalization or weights are not those of the "
        "training. Left out where the training recorded none. Source: Carlini et al., "
        "arXiv:1902.06705, on reporting clean accuracy."
    ),
    "transfer": (
        "Images that attacks on the other branches, in this branch's ball, break here and PGD on "
        "this branch, its longer run and its restarts do not. More than 0.2 % makes the branch "
        "unreliable: a borrowed attack must not beat one that sees the network. Count an image as "
        "robust only if it withstands both. Source: Athalye et al., arXiv:1802.00420; Carlini et "
        "al., arXiv:1902.06705."
    ),
    "own branch": (
        "The accuracy of this branch under attacks on it, less that under attacks on another in "
        "the same ball. Above 0 beyond chance (exact McNemar test, 1 % level) the branch is "
        "unreliable: its own gradients are worth less than a stranger's, as when it is detached "
        "or attacked through the wrong route. Source: Carlini et al., arXiv:1902.06705, for "
        "transfer in general."
    ),
    "binarization test": (
        "Around each of a few images, the last linear layer is replaced by one that tells points "
        "within 0.95 epsilon from a point at epsilon, by the features before it. An adversarial "
        "example exists by construction, and PGD must find one. Missing more than 5 % makes the "
        "branch unreliable: the attack does not work on these features, whatever accuracy it "
        "reports. How often random points succeed is given too; where that is often, the test was "
        "easy. Adapt the attack to the defence until it passes. Source: Zimmermann et al., "
        "arXiv:2206.13991."
    ),
}
