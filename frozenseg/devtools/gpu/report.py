"""The report of `frozenseg measure_gpu`: as JSON, as tables in Markdown, and as a summary."""

from typing import Any

from frozenseg.devtools.gpu.sections import Part, Section

# The results in the summary: section, part, name of the result.
HEADLINES = (
    ("tests", "marked gpu", "passed"),
    ("tests", "marked gpu", "not passed"),
    ("equality", "small model without SAM's masks", "fp32: panoptic, worst"),
    ("equality", "small model without SAM's masks", "fp16: panoptic, worst"),
    ("equality", "small model without SAM's masks", "bf16: panoptic, worst"),
    ("speed", "card", "matrix product in bf16, TFLOP/s"),
    ("speed", "card", "floor by operations, ms"),
    *(
        ("speed", f"{precision}, {part}", name)
        for precision in ("fp16", "bf16")
        for part, name in (
            ("whole", "file to results, ms"),
            ("whole", "file to results / yardsticks"),
            ("batch 1", "model, ms an image"),
            ("batch 1", "model, profile: kernels"),
            ("batch 8", "model, images/s"),
            ("batch 8", "from files on, images/s"),
        )
    ),
    ("training", "batch 16", "images/s"),
    ("training", "batch 16", "memory, GB: peak_gb"),
    ("small_world", "scores", "PQ: here"),
    ("small_world", "scores", "PQ: CPU"),
    ("small_world", "losses", "float32: largest relative difference"),
    ("small_world", "losses", "mixed precision: largest relative difference"),
)


def as_json(found: dict[str, dict[str, Part]]) -> dict[str, Any]:
    """Return {section: {part: {"seconds", "results", "failure"}}}."""
    return {
        section: {
            name: {"seconds": round(part.seconds, 1), "results": part.results}
            | ({"failure": part.failure} if part.failure else {})
            for name, part in parts.items()
        }
        for section, parts in found.items()
    }


def markdown(
    machine: dict[str, Any], sections: dict[str, Section], found: dict[str, dict[str, Part]]
) -> str:
    """Return a heading and tables for each section.

    Parts that have a result of the same name share a table.
    """
    lines = ["# " + str(machine["device"]), ""]
    lines += [f"- {key}: {value}" for key, value in machine.items()]
    for name, parts in found.items():
        seconds = sum(part.seconds for part in parts.values())
        lines += ["", f"## {sections[name].title}", "", f"{seconds:.0f} s."]
        for group in _groups(parts):
            columns = [flat(part.results) for part in group.values()]
            lines += ["", "| | " + " | ".join(group) + " |", "|" + " --- |" * (1 + len(group))]
            for row in dict.fromkeys(key for column in columns for key in column):
                cells = [str(column.get(row, "")).replace("|", "/") for column in columns]
                lines.append(f"| {row} | " + " | ".join(cells) + " |")
        lines += _failures(parts)
    return "\n".join(lines) + "\n"


def headlines(found: dict[str, dict[str, Part]]) -> str:
    """Return the summary: a few results of each section, and the failures."""
    lines = []
    for section, name, key in HEADLINES:
        part = found.get(section, {}).get(name)
        if part is not None and key in (results := flat(part.results)):
            lines.append(f"{section + ', ' + name:44s} {key:36s} {results[key]}")
    for section, parts in found.items():
        for name, part in parts.items():
            if part.failure:
                lines.append(f"{section}, {name}: {part.failure.strip().splitlines()[-1]}")
    return "\n".join(lines)


def flat(results: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested results as {"outer: inner": value}."""
    found: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{key}: ")
        else:
            found[before + key] = value
    return found


def _groups(parts: dict[str, Part]) -> list[dict[str, Part]]:
    groups: list[dict[str, Part]] = []
    for name, part in parts.items():
        if not part.results:
            continue
        for group in groups:
            if any(part.results.keys() & other.results.keys() for other in group.values()):
                group[name] = part
                break
        else:
            groups.append({name: part})
    return groups


def _failures(parts: dict[str, Part]) -> list[str]:
    lines = []
    for name, part in parts.items():
        if part.failure:
            lines += ["", f"**{name}** did not finish:", "", "```"]
            lines += [*part.failure.strip().splitlines()[-40:], "```"]
    return lines
