"""What holds for all tests."""

import os

# Measuring would make what is compiled depend on what else the machine does; tests of tuning ask for it.
os.environ.setdefault("LEPTON_TUNING", "model")
