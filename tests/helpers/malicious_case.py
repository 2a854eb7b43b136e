"""The list of malicious files, each a function that fills an empty folder and returns a reader."""

CASES = {}


def case(build):
    CASES[build.__name__.replace("_", "-")] = build
    return build


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
