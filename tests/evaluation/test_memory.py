"""What calibrating takes of memory does not grow with the number of samples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_thousand_pictures_add_less_than_200_megabytes():
    """They are 602 MB; of each part, those that calibrate and those that judge, 64 MiB are kept."""
    program = Path(__file__).with_name("calibrate_many.py")
    made = subprocess.run([sys.executable, program, "1000"], capture_output=True, text=True, check=True)
    assert 64 << 20 < int(made.stdout) < 200e6
