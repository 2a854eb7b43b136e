"""Records as they were before they carried a hash, to be changed by hand."""

import re


def unsealed(text):
    found, count = re.subn(r',\s*"seal": "[0-9a-f]{64}"\s*\}\s*$', "\n}\n", text)
    assert count == 1
    return found
