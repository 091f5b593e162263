"""One thread for torch: tiny networks are fastest so, and tests run beside each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported
