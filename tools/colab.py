"""Install in a notebook what rlnlib lacks, from the clone `rln-book`; run by the first cell of each notebook, in Colab.

The numpy and the torch that are there stay as they are, since the kernel has loaded them; nothing that is there is
replaced, and only the library's own requirements are fetched.
"""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys

pip = [sys.executable, "-m", "pip", "install", "-q"]
subprocess.run([*pip, "--no-deps", "-e", "rln-book"], check=True)
sys.path.insert(0, os.path.abspath("rln-book"))  # a kernel that runs already does not see the installation
importlib.invalidate_caches()
there = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in importlib.metadata.distributions()}
wanted = [r for r in importlib.metadata.requires("rlnlib") or [] if "extra ==" not in r] + ["ipywidgets>=8.0"]
if missing := [r for r in wanted if re.match(r"[\w.-]+", r)[0].lower() not in there]:
    with open("keep.txt", "w", encoding="utf-8") as keep:
        keep.writelines(f"{name}=={there[name]}\n" for name in ("numpy", "torch") if name in there)
    subprocess.run([*pip, "-c", "keep.txt", *missing], check=True)
