def tables(records, train_command=""):
    return records


def to_text(r):
    return str(
        [
            (r.norm, v.attack, v.rule, v.attack_branch, v.score_branch, round(v.accuracy, 4))
            for v in r.verdicts
        ]
    )


def write_tables(*a, **k):
    return []
