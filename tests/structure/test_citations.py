"""Proves that what comments, tests, schemas and documents refer to is there: the page and the section of a citation,
the file and the heading of a link, and the files of this tree that documents name.

A citation names a page of docs/reference and sections of it: "target-layouts.md 2.2, 2.4", "docs/reference/
target-layouts.md, section 4", "quantization-formats, 9.4 to 9.9". Sections without a page ("section 1.5") are of the
one page that their file names. Needs no package and no built tool.
"""
import glob
import itertools
import os
import re
import unittest

ROOT = os.environ.get("MIMO_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCES = ("lib", "kernels", "tools", "tests", "schemas", "scripts", "cmake", "docs")
ENDINGS = (".h", ".cc", ".cu", ".cuh", ".py", ".json", ".sh", ".md", ".txt", ".cmake")

NUMBER = r"(?:[A-Z]\.\d+|[A-Z]\b|\d+(?:\.\d+)?)(?![\w%]|\.\d)"
NUMBERS = rf"{NUMBER}(?:(?:, (?:and )?| and | to ){NUMBER})*"
WORD = r"(?:[Ss]ections?|[Aa]ppendix) "
BARE = re.compile(rf"(?:\b{WORD}|\breference )({NUMBERS})")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def files():
    """Paths from the root of everything that may cite, this file excepted."""
    found = ["README.md"]
    for folder in SOURCES:
        for base, _, names in os.walk(os.path.join(ROOT, folder)):
            found += [os.path.relpath(os.path.join(base, name), ROOT) for name in names if name.endswith(ENDINGS)]
    return sorted(set(found) - {os.path.relpath(os.path.abspath(__file__), ROOT)})


def documents():
    return ["README.md"] + sorted(os.path.relpath(path, ROOT)
                                  for path in glob.glob(os.path.join(ROOT, "docs", "**", "*.md"), recursive=True))


def joined(text):
    """Comments in one line: the end of a line and the marks that begin the next one are a space."""
    return re.sub(r"\s*\n\s*(?://+|#+|\*)?\s*", " ", text)


def prose(text):
    """A document without blocks of code, where nothing is a heading or a link."""
    return "\n".join(line for line in text.split("\n") if not line.startswith("    "))


def headings(text):
    return re.findall(r"^#{1,6} (.*)$", prose(text), re.M)


def sections(page):
    """Numbers of a reference page: "2.", "2.1" and "Appendix A." begin its headings."""
    found = (re.match(r"(?:Appendix )?([A-Z]\.\d+|[A-Z](?=\.)|\d+(?:\.\d+)?)", heading) for heading in headings(page))
    return {match.group(1) for match in found if match}


def anchors(text):
    """What GitHub calls the headings."""
    found = set()
    for heading in headings(text):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(1)))
        found.add(next(n for n in names if n not in found))
    return found


def listed(numbers):
    """"3.1 to 3.3, 5" -> 3.1, 3.2, 3.3, 5."""
    found = []
    for first, last in re.findall(rf"({NUMBER})(?: to ({NUMBER}))?", numbers):
        found.append(first)
        if last and "." in first and first.split(".")[0] == last.split(".")[0]:
            head = first.split(".")[0]
            found += [f"{head}.{i}" for i in range(int(first.split(".")[1]) + 1, int(last.split(".")[1]) + 1)]
        elif last:
            found.append(last)
    return found


class Citations(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pages = {os.path.basename(path)[:-3]: sections(read(path))
                     for path in documents() if path.startswith(os.path.join("docs", "reference"))}
        cls.name = re.compile(rf"\b({'|'.join(sorted(cls.pages))})\b(?:\.md)?(?!\w)")

    def wrong(self, path, text):
        """What the citations of a file name that is not there, and how many there are."""
        text, wrong, count, named = joined(text), [], 0, []
        for match in self.name.finditer(text):
            page = match.group(1)
            numbers = re.compile(rf",? ?(?:{WORD})?({NUMBERS})").match(text, match.end())
            named.append((page, match.start(), numbers.end() if numbers else match.end()))
            count += 1
            wrong += [f"{path}: {page} has no section {n}" for n in (listed(numbers.group(1)) if numbers else ())
                      if n not in self.pages[page]]
        for match in BARE.finditer(text):
            if any(start <= match.start() < end for _, start, end in named):
                continue
            count += 1
            pages = {page for page, _, _ in named}
            if len(pages) != 1:
                wrong.append(f'{path}: "{match.group()}" is of no page, or of any of several: {sorted(pages)}')
                continue
            page = pages.pop()
            wrong += [f"{path}: {page} has no section {n}" for n in listed(match.group(1)) if n not in self.pages[page]]
        return wrong, count

    def test_every_cited_section_exists(self):
        found, count = [], 0
        for path in files():
            wrong, citations = self.wrong(path, read(path)) if not self.is_page(path) else ([], 0)
            found += wrong
            count += citations
        self.assertEqual(found, [])
        self.assertGreater(count, 80)

    def test_pages_cite_themselves_and_each_other(self):
        """In a page, "section 4.1" and a number in parentheses are its own; others are named."""
        found = []
        for path in filter(self.is_page, documents()):
            page, text = os.path.basename(path)[:-3], joined(prose(read(path)))
            for match in self.name.finditer(text):
                numbers = re.compile(rf"(?:\]\([^)]*\))?,? ?(?:{WORD})?({NUMBERS})").match(text, match.end())
                found += [f"{path}: {match.group(1)} has no section {n}"
                          for n in (listed(numbers.group(1)) if numbers else ()) if n not in self.pages[match.group(1)]]
            own = self.name.sub("", re.sub(rf"{self.name.pattern},? ?(?:{WORD})?{NUMBERS}", "", text))
            for match in re.finditer(rf"\b{WORD}({NUMBERS})", own):
                found += [f"{path}: no section {n}" for n in listed(match.group(1)) if n not in self.pages[page]]
        self.assertEqual(found, [])

    def test_every_document_that_is_named_exists(self):
        found = []
        for path in files():
            for name in re.findall(r"[\w./-]*\w\.md\b", read(path)):
                places = [name, os.path.join(os.path.dirname(path), name), os.path.join("docs", name),
                          os.path.join("docs", "reference", name)]
                if not any(os.path.exists(os.path.join(ROOT, place)) for place in places):
                    found.append(f"{path}: {name}")
        self.assertEqual(found, [])

    def test_every_link_leads_somewhere(self):
        found, count = [], 0
        for path in documents():
            for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(path))):
                if re.match(r"[a-z]+:", target):
                    continue
                count += 1
                name, _, anchor = target.partition("#")
                place = os.path.normpath(os.path.join(os.path.dirname(path), name)) if name else path
                if not os.path.exists(os.path.join(ROOT, place)):
                    found.append(f"{path}: {target}: no such file")
                elif anchor and anchor not in anchors(read(place)):
                    found.append(f"{path}: {target}: no such heading")
        self.assertEqual(found, [])
        self.assertGreater(count, 15)

    def test_every_file_that_a_document_names_exists(self):
        """`lib/layout/row_map.{h,cc}`, `schemas/forms/*.json`, `lib/draft/resize` (with any ending)."""
        found = []
        for path in documents():
            for name in re.findall(r"(?<![\w./-])(?:lib|kernels|tools|tests|schemas|scripts|docs)/[\w./*{},-]*",
                                   read(path)):
                pattern = re.sub(r"\{(\w+),\w+\}", r"\1", name.rstrip(".,"))
                if re.search(r"[{}]|NAME", pattern):
                    continue  # a placeholder
                here = os.path.join(ROOT, pattern)
                if not glob.glob(here) and not glob.glob(here + ".*") and not glob.glob(here + "_*"):
                    found.append(f"{path}: {name}")
        self.assertEqual(found, [])

    def is_page(self, path):
        return path.startswith(os.path.join("docs", "reference"))


class SelfCheck(unittest.TestCase):
    """That broken citations would be found."""

    def setUp(self):
        Citations.setUpClass()
        self.citations = Citations()

    def count(self, text):
        return len(self.citations.wrong("x.h", text)[0])

    def test_citations_are_read(self):
        good = ("// quantization-formats.md 1.1, 1.2.", "// Reference target-layouts.md\n// 2, 3.5.",
                "(target-layouts.md 3.1 to 3.3)", "docs/reference/mimo-checkpoints.md, sections 2.6, 9.1 and 9.2.",
                "// target-layouts.md, appendix A: loaded by torch 2.6\n// section 1.5", "(target-layouts, A.6)")
        for text in good:
            self.assertEqual(self.count(text), 0, text)

    def test_broken_citations_are_found(self):
        bad = (("// quantization-formats.md 1.1, 1.9.", 1), ("// target-layouts.md\n// 2, 3.17.", 1),
               ("(target-layouts.md 3.4 to 3.6)", 1), ("mimo-checkpoints.md, sections 2.6, 9.1 and 9.3", 1),
               ("(reference 3.4)", 1), ("// design section 3", 1), ("(target-layouts, A.9)", 1),
               ("target-layouts 1.1, quantization-formats 1.1\n// section 1.2", 1))
        for text, wrong in bad:
            self.assertEqual(self.count(text), wrong, text)


if __name__ == "__main__":
    unittest.main()
