"""Time and peak memory of the pair objective, forward and backward, against what else one would write.

    python benchmarks/pairwise.py [--json FILE] [--batches 256 1024 4096 16384] [--device cpu]

Compared in one run, every case in a process of its own, on the same features (128 numbers each, 64 contexts):

- ``modalign``: ``score_pairs`` with its default critic, the critic's perceptrons included;
- ``masked matrix``: the same objective and critic from all B x B scores and masks of pairs;
- ``SigLIP``: the sigmoid loss of Zhai et al. (ICCV 2023), Algorithm 1, without context;
- ``NT-Xent``: the loss of Chen et al. (SimCLR, ICML 2020), Eq. 1, over the 2B x 2B similarities.

Seconds are the median of several steps after a first one. Peak memory on a CPU is the growth of the process's
largest resident set over what it was with libraries loaded, inputs made and a small step done; on a GPU it is what
PyTorch allocated at most beyond the inputs. A case is left out where it is expected to need more than 6 GB.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from modalign.information import LearnedContext, SeparableCritic, conditional_nce, pair_masks, score_pairs

CONTEXTS, FEATURES, LIMIT_MB = 64, 128, 6000


def modalign(critic: SeparableCritic, z1: Tensor, z2: Tensor, context: Tensor) -> Tensor:
    result = score_pairs(critic, z1, z2, context)
    return -result.objective / (1 + result.ratio)


def masked_matrix(critic: SeparableCritic, z1: Tensor, z2: Tensor, context: Tensor) -> Tensor:
    return -conditional_nce(critic(z1, z2, context), *pair_masks(context))


def siglip(critic: SeparableCritic, z1: Tensor, z2: Tensor, context: Tensor) -> Tensor:
    logits = F.normalize(z1, dim=-1) @ F.normalize(z2, dim=-1).T * critic.log_scale.exp() + critic.bias
    labels = 2 * torch.eye(len(z1), device=z1.device) - 1
    return -F.logsigmoid(labels * logits).sum() / len(z1)


def nt_xent(critic: SeparableCritic, z1: Tensor, z2: Tensor, context: Tensor) -> Tensor:
    z = F.normalize(torch.cat([z1, z2]), dim=-1)
    logits = (z @ z.T * critic.log_scale.exp()).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z1)))


CASES: dict[str, Callable[..., Tensor]] = {
    "modalign": modalign,
    "masked matrix": masked_matrix,
    "SigLIP": siglip,
    "NT-Xent": nt_xent,
}


def measure(case: str, batch: int, device: str) -> dict[str, float]:
    """Seconds of a step and its peak memory, in this process."""
    torch.manual_seed(0)
    critic = SeparableCritic((FEATURES, FEATURES), LearnedContext(CONTEXTS)).to(device)
    z1, z2 = (torch.randn(batch, FEATURES, device=device, requires_grad=True) for _ in range(2))
    context = torch.randint(0, CONTEXTS, (batch,), device=device)

    def step(rows: int) -> None:
        CASES[case](critic, z1[:rows], z2[:rows], context[:rows]).backward()

    step(64)
    before = _peak_mb(device)
    step(batch)
    memory = _peak_mb(device) - before
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 2 and len(seconds) < 50):
        started = time.perf_counter()
        step(batch)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds), "peak_mb": memory}


def _peak_mb(device: str) -> float:
    """The largest memory so far; on a GPU counting starts anew from what is held now."""
    if device == "cpu":
        unit = 1024 if platform.system() == "Linux" else 1024**2
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    peak = torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return peak


def run(batches: list[int], device: str, threads: int) -> list[dict[str, object]]:
    """All cases, each in a fresh process."""
    rows: list[dict[str, object]] = []
    for case in CASES:
        last: tuple[int, float] | None = None
        for batch in batches:
            row: dict[str, object] = {"case": case, "batch": batch, "seconds": None, "peak_mb": None}
            expected = last[1] * (batch / last[0]) ** 2 if last else 0.0
            if case == "modalign" or expected <= LIMIT_MB:
                command = [sys.executable, __file__, "--device", device, "--threads", str(threads)]
                command += ["--case", case, "--batches", str(batch)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row |= json.loads(done.stdout)
                last = batch, float(row["peak_mb"])  # type: ignore[arg-type]
                print(f"{case}, B = {batch}: {1e3 * float(row['seconds']):.1f} ms", file=sys.stderr)
            rows.append(row)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Markdown, with how many times more each case takes than ``modalign``."""
    own = {row["batch"]: row for row in rows if row["case"] == "modalign"}
    lines = ["| B | objective | ms | x modalign | peak MB | x modalign |", "|--:|---|--:|--:|--:|--:|"]
    for row in sorted(rows, key=lambda r: (r["batch"], list(CASES).index(str(r["case"])))):
        if row["seconds"] is None:
            cells = ["left out", "", f"over {LIMIT_MB}", ""]
        else:
            seconds, memory, base = float(row["seconds"]), float(row["peak_mb"]), own[row["batch"]]
            cells = [
                f"{seconds * 1e3:.1f}",
                f"{seconds / float(base['seconds']):.2f}",
                f"{memory:.0f}",
                f"{memory / max(float(base['peak_mb']), 1):.2f}",
            ]
        lines.append(f"| {row['batch']} | {row['case']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="also write the numbers to this file")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; one shows work, not scheduling")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.batches[0], arguments.device)))
        return
    rows = run(sorted(arguments.batches), arguments.device, arguments.threads)
    print(f"{CONTEXTS} contexts, {FEATURES} features, {arguments.device}, {torch.get_num_threads()} threads, ", end="")
    print(f"PyTorch {torch.__version__}\n\n{table(rows)}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"device": arguments.device, "threads": torch.get_num_threads(), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
