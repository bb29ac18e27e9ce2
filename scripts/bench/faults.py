"""Kills runs and fills their disk at random moments, resumes them, and compares them with a run that was left alone.

Each case is drawn from ``--seed`` and its number alone: whom it strikes (the run, a worker of its loader, one of the
two processes of a job, their launcher), with what (a signal, or a disk that is full), while it does what, and when.
The exact moment is the machine's. Then the run is resumed as its user would, and at its end every loss and score and
everything in its last checkpoint must equal, bit for bit, those of a run of as many processes that nothing struck.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

# A fork of a process with more threads would wait for them for ever.
os.environ["OMP_NUM_THREADS"] = "1"

import common
import strike
import torch

import lib.engine.train
import lib.tasks.segmentation  # noqa: F401 (so that a fork has it already)
from datasets.seg.street import write_dataset

RECIPE = common.ROOT / "configs" / "seg" / "cityscapes" / "fcn_r101.yaml"
ITERATIONS = 12
SETTINGS = (
    *("device=cpu", "model.backbone.name=mobilenet_v2", "model.backbone.output_stride=32", "data.crop_size=[64,48]"),
    *("data.workers=1", "loss.ohem_min_kept=500", "train.amp=false", "train.batch_size=4"),
    *(f"train.max_iters={ITERATIONS}", "log.interval=2", "val.interval=4", "checkpoint.interval=3"),
)
"""A tiny network with all that a run has: dropout, momentum, workers, rows that span checkpoints, validations."""

FAULTS = (*strike.SIGNALS, strike.FULL_DISK)
PHASES = {"starting": None, "training": 0.1, "writing": 0.04, "validating": 0.15, "resuming": None}
"""What a run does when it is struck, with the seconds within which that happens; starting takes what is measured."""
TARGETS = {"run": 0.7, "worker": 0.1, "process of a pair": 0.13, "launcher of a pair": 0.07}
"""Who is struck, with its share of the cases."""
SAVES, VALIDATIONS, ROWS = (3, 4, 6, 8, 9, 12), (4, 8, 12), range(2, ITERATIONS, 2)
SPEED = ("images_per_s", "memory_gib", "left_s")
"""What rows of ``metrics.jsonl`` hold that is not the run's but the machine's."""
PATIENCE = 120.0


@dataclass(frozen=True)
class Strike:
    """One fault: it comes ``delay`` (a share of the phase) after the run reached ``iteration`` in ``phase``."""

    target: str
    fault: str
    phase: str
    iteration: int
    delay: float
    rank: int
    room: int
    """Bytes that a full disk leaves a file."""

    @property
    def is_of_pair(self) -> bool:
        return "pair" in self.target


@dataclass
class Outcome:
    """What became of a case."""

    strikes: list[Strike]
    statuses: list[int | None] = field(default_factory=list)
    """Of every start of the run; None: it hung."""
    missed: int = 0
    """Strikes that found the run, or the worker, gone."""
    tracebacks: int = 0
    seconds: float = 0.0
    problem: str = ""
    """Why the run is not as if nothing had struck it; empty if it is."""


def draw(seed: int, number: int, *, alone: bool = False) -> list[Strike]:
    """The strikes of a case; to be resuming, a run must first have been killed. ``alone``: no runs of two processes."""
    rng = random.Random(f"{seed}/{number}")
    target = rng.choices(list(TARGETS), list(TARGETS.values()))[0]
    target = "run" if alone and "pair" in target else target
    phase = rng.choice(("training", "validating") if target == "worker" else list(PHASES))
    found = Strike(
        target=target,
        fault=rng.choice(strike.SIGNALS if target == "worker" else FAULTS),
        phase=phase,
        iteration=rng.choice({"writing": SAVES, "validating": VALIDATIONS}.get(phase, ROWS)),
        delay=rng.random(),
        rank=rng.randrange(2),
        room=rng.choice((rng.randrange(4096), rng.randrange(20 << 20))),
    )
    if phase != "resuming":
        return [found]
    return [replace(found, fault="SIGKILL", phase="training", iteration=max(4, found.iteration)), found]


class Campaign:
    """Runs of the tiny network in ``folder``, on scenes drawn there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = folder / "data"
        write_dataset(folder / "raw", {"train": 6, "val": 3, "test": 1}, (96, 64), seed=0, workers=1)
        command = ["-m", "datasets.seg.preprocess.cityscapes", "--src", folder / "raw", "--dst", self.data]
        subprocess.run([sys.executable, *command], cwd=common.ROOT, check=True, capture_output=True)
        self.references: dict[bool, tuple[list, dict]] = {}
        self.startup: dict[bool, float] = {}
        self.process = 0

    def run_folder(self, tag: str) -> Path:
        return self.folder / "seg" / "cityscapes" / "fcn_r101" / tag

    def start(self, tag: str, is_pair: bool, *, is_fresh: bool) -> int:
        """Start what the user of run ``tag`` would: train, train anew where nothing was saved, or resume."""
        run, words = self.run_folder(tag), SETTINGS
        mode = "resume" if (run / "checkpoints" / "latest.pth").exists() else "train"
        if mode == "resume":
            words = ()
        elif (run / "config.yaml").exists():
            words = (*SETTINGS, "overwrite=true")
        program = "lib/engine/launch.py" if is_pair else "main.py"
        command = (str(common.ROOT / program), mode, "--config", str(RECIPE), f"tag={tag}", f"data.root={self.data}")
        environment = {"RUNS_DIR": str(self.folder), "TORCH_CPP_LOG_LEVEL": "ERROR"} | (
            {"NPROC": "2"} if is_pair else {}
        )
        self.process = strike.start((*command, *words), self.said(tag), environment, fork=not is_fresh)
        return self.process

    def said(self, tag: str) -> Path:
        return self.folder / f"{tag}.txt"

    def reference(self, is_pair: bool) -> tuple[list, dict]:
        """Rows and last checkpoint of a run that nothing strikes; the first call trains it."""
        if is_pair not in self.references:
            tag, begin = f"whole {1 + is_pair}", time.monotonic()
            process = self.start(tag, is_pair, is_fresh=True)
            first = Strike("", "", "training", ROWS[0], 0, 0, 0)
            while not has_come(first, self.run_folder(tag)) and strike.is_alive(process):
                time.sleep(0.003)
            self.startup[is_pair] = time.monotonic() - begin
            if strike.wait(process, PATIENCE) != 0:
                raise SystemExit(f"error: the run that nothing strikes failed: {self.said(tag).read_text()}")
            self.references[is_pair] = read_run(self.run_folder(tag))
        return self.references[is_pair]

    def case(self, number: int, strikes: list[Strike]) -> Outcome:
        """Train a run that is struck, resume it to its end, and compare."""
        outcome, tag, is_pair = Outcome(strikes), f"run {number}", strikes[0].is_of_pair
        expected = self.reference(is_pair)
        for blow in [*strikes, None]:
            is_early = blow is not None and blow.phase in ("starting", "resuming")
            process = self.start(tag, is_pair, is_fresh=is_early)
            left = self.hit(process, tag, blow, outcome) if blow else []
            status = strike.wait(process, PATIENCE)
            outcome.statuses.append(status)
            said = self.said(tag).read_text(errors="replace")
            outcome.tracebacks += "Traceback" in said
            outlived = strike.outlive(left, 10)
            if status is None or outlived:
                outcome.problem = f"processes {outlived} outlived it" if outlived else f"it hung: {said[-400:]}"
                return outcome
            if status == 0:
                break
        else:
            outcome.problem = f"resuming ended with status {status}: {said[-400:]}"
            return outcome
        outcome.problem = difference(read_run(self.run_folder(tag)), expected)
        shutil.rmtree(self.run_folder(tag))
        return outcome

    def hit(self, process: int, tag: str, blow: Strike, outcome: Outcome) -> list[int]:
        """Wait for the moment and strike; returns all that had been started by then."""
        run = self.run_folder(tag)
        while not has_come(blow, run):
            if not strike.is_alive(process):
                outcome.missed += 1
                return []
            time.sleep(0.002)
        seconds = PHASES[blow.phase] or self.startup[blow.is_of_pair]
        time.sleep(seconds * blow.delay * (3 if PHASES[blow.phase] and blow.is_of_pair else 1))
        struck, started = process, strike.descendants(process)
        if blow.target == "worker":
            struck = (strike.children(process) or [0])[-1]
        elif blow.target == "process of a pair":
            while not (struck := strike.workers_of_job(process).get(blow.rank, 0)) and strike.is_alive(process):
                time.sleep(0.02)
        if not strike.is_alive(struck):
            outcome.missed += 1
            return started
        strike.strike(process if blow.fault == strike.FULL_DISK else struck, blow.fault, blow.room)
        return started


def has_come(blow: Strike, run: Path) -> bool:
    """Whether the run does what it is to be struck in."""
    checkpoints, number = run / "checkpoints", blow.iteration
    try:
        if blow.phase == "training":
            return f'{{"iter": {number},' in (run / "metrics.jsonl").read_text()
        if blow.phase == "writing":
            return any(f"iter_{number}.pth" in name and ".part" in name for name in os.listdir(checkpoints))
    except OSError:
        return False
    # A validation follows the checkpoint of its iteration.
    return blow.phase != "validating" or (checkpoints / f"iter_{number}.pth").exists()


def read_run(run: Path) -> tuple[list[dict], dict]:
    """The rows of a run without what is the machine's, and its last checkpoint."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if key not in SPEED} for row in rows]
    state = torch.load(run / "checkpoints" / "latest.pth", weights_only=True)
    # PyTorch counts the calls since the start of the process, to warn of a wrong order.
    state["schedule"].pop("_step_count", None)
    # Its name, and whether an earlier attempt was to be replaced, are what tells one run from the other.
    own = ("tag:", "overwrite:")
    state["config"] = [line for line in state["config"].splitlines() if not line.startswith(own)]
    return rows, state


def difference(found: tuple[list, dict], expected: tuple[list, dict]) -> str:
    """The first thing in which two runs differ, in words; empty where they are equal to the last bit."""
    if found[0] != expected[0]:
        pairs = zip(found[0], expected[0], strict=False)
        first = next((f"{row}, not {other}" for row, other in pairs if row != other), "one has fewer rows")
        return f"metrics.jsonl: {first}"
    return _unequal(found[1], expected[1], "latest.pth")


def _unequal(found: object, expected: object, name: str) -> str:
    if isinstance(expected, torch.Tensor):
        same = isinstance(found, torch.Tensor) and found.dtype == expected.dtype and torch.equal(found, expected)
        return "" if same else name
    if type(found) is not type(expected):
        return name
    if isinstance(expected, (dict, list, tuple)):
        if isinstance(expected, dict):
            entries = [(key, found.get(key), value) for key, value in expected.items()]
        else:
            entries = [(i, *both) for i, both in enumerate(zip(found, expected, strict=False))]
        if len(found) != len(expected):
            return f"{name} has {len(found)} entries, not {len(expected)}"
        return next((text for key, *both in entries if (text := _unequal(*both, f"{name}: {key}"))), "")
    return "" if found == expected else name


def table(outcomes: list[Outcome]) -> list[list[str]]:
    """A row for everyone that was struck in every phase, a cell ``equal/cases`` for every fault."""
    rows = []
    for target in TARGETS:
        for phase in PHASES:
            cells = []
            for fault in FAULTS:
                last = (outcome.strikes[-1] for outcome in outcomes)
                chosen = [
                    outcome
                    for outcome, blow in zip(outcomes, last, strict=True)
                    if (blow.target, blow.phase, blow.fault) == (target, phase, fault)
                ]
                equal = sum(not outcome.problem for outcome in chosen)
                cells.append(f"{equal}/{len(chosen)}" if chosen else "")
            if any(cells):
                rows.append([f"{target}, {phase}", *cells])
    return rows


def main() -> None:
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="number of cases (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="from which the cases are drawn (default: 0)")
    parser.add_argument("--first", type=int, default=0, metavar="I", help="number of the first case, to repeat one")
    parser.add_argument("--alone", action="store_true", help="only runs of one process, which take a tenth of the time")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    folder, begin = Path(tempfile.mkdtemp(prefix="faults ")), time.monotonic()
    campaign, outcomes = Campaign(folder), []
    try:
        for number in range(options.first, options.first + options.runs):
            started = time.monotonic()
            outcome = campaign.case(number, draw(options.seed, number, alone=options.alone))
            outcome.seconds = round(time.monotonic() - started, 1)
            outcomes.append(outcome)
            if outcome.problem:
                print(f"case {number}: {outcome}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted: these are the cases until now", file=sys.stderr)
    finally:
        if strike.is_alive(campaign.process):
            strike.wait(campaign.process, 0)
        shutil.rmtree(folder)
    equal = sum(not outcome.problem for outcome in outcomes)
    figures = {
        "runs": len(outcomes),
        "equal": equal,
        "missed": sum(outcome.missed for outcome in outcomes),
        "tracebacks": sum(outcome.tracebacks for outcome in outcomes),
        "seconds": round(time.monotonic() - begin, 1),
        "cases": [asdict(outcome) for outcome in outcomes],
    }
    header = ["struck", *FAULTS]
    common.report("Runs that are equal to the run that nothing struck", header, table(outcomes), figures, options.json)
    print(
        f"\n{equal} of {len(outcomes)} runs equal ({figures['missed']} strikes came too late, "
        f"{figures['tracebacks']} starts ended in a traceback, {figures['seconds']:.0f} s)"
    )
    sys.exit(equal < len(outcomes))


if __name__ == "__main__":
    main()
