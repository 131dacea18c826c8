"""Write the generated pages of docs/reference/: the command line, the recipe, the rooms.

python docs/make_reference.py           writes the pages
python docs/make_reference.py --json    prints {name: text}, which tests compare with the pages
"""

# ruff: noqa: E402 - the environment is set before typer reads it

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import sys
from pathlib import Path

# The width is read when typer is imported; colours would depend on who runs this.
os.environ |= {"COLUMNS": "96", "TERMINAL_WIDTH": "96", "NO_COLOR": "1", "TERM": "dumb"}
for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
    os.environ.pop(name, None)

import typer.main
from typer.testing import CliRunner

import embedworks
from embedworks._core.registry import REGISTRIES
from embedworks.cli.app import app

PACKAGE = Path(embedworks.__file__).parent
PAGES = Path(__file__).parent / "reference"

#: Order of the rooms in the navigation; `rooms` fails when one is forgotten.
ROOMS = (
    "data", "modules", "models", "losses", "negatives", "merging", "index", "evaluation",
    "training", "reproductions",
)  # fmt: skip


def rooms() -> list[str]:
    """Return the public rooms: packages that are neither private nor the command line."""
    found = {
        path.parent.name
        for path in PACKAGE.glob("*/__init__.py")
        if not path.parent.name.startswith("_") and path.parent.name != "cli"
    }
    if found != set(ROOMS):
        raise SystemExit(f"ROOMS in {__file__} should be {sorted(found)}")
    return list(ROOMS)


def exports(package: Path) -> dict[str, str]:
    """Return public name -> submodule, as the package's ``__init__.py`` attaches them."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_attach":
            return ast.literal_eval(node.args[1])
    raise SystemExit(f"{package} attaches no names")


def cli_page() -> str:
    """Return the help of the program and of every command."""
    commands = typer.main.get_command(app).commands
    parts = [
        "# Command line",
        "Every command takes `--json` and then prints one JSON object on standard output. "
        "Progress, warnings and errors go to standard error. The exit code is 0, or 1 where a "
        "command's help says so, or 2 for an error that you can mend, or 130 after an "
        "interruption.",
        _help([]),
    ]
    for command in sorted(commands):
        parts += [f"## embedworks {command}", _help([command])]
        for part in sorted(getattr(commands[command], "commands", ())):
            parts += [f"### embedworks {command} {part}", _help([command, part])]
    return "\n\n".join(parts) + "\n"


def _help(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, [*arguments, "--help"], prog_name="embedworks")
    if result.exit_code:
        raise SystemExit(f"embedworks {' '.join(arguments)} --help failed: {result.output}")
    lines = [line.rstrip() for line in result.output.strip("\n").split("\n")]
    return "```text\n" + "\n".join(lines).strip("\n") + "\n```"


def recipe_page() -> str:
    """Return the default recipe of `adapt`."""
    recipe = (PACKAGE / "recipes" / "adapt.yaml").read_text(encoding="utf-8").rstrip()
    return (
        "# Settings of `adapt`\n\n"
        "This is the recipe `adapt` with every default. A recipe of your own holds only what "
        "differs. Unknown names and values out of range are errors.\n\n"
        f"```yaml\n{recipe}\n```\n"
    )


def top_page() -> str:
    """Return the page of what `import embedworks` offers: the everyday names, and the rooms."""
    rows, listed = [], []
    for name, home in sorted(exports(PACKAGE).items()):
        found = getattr(embedworks, name)
        about = _markdown((found.__doc__ or "").strip().split("\n\n")[0].replace("\n", " "))
        if name == home:
            page = f"embedworks.{name}.md" if name in ROOMS else f"{name}.md"
            rows.append(f"| [`{name}`]({page}) | {about} |")
        else:
            anchor = f"embedworks.{home}.{exports(PACKAGE / home)[name]}.{name}"
            listed.append(f"| [`{name}`](embedworks.{home}.md#{anchor}) | {about} |")
    head = "|---|---|"
    return (
        "\n\n".join(
            [
                "# embedworks",
                "`import embedworks as ew` is cheap: torch and other heavy libraries are imported "
                "by the functions that need them.",
                "\n".join(["| name | what it is |", head, *listed]),
                "\n".join(["| module | what is in it |", head, *rows]),
            ]
        )
        + "\n"
    )


def room_page(room: str) -> str:
    """Return the page of a room: every public object, and what its registries hold."""
    module = importlib.import_module(f"embedworks.{room}")
    parts = [f"# embedworks.{room}", _markdown((module.__doc__ or "").strip())]
    for name, home in sorted(exports(PACKAGE / room).items()):
        if name == home:
            continue  # a submodule, whose names are exported themselves
        parts.append(
            f"::: embedworks.{room}.{home}.{name}\n    options:\n      heading: {name}"
            f"\n      toc_label: {name}"
        )
        if (f"embedworks.{room}", name) in REGISTRIES.values():
            registry = getattr(module, name)
            rows = [f"| `{key}` | {registry.summary(key)} |" for key in registry]
            parts.append("\n".join(["| name | what it is |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def pages() -> dict[str, str]:
    """Return every generated page by file name."""
    made = {"cli.md": cli_page(), "recipe.md": recipe_page(), "embedworks.md": top_page()}
    return made | {f"embedworks.{room}.md": room_page(room) for room in rooms()}


if __name__ == "__main__":
    if "--json" in sys.argv[1:]:
        json.dump(pages(), sys.stdout)
    else:
        for page, text in pages().items():
            (PAGES / page).write_text(text, encoding="utf-8")
