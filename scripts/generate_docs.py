#!/usr/bin/env python3
"""Writes the pages of docs/ that are made of data: docs/sources.md (what people have, what the tools do with it) from
schemas/foreign.json, and docs/findings.md (every id that a refusal or a finding can have) from schemas/findings/*.json
and schemas/foreign.json. tests/structure/test_generated_docs.py holds the committed pages to be what this makes.

    generate_docs.py [--check]     --check: writes nothing, and exits 1 where a page is another
"""
import glob
import json
import os
import sys
import textwrap

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COLUMNS = 100
MADE = "<!-- Made by scripts/generate_docs.py of {}: edit that, and run it. -->"


def load(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return json.load(f)


def wrapped(text, indent=""):
    return textwrap.fill(text, COLUMNS, initial_indent=indent, subsequent_indent=" " * len(indent),
                         break_long_words=False, break_on_hyphens=False)


def sentence(text):
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", ":")) else text + "."


def known_families():
    """Titles of schemas/models, as messages list them."""
    folder = os.path.join(ROOT, "schemas", "models")
    titles = [load(os.path.join("schemas", "models", name))["title"] for name in sorted(os.listdir(folder))]
    return " and ".join(filter(None, [", ".join(titles[:-1]), titles[-1]]))


def shown(text):
    """Slots of a name or an advice as a reader understands them."""
    for slot, word in (("{value}", "PREFIX" if "prefix" in text else "TYPE"), ("{file}", "FILE"),
                       ("{directory}", "DIRECTORY"), ("{families}", known_families())):
        text = text.replace(slot, word)
    return text


def condition(entry):
    any_of = " or ".join(f"`{v}`" for v in entry.get("any", []))
    texts = {
        "arrays": lambda p: f"tensors `{p}`" + (f" of {any_of}" if any_of else "")
        + (f" of {entry['rank']} dimensions" if "rank" in entry else ""),
        "no_arrays": lambda p: f"no tensors `{p}`",
        "only_arrays": lambda p: f"no tensors but {any_of}",
        "prefixed": lambda p: "names of the model behind a common beginning",
        "config": lambda p: f"`{p}` in config.json" + (f" is {any_of}" if any_of else ""),
        "not_config": lambda p: f"`{p}` of config.json is not {any_of}" if any_of else f"no `{p}` in config.json",
        "not_family": lambda p: "config.json is of no family that is known",
        "file": lambda p: f"a file `{p}`",
        "no_file": lambda p: f"no file `{p}`",
        "begins": lambda p: f"a file that begins with {any_of}",
        "holds": lambda p: f"{any_of} in `{p}`",
        "dangling": lambda p: "a symbolic link that leads nowhere",
        "metadata": lambda p: f"`{p}` in the header of a tensor file",
        "root_is_file": lambda p: "CKPT is a file",
    }
    for key, text in texts.items():
        if key in entry:
            return text(entry[key])
    raise ValueError(entry)


def sources():
    table = load("schemas/foreign.json")
    prefixes = ", ".join(f"`{p['from']}`" for p in table["prefixes"])
    lines = [MADE.format("schemas/foreign.json"), "# What people have, and what the tools do with it", "",
             wrapped("Checkpoints come from many tools. The first list is what is read. The second is what is refused by "
                     "its true name, with exit code 3 and an id: none of these files is damaged by being refused, and "
                     "no advice asks for one to be deleted. Whatever is refused, mimo-inspect describes as far as it "
                     "goes. All ids, these and others, are in [findings.md](findings.md)."), "", "## Read", ""]
    for row in table["read"]:
        what = row["what"].replace("PREFIXES", prefixes + ", also several in front of each other")
        lines.append(wrapped(f"**{row['name']}** ({what}): {row['does']}.", "* "))
    lines += ["", "## Refused by name", "",
              wrapped("The first that fits names a checkpoint that cannot be opened. Those marked *always* are asked of "
                      "checkpoints that open, too: a dense model of another family has every name that its config.json "
                      "can ask for. In patterns `*` stands for anything, `|` stands between alternatives, and `#` "
                      "stands for a number."), ""]
    for row in table["findings"]:
        lines += [f"### {row['id']}", ""]
        always = " Always." if row.get("always") else ""
        lines += [wrapped(f"**{sentence(shown(row['name']))}** {sentence(row['means'])}{always}"), ""]
        signs = ["; and ".join(condition(c) for c in sign) for sign in row["signs"]]
        lines += ["Any of:" if len(signs) > 1 else "Sign:", ""]
        lines += [wrapped(sign, "* ") for sign in signs] + [""]
        lines += [wrapped("What to do: " + sentence(shown(row["advice"]))), ""]
        if row["sources"]:
            lines += ["See " + ",\n".join(f"<{url}>" for url in row["sources"]) + ".", ""]
    return "\n".join(lines).rstrip() + "\n"


def findings():
    files = sorted(glob.glob(os.path.join(ROOT, "schemas", "findings", "*.json")))
    lines = [MADE.format("schemas/findings/*.json and schemas/foreign.json"), "# Findings and refusals", "",
             wrapped("Everything that is said about a checkpoint has an id, in text (in brackets at the end of an error) "
                     "and in JSON (`id`). An **error** stops a conversion with exit code 3; a **warning** may be meant, "
                     "and changes what the checkpoint means to some reader; a **note** is worth knowing. Ids do not "
                     "change; sentences may."), ""]
    for path in files:
        table = load(os.path.relpath(path, ROOT))
        lines += [f"## {os.path.basename(path)[:-5]}", ""]
        if table.get("about"):
            lines += [wrapped(table["about"]), ""]
        for row in sorted(table["findings"], key=lambda r: r["id"]):
            text = f"`{row['id']}` ({row['severity']}): {sentence(row['means'])}"
            if row.get("advice"):
                text += " " + sentence(shown(row["advice"]))
            lines.append(wrapped(text, "* "))
        lines.append("")
    lines += ["## Storages that are refused by name", "",
              wrapped("All are errors. Signs, and what can be done, are in [sources.md](sources.md)."), ""]
    for row in sorted(load("schemas/foreign.json")["findings"], key=lambda r: r["id"]):
        lines.append(wrapped(f"`{row['id']}`: {sentence(shown(row['name']))} {sentence(row['means'])}", "* "))
    return "\n".join(lines).rstrip() + "\n"


PAGES = {"docs/sources.md": sources, "docs/findings.md": findings}


def main():
    stale = []
    for page, make in PAGES.items():
        path, text = os.path.join(ROOT, page), make()
        old = open(path, encoding="utf-8").read() if os.path.exists(path) else None
        if old == text:
            continue
        stale.append(page)
        if "--check" not in sys.argv[1:]:
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
    if stale:
        print(("differs: " if "--check" in sys.argv[1:] else "written: ") + ", ".join(stale))
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
