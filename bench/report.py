#!/usr/bin/env python3
# report.py - tables (Markdown) and pictures of the experiments, from the runs that experiment.sh
# leaves: RUNS/NAME/{command,events.jsonl,info.json,test.json}.
#
#   report.py EXPERIMENT RUNS PAGE     writes tables and pictures into PAGE
#
# A run that is missing is left out, and named where it is known which there must be; a run counts
# once info.json is there.
import json
import math
import os
import re
import sys

import plot


# ---- runs ----------------------------------------------------------------------------------------

class Run:
    def __init__(self, folder):
        with open(os.path.join(folder, "events.jsonl"), encoding="utf-8") as f:
            events = [json.loads(line) for line in f if line.startswith("{")]
        with open(os.path.join(folder, "info.json"), encoding="utf-8") as f:
            self.info = json.load(f)
        with open(os.path.join(folder, "command"), encoding="utf-8") as f:
            self.command = f.read().strip()
        self.steps = [e for e in events if e["event"] == "step"]
        self.evals = [e for e in events if e["event"] == "eval"]
        self.plan = next((e["text"] for e in events if e["event"] == "plan"), "")
        self.folder = folder
        self.test = self.tested("test")

    def tested(self, name):
        """What an evaluation of the run said; None where it is missing."""
        test = os.path.join(self.folder, f"{name}.json")
        if not os.path.exists(test):
            return None
        with open(test, encoding="utf-8") as f:
            return json.loads(f.read().splitlines()[-1])

    def fact(self, name):
        """A line of the plan."""
        found = re.search(rf"^{name} +(.*)$", self.plan, re.M)
        return found.group(1) if found else ""

    def setting(self, name):
        """A setting of the command; the last one counts."""
        found = re.findall(rf"--set {name}=(\S+)", self.command)
        return found[-1] if found else ""

    @property
    def seconds(self):
        return self.steps[-1]["seconds"]

    @property
    def examples(self):
        """Of a task, how many were read."""
        return len(self.steps) * int(self.fact("steps").split(" of ")[1].split()[0])

    @property
    def tokens(self):
        return self.steps[-1]["tokens"]

    def smoothed(self, key, parts=60):
        """(key, mean training loss) of `parts` equal parts of the run."""
        n, out = len(self.steps), []
        for i in range(min(parts, n)):
            part = self.steps[i * n // min(parts, n):(i + 1) * n // min(parts, n)]
            out.append((part[-1][key], sum(e["loss"] for e in part) / len(part)))
        return out

    def held_out(self, key, what="loss"):
        return [(e.get(key, 0), e[what]) for e in self.evals if what in e]


def load(folder, names):
    """{name: Run} of those that are there, in this order."""
    return {n: Run(os.path.join(folder, n)) for n in names
            if os.path.exists(os.path.join(folder, n, "info.json"))}


def some(runs, folder):
    """The runs, of which there must be one."""
    if not runs:
        sys.exit(f"report.py: no whole run in {folder}: nothing to tell")
    return runs


def count(n):
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(int(n))


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows]) + "\n"


def write(page, name, text):
    with open(os.path.join(page, name), "w", encoding="utf-8") as f:
        f.write(text)


def span(values, form):
    """'12 s' or '12 to 15 s'."""
    low, high = form.format(min(values)), form.format(max(values))
    unit = low.split(" ")[-1]
    return low if low == high else f"{low[:-len(unit) - 1]} to {high}"


def fall(curves):
    """A range for curves of losses, without the first plunge."""
    low = min(y for c in curves for _, y in c[1])
    high = max(c[1][min(2, len(c[1]) - 1)][1] for c in curves)
    return low - 0.03 * (high - low), high


# ---- MILA: six switches --------------------------------------------------------------------------

SWITCHES = [("baseline", "linear attention"), ("input_gate", "+ input gate"),
            ("forget_gate", "+ forget gate"), ("shortcut", "+ shortcut"),
            ("no_normaliser", "\u2212 normaliser"), ("one_head", "one head instead of four"),
            ("block", "+ block design"), ("all", "all six: Mamba")]


def mila(folder, page):
    runs = {k: r for k, r in load(folder, [s[0] for s in SWITCHES]).items() if r.test}
    names = [(k, label) for k, label in SWITCHES if k in runs]
    missing = ", ".join(k for k, _ in SWITCHES if k not in runs)
    if "baseline" in missing:
        sys.exit(f"report.py: no tested run of the baseline in {folder}; missing: {missing}")
    if missing:
        print(f"report.py: left out, for there is no tested run of them in {folder}: {missing}",
              file=sys.stderr)
    loss = {k: runs[k].test["loss"] for k in runs}
    base, first = loss["baseline"], runs["baseline"]
    shape = (f"{first.info['layers']} layers of width {first.info['width']}, "
             f"{count(first.tokens)} bytes of tinyshakespeare")
    write(page, "mila.md", table(
        ["switch", "parameters", "test loss, nats a byte", "against linear attention", "steps"],
        [[label, count(runs[k].info["parameters"]), f"{loss[k]:.3f}",
          f"{loss[k] - base:+.3f}" if k != "baseline" else "", str(len(runs[k].steps))]
         for k, label in names]))
    plot.dots(os.path.join(page, "mila.svg"),
              [(label, loss[k], f"{loss[k]:.2f}") for k, label in names],
              "What each switch from linear attention to Mamba does to the loss",
              "test loss, nats a byte (lower is better)", shape, mark=base)
    curves = [(label, runs[k].smoothed("tokens", 40), "line") for k, label in names]
    plot.lines(os.path.join(page, "mila_curves.svg"), curves, "The same runs as they learn",
               "bytes of training", "training loss, nats a byte", subtitle=shape, height=460,
               y_range=fall(curves))


# ---- what the other experiments share ------------------------------------------------------------

MEMBERS = {"lstm": "LSTM", "s4": "S4", "s4d": "S4D", "lru": "LRU", "linear": "linear attention",
           "mamba": "Mamba", "mamba2": "Mamba-2", "mamba3": "Mamba-3"}
COLOURS = {"mamba": 0, "linear": 1, "lru": 2, "s4d": 3, "mamba2": 4, "lstm": 5, "mamba3": 6,
           "s4": 7}


def found(folder, end):
    """{member: Run} of the folders MEMBER.end, in the order of MEMBERS."""
    runs = load(folder, [f"{m}.{end}" for m in MEMBERS])
    return {name.split(".")[0]: run for name, run in runs.items()}


def percent(v):
    """100.0 is said of nothing but all."""
    if v is None:
        return ""
    text = f"{100 * v:.1f}"
    return text if v == 1 or text != "100.0" else f"{math.floor(10000 * v) / 100:.2f}"


def cost(run):
    return f"{len(run.steps)} steps, {run.seconds:.0f} s"


def machine(runs):
    """What they were computed on, as their plans say."""
    run = next(iter(runs))
    threads = run.fact("threads").split(",")[0]
    device = ", ".join(run.fact("device").split(", ")[:2])  # the card, its activations
    return device and f"one {device}" or f"a CPU, {threads} thread{'s' * (threads != '1')}"


# ---- tasks beside published rows -----------------------------------------------------------------

TASKS = [("image_grey", "grey CIFAR-10"), ("listops", "ListOps"), ("pathfinder", "Pathfinder-32"),
         ("imdb", "IMDB bytes"), ("spoken_digits", "spoken digits")]
# Percent, as published: the tables of S4D (Gu et al. 2022; S4D-Lin), LRU (Orvieto et al. 2023,
# whose picture column is of colour), the Long Range Arena (Tay et al. 2021), and of Mamba as others
# ran it ("Block-Biased Mamba", 2025). The Mamba paper has none.
PUBLISHED = [("chance", ["10.0", "10.0", "50.0", "50.0", "10.0"]),
             ("Transformer, published", ["42.4", "36.4", "71.4", "64.3", ""]),
             ("S4D, published", ["87.9", "60.5", "94.0", "87.0", ""]),
             ("LRU, published", ["", "60.2", "95.1", "89.4", ""]),
             ("Mamba, published by others", ["69.8", "38.0", "69.3", "83.0", ""])]


def tasks(folder, page):
    by_task = {t: found_in_task(folder, t) for t, _ in TASKS}
    all_runs = some([r for runs in by_task.values() for r in runs.values()], folder)
    rows = []
    for m in MEMBERS:
        if any(m in by_task[t] for t, _ in TASKS):
            cells = [by_task[t].get(m) for t, _ in TASKS]
            rows.append([f"**{MEMBERS[m]}**"] + [
                f"**{percent(r.test['accuracy'])}** ({count(r.examples)} seen)"
                if r and r.test else "" for r in cells])
    for name, cells in PUBLISHED:
        rows.append([name] + cells)
    longest = span([r.seconds for r in all_runs], "{:.0f} s")
    write(page, "classification.md",
          f"Answers right in percent, on test examples that training never saw. "
          f"Budget: {longest} of training a run, on {machine(all_runs)}; in brackets the examples "
          "that it saw. The published rows had 32 to 200 passes over their data; some settings "
          "differ by task and member here as there (bench/tasks.sh). Pathfinder's pictures are "
          "drawn anew, CIFAR-10 comes from JPEG.\n\n"
          + table(["", *(label for _, label in TASKS)], rows)
          + "\n" + table(["run", "parameters", "layers x width", "steps", "examples seen", "s"],
                         [[f"{t}, {MEMBERS[m]}", count(r.info["parameters"]),
                           f"{r.info['layers']} x {r.info['width']}", str(len(r.steps)),
                           count(r.examples), f"{r.seconds:.0f}"]
                          for t, _ in TASKS for m, r in by_task[t].items()]))


def found_in_task(folder, task):
    runs = load(folder, [f"{task}.{m}" for m in MEMBERS])
    return {name.split(".")[1]: run for name, run in runs.items()}


# ---- recall against the size of the state --------------------------------------------------------

def mqar(folder, page):
    names = [n for n in os.listdir(folder) if n.split(".")[0] in MEMBERS and n.count(".") > 1]
    every = load(folder, sorted(names, key=lambda n: (list(MEMBERS).index(n.split(".")[0]),
                                                      int(n.split(".")[1]))))
    best = {}  # of the rates of a size, by what was kept from training
    for name, r in every.items():
        key = tuple(name.split(".")[:2])
        if key not in best or r.evals[-1]["loss"] < best[key].evals[-1]["loss"]:
            best[key] = r
    runs = list(some(best, folder).values())
    pairs = tests_of(runs)
    shape = (f"length {runs[0].setting('length')}, {runs[0].setting('symbols')} symbols, "
             f"{runs[0].setting('fewest')} to {runs[0].setting('pairs')} pairs in training")
    longest = span([r.seconds for r in every.values()], "{:.0f} s")
    write(page, "mqar.md", f"Associative recall ({shape}): {longest} of training a run, on "
          f"{machine(runs)}; answers right in percent, in tests of so many pairs.\n\n" + table(
              ["", "size set", "numbers of state a sequence", "parameters",
               *(f"{k} pairs" for k in pairs), "rate", "steps", "training"],
              [[MEMBERS[m], size, count(r.info["state_bytes"] // 4), count(r.info["parameters"]),
                *(percent(accuracy(r, k)) for k in pairs), r.setting("learning_rate"),
                str(len(r.steps)), f"{r.seconds:.0f} s"] for (m, size), r in best.items()]))
    plot.stacked(os.path.join(page, "mqar.svg"),
                 [recalled(best, k, f"{shape}; two layers of width {runs[0].info['width']}, "
                                    f"{longest} each") for k in pairs])


def recalled(best, pairs, subtitle):
    """The panel of the tests of so many pairs."""
    curves = {}
    for (m, _), r in best.items():
        if accuracy(r, pairs) is not None:
            curves.setdefault(m, []).append((r.info["state_bytes"] // 4,
                                             100 * accuracy(r, pairs)))
    return {"series": [(MEMBERS[m], c, "both", COLOURS[m]) for m, c in curves.items()],
            "title": f"{pairs} pairs recalled, against the size of the state, one seed",
            "subtitle": subtitle, "x_label": "numbers of state a sequence",
            "y_label": "answers right, %", "log_x": True, "y_range": (0, 100)}


def tests_of(runs):
    """The numbers N of all their tests N.json."""
    return sorted({int(f[:-5]) for r in runs for f in os.listdir(r.folder)
                   if re.fullmatch(r"\d+\.json", f)})


def accuracy(run, test):
    return (run.tested(str(test)) or {}).get("accuracy")


# ---- selective copying ---------------------------------------------------------------------------

def selective_copying(folder, page):
    short, long = found(folder, "short"), found(folder, "long")
    rows, series = [], []
    for m, r in short.items():
        far = long.get(m)
        rows.append([f"**{MEMBERS[m]}**", count(r.info["parameters"]),
                     count(r.info["state_bytes"] // 4), percent((r.test or {}).get("accuracy")),
                     cost(r)]
                    + ([f"**{percent((far.test or {}).get('accuracy'))}**", cost(far)]
                       if far else ["", ""]))
    for m, r in (long or short).items():
        series.append((MEMBERS[m], [(x, 100 * y) for x, y in r.held_out("tokens", "accuracy")],
                       "both", COLOURS[m]))
    near = next(iter(some(short, folder).values()))
    runs = long or short
    first = next(iter(runs.values()))
    if (first.setting("length"), first.setting("memorise")) == ("4096", "16"):
        rows += [["published: Mamba", "", "", "", "", "99.8", ""],
                 ["published: S4 in a block with a gate (H3)", "", "", "", "", "57.0", ""],
                 ["published: S4 without gate", "", "", "", "", "18.3", ""]]
    chance = percent(1 / (int(first.setting("symbols")) - 2))
    rows.append(["chance", "", "", chance, "", chance, ""])
    write(page, "selective_copying.md", f"{first.setting('memorise')} tokens to remember; answers "
          f"right in percent, on {machine(runs.values())}. Published, where the shape is the same: "
          "Gu & Dao 2023, after 400,000 steps.\n\n" + table(
              ["", "parameters", "numbers of state", f"{near.setting('length')} rows", "training",
               f"{first.setting('length')} rows", "training"], rows))
    plot.lines(os.path.join(page, "selective_copying.svg"), series,
               "Who can choose what to remember", "rows of training at this length",
               "answers right, %",
               subtitle=f"selective copying: {first.setting('memorise')} tokens in "
               f"{first.setting('length')} rows, begun from {near.setting('length')} rows",
               y_range=(0, 100))


# ---- induction heads -----------------------------------------------------------------------------

def induction_heads(folder, page):
    names = [n for n in os.listdir(folder) if n.split(".")[0] in MEMBERS and "." in n]
    runs = load(folder, sorted(names, key=lambda n: (list(MEMBERS).index(n.split(".")[0]), n)))
    lengths = tests_of(some(runs, folder).values())
    first = next(iter(runs.values()))
    rows, series = [], []
    for name, r in runs.items():
        member, seed = name.split(".")
        tests = {n: t for n, t in ((n, r.tested(str(n))) for n in lengths) if t}
        rows.append([f"**{MEMBERS[member]}**", seed, count(r.info["parameters"]), cost(r)]
                    + [percent(tests[n]["accuracy"]) if n in tests else "" for n in lengths])
        label = MEMBERS[member] if not any(s[3] == COLOURS[member] for s in series) else "-"
        series.append((label, [(n, 100 * t["accuracy"]) for n, t in tests.items()], "both",
                       COLOURS[member]))
    examples = max(r.tested(str(n))["examples"] for r in runs.values() for n in lengths
                   if r.tested(str(n)))
    write(page, "induction_heads.md", f"Trained in {first.setting('length')} rows alone; answers "
          f"right in percent of {examples} examples of each length, on {machine(runs.values())}. "
          "Published (Gu & Dao 2023): Mamba 100% at each length, after 204,800 steps.\n\n" + table(
              ["", "seed", "parameters", "training", *(power(n) for n in lengths)], rows))
    plot.lines(os.path.join(page, "induction_heads.svg"), series,
               f"Learned in {first.setting('length')} rows, asked in "
               f"{'a million' if lengths[-1] == 1 << 20 else count(lengths[-1])}",
               "rows of the test", "answers right, %",
               subtitle=f"induction heads: two layers of width {first.info['width']}, "
               f"trained in {first.setting('length')} rows", log_x=True, y_range=(0, 100))


def power(n):
    """2^8 in small print."""
    return f"2<sup>{n.bit_length() - 1}</sup>"


# ---- language ------------------------------------------------------------------------------------

def language(folder, page):
    runs = some(load(folder, MEMBERS), folder)
    timed = os.environ.get("TIMES", "yes") == "yes"
    sizes = [count(n) for n in sorted(r.info["parameters"] for r in runs.values())]
    head = ["", "parameters", "numbers of state", "bytes read", "test loss, nats a byte",
            "bits a byte"] + ["training", "bytes a second"] * timed
    rows = [[f"**{MEMBERS[m]}**", count(r.info["parameters"]), count(r.info["state_bytes"] // 4),
             count(r.tokens), f"{r.test['loss']:.4f}" if r.test else "",
             f"**{r.test['loss'] / math.log(2):.4f}**" if r.test else ""]
            + [f"{r.seconds:.0f} s", count(r.tokens / r.seconds)] * timed for m, r in runs.items()]
    write(page, "language.md",
          f"Every tenth novel is the test. On {machine(runs.values())}.\n\n" + table(head, rows))

    def panel(key, title, subtitle, x_label):
        curves = [(MEMBERS[m], r.smoothed(key, 50), "line", COLOURS[m]) for m, r in runs.items()]
        return {"series": curves, "title": title, "subtitle": subtitle, "x_label": x_label,
                "y_label": "training loss, nats a byte", "y_range": fall(curves),
                "log_x": key == "seconds"}
    panels = [panel("tokens", "English novels: equal sizes, equal bytes",
                    f"{sizes[0]} to {sizes[-1]} parameters", "bytes of text read"),
              panel("seconds", "The same by time", f"on {machine(runs.values())}",
                    "seconds of training")]
    plot.stacked(os.path.join(page, "language.svg"), panels if timed else panels[:1])


# ---- what there is -------------------------------------------------------------------------------

EXPERIMENTS = {f.__name__: f for f in (mila, tasks, mqar, selective_copying, induction_heads,
                                       language)}


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in EXPERIMENTS:
        sys.exit(f"usage: report.py {'|'.join(EXPERIMENTS)} RUNS PAGE")
    EXPERIMENTS[sys.argv[1]](sys.argv[2], sys.argv[3])


if __name__ == "__main__":
    main()
