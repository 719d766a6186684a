"""Measure the layout and the wording of a source tree: `make house`, or `python -m benchmarks.house TREE ...`.

Prints one Markdown table with a column per tree, so that a checkout of an older commit can be compared with this one.
`tests/arch` checks its rules with the same functions. Axes: none; every figure is a count of files, lines or words.
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("fw_core", "fw_geometry", "fw_toy", "fw_model fw_data", "fw_train fw_serve", "fw_app")
"""Packages from the bottom up; packages of one row do not import each other."""
PHRASES = (
    "goes on where it was", "by having one", "will not do", "mend", "mended", "is believed", "cheap to dear",
    "a run starts from", "process stands", "polite end", "strangers send", "words of this run", "others than yourself",
    "trying it hard", "going on", "at hand", "can be told", "what steers", "what stands", "nothing is known", "anew",
    "at most so many", "it was told", "it adds none", "to be kept", "of the noise.", "goes on", "for others than",
)  # fmt: skip
"""Phrases that read as translated; none may occur."""
PERSONIFIED = ("says", "said", "told", "tells", "stands", "lies", "believes", "of its own", "of our own")
"""Words that give code a voice; counted."""
BRITISH = re.compile(
    r"\b(colou?red?s|colour\w*|centre\w*|behaviour\w*|grey\w*|licence\w*|metres?|initialis\w*|normalis\w*|recognis\w*"
    r"|optimis(?!tic)\w*|organis\w*|summaris\w*|serialis\w*|quantis\w*|synchronis\w*|neighbour\w*|favour\w*|modelled"
    r"|labelled|travell\w*|honoured|catalogue|artefact\w*|judgement|analys(?:e|ed|ing)|fulfil|programme\w*)\b",
    re.IGNORECASE,
)
TEXT = (".py", ".md", ".ts", ".tsx", ".html", ".toml", ".yaml")

OWN = ("house.py", "house.md", "test_wording.py")
"""Files that have to spell the phrases out."""
COUNT_FLAGS = """
import contextlib, importlib, io, json, re, sys
programs = {"fw": "fw_app.cli", "fw-data": "fw_data.cli", "fw-train": "fw_train.cli", "fw-serve": "fw_serve.cli"}
recipe = {"autoencoder", "base", "stage1", "stage2"}

def help_of(main, words):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return text.getvalue()

found = {}
for program, module in programs.items():
    main = importlib.import_module(module).main
    listing = help_of(main, []).split("commands:")[-1]
    for name in dict.fromkeys(re.findall(rf"^ {{2}}(?:{program} )?([a-z]\\w+) ", listing, re.MULTILINE)):
        words = [name, "tiny"] if name in recipe else [name, "add"] if name == "key" else [name]
        text = help_of(main, words)
        flags = re.findall(r"^(?:\\u2502 | {2})(?:-\\w,? ?(?:\\w+, )?)?--([\\w.-]+)", text, re.MULTILINE)
        found[f"{program} {name}"] = len(set(flags) - {"help"})
json.dump(found, sys.stdout)
"""


def sources(tree: Path = ROOT) -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for src in (*tree.glob("packages/*/src"), *tree.glob("apps/*/src")):
        for path in src.rglob("*.py"):
            found[".".join(path.relative_to(src).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports(tree: ast.Module, modules: Iterable[str]) -> set[str]:
    """Our modules that a module imports, at its top or inside a function; imports for type checkers do not count."""
    known = set(modules)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in inside}
    return found & known


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other through imports."""
    reach = {name: set(_reachable(graph, name)) for name in graph}
    groups = {
        frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]
    }
    return sorted(sorted(group) for group in groups)


def _reachable(graph: dict[str, set[str]], start: str) -> Iterator[str]:
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph[name]
            yield name


def pages(tree: Path = ROOT) -> list[Path]:
    """The English documents: docs/, the examples, the studio and the pages at the root."""
    found = {*tree.glob("*.md"), *tree.rglob("docs/**/*.md"), *tree.glob("examples/*.md"), *tree.glob("apps/*/*.md")}
    found |= set(tree.glob("packages/*/*.md"))
    return sorted(p for p in found if p.name not in ("README_zh.md", *OWN) and "node_modules" not in p.parts)


def prose(text: str) -> str:
    """A document without code blocks, comments, link targets and addresses."""
    text = re.sub(r"^```.*?^```|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\]\([^)]*\)|https?://\S+", "]", text)


def words(text: str) -> int:
    """Number of words of a document, code and tables of figures left out."""
    return len(re.findall(r"[A-Za-z][\w'-]*", re.sub(r"`[^`\n]*`", "", prose(text))))


def written(tree: Path = ROOT) -> dict[str, str]:
    """Everything a person reads in the tree, by path: sources, tests, docs, studio, configuration; not the fixtures."""
    found = {}
    for room in ("apps", "packages", "docs", "tests", "benchmarks", "examples", "infra"):
        for path in (tree / room).rglob("*"):
            skipped = {"node_modules", "static", "golden", "data", "fixtures"} & set(path.relative_to(tree).parts)
            if path.suffix in TEXT and path.is_file() and not skipped and path.name not in OWN:
                found[path.relative_to(tree).as_posix()] = path.read_text(encoding="utf-8")
    for path in (*tree.glob("*.md"), tree / "Makefile", tree / "NOTICE"):
        found[path.name] = path.read_text(encoding="utf-8")
    return found


def count(text: str, phrases: Sequence[str]) -> Counter[str]:
    """How often each phrase occurs, as whole words; line breaks count as spaces."""
    flat = re.sub(r"\s+(?:#\s+)?", " ", text).lower()
    return Counter({phrase: n for phrase in phrases if (n := len(re.findall(_whole(phrase), flat)))})


def _whole(phrase: str) -> str:
    return rf"(?<![\w-]){re.escape(phrase)}" + ("" if phrase.endswith(".") else r"(?![\w-])")


def shared_class_names(tree: Path = ROOT) -> dict[str, list[str]]:
    """Names of classes that more than one package defines at the top of a module."""
    homes: dict[str, set[str]] = {}
    for name, path in sources(tree).items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(name.split(".")[0])
    return {name: sorted(packages) for name, packages in sorted(homes.items()) if len(packages) > 1}


def measure(tree: Path, *, flags: bool = True) -> dict[str, str]:
    """The rows of the table for one tree."""
    rows = _layout(tree) | _wording(tree)
    if flags:
        folders = [*tree.glob("packages/*/src"), *tree.glob("apps/*/src")]
        per_command = sorted(flags_by_command(folders).items(), key=lambda item: (-item[1], item[0]))
        rows["flags of a command, most"] = f"{per_command[0][1]} ({per_command[0][0]})"
        rows["flags, all commands"] = f"{sum(n for _, n in per_command)} in {len(per_command)} commands"
        rows |= {f"flags of `{command}`": str(n) for command, n in per_command}
    return rows


def _layout(tree: Path) -> dict[str, str]:
    modules = sources(tree)
    texts = {name: path.read_text(encoding="utf-8") for name, path in modules.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    graph = {name: imports(ast.parse(text), modules) - {name} for name, text in texts.items()}
    folders = Counter(path.parent.relative_to(tree).as_posix() for path in modules.values())
    fullest, most = folders.most_common(1)[0]
    lines = {name: len(text.splitlines()) for name, text in texts.items()}
    longest_file = max(lines, key=lambda name: lines[name])
    functions = {
        f"{name}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, module in trees.items()
        for node in ast.walk(module)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    longest = max(functions, key=lambda name: functions[name])
    over = sum(length > 60 for length in functions.values())
    arrows = Counter((a.split(".")[0], b.split(".")[0]) for a, found in graph.items() for b in found)
    between = {pair: n for pair, n in arrows.items() if pair[0] != pair[1]}
    level = {package: row for row, packages in enumerate(LAYERS) for package in packages.split()}
    back = sum(n for (a, b), n in between.items() if level[a] <= level[b])
    found = cycles(graph)
    return {
        "packages": str(len({name.split(".")[0] for name in modules})),
        "source files": f"{len(modules):,}",
        "source lines": f"{sum(lines.values()):,}",
        "rooms (source folders)": str(len(folders)),
        "files in the fullest folder": f"{most} ({fullest.split('/src/')[-1]})",
        "lines of the longest file": f"{lines[longest_file]} ({longest_file})",
        "arrows between packages (imports)": f"{len(between)} ({sum(between.values())})",
        "imports against the layers": str(back),
        "import cycles (modules in them)": f"{len(found)} ({sum(map(len, found))})",
        "functions": f"{len(functions):,}",
        "functions over 60 lines": f"{over} ({100 * over / len(functions):.2f} %)",
        "lines of the longest function": f"{functions[longest]} ({longest})",
        "class names in two packages": _listing(shared_class_names(tree)),
    }


def _wording(tree: Path) -> dict[str, str]:
    documents = {path: path.read_text(encoding="utf-8") for path in pages(tree)}
    sizes = {path.relative_to(tree).as_posix(): words(text) for path, text in documents.items()}
    guides = {
        name: n
        for name, n in sizes.items()
        if not name.startswith(("docs/adr", "docs/benchmarks", "docs/reference", "CHANGELOG"))
    }
    longest = max(guides, key=lambda name: guides[name])
    whole = "\n".join(prose(text) for text in documents.values())
    total = sum(sizes.values())
    everything = "\n".join(written(tree).values())
    phrases = count(everything, PHRASES)
    rows = {
        "docs pages": str(len(sizes)),
        "words of docs": f"{total:,}",
        "words of the longest guide": f"{guides[longest]:,} ({longest})",
        "guides over 2,000 words": str(sum(n > 2000 for n in guides.values())),
        '"what" per 1,000 words of docs': f"{1000 * count(whole, ['what'])['what'] / total:.2f}",
        '"picture" in sources and docs': str(len(re.findall(r"picture", everything, re.IGNORECASE))),
        "British spellings in docs": str(len(BRITISH.findall(whole))),
        "British spellings in sources and docs": str(len(BRITISH.findall(everything))),
        "listed phrases in sources and docs": str(phrases.total()),
    }
    rows |= {f'"{phrase}"': str(n) for phrase, n in sorted(phrases.items(), key=lambda item: -item[1])}
    return rows | {f'"{word}"': str(n) for word, n in count(everything, PERSONIFIED).most_common()}


def _listing(names: Iterable[str]) -> str:
    found = list(names)
    return f"{len(found)} ({', '.join(found)})" if found else "0"


def flags_by_command(folders: Iterable[Path]) -> dict[str, int]:
    """Number of flags in the help of every command, as the packages in these folders print it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "COLUMNS": "80"}
    command = [sys.executable, "-W", "ignore", "-c", COUNT_FLAGS]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the help of a command failed: {done.stderr[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(columns: dict[str, dict[str, str]]) -> str:
    """A Markdown table: one row per figure, one column per tree; a figure that a tree lacks is 0.

    Commands with fewer than 20 flags in every tree have no row.
    """
    rows = dict.fromkeys(name for column in columns.values() for name in column)
    few = {
        row for row in rows if row.startswith("flags of `") and all(int(c.get(row, 0)) < 20 for c in columns.values())
    }
    lines = [f"| | {' | '.join(columns)} |", f"| --- | {' | '.join('---:' for _ in columns)} |"]
    lines += [
        f"| {row} | {' | '.join(column.get(row, '0') for column in columns.values())} |"
        for row in rows
        if row not in few
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table of the named trees, this checkout if none is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("trees", nargs="*", metavar="NAME=TREE", help="column title and root of a checkout")
    parser.add_argument("--no-flags", action="store_true", help="leave out the flags, which need the tree's commands")
    options = parser.parse_args()
    named = dict(word.split("=", 1) for word in options.trees) or {"this tree": str(ROOT)}
    columns = {title: measure(Path(tree).resolve(), flags=not options.no_flags) for title, tree in named.items()}
    print(table(columns))


if __name__ == "__main__":
    main()
