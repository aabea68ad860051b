"""What keeps the sources easy to read: files and functions stay small, options are values and not words, headers stay light,
forms are asked and not compared by name."""

import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MOST_LINES = 500
OPTIONS = "to|format|qkv|source_qkv|attention|fold_value_scale|expert_codes|router_bias|dtype|recipe|on_straddle|unknown"
COMPARED = re.compile(rf'\b(?:options_?|plan)\s*(?:\.|->)\s*(?:options\.)?(?:{OPTIONS})\s*[=!]=\s*"')
HEAVY = re.compile(r'#include <(?:regex|re2/re2\.h|nlohmann/json\.hpp|simdjson\.h)>')
MOST_LINES_OF_A_FUNCTION = 80
# What reads JSON, and what writes to a terminal: each in one place.
PARSES = re.compile(r"\b(?:sax_parse|simdjson|from_(?:cbor|msgpack|ubjson|bson|bjdata))\b|(?i:json)::(?:parse|accept)\b")
PARSER = "lib/json/events.cc"
PRINTS = re.compile(r"\b(?:f|v|vf|d)?printf\s*\(|\b(?:f?puts|f?putc|putchar|fwrite|perror)\s*\(|\bstd::(?:cout|cerr|clog)\b")
PRINTERS = ["tools/print.cc", "tools/print.h"]
# Comments, strings, characters and directives: what has braces that are none.
NO_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|R"\(.*?\)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'|^[ \t]*#(?:\\\n|[^\n])*', re.S | re.M)
NO_COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
TYPE = re.compile(r"(?:template\s*<.*>\s*)?(?:namespace|class|struct|enum|union|extern)\b")
# Forms and targets but for Hugging Face's, which is the default of everything; and where their names may stand.
FORM_NAME = re.compile(r"(?:TargetKind|FormKind)::k(?!Hf\b)\w+")
FORM_TABLES = {"lib/model/forms.h", "lib/plan/words.h"}
FORM_ROOMS = re.compile(r"lib/forms/\w+/")


# What families are called, whatever the case; the project's own name is none of it.
FAMILY = re.compile(r"MiMo-?V\d[\w.]*|mimo[_-]v\d\w*|MiMo(?![-\w])|(?i:minimax)|(?i:qwen)|(?i:\bglm)|(?i:\bk?exaone)")


def family_names(text):
    return FAMILY.findall(NO_COMMENTS.sub("", text))


def product_files():
    for top in ("lib", "kernels", "tools"):
        for folder, _, names in os.walk(os.path.join(ROOT, top)):
            for name in names:
                if name.endswith((".h", ".cc", ".cu", ".cuh")):
                    yield os.path.relpath(os.path.join(folder, name), ROOT)


def text_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def types(text):
    """(namespace, name) of the types that a source defines for others to see: not in unnamed namespaces, nor within others."""
    text = NO_CODE.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)
    found, scopes, statement = [], [], ""
    for char in text:
        if char == "{":
            head = statement.strip()
            space = re.search(r"\bnamespace\b\s*([\w:]*)$", head)
            kind = re.match(r"(?:template\s*<[^{}]*>\s*)?(?:struct|class|enum class|union)\s+(\w+)(?!\w)(?:\s+final)?\s*(?::[^:].*)?$", head, re.S)
            if kind and all(scope for scope in scopes):
                found.append(("::".join(scopes), kind.group(1)))
            scopes.append(space.group(1) if space else "")
            statement = ""
        elif char == "}":
            if scopes:
                scopes.pop()
            statement = ""
        elif char == ";":
            statement = ""
        else:
            statement += char
    return found


def functions(text):
    """(line, lines) of every function that is defined in a C++ source as clang-format leaves it."""
    text = NO_CODE.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)
    found, blocks, statement, start = [], [], "", 0
    for number, line in enumerate(text.split("\n"), 1):
        for char in line + " ":
            if char == "{":
                head = statement.strip()
                inside = bool(blocks) and blocks[-1][1]
                function = not inside and not TYPE.match(head) and ")" in head and "=" not in head.split("(")[0]
                blocks.append((start, inside or function, function))
            elif char == "}" and blocks:
                begin, _, function = blocks.pop()
                if function:
                    found.append((begin, number - begin + 1))
            if char in "{};":
                statement = ""
            else:
                if not statement.strip():
                    start = number
                statement += char
    return found


class Shape(unittest.TestCase):
    def test_no_function_is_long(self):
        long = [f"{path}:{line}: {lines} lines" for path in product_files()
                for line, lines in functions(text_of(path)) if lines > MOST_LINES_OF_A_FUNCTION]
        self.assertEqual(long, [])

    def test_functions_are_found(self):
        text = 'namespace n {\nstruct S {\n  int F(\n      int a) const {\n    if (a) {\n      return \'{\';\n    }\n  }\n};\n' \
               '#define M {\nconstexpr int kX[] = {f("{")};\ntemplate <class T>\nvoid G() {\n}\n}\n'
        self.assertEqual(functions(text), [(3, 6), (12, 3)])

    def test_forms_are_named_in_their_rooms_and_tables_alone(self):
        named = [f"{path}: {found}" for path in product_files()
                 if path not in FORM_TABLES and not FORM_ROOMS.match(path)
                 for found in FORM_NAME.findall(text_of(path))]
        self.assertEqual(named, [])

    def test_no_file_is_long(self):
        long = [f"{path}: {lines} lines" for path in product_files()
                if (lines := text_of(path).count("\n")) > MOST_LINES]
        self.assertEqual(long, [])

    def test_no_two_types_have_one_name(self):
        """Two types of one name in one namespace are one to the linker, whichever headers a file includes: it takes one's destructor
        for the other."""
        where = {}
        for path in product_files():
            for scope, name in types(text_of(path)):
                where.setdefault((scope, name), set()).add(path)
        self.assertGreater(len(where), 400)
        self.assertEqual({name: sorted(paths) for name, paths in where.items() if len(paths) > 1}, {})

    def test_types_are_found(self):
        text = "namespace mimo {\nstruct A {\n  struct Inner {};\n};\nnamespace {\nclass B final : A {\n};\n}\nenum class C : int { kA };\nclass D;\n" \
               "namespace cli {\nstruct E {};\n}\n}\n"
        self.assertEqual(types(text), [("mimo", "A"), ("mimo", "C"), ("mimo::cli", "E")])

    def test_option_words_are_compared_in_parsing_alone(self):
        compared = [path for path in product_files() if COMPARED.search(text_of(path))]
        self.assertEqual(compared, [])

    def test_a_compared_word_is_found(self):
        self.assertRegex('if (options_.to == "hf")', COMPARED)
        self.assertRegex('plan.options.qkv != "keep"', COMPARED)
        self.assertNotRegex("options_.to == TargetKind::kHf", COMPARED)

    def test_code_knows_no_family(self):
        """Families of models are data (schemas/models): code has their names in comments alone."""
        self.assertEqual([f"{path}: {word}" for path in product_files() for word in family_names(text_of(path))], [])

    def test_names_of_families_are_seen(self):
        self.assertEqual(family_names('call("MiMo-V2.5"); Get("mimo_v2");  // MiniMax'), ["MiMo-V2.5", "mimo_v2"])
        self.assertEqual(family_names('namespace mimo { "mimo-convert"; "Qwen3"; kMiniMax; }'), ["Qwen", "MiniMax"])

    def test_one_place_reads_json(self):
        self.assertEqual([path for path in product_files() if PARSES.search(NO_COMMENTS.sub("", text_of(path)))], [PARSER])

    def test_one_place_prints(self):
        self.assertEqual(sorted(path for path in product_files() if PRINTS.search(NO_COMMENTS.sub("", text_of(path)))),
                         PRINTERS)

    def test_parsing_and_printing_are_found(self):
        for text in ("Json::parse(x)", "nlohmann::json::accept(x)", "ordered_json::parse(", "json::sax_parse(", "simdjson::ondemand::parser", "J::from_cbor(x)"):
            self.assertRegex(text, PARSES)
        for text in ("std::printf(", "fprintf (stderr", "std::cerr << x", "std::fputs(", "std::puts("):
            self.assertRegex(text, PRINTS)
        self.assertNotRegex("std::snprintf(", PRINTS)
        self.assertNotRegex("ParseJson<Json>(text, path)", PARSES)

    def test_headers_of_the_library_leave_heavy_ones_out(self):
        # Internal to lib/plan: templates over JSON values, included by two sources.
        heavy = [path for path in product_files()
                 if path.endswith(".h") and path.startswith("lib/") and HEAVY.search(text_of(path))]
        self.assertEqual(heavy, ["lib/plan/json_words.h"])


if __name__ == "__main__":
    unittest.main()
