"""What keeps the sources easy to read: files stay small, options are values and not words, headers stay light."""

import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MOST_LINES = 500
OPTIONS = "to|format|qkv|source_qkv|attention|fold_value_scale|expert_codes|dtype|recipe|on_straddle|unknown"
COMPARED = re.compile(rf'\b(?:options_?|plan)\s*(?:\.|->)\s*(?:options\.)?(?:{OPTIONS})\s*[=!]=\s*"')
HEAVY = re.compile(r'#include <(?:regex|nlohmann/json\.hpp)>')


def product_files():
    for top in ("lib", "kernels", "tools"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in names:
                if name.endswith((".h", ".cc", ".cu", ".cuh")):
                    yield os.path.relpath(os.path.join(folder, name), ROOT)


def text_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


class Shape(unittest.TestCase):
    def test_no_file_is_long(self):
        long = [f"{path}: {lines} lines" for path in product_files()
                if (lines := text_of(path).count("\n")) > MOST_LINES]
        self.assertEqual(long, [])

    def test_option_words_are_compared_in_parsing_alone(self):
        compared = [path for path in product_files() if COMPARED.search(text_of(path))]
        self.assertEqual(compared, [])

    def test_a_compared_word_is_found(self):
        self.assertRegex('if (options_.to == "hf")', COMPARED)
        self.assertRegex('plan.options.qkv != "keep"', COMPARED)
        self.assertNotRegex("options_.to == TargetKind::kHf", COMPARED)

    def test_headers_of_the_library_leave_heavy_ones_out(self):
        # Internal to lib/plan: templates over JSON values, included by two sources.
        heavy = [path for path in product_files()
                 if path.endswith(".h") and path.startswith("lib/") and HEAVY.search(text_of(path))]
        self.assertEqual(heavy, ["lib/plan/json_words.h"])


if __name__ == "__main__":
    unittest.main()
