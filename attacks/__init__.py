from attacks.pgd import fgsm, pgd

ATTACKS = {"pgd": pgd, "fgsm": fgsm}
