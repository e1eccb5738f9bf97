"""
For the tests: several commands in one start of torchrun, on CPUs. The argument is JSON, a list of commands: [module,
flags...] calls its main, ["copy", from, to] copies a directory. Starting processes costs more than what is tested.
"""
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def launch(world, commands, env=()):
    """Runs the commands in `world` processes and returns the finished subprocess."""
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}",
                           __file__, json.dumps(commands)],
                          cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **dict(env)},
                          capture_output=True, text=True, timeout=600)


if __name__ == "__main__":
    import torch

    from nanochat import distributed

    torch.set_num_threads(1)
    # the group outlives a command
    ranks, stop, distributed.stop = distributed.start(torch.device("cpu")), distributed.stop, lambda: None
    for name, *rest in json.loads(sys.argv[1]):
        ranks.wait()
        if name != "copy":
            assert importlib.import_module(name).main(rest) == 0
        elif ranks.first:
            shutil.copytree(*rest)
    stop()
