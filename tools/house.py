#!/usr/bin/env python3
"""Count departures from the house style: one line per measure; `--list` prints every occurrence.

    python3 tools/house.py [--list] [ROOT]

Docs whose first word is a relative pronoun or a filler, type names declared in several files, tuple and `bool`
parameters, functions of more than four parameters, errors that are text, messages of the form "`x` is no ...", long
files, comments and docstrings over 120 columns, words of the README. Docs of Python scripts count as those of Rust.
`Whether` may begin the doc of a bool.
"""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

FIRST_WORDS = ("What", "Where", "So", "Those", "As", "How", "That", "Which", "Its", "Their", "The same", "Of")
LONG = 300
PARAMETERS = 4
SCRIPTS = ("benches", "tests/clients", "tests/differential", "tests/golden", "tests/page", "tools")
COLUMNS = 120
TYPE = re.compile(r"^(?:pub(?:\([a-z ]+\))? )?(?:struct|enum|trait|type|union) ([A-Z]\w*)", re.M)
FUNCTION = re.compile(r"^\s*(pub(?:\([a-z ]+\))? )?(?:const |async |unsafe )*fn (\w+)(?:<[^{;]*?>)?\(([^{;]*?)\)(?: ->|;| \{|\s+where|\s*\{)", re.M)
ERROR_TEXT = re.compile(r"\bResult<[^<>]*(?:<[^<>]*>)?[^<>]*, String>")
MESSAGE = re.compile(r'"[^"\n]*\b(?:is|are) no\b(?! longer| more)[^"\n]*"')


def without_tests(text):
    """Return the part of a Rust file before its tests."""
    at = text.find("#[cfg(test)]\nmod tests {")
    return text if at < 0 else text[:at]


def line_of(text, at):
    return text.count("\n", 0, at) + 1


def docs(text):
    """Yield the number and text of the first line of each Rust doc comment."""
    previous = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        is_doc = stripped.startswith(("///", "//!"))
        if is_doc and not previous.startswith(stripped[:3]):
            yield number, stripped[3:].strip()
        previous = stripped


def parameter_names(parameters):
    """Return the names of a function's parameters but `self`; `parameters` is the text between its parentheses."""
    return re.findall(r"(?:^|[,\n])\s*(?:mut )?(?!self\b)(\w+)(?=: )", parameters)


def is_of_trait(text, at):
    """Whether the function at an offset implements a trait, which sets its parameters."""
    blocks = re.findall(r"^\s*(?:unsafe )?(impl\b[^{;]*|mod \w+ )\{", text[:at], re.M)
    return bool(blocks) and blocks[-1].startswith("impl") and " for " in blocks[-1]


def docstrings(path):
    """Yield the line and the text of each docstring of a Python file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            yield node.body[0].lineno, ast.get_docstring(node)


def script_measures(root, found):
    """Add the measures of the Python scripts."""
    for path in sorted(path for folder in SCRIPTS for path in (root / folder).glob("*.py")):
        name = path.relative_to(root)
        in_docs = set()
        for number, doc in docstrings(path):
            in_docs |= set(range(number, number + doc.count("\n") + 1))
            if any(re.match(rf"{word}\b", doc) for word in FIRST_WORDS):
                found["docs that begin with a relative or filler"].append(f"{name}:{number}: {doc.splitlines()[0]}")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if len(line) > COLUMNS and (number in in_docs or line.lstrip().startswith("#")):
                found[f"comments over {COLUMNS} columns"].append(f"{name}:{number}")


def measures(root):
    """Return the occurrences of each measure."""
    found = defaultdict(list)
    script_measures(root, found)
    declared = defaultdict(list)
    for path in sorted((root / "src").rglob("*.rs")):
        name, whole = path.relative_to(root), path.read_text()
        text = without_tests(whole)
        is_test = name.name.endswith("tests.rs")
        for number, doc in docs(text):
            if any(re.match(rf"{word}\b", doc) for word in FIRST_WORDS):
                found["docs that begin with a relative or filler"].append(f"{name}:{number}: {doc}")
        if not is_test:
            for match in TYPE.finditer(text):
                declared[match.group(1)].append(f"{name}:{line_of(text, match.start())}")
        for match in FUNCTION.finditer(text):
            place = f"{name}:{line_of(text, match.start(2))}: {match.group(2)}"
            parameters = match.group(3)
            if not is_test and re.search(r"(?:^|, |\n\s*)\((?:\w|&|,|\s|mut |_)+\): ", parameters):
                found["functions with a tuple parameter"].append(place)
            is_free = not is_test and not is_of_trait(text, match.start())
            if is_free and len(parameter_names(parameters)) > PARAMETERS:
                found[f"functions of more than {PARAMETERS} parameters"].append(place)
            if (match.group(1) or "").startswith("pub ") and re.search(r": bool\b", parameters):
                found["public functions with a bool parameter"].append(place)
        for match in ERROR_TEXT.finditer(text):
            line = text[text.rfind("\n", 0, match.start()) + 1 : match.end()]
            if "pub " in line and "pub(" not in line:
                found["public errors that are text"].append(f"{name}:{line_of(text, match.start())}")
        for match in MESSAGE.finditer(text):
            found['messages that say "is no"'].append(f"{name}:{line_of(text, match.start())}: {match.group(0)}")
        for number, line in enumerate(whole.splitlines(), 1):
            if len(line) > COLUMNS and line.lstrip().startswith("//"):
                found[f"comments over {COLUMNS} columns"].append(f"{name}:{number}")
        n_lines = whole.count("\n")
        if n_lines > LONG:
            found[f"files of more than {LONG} lines"].append(f"{name}: {n_lines}")
    for kind, places in declared.items():
        if len(places) > 1:
            found["type names that are declared more than once"].append(f"{kind}: {', '.join(places)}")
    return found


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--list"]
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    for measure, places in sorted(measures(root).items()):
        print(f"{len(places):5}  {measure}")
        if "--list" in sys.argv:
            print("".join(f"         {place}\n" for place in places), end="")
    readme = (root / "README.md").read_text()
    print(f"{len(readme.split()):5}  words of the README, {readme.count(chr(10))} lines")


if __name__ == "__main__":
    main()
