"""Golden digests: runs the rows of tests/golden/digests.json and takes the digests of everything that they make.

A row is [name, run, exit, plan, tree, text], on a line of its own. `run` is a command line in which

    OUT, HERE                the row's output directory, and the folder around it, for reports
    @ROW, @ROW:plan          the output of an earlier row, and its plan
    @ROW!EDIT, @ROW!EDIT/F   a copy of it, changed by a function of harness/golden_edits.py, and a file in that copy
    GOLDEN                   tests/golden

What makes a run repeatable is added here: devices, threads, memory, no progress; to conversions also --plan-out.

exit    exit code
plan    digest of the plan file; null where there is none
tree    digest of all that the row left in HERE, by name, kind and bytes; null where that is nothing. Of sparse
        checkpoints only headers and lengths count
text    digest of stdout and stderr

What is taken out before hashing, because it may change while no conversion does: the version of the tool in plans and
manifests, and the hash of a manifest's text, which has it; seconds, throughput and device of what is printed; the folder, its file
system and the space there; the last digits of "sqnr_db", a logarithm of the C library's; the words with which the command line's
parser refuses an option, which are that library's.
"""
import concurrent.futures
import hashlib
import json
import os
import re
import shlex
import shutil
import struct
import tempfile
import threading
from collections import namedtuple

from harness import golden_edits, tools

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")
FILE = os.path.join(FOLDER, "digests.json")
DIGESTS = ("exit", "plan", "tree", "text")
LENGTH = 10  # hex digits, of SHA-256
COLUMNS = ("name", "run") + DIGESTS
FIXED = {"mimo-convert": (("--device", "cpu"), ("--threads", "2"), ("--memory", "1GiB"), ("--no-progress",)),
         "mimo-synth": (("--threads", "2"), ("--no-progress",)),
         "mimo-verify": (("--threads", "2"), ("--no-progress",)),
         "mimo-inspect": ()}
REFERENCE = re.compile(r"@([^!:/]+)(?:!([a-z0-9_]+))?(:plan)?(/.*)?")
MANIFEST_HASH = (re.compile(rb'(?<=\n"manifest_hash":")[0-9a-f]{32}(?="\n}\n$)'), b"")
VERSION = (re.compile(rb'("tool_version": ?)"[^"]*"'), rb'\1""')
DECIBELS = (re.compile(rb'(?<="sqnr_db":)-?[0-9.]+'), lambda match: b"%.9f" % float(match[0]))
VARYING = ((re.compile(rb'("seconds": ?)[0-9.e+-]+'), rb"\g<1>0"),
           (re.compile(rb'("device": ?)"cpu [^"]*"'), rb'\1"cpu"'),
           (re.compile(rb" in [0-9.]+ s \([^()]*/s\) on cpu \([a-z0-9]+\)$", re.M), b" in S"),
           (re.compile(rb"^(mimo-[a-z]+: error: ).*(see mimo-[a-z]+ --help)$", re.M), rb"\1\2"),
           (re.compile(rb", [0-9.]+ s$", re.M), b", S"),
           (re.compile(rb"^(run {9}.*) on [a-z0-9]+(: .*)$", re.M), rb"\1\2"),
           (re.compile(rb"^(space .* of the )\S+ \S+( that are free)$", re.M), rb"\1\2"),
           (re.compile(rb'("file_system": ?)"[^"]*"'), rb'\1""'),
           (re.compile(rb'("free_bytes": ?)[0-9]+'), rb"\g<1>0"))

Outcome = namedtuple("Outcome", "row found seconds")


def load(path=FILE):
    """-> the rows as {column: value}, in the order of the file; a new row may be a name and a command alone"""
    with open(path, encoding="utf-8") as f:
        rows = [dict(zip(COLUMNS, row)) for row in json.load(f)["rows"]]
    names = set()
    for row in rows:
        if row["name"] in names:
            raise ValueError(f"two rows are called {row['name']}")
        missing = {m[1] for m in references(row)} - names
        if missing:
            raise ValueError(f"{row['name']} uses {missing.pop()}, which is no earlier row")
        names.add(row["name"])
    return rows


def write(found, path=FILE):
    """Puts the digests {name: {...}} into the file. All else stays as it is: one line is one row."""
    with open(path, encoding="utf-8") as f:
        lines = f.read().split("\n")
    for number, line in enumerate(lines):
        if line.startswith('["'):
            row = json.loads(line.rstrip(","))
            if row[0] in found:
                row = row[:2] + [found[row[0]].get(key) for key in DIGESTS]
                lines[number] = json.dumps(row, ensure_ascii=False) + ("," if line.endswith(",") else "")
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(lines))


def differences(row, found):
    """Which of the digests are not the row's."""
    return [key for key in DIGESTS if row.get(key) != found.get(key)]


def needed(rows, names):
    """The rows of these names and those that they use, in order."""
    names = set(names)
    for row in reversed(rows):
        if row["name"] in names:
            names |= {m[1] for m in references(row)}
    return [row for row in rows if row["name"] in names]


def references(row):
    return [m for m in map(REFERENCE.fullmatch, shlex.split(row["run"])) if m]


class Runner:
    """Runs rows in a pool. An output goes when no row needs it any more, unless `keep` names a folder for all of them:
    ROW/out, ROW.plan, and ROW.text, what was printed."""

    def __init__(self, rows, keep=None):
        self.rows, self.keep, self.futures, self.lock = rows, keep, {}, threading.Lock()
        self.folder = os.path.realpath(keep or tempfile.mkdtemp(prefix="mimo-golden-"))
        self.users = {row["name"]: 1 for row in rows}
        for row in rows:
            for name in {m[1] for m in references(row)}:
                self.users[name] += 1

    def run(self):
        """-> [Outcome], in order"""
        try:
            # Rows start in order, so whatever a row waits for is running or done.
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                for row in self.rows:
                    self.futures[row["name"]] = pool.submit(self._row, row)
                return [self.futures[row["name"]].result() for row in self.rows]
        finally:
            if not self.keep:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _row(self, row):
        used = {m[1] for m in references(row)}
        for name in used:
            self.futures[name].result()
        here = os.path.join(self.folder, row["name"])
        os.makedirs(here)
        try:
            words = shlex.split(row["run"])
            arguments = [self._word(here, word) for word in words[1:]]
            plan = os.path.join(self.folder, row["name"] + ".plan")
            if words[0] == "mimo-convert":
                arguments += ["--plan-out", plan]
            for option in FIXED[words[0]]:
                if option[0] not in words:
                    arguments += option
            done = tools.run(words[0], *arguments, cwd=here)
            found = {"exit": done.code}
            if os.path.exists(plan):
                found["plan"] = digest(_replace(_bytes(plan), (VERSION,)))
            tree = digest_of_tree(here, "--sparse" in words)
            if tree:
                found["tree"] = tree
            text = self._text(done.stdout) + b"\0" + self._text(done.stderr)
            with open(os.path.join(self.folder, row["name"] + ".text"), "wb") as f:
                f.write(text)
            found["text"] = digest(text)
            return Outcome(row, found, done.seconds)
        finally:
            for name in used | {row["name"]}:
                self._release(name)

    def _word(self, here, word):
        if word in ("OUT", "HERE") or word.startswith(("HERE/", "OUT/")):
            return os.path.join(here, "out" + word[3:] if word.startswith("OUT") else word[5:])
        if word.startswith("GOLDEN/"):
            return os.path.join(FOLDER, word[7:])
        reference = REFERENCE.fullmatch(word)
        if not reference:
            return word
        name, edit, plan, rest = reference.groups()
        if plan:
            return os.path.join(self.folder, name + ".plan")
        place = os.path.join(self.folder, name, "out")
        if edit:
            copy = os.path.join(self.folder, f"{os.path.basename(here)}.{edit}")
            if not os.path.exists(copy):
                shutil.copytree(place, copy)
                getattr(golden_edits, edit)(copy)
            place = copy
        return place + (rest or "")

    def _text(self, text):
        text = text.replace(self.folder, "WORK").replace(FOLDER, "GOLDEN")
        return _replace(text.encode(), VARYING)

    def _release(self, name):
        with self.lock:
            self.users[name] -= 1
            gone = self.users[name] == 0
        if gone and not self.keep:
            for entry in os.listdir(self.folder):
                if entry == name or re.fullmatch(re.escape(name) + r"\.[a-z_]+", entry):
                    path = os.path.join(self.folder, entry)
                    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def digest(data):
    return hashlib.sha256(data).hexdigest()[:LENGTH]


def _bytes(path):
    with open(path, "rb") as f:
        return f.read()


def _replace(data, rules):
    for pattern, text in rules:
        data = pattern.sub(text, data)
    return data


def digest_of_tree(folder, sparse=False):
    """None where nothing was left. A partial output counts by its name alone: it is no result."""
    total, any_file = hashlib.sha256(), False
    for root, folders, files in os.walk(folder):
        if ".mimo-partial" in folders:
            folders.remove(".mimo-partial")
            files.append(".mimo-partial")
        folders.sort()
        for name in sorted(files):
            path, any_file = os.path.join(root, name), True
            total.update(f"{os.path.relpath(path, folder)}\0{_kind(path)}\0{_content(path, sparse)}\0".encode())
    return total.hexdigest()[:LENGTH] if any_file else None


def _kind(path):
    if os.path.isdir(path):
        return "partial"
    if os.path.islink(path):
        return "link"
    return "shared" if os.lstat(path).st_nlink > 1 else "file"


def _content(path, sparse):
    if os.path.isdir(path):
        return ""
    with open(path, "rb") as f:
        if sparse and path.endswith(".safetensors"):
            length = struct.unpack("<Q", f.read(8))[0]
            return f"{digest(f.read(length))} of {os.path.getsize(path)}"
        if os.path.basename(path) in ("mimo-manifest.json", "report.json"):
            return digest(_replace(f.read(), (VERSION, MANIFEST_HASH, DECIBELS)))
        hasher = hashlib.sha256()
        for chunk in iter(lambda: f.read(1 << 20), b""):
            hasher.update(chunk)
        return hasher.hexdigest()[:LENGTH]
