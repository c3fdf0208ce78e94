"""One process at a time works on a file."""

import subprocess
import sys

import pytest

from pixellm.utils.files import alone

HOLD = """
import sys
from pathlib import Path
from pixellm.utils.files import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_another_process_is_refused_until_it_is_free_again(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"expected to work on .*results\.jsonl alone.*Wait"), alone(path):
            pass
        other.kill()  # whoever held it need not have let it go
        other.wait()
    with alone(path):
        pass
    assert list(path.parent.iterdir()) == []
