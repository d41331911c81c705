"""Faults and speed of `llamacli pull`, against the stand-in of the Hub: python tests/benchmarks/pull.py [PART…]

kills      100 × SIGKILL at random moments of pulls of a 200 MB file; after each, how much came again
corrupt    300 bodies with a flipped bit, too short, or of another file: exit codes, and what is visible
together   12 processes pull the same file
disk       a full disk (a tmpfs; needs root), then room again
speed      against huggingface_hub's own download of the same file, pairs in turns
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hub_server import HubServer

REPO = "user/large-GGUF"
ALLOWED = 16 << 20


class Bench:
    """A stand-in with one large file, and a cache."""

    def __init__(self, hub: HubServer, folder: Path, size: int) -> None:
        self.hub, self.folder = hub, folder
        self.content = random.Random(1).randbytes(size)
        self.digest = hashlib.sha256(self.content).hexdigest()
        self.file = folder / "large-Q4_K_M.gguf"
        self.file.write_bytes(self.content)
        hub.add(REPO, {self.file.name: self.file})

    def environment(self, cache: Path) -> dict[str, str]:
        mine = {
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_CACHE": str(cache),
            "HF_TOKEN": "",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return {**os.environ, **mine, "LLAMACLI_HOME": str(self.folder / "home")}

    def start(self, cache: Path, model: str = REPO) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "llamacli", "pull", model]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environment(cache), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )

    def pull(self, cache: Path) -> tuple[int, bytes, bytes]:
        with self.start(cache) as process:
            output, error = process.communicate()
            return process.returncode, output, error

    def sent(self) -> int:
        """Bytes of bodies since the record was last cleared."""
        return sum(request.sent for request in self.hub.requests if request.path.startswith("/cdn/"))

    def quiet(self) -> None:
        """Forget the record, with everything that is still on its way to dead processes."""
        self.hub.stop()
        self.hub.requests.clear()
        self.hub.restart()


def kills(bench: Bench) -> None:
    """After each kill: what the pulls up to the end fetched again, and whether the end is right."""
    rng, size = random.Random(7), len(bench.content)
    done, worst, wrong, left = 0, 0, 0, 0
    while done < 100:
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            cache = Path(folder)
            while done < 100:
                before = _kept(cache)
                bench.hub.faults.bytes_per_second = 40_000_000
                process = bench.start(cache)
                time.sleep(rng.uniform(0.3, 2.0))
                process.kill()
                process.communicate()
                ended = process.returncode == 0
                arrived = bench.sent()
                bench.quiet()
                if ended:
                    break
                done += 1
                worst = max(worst, arrived - (_kept(cache) - before))
                if rng.random() < 0.3:
                    break
            bench.hub.faults.bytes_per_second = None
            missing = size - _kept(cache)
            code, output, _ = bench.pull(cache)
            again = bench.sent() - missing
            bench.quiet()
            path = Path(output.decode().strip())
            wrong += code != 0 or hashlib.sha256(path.read_bytes()).hexdigest() != bench.digest
            worst = max(worst, again)
            left += sum("llamacli" in path.name for path in cache.rglob("*"))
    print(f"kills: {done}; lost by one at most {worst / 2**20:.1f} MiB of {ALLOWED >> 20} allowed")
    print(f"  wrong ends: {wrong}; part files left over: {left}")


def _kept(cache: Path) -> int:
    """Bytes that the journal says are here, or the whole file."""
    if any(path.is_file() for path in cache.glob("models--*/snapshots/*/*")):
        return int(next(cache.glob("models--*/snapshots/*/*")).stat().st_size)
    journals = list(cache.rglob("*.llamacli-journal"))
    return len(journals[0].read_bytes().splitlines()) * (2 << 20) if journals else 0


def corrupt(bench: Bench) -> None:
    """300 damaged bodies of a small file, 100 of each kind. Short ones are tried again for seconds: ten at once."""
    rng = random.Random(3)
    small = rng.randbytes(5_000_000)
    bench.hub.add("user/small", {"small-Q4_K_M.gguf": small, "other-Q8_0.gguf": rng.randbytes(5_000_000)})
    faults = bench.hub.faults
    codes: collections.Counter[str] = collections.Counter()
    visible = 0
    for kind, at_once in (("flip", 1), ("swap", 1), ("short", 10)):
        for _ in range(100 // at_once):
            if kind == "flip":
                faults.flip, faults.flip_times = rng.randrange(len(small)), 1
            elif kind == "swap":
                faults.swap = rng.randbytes(len(small))
            else:
                faults.short, faults.short_times = rng.randrange(1, 400_000), 10_000
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                caches = [Path(folder) / str(number) for number in range(at_once)]
                processes = [bench.start(cache, "user/small:Q4_K_M") for cache in caches]
                for process in processes:
                    process.communicate()
                    codes[f"{kind} → {process.returncode}"] += 1
                visible += len(list(Path(folder).rglob("*.gguf")))
            faults.flip = faults.swap = faults.short = None
    print(f"corrupted bodies: {dict(sorted(codes.items()))}; visible under the final name: {visible}")


def together(bench: Bench) -> None:
    """12 processes at once."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        processes = [bench.start(Path(folder)) for _ in range(12)]
        paths = {process.communicate()[0] for process in processes}
        codes = {process.returncode for process in processes}
        times = bench.sent() / len(bench.content)
        print(f"12 processes: exit codes {codes}, paths {len(paths)}, the body crossed the wire {times:.3f} times")
        bench.quiet()


def disk(bench: Bench) -> None:
    """A tmpfs of 120 MB, then of 400 MB."""
    mount = bench.folder / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", mount], check=True)
    try:
        code, _, error = bench.pull(mount)
        print(f"full disk, seen before: code {code}: {error.decode().splitlines()[0]}")
        subprocess.run(["mount", "-o", "remount,size=300m", mount], check=True)
        filler = mount / "filler"
        bench.hub.faults.bytes_per_second = 20_000_000
        process = bench.start(mount)
        bench.hub.wait(lambda requests: any(request.path.startswith("/cdn/") for request in requests), timeout=30)
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:  # until nothing is left
            while stream.write(bytes(1 << 20)):
                pass
        _, error = process.communicate()
        print(f"full disk, in the middle: code {process.returncode}: {error.decode().splitlines()[0]}")
        kept = _kept(mount)
        filler.unlink()
        bench.hub.faults.bytes_per_second = None
        bench.quiet()
        code, _, _ = bench.pull(mount)
        print(f"with room again: code {code}; kept {kept:,} bytes, fetched {bench.sent():,} of {len(bench.content):,}")
        bench.quiet()
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def speed(bench: Bench) -> None:
    """Pairs in turns: ours (hash included) against hf_hub_download in a process of its own."""
    theirs = f"from huggingface_hub import hf_hub_download as d; d({REPO!r}, {bench.file.name!r})"
    commands = {"ours": [sys.executable, "-m", "llamacli", "pull", REPO], "theirs": [sys.executable, "-c", theirs]}
    ratios = []
    for _ in range(9):
        seconds = {}
        for name, command in commands.items():
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                began = time.perf_counter()
                subprocess.run(command, env=bench.environment(Path(folder)), capture_output=True, check=True)
                seconds[name] = time.perf_counter() - began
        ratios.append(seconds["theirs"] / seconds["ours"])
        print(f"  ours {seconds['ours']:.2f} s, theirs {seconds['theirs']:.2f} s")
    median = statistics.median(ratios)
    print(f"throughput, whole processes: {median:.2f} × hf_hub_download (median of {len(ratios)} pairs)")


PARTS: dict[str, Callable[[Bench], None]] = {
    "kills": kills,
    "corrupt": corrupt,
    "together": together,
    "disk": disk,
    "speed": speed,
}


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--size", type=int, default=200_000_000, help="bytes of the file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, HubServer() as hub:
        bench = Bench(hub, Path(folder), arguments.size)
        for part in arguments.parts:
            PARTS[part](bench)


if __name__ == "__main__":
    main()
