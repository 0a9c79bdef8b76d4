"""sparsefire against its peers, one module a section, each with a function `rows`."""

import os

# Idle threads of peers would spin and take a processor from whichever side is being timed. Waking
# them costs about 1 % of what is timed. Both variables are read when numpy and llama.cpp load.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
