"""The list of malicious files, each a function from an empty folder to what reads it there."""

CASES = {}


def case(build):
    CASES[build.__name__.replace("_", "-")] = build
    return build


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
