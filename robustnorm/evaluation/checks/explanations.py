"""What each check means: the source of docs/checks.md and of the report's page."""

# Name: what is compared, why it must hold, where the limit lies, what to do, who proposed it.
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
    "zero gradients": (
        "Of the images classified correctly, those whose loss has a gradient that is zero at every "
        "pixel or not finite, in the network itself or in the copy that PGD searches with. None is "
        "expected: any warns, and more than 1 % makes the branch unreliable, since PGD then stays "
        "where it starts. Rounding of the inputs, logits so large that the softmax saturates, and "
        "a forward cut off by detach() or no_grad() do this. Attack a differentiable approximation "
        "(BPDA) or a loss that does not saturate. Source: Athalye et al., arXiv:1802.00420; "
        "Croce & Hein, arXiv:2003.01690."
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
